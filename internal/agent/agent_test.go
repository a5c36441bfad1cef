package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a log of one member that lives in memory. Faults are values: the
// n-th proposal of a kind meets fault[kind][n].
type cluster struct {
	t     *testing.T
	mu    sync.Mutex
	state consensus.State
	told  []chan struct{}
	log   []string
	fault map[string][]error // consumed from the front; nil is no fault
	lost  map[string]bool    // apply, but answer unknown, for as long as true
	lag   *consensus.State   // when set, what State shows
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, state: consensus.NewState(), fault: map[string][]error{}, lost: map[string]bool{}}
	c.must(&consensus.Configure{
		Settings: consensus.Settings{Digest: "d", Lease: consensus.DefaultLeaseTiming,
			Roles: map[topology.Role]consensus.RoleSettings{"ingestion": {Initial: "east", Policy: consensus.Hold}}},
		Members: map[topology.Node]consensus.Member{"east-1": {Region: "east"}, "west-1": {Region: "west"}},
	})
	c.must(&consensus.OpenSession{Node: "east-1", Session: "s1", Boot: "b"})
	return c
}

func (c *cluster) State() consensus.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lag != nil {
		return *c.lag
	}
	return c.state
}

func (c *cluster) Watch(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, ch)
	return ch
}

func (c *cluster) tell() {
	for _, ch := range c.told {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (c *cluster) Propose(ctx context.Context, cmd consensus.Command) (consensus.Index, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	b, err := consensus.EncodeCommand(cmd)
	if err != nil {
		return 0, err
	}
	if cmd, err = consensus.DecodeCommand(b); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, cmd.Kind())
	if f := c.fault[cmd.Kind()]; len(f) > 0 {
		c.fault[cmd.Kind()] = f[1:]
		if f[0] != nil {
			return 0, f[0]
		}
	}
	next, err := c.state.Apply(cmd)
	if err == nil {
		c.state = next
		c.tell()
	}
	if c.lost[cmd.Kind()] {
		return 0, consensus.ErrUnknownOutcome
	}
	return consensus.Index(len(c.log)), err
}

func (c *cluster) must(b consensus.Body) {
	c.t.Helper()
	if _, err := c.Propose(context.Background(), consensus.Command{At: time.Unix(0, 0), By: "test", Body: b}); err != nil {
		c.t.Fatalf("%T: %v", b, err)
	}
}

// plan makes a plan of one step per kind, in region east, and starts the first.
func (c *cluster) plan(id consensus.PlanID, kinds ...string) {
	c.t.Helper()
	p := consensus.Plan{Kind: consensus.Reseed, From: "west", To: "east", Hash: "h", Phase: consensus.PlanRunning, By: "test"}
	for _, k := range kinds {
		p.Steps = append(p.Steps, consensus.Step{Kind: k, Region: "east", Title: k, Timeout: time.Minute,
			Undo: []consensus.Step{{Kind: "undo", Region: "east", Title: "undo"}}})
		p.Journal = append(p.Journal, consensus.StepRecord{State: consensus.StepPending})
	}
	c.mu.Lock() // the rules of making a plan are not what is tested here
	plans := map[consensus.PlanID]consensus.Plan{id: p}
	for k, v := range c.state.Plans {
		plans[k] = v
	}
	c.state.Plans = plans
	c.mu.Unlock()
	c.must(&consensus.StartStep{Step: consensus.StepRef{Plan: id}})
}

func (c *cluster) step(id consensus.PlanID) consensus.StepRecord {
	return c.State().Plans[id].Journal[0]
}

func (c *cluster) count(kind string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.log {
		if k == kind {
			n++
		}
	}
	return n
}

// runner is a Runner made of functions.
type runner struct {
	kind string
	done func(context.Context, Task) (Evidence, bool, error)
	do   func(context.Context, Task, Fence) (Evidence, error)
}

func (r runner) Kind() string { return r.kind }
func (r runner) Done(ctx context.Context, t Task) (Evidence, bool, error) {
	if r.done == nil {
		return nil, false, nil
	}
	return r.done(ctx, t)
}
func (r runner) Do(ctx context.Context, t Task, f Fence) (Evidence, error) { return r.do(ctx, t, f) }

func start(t *testing.T, c *cluster, runners ...Runner) (stop func() error) {
	t.Helper()
	a, err := New(Config{Node: "east-1", Region: "east", Session: "s1", Version: "v1", State: c, Propose: c,
		Runners: runners, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- a.Run(ctx) }()
	return func() error { cancel(); return <-end }
}

func ok(e string) func(context.Context, Task, Fence) (Evidence, error) {
	return func(context.Context, Task, Fence) (Evidence, error) { return Evidence(e), nil }
}

func TestAgent_RunsATaskAndRecordsItsEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		stop := start(t, c, runner{kind: "k", do: func(ctx context.Context, task Task, f Fence) (Evidence, error) {
			if err := f.Check(); err != nil {
				t.Errorf("check: %v", err)
			}
			if err := f.Confirm(ctx); err != nil {
				t.Errorf("confirm: %v", err)
			}
			if _, known := f.Epochs["ingestion"]; !known || f.Generation != 1 {
				t.Errorf("fence %+v", f)
			}
			if task.ID != "p/01" || task.State().Tasks["p/01"].Claim.Session != "s1" {
				t.Errorf("task %+v", task)
			}
			return Evidence(`{"x":1}`), nil
		}})
		c.plan("p", "k")
		settle(time.Second)
		if r := c.step("p"); r.State != consensus.StepDone || string(r.Evidence) != `{"x":1}` {
			t.Errorf("journal %+v", r)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestAgent_DoesNotRepeatAnEffectThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.plan("p", "k")
		stop := start(t, c, runner{kind: "k",
			done: func(context.Context, Task) (Evidence, bool, error) { return Evidence(`"before"`), true, nil },
			do: func(context.Context, Task, Fence) (Evidence, error) {
				t.Error("done again")
				return nil, nil
			}})
		settle(time.Second)
		if r := c.step("p"); r.State != consensus.StepDone || string(r.Evidence) != `"before"` {
			t.Errorf("journal %+v", r)
		}
		_ = stop()
	})
}

func TestAgent_LeavesOtherRegionsAndOtherSessionsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.plan("p", "k")
		c.must(&consensus.OpenSession{Node: "east-1", Session: "s2", Boot: "b"}) // we are the former life
		stop := start(t, c, runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			t.Error("ran without a session")
			return nil, nil
		}})
		settle(time.Minute)
		if n := c.count("task.claim"); n != 0 {
			t.Errorf("%d claims", n)
		}
		_ = stop()
	})
}

func TestAgent_FailsItsTaskOn(t *testing.T) {
	for name, tc := range map[string]struct {
		r    runner
		want string
	}{
		"an error":         {runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) { return nil, errors.New("disk full") }}, "disk full"},
		"a panic":          {runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) { panic("oops") }}, "panicked: oops"},
		"a panic in Done":  {runner{kind: "k", done: func(context.Context, Task) (Evidence, bool, error) { panic("oops") }}, "panicked: oops"},
		"an error in Done": {runner{kind: "k", done: func(context.Context, Task) (Evidence, bool, error) { return nil, false, errors.New("no route") }}, "ask whether k is done: no route"},
		"an unknown kind":  {runner{kind: "other", do: ok(`1`)}, `kind "k" is unknown to holdfast v1 on east-1, which knows other: upgrade it`},
		"broken evidence":  {runner{kind: "k", do: ok(`{`)}, "not JSON"},
		"huge evidence":    {runner{kind: "k", do: ok(`"` + strings.Repeat("x", 1<<20) + `"`)}, "the state takes"},
		"gross evidence":   {runner{kind: "k", do: ok(`"` + strings.Repeat("x", 5<<20) + `"`)}, "the log takes"},
		"a long error": {runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			return nil, errors.New(strings.Repeat("ä", 5000))
		}}, "ääää"},
		"its timeout": {runner{kind: "k", do: func(ctx context.Context, _ Task, _ Fence) (Evidence, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("copy: %w", ctx.Err())
		}}, "copy: context deadline exceeded (the task's timeout of 1m0s passed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				stop := start(t, c, tc.r)
				c.plan("p", "k")
				settle(2 * time.Minute)
				r := c.step("p")
				if r.State != consensus.StepFailed || !strings.Contains(r.Error, tc.want) || len(r.Error) > errorBytesMax {
					t.Errorf("journal %.300v, want %q", r, tc.want)
				}
				if n := c.count("task.claim"); n > 2 {
					t.Errorf("claimed %d times", n)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAgent_ProposesAgainUntilTheLogAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.fault["task.claim"] = []error{consensus.ErrNoLeader, consensus.ErrUnknownOutcome, context.DeadlineExceeded}
		c.fault["task.finish"] = []error{consensus.ErrNoLeader, consensus.ErrNoLeader, consensus.ErrUnknownOutcome}
		runs := 0
		stop := start(t, c, runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			runs++
			return Evidence(`1`), nil
		}})
		c.plan("p", "k")
		settle(time.Minute)
		if r := c.step("p"); r.State != consensus.StepDone || runs != 1 {
			t.Errorf("journal %+v after %d runs", r, runs)
		}
		_ = stop()
	})
}

func TestAgent_StopsAskingOnceALostAnswerTookEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.lost["task.finish"] = true
		stop := start(t, c, runner{kind: "k", do: ok(`1`)})
		c.plan("p", "k")
		settle(time.Second)
		n := c.count("task.finish")
		settle(time.Hour)
		if r := c.step("p"); r.State != consensus.StepDone {
			t.Errorf("journal %+v", r)
		}
		if m := c.count("task.finish"); m > n || n > 2 {
			t.Errorf("proposed %d times in the first second, then %d", n, m-n)
		}
		_ = stop()
	})
}

func TestAgent_AbortCancelsAndIsWaitedForBeforeTheUndo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var mu sync.Mutex
		var story []string
		tell := func(s string) { mu.Lock(); story = append(story, s); mu.Unlock() }
		stop := start(t, c,
			runner{kind: "k", do: func(ctx context.Context, _ Task, f Fence) (Evidence, error) {
				tell("do")
				<-ctx.Done()
				if !errors.Is(context.Cause(ctx), ErrLost) || !errors.Is(f.Check(), ErrLost) {
					t.Errorf("cause %v, check %v", context.Cause(ctx), f.Check())
				}
				if err := f.Confirm(context.Background()); !consensus.Refused(err, consensus.CodeStale) {
					t.Errorf("confirm: %v", err)
				}
				time.Sleep(time.Minute) // slow to end
				tell("ended")
				return Evidence(`1`), nil
			}},
			runner{kind: "undo", do: func(context.Context, Task, Fence) (Evidence, error) { tell("undo"); return nil, nil }})
		c.plan("p", "k")
		settle(time.Second)
		c.must(&consensus.AbortPlan{Plan: "p", Why: "test"})
		c.must(&consensus.StartStep{Step: consensus.StepRef{Plan: "p", Undo: 1}})
		settle(2 * time.Minute)
		if got := strings.Join(story, " "); got != "do ended undo" {
			t.Errorf("story: %s", got)
		}
		if r := c.step("p"); r.State == consensus.StepDone || r.Undone != 1 {
			t.Errorf("journal %+v", r)
		}
		_ = stop()
	})
}

func TestAgent_ANewSessionEndsTheOldClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ended := false
		stop := start(t, c, runner{kind: "k", do: func(ctx context.Context, _ Task, f Fence) (Evidence, error) {
			<-ctx.Done()
			ended = true
			return nil, ctx.Err()
		}})
		c.plan("p", "k")
		settle(time.Second)
		c.must(&consensus.OpenSession{Node: "east-1", Session: "s2", Boot: "b"})
		settle(time.Second)
		if !ended {
			t.Error("the old session's task goes on")
		}
		if task := c.State().Tasks["p/01"]; task.Claim.Session != "" || task.Attempt != 2 {
			t.Errorf("task %+v", task)
		}
		_ = stop()
	})
}

func TestAgent_PlansRunBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		stop := start(t, c, runner{kind: "slow", do: func(ctx context.Context, _ Task, _ Fence) (Evidence, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, runner{kind: "k", do: ok(`1`)})
		c.plan("a", "slow")
		c.plan("b", "k")
		settle(time.Second)
		if r := c.step("b"); r.State != consensus.StepDone {
			t.Errorf("plan b waits: %+v", r)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if r := c.step("a"); r.State != consensus.StepRunning { // a stop is no failure
			t.Errorf("plan a: %+v", r)
		}
	})
}

func TestAgent_StateThatLagsIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		runs := 0
		stop := start(t, c, runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			runs++
			return nil, nil
		}})
		c.fault["task.claim"] = []error{consensus.ErrNoLeader} // time to stop the clock of this node
		c.plan("p", "k")
		c.mu.Lock()
		old := c.state
		c.lag = &old // nothing more is applied here
		c.mu.Unlock()
		settle(time.Minute)
		if runs != 0 {
			t.Error("ran before the claim was applied here")
		}
		c.mu.Lock()
		c.lag = nil
		c.tell()
		c.mu.Unlock()
		settle(time.Second)
		c.mu.Lock()
		c.lag = &old // and now it looks as if the task were there again
		c.mu.Unlock()
		settle(time.Minute)
		if runs != 1 || c.step("p").State == consensus.StepFailed {
			t.Errorf("%d runs", runs)
		}
		_ = stop()
	})
}

func TestAgent_ASecondLifeOfAnAttemptRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		runs := 0
		stop := start(t, c, runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			if runs++; runs < 3 {
				return nil, errors.New("not yet")
			}
			return nil, nil
		}})
		c.plan("p", "k")
		for range 2 {
			settle(10 * time.Millisecond)
			ref := consensus.StepRef{Plan: "p"}
			c.must(&consensus.RetryTask{Step: ref})
			c.must(&consensus.StartStep{Step: ref})
		}
		settle(5 * time.Second)
		if r := c.step("p"); r.State != consensus.StepDone || runs != 3 {
			t.Errorf("journal %+v after %d runs", r, runs)
		}
		_ = stop()
	})
}

func TestAgent_ASecondLifeThatLooksLikeTheFirstRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		runs := 0
		stop := start(t, c, runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			if runs++; runs > 1 {
				return nil, nil
			}
			c.mu.Lock()
			now := c.state
			c.lag = &now // what follows is applied here all at once
			c.mu.Unlock()
			return nil, errors.New("not yet")
		}})
		c.plan("p", "k")
		settle(100 * time.Millisecond)
		c.must(&consensus.RetryTask{Step: consensus.StepRef{Plan: "p"}})
		c.must(&consensus.StartStep{Step: consensus.StepRef{Plan: "p"}})
		c.mu.Lock()
		next := c.state.Tasks["p/01"]
		next.Attempt = 1 // as the first
		c.state.Tasks = map[consensus.TaskID]consensus.Task{"p/01": next}
		c.lag = nil
		c.tell()
		c.mu.Unlock()
		settle(5 * time.Second)
		if r := c.step("p"); r.State != consensus.StepDone || runs != 2 {
			t.Errorf("journal %+v after %d runs", r, runs)
		}
		_ = stop()
	})
}

func TestAgent_StopIsBoundedAndNamesWhoDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		free := make(chan struct{})
		stop := start(t, c, runner{kind: "k", do: func(context.Context, Task, Fence) (Evidence, error) {
			<-free
			return nil, nil
		}})
		c.plan("p", "k")
		settle(time.Second)
		at := time.Now()
		err := stop()
		if err == nil || !strings.Contains(err.Error(), "p/01 (k)") || time.Since(at) != stopDefault {
			t.Errorf("after %s: %v", time.Since(at), err)
		}
		close(free)
	})
}

func TestNew_RefusesTwoRunnersOfAKind(t *testing.T) {
	c := newCluster(t)
	cfg := Config{Node: "east-1", Region: "east", Session: "s1", State: c, Propose: c, Log: slog.New(slog.DiscardHandler),
		Runners: []Runner{runner{kind: "k"}, runner{kind: "k"}}}
	if _, err := New(cfg); err == nil {
		t.Error("accepted")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("an empty config was accepted")
	}
}

// settle lets d pass, and then everything come to rest.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
