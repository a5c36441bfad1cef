package repository

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// Sets lists what is sealed, newest first.
func (r *Repository) Sets(ctx context.Context) ([]backup.SetID, error) {
	found, err := r.store.List(ctx, backup.SetPrefix, "", setsMax)
	if err != nil {
		return nil, err
	}
	var sets []backup.SetID
	for _, o := range found {
		if set, ok := backup.SetOfSealKey(o.Key); ok {
			sets = append(sets, set)
		}
	}
	slices.Sort(sets)
	slices.Reverse(sets)
	return slices.Compact(sets), nil
}

// Seal reads a seal and verifies it.
func (r *Repository) Seal(ctx context.Context, set backup.SetID) (backup.Seal, backup.Digest, error) {
	key := backup.SealKey(set)
	body, err := r.store.Get(ctx, key, sealBytesMax)
	if err != nil {
		return backup.Seal{}, "", fmt.Errorf("seal of set %s: %w", set, err)
	}
	s, err := r.openSeal(set, body)
	if err != nil {
		return backup.Seal{}, "", fmt.Errorf("seal of set %s (%s in %s): %w", set, key, r.Name(), err)
	}
	return s, digest(body), nil
}

// Manifest reads a manifest and compares it with the part in its seal.
func (r *Repository) Manifest(ctx context.Context, set backup.SetID, p backup.Part) (backup.Manifest, error) {
	m, err := r.manifest(ctx, set, p)
	if err != nil {
		return backup.Manifest{}, fmt.Errorf("manifest of %s in set %s (%s): %w", p.Engine, set, p.Manifest, err)
	}
	return m, nil
}

func (r *Repository) manifest(ctx context.Context, set backup.SetID, p backup.Part) (backup.Manifest, error) {
	none := backup.Manifest{}
	if p.Bytes <= 0 || p.Bytes > manifestBytesMax {
		return none, fmt.Errorf("%w: the seal says that it has %d bytes", ErrDamaged, p.Bytes)
	}
	body, err := r.store.Get(ctx, p.Manifest, p.Bytes)
	if err != nil {
		return none, lost(err)
	}
	if err := compare(body, p.Bytes, p.SHA256); err != nil {
		return none, err
	}
	m, err := decodeManifest(body)
	if err != nil {
		return none, err
	}
	if m.Set != set || m.Engine != p.Engine || m.Cluster != r.c.Cluster || m.Region != r.c.Region || backup.ManifestKey(m.Set, m.Attempt, m.Engine) != p.Manifest {
		return none, fmt.Errorf("%w: it is of %s in set %s, attempt %s, of %s, region %s", ErrSwapped, m.Engine, m.Set, m.Attempt, m.Cluster, m.Region)
	}
	return m, nil
}

// PackIndex reads the index of a pack and compares it with its hash.
func (r *Repository) PackIndex(ctx context.Context, p backup.Pack) (backup.PackIndex, error) {
	x, err := r.packIndex(ctx, p)
	if err != nil {
		return backup.PackIndex{}, fmt.Errorf("index of pack %s (%s): %w", p.ID, p.Index, err)
	}
	return x, nil
}

func (r *Repository) packIndex(ctx context.Context, p backup.Pack) (backup.PackIndex, error) {
	body, err := r.store.Get(ctx, p.Index, indexBytesMax)
	if err != nil {
		return backup.PackIndex{}, lost(err)
	}
	if err := compare(body, int64(len(body)), p.SHA256); err != nil {
		return backup.PackIndex{}, err
	}
	x, err := decodeIndex(body)
	if err != nil {
		return x, err
	}
	var bytes int64
	for _, o := range x.Objects {
		bytes += o.Bytes
	}
	if x.Pack != p.ID || len(x.Objects) != p.Objects || bytes != p.Bytes || !strings.HasPrefix(p.Index, "packs/"+string(x.Engine)+"/") {
		return x, fmt.Errorf("%w: it is of pack %s", ErrSwapped, x.Pack)
	}
	return x, nil
}

// compare says how bytes differ from what they must be.
func compare(body []byte, size int64, sum backup.Digest) error {
	if int64(len(body)) != size {
		return fmt.Errorf("%w: %s", ErrDamaged, wrongSize(int64(len(body)), size))
	}
	if got := digest(body); got != sum {
		return fmt.Errorf("%w: %s", ErrDamaged, wrongHash(got, sum))
	}
	return nil
}

func wrongSize(got, want int64) string { return fmt.Sprintf("it is %d bytes long, want %d", got, want) }

func wrongHash(got, want backup.Digest) string {
	return fmt.Sprintf("its SHA-256 is %s, want %s", got, want)
}
