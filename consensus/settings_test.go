package consensus

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// change returns a Configure of a story's settings, changed.
func (b *story) change(change func(*Configure)) *Configure {
	c := &Configure{Was: b.Settings.Digest, Settings: settings("next"), Members: members()}
	change(c)
	return c
}

func TestConfigure_RefusesASecondNodeForARegion(t *testing.T) {
	b := newStory(t)
	b.refused(CodeInvalid, b.change(func(c *Configure) { c.Members["us-east-2"] = Member{Region: east} }))
	b.do(b.change(func(c *Configure) { c.Members["witness-2"] = Member{Witness: true} }))
	if n, ok := b.NodeOf(east); n != eastNode || !ok {
		t.Errorf("the node of %s is %q", east, n)
	}
	if n, ok := b.NodeOf(""); ok {
		t.Errorf("a witness is the node of a region: %s", n)
	}
}

func TestConfigure_ComparesWhatItWasMadeFrom(t *testing.T) {
	b := newStory(t)
	b.refused(CodeStale, b.change(func(c *Configure) { c.Was = "older" }))
	b.refused(CodeStale, b.change(func(c *Configure) { c.Was = "" }))
	b.do(b.change(func(*Configure) {})).refused(CodeStale, &Configure{Was: "one", Settings: settings("other"), Members: members()})
}

func TestConfigure_RefusesWhatCannotWork(t *testing.T) {
	b := newStory(t).held()
	b.refused(CodeInvalid, b.change(func(c *Configure) { c.Settings.Lease.Margin = c.Settings.Lease.TTL }))
	b.refused(CodeInvalid, b.change(func(c *Configure) {
		c.Settings.Roles[ingestion] = RoleSettings{Initial: "mars", Policy: Demote}
	}))
	b.refused(CodeConflict, b.change(func(c *Configure) { delete(c.Settings.Roles, query) })) // it is held
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, step(StepDrain))})
	b.refused(CodeConflict, b.change(func(*Configure) {})) // a plan was made by the settings it saw
}

func TestConfigure_TakesNodesAndRolesInAndOut(t *testing.T) {
	b := newStory(t)
	b.do(b.change(func(c *Configure) {
		delete(c.Settings.Roles, query)
		c.Settings.Roles["search"] = RoleSettings{Initial: west, Policy: Hold}
		delete(c.Members, "witness-1")
	}))
	_, gone := b.Roles[query]
	if r, ok := b.Roles["search"]; gone || !ok || r.Phase != Vacant || len(b.Sessions) != 2 || len(b.Members) != 2 {
		t.Errorf("roles %v, sessions %v", b.Roles, b.Sessions)
	}
	b.refused(CodeStale, &Configure{Settings: settings("x"), Members: map[topology.Node]Member{}})
}

func TestConfigure_FirstLinksFollowTheInitialHolderOnce(t *testing.T) {
	b := newStory(t)
	if len(b.Links) != 0 {
		t.Fatalf("links without a mirror: %v", b.Links)
	}
	b.do(b.change(func(c *Configure) { c.Settings.Mirror = true }))
	if l := b.Links[LinkOf(east, west)]; len(b.Links) != 1 || l.Phase != LinkRunning || l.Epoch != 1 {
		t.Fatalf("links: %v", b.Links)
	}
	b.do(b.change(func(c *Configure) {
		c.Settings.Digest, c.Settings.Mirror = "third", true
		c.Settings.Roles[ingestion] = RoleSettings{Initial: west, Policy: Demote}
	}))
	if _, turned := b.Links[LinkOf(west, east)]; turned || len(b.Links) != 1 {
		t.Errorf("settings turned a link round: %v", b.Links)
	}
}

func TestSlot_IsTakenOnceAndNeverBackwards(t *testing.T) {
	b := newStory(t)
	at := storyStart
	b.do(&TakeSlot{Job: "backup", Slot: at}).refused(CodeStale, &TakeSlot{Job: "backup", Slot: at})
	b.refused(CodeStale, &TakeSlot{Job: "backup", Slot: at.Add(-time.Hour)})
	b.do(&TakeSlot{Job: "drill", Slot: at}).do(&TakeSlot{Job: "backup", Slot: at.Add(time.Hour)})
}

func TestLeaseTiming_RefusesWhatCannotWork(t *testing.T) {
	if err := DefaultLeaseTiming.Check(); err != nil {
		t.Fatalf("the default is refused: %v", err)
	}
	for why, change := range map[string]func(*LeaseTiming){
		"no ttl":                   func(l *LeaseTiming) { l.TTL = 0 },
		"no renewals":              func(l *LeaseTiming) { l.Renew = 0 },
		"no timeout":               func(l *LeaseTiming) { l.AttemptTimeout = 0 },
		"negative delta":           func(l *LeaseTiming) { l.Delta = -1 },
		"no margin":                func(l *LeaseTiming) { l.Margin = 0 },
		"margin of the whole ttl":  func(l *LeaseTiming) { l.Margin = l.TTL },
		"a lapse between renewals": func(l *LeaseTiming) { l.Renew = 11 * time.Second },
		"clocks that run backward": func(l *LeaseTiming) { l.ClockRatePPM = -1 },
		"clocks worse than 10 %":   func(l *LeaseTiming) { l.ClockRatePPM = 100_001 },
		"sums that overflow":       func(l *LeaseTiming) { l.Renew, l.AttemptTimeout = 1<<62, 1<<62 },
		"a ttl of days":            func(l *LeaseTiming) { l.TTL = 48 * time.Hour },
	} {
		l := DefaultLeaseTiming
		change(&l)
		if l.Check() == nil {
			t.Errorf("%s is accepted: %+v", why, l)
		}
	}
}

// The whole safety of a lease is this inequality, in real time: a slow
// holder's lease is over before a fast leader's count is.
func TestLeaseTiming_CountOutlastsTheLeaseOnTheWorstClocks(t *testing.T) {
	for _, ppm := range []int64{0, 1, 100, 1000, 20_000, 100_000} {
		for _, ttl := range []time.Duration{time.Second, 16 * time.Second, ttlMax} {
			l := LeaseTiming{TTL: ttl, ClockRatePPM: ppm}
			rho := float64(ppm) / 1e6
			slowest, fastest := float64(ttl)/(1-rho), float64(l.Count())/(1+rho)
			if fastest < slowest-0.001 { // of a nanosecond, lost by float64
				t.Errorf("ttl %s at %d ppm: counted out %.0f ns early", ttl, ppm, slowest-fastest)
			}
		}
	}
}

// TestConfigure_ARoleThatComesBackGoesOnCountingEpochs: daemons remember the
// epochs of a role; one that began again at 0 would be ignored by them.
func TestConfigure_ARoleThatComesBackGoesOnCountingEpochs(t *testing.T) {
	s := NewState()
	members := map[topology.Node]Member{"us-east-1": {Region: "us-east"}}
	with := Settings{Digest: "with", Lease: DefaultLeaseTiming, Roles: map[topology.Role]RoleSettings{"ingestion": {Initial: "us-east", Policy: Demote}}}
	without := Settings{Digest: "without", Lease: DefaultLeaseTiming}
	do := func(b Body) {
		t.Helper()
		next, err := s.Apply(Command{Body: b})
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
	do(&Configure{Settings: with, Members: members})
	do(&OpenSession{Node: "us-east-1", Session: "a"})
	do(&Reclaim{Role: "ingestion", Node: "us-east-1", Session: "a", Generation: 1, Epoch: 1})
	do(&Renew{Role: "ingestion", Node: "us-east-1", Session: "a", Generation: 1, Epoch: 1, Policy: Demote, Nonce: 1, TTL: DefaultLeaseTiming.TTL})
	do(&Expire{Role: "ingestion", Generation: 1, Epoch: 1, Sequence: 1})
	do(&Configure{Settings: without, Members: members, Was: "with"})
	do(&Configure{Settings: with, Members: members, Was: "without"})
	if got := s.Roles["ingestion"].Epoch; got != 1 {
		t.Fatalf("the role came back at epoch %d, want 1", got)
	}
	do(&Reclaim{Role: "ingestion", Node: "us-east-1", Session: "a", Generation: 1, Epoch: 2})
}
