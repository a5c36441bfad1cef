package stack

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CacheDir is where services are installed: $HOLDFAST_STACK_CACHE, or
// holdfast-stack in the user's cache directory. It may be removed at any time
// that no rig runs.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOLDFAST_STACK_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w; set HOLDFAST_STACK_CACHE to a folder with 2 GB free", err)
	}
	return filepath.Join(dir, "holdfast-stack"), nil
}

// say prints one plain line of progress.
func say(w io.Writer, format string, args ...any) {
	if w != nil {
		fmt.Fprintf(w, format+"\n", args...)
	}
}

// install returns the folder NAME of the cache, filling it first when it is
// not there. fill works in a temporary folder that becomes NAME only when all
// went well. Two processes never fill the same folder: the second waits.
func install(ctx context.Context, progress io.Writer, name string, fill func(dir string) error) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return installIn(ctx, progress, cache, name, fill)
}

// openCacheDir is a cache that everybody can run programs from: CacheDir, or,
// when we are root and our home is closed, the system's own.
func openCacheDir() (string, error) {
	cache, err := CacheDir()
	if err != nil || os.Geteuid() != 0 {
		return cache, err
	}
	home := cache
	for _, err := os.Stat(home); err != nil && home != filepath.Dir(home); _, err = os.Stat(home) {
		home = filepath.Dir(home) // what is not there yet will be made open
	}
	if open(home) {
		return cache, nil
	}
	return "/var/cache/holdfast-stack", nil
}

// installIn is install in a cache of the caller's choice.
func installIn(ctx context.Context, progress io.Writer, cache, name string, fill func(dir string) error) (string, error) {
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	unlock, err := lockFile(ctx, progress, filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil // the one we waited for did it
	}
	// We hold the lock, so a temporary folder of this name was left by a crash.
	left, _ := filepath.Glob(filepath.Join(cache, ".tmp-"+name+"-*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	tmp, err := os.MkdirTemp(cache, ".tmp-"+name+"-*")
	if err != nil {
		return "", fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // renamed by then, unless something failed
	begun := time.Now()
	if err := fill(tmp); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	say(progress, "installed %s in %.1f s", name, time.Since(begun).Seconds())
	return final, nil
}

// lockFile takes a lock that the kernel gives back when the process ends.
func lockFile(ctx context.Context, progress io.Writer, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock %s: %w", path, err)
	}
	told := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			say(progress, "waiting for another installation of %s", strings.TrimSuffix(filepath.Base(path), ".lock"))
			told = true
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", path, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

//go:embed launcher/*.go
var launcherSource embed.FS

// installLauncher builds the launcher once per version of its source.
func installLauncher(ctx context.Context, progress io.Writer) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("run real services: this rig knows linux/amd64 only, not %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	h := sha256.New()
	files, err := launcherSource.ReadDir("launcher")
	if err != nil {
		return "", fmt.Errorf("read the launcher's source: %w", err)
	}
	for _, f := range files {
		b, err := launcherSource.ReadFile("launcher/" + f.Name())
		if err != nil {
			return "", fmt.Errorf("read the launcher's source: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n", f.Name(), len(b))
		h.Write(b)
	}
	name := "launcher-" + hex.EncodeToString(h.Sum(nil))[:16]
	dir, err := install(ctx, progress, name, func(dir string) error {
		goTool, err := need(ctx, progress, "go")
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, goTool, "build", "-trimpath", "-o", filepath.Join(dir, "launcher"),
			"github.com/holdfast-dr/holdfast/integration/stack/launcher")
		if _, here, _, ok := runtime.Caller(0); ok {
			if _, err := os.Stat(here); err == nil {
				cmd.Dir = filepath.Dir(here) // so that any working directory will do
			}
		}
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOOS=linux", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the launcher: %w\n%s(it is built from this module: run inside the work tree)", err, out)
		}
		return nil
	})
	return filepath.Join(dir, "launcher"), err
}
