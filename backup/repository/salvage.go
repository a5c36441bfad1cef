package repository

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	domainSalvage   = "salvage"
	salvageBytesMax = 64 << 20 // of a seal
	salvagesMax     = 100_000
)

// Salvaging is one salvage under way. It is no Attempt at a set: nothing is
// reused, nothing has to be read to write it, and a store without a recipient
// takes it in plain, so that records are saved where nobody configured backups.
type Salvaging struct {
	r *Repository
	s backup.Salvage
}

// Salvage begins a salvage. Link, epoch, node and version come with s.
func (r *Repository) Salvage(s backup.Salvage) (*Salvaging, error) {
	if r.c.Sign == nil {
		return nil, fmt.Errorf("salvage into %s: a certificate to sign with is needed", r.Name())
	}
	s.Format, s.Cluster, s.Region, s.ID = backup.Format, r.c.Cluster, r.c.Region, r.unique()
	if !goodName(strings.TrimSuffix(strings.TrimPrefix(backup.SalvageFolder(s.Link, s.Epoch), backup.SalvagePrefix), "/")) {
		return nil, fmt.Errorf("salvage into %s: %q cannot be the name of a link", r.Name(), s.Link)
	}
	return &Salvaging{r, s}, nil
}

// Put stores a run of batches, at most 32 MiB, and reads it back.
func (v *Salvaging) Put(ctx context.Context, batches []byte) (backup.SalvagedBlob, error) {
	b, err := v.put(ctx, batches)
	if err != nil {
		return b, fmt.Errorf("store orphans in %s: %w", v.r.Name(), err)
	}
	return b, nil
}

func (v *Salvaging) put(ctx context.Context, text []byte) (backup.SalvagedBlob, error) {
	if len(text) == 0 || len(text) > blobBytesMax/2 {
		return backup.SalvagedBlob{}, fmt.Errorf("%d bytes at once: want 1 to %d", len(text), blobBytesMax/2)
	}
	packed := v.r.zip.EncodeAll(text, nil)
	stored := bytes.NewBuffer(make([]byte, 0, len(packed)+len(packed)/1024+512))
	if v.r.recipient == nil {
		stored.Write(packed)
	} else {
		w, err := age.Encrypt(stored, v.r.recipient)
		if err == nil {
			if _, err = w.Write(packed); err == nil {
				err = w.Close()
			}
		}
		if err != nil {
			return backup.SalvagedBlob{}, fmt.Errorf("encrypt: %w", err)
		}
	}
	sum := digest(stored.Bytes())
	key := backup.SalvagedBlobKey(v.s.Link, v.s.Epoch, v.s.ID, sum, v.r.unique())
	b := backup.SalvagedBlob{Blob: backup.Blob{Key: key, SHA256: sum, Stored: int64(stored.Len()), Size: int64(len(text))}, Plain: v.r.recipient == nil}
	return b, v.r.putAndReadBack(ctx, key, stored.Bytes())
}

// Seal makes the salvage exist. Every object is read once more before, and the
// seal is read back. It returns the seal and its digest as stored.
func (v *Salvaging) Seal(ctx context.Context, parts []backup.SalvagePart) (backup.Salvage, backup.Digest, error) {
	r, s := v.r, v.s
	s.Parts, s.Sealed = parts, r.c.Now().UTC()
	fail := func(err error) (backup.Salvage, backup.Digest, error) {
		return s, "", fmt.Errorf("seal salvage %s in %s: %w", s.ID, r.Name(), err)
	}
	body, err := r.sign(domainSalvage, s)
	if err != nil {
		return fail(err)
	}
	key := backup.SalvageKey(s.Link, s.Epoch, s.ID)
	if len(body) > salvageBytesMax {
		return fail(fmt.Errorf("it has %d bytes, at most %d can be read back", len(body), salvageBytesMax))
	}
	if _, err := r.openSalvage(key, body); err != nil {
		return fail(fmt.Errorf("our own seal would be refused: %w", err))
	}
	for _, p := range parts {
		for _, b := range p.Blobs {
			if err := r.whole(ctx, b); err != nil {
				return fail(err)
			}
		}
	}
	if err := r.putAndReadBack(ctx, key, body); err != nil {
		return fail(err)
	}
	return s, digest(body), nil
}

// whole reads the stored bytes of a blob and compares them.
func (r *Repository) whole(ctx context.Context, b backup.SalvagedBlob) error {
	if b.Stored <= 0 || b.Stored > blobBytesMax || b.Size <= 0 || b.Size > blobBytesMax {
		return fmt.Errorf("%s: %w: it cannot have %d bytes", b.Key, ErrDamaged, max(b.Stored, b.Size))
	}
	body, err := r.store.Get(ctx, b.Key, b.Stored)
	if err == nil {
		err = compare(body, b.Stored, b.SHA256)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.Key, lost(err))
	}
	return nil
}

// Salvages lists the seals of all salvages, oldest first: their keys.
func (r *Repository) Salvages(ctx context.Context) ([]string, error) {
	found, err := r.store.List(ctx, backup.SalvagePrefix, "", salvagesMax)
	if err != nil {
		return nil, fmt.Errorf("list the salvages in %s: %w", r.Name(), err)
	}
	var keys []string
	for _, o := range found {
		if strings.HasSuffix(o.Key, ".json") && strings.Count(o.Key, "/") == 2 {
			keys = append(keys, o.Key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		return strings.Compare(a[strings.LastIndex(a, "/"):], b[strings.LastIndex(b, "/"):])
	})
	return keys, nil
}

// ReadSalvage reads the seal of a salvage and verifies it.
func (r *Repository) ReadSalvage(ctx context.Context, key string) (backup.Salvage, backup.Digest, error) {
	body, err := r.store.Get(ctx, key, salvageBytesMax)
	if err != nil {
		return backup.Salvage{}, "", fmt.Errorf("salvage %s in %s: %w", key, r.Name(), err)
	}
	s, err := r.openSalvage(key, body)
	if err != nil {
		return s, "", fmt.Errorf("salvage %s in %s: %w", key, r.Name(), err)
	}
	return s, digest(body), nil
}

func (r *Repository) openSalvage(key string, body []byte) (backup.Salvage, error) {
	var s backup.Salvage
	if err := r.openEnvelope(domainSalvage, body, &s, func() (time.Time, topology.Node) { return s.Sealed, s.Node }); err != nil {
		return backup.Salvage{}, err
	}
	if s.Cluster != r.c.Cluster || s.Region != r.c.Region || backup.SalvageKey(s.Link, s.Epoch, s.ID) != key {
		return backup.Salvage{}, fmt.Errorf("%w: it is salvage %s of %s, region %s", ErrSwapped, s.ID, s.Cluster, s.Region)
	}
	return s, nil
}

// Salvaged reads the batches of a blob, and compares them before it decrypts a byte.
func (r *Repository) Salvaged(ctx context.Context, b backup.SalvagedBlob) ([]byte, error) {
	if err := r.whole(ctx, b); err != nil {
		return nil, err
	}
	if !b.Plain {
		identities, err := r.identities()
		if err != nil {
			return nil, err
		}
		return r.blob(ctx, b.Blob, identities)
	}
	stored, err := r.store.Get(ctx, b.Key, b.Stored)
	if err != nil {
		return nil, lost(err)
	}
	if err := compare(stored, b.Stored, b.SHA256); err != nil {
		return nil, err
	}
	text, err := r.unzip.DecodeAll(stored, make([]byte, 0, b.Size))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: decompress: %w", b.Key, ErrDamaged, err)
	}
	if int64(len(text)) != b.Size {
		return nil, fmt.Errorf("%s: %w: its plain text is %d bytes long, want %d", b.Key, ErrDamaged, len(text), b.Size)
	}
	return text, nil
}
