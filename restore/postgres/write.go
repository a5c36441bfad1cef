package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
)

const (
	writers    = 2
	batchBytes = 128 << 20
	batchFiles = 1000
	partSuffix = ".holdfast-part"
)

// signals are files that would make the restored cluster follow another
// server, or wait for an archive. They are not written.
var signals = []string{"standby.signal", "recovery.signal"}

// Restore makes the place and fills it. A place that an earlier call for the
// same run left is taken away first.
func (t *Target) Restore(ctx context.Context, m *backup.Manifest, src backup.Source, progress func(backup.Progress)) error {
	if err := checkManifest(m); err != nil {
		return fmt.Errorf("restore postgres to %s: %w", t.place, err)
	}
	if t.ours() {
		if err := t.Remove(ctx); err != nil {
			return err
		}
	}
	if err := t.make(); err != nil {
		return err
	}
	if err := t.fill(ctx, m, src, progress); err != nil {
		return fmt.Errorf("restore postgres to %s: %w", t.place, err)
	}
	return t.Start(ctx, m)
}

// fill writes the data directory. No name below it is followed out of it.
func (t *Target) fill(ctx context.Context, m *backup.Manifest, src backup.Source, progress func(backup.Progress)) error {
	as, err := t.credential()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(t.data())
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only read from
	w := &writer{root: root, as: as, durable: t.conf.Durable, m: m, src: src, tell: progress}
	if err := w.dirs(); err != nil {
		return err
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, batch := range batches(m.Postgres.Files) {
		if inner.Err() != nil {
			break
		}
		group.Go(func() error { return w.batch(inner, batch) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.conf.Durable {
		return w.syncDirs()
	}
	return nil
}

// batches cuts the files, in their order, into runs that are read in one go.
func batches(files []backup.PostgresFile) [][]backup.PostgresFile {
	var all [][]backup.PostgresFile
	start, size := 0, int64(0)
	for i, f := range files {
		if i > start && (size+f.Bytes > batchBytes || i-start >= batchFiles) {
			all = append(all, files[start:i])
			start, size = i, 0
		}
		size += f.Bytes
	}
	return append(all, files[start:])
}

// writer writes files below one root.
type writer struct {
	root    *os.Root
	as      *syscall.Credential
	durable bool
	m       *backup.Manifest
	src     backup.Source

	mu    sync.Mutex
	tell  func(backup.Progress)
	done  int64
	total int64
}

func (w *writer) dirs() error {
	for _, f := range w.m.Postgres.Files {
		w.total += f.Bytes
	}
	dirs := slices.Clone(w.m.Postgres.Dirs)
	slices.SortFunc(dirs, func(a, b backup.PostgresDir) int { // parents first
		return len(a.Name) - len(b.Name)
	})
	for _, d := range dirs {
		if err := w.dir(d.Name, fs.FileMode(d.Mode)); err != nil {
			return err
		}
	}
	for _, f := range w.m.Postgres.Files { // those that the archive did not name
		for missing := []string{}; ; {
			dir := path.Dir(f.Name)
			if len(missing) > 0 {
				dir = path.Dir(missing[len(missing)-1])
			}
			if _, err := w.root.Lstat(dir); err == nil {
				slices.Reverse(missing)
				for _, d := range missing {
					if err := w.dir(d, 0o700); err != nil {
						return err
					}
				}
				break
			}
			missing = append(missing, dir)
		}
	}
	return nil
}

func (w *writer) dir(name string, mode fs.FileMode) error {
	if err := w.root.Mkdir(name, mode|0o700); err != nil {
		return fmt.Errorf("directory %s: %w", name, err)
	}
	if w.as != nil {
		return w.root.Chown(name, int(w.as.Uid), int(w.as.Gid))
	}
	return nil
}

// batch reads the pieces of some files and writes one file after the other.
func (w *writer) batch(ctx context.Context, files []backup.PostgresFile) error {
	var pieces []int
	for _, f := range files {
		pieces = append(pieces, f.Pieces...)
	}
	var open *file
	defer func() {
		if open != nil {
			_ = open.f.Close()
		}
	}()
	next := 0
	// advance finishes files that are complete and opens the next one.
	advance := func() error {
		for {
			if open != nil {
				if open.left > 0 {
					return nil
				}
				if err := w.finish(open); err != nil {
					return err
				}
				open = nil
			}
			if next == len(files) {
				return nil
			}
			var err error
			if open, err = w.open(files[next]); err != nil {
				return err
			}
			next++
		}
	}
	if err := advance(); err != nil {
		return err
	}
	err := w.src.Pieces(ctx, w.m, pieces, func(data []byte) error {
		if open == nil {
			return errors.New("more pieces came than were asked for")
		}
		if err := open.write(data); err != nil {
			return err
		}
		w.progress(int64(len(data)))
		return advance()
	})
	if err != nil {
		if open != nil {
			return fmt.Errorf("file %s: %w", open.want.Name, err)
		}
		return err
	}
	if open != nil || next != len(files) {
		return fmt.Errorf("file %s: %d of its pieces did not come", open.want.Name, open.left)
	}
	return nil
}

func (w *writer) progress(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += n
	if w.tell != nil {
		w.tell(backup.Progress{Stage: "postgres: write files", Done: w.done, Total: w.total, Unit: "bytes"})
	}
}

// file is one that is being written, under a name that Postgres ignores.
type file struct {
	want backup.PostgresFile
	f    *os.File
	sum  hash.Hash
	left int // pieces to come
}

func (w *writer) open(want backup.PostgresFile) (*file, error) {
	f, err := w.root.OpenFile(want.Name+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", want.Name, err)
	}
	return &file{want, f, sha256.New(), len(want.Pieces)}, nil
}

func (f *file) write(data []byte) error {
	f.left--
	f.sum.Write(data)
	_, err := f.f.Write(data)
	return err
}

// finish proves a file and gives it its name.
func (w *writer) finish(f *file) error {
	fail := func(err error) error { return fmt.Errorf("file %s: %w", f.want.Name, err) }
	if got := backup.Digest(hex.EncodeToString(f.sum.Sum(nil))); got != f.want.SHA256 {
		return fmt.Errorf("its SHA-256 is %s, the manifest says %s", got, f.want.SHA256)
	}
	if slices.Contains(signals, f.want.Name) {
		if err := errors.Join(f.f.Close(), w.root.Remove(f.want.Name+partSuffix)); err != nil {
			return fail(err)
		}
		return nil
	}
	err := f.f.Chmod(fs.FileMode(f.want.Mode) | 0o600)
	if err == nil && w.as != nil {
		err = f.f.Chown(int(w.as.Uid), int(w.as.Gid))
	}
	if err == nil && w.durable {
		err = f.f.Sync()
	}
	if err = errors.Join(err, f.f.Close()); err != nil {
		return fail(err)
	}
	if err := w.root.Rename(f.want.Name+partSuffix, f.want.Name); err != nil {
		return fail(err)
	}
	return nil
}

// syncDirs makes the names durable.
func (w *writer) syncDirs() error {
	return fs.WalkDir(w.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		dir, err := w.root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(dir.Sync(), dir.Close())
	})
}
