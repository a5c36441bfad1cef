package exec

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/process"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// done says which hooks of a step succeeded. A record of another boot says
// nothing: what the hooks did, such as stopping a process, may be undone.
type done struct {
	Boot   string   `json:"boot"`
	Kind   string   `json:"kind"`
	Spec   string   `json:"spec"` // digest
	Hooks  []Result `json:"hooks"`
	Region string   `json:"region"`
}

// Result is the evidence of one hook.
type Result struct {
	Role     topology.Role `json:"role"`
	Path     string        `json:"path"`
	ExitCode int           `json:"exit_code"`
	Took     Duration      `json:"took"`
	Attempt  int           `json:"attempt"`
	Output   string        `json:"output"` // its end
	Log      string        `json:"log"`    // file on the node of the region
}

// running is the pid file: what to end before another hook of the role runs.
type running struct {
	process.Family
	Boot    string           `json:"boot"`
	Task    consensus.TaskID `json:"task"`
	Attempt int              `json:"attempt"`
}

var safe = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// stepName names a step, or an undo step, in file names.
func stepName(t agent.Task) (string, error) {
	if !safe.MatchString(string(t.Ref.Plan)) {
		return "", fmt.Errorf("plan id %q cannot be part of a file name", t.Ref.Plan)
	}
	s := fmt.Sprintf("%s-%02d", t.Ref.Plan, t.Ref.Step+1)
	if t.Ref.Undo > 0 {
		s += fmt.Sprintf("-undo%d", t.Ref.Undo)
	}
	return s, nil
}

func (d *Driver) donePath(step string) string { return filepath.Join(d.cfg.Dir, step+".done.json") }

func (d *Driver) pidPath(role topology.Role, kind string) string {
	return filepath.Join(d.cfg.Dir, string(role)+"-"+kind+".pid")
}

func (d *Driver) newDone(t agent.Task) done {
	sum := sha256.Sum256(t.Spec)
	return done{Boot: d.cfg.Boot, Kind: t.Kind, Spec: hex.EncodeToString(sum[:]), Region: string(d.cfg.Region)}
}

// loadDone returns what is known to be done of t; an empty record when nothing is.
func (d *Driver) loadDone(step string, t agent.Task) (done, error) {
	want := d.newDone(t)
	b, err := os.ReadFile(d.donePath(step))
	if errors.Is(err, fs.ErrNotExist) {
		return want, nil
	}
	if err != nil {
		return want, fmt.Errorf("read which hooks succeeded: %w", err)
	}
	var got done
	if json.Unmarshal(b, &got) == nil && got.Boot == want.Boot && got.Kind == want.Kind && got.Spec == want.Spec {
		return got, nil
	}
	return want, nil // torn, or about something else: hooks are idempotent
}

func (d *Driver) write(path string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = writeSynced(path, b)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w (is the disk full?)", path, err)
	}
	return nil
}

// writeSynced replaces path in one step that survives a power cut.
func writeSynced(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = cmp.Or(err, f.Sync())
	err = cmp.Or(f.Close(), err)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Recover ends what a former life of the daemon left running. Call it before
// the agent starts: nobody watches the timeouts of such hooks any more.
func (d *Driver) Recover(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(d.cfg.Dir, "*.pid"))
	if err != nil {
		return fmt.Errorf("look for hooks left running: %w", err)
	}
	return d.endAll(ctx, files)
}

// endLeft ends what is left of any hook of a role, of whichever kind: a stop
// that goes on would stop what an undo starts.
func (d *Driver) endLeft(ctx context.Context, role topology.Role) error {
	var files []string
	for _, kind := range Kinds {
		files = append(files, d.pidPath(role, kind))
	}
	return d.endAll(ctx, files)
}

func (d *Driver) endAll(ctx context.Context, files []string) error {
	var errs []error
	for _, path := range files {
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		errs = append(errs, d.endOne(path))
	}
	return errors.Join(errs...)
}

func (d *Driver) endOne(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a hook left running: %w", err)
	}
	var r running
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("read %s: %w: it says which hook is running; make sure that none is, and remove it", path, err)
	}
	if r.Boot == d.cfg.Boot { // else the machine booted since, and nothing is left
		n, err := r.End(d.cfg.Grace)
		if err != nil {
			return fmt.Errorf("end the hook that an earlier attempt (%s, attempt %d) left running: %w: end it by hand, then retry", r.Task, r.Attempt, err)
		}
		if n > 0 {
			d.cfg.Log.Warn("ended a hook that an earlier attempt left running", "task", string(r.Task), "attempt", r.Attempt, "processes", n)
		}
	}
	return d.forget(path)
}

// forget removes a pid file, whose family has ended.
func (d *Driver) forget(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a pid file: %w", err)
	}
	return nil
}

const filesKept = 256

// prune removes the oldest logs and records beyond filesKept. It is house
// keeping: what cannot be removed is left for the next time.
func (d *Driver) prune() {
	entries, err := os.ReadDir(d.cfg.Dir)
	if err != nil {
		return
	}
	var old []fs.FileInfo
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log") && !strings.HasSuffix(e.Name(), ".done.json") {
			continue
		}
		if info, err := e.Info(); err == nil {
			old = append(old, info)
		}
	}
	slices.SortFunc(old, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range old[:max(0, len(old)-filesKept)] {
		_ = os.Remove(filepath.Join(d.cfg.Dir, info.Name()))
	}
}
