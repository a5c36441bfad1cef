package daemon

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

func TestSkips_AreWhatThePromotedSourceLeaptOver(t *testing.T) {
	l := consensus.Link{
		Shared: consensus.Offsets{"events": {0: 100, 1: 50, 2: 7}},
		Began:  consensus.Offsets{"events": {0: 140, 1: 50, 3: 9}},
	}
	want := map[topology.Partition]replicate.Range{{Topic: "events"}: {Start: 100, End: 140}}
	if diff := cmp.Diff(want, skips(l)); diff != "" {
		t.Error(diff)
	}
}

func TestGroupRows_NameEachWrongOffsetUpToABound(t *testing.T) {
	report := mirror.GroupReport{Only: map[string]int{"left": 4}}
	for i := range int32(groupRowsShown + 5) {
		report.Rows = append(report.Rows, replicate.GroupOffset{
			Group: "bad", Partition: topology.Partition{Topic: "events", Partition: i}, Want: 5, Have: 7, Skipped: 2, Outcome: replicate.GroupAhead, Note: "why",
		})
	}
	report.Rows = append(report.Rows,
		replicate.GroupOffset{Group: "good", Outcome: replicate.GroupSame},
		replicate.GroupOffset{Group: "good", Outcome: replicate.GroupBehind, Assumed: true, Rule: "latest"})
	var got []string
	rows := groupRows(east, west, report)
	for _, g := range rows {
		got = append(got, fmt.Sprintf("%s %d/%d ok %t wrong %d+%d skipped %d only %d never %d %s", g.Group, g.Covered, g.Partitions, g.OK, len(g.Wrong), g.Unnamed, g.Skipped, g.Only, g.NeverRead, g.Rule))
	}
	want := []string{
		"bad 0/2005 ok false wrong 2000+5 skipped 4010 only 0 never 0 ",
		"good 2/2 ok true wrong 0+0 skipped 0 only 0 never 1 latest",
		"left 0/0 ok true wrong 0+0 skipped 0 only 4 never 0 ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if w := (httpapi.WrongOffset{Topic: "events", Partition: 3, Want: 5, Have: 7, Skipped: 2, Why: "why", Next: nextOf(report.Rows[3], east, west)}); rows[0].Wrong[3] != w || w.Next == "" {
		t.Errorf("%+v", rows[0].Wrong[3])
	}
}

func TestCapped_LowersWhatWasSeenToWhatIsThere(t *testing.T) {
	p := topology.Partition{Topic: "events"}
	r := mirror.GroupReport{Rows: []replicate.GroupOffset{{Partition: p, Want: 12}, {Partition: topology.Partition{Topic: "other"}, Want: 12}}}
	got := capped(r, map[topology.Partition]int64{p: 10})
	if got.Rows[0].Want != 10 || got.Rows[1].Want != 12 || r.Rows[0].Want != 12 {
		t.Errorf("%+v of %+v", got.Rows, r.Rows)
	}
}
