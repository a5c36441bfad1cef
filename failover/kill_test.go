package failover

import (
	"fmt"
	"testing"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// disaster is what happens at one boundary.
type disaster struct {
	name string
	// strike is told who was about to act: a region, or "" for the leader.
	strike func(f *fleet, actor topology.Region)
	// away says that whoever was struck stays away until all else has settled.
	away bool
	// superseded says that another plan may take over.
	superseded bool
}

var disasters = []disaster{
	{name: "the actor dies and is back at once", strike: func(f *fleet, actor topology.Region) {
		if actor != "" {
			f.boot(actor)
		}
	}},
	{name: "the actor dies for long", away: true, strike: func(f *fleet, actor topology.Region) {
		if actor != "" {
			f.regions[actor].up = false
			_ = f.expire(actor)
		}
	}},
	{name: "the old region dies for long", away: true, strike: func(f *fleet, _ topology.Region) {
		f.regions[us].up = false
		_ = f.expire(us)
	}},
	{name: "the new region dies for long", away: true, strike: func(f *fleet, _ topology.Region) {
		f.regions[eu].up = false
		_ = f.expire(eu)
	}},
	{name: "all die at once", away: true, strike: func(f *fleet, _ topology.Region) {
		for _, r := range f.regions {
			r.up = false
			_ = f.expire(r.name)
		}
	}},
	{name: "a person aborts", strike: func(f *fleet, _ topology.Region) {
		_ = f.propose("operator", &consensus.AbortPlan{Plan: "plan-001", Why: "told to"})
	}},
	{name: "a person fences the new region and moves back", superseded: true, strike: func(f *fleet, _ topology.Region) {
		f.boot(us)
		f.h = healthy() // it is back, and the leader has heard so
		c, blockers := MakePlan(f.now, f.state, f.h, f.rules, Intent{To: us, Fenced: eu, Reason: "it does not work there", AcceptLoss: true})
		p := f.state.Plans["plan-001"]
		_, left := p.Current()
		switch {
		case len(blockers) == 0:
			f.must(f.run("plan-002", c, "operator"))
		case p.Phase == consensus.PlanGranted && p.Supersedable() && left:
			f.must(fmt.Errorf("no way back: %v", blockers))
		}
	}},
	{name: "a person aborts and the new region dies", away: true, strike: func(f *fleet, _ topology.Region) {
		_ = f.propose("operator", &consensus.AbortPlan{Plan: "plan-001", Why: "told to"})
		f.regions[eu].up = false
		_ = f.expire(eu)
	}},
	{name: "a person aborts and the old region dies", away: true, strike: func(f *fleet, _ topology.Region) {
		_ = f.propose("operator", &consensus.AbortPlan{Plan: "plan-001", Why: "told to"})
		f.regions[us].up = false
		_ = f.expire(us)
	}},
}

// boundaries plays a plan and calls at for each boundary between two lines of
// it; when at returns true the actor stops where it stands.
func boundaries(f *fleet, at func(where string, actor topology.Region) bool) {
	for range roundsMax {
		moved := false
		f.renewals()
		for _, id := range sortedKeys(f.state.Plans) {
			for _, b := range Next(f.now, id, f.state) {
				kind := consensus.Command{Body: b}.Kind()
				if at("before "+kind, "") {
					return
				}
				moved = f.propose("leader", b) == nil || moved
				// It was applied, and nobody has seen it yet: whoever asks Next
				// with the old state proposes it once more.
				if at("after "+kind, "") {
					_ = f.propose("leader", b)
					return
				}
			}
		}
		for _, id := range sortedKeys(f.state.Tasks) {
			t := f.state.Tasks[id]
			if at("before the claim of "+t.Kind, t.Region) {
				return
			}
			if !f.claim(id) {
				continue
			}
			if at("in "+t.Kind, t.Region) {
				return
			}
			evidence, err := f.do(id)
			if at("before the word of "+t.Kind, t.Region) {
				_ = f.finish(id, t, evidence, err) // it arrives after all
				return
			}
			moved = f.finish(id, t, evidence, err) == nil || moved
			if at("after the word of "+t.Kind, t.Region) {
				return
			}
		}
		if !moved {
			return
		}
	}
}

// TestPlan_KilledAtEveryBoundary kills whoever acts, or someone else, at each
// boundary of each kind of plan, forward and while it is undone: all end
// Completed or RolledBack, and whole.
func TestPlan_KilledAtEveryBoundary(t *testing.T) {
	plans := []struct {
		name  string
		want  Intent
		hold  bool   // the roles were told to hold: no lease runs out
		fault string // this step fails once, so that the plan is undone
		gone  bool   // the old region is gone before
	}{
		{name: "planned", want: Intent{To: eu}},
		{name: "planned, on hold", want: Intent{To: eu}, hold: true},
		{name: "planned, on hold, undone from the release", want: Intent{To: eu}, hold: true, fault: KindRelease},
		{name: "planned, undone from its start", want: Intent{To: eu}, fault: KindQuiesce},
		{name: "planned, undone from the stop of the mirror", want: Intent{To: eu}, fault: KindMirrorStop},
		{name: "planned, undone from the release", want: Intent{To: eu}, fault: KindRelease},
		{name: "unplanned, expired", want: Intent{To: eu, Unplanned: true}, gone: true},
		{name: "unplanned, fenced", want: Intent{To: eu, Fenced: us, Reason: "its uplink was cut"}, gone: true},
		{name: "unplanned, fenced, on hold", want: Intent{To: eu, Fenced: us, Reason: "its uplink was cut"}, hold: true, gone: true},
		{name: "unplanned, undone", want: Intent{To: eu, Unplanned: true}, gone: true, fault: KindMirrorStop},
	}
	for _, plan := range plans {
		t.Run(plan.name, func(t *testing.T) {
			runs, ends := 0, map[consensus.PlanPhase]int{}
			begin := func(where string) *chaos {
				c := &chaos{fleet: newFleet(setup{hooks: true, policy: map[bool]consensus.Policy{true: consensus.Hold, false: consensus.Demote}[plan.hold]})}
				c.fatal = func(format string, a ...any) {
					t.Helper()
					t.Fatalf("%s: "+format, append([]any{where}, a...)...)
				}
				c.watch()
				if plan.gone {
					c.regions[us].up = false
					if plan.want.Unplanned {
						_ = c.expire(us)
					}
				}
				if plan.fault != "" {
					c.faults[plan.fault] = &fault{1, "broken"}
				}
				if !c.make(plan.want) {
					c.fatal("nothing to kill: the plan did not begin")
				}
				return c
			}
			total := 0
			boundaries(begin("count").fleet, func(string, topology.Region) bool { total++; return false })
			if total < 12 {
				t.Fatalf("%d boundaries: the plan did nothing", total)
			}
			for _, d := range disasters {
				for n := range total {
					c := begin(fmt.Sprintf("%s, boundary %d", d.name, n))
					i := 0
					boundaries(c.fleet, func(where string, actor topology.Region) bool {
						i++
						if i-1 != n {
							return false
						}
						begin := c.fatal
						c.fatal = func(format string, a ...any) { t.Helper(); begin(where+": "+format, a...) }
						d.strike(c.fleet, actor)
						return true
					})
					if i <= n {
						c.fatal("boundary %d never came, there are %d", n, i)
					}
					if d.away { // the others do what they can
						if c.settle() >= roundsMax {
							c.fatal("the others never rest\n%s", c.log())
						}
						if id := c.id(); c.state.Plans[id].Phase.Live() && c.waits() == "" {
							c.fatal("%s is %s and waits for nobody\n%s", id, c.state.Plans[id].Phase, c.log())
						}
					}
					c.recover()
					c.checkWhole()
					c.checkWayOut()
					p := c.state.Plans["plan-001"].Phase
					if p == consensus.PlanSuperseded && !d.superseded {
						c.fatal("%s was superseded\n%s", "plan-001", c.log())
					}
					ends[p]++
					runs++
				}
			}
			t.Logf("%d boundaries, %d runs: %v", total, runs, ends)
			if ends[consensus.PlanCompleted]+ends[consensus.PlanRolledBack]+ends[consensus.PlanSuperseded] != runs {
				t.Errorf("%d runs ended %v", runs, ends)
			}
			if ends[consensus.PlanRolledBack] == 0 || plan.fault == "" && ends[consensus.PlanCompleted] == 0 {
				t.Errorf("never both ends: %v", ends)
			}
		})
	}
}
