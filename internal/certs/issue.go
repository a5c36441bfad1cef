package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Validity of what is issued here. NotBefore lies a little in the past,
// because clocks of fresh machines differ.
const (
	ValidityCA   = 10 * 365 * 24 * time.Hour
	ValidityNode = 365 * 24 * time.Hour
	backdate     = 5 * time.Minute
)

// Authority is a lab CA: good enough for a fleet of a few nodes whose
// operator keeps ca.key off them.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	pem     []byte
}

// NewAuthority makes a CA for one cluster, valid for ValidityCA from now.
func NewAuthority(cluster string, now time.Time) (*Authority, error) {
	if err := topology.CheckName("cluster", cluster); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"holdfast"}, CommonName: "holdfast CA of " + cluster},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ValidityCA),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back CA certificate: %w", err)
	}
	return &Authority{cluster: cluster, cert: cert, key: key, pem: encodeCert(der)}, nil
}

// CertPEM returns the CA's certificate, which every node needs.
func (a *Authority) CertPEM() []byte { return a.pem }

// Issue makes a certificate and key for one node, valid for ValidityNode from
// now. Hosts are further DNS names or addresses it may be reached at; our own
// verification does not need them, other clients may.
func (a *Authority) Issue(node topology.Node, hosts []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	if err := topology.CheckName("node", string(node)); err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", node, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"holdfast"}, CommonName: string(node)},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(ValidityNode),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  bothUses,
		DNSNames:     []string{string(node)},
		URIs:         []*url.URL{Name{Cluster: a.cluster, Node: node}.uri()},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != string(node) {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of %s: %w", node, err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCert(der), keyPEM, err
}

// InitOptions says which files Init makes.
type InitOptions struct {
	Dir     string
	Cluster string
	Nodes   []topology.Node
	Hosts   map[topology.Node][]string // further names or addresses per node
	Renew   bool                       // replace existing node certificates and keys
	Now     func() time.Time           // default time.Now
}

// InitResult says what Init did.
type InitResult struct {
	Written []string // paths, in order
	Kept    []string // paths that existed and were left alone
}

// FilesIn returns where Init puts the files of one node.
func FilesIn(dir string, node topology.Node) Files {
	return Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, string(node)+".pem"), Key: filepath.Join(dir, string(node)+".key")}
}

// Init makes ca.pem, ca.key and, for each node, NODE.pem and NODE.key in one
// folder. What exists is kept, so running it again adds the nodes that are
// new. Renew replaces node files; the CA is never replaced, because that
// would cut every node off: use an empty folder for that. A half pair (a
// certificate without its key) is an error. The result is true even on error.
func Init(o InitOptions) (InitResult, error) {
	var res InitResult
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Nodes) == 0 {
		return res, errors.New("no node is named: say for which nodes to make certificates")
	}
	for _, n := range o.Nodes {
		if err := topology.CheckName("node", string(n)); err != nil {
			return res, err
		}
		if n == "ca" {
			return res, errors.New(`a node cannot be called "ca" here: its files would be those of the CA`)
		}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return res, fmt.Errorf("create folder for certificates: %w", err)
	}
	ca, err := openAuthority(o, &res)
	if err != nil {
		return res, err
	}
	for _, n := range o.Nodes {
		if err := initNode(o, ca, n, &res); err != nil {
			return res, err
		}
	}
	return res, nil
}

// openAuthority returns the CA in the folder, or makes one in it.
func openAuthority(o InitOptions, res *InitResult) (*Authority, error) {
	certPath, keyPath := filepath.Join(o.Dir, "ca.pem"), filepath.Join(o.Dir, "ca.key")
	there, err := pairExists(certPath, keyPath)
	if err != nil {
		return nil, err
	}
	if !there {
		ca, err := NewAuthority(o.Cluster, o.Now())
		if err != nil {
			return nil, err
		}
		keyPEM, err := encodeKey(ca.key)
		if err != nil {
			return nil, err
		}
		return ca, writePair(certPath, ca.pem, keyPath, keyPEM, false, res)
	}
	res.Kept = append(res.Kept, certPath, keyPath)
	return readAuthority(o.Cluster, certPath, keyPath, o.Now())
}

func readAuthority(cluster, certPath, keyPath string, now time.Time) (*Authority, error) {
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, unreadable("CA certificate "+certPath, err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, &Problem{Kind: Malformed, Subject: "CA certificate " + certPath, What: "is not a PEM certificate", Cause: err}
	}
	keyPEM, err := readKey(keyPath)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, &Problem{Kind: Malformed, Subject: "CA key " + keyPath, What: "is not a PEM key"}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, &Problem{Kind: Malformed, Subject: "CA key " + keyPath, What: "is not a PKCS #8 key", Cause: err}
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, &Problem{Kind: KeyMismatch, Subject: "CA key " + keyPath, What: "does not belong to " + certPath}
	}
	if now.Add(ValidityNode).After(cert.NotAfter) {
		return nil, &Problem{Kind: Expired, Subject: "CA certificate " + certPath,
			What: "ends before a node certificate of it would: it expires " + at(cert.NotAfter, now),
			Fix:  "make a new CA in an empty folder, add its ca.pem to the CA file of every node, then replace the certificates node by node"}
	}
	return &Authority{cluster: cluster, cert: cert, key: key, pem: certPEM}, nil
}

func initNode(o InitOptions, ca *Authority, node topology.Node, res *InitResult) error {
	f := FilesIn(o.Dir, node)
	there, err := pairExists(f.Cert, f.Key)
	if err != nil && !o.Renew {
		return err
	}
	if there && !o.Renew {
		res.Kept = append(res.Kept, f.Cert, f.Key)
		return nil
	}
	certPEM, keyPEM, err := ca.Issue(node, o.Hosts[node], o.Now())
	if err != nil {
		return err
	}
	return writePair(f.Cert, certPEM, f.Key, keyPEM, o.Renew, res)
}

// pairExists reports whether both files are there; one alone is an error.
func pairExists(certPath, keyPath string) (bool, error) {
	cert, err := exists(certPath)
	if err != nil {
		return false, err
	}
	key, err := exists(keyPath)
	if err != nil {
		return false, err
	}
	if cert == key {
		return cert, nil
	}
	have, lack := certPath, keyPath
	if key {
		have, lack = keyPath, certPath
	}
	return false, &Problem{Kind: Missing, Subject: lack, What: "is missing, though " + have + " exists",
		Fix: "bring it back, or move " + have + " away to make both anew"}
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", path, err)
	}
	return true, nil
}

// writePair writes the key first: a key without a certificate is noticed by
// pairExists, a certificate in use without its key would be a riddle.
func writePair(certPath string, certPEM []byte, keyPath string, keyPEM []byte, replace bool, res *InitResult) error {
	for _, f := range []struct {
		path string
		data []byte
	}{{keyPath, keyPEM}, {certPath, certPEM}} {
		if err := writeFile(f.path, f.data, replace); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		res.Written = append(res.Written, f.path)
	}
	return nil
}

// writeFile writes data whole or not at all, readable only by its owner. It
// replaces an existing file only if told to.
func writeFile(path string, data []byte, replace bool) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if rm := os.Remove(tmp.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
	}()
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if replace {
		err = os.Rename(tmp.Name(), path)
	} else {
		err = os.Link(tmp.Name(), path) // fails if path exists, where rename would not
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
