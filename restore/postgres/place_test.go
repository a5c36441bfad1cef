package postgres

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRemove_TakesOnlyWhatTheSameRunMade(t *testing.T) {
	dir := t.TempDir()
	x := target(t, dir, "one")
	if err := x.Remove(t.Context()); err != nil {
		t.Fatalf("nothing there: %v", err)
	}
	stranger := filepath.Join(x.place, "precious")
	if err := errors.Join(os.Mkdir(x.place, 0o700), os.WriteFile(stranger, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := x.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "not ours to remove") {
		t.Errorf("without a mark: %v", err)
	}
	if err := os.WriteFile(filepath.Join(x.place, marker), []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, src := set(tree)
	if err := x.Remove(t.Context()); err == nil {
		t.Error("another run's place was removed")
	}
	if err := x.Restore(t.Context(), m, src, nil); err == nil || !strings.Contains(err.Error(), "file exists") {
		t.Errorf("restored over another run's place: %v", err)
	}
	if _, err := os.Stat(stranger); err != nil {
		t.Fatalf("it is gone: %v", err)
	}
	// A link in its place leads elsewhere: refused, and not followed.
	if err := errors.Join(os.Rename(x.place, filepath.Join(dir, "elsewhere")), os.WriteFile(filepath.Join(dir, "elsewhere", marker), []byte("one\n"), 0o600),
		os.Symlink(filepath.Join(dir, "elsewhere"), x.place)); err != nil {
		t.Fatal(err)
	}
	_ = x.Remove(t.Context())
	if _, err := os.Stat(filepath.Join(dir, "elsewhere", "precious")); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestRemove_IsRepeatableAtEveryStage(t *testing.T) {
	dir := t.TempDir()
	for name, stage := range map[string]func(x *Target) error{
		"only the folder": func(x *Target) error { return os.Mkdir(x.place, 0o700) },
		"half removed": func(x *Target) error {
			return errors.Join(x.make(), os.RemoveAll(x.data()))
		},
		"half written": func(x *Target) error {
			return errors.Join(x.make(), os.WriteFile(filepath.Join(x.data(), "a"+partSuffix), nil, 0o600))
		},
	} {
		x := target(t, dir, "one")
		if err := stage(x); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(x.Remove(t.Context()), x.Remove(t.Context())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(x.place); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLeftovers_ListsScratchAndNotWhatWasKept(t *testing.T) {
	dir := t.TempDir()
	if runs, err := Leftovers(filepath.Join(dir, "nowhere")); err != nil || len(runs) > 0 {
		t.Errorf("%v, %v", runs, err)
	}
	a, b := target(t, dir, "a"), target(t, dir, "b")
	if err := errors.Join(a.make(), b.make(), b.Keep(t.Context()), os.Mkdir(filepath.Join(dir, placePrefix+"c"), 0o700),
		os.WriteFile(filepath.Join(dir, placePrefix+"d"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if runs, err := Leftovers(dir); err != nil || !slices.Equal(runs, []string{"a"}) {
		t.Errorf("%v, %v", runs, err)
	}
	if err := b.Remove(t.Context()); err == nil {
		t.Error("what was kept can be removed")
	}
	if err := b.Keep(t.Context()); err == nil {
		t.Error("kept twice")
	}
}

func TestNew_RefusesARunThatIsNoName(t *testing.T) {
	for _, run := range []string{"", "../x", "a/b", "a b", strings.Repeat("x", 65)} {
		if _, err := New(Config{Directory: "/d", BinDir: "/b", Run: run}); err == nil {
			t.Errorf("%q", run)
		}
	}
	if _, err := New(Config{Directory: "d", BinDir: "/b", Run: "x"}); err == nil {
		t.Error("a relative directory")
	}
}

func TestCheck_NamesWhatIsInTheWayAndChangesNothing(t *testing.T) {
	m, _ := set(tree, "base")
	bin := func(t *testing.T, says string) string {
		dir := t.TempDir()
		for d := dir; d != filepath.Dir(d) && strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) { // for the user that the server runs as
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, c *Config)
		want   []string
	}{
		"nothing":     {func(*testing.T, *Config) {}, nil},
		"other major": {func(t *testing.T, c *Config) { c.BinDir = bin(t, "postgres (PostgreSQL) 17.10") }, []string{"holds postgres 17.10, the set was taken from 14.23"}},
		"no programs": {func(t *testing.T, c *Config) { c.BinDir = t.TempDir() }, []string{"no such file"}},
		"no parent":   {func(_ *testing.T, c *Config) { c.Directory += "/x" }, []string{"is no directory"}},
		"long path": {func(t *testing.T, c *Config) {
			c.Directory = filepath.Join(c.Directory, strings.Repeat("x", 80))
			if err := os.Mkdir(c.Directory, 0o755); err != nil {
				t.Fatal(err)
			}
		}, []string{"and the system takes 107"}},
		"taken": {func(t *testing.T, c *Config) {
			if err := os.Mkdir(filepath.Join(c.Directory, placePrefix+c.Run), 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"holdfast-r exists"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "hf")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			conf := Config{Directory: dir, Run: "r", BinDir: bin(t, "postgres (PostgreSQL) 14.9"), User: "nobody"}
			c.change(t, &conf)
			x, err := New(conf)
			if err != nil {
				t.Fatal(err)
			}
			got, err := x.Check(t.Context(), m)
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("%v, %v; want %v", got, err, c.want)
			}
			for i, o := range got {
				if !strings.Contains(o.What, c.want[i]) || o.Next == "" {
					t.Errorf("%+v, want %q", o, c.want[i])
				}
			}
		})
	}
}

func TestCheck_SeesThatThereIsNoRoom(t *testing.T) {
	m, _ := set(tree)
	m.Postgres.Files[1].Bytes = 1 << 60
	m.Pieces = append(m.Pieces, m.Pieces[0])
	m.Pieces[len(m.Pieces)-1].Size = 1 << 60
	m.Postgres.Files[1].Pieces = []int{len(m.Pieces) - 1}
	got, err := target(t, t.TempDir(), "r").Check(t.Context(), m)
	if err != nil || len(got) == 0 || !strings.Contains(got[len(got)-1].What, "MiB free") {
		t.Errorf("%v, %v", got, err)
	}
}

func TestEnd_KillsOnlyPostgresInThatDirectory(t *testing.T) {
	data, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "postgres")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	start := func(program, dir string) (*exec.Cmd, chan error) {
		cmd := exec.CommandContext(t.Context(), program, "60")
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }() // ends with the process, which the context bounds
		return cmd, ended
	}
	_, ours := start(program, data)
	_, shell := start(sleep, data)
	_, elsewhere := start(program, t.TempDir())
	if err := end(data); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ours:
	case <-time.After(10 * time.Second):
		t.Error("the server runs on")
	}
	select {
	case <-shell:
		t.Error("somebody's shell was ended")
	case <-elsewhere:
		t.Error("another server was ended")
	case <-time.After(50 * time.Millisecond):
	}
	if err := target(t, t.TempDir(), "none").Stop(context.Background()); err != nil {
		t.Errorf("nothing to stop: %v", err)
	}
}
