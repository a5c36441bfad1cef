package daemon

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// reign is a leader over an in-memory log, and regions that do what they are told.
type reign struct {
	*leader
	t      *testing.T
	log    *memory
	health failover.Health
	said   told
}

func newReign(t *testing.T, m *memory) *reign {
	ok := func() failover.RegionHealth {
		return failover.RegionHealth{Stores: map[string]failover.Check{"kafka": {OK: true}}, Probes: map[topology.Node]failover.Probe{}}
	}
	r := &reign{t: t, log: m, said: told{}, health: failover.Health{
		Regions: map[topology.Region]failover.RegionHealth{east: ok(), west: ok()}, Voters: 3, Members: 3,
		Links: map[consensus.LinkID]failover.LinkHealth{consensus.LinkOf(east, west): {Running: true}},
	}}
	rules := failover.Rules{
		Cluster: "test", Expires: 10 * time.Minute, HeardWithin: heardWithin, ProbeFailing: 10 * time.Second, Lease: consensus.DefaultLeaseTiming,
		ReachTimeout: time.Minute, LagMax: time.Minute, Roles: map[topology.Role]failover.RoleRules{ingestion: {Stores: []string{"kafka"}, AcceptLoss: time.Minute}},
	}
	r.leader = &leader{
		node: witness, clock: newBubble(), log: quiet, propose: m, state: m.state,
		changes:  func(context.Context) <-chan struct{} { return m.tells },
		health:   func(consensus.State) failover.Health { return r.health },
		rules:    func() failover.Rules { return rules },
		first:    func() *consensus.Configure { return m.configure(consensus.Demote, "") },
		transfer: func(context.Context, topology.Node) error { return nil },
		alive:    func(topology.Node) bool { return true },
	}
	return r
}

// open gives the role to the east, open.
func (r *reign) open() {
	r.t.Helper()
	r.log.must(r.t, &consensus.Reclaim{Role: ingestion, Node: eastNode, Session: "session of us-east-1", Generation: 1, Epoch: 1})
}

// plan starts a planned move to the west.
func (r *reign) plan() consensus.PlanID {
	r.t.Helper()
	c, blockers := failover.MakePlan(time.Now(), r.log.state(), r.health, r.rules(), failover.Intent{To: west, Roles: []topology.Role{ingestion}, Reason: "test"})
	if len(blockers) > 0 {
		r.t.Fatalf("blocked: %+v", blockers)
	}
	id, err := startPlan(r.t.Context(), r.log, time.Now(), c, "test")
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

// works does each region's tasks, as an agent would.
func (r *reign) works() {
	r.t.Helper()
	s := r.log.state()
	for id, task := range s.Tasks {
		node, _ := s.NodeOf(task.Region)
		session := s.Sessions[node].ID
		r.log.must(r.t, &consensus.ClaimTask{Task: id, Attempt: task.Attempt, Node: node, Session: session})
		switch task.Kind {
		case failover.KindRelease:
			role := s.Roles[ingestion]
			if role.Phase == consensus.Vacant {
				break // it was released before
			}
			r.log.must(r.t, &consensus.Release{Role: ingestion, Node: node, Generation: 1, Epoch: role.Epoch})
		case failover.KindMirrorStop:
			link := consensus.LinkOf(east, west)
			r.log.must(r.t, &consensus.EndLink{Link: link, Epoch: s.Links[link].Epoch, Ends: consensus.Offsets{}})
		}
		r.log.must(r.t, &consensus.FinishTask{Task: id, Attempt: task.Attempt, Session: session})
	}
}

// walk steps until nothing is left to do; before each round it asks whether to go on.
func (r *reign) walk(until func(consensus.State) bool) consensus.State {
	r.t.Helper()
	for range 200 {
		if until(r.log.state()) {
			return r.log.state()
		}
		if !r.step(r.t.Context(), r.said) {
			r.works()
			time.Sleep(drivePause)
		}
	}
	r.t.Fatalf("the plan does not end: %+v", r.log.state().Plans)
	return consensus.State{}
}

func TestLeader_SetsWhatAllAgreeOnFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, consensus.Demote)
		m.s = consensus.NewState()
		r := newReign(t, m)
		if !r.step(t.Context(), r.said) || m.state().Settings.Digest == "" {
			t.Error("a new cluster has no settings")
		}
		if r.step(t.Context(), r.said) {
			t.Error("it found more to do")
		}
	})
}

func TestLeader_WalksAPlanToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReign(t, newMemory(t, consensus.Hold))
		r.open()
		id := r.plan()
		s := r.walk(func(s consensus.State) bool { return !s.Plans[id].Phase.Live() })
		if p := s.Plans[id]; p.Phase != consensus.PlanCompleted {
			t.Fatalf("%s: %s", p.Phase, p.Why)
		}
		if role := s.Roles[ingestion]; role.Holder != west || role.Phase != consensus.Open || role.Epoch != 2 {
			t.Errorf("%+v", role)
		}
		if l := s.Links[consensus.LinkOf(west, east)]; l.Phase != consensus.LinkRunning {
			t.Errorf("the mirror back is %q", l.Phase)
		}
	})
}

func TestLeader_TurnsBackBeforeTheGrantWhenTheTargetWentBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReign(t, newMemory(t, consensus.Hold))
		r.open()
		id := r.plan()
		s := r.walk(func(s consensus.State) bool {
			if s.Roles[ingestion].Phase == consensus.Vacant && s.Plans[id].Phase == consensus.PlanRunning {
				bad := r.health.Regions[west]
				bad.Heard = time.Minute
				r.health.Regions[west] = bad
			}
			return !s.Plans[id].Phase.Live()
		})
		if p := s.Plans[id]; p.Phase != consensus.PlanRolledBack {
			t.Fatalf("%s: %s", p.Phase, p.Why)
		}
		if role := s.Roles[ingestion]; role.Holder != east || role.Phase != consensus.Open {
			t.Errorf("%+v", role)
		}
	})
}

func TestLeader_ARefusedPlanKeepsNoOtherFromGoingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReign(t, newMemory(t, consensus.Hold))
		r.open()
		// Its first step is refused for ever: nobody attested anything.
		stuck := consensus.Plan{
			Kind: consensus.Unplanned, Hash: "h", From: east, To: west, LinkTurn: r.log.state().LinkTurn(),
			Steps: []consensus.Step{{Kind: consensus.StepVoid}},
		}
		r.log.must(t, &consensus.CreatePlan{ID: "0 is first", Plan: stuck})
		id := r.plan()
		s := r.walk(func(s consensus.State) bool { return !s.Plans[id].Phase.Live() })
		if p := s.Plans[id]; p.Phase != consensus.PlanCompleted {
			t.Fatalf("%s: %s", p.Phase, p.Why)
		}
	})
}

func TestLeader_CountsALeaseOutOnceItIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReign(t, newMemory(t, consensus.Demote))
		r.open()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.countLeases(ctx) })
		count := consensus.DefaultLeaseTiming.Count()
		time.Sleep(count - time.Second)
		r.log.must(t, &consensus.Renew{Role: ingestion, Node: eastNode, Session: "session of us-east-1", Generation: 1, Epoch: 1, Policy: consensus.Demote, Nonce: 1})
		time.Sleep(count - time.Second)
		if p := r.log.state().Roles[ingestion].Phase; p != consensus.Open {
			t.Errorf("%s although it was renewed", p)
		}
		time.Sleep(2 * time.Second)
		if role := r.log.state().Roles[ingestion]; role.Phase != consensus.Vacant || role.Last.Basis != consensus.LeaseExpiredOnly {
			t.Errorf("%+v", role)
		}
		cancel()
		wg.Wait()
	})
}

func TestLeader_ExpiresNothingThatHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReign(t, newMemory(t, consensus.Hold))
		r.open()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.countLeases(ctx) })
		time.Sleep(time.Hour)
		if p := r.log.state().Roles[ingestion].Phase; p != consensus.Open {
			t.Errorf("the role is %s", p)
		}
		cancel()
		wg.Wait()
	})
}

func TestLeader_MovesToWhereNoRoleIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, consensus.Hold)
		r := newReign(t, m)
		r.open()
		down := map[topology.Node]bool{}
		alive := func(n topology.Node) bool { return !down[n] }
		at := func(from, want topology.Node) {
			t.Helper()
			if to, ok := betterPlace(m.state(), from, alive); to != want || ok != (want != "") {
				t.Errorf("from %s to %q, want %q", from, to, want)
			}
		}
		at(witness, "")
		at(westNode, "") // it holds nothing
		at(eastNode, witness)
		down[witness] = true
		at(eastNode, westNode)
		down[westNode] = true
		at(eastNode, "")
	})
}

func TestTold_SaysThingsOnceInAWhileAndIsBounded(t *testing.T) {
	said, now := told{}, time.Now()
	if !said.again(now, "a", time.Minute) || said.again(now.Add(59*time.Second), "a", time.Minute) || !said.again(now.Add(time.Minute), "a", time.Minute) {
		t.Error("not once a minute")
	}
	for i := range 10 * toldMax {
		said.again(now, string(rune(i)), time.Minute)
	}
	if len(said) > toldMax {
		t.Errorf("%d are kept", len(said))
	}
}

func TestChanges_VotersFollowTheAgreedMembers(t *testing.T) {
	s := consensus.NewState()
	for _, n := range []topology.Node{"a", "b", "new", "silent"} {
		s.Members[n] = consensus.Member{Witness: true}
	}
	alive := func(n topology.Node) bool { return n != "silent" }
	join, leave := changes(s, []topology.Node{"a", "b", "gone"}, alive)
	if !slices.Equal(join, []topology.Node{"new"}) || !slices.Equal(leave, []topology.Node{"gone"}) {
		t.Errorf("join %v, leave %v", join, leave)
	}
	join, leave = changes(s, []topology.Node{"a", "b", "new", "silent"}, alive)
	if len(join)+len(leave) > 0 {
		t.Errorf("nothing differs, yet join %v, leave %v", join, leave)
	}
}

func TestBetterPlace_ALeaderThatIsNoMemberHandsOver(t *testing.T) {
	s := consensus.NewState()
	s.Members["a"] = consensus.Member{Witness: true}
	to, ok := betterPlace(s, "gone", func(topology.Node) bool { return true })
	if !ok || to != "a" {
		t.Errorf("hands over to %q, %v", to, ok)
	}
}
