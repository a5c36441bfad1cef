package certs

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestSign_IsBelievedFromANodeOfTheClusterOnly(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now, "us-east-1", "eu-west-1")
	i := load(t, dir, "us-east-1", now)
	payload := []byte("what was taken")
	sig, chain, err := i.Sign("seal", payload)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(FilesIn(dir, "eu-west-1").CA, "lab")
	if err != nil {
		t.Fatal(err)
	}
	if node, err := v.Verify("seal", payload, sig, chain, now); err != nil || node != "us-east-1" {
		t.Fatalf("%q, %v", node, err)
	}
	if _, err := v.Verify("report", payload, sig, chain, now); !errors.Is(err, ErrSignature) {
		t.Errorf("signed as something else: %v", err)
	}
	if _, err := v.Verify("seal", append([]byte("x"), payload...), sig, chain, now); !errors.Is(err, ErrSignature) {
		t.Errorf("changed: %v", err)
	}
	bad := bytes.Clone(sig)
	bad[len(bad)-1] ^= 1
	if _, err := v.Verify("seal", payload, bad, chain, now); !errors.Is(err, ErrSignature) {
		t.Errorf("another signature: %v", err)
	}
	_, others, _ := load(t, dir, "eu-west-1", now).Sign("seal", payload)
	if _, err := v.Verify("seal", payload, sig, others, now); !errors.Is(err, ErrSignature) {
		t.Errorf("in another node's name: %v", err)
	}
	for _, none := range [][]byte{nil, []byte("no PEM"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY"})} {
		if _, err := v.Verify("seal", payload, sig, none, now); !errors.Is(err, ErrSignature) {
			t.Errorf("taken with the certificate %q", none)
		}
	}
	foreign, err := NewVerifier(FilesIn(fleet(t, now, "us-east-1"), "us-east-1").CA, "lab")
	if err != nil {
		t.Fatal(err)
	}
	_, err = foreign.Verify("seal", payload, sig, chain, now)
	wantProblem(t, err, WrongCA)
	other, err := NewVerifier(FilesIn(dir, "us-east-1").CA, "other")
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Verify("seal", payload, sig, chain, now)
	wantProblem(t, err, WrongName)
}

func TestSign_StaysGoodAfterTheCertificateExpired(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now, "us-east-1")
	clock := now
	i, err := Load(Options{Files: FilesIn(dir, "us-east-1"), Cluster: "lab", Node: "us-east-1", Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	sig, chain, err := i.Sign("seal", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	clock = i.NotAfter().Add(day)
	_, _, err = i.Sign("seal", []byte("x"))
	wantProblem(t, err, Expired)
	v, err := NewVerifier(FilesIn(dir, "us-east-1").CA, "lab")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify("seal", []byte("x"), sig, chain, now); err != nil {
		t.Errorf("judged as of when it was signed: %v", err)
	}
	_, err = v.Verify("seal", []byte("x"), sig, chain, clock)
	wantProblem(t, err, Expired)
}

// A PKI of one's own may use other keys than ours.
func TestSign_KnowsTheUsualKeys(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rivest, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []any{edwards, rivest} {
		now := time.Now()
		dir := fleet(t, now, "us-east-1")
		files := FilesIn(dir, "us-east-1")
		reissue(t, files, dir, key)
		sig, chain, err := load(t, dir, "us-east-1", now).Sign("seal", []byte("x"))
		if err != nil {
			t.Fatalf("%T: %v", key, err)
		}
		v, err := NewVerifier(files.CA, "lab")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify("seal", []byte("x"), sig, chain, now); err != nil {
			t.Errorf("%T: %v", key, err)
		}
		if _, err := v.Verify("seal", []byte("y"), sig, chain, now); !errors.Is(err, ErrSignature) {
			t.Errorf("%T: changed: %v", key, err)
		}
	}
}

// reissue replaces a node's pair by one of the same names with another key.
func reissue(t *testing.T, files Files, dir string, key any) {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(files.CA, dir+"/ca.key")
	if err != nil {
		t.Fatal(err)
	}
	old, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	var pub any
	switch k := key.(type) {
	case ed25519.PrivateKey:
		pub = k.Public()
	case *rsa.PrivateKey:
		pub = k.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, old.Leaf, ca.Leaf, pub, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzVerify_TakesNothingForeign(f *testing.F) {
	now := time.Now()
	dir := f.TempDir() + "/certs"
	if _, err := Init(InitOptions{Dir: dir, Cluster: "lab", Nodes: []topology.Node{"x"}}); err != nil {
		f.Fatal(err)
	}
	v, err := NewVerifier(FilesIn(dir, "x").CA, "lab")
	if err != nil {
		f.Fatal(err)
	}
	ca, err := os.ReadFile(FilesIn(dir, "x").CA)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("x"), []byte("y"), ca)
	f.Fuzz(func(t *testing.T, payload, sig, chain []byte) {
		if node, err := v.Verify("seal", payload, sig, chain, now); err == nil {
			t.Fatalf("taken as of %s", node)
		}
	})
}
