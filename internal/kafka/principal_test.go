package kafka

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

func TestPrincipal_IsWhatTheAuthorizerCallsUs(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	subject := pkix.Name{CommonName: "holdfast", Organization: []string{"dr"}}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, none := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "none.pem")
	for path, text := range map[string][]byte{cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), none: []byte("nothing")} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, conf := range map[string]Config{
		"User:ANONYMOUS":        {TLS: &TLS{}},
		"User:mirror":           {SASL: &SASL{User: "mirror"}, TLS: &TLS{CertFile: cert}},
		"User:CN=holdfast,O=dr": {TLS: &TLS{CertFile: cert}},
	} {
		if got, err := (&Client{conf: conf}).Principal(); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if got, err := (&Client{conf: Config{TLS: &TLS{CertFile: none}}}).Principal(); err == nil {
		t.Errorf("a file without a certificate gives %q", got)
	}
}
