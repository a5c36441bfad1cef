package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

func TestJudge_NamesWhatFollowsWhatIsForeignAndWhatCannotFollow(t *testing.T) {
	at := func(n int32) topology.Partition { return topology.Partition{Topic: "events", Partition: n} }
	span := func(from, to int64) replicate.Range { return replicate.Range{Start: from, End: to} }
	k := kept{
		seal: backup.Salvage{ID: "S1"}, digest: "d", where: "s3://there",
		parts: map[topology.Partition]backup.SalvagePart{at(1): {Records: 40}, at(2): {Records: 7}, at(4): {Records: 1}},
	}
	for _, p := range k.parts {
		k.seal.Parts = append(k.seal.Parts, p)
	}
	got := judge("eu>us", 3, []mirror.Inspection{
		{Partition: at(0), Reunion: replicate.Reunion{Start: 100, Orphans: span(100, 100)}},
		{Partition: at(1), Reunion: replicate.Reunion{Start: 140, Orphans: span(100, 140), Foreign: []replicate.Range{span(120, 140)}}},
		{Partition: at(2), Reunion: replicate.Reunion{Start: 140, Orphans: span(70, 140), Freeze: "it differs from 70 on"}},
		{Partition: at(3), Reunion: replicate.Reunion{Start: 103, Orphans: span(100, 103)}}, // nothing but a fence
		{Partition: at(4), Returned: replicate.Returned{Compacted: true}, Reunion: replicate.Reunion{Start: 20, Orphans: span(19, 20)}},
	}, k)
	want := &consensus.JudgeLink{
		Link: "eu>us", Epoch: 3,
		Starts:  consensus.Offsets{"events": {0: 100, 1: 140, 3: 103}},
		Orphans: consensus.Spans{"events": {1: {{From: 100, To: 140}}, 2: {{From: 70, To: 140}}, 4: {{From: 19, To: 20}}}},
		Foreign: consensus.Spans{"events": {1: {{From: 120, To: 140}}}},
		Frozen: consensus.Ranges{"events": {
			2: {From: 70, To: 140, Reason: "it differs from 70 on"},
			4: {From: 19, To: 20, Reason: "orphans in a compacted topic: they are the state of their keys here"},
		}},
		Salvage: &consensus.Salvage{ID: "S1", Link: "eu>us", Epoch: 3, Where: "s3://there", Digest: "d", Records: 48},
	}
	want.Salvage.Orphans = want.Orphans
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := judge("eu>us", 3, nil, kept{}); got.Salvage != nil {
		t.Errorf("a salvage of nothing: %+v", got.Salvage)
	}
}

// box is a salvage in memory.
type box struct {
	blobs  int
	parts  []backup.SalvagePart
	broken error
	closed bool
}

func (b *box) Put(_ context.Context, batches []byte) (backup.SalvagedBlob, error) {
	b.blobs++
	return backup.SalvagedBlob{Blob: backup.Blob{Key: fmt.Sprint(b.blobs), Size: int64(len(batches)), Stored: int64(len(batches))}}, nil
}

func (b *box) Seal(_ context.Context, parts []backup.SalvagePart) (backup.Salvage, backup.Digest, error) {
	b.parts = parts
	return backup.Salvage{ID: "S1", Parts: parts}, "digest", b.broken
}
func (b *box) Where() string { return "a box" }
func (b *box) Close()        { b.closed = true }

// two are two clusters with the same first records: us-east came back with
// orphans, eu-west went on.
func two(t *testing.T) map[topology.Region]*region {
	out := map[topology.Region]*region{}
	for _, name := range []topology.Region{east, west} {
		fake, err := kfake.NewCluster(kfake.ClusterID("cluster-"+string(name)), kfake.NumBrokers(1), kfake.SeedTopics(1, "events"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fake.Close)
		cl, err := kafka.Open(kafka.Config{Name: string(name), Brokers: fake.ListenAddrs(), RequestTimeout: 3 * time.Second, RetryTimeout: 3 * time.Second, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		out[name] = &region{name: name, kafka: cl, timeout: time.Second}
	}
	return out
}

func (r *region) produce(t *testing.T, from, to int, text string) {
	t.Helper()
	p, err := r.kafka.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := from; i < to; i++ {
		if err := p.Kgo.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: fmt.Appendf(nil, "%s %d", text, i), Timestamp: time.UnixMilli(int64(i))}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReturnedRegion_FollowsOnceItsOrphansAreSafe(t *testing.T) {
	regions := two(t)
	regions[east].produce(t, 0, 20, "shared")
	regions[west].produce(t, 0, 20, "shared")
	regions[east].produce(t, 20, 25, "orphan")
	regions[west].produce(t, 20, 40, "went on")

	log := newMemory(t, consensus.Hold)
	id := consensus.LinkOf(west, east)
	l := consensus.Link{From: west, To: east, Epoch: 1, Phase: consensus.LinkUnproven, Starts: consensus.Offsets{"events": {0: 20}}, Shared: consensus.Offsets{"events": {0: 20}}, Began: consensus.Offsets{"events": {0: 24}}}
	log.set(func(m *memory) { m.s.Links[id] = l })
	m := newMirrors(time.Time{})
	var err error
	if m.topics, err = replicate.NewSelection(nil, nil); err != nil {
		t.Fatal(err)
	}
	m.region, m.regions, m.state, m.propose = east, regions, log.state, log
	broken := &box{broken: errors.New("the bucket is gone")}
	m.salvage = func(context.Context, consensus.LinkID, uint64) (salvaging, error) { return broken, nil }
	if err := m.reunite(t.Context(), id, l); !errors.Is(err, broken.broken) || log.state().Links[id].Phase != consensus.LinkUnproven {
		t.Fatalf("orphans that are not safe: %v, the link is %s", err, log.state().Links[id].Phase)
	}
	// A producer that nobody stopped.
	stray := &box{}
	m.salvage = func(context.Context, consensus.LinkID, uint64) (salvaging, error) {
		regions[east].produce(t, 25, 26, "stray")
		return stray, nil
	}
	if err := m.reunite(t.Context(), id, l); err == nil || !strings.Contains(err.Error(), "it ended at 25 and ends at 26 now") || log.state().Links[id].Phase != consensus.LinkUnproven {
		t.Fatalf("a stray producer: %v", err)
	}
	safe := &box{}
	log.set(func(m *memory) { m.lose = 2 }) // answers: the log decides all the same
	m.salvage = func(context.Context, consensus.LinkID, uint64) (salvaging, error) { return safe, nil }
	if err := m.reunite(t.Context(), id, l); err != nil && !consensus.Refused(err, consensus.CodeStale) {
		t.Fatal(err)
	}
	got := log.state().Links[id]
	if got.Phase != consensus.LinkRunning || got.Starts["events"][0] != 26 || len(got.Frozen) != 0 || got.Foreign["events"][0][0] != (consensus.Span{From: 24, To: 26}) || !safe.closed || !broken.closed {
		t.Errorf("the link: %+v", got)
	}
	if s := log.state().Salvages["S1"]; s.Records != 6 || s.Where != "a box" || s.Orphans["events"][0][0] != (consensus.Span{From: 20, To: 26}) {
		t.Errorf("the salvage: %+v", s)
	}
	if len(safe.parts) != 1 || safe.parts[0].Records != 6 || safe.blobs != 1 {
		t.Errorf("the box: %+v", safe)
	}
}

func TestExposed_AreGroupsThatHaveNotPassedTheOrphans(t *testing.T) {
	at := func(topic string) topology.Partition { return topology.Partition{Topic: topic} }
	row := func(group, topic string, source int64) replicate.GroupOffset {
		return replicate.GroupOffset{Group: group, Partition: at(topic), Source: source}
	}
	l := consensus.Link{Orphans: consensus.Spans{"events": {0: {{From: 5, To: 9}, {From: 100, To: 123}}}, "old": {0: {{From: 1, To: 9}}}}}
	status := replicate.LinkStatus{Partitions: []replicate.PartitionStatus{{Partition: at("events"), SourceStart: 7}, {Partition: at("old"), SourceStart: 9}}}
	r := mirror.GroupReport{Rows: []replicate.GroupOffset{
		row("billing", "events", 90), row("billing", "old", 0), row("index", "events", 123), row("search", "events", 122), row("search", "other", 0),
	}}
	want := []failover.Exposed{{Topic: "events", Groups: 2, First: "billing stands at 90 of events/0, below 123"}}
	if d := cmp.Diff(want, exposed(l, r, status)); d != "" {
		t.Error(d)
	}
	if got := exposed(consensus.Link{}, r, status); got != nil {
		t.Errorf("without orphans: %v", got)
	}
}
