package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/process"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("EXEC_TEST_DAEMON"); dir != "" { // a daemon to be killed
		d := newDriver(nil, dir)
		_, err := runner{d, KindStop}.Do(context.Background(), task(KindStop, os.Getenv("EXEC_TEST_SPEC")), fence())
		fmt.Println("not killed:", err)
		os.Exit(3)
	}
	goleak.VerifyTestMain(m)
}

func newDriver(t *testing.T, dir string) *Driver {
	boot, err := clock.BootID()
	if err == nil {
		var d *Driver
		if d, err = New(Config{Dir: dir, Region: "east", Boot: boot, Grace: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}); err == nil {
			return d
		}
	}
	if t == nil {
		panic(err)
	}
	t.Fatal(err)
	return nil
}

func task(kind, spec string) agent.Task {
	ref := consensus.StepRef{Plan: "P1", Step: 2}
	return agent.Task{ID: consensus.TaskOf(ref), Task: consensus.Task{Ref: ref, Kind: kind, Region: "east", Spec: json.RawMessage(spec), Attempt: 4}}
}

func fence() agent.Fence {
	return agent.Fence{Epochs: map[topology.Role]consensus.Epoch{"ingestion": 7, "query": 8}, Generation: 3, Check: func() error { return nil }, Confirm: func(context.Context) error { return nil }}
}

// hook writes a script and returns the spec that runs it.
func hook(t *testing.T, script string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(Hook{Argv: append([]string{path}, args...), Role: "ingestion", Timeout: Duration(20 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func withTimeout(spec, d string) string { return strings.Replace(spec, `"20s"`, `"`+d+`"`, 1) }

func do(t *testing.T, d *Driver, kind, spec string) (Evidence, error) {
	t.Helper()
	b, err := runner{d, kind}.Do(t.Context(), task(kind, spec), fence())
	var e Evidence
	if err == nil {
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
	}
	if pids, _ := filepath.Glob(filepath.Join(d.cfg.Dir, "*.pid")); len(pids) != 0 {
		t.Errorf("pid files are left: %v", pids)
	}
	return e, err
}

func TestHook_HasItsEnvironmentAndNoMore(t *testing.T) {
	t.Setenv("DAEMON_SECRET", "hunter2")
	t.Setenv("HOME", "/nowhere")
	d := newDriver(t, t.TempDir())
	e, err := do(t, d, KindStop, hook(t, `echo "args: $*"; pwd; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort; cat; echo err >&2`, "a b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	got := e.Hooks[0]
	before, mark, _ := strings.Cut(got.Output, "HOLDFAST_HOOK=")
	_, after, _ := strings.Cut(mark, "\n")
	want := "args: a b c\n/\nHOLDFAST_ATTEMPT=4\nHOLDFAST_EPOCH=7\nHOLDFAST_GENERATION=3\n" +
		"HOLDFAST_PLAN=P1\nHOLDFAST_REGION=east\nHOLDFAST_ROLE=ingestion\nHOLDFAST_STEP=3\nHOLDFAST_UNDO=0\n" +
		"HOME=/nowhere\nLANG=C.UTF-8\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nerr\n"
	if before+after != want {
		t.Errorf("output:\n%s\nwant:\n%s", got.Output, want)
	}
	if got.ExitCode != 0 || got.Attempt != 4 || got.Role != "ingestion" || got.Took <= 0 {
		t.Errorf("result %+v", got)
	}
	info, err := os.Stat(filepath.Join(d.cfg.Dir, "P1-03-4.log"))
	if err != nil || got.Log != filepath.Join(d.cfg.Dir, "P1-03-4.log") || info.Mode().Perm() != 0o600 {
		t.Errorf("log %s: %v, %v", got.Log, info, err)
	}
}

func TestHook_FailureIsClear(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	noInterpreter := filepath.Join(dir, "no-interpreter")
	noHead := filepath.Join(dir, "no-head")
	_ = os.WriteFile(plain, []byte("x"), 0o644)
	_ = os.WriteFile(noInterpreter, []byte("#!/no/such/shell\n"), 0o755)
	_ = os.WriteFile(noHead, []byte("echo hi\n"), 0o755)
	argv := func(a string) string { return `{"argv":["` + a + `"],"role":"ingestion"}` }
	for spec, want := range map[string]string{
		hook(t, "echo nearly; exit 9"):              "exit status 9; after",
		hook(t, "echo why >&2; exit 1"):             "and ends with: why",
		hook(t, "kill -9 $$"):                       "signal: killed",
		argv("/no/such/hook"):                       "hook /no/such/hook does not exist on this node: install it here",
		argv("nosuchhook"):                          "is in none of /usr/local/sbin",
		argv("./hook"):                              "relative path: name it with its whole path",
		argv(plain):                                 "is not executable: run `chmod 755 " + plain,
		argv(dir):                                   "is a folder",
		argv(noInterpreter):                         "the interpreter in its first line does not exist",
		argv(noHead):                                "has no first line such as #!/bin/sh",
		`{"argv":["/bin/true"],"role":"other"}`:     "for role other, which plan P1 does not move",
		`{"argv":[],"role":"ingestion"}`:            "has no argv",
		`{"argv":["x"],"role":"../x"}`:              "role",
		`{"argv":["x"],"rolle":"x"}`:                "unknown field",
		`[]`:                                        "want 1 to 16",
		`{"argv":["x"],"role":"r","timeout":"5"}`:   "want a duration",
		`{"argv":["x"],"role":"r","timeout":"-5s"}`: "above 0",
		``: "read hooks",
	} {
		_, err := do(t, newDriver(t, t.TempDir()), KindStart, spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgot  %v\n\twant %s", spec, err, want)
		}
	}
}

func TestHook_FoundInThePathOfHooks(t *testing.T) {
	if _, err := do(t, newDriver(t, t.TempDir()), KindStart, `{"argv":["true"],"role":"query"}`); err != nil {
		t.Error(err)
	}
}

func TestHook_OneThatIgnoresTermIsKilled(t *testing.T) {
	d := newDriver(t, t.TempDir())
	pids := filepath.Join(t.TempDir(), "pids")
	start := time.Now()
	_, err := do(t, d, KindStop, withTimeout(hook(t, `trap "" TERM; echo $$ > `+pids+`; sleep 77 & echo $! >> `+pids+`; echo working; while :; do sleep 1; done`), "300ms"))
	if err == nil || !strings.Contains(err.Error(), "timeout of 300ms passed") || !strings.Contains(err.Error(), "ends with: working") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	allDead(t, pids)
}

func TestHook_EndsWithItsTask(t *testing.T) {
	d := newDriver(t, t.TempDir())
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		waitFor(t, pids, 1)
		cancel(agent.ErrLost)
	}()
	_, err := runner{d, KindStop}.Do(ctx, task(KindStop, hook(t, `echo $$ > `+pids+`; exec sleep 77`)), fence())
	if !errors.Is(err, agent.ErrLost) {
		t.Errorf("error %v", err)
	}
	allDead(t, pids)
}

func TestHook_NothingRunsOnceTheClaimIsLost(t *testing.T) {
	d := newDriver(t, t.TempDir())
	here, log := fence(), fence()
	here.Check = func() error { return agent.ErrLost }
	log.Confirm = func(context.Context) error { return agent.ErrLost }
	for _, f := range []agent.Fence{here, log} {
		mark := filepath.Join(t.TempDir(), "ran")
		_, err := runner{d, KindStop}.Do(t.Context(), task(KindStop, hook(t, "touch "+mark)), f)
		if _, ran := os.Stat(mark); !errors.Is(err, agent.ErrLost) || ran == nil {
			t.Errorf("error %v, ran %v", err, ran == nil)
		}
		if pids, _ := filepath.Glob(filepath.Join(d.cfg.Dir, "*.pid")); len(pids) != 0 {
			t.Errorf("pid files are left: %v", pids)
		}
	}
}

func TestHook_ChildThatOutlivesSuccessIsLeftAlone(t *testing.T) {
	d := newDriver(t, t.TempDir())
	pids := filepath.Join(t.TempDir(), "pids")
	start := time.Now()
	e, err := do(t, d, KindStart, hook(t, `sleep 77 & echo $! > `+pids+`; echo up`)) // it keeps the pipe open, too
	if err != nil || e.Hooks[0].Output != "up\n" {
		t.Errorf("%+v, %v", e, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("waited for the child: %s", took)
	}
	pid := waitFor(t, pids, 1)[0]
	if p, err := process.Read(pid); err != nil || p.Dead() {
		t.Errorf("the child was ended: %+v, %v", p, err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestHook_ChildThatOutlivesFailureIsEnded(t *testing.T) {
	d := newDriver(t, t.TempDir())
	pids := filepath.Join(t.TempDir(), "pids")
	_, err := do(t, d, KindStart, hook(t, `setsid sleep 77 & echo $! > `+pids+`; sleep 0.2; exit 1`))
	if err == nil {
		t.Error("no error")
	}
	allDead(t, pids)
}

func TestHook_OutputIsBounded(t *testing.T) {
	d := newDriver(t, t.TempDir())
	e, err := do(t, d, KindCanary, hook(t, `head -c 3000000 /dev/zero | tr '\0' x; printf the-end`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(e.Hooks[0].Log)
	head, kept, _ := strings.Cut(string(b), "\n")
	if err != nil || len(kept) != outputKept || !strings.HasSuffix(kept, "xthe-end") || head != fmt.Sprintf("[holdfast: %d bytes before this were dropped]", 3000007-outputKept) {
		t.Errorf("log has %d bytes, head %q, %v", len(b), head[:min(80, len(head))], err)
	}
	if o := e.Hooks[0].Output; len(o) != evidenceTail || !strings.HasSuffix(o, "the-end") {
		t.Errorf("evidence has %d bytes", len(o))
	}
}

func TestDone_OnlyThisVeryStepOnThisBoot(t *testing.T) {
	d := newDriver(t, t.TempDir())
	count := filepath.Join(t.TempDir(), "count")
	spec := hook(t, "echo x >> "+count)
	tk := task(KindStop, spec)
	isDone := func(d *Driver, tk agent.Task) bool {
		t.Helper()
		e, ok, err := runner{d, KindStop}.Done(t.Context(), tk)
		if err != nil || ok != (len(e) > 0) {
			t.Errorf("done %v, evidence %s, %v", ok, e, err)
		}
		return ok
	}
	if isDone(d, tk) {
		t.Error("done before it ran")
	}
	if _, err := do(t, d, KindStop, spec); err != nil {
		t.Fatal(err)
	}
	later := tk
	later.Attempt = 9
	if !isDone(d, tk) || !isDone(d, later) {
		t.Error("not done after success")
	}
	undo, step, plan, other := tk, tk, tk, tk
	undo.Ref.Undo, step.Ref.Step, plan.Ref.Plan, other.Spec = 1, 5, "P2", json.RawMessage(hook(t, "true"))
	for _, tk := range []agent.Task{undo, step, plan, other} {
		if isDone(d, tk) {
			t.Errorf("%+v counts as done", tk.Ref)
		}
	}
	rebooted := newDriver(t, d.cfg.Dir)
	rebooted.cfg.Boot = "another"
	if isDone(rebooted, tk) {
		t.Error("done on another boot")
	}
	if _, err := do(t, d, KindStop, spec); err != nil { // Do by itself goes on after what succeeded
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(count); string(b) != "x\n" {
		t.Errorf("ran %q", b)
	}
	if err := os.WriteFile(d.donePath("P1-03"), []byte(`{"boo`), 0o600); err != nil {
		t.Fatal(err)
	}
	if isDone(d, tk) {
		t.Error("a torn record counts")
	}
}

func TestDo_SeveralHooksRunInOrderAndGoOnAfterWhatSucceeded(t *testing.T) {
	d := newDriver(t, t.TempDir())
	dir := t.TempDir()
	log, gate := filepath.Join(dir, "log"), filepath.Join(dir, "gate")
	one := hook(t, "echo one $HOLDFAST_EPOCH >> "+log)
	two := strings.Replace(hook(t, "test -e "+gate+" || exit 1; echo two $HOLDFAST_EPOCH >> "+log), `"ingestion"`, `"query"`, 1)
	spec := "[" + one + "," + two + "]"
	if _, err := do(t, d, KindStart, spec); err == nil {
		t.Fatal("the second hook did not fail")
	}
	_ = os.WriteFile(gate, nil, 0o600)
	e, err := do(t, d, KindStart, spec)
	if err != nil || len(e.Hooks) != 2 {
		t.Fatalf("%+v, %v", e, err)
	}
	if b, _ := os.ReadFile(log); string(b) != "one 7\ntwo 8\n" {
		t.Errorf("ran:\n%s", b)
	}
}

func TestDo_EndsWhatAKilledDaemonLeft(t *testing.T) {
	for name, script := range map[string]string{
		"the hook itself":     `trap "" TERM; echo $$ > PIDS; while :; do sleep 1; done`,
		"who left the group":  `setsid sleep 77 & echo $! > PIDS; wait`,
		"orphans of the hook": `sleep 77 & echo $! > PIDS; echo $$ >> PIDS; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			dir, pids := t.TempDir(), filepath.Join(t.TempDir(), "pids")
			daemon := exec.Command(os.Args[0])
			daemon.Env = append(os.Environ(), "EXEC_TEST_DAEMON="+dir, "EXEC_TEST_SPEC="+hook(t, strings.ReplaceAll(script, "PIDS", pids)))
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			n := strings.Count(script, "PIDS")
			list := waitFor(t, pids, n)
			_ = daemon.Process.Kill()
			_ = daemon.Wait()
			if name == "orphans of the hook" {
				_ = syscall.Kill(list[1], syscall.SIGKILL) // its leader is gone, too
			}
			if p, err := process.Read(list[0]); err != nil || p.Dead() {
				t.Fatalf("nothing survived: %v", err)
			}
			// Another kind of hook for the same role must not run beside it.
			e, err := do(t, newDriver(t, dir), KindStart, hook(t, `for p in $(cat `+pids+`); do test -e /proc/$p && ! grep -q '^State:.*Z' /proc/$p/status && echo alive $p; done; echo ran`))
			if err != nil || e.Hooks[0].Output != "ran\n" {
				t.Errorf("%+v, %v", e, err)
			}
			allDead(t, pids)
		})
	}
}

func TestRecover_SparesOtherBootsAndReusedNumbers(t *testing.T) {
	d := newDriver(t, t.TempDir())
	sleeper := exec.Command("sleep", "77")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	f, err := process.Family{Mark: "HOLDFAST_HOOK=none"}.Lead(sleeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	reused := f
	reused.Start--
	for _, r := range []running{{Family: f, Boot: "another"}, {Family: reused, Boot: d.cfg.Boot}} {
		if err := d.write(d.pidPath("query", KindStop), r); err != nil {
			t.Fatal(err)
		}
		if err := d.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(d.pidPath("query", KindStop)); err == nil {
			t.Error("the pid file is left")
		}
	}
	if p, err := process.Read(sleeper.Process.Pid); err != nil || p.Dead() {
		t.Error("a stranger was ended")
	}
	if err := d.write(d.pidPath("query", KindStop), running{Family: f, Boot: d.cfg.Boot}); err != nil {
		t.Fatal(err)
	}
	if err := d.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if p, err := process.Read(sleeper.Process.Pid); err == nil && !p.Dead() {
		t.Error("a survivor was spared")
	}
	_ = os.WriteFile(d.pidPath("query", KindStop), []byte("{"), 0o600)
	if err := d.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "make sure that none is, and remove it") {
		t.Errorf("a torn pid file: %v", err)
	}
}

func TestPrune_KeepsTheNewest(t *testing.T) {
	d := newDriver(t, t.TempDir())
	for i := range filesKept + 10 {
		p := filepath.Join(d.cfg.Dir, fmt.Sprintf("P-%03d.log", i))
		_ = os.WriteFile(p, nil, 0o600)
		at := time.Unix(int64(i)*1000, 0)
		_ = os.Chtimes(p, at, at)
	}
	d.prune()
	left, _ := filepath.Glob(filepath.Join(d.cfg.Dir, "*.log"))
	if len(left) != filesKept || filepath.Base(slices.Min(left)) != "P-010.log" {
		t.Errorf("%d left, oldest %s", len(left), slices.Min(left))
	}
}

func TestStepName_RefusesWhatIsNoFileName(t *testing.T) {
	for _, id := range []string{"", "../x", "a/b", ".hidden", "a b"} {
		tk := task(KindStop, "")
		tk.Ref.Plan = consensus.PlanID(id)
		if _, err := stepName(tk); err == nil {
			t.Errorf("%q accepted", id)
		}
	}
}

// waitFor reads n numbers from a file as soon as they are there.
func waitFor(t *testing.T, path string, n int) []int {
	t.Helper()
	for range 500 {
		b, _ := os.ReadFile(path)
		if f := strings.Fields(string(b)); len(f) == n && strings.HasSuffix(string(b), "\n") {
			var pids []int
			for _, s := range f {
				pid, err := strconv.Atoi(s)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
			return pids
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s never had %d numbers", path, n)
	return nil
}

func allDead(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range waitFor(t, path, len(strings.Fields(string(b)))) {
		if p, err := process.Read(pid); err == nil && !p.Dead() {
			t.Errorf("process %d lives", pid)
		}
	}
}
