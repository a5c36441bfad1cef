package kafka

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func (r *rig) commit(cl *kafka.Client, group, topic string, at map[int32]int64) {
	r.t.Helper()
	os := kadm.Offsets{}
	for part, offset := range at {
		os.Add(kadm.Offset{Topic: topic, Partition: part, At: offset, LeaderEpoch: -1})
	}
	if err := cl.Admin.CommitAllOffsets(r.t.Context(), group, os); err != nil {
		r.t.Fatal(err)
	}
}

func TestEnds_AreWholeOrAnError(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 4, nil)
	r.produce(r.a, "events", 2, 30, 10)
	got, err := Ends(t.Context(), r.a, replicate.Only("events"))
	if err != nil || len(got) != 4 || got[topology.Partition{Topic: "events", Partition: 2}] != (replicate.Range{End: 30, Settled: true}) {
		t.Fatalf("%v %v", got, err)
	}
	f := r.fakeA.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Partitions: []int32{3}, Topic: "events", Err: kerr.NotLeaderForPartition, Count: -1})
	defer f.Remove()
	if got, err := Ends(t.Context(), r.a, replicate.Only("events")); err == nil {
		t.Fatalf("a short list without an error: %v", got)
	}
}

func TestWaitReached_SaysWhatIsMissing(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	r.produce(r.a, "events", 0, 30, 10)
	p0, p1 := topology.Partition{Topic: "events", Partition: 0}, topology.Partition{Topic: "events", Partition: 1}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := WaitReached(ctx, r.a, map[topology.Partition]int64{p0: 30, p1: 0}); err != nil {
		t.Fatal(err)
	}
	err := WaitReached(ctx, r.a, map[topology.Partition]int64{p0: 40, p1: 0})
	var missing *NotReachedError
	if !errors.As(err, &missing) || missing.Missing[p0] != 10 || len(missing.Missing) != 1 || !strings.Contains(err.Error(), "events/0 lacks 10 records") {
		t.Fatal(err)
	}
	began := time.Now()
	err = WaitReached(t.Context(), r.a, map[topology.Partition]int64{p0: 20})
	if !errors.As(err, &missing) || missing.Missing[p0] != -10 || time.Since(began) > 5*time.Second {
		t.Fatalf("too many records never heal by waiting: %v", err)
	}
}

func TestSyncGroups_WritesReadsBackAndCovers(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 3, nil)
	r.produce(r.a, "events", 0, 50, 10)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	r.commit(r.a, "billing", "events", map[int32]int64{0: 33})
	r.commit(r.a, "index", "events", map[int32]int64{0: 44})
	sel, err := replicate.NewGroupSelector(nil, nil, []string{"index"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := SyncOptions{Groups: sel}
	before, err := CheckGroups(t.Context(), r.a, r.b, opt, 0)
	if err != nil || len(before.Findings()) != 3 {
		t.Fatalf("nothing is copied yet: %+v %v", before, err)
	}
	report, err := SyncGroups(t.Context(), r.a, r.b, opt)
	if err != nil || report.Count(replicate.GroupWrite) != 3 || len(report.Findings()) != 0 {
		t.Fatalf("%+v %v", report, err)
	}
	if got := r.fakeB.GroupInfo("billing").Commits["events"]; got[0].Offset != 33 || len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	if r.fakeB.GroupInfo("index") != nil {
		t.Fatal("a local group was copied")
	}
	again, err := SyncGroups(t.Context(), r.a, r.b, opt)
	if err != nil || again.Count(replicate.GroupSame) != 3 {
		t.Fatalf("a second time there is nothing to do: %+v %v", again, err)
	}
	// The source is gone: what was copied is still known to be covered.
	alone, err := CheckGroupsAlone(t.Context(), r.b, replicate.Selection{}, again)
	if err != nil || alone.Count(replicate.GroupSame) != 3 {
		t.Fatalf("%+v %v", alone, err)
	}
	lag, err := Drained(t.Context(), r.b, []string{"billing"}, map[topology.Partition]int64{{Topic: "events"}: 50, {Topic: "other"}: 9})
	if err != nil || lag[0].Lag != 17 || len(lag[0].Behind) != 1 {
		t.Fatalf("%+v %v", lag, err)
	}
}

func TestSyncGroups_ARefusedOffsetIsNotReportedAsWritten(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeB, "events", 1, nil)
	r.commit(r.a, "billing", "events", map[int32]int64{0: 0})
	f := r.fakeB.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.UnknownMemberID, Count: -1})
	defer f.Remove()
	sel, _ := replicate.NewGroupSelector(nil, nil, nil, nil)
	report, err := SyncGroups(t.Context(), r.a, r.b, SyncOptions{Groups: sel})
	if err != nil || len(report.Findings()) != 1 || report.Rows[0].Outcome != replicate.GroupFailed {
		t.Fatalf("%+v %v", report, err)
	}
}

func TestMirror_CopiesGroupsWhileItRuns(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 50, 10)
	conf := r.config()
	conf.Groups, _ = replicate.NewGroupSelector(nil, nil, nil, nil)
	m := r.start(conf)
	r.caughtUp(m, "events")
	r.commit(r.a, "billing", "events", map[int32]int64{0: 12})
	eventually(t, "the offset is copied", func() bool {
		g := r.fakeB.GroupInfo("billing")
		return g != nil && g.Commits["events"][0].Offset == 12
	})
	eventually(t, "the report says so", func() bool { return len(m.Groups().Rows) == 1 && m.Groups().Rows[0].Have == 12 })
}

func TestReseed_DiscardsOnlyWhatThePlanNames(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, map[string]string{"retention.ms": "1234567"})
	r.topic(r.fakeA, "cut", 1, nil)
	r.produce(r.a, "events", 0, 20, 7)
	r.produce(r.a, "cut", 0, 20, 7)
	m := r.start(r.apart())
	r.caughtUp(m, "events", "cut")
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	r.produce(r.b, "events", 0, 9, 7)
	r.topic(r.fakeA, "state", 1, nil)
	r.produce(r.a, "state", 0, 20, 7)
	for _, topic := range []string{"cut", "state"} {
		if err := r.fakeA.DeleteRecords(topic, 0, 7); err != nil {
			t.Fatal(err)
		}
	}
	compact := "compact"
	if _, err := r.a.Admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "cleanup.policy", Value: &compact}}, "state"); err != nil {
		t.Fatal(err)
	}
	if _, err := PlanReseed(t.Context(), r.a, r.b, []string{"events", "state"}); !errors.Is(err, ErrCannotReseed) {
		t.Fatalf("a compacted source that does not start at 0: %v", err)
	}
	if err := Reseed(t.Context(), r.a, r.b, []ReseedTopic{{Name: "events"}, {Name: "state"}}); !errors.Is(err, ErrCannotReseed) || r.fakeB.PartitionInfo("events", 0).HighWatermark != 29 {
		t.Fatalf("everything is checked before the first deletion: %v", err)
	}
	if _, err := r.a.Admin.DeleteTopic(t.Context(), "state"); err != nil {
		t.Fatal(err)
	}
	plan, err := PlanReseed(t.Context(), r.a, r.b, []string{"events"})
	if err != nil || plan[0].Discards[0].End != 29 || len(plan[0].Discards) != 1 {
		t.Fatalf("%+v %v", plan, err)
	}
	if err := Reseed(t.Context(), r.a, r.b, plan); err != nil {
		t.Fatal(err)
	}
	info := r.fakeB.TopicInfo("events")
	if info.TopicID == [16]byte(plan[0].Old) || r.fakeB.PartitionInfo("events", 0).HighWatermark != 0 || *info.Configs["retention.ms"] != "1234567" {
		t.Fatalf("%+v", info)
	}
	conf := r.apart()
	conf.Link.Epoch++
	m = r.start(conf)
	r.caughtUp(m, "events") // cut goes on behind the old epoch's records, or freezes; events is filled anew
	if err := Reseed(t.Context(), r.a, r.b, plan); err != nil || r.fakeB.PartitionInfo("events", 0).HighWatermark != 20 {
		t.Fatalf("a repeated reseed discarded the new copy: %v", err)
	}
	eventually(t, "the other topic goes on under the new epoch", func() bool { return m.Status().Totals.Working == 3 })
	r.produce(r.a, "cut", 0, 10, 7)
	r.caughtUp(m, "events", "cut")
	if n := len(r.batches(r.b, topology.Partition{Topic: "cut"})); n != 5 {
		t.Fatalf("%d batches in cut, want 3 of the first epoch and 2 of the second", n)
	}
}

// A copy of a topic that retention has cut since can be discarded too: what is
// gone at the source is seeded, as for any new topic.
func TestReseed_SeedsWhatTheSourceDeleted(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "cut", 1, nil)
	r.produce(r.a, "cut", 0, 20, 7)
	m := r.start(r.config())
	r.caughtUp(m, "cut")
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	if err := r.fakeA.DeleteRecords("cut", 0, 14); err != nil {
		t.Fatal(err)
	}
	plan, err := PlanReseed(t.Context(), r.a, r.b, []string{"cut"})
	if err != nil {
		t.Fatal(err)
	}
	if err := Reseed(t.Context(), r.a, r.b, plan); err != nil {
		t.Fatal(err)
	}
	conf := r.config()
	conf.Link.Epoch++
	m = r.start(conf)
	r.caughtUp(m, "cut")
	eventually(t, "the log starts where the source's does", func() bool {
		i := r.fakeB.PartitionInfo("cut", 0)
		return i.LogStartOffset == 14 && i.HighWatermark == 20
	})
	all := r.batches(r.b, topology.Partition{Topic: "cut"})
	if len(all) != 1 || all[0].Base != 14 || all[0].Count != 6 {
		t.Fatalf("want the records from 14 on alone, got %d batches: %+v", len(all), all)
	}
}

func TestProbe_WritesAndReadsOnATopicOfItsOwn(t *testing.T) {
	r := newRig(t)
	for range 3 {
		if got, err := Probe(t.Context(), r.a, ""); err != nil || got.Produced <= 0 || got.Fetched <= 0 {
			t.Fatalf("%+v %v", got, err)
		}
	}
	if r.fakeA.PartitionInfo(ProbeTopic, 0).HighWatermark != 3 || (replicate.Selection{}).Selects(ProbeTopic) {
		t.Fatal("want three records on a topic that is never mirrored")
	}
	f := r.fakeA.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	defer f.Remove()
	if _, err := Probe(t.Context(), r.a, ""); err == nil {
		t.Fatal("a cluster that takes no records passes the probe")
	}
}

func TestMetrics_SayWhatStatusSays(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 50, 10)
	reg := prometheus.NewPedanticRegistry()
	conf := r.config()
	conf.Registerer = reg
	m := r.start(conf)
	r.caughtUp(m, "events")
	eventually(t, "status is fresh", func() bool { return m.Status().Totals.Records == 50 })
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, x := range f.GetMetric() {
			got[f.GetName()] = x.GetGauge().GetValue() + x.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{"holdfast_mirror_records_total": 50, "holdfast_mirror_behind_records": 0, "holdfast_mirror_target_end": 50, "holdfast_mirror_running": 1} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %t), want %v", name, v, ok, want)
		}
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	if families, _ = reg.Gather(); len(families) != 0 {
		t.Error("metrics outlive the mirror")
	}
}

func TestThrottle_KeepsTheMeanWhateverTheBatchSize(t *testing.T) {
	now := time.Unix(1000, 0)
	th := throttle{rate: 1000}
	sent, began := 0, now
	for i := 0; now.Sub(began) < time.Minute; i++ {
		now = now.Add(th.wait(now))
		n := 1 + i*37%5000
		th.spend(now, n)
		sent += n
	}
	if mean := float64(sent) / now.Sub(began).Seconds(); mean < 950 || mean > 1100 {
		t.Errorf("%.0f bytes a second, want 1000", mean)
	}
	th.set(0)
	if th.wait(now) != 0 {
		t.Error("no limit means no wait")
	}
}

func TestMirror_LimitsOfTopicsAndRecordsAreKept(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "slow", 1, nil)
	r.topic(r.fakeA, "quick", 1, nil)
	for _, topic := range []string{"slow", "quick"} {
		r.produce(r.a, topic, 0, 100, 10)
	}
	conf := r.config()
	only, err := replicate.NewSelection([]string{"sl.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conf.TopicLimits = []TopicLimit{{Topics: only, RecordRate: 20}} // a batch of ten every half second
	m := r.start(conf)
	r.caughtUp(m, "quick")
	if got := r.fakeB.PartitionInfo("slow", 0); got != nil && got.HighWatermark > 50 {
		t.Errorf("the slow topic is at %d already", got.HighWatermark)
	}
	eventually(t, "the slow one goes on", func() bool { return r.fakeB.PartitionInfo("slow", 0).HighWatermark >= 30 })
}
