package failover

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var (
	planned = Intent{To: eu}
	fenced  = Intent{To: eu, Fenced: us, Reason: "its uplink was cut"}
)

// change is one thing that is wrong with an otherwise ready fleet.
type change func(f *fleet)

func regionHealth(name topology.Region, edit func(*RegionHealth)) change {
	return func(f *fleet) {
		r := f.h.Regions[name]
		edit(&r)
		f.h.Regions[name] = r
	}
}

func mirrorHealth(edit func(*LinkHealth)) change {
	return func(f *fleet) {
		l := f.h.Links[there]
		edit(&l)
		f.h.Links[there] = l
	}
}

func phase(role topology.Role, p consensus.Phase) change {
	return func(f *fleet) {
		r := f.state.Roles[role]
		r.Phase = p
		f.state.Roles[role] = r
	}
}

func link(edit func(*consensus.Link)) change {
	return func(f *fleet) {
		l := f.state.Links[there]
		edit(&l)
		f.state.Links[there] = l
	}
}

func livePlan(kind consensus.PlanKind, p consensus.PlanPhase, roles ...topology.Role) change {
	return func(f *fleet) {
		f.state.Plans["other"] = consensus.Plan{Kind: kind, Phase: p, Roles: roles}
	}
}

// TestGates_EachRefusesForItsReason breaks one thing at a time and expects
// exactly the gates that speak of it, each with why and what to do.
func TestGates_EachRefusesForItsReason(t *testing.T) {
	refuses := func(want Intent, broken change, expected ...Blocker) {
		t.Helper()
		f := newFleet(setup{policy: consensus.Demote})
		if want.Unplanned {
			if err := f.expire(us); err != nil {
				t.Fatal(err)
			}
		}
		if broken != nil {
			broken(f)
		}
		c, got := MakePlan(f.now, f.state, f.h, f.rules, want)
		if diff := cmp.Diff(expected, got); diff != "" {
			t.Errorf("blockers (- expected, + got):\n%s", diff)
		}
		for _, b := range got {
			if b.Gate == "" || b.Why == "" || b.Fix == "" {
				t.Errorf("a blocker must say what, why and what to do: %+v", b)
			}
		}
		if len(c.Gates) > 0 {
			if diff := cmp.Diff(got, c.Blockers()); diff != "" {
				t.Errorf("the candidate tells another tale: %s", diff)
			}
		}
	}
	expired := Intent{To: eu, Unplanned: true}

	refuses(planned, nil)
	refuses(fenced, nil)
	refuses(expired, nil)

	refuses(planned, func(f *fleet) { f.state.Settings.Observe = true },
		Blocker{"mode", "mode is observe: holdfast drives nothing", "set mode: active in the fleet file and run `holdfast config apply`"})
	for _, p := range []consensus.PlanPhase{consensus.PlanRunning, consensus.PlanAborting, consensus.PlanGranted} {
		refuses(planned, livePlan(consensus.Planned, p, topology.Query),
			Blocker{"one plan at a time", "plan other is " + string(p), "`holdfast failover status` shows it; wait, or `holdfast failover abort`"})
	}
	refuses(fenced, livePlan(consensus.Planned, consensus.PlanRunning, topology.Query),
		Blocker{"one plan at a time", "plan other is running", "`holdfast failover status` shows it; wait, or `holdfast failover abort`"})
	refuses(fenced, livePlan(consensus.Planned, consensus.PlanAborting, topology.Query))
	refuses(fenced, func(f *fleet) {
		f.state.Plans["other"] = consensus.Plan{
			Phase: consensus.PlanGranted, Roles: []topology.Role{topology.Query},
			Steps: []consensus.Step{{Kind: KindCanary, Region: eu}}, Journal: []consensus.StepRecord{{State: consensus.StepFailed}},
		}
	})
	refuses(fenced, func(f *fleet) { // it only has to turn the mirror round
		f.state.Plans["other"] = consensus.Plan{
			Phase: consensus.PlanGranted, Roles: []topology.Role{topology.Query},
			Steps: []consensus.Step{{Kind: consensus.StepLinkReverse}}, Journal: []consensus.StepRecord{{State: consensus.StepPending}},
		}
	}, Blocker{"one plan at a time", "plan other is granted", "`holdfast failover status` shows it; wait, or `holdfast failover abort`"})
	refuses(planned, livePlan(consensus.Planned, consensus.PlanCompleted, topology.Query))
	refuses(fenced, livePlan(consensus.Reseed, consensus.PlanGranted),
		Blocker{"one plan at a time", "plan other is granted", "`holdfast failover status` shows it; wait, or `holdfast failover abort`"})
	refuses(planned, func(f *fleet) { f.h.Voters = 1 },
		Blocker{"quorum", "only 1 of 3 members reach each other", "bring the missing daemons back: `holdfast members list`"})
	refuses(planned, func(f *fleet) { f.h.Voters = 2 })

	silent := Blocker{"target daemon", "the daemon of eu-west does not report", "check holdfast.service there: `systemctl status holdfast`"}
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { r.Heard = 11 * time.Second }), silent)
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { r.Heard = -1 }), silent)
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { r.Heard = 10 * time.Second }))
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { r.Stores["kafka"] = Check{false, "1 of 3 brokers answers"} }),
		Blocker{"target kafka", "kafka of eu-west: 1 of 3 brokers answers", "repair it first: `holdfast check --region eu-west`"})
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { delete(r.Stores, "clickhouse") }),
		Blocker{"target clickhouse", "clickhouse of eu-west: not checked yet", "repair it first: `holdfast check --region eu-west`"})
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { r.ClockPPM = -4000 }),
		Blocker{"clock", "the clock of eu-west runs -0.40 % off (limit 0.1 %)", "correct it: `chronyc makestep`, then plan again"})
	refuses(planned, regionHealth(eu, func(r *RegionHealth) { r.ClockPPM = 1000 }))

	refuses(planned, regionHealth(us, func(r *RegionHealth) { r.Heard = time.Hour }),
		Blocker{"source daemon", "the daemon of us-east does not report: a planned move needs both", "bring it back, or move without it: `holdfast failover plan --to eu-west --fenced us-east --reason …`"})
	refuses(fenced, regionHealth(us, func(r *RegionHealth) { r.Heard = time.Hour }))
	refuses(planned, phase(topology.Query, consensus.Draining),
		Blocker{"query is open", "query is draining, a planned move starts from open", "`holdfast status` shows why"})

	refuses(Intent{To: eu, Unplanned: true, Roles: []topology.Role{topology.Query}}, func(f *fleet) {
		r := f.state.Roles[topology.Query]
		r.Phase, r.Holder = consensus.Open, us
		f.state.Roles[topology.Query] = r
	}, Blocker{"query is free", "query is held by us-east and its lease has not run out", "wait for the lease, or attest that the region is cut off: --fenced us-east --reason …"})
	refuses(Intent{To: eu, Fenced: us, Reason: "  "}, nil,
		Blocker{"attestation", "an attestation needs a reason", "--reason \"who fenced it and how\""})

	stopped := []Blocker{
		{"mirror", "the mirror us-east>eu-west does not run, although it should", "`holdfast mirror status` says why"},
		{"mirror lag", "how far the mirror is behind is not known: it does not run", "wait until it has caught up: `holdfast mirror status`"},
	}
	refuses(planned, mirrorHealth(func(l *LinkHealth) { l.Running = false }), stopped...)
	refuses(planned, mirrorHealth(func(l *LinkHealth) { l.Heard = time.Minute }), stopped...)
	refuses(planned, link(func(l *consensus.Link) { l.Phase = consensus.LinkEnded }),
		Blocker{"mirror", "the mirror us-east>eu-west does not run (ended)", "`holdfast mirror status` says why"})
	refuses(planned, mirrorHealth(func(l *LinkHealth) { l.Seconds, l.Records = 30.2, 15100 }),
		Blocker{"mirror lag", "mirror 30.2s behind, 15100 records (limit 30s)", "wait until it has caught up: `holdfast mirror status`"})
	refuses(planned, mirrorHealth(func(l *LinkHealth) { l.Seconds = 30 }))
	refuses(expired, link(func(l *consensus.Link) { l.Phase = consensus.LinkUnproven }),
		Blocker{"mirror", "eu-west has not been compared since it returned", "wait for the comparison: `holdfast mirror status`"})
	refuses(expired, mirrorHealth(func(l *LinkHealth) { l.SourceSeen = 40 * time.Second }),
		Blocker{"loss", "loss 212 to 28712 records, up to 41.4s of data (limit 30s)", "accept it by hand: --accept-loss"})
	refuses(Intent{To: eu, Unplanned: true, AcceptLoss: true}, mirrorHealth(func(l *LinkHealth) { l.SourceSeen = 40 * time.Second }))
	refuses(expired, func(f *fleet) { delete(f.h.Links, there) },
		Blocker{"loss", "loss unknown: the mirror has not reported", "accept it by hand: --accept-loss"},
		Blocker{"group offsets", "the mirror has not reported its groups", "`holdfast groups check` names each"})
	frozen := Blocker{"no frozen partition", "1 frozen: events/2 [120,140) orphans", "`holdfast mirror status` names each and its next step"}
	agreed := link(func(l *consensus.Link) {
		l.Frozen = consensus.Ranges{"events": {2: {From: 120, To: 140, Reason: "orphans"}}}
	})
	heard := mirrorHealth(func(l *LinkHealth) {
		l.Frozen = []FrozenPartition{{topology.Partition{Topic: "events", Partition: 2}, 120, 140, "orphans", "reseed"}}
	})
	refuses(planned, agreed, frozen)
	refuses(planned, heard, frozen)
	refuses(planned, func(f *fleet) { agreed(f); heard(f) }, frozen) // one partition, told twice
	refuses(Intent{To: eu, Roles: []topology.Role{topology.Query}}, heard)
	refuses(expired, heard, Blocker{frozen.Gate, frozen.Why, frozen.Fix + "; or accept by hand what they lack: --accept-loss"})
	refuses(Intent{To: eu, Unplanned: true, AcceptLoss: true}, heard)
	exposed := mirrorHealth(func(l *LinkHealth) {
		l.Exposed = []Exposed{{"events", 2, "billing stands at 990 of events/0, below 1023"}, {"outcomes", 1, "index stands at 1 of outcomes/0, below 2"}}
	})
	refuses(planned, exposed, Blocker{"orphans", "groups of 2 topics would read orphans: billing stands at 990 of events/0, below 1023 (2 groups of events)", "let the groups read on past them, or accept it by name: --accept-orphans events"})
	refuses(Intent{To: eu, AcceptOrphans: []string{"events"}}, exposed, Blocker{"orphans", "groups of 1 topics would read orphans: index stands at 1 of outcomes/0, below 2 (1 groups of outcomes)", "let the groups read on past them, or accept it by name: --accept-orphans outcomes"})
	refuses(Intent{To: eu, AcceptOrphans: []string{"events", "outcomes"}}, exposed)
	refuses(planned, mirrorHealth(func(l *LinkHealth) {
		l.Coverage = Coverage{3, 1, []string{"a lacks events/0", "b lacks events/1", "c"}}
	}),
		Blocker{"group offsets", "offsets cover 1 of 3 groups: a lacks events/0; b lacks events/1", "`holdfast groups check` names each"})
}

// TestMakePlan_SaysWhyThereIsNone covers what is refused before any gate.
func TestMakePlan_SaysWhyThereIsNone(t *testing.T) {
	none := func(want Intent, broken change, gate, why string) {
		t.Helper()
		f := newFleet(setup{policy: consensus.Demote})
		if broken != nil {
			broken(f)
		}
		c, got := MakePlan(f.now, f.state, f.h, f.rules, want)
		if len(c.Plan.Steps) > 0 || len(got) != 1 || got[0].Gate != gate || got[0].Why != why || got[0].Fix == "" {
			t.Errorf("%+v: got %+v", want, got)
		}
	}
	none(planned, func(f *fleet) { f.state.Roles = nil }, "roles", "this fleet has no roles: it backs up and mirrors, and moves nothing")
	none(Intent{To: "mars"}, nil, "target", `no region "mars" in this fleet`)
	none(Intent{To: eu, Fenced: eu, Reason: "x"}, nil, "target", "eu-west cannot be both fenced and the target")
	none(Intent{To: us}, nil, "roles", "us-east holds every role already, nothing to move")
	none(Intent{To: us, Roles: []topology.Role{"query"}}, nil, "roles", "us-east holds query already")
	none(Intent{To: eu, Roles: []topology.Role{"postgres"}}, nil, "roles", `no role "postgres" in this fleet, there are: ingestion, query`)
	none(Intent{To: eu, Roles: []topology.Role{"query"}}, func(f *fleet) {
		f.state.Roles["query"] = consensus.Role{Phase: consensus.Vacant}
	}, "roles", "role query was never held: its initial region takes it when its daemon runs")
	none(Intent{To: eu, Roles: []topology.Role{"query", "ingestion"}}, func(f *fleet) {
		r := f.state.Roles["query"]
		r.Holder = "ap-south"
		f.state.Roles["query"] = r
	}, "roles", "the roles are held by us-east and ap-south: move them one by one with --role")
	// An attestation about a region that holds nothing would void nothing.
	none(Intent{To: eu, Roles: []topology.Role{"query"}, Fenced: "us-eest", Reason: "x"}, func(f *fleet) { _ = f.expire(us) },
		"attestation", "us-eest is attested to be fenced, but it is us-east that holds query")
}

// TestGates_NoteNeverBlocks: query apart from ingestion is told, not refused.
func TestGates_NoteNeverBlocks(t *testing.T) {
	f := newFleet(setup{})
	c, blockers := MakePlan(f.now, f.state, f.h, f.rules, Intent{To: eu, Roles: []topology.Role{topology.Query}})
	last := c.Gates[len(c.Gates)-1]
	if len(blockers) > 0 || !last.Note || !strings.Contains(last.Detail, "query will be in eu-west and ingestion in us-east") {
		t.Errorf("%+v, blockers %v", last, blockers)
	}
	c.Gates[len(c.Gates)-1].OK = false
	if len(c.Blockers()) > 0 {
		t.Error("a note blocks")
	}
	both, _ := MakePlan(f.now, f.state, f.h, f.rules, planned)
	for _, g := range both.Gates {
		if g.Note {
			t.Errorf("together they go, and yet: %s", g.Detail)
		}
	}
}

// TestLossBound_AddsUp: min is what was seen and not mirrored; max adds what
// the old region may have accepted since, until its lease was over.
func TestLossBound_AddsUp(t *testing.T) {
	f := newFleet(setup{policy: consensus.Demote})
	bound := func(l LinkHealth, heard bool) consensus.LossBound {
		delete(f.h.Links, there)
		if heard {
			f.h.Links[there] = l
		}
		c, _ := MakePlan(f.now, f.state, f.h, f.rules, fenced)
		if diff := cmp.Diff(c.Plan.Bound, c.Loss); diff != "" {
			t.Errorf("the candidate and its plan state different losses: %s", diff)
		}
		c.Loss.Basis = ""
		return c.Loss
	}
	expect := func(got, want consensus.LossBound) {
		t.Helper()
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	// 2 s silence, 4 s since the ends were read, 16 s of lease: 22 s unseen.
	expect(bound(LinkHealth{Heard: 2 * time.Second, SourceSeen: 4 * time.Second, Records: 100, Rate: 50}, true), consensus.LossBound{Min: 100, Max: 100 + 22*50, Rate: 50})
	expect(bound(LinkHealth{Heard: 2 * time.Second, SourceSeen: 4 * time.Second, Records: 100}, true), consensus.LossBound{Min: 100, Max: 100})
	// A part of a record is a record.
	expect(bound(LinkHealth{Rate: 0.1}, true), consensus.LossBound{Min: 0, Max: 2, Rate: 0.1})
	expect(bound(LinkHealth{Heard: -1, Records: 7}, true), consensus.LossBound{Max: math.MaxInt64})
	expect(bound(LinkHealth{}, false), consensus.LossBound{Max: math.MaxInt64})

	c, _ := MakePlan(f.now, f.state, f.h, f.rules, planned)
	expect(c.Loss, consensus.LossBound{})
}
