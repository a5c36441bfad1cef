package consensus

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// audited returns a state with n pauses in its audit, beside what newStory left.
func audited(t *testing.T, n int) *story {
	b := newStory(t)
	for i := range n {
		b.do(&PauseRole{Role: ingestion, Until: b.now.Add(time.Hour), Reason: fmt.Sprint("reason ", i)})
	}
	return b
}

func TestAudit_EveryDecisionIsALineAndRenewalsAreNot(t *testing.T) {
	b := newStory(t)
	start := b.Audit.Count
	b.held().do(b.renew(ingestion, 1)).do(&OpenSession{Node: eastNode, Session: "e2"}).do(&TakeSlot{Job: "backup", Slot: b.now})
	b.refused(CodeStale, &AckFailover{Role: ingestion}) // what changed nothing is no mutation
	if got := b.Audit.Count - start; got != 2 {
		t.Errorf("%d lines, want the two grants", got)
	}
	last := b.Audit.Lines[len(b.Audit.Lines)-1]
	if last.Kind != "reclaim" || last.By != "test" || last.Number != b.Audit.Count || last.Hash != b.Audit.Head {
		t.Errorf("the last line: %+v", last)
	}
}

func TestAudit_ChangeOfAnyFieldOfAnyLineIsFound(t *testing.T) {
	b := audited(t, 6)
	if err := b.Audit.Verify(); err != nil {
		t.Fatalf("untouched: %v", err)
	}
	for what, tamper := range map[string]func(*AuditLine){
		"when": func(l *AuditLine) { l.At = l.At.Add(time.Second) },
		"who":  func(l *AuditLine) { l.By = "nobody" },
		"what": func(l *AuditLine) { l.Kind = "grant" },
		"body": func(l *AuditLine) { l.Body = []byte(`{}`) },
		"nr":   func(l *AuditLine) { l.Number++ },
		"hash": func(l *AuditLine) { l.Hash = strings.Repeat("0", 64) },
	} {
		for i := 1; i < len(b.Audit.Lines); i++ { // the first stands for all that were before it
			a := audited(t, 6).Audit
			tamper(&a.Lines[i])
			if a.Verify() == nil {
				t.Errorf("line %d: a change of %s was not found", i+1, what)
			}
		}
	}
	a := b.Audit
	a.Lines = append(a.Lines[:2:2], a.Lines[3:]...)
	if a.Verify() == nil {
		t.Error("a line was taken out and not missed")
	}
	a = b.Audit
	a.Lines = a.Lines[:len(a.Lines)-1]
	if a.Verify() == nil {
		t.Error("the last line was taken off and not missed")
	}
}

func TestAudit_KeepsTheLastLinesAndTheWholeChain(t *testing.T) {
	b := audited(t, auditLinesMax+10)
	if n := len(b.Audit.Lines); n != auditLinesMax || b.Audit.Count != uint64(auditLinesMax+11) {
		t.Errorf("%d lines are kept of %d", n, b.Audit.Count)
	}
	if err := b.Audit.Verify(); err != nil {
		t.Error(err)
	}
}

func TestAudit_OfALargeBodyKeepsItsHash(t *testing.T) {
	b := newStory(t).do(&PauseRole{Role: ingestion, Until: storyStart.Add(time.Hour), Reason: strings.Repeat("x", auditBodyBytesMax)})
	last := b.Audit.Lines[len(b.Audit.Lines)-1]
	if len(last.Body) > 200 || !strings.Contains(string(last.Body), `"sha256"`) {
		t.Errorf("the line keeps %d bytes: %.100s", len(last.Body), last.Body)
	}
	if err := b.Audit.Verify(); err != nil {
		t.Error(err)
	}
}
