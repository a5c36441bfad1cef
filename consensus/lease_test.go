package consensus

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/clock"
)

// What a Holder and a Watch promise, one call at a time. The whole of it, in
// a bad world, is in lease_property_test.go.

const t0 = clock.Instant(1000 * time.Second)

func after(d time.Duration) clock.Instant { return t0.Add(d) }

// roleAt is what the log says of a role that us-east-1 holds.
func roleAt(phase Phase, epoch Epoch) Role {
	return Role{Phase: phase, Holder: east, Node: eastNode, Epoch: epoch, Policy: Demote}
}

func newHolder() Holder {
	return NewHolder(ingestion, eastNode, "e1", DefaultLeaseTiming).Observe(1, roleAt(Open, 3), DefaultLeaseTiming)
}

// renewed sends an attempt at a time and takes its answer in.
func renewed(t *testing.T, h Holder, at clock.Instant, nonce Nonce, policy Policy) Holder {
	t.Helper()
	h, c, ok := h.Attempt(at, nonce, policy)
	if !ok || c.Nonce != nonce || c.TTL != DefaultLeaseTiming.TTL {
		t.Fatalf("attempt %d: %+v, %v", nonce, c, ok)
	}
	return h.Result(nonce, true)
}

func wantActive(t *testing.T, h Holder, at clock.Instant, want bool) {
	t.Helper()
	if v := h.At(at); v.Active != want || v.Active == (v.Why != "") {
		t.Errorf("at %s: %+v, want active %v", at.Sub(t0), v, want)
	}
}

func TestHolder_ActsFromTheAnswerUntilTTLLessMarginAfterItAsked(t *testing.T) {
	h := newHolder()
	wantActive(t, h, t0, false)
	h, _, _ = h.Attempt(t0, 1, Demote)
	wantActive(t, h, t0, false) // no answer is no answer
	h = h.Result(1, true)
	wantActive(t, h, after(11*time.Second-1), true)
	wantActive(t, h, after(11*time.Second), false)
	if v := h.At(after(time.Second)); v.Remaining != 10*time.Second || v.Epoch != 3 {
		t.Errorf("the verdict: %+v", v)
	}
}

func TestHolder_RefusedLostAndUnknownAnswersArmNothing(t *testing.T) {
	h, _, _ := newHolder().Attempt(t0, 1, Demote)
	wantActive(t, h.Result(1, false), t0, false)
	wantActive(t, h.Result(2, true), t0, false)
	wantActive(t, h.Result(1, false).Result(1, true), t0, false)
	h = h.Result(1, true)
	h, _, _ = h.Attempt(after(5*time.Second), 2, Demote)
	h, _, _ = h.Attempt(after(6*time.Second), 3, Demote)
	h = h.Result(3, true).Result(2, true) // the log has refused 2 by then
	if v := h.At(after(6 * time.Second)); v.Remaining != 11*time.Second {
		t.Errorf("remaining %s", v.Remaining)
	}
	many := h
	for n := Nonce(10); n < 40; n++ {
		many, _, _ = many.Attempt(after(7*time.Second), n, Demote)
	}
	if len(many.attempts) > attemptsMax {
		t.Errorf("%d attempts are remembered", len(many.attempts))
	}
}

func TestHolder_LateAnswerNeverShortensTheLease(t *testing.T) {
	h, _, _ := newHolder().Attempt(t0, 1, Demote)
	h, _, _ = h.Attempt(after(4*time.Second), 2, Demote)
	h = h.Result(1, true).Result(2, true)
	wantActive(t, h, after(14*time.Second), true)
}

func TestHolder_IsInactiveUnlessTheRoleIsOpenHere(t *testing.T) {
	h := renewed(t, newHolder(), t0, 1, Demote)
	for name, r := range map[string]Role{
		"draining":        roleAt(Draining, 3),
		"vacant":          {Phase: Vacant, Epoch: 3},
		"of another":      {Phase: Open, Holder: west, Node: westNode, Epoch: 4},
		"a later epoch":   roleAt(Open, 4),
		"a closed regain": roleAt(Closed, 4),
	} {
		if v := h.Observe(1, r, DefaultLeaseTiming).At(after(time.Second)); v.Active {
			t.Errorf("%s: still active", name)
		}
	}
	if v := h.Observe(1, roleAt(Draining, 3), DefaultLeaseTiming).At(after(time.Second)); !v.Leased {
		t.Error("a draining holder has lost its lease: what it guards cannot end in order")
	}
	closed := renewed(t, NewHolder(ingestion, eastNode, "e1", DefaultLeaseTiming).Observe(1, roleAt(Closed, 3), DefaultLeaseTiming), t0, 1, Demote)
	wantActive(t, closed, t0, false)
	wantActive(t, closed.Observe(1, roleAt(Open, 3), DefaultLeaseTiming), t0, true)
}

func TestHolder_ReplayedLogArmsNothingAndTakesNothing(t *testing.T) {
	h := renewed(t, newHolder(), t0, 1, Demote)
	for _, old := range []Role{roleAt(Closed, 3), roleAt(Open, 1), {Phase: Vacant, Epoch: 2}, {Phase: Open, Node: westNode, Epoch: 2}} {
		wantActive(t, h.Observe(1, old, DefaultLeaseTiming), after(time.Second), true)
	}
	wantActive(t, h.Observe(0, Role{Phase: Vacant, Epoch: 9}, DefaultLeaseTiming), after(time.Second), true)
	drained := h.Observe(1, roleAt(Draining, 3), DefaultLeaseTiming).Observe(1, roleAt(Open, 3), DefaultLeaseTiming)
	wantActive(t, drained, after(time.Second), false)
	wantActive(t, newHolder().Observe(1, roleAt(Open, 3), DefaultLeaseTiming), t0, false)
}

func TestHolder_GaveUpForThisEpochWhateverComes(t *testing.T) {
	h, _, _ := renewed(t, newHolder(), t0, 1, Hold).Attempt(after(time.Second), 2, Hold)
	h = h.GiveUp().Result(2, true)
	wantActive(t, h, after(2*time.Second), false)
	if _, _, ok := h.Attempt(after(2*time.Second), 3, Hold); ok {
		t.Error("it renews what it gave up")
	}
	kept, _ := h.Deadline("boot")
	again := NewHolder(ingestion, eastNode, "e2", DefaultLeaseTiming).Restore(kept, "boot").Observe(1, roleAt(Open, 3), DefaultLeaseTiming)
	wantActive(t, again, after(2*time.Second), false)
	next := renewed(t, again.Observe(1, roleAt(Open, 4), DefaultLeaseTiming), after(3*time.Second), 1, Demote)
	wantActive(t, next, after(3*time.Second), true) // the next epoch is another matter
}

func TestHolder_RestartWithinTheDeadlineGoesOn(t *testing.T) {
	kept, ok := renewed(t, newHolder(), t0, 1, Demote).Deadline("boot")
	if !ok {
		t.Fatal("nothing to keep")
	}
	fresh := NewHolder(ingestion, eastNode, "e2", DefaultLeaseTiming)
	h := fresh.Restore(kept, "boot")
	wantActive(t, h, after(11*time.Second-1), true)
	wantActive(t, h, after(11*time.Second), false)
	h = h.Observe(1, roleAt(Open, 1), DefaultLeaseTiming).Observe(1, Role{Phase: Vacant, Epoch: 2}, DefaultLeaseTiming) // the replay
	wantActive(t, h, after(time.Second), true)
	wantActive(t, fresh.Restore(kept, "another boot"), after(time.Second), false)
	other := kept
	other.Role = query
	wantActive(t, fresh.Restore(other, "boot"), after(time.Second), false)
	moved := fresh.Observe(1, Role{Phase: Vacant, Epoch: 4}, DefaultLeaseTiming)
	wantActive(t, moved.Restore(kept, "boot"), after(time.Second), false)
	if _, ok := fresh.Deadline("boot"); ok {
		t.Error("a holder of nothing keeps a deadline")
	}
}

func TestHolder_WithAnUnsafeClockWaitsForARenewalSentSince(t *testing.T) {
	h, _, _ := renewed(t, newHolder(), t0, 1, Hold).Attempt(after(time.Second), 2, Hold)
	h = h.ClockUnsafe(after(2 * time.Second))
	wantActive(t, h, after(2*time.Second), false)
	if kept, _ := h.Deadline("boot"); kept.Deadline != 0 {
		t.Error("it keeps a deadline of a clock it does not trust")
	}
	h = h.Result(2, true) // sent before
	wantActive(t, h, after(3*time.Second), false)
	wantActive(t, renewed(t, h, after(3*time.Second), 3, Hold), after(3*time.Second), true)
}

func TestHolder_ToldToHoldActsPastItsDeadlineWhileOpen(t *testing.T) {
	h := renewed(t, newHolder(), t0, 1, Hold)
	if v := h.At(after(time.Hour)); !v.Active || !v.Held || v.Remaining != 0 {
		t.Errorf("an hour later: %+v", v)
	}
	wantActive(t, h.Observe(1, roleAt(Draining, 3), DefaultLeaseTiming), after(time.Hour), false)
	never := newHolder() // told, but the log never heard it
	never, _, _ = never.Attempt(t0, 1, Hold)
	wantActive(t, never, after(time.Hour), false)
}

// From the moment a promise to demote may be in the log, the holder keeps it.
func TestHolder_PromiseToDemoteBindsFromTheMomentItIsSent(t *testing.T) {
	held := renewed(t, newHolder(), t0, 1, Hold)
	h, _, _ := held.Attempt(after(time.Minute), 2, Demote)
	wantActive(t, h, after(time.Minute), false)
	if kept, _ := h.Deadline("boot"); kept.Holds {
		t.Error("what is kept would hold after a restart")
	}
	wantActive(t, h.Result(2, false), after(time.Minute), false) // "no" may mean "nobody knows"
	wantActive(t, h.Result(2, true), after(80*time.Second), false)

	// An earlier attempt to hold is answered late: 2 may still be accepted after it.
	early, _, _ := newHolder().Attempt(t0, 1, Hold)
	early, _, _ = early.Attempt(after(time.Second), 2, Demote)
	wantActive(t, early.Result(2, false).Result(1, true), after(time.Minute), false)
	// A later one settles it: the log refuses 2 from then on.
	wantActive(t, renewed(t, early, after(2*time.Second), 3, Hold), after(time.Minute), true)
}

func TestHolder_ReckonsWithTheTTLThatItDeclared(t *testing.T) {
	long := DefaultLeaseTiming
	long.TTL = time.Minute
	h, c, _ := newHolder().Attempt(t0, 1, Demote)
	h = h.Observe(1, roleAt(Open, 3), long).Result(1, true)
	if v := h.At(t0); v.Remaining != 11*time.Second || c.TTL != 16*time.Second {
		t.Errorf("it declared %s and acts for %s", c.TTL, v.Remaining)
	}
}

func TestHolder_WhyIsASentenceForEachReason(t *testing.T) {
	h := renewed(t, newHolder(), t0, 1, Demote)
	for want, v := range map[string]Verdict{
		"does not hold":             NewHolder(ingestion, eastNode, "e1", DefaultLeaseTiming).At(t0),
		"no renewal":                newHolder().At(t0),
		"the lease ran out 2s ago":  h.At(after(13 * time.Second)),
		"being released":            h.GiveUp().At(t0),
		"clock":                     h.ClockUnsafe(t0).At(t0),
		"the role is draining here": h.Observe(1, roleAt(Draining, 3), DefaultLeaseTiming).At(t0),
	} {
		if !strings.Contains(v.Why, want) {
			t.Errorf("%q does not say %q", v.Why, want)
		}
	}
}

func TestHolder_AnswerOfAnEarlierEpochArmsNothing(t *testing.T) {
	h, _, _ := newHolder().Attempt(t0, 1, Hold)
	h = h.Observe(1, roleAt(Open, 4), DefaultLeaseTiming).Result(1, true)
	wantActive(t, h, t0, false)
	h, _, _ = h.Attempt(t0, 2, Hold)
	h = h.Observe(2, roleAt(Open, 4), DefaultLeaseTiming).Result(2, true)
	wantActive(t, h, t0, false)
}

// watched is a state in which us-east-1 holds ingestion after n renewals.
func watched(t *testing.T, n int) State {
	b := newStory(t).held()
	for i := range n {
		b.do(b.renew(ingestion, Nonce(i+1)))
	}
	return b.State
}

func TestWatch_ExpiresAfterAFullCountOfWhatItSawItself(t *testing.T) {
	count := DefaultLeaseTiming.Count()
	s := watched(t, 2)
	w, over := Watch{}.Look(t0, 7, s)
	if len(over) != 0 {
		t.Fatalf("expired at first sight: %v", over)
	}
	if w, over = w.Look(after(count-1), 7, s); len(over) != 0 {
		t.Fatalf("expired early: %v", over)
	}
	if late, ok := w.Overdue(after(count-1), ingestion); !ok || late != count-1 {
		t.Errorf("overdue for %s, %v", late, ok)
	}
	_, over = w.Look(after(count), 7, s)
	if len(over) != 1 || *over[0] != (Expire{Role: ingestion, Generation: 1, Epoch: 1, Sequence: 2}) {
		t.Fatalf("after a full count: %v", over) // and query, which holds, never
	}
	if _, over = w.Look(after(count), 8, s); len(over) != 0 {
		t.Errorf("a new term counted on: %v", over)
	}
	w, over = w.Look(after(count), 7, watched(t, 3))
	if len(over) != 0 {
		t.Errorf("a renewal did not start the count anew: %v", over)
	}
	if _, ok := w.Overdue(after(count), "search"); ok {
		t.Error("it has seen a role that is not there")
	}
}

func TestWatch_CountsByTheLongestTTLThatTheHolderDeclared(t *testing.T) {
	s := watched(t, 1)
	s.Settings.Lease.TTL = 8 * time.Second // the settings became shorter since
	w, _ := Watch{}.Look(t0, 7, s)
	if _, over := w.Look(after(16*time.Second), 7, s); len(over) != 0 {
		t.Errorf("expired while the holder may act by its 16 s: %v", over)
	}
	if _, over := w.Look(after(DefaultLeaseTiming.Count()), 7, s); len(over) != 1 {
		t.Errorf("never expired")
	}
}
