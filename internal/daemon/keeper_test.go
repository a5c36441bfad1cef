package daemon

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/guard"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// holding is a keeper of the eastern node, and its lives.
type holding struct {
	*keeper
	t     *testing.T
	log   *memory
	clock *bubble
	dir   string
	stop  func()
}

func startHolding(t *testing.T, policy consensus.Policy) *holding {
	h := &holding{t: t, log: newMemory(t, policy), clock: newBubble(), dir: t.TempDir()}
	h.live()
	return h
}

// live begins a life of the daemon.
func (h *holding) live() {
	h.keeper = newKeeper(eastNode, "session of us-east-1", bootID, h.dir, consensus.DefaultLeaseTiming, h.clock, quiet)
	h.propose, h.keeper.state = h.log, h.log.state
	ctx, cancel := context.WithCancel(h.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { h.run(ctx, h.log.tells) })
	h.stop = func() { cancel(); wg.Wait() }
}

func (h *holding) want(active bool, when string) {
	h.t.Helper()
	synctest.Wait()
	if v, _ := h.verdict(ingestion); v.Active != active {
		h.t.Fatalf("%s: active is %v, want %v: %+v", when, v.Active, active, v)
	}
}

// drain puts a live plan into the log that has drained the role, and returns
// the task of its release.
func (h *holding) drain() agent.Task {
	h.t.Helper()
	p := consensus.Plan{
		Kind: consensus.Planned, Hash: "h", From: east, To: west, Roles: []topology.Role{ingestion},
		Epochs:   map[topology.Role]consensus.Epoch{ingestion: h.log.state().Roles[ingestion].Epoch},
		LinkTurn: h.log.state().LinkTurn(),
		Steps:    []consensus.Step{{Kind: consensus.StepDrain}, {Kind: failover.KindRelease, Region: east}},
	}
	h.log.must(h.t, &consensus.CreatePlan{ID: "p", Plan: p})
	h.log.must(h.t, &consensus.DrainRoles{Step: consensus.StepRef{Plan: "p"}, Roles: []consensus.RoleEpoch{{Role: ingestion, Epoch: p.Epochs[ingestion]}}})
	return agent.Task{ID: "t", Task: consensus.Task{Kind: failover.KindRelease}, Plan: h.log.state().Plans["p"], State: h.log.state}
}

var ours = agent.Fence{Check: func() error { return nil }}

func TestKeeper_TakesTheInitialRoleAndKeepsItRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		defer h.stop()
		time.Sleep(time.Second)
		h.want(true, "after the first grant")
		before := count[*consensus.Renew](h.log)
		for range 300 { // 5 minutes
			time.Sleep(time.Second)
			h.want(true, "while renewed")
		}
		if n := count[*consensus.Renew](h.log) - before; n < 140 || n > 160 {
			t.Errorf("%d renewals in 5 minutes, one each 2 s expected", n)
		}
	})
}

func TestKeeper_RenewsAtOnceAfterAGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		defer h.stop()
		time.Sleep(time.Second)
		r := h.log.state().Roles[ingestion]
		h.log.must(t, &consensus.Expire{Role: ingestion, Generation: 1, Epoch: r.Epoch, Sequence: r.Sequence})
		h.want(true, "asked for it, and renewed it, without waiting for a timer")
		if e := h.log.state().Roles[ingestion].Epoch; e != r.Epoch+1 {
			t.Errorf("epoch %d", e)
		}
	})
}

func TestKeeper_AnAnswerThatWasLostCountsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		defer h.stop()
		time.Sleep(time.Second)
		h.log.set(func(m *memory) { m.lose = 1 << 30 }) // applied, and never answered
		time.Sleep(consensus.DefaultLeaseTiming.TTL - consensus.DefaultLeaseTiming.Margin)
		h.want(false, "although the log took each renewal")
		h.log.set(func(m *memory) { m.lose = 0 })
		time.Sleep(200 * time.Millisecond)
		h.want(true, "once one was answered")
	})
}

func TestKeeper_AHolderThatWasToldToHoldGoesOnWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Hold)
		defer h.stop()
		time.Sleep(time.Second)
		h.log.set(func(m *memory) { m.away = true })
		time.Sleep(time.Hour)
		h.want(true, "an hour without a leader")
	})
}

func TestKeeper_AClockThatJumpedIsUnsafeUntilTheNextRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Hold)
		defer h.stop()
		time.Sleep(1500 * time.Millisecond) // far from the next renewal
		h.log.set(func(m *memory) { m.away = true })
		h.clock.jump(2 * time.Second)
		time.Sleep(tickEvery)
		h.want(false, "after a suspend")
		h.log.set(func(m *memory) { m.away = false })
		time.Sleep(retryEvery + 10*time.Millisecond)
		h.want(true, "after a renewal that was sent at once")
	})
}

// A holder that was told to hold and has no quorum could never be made safe
// again by a renewal; a short standstill must not take a healthy Sentry down.
func TestKeeper_AHeldHolderOutlivesAShortStandstillAndNotALongOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Hold)
		defer h.stop()
		time.Sleep(time.Second)
		h.log.set(func(m *memory) { m.away = true })
		time.Sleep(time.Minute) // past its deadline
		h.clock.jump(2 * time.Second)
		time.Sleep(tickEvery)
		h.want(true, "after a short one")
		h.clock.jump(consensus.DefaultLeaseTiming.TTL + time.Second)
		time.Sleep(tickEvery)
		h.want(false, "after one long enough for a person to have moved the role")
	})
}

func TestKeeper_GoesOnWithinItsDeadlineAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		time.Sleep(time.Second)
		h.stop()
		h.log.set(func(m *memory) { m.away = true })
		replayed := h.log.state()
		h.log.set(func(m *memory) { m.s = consensus.NewState() }) // nothing is read yet
		h.live()
		h.want(true, "right after the restart")
		time.Sleep(5 * time.Second)
		h.want(true, "within the deadline")
		h.log.set(func(m *memory) { m.s = replayed })
		time.Sleep(6 * time.Second)
		h.want(false, "past the deadline: replaying the log arms nothing")
		h.stop()
		other := newKeeper(eastNode, "s", "another boot", h.dir, consensus.DefaultLeaseTiming, h.clock, quiet)
		if v, _ := other.verdict(ingestion); v.Leased {
			t.Error("a lease of another boot counts")
		}
	})
}

func TestKeeper_ReleaseIsStickyOverARestartAndAskedForUntilAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		time.Sleep(time.Second)
		task := h.drain()
		h.log.set(func(m *memory) { m.away = true })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := h.release(ctx, task, ours)
		cancel()
		if !errors.Is(err, consensus.ErrNoLeader) {
			t.Fatalf("released without a leader: %v", err)
		}
		h.want(false, "after it gave up")
		h.stop()
		h.live()
		h.want(false, "after a restart")
		go func() {
			time.Sleep(10 * time.Second)
			h.log.set(func(m *memory) { m.away = false })
		}()
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := h.release(ctx, task, ours); err != nil {
			t.Fatal(err)
		}
		if r := h.log.state().Roles[ingestion]; r.Phase != consensus.Vacant || r.Last.Basis != consensus.Acknowledged {
			t.Errorf("role is %+v", r)
		}
		if _, err := h.release(ctx, task, ours); err != nil {
			t.Errorf("released again: %v", err)
		}
		h.stop()
	})
}

func TestKeeper_ReleaseWaitsForGuardedProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Hold)
		defer h.stop()
		time.Sleep(guardsSettle)
		timing := consensus.DefaultLeaseTiming
		g := guard.Status{ID: "g", Role: ingestion, Running: true, PID: 7, Held: true}
		if w, err := h.word(g, 1, timing); err != nil || !w.Allows() || !w.Held {
			t.Fatalf("word %+v, %v", w, err)
		}
		task := h.drain()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := h.release(ctx, task, ours)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "pid 7") {
			t.Fatalf("released over a guard that holds: %v", err)
		}
		go func() {
			time.Sleep(5 * time.Second)
			if w, _ := h.word(g, 1, timing); w.Allows() {
				t.Error("allowed while the role is released")
			}
			g.Running, g.Held = false, false
			_, _ = h.word(g, 1, timing)
		}()
		start := time.Now()
		if _, err := h.release(t.Context(), task, ours); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited < 5*time.Second || waited > 6*time.Second {
			t.Errorf("waited %s for a guard that ended after 5 s", waited)
		}
		if count[*consensus.Release](h.log) != 1 {
			t.Error("not released")
		}
	})
}

func TestKeeper_BindsItselfToDemoteOnlyWhenEveryGuardHasHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Hold)
		defer h.stop()
		time.Sleep(time.Second)
		timing := consensus.DefaultLeaseTiming
		g := guard.Status{ID: "g", Role: ingestion, Running: true}
		if w, _ := h.word(g, 1, timing); !w.Held {
			t.Fatal("not held under the policy hold")
		}
		h.log.must(t, h.log.configure(consensus.Demote, "digest of hold"))
		time.Sleep(30 * time.Second)
		h.want(true, "while it still holds")
		if p := h.log.state().Roles[ingestion].Policy; p != consensus.Hold {
			t.Fatalf("bound to %s although a guard goes by held", p)
		}
		g.Held = true
		w, _ := h.word(g, 1, timing) // this answer may be lost
		if w.Held || w.Deadline == 0 {
			t.Fatalf("still told to hold: %+v", w)
		}
		time.Sleep(5 * time.Second)
		if p := h.log.state().Roles[ingestion].Policy; p != consensus.Hold {
			t.Fatalf("bound to %s although the guard may not have heard", p)
		}
		g.Held, g.AllowedUntil = false, w.Deadline
		_, _ = h.word(g, 1, timing)
		time.Sleep(5 * time.Second)
		if p := h.log.state().Roles[ingestion].Policy; p != consensus.Demote {
			t.Fatalf("bound to %s after every guard had heard", p)
		}
		kept, err := readDeadlines(h.file)
		if err != nil || len(kept) != 1 || kept[0].Holds {
			t.Errorf("a restart would hold: %+v, %v", kept, err)
		}
	})
}

func TestKeeper_TakesNoRoleThatIsNotItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, clk := newMemory(t, consensus.Demote), newBubble()
		k := newKeeper(westNode, "session of eu-west-1", bootID, t.TempDir(), consensus.DefaultLeaseTiming, clk, quiet)
		k.propose, k.state = m, m.state
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { k.run(ctx, m.tells) })
		time.Sleep(10 * time.Second)
		cancel()
		wg.Wait()
		if r := m.state().Roles[ingestion]; r.Phase != consensus.Vacant || r.Epoch != 0 {
			t.Errorf("the standby took the role: %+v", r)
		}
	})
}

func TestKeeper_TakesTheRoleBackForAPlanThatIsBeingUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		defer h.stop()
		time.Sleep(time.Second)
		r := h.log.state().Roles[ingestion]
		h.log.must(t, &consensus.CreatePlan{ID: "p", Plan: consensus.Plan{
			Kind: consensus.Planned, Hash: "h", From: east, To: west, Roles: []topology.Role{ingestion},
			Epochs: map[topology.Role]consensus.Epoch{ingestion: r.Epoch}, LinkTurn: h.log.state().LinkTurn(),
			Steps: []consensus.Step{{Kind: "exec.stop", Region: east}},
		}})
		h.log.must(t, &consensus.AbortPlan{Plan: "p", Why: "test"})
		r = h.log.state().Roles[ingestion]
		h.log.must(t, &consensus.Expire{Role: ingestion, Generation: 1, Epoch: r.Epoch, Sequence: r.Sequence})
		time.Sleep(time.Second)
		h.want(true, "its undo waits for the region to have the role")
	})
}

func TestKeeper_DamagedDeadlinesAreNoRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHolding(t, consensus.Demote)
		time.Sleep(time.Second)
		h.stop()
		if kept, err := readDeadlines(h.file); err != nil || len(kept) != 1 {
			t.Fatalf("%+v, %v", kept, err)
		}
		if err := os.WriteFile(h.file, []byte(`[{"role":"inges`), 0o600); err != nil {
			t.Fatal(err)
		}
		h.log.set(func(m *memory) { m.away = true })
		h.live()
		h.want(false, "with a damaged file")
		h.stop()
	})
}
