package consensus

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// returned is a story in which us-east failed, eu-west took over at x and went
// on at g, and us-east is back.
func returned(t *testing.T, x, g int64) *story {
	b := newMirrorStory(t).held()
	b.do(&NoteLink{Link: there, Epoch: 1, Topics: map[string]TopicPair{"events": {"in-us", "in-eu"}}, Epochs: LeaderEpochs{"events": {0: 3}}})
	b.do(b.expire(ingestion))
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), step(StepLinkReverse))})
	b.do(&EndLink{Link: there, Epoch: 1, Ends: Offsets{"events": {0: x - 2}}, Epochs: LeaderEpochs{"events": {0: 4}}})
	b.do(&GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)})
	b.do(&FenceLink{Link: there, Epoch: 1, Ends: Offsets{"events": {0: x}}, Leaps: Offsets{"events": {0: g}}})
	return b.do(&StartLink{Step: StepRef{Plan: "p1", Step: 1}, Kind: StepLinkReverse, Link: back, After: there, Unproven: true})
}

func TestLink_RemembersWhereTheLogsWentApart(t *testing.T) {
	b := returned(t, 100, 120)
	one := func(at int64) Offsets { return Offsets{"events": {0: at}} }
	want := Link{From: west, To: east, Epoch: 1, Phase: LinkUnproven, Turn: 2, Starts: one(100), Shared: one(100), Began: one(120),
		SharedEpochs: LeaderEpochs{"events": {0: 4}}, Topics: map[string]TopicPair{"events": {"in-eu", "in-us"}}}
	if diff := cmp.Diff(want, b.Links[back]); diff != "" {
		t.Error(diff)
	}
}

func TestLink_RunsFromTheEndOfTheReturnedRegion(t *testing.T) {
	b := returned(t, 100, 120)
	orphans := Spans{"events": {0: {{100, 130}}}}
	s := &Salvage{ID: "s1", Link: back, Epoch: 1, At: storyStart, Where: "s3://a/orphans", Digest: "d", Records: 30, Bytes: 9, Orphans: orphans}
	judge := &JudgeLink{Link: back, Epoch: 1, Starts: Offsets{"events": {0: 130}}, Orphans: orphans, Foreign: Spans{"events": {0: {{120, 130}}}}, Salvage: s}
	naked := *judge
	naked.Salvage = nil
	b.refused(CodeInvalid, &naked)
	for _, wrong := range []Salvage{{}, {ID: "s1", Link: there, Epoch: 1, Where: "x", Digest: "d"}, {ID: "s1", Link: back, Epoch: 1, Where: "x"}} {
		naked.Salvage = &wrong
		b.refused(CodeInvalid, &naked)
	}
	b.do(judge)
	l := b.Links[back]
	if l.Starts["events"][0] != 130 || l.Phase != LinkRunning || l.Foreign["events"][0][0] != (Span{120, 130}) || b.Salvages["s1"].Records != 30 {
		t.Errorf("the link: %+v, the salvage: %+v", l, b.Salvages["s1"])
	}
}

func TestFence_NeverMovesTheEndOfALink(t *testing.T) {
	b := newMirrorStory(t)
	at := func(x, g int64) *FenceLink {
		return &FenceLink{Link: there, Epoch: 1, Ends: Offsets{"events": {0: x}}, Leaps: Offsets{"events": {0: g}}}
	}
	b.refused(CodeConflict, at(100, 103)).do(&EndLink{Link: there, Epoch: 1, Ends: ends})
	b.refused(CodeInvalid, at(100, 99)).refused(CodeInvalid, &FenceLink{Link: there, Epoch: 1, Leaps: ends}).refused(CodeInvalid, &FenceLink{Link: there, Epoch: 1, Ends: ends})
	b.do(at(101, 103)).do(at(101, 109)).refused(CodeConflict, at(102, 109)).do(at(101, 105))
	b.refused(CodeStale, &FenceLink{Link: there, Epoch: 2})
	if l := b.Links[there]; l.Ends["events"][0] != 101 || l.Leaps["events"][0] != 109 || l.Ends["events"][1] != 90 {
		t.Errorf("the link ended at %v and leapt to %v", l.Ends, l.Leaps)
	}
}

func TestNotes_OfATopicMadeAnewBeginAnew(t *testing.T) {
	b := newMirrorStory(t)
	note := func(pair TopicPair, epoch int32) *NoteLink {
		n := &NoteLink{Link: there, Epoch: 1, Topics: map[string]TopicPair{"events": pair}}
		if epoch >= 0 {
			n.Epochs = LeaderEpochs{"events": {0: epoch}}
		}
		return n
	}
	b.do(note(TopicPair{"a", "b"}, 7)).do(note(TopicPair{"a", "b"}, 5))
	if l := b.Links[there]; l.SourceEpochs["events"][0] != 7 {
		t.Errorf("an epoch fell to %d", l.SourceEpochs["events"][0])
	}
	b.do(note(TopicPair{"c", "b"}, 2))
	if l := b.Links[there]; l.SourceEpochs["events"][0] != 2 || l.Topics["events"].Source != "c" {
		t.Errorf("after another topic took its place: %+v", l)
	}
	b.do(note(TopicPair{}, -1)).refused(CodeStale, &NoteLink{Link: there, Epoch: 3}).do(&EndLink{Link: there, Epoch: 1, Ends: ends})
	if l := b.Links[there]; len(l.Topics) != 0 {
		t.Errorf("a topic without identities is still known: %v", l.Topics)
	}
	b.refused(CodeStale, note(TopicPair{"a", "b"}, 9))
}

func TestLoss_IsAcceptedByNameAndWithAReason(t *testing.T) {
	b := newMirrorStory(t)
	loss := AcceptLoss{Link: there, Epoch: 1, Topic: "events", From: 10, To: 20, Reason: "retention took them"}
	for _, wrong := range []AcceptLoss{{Link: there, Epoch: 1, Topic: "events", From: 10, To: 20}, {Link: there, Epoch: 1, Topic: "events", From: 20, To: 20, Reason: "r"}, {Link: there, Epoch: 1, To: 1, Reason: "r"}} {
		b.refused(CodeInvalid, &wrong)
	}
	b.do(&loss).refused(CodeStale, &loss)
	a := b.Links[there].Accepted["events"][0]
	if len(a) != 1 || a[0].By != "test" || a[0].To != 20 || a[0].At.IsZero() {
		t.Errorf("the record: %+v", a)
	}
	if n := len(b.Audit.Lines); b.Audit.Lines[n-1].Kind != "link.accept-loss" {
		t.Errorf("the audit ends with %s", b.Audit.Lines[n-1].Kind)
	}
	for i := range acceptedMax - 1 {
		loss.From, loss.To = int64(100+i), int64(101+i)
		b.do(&loss)
	}
	loss.To = 9999
	b.refused(CodeConflict, &loss).do(&EndLink{Link: there, Epoch: 1, Ends: ends}).refused(CodeConflict, &loss)
}

func TestSalvage_IsProducedAgainOnce(t *testing.T) {
	b := returned(t, 100, 120)
	orphans := Spans{"events": {0: {{100, 130}}}}
	b.do(&JudgeLink{Link: back, Epoch: 1, Orphans: orphans, Salvage: &Salvage{ID: "s1", Link: back, Epoch: 1, Where: "x", Digest: "d", Orphans: orphans}})
	replay := &NoteReplay{Salvage: "s1", Topic: "events", To: "eu-west", Records: 30}
	b.refused(CodeMissing, &NoteReplay{Salvage: "s2", Topic: "events"}).refused(CodeMissing, &NoteReplay{Salvage: "s1", Topic: "events", Partition: 1})
	b.do(replay).refused(CodeConflict, replay)
	again := *replay
	again.Again = true
	b.do(&again)
	if r := b.Salvages["s1"].Replays; len(r) != 2 || r[0].By != "test" {
		t.Errorf("replays: %+v", r)
	}
}

func TestSalvages_AreBounded(t *testing.T) {
	b := returned(t, 100, 120)
	d := draft{State: b.State}
	for i := range salvagesKept + 3 {
		s := Salvage{ID: SalvageID(fmt.Sprintf("s%04d", i)), Link: back, Epoch: 1, Where: "x", Digest: "d", At: storyStart}
		if err := d.keep(s, back, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, oldest := d.Salvages["s0002"]; len(d.Salvages) != salvagesKept || oldest {
		t.Errorf("%d salvages are kept, the oldest among them: %v", len(d.Salvages), oldest)
	}
	if err := d.keep(Salvage{ID: "s0100", Link: back, Epoch: 1, Where: "x", Digest: "d"}, back, 1); !Refused(err, CodeConflict) {
		t.Errorf("a name taken twice: %v", err)
	}
}

func TestSpans_CoverWhatEitherCovers(t *testing.T) {
	draw := func(rt *rapid.T, name string) []Span {
		var out []Span
		at := int64(0)
		for range rapid.IntRange(0, 6).Draw(rt, name) {
			from := at + int64(rapid.IntRange(1, 5).Draw(rt, "gap"))
			at = from + int64(rapid.IntRange(1, 5).Draw(rt, "length"))
			out = append(out, Span{from, at})
		}
		return out
	}
	in := func(list []Span, o int64) bool {
		for _, s := range list {
			if s.From <= o && o < s.To {
				return true
			}
		}
		return false
	}
	rapid.Check(t, func(rt *rapid.T) {
		a, b := draw(rt, "a"), draw(rt, "b")
		got := mergeSpans(Spans{"t": {0: a}}, Spans{"t": {0: b}})["t"][0]
		for o := range int64(80) {
			if in(got, o) != (in(a, o) || in(b, o)) {
				rt.Fatalf("%v and %v give %v: wrong at %d", a, b, got, o)
			}
		}
		for i := 1; i < len(got); i++ {
			if got[i].From <= got[i-1].To {
				rt.Fatalf("%v is not in order and apart", got)
			}
		}
	})
}
