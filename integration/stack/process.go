package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killWait bounds how long a SIGKILL may take to show. It is never reached
// unless the kernel cannot end a process, as on a dead disk.
const killWait = 20 * time.Second

// command says what a process runs and where its words go.
type command struct {
	launcher string // path of the launcher
	program  string
	args     []string
	dir      string   // working directory
	env      []string // added to ours; the place for secrets, which arguments are not
	log      string   // appended to
	out      string   // where standard output goes instead; empty: the log too

	user   *user          // who it runs as; nil: us
	quit   syscall.Signal // how it is asked to stop; 0: SIGTERM
	family bool           // it works in child processes: they pause with it
}

// process is one server under its own launcher. It dies with us: the launcher
// kills it when the lifeline closes.
type process struct {
	pid      int // the server's, and its process group
	launcher *exec.Cmd
	lifeline io.WriteCloser
	done     chan struct{} // closed when server and launcher have ended
	err      error         // how they ended; read after done
	quit     syscall.Signal
	family   bool

	mu     sync.Mutex
	paused bool
}

func startProcess(c command) (*process, error) {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", c.program, err)
	}
	defer log.Close()
	out := log
	if c.out != "" {
		if out, err = os.OpenFile(c.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return nil, fmt.Errorf("open the output of %s: %w", c.program, err)
		}
		defer out.Close()
	}
	status, statusWriter, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a status pipe: %w", err)
	}
	defer status.Close()
	defer statusWriter.Close()

	cmd := exec.Command(c.launcher, slices.Concat([]string{"hold"}, c.user.flags(), []string{c.program}, c.args)...)
	cmd.Dir = c.dir
	if len(c.env) > 0 {
		cmd.Env = append(os.Environ(), c.env...)
	}
	cmd.Stdout, cmd.Stderr = out, log
	cmd.ExtraFiles = []*os.File{statusWriter}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C reaches us alone
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make a lifeline: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the launcher of %s: %w", c.program, err)
	}
	_ = statusWriter.Close() // so that the launcher's death ends the read below
	line, err := bufio.NewReader(status).ReadString('\n')
	if err != nil {
		_ = lifeline.Close()
		return nil, fmt.Errorf("start %s: %w (see %s)", c.program, errors.Join(err, cmd.Wait()), c.log)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		_ = lifeline.Close()
		_ = cmd.Wait()
		return nil, fmt.Errorf("start %s: launcher answered %q instead of a process id", c.program, line)
	}
	p := &process{pid: pid, launcher: cmd, lifeline: lifeline, done: make(chan struct{}), quit: c.quit, family: c.family}
	if p.quit == 0 {
		p.quit = syscall.SIGTERM
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// signal reaches the server's whole process group, or says that it has ended.
func (p *process) signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return errEnded
	default:
	}
	if err := syscall.Kill(-p.pid, s); err != nil {
		return fmt.Errorf("send %s to process group %d: %w", s, p.pid, err)
	}
	if p.family && (s == syscall.SIGSTOP || s == syscall.SIGCONT) {
		for _, child := range childrenOf(p.pid) {
			_ = syscall.Kill(child, s) // one that has ended needs nothing
		}
	}
	return nil
}

// childrenOf lists the processes whose parent is pid. A parent that stands
// still makes no more of them.
func childrenOf(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var children []int
	for _, name := range stats {
		var state string
		var parent, child int
		b, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		i := strings.LastIndexByte(string(b), ')')
		if _, err := fmt.Sscan(string(b[i+1:]), &state, &parent); err != nil || parent != pid {
			continue
		}
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(name)), &child); err == nil {
			children = append(children, child)
		}
	}
	return children
}

var errEnded = errors.New("the server has already ended")

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the server without warning and returns when it is gone.
func (p *process) kill() error {
	_ = p.signal(syscall.SIGKILL)
	_ = p.lifeline.Close() // the launcher kills too
	select {
	case <-p.done:
		return nil
	case <-time.After(killWait):
		return fmt.Errorf("kill process group %d: still there after %s", p.pid, killWait)
	}
}

// stop asks politely and kills when ctx ends first.
func (p *process) stop(ctx context.Context) error {
	if err := p.resume(); err != nil && !errors.Is(err, errEnded) {
		return err
	}
	_ = p.signal(p.quit)
	select {
	case <-p.done:
		_ = p.lifeline.Close()
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop process %d in order, killed instead: %w", p.pid, ctx.Err()), p.kill())
	}
}

// pause returns when every thread of the server stands still.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		if p.stands() {
			p.mu.Lock()
			p.paused = true
			p.mu.Unlock()
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("pause process %d: not stopped after 5s", p.pid)
}

// stands reports whether the server, and its family, stand still.
func (p *process) stands() bool {
	if !still(p.pid) {
		return false
	}
	if !p.family {
		return true
	}
	for _, child := range childrenOf(p.pid) {
		if s, err := procState(child); err == nil && (s == 'R' || s == 'S') {
			_ = syscall.Kill(child, syscall.SIGSTOP) // born while its parent was being stopped
			return false
		}
	}
	return true
}

func (p *process) resume() error {
	p.mu.Lock()
	paused := p.paused
	p.paused = false
	p.mu.Unlock()
	if !paused {
		return nil
	}
	return p.signal(syscall.SIGCONT)
}

// still reports whether no thread of a process runs or could wake up. One that
// is inside the kernel (D) stops before it comes back.
func still(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, t := range threads {
		switch s, err := stateIn(t); {
		case err != nil: // ended meanwhile
		case s == 'R' || s == 'S':
			return false
		}
	}
	return true
}

// procState reads the state letter of a process: R, S, D, T, Z …
func procState(pid int) (byte, error) { return stateIn(fmt.Sprintf("/proc/%d/stat", pid)) }

func stateIn(path string) (byte, error) {
	stat, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The name in brackets may hold anything, so look behind its end.
	i := strings.LastIndexByte(string(stat), ')')
	if i < 0 || i+2 >= len(stat) {
		return 0, fmt.Errorf("read %s: unknown form", path)
	}
	return stat[i+2], nil
}
