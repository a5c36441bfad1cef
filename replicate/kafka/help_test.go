package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is two fake clusters, A and B, and clients to both.
type rig struct {
	t              testing.TB
	fakeA, fakeB   *kfake.Cluster
	a, b           *kafka.Client
	link           replicate.Link
	log            *slog.Logger
	requestTimeout time.Duration
	turns          *turns
}

func newRig(t testing.TB, opts ...kfake.Opt) *rig {
	t.Helper()
	r := &rig{t: t, link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, log: newRigLog(), requestTimeout: 2 * time.Second, turns: &turns{}}
	r.fakeA, r.a = r.cluster("a", opts...)
	r.fakeB, r.b = r.cluster("b", opts...)
	return r
}

// newRigLog is silent unless HOLDFAST_TEST_LOG is set.
func newRigLog() *slog.Logger {
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

func (r *rig) cluster(name string, opts ...kfake.Opt) (*kfake.Cluster, *kafka.Client) {
	r.t.Helper()
	fake, err := kfake.NewCluster(append([]kfake.Opt{kfake.ClusterID("cluster-" + name), kfake.NumBrokers(2)}, opts...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(fake.Close)
	cl, err := kafka.Open(kafka.Config{Name: name, Brokers: fake.ListenAddrs(), RequestTimeout: 3 * time.Second, RetryTimeout: 3 * time.Second, Logger: r.log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	return fake, cl
}

func (r *rig) topic(fake *kfake.Cluster, name string, partitions int32, settings map[string]string) {
	r.t.Helper()
	if err := fake.CreateTopic(name, partitions, settings); err != nil {
		r.t.Fatal(err)
	}
}

var codecs = []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}

// produce writes n records to one partition, in batches of up to per records,
// with another codec for each batch.
func (r *rig) produce(cl *kafka.Client, topic string, partition int32, n, per int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	for i := 0; n > 0; i++ {
		p, err := cl.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codecs[i%len(codecs)]), kgo.ProducerLinger(5*time.Millisecond))
		if err != nil {
			r.t.Fatal(err)
		}
		var records []*kgo.Record
		for j := range min(n, per) {
			rec := &kgo.Record{Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "k%d", n-j), Value: []byte(strings.Repeat(fmt.Sprintf("v%d ", n-j), 20))}
			if j%3 == 0 {
				rec.Key, rec.Headers = nil, []kgo.RecordHeader{{Key: "h", Value: []byte("x")}, {Key: "h", Value: nil}}
			}
			records = append(records, rec)
		}
		if err := p.Kgo.ProduceSync(ctx, records...).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
		p.Close()
		n -= len(records)
	}
}

// turns hands out generations to all mirrors of one link, as the agreed state
// does.
type turns struct {
	mu      sync.Mutex
	last    replicate.Generation
	settled int32
}

func (l *turns) Take(_ context.Context, _ replicate.Generation) (replicate.Generation, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	return l.last, l.last.Block() == l.settled, nil
}

func (l *turns) Settle(_ context.Context, g replicate.Generation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled = max(l.settled, g.Block())
	return nil
}

func (l *turns) Held(g replicate.Generation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return g == l.last
}

func (r *rig) config() Config {
	limits := replicate.DefaultLimits
	limits.RetryMin, limits.RetryMax, limits.RequestGrace = 10*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
	return Config{
		Link: r.link, Source: r.a, Target: r.b, Limits: &limits, Logger: r.log, Leases: r.turns,
		TopicsEvery: 200 * time.Millisecond, ConfigsEvery: 300 * time.Millisecond, GroupsEvery: 200 * time.Millisecond,
		FetchWait: 50 * time.Millisecond, RequestTimeout: r.requestTimeout,
	}
}

// apart is a configuration for tests that compare bytes: nothing is joined.
func (r *rig) apart() Config {
	conf := r.config()
	conf.Limits.TogetherMax = 1
	return conf
}

// running is a mirror under way.
type running struct {
	*Mirror
	stop context.CancelFunc
	done chan error
}

func (r *rig) start(conf Config) *running {
	r.t.Helper()
	m, err := New(conf)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{Mirror: m, stop: cancel, done: make(chan error, 1)}
	go func() { run.done <- m.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-run.done })
	return run
}

// end stops the mirror and returns what Run returned.
func (m *running) end(t testing.TB) error {
	t.Helper()
	m.stop()
	select {
	case err := <-m.done:
		m.done <- err
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the mirror does not end")
		return nil
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

// caughtUp waits until the target's ends are the source's.
func (r *rig) caughtUp(m *running, topics ...string) {
	r.t.Helper()
	until := time.Now().Add(20 * time.Second)
	for {
		same := true
		for _, topic := range topics {
			for _, p := range r.fakeA.PartitionInfos(topic) {
				q := r.fakeB.PartitionInfo(topic, p.Partition)
				same = same && q != nil && q.HighWatermark == p.HighWatermark
			}
		}
		if same {
			return
		}
		if time.Now().After(until) {
			r.t.Fatalf("not caught up: %+v", m.Status())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// batches reads all stored batches of a partition, as they are.
func (r *rig) batches(cl *kafka.Client, p topology.Partition) []replicate.Batch {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := readView(ctx, cl)
	if err != nil {
		r.t.Fatal(err)
	}
	topic, at, ok := v.part(p)
	if !ok {
		r.t.Fatalf("no partition %s", p)
	}
	s := spot{Partition: p, id: topic.id, epoch: at.epoch}
	start := offsetAt(ctx, cl, at.leader, []spot{s}, -2)[p]
	end := offsetAt(ctx, cl, at.leader, []spot{s}, -1)[p]
	if err := errors.Join(start.err, end.err); err != nil {
		r.t.Fatal(err)
	}
	var out []replicate.Batch
	for next := start.offset; next < end.offset; {
		a := batchAt(ctx, cl, at.leader, []spot{s}, map[topology.Partition]int64{p: next}, oneBatch)[p]
		if a.err != nil || a.batch == nil {
			r.t.Fatalf("batch at %d of %s: %v %v", next, p, a.batch, a.err)
		}
		out = append(out, *a.batch)
		next = a.batch.End()
	}
	return out
}

// identical fails unless both ends store the same batches at the same offsets.
func (r *rig) identical(topic string, partitions int32) (batches int) {
	r.t.Helper()
	for i := range partitions {
		p := topology.Partition{Topic: topic, Partition: i}
		x, y := r.batches(r.a, p), r.batches(r.b, p)
		if len(x) != len(y) {
			r.t.Fatalf("%s: %d batches at the source, %d at the target", p, len(x), len(y))
		}
		for j := range x {
			if !replicate.SameContent(x[j], y[j]) {
				r.t.Fatalf("%s: batch %d differs:\n%+v\n%+v", p, j, x[j].Header, y[j].Header)
			}
		}
		batches += len(x)
	}
	return batches
}

func alter(key, value string) []kadm.AlterConfig {
	return []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}
}

func frozen(m *running, p topology.Partition) *replicate.Freeze {
	for _, s := range m.Status().Partitions {
		if s.Partition == p {
			return s.Frozen
		}
	}
	return nil
}
