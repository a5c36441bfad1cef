package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Secret reads a secret when it is needed. Its value is never kept or printed.
type Secret func() (string, error)

// String prints stars.
func (Secret) String() string { return "****" }

// MarshalText prints stars.
func (Secret) MarshalText() ([]byte, error) { return []byte("****"), nil }

// LogValue prints stars.
func (Secret) LogValue() slog.Value { return slog.StringValue("****") }

// Mechanism names a SASL mechanism.
type Mechanism string

// The mechanisms that are supported.
const (
	Plain       Mechanism = "plain"
	ScramSHA256 Mechanism = "scram-sha-256"
	ScramSHA512 Mechanism = "scram-sha-512"
)

// SASL says who we are. The password is read for each new connection, so that
// a changed one is taken up without a restart.
type SASL struct {
	Mechanism Mechanism
	User      string
	Password  Secret
}

// TLS turns on encryption. The files are read when the client is opened.
type TLS struct {
	CAFile     string // PEM; empty: the system's
	CertFile   string // PEM, for a client certificate
	KeyFile    string
	ServerName string // empty: the host that is dialled
}

// Dialer opens one connection. It sees every address, also those that brokers
// advertise, so it is the place for address maps.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Config says how to reach one cluster.
type Config struct {
	Name    string   // in errors and logs, such as the region
	Brokers []string // host:port, some of the cluster's brokers
	TLS     *TLS     // nil: plain text
	SASL    *SASL    // nil: none
	Dial    Dialer   // nil: net.Dialer

	// ClusterID, when set, is what Ping expects. It catches a configuration
	// that points both regions at one cluster.
	ClusterID string

	DialTimeout    time.Duration // default 5 s
	RequestTimeout time.Duration // default 10 s, on top of what a request itself may take
	RetryTimeout   time.Duration // default 15 s, for requests that are retried

	Logger *slog.Logger // nil: silent
	Hooks  []kgo.Hook   // such as kprom's
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.DialTimeout, 5*time.Second)
	set(&c.RequestTimeout, 10*time.Second)
	set(&c.RetryTimeout, 15*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	return c
}

// Check says everything that is wrong with the configuration.
func (c Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		bad("no brokers: want at least one host:port")
	}
	for _, b := range c.Brokers {
		if _, port, err := net.SplitHostPort(b); err != nil || port == "" {
			bad("broker %q: want host:port, such as kafka-1.example:9092", b)
		}
	}
	if s := c.SASL; s != nil {
		switch s.Mechanism {
		case Plain, ScramSHA256, ScramSHA512:
		default:
			bad("sasl mechanism %q: want %s, %s or %s", s.Mechanism, Plain, ScramSHA256, ScramSHA512)
		}
		if s.User == "" || s.Password == nil {
			bad("sasl: want a user and a password")
		}
	}
	if t := c.TLS; t != nil && (t.CertFile == "") != (t.KeyFile == "") {
		bad("tls: a client certificate needs both a certificate and a key file")
	}
	if c.DialTimeout < 0 || c.RequestTimeout < 0 || c.RetryTimeout < 0 {
		bad("timeouts must not be negative")
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kafka %s: %s", c.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}
