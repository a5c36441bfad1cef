package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is the user that a server runs as which refuses to run as root.
const nobody = 65534

// user is somebody other than root.
type user struct {
	id    int
	reach bool // may pass folders on the way to its own that it may not open
}

// userFor is who works in dir: ourselves, or nobody when we are root.
func userFor(dir string) *user {
	if os.Geteuid() != 0 {
		return nil
	}
	return &user{id: nobody, reach: !open(dir)}
}

// flags are the launcher's.
func (u *user) flags() []string {
	switch {
	case u == nil:
		return nil
	case u.reach:
		return []string{"-as", strconv.Itoa(u.id), "-reach"}
	}
	return []string{"-as", strconv.Itoa(u.id)}
}

// own gives the user a path.
func (u *user) own(path string) error {
	if u == nil {
		return nil
	}
	return os.Chown(path, u.id, u.id)
}

// open reports whether everybody may pass every folder down to dir.
func open(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// run runs a tool as the user, to its end. It works in the top folder, since
// the right to pass closed ones comes only when it runs.
func (u *user) run(ctx context.Context, within time.Duration, env []string, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = "/", env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if u != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.id), Gid: uint32(u.id)}
		if u.reach {
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_OVERRIDE}
		}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w\n%s", filepath.Base(program), errors.Join(err, ctx.Err()), tail(out, 4000))
	}
	return nil
}
