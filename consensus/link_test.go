package consensus

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	there, back = LinkOf(east, west), LinkOf(west, east)
	ends        = Offsets{"events": {0: 100, 1: 90}}
)

func TestLink_IngestionIsNotGrantedWhileItsLinkRuns(t *testing.T) {
	b := newMirrorStory(t).held()
	b.do(b.expire(ingestion))
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), step(StepLinkReverse), step(StepOpen))})
	grant := &GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)}
	b.refused(CodeConflict, grant)
	b.do(&EndLink{Link: there, Epoch: 1, Ends: ends}).do(grant)

	// The way back: the new link begins where the old one ended.
	turn := &StartLink{Step: StepRef{Plan: "p1", Step: 1}, Kind: StepLinkReverse, Link: back, After: there, Unproven: true}
	wrong := *turn
	wrong.Link = "eu-west>mars"
	b.refused(CodeInvalid, &wrong)
	wrong = *turn
	wrong.After = "mars>eu-west"
	b.refused(CodeMissing, &wrong)
	wrong = *turn
	wrong.Kind = "link.twist"
	b.refused(CodeInvalid, &wrong)
	wrong.Kind = StepLinkStart
	b.refused(CodeInvalid, &wrong)
	b.do(turn).refused(CodeStale, turn)
	want := Link{From: west, To: east, Epoch: 1, Phase: LinkUnproven, Starts: ends, Shared: ends, Turn: 2}
	if diff := cmp.Diff(want, b.Links[back]); diff != "" {
		t.Error(diff)
	}
}

func TestLink_EndsOnceAtItsEpoch(t *testing.T) {
	b := newMirrorStory(t)
	b.refused(CodeMissing, &EndLink{Link: back, Epoch: 1}).refused(CodeStale, &EndLink{Link: there, Epoch: 2, Ends: ends})
	b.do(&EndLink{Link: there, Epoch: 1, Ends: ends, SourceEnds: ends})
	b.refused(CodeStale, &EndLink{Link: there, Epoch: 1, Ends: Offsets{"events": {0: 5}}})
	if l := b.Links[there]; l.Phase != LinkEnded || l.Ends["events"][0] != 100 {
		t.Errorf("the link: %+v", l)
	}
}

func TestLink_UnprovenOneIsJudgedOnce(t *testing.T) {
	b := newMirrorStory(t).held().do(&EndLink{Link: there, Epoch: 1, Ends: ends})
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, nil, step(StepLinkReverse))})
	b.do(&StartLink{Step: StepRef{Plan: "p1"}, Kind: StepLinkReverse, Link: back, After: there, Unproven: true})
	frozen := Ranges{"events": {0: {From: 100, To: 130, Reason: "accepted after the cut"}}}
	b.refused(CodeMissing, &JudgeLink{Link: "mars>eu-west", Epoch: 1}).refused(CodeStale, &JudgeLink{Link: back, Epoch: 2})
	b.refused(CodeStale, &JudgeLink{Link: there, Epoch: 1})
	b.do(&JudgeLink{Link: back, Epoch: 1, Frozen: frozen}).refused(CodeStale, &JudgeLink{Link: back, Epoch: 1})
	if l := b.Links[back]; l.Phase != LinkRunning || l.Frozen["events"][0].To != 130 || !l.Proven.Equal(b.now.Add(-1e9)) {
		t.Errorf("the link: %+v", l)
	}

	// Only a reseed plan takes the frozen range off, and only of its topics.
	start := &StartLink{Step: StepRef{Plan: "r1"}, Kind: StepLinkStart, Link: back, After: back, Reseeded: []string{"events"}}
	b.do(&FinishPlan{Plan: "p1"}).do(&CreatePlan{ID: "p2", Plan: b.plan(Planned, west, east, nil, step(StepLinkStart))})
	notReseed := *start
	notReseed.Step.Plan = "p2"
	b.refused(CodeInvalid, &notReseed).do(&AbortPlan{Plan: "p2"}).do(&FinishPlan{Plan: "p2"})
	b.do(b.expire(ingestion)) // us-east holds nothing but query
	q := b.plan(Planned, east, west, nil, step("x"))
	q.Roles, q.Epochs[query] = append(q.Roles, query), 1
	q.Steps = []Step{step(StepDrain)}
	b.do(&CreatePlan{ID: "p3", Plan: q}).do(&DrainRoles{Step: StepRef{Plan: "p3"}, Roles: b.at(query)}).release(query).do(&FinishPlan{Plan: "p3"})
	b.do(&CreatePlan{ID: "r1", Plan: b.plan(Reseed, west, east, nil, step(StepLinkStart))})
	b.do(start)
	if l := b.Links[back]; len(l.Frozen) != 0 || len(l.Starts) != 0 || l.Epoch != 2 || l.Phase != LinkRunning {
		t.Errorf("after the reseed: %+v", l)
	}
	if l := b.Links[there]; l.Ends["events"][0] != 100 {
		t.Errorf("the reseed changed the other link: %+v", l)
	}
}

func TestLink_StillRunningOneIsStartedAnewByTheUndo(t *testing.T) {
	b := newMirrorStory(t).held()
	stop := task("mirror.fence", west)
	stop.Undo = []Step{step(StepLinkStart)}
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, stop)})
	b.do(&StartStep{Step: StepRef{Plan: "p1"}}).do(&AbortPlan{Plan: "p1"})
	b.do(&StartLink{Step: StepRef{Plan: "p1", Undo: 1}, Kind: StepLinkStart, Link: there, After: there})
	b.refused(CodeStale, &EndLink{Link: there, Epoch: 1, Ends: ends}) // a late word of the step
	b.do(&FinishPlan{Plan: "p1"}).planIs("p1", PlanRolledBack)
}

func TestLink_StartsOnlyAfterTheOtherHasEnded(t *testing.T) {
	b := newMirrorStory(t).held()
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, nil, step(StepLinkReverse))})
	turn := &StartLink{Step: StepRef{Plan: "p1"}, Kind: StepLinkReverse, Link: back, After: there}
	b.refused(CodeConflict, turn)
	b.do(&EndLink{Link: there, Epoch: 1, Ends: ends}).do(turn)
	if l := b.Links[back]; l.Phase != LinkRunning {
		t.Errorf("after a planned move it runs at once, got %+v", l)
	}
}
