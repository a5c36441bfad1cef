package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
)

// NewPack names a folder for a server to write to.
func (s *Sink) NewPack() backup.PackPlace {
	id := s.a.r.unique()
	return backup.PackPlace{ID: id, Prefix: backup.PackPrefix(s.engine, id)}
}

// ReadPack reads one object of a pack that is being made.
func (s *Sink) ReadPack(ctx context.Context, at backup.PackPlace, name string, max int64) ([]byte, error) {
	if !goodName(name) {
		return nil, fmt.Errorf("pack %s: an object cannot be called %q", at.ID, name)
	}
	return s.a.r.store.Get(ctx, at.Prefix+name, max)
}

// Adopt reads and hashes everything in the folder of a pack, and writes its
// index. The folder must hold exactly what is named.
func (s *Sink) Adopt(ctx context.Context, at backup.PackPlace, named []backup.PackObject, progress func(backup.Progress)) (int, error) {
	pack, err := s.adopt(ctx, at, named, progress)
	if err != nil {
		return 0, s.fail(fmt.Errorf("adopt pack %s of %s: %w", at.ID, s.engine, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh.New += pack.Objects
	s.fresh.Uploaded += pack.Bytes
	return s.addPack(pack), nil
}

func (s *Sink) adopt(ctx context.Context, at backup.PackPlace, named []backup.PackObject, progress func(backup.Progress)) (backup.Pack, error) {
	r := s.a.r
	found, err := s.match(ctx, at, named)
	if err != nil {
		return backup.Pack{}, err
	}
	if err := r.hashAll(ctx, at.Prefix, found, fmt.Sprintf("%s: hash %d objects", s.engine, len(found)), progress); err != nil {
		return backup.Pack{}, err
	}
	body, err := json.Marshal(backup.PackIndex{
		Format: backup.Format, Pack: at.ID, Engine: s.engine, Set: s.a.set, Attempt: s.a.id, Objects: found,
	})
	if err != nil {
		return backup.Pack{}, err
	}
	pack := backup.Pack{
		ID: at.ID, Index: backup.PackIndexKey(s.engine, at.ID), SHA256: digest(body),
		Objects: len(found), Made: r.c.Now().UTC(), Encryption: "none",
	}
	for _, o := range found {
		pack.Bytes += o.Bytes
	}
	return pack, r.putAndReadBack(ctx, pack.Index, body)
}

// match compares the names given with the names that are there, and returns
// them with their sizes in the order of their names.
func (s *Sink) match(ctx context.Context, at backup.PackPlace, named []backup.PackObject) ([]backup.PackObject, error) {
	there, err := s.a.r.store.List(ctx, at.Prefix, "", packObjectsMax)
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int64, len(there))
	for _, o := range there {
		sizes[strings.TrimPrefix(o.Key, at.Prefix)] = o.Bytes
	}
	found := slices.Clone(named)
	slices.SortFunc(found, func(x, y backup.PackObject) int { return strings.Compare(x.Name, y.Name) })
	for n, o := range found {
		size, ok := sizes[o.Name]
		switch {
		case !goodName(o.Name):
			return nil, fmt.Errorf("an object cannot be called %q", o.Name)
		case n > 0 && found[n-1].Name == o.Name:
			return nil, fmt.Errorf("%s was named twice", o.Name)
		case !ok:
			return nil, fmt.Errorf("%s%s: %w; the server said that it wrote it", at.Prefix, o.Name, objects.ErrNotFound)
		case o.Bytes >= 0 && o.Bytes != size:
			return nil, fmt.Errorf("%s%s is %d bytes long, want %d", at.Prefix, o.Name, size, o.Bytes)
		}
		found[n].Bytes = size
		delete(sizes, o.Name)
	}
	for name := range sizes {
		return nil, fmt.Errorf("%s%s is there, and the server did not name it (%d such objects): another writer uses this folder", at.Prefix, name, len(sizes))
	}
	return found, nil
}

// hashAll reads the objects below prefix and fills in their hashes.
func (r *Repository) hashAll(ctx context.Context, prefix string, found []backup.PackObject, stage string, progress func(backup.Progress)) error {
	p := backup.Progress{Stage: stage, Unit: "bytes"}
	for _, o := range found {
		p.Total += o.Bytes
	}
	tell := teller(p, progress)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.c.Concurrency)
	for n := range found {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			o := &found[n]
			sum, read, err := r.hash(gctx, prefix+o.Name, o.Bytes, tell)
			if err == nil && read != o.Bytes {
				err = fmt.Errorf("%s%s was %d bytes long, and now %d: it is still being written", prefix, o.Name, o.Bytes, read)
			}
			o.SHA256 = sum
			return err
		})
	}
	return errors.Join(g.Wait(), context.Cause(ctx))
}

// hash reads a whole object. One that is not as long as it should be is not
// read: its length comes back, and no hash.
func (r *Repository) hash(ctx context.Context, key string, size int64, tell func(int64)) (backup.Digest, int64, error) {
	body, info, err := r.store.Open(ctx, key)
	if err != nil {
		return "", 0, err
	}
	defer body.Close()
	if info.Bytes != size {
		return "", info.Bytes, nil
	}
	h := sha256.New()
	buffer := make([]byte, 64<<10)
	var read int64
	for {
		n, err := body.Read(buffer)
		h.Write(buffer[:n])
		read += int64(n)
		tell(int64(n))
		if errors.Is(err, io.EOF) {
			return backup.Digest(hex.EncodeToString(h.Sum(nil))), read, nil
		}
		if err != nil {
			return "", read, err
		}
	}
}

// teller adds up bytes from many goroutines for a progress that takes one
// call at a time.
func teller(p backup.Progress, progress func(backup.Progress)) func(int64) {
	if progress == nil {
		return func(int64) {}
	}
	var mu sync.Mutex
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		p.Done += n
		progress(p)
	}
}

// putAndReadBack stores an object that must not be there yet, and compares
// what the store has then.
func (r *Repository) putAndReadBack(ctx context.Context, key string, body []byte) error {
	if err := r.store.Put(ctx, key, body, objects.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	got, err := r.store.Get(ctx, key, int64(len(body)))
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	if digest(got) != digest(body) {
		return fmt.Errorf("%s does not hold what was written to it a moment ago: %w", key, ErrDamaged)
	}
	return nil
}
