package guard

import (
	"errors"
	"io/fs"
	"log/slog"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/process"
)

const (
	markName     = "HOLDFAST_GUARD"
	leftoverWait = 2 * time.Second // between TERM and KILL for what the command left
)

// forker starts commands on one thread that lives until close: the kernel
// sends PR_SET_PDEATHSIG when the thread that forked ends, not the process.
type forker struct {
	work  chan func()
	close func()
}

func newForker() *forker {
	f := &forker{work: make(chan func())}
	var gone sync.WaitGroup
	gone.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for do := range f.work {
			do()
		}
	})
	f.close = func() { close(f.work); gone.Wait() }
	return f
}

// child is one run of the command. Its methods are for Run's goroutine; what
// happens to it arrives as events.
type child struct {
	cmd    *exec.Cmd
	log    *slog.Logger
	mu     sync.Mutex
	family process.Family // guarded by mu
}

func (c *child) find() process.Family {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.family
}

// prepare returns a child that is not started, with its mark.
func (f *forker) prepare(cfg Config, a Start) *child {
	mark := process.NewMark(markName)
	cmd := exec.Command(cfg.Argv[0], cfg.Argv[1:]...) //nolint:noctx // State.Next bounds it
	if cfg.Stdin != nil {                             // a nil *os.File in an interface is not nil
		cmd.Stdin = cfg.Stdin
	}
	if cfg.Stdout != nil {
		cmd.Stdout = cfg.Stdout
	}
	if cfg.Stderr != nil {
		cmd.Stderr = cfg.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	env := slices.DeleteFunc(slices.Clone(cfg.Env), func(v string) bool { return strings.HasPrefix(v, markName+"=") })
	env = append(env, "HOLDFAST_ROLE="+string(cfg.Role), "HOLDFAST_REGION="+string(cfg.Region),
		"HOLDFAST_EPOCH="+strconv.FormatUint(uint64(a.Epoch), 10),
		"HOLDFAST_GENERATION="+strconv.FormatUint(uint64(a.Generation), 10), mark)
	cmd.Env = env
	return &child{cmd: cmd, family: process.Family{Mark: mark}, log: cfg.Log}
}

// start begins the command and returns at once. What becomes of it is told as
// events: NotStarted, or Started and Ended.
func (f *forker) start(c *child, tell func(Event)) {
	f.work <- func() {
		if err := c.cmd.Start(); err != nil {
			c.log.Error("the command does not start", "error", err)
			code := 126
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
				code = 127
			}
			go tell(NotStarted{code})
			return
		}
		pid := c.cmd.Process.Pid
		led, err := c.find().Lead(pid) // it is ours to reap, so it is there
		c.mu.Lock()
		c.family = led
		c.mu.Unlock()
		if err != nil {
			c.log.Error("the command is known by its mark alone", "error", err)
		}
		go func() {
			tell(Started{pid})
			tell(Ended{c.wait()})
		}()
	}
}

// wait returns when nothing of the command is left. The command itself is
// reaped last: until then its number, and so its group, cannot be another's.
func (c *child) wait() int {
	if err := process.WaitEnd(c.cmd.Process.Pid); err != nil {
		c.log.Error("wait for the command", "error", err)
	}
	for {
		_, err := c.find().End(leftoverWait)
		if err == nil {
			break
		}
		c.log.Error("the command ended and left processes that do not", "error", err)
	}
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.log.Error("wait for the command", "error", err)
	}
	if ws, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}
