package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	placePrefix = "holdfast-"
	marker      = "holdfast-scratch"  // may be removed by Remove and by a sweep
	kept        = "holdfast-restored" // was kept on request: never removed by us
)

func validRun(run string) bool {
	if run == "" || len(run) > 64 {
		return false
	}
	for _, r := range run {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}

// markedBy reads whose scratch a folder is; "" when it is nobody's.
func markedBy(place string) string {
	info, err := os.Lstat(place)
	if err != nil || !info.IsDir() {
		return ""
	}
	file := filepath.Join(place, marker)
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() > 1024 {
		return ""
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// ours reports whether the place was made by this run.
func (t *Target) ours() bool { return markedBy(t.place) == t.conf.Run }

// make creates the folder and marks it before anything else is in it.
func (t *Target) make() error {
	as, err := t.credential()
	if err != nil {
		return fmt.Errorf("restore postgres: %w", err)
	}
	if err := os.Mkdir(t.place, 0o700); err != nil {
		return fmt.Errorf("restore postgres: make the place: %w (is its parent there and writable, and nothing in its way?)", err)
	}
	if err := os.WriteFile(filepath.Join(t.place, marker), []byte(t.conf.Run+"\n"), 0o600); err != nil {
		return fmt.Errorf("restore postgres: mark the place: %w", err)
	}
	for _, dir := range []string{t.data(), t.socket()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("restore postgres: make the place: %w", err)
		}
	}
	if as != nil {
		for _, path := range []string{t.place, t.data(), t.socket()} {
			if err := os.Chown(path, int(as.Uid), int(as.Gid)); err != nil {
				return fmt.Errorf("restore postgres: give the place to %s: %w", t.conf.User, err)
			}
		}
	}
	return nil
}

// Remove ends the server and deletes the folder. A folder without this run's
// mark is refused; one that is gone is fine.
func (t *Target) Remove(ctx context.Context) error {
	if _, err := os.Lstat(t.place); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !t.ours() {
		// Made, and not yet marked, by a process that died in between: a
		// folder that holds nothing can go.
		if err := os.Remove(t.place); err == nil {
			return nil
		}
		return fmt.Errorf("remove %s: it holds no mark of run %s, so it is not ours to remove", t.place, t.conf.Run)
	}
	if err := t.Stop(ctx); err != nil {
		return fmt.Errorf("remove %s: %w", t.place, err)
	}
	entries, err := os.ReadDir(t.place)
	if err != nil {
		return fmt.Errorf("remove %s: %w", t.place, err)
	}
	for _, e := range entries {
		if e.Name() == marker {
			continue // last, so that half a folder is still known as ours
		}
		if err := os.RemoveAll(filepath.Join(t.place, e.Name())); err != nil {
			return fmt.Errorf("remove %s: %w", t.place, err)
		}
	}
	if err := os.RemoveAll(t.place); err != nil {
		return fmt.Errorf("remove %s: %w", t.place, err)
	}
	return nil
}

// Keep ends the server and takes the mark away: from now on the folder is the
// operator's, and neither Remove nor a sweep deletes it.
func (t *Target) Keep(ctx context.Context) error {
	if !t.ours() {
		return fmt.Errorf("keep %s: it holds no mark of run %s", t.place, t.conf.Run)
	}
	if err := t.Stop(ctx); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(t.place, marker), filepath.Join(t.place, kept)); err != nil {
		return fmt.Errorf("keep %s: %w", t.place, err)
	}
	return nil
}

// Leftovers lists the runs whose scratch folders are in a directory, for a
// sweep after a crash. What was kept is not among them.
func Leftovers(directory string) ([]string, error) {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for scratch clusters: %w", err)
	}
	var runs []string
	for _, e := range entries {
		run, ok := strings.CutPrefix(e.Name(), placePrefix)
		if ok && validRun(run) && markedBy(filepath.Join(directory, e.Name())) == run {
			runs = append(runs, run)
		}
	}
	return runs, nil
}
