package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Client is a connection to one cluster. It is safe for concurrent use.
type Client struct {
	// Kgo is the client of franz-go, for requests, producing and consuming.
	Kgo *kgo.Client
	// Admin is the same connection with franz-go's admin calls.
	Admin *kadm.Client

	conf Config
}

// Open makes a client. It reads the TLS files and does not touch the network;
// extra options are passed to franz-go, such as what to consume.
func Open(conf Config, extra ...kgo.Opt) (*Client, error) {
	if err := conf.Check(); err != nil {
		return nil, err
	}
	conf = conf.withDefaults()
	dial := conf.dialer(nil)
	if conf.TLS != nil {
		t, err := conf.TLS.load()
		if err != nil {
			return nil, fmt.Errorf("kafka %s: %w", conf.Name, err)
		}
		dial = conf.dialer(t)
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(conf.Brokers...),
		kgo.ClientID("holdfast"),
		kgo.Dialer(dial),
		kgo.RequestTimeoutOverhead(conf.RequestTimeout),
		kgo.RetryTimeout(conf.RetryTimeout),
		kgo.MetadataMinAge(500 * time.Millisecond), // a topic just made, or a leader just moved, is seen soon
		kgo.WithLogger(logger{conf.Logger.With("kafka", conf.Name)}),
		kgo.DisableClientMetrics(), // a broker is not told about us unless asked
	}
	if conf.SASL != nil {
		opts = append(opts, kgo.SASL(conf.SASL.mechanism()))
	}
	if len(conf.Hooks) > 0 {
		opts = append(opts, kgo.WithHooks(conf.Hooks...))
	}
	cl, err := kgo.NewClient(append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka %s: %w", conf.Name, err)
	}
	return &Client{Kgo: cl, Admin: kadm.NewClient(cl), conf: conf}, nil
}

func (s *SASL) mechanism() sasl.Mechanism {
	if s.Mechanism == Plain {
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := s.Password()
			if err != nil {
				return plain.Auth{}, fmt.Errorf("read kafka password: %w", err)
			}
			return plain.Auth{User: s.User, Pass: pass}, nil
		})
	}
	auth := func(context.Context) (scram.Auth, error) {
		pass, err := s.Password()
		if err != nil {
			return scram.Auth{}, fmt.Errorf("read kafka password: %w", err)
		}
		return scram.Auth{User: s.User, Pass: pass}, nil
	}
	if s.Mechanism == ScramSHA512 {
		return scram.Sha512(auth)
	}
	return scram.Sha256(auth)
}

// Another opens a further connection to the same cluster. A broker answers the
// requests of one connection one after the other, so work that waits long
// needs a connection of its own.
func (c *Client) Another(extra ...kgo.Opt) (*Client, error) { return Open(c.conf, extra...) }

// Name returns the name from the configuration.
func (c *Client) Name() string { return c.conf.Name }

// RequestTimeout is how long a request may go unanswered, on top of the time
// that the request itself allows.
func (c *Client) RequestTimeout() time.Duration { return c.conf.RequestTimeout }

// ErrWrongCluster says that another cluster answers than the configured one.
var ErrWrongCluster = errors.New("another kafka cluster answers")

// Ping asks any broker for the cluster id and compares it with the expected
// one. It returns within the context or the client's own timeouts.
func (c *Client) Ping(ctx context.Context) (clusterID string, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none, not all
	resp, err := req.RequestWith(ctx, c.Kgo)
	if err != nil {
		return "", fmt.Errorf("reach kafka %s at %v: %w (is it running, and are address, tls and sasl right?)", c.conf.Name, c.conf.Brokers, err)
	}
	if resp.ClusterID == nil {
		return "", fmt.Errorf("kafka %s told no cluster id", c.conf.Name)
	}
	if want := c.conf.ClusterID; want != "" && want != *resp.ClusterID {
		return *resp.ClusterID, fmt.Errorf("kafka %s is cluster %s, want %s: %w; do both regions have the right brokers?", c.conf.Name, *resp.ClusterID, want, ErrWrongCluster)
	}
	return *resp.ClusterID, nil
}

// Close ends all connections. Requests that are under way fail.
func (c *Client) Close() { c.Kgo.Close() }
