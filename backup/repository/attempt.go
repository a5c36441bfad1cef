package repository

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Attempt is one try to take a set. Dropping it leaves objects that nothing
// names, and no set.
type Attempt struct {
	r     *Repository
	set   backup.SetID
	id    string
	begun time.Time // by the store's clock
	key   []byte    // of the hash that names pieces
	prev  map[backup.Engine]*backup.Manifest
	gone  map[string]string // blobs and packs of prev that cannot be reused, and why

	mu    sync.Mutex
	parts map[backup.Engine]backup.Part
	uses  map[string]bool   // keys of all blobs and pack indexes of the finished manifests
	blobs map[string]int64  // of these, with their sizes
	packs map[string]folder // of these, by their indexes
}

// folder is a pack and where its objects are.
type folder struct {
	backup.Pack
	prefix string
}

// session is the note that an attempt is under way. Its age and the sets that
// it builds on keep a removal away from what it uses.
type session struct {
	Format   int             `json:"format"`
	Set      backup.SetID    `json:"set"`
	Attempt  string          `json:"attempt"`
	Cluster  string          `json:"cluster"`
	Region   topology.Region `json:"region"`
	Started  time.Time       `json:"started"` // by the store's clock
	BuildsOn []backup.SetID  `json:"builds_on,omitempty"`
	Dialect  objects.Dialect `json:"dialect"`
}

// Begin starts an attempt at a set: it notes the session, and then looks which
// objects of prev, the manifests of the newest sealed set, are still there
// with the right size. What is not is taken anew; see Prev and Gone. The name
// of an attempt (a ULID) must never be used twice.
func (r *Repository) Begin(ctx context.Context, set backup.SetID, attempt string, prev map[backup.Engine]*backup.Manifest) (*Attempt, error) {
	if err := r.canWrite(); err != nil {
		return nil, fmt.Errorf("%s: %w", r.c.Name, err)
	}
	if _, ok := backup.SetOfSealKey(backup.SealKey(set)); !ok || attempt == "" || !goodName(attempt) {
		return nil, fmt.Errorf("%s: begin set %q, attempt %q: want a ULID for each", r.c.Name, set, attempt)
	}
	key, err := r.c.DedupeKey()
	if err != nil {
		return nil, fmt.Errorf("%s: read dedupe_key: %w", r.c.Name, err)
	}
	if len(key) < 32 {
		return nil, fmt.Errorf("%s: dedupe_key has %d bytes, want at least 32 random ones (head -c 32 /dev/urandom)", r.c.Name, len(key))
	}
	dialect, err := r.probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin set %s: %w", set, err)
	}
	a := &Attempt{
		r: r, set: set, id: attempt, key: pieceKey(key, r.c.Recipient), prev: map[backup.Engine]*backup.Manifest{}, gone: map[string]string{},
		parts: map[backup.Engine]backup.Part{}, uses: map[string]bool{},
		blobs: map[string]int64{}, packs: map[string]folder{},
	}
	if a.begun, err = r.store.Now(ctx); err != nil {
		return nil, fmt.Errorf("begin set %s: %w", set, err)
	}
	note := session{backup.Format, set, attempt, r.c.Cluster, r.c.Region, a.begun, nil, dialect}
	for _, m := range prev {
		if m != nil && !slices.Contains(note.BuildsOn, m.Set) {
			note.BuildsOn = append(note.BuildsOn, m.Set)
		}
	}
	slices.Sort(note.BuildsOn)
	body, err := json.Marshal(note)
	if err != nil {
		return nil, err
	}
	if err := r.store.Put(ctx, backup.SessionKey(set, attempt), body, objects.PutOptions{IfAbsent: true}); err != nil {
		return nil, fmt.Errorf("begin set %s: %w", set, err)
	}
	for e, m := range prev {
		if m == nil {
			continue
		}
		if err := a.look(ctx, m); err != nil {
			return nil, fmt.Errorf("begin set %s: look at what set %s holds of %s: %w", set, m.Set, e, err)
		}
		a.prev[e] = a.without(m)
	}
	return a, nil
}

// pieceKey makes the recipient part of what names a piece: what was encrypted
// to another one is not reused, for its private key may be lost.
func pieceKey(dedupe []byte, recipient string) []byte {
	mac := hmac.New(sha256.New, dedupe)
	mac.Write([]byte("holdfast pieces for " + recipient))
	return mac.Sum(nil)
}

func (r *Repository) canWrite() error {
	switch {
	case r.recipient == nil:
		return errors.New("nothing can be written without a recipient (the public age key that backups are encrypted to)")
	case r.c.DedupeKey == nil:
		return errors.New("nothing can be written without a dedupe_key")
	case r.c.Sign == nil:
		return errors.New("nothing can be written without a certificate to sign with")
	}
	return nil
}

// Prev is what an engine may build on: the manifest given to Begin, in which
// partitions whose pack is not whole any more have no fingerprint, so that
// they are taken again. Nil: nothing.
func (a *Attempt) Prev(e backup.Engine) *backup.Manifest { return a.prev[e] }

// Gone lists what of the earlier sets is missing or damaged, and is therefore
// taken anew: those sets can no longer be restored whole. Each line names an
// object and what is wrong with it.
func (a *Attempt) Gone() []string {
	lines := make([]string, 0, len(a.gone))
	for _, key := range slices.Sorted(maps.Keys(a.gone)) {
		lines = append(lines, key+" "+a.gone[key])
	}
	return lines
}

// look finds out which blobs and packs of an earlier manifest can be reused:
// by name and size. That their bytes are right is for Verify.
func (a *Attempt) look(ctx context.Context, m *backup.Manifest) error {
	if err := checkManifest(m); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4 * a.r.c.Concurrency) // they only wait
	var mu sync.Mutex
	note := func(key, why string) {
		mu.Lock()
		defer mu.Unlock()
		a.gone[key] = why
	}
	for _, b := range m.Blobs {
		g.Go(func() error {
			info, err := a.r.store.Head(ctx, b.Key)
			switch {
			case errors.Is(err, objects.ErrNotFound):
				note(b.Key, "is missing")
			case err != nil:
				return err
			case info.Bytes != b.Stored:
				note(b.Key, fmt.Sprintf("is %d bytes long, want %d", info.Bytes, b.Stored))
			}
			return nil
		})
	}
	for _, p := range m.Packs {
		g.Go(func() error {
			why, err := a.r.lookAtPack(ctx, m.Engine, p)
			if why != "" {
				note(p.Index, why)
			}
			return err
		})
	}
	return g.Wait()
}

// lookAtPack compares the names and sizes in a pack's folder with its index.
func (r *Repository) lookAtPack(ctx context.Context, e backup.Engine, p backup.Pack) (why string, err error) {
	x, err := r.packIndex(ctx, p)
	switch {
	case errors.Is(err, objects.ErrNotFound), errors.Is(err, objects.ErrTooLarge), errors.Is(err, ErrDamaged), errors.Is(err, ErrSwapped):
		return "cannot be used: " + err.Error(), nil
	case err != nil:
		return "", err
	}
	prefix := backup.PackPrefix(e, p.ID)
	there, err := r.store.List(ctx, prefix, "", packObjectsMax)
	if err != nil {
		return "", err
	}
	sizes := make(map[string]int64, len(there))
	for _, o := range there {
		sizes[o.Key] = o.Bytes
	}
	for _, o := range x.Objects {
		switch size, ok := sizes[prefix+o.Name]; {
		case !ok:
			return "names " + prefix + o.Name + ", which is missing", nil
		case size != o.Bytes:
			return fmt.Sprintf("names %s, which is %d bytes long, want %d", prefix+o.Name, size, o.Bytes), nil
		}
	}
	return "", nil
}

// without takes the fingerprints from partitions whose pack is gone.
func (a *Attempt) without(m *backup.Manifest) *backup.Manifest {
	if m.ClickHouse == nil || len(a.gone) == 0 {
		return m
	}
	c := *m
	part := backup.ClickHousePart{Tables: slices.Clone(m.ClickHouse.Tables)}
	for i, t := range part.Tables {
		part.Tables[i].Partitions = slices.Clone(t.Partitions)
		for j, p := range t.Partitions {
			if _, gone := a.gone[m.Packs[p.Pack].Index]; gone {
				part.Tables[i].Partitions[j].Fingerprint = ""
			}
		}
	}
	c.ClickHouse = &part
	return &c
}

// known indexes the pieces of prev that can be reused.
func (a *Attempt) known(prev *backup.Manifest) map[pieceID]int {
	known := map[pieceID]int{}
	if prev == nil {
		return known
	}
	for n, p := range prev.Pieces {
		if _, gone := a.gone[prev.Blobs[p.Blob].Key]; gone {
			continue
		}
		var id pieceID
		if n2, err := hex.Decode(id[:], []byte(p.ID)); err == nil && n2 == len(id) && len(p.ID) == 2*len(id) {
			known[id] = n
		}
	}
	return known
}
