package failover

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// TestAutomatic_NeedsEverySign takes one sign away at a time from a region
// that is lost, and expects a no with its reason.
func TestAutomatic_NeedsEverySign(t *testing.T) {
	lost := func() *fleet {
		f := newFleet(setup{auto: true, policy: consensus.Demote})
		f.regions[us].up = false
		if err := f.expire(us); err != nil {
			t.Fatal(err)
		}
		r := f.h.Regions[us]
		r.Heard = time.Minute
		for node := range r.Probes {
			r.Probes[node] = Probe{Age: time.Second, Failing: 30 * time.Second}
		}
		f.h.Regions[us] = r
		return f
	}
	f := lost()
	want, yes, why := Automatic(f.now, f.state, f.h, f.rules)
	expected := Intent{
		To: eu, Roles: []topology.Role{topology.Ingestion, topology.Query}, Unplanned: true, Auto: true,
		Reason: "the lease of us-east ran out and 2 nodes find its stores unreachable",
	}
	if diff := cmp.Diff(expected, want); diff != "" || !yes || why != "" {
		t.Fatalf("%v %q %s", yes, why, diff)
	}

	no := func(why string, edit change) {
		t.Helper()
		f := lost()
		edit(f)
		want, yes, got := Automatic(f.now, f.state, f.h, f.rules)
		if yes || got != why || !cmp.Equal(want, Intent{}) {
			t.Errorf("want %q, got %v %q %+v", why, yes, got, want)
		}
	}
	each := func(edit func(*consensus.Role)) change {
		return func(f *fleet) {
			for name, r := range f.state.Roles {
				edit(&r)
				f.state.Roles[name] = r
			}
		}
	}
	probe := func(node topology.Node, p Probe) change {
		return func(f *fleet) { f.h.Regions[us].Probes[node] = p }
	}
	const nothing = "no automatic role lost its lease"
	no("mode is observe", func(f *fleet) { f.state.Settings.Observe = true })
	no(nothing, func(f *fleet) {
		for name, r := range f.state.Settings.Roles {
			r.Auto = false
			f.state.Settings.Roles[name] = r
		}
	})
	no(nothing, each(func(r *consensus.Role) { r.Phase = consensus.Open }))
	// A role that its holder gave up, or that a person took, moves by hand.
	no(nothing, each(func(r *consensus.Role) { r.Last.Basis = consensus.Acknowledged }))
	no(nothing, each(func(r *consensus.Role) { r.Last.Basis = consensus.Attested }))
	no(nothing, each(func(r *consensus.Role) { *r = consensus.Role{Phase: consensus.Vacant} }))
	no("plan other is running", livePlan(consensus.Planned, consensus.PlanRunning, topology.Ingestion))
	no("plan other is granted", livePlan(consensus.Planned, consensus.PlanGranted, topology.Ingestion))
	no("query is paused until 2026-03-01T12:00:01Z", func(f *fleet) {
		f.state.Pauses[topology.Query] = consensus.Pause{Until: f.now.Add(time.Second), Reason: "broker upgrade"}
	})
	no("ingestion failed over at 11:50:01 and nobody acknowledged it: `holdfast failover ack`", each(func(r *consensus.Role) { r.Failover = start.Add(-10*time.Minute + time.Second) }))
	no("eu-west-1 has not reported its probe of us-east", func(f *fleet) { delete(f.h.Regions[us].Probes, "eu-west-1") })
	no("witness-1 has not reported its probe of us-east", probe("witness-1", Probe{Age: 11 * time.Second, Failing: time.Minute}))
	no("witness-1 still reaches the stores of us-east: its daemon may be down, the region is not", probe("witness-1", Probe{Age: time.Second, Failing: 9 * time.Second}))
	no("witness-1 still reaches the stores of us-east: its daemon may be down, the region is not", func(f *fleet) {
		f.rules.ProbeFailing = 0
		probe("witness-1", Probe{Age: time.Second})(f)
	})
	no("an automatic move needs two other nodes that agree", func(f *fleet) { delete(f.state.Members, "witness-1") })
	no("no other region's daemon reports", regionHealth(eu, func(r *RegionHealth) { r.Heard = time.Minute }))

	yesStill := func(edit change) {
		t.Helper()
		f := lost()
		edit(f)
		if _, yes, why := Automatic(f.now, f.state, f.h, f.rules); !yes {
			t.Errorf("no, %s", why)
		}
	}
	yesStill(livePlan(consensus.Planned, consensus.PlanAborting, topology.Ingestion)) // it must not wait for the dead
	yesStill(func(f *fleet) { f.state.Pauses[topology.Query] = consensus.Pause{Until: f.now} })
	yesStill(each(func(r *consensus.Role) { r.Failover = start.Add(-10 * time.Minute) }))
}

// TestAutomatic_MovesOneRegionAtATime: roles lost by two regions at once do
// not meet in one plan.
func TestAutomatic_MovesOneRegionAtATime(t *testing.T) {
	f := newFleet(setup{auto: true, policy: consensus.Demote})
	if err := f.expire(us); err != nil {
		t.Fatal(err)
	}
	q := f.state.Roles[topology.Query]
	q.Last.Holder = eu
	f.state.Roles[topology.Query] = q
	for node := range f.h.Regions[us].Probes {
		f.h.Regions[us].Probes[node] = Probe{Age: time.Second, Failing: time.Minute}
	}
	want, yes, why := Automatic(f.now, f.state, f.h, f.rules)
	if !yes || !cmp.Equal(want.Roles, []topology.Role{topology.Ingestion}) || want.To != eu {
		t.Errorf("%v %q %+v", yes, why, want)
	}
}
