package repository

import (
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// decodeManifest reads a manifest and checks that its parts fit together, so
// that whoever holds one may use its indexes without looking.
func decodeManifest(body []byte) (backup.Manifest, error) {
	var m backup.Manifest
	if err := decode(body, &m); err != nil {
		return m, err
	}
	return m, checkManifest(&m)
}

func checkManifest(m *backup.Manifest) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
	}
	for n, b := range m.Blobs {
		if !isDigest(b.SHA256) || !strings.HasPrefix(b.Key, backup.BlobKey(b.SHA256, "")) {
			return bad("the name of blob %d does not fit its hash", n)
		}
		if b.Size <= 0 || b.Size > blobBytesMax || b.Stored <= 0 || b.Stored > blobBytesMax {
			return bad("blob %s has an impossible size", b.Key)
		}
	}
	for n, p := range m.Pieces {
		if p.Blob < 0 || p.Blob >= len(m.Blobs) || p.At < 0 || p.Size <= 0 || p.Size > backup.PieceBytesMax || p.At > m.Blobs[p.Blob].Size-p.Size {
			return bad("piece %d lies outside of its blob", n)
		}
	}
	for _, p := range m.Packs {
		if p.ID == "" || strings.Contains(p.ID, "/") || p.Index != backup.PackIndexKey(m.Engine, p.ID) || !isDigest(p.SHA256) || p.Objects < 0 || p.Bytes < 0 {
			return bad("pack %q does not make sense", p.ID)
		}
	}
	if m.Postgres != nil {
		for _, f := range m.Postgres.Files {
			for _, p := range f.Pieces {
				if p < 0 || p >= len(m.Pieces) {
					return bad("file %s names piece %d of %d", f.Name, p, len(m.Pieces))
				}
			}
		}
	}
	if m.ClickHouse != nil {
		for _, t := range m.ClickHouse.Tables {
			for _, p := range t.Partitions {
				if p.Pack < 0 || p.Pack >= len(m.Packs) {
					return bad("partition %s of %s.%s names pack %d of %d", p.ID, t.Database, t.Name, p.Pack, len(m.Packs))
				}
			}
		}
	}
	return nil
}

// decodeIndex reads the index of a pack.
func decodeIndex(body []byte) (backup.PackIndex, error) {
	var x backup.PackIndex
	if err := decode(body, &x); err != nil {
		return x, err
	}
	for n, o := range x.Objects {
		if !goodName(o.Name) || o.Bytes < 0 || !isDigest(o.SHA256) || (n > 0 && x.Objects[n-1].Name >= o.Name) {
			return x, fmt.Errorf("%w: object %d of pack %s does not make sense", ErrDamaged, n, x.Pack)
		}
	}
	return x, nil
}

// goodName says whether a name stays below the folder that it is joined to.
func goodName(name string) bool {
	if name == "" {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func isDigest(d backup.Digest) bool {
	if len(d) != 64 {
		return false
	}
	for _, c := range []byte(d) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
