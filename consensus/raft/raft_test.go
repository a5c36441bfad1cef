package raft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestNode_ThreeElectApplyAndForward(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	var last consensus.Index
	for i, n := range append(f.followers(), leader) {
		at := f.mustPropose(n, slot("job-"+string(n.self), 1))
		if at <= last {
			t.Errorf("proposal %d got index %d after %d", i, at, last)
		}
		last = at
	}
	state := f.settled(last)
	for _, job := range []string{"job-a", "job-b", "job-c"} {
		if !strings.Contains(string(state), job) {
			t.Errorf("%s is missing in %s", job, state)
		}
	}
	if _, at := leader.StateAt(); at != last {
		t.Errorf("StateAt says %d, want %d", at, last)
	}
	if got := mode(t, f.dir("a")); got != 0o700 {
		t.Errorf("the data folder has mode %o", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := leader.VerifyLeader(ctx); err != nil {
		t.Errorf("the leader cannot verify: %v", err)
	}
	for _, n := range f.followers() {
		if err := n.VerifyLeader(ctx); !errors.Is(err, consensus.ErrNoLeader) {
			t.Errorf("a follower verifies as leader: %v", err)
		}
	}
}

func TestPropose_RefusalTravelsFromTheLeader(t *testing.T) {
	f := newFleet(t, "a", "b")
	f.open("a", "b")
	leader := f.leader()
	f.mustPropose(leader, slot("backup", 5))
	for _, n := range append(f.followers(), leader) {
		at, err := n.Propose(t.Context(), slot("backup", 5))
		var r *consensus.Refusal
		if !errors.As(err, &r) || r.Code != consensus.CodeStale || !strings.Contains(r.Why, "was taken") {
			t.Errorf("through %s: %v", n.self, err)
		}
		if at == 0 {
			t.Errorf("through %s: a refused command was applied and has an index", n.self)
		}
	}
	if _, err := leader.Propose(t.Context(), consensus.Command{}); !consensus.Refused(err, consensus.CodeInvalid) {
		t.Errorf("a command without a body: %v", err)
	}
}

func TestNode_AnotherLeadsAfterTheLeaderDies(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	old := f.leader()
	at := f.mustPropose(old, slot("before", 1))
	f.settled(at)
	f.kill(old)
	now := f.leader()
	if now.self == old.self {
		t.Fatal("the dead node leads")
	}
	f.mustPropose(f.followers()[0], slot("after", 1))
	f.open(old.self) // it returns with its disk and learns what it missed
	at = f.mustPropose(f.leader(), slot("together", 1))
	if s := string(f.settled(at)); !strings.Contains(s, "before") || !strings.Contains(s, "after") {
		t.Errorf("lost: %s", s)
	}
}

func TestNode_StateSurvivesARestartOfAll(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	at := f.mustPropose(f.leader(), slot("kept", 7))
	want := f.settled(at)
	for _, n := range f.names {
		f.stop(f.nodes[n])
	}
	f.open("c", "b", "a")
	if got := f.settled(at); string(got) != string(want) {
		t.Errorf("before the restart\n%s\nafter\n%s", want, got)
	}
	if w := f.nodes["a"].Status().Waiting; w != "" {
		t.Errorf("a node with state waits: %s", w)
	}
}

func TestNode_AloneIsAClusterOfOne(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	n := f.leader()
	f.settled(f.mustPropose(n, slot("x", 1)))
	m := n.Members()
	if len(m) != 1 || !m[0].Leader || !m[0].Voter || !m[0].Self || m[0].Address != f.peers["solo"] {
		t.Errorf("members: %+v", m)
	}
	if s := n.Status(); s.State != "leader" || s.Leader != "solo" || s.Applied == 0 || s.Halted != "" {
		t.Errorf("status: %+v", s)
	}
}

func TestNode_CutOffLeaderStepsDownAndKnowsNoOutcome(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	old := f.leader()
	f.settled(f.mustPropose(old, slot("before", 1)))
	reign, _ := old.leading.get()

	f.isolate(old.self)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := old.Propose(ctx, slot("lost", 1))
	if !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Errorf("a proposal into the cut: %v", err)
	}
	select {
	case <-reign.ctx.Done():
	case <-time.After(patience):
		t.Fatal("the reign of a cut-off leader goes on")
	}
	now := f.leader(f.without(old.self)...)
	f.mustPropose(now, slot("meanwhile", 1))
	if _, err := old.Propose(t.Context(), slot("lost", 2)); !errors.Is(err, consensus.ErrNoLeader) {
		t.Errorf("a proposal without a leader: %v", err)
	}
	f.heal()
	at := f.mustPropose(old, slot("healed", 1))
	s := string(f.settled(at))
	if strings.Contains(s, "lost") || !strings.Contains(s, "meanwhile") {
		t.Errorf("after the heal: %s", s)
	}
}

func TestLead_EndsAtOnceAndNeverOverlapsItself(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	type run struct{ node topology.Node }
	begun := make(chan run, 100)
	var running, most, after atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 3)
	for _, n := range f.nodes {
		var here atomic.Int64
		go func() {
			ended <- n.Lead(ctx, func(ctx context.Context) error {
				if here.Add(1) > 1 {
					t.Error("work of two reigns overlaps on one node")
				}
				defer here.Add(-1)
				defer running.Add(-1)
				if now := running.Add(1); now > most.Load() {
					most.Store(now)
				}
				// The barrier has been passed: what was committed is here.
				if want := after.Load(); int64(n.machine.now.Load().index) < want {
					t.Errorf("%s leads with index %d, %d was committed", n.self, n.machine.now.Load().index, want)
				}
				begun <- run{n.self}
				<-ctx.Done()
				time.Sleep(20 * time.Millisecond) // a slow end must be waited for
				return ctx.Err()
			})
		}()
	}
	<-begun
	for i := range 3 {
		leader := f.leader()
		at := f.mustPropose(leader, slot("work", i+1))
		after.Store(int64(at))
		to := f.followers()[0].self
		f.eventually("transfer to "+string(to), func() error {
			c, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			return leader.TransferTo(c, to)
		})
		select {
		case r := <-begun:
			if r.node == leader.self {
				t.Errorf("leadership went from %s to itself", r.node)
			}
		case <-time.After(patience):
			t.Fatal("no work after a transfer")
		}
	}
	cancel()
	for range 3 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Lead ended with %v", err)
		}
	}
	if running.Load() != 0 {
		t.Error("Lead returned before its work")
	}
}

func TestLead_CallsFailedWorkAgainAndEndsWithTheNode(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	n := f.leader()
	var calls atomic.Int64
	third := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- n.Lead(t.Context(), func(ctx context.Context) error {
			if calls.Add(1) < 3 {
				return errors.New("not yet")
			}
			close(third)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	select {
	case <-third:
	case <-time.After(patience):
		t.Fatal("work that failed was not called again")
	}
	f.stop(n)
	if err := <-ended; !errors.Is(err, ErrStopped) {
		t.Errorf("Lead ended with %v", err)
	}
	if _, err := n.Propose(t.Context(), slot("late", 1)); !errors.Is(err, consensus.ErrNoLeader) || !errors.Is(err, ErrStopped) {
		t.Errorf("a proposal after the stop: %v", err)
	}
	if n.Err() != nil {
		t.Errorf("a plain stop left %v", n.Err())
	}
	select {
	case <-n.Done():
	default:
		t.Error("Done is open after Stop")
	}
}

func TestTransferTo_SaysWhoCanAndWho(t *testing.T) {
	f := newFleet(t, "a", "b")
	f.open("a", "b")
	leader := f.leader()
	follower := f.followers()[0]
	if err := leader.TransferTo(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "not a voting member") {
		t.Errorf("to nobody: %v", err)
	}
	if err := leader.TransferTo(t.Context(), leader.self); err != nil {
		t.Errorf("to the leader itself: %v", err)
	}
	for _, to := range []topology.Node{leader.self, follower.self} {
		if err := follower.TransferTo(t.Context(), to); !errors.Is(err, consensus.ErrNoLeader) {
			t.Errorf("a follower hands over to %s: %v", to, err)
		}
	}
}

func TestStop_HandsLeadershipOver(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	f.settled(f.mustPropose(leader, slot("x", 1)))
	_, term := leader.Leader()
	start := time.Now()
	f.stop(leader)
	now := f.leader()
	if _, after := now.Leader(); after != term+1 {
		t.Errorf("term went from %d to %d: an election was lost or fought", term, after)
	}
	t.Logf("a new leader %s after the stop began", time.Since(start))
}

func TestWatch_TellsOfEachChangeAndCoalesces(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	n := f.leader()
	ctx, cancel := context.WithCancel(t.Context())
	w := n.Watch(ctx)
	<-w // the first notice is there from the start
	for i := range 5 {
		f.mustPropose(n, slot("x", i+1))
	}
	select {
	case <-w:
	case <-time.After(patience):
		t.Fatal("no notice of a change")
	}
	if !n.State().Slots["x"].Equal(time.Unix(5, 0)) {
		t.Errorf("state: %v", n.State().Slots)
	}
	cancel()
	f.eventually("end of the watch", func() error {
		n.machine.mu.Lock()
		defer n.machine.mu.Unlock()
		if len(n.machine.watchers) != 0 {
			return errors.New("it is still registered")
		}
		return nil
	})
}

func TestWaitIndex_EndsWithItsContextAndWithTheNode(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	n := f.leader()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := n.WaitIndex(ctx, 1<<40); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for an index to come: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- n.WaitIndex(context.Background(), 1<<40) }()
	f.stop(n)
	if err := <-done; !errors.Is(err, ErrStopped) {
		t.Errorf("wait over a stop: %v", err)
	}
}

func TestMembers_ShowsEveryoneAndWhoAnswers(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	f.eventually("contact with all members", func() error {
		m := leader.Members()
		if len(m) != 3 {
			return errors.New("not three")
		}
		for _, m := range m {
			if !m.Voter || m.Leader != (m.Node == leader.self) || m.Address == "" {
				t.Fatalf("member: %+v", m)
			}
			if m.LastContact.IsZero() || !m.Self && m.RTT <= 0 {
				return errors.New(string(m.Node) + " was not heard of")
			}
		}
		return nil
	})
}

func TestMembers_AddAndRemoveThroughAnyNode(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	gone, through := f.followers()[0], f.followers()[1]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := through.RemoveMember(ctx, gone.self); err != nil {
		t.Fatal(err)
	}
	if got := len(leader.Members()); got != 2 {
		t.Fatalf("%d members after a removal", got)
	}
	for _, bad := range []struct {
		do   func(context.Context, topology.Node) error
		who  topology.Node
		code string
	}{
		{through.AddMember, "stranger", consensus.CodeMissing},
		{through.RemoveMember, leader.self, consensus.CodeConflict},
	} {
		if err := bad.do(ctx, bad.who); !consensus.Refused(err, bad.code) {
			t.Errorf("%s: %v", bad.who, err)
		}
	}
	if err := through.AddMember(ctx, gone.self); err != nil {
		t.Fatal(err)
	}
	f.settled(f.mustPropose(leader, slot("three again", 1)))
}

func TestLead_WorkSeesAllThatEarlierLeadersCommitted(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	var at consensus.Index
	for i := range 200 {
		at = f.mustPropose(f.leader(), slot("x", i+1))
	}
	f.stop(f.nodes["solo"])
	f.open("solo") // its log is applied only when it leads
	seen := make(chan consensus.Index, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- f.nodes["solo"].Lead(ctx, func(context.Context) error {
			_, now := f.nodes["solo"].StateAt()
			seen <- now
			return nil
		})
	}()
	select {
	case now := <-seen:
		if now < at {
			t.Errorf("leader work began at index %d, %d was committed", now, at)
		}
	case <-time.After(patience):
		t.Error("no work")
	}
	cancel()
	<-ended
}

func TestNode_AnAddressChangesWithoutAChangeOfMembership(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	at := f.mustPropose(f.leader(), slot("x", 1))
	f.settled(at)
	for _, n := range f.names {
		f.stop(f.nodes[n])
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.peers["c"] = l.Addr().String() // in the fleet file of all
	l.Close()
	f.open("a", "b", "c")
	f.settled(f.mustPropose(f.leader(), slot("moved", 1)))
	f.stop(f.nodes["a"])
	f.mustPropose(f.leader("b", "c"), slot("without a", 1)) // c is needed for this
}

func TestPropose_SaysWhenNothingWasSent(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	n := f.leader()
	f.mustPropose(n, slot("x", 1))
	last := n.Status().Last
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Propose(gone, slot("x", 2)); !errors.Is(err, consensus.ErrNoLeader) || !errors.Is(err, context.Canceled) {
		t.Errorf("a context that had ended: %v", err)
	}
	for range proposalsMax {
		n.slots <- struct{}{}
	}
	if _, err := n.Propose(t.Context(), slot("x", 3)); !errors.Is(err, consensus.ErrNoLeader) || !strings.Contains(err.Error(), "256 proposals are in flight on solo already") {
		t.Errorf("too many at once: %v", err)
	}
	for range proposalsMax {
		<-n.slots
	}
	if now := n.Status().Last; now != last {
		t.Errorf("the log grew from %d to %d", last, now)
	}
	f.mustPropose(n, slot("x", 4))
}

func TestPropose_ManyAtOnceAreAppliedOnceEach(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	f.settled(f.mustPropose(f.leader(), slot("warm", 1)))
	var wg sync.WaitGroup
	indexes := make(chan consensus.Index, 60)
	for _, n := range f.nodes {
		for i := range 20 {
			wg.Go(func() { indexes <- f.mustPropose(n, slot(fmt.Sprintf("%s-%d", n.self, i), 1)) })
		}
	}
	wg.Wait()
	close(indexes)
	seen := map[consensus.Index]bool{}
	var last consensus.Index
	for i := range indexes {
		if seen[i] {
			t.Errorf("two proposals got index %d", i)
		}
		seen[i] = true
		last = max(last, i)
	}
	f.settled(last)
	if got := len(f.nodes["a"].State().Slots); got != 61 {
		t.Errorf("%d slots, want 61", got)
	}
}
