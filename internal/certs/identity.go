package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Files are the three PEM files of a node. CA may hold several certificates:
// that is how a CA is rotated.
type Files struct{ CA, Cert, Key string }

// Options says what to load and what it must turn out to be.
type Options struct {
	Files   Files
	Cluster string           // of this fleet; peers of another are refused
	Node    topology.Node    // whom the certificate must name
	Now     func() time.Time // default time.Now
}

// Identity is a node's certificate and the CA it trusts, as of now: the files
// are read anew when they change. It is safe for concurrent use.
type Identity struct {
	o Options

	mu     sync.Mutex
	good   material
	reload error // why newer files were not taken
}

// material is one consistent reading of the files.
type material struct {
	seen  [3]version
	cert  tls.Certificate
	roots *x509.CertPool
	name  Name
}

// version tells a changed file from an unchanged one without reading it.
type version struct {
	size     int64
	modified time.Time
}

// Load reads and checks the files. Errors are *Problem, but for bad Options.
func Load(o Options) (*Identity, error) {
	if err := topology.CheckName("cluster", o.Cluster); err != nil {
		return nil, err
	}
	if err := topology.CheckName("node", string(o.Node)); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := read(o)
	if err != nil {
		return nil, err
	}
	return &Identity{o: o, good: m}, nil
}

// Name returns whom this identity speaks for.
func (i *Identity) Name() Name { return Name{Cluster: i.o.Cluster, Node: i.o.Node} }

// NotAfter returns when the certificate in use expires.
func (i *Identity) NotAfter() time.Time { return i.current().cert.Leaf.NotAfter }

// Check says what is wrong with the identity now: that it has expired since
// it was loaded, or why newer files on disk were not taken. Nil is good.
func (i *Identity) Check() error {
	m := i.current()
	i.mu.Lock()
	reload := i.reload
	i.mu.Unlock()
	_, err := i.trust(m).check("certificate "+i.o.Files.Cert, chainOf(m.cert), i.o.Node, bothUses...)
	return errors.Join(err, reload)
}

var bothUses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// Server returns a configuration for listening that offers the given ALPN
// protocols. Any node of the cluster is let in: ask PeerName which one it is.
// A client that offers no ALPN at all is not refused by TLS; look at
// NegotiatedProtocol.
func (i *Identity) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		// The certificate is verified below, with roots that may have changed
		// since this configuration was made.
		ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			m := i.current()
			return &m.cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			return i.verifyPeer(cs, "", x509.ExtKeyUsageClientAuth)
		},
	}
}

// Client returns a configuration for dialling peer, and nobody else.
func (i *Identity) Client(peer topology.Node, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		ServerName: string(peer),
		// Not skipped but done below: the standard check knows DNS names and
		// one fixed pool, ours knows nodes and files that change.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies more than the default would
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m := i.current()
			// Say it here in our words: the other end would only send an alert.
			if _, err := i.trust(m).check("our own certificate "+i.o.Files.Cert, chainOf(m.cert), i.o.Node, x509.ExtKeyUsageClientAuth); err != nil {
				return nil, err
			}
			return &m.cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			return i.verifyPeer(cs, peer, x509.ExtKeyUsageServerAuth)
		},
	}
}

func (i *Identity) verifyPeer(cs tls.ConnectionState, want topology.Node, use x509.ExtKeyUsage) error {
	if len(cs.PeerCertificates) == 0 {
		return &Problem{Kind: Missing, Subject: "the peer", What: "showed no certificate", Fix: "only nodes of this cluster may connect here"}
	}
	subject := "certificate of the peer"
	if name, err := NameOf(cs.PeerCertificates[0]); err == nil {
		subject += " " + string(name.Node)
	}
	_, err := i.trust(i.current()).check(subject, cs.PeerCertificates, want, use)
	return err
}

func (i *Identity) trust(m material) trust {
	return trust{roots: m.roots, file: i.o.Files.CA, cluster: i.o.Cluster, now: i.o.Now()}
}

// current returns the newest consistent reading of the files.
func (i *Identity) current() material {
	i.mu.Lock()
	have := i.good
	i.mu.Unlock()
	seen, err := stat(i.o.Files)
	if err == nil && seen == have.seen {
		i.setReload(nil)
		return have
	}
	var next material
	if err == nil {
		next, err = read(i.o)
	}
	if err != nil {
		// A half-copied set, most likely. The old one serves until it expires.
		i.setReload(fmt.Errorf("newer certificate files were not taken: %w", err))
		return have
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.good, i.reload = next, nil
	return next
}

func (i *Identity) setReload(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reload = err
}

func stat(f Files) (v [3]version, err error) {
	for n, path := range []string{f.CA, f.Cert, f.Key} {
		fi, err := os.Stat(path)
		if err != nil {
			return v, unreadable([]string{"CA certificate ", "certificate ", "key "}[n]+path, err)
		}
		v[n] = version{size: fi.Size(), modified: fi.ModTime()}
	}
	return v, nil
}

func unreadable(subject string, err error) error {
	p := &Problem{Kind: Unreadable, Subject: subject, What: "cannot be read", Cause: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Fix = "create it with `holdfast certs init`, or correct the path"
	case errors.Is(err, fs.ErrPermission):
		p.Fix = "make it readable for the user that runs holdfast (chown)"
	}
	return p
}

// read loads and checks the files as one set.
func read(o Options) (material, error) {
	var m material
	seen, err := stat(o.Files)
	if err != nil {
		return m, err
	}
	m.seen = seen
	if m.roots, err = readRoots(o.Files.CA); err != nil {
		return m, err
	}
	certPEM, err := os.ReadFile(o.Files.Cert)
	if err != nil {
		return m, unreadable("certificate "+o.Files.Cert, err)
	}
	if _, err := parseCert(certPEM); err != nil {
		return m, &Problem{Kind: Malformed, Subject: "certificate " + o.Files.Cert, What: "is not a PEM certificate", Cause: err, Fix: fixIssue}
	}
	keyPEM, err := readKey(o.Files.Key)
	if err != nil {
		return m, err
	}
	m.cert, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return m, &Problem{Kind: KeyMismatch, Subject: "key " + o.Files.Key,
			What: "does not belong to the certificate " + o.Files.Cert, Cause: err,
			Fix: "copy both files of one node together"}
	}
	t := trust{roots: m.roots, file: o.Files.CA, cluster: o.Cluster, now: o.Now()}
	m.name, err = t.check("certificate "+o.Files.Cert, chainOf(m.cert), o.Node, bothUses...)
	return m, err
}

func readRoots(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable("CA certificate "+path, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, &Problem{Kind: Malformed, Subject: "CA certificate " + path, What: "holds no PEM certificate",
			Fix: "it is the ca.pem that `holdfast certs init` wrote, or your PKI's CA bundle"}
	}
	return roots, nil
}

func readKey(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, unreadable("key "+path, err)
	}
	if fi.Mode().Perm()&0o007 != 0 {
		return nil, &Problem{Kind: Exposed, Subject: "key " + path,
			What: fmt.Sprintf("is open to every user of this machine (mode %04o)", fi.Mode().Perm()), Fix: "chmod 600 " + path}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable("key "+path, err)
	}
	return b, nil
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no CERTIFICATE block")
	}
	return x509.ParseCertificate(block.Bytes)
}

// chainOf returns the parsed chain of a pair that X509KeyPair accepted.
func chainOf(c tls.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{c.Leaf}
	for _, der := range c.Certificate[1:] {
		if parsed, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, parsed)
		}
	}
	return chain
}
