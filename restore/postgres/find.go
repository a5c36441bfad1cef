package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/process"
)

// workers are the postgres processes that work in a data directory. A server
// and all that it forks stay in theirs, so this finds them by what the kernel
// says, also when whoever started them is gone, and no number that was given
// to somebody else is ever signalled.
func workers(data string) ([]process.Proc, error) {
	data, err := filepath.EvalSymlinks(data)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a server in the data directory: %w", err)
	}
	all, err := process.List()
	if err != nil {
		return nil, err
	}
	var found []process.Proc
	for _, p := range all {
		if p.Dead() {
			continue
		}
		// Another user's process cannot be looked at: it is not ours then.
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.PID))
		if err != nil || cwd != data {
			continue
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		if err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres" {
			found = append(found, p)
		}
	}
	return found, nil
}

// send signals processes; each goes through a handle that knows its start.
func send(to []process.Proc, sig unix.Signal) error {
	var errs []error
	for _, p := range to {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("take hold of process %d: %w", p.PID, err))
			continue
		}
		now, gone := process.Read(p.PID)
		if gone == nil && now.Start == p.Start {
			if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), p.PID, err))
			}
		}
		_ = unix.Close(fd)
	}
	return errors.Join(errs...)
}

const (
	fastWait  = 10 * time.Second // for a checkpoint and an orderly end
	killWait  = 10 * time.Second // a killed process that stays longer hangs in the kernel
	lookEvery = 20 * time.Millisecond
)

// end stops whatever works in a data directory: in order first, by force then.
// It takes at most fastWait and killWait.
func end(data string) error {
	start, asked := time.Now(), false
	for {
		left, err := workers(data)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		waited := time.Since(start)
		switch {
		case waited > fastWait+killWait:
			return fmt.Errorf("end the server in %s: %d processes are still there %s after KILL", data, len(left), killWait)
		case waited > fastWait:
			err = send(left, unix.SIGKILL)
		case !asked:
			// The postmaster is the one whose parent is none of them. To it
			// INT means: end now, in order.
			asked = true
			err = send(heads(left), unix.SIGINT)
		}
		if err != nil {
			return err
		}
		time.Sleep(lookEvery)
	}
}

func heads(all []process.Proc) (out []process.Proc) {
	in := make(map[int]bool, len(all))
	for _, p := range all {
		in[p.PID] = true
	}
	for _, p := range all {
		if !in[p.Parent] {
			out = append(out, p)
		}
	}
	return out
}
