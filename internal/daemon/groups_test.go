package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/kafka"
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

func TestWriteGroups_LeavesNoGroupBeyondTheEndAndSeedsTheCommitLogs(t *testing.T) {
	clients, admins := map[topology.Region]*kafka.Client{}, map[topology.Region]*kadm.Client{}
	for _, name := range []topology.Region{east, west} {
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "events"), kfake.SeedTopics(1, "commits"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fake.Close)
		cl, err := kafka.Open(kafka.Config{Name: string(name), Brokers: fake.ListenAddrs()}, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		var records []*kgo.Record
		for i := range int32(40) {
			records = append(records, &kgo.Record{Topic: "events", Partition: i % 2, Value: []byte("x")})
		}
		if err := cl.Kgo.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		clients[name], admins[name] = cl, cl.Admin
	}
	commit := func(in topology.Region, group string, at ...int64) {
		t.Helper()
		os := kadm.Offsets{}
		for p, o := range at {
			os.AddOffset("events", int32(p), o, -1)
		}
		if err := admins[in].CommitAllOffsets(t.Context(), group, os); err != nil {
			t.Fatal(err)
		}
	}
	ends := consensus.Offsets{"events": {0: 15, 1: 15}}
	s := consensus.NewState()
	s.Links["l"] = consensus.Link{From: east, To: west, Epoch: 1, Phase: consensus.LinkEnded, Ends: ends}
	m := newMirrors(time.Now())
	m.state = func() consensus.State { return s }
	m.regions = map[topology.Region]*region{east: {kafka: clients[east]}, west: {kafka: clients[west]}}
	m.topics = replicate.Only("events")
	m.logs = []replicate.CommitLog{{Topic: "commits", Of: "events", Group: "indexer"}, {Topic: "none", Of: "events", Group: "nobody"}}
	var err error
	if m.groups, err = replicate.NewGroupSelector(nil, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	at := func(group string) string {
		t.Helper()
		got, err := mirror.Commits(t.Context(), clients[west], []string{group})
		if err != nil {
			t.Fatal(err)
		}
		p := func(n int32) int64 { return got[group][topology.Partition{Topic: "events", Partition: n}].Offset }
		return fmt.Sprintf("%d %d", p(0), p(1))
	}

	commit(east, "indexer", 7, 19) // the second beyond what was mirrored
	out, err := here{m}.WriteGroups(t.Context(), "l", ends, true)
	if err != nil || out.Groups != 1 || out.Written != 2 || out.Seeded != 2 || len(out.Notes) > 0 || at("indexer") != "7 15" {
		t.Fatalf("with its source: %+v %v, at %s", out, err, at("indexer"))
	}
	// The source is away, and another life of the daemon did the copying.
	commit(west, "billing", 18)
	out, err = here{m}.WriteGroups(t.Context(), "l", ends, false)
	if err != nil || out.Groups != 2 || out.Written != 2 || out.Seeded != 0 || len(out.Notes) != 1 || at("indexer") != "7 15" || at("billing") != "15 0" {
		t.Fatalf("without its source: %+v %v, indexer at %s, billing at %s", out, err, at("indexer"), at("billing"))
	}
	// What was copied before must be there.
	m.past["l"] = past{epoch: 1, groups: mirror.GroupReport{Rows: []replicate.GroupOffset{{Group: "lost", Partition: topology.Partition{Topic: "events"}, Want: 3}}}}
	if _, err = (here{m}).WriteGroups(t.Context(), "l", ends, false); err == nil || !strings.Contains(err.Error(), "group lost, events/0") {
		t.Errorf("an offset that was copied and is gone: %v", err)
	}
}
