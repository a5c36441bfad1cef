package replicate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

var (
	testID     = topology.Partition{Topic: "t", Partition: 4}
	testLimits = Limits{BufferBytes: 1 << 20, RetryMin: time.Second, RetryMax: 8 * time.Second, RequestGrace: time.Minute, Doubts: 3, HoleMax: 1000, SeedMax: 100_000, MarksMax: 100, FillerMax: 500, TogetherMax: 1}
)

// machine drives one partition by hand and remembers what it asked for last.
type machine struct {
	t      *testing.T
	m      Partition
	look   *Look
	fetch  *Fetch
	append *Append
	target *LookTarget
	mark   *MarkHole
	trim   *Trim
	lease  *Lease
}

func newMachine(t *testing.T, start int64) *machine {
	x := &machine{t: t}
	var acts []Action
	x.m, acts = NewPartition(testID, testRun(start), testLimits)
	x.take(acts)
	return x
}

func (x *machine) take(acts []Action) {
	for _, a := range acts {
		switch a := a.(type) {
		case Look:
			x.look, x.fetch = &a, nil
		case Fetch:
			x.fetch = &a
		case Append:
			if x.append != nil {
				x.t.Fatal("two appends at the same time")
			}
			x.append = &a
		case LookTarget:
			x.target = &a
		case MarkHole:
			x.mark = &a
		case Trim:
			x.trim = &a
		case Lease:
			x.lease = &a
		}
	}
}

func (x *machine) next(ev Event) *machine {
	var acts []Action
	x.m, acts = x.m.Next(ev)
	x.take(acts)
	return x
}

// looked answers the outstanding look.
func (x *machine) looked(l Looked) *machine {
	x.t.Helper()
	if x.look == nil {
		x.t.Fatal("no look is asked for")
	}
	l.Gen, x.look = x.look.Gen, nil
	return x.next(l)
}

func (x *machine) fetched(end int64, batches ...Batch) *machine {
	x.t.Helper()
	if x.fetch == nil {
		x.t.Fatal("no fetch is asked for")
	}
	gen := x.fetch.Gen
	x.fetch = nil
	return x.next(Fetched{Gen: gen, Batches: batches, End: end, LastStable: end})
}

func (x *machine) accepted() *machine {
	x.t.Helper()
	if x.append == nil {
		x.t.Fatal("no append is asked for")
	}
	base := x.append.Batches[0].Base
	return x.answered(Appended{Base: base})
}

func (x *machine) answered(a Appended) *machine {
	x.append = nil
	return x.next(a)
}

func (x *machine) frozen(want string) {
	x.t.Helper()
	if x.m.State != Frozen {
		x.t.Fatalf("state is %s, want frozen as %s", x.m.State, want)
	}
	if got := fmt.Sprintf("%s [%d,%d)", x.m.Freeze.Reason, x.m.Freeze.From, x.m.Freeze.To); got != want {
		x.t.Fatalf("frozen as %s, want %s", got, want)
	}
	if next := x.m.Freeze.NextStep("b", testID); !strings.Contains(next, "t") || !strings.Contains(next, "holdfast") && !strings.Contains(next, "exclude") {
		x.t.Fatalf("next step %q", next)
	}
}

func fresh(end int64) Looked { return Looked{SourceEnd: end, SourceEpoch: -1} }

// resumed is what a look sees when our run wrote the target up to end.
func resumed(start, end, sourceEnd int64) Looked {
	h := stored(testRun(start), end-1, 1)
	return Looked{SourceEnd: sourceEnd, TargetTail: TargetTail{End: end, Last: &h}, Compared: Same, SourceEpoch: 1, RunKnown: true}
}

func TestPartition_FreezesWithTheExactRange(t *testing.T) {
	case_ := func(want string, drive func(*machine)) {
		t.Helper()
		t.Run(strings.ReplaceAll(want, " ", "_"), func(t *testing.T) {
			x := newMachine(t, 0)
			drive(x)
			x.frozen(want)
		})
	}
	gapped := plain(3, 4)
	gapped.Count = 2

	case_("hole-too-long [3,2000)", func(x *machine) { x.looked(fresh(9)).fetched(9, plain(0, 3), plain(2000, 1)).accepted() })
	case_("straddle [3,7)", func(x *machine) { x.looked(fresh(9)).fetched(9, plain(0, 3), gapped).accepted() })
	case_("prefix [0,200000)", func(x *machine) { x.looked(Looked{SourceStart: 200_000, SourceEnd: 200_001}) })
	case_("prefix [0,40)", func(x *machine) {
		x.next(Policy{Compacted: true})
		x.looked(Looked{SourceStart: 40, SourceEnd: 50})
	})
	case_("corrupt [3,4)", func(x *machine) {
		x.looked(fresh(9)).fetched(9, plain(0, 3)).accepted()
		for range testLimits.Doubts {
			gen := x.fetch.Gen
			x.fetch = nil
			x.next(Fetched{Gen: gen, End: 9, Broken: errRecordShort})
		}
	})
	case_("lost [7,40)", func(x *machine) {
		l := resumed(0, 7, 50)
		l.SourceStart = 40
		x.looked(l)
	})
	case_("lost [0,6)", func(x *machine) {
		x.looked(fresh(9))
		x.next(Fetched{Gen: x.fetch.Gen, LogStart: 6, End: 9})
	})
	case_("diverged [7,8)", func(x *machine) {
		l := resumed(0, 8, 50)
		l.Compared, l.DiffersFrom = Different, 7
		x.looked(l)
	})
	case_("diverged [2,8)", func(x *machine) { // the source was cut at 2 and written again
		l := resumed(0, 8, 50)
		l.Compared, l.DiffersFrom = Different, 2
		x.looked(l)
	})
	case_("recreated [0,8)", func(x *machine) { // known before the first look: that tells how much there is
		x.next(TopicRecreated{Side: "source"})
		x.next(Policy{Deletes: true, Compacted: true}) // asks for another look
		x.looked(resumed(0, 8, 50))
	})
	case_("diverged [5,8)", func(x *machine) {
		x.looked(Looked{SourceEnd: 50, TargetTail: TargetTail{End: 8, Last: &Batch{Header: Header{Base: 6, LastDelta: 1, Count: 2, ProducerID: 1}}, ForeignFrom: 5}, Compared: Same})
	})
	case_("straddle [7,9)", func(x *machine) { x.looked(resumed(0, 7, 50)).fetched(50, plain(6, 3)) })
	case_("misplaced [0,7)", func(x *machine) {
		x.looked(fresh(9)).fetched(9, plain(0, 3)).answered(Appended{Base: 4})
	})
	case_("recreated [0,7)", func(x *machine) {
		x.looked(fresh(9)).fetched(9, plain(0, 3)).answered(Appended{Base: 4}).next(TopicRecreated{"target"})
	})
	case_("recreated [0,3)", func(x *machine) {
		x.looked(fresh(9)).fetched(9, plain(0, 3)).accepted().next(TopicRecreated{"source"})
	})
	case_("source-short [2,3)", func(x *machine) {
		x.looked(fresh(9)).fetched(9, plain(0, 3)).accepted()
		x.next(FetchFailed{Gen: x.fetch.Gen, Kind: FetchDiverged, At: 2})
	})
	case_("source-short [6,8)", func(x *machine) { // seen three times, as an election may show less for a moment
		x.looked(resumed(0, 8, 6)).looked(resumed(0, 8, 6)).looked(resumed(0, 8, 6))
	})
	case_("target-short [2,3)", func(x *machine) {
		x.looked(fresh(9)).fetched(9, plain(0, 3)).accepted().next(TargetMoved{})
		for range testLimits.Doubts {
			x.looked(resumed(0, 2, 9))
		}
	})
	case_("refused [0,3)", func(x *machine) {
		for range testLimits.Doubts + 1 {
			x.looked(fresh(9)).fetched(9, plain(0, 3)).answered(Appended{Answer: AppendRejected, Why: "too large"})
		}
	})
}

func TestPartition_FrozenIsStickyUntilAPersonSaysSo(t *testing.T) {
	x := newMachine(t, 0)
	l := Looked{SourceStart: 200_000, SourceEnd: 200_001}
	x.looked(l)
	for _, ev := range []Event{Looked{}, LookFailed{}, Fetched{Batches: []Batch{plain(0, 1)}}, FetchFailed{}, TargetMoved{}, TopicRecreated{}, SourceSeen{End: 300_000}} {
		x.next(ev)
		x.frozen("prefix [0,200000)")
	}
	if x.m.SourceEnd != 300_000 {
		t.Error("a frozen partition still tells how far the source is")
	}
	x.next(Retry{})
	if x.m.State != Resuming || x.look == nil {
		t.Fatal("a retry looks at both ends again")
	}
	x.looked(l).frozen("prefix [0,200000)")
}

func TestPartition_WhatTheRecordHoldsBackIsNeverTouched(t *testing.T) {
	x := newMachine(t, 0)
	x.next(Hold{Freeze{Diverged, 3, 9, "differs from 3 on"}})
	x.look = nil
	x.next(Retry{}).next(Accepted{3, 9}).next(TargetMoved{})
	x.frozen("diverged [3,9)")
	if x.look != nil || x.append != nil {
		t.Fatal("it works on all the same")
	}
}

func TestPartition_NeverLooksWhileAnAppendIsUnanswered(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(9)).fetched(9, plain(0, 3))
	x.next(TargetMoved{})
	if x.look != nil {
		t.Fatal("looked while an append was under way: what it saw could change behind its back")
	}
	x.accepted()
	if x.look == nil || x.append != nil {
		t.Fatal("a moved target is looked at before the next append")
	}
}

func TestPartition_LostAnswerIsReadFromTheLog(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(9)).fetched(9, plain(0, 3), plain(3, 3)).answered(Appended{Answer: AppendUnknown, Why: "no answer"})
	if x.look == nil || x.append != nil || x.m.Trouble == "" {
		t.Fatal("want a look and nothing else")
	}
	x.looked(resumed(0, 3, 9)) // it was carried out
	if x.fetch == nil || x.fetch.Offset != 3 {
		t.Fatalf("goes on at %+v, want 3", x.fetch)
	}
}

func TestPartition_WaitsForLostRequestsWhenTheBrokerForgotUs(t *testing.T) {
	x := newMachine(t, 0)
	l := resumed(0, 7, 50)
	l.RunKnown = false
	x.looked(l)
	if x.look == nil || x.look.After != testLimits.RequestGrace {
		t.Fatalf("want a look after %s, got %+v", testLimits.RequestGrace, x.look)
	}
	if x.looked(l); x.m.State != Following {
		t.Fatal("after the wait it goes on")
	}
}

func TestPartition_NewEpochGoesOnBehindTheOldOnesRecords(t *testing.T) {
	x := newMachine(t, 0)
	old := testRun(0)
	old.Link.Epoch--
	h := stored(old, 6, 1)
	l := Looked{SourceEnd: 9, TargetTail: TargetTail{End: 7, Last: &h}, Compared: Same, SourceEpoch: 1}
	x.looked(l).looked(l).fetched(9, plain(7, 2))
	if x.append == nil || x.append.Stamp != (Run{x.m.Link.Link, x.m.Link.Topic, 4, 7}).Stamp(7) {
		t.Fatalf("stamp %+v, want a new run from 7", x.append)
	}
	x.accepted()
}

func TestPartition_ReadAheadOfATruncatedSourceIsDropped(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(9)).fetched(9, plain(0, 3)).accepted()
	x.next(FetchFailed{Gen: x.fetch.Gen, Kind: FetchDiverged, At: 3})
	if x.m.State != Resuming || x.look == nil {
		t.Fatalf("%s: the target is still a prefix, so look and go on", x.m.State)
	}
}

func TestPartition_LosingARaceIsNoRefusal(t *testing.T) {
	x := newMachine(t, 0)
	for n := range int64(3 * testLimits.Doubts) { // another mirror of the link is always faster
		x.looked(resumed(0, n+1, 99)).fetched(99, plain(n+1, 1)).answered(Appended{Answer: AppendOutOfOrder})
	}
	if x.m.State == Frozen {
		t.Fatalf("frozen as %v", x.m.Freeze)
	}
}

func TestPartition_BacksOffWithABound(t *testing.T) {
	x := newMachine(t, 0)
	var waits []time.Duration
	for range 6 {
		gen := x.look.Gen
		x.next(LookFailed{Gen: gen, Why: "down"})
		waits = append(waits, x.look.After)
	}
	if got := fmt.Sprint(waits); got != "[1s 2s 4s 8s 8s 8s]" {
		t.Error(got)
	}
}

func TestPartition_SkipsWhatItHasAlready(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(resumed(0, 7, 50)).fetched(50, plain(5, 2), plain(7, 3))
	if x.append == nil || x.append.Batches[0].Base != 7 {
		t.Fatalf("appends %+v, want the batch at 7", x.append)
	}
}

func TestPartition_AnswersOfAbandonedRequestsAreIgnored(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(9))
	old := *x.fetch
	x.next(TargetMoved{})
	x.next(Fetched{Gen: old.Gen, Batches: []Batch{plain(0, 3)}, End: 9})
	if x.append != nil || x.m.State != Resuming {
		t.Fatal("an old fetch's batches were taken")
	}
}

func TestStatus_DistanceIsNeverInvented(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	x := newMachine(t, 0)
	if s := x.m.Status(now); s.RecordsBehind != -1 || s.SecondsBehind != -1 || s.TargetEnd != -1 {
		t.Errorf("before the first look: %+v", s)
	}
	l := resumed(0, 7, 7)
	l.At = now
	x.looked(l)
	if s := x.m.Status(now); s.RecordsBehind != 0 || s.SecondsBehind != 0 {
		t.Errorf("caught up: %+v", s)
	}
	if s := x.m.Status(now.Add(time.Minute)); s.SecondsBehind != 60 {
		t.Errorf("a source that was not seen for a minute: %v s behind", s.SecondsBehind)
	}
	b := plain(7, 4)
	b.FirstTimestamp = now.Add(-30 * time.Second).UnixMilli()
	gen := x.fetch.Gen
	x.next(Fetched{Gen: gen, At: now, Batches: []Batch{b}, End: 11})
	if s := x.m.Status(now); s.RecordsBehind != 4 || s.SecondsBehind != 30 {
		t.Errorf("a record of 30 s ago waits: %+v", s)
	}
}

// tail is the target's end as our own last batch shows it.
func (x *machine) tail(end int64, last Batch) *machine {
	x.t.Helper()
	if x.target == nil {
		x.t.Fatal("no look at the target is asked for")
	}
	gen := x.target.Gen
	x.target = nil
	return x.next(TargetLooked{Gen: gen, TargetTail: TargetTail{End: end, Last: &last}})
}

func (x *machine) marked(a Answer) *machine {
	x.t.Helper()
	if x.mark == nil {
		x.t.Fatal("no markers are asked for")
	}
	x.mark = nil
	return x.next(Marked{Answer: a})
}

func (x *machine) leased(g Generation) *machine {
	x.t.Helper()
	if x.lease == nil {
		x.t.Fatal("no generation is asked for")
	}
	x.lease = nil
	return x.next(Leased{g})
}

func TestPartition_FillsAHoleAndBeginsANewRunBehindIt(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(99)).fetched(99, plain(0, 3), plain(203, 2)).accepted()
	if x.m.State != Waiting || x.mark != nil {
		t.Fatalf("%s: no marker without a generation", x.m.State)
	}
	x.leased(1)
	if x.m.State != Filling || *x.mark != (MarkHole{From: 3, To: 103, Generation: 1}) {
		t.Fatalf("%s, %+v", x.m.State, x.mark)
	}
	x.marked(AppendAccepted).tail(103, markerAt(testRun(0), 102, 1))
	if *x.mark != (MarkHole{From: 103, To: 203, Generation: 1}) {
		t.Fatalf("%+v", x.mark)
	}
	x.marked(AppendRetry).tail(103, markerAt(testRun(0), 102, 1)) // none was stored
	if x.mark.From != 103 || x.mark.After == 0 {
		t.Fatalf("%+v: again, after a while", x.mark)
	}
	x.marked(AppendUnknown).tail(150, markerAt(testRun(0), 149, 1))
	if x.m.State != Waiting || x.lease.Above != 1 {
		t.Fatalf("%s: a generation without an answer is not used again", x.m.State)
	}
	x.leased(2).marked(AppendAccepted).tail(203, markerAt(testRun(0), 202, 2))
	later := testRun(203)
	if x.m.State != Following || x.append.Stamp != later.Stamp(203) || x.m.Filled != 200 {
		t.Fatalf("%s, %+v", x.m.State, x.append)
	}
	x.accepted()
	if n := len(x.m.History); n < 4 || x.m.Holes != 1 {
		t.Errorf("%d holes, transitions %+v", x.m.Holes, x.m.History)
	}
}

func TestPartition_ReadsTheEndAgainBeforeItFillsWithANewBlockOfGenerations(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(99)).fetched(99, plain(0, 3), plain(103, 2)).accepted()
	// While it waited for generation 8, a mirror with an earlier one has filled
	// the hole up to 50: its last marker has a higher turn, and ours would pass.
	x.leased(8)
	if x.m.State != Resuming || x.mark != nil || x.look == nil {
		t.Fatalf("%s, %+v: its end was read before the earlier generations were silent", x.m.State, x.mark)
	}
	last := markerAt(testRun(0), 49, 7)
	x.looked(Looked{SourceEnd: 105, TargetTail: TargetTail{End: 50, Last: &last}}).fetched(105, plain(103, 2))
	if x.m.State != Filling || *x.mark != (MarkHole{From: 50, To: 103, Generation: 8}) {
		t.Fatalf("%s, %+v", x.m.State, x.mark)
	}
	// Within the block the turns tell: no further look.
	x.marked(AppendUnknown).tail(60, markerAt(testRun(0), 59, 8)).leased(9)
	if x.m.State != Filling || *x.mark != (MarkHole{From: 60, To: 103, Generation: 9}) {
		t.Fatalf("%s, %+v", x.m.State, x.mark)
	}
}

func TestPartition_AHoleThatSomebodyElseWritesToFreezes(t *testing.T) {
	x := newMachine(t, 0)
	x.looked(fresh(99)).fetched(99, plain(0, 3), plain(50, 2)).accepted().leased(1).marked(AppendAccepted)
	gen := x.target.Gen
	last := plain(7, 1)
	x.next(TargetLooked{Gen: gen, TargetTail: TargetTail{End: 8, Last: &last, ForeignFrom: 7}})
	x.frozen("diverged [7,8)")
}

func TestPartition_AFencedTargetEndsTheLinkForGood(t *testing.T) {
	x := newMachine(t, 0)
	last := plain(9, 1)
	l := Looked{SourceEnd: 50, TargetTail: TargetTail{End: 10, Last: &last, ForeignFrom: 7, Fenced: true}}
	if x.looked(l); x.m.State != Promoted || x.m.End != 7 {
		t.Fatalf("%s at %d", x.m.State, x.m.End)
	}
	x.look = nil
	x.next(Retry{}).next(TargetMoved{}).next(Leased{3})
	if x.m.State != Promoted || x.look != nil {
		t.Fatal("a promoted partition does nothing any more")
	}
}

func TestPartition_SeedsThePrefixThatTheSourceLost(t *testing.T) {
	x := newMachine(t, 0)
	at := time.UnixMilli(1_000_000)
	first := Looked{At: at, SourceStart: 1200, SourceEnd: 1300, SourceEpoch: -1}
	x.looked(first)
	if x.m.State != Waiting {
		t.Fatalf("%s: two mirrors that see different starts must not seed together", x.m.State)
	}
	x.leased(1).looked(first)
	run := testRun(0)
	for base := int64(0); base < 1200; base += 500 {
		n := min(500, 1200-base)
		b := x.append
		if x.m.State != Seeding || !b.Filler || b.Batches[0].Base != base || int64(b.Batches[0].Count) != n || b.Stamp != run.Seed(base) {
			t.Fatalf("%s, %+v", x.m.State, b)
		}
		if s := x.m.Status(at.Add(time.Second)); s.Seed == nil || s.Seed.At != base || s.Seed.PerSecond != float64(base) {
			t.Errorf("%+v", s.Seed)
		}
		x.accepted()
	}
	seeded := stored(run, 1000, 200)
	seeded.ProducerID = run.Seed(1000).ProducerID
	done := Looked{SourceStart: 1210, SourceEnd: 1300, TargetTail: TargetTail{End: 1200, Last: &seeded}, SourceEpoch: -1, RunKnown: true}
	x.looked(done) // the source went on meanwhile
	if b := x.append.Batches[0]; b.Base != 1200 || b.Count != 10 {
		t.Fatalf("%+v", b)
	}
	x.accepted()
	seeded = stored(run, 1200, 10)
	seeded.ProducerID = run.Seed(1200).ProducerID
	done.End = 1210
	x.looked(done)
	if x.trim == nil || x.trim.To != 1210 {
		t.Fatalf("%+v", x.trim)
	}
	x.trim = nil
	x.next(Trimmed{}).fetched(1300, plain(1210, 5))
	data := testRun(1210)
	if x.m.State != Following || x.append.Stamp != data.Stamp(1210) {
		t.Fatalf("%s, %+v", x.m.State, x.append)
	}
	x.accepted()
}

func TestPartition_AcceptedLossBecomesAHole(t *testing.T) {
	x := newMachine(t, 0)
	l := resumed(0, 7, 50)
	l.SourceStart = 40
	x.looked(l)
	x.frozen("lost [7,40)")
	x.next(Accepted{From: 7, To: 39}).looked(l)
	x.frozen("lost [7,40)") // less than what is lost
	x.next(Accepted{From: 7, To: 40}).looked(l).leased(1)
	if *x.mark != (MarkHole{From: 7, To: 40, Generation: 1}) || x.fetch.Offset != 40 {
		t.Fatalf("%+v, %+v", x.mark, x.fetch)
	}
}

func TestPartition_ACompactedTopicIsWrittenByOneMirrorAtATime(t *testing.T) {
	x := newMachine(t, 0)
	x.next(Policy{Compacted: true, Deletes: true})
	x.looked(fresh(9))
	if x.m.State != Waiting || x.fetch != nil {
		t.Fatalf("%s", x.m.State)
	}
	x.leased(1).looked(fresh(9))
	if x.m.State != Resuming || x.look.After != testLimits.RequestGrace {
		t.Fatalf("%s, %+v: requests of an earlier mirror may be under way", x.m.State, x.look)
	}
	x.looked(fresh(9)).fetched(9, plain(0, 3)).accepted()
	x.next(LeaseLost{1})
	if x.m.State != Resuming || x.append != nil {
		t.Fatalf("%s", x.m.State)
	}
}
