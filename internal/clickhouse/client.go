package clickhouse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Config says how to reach the servers of one region.
type Config struct {
	Name      string   // in errors, such as the region
	Addresses []string // host:port of the native protocol
	Database  string
	User      string
	Password  func() (string, error) // nil: empty
	TLS       *TLS                   // nil: plain text
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	// DialTimeout bounds one connection attempt; default 5 s.
	DialTimeout time.Duration
}

// TLS turns on encryption. An empty CAFile means the host's own roots.
type TLS struct{ CAFile, CertFile, KeyFile string }

// Client reaches one region's ClickHouse. It is safe for concurrent use, and
// dials on first use.
type Client struct {
	name      string
	addresses []string
	conn      driver.Conn
}

// Open prepares a client; it does not dial.
func Open(c Config) (*Client, error) {
	if len(c.Addresses) == 0 {
		return nil, fmt.Errorf("clickhouse %s: no addresses: want at least one host:port", c.Name)
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 5 * time.Second
	}
	password := ""
	if c.Password != nil {
		var err error
		if password, err = c.Password(); err != nil {
			return nil, fmt.Errorf("clickhouse %s: read the password: %w", c.Name, err)
		}
	}
	secure, err := c.TLS.config()
	if err != nil {
		return nil, fmt.Errorf("clickhouse %s: %w", c.Name, err)
	}
	o := &ch.Options{
		Addr: c.Addresses, TLS: secure,
		Auth:         ch.Auth{Database: c.Database, Username: c.User, Password: password},
		DialTimeout:  c.DialTimeout,
		MaxOpenConns: 4, MaxIdleConns: 2, ConnMaxLifetime: 10 * time.Minute,
	}
	if c.Dial != nil {
		o.DialContext = func(ctx context.Context, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
			defer cancel()
			conn, err := c.Dial(ctx, "tcp", address)
			if err != nil || secure == nil {
				return conn, err
			}
			return handshake(ctx, conn, secure, address)
		}
	}
	conn, err := ch.Open(o)
	if err != nil {
		return nil, fmt.Errorf("clickhouse %s: %w", c.Name, err)
	}
	return &Client{c.Name, c.Addresses, conn}, nil
}

func handshake(ctx context.Context, conn net.Conn, conf *tls.Config, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	conf = conf.Clone()
	conf.ServerName = host
	tc := tls.Client(conn, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return tc, nil
}

func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate authorities: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s: want PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// explain says whose error it is, and, unless the server itself spoke, what to
// look at.
func (c *Client) explain(err error) error {
	var spoke *ch.Exception
	if errors.As(err, &spoke) {
		return fmt.Errorf("clickhouse %s: %w", c.name, err)
	}
	return fmt.Errorf("reach clickhouse %s at %v: %w (is it running, and are address and tls right?)", c.name, c.addresses, err)
}

// Version asks the server who it is.
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := c.conn.ServerVersion()
	if err != nil {
		return "", c.explain(err)
	}
	return v.Version.String(), ctx.Err()
}

// Select runs a query and reads all that it returns; it reports how many rows
// came. The server is told to stop when ctx ends.
func (c *Client) Select(ctx context.Context, query string) (rows int, err error) {
	r, err := c.conn.Query(ctx, query)
	if err != nil {
		return 0, c.explain(err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for r.Next() {
		rows++
	}
	if err := r.Err(); err != nil {
		return rows, c.explain(err)
	}
	return rows, nil
}

// Close ends all connections.
func (c *Client) Close() error { return c.conn.Close() }
