package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
)

// shelf is a source of pieces in memory.
type shelf struct {
	backup.Source // only Pieces is asked for
	pieces        [][]byte
}

func (s *shelf) Pieces(ctx context.Context, _ *backup.Manifest, pieces []int, each func([]byte) error) error {
	for _, i := range pieces {
		if err := errors.Join(ctx.Err(), each(s.pieces[i])); err != nil {
			return err
		}
	}
	return nil
}

// set makes a manifest of files, cut into pieces of at most three bytes.
func set(files map[string]string, dirs ...string) (*backup.Manifest, *shelf) {
	m := &backup.Manifest{Engine: backup.Postgres, Store: backup.Store{Version: "14.23"}, Postgres: &backup.PostgresPart{}}
	src := &shelf{}
	for name, content := range files {
		sum := sha256.Sum256([]byte(content))
		f := backup.PostgresFile{Name: name, Mode: 0o600, Bytes: int64(len(content)), SHA256: backup.Digest(hex.EncodeToString(sum[:]))}
		for piece := range slices.Chunk([]byte(content), 3) {
			f.Pieces = append(f.Pieces, len(src.pieces))
			src.pieces = append(src.pieces, bytes.Clone(piece))
			m.Pieces = append(m.Pieces, backup.Piece{Size: int64(len(piece))})
		}
		m.Postgres.Files = append(m.Postgres.Files, f)
	}
	slices.SortFunc(m.Postgres.Files, func(a, b backup.PostgresFile) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range dirs {
		m.Postgres.Dirs = append(m.Postgres.Dirs, backup.PostgresDir{Name: d, Mode: 0o700})
	}
	return m, src
}

func target(t *testing.T, dir, run string) *Target {
	t.Helper()
	x, err := New(Config{Directory: dir, Run: run, BinDir: filepath.Join(dir, "bin"), User: "nobody", Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

var tree = map[string]string{"PG_VERSION": "14\n", "base/1/100": "0123456789", "base/1/empty": "", "global/pg_control": "state", "deep/er/x": "x", "standby.signal": ""}

func fill(t *testing.T, x *Target, m *backup.Manifest, src backup.Source) error {
	t.Helper()
	if err := x.make(); err != nil {
		t.Fatal(err)
	}
	return x.fill(t.Context(), m, src, nil)
}

func TestFill_WritesWhatWasTaken(t *testing.T) {
	m, src := set(tree, "base/1", "base", "global", "pg_replslot")
	x := target(t, t.TempDir(), "one")
	if err := fill(t, x, m, src); err != nil {
		t.Fatal(err)
	}
	for name, content := range tree {
		b, err := os.ReadFile(filepath.Join(x.data(), name))
		if name == "standby.signal" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s would make the cluster follow production: %v", name, err)
			}
			continue
		}
		if err != nil || string(b) != content {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, dir := range []string{".", "base", "pg_replslot", "deep/er"} {
		info, err := os.Stat(filepath.Join(x.data(), dir))
		if err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
}

func TestFill_NamesNoFileWhoseBytesAreWrong(t *testing.T) {
	for name, breakIt := range map[string]func(m *backup.Manifest, src *shelf){
		"one bit":     func(m *backup.Manifest, src *shelf) { src.pieces[m.Postgres.Files[1].Pieces[2]][0] ^= 1 },
		"two swapped": func(m *backup.Manifest, _ *shelf) { slices.Reverse(m.Postgres.Files[1].Pieces[:2]) },
		"short":       func(m *backup.Manifest, src *shelf) { src.pieces[m.Postgres.Files[1].Pieces[3]] = nil },
	} {
		t.Run(name, func(t *testing.T) {
			m, src := set(tree, "base", "base/1")
			breakIt(m, src)
			x := target(t, t.TempDir(), "one")
			err := fill(t, x, m, src)
			if err == nil || !strings.Contains(err.Error(), "file base/1/100: its SHA-256 is") {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(filepath.Join(x.data(), "base/1/100")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it has its name: %v", err)
			}
		})
	}
}

// lazy leaves out the last piece and says that all is well.
type lazy struct{ *shelf }

func (s lazy) Pieces(ctx context.Context, m *backup.Manifest, pieces []int, each func([]byte) error) error {
	return s.shelf.Pieces(ctx, m, pieces[:len(pieces)-1], each)
}

func TestFill_DoesNotBelieveASourceThatStopsEarly(t *testing.T) {
	m, src := set(tree)
	if err := fill(t, target(t, t.TempDir(), "one"), m, lazy{src}); err == nil || !strings.Contains(err.Error(), "did not come") {
		t.Errorf("%v", err)
	}
}

func TestFill_EndsWithItsContext(t *testing.T) {
	m, src := set(tree)
	x := target(t, t.TempDir(), "one")
	if err := x.make(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.fill(ctx, m, src, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCheckManifest_RefusesWhatWouldLeaveTheDataDirectory(t *testing.T) {
	for name, change := range map[string]func(m *backup.Manifest){
		"up":         func(m *backup.Manifest) { m.Postgres.Files[0].Name = "../x" },
		"up inside":  func(m *backup.Manifest) { m.Postgres.Files[0].Name = "base/../../x" },
		"absolute":   func(m *backup.Manifest) { m.Postgres.Files[0].Name = "/etc/x" },
		"empty":      func(m *backup.Manifest) { m.Postgres.Files[0].Name = "" },
		"root":       func(m *backup.Manifest) { m.Postgres.Dirs[0].Name = "." },
		"directory":  func(m *backup.Manifest) { m.Postgres.Dirs[0].Name = "../d" },
		"twice":      func(m *backup.Manifest) { m.Postgres.Files[0].Name = m.Postgres.Files[1].Name },
		"both kinds": func(m *backup.Manifest) { m.Postgres.Files[0].Name = m.Postgres.Dirs[0].Name },
		"tablespace": func(m *backup.Manifest) { m.Postgres.Files[0].Name = "pg_tblspc/1/x" },
		"setuid":     func(m *backup.Manifest) { m.Postgres.Files[0].Mode = 0o4755 },
		"no piece":   func(m *backup.Manifest) { m.Postgres.Files[0].Pieces = []int{99} },
		"size":       func(m *backup.Manifest) { m.Postgres.Files[0].Bytes++ },
		"version":    func(m *backup.Manifest) { m.Store.Version = "new" },
		"no part":    func(m *backup.Manifest) { m.Postgres = nil },
		"no files":   func(m *backup.Manifest) { m.Postgres.Files = nil },
		"engine":     func(m *backup.Manifest) { m.Engine = backup.Kafka },
	} {
		m, _ := set(tree, "base")
		if err := checkManifest(m); err != nil {
			t.Fatal(err)
		}
		change(m)
		dir := t.TempDir()
		x := target(t, dir, "one")
		obstacles, err := x.Check(t.Context(), m)
		if err != nil || len(obstacles) != 1 {
			t.Errorf("%s: %v, %v", name, obstacles, err)
		}
		if err := x.Restore(t.Context(), m, &shelf{}, nil); err == nil {
			t.Errorf("%s: restored", name)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: wrote %v, %v", name, left, err)
		}
	}
}
