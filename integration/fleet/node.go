package fleet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

const (
	startTimeout = 30 * time.Second
	joinTimeout  = 60 * time.Second
	poll         = 50 * time.Millisecond
)

// Node is one daemon, as a process.
type Node struct {
	Name    string
	Place   string // its region, or Witness
	Witness bool
	Data    string
	Socket  string
	Config  string // its own copy of the fleet file, as an operator may forget one; empty: the fleet's

	fleet         *Fleet
	peer, health  string
	ca, cert, key string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// LogPath is where the daemon's output goes, of all its lives.
func (n *Node) LogPath() string { return n.Data + ".log" }

// Start runs the daemon and waits until its socket answers. env is added to
// its environment.
func (n *Node) Start(ctx context.Context, env ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil && !n.over() {
		return fmt.Errorf("%s runs already", n.Name)
	}
	if err := os.MkdirAll(filepath.Dir(n.Data), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := exec.Command(n.fleet.options.Binary, "serve", "--config", cmp.Or(n.Config, n.fleet.Config), "--node", n.Name)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(append(os.Environ(), n.fleet.options.Env...), append(env, n.secrets())...)
	if err := StartTied(cmd); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.cmd, n.done, n.err = cmd, make(chan struct{}), nil
	go func(cmd *exec.Cmd, done chan struct{}) {
		err := cmd.Wait()
		n.mu.Lock()
		if n.cmd == cmd {
			n.err = err
		}
		n.mu.Unlock()
		close(done)
	}(cmd, n.done)
	n.mu.Unlock()
	defer n.mu.Lock()
	return n.await(ctx, startTimeout, "answers on its socket", func(ctx context.Context) error {
		_, err := n.Client().Status(ctx)
		return err
	})
}

// secrets is the environment that the fleet file refers to.
func (n *Node) secrets() string {
	name := strings.TrimPrefix(clickhousePassword, "env:")
	for _, r := range n.fleet.Regions {
		return name + "=" + r.ClickHouse.Password() // it is the same everywhere
	}
	return name + "="
}

func (n *Node) over() bool {
	if n.done == nil {
		return true
	}
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// Running reports whether the process exists.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil && !n.over()
}

// Exited is closed when the process that runs now has ended.
func (n *Node) Exited() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.done
}

// WaitJoined waits until the daemon's session is in the log and a leader is known.
func (n *Node) WaitJoined(ctx context.Context) error {
	return n.await(ctx, joinTimeout, "is ready to take part", func(ctx context.Context) error {
		code, body, err := n.Get(ctx, "/readyz")
		if err != nil {
			return err
		}
		if strings.Contains(body, "[+] raft") && strings.Contains(body, "[+] session") {
			return nil
		}
		return fmt.Errorf("readyz %d: %s", code, body)
	})
}

// Get asks the health listener.
func (n *Node) Get(ctx context.Context, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.health+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}

// ExitCode is what the process that ran last ended with; -1 for a signal, or
// while it runs.
func (n *Node) ExitCode() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil || !n.over() {
		return -1
	}
	return n.cmd.ProcessState.ExitCode()
}

// HealthAddress is host:port of the health listener.
func (n *Node) HealthAddress() string { return n.health }

// Client talks to the daemon's API.
func (n *Node) Client() *httpapi.Client { return httpapi.Dial(n.Socket) }

// CLI runs the command line on this daemon's host, with its fleet file, and
// returns what it prints.
func (n *Node) CLI(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, n.fleet.options.Binary, append(args, "--socket", n.Socket)...)
	cmd.Env = append(append(os.Environ(), n.fleet.options.Env...), n.secrets(), "HOLDFAST_CONFIG="+cmp.Or(n.Config, n.fleet.Config), "HOLDFAST_NODE="+n.Name)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// Kill is SIGKILL.
func (n *Node) Kill() error { return n.end(syscall.SIGKILL, 5*time.Second) }

// Stop is SIGTERM, and waits.
func (n *Node) Stop() error { return n.end(syscall.SIGTERM, 30*time.Second) }

// Pause is SIGSTOP; Resume is SIGCONT.
func (n *Node) Pause() error { return n.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (n *Node) Resume() error { return n.signal(syscall.SIGCONT) }

func (n *Node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil || n.over() {
		return nil
	}
	return n.cmd.Process.Signal(s)
}

func (n *Node) end(s syscall.Signal, within time.Duration) error {
	if err := n.signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	done := n.Exited()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-time.After(within):
		return errors.Join(fmt.Errorf("%s did not end within %s", n.Name, within), n.signal(syscall.SIGKILL))
	}
}

func (n *Node) await(ctx context.Context, within time.Duration, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	done := n.Exited()
	for {
		attempt, stop := context.WithTimeout(ctx, 2*time.Second)
		err := try(attempt)
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("%s ended before it %s: %w\n%s", n.Name, what, n.err, n.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait until %s %s: %w\n%s", n.Name, what, err, n.tail())
		case <-time.After(poll):
		}
	}
}

func (n *Node) tail() string {
	b, err := os.ReadFile(n.LogPath())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}
