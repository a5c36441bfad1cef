package kafka

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fake(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(2), kfake.ClusterID("one")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ping(t *testing.T, conf Config) error {
	t.Helper()
	conf.DialTimeout, conf.RetryTimeout, conf.RequestTimeout = time.Second, time.Second, time.Second
	cl, err := Open(conf)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = cl.Ping(ctx)
	return err
}

func secret(s string) Secret { return func() (string, error) { return s, nil } }

func TestCheck_NamesEverythingThatIsWrong(t *testing.T) {
	err := Config{Name: "us-east", Brokers: []string{"no-port"}, SASL: &SASL{Mechanism: "kerberos"}, TLS: &TLS{CertFile: "x"}, DialTimeout: -1}.Check()
	for _, want := range []string{"us-east", "no-port", "kerberos", "user and a password", "key file", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %q", err, want)
		}
	}
	if err := (Config{Name: "x"}).Check(); err == nil || !strings.Contains(err.Error(), "no brokers") {
		t.Error(err)
	}
}

func TestSecret_IsNeverPrinted(t *testing.T) {
	s := SASL{Mechanism: Plain, User: "u", Password: secret("hunter2")}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "password", s.Password, "sasl", s)
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(s.Password), fmt.Sprintf("%v %+v %s", s, s, s.Password), logged.String(), string(encoded)} {
		if strings.Contains(out, "hunter2") {
			t.Errorf("%s", out)
		}
	}
}

func TestOpen_DoesNotTouchTheNetworkAndPingSaysWhatIsWrong(t *testing.T) {
	conf := Config{Name: "us-east", Brokers: []string{"127.0.0.1:1"}}
	cl, err := Open(conf)
	if err != nil {
		t.Fatalf("a cluster that is down at start: %v", err)
	}
	cl.Close()
	if err := ping(t, conf); err == nil || !strings.Contains(err.Error(), "us-east") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Error(err)
	}
}

func TestPing_RefusesAnotherCluster(t *testing.T) {
	c := fake(t)
	if err := ping(t, Config{Name: "x", Brokers: c.ListenAddrs(), ClusterID: "one"}); err != nil {
		t.Error(err)
	}
	if err := ping(t, Config{Name: "x", Brokers: c.ListenAddrs(), ClusterID: "two"}); !errors.Is(err, ErrWrongCluster) {
		t.Error(err)
	}
}

func TestDial_SeesEveryAddressAlsoAdvertisedOnes(t *testing.T) {
	c := fake(t)
	var dialled sync.Map
	conf := Config{Name: "x", Brokers: []string{"kafka.example:9092"}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled.Store(address, true)
		if address == "kafka.example:9092" {
			address = c.ListenAddrs()[0]
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	cl, err := Open(conf)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := c.CreateTopic("t", 20, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Admin.ListEndOffsets(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	for _, address := range append(c.ListenAddrs(), "kafka.example:9092") {
		if _, ok := dialled.Load(address); !ok {
			t.Errorf("%s was reached without the dialer", address)
		}
	}
}

func TestSASL_LogsInAndReadsThePasswordForEachConnection(t *testing.T) {
	for mechanism, name := range map[Mechanism]string{Plain: "PLAIN", ScramSHA256: "SCRAM-SHA-256", ScramSHA512: "SCRAM-SHA-512"} {
		c := fake(t, kfake.EnableSASL(), kfake.Superuser(name, "holdfast", "right"))
		reads := 0
		conf := Config{Name: "x", Brokers: c.ListenAddrs(), SASL: &SASL{Mechanism: mechanism, User: "holdfast", Password: func() (string, error) { reads++; return "right", nil }}}
		if err := ping(t, conf); err != nil || reads == 0 {
			t.Errorf("%s: %v after %d reads", mechanism, err, reads)
		}
		conf.SASL.Password = secret("wrong")
		if err := ping(t, conf); err == nil || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s with a wrong password: %v", mechanism, err)
		}
		conf.SASL.Password = func() (string, error) { return "", errors.New("no such file") }
		if err := ping(t, conf); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s without its password: %v", mechanism, err)
		}
	}
}

func TestTLS_ChecksTheBrokerAndShowsOurCertificate(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := certificate(t, dir, "ca", nil, nil)
	server, serverKey := certificate(t, dir, "server", ca, caKey)
	certificate(t, dir, "client", ca, caKey)
	certificate(t, dir, "stranger", nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	c := fake(t, kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}))
	file := func(name string) string { return filepath.Join(dir, name) }
	conf := Config{Name: "x", Brokers: c.ListenAddrs(), TLS: &TLS{CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key")}}
	if err := ping(t, conf); err != nil {
		t.Error(err)
	}
	refused := func(what string, tl TLS) {
		t.Helper()
		conf.TLS = &tl
		if err := ping(t, conf); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	refused("no client certificate", TLS{CAFile: file("ca.pem")})
	refused("a client nobody vouches for", TLS{CAFile: file("ca.pem"), CertFile: file("stranger.pem"), KeyFile: file("stranger.key")})
	refused("a broker nobody vouches for", TLS{CAFile: file("stranger.pem"), CertFile: file("client.pem"), KeyFile: file("client.key")})
	refused("a broker of another name", TLS{CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), ServerName: "other.example"})
	refused("a missing ca file", TLS{CAFile: file("none.pem")})
	refused("a ca file that holds no certificate", TLS{CAFile: file("client.key")})
}

// certificate writes NAME.pem and NAME.key, signed by the parent or by itself.
func certificate(t *testing.T, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
