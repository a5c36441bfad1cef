package consensus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

var slot = storyStart.Add(time.Hour)

func scheduled(id RunID, at time.Time) *StartRun {
	return &StartRun{ID: id, Kind: "backup", Region: east, Timeout: time.Hour, Job: "backup/us-east", Slot: at}
}

func (b *story) claimRun(id RunID, session SessionID) *story {
	b.t.Helper()
	return b.do(&ClaimTask{Task: TaskOfRun(id), Attempt: b.Tasks[TaskOfRun(id)].Attempt, Node: eastNode, Session: session})
}

func (b *story) finishRun(id RunID, session SessionID) *story {
	b.t.Helper()
	return b.do(&FinishTask{Task: TaskOfRun(id), Attempt: b.Tasks[TaskOfRun(id)].Attempt, Session: session, Evidence: json.RawMessage(`{"rows":1}`)})
}

func TestRun_ASlotIsRunOnceWhoeverAsks(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot)).do(scheduled("r1", slot)) // its answer was lost
	b.refused(CodeConflict, scheduled("r2", slot))                       // another leader, while it runs
	b.claimRun("r1", "e1").finishRun("r1", "e1")
	b.refused(CodeStale, scheduled("r2", slot)) // and after it has ended
	b.refused(CodeStale, scheduled("r3", slot.Add(-time.Minute)))
	b.do(scheduled("r4", slot.Add(time.Minute)))
	if n := len(b.Runs); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

func TestRun_OneOfAKindInARegionAtATime(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot))
	b.refused(CodeConflict, &StartRun{ID: "r2", Kind: "backup", Region: east, Timeout: time.Hour})
	b.do(&StartRun{ID: "r3", Kind: "drill", Region: east, Timeout: time.Hour})
	b.do(&StartRun{ID: "r4", Kind: "backup", Region: west, Timeout: time.Hour})
	b.refused(CodeMissing, &StartRun{ID: "r5", Kind: "backup", Region: "mars", Timeout: time.Hour})
	b.refused(CodeInvalid, &StartRun{ID: "r6", Kind: "backup", Region: west})
	b.refused(CodeConflict, &StartRun{ID: "r1", Kind: "drill", Region: east, Timeout: time.Hour})
}

func TestRun_SurvivesARestartOfItsDaemon(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot)).claimRun("r1", "e1")
	b.do(&OpenSession{Node: eastNode, Session: "e2"})
	b.refused(CodeStale, &FinishTask{Task: TaskOfRun("r1"), Attempt: 1, Session: "e1"})
	b.claimRun("r1", "e2").finishRun("r1", "e2")
	if r := b.Runs["r1"]; r.State != RunDone || r.Attempts != 2 || string(r.Evidence) != `{"rows":1}` || r.Ended.IsZero() {
		t.Errorf("run %+v", r)
	}
}

func TestRun_ThatKillsItsDaemonEachTimeEnds(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot))
	for i := range runAttemptsMax {
		session := SessionID(fmt.Sprintf("e%d", i+1))
		if i > 0 {
			b.do(&OpenSession{Node: eastNode, Session: session})
		}
		b.claimRun("r1", session)
	}
	b.do(&OpenSession{Node: eastNode, Session: "last"})
	if r := b.Runs["r1"]; r.State != RunFailed || !strings.Contains(r.Error, "restarted 5 times") || len(b.Tasks) != 0 {
		t.Errorf("run %+v, tasks %v", r, b.Tasks)
	}
}

func TestRun_FailsAndIsCancelledOnce(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot)).claimRun("r1", "e1")
	b.do(&FailTask{Task: TaskOfRun("r1"), Attempt: 1, Session: "e1", Error: strings.Repeat("x", 9999)})
	if r := b.Runs["r1"]; r.State != RunFailed || len(r.Error) != 4096 {
		t.Errorf("run %s with %d bytes of error", r.State, len(r.Error))
	}
	b.refused(CodeStale, &CancelRun{ID: "r1"}).refused(CodeMissing, &CancelRun{ID: "none"})
	b.do(scheduled("r2", slot.Add(time.Hour))).claimRun("r2", "e1").do(&CancelRun{ID: "r2", Why: "wrong day"})
	b.refused(CodeStale, &FinishTask{Task: TaskOfRun("r2"), Attempt: 1, Session: "e1"})
	if r := b.Runs["r2"]; r.State != RunCancelled || r.Error != "wrong day" {
		t.Errorf("run %+v", r)
	}
}

func set(digest string) Set {
	return Set{Region: east, Sealed: storyStart, Digest: digest, Rows: 1, Bytes: 2, Uploaded: 1}
}

func TestSet_ItsDigestNeverChanges(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot))
	record := func(attempt int, session SessionID, digest string) *RecordSet {
		return &RecordSet{Task: TaskOfRun("r1"), Attempt: attempt, Session: session, ID: "r1", Set: set(digest)}
	}
	b.refused(CodeStale, record(1, "", "aa")).refused(CodeStale, record(1, "e1", "aa")) // nobody has claimed it
	b.claimRun("r1", "e1").refused(CodeInvalid, record(1, "e1", ""))
	b.do(record(1, "e1", "aa")).do(record(1, "e1", "aa"))
	b.refused(CodeConflict, record(1, "e1", "bb")).refused(CodeStale, record(2, "e1", "aa"))
	if s := b.Sets["r1"]; s.Digest != "aa" || s.Proof.OK {
		t.Errorf("set %+v", s)
	}
}

func TestSet_IsProvenByADrillAndUnprovenByTheNext(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot)).claimRun("r1", "e1")
	b.do(&RecordSet{Task: TaskOfRun("r1"), Attempt: 1, Session: "e1", ID: "r1", Set: set("aa")}).finishRun("r1", "e1")
	drill := func(id RunID, digest string, ok bool) *RecordProof {
		b.do(&StartRun{ID: id, Kind: "drill", Region: east, Timeout: time.Hour}).claimRun(id, "e1")
		return &RecordProof{Task: TaskOfRun(id), Attempt: 1, Session: "e1", ID: "r1", Set: set(digest), Proof: Proof{Run: id, At: b.now, OK: ok}}
	}
	b.do(drill("d1", "aa", true)).finishRun("d1", "e1")
	if !b.Sets["r1"].Proof.OK {
		t.Fatal("not proven")
	}
	b.refused(CodeConflict, drill("d2", "bb", true)).finishRun("d2", "e1") // the seal in the store is another one
	b.do(drill("d3", "aa", false))
	if p := b.Sets["r1"].Proof; p.OK || p.Run != "d3" {
		t.Errorf("proof %+v", p)
	}
}

func TestSet_OldHeadersGoAndTheNewestProvenOneStays(t *testing.T) {
	d := &draft{State: NewState(), at: storyStart, by: "test"}
	for i := range setsKept + 10 {
		id := SetID(fmt.Sprintf("%026d", i))
		if err := d.keepSet(id, set("aa")); err != nil {
			t.Fatal(err)
		}
		if i == 3 || i == 5 {
			s := d.Sets[id]
			s.Proof.OK = true
			d.Sets[id] = s
		}
	}
	_, older := d.Sets[SetID(fmt.Sprintf("%026d", 3))]
	_, newest := d.Sets[SetID(fmt.Sprintf("%026d", 5))]
	if older || !newest || len(d.Sets) != setsKept+1 {
		t.Errorf("%d kept, older proven one there: %t, newest proven one: %t", len(d.Sets), older, newest)
	}
}

func TestRun_EndedOnesAreBounded(t *testing.T) {
	b := newStory(t)
	for i := range runsKept + 3 {
		id := RunID(fmt.Sprintf("r%03d", i))
		b.State, _ = b.Apply(Command{At: b.now, By: "test", Body: &StartRun{ID: id, Kind: "k", Region: east, Timeout: 1}})
		b.State, _ = b.Apply(Command{At: b.now, By: "test", Body: &CancelRun{ID: id}})
	}
	if _, first := b.Runs["r002"]; first || len(b.Runs) != runsKept {
		t.Errorf("%d runs, the third is there: %t", len(b.Runs), first)
	}
}

func TestRun_EvidenceIsBounded(t *testing.T) {
	b := newStory(t).do(scheduled("r1", slot)).claimRun("r1", "e1")
	big := json.RawMessage(`"` + strings.Repeat("x", runEvidenceBytesMax) + `"`)
	b.refused(CodeInvalid, &FinishTask{Task: TaskOfRun("r1"), Attempt: 1, Session: "e1", Evidence: big})
}
