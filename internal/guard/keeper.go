package guard

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/process"
)

const (
	keeperTick   = 20 * time.Millisecond
	keeperWrite  = 300 * time.Millisecond // a keeper that does not read for longer is replaced
	lookTwice    = 1
	heldTicks    = 15 // 300 ms
	keeperExit   = 2 * time.Second
	keeperOrders = 64
)

// order is what the guard tells its keeper: one line of JSON. The newest
// counts.
type order struct {
	Family process.Family `json:"family"`
	KillAt clock.Instant  `json:"kill_at"` // 0: there is nothing to kill
	// Held: the time is no deadline of a lease, only that of the next sign of
	// life. After a suspend the guard is given a moment to wake up, too.
	Held bool `json:"held,omitempty"`
}

// Keep is the whole keeper process: it reads orders from in until that ends,
// and returns its exit code. When an order's time has come, or the guard is
// gone before it withdrew it, the family is killed. It ignores the signals by
// which a service is stopped: it ends when its guard does.
func Keep(in io.Reader, clk clock.Clock) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	orders := make(chan order, keeperOrders)
	go func() {
		defer close(orders)
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			var o order
			if json.Unmarshal(lines.Bytes(), &o) == nil { // else torn by the guard's death
				orders <- o
			}
		}
	}()
	var o order
	tick := time.NewTicker(keeperTick)
	defer tick.Stop()
	for late := 0; ; {
		select {
		case next, ok := <-orders:
			if !ok {
				if o.KillAt != 0 {
					if _, err := o.Family.End(0); err != nil {
						fmt.Fprintln(os.Stderr, "holdfast guard keeper:", err)
						return 1
					}
				}
				return 0
			}
			o, late = next, 0
		case <-tick.C:
			// Woken from a stop, we may be late while newer orders wait to be
			// read: look twice.
			if o.KillAt == 0 || clk.Now().Before(o.KillAt) {
				late = 0
			} else if late++; late > lookTwice && !o.Held || late > heldTicks {
				_, _ = o.Family.Signal(unix.SIGKILL) // again at the next tick, until the guard says that all is gone
			}
		}
	}
}

// keeper is the guard's handle of the keeper process. It belongs to Run's goroutine.
type keeper struct {
	argv []string
	log  *slog.Logger

	cmd  *exec.Cmd
	pipe *os.File
	end  chan struct{} // closed when the process ended
	last order
}

func (k *keeper) start() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(k.argv[0], k.argv[1:]...) //nolint:noctx // it ends with its pipe
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C for the guard is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("start keeper %v: %w", k.argv, err)
	}
	k.cmd, k.pipe, k.end = cmd, w, make(chan struct{})
	go func(end chan struct{}) {
		defer close(end)
		_ = cmd.Wait() // how it ended changes nothing: it is started again
	}(k.end)
	return nil
}

// tell gives the newest order, and replaces a keeper that ended or does not
// read. The error means that there is no keeper now.
func (k *keeper) tell(o order) error {
	k.last = o
	var err error
	for range 2 {
		if k.dead() {
			if failed := k.start(); failed != nil {
				return failed
			}
		}
		if err = k.write(o); err == nil {
			return nil
		}
		k.log.Warn("the keeper does not listen and is replaced", "error", err)
		k.drop()
	}
	return fmt.Errorf("tell keeper: %w", err)
}

func (k *keeper) write(o order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := k.pipe.SetWriteDeadline(time.Now().Add(keeperWrite)); err != nil {
		return err
	}
	_, err = k.pipe.Write(append(b, '\n'))
	return err
}

func (k *keeper) dead() bool {
	if k.cmd == nil {
		return true
	}
	select {
	case <-k.end:
		k.drop()
		return true
	default:
		return false
	}
}

// drop ends the process. It is killed before its pipe closes, lest it take the
// closing for the guard's death and end the command.
func (k *keeper) drop() {
	if k.cmd == nil {
		return
	}
	_ = k.cmd.Process.Kill()
	<-k.end
	k.pipe.Close()
	k.cmd = nil
}

// stop lets the process end by itself; there must be nothing to kill.
func (k *keeper) stop() {
	if k.cmd == nil {
		return
	}
	k.pipe.Close()
	t := time.NewTimer(keeperExit)
	defer t.Stop()
	select {
	case <-k.end:
	case <-t.C:
		_ = k.cmd.Process.Kill()
		<-k.end
	}
	k.cmd = nil
}
