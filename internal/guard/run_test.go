package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/process"
)

func TestMain(m *testing.M) {
	switch os.Getenv("GUARD_TEST") {
	case "keeper":
		os.Exit(Keep(os.Stdin, clock.System()))
	case "guard": // one to be killed or stopped
		cfg := config(fileDaemon(os.Getenv("GUARD_TEST_WORD")), os.Getenv("GUARD_TEST_SCRIPT"))
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		code, err := Run(context.Background(), cfg)
		fmt.Fprintln(os.Stderr, code, err)
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

func config(d Daemon, script string) Config {
	boot, err := clock.BootID()
	if err != nil {
		panic(err)
	}
	env := append(os.Environ(), "GUARD_TEST=")
	return Config{Role: "ingestion", Region: "east", Argv: []string{"/bin/sh", "-c", script}, Env: env, Daemon: d, Rules: Rules{BootID: boot},
		Keeper: []string{"/usr/bin/env", "GUARD_TEST=keeper", "GORACE=atexit_sleep_ms=0", os.Args[0]}, Log: slog.New(slog.DiscardHandler), Every: 50 * time.Millisecond}
}

// now fills in what a daemon reads as it answers.
func stamp(w Word) Word {
	w.BootID, _ = clock.BootID()
	w.Now = clock.System().Now()
	return w
}

// until is a word that allows epoch e for d from now, with a margin of 1 s.
func until(e consensus.Epoch, d time.Duration) Word {
	return Word{Phase: consensus.Open, Leased: true, Epoch: e, Generation: 1, Deadline: clock.System().Now().Add(d), Margin: time.Second}
}

// fake is a daemon in memory; it answers what it was last told, or nothing.
type fake struct {
	mu   sync.Mutex
	word *Word
	seen []Status
}

func (f *fake) say(w *Word) { f.mu.Lock(); defer f.mu.Unlock(); f.word = w }

func (f *fake) last() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) == 0 {
		return Status{}
	}
	return f.seen[len(f.seen)-1]
}

func (f *fake) Ask(_ context.Context, s Status) (Word, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, s)
	if f.word == nil {
		return Word{}, errors.New("connection refused")
	}
	return stamp(*f.word), nil
}

// fileDaemon is the name of a file with a Word; reports go to NAME.status.
type fileDaemon string

func (f fileDaemon) Ask(_ context.Context, s Status) (Word, error) {
	b, err := json.Marshal(s)
	if err == nil {
		err = errors.Join(os.WriteFile(string(f)+".new", b, 0o600), os.Rename(string(f)+".new", string(f)+".status"))
	}
	var w Word
	if err == nil {
		b, err = os.ReadFile(string(f))
	}
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	return stamp(w), err
}

func (f fileDaemon) say(t *testing.T, w Word) {
	t.Helper()
	b, _ := json.Marshal(w)
	if err := errors.Join(os.WriteFile(string(f)+".w", b, 0o600), os.Rename(string(f)+".w", string(f))); err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T, cfg Config) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan int, 1)
	go func() {
		code, err := Run(ctx, cfg)
		if err != nil {
			t.Error(err)
		}
		end <- code
	}()
	stop = sync.OnceValue(func() int { cancel(); return <-end })
	t.Cleanup(func() { stop() })
	return stop
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

func lines(path string) []string {
	b, _ := os.ReadFile(path)
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}

func pidOf(t *testing.T, path string, line int) int {
	t.Helper()
	var pid int
	eventually(t, fmt.Sprintf("line %d of %s", line, path), 10*time.Second, func() bool {
		b, _ := os.ReadFile(path)
		if l := strings.Split(string(b), "\n"); len(l) > line+1 {
			pid, _ = strconv.Atoi(l[line])
		}
		return pid > 0
	})
	return pid
}

func alive(pid int) bool {
	p, err := process.Read(pid)
	return err == nil && !p.Dead()
}

func TestRun_OnlyWhileAllowedAndReportsTheEnd(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	stop := begin(t, config(f, `echo $$ >> `+out+`; echo $HOLDFAST_ROLE $HOLDFAST_REGION $HOLDFAST_EPOCH $HOLDFAST_GENERATION >> `+out+`; exec sleep 77`))
	time.Sleep(200 * time.Millisecond)
	if _, err := os.Stat(out); err == nil {
		t.Fatal("it ran before any word")
	}
	w := until(5, time.Minute)
	f.say(&w)
	pid := pidOf(t, out, 0)
	eventually(t, "the environment", time.Second, func() bool { return len(lines(out)) == 2 })
	if got := lines(out)[1]; got != "ingestion east 5 1" {
		t.Errorf("environment %q", got)
	}
	eventually(t, "a report", time.Second, func() bool {
		s := f.last()
		return s.Running && s.PID == pid && s.AllowedUntil == w.Deadline && s.Epoch == 5
	})
	no := w
	no.Leased = false
	f.say(&no)
	eventually(t, "the end", 2*time.Second, func() bool { return !alive(pid) })
	eventually(t, "its report", time.Second, func() bool { s := f.last(); return !s.Running && s.AllowedUntil == 0 })
	w2 := until(6, time.Minute)
	f.say(&w2)
	eventually(t, "the next epoch", 5*time.Second, func() bool { l := lines(out); return len(l) == 4 && l[3] == "ingestion east 6 1" })
	if code := stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if s := f.last(); !s.Gone || s.Running {
		t.Errorf("last report %+v", s)
	}
	if alive(pidOf(t, out, 2)) {
		t.Error("it outlives the guard")
	}
}

func TestRun_ASilentDaemonChangesNothingBeforeTheDeadline(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	w := until(1, 1500*time.Millisecond)
	f.say(&w)
	begin(t, config(f, `trap "" TERM; setsid sh -c "trap '' TERM; while :; do sleep 0.1; done" & echo $$ >> `+out+`; echo $! >> `+out+`; while :; do sleep 0.1; done`))
	pid, child := pidOf(t, out, 0), pidOf(t, out, 1)
	f.say(nil)
	for clock.System().Now().Before(w.Deadline.Add(-20 * time.Millisecond)) {
		if !alive(pid) || !alive(child) {
			t.Fatal("it ended before the deadline")
		}
		time.Sleep(10 * time.Millisecond)
	}
	eventually(t, "the end", 2*time.Second, func() bool { return !alive(pid) && !alive(child) })
	if late := clock.System().Now().Sub(w.Deadline); late < 400*time.Millisecond || late > time.Second {
		t.Errorf("gone %s after the deadline, want 500 ms and less than the margin of 1 s", late)
	}
}

func TestRun_HeldGoesOnWhileTheDaemonIsSilent(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	w := until(1, 0)
	w.Deadline, w.Held = 0, true
	f.say(&w)
	begin(t, config(f, `echo $$ >> `+out+`; exec sleep 77`))
	pid := pidOf(t, out, 0)
	f.say(nil)
	time.Sleep(2500 * time.Millisecond) // more than twice the margin
	if !alive(pid) {
		t.Error("it ended")
	}
	no := until(1, 0)
	no.Leased = false
	f.say(&no)
	eventually(t, "the end", 2*time.Second, func() bool { return !alive(pid) })
}

func TestRun_ANewEpochIsANewProcess(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	w := until(1, time.Minute)
	f.say(&w)
	begin(t, config(f, `echo $$ >> `+out+`; echo start $HOLDFAST_EPOCH >> `+out+`; trap "sleep 0.2; echo end $HOLDFAST_EPOCH >> `+out+`; exit" TERM; while :; do sleep 0.05; done`))
	pidOf(t, out, 0)
	eventually(t, "the start", time.Second, func() bool { return len(lines(out)) == 2 })
	w2 := until(2, time.Minute)
	f.say(&w2)
	eventually(t, "the second", 5*time.Second, func() bool { return len(lines(out)) == 5 })
	l := lines(out)
	if got := strings.Join([]string{l[1], l[2], l[4]}, ", "); got != "start 1, end 1, start 2" {
		t.Errorf("story: %s", got)
	}
}

func TestRun_OnceGivesTheCommandsExitCode(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "true": 0, "kill -9 $$": 137} {
		f := &fake{}
		w := until(1, time.Minute)
		f.say(&w)
		cfg := config(f, script)
		cfg.Rules.Once = true
		if code, err := Run(t.Context(), cfg); code != want || err != nil {
			t.Errorf("%s: %d, %v", script, code, err)
		}
	}
	f := &fake{}
	w := until(1, time.Minute)
	f.say(&w)
	cfg := config(f, "")
	cfg.Argv, cfg.Rules.Once = []string{"/no/such/command"}, true
	if code, err := Run(t.Context(), cfg); code != 127 || err != nil {
		t.Errorf("missing command: %d, %v", code, err)
	}
}

func TestRun_WhatTheCommandLeavesIsEndedBeforeItCounts(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	w := until(1, time.Minute)
	f.say(&w)
	cfg := config(f, `sleep 77 & echo $! >> `+out+`; setsid sleep 78 & echo $! >> `+out+`; sleep 0.2; exit 3`)
	cfg.Rules.Once = true
	if code, err := Run(t.Context(), cfg); code != 3 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	for i := range 2 {
		if alive(pidOf(t, out, i)) {
			t.Errorf("child %d is left", i)
		}
	}
}

func TestRun_ItIsRestartedWhenItEnds(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	w := until(1, time.Minute)
	f.say(&w)
	start := time.Now()
	begin(t, config(f, `echo x >> `+out+`; exit 1`))
	eventually(t, "three runs", 10*time.Second, func() bool { return len(lines(out)) == 3 })
	if took := time.Since(start); took < 1400*time.Millisecond {
		t.Errorf("three runs in %s: it does not wait", took)
	}
}

func TestRun_ADeadKeeperIsReplaced(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f := &fake{}
	w := until(1, time.Minute)
	f.say(&w)
	begin(t, config(f, `echo $$ >> `+out+`; exec sleep 77`))
	pid := pidOf(t, out, 0)
	old := keeperOf(t, os.Getpid())
	_ = syscall.Kill(old, syscall.SIGKILL)
	eventually(t, "another keeper", 2*time.Second, func() bool { k := findKeeper(os.Getpid()); return k != 0 && k != old })
	if !alive(pid) {
		t.Error("the command ended with the keeper")
	}
}

// The kernel ends the command when the thread that forked it ends, so no other
// work may be done on that thread: it might end with it.
func TestForker_HasAThreadOfItsOwn(t *testing.T) {
	f := newForker()
	defer f.close()
	thread := func() int {
		tid := make(chan int, 1)
		f.work <- func() { tid <- unix.Gettid() }
		return <-tid
	}
	first := thread()
	for range 50 {
		var others sync.WaitGroup
		for range 20 {
			others.Go(func() {
				if unix.Gettid() == first {
					t.Error("another goroutine runs on the thread")
				}
				runtime.Gosched()
			})
		}
		if now := thread(); now != first {
			t.Errorf("the thread changed from %d to %d", first, now)
		}
		others.Wait()
	}
}

// findKeeper returns the keeper of a guard: its child that leads a session.
func findKeeper(guard int) int {
	all, _ := process.List()
	for _, p := range all {
		if p.Parent == guard && !p.Dead() {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
			if strings.Contains(string(b), "GUARD_TEST=keeper") {
				return p.PID
			}
		}
	}
	return 0
}

func keeperOf(t *testing.T, guard int) (pid int) {
	t.Helper()
	eventually(t, "a keeper", 2*time.Second, func() bool { pid = findKeeper(guard); return pid != 0 })
	return pid
}

// stubborn is a command that ignores TERM, with a child that left its group.
const stubborn = `trap "" TERM; setsid sh -c "trap '' TERM; while :; do sleep 0.1; done" & echo $$ >> OUT; echo $! >> OUT; while :; do sleep 0.1; done`

func startGuard(t *testing.T, w Word) (guard *exec.Cmd, daemon fileDaemon, pids [2]int) {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	daemon = fileDaemon(filepath.Join(dir, "word"))
	daemon.say(t, w)
	guard = exec.Command(os.Args[0])
	guard.Env = append(os.Environ(), "GUARD_TEST=guard", "GUARD_TEST_WORD="+string(daemon), "GUARD_TEST_SCRIPT="+strings.ReplaceAll(stubborn, "OUT", out))
	if testing.Verbose() {
		guard.Stderr = os.Stderr
	}
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = guard.Process.Kill(); _ = guard.Wait() })
	pids = [2]int{pidOf(t, out, 0), pidOf(t, out, 1)}
	eventually(t, "a report", 2*time.Second, func() bool {
		b, _ := os.ReadFile(string(daemon) + ".status")
		var s Status
		return json.Unmarshal(b, &s) == nil && s.PID == pids[0]
	})
	return guard, daemon, pids
}

func TestRun_NothingOutlivesAKilledGuard(t *testing.T) {
	guard, _, pids := startGuard(t, until(1, time.Minute))
	k := keeperOf(t, guard.Process.Pid)
	_ = guard.Process.Kill()
	_ = guard.Wait()
	took := eventually(t, "the end", time.Second, func() bool { return !alive(pids[0]) && !alive(pids[1]) })
	eventually(t, "the keeper's end", time.Second, func() bool { return !alive(k) })
	t.Logf("gone after %s", took)
}

func TestRun_TheKernelEndsTheCommandWhenGuardAndKeeperAreKilled(t *testing.T) {
	guard, _, pids := startGuard(t, until(1, time.Minute))
	_ = syscall.Kill(keeperOf(t, guard.Process.Pid), syscall.SIGKILL)
	_ = guard.Process.Kill()
	_ = guard.Wait()
	eventually(t, "the end", time.Second, func() bool { return !alive(pids[0]) })
	_ = syscall.Kill(pids[1], syscall.SIGKILL) // who left the group needs the keeper
}

func TestRun_AStoppedGuardsCommandIsKilledWithinTheMargin(t *testing.T) {
	held := until(1, 0)
	held.Held, held.Deadline = true, 0
	leased := until(1, 2*time.Second)
	for name, w := range map[string]Word{"leased": leased, "held": held} {
		t.Run(name, func(t *testing.T) {
			guard, daemon, pids := startGuard(t, w)
			stopped := clock.System().Now()
			_ = guard.Process.Signal(syscall.SIGSTOP)
			daemon.say(t, Word{Phase: consensus.Vacant, Epoch: 1, Generation: 1}) // it cannot hear this
			limit := w.Deadline.Add(w.Margin)
			if w.Held {
				limit = stopped.Add(w.Margin + 700*time.Millisecond)
			} else {
				for clock.System().Now().Before(w.Deadline.Add(-20 * time.Millisecond)) {
					if !alive(pids[0]) {
						t.Fatal("killed before the deadline")
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			eventually(t, "the end", 3*time.Second, func() bool { return !alive(pids[0]) && !alive(pids[1]) })
			if over := clock.System().Now().Sub(limit); over > 0 {
				t.Errorf("gone %s too late", over)
			}
			_ = guard.Process.Signal(syscall.SIGCONT)
			eventually(t, "the report of the end", 3*time.Second, func() bool {
				b, _ := os.ReadFile(string(daemon) + ".status")
				var s Status
				return json.Unmarshal(b, &s) == nil && !s.Running && s.AllowedUntil == 0
			})
		})
	}
}

func TestRun_RefusesToWorkWithoutAKeeper(t *testing.T) {
	cfg := config(&fake{}, "true")
	cfg.Keeper = []string{"/no/such/keeper"}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "start keeper") {
		t.Errorf("got %v", err)
	}
	if _, err := Run(t.Context(), Config{}); err == nil {
		t.Error("an empty config was accepted")
	}
}
