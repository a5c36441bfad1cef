package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// PutOptions says how to put an object.
type PutOptions struct {
	// IfAbsent refuses with ErrExists to replace anything. In a store that
	// does not honour conditional puts (see Probe) this looks before it puts,
	// which two writers at once could defeat: give such objects unique names.
	IfAbsent bool
}

// Put stores body under key, whole or not at all. A retried put whose first
// answer was lost is a success when the bytes there are ours.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, o PutOptions) error {
	conditional := o.IfAbsent && !b.plain.Load()
	if o.IfAbsent && !conditional {
		switch _, err := b.Head(ctx, key); {
		case err == nil:
			return fmt.Errorf("%s: put %s: %w", b.c.Name, b.at(key), ErrExists)
		case !errors.Is(err, ErrNotFound):
			return err
		}
	}
	sum := sha256.Sum256(body)
	tries := 0
	return b.again(ctx, "put", key, func(ctx context.Context) error {
		tries++
		err := b.put(ctx, key, body, sum, conditional)
		if !conditional || !exists(err) {
			return err
		}
		if status(err) == http.StatusConflict && tries < 4 {
			return err // another one is putting it right now: see who wins
		}
		if tries > 1 {
			if same, readErr := b.holds(ctx, key, int64(len(body)), sum); readErr != nil {
				return readErr
			} else if same {
				return nil
			}
		}
		return ErrExists
	})
}

func (b *Bucket) put(ctx context.Context, key string, body []byte, sum [sha256.Size]byte, conditional bool) error {
	in := &s3.PutObjectInput{
		Bucket: &b.c.Bucket, Key: b.key(key), Body: bytes.NewReader(body),
		ContentLength:  aws.Int64(int64(len(body))),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	}
	if conditional {
		in.IfNoneMatch = aws.String("*")
	}
	_, err := b.client.PutObject(ctx, in)
	return err
}

// holds says whether the object has exactly these bytes.
func (b *Bucket) holds(ctx context.Context, key string, size int64, sum [sha256.Size]byte) (bool, error) {
	got, err := b.get(ctx, key, size)
	if errors.Is(err, ErrTooLarge) {
		return false, nil
	}
	return err == nil && sha256.Sum256(got) == sum, err
}

// Dialect is what a store turned out to know.
type Dialect struct {
	ConditionalPut bool `json:"conditional_put"`
}

const (
	probeKey  = "probe/conditional-put"
	probeText = "holdfast puts this object twice to see whether the store honours If-None-Match.\n"
)

// Probe finds out whether conditional puts are honoured, and has this Bucket
// act on it. It leaves one small object of a fixed name: a writer has no
// right to delete.
func (b *Bucket) Probe(ctx context.Context) (Dialect, error) {
	body := []byte(probeText)
	sum := sha256.Sum256(body)
	honoured := false
	for range 2 {
		err := b.again(ctx, "put", probeKey, func(ctx context.Context) error {
			err := b.put(ctx, probeKey, body, sum, true)
			switch s := status(err); {
			case exists(err):
				honoured = true
				return nil
			case s == http.StatusNotImplemented || s == http.StatusBadRequest && !passing(err):
				return nil // the store does not know the header
			}
			return err
		})
		if err != nil {
			return Dialect{}, err
		}
		if honoured {
			break
		}
	}
	b.plain.Store(!honoured)
	return Dialect{ConditionalPut: honoured}, nil
}
