package restore

import (
	"context"
	"fmt"

	"github.com/holdfast-dr/holdfast/backup"
)

// Loaded is a set whose seal and manifests were read and verified.
type Loaded struct {
	Seal      backup.Seal
	Digest    backup.Digest // of the seal
	Manifests map[backup.Engine]*backup.Manifest
}

// Load reads the seal of a set and all its manifests, and checks that they
// belong together. expect is the digest that was recorded when the set was
// sealed; empty: it is not known, and the signature alone has to do.
func Load(ctx context.Context, v Vault, set backup.SetID, expect backup.Digest) (Loaded, error) {
	seal, digest, err := v.Seal(ctx, set)
	if err != nil {
		return Loaded{}, fmt.Errorf("read the seal of set %s: %w", set, err)
	}
	if expect != "" && digest != expect {
		return Loaded{}, &WrongSealError{Set: set, Want: expect, Got: digest}
	}
	if err := checkSeal(seal, set); err != nil {
		return Loaded{}, err
	}
	l := Loaded{Seal: seal, Digest: digest, Manifests: make(map[backup.Engine]*backup.Manifest, len(seal.Parts))}
	for _, p := range seal.Parts {
		m, err := v.Manifest(ctx, set, p)
		if err != nil {
			return Loaded{}, fmt.Errorf("read the manifest of %s of set %s: %w", p.Engine, set, err)
		}
		if err := checkManifest(&m, seal, p); err != nil {
			return Loaded{}, fmt.Errorf("manifest %s: %w", p.Manifest, err)
		}
		l.Manifests[p.Engine] = &m
	}
	return l, nil
}

// Engines lists the parts of the set in the order in which they were taken.
func (l Loaded) Engines() []backup.Engine {
	out := make([]backup.Engine, 0, len(l.Seal.Parts))
	for _, p := range l.Seal.Parts {
		out = append(out, p.Engine)
	}
	return out
}

func checkSeal(s backup.Seal, set backup.SetID) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrDamaged, backup.SealKey(set), fmt.Sprintf(format, args...))
	}
	switch {
	case s.Format < 1:
		return bad("format %d is none", s.Format)
	case s.Format > backup.Format:
		return fmt.Errorf("%s has format %d, this holdfast reads up to %d: use a newer one", backup.SealKey(set), s.Format, backup.Format)
	case s.Set != set:
		return bad("is the seal of set %s", s.Set)
	case len(s.Parts) == 0:
		return bad("has no parts")
	}
	seen := map[backup.Engine]bool{}
	for _, p := range s.Parts {
		if seen[p.Engine] {
			return bad("has two parts of %s", p.Engine)
		}
		seen[p.Engine] = true
	}
	return nil
}

// checkManifest looks for what a signature does not see: a manifest that is
// genuine and belongs to another set, and references that lead nowhere.
func checkManifest(m *backup.Manifest, s backup.Seal, p backup.Part) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
	}
	switch {
	case m.Format < 1:
		return bad("format %d is none", m.Format)
	case m.Format > backup.Format:
		return fmt.Errorf("it has format %d, this holdfast reads up to %d: use a newer one", m.Format, backup.Format)
	case m.Engine != p.Engine:
		return bad("is of %s, the seal says %s", m.Engine, p.Engine)
	case m.Set != s.Set || m.Attempt != s.Attempt:
		return bad("is of set %s, attempt %s; the seal is of set %s, attempt %s", m.Set, m.Attempt, s.Set, s.Attempt)
	case m.Cluster != s.Cluster || m.Region != s.Region:
		return bad("is of %s in cluster %s; the seal is of %s in cluster %s", m.Region, m.Cluster, s.Region, s.Cluster)
	case m.Totals.Rows != p.Totals.Rows:
		return bad("counts %d rows, the seal says %d", m.Totals.Rows, p.Totals.Rows)
	}
	for i, pc := range m.Pieces {
		if pc.Blob < 0 || pc.Blob >= len(m.Blobs) {
			return bad("piece %d lies in blob %d of %d", i, pc.Blob, len(m.Blobs))
		}
		if b := m.Blobs[pc.Blob]; pc.At < 0 || pc.Size < 1 || pc.Size > b.Size || pc.At > b.Size-pc.Size {
			return bad("piece %d lies outside its blob %s", i, b.Key)
		}
	}
	switch p.Engine {
	case backup.Kafka:
		if m.Kafka == nil {
			return bad("holds no offsets")
		}
	case backup.ClickHouse:
		if m.ClickHouse == nil {
			return bad("holds no tables")
		}
		for _, t := range m.ClickHouse.Tables {
			for _, part := range t.Partitions {
				if part.Pack < 0 || part.Pack >= len(m.Packs) {
					return bad("%s.%s, partition %s lies in pack %d of %d", t.Database, t.Name, part.ID, part.Pack, len(m.Packs))
				}
			}
		}
	case backup.Postgres:
		if m.Postgres == nil {
			return bad("holds no files")
		}
		return checkFiles(m, bad)
	default:
		return fmt.Errorf("%s is not an engine this holdfast knows: use a newer one", p.Engine)
	}
	return nil
}

// checkFiles looks whether the pieces of each file add up to it.
func checkFiles(m *backup.Manifest, bad func(string, ...any) error) error {
	for _, f := range m.Postgres.Files {
		var bytes int64
		for _, i := range f.Pieces {
			if i < 0 || i >= len(m.Pieces) {
				return bad("%s needs piece %d of %d", f.Name, i, len(m.Pieces))
			}
			bytes += m.Pieces[i].Size
		}
		if bytes != f.Bytes {
			return bad("the pieces of %s are %d bytes, the file is %d", f.Name, bytes, f.Bytes)
		}
	}
	return nil
}
