package objects

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/time/rate"
)

const (
	dialTimeout = 5 * time.Second
	// stall is how long a connection may move no byte in either direction
	// while something is under way on it.
	stall = 30 * time.Second
	// idle connections are dropped well before they could look stalled.
	idle = 15 * time.Second
	// burst is the largest read or write that a rate limit lets pass at once.
	burst = 64 << 10
)

func newHTTP(c Config) (*http.Client, func(), error) {
	t := &http.Transport{
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: stall,
		IdleConnTimeout:       idle,
		MaxIdleConnsPerHost:   32,
		DisableCompression:    true,
		ForceAttemptHTTP2:     false,
	}
	if c.TLS != nil && c.TLS.CAFile != "" {
		pem, err := os.ReadFile(c.TLS.CAFile)
		if err != nil {
			return nil, nil, fmt.Errorf("tls: ca_file: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("tls: ca_file %s holds no PEM certificate", c.TLS.CAFile)
		}
	}
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
		t.Proxy = http.ProxyFromEnvironment
	}
	var limit *rate.Limiter
	if c.RateLimit > 0 {
		limit = rate.NewLimiter(rate.Limit(c.RateLimit), burst)
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &conn{raw, limit}, nil
	}
	return &http.Client{Transport: t}, t.CloseIdleConnections, nil
}

// conn gives up on a peer that moves nothing, and keeps to the rate.
type conn struct {
	net.Conn
	limit *rate.Limiter
}

func (c *conn) Read(p []byte) (int, error) {
	if c.limit != nil && len(p) > burst {
		p = p[:burst]
	}
	_ = c.SetReadDeadline(time.Now().Add(stall))
	n, err := c.Conn.Read(p)
	c.pace(n)
	return n, err
}

func (c *conn) Write(p []byte) (written int, err error) {
	for {
		q := p[written:]
		if c.limit != nil && len(q) > burst {
			q = q[:burst]
		}
		c.pace(len(q))
		// Both ways: the answer is awaited from now on, however long the
		// connection was idle before.
		_ = c.SetDeadline(time.Now().Add(stall))
		n, err := c.Conn.Write(q)
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// pace waits for its turn: at most the time that the bytes asked for before
// take at the rate.
func (c *conn) pace(n int) {
	if c.limit != nil && n > 0 {
		_ = c.limit.WaitN(context.Background(), n) // n is at most the burst, and the context never ends
	}
}
