package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/objects"
)

// Dir keeps objects as files below a directory, for the owner only. It is
// where salvages go in a region without a bucket. What Put has returned from
// is on the disk.
type Dir string

var _ Store = Dir("")

func (d Dir) path(key string) (string, error) {
	if !filepath.IsLocal(key) {
		return "", fmt.Errorf("%s: %q cannot be the name of a file", d, key)
	}
	return filepath.Join(string(d), key), nil
}

// String is the directory as a person writes it.
func (d Dir) String() string { return string(d) }

// Put implements Store: the file appears whole or not at all.
func (d Dir) Put(_ context.Context, key string, body []byte, o objects.PutOptions) (err error) {
	path, err := d.path(key)
	if err != nil {
		return err
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(folder, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already once it has its name
	_, err = f.Write(body)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if o.IfAbsent {
		err = os.Link(f.Name(), path)
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("put %s: %w", path, objects.ErrExists)
		}
	} else {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	for at := folder; ; at = filepath.Dir(at) { // each folder may be new
		if err := syncFolder(at); err != nil {
			return err
		}
		if at == filepath.Clean(string(d)) || at == filepath.Dir(at) {
			return syncFolder(filepath.Dir(at))
		}
	}
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get implements Store.
func (d Dir) Get(ctx context.Context, key string, max int64) ([]byte, error) {
	r, info, err := d.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if info.Bytes > max {
		return nil, fmt.Errorf("get %s of %s: %w: %d bytes, want at most %d", key, d, objects.ErrTooLarge, info.Bytes, max)
	}
	return io.ReadAll(io.LimitReader(r, max))
}

// Open implements Store.
func (d Dir) Open(_ context.Context, key string) (io.ReadCloser, objects.Info, error) {
	path, err := d.path(key)
	if err != nil {
		return nil, objects.Info{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, objects.Info{}, missing(err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, objects.Info{}, err
	}
	return f, objects.Info{Bytes: info.Size(), Modified: info.ModTime()}, nil
}

// Head implements Store.
func (d Dir) Head(_ context.Context, key string) (objects.Info, error) {
	path, err := d.path(key)
	if err != nil {
		return objects.Info{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return objects.Info{}, missing(err)
	}
	return objects.Info{Bytes: info.Size(), Modified: info.ModTime()}, nil
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", objects.ErrNotFound, err)
	}
	return err
}

// List implements Store. A directory that nobody has made holds nothing.
func (d Dir) List(_ context.Context, prefix, after string, max int) ([]objects.Object, error) {
	var out []objects.Object
	err := filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == string(d) {
			return filepath.SkipAll
		}
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".new-") {
			return err
		}
		rel, err := filepath.Rel(string(d), path)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(rel)
		if !strings.HasPrefix(key, prefix) || key <= after {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if out = append(out, objects.Object{Key: key, Bytes: info.Size(), Modified: info.ModTime()}); len(out) > max {
			return fmt.Errorf("%w: more than %d files", objects.ErrTooLarge, max)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", prefix, d, err)
	}
	return out, nil
}

// Now implements Store.
func (d Dir) Now(context.Context) (time.Time, error) { return time.Now(), nil }

// Probe implements Store: a link is made once.
func (d Dir) Probe(context.Context) (objects.Dialect, error) {
	return objects.Dialect{ConditionalPut: true}, nil
}
