//go:build integration

package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/backup"
	taker "github.com/holdfast-dr/holdfast/backup/kafka"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
	"github.com/holdfast-dr/holdfast/restore"
)

// A real Kafka with a consumer that commits while it reads, a group that fell
// behind retention, and the topics that brokers and we keep for ourselves.
func TestKafkaBackup_HoldsWhatARealClusterSays(t *testing.T) {
	ctx := t.Context()
	k := stack.RunKafka(t, stack.KafkaOptions{Name: "kafka-backup", Properties: map[string]string{
		"auto.create.topics.enable": "false", "group.initial.rebalance.delay.ms": "0",
		"transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1", "offsets.topic.num.partitions": "4",
	}})
	open := func(extra ...kgo.Opt) *kafka.Client {
		cl, err := kafka.Open(kafka.Config{Name: "us-east", Brokers: []string{k.Bootstrap()}, RequestTimeout: 5 * time.Second}, extra...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	cl := open()
	if _, err := cl.Admin.CreateTopics(ctx, 3, 1, nil, "events", "outcomes"); err != nil {
		t.Fatal(err)
	}
	if _, err := mirror.Probe(ctx, cl, ""); err != nil { // makes the topic of our probe
		t.Fatal(err)
	}
	producer := open(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range 300 {
		if err := producer.Kgo.ProduceSync(ctx, &kgo.Record{Topic: "events", Partition: int32(i % 3), Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	reader := open(kgo.ConsumerGroup("snuba"), kgo.ConsumeTopics("events"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	for read := 0; read < 300; {
		fetches := reader.Kgo.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		read += fetches.NumRecords()
		if err := reader.Kgo.CommitUncommittedOffsets(ctx); err != nil {
			t.Fatal(err)
		}
	}
	late := kadm.Offsets{}
	late.AddOffset("events", 0, 10, -1)
	if err := kafka.UntilSettled(ctx, func() error { return cl.Admin.CommitAllOffsets(ctx, "late", late) }); err != nil {
		t.Fatal(err)
	}
	cut := kadm.Offsets{}
	cut.AddOffset("events", 0, 40, -1)
	if _, err := cl.Admin.DeleteRecords(ctx, cut); err != nil {
		t.Fatal(err)
	}

	engine, err := taker.New(taker.Config{Client: cl})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m, err := engine.Take(ctx, backup.Take{Set: "s", Attempt: "a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("taken in %s from Kafka %s, which seems to be %s", time.Since(began).Round(time.Millisecond), k.Version(), m.Store.Version)
	if m.Store.ID == "" || m.Store.ID != k.ClusterID() {
		t.Errorf("cluster %q, want %q", m.Store.ID, k.ClusterID())
	}
	var names []string
	for _, topic := range m.Kafka.Topics {
		names = append(names, topic.Name)
		if len(topic.Partitions) != 3 || len(topic.ID) != 32 {
			t.Errorf("%+v", topic)
		}
	}
	if !slices.Equal(names, []string{"events", "outcomes"}) {
		t.Errorf("topics %v: internal ones do not belong to a set", names)
	}
	for _, p := range m.Kafka.Topics[0].Partitions {
		start := int64(0)
		if p.Partition == 0 {
			start = 40
		}
		if p.Start != start || p.End != 100 {
			t.Errorf("events/%d goes from %d to %d, want %d to 100", p.Partition, p.Start, p.End, start)
		}
	}
	groups := map[string]backup.KafkaGroup{}
	for _, g := range m.Kafka.Groups {
		groups[g.Name] = g
	}
	if g := groups["snuba"]; g.State != "Stable" || len(g.Offsets) != 3 || g.Offsets[0].Offset+g.Offsets[1].Offset+g.Offsets[2].Offset != 300 {
		t.Errorf("snuba: %+v", g)
	}
	if g := groups["late"]; g.State != "Empty" || len(g.Offsets) != 1 || g.Offsets[0].Offset != 10 {
		t.Errorf("late: %+v", g)
	}
	if m.Totals.Rows != 4 || len(m.Notes) != 1 {
		t.Errorf("%d offsets, notes %q", m.Totals.Rows, m.Notes)
	}
	if c := restore.CheckOffsets(&m); c.Different != 0 || c.Rows != 4 {
		t.Errorf("a drill would refuse what was taken: %+v", c)
	}
}
