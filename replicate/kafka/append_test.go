package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// singles writes n records, each as a batch of its own.
func (r *rig) singles(cl *kafka.Client, topic string, n int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	p, err := cl.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(0))
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.Close()
	for i := range n {
		rec := &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "value %d", i), Timestamp: time.UnixMilli(int64(1_700_000_000_000 + i*7919%5000))}
		if err := p.Kgo.ProduceSync(ctx, rec).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestMirror_JoinsTheTinyBatchesOfABacklog(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.singles(r.a, "events", 600)
	conf := r.config()
	conf.Limits.TogetherMax = 256
	m := r.start(conf)
	r.caughtUp(m, "events")
	p := topology.Partition{Topic: "events"}
	x, y := r.batches(r.a, p), r.batches(r.b, p)
	if len(x) != 600 || len(y) > 60 {
		t.Fatalf("%d batches became %d: a backlog of tiny ones must be joined", len(x), len(y))
	}
	if diff := cmp.Diff(decoded(t, x), decoded(t, y)); diff != "" {
		t.Fatal(diff)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	// A joined batch is a place to go on from like any other.
	r.singles(r.a, "events", 10)
	m = r.start(conf)
	r.caughtUp(m, "events")
	if diff := cmp.Diff(decoded(t, r.batches(r.a, p)), decoded(t, r.batches(r.b, p))); diff != "" {
		t.Fatal(diff)
	}
}

func TestMirror_ARefusedJoinedBatchGoesInParts(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.singles(r.a, "events", 100)
	refused := 0
	r.fakeB.ControlKey(int16(kmsg.Produce), func(k kmsg.Request) (kmsg.Response, error, bool) {
		r.fakeB.KeepControl()
		req := k.(*kmsg.ProduceRequest)
		b, _, err := replicate.NextBatch(req.Topics[0].Partitions[0].Records)
		if err != nil || b.Count == 1 {
			return nil, err, err != nil
		}
		refused++
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		rp := kmsg.NewProduceResponseTopicPartition()
		rp.Partition, rp.ErrorCode = req.Topics[0].Partitions[0].Partition, kerr.MessageTooLarge.Code
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	conf := r.apart()
	conf.Limits.TogetherMax = 256
	m := r.start(conf)
	r.caughtUp(m, "events")
	r.identical("events", 1)
	if refused != 1 {
		t.Fatalf("%d joined batches were refused: want one, and then none for a while", refused)
	}
}

func TestJoinable_LeavesWhatIsWellSizedOrNotWorthIt(t *testing.T) {
	now := time.Now()
	list := func(n, size int) (out []replicate.Batch) {
		for i := range n {
			out = append(out, replicate.Batch{Header: replicate.Header{Base: int64(i), Count: 1}, Raw: make([]byte, size)})
		}
		return out
	}
	for name, c := range map[string]struct {
		batches    []replicate.Batch
		filler     bool
		plainUntil time.Time
		join, turn time.Duration
		want       int
	}{
		"a backlog of tiny ones":       {batches: list(100, 500), want: 100},
		"as many as fit":               {batches: list(100, 10<<10), turn: time.Second, want: 25},
		"one":                          {batches: list(1, 500), want: 1},
		"of a good size":               {batches: list(10, 20<<10), turn: time.Second, want: 1},
		"filler":                       {batches: list(2, 500), filler: true, want: 1},
		"refused a moment ago":         {batches: list(100, 500), plainUntil: now.Add(time.Second), want: 1},
		"refused long ago":             {batches: list(100, 500), plainUntil: now.Add(-time.Second), want: 100},
		"answers come fast":            {batches: list(100, 500), turn: 5 * time.Microsecond, want: 1},
		"answers come slowly":          {batches: list(10, 10<<10), turn: 10 * time.Millisecond, want: 10},
		"joining is slow here":         {batches: list(100, 500), join: 5 * time.Microsecond, want: 1},
		"not behind a hole, but to it": {batches: append(list(3, 500), replicate.VoidBatch(3, 9, 0)), want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			l := &loop{joinCost: mean(c.join), turnCost: mean(c.turn)}
			p := &part{append: &replicate.Append{Batches: c.batches, Filler: c.filler}, plainUntil: c.plainUntil}
			if got := l.joinable(p, now); got != c.want {
				t.Fatalf("joins %d, want %d", got, c.want)
			}
		})
	}
}
