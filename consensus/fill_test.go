package consensus

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestFill_EachGenerationGoesToOne(t *testing.T) {
	b := newMirrorStory(t)
	take := func(nonce string) *TakeFill { return &TakeFill{Link: there, Epoch: 1, Nonce: nonce} }
	is := func(fill int32, by string) {
		t.Helper()
		if l := b.Links[there]; l.Fill != fill || l.FillBy != by {
			t.Fatalf("generation %d of %q, want %d of %q", l.Fill, l.FillBy, fill, by)
		}
	}
	b.do(take("a"))
	is(1, "a")
	b.do(take("a")) // the answer was lost
	is(1, "a")
	b.do(take("b")).do(take("a")) // a's question, late: a new one
	is(3, "a")
	b.do(&TakeFill{Link: there, Epoch: 1, Nonce: "a", Above: 40}) // one seen in the target
	is(41, "a")

	b.refused(CodeInvalid, take("")).refused(CodeMissing, &TakeFill{Link: back, Epoch: 1, Nonce: "a"})
	b.refused(CodeInvalid, &TakeFill{Link: there, Epoch: 1, Nonce: "a", Above: -1})
	b.refused(CodeStale, &TakeFill{Link: there, Epoch: 2, Nonce: "a"})
	b.do(&TakeFill{Link: there, Epoch: 1, Nonce: "c", Above: math.MaxInt32 - 2})
	is(math.MaxInt32-1, "c")
	b.refused(CodeConflict, take("d")) // the next is the fences'
	b.refused(CodeConflict, &TakeFill{Link: there, Epoch: 1, Nonce: "d", Above: math.MaxInt32})

	b.do(&EndLink{Link: there, Epoch: 1, Ends: ends}).refused(CodeStale, take("c"))
	if n := len(b.Audit.Lines); b.Audit.Lines[n-1].Kind != "link.end" {
		t.Errorf("generations are no news for the audit: %s", b.Audit.Lines[n-1].Kind)
	}
}

func TestFill_OnlyABlockThatBeganIsSettled(t *testing.T) {
	b := newMirrorStory(t)
	b.refused(CodeStale, &SettleFill{Link: there}).refused(CodeInvalid, &SettleFill{Link: there, Block: 1}).refused(CodeMissing, &SettleFill{Link: back})
	for i := range 9 {
		b.do(&TakeFill{Link: there, Epoch: 1, Nonce: fmt.Sprint(i)})
	}
	b.do(&SettleFill{Link: there, Block: 1}).refused(CodeStale, &SettleFill{Link: there, Block: 1}).refused(CodeInvalid, &SettleFill{Link: there, Block: 2})
}

func TestFill_RisesOverAllEpochsOfALink(t *testing.T) {
	b := newMirrorStory(t).held()
	b.do(&TakeFill{Link: there, Epoch: 1, Nonce: "a"})
	stop := task("mirror.stop", west)
	stop.Undo = []Step{step(StepLinkStart)}
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, stop)})
	b.do(&StartStep{Step: StepRef{Plan: "p1"}}).do(&AbortPlan{Plan: "p1"})
	b.do(&StartLink{Step: StepRef{Plan: "p1", Undo: 1}, Kind: StepLinkStart, Link: there, After: there})
	b.refused(CodeStale, &TakeFill{Link: there, Epoch: 1, Nonce: "a"}).do(&TakeFill{Link: there, Epoch: 2, Nonce: "a", Above: 1})
	if l := b.Links[there]; l.Fill != 2 {
		t.Errorf("the second epoch goes on at %d, want 2", l.Fill)
	}
}

// Whatever is asked, in whatever order, by whom and how often: no generation
// is ever held by two.
func TestFill_NoGenerationIsHeldTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newMirrorStory(t)
		held := map[int32]string{} // who ever read that it was theirs
		for range rapid.IntRange(1, 40).Draw(rt, "takes") {
			nonce := fmt.Sprint(rapid.IntRange(0, 5).Draw(rt, "nonce"))
			before := b.Links[there].Fill
			_ = b.try(&TakeFill{Link: there, Epoch: 1, Nonce: nonce, Above: int32(rapid.IntRange(0, 30).Draw(rt, "above"))})
			l := b.Links[there]
			if by, taken := held[l.Fill]; taken && by != l.FillBy || l.Fill < before {
				rt.Fatalf("generation %d was %s's and is %s's (before: %d)", l.Fill, by, l.FillBy, before)
			}
			held[l.Fill] = l.FillBy
		}
	})
}
