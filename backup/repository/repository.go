package repository

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// Store is where the objects are; *objects.Bucket fulfils it. Its errors wrap
// the sentinels of that package.
type Store interface {
	Put(ctx context.Context, key string, body []byte, o objects.PutOptions) error
	Get(ctx context.Context, key string, max int64) ([]byte, error)
	Open(ctx context.Context, key string) (io.ReadCloser, objects.Info, error)
	Head(ctx context.Context, key string) (objects.Info, error)
	List(ctx context.Context, prefix, after string, max int) ([]objects.Object, error)
	Now(ctx context.Context) (time.Time, error)
	Probe(ctx context.Context) (objects.Dialect, error)
	String() string
}

// Signer signs as this node; *certs.Identity fulfils it.
type Signer interface {
	Sign(domain string, payload []byte) (signature, certPEM []byte, err error)
}

// Verifier knows the nodes of the cluster; *certs.Verifier fulfils it.
type Verifier interface {
	Verify(domain string, payload, signature, certPEM []byte, signed time.Time) (topology.Node, error)
}

// Config says which repository this is, and what may be done with it.
type Config struct {
	Store   Store
	Name    string // "repository of us-east"; empty: that, by Region
	Cluster string
	Region  topology.Region // whose stores the sets hold

	Verifier Verifier // always needed

	// For writing. Without them Begin refuses.
	Recipient string                 // age1…, pinned in the fleet file
	DedupeKey func() ([]byte, error) // at least 32 bytes
	Sign      Signer
	// SealWithin bounds the age of an attempt by the store's clock: half the
	// grace that a removal gives. Default 12 h.
	SealWithin time.Duration

	// Identity gives age identities (AGE-SECRET-KEY-…), one a line. Nil: blobs
	// cannot be read here, all else can.
	Identity func() (string, error)

	Concurrency int              // of uploads and reads each; default 4
	Now         func() time.Time // default time.Now; for entries in manifests, never for decisions
}

// Repository is one bucket's sets. It is safe for concurrent use.
type Repository struct {
	c         Config
	store     Store
	recipient age.Recipient
	zip       *zstd.Encoder
	unzip     *zstd.Decoder

	mu      sync.Mutex
	probed  bool
	dialect objects.Dialect
}

var _ restore.Vault = (*Repository)(nil)

// Open checks the configuration. It reads and writes nothing.
func Open(_ context.Context, c Config) (*Repository, error) {
	if c.Name == "" {
		c.Name = "repository of " + string(c.Region)
	}
	if c.Concurrency <= 0 {
		c.Concurrency = 4
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.SealWithin <= 0 {
		c.SealWithin = 12 * time.Hour
	}
	var errs []error
	if c.Store == nil || c.Verifier == nil {
		errs = append(errs, errors.New("a store and a verifier are needed"))
	}
	errs = append(errs, topology.CheckName("cluster", c.Cluster), topology.CheckName("region", string(c.Region)))
	r := &Repository{c: c, store: c.Store}
	if c.Recipient != "" {
		recipient, err := age.ParseX25519Recipient(c.Recipient)
		if err != nil {
			errs = append(errs, fmt.Errorf("recipient %q: want an age public key, age1…, as `age-keygen -y` prints it", c.Recipient))
		} else {
			r.recipient = recipient
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(c.Concurrency), zstd.WithLowerEncoderMem(true),
		// The fastest level takes a third of the default's time and gives a few
		// percent more bytes; no blob is longer than the window.
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(bundleBytes))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	r.zip = zip
	if r.unzip, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(c.Concurrency), zstd.WithDecoderMaxMemory(blobBytesMax)); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return r, nil
}

// Name is the repository as a person knows it: "s3://bucket/prefix of us-east".
func (r *Repository) Name() string { return r.store.String() + " of " + string(r.c.Region) }

// Dialect is what Begin found out about the store; false before the first one.
func (r *Repository) Dialect() (objects.Dialect, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dialect, r.probed
}

// probe looks once what the store knows.
func (r *Repository) probe(ctx context.Context) (objects.Dialect, error) {
	if d, probed := r.Dialect(); probed {
		return d, nil
	}
	d, err := r.store.Probe(ctx)
	if err != nil {
		return d, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialect, r.probed = d, true
	return d, nil
}

func (r *Repository) unique() string {
	return ulid.MustNew(ulid.Timestamp(r.c.Now()), rand.Reader).String()
}

// What is read is bounded by these, whatever the store says.
const (
	sealBytesMax     = 1 << 20
	manifestBytesMax = 256 << 20
	indexBytesMax    = 256 << 20
	blobBytesMax     = 64 << 20 // of plain text, and of what is stored
	pageBytesMax     = 4 << 20
	setsMax          = 200_000
	tombsMax         = 500_000
	packObjectsMax   = 2_000_000
)
