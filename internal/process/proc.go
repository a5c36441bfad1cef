package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Proc is a process as the kernel lists it.
type Proc struct {
	PID, Parent, Group int
	Start              uint64 // since boot, in clock ticks; with PID it names a process for one boot
	State              byte   // as in ps: R, S, D, T, Z, ...
}

// Dead reports whether only the entry of the process is left.
func (p Proc) Dead() bool { return p.State == 'Z' || p.State == 'X' }

// Read returns the process with this number. When there is none the error is
// os.ErrNotExist.
func Read(pid int) (Proc, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if strings.Contains(err.Error(), "no such process") { // it ended while we read
			err = os.ErrNotExist
		}
		return Proc{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parse(b)
}

// parse reads /proc/PID/stat. The second field is a name in parentheses that
// may hold anything, parentheses too, so fields are counted from the last one.
func parse(b []byte) (Proc, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Proc{}, fmt.Errorf("read process: %q is no stat line", b)
	}
	f := strings.Fields(string(b[end+1:])) // from field 3, the state
	if len(f) < 20 || len(f[0]) != 1 {
		return Proc{}, fmt.Errorf("read process: stat line has %d fields after the name", len(f))
	}
	p := Proc{State: f[0][0]}
	var err [4]error
	p.PID, err[0] = strconv.Atoi(strings.TrimSpace(string(b[:open])))
	p.Parent, err[1] = strconv.Atoi(f[1])
	p.Group, err[2] = strconv.Atoi(f[2])
	p.Start, err[3] = strconv.ParseUint(f[19], 10, 64)
	if e := errors.Join(err[:]...); e != nil {
		return Proc{}, fmt.Errorf("read process: %w", e)
	}
	return p, nil
}

// List returns all processes, without those that end meanwhile.
func List() ([]Proc, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w (is /proc mounted?)", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Proc
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		p, err := Read(pid)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// carries reports whether the environment that a process was started with
// holds mark. One that we may not read does not.
func carries(pid int, mark string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	return bytes.Contains(append(append([]byte{0}, b...), 0), append(append([]byte{0}, mark...), 0))
}
