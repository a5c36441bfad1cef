package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/backup"
)

const (
	// aheadMax is how many runs of pieces are fetched before they are needed.
	aheadMax = 4
	// recentMax is how many blobs are kept, for pieces that come back to them.
	recentMax = 8
)

// run is a stretch of pieces that lie in one blob.
type run struct {
	blob   int
	pieces []int
}

// fetched is the plain text of a blob that is being read, or has been.
type fetched struct {
	done chan struct{}
	text []byte
	err  error
}

// Pieces gives back pieces in the order asked for, and reads a few blobs ahead.
func (r *Repository) Pieces(ctx context.Context, m *backup.Manifest, pieces []int, each func(data []byte) error) error {
	runs, err := runsOf(m, pieces)
	if err != nil || len(runs) == 0 {
		return err
	}
	identities, err := r.identities()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()

	recent := recently{by: map[int]*fetched{}}
	begin := func(blob int) *fetched {
		if f := recent.by[blob]; f != nil {
			return f
		}
		f := &fetched{done: make(chan struct{})}
		recent.add(blob, f)
		reading.Go(func() {
			defer close(f.done)
			f.text, f.err = r.blob(ctx, m.Blobs[blob], identities)
		})
		return f
	}
	var queue []*fetched // of runs[n] and the ones after it
	for n, now := range runs {
		for len(queue) <= aheadMax && n+len(queue) < len(runs) {
			queue = append(queue, begin(runs[n+len(queue)].blob))
		}
		f := queue[0]
		queue = queue[1:]
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if f.err != nil {
			return fmt.Errorf("blob %s: %w", m.Blobs[now.blob].Key, f.err)
		}
		for _, piece := range now.pieces {
			p := m.Pieces[piece]
			if err := each(f.text[p.At : p.At+p.Size]); err != nil {
				return err
			}
		}
	}
	return nil
}

// recently keeps the last blobs that were asked for.
type recently struct {
	by    map[int]*fetched
	order []int
}

func (c *recently) add(blob int, f *fetched) {
	c.by[blob] = f
	if c.order = append(c.order, blob); len(c.order) > recentMax {
		delete(c.by, c.order[0])
		c.order = c.order[1:]
	}
}

func runsOf(m *backup.Manifest, pieces []int) ([]run, error) {
	var runs []run
	for i, n := range pieces {
		if n < 0 || n >= len(m.Pieces) {
			return nil, fmt.Errorf("%w: there is no piece %d among %d", ErrDamaged, n, len(m.Pieces))
		}
		p := m.Pieces[n]
		if p.Blob < 0 || p.Blob >= len(m.Blobs) || p.At < 0 || p.Size <= 0 || p.At > m.Blobs[p.Blob].Size-p.Size {
			return nil, fmt.Errorf("%w: piece %d lies outside of its blob", ErrDamaged, n)
		}
		if last := len(runs) - 1; last >= 0 && runs[last].blob == p.Blob {
			runs[last].pieces = append(runs[last].pieces, pieces[i])
			continue
		}
		runs = append(runs, run{p.Blob, []int{n}})
	}
	return runs, nil
}

// identities reads the private keys, each time: a changed one is taken up.
func (r *Repository) identities() ([]age.Identity, error) {
	if r.c.Identity == nil {
		return nil, fmt.Errorf("%s: no identity (the private age key) is configured here, so nothing that is encrypted can be read; restore on a node that has it", r.c.Name)
	}
	text, err := r.c.Identity()
	if err != nil {
		return nil, fmt.Errorf("%s: read the identity: %w", r.c.Name, err)
	}
	identities, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		// The cause may quote a line of a secret.
		return nil, fmt.Errorf("%s: the identity is not an age private key (AGE-SECRET-KEY-…)", r.c.Name)
	}
	return identities, nil
}

// blob reads a blob, and compares it before it decrypts a byte.
func (r *Repository) blob(ctx context.Context, b backup.Blob, identities []age.Identity) ([]byte, error) {
	if b.Stored <= 0 || b.Stored > blobBytesMax || b.Size <= 0 || b.Size > blobBytesMax {
		return nil, fmt.Errorf("%w: it cannot have %d bytes", ErrDamaged, max(b.Stored, b.Size))
	}
	stored, err := r.store.Get(ctx, b.Key, b.Stored)
	if err != nil {
		return nil, lost(err)
	}
	if err := compare(stored, b.Stored, b.SHA256); err != nil {
		return nil, err
	}
	return r.plain(stored, b.Size, identities)
}

func (r *Repository) plain(stored []byte, size int64, identities []age.Identity) ([]byte, error) {
	body, err := age.Decrypt(bytes.NewReader(stored), identities...)
	var not *age.NoIdentityMatchError
	if errors.As(err, &not) {
		return nil, errors.New("it was encrypted to another key than the identity of this node; use the identity of the recipient that was configured then")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: decrypt: %w", ErrDamaged, err)
	}
	packed, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("%w: decrypt: %w", ErrDamaged, err)
	}
	text, err := r.unzip.DecodeAll(packed, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrDamaged, err)
	}
	if int64(len(text)) != size {
		return nil, fmt.Errorf("%w: its plain text is %d bytes long, want %d", ErrDamaged, len(text), size)
	}
	return text, nil
}
