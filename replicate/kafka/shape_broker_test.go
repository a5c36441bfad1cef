package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func TestShape_TransactionsOfABrokerShowAsToAConsumer(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "t", 1, nil)
	writeTransactions(t, r.a, "t", 20)
	sameAsConsumer(t, r.a, "t")
}

// writeTransactions writes rounds of batches to partition 0, of two producers
// with open transactions and a plain one in turn. A third of them is aborted.
func writeTransactions(t testing.TB, cl *kafka.Client, topic string, rounds int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func(codec int, extra ...kgo.Opt) *kafka.Client {
		p, err := cl.Another(append(extra, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(5*time.Millisecond))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	write := func(p *kafka.Client, n, round int) {
		var records []*kgo.Record
		for i := range n {
			records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%3), Value: fmt.Appendf(nil, "%d of round %d", i, round), Headers: []kgo.RecordHeader{{Key: "h"}}})
		}
		if err := p.Kgo.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	plain := open(4)
	txs := []*kafka.Client{open(3, kgo.TransactionalID("one")), open(1, kgo.TransactionalID("two"))}
	began := make([]bool, len(txs))
	for i := range rounds {
		at := i % len(txs)
		if !began[at] {
			if err := txs[at].Kgo.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			began[at] = true
		}
		write(txs[at], 1+i%4, i)
		write(plain, 1+i%2, i)
		if i%3 == 2 || i >= rounds-len(txs) {
			if err := txs[at].Kgo.EndTransaction(ctx, kgo.TransactionEndTry(i%9 != 2)); err != nil {
				t.Fatal(err)
			}
			began[at] = false
		}
	}
}

// sameAsConsumer fails unless the shaped batches of partition 0 show what a
// read_committed consumer reads, from wherever it starts.
func sameAsConsumer(t testing.TB, cl *kafka.Client, topic string) (shaped []replicate.Batch) {
	t.Helper()
	start, end := kadmEnds(t, cl, topic)
	shaped = shapedFrom(t, cl, topic, start, end)
	want := readFrom(t, cl, topic, start, end)
	if diff := cmp.Diff(want, decoded(t, shaped)); diff != "" {
		t.Fatal(diff)
	}
	voids := 0
	for _, b := range shaped {
		if b.Void() {
			voids++
		}
	}
	if last := shaped[len(shaped)-1].End(); last != end || voids == 0 || len(want) == 0 {
		t.Fatalf("%d records and %d void batches up to %d, want all up to %d", len(want), voids, last, end)
	}
	for from := start + 1; from < end; from += max(1, (end-start)/50) {
		if diff := cmp.Diff(readFrom(t, cl, topic, from, end), decoded(t, shapedFrom(t, cl, topic, from, end))); diff != "" {
			t.Fatalf("from %d:\n%s", from, diff)
		}
	}
	t.Logf("%d records, %d batches, %d of them void, up to %d", len(want), len(shaped), voids, end)
	return shaped
}

func kadmEnds(t testing.TB, cl *kafka.Client, topic string) (start, end int64) {
	t.Helper()
	adm := kadm.NewClient(cl.Kgo)
	starts, err := adm.ListStartOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := adm.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := starts.Lookup(topic, 0)
	b, _ := ends.Lookup(topic, 0)
	return a.Offset, b.Offset
}

// shapedFrom fetches small pieces and shapes each.
func shapedFrom(t testing.TB, cl *kafka.Client, topic string, from, end int64) (out []replicate.Batch) {
	t.Helper()
	v, err := readView(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	p := topology.Partition{Topic: topic}
	tp, at, ok := v.part(p)
	if !ok {
		t.Fatalf("no partition %s", p)
	}
	for next := from; next < end; {
		req := fetchRequest(0, 1<<20, 1)
		addFetch(req, spot{Partition: p, id: tp.id, epoch: at.epoch}, next, -1, 400)
		resp, err := cl.Kgo.Broker(int(at.leader)).Request(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		rp := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
			t.Fatal(err)
		}
		batches, err := replicate.ParseBatches(rp.RecordBatches)
		if err != nil {
			t.Fatal(err)
		}
		got, err := shape(batches, next, rp.AbortedTransactions)
		if err != nil || len(got) == 0 {
			t.Fatalf("%d batches at %d: %v", len(batches), next, err)
		}
		covered(t, batches, got, next)
		out, next = append(out, got...), got[len(got)-1].End()
	}
	return out
}

// readFrom is what a plain consumer reads, in our form.
func readFrom(t testing.TB, cl *kafka.Client, topic string, from, end int64) (out []replicate.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cl.Another(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(from)}}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for next := from; next < end; {
		fetches := c.Kgo.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if r.Attrs.IsControl() {
				return
			}
			x := replicate.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				x.Headers = append(x.Headers, replicate.RecordHeader{Key: []byte(h.Key), Value: h.Value})
			}
			out = append(out, x)
		})
	}
	return out
}
