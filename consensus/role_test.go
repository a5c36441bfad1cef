package consensus

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func step(kind string) Step     { return Step{Kind: kind} }
func noReturn(kind string) Step { return Step{Kind: kind, NoReturn: true} }

var onlyIngestion = []topology.Role{ingestion}

func TestRole_InitialRegionAloneClaimsWhatWasNeverHeld(t *testing.T) {
	b := newStory(t)
	b.refused(CodeConflict, &Reclaim{Role: ingestion, Node: westNode, Session: "w1", Generation: 1, Epoch: 1})
	b.refused(CodeStale, &Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 2})
	b.refused(CodeStale, &Reclaim{Role: ingestion, Node: eastNode, Session: "e0", Generation: 1, Epoch: 1})
	b.refused(CodeStale, &Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 2, Epoch: 1})
	b.refused(CodeMissing, &Reclaim{Role: "search", Node: eastNode, Session: "e1", Generation: 1, Epoch: 1})
	b.held().roleIs(ingestion, Open, east, 1)
	if r := b.Roles[ingestion]; r.Basis != FirstGrant || r.Policy != Demote {
		t.Errorf("basis %q, policy %q", r.Basis, r.Policy)
	}
	b.refused(CodeStale, &Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 2})
}

func TestRenew_CountsOnlyForTheHolderItsSessionAndItsEpoch(t *testing.T) {
	b := newStory(t).held()
	b.do(b.renew(ingestion, 5))
	if r := b.Roles[ingestion]; r.Sequence != 1 || r.Nonce != 5 || r.TTL != DefaultLeaseTiming.TTL {
		t.Errorf("after one renewal: %+v", r)
	}
	for why, change := range map[string]func(*Renew){
		"a node that does not hold it": func(c *Renew) { c.Node, c.Session = westNode, "w1" },
		"a session that is over":       func(c *Renew) { c.Session = "e0" },
		"an older epoch":               func(c *Renew) { c.Epoch = 0 },
		"another generation":           func(c *Renew) { c.Generation = 2 },
		"the same attempt again":       func(c *Renew) { c.Nonce = 5 },
		"an earlier attempt":           func(c *Renew) { c.Nonce = 4 },
	} {
		c := b.renew(ingestion, 6)
		change(c)
		if err := b.try(c); !Refused(err, CodeStale) {
			t.Errorf("%s: %v", why, err)
		}
	}
	for why, change := range map[string]func(*Renew){
		"an unknown policy": func(c *Renew) { c.Policy = "maybe" },
		"an endless ttl":    func(c *Renew) { c.TTL = 2 * ttlMax },
	} {
		c := b.renew(ingestion, 6)
		change(c)
		if err := b.try(c); !Refused(err, CodeInvalid) {
			t.Errorf("%s: %v", why, err)
		}
	}
	b.refused(CodeMissing, &Renew{Role: "search"})
	long, short := b.renew(ingestion, 6), b.renew(ingestion, 7)
	long.TTL, short.TTL = time.Minute, time.Second
	if b.do(long).do(short); b.Roles[ingestion].TTL != time.Minute {
		t.Errorf("leaders would count by %s, the holder may still act by 1m", b.Roles[ingestion].TTL)
	}
	b.do(&OpenSession{Node: eastNode, Session: "e2"}).do(b.renew(ingestion, 1)) // nonces start again
}

func TestExpire_LosesAgainstOneMoreRenewal(t *testing.T) {
	b := newStory(t).held()
	b.do(b.renew(ingestion, 1))
	late := b.expire(ingestion)
	b.do(b.renew(ingestion, 2)).refused(CodeStale, late)
	b.do(b.expire(ingestion)).roleIs(ingestion, Vacant, "", 1)
	if last := b.Roles[ingestion].Last; last.Holder != east || last.Basis != LeaseExpiredOnly {
		t.Errorf("what it was: %+v", last)
	}
	b.refused(CodeStale, late)
	b.refused(CodeStale, &Renew{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 1, Policy: Demote, Nonce: 3})
	b.refused(CodeMissing, &Expire{Role: "search", Generation: 1})
}

func TestExpire_NeverTakesARoleFromAHolderThatWasToldToHold(t *testing.T) {
	b := newStory(t).held()
	b.refused(CodeConflict, b.expire(query)) // by the settings at the grant
	c := b.renew(ingestion, 1)
	c.Policy = Hold // by its last renewal, whatever the settings say
	b.do(c).refused(CodeConflict, b.expire(ingestion))
	stale := b.expire(ingestion)
	stale.Generation = 2
	b.refused(CodeStale, stale)
}

func TestReclaim_OldHolderTakesALapsedRoleBackUnlessAPlanDecides(t *testing.T) {
	b := newStory(t).held()
	b.do(b.expire(ingestion))
	back := &Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 2}
	b.refused(CodeConflict, &Reclaim{Role: ingestion, Node: westNode, Session: "w1", Generation: 1, Epoch: 2})

	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), step(StepOpen))})
	b.refused(CodeConflict, back)
	b.do(&AbortPlan{Plan: "p1", Why: "east is back"}).do(&FinishPlan{Plan: "p1"}).planIs("p1", PlanRolledBack)
	b.do(back).roleIs(ingestion, Open, east, 2)
	if basis := b.Roles[ingestion].Basis; basis != LeaseExpiredOnly {
		t.Errorf("the grant rests on %q", basis)
	}
}

func TestReclaim_TargetOfAGrantedPlanTakesItBackAsFarAsItWas(t *testing.T) {
	b := newStory(t).held()
	b.do(b.expire(ingestion))
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), step(StepOpen))})
	b.do(&GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)})
	b.do(b.expire(ingestion))
	b.refused(CodeConflict, &Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 3})
	b.do(&Reclaim{Role: ingestion, Node: westNode, Session: "w1", Generation: 1, Epoch: 3}).roleIs(ingestion, Closed, west, 3)
	if e := b.Plans["p1"].Epochs[ingestion]; e != 3 {
		t.Errorf("the plan is about epoch %d", e)
	}
	b.do(&OpenRoles{Step: StepRef{Plan: "p1", Step: 1}, Roles: b.at(ingestion)}).roleIs(ingestion, Open, west, 3)
	b.do(b.expire(ingestion)) // open, and the plan not finished yet
	b.do(&Reclaim{Role: ingestion, Node: westNode, Session: "w1", Generation: 1, Epoch: 4}).roleIs(ingestion, Open, west, 4)
}

func TestVoid_NeedsAnAttestationAndEndsTheWayBack(t *testing.T) {
	b := newStory(t).held()
	plan := b.plan(Unplanned, east, west, []topology.Role{query}, step(StepVoid), noReturn(StepGrant), step(StepOpen))
	b.do(&CreatePlan{ID: "p1", Plan: plan})
	b.refused(CodeInvalid, &VoidRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(query), Reason: "power is off"})
	b.do(&AbortPlan{Plan: "p1"}).do(&FinishPlan{Plan: "p1"})

	plan.Fenced = east
	b.do(&CreatePlan{ID: "p2", Plan: plan})
	at := StepRef{Plan: "p2"}
	b.refused(CodeInvalid, &VoidRoles{Step: at, Roles: b.at(query)})
	b.refused(CodeStale, &VoidRoles{Step: at, Roles: b.next(query), Reason: "power is off"})
	b.refused(CodeStale, &GrantRoles{Step: StepRef{Plan: "p2", Step: 1}, To: west, Roles: b.next(query)}) // not its turn
	b.do(&VoidRoles{Step: at, Roles: b.at(query), Reason: "power is off"}).roleIs(query, Vacant, "", 1)
	b.do(&AbortPlan{Plan: "p2"}).do(&FinishPlan{Plan: "p2"})
	b.refused(CodeConflict, &Reclaim{Role: query, Node: eastNode, Session: "e1", Generation: 1, Epoch: 2})
}

func TestDrain_TakesAHeldRoleOnceOnly(t *testing.T) {
	b := newStory(t)
	drain := func(id PlanID) *DrainRoles {
		b.do(&CreatePlan{ID: id, Plan: b.plan(Unplanned, east, west, onlyIngestion, step(StepDrain))})
		return &DrainRoles{Step: StepRef{Plan: id}, Roles: b.at(ingestion)}
	}
	b.refused(CodeStale, &CreatePlan{ID: "never-held", Plan: b.plan(Planned, east, west, onlyIngestion, step(StepDrain))})
	b.held()
	first := drain("first")
	b.refused(CodeStale, &DrainRoles{Step: first.Step, Roles: []RoleEpoch{{ingestion, 0}}})
	b.do(first).do(&FinishPlan{Plan: "first"})
	b.refused(CodeConflict, drain("second"))
}

func TestVoid_IsAboutTheRegionThatWasFencedOnly(t *testing.T) {
	b := newStory(t).held()
	plan := b.plan(Unplanned, east, west, onlyIngestion, step(StepVoid), noReturn(StepGrant))
	plan.Fenced = west
	b.do(&CreatePlan{ID: "p1", Plan: plan})
	b.refused(CodeStale, &VoidRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(ingestion), Reason: "wrong one"})
	b.do(b.expire(ingestion))
	b.refused(CodeStale, &VoidRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(ingestion), Reason: "wrong one"})
}

func TestVoid_OfALapsedRoleRecordsTheStrongerBasis(t *testing.T) {
	b := newStory(t).held()
	plan := b.plan(Unplanned, east, west, onlyIngestion, step(StepVoid), noReturn(StepGrant), step(StepOpen))
	plan.Fenced = east
	b.do(&CreatePlan{ID: "p1", Plan: plan}).do(b.expire(ingestion))
	b.do(&VoidRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(ingestion), Reason: "power is off"})
	b.do(&GrantRoles{Step: StepRef{Plan: "p1", Step: 1}, To: west, Roles: b.next(ingestion)})
	if basis := b.Roles[ingestion].Basis; basis != Attested {
		t.Errorf("the grant rests on %q", basis)
	}
}

func TestRelease_TakesADrainedRoleOnlyAndFromItsHolderOnly(t *testing.T) {
	b := newStory(t).held()
	of := func(n topology.Node, e Epoch) *Release {
		return &Release{Role: ingestion, Node: n, Generation: 1, Epoch: e}
	}
	b.refused(CodeConflict, of(eastNode, 1)) // open
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, step(StepDrain))})
	b.do(&DrainRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(ingestion)}).roleIs(ingestion, Draining, east, 1)
	b.refused(CodeStale, of(westNode, 1)).refused(CodeStale, of(eastNode, 2))
	b.refused(CodeStale, &Release{Role: ingestion, Node: eastNode, Generation: 2, Epoch: 1})
	b.refused(CodeMissing, &Release{Role: "search"})
	b.do(of(eastNode, 1)).roleIs(ingestion, Vacant, "", 1).refused(CodeStale, of(eastNode, 1))
	if last := b.Roles[ingestion].Last; last.Basis != Acknowledged || last.Phase != Draining {
		t.Errorf("what it was: %+v", last)
	}
}

func TestGrant_NeedsAVacantRoleAndTheNextEpoch(t *testing.T) {
	b := newStory(t).held()
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, step(StepDrain), noReturn(StepGrant), step(StepOpen))})
	grant := func(to topology.Region, epoch Epoch) *GrantRoles {
		return &GrantRoles{Step: StepRef{Plan: "p1", Step: 1}, To: to, Roles: []RoleEpoch{{ingestion, epoch}}}
	}
	b.refused(CodeStale, grant(west, 2)) // not its turn
	b.do(&DrainRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(ingestion)})
	b.refused(CodeConflict, grant(west, 2)) // its holder is still there
	b.release(ingestion)
	b.refused(CodeStale, grant(west, 1)).refused(CodeStale, grant(west, 3))
	b.refused(CodeInvalid, grant("mars", 2)).refused(CodeInvalid, grant(east, 2)) // the plan goes elsewhere
	b.refused(CodeInvalid, &GrantRoles{Step: StepRef{Plan: "p1", Step: 1}, To: west, Roles: []RoleEpoch{{"query", 2}}})
	b.refused(CodeInvalid, &GrantRoles{Step: StepRef{Plan: "p1", Step: 1}, To: west, Roles: []RoleEpoch{{ingestion, 2}, {"query", 2}}})
	b.do(grant(west, 2)).roleIs(ingestion, Closed, west, 2).planIs("p1", PlanGranted)
	b.refused(CodeStale, grant(west, 3))
	b.refused(CodeInvalid, &DrainRoles{Step: StepRef{Plan: "p1", Step: 2}, Roles: b.at(ingestion)}) // not what the step is
	b.refused(CodeInvalid, &OpenRoles{Step: StepRef{Plan: "p1", Step: 2}})
	b.do(&OpenRoles{Step: StepRef{Plan: "p1", Step: 2}, Roles: b.at(ingestion)}).roleIs(ingestion, Open, west, 2)
	b.do(&FinishPlan{Plan: "p1"}).planIs("p1", PlanCompleted)
	if r := b.Roles[ingestion]; r.Basis != Acknowledged || !r.Failover.IsZero() {
		t.Errorf("a planned move left %+v", r)
	}
}

func TestRole_ClosedOneWhosePlanIsGoneCanBeMovedBack(t *testing.T) {
	b := newStory(t).held()
	b.do(b.expire(ingestion))
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), step(StepOpen))})
	b.do(&GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)})
	b.do(&SupersedePlan{Plan: "p1", Why: "west does not start"})
	b.do(&CreatePlan{ID: "p2", Plan: b.plan(Planned, west, east, onlyIngestion, step(StepDrain), noReturn(StepGrant), step(StepOpen))})
	b.do(&DrainRoles{Step: StepRef{Plan: "p2"}, Roles: b.at(ingestion)}).release(ingestion)
	b.do(&GrantRoles{Step: StepRef{Plan: "p2", Step: 1}, To: east, Roles: b.next(ingestion)})
	b.do(&OpenRoles{Step: StepRef{Plan: "p2", Step: 2}, Roles: b.at(ingestion)}).roleIs(ingestion, Open, east, 3)
}

func TestObserve_ModeGrantsNothing(t *testing.T) {
	b := newStory(t)
	s := settings("watching")
	s.Observe = true
	b.do(&Configure{Was: "one", Settings: s, Members: members()})
	b.refused(CodeConflict, &Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 1})
	b.refused(CodeConflict, &CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, step(StepDrain))})
}

func TestAntiFlap_BlocksTheNextAutomaticFailoverUntilLaterOrAcknowledged(t *testing.T) {
	b := newStory(t).held()
	b.refused(CodeStale, &AckFailover{Role: ingestion}).refused(CodeMissing, &AckFailover{Role: "search"})
	b.do(b.expire(ingestion))
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant))})
	b.do(&GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)}).do(&FinishPlan{Plan: "p1"})

	auto := b.plan(Unplanned, west, east, onlyIngestion, noReturn(StepGrant))
	auto.Auto = true
	b.refused(CodeConflict, &CreatePlan{ID: "p2", Plan: auto})
	byHand := auto
	byHand.Auto = false
	b.do(&CreatePlan{ID: "p3", Plan: byHand}).do(&AbortPlan{Plan: "p3"}).do(&FinishPlan{Plan: "p3"})

	acknowledged := *b
	acknowledged.do(&AckFailover{Role: ingestion}).do(&CreatePlan{ID: "p2", Plan: auto})
	b.now = b.now.Add(11 * time.Minute)
	b.do(&CreatePlan{ID: "p2", Plan: auto})
}

func TestPause_StopsAutomaticPlansOfThatRoleAndExpires(t *testing.T) {
	b := newStory(t).held()
	auto := b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant))
	auto.Auto = true
	b.refused(CodeMissing, &PauseRole{Role: "search", Until: b.now})
	b.refused(CodeInvalid, &PauseRole{Role: ingestion, Until: b.now.Add(8 * 24 * time.Hour)})
	b.do(&PauseRole{Role: ingestion, Until: b.now.Add(time.Hour), Reason: "disk swap"})
	b.refused(CodeConflict, &CreatePlan{ID: "p1", Plan: auto})
	resumed := *b
	resumed.do(&PauseRole{Role: ingestion}).do(&CreatePlan{ID: "p1", Plan: auto})
	b.now = b.now.Add(2 * time.Hour)
	b.do(&CreatePlan{ID: "p1", Plan: auto})
}
