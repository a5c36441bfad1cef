package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var (
	// ErrTombstoned says that the attempt uses an object that is marked for
	// removal. It is void; a new one will not use it.
	ErrTombstoned = errors.New("it uses an object that is marked for removal")
	// ErrTooOld says that the attempt took so long that what it reuses may be gone.
	ErrTooOld = errors.New("the attempt is too old to be sealed")
	// ErrSealed says that another attempt has sealed the set. See SealedError.
	ErrSealed = errors.New("another attempt has sealed this set")
)

// SealedError carries the seal that is there: it is valid, and the set exists.
type SealedError struct {
	Seal   backup.Seal
	Digest backup.Digest
}

func (e *SealedError) Error() string {
	return fmt.Sprintf("%s: attempt %s, by %s", ErrSealed, e.Seal.Attempt, e.Seal.Node)
}

// Unwrap makes it an ErrSealed.
func (e *SealedError) Unwrap() error { return ErrSealed }

// Seal makes the set exist, with the parts that were finished in this attempt,
// in the order given. Set, attempt, cluster, region and time are filled in
// where they are empty. It returns the digest of the seal as stored. An error
// that is ErrSealed carries the seal of another attempt; after any other
// error, ask for the seal (Repository.Seal) before saying that there is none.
func (a *Attempt) Seal(ctx context.Context, s backup.Seal) (backup.Digest, error) {
	d, err := a.seal(ctx, s)
	if err != nil {
		return "", fmt.Errorf("seal set %s in %s: %w", a.set, a.r.Name(), err)
	}
	return d, nil
}

// plainWait is how long a seal is watched in a store without conditional puts.
const plainWait = time.Second

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *Attempt) seal(ctx context.Context, s backup.Seal) (backup.Digest, error) {
	r := a.r
	if err := a.fill(&s); err != nil {
		return "", err
	}
	body, err := r.sign(domainSeal, s)
	if err != nil {
		return "", err
	}
	if len(body) > sealBytesMax {
		return "", fmt.Errorf("the seal has %d bytes, at most %d can be read back", len(body), sealBytesMax)
	}
	// Would we take it ourselves? A wrong node or CA is found before it exists.
	if _, err := r.openSeal(s.Set, body); err != nil {
		return "", fmt.Errorf("our own seal would be refused: %w", err)
	}
	if err := a.stillGood(ctx); err != nil {
		return "", err
	}
	// Whatever the put says, what counts is what is there now.
	err = r.store.Put(ctx, backup.SealKey(a.set), body, objects.PutOptions{IfAbsent: true})
	there, sum, readErr := r.Seal(ctx, a.set)
	if d, _ := r.Dialect(); err == nil && readErr == nil && !d.ConditionalPut {
		// Another attempt may have looked before our seal was there, and may
		// put its own over it. Who is told that it sealed must not be the one
		// whose seal is gone.
		if err := sleep(ctx, plainWait); err != nil {
			return "", err
		}
		there, sum, readErr = r.Seal(ctx, a.set)
	}
	switch {
	case errors.Is(err, objects.ErrExists) && readErr != nil:
		return "", fmt.Errorf("a seal is there that cannot be used: %w", readErr)
	case err != nil && readErr != nil:
		return "", err
	case readErr != nil:
		return "", fmt.Errorf("read back the seal: %w", readErr)
	case sum == digest(body):
		return sum, nil
	default:
		return "", &SealedError{there, sum}
	}
}

// fill completes a seal, and refuses one that is not about this attempt.
func (a *Attempt) fill(s *backup.Seal) error {
	c := a.r.c
	s.Format = backup.Format
	if s.Set == "" {
		s.Set = a.set
	}
	if s.Attempt == "" {
		s.Attempt = a.id
	}
	if s.Cluster == "" {
		s.Cluster = c.Cluster
	}
	if s.Region == "" {
		s.Region = c.Region
	}
	if s.Sealed.IsZero() {
		s.Sealed = c.Now().UTC()
	}
	if s.Set != a.set || s.Attempt != a.id || s.Cluster != c.Cluster || s.Region != c.Region {
		return fmt.Errorf("the seal is of set %s, attempt %s, cluster %s, region %s: %w", s.Set, s.Attempt, s.Cluster, s.Region, ErrSwapped)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(s.Parts) == 0 || len(s.Parts) != len(a.parts) {
		return fmt.Errorf("it has %d parts, and %d were finished", len(s.Parts), len(a.parts))
	}
	seen := map[backup.Engine]bool{}
	for _, p := range s.Parts {
		have, ok := a.parts[p.Engine]
		if !ok || seen[p.Engine] || have.SHA256 != p.SHA256 || have.Manifest != p.Manifest || have.Bytes != p.Bytes {
			return fmt.Errorf("the part of %s is not the one that was finished", p.Engine)
		}
		seen[p.Engine] = true
	}
	return nil
}

// stillGood looks, right before the commit, whether what the set uses is there,
// and whether it may be removed under it: by its age and by what is marked.
func (a *Attempt) stillGood(ctx context.Context) error {
	now, err := a.r.store.Now(ctx)
	if err != nil {
		return err
	}
	if age := now.Sub(a.begun); age > a.r.c.SealWithin {
		return fmt.Errorf("%w: it began %s ago by the store's clock, at most %s; run the backup again", ErrTooOld, age.Round(time.Second), a.r.c.SealWithin)
	}
	tombs, err := a.r.store.List(ctx, backup.TombPrefix, "", tombsMax)
	if err != nil {
		return err
	}
	for _, t := range tombs {
		key := strings.TrimPrefix(t.Key, backup.TombPrefix)
		if a.uses[key] {
			return fmt.Errorf("%w: %s", ErrTombstoned, key)
		}
	}
	return a.present(ctx)
}

// present looks at every object of the finished manifests, by name and size: a
// store may have said that it took one and not have it, and what an earlier
// set holds may be gone since Begin looked.
func (a *Attempt) present(ctx context.Context) error {
	a.mu.Lock()
	blobs, packs := maps.Clone(a.blobs), maps.Clone(a.packs)
	a.mu.Unlock()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4 * a.r.c.Concurrency) // they only wait
	for key, bytes := range blobs {
		g.Go(func() error {
			info, err := a.r.store.Head(gctx, key)
			if err == nil && info.Bytes != bytes {
				err = fmt.Errorf("%w: %s", ErrDamaged, wrongSize(info.Bytes, bytes))
			}
			return vanished(key, err)
		})
	}
	for index, p := range packs {
		g.Go(func() error {
			if _, err := a.r.store.Head(gctx, index); err != nil {
				return vanished(index, err)
			}
			there, err := a.r.store.List(gctx, p.prefix, "", packObjectsMax)
			if err != nil {
				return err
			}
			var bytes int64
			for _, o := range there {
				bytes += o.Bytes
			}
			if len(there) != p.Objects || bytes != p.Bytes {
				return vanished(p.prefix, fmt.Errorf("%w: it holds %d objects with %d bytes, want %d with %d", ErrDamaged, len(there), bytes, p.Objects, p.Bytes))
			}
			return nil
		})
	}
	return g.Wait()
}

func vanished(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s, which the set needs: %w; run the backup again", key, err)
}

// openSeal checks a seal in every respect that needs no other object.
func (r *Repository) openSeal(set backup.SetID, body []byte) (backup.Seal, error) {
	var s backup.Seal
	err := r.openEnvelope(domainSeal, body, &s, func() (time.Time, topology.Node) { return s.Sealed, s.Node })
	switch {
	case err != nil:
		return backup.Seal{}, err
	case s.Set != set || s.Cluster != r.c.Cluster || s.Region != r.c.Region:
		return backup.Seal{}, fmt.Errorf("%w: it seals set %s of %s, region %s; want set %s of %s, region %s",
			ErrSwapped, s.Set, s.Cluster, s.Region, set, r.c.Cluster, r.c.Region)
	}
	for _, p := range s.Parts {
		if p.Manifest != backup.ManifestKey(set, s.Attempt, p.Engine) || !isDigest(p.SHA256) || p.Bytes <= 0 || p.Bytes > manifestBytesMax {
			return backup.Seal{}, fmt.Errorf("%w: its part %s does not make sense", ErrDamaged, p.Engine)
		}
	}
	return s, nil
}
