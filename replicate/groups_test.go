package replicate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func part(n int32) topology.Partition { return topology.Partition{Topic: "t", Partition: n} }

func TestPlanGroups_CoversEveryPartitionOfATopicThatAGroupReads(t *testing.T) {
	sel, err := NewGroupSelector(nil, nil, nil, []string{"late"})
	if err != nil {
		t.Fatal(err)
	}
	f := GroupFacts{
		Source: map[string]Commits{
			"billing": {part(0): {Offset: 10}, part(1): {Offset: 99}, part(2): {Offset: 1}, part(5): {Offset: 9}, part(6): {Offset: 9}},
			"late":    {part(0): {Offset: 10}},
			"new":     {},
			"idle":    {},
		},
		Topics: map[string][]string{"new": {"t"}},
		Target: map[string]Commits{
			"billing": {part(0): {Offset: 10}, part(1): {Offset: 20}, part(5): {Offset: 12}, part(6): {Offset: 500}},
		},
		Busy:        map[string]string{"new": "Stable"},
		SourceRange: map[topology.Partition]Range{},
		TargetRange: map[topology.Partition]Range{},
		Selector:    sel,
	}
	for n := range int32(7) {
		f.SourceRange[part(n)] = Range{Start: 5, End: 100}
		if n != 4 {
			f.TargetRange[part(n)] = Range{Start: 5, End: 50}
		}
	}
	var got []string
	for _, g := range PlanGroups(f) {
		if g.Group == "billing" || g.Partition.Partition == 1 {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s source %d want %d have %d %s", g.Group, g.Partition, g.Source, g.Want, g.Have, g.Outcome)))
		}
	}
	want := []string{
		"billing t/0 source 10 want 10 have 10 same",
		"billing t/1 source 99 want 50 have 20 written", // the target ends at 50
		"billing t/2 source 1 want 5 have -1 written",   // and starts at 5
		"billing t/3 source 5 want 5 have -1 written",   // nothing committed: the beginning
		"billing t/4 source 5 want -1 have -1 absent",
		"billing t/5 source 9 want 9 have 12 ahead",    // never rewound
		"billing t/6 source 9 want 9 have 500 written", // unless it points to nothing
		"late t/1 source 100 want 50 have -1 written",  // its consumers start at the end
		"new t/1 source 5 want 5 have -1 busy",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlanGroups_TheFinalStepNeverStartsBeyondTheCap(t *testing.T) {
	f := GroupFacts{
		Source:      map[string]Commits{"g": {part(0): {Offset: 40}}},
		Target:      map[string]Commits{"g": {part(0): {Offset: 38}}},
		SourceRange: map[topology.Partition]Range{part(0): {End: 60}},
		TargetRange: map[topology.Partition]Range{part(0): {End: 50}},
		Cap:         map[topology.Partition]int64{part(0): 30},
	}
	if g := PlanGroups(f)[0]; g.Outcome != GroupWrite || g.Want != 30 {
		t.Errorf("%+v", g)
	}
}

func TestPlanGroups_NeverRewindsAndNeverLeavesTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := func(name string) int64 { return rapid.Int64Range(0, 30).Draw(t, name) }
		start := offset("start")
		f := GroupFacts{
			Source:      map[string]Commits{"g": {part(0): {Offset: offset("source")}}},
			Target:      map[string]Commits{"g": {}},
			SourceRange: map[topology.Partition]Range{part(0): {End: 40}},
			TargetRange: map[topology.Partition]Range{part(0): {Start: start, End: start + offset("length")}},
		}
		if rapid.Bool().Draw(t, "committed") {
			f.Target["g"][part(0)] = Commit{Offset: offset("target")}
		}
		g, r := PlanGroups(f)[0], f.TargetRange[part(0)]
		if g.Want < r.Start || g.Want > r.End {
			t.Fatalf("%+v is outside of %+v", g, r)
		}
		if g.Outcome == GroupWrite && g.Have > g.Want && r.Start <= g.Have && g.Have <= r.End {
			t.Fatalf("rewinds: %+v", g)
		}
	})
}

func TestPlanGroups_TheEndIsTakenOnceAndKept(t *testing.T) {
	sel, err := NewGroupSelector(nil, nil, nil, []string{"late"})
	if err != nil {
		t.Fatal(err)
	}
	f := GroupFacts{
		Source:      map[string]Commits{"late": {part(9): {}}},
		Target:      map[string]Commits{"late": {}},
		SourceRange: map[topology.Partition]Range{part(0): {End: 0}},
		TargetRange: map[topology.Partition]Range{part(0): {End: 0}},
		Selector:    sel,
	}
	for _, end := range []int64{0, 1, 40} { // records come, and its consumer has not committed
		f.SourceRange[part(0)], f.TargetRange[part(0)] = Range{End: end}, Range{End: end}
		g := PlanGroups(f)[0]
		if g.Want != 0 || !g.Assumed || !strings.Contains(g.Note, "latest") {
			t.Fatalf("end %d: %+v", end, g)
		}
		f.Target["late"][part(0)] = Commit{Offset: g.Want}
	}
	// What it stood at is gone: the end again.
	f.TargetRange[part(0)] = Range{Start: 30, End: 40}
	if g := PlanGroups(f)[0]; g.Want != 40 {
		t.Errorf("%+v", g)
	}
}

func TestPlanGroups_AReversedLinkTakesTheNewSourcesOffsets(t *testing.T) {
	// This region led to 1060, the other was promoted at 1000 and leapt to 1100.
	base := func(source, target int64) GroupFacts {
		return GroupFacts{
			Source:      map[string]Commits{"g": {part(0): {Offset: source}}},
			Target:      map[string]Commits{"g": {part(0): {Offset: target}}},
			SourceRange: map[topology.Partition]Range{part(0): {End: 1200}},
			TargetRange: map[topology.Partition]Range{part(0): {End: 1150}},
			Skips:       map[topology.Partition]Range{part(0): {Start: 1000, End: 1100}},
			Began:       map[topology.Partition]int64{part(0): 1060},
		}
	}
	for _, c := range []struct {
		source, target, want int64
		outcome              Outcome
	}{
		{999, 1055, 999, GroupWrite},   // of the time before: set back, for it reads 999 over there
		{1000, 1055, 1100, GroupWrite}, // past the orphans
		{1099, -1, 1100, GroupWrite},
		{1100, 1100, 1100, GroupSame},
		{1170, 1100, 1150, GroupWrite}, // the target ends there
		{1110, 1120, 1110, GroupAhead}, // beyond where the link began: a consumer's
	} {
		f := base(c.source, c.target)
		if c.target < 0 {
			f.Target = nil
		}
		if g := PlanGroups(f)[0]; g.Want != c.want || g.Outcome != c.outcome {
			t.Errorf("source %d, target %d: %+v", c.source, c.target, g)
		}
	}
	// Nothing is committed over there any more: no reason to begin again.
	f := base(0, 1055)
	f.Source, f.Topics = map[string]Commits{"g": {}}, map[string][]string{"g": {"t"}}
	if g := PlanGroups(f)[0]; g.Outcome != GroupAhead {
		t.Errorf("%+v", g)
	}
}

func TestReposition_ReadsTheSameNextRecordInBothRegions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Int64Range(0, 40).Draw(t, "x")
		e := rapid.Int64Range(x, 60).Draw(t, "e") // the old region's end: [x, e) are orphans
		g := rapid.Int64Range(e, 80).Draw(t, "g") // the new one's first record behind x
		p := rapid.Int64Range(0, 100).Draw(t, "p")
		next := func(p int64, visible func(int64) bool) int64 {
			for ; !visible(p); p++ {
			}
			return p
		}
		at := Reposition(p, x, g)
		there := next(p, func(o int64) bool { return o < x || o >= g })
		here := next(at, func(o int64) bool { return o < e || o >= g }) // its hole up to g was copied
		if there != here || at < p {
			t.Fatalf("x %d e %d g %d: %d reads %d there; at %d it reads %d here", x, e, g, p, there, at, here)
		}
		if Reposition(at, x, g) != at {
			t.Fatal("a second time moves it")
		}
	})
}

func TestLate_IsWhatWasNotCopiedInTime(t *testing.T) {
	row := func(have, want int64) []GroupOffset {
		o := GroupBehind
		if have == want {
			o = GroupSame
		}
		return []GroupOffset{{Group: "g", Partition: part(0), Have: have, Want: want, Outcome: o}}
	}
	for _, c := range []struct {
		before, after []GroupOffset
		want          Outcome
	}{
		{row(5, 10), row(10, 14), GroupBehind}, // it was copied, and the source went on
		{row(5, 10), row(9, 14), GroupLate},
		{row(5, 10), row(10, 10), GroupSame},
		{nil, row(5, 10), GroupBehind}, // new
	} {
		if got := Late(c.before, c.after)[0]; got.Outcome != c.want || got.Good() == (c.want == GroupLate) {
			t.Errorf("%+v, want %s", got, c.want)
		}
	}
}

func TestCoverage_FindsWhatAConsumerWouldStumbleOver(t *testing.T) {
	rows := []GroupOffset{}
	for n := range int32(6) {
		rows = append(rows, GroupOffset{Group: "g", Partition: part(n), Want: 20})
	}
	target := map[topology.Partition]Range{}
	for n := range int32(5) {
		target[part(n)] = Range{Start: 10, End: 30}
	}
	have := map[string]Commits{"g": {part(0): {Offset: 20}, part(1): {Offset: 15}, part(2): {Offset: 25}, part(3): {Offset: 31}, part(5): {Offset: 20}}}
	var got []string
	for _, g := range Coverage(rows, have, target) {
		got = append(got, fmt.Sprintf("%d %s %t skips %d repeats %d", g.Partition.Partition, g.Outcome, g.Good(), g.Skipped, g.Repeated))
	}
	want := []string{
		"0 same true skips 0 repeats 0", "1 behind true skips 0 repeats 5", "2 ahead false skips 5 repeats 0",
		"3 outside false skips 10 repeats 10", "4 absent false skips 10 repeats 10", "5 absent false skips 0 repeats 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGroupSelector_LocalWins(t *testing.T) {
	s, err := NewGroupSelector([]string{"a.*", "index"}, []string{"ab"}, []string{"index"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for group, want := range map[string]bool{"a": true, "abc": true, "ab": false, "index": false, "xa": false} {
		if s.Selects(group) != want {
			t.Errorf("%s: want %t", group, want)
		}
	}
	if (*GroupSelector)(nil).Selects("a") {
		t.Error("no selector selects no group")
	}
	if _, err := NewGroupSelector([]string{"("}, nil, nil, nil); err == nil {
		t.Error("a broken pattern is taken")
	}
}
