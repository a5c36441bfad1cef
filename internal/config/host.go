package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// CheckHost looks at what the file refers to on this host, as the named node
// would use it: the node's certificate, the stores' certificates and every
// secret. A mirror reads the other region and a witness probes both, so each
// node needs them all. What backups and drills need is looked for only on the
// node that uses it. It returns Problems, or an error for an unknown node.
// It reads files and the environment, and dials nothing.
func (f *Fleet) CheckHost(name topology.Node) error {
	n, err := f.Node(name)
	if err != nil {
		return err
	}
	c := &checker{fleet: f}
	path := "nodes." + string(name) + ".tls"
	c.certificate(path, n.TLS, "holdfast certs init makes a lab set; its files must be readable by the daemon's user")
	for _, r := range f.RegionNames() {
		region, path := f.Regions[r], "regions."+string(r)
		if k := region.Kafka; k != nil {
			if k.TLS != nil {
				c.certificate(path+".kafka.tls", *k.TLS, "")
			}
			if k.SASL != nil {
				c.secret(path+".kafka.sasl.password", k.SASL.Password)
			}
		}
		if ch := region.ClickHouse; ch != nil {
			if ch.TLS != nil {
				c.certificate(path+".clickhouse.tls", *ch.TLS, "")
			}
			if !ch.Password.IsZero() {
				c.secret(path+".clickhouse.password", ch.Password)
			}
		}
	}
	c.recoveryHost(n)
	if len(c.problems) > 0 {
		c.problems.sort()
		return c.problems
	}
	return nil
}

func (c *checker) secret(path string, s Secret) {
	if _, err := s.Resolve(); err != nil {
		c.refuse(path, err.Error(), "", "")
	}
}

// certificate checks that the files are there and are what they should be.
// Names and dates belong to whoever dials: they change while we run.
func (c *checker) certificate(path string, t TLS, try string) {
	if t.CA != "" {
		if text, err := os.ReadFile(t.CA); err != nil {
			c.refuse(path+".ca", unreadable(err), "", try)
		} else if !x509.NewCertPool().AppendCertsFromPEM(text) {
			c.refuse(path+".ca", fmt.Sprintf("%s holds no certificate in PEM form", t.CA), "", try)
		}
	}
	if t.Cert != "" {
		var gone *os.PathError
		_, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		switch {
		case errors.As(err, &gone) && gone.Path == t.Key:
			c.refuse(path+".key", unreadable(err), "", try)
		case errors.As(err, &gone):
			c.refuse(path+".cert", unreadable(err), "", try)
		case err != nil:
			c.refuse(path+".cert", fmt.Sprintf("%s and %s are not a pair: %v", t.Cert, t.Key, err), "", try)
		}
	}
}

func unreadable(err error) string { return "cannot be read: " + err.Error() }
