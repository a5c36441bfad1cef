package postgres

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

const (
	filesMax    = 4_000_000
	fileMax     = 1 << 40
	manifestMax = 1 << 30
	// manifestName is where pg_basebackup puts the server's list, and where
	// pg_verifybackup looks for it.
	manifestName = "backup_manifest"
)

// received is what arrived of one base backup.
type received struct {
	files  []backup.PostgresFile
	dirs   []backup.PostgresDir
	places [][]*int // of the pieces of each file, filled by the workers
	list   []byte   // the server's manifest
	bytes  int64
}

// receiver reads archives and hands what is in them to a sink.
type receiver struct {
	received
	pieces   *pieces
	progress func(done int64) // called about once per piece
}

// archive reads one archive to its end.
func (r *receiver) archive(from io.Reader) error {
	in := tar.NewReader(from)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the archive of the base backup: %w", err)
		}
		if len(r.files)+len(r.dirs) >= filesMax {
			return fmt.Errorf("read the archive of the base backup: more than %d files", filesMax)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		if h.Typeflag == tar.TypeDir && (name == "" || name == ".") {
			continue // the data directory itself
		}
		if err := checkName(name); err != nil {
			return fmt.Errorf("read the archive of the base backup: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			r.dirs = append(r.dirs, backup.PostgresDir{Name: name, Mode: uint32(h.Mode & 0o777)})
		case tar.TypeReg:
			if h.Size > fileMax {
				return fmt.Errorf("read the archive of the base backup: %s has %d bytes, more than any file of Postgres", name, h.Size)
			}
			if err := r.file(name, uint32(h.Mode&0o777), h.Size, in); err != nil {
				return err
			}
		default:
			return fmt.Errorf("read the archive of the base backup: %s is a %q and no file or directory; tablespaces and links are not supported yet", name, h.Typeflag)
		}
	}
	// The server may or may not send the empty blocks that end a tar.
	if _, err := io.Copy(io.Discard, from); err != nil {
		return fmt.Errorf("read the archive of the base backup: %w", err)
	}
	return nil
}

// file takes one file: its hash, and its bytes cut at fixed offsets.
func (r *receiver) file(name string, mode uint32, size int64, from io.Reader) error {
	sum := sha256.New()
	var places []*int
	for at := int64(0); at < size; {
		b, err := r.pieces.buffer()
		if err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
		n := int(min(size-at, int64(len(b))))
		if _, err := io.ReadFull(from, b[:n]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %s from the base backup: %w", name, err)
		}
		sum.Write(b[:n])
		place := new(int)
		places = append(places, place)
		r.pieces.put(b, n, place)
		at += int64(n)
		r.bytes += int64(n)
		r.progress(r.bytes)
	}
	digest := backup.Digest(hex.EncodeToString(sum.Sum(nil)))
	r.files = append(r.files, backup.PostgresFile{Name: name, Mode: mode, Bytes: size, SHA256: digest})
	r.places = append(r.places, places)
	return nil
}

// manifest reads the server's list of files. It is kept beside them, so that
// what is restored can also be checked by Postgres' own tool.
func (r *receiver) manifest(from io.Reader) error {
	var err error
	if r.list, err = io.ReadAll(io.LimitReader(from, manifestMax+1)); err != nil {
		return fmt.Errorf("read the server's manifest: %w", err)
	}
	if len(r.list) > manifestMax {
		return fmt.Errorf("read the server's manifest: more than %d bytes", manifestMax)
	}
	return nil
}

// keepManifest puts the server's list among the files.
func (r *receiver) keepManifest() error {
	if slices.ContainsFunc(r.files, func(f backup.PostgresFile) bool { return f.Name == manifestName }) {
		return fmt.Errorf("the base backup holds a file %s of its own", manifestName)
	}
	return r.file(manifestName, 0o600, int64(len(r.list)), strings.NewReader(string(r.list)))
}

// finish waits for the workers and gives each file its pieces.
func (r *receiver) finish() error {
	if err := r.pieces.wait(); err != nil {
		return fmt.Errorf("keep the base backup: %w", err)
	}
	for i, places := range r.places {
		for _, p := range places {
			r.files[i].Pieces = append(r.files[i].Pieces, *p)
		}
	}
	slices.SortFunc(r.dirs, func(a, b backup.PostgresDir) int { return strings.Compare(path.Clean(a.Name), path.Clean(b.Name)) })
	return nil
}
