package process

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lookEvery = 20 * time.Millisecond
	killWait  = 10 * time.Second // a killed process that stays longer hangs in the kernel
)

// Family is one started process and what came of it. Its fields are written
// down, so that another life of the starter can end it.
type Family struct {
	// Leader and Start name the first process, which leads the group of the
	// same number; 0 when it is not known.
	Leader int    `json:"leader,omitempty"`
	Start  uint64 `json:"start,omitempty"`
	// Mark is NAME=VALUE in the environment; empty when there is none.
	Mark string `json:"mark,omitempty"`
}

// NewMark returns a mark that nobody else carries.
func NewMark(name string) string { return name + "=" + rand.Text() }

// Lead returns f with its first process. Call it before the process is waited
// for, while its number cannot be anyone else's.
func (f Family) Lead(pid int) (Family, error) {
	p, err := Read(pid)
	if err != nil {
		return f, err
	}
	f.Leader, f.Start = p.PID, p.Start
	return f, nil
}

// Members returns those that live.
func (f Family) Members() ([]Proc, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	// The number of a group is not given away while its leader is there, be it
	// as a zombie. When the leader is gone the number alone proves nothing.
	led := false
	for _, p := range all {
		led = led || f.Leader > 1 && p.PID == f.Leader && p.Start == f.Start
	}
	var found []Proc
	for _, p := range all {
		if !p.Dead() && (led && p.Group == f.Leader || f.Mark != "" && p.Start >= f.Start && carries(p.PID, f.Mark)) {
			found = append(found, p)
		}
	}
	return found, nil
}

// Signal sends sig to each member and returns how many there were.
func (f Family) Signal(sig unix.Signal) (int, error) {
	members, err := f.Members()
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, p := range members {
		if err := signal(p, sig); err != nil {
			errs = append(errs, err)
		}
	}
	return len(members), errors.Join(errs...)
}

// signal goes through a handle of the process, so that one which takes over
// the number meanwhile is not hit.
func signal(p Proc, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil { // before Linux 5.3
		err = unix.Kill(p.PID, sig)
	} else {
		defer unix.Close(fd) //nolint:errcheck // nothing can be lost
		now, gone := Read(p.PID)
		if errors.Is(gone, os.ErrNotExist) || gone == nil && now.Start != p.Start {
			return nil
		}
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), p.PID, err)
	}
	return nil
}

// End asks the family to end with TERM, and after grace with KILL, again and
// again, since a member may fork meanwhile. It returns how many were found at
// first. It takes at most grace and 10 s, and returns an error that names
// what still lives.
func (f Family) End(grace time.Duration) (int, error) {
	first, sent := f.Signal(unix.SIGTERM)
	if first == 0 && sent == nil {
		return 0, nil
	}
	start := time.Now()
	for {
		left, err := f.Members()
		if err == nil && len(left) == 0 {
			return first, nil
		}
		waited := time.Since(start)
		if waited >= grace {
			_, sent = f.Signal(unix.SIGKILL)
		}
		if waited >= grace+killWait {
			pids := make([]int, len(left))
			for i, p := range left {
				pids[i] = p.PID
			}
			return first, fmt.Errorf("end processes %v: still there %s after KILL: %w", pids, killWait, errors.Join(err, sent))
		}
		time.Sleep(lookEvery)
	}
}

// WaitEnd returns when a child of ours has ended, and leaves it to be reaped:
// its number stays taken until then.
func WaitEnd(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
