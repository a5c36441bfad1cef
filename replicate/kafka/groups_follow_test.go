package kafka

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// asked counts requests by their kind.
type asked struct {
	mu sync.Mutex
	n  map[kmsg.Key]int
}

func (a *asked) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n[kmsg.Key(key)]++
}

func (a *asked) take() (n map[kmsg.Key]int, sum int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, a.n = a.n, map[kmsg.Key]int{}
	for _, k := range n {
		sum += k
	}
	return n, sum
}

func (r *rig) groupSync(a *asked, opt SyncOptions) *groupSync {
	r.t.Helper()
	hooked := func(cl *kafka.Client) *kafka.Client {
		c, err := cl.Another(kgo.WithHooks(a))
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(c.Close)
		return c
	}
	return newGroupSync(hooked(r.a), hooked(r.b), opt)
}

func (r *rig) pass(s *groupSync) GroupReport {
	r.t.Helper()
	report, err := s.pass(r.t.Context(), false)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

func TestGroupSync_AsksForManyGroupsAtOnce(t *testing.T) {
	const groups, parts = 60, 10
	r := newRig(t)
	r.topic(r.fakeA, "events", parts, nil)
	r.topic(r.fakeB, "events", parts, nil)
	commits := map[int32]int64{}
	for p := range int32(parts) {
		commits[p] = 0
	}
	for i := range groups {
		r.commit(r.a, fmt.Sprintf("g%d", i), "events", commits)
	}
	every, err := replicate.NewGroupSelector(nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var a asked
	a.n = map[kmsg.Key]int{}
	s := r.groupSync(&a, SyncOptions{Groups: every})
	if report := r.pass(s); report.Count(replicate.GroupWrite) != groups*parts {
		t.Fatalf("%d of %d offsets were written", report.Count(replicate.GroupWrite), groups*parts)
	}
	if n, _ := a.take(); n[kmsg.OffsetCommit] != groups {
		t.Errorf("one write for each group: %v", n)
	}
	if report := r.pass(s); report.Count(replicate.GroupSame) != groups*parts {
		t.Fatalf("%+v", report.Findings())
	}
	// Two brokers on each side: a list and a fetch of offsets for each, and two
	// kinds of ends.
	n, sum := a.take()
	if n[kmsg.OffsetFetch] > 2 || n[kmsg.OffsetCommit] > 0 || n[kmsg.ListOffsets] > 8 || sum > 24 {
		t.Errorf("a pass over %d groups took %d requests: %v", groups, sum, n)
	}
	r.topic(r.fakeA, "nobody-reads-it", 50, nil)
	r.commit(r.a, "g7", "events", map[int32]int64{3: 0, 4: 0})
	r.pass(s)
	if n, _ := a.take(); n[kmsg.OffsetCommit] > 0 {
		t.Errorf("nothing has changed: %v", n)
	}
	facts, err := s.facts(t.Context())
	if err != nil || len(facts.SourceRange) != parts || len(facts.TargetRange) != parts {
		t.Errorf("ends of %d and %d partitions were read, want those of %d that a group reads: %v", len(facts.SourceRange), len(facts.TargetRange), parts, err)
	}
}

func TestGroupSync_WritesAgainWhatTheTargetLetGo(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeB, "events", 1, nil)
	r.commit(r.a, "billing", "events", map[int32]int64{0: 0})
	every, err := replicate.NewGroupSelector(nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var a asked
	a.n = map[kmsg.Key]int{}
	s := r.groupSync(&a, SyncOptions{Groups: every})
	r.pass(s)
	if _, err := r.b.Admin.DeleteGroups(t.Context(), "billing"); err != nil {
		t.Fatal(err)
	}
	s.haveAt = s.haveAt.Add(-groupHaveFor)
	if report := r.pass(s); report.Count(replicate.GroupWrite) != 1 || r.fakeB.GroupInfo("billing") == nil {
		t.Errorf("%+v", report)
	}
}

func TestGroupSync_RenewsInTheFirstPassAndAtHalfOfTheRetention(t *testing.T) {
	r := newRig(t, kfake.BrokerConfigs(map[string]string{"offsets.retention.minutes": "600"}))
	const want = 5 * time.Hour
	var a asked
	a.n = map[kmsg.Key]int{}
	s := r.groupSync(&a, SyncOptions{})
	now := time.Now()
	if !s.renewDue(t.Context(), now) {
		t.Error("the first pass does not renew")
	}
	s.renewed = now
	if s.renewEvery != want {
		t.Errorf("it renews every %s, want %s", s.renewEvery, want)
	}
	if s.renewDue(t.Context(), now.Add(want-time.Second)) || !s.renewDue(t.Context(), now.Add(want)) {
		t.Errorf("not at half of the retention, %s", want)
	}
}

func TestGroupSync_LeavesAGroupThatIsGoneAtTheSourceAlone(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	r.topic(r.fakeB, "events", 2, nil)
	r.commit(r.a, "billing", "events", map[int32]int64{0: 0})
	r.commit(r.b, "tool", "events", map[int32]int64{0: 0}) // never was at the source
	r.commit(r.b, "index", "events", map[int32]int64{0: 0})
	sel, err := replicate.NewGroupSelector(nil, nil, []string{"index"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var a asked
	a.n = map[kmsg.Key]int{}
	s := r.groupSync(&a, SyncOptions{Groups: sel})
	report := r.pass(s)
	if gone := s.gone(report); len(gone) > 0 || report.Only["tool"] != 1 || len(report.Only) != 1 {
		t.Errorf("gone %v of %+v", gone, report.Only)
	}
	if _, err := r.a.Admin.DeleteGroups(t.Context(), "billing"); err != nil {
		t.Fatal(err)
	}
	report = r.pass(s)
	gone := s.gone(report)
	if !slices.Equal(gone, []string{"billing"}) || report.Only["billing"] != 2 {
		t.Errorf("gone %v of %+v", gone, report.Only)
	}
	if g := r.fakeB.GroupInfo("billing"); g == nil || len(g.Commits["events"]) != 2 {
		t.Errorf("%+v", g)
	}
	if f := groupFindings(report, gone); len(f) != 1 || !strings.Contains(f[0].Text, "gone at the source; its 2 offsets") {
		t.Errorf("%+v", f)
	}
}

func TestCheckGroups_GivesACopyItsTimeAndNoMore(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeB, "events", 1, nil)
	r.produce(r.a, "events", 0, 20, 7)
	r.produce(r.b, "events", 0, 20, 7)
	every, err := replicate.NewGroupSelector(nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := SyncOptions{Groups: every}
	r.commit(r.a, "billing", "events", map[int32]int64{0: 9})
	r.commit(r.b, "billing", "events", map[int32]int64{0: 5})
	report, err := CheckGroups(t.Context(), r.a, r.b, opt, 0)
	if f := report.Findings(); err != nil || len(f) != 1 || f[0].Outcome != replicate.GroupLate || f[0].Repeated != 4 {
		t.Errorf("%+v %v", f, err)
	}
	time.AfterFunc(50*time.Millisecond, func() { // a copy under way, and the source goes on
		os := kadm.Offsets{}
		os.AddOffset("events", 0, 9, -1)
		_ = r.b.Admin.CommitAllOffsets(t.Context(), "billing", os)
	})
	report, err = CheckGroups(t.Context(), r.a, r.b, opt, time.Second)
	if err != nil || len(report.Findings()) > 0 || report.Rows[0].Have != 9 {
		t.Errorf("%+v %v", report, err)
	}
}

func TestMetrics_TellTheAgeOfTheGroupOffsets(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.commit(r.a, "billing", "events", map[int32]int64{0: 0})
	conf := r.config()
	conf.Groups, _ = replicate.NewGroupSelector(nil, nil, nil, nil)
	reg := prometheus.NewRegistry()
	conf.Registerer = reg
	r.start(conf)
	value := func(name string) float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	eventually(t, "there is an age, and it does not grow", func() bool {
		age := value("holdfast_group_sync_age_seconds")
		return age >= 0 && age < 5
	})
	eventually(t, "the group has no finding", func() bool { return value("holdfast_group_findings") == -1 })
}

func TestSyncGroups_WithoutTheSourceKeepsWhatIsThereAndFillsWhatIsMissing(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeB, "events", 4, nil)
	for p := range int32(4) {
		r.produce(r.b, "events", p, 20, 7)
	}
	r.commit(r.b, "billing", "events", map[int32]int64{0: 9, 1: 17, 2: 12})
	every, err := replicate.NewGroupSelector(nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	limit := map[topology.Partition]int64{}
	for p := range int32(4) {
		limit[topology.Partition{Topic: "events", Partition: p}] = 15
	}
	report, err := SyncGroups(t.Context(), r.b, r.b, SyncOptions{Groups: every, Cap: limit})
	if err != nil || report.Count(replicate.GroupWrite) != 2 || len(report.Findings()) > 0 {
		t.Fatalf("%+v %v", report, err)
	}
	got := r.fakeB.GroupInfo("billing").Commits["events"]
	for p, want := range map[int32]int64{0: 9, 1: 15, 2: 12, 3: 0} {
		if got[p].Offset != want {
			t.Errorf("partition %d is at %d, want %d", p, got[p].Offset, want)
		}
	}
}
