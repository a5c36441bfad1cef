package consensus

import (
	"encoding/json"
	"strings"
	"testing"
)

// newTaskStory returns a fleet with one task of us-east, "p1/01", which can be undone.
func newTaskStory(t *testing.T) *story {
	b := newStory(t).held()
	work := task("exec.stop", east)
	work.Undo = []Step{task("exec.start", east)}
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, work)})
	return b.do(&StartStep{Step: StepRef{Plan: "p1"}})
}

const theTask = TaskID("p1/01")

func claim(attempt int, session SessionID) *ClaimTask {
	return &ClaimTask{Task: theTask, Attempt: attempt, Node: eastNode, Session: session}
}

func TestTask_ClaimDiesWithItsSession(t *testing.T) {
	b := newTaskStory(t).refused(CodeStale, &StartStep{Step: StepRef{Plan: "p1"}})
	b.do(claim(1, "e1")).do(claim(1, "e1")) // its answer was lost
	b.do(&OpenSession{Node: eastNode, Session: "e2"})
	if tk := b.Tasks[theTask]; tk.Attempt != 2 || tk.Claim != (Claim{}) {
		t.Fatalf("after a restart: %+v", tk)
	}
	b.refused(CodeStale, claim(2, "e1"))
	b.refused(CodeStale, &FinishTask{Task: theTask, Attempt: 1, Session: "e1"})
	b.refused(CodeStale, &FinishTask{Task: theTask, Attempt: 2, Session: "e1"})
	b.refused(CodeStale, &FailTask{Task: theTask, Attempt: 1, Session: "e1", Error: "killed"})
	b.do(claim(2, "e2")).do(&FinishTask{Task: theTask, Attempt: 2, Session: "e2"})
	b.refused(CodeStale, &FinishTask{Task: theTask, Attempt: 2, Session: "e2"})
	if r := b.Plans["p1"].Journal[0]; r.State != StepDone {
		t.Errorf("journal: %+v", r)
	}
}

func TestTask_BelongsToItsRegion(t *testing.T) {
	b := newTaskStory(t)
	b.refused(CodeConflict, &ClaimTask{Task: theTask, Attempt: 1, Node: westNode, Session: "w1"})
	b.refused(CodeStale, &ClaimTask{Task: theTask, Attempt: 1, Node: westNode, Session: "w0"})
	b.refused(CodeConflict, &ClaimTask{Task: theTask, Attempt: 1, Node: "mars-1", Session: "m1"})
	b.refused(CodeStale, claim(0, "e1")).refused(CodeStale, claim(2, "e1"))
	b.refused(CodeStale, &FinishTask{Task: theTask, Attempt: 1, Session: "e1"}) // not claimed
}

func TestTask_FailedOneIsTriedAgainWithAHigherAttempt(t *testing.T) {
	b := newTaskStory(t).do(claim(1, "e1"))
	retry := &RetryTask{Step: StepRef{Plan: "p1"}}
	b.refused(CodeConflict, retry) // it runs
	b.do(&FailTask{Task: theTask, Attempt: 1, Session: "e1", Error: strings.Repeat("x", 10_000)})
	if r := b.Plans["p1"].Journal[0]; r.State != StepFailed || len(r.Error) != 4096 || r.Attempts != 1 {
		t.Errorf("journal: state %s, %d bytes of error, %d attempts", r.State, len(r.Error), r.Attempts)
	}
	b.do(&StartStep{Step: StepRef{Plan: "p1"}})
	if tk := b.Tasks[theTask]; tk.Attempt != 2 {
		t.Fatalf("second try: %+v", tk)
	}
	b.refused(CodeStale, claim(1, "e1")).do(claim(2, "e1")).do(&FailTask{Task: theTask, Attempt: 2, Session: "e1", Error: "again"})
	b.do(retry)
	if r := b.Plans["p1"].Journal[0]; r.State != StepPending || r.Attempts != 0 {
		t.Errorf("after a person said retry: %+v", r)
	}
	b.do(&StartStep{Step: StepRef{Plan: "p1"}}).do(claim(3, "e1"))
	for _, old := range []int{1, 2} { // a late word about an old attempt
		b.refused(CodeStale, &FailTask{Task: theTask, Attempt: old, Session: "e1", Error: "late"})
	}
}

func TestTask_AttemptsNeverComeAgainAfterARestart(t *testing.T) {
	b := newTaskStory(t).do(claim(1, "e1")).do(&OpenSession{Node: eastNode, Session: "e2"})
	late := &FailTask{Task: theTask, Attempt: 2, Session: "e2", Error: "sent twice"}
	b.do(claim(2, "e2")).do(late).do(&StartStep{Step: StepRef{Plan: "p1"}})
	b.do(claim(b.Tasks[theTask].Attempt, "e2")).refused(CodeStale, late)
}

func TestTask_UndoFailsAndIsRetriedLikeAStep(t *testing.T) {
	b := newTaskStory(t).do(claim(1, "e1")).do(&AbortPlan{Plan: "p1"})
	b.refused(CodeStale, &FinishTask{Task: theTask, Attempt: 1, Session: "e1"}) // it was aborted under way
	undo := StepRef{Plan: "p1", Undo: 1}
	id := TaskOf(undo)
	b.refused(CodeConflict, &RetryTask{Step: undo})
	b.do(&StartStep{Step: undo}).do(&ClaimTask{Task: id, Attempt: 1, Node: eastNode, Session: "e1"})
	b.do(&FailTask{Task: id, Attempt: 1, Session: "e1", Error: "no shell"})
	if r := b.Plans["p1"].Journal[0]; r.UndoState != StepFailed || r.UndoFailed != "no shell" || r.Undone != 0 {
		t.Fatalf("journal: %+v", r)
	}
	b.do(&RetryTask{Step: undo}).works(undo).do(&FinishPlan{Plan: "p1"}).planIs("p1", PlanRolledBack)
}

func TestTask_EvidenceIsBounded(t *testing.T) {
	b := newTaskStory(t).do(claim(1, "e1"))
	big := json.RawMessage(`"` + strings.Repeat("x", evidenceBytesMax) + `"`)
	b.refused(CodeInvalid, &FinishTask{Task: theTask, Attempt: 1, Session: "e1", Evidence: big})
}

func TestSession_IsForMembersAndOpensTwiceHarmlessly(t *testing.T) {
	b := newTaskStory(t).do(claim(1, "e1"))
	b.refused(CodeConflict, &OpenSession{Node: "mars-1", Session: "m1"}).refused(CodeInvalid, &OpenSession{Node: eastNode})
	b.do(&OpenSession{Node: eastNode, Session: "e1"}) // its answer was lost
	if tk := b.Tasks[theTask]; tk.Attempt != 1 || tk.Claim.Session != "e1" {
		t.Errorf("the same session lost its claim: %+v", tk)
	}
}
