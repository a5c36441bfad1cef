package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// chainMax bounds the certificates that come with a signature.
const chainMax = 8

// ErrSignature says that the bytes are not what the node signed, or that what
// came with them is no certificate at all.
var ErrSignature = errors.New("the signature does not fit: the content was changed, or signed as something else")

// Sign signs payload as this node. The domain, such as "seal", says what is
// signed: a signature for one domain is none for another. certPEM is the
// node's certificate with what is above it, for a Verifier. An identity that
// is not good now signs nothing.
func (i *Identity) Sign(domain string, payload []byte) (signature, certPEM []byte, err error) {
	m := i.current()
	if _, err := i.trust(m).check("certificate "+i.o.Files.Cert, chainOf(m.cert), i.o.Node, bothUses...); err != nil {
		return nil, nil, fmt.Errorf("sign a %s: %w", domain, err)
	}
	key, ok := m.cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("sign a %s: the key %s cannot sign", domain, i.o.Files.Key)
	}
	hash := crypto.SHA256
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		hash = 0 // Ed25519 takes the digest as its message
	}
	signature, err = key.Sign(rand.Reader, digestOf(domain, payload), hash)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a %s with %s: %w", domain, i.o.Files.Key, err)
	}
	for _, der := range m.cert.Certificate {
		certPEM = append(certPEM, encodeCert(der)...)
	}
	return signature, certPEM, nil
}

// Verifier knows the nodes of one cluster by its CA. It needs no key and no
// certificate of its own. It is safe for concurrent use.
type Verifier struct {
	file    string
	cluster string
}

// NewVerifier returns a Verifier for the CA certificates in the file. The file
// is read anew for each signature, so a rotated CA is taken up.
func NewVerifier(caFile, cluster string) (*Verifier, error) {
	if err := topology.CheckName("cluster", cluster); err != nil {
		return nil, err
	}
	if _, err := readRoots(caFile); err != nil {
		return nil, err
	}
	return &Verifier{caFile, cluster}, nil
}

// Verify says which node signed payload for the domain. The certificates are
// judged as of signed, when the signature is said to have been made: what was
// sealed under a certificate stays good after that has expired. An error that
// is ErrSignature is about the bytes, a *Problem about the certificate.
func (v *Verifier) Verify(domain string, payload, signature, certPEM []byte, signed time.Time) (topology.Node, error) {
	chain, err := parseChain(certPEM)
	if err != nil {
		return "", fmt.Errorf("%w (the certificate that came with the %s: %w)", ErrSignature, domain, err)
	}
	roots, err := readRoots(v.file)
	if err != nil {
		return "", err
	}
	t := trust{roots: roots, file: v.file, cluster: v.cluster, now: signed}
	name, err := t.check("certificate of the "+domain, chain, "", bothUses...)
	if err != nil {
		return "", fmt.Errorf("judged as of %s, when it was signed: %w", signed.UTC().Format(stamp), err)
	}
	if !fits(chain[0].PublicKey, digestOf(domain, payload), signature) {
		return "", fmt.Errorf("%s of %s: %w", domain, name.Node, ErrSignature)
	}
	return name.Node, nil
}

// digestOf is what is signed: the domain is part of it, in a line of its own.
func digestOf(domain string, payload []byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "holdfast %s v1\n", domain)
	h.Write(payload)
	return h.Sum(nil)
}

func fits(key crypto.PublicKey, digest, signature []byte) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, signature)
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest, signature) == nil
	}
	return false
}

func parseChain(b []byte) (chain []*x509.Certificate, err error) {
	for len(chain) < chainMax {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %q block, want certificates only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return chain, nil
}
