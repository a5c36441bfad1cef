package kafka

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// Principal is who we are to the cluster's authorizer, by Kafka's own rules: the
// SASL user, else the subject of the client certificate, else nobody. A cluster
// that maps certificates to names of its own (ssl.principal.mapping.rules)
// calls us something else.
func (c *Client) Principal() (string, error) {
	if c.conf.SASL != nil {
		return "User:" + c.conf.SASL.User, nil
	}
	if c.conf.TLS == nil || c.conf.TLS.CertFile == "" {
		return "User:ANONYMOUS", nil
	}
	text, err := os.ReadFile(c.conf.TLS.CertFile)
	if err != nil {
		return "", fmt.Errorf("kafka %s: read the client certificate: %w", c.conf.Name, err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		err = errors.New("it holds no PEM certificate")
	} else if cert, parseErr := x509.ParseCertificate(block.Bytes); parseErr == nil {
		return "User:" + cert.Subject.String(), nil
	} else {
		err = parseErr
	}
	return "", fmt.Errorf("kafka %s: read the client certificate %s: %w", c.conf.Name, c.conf.TLS.CertFile, err)
}
