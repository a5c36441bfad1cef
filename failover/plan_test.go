package failover

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// TestHash_CoversWhatWasDecidedOn: the plan that runs is the plan that was
// read. What it rests on changes its hash; what always changes does not.
func TestHash_CoversWhatWasDecidedOn(t *testing.T) {
	hashOf := func(want Intent, edit change) string {
		f := newFleet(setup{hooks: true, policy: consensus.Demote})
		if edit != nil {
			edit(f)
		}
		c, _ := MakePlan(f.now, f.state, f.h, f.rules, want)
		if c.Plan.Hash == "" {
			t.Fatal("no hash")
		}
		return c.Plan.Hash
	}
	rules := func(edit func(*RoleRules)) change {
		return func(f *fleet) {
			f.rules.Roles = maps.Clone(f.rules.Roles)
			r := f.rules.Roles[topology.Ingestion]
			edit(&r)
			f.rules.Roles[topology.Ingestion] = r
		}
	}
	role := func(edit func(*consensus.Role)) change {
		return func(f *fleet) {
			r := f.state.Roles[topology.Ingestion]
			edit(&r)
			f.state.Roles[topology.Ingestion] = r
		}
	}
	was := hashOf(planned, nil)
	for name, edit := range map[string]change{
		"generation":           func(f *fleet) { f.state.Generation++ },
		"epoch":                role(func(r *consensus.Role) { r.Epoch++ }),
		"holder":               func(f *fleet) { _ = f.expire(us) },
		"configuration":        func(f *fleet) { f.state.Settings.Digest = "beef" },
		"a hook":               rules(func(r *RoleRules) { r.Stop.Argv = []string{"stop", "--now"} }),
		"a hook's time limit":  rules(func(r *RoleRules) { r.Stop.Timeout++ }),
		"a step less":          rules(func(r *RoleRules) { r.Start = Command{} }),
		"a step more":          rules(func(r *RoleRules) { r.DrainGroups = []string{"index"} }),
		"how long it quiesces": rules(func(r *RoleRules) { r.Quiesce += time.Second }),
		"a verdict":            regionHealth(eu, func(r *RegionHealth) { r.ClockPPM = 4000 }),
		"a gate more":          rules(func(r *RoleRules) { r.Stores = append(r.Stores, "clickhouse", "postgres") }),
	} {
		if hashOf(planned, edit) == was {
			t.Errorf("another %s, the same hash", name)
		}
	}
	for name, edit := range map[string]change{
		"lag":        mirrorHealth(func(l *LinkHealth) { l.Records, l.Bytes, l.Seconds, l.Rate = 9000, 1<<20, 12, 700 }),
		"wall clock": func(f *fleet) { f.now = f.now.Add(time.Hour) },
		"renewals":   role(func(r *consensus.Role) { r.Sequence += 100; r.Nonce += 100 }),
		"silence":    regionHealth(eu, func(r *RegionHealth) { r.Heard = 7 * time.Second }),
		"clock rate": regionHealth(eu, func(r *RegionHealth) { r.ClockPPM = 12 }),
		"audit":      func(f *fleet) { f.state.Audit.Count++ },
		"old plans":  livePlan(consensus.Planned, consensus.PlanCompleted, topology.Ingestion),
	} {
		if hashOf(planned, edit) != was {
			t.Errorf("another %s changed the hash: it could never be run", name)
		}
	}
	intents := map[string]bool{was: true}
	for name, want := range map[string]Intent{
		"fenced":    fenced,
		"unplanned": {To: eu, Unplanned: true},
		"one role":  {To: eu, Roles: []topology.Role{topology.Query}},
	} {
		h := hashOf(want, nil)
		if intents[h] {
			t.Errorf("%s has the hash of another intent", name)
		}
		intents[h] = true
	}
	if again := hashOf(planned, nil); again != was {
		t.Errorf("the same plan, another hash: %s, %s", was, again)
	}
}

// TestReseed_HashCoversTheRangesItDiscards: more orphans, another plan.
func TestReseed_HashCoversTheRangesItDiscards(t *testing.T) {
	hashOf := func(to int64) string {
		f := newFleet(setup{})
		link(func(l *consensus.Link) {
			l.Frozen = consensus.Ranges{"events": {2: {From: 120, To: to, Reason: "orphans"}}}
		})(f)
		c, blockers := MakeReseed(f.now, f.state, f.h, f.rules, eu, nil, "exported")
		if len(blockers) > 0 {
			t.Fatal(blockers)
		}
		return c.Plan.Hash
	}
	if hashOf(140) == hashOf(141) {
		t.Error("one record more is discarded under the same hash")
	}
	if once, again := hashOf(140), hashOf(140); once != again {
		t.Error("the hash is not a function")
	}
}

// TestReseed_EachGateRefuses breaks one thing at a time.
func TestReseed_EachGateRefuses(t *testing.T) {
	refuses := func(edit change, reason string, gates ...string) {
		t.Helper()
		f := newFleet(setup{})
		if edit != nil {
			edit(f)
		}
		_, blockers := MakeReseed(f.now, f.state, f.h, f.rules, eu, []string{"events"}, reason)
		if len(blockers) != len(gates) {
			t.Errorf("want %v, got %+v", gates, blockers)
			return
		}
		for i, b := range blockers {
			if b.Gate != gates[i] || b.Why == "" || b.Fix == "" {
				t.Errorf("want %s, got %+v", gates[i], b)
			}
		}
	}
	refuses(nil, "start over")
	refuses(nil, " ", "reason")
	refuses(func(f *fleet) { f.state.Settings.Observe = true }, "start over", "mode")
	refuses(livePlan(consensus.Planned, consensus.PlanRunning, topology.Query), "start over", "one plan at a time")
	refuses(livePlan(consensus.Reseed, consensus.PlanGranted), "start over", "one plan at a time")
	refuses(func(f *fleet) {
		r := f.state.Roles[topology.Query]
		r.Holder = eu
		f.state.Roles[topology.Query] = r
	}, "start over", "standby")
	refuses(link(func(l *consensus.Link) { l.Phase = consensus.LinkUnproven }), "start over", "compared")
	refuses(regionHealth(eu, func(r *RegionHealth) { r.Heard = time.Hour }), "start over", "target daemon")
	refuses(link(func(l *consensus.Link) { l.Phase = consensus.LinkEnded }), "start over", "link")
}

// TestPlan_DecidingChangesNothing compares all there is before and after.
func TestPlan_DecidingChangesNothing(t *testing.T) {
	f := newFleet(setup{hooks: true, policy: consensus.Demote, auto: true})
	for _, next := range []string{"with a live plan", "with a vacant role", ""} {
		before, err := consensus.EncodeState(f.state)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []Intent{planned, fenced, {To: eu, Unplanned: true}, {To: us}, {To: "mars"}} {
			MakePlan(f.now, f.state, f.h, f.rules, want)
		}
		MakeReseed(f.now, f.state, f.h, f.rules, eu, []string{"b", "a"}, "reason")
		Automatic(f.now, f.state, f.h, f.rules)
		for id := range f.state.Plans {
			Next(f.now, id, f.state)
			Stuck(id, f.state)
		}
		after, err := consensus.EncodeState(f.state)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Fatal("deciding changed the state")
		}
		switch next {
		case "with a live plan":
			c, _ := MakePlan(f.now, f.state, f.h, f.rules, planned)
			if err := f.run("p1", c, "operator"); err != nil {
				t.Fatal(err)
			}
			f.lead()
		case "with a vacant role":
			if err := f.expire(us); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPlan_DecidedOnAnotherWorldIsRefused: between reading a plan and running
// it the world may change; the log compares what the plan rests on.
func TestPlan_DecidedOnAnotherWorldIsRefused(t *testing.T) {
	stale := func(name string, want Intent, meanwhile change) {
		t.Helper()
		f := newFleet(setup{policy: consensus.Demote})
		if want.Unplanned {
			_ = f.expire(us)
		}
		// One link has turned before, as in any fleet that has a history.
		link(func(l *consensus.Link) { l.Turn = 3 })(f)
		c, blockers := MakePlan(f.now, f.state, f.h, f.rules, want)
		if len(blockers) > 0 {
			t.Fatal(name, blockers)
		}
		meanwhile(f)
		if err := f.run("late", c, "operator"); !consensus.Refused(err, consensus.CodeStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
	expire := func(f *fleet) { _ = f.expire(us) }
	stale("the lease ran out", planned, expire)
	stale("the region took it again", Intent{To: eu, Unplanned: true}, func(f *fleet) { _ = f.reclaim(us, topology.Query) })
	stale("the mirror ended", fenced, func(f *fleet) {
		f.must(f.propose("eu-west", &consensus.EndLink{Link: there, Epoch: 1, Ends: consensus.Offsets{"events": {0: 9}}}))
	})
}

// TestPlan_IsNotGivenUpForTheMirrorAlone: a plan that only has to turn the
// mirror round ends by itself; nobody else would turn it.
func TestPlan_IsNotGivenUpForTheMirrorAlone(t *testing.T) {
	f := newFleet(setup{roles: []topology.Role{topology.Ingestion}})
	c, _ := MakePlan(f.now, f.state, f.h, f.rules, planned)
	f.must(f.run("p1", c, "operator"))
	for range roundsMax {
		p := f.state.Plans["p1"]
		i, left := p.Current()
		if !left || p.Steps[i].Kind == consensus.StepLinkReverse {
			break
		}
		f.lead()
		f.work()
	}
	if err := f.propose("operator", &consensus.SupersedePlan{Plan: "p1", Why: "impatient"}); !consensus.Refused(err, consensus.CodeConflict) {
		t.Errorf("given up: %v", err)
	}
	f.settle()
	if p := f.state.Plans["p1"]; p.Phase != consensus.PlanCompleted || f.broken != nil {
		t.Errorf("the plan is %s, %v", p.Phase, f.broken)
	}
}

// TestPlan_LateWordOfAnEarlierAttemptIsRefused, in one life of a daemon and
// also after a person said retry: no two attempts share a number.
func TestPlan_LateWordOfAnEarlierAttemptIsRefused(t *testing.T) {
	f := newFleet(setup{roles: []topology.Role{topology.Query}})
	c, _ := MakePlan(f.now, f.state, f.h, f.rules, planned)
	f.must(f.run("p1", c, "operator"))
	f.faults[KindCanary] = &fault{forwardTries, "refused"}
	var words []consensus.Body
	f.applied = func(_ string, b consensus.Body, _ consensus.State, err error) {
		if w, ok := b.(*consensus.FailTask); ok && err == nil {
			words = append(words, w)
		}
	}
	f.settle()
	if len(words) != forwardTries || Stuck("p1", f.state) == "" {
		t.Fatalf("%d attempts failed; stuck: %q", len(words), Stuck("p1", f.state))
	}
	step, _ := f.state.Plans["p1"].Current()
	f.must(f.propose("operator", &consensus.RetryTask{Step: consensus.StepRef{Plan: "p1", Step: step}}))
	f.lead()
	for id := range f.state.Tasks {
		if !f.claim(id) {
			t.Fatal("the new attempt was not claimed")
		}
	}
	for _, w := range words {
		if err := f.propose("late", w); !consensus.Refused(err, consensus.CodeStale) {
			t.Errorf("the word of attempt %d was taken again: %v", w.(*consensus.FailTask).Attempt, err)
		}
	}
	if f.broken != nil {
		t.Error(f.broken)
	}
}

// TestNext_SilenceBeforeTheGrantTurnsBack: a step that says nothing for its
// time and some grace is given up while there is a way back; after it, never.
func TestNext_SilenceBeforeTheGrantTurnsBack(t *testing.T) {
	f := newFleet(setup{roles: []topology.Role{topology.Query}})
	c, _ := MakePlan(f.now, f.state, f.h, f.rules, planned)
	if err := f.run("p1", c, "operator"); err != nil {
		t.Fatal(err)
	}
	f.lead()
	f.lead() // the region of step 2 never claims it
	limit := c.Plan.Steps[1].Timeout + taskGrace
	if got := Next(f.now.Add(limit), "p1", f.state); len(got) != 0 {
		t.Errorf("within its time: %T", got[0])
	}
	got := Next(f.now.Add(limit+1), "p1", f.state)
	if len(got) != 1 {
		t.Fatalf("%d proposals", len(got))
	}
	if a, ok := got[0].(*consensus.AbortPlan); !ok || a.Why == "" {
		t.Errorf("proposed %T", got[0])
	}

	for range 3 { // quiesce, release, grant
		f.work()
		f.lead()
	}
	f.lead()
	if p := f.state.Plans["p1"]; p.Phase != consensus.PlanGranted {
		t.Fatalf("the plan is %s", p.Phase)
	}
	if got := Next(f.now.Add(time.Hour), "p1", f.state); len(got) != 0 {
		t.Errorf("after the grant: %T", got[0])
	}
}

// TestNext_UnknownAndEndedPlansNeedNothing so that any leader may ask at any time.
func TestNext_UnknownAndEndedPlansNeedNothing(t *testing.T) {
	f := newFleet(setup{})
	for _, p := range []consensus.PlanPhase{consensus.PlanCompleted, consensus.PlanRolledBack, consensus.PlanSuperseded} {
		livePlan(consensus.Planned, p)(f)
		if got := Next(f.now, "other", f.state); got != nil || Stuck("other", f.state) != "" {
			t.Errorf("%s: %v", p, got)
		}
	}
	if got := Next(f.now, "none", f.state); got != nil || Stuck("none", f.state) != "" {
		t.Errorf("no plan: %v", got)
	}
}
