package stack

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sleeper runs a shell that ignores what polite people send, with a child.
func sleeper(t *testing.T, script string) *process {
	t.Helper()
	launcher, err := installLauncher(t.Context(), nil)
	judge(t, err)
	p, err := startProcess(command{launcher: launcher, program: "/bin/sh", args: []string{"-c", script},
		dir: t.TempDir(), log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.kill() })
	return p
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		if s, err := procState(pid); err != nil || s == 'Z' {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d is still there", pid)
}

func TestProcess_ClosedLifelineEndsAPausedOne(t *testing.T) {
	p := sleeper(t, "trap '' TERM INT HUP; sleep 300 & wait; wait")
	if err := p.pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.lifeline.Close(); err != nil { // what the kernel does when we die
		t.Fatal(err)
	}
	<-p.done
	waitGone(t, p.pid)
	if err := p.signal(syscall.SIGCONT); !errors.Is(err, errEnded) {
		t.Fatalf("signalled a process that ended: %v", err)
	}
}

func TestProcess_DeathOfItsLauncherEndsIt(t *testing.T) {
	p := sleeper(t, "exec sleep 300")
	if err := p.launcher.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	waitGone(t, p.pid)
}

func TestProcess_StopIsPoliteFirst(t *testing.T) {
	p := sleeper(t, "trap 'exit 7' TERM; while :; do sleep 0.01; done")
	time.Sleep(100 * time.Millisecond) // for the trap
	if err := p.pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.err == nil || !strings.Contains(p.err.Error(), "exit status 7") {
		t.Fatalf("ended with %v, want its own exit 7", p.err)
	}
}

func TestProcess_MissingProgramIsAnErrorWithTheLog(t *testing.T) {
	launcher, err := installLauncher(t.Context(), nil)
	judge(t, err)
	log := filepath.Join(t.TempDir(), "log")
	if _, err = startProcess(command{launcher: launcher, program: "/no/such/server", dir: "/", log: log}); err == nil || !strings.Contains(err.Error(), log) {
		t.Fatalf("got %v", err)
	}
	words, _ := os.ReadFile(log)
	if !strings.Contains(string(words), "no such file") {
		t.Fatalf("the log says %q", words)
	}
}

func TestProcess_EndsWhatTheServerLeftBehind(t *testing.T) {
	word := filepath.Join(t.TempDir(), "pid")
	p := sleeper(t, "setsid sleep 300 & echo $! > "+word+".new; mv "+word+".new "+word+"; wait")
	var child int
	for range 500 {
		if b, err := os.ReadFile(word); err == nil {
			if child, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
				t.Fatal(err)
			}
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if child == 0 || !slices.Contains(childrenOf(p.pid), child) {
		t.Fatalf("child %d of %v", child, childrenOf(p.pid))
	}
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("the child outlived its server and its launcher: %v", err)
	}
}
