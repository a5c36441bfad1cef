package repository

import (
	"context"
	"io"

	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/restore"
)

// Corrupted returns a view in which the byte in the middle of one object is
// wrong, whoever reads it. Its size stays. Nothing is written.
func (r *Repository) Corrupted(key string) restore.Vault {
	return &Repository{c: r.c, store: wrongByte{r.store, key}, recipient: r.recipient, zip: r.zip, unzip: r.unzip}
}

type wrongByte struct {
	Store
	key string
}

// String says so: this view must not be taken for the repository.
func (w wrongByte) String() string { return w.Store.String() + " with one byte wrong" }

func (w wrongByte) Get(ctx context.Context, key string, max int64) ([]byte, error) {
	body, err := w.Store.Get(ctx, key, max)
	if err == nil && key == w.key && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	return body, err
}

func (w wrongByte) Open(ctx context.Context, key string) (io.ReadCloser, objects.Info, error) {
	body, info, err := w.Store.Open(ctx, key)
	if err == nil && key == w.key {
		body = &flip{body, info.Bytes / 2}
	}
	return body, info, err
}

// flip changes the byte that is left bytes away.
type flip struct {
	io.ReadCloser
	left int64
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.left >= 0 && f.left < int64(n) {
		p[f.left] ^= 1
	}
	f.left -= int64(n)
	return n, err
}
