//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// mirrorPair is two real clusters in two regions.
type mirrorPair struct {
	t    *testing.T
	a, b *stack.Kafka
	ca   *kafka.Client
	cb   *kafka.Client

	turns *turns
}

func newMirrorPair(t *testing.T) *mirrorPair {
	// Time out fast, so that a killed broker costs seconds and not minutes.
	settings := map[string]string{"auto.create.topics.enable": "false", "group.initial.rebalance.delay.ms": "0", "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1"}
	return startPair(t, stack.KafkaOptions{Name: "mirror", Properties: settings})
}

// startPair runs two clusters that are alike, NAME-a and NAME-b.
func startPair(t *testing.T, o stack.KafkaOptions) *mirrorPair {
	p := &mirrorPair{t: t, turns: &turns{}}
	var wg sync.WaitGroup
	for _, side := range []struct {
		name string
		into **stack.Kafka
	}{{"a", &p.a}, {"b", &p.b}} {
		wg.Go(func() {
			o := o
			o.Name += "-" + side.name
			*side.into = stack.RunKafka(t, o)
		})
	}
	wg.Wait()
	if t.Failed() || t.Skipped() || p.a == nil || p.b == nil {
		t.FailNow()
	}
	p.ca, p.cb = p.client(p.a), p.client(p.b)
	return p
}

func (p *mirrorPair) client(k *stack.Kafka, extra ...kgo.Opt) *kafka.Client {
	p.t.Helper()
	return p.open(kafka.Config{Name: k.Name(), Brokers: []string{k.Bootstrap()}, RequestTimeout: 5 * time.Second}, extra...)
}

func (p *mirrorPair) open(conf kafka.Config, extra ...kgo.Opt) *kafka.Client {
	p.t.Helper()
	cl, err := kafka.Open(conf, extra...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(cl.Close)
	return cl
}

func (p *mirrorPair) topic(cl *kafka.Client, name string, partitions int32, settings map[string]string) {
	p.t.Helper()
	values := map[string]*string{}
	for k, v := range settings {
		values[k] = &v
	}
	if _, err := cl.Admin.CreateTopic(p.t.Context(), partitions, 1, values, name); err != nil {
		p.t.Fatalf("create topic %s: %v", name, err)
	}
}

func (p *mirrorPair) config(topics ...string) mirror.Config {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if p.turns == nil {
		p.turns = &turns{}
	}
	return mirror.Config{
		Link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, Source: p.ca, Target: p.cb,
		Topics: replicate.Only(topics...), RequestTimeout: 3 * time.Second, TopicsEvery: time.Second, ConfigsEvery: 2 * time.Second,
		GroupsEvery: 500 * time.Millisecond, Logger: log, Leases: p.turns,
	}
}

// mirrorRun is a mirror at work.
type mirrorRun struct {
	*mirror.Mirror
	stop context.CancelFunc
	done chan error
}

func (p *mirrorPair) start(conf mirror.Config) *mirrorRun {
	p.t.Helper()
	m, err := mirror.New(conf)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &mirrorRun{Mirror: m, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- m.Run(ctx) }()
	p.t.Cleanup(func() { cancel(); <-r.done })
	return r
}

func (r *mirrorRun) end(t *testing.T) error {
	t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the mirror does not end")
		return nil
	}
}

var mirrorCodecs = []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}

// produce writes records to random partitions in the given codec and returns
// when all are acknowledged.
func (p *mirrorPair) produce(cl *kafka.Client, topic string, partitions, from, n int, codec kgo.CompressionCodec) {
	p.t.Helper()
	prod, err := cl.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(2*time.Millisecond), kgo.RecordDeliveryTimeout(60*time.Second), kgo.MaxBufferedRecords(200))
	if err != nil {
		p.t.Fatal(err)
	}
	defer prod.Close()
	var records []*kgo.Record
	for i := from; i < from+n; i++ {
		r := &kgo.Record{Topic: topic, Partition: int32(rand.IntN(partitions)), Key: fmt.Appendf(nil, "k%d", i), Value: []byte(strings.Repeat(fmt.Sprintf("value %d ", i), 1+i%20))}
		switch i % 5 {
		case 0:
			r.Key = nil
		case 1:
			r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}}
		case 2:
			r.Value = []byte{}
		}
		records = append(records, r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := prod.Kgo.ProduceSync(ctx, records...).FirstErr(); err != nil {
		p.t.Errorf("produce: %v", err)
	}
}

func (p *mirrorPair) ends(cl *kafka.Client, topic string) map[topology.Partition]int64 {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ranges, err := mirror.Ends(ctx, cl, replicate.Only(topic))
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[topology.Partition]int64{}
	for tp, r := range ranges {
		out[tp] = r.End
	}
	return out
}

// reach waits until the target ends where the source does.
func (p *mirrorPair) reach(m *mirrorRun, target *kafka.Client, ends map[topology.Partition]int64) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := mirror.WaitReached(ctx, target, ends); err != nil {
		p.t.Fatalf("%v\n%+v", err, m.Status())
	}
}

// read is an independent look: a plain consumer of another client, everything
// from the beginning to the given ends.
func (p *mirrorPair) read(k *stack.Kafka, topic string, ends map[topology.Partition]int64) map[topology.Partition][]*kgo.Record {
	p.t.Helper()
	from := map[int32]kgo.Offset{}
	left := map[topology.Partition]int64{}
	for tp, end := range ends {
		if end > 0 {
			from[tp.Partition] = kgo.NewOffset().AtStart()
			left[tp] = end
		}
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Bootstrap()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out := map[topology.Partition][]*kgo.Record{}
	for len(left) > 0 {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			p.t.Fatalf("read %s of %s: %v, left %v", topic, k.Name(), err, left)
		}
		f.EachRecord(func(r *kgo.Record) {
			tp := topology.Partition{Topic: topic, Partition: r.Partition}
			if !r.Attrs.IsControl() { // they only tell how far it is
				out[tp] = append(out[tp], r)
			}
			if r.Offset+1 >= left[tp] {
				delete(left, tp)
			}
		})
	}
	return out
}

// identical fails unless a plain consumer sees the same at both ends.
func (p *mirrorPair) identical(topic string, ends map[topology.Partition]int64) (records int) {
	p.t.Helper()
	x, y := p.read(p.a, topic, ends), p.read(p.b, topic, ends)
	for tp := range ends {
		if len(x[tp]) != len(y[tp]) {
			p.t.Fatalf("%s: %d records at the source, %d at the target", tp, len(x[tp]), len(y[tp]))
		}
		for i, r := range x[tp] {
			s := y[tp][i]
			same := r.Offset == s.Offset && r.Timestamp.Equal(s.Timestamp) && bytes.Equal(r.Key, s.Key) && (r.Key == nil) == (s.Key == nil) &&
				bytes.Equal(r.Value, s.Value) && len(r.Headers) == len(s.Headers)
			for j := range r.Headers {
				same = same && r.Headers[j].Key == s.Headers[j].Key && bytes.Equal(r.Headers[j].Value, s.Headers[j].Value) && (r.Headers[j].Value == nil) == (s.Headers[j].Value == nil)
			}
			if !same {
				p.t.Fatalf("%s: record %d differs:\n%+v\n%+v", tp, i, r, s)
			}
			records++
		}
	}
	return records
}

func mirrorSoon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

func mirrorFrozen(m *mirrorRun, topic string) *replicate.Freeze {
	for _, s := range m.Status().Partitions {
		if s.Topic == topic && s.Frozen != nil {
			return s.Frozen
		}
	}
	return nil
}

// mirrorPromoted says whether every partition of the topic found the fence, or
// what stands behind it.
func mirrorPromoted(m *mirrorRun, topic string, partitions int32) bool {
	done := int32(0)
	for _, s := range m.Status().Partitions {
		if s.Topic == topic && (s.State == replicate.Promoted || s.State == replicate.Frozen) {
			done++
		}
	}
	return done == partitions
}

func TestMirror_OnRealKafka(t *testing.T) {
	p := newMirrorPair(t)
	step := func(name string, do func(*testing.T, *mirrorPair)) {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			q := *p
			q.t = t
			do(t, &q)
			t.Logf("took %s", time.Since(began).Round(time.Millisecond))
		})
	}
	step("SameRecordsThroughKillsOfEverything", mirrorKillEverything)
	step("HungTargetEndsUncleanAndStaysExact", mirrorHungTarget)
	step("GroupOffsetsAreCopiedReadBackAndNeverRewound", mirrorGroupOffsets)
	step("FreezesNameTheirRange", mirrorFreezes)
	step("HolesAndPrefixesKeepTheOffsets", mirrorHoles)
	step("ReturnedRegionIsComparedAndReseeded", mirrorReturned)
	step("ProbeWritesAndReads", mirrorProbes)
}

func mirrorKillEverything(t *testing.T, p *mirrorPair) {
	const topic, partitions, total = "events", 4, 20_000
	p.topic(p.ca, topic, partitions, map[string]string{"retention.ms": "86400000", "max.message.bytes": "2000000"})
	m := p.start(p.config(topic))
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		for i := 0; i < total; i += 500 {
			p.produce(p.ca, topic, partitions, i, 500, mirrorCodecs[(i/500)%len(mirrorCodecs)])
		}
	}()
	mirrored := func(n int64) {
		t.Helper()
		mirrorSoon(t, fmt.Sprintf("%d records are mirrored", n), func() bool {
			sum := int64(0)
			for _, s := range m.Status().Partitions {
				sum += max(0, s.TargetEnd)
			}
			return sum >= n
		})
	}
	mirrored(2000)
	if err := p.b.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if err := p.b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirrored(5000)
	// A second mirror starts while the first is alive and knows nothing of it.
	zombie := m
	m = p.start(p.config(topic))
	mirrored(8000)
	if err := p.a.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if err := p.a.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirrored(11_000)
	if err := zombie.end(t); err != nil {
		t.Logf("the first mirror: %v", err)
	}
	if err := p.b.Kill(); err != nil { // and once more, with one mirror
		t.Fatal(err)
	}
	if err := p.b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-produced
	ends := p.ends(p.ca, topic)
	p.reach(m, p.cb, ends)
	mirrorSoon(t, "status says caught up", func() bool { return m.Status().Totals.RecordsBehind == 0 && m.Status().Totals.Frozen == 0 })
	if err := m.end(t); err != nil {
		t.Fatalf("a quiet stop is clean: %v", err)
	}
	if n := p.identical(topic, ends); n != total {
		t.Fatalf("%d records are the same, %d were acknowledged", n, total)
	}
	configs, err := p.cb.Admin.DescribeTopicConfigs(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		want := map[string]string{"retention.ms": "86400000", "max.message.bytes": "2000000", "message.timestamp.after.max.ms": "9223372036854775807", "unclean.leader.election.enable": "false"}[c.Key]
		if want != "" && c.MaybeValue() != want {
			t.Errorf("%s at the target is %s, want %s", c.Key, c.MaybeValue(), want)
		}
	}
}

func mirrorHungTarget(t *testing.T, p *mirrorPair) {
	const topic, partitions = "hung", 2
	p.topic(p.ca, topic, partitions, nil)
	p.produce(p.ca, topic, partitions, 0, 500, kgo.SnappyCompression())
	m := p.start(p.config(topic))
	p.reach(m, p.cb, p.ends(p.ca, topic))
	if err := p.b.Pause(); err != nil {
		t.Fatal(err)
	}
	p.produce(p.ca, topic, partitions, 500, 500, kgo.SnappyCompression())
	time.Sleep(500 * time.Millisecond) // appends are on their way to a broker that sleeps
	began := time.Now()
	err := m.end(t)
	var unclean *mirror.UncleanError
	if !errors.As(err, &unclean) || unclean.Wait <= 0 || unclean.Wait > 3*time.Second {
		t.Errorf("Run returned %v, want an unclean end that says how long", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if err := p.b.Resume(); err != nil { // what lay in its sockets is carried out now, late
		t.Fatal(err)
	}
	m = p.start(p.config(topic))
	p.produce(p.ca, topic, partitions, 1000, 500, kgo.SnappyCompression())
	ends := p.ends(p.ca, topic)
	p.reach(m, p.cb, ends)
	if n := p.identical(topic, ends); n != 1500 {
		t.Errorf("%d records are the same, want 1500", n)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
}

func mirrorGroupOffsets(t *testing.T, p *mirrorPair) {
	const topic, partitions = "orders", 4
	p.topic(p.ca, topic, partitions, nil)
	p.produce(p.ca, topic, partitions, 0, 2000, kgo.Lz4Compression())
	ends := p.ends(p.ca, topic)
	// One group has read a part of two partitions, one is local.
	commit := func(cl *kafka.Client, group string, at map[int32]int64) {
		t.Helper()
		os := kadm.Offsets{}
		for part, offset := range at {
			os.Add(kadm.Offset{Topic: topic, Partition: part, At: offset, LeaderEpoch: -1, Metadata: "m"})
		}
		if err := cl.Admin.CommitAllOffsets(t.Context(), group, os); err != nil {
			t.Fatal(err)
		}
	}
	commit(p.ca, "billing", map[int32]int64{0: 100, 1: 7})
	commit(p.ca, "index", map[int32]int64{0: 50})
	groups, err := replicate.NewGroupSelector(nil, nil, []string{"index"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := mirror.SyncOptions{Groups: groups, Topics: replicate.Only(topic)}
	conf := p.config(topic)
	conf.Groups = groups
	m := p.start(conf)
	p.reach(m, p.cb, ends)
	covered := func() mirror.GroupReport {
		t.Helper()
		r, err := mirror.CheckGroups(t.Context(), p.ca, p.cb, opt, 0)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	mirrorSoon(t, "all offsets are covered", func() bool { return covered().Count(replicate.GroupSame) == partitions })
	at := func(cl *kafka.Client, group string, part int32) int64 {
		t.Helper()
		os, err := cl.Admin.FetchOffsets(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		o, ok := os.Lookup(topic, part)
		if !ok {
			return -1
		}
		return o.At
	}
	for part, want := range map[int32]int64{0: 100, 1: 7, 2: 0, 3: 0} {
		if got := at(p.cb, "billing", part); got != want {
			t.Errorf("billing partition %d is at %d, want %d", part, got, want)
		}
	}
	if got := at(p.cb, "index", 0); got != -1 {
		t.Errorf("a local group was copied: %d", got)
	}
	// The group is set back at the source: the target is not rewound, and it is said.
	commit(p.ca, "billing", map[int32]int64{0: 20})
	r, err := mirror.SyncGroups(t.Context(), p.ca, p.cb, opt)
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Findings(); len(f) != 1 || f[0].Outcome != replicate.GroupAhead || at(p.cb, "billing", 0) != 100 {
		t.Errorf("findings %+v", f)
	}
	commit(p.ca, "billing", map[int32]int64{0: 150})
	// A consumer runs at the target: its group is left alone.
	consumer := p.client(p.b, kgo.ConsumerGroup("billing"), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	mirrorSoon(t, "the consumer has joined", func() bool {
		d, err := p.cb.Admin.DescribeGroups(t.Context(), "billing")
		return err == nil && d["billing"].State == "Stable"
	})
	if r, err = mirror.SyncGroups(t.Context(), p.ca, p.cb, opt); err != nil {
		t.Fatal(err)
	}
	if n := r.Count(replicate.GroupBusy); n != 1 || at(p.cb, "billing", 0) != 100 {
		t.Errorf("%d rows are busy, partition 0 at %d: %+v", n, at(p.cb, "billing", 0), r.Rows)
	}
	consumer.Close()
	mirrorSoon(t, "and copied when it has gone", func() bool { return at(p.cb, "billing", 0) == 150 })
	lag, err := mirror.Drained(t.Context(), p.cb, []string{"billing"}, ends)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(2000 - 150 - 7); lag[0].Lag != want {
		t.Errorf("lag %d, want %d", lag[0].Lag, want)
	}
}

func mirrorFreezes(t *testing.T, p *mirrorPair) {
	for _, name := range []string{"f-foreign", "f-lost", "f-recreated", "f-plain"} {
		p.topic(p.ca, name, 1, nil)
		p.produce(p.ca, name, 1, 0, 100, kgo.ZstdCompression())
	}
	all := []string{"f-foreign", "f-lost", "f-recreated", "f-plain"}
	m := p.start(p.config(all...))
	for _, name := range all {
		p.reach(m, p.cb, p.ends(p.ca, name))
	}
	known := m.TopicIDs()
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	p.produce(p.cb, "f-foreign", 1, 0, 3, kgo.NoCompression())
	p.produce(p.ca, "f-lost", 1, 100, 100, kgo.NoCompression())
	if _, err := p.ca.Admin.DeleteRecords(ctx, kadm.Offsets{"f-lost": {0: {Topic: "f-lost", At: 160}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.ca.Admin.DeleteTopics(ctx, "f-recreated"); err != nil {
		t.Fatal(err)
	}
	mirrorSoon(t, "the topic is created again", func() bool {
		_, err := p.ca.Admin.CreateTopic(ctx, 1, 1, nil, "f-recreated")
		return err == nil
	})
	p.produce(p.ca, "f-recreated", 1, 0, 120, kgo.NoCompression())
	p.produce(p.ca, "f-plain", 1, 0, 50, kgo.NoCompression())
	conf := p.config(all...)
	conf.Known = known
	m = p.start(conf)
	for name, want := range map[string]replicate.Freeze{
		"f-foreign":   {Reason: replicate.Diverged, From: 100, To: 103},
		"f-lost":      {Reason: replicate.Lost, From: 100, To: 160},
		"f-recreated": {Reason: replicate.Recreated},
	} {
		mirrorSoon(t, name+" is frozen", func() bool { return mirrorFrozen(m, name) != nil })
		f := *mirrorFrozen(m, name)
		if f.Reason != want.Reason || f.From != want.From || want.Reason != replicate.Recreated && f.To != want.To {
			t.Errorf("%s is frozen as %v, want %v", name, f, want)
		}
	}
	p.reach(m, p.cb, p.ends(p.ca, "f-plain")) // one frozen partition never stops another
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
}

func mirrorHoles(t *testing.T, p *mirrorPair) {
	const transactions, prefix = "h-transactions", "h-prefix"
	ctx := t.Context()
	p.topic(p.ca, transactions, 1, nil)
	p.topic(p.ca, prefix, 1, nil)
	tx := p.client(p.a, kgo.TransactionalID("tx"), kgo.DefaultProduceTopic(transactions))
	for i := range 30 {
		p.produce(p.ca, transactions, 1, 10*i, 10, mirrorCodecs[i%len(mirrorCodecs)])
		end := kgo.TransactionEndTry(i%3 > 0)
		if err := errors.Join(tx.Kgo.BeginTransaction(), tx.Kgo.ProduceSync(ctx, kgo.StringRecord("x"), kgo.StringRecord("y")).FirstErr(), tx.Kgo.EndTransaction(ctx, end)); err != nil {
			t.Fatal(err)
		}
	}
	p.produce(p.ca, prefix, 1, 0, 3000, kgo.ZstdCompression())
	if _, err := p.ca.Admin.DeleteRecords(ctx, kadm.Offsets{prefix: {0: {Topic: prefix, At: 2345}}}); err != nil {
		t.Fatal(err)
	}
	m := p.start(p.config(transactions, prefix))
	for _, topic := range []string{transactions, prefix} {
		ends := p.ends(p.ca, topic)
		p.reach(m, p.cb, ends)
		t.Logf("%s: %d records are the same", topic, p.identical(topic, ends))
	}
	starts, err := mirror.Ends(ctx, p.cb, replicate.Only(prefix))
	if err != nil || starts[topology.Partition{Topic: prefix}].Start != 2345 {
		t.Errorf("the target starts at %+v: %v", starts, err)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Status().Partitions {
		t.Logf("%s: %d offsets in %d holes, %+v", s.Partition, s.Filled, s.Holes, s.History)
	}
}

func mirrorReturned(t *testing.T, p *mirrorPair) {
	const topic = "returned"
	p.topic(p.ca, topic, 2, nil)
	p.produce(p.ca, topic, 2, 0, 400, kgo.Lz4Compression())
	m := p.start(p.config(topic))
	x := p.ends(p.ca, topic)
	p.reach(m, p.cb, x)
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	// A accepts more, and is lost. B is promoted at x and goes on.
	p.produce(p.ca, topic, 2, 400, 30, kgo.GzipCompression())
	p.produce(p.cb, topic, 2, 900, 60, kgo.NoCompression())
	orphans := int64(0)
	before := map[topology.Partition]mirror.Before{}
	for tp, at := range x {
		before[tp] = mirror.Before{X: at, Epoch: -1}
	}
	found, err := mirror.Inspect(t.Context(), p.cb, p.ca, before, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range found {
		if i.Freeze != "" || i.Proven != x[i.Partition] || !i.Whole || i.Records != x[i.Partition] {
			t.Errorf("not proven: %+v", i)
		}
		orphans += i.Orphans.End - i.Orphans.Start
	}
	if orphans != 30 {
		t.Errorf("%d orphans, want 30: %+v", orphans, found)
	}
	// The reverse link will not touch it.
	back := p.config(topic)
	back.Link = replicate.Link{Source: "b", Target: "a", Epoch: 1}
	back.Source, back.Target, back.Starts = p.cb, p.ca, x
	m = p.start(back)
	mirrorSoon(t, "the partitions with orphans are frozen", func() bool { return m.Status().Totals.Frozen > 0 && m.Status().Totals.Resuming == 0 })
	for _, s := range m.Status().Partitions {
		if s.Frozen != nil && (s.Frozen.Reason != replicate.Diverged || s.Frozen.From != x[s.Partition]) {
			t.Errorf("%s is frozen as %v, want diverged from %d", s.Partition, s.Frozen, x[s.Partition])
		}
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	plan, err := mirror.PlanReseed(t.Context(), p.cb, p.ca, []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 { // the second is the same one after a crash
		if err := mirror.Reseed(ctx, p.cb, p.ca, plan); err != nil {
			t.Fatal(err)
		}
	}
	back.Starts, back.Link.Epoch = nil, 2
	m = p.start(back)
	ends := p.ends(p.cb, topic)
	p.reach(m, p.ca, ends)
	if err := mirror.Reseed(ctx, p.cb, p.ca, plan); err != nil { // late: must not discard the new copy
		t.Fatal(err)
	}
	if n := p.identical(topic, ends); n != 460 {
		t.Errorf("%d records are the same, want 460", n)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
}

func mirrorProbes(t *testing.T, p *mirrorPair) {
	for range 3 {
		got, err := mirror.Probe(t.Context(), p.ca, "")
		if err != nil {
			t.Fatal(err)
		}
		if got.Produced <= 0 || got.Fetched <= 0 {
			t.Errorf("%+v", got)
		}
	}
	if err := p.a.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := mirror.Probe(ctx, p.ca, ""); err == nil {
		t.Error("a dead broker passes the probe")
	}
}
