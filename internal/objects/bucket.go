package objects

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast-dr/holdfast/internal/retry"
)

// Secret reads a secret when it is needed.
type Secret = func() (string, error)

// Dialer opens one connection.
type Dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// TLS says how to verify an https endpoint.
type TLS struct {
	CAFile string // PEM; empty: the system's
}

// Config says how to reach one bucket.
type Config struct {
	Name     string // in errors: "repository of us-east"
	Endpoint string // http:// or https://; empty: AWS, by the region
	Bucket   string
	Prefix   string // of all keys; a slash at its end is added
	Region   string // default us-east-1
	// PathStyle puts the bucket into the path and not into the host name, as
	// most stores that are not AWS want it.
	PathStyle bool
	// AccessKey and SecretKey are read again every few minutes, so that a
	// changed pair is taken up without a restart. Both are needed.
	AccessKey, SecretKey Secret

	TLS  *TLS   // nil: the system's CAs
	Dial Dialer // nil: net.Dialer and the proxy of the environment
	// RateLimit bounds what is read plus what is written, in bytes per
	// second. 0: no bound.
	RateLimit int64
	// RetryFor bounds how long an operation is tried again. Default 45 s.
	RetryFor time.Duration
}

// Check says everything that is wrong with the configuration.
func (c Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			bad("endpoint: want http(s)://host[:port] and nothing else; bucket and prefix have settings of their own")
		}
	}
	if c.Bucket == "" || strings.Contains(c.Bucket, "/") {
		bad("bucket %q: want the name of a bucket", c.Bucket)
	}
	if c.AccessKey == nil || c.SecretKey == nil {
		bad("access_key and secret_key are both needed: roles of a machine and anonymous access are not supported")
	}
	if strings.Contains("/"+c.Prefix+"/", "/../") || strings.Contains(c.Prefix, "//") || strings.HasPrefix(c.Prefix, "/") {
		bad("prefix %q: want names with single slashes between them, and none at its start", c.Prefix)
	}
	if c.RateLimit < 0 || c.RetryFor < 0 {
		bad("a rate or a time limit is negative")
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", c.Name, err)
	}
	return nil
}

// Bucket is one bucket, or the part of it below a prefix. It is safe for
// concurrent use.
type Bucket struct {
	c      Config
	client *s3.Client
	close  func()

	// plain is set when Probe saw that conditional puts are not honoured.
	plain atomic.Bool

	mu     sync.Mutex
	hidden []string // the keys in use, to be starred out of what stores say
}

// credentialsFor bounds how long a changed pair of keys stays unnoticed.
const credentialsFor = 5 * time.Minute

// Open makes a client. It does not connect.
func Open(c Config) (*Bucket, error) {
	if c.Name == "" {
		c.Name = "bucket " + c.Bucket
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.RetryFor == 0 {
		c.RetryFor = 45 * time.Second
	}
	if c.Prefix = strings.TrimSuffix(c.Prefix, "/"); c.Prefix != "" {
		c.Prefix += "/"
	}
	httpClient, closeIdle, err := newHTTP(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	b := &Bucket{c: c, close: closeIdle}
	o := s3.Options{
		Region:       c.Region,
		UsePathStyle: c.PathStyle,
		Credentials:  aws.NewCredentialsCache(aws.CredentialsProviderFunc(b.credentials)),
		HTTPClient:   httpClient,
		Retryer:      aws.NopRetryer{}, // retries are ours: bounded by time, and they know what a put means
		// No checksums in trailers: many stores do not know them. Puts carry
		// a SHA-256 of ours.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	if c.Endpoint != "" {
		o.BaseEndpoint = aws.String(strings.TrimSuffix(c.Endpoint, "/"))
	}
	b.client = s3.New(o)
	return b, nil
}

// Close drops the idle connections. Operations that are under way go on.
func (b *Bucket) Close() { b.close() }

// String is the bucket as a person writes it: s3://bucket/prefix.
func (b *Bucket) String() string {
	return strings.TrimSuffix("s3://"+b.c.Bucket+"/"+b.c.Prefix, "/")
}

func (b *Bucket) key(key string) *string { return aws.String(b.c.Prefix + key) }

// credentials reads the keys. Its errors are final: trying again helps nobody.
func (b *Bucket) credentials(context.Context) (aws.Credentials, error) {
	access, err := b.c.AccessKey()
	if err != nil {
		return aws.Credentials{}, &secretError{fmt.Errorf("read access_key: %w", err)}
	}
	secret, err := b.c.SecretKey()
	if err != nil {
		return aws.Credentials{}, &secretError{fmt.Errorf("read secret_key: %w", err)}
	}
	if access == "" || secret == "" {
		return aws.Credentials{}, &secretError{errors.New("access_key or secret_key is empty")}
	}
	b.mu.Lock()
	b.hidden = []string{access, secret}
	b.mu.Unlock()
	return aws.Credentials{AccessKeyID: access, SecretAccessKey: secret, Source: "holdfast", CanExpire: true, Expires: time.Now().Add(credentialsFor)}, nil
}

// again runs once until it succeeds, fails for good, or RetryFor is over.
// Errors come back in words, wrapped by explain.
func (b *Bucket) again(ctx context.Context, act, key string, once func(ctx context.Context) error) error {
	start := time.Now()
	waits := retry.New(100*time.Millisecond, 5*time.Second)
	for tries := 1; ; tries++ {
		err := once(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %s %s: %w", b.c.Name, act, b.at(key), context.Cause(ctx))
		}
		if !passing(err) || time.Since(start) > b.c.RetryFor {
			return b.explain(act, key, tries, err)
		}
		if waits.Wait(ctx) != nil {
			return fmt.Errorf("%s: %s %s: %w (after %d tries, the last: %s)", b.c.Name, act, b.at(key), context.Cause(ctx), tries, b.words(err))
		}
	}
}

func (b *Bucket) at(key string) string { return "s3://" + b.c.Bucket + "/" + b.c.Prefix + key }
