package failover

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// TestPlan_EndsWhateverHappens throws leaders with old knowledge, crashes,
// failing steps, aborts, late words and lapsed leases at a plan, then lets
// everyone recover: the plan ends, and what it leaves behind is whole.
func TestPlan_EndsWhateverHappens(t *testing.T) {
	ends := map[consensus.PlanPhase]int{}
	once := func(t *rapid.T) {
		c := newChaos(t)
		c.begin()
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			c.event()
			if c.broken != nil {
				t.Fatalf("%v\n%s", c.broken, c.log())
			}
		}
		c.recover()
		c.checkWhole()
		c.checkWayOut()
		for _, p := range c.state.Plans {
			ends[p.Phase]++
		}
	}
	rounds := 20 // of 100 schedules each
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		rapid.Check(t, once)
	}
	// A property that only ever sees plans turned back proves nothing.
	for _, phase := range []consensus.PlanPhase{consensus.PlanCompleted, consensus.PlanRolledBack, consensus.PlanSuperseded} {
		if ends[phase] == 0 && !testing.Short() { // rapid plays a fifth then
			t.Errorf("no plan ended %s: %v", phase, ends)
		}
	}
	t.Logf("plans ended: %v", ends)
}

// chaos is a fleet on which anything happens.
type chaos struct {
	*fleet
	t     *rapid.T // what draws; nil when nothing is left to chance
	fatal func(format string, a ...any)
	lines []string
	old   []consensus.State // what slow leaders still believe
	plans int
	// latest is the last plan that began to move roles.
	latest consensus.PlanID
	// flight is what was sent and has not arrived: words of tasks, the end of
	// a link, a plan that someone decided to run a while ago.
	flight []consensus.Body
}

func newChaos(t *rapid.T) *chaos {
	c := &chaos{t: t, fatal: t.Fatalf, fleet: newFleet(setup{
		policy: rapid.SampledFrom([]consensus.Policy{consensus.Hold, consensus.Demote}).Draw(t, "policy"),
		hooks:  rapid.Bool().Draw(t, "hooks"),
		auto:   rapid.Bool().Draw(t, "auto"),
		roles:  rapid.SampledFrom([][]topology.Role{{topology.Ingestion}, {topology.Query}, {topology.Ingestion, topology.Query}}).Draw(t, "roles"),
	})}
	c.watch()
	return c
}

func (c *chaos) watch() {
	c.applied = func(by string, b consensus.Body, before consensus.State, err error) {
		line := fmt.Sprintf("%s: %s", by, consensus.Command{Body: b}.Kind())
		switch b := b.(type) {
		case *consensus.StartStep:
			line += fmt.Sprintf(" %v", b.Step)
		case *consensus.FinishTask:
			line += fmt.Sprintf(" %s attempt %d", b.Task, b.Attempt)
		case *consensus.FailTask:
			line += fmt.Sprintf(" %s attempt %d", b.Task, b.Attempt)
		}
		if err != nil {
			line += ", refused: " + err.Error()
		}
		c.lines = append(c.lines, line)
		if made, ok := b.(*consensus.CreatePlan); ok && err == nil && made.Plan.Kind != consensus.Reseed {
			c.latest = made.ID
		}
		if err == nil {
			c.old = append(c.old[max(0, len(c.old)-8):], before)
		}
	}
}

func (c *chaos) log() string {
	return strings.Join(c.lines, "\n") + "\n" + c.summary()
}

func (c *chaos) summary() string {
	var out []string
	for _, name := range sortedKeys(c.state.Roles) {
		out = append(out, fmt.Sprintf("%s: %s", name, describe(c.state.Roles[name])))
	}
	for _, id := range sortedKeys(c.state.Links) {
		out = append(out, fmt.Sprintf("%s: %s", id, describeLink(c.state.Links[id])))
	}
	for _, id := range sortedKeys(c.state.Plans) {
		p := c.state.Plans[id]
		out = append(out, fmt.Sprintf("%s %s: %s, %s", id, p.Kind, p.Phase, p.Why))
	}
	return strings.Join(out, "\n")
}

func (c *chaos) id() consensus.PlanID { return consensus.PlanID(fmt.Sprintf("plan-%03d", c.plans)) }

// begin starts a plan of any kind, between any regions, when nothing blocks it.
func (c *chaos) begin() bool {
	kind := rapid.IntRange(0, 2).Draw(c.t, "kind")
	to := rapid.SampledFrom([]topology.Region{us, eu, eu}).Draw(c.t, "to")
	from := us
	if to == us {
		from = eu
	}
	want := Intent{To: to, Auto: false, AcceptLoss: true}
	switch kind {
	case 1:
		want.Fenced, want.Reason = from, "someone said so"
	case 2:
		want.Unplanned = true
	}
	return c.make(want)
}

func (c *chaos) make(want Intent) bool {
	c.hear()
	candidate, blockers := MakePlan(c.now, c.state, c.h, c.rules, want)
	if len(blockers) > 0 || len(candidate.Plan.Steps) == 0 {
		return false
	}
	return c.send(candidate)
}

// send runs a candidate, at once or some time later.
func (c *chaos) send(candidate Candidate) bool {
	c.plans++
	b := &consensus.CreatePlan{ID: c.id(), Plan: candidate.Plan, Supersedes: candidate.Supersedes}
	if c.t != nil && rapid.IntRange(0, 3).Draw(c.t, "slow") == 0 {
		c.flight = append(c.flight, b)
		return true
	}
	return c.propose("operator", b) == nil
}

// hear makes the reports true to the state.
func (c *chaos) hear() {
	c.h = healthy()
	for id, l := range c.state.Links {
		r := mirrored()
		r.Running = l.Phase == consensus.LinkRunning
		c.h.Links[id] = r
	}
	for name, r := range c.regions {
		if !r.up {
			h := c.h.Regions[name]
			h.Heard = time.Minute
			for node := range h.Probes {
				h.Probes[node] = Probe{Age: time.Second, Failing: time.Minute}
			}
			c.h.Regions[name] = h
		}
	}
}

// event is one thing that happens.
func (c *chaos) event() {
	region := func() *region {
		return c.regions[rapid.SampledFrom([]topology.Region{us, eu}).Draw(c.t, "region")]
	}
	switch rapid.SampledFrom([]string{
		"lead", "lead", "lead", "lead", "stale leader", "two leaders", "work", "work", "work", "work half", "word", "word",
		"slow stop", "reseed", "kill", "boot", "boot", "expire", "renewals", "fail", "abort", "retry", "automatic", "begin", "begin", "judge", "wait",
	}).Draw(c.t, "event") {
	case "lead":
		c.lead()
	case "stale leader":
		if len(c.old) > 0 {
			s := rapid.SampledFrom(c.old).Draw(c.t, "believes")
			for _, id := range sortedKeys(s.Plans) {
				for _, b := range Next(c.now, id, s) {
					_ = c.propose("old leader", b)
				}
			}
		}
	case "two leaders":
		s := c.state
		for range 2 {
			for _, id := range sortedKeys(s.Plans) {
				for _, b := range Next(c.now, id, s) {
					_ = c.propose("leader", b)
				}
			}
		}
	case "work":
		c.work()
	case "work half": // the effect is there, the word is on its way
		for _, id := range sortedKeys(c.state.Tasks) {
			if !c.claim(id) {
				continue
			}
			t := c.state.Tasks[id]
			evidence, err := c.do(id)
			session := c.regions[t.Region].session()
			if err != nil {
				c.flight = append(c.flight, &consensus.FailTask{Task: id, Attempt: t.Attempt, Session: session, Error: err.Error()})
			} else {
				c.flight = append(c.flight, &consensus.FinishTask{Task: id, Attempt: t.Attempt, Session: session, Evidence: evidence})
			}
		}
	case "word": // it arrives, late, perhaps twice
		if len(c.flight) > 0 {
			i := rapid.IntRange(0, len(c.flight)-1).Draw(c.t, "which")
			_ = c.propose("late", c.flight[i])
			if rapid.Bool().Draw(c.t, "once") {
				c.flight = slices.Delete(c.flight, i, i+1)
			}
		}
	case "slow stop": // it is taken for failed, and ends the link after all
		for _, id := range sortedKeys(c.state.Tasks) {
			t := c.state.Tasks[id]
			var spec LinkSpec
			_ = json.Unmarshal(t.Spec, &spec)
			if t.Kind == KindMirrorStop && c.claim(id) {
				c.flight = append(c.flight, &consensus.EndLink{Link: spec.Link, Epoch: c.state.Links[spec.Link].Epoch, Ends: consensus.Offsets{"events": {0: 1000}}})
				_ = c.finish(id, t, nil, errors.New("timed out"))
			}
		}
	case "reseed":
		c.hear()
		if candidate, blockers := MakeReseed(c.now, c.state, c.h, c.rules, region().name, []string{"events"}, "start over"); len(blockers) == 0 {
			c.send(candidate)
		}
	case "kill":
		region().up = false
	case "boot":
		c.boot(region().name)
	case "expire":
		if r := region(); !r.up || rapid.IntRange(0, 9).Draw(c.t, "overslept") == 0 {
			_ = c.expire(r.name)
		}
	case "renewals":
		c.renewals()
	case "fail":
		kind := rapid.SampledFrom([]string{KindQuiesce, KindRelease, KindExecStop, KindExecStart, KindCanary, KindKafkaEnds, KindMirrorReach, KindKafkaSame, KindMirrorStop, KindGroupsWrite}).Draw(c.t, "step")
		c.faults[kind] = &fault{rapid.IntRange(1, 7).Draw(c.t, "times"), "broken"}
	case "abort":
		_ = c.propose("operator", &consensus.AbortPlan{Plan: c.id(), Why: "told to"})
	case "retry":
		c.retry()
	case "automatic":
		c.hear()
		if want, yes, _ := Automatic(c.now, c.state, c.h, c.rules); yes {
			want.AcceptLoss = false
			c.make(want)
		}
	case "begin":
		c.begin()
	case "judge":
		for _, id := range sortedKeys(c.state.Links) {
			if l := c.state.Links[id]; l.Phase == consensus.LinkUnproven && c.regions[l.To].up {
				_ = c.propose(string(l.To), &consensus.JudgeLink{Link: id, Epoch: l.Epoch})
			}
		}
	case "wait":
		c.now = c.now.Add(time.Duration(rapid.IntRange(1, 300).Draw(c.t, "seconds")) * time.Second)
	}
}

func (c *chaos) retry() {
	for _, id := range sortedKeys(c.state.Plans) {
		p := c.state.Plans[id]
		if Stuck(id, c.state) == "" {
			continue
		}
		ref := consensus.StepRef{Plan: id}
		if step, undo, left := p.CurrentUndo(); left && p.Phase == consensus.PlanAborting {
			ref.Step, ref.Undo = step, undo
		} else {
			ref.Step, _ = p.Current()
		}
		if s, _ := p.At(ref); s.Decision() {
			continue // it waits for a region, not for a hand
		}
		if err := c.propose("operator", &consensus.RetryTask{Step: ref}); err != nil {
			c.fatal("a stuck plan cannot be retried: %v\n%s", err, c.log())
		}
	}
}

// recover brings everyone back, repairs what fails and lets all settle.
func (c *chaos) recover() {
	c.faults = map[string]*fault{}
	c.boot(us)
	c.boot(eu)
	for range 8 {
		if n := c.settle(); n >= roundsMax {
			c.fatal("still moving after %d rounds\n%s", n, c.log())
		}
		if c.waits() == "" {
			break
		}
		c.retry()
	}
	if c.broken != nil {
		c.fatal("%v\n%s", c.broken, c.log())
	}
}

// checkWhole judges what is left when everyone is back and nothing fails.
func (c *chaos) checkWhole() {
	superseded := false
	for _, id := range sortedKeys(c.state.Plans) {
		p := c.state.Plans[id]
		if p.Phase.Live() {
			c.fatal("%s is still %s, waiting for %q\n%s", id, p.Phase, c.waits(), c.log())
		}
		superseded = superseded || p.Phase == consensus.PlanSuperseded
		checkOnce(c, id, p)
	}
	if len(c.state.Tasks) > 0 {
		c.fatal("tasks of no plan are left: %v\n%s", c.state.Tasks, c.log())
	}
	if c.plans == 0 {
		return
	}
	last, began := c.state.Plans[c.latest]
	if !began {
		return
	}
	for _, name := range last.Roles {
		r := c.state.Roles[name]
		switch {
		case last.Phase == consensus.PlanCompleted:
			if r.Holder != last.To || r.Phase != consensus.Open {
				c.fatal("the last plan completed, and %s is %s\n%s", name, describe(r), c.log())
			}
		case last.Kind == consensus.Unplanned && r.Phase == consensus.Vacant && r.Last.Basis == consensus.Attested:
			// Attested to be fenced: only a plan gives it to anyone again.
		case r.Holder != last.From || r.Phase != consensus.Open && !superseded:
			c.fatal("the last plan rolled back, and %s is %s\n%s", name, describe(r), c.log())
		}
	}
	if !(superseded && last.Phase == consensus.PlanRolledBack) && slices.Contains(last.Roles, topology.Ingestion) {
		holder := cmp.Or(c.state.Roles[topology.Ingestion].Holder, last.From)
		for id, l := range c.state.Links {
			if alive := l.Phase != consensus.LinkEnded; alive != (l.From == holder) {
				c.fatal("%s holds ingestion, and %s is %s\n%s", holder, id, l.Phase, c.log())
			}
		}
		if _, ok := c.state.Links[consensus.LinkOf(holder, other(holder))]; !ok {
			c.fatal("nothing is mirrored from %s\n%s", holder, c.log())
		}
	}
}

// checkWayOut sees that a person can always go on from here: one more plan, by
// force where it must be, and each role is open and mirrored from its region.
func (c *chaos) checkWayOut() {
	for _, name := range sortedKeys(c.state.Roles) {
		r := c.state.Roles[name]
		if r.Phase == consensus.Open {
			continue
		}
		from := cmp.Or(r.Holder, r.Last.Holder)
		c.hear()
		for id, l := range c.state.Links { // what returned has been compared
			if l.Phase == consensus.LinkUnproven {
				_ = c.propose(string(l.To), &consensus.JudgeLink{Link: id, Epoch: l.Epoch})
			}
		}
		want := Intent{To: other(from), Roles: []topology.Role{name}, Fenced: from, Reason: "by hand", AcceptLoss: true}
		candidate, blockers := MakePlan(c.now, c.state, c.h, c.rules, want)
		if len(blockers) > 0 {
			c.fatal("%s is %s and no plan leads on: %v\n%s", name, describe(r), blockers, c.log())
		}
		c.plans++
		if err := c.run(c.id(), candidate, "operator"); err != nil {
			c.fatal("run the way out: %v\n%s", err, c.log())
		}
		c.settle()
		if r := c.state.Roles[name]; r.Phase != consensus.Open || c.state.Plans[c.id()].Phase != consensus.PlanCompleted {
			c.fatal("the way out left %s %s\n%s", name, describe(r), c.log())
		}
	}
	i, ok := c.state.Roles[topology.Ingestion]
	if !ok {
		return
	}
	if l := c.state.Links[consensus.LinkOf(i.Holder, other(i.Holder))]; l.Phase != consensus.LinkRunning && l.Phase != consensus.LinkUnproven {
		c.fatal("%s holds ingestion and nothing is mirrored from it\n%s", i.Holder, c.log())
	}
	if c.broken != nil {
		c.fatal("%v\n%s", c.broken, c.log())
	}
}

func other(r topology.Region) topology.Region {
	if r == us {
		return eu
	}
	return us
}

// checkOnce holds the journal of a plan against the marks that its steps
// left: no attempt did its work twice under one number, and a step that is
// done has left its mark.
func checkOnce(c *chaos, id consensus.PlanID, p consensus.Plan) {
	marks := map[consensus.TaskID]int{}
	attempts := map[string]bool{}
	for _, e := range c.effects {
		if e.plan != id {
			continue
		}
		marks[e.task]++
		key := fmt.Sprintf("%s attempt %d", e.task, e.attempt)
		if attempts[key] {
			c.fatal("%s did its work twice\n%s", key, c.log())
		}
		attempts[key] = true
	}
	for i, r := range p.Journal {
		task := consensus.TaskOf(consensus.StepRef{Plan: id, Step: i})
		if !p.Steps[i].Decision() && r.State == consensus.StepDone && marks[task] == 0 {
			c.fatal("%s is done and did nothing\n%s", task, c.log())
		}
		if p.Phase == consensus.PlanCompleted && r.State != consensus.StepDone {
			c.fatal("%s completed without step %d\n%s", id, i+1, c.log())
		}
		if p.Phase == consensus.PlanRolledBack && r.State != consensus.StepPending && r.Undone != len(p.Steps[i].Undo) {
			c.fatal("%s rolled back without undoing step %d\n%s", id, i+1, c.log())
		}
	}
}
