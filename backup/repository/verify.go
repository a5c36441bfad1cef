package repository

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/restore"
)

// wanted is one object that a set needs.
type wanted struct {
	key   string
	bytes int64
	sum   backup.Digest
	hurts func() string
}

// Verify looks at every object that the manifest needs.
func (r *Repository) Verify(ctx context.Context, m *backup.Manifest, readData bool, progress func(backup.Progress)) (restore.Verification, error) {
	v, err := r.verify(ctx, m, readData, progress)
	if err != nil {
		return restore.Verification{}, fmt.Errorf("verify %s of set %s in %s: %w", m.Engine, m.Set, r.Name(), err)
	}
	return v, nil
}

func (r *Repository) verify(ctx context.Context, m *backup.Manifest, readData bool, progress func(backup.Progress)) (restore.Verification, error) {
	var v restore.Verification
	if err := checkManifest(m); err != nil {
		return v, err
	}
	list, err := r.wants(ctx, m, &v)
	if err != nil {
		return v, err
	}
	p := backup.Progress{Stage: fmt.Sprintf("%s: read %d objects", m.Engine, len(list)), Unit: "bytes"}
	if !readData {
		p.Stage = fmt.Sprintf("%s: look at %d objects", m.Engine, len(list))
	}
	for _, w := range list {
		p.Total += w.bytes
	}
	tell := teller(p, progress)

	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.c.Concurrency)
	for _, w := range list {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			what, read, err := r.inspect(gctx, w, readData, tell)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			v.Objects++
			v.Bytes += read
			if what == "" {
				return nil
			}
			f := restore.Finding{Object: w.key, What: what}
			if v.Broken < restore.DifferencesMax { // the others are only counted
				f.Hurts = w.hurts()
			}
			v.Find(f)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return v, err
	}
	return v, context.Cause(ctx)
}

// wants lists what the manifest needs. The indexes of packs are read and
// compared on the way: what is wrong with them is a finding.
func (r *Repository) wants(ctx context.Context, m *backup.Manifest, v *restore.Verification) ([]wanted, error) {
	var list []wanted
	for n, b := range m.Blobs {
		list = append(list, wanted{b.Key, b.Stored, b.SHA256, func() string { return hurtByBlob(m, n) }})
	}
	for n, p := range m.Packs {
		x, err := r.packIndex(ctx, p)
		v.Objects++
		if err != nil {
			what, err := finding(ctx, err)
			if err != nil {
				return nil, err
			}
			v.Find(restore.Finding{Object: p.Index, What: what, Hurts: hurtByPack(m, n, "")})
			continue
		}
		for _, o := range x.Objects {
			list = append(list, wanted{backup.PackPrefix(m.Engine, p.ID) + o.Name, o.Bytes, o.SHA256, func() string { return hurtByPack(m, n, o.Name) }})
		}
	}
	return list, nil
}

// inspect says what is wrong with one object; an error means that it could
// not look.
func (r *Repository) inspect(ctx context.Context, w wanted, readData bool, tell func(int64)) (what string, read int64, err error) {
	if !readData {
		info, err := r.store.Head(ctx, w.key)
		switch {
		case err != nil:
			what, err = finding(ctx, err)
			return what, 0, err
		case info.Bytes != w.bytes:
			return wrongSize(info.Bytes, w.bytes), 0, nil
		}
		tell(w.bytes)
		return "", 0, nil
	}
	sum, read, err := r.hash(ctx, w.key, w.bytes, tell)
	switch {
	case err != nil:
		what, err = finding(ctx, err)
		return what, read, err
	case read != w.bytes:
		return wrongSize(read, w.bytes), read, nil
	case sum != w.sum:
		return wrongHash(sum, w.sum), read, nil
	}
	return "", read, nil
}

// finding turns an error about an object into words, unless it is about the
// way to the store: then nothing is known about the object.
func finding(ctx context.Context, err error) (string, error) {
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, objects.ErrUnreachable), errors.Is(err, objects.ErrDenied):
		return "", err
	case errors.Is(err, objects.ErrNotFound):
		return "missing", nil
	case errors.Is(err, objects.ErrTooLarge), errors.Is(err, ErrDamaged), errors.Is(err, ErrSwapped), errors.Is(err, ErrNewer):
		return err.Error(), nil
	default:
		return "cannot be read: " + err.Error(), nil
	}
}
