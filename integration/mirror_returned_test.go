//go:build integration

package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// visible is what a plain consumer of committed records sees of a partition,
// by offset. It reads until nothing comes for a while: behind the last record
// there may be markers.
func (p *mirrorPair) visible(k *stack.Kafka, tp topology.Partition) map[int64]string {
	p.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Bootstrap()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{tp.Topic: {tp.Partition: kgo.NewOffset().AtStart()}}))
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	out := map[int64]string{}
	for {
		ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Second)
		f := c.PollFetches(ctx)
		cancel()
		if f.NumRecords() == 0 {
			return out
		}
		f.EachRecord(func(r *kgo.Record) { out[r.Offset] = fmt.Sprintf("%q=%q", r.Key, r.Value) })
	}
}

// transaction writes n records to each of two partitions in one transaction,
// and ends it as told, or not at all.
func (p *mirrorPair) transaction(cl *kafka.Client, id, topic string, n int, end string) {
	p.t.Helper()
	tx, err := cl.Another(kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionTimeout(time.Minute))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(tx.Close)
	if err := tx.Kgo.BeginTransaction(); err != nil {
		p.t.Fatal(err)
	}
	for i := range 2 * n {
		r := &kgo.Record{Topic: topic, Partition: int32(i % 2), Key: []byte(id), Value: fmt.Appendf(nil, "%s %d", end, i)}
		if err := tx.Kgo.ProduceSync(p.t.Context(), r).FirstErr(); err != nil {
			p.t.Fatal(err)
		}
	}
	if end == "left open" {
		return
	}
	if err := tx.Kgo.EndTransaction(p.t.Context(), kgo.TransactionEndTry(end == "committed")); err != nil {
		p.t.Fatal(err)
	}
}

// TestReturnedRegion_EveryRecordIsFoundOnRealKafka takes a region through its
// loss and return: it accepts records that are never mirrored, the other one is
// promoted and goes on, and it comes back with a transaction left open. What
// the judgement says is held against what plain consumers see on both sides.
func TestReturnedRegion_EveryRecordIsFoundOnRealKafka(t *testing.T) {
	p := newMirrorPair(t)
	const topic = "returned"
	p.topic(p.ca, topic, 2, nil)
	p.produce(p.ca, topic, 2, 0, 300, kgo.ZstdCompression())
	m := p.start(p.config(topic))
	p.reach(m, p.cb, p.ends(p.ca, topic))
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	zero, one := topology.Partition{Topic: topic}, topology.Partition{Topic: topic, Partition: 1}

	// The orphans: plain, committed, aborted, and a transaction that nobody ends.
	p.produce(p.ca, topic, 2, 300, 40, kgo.GzipCompression())
	p.transaction(p.ca, "kept", topic, 3, "committed")
	p.transaction(p.ca, "undone", topic, 4, "aborted")
	p.transaction(p.ca, "forgotten", topic, 2, "left open")

	// The other region: partition 0 leaps over all of it, partition 1 not.
	link := replicate.Link{Source: "a", Target: "b", Epoch: 1}
	x := p.ends(p.cb, topic)
	done, err := mirror.Promote(t.Context(), p.cb, mirror.PromoteOptions{Link: link, Topics: replicate.Only(topic), LeapTo: map[topology.Partition]int64{zero: x[zero] + 400, one: x[one] + 5}})
	if err != nil {
		t.Fatal(err)
	}
	before := map[topology.Partition]mirror.Before{}
	for _, d := range done {
		if d.X != x[d.Partition] {
			t.Errorf("%s, want x %d", d, x[d.Partition])
		}
		before[d.Partition] = mirror.Before{X: d.X, Began: d.End, Epoch: 0}
	}
	p.produce(p.cb, topic, 2, 900, 20, kgo.NoCompression())

	// It is back. The transaction must end before anything is read.
	if _, err := mirror.Inspect(t.Context(), p.cb, p.ca, before, 0); err != nil {
		t.Logf("before the transaction is ended: %v", err)
	}
	ended, err := mirror.CloseTransactions(t.Context(), p.ca, replicate.Only(topic))
	if err != nil || len(ended) != 1 || ended[0] != "forgotten" {
		t.Fatalf("ended %q, %v", ended, err)
	}
	found, err := mirror.Inspect(t.Context(), p.cb, p.ca, before, 0)
	if err != nil || len(found) != 2 {
		t.Fatal(found, err)
	}
	leap := map[topology.Partition]int64{}
	for _, i := range found {
		if i.Freeze != "" || i.Proven != x[i.Partition] || i.Reunion.Start != i.Target.End || i.Records != x[i.Partition] {
			t.Errorf("%s: %+v", i.Partition, i)
		}
		if i.LeapTo > 0 {
			leap[i.Partition] = i.LeapTo
		}
	}
	if len(found[0].Foreign) != 0 || len(found[1].Foreign) != 1 || leap[zero] != 0 || leap[one] == 0 {
		t.Errorf("inside the leap, and beyond it: %+v, %+v", found[0].Reunion, found[1].Reunion)
	}
	// Producers go on while the other region skips what is taken here.
	ctx, stop := context.WithCancel(t.Context())
	wrote := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			p.produce(p.cb, topic, 2, 1000+n, 1, kgo.NoCompression())
		}
		wrote <- n
	}()
	ends, err := mirror.Leap(t.Context(), p.cb, mirror.PromoteOptions{Link: replicate.Link{Source: "b", Target: "a", Epoch: 1}, LeapTo: leap})
	stop()
	t.Logf("%d records were produced during the leap to %v", <-wrote, ends)
	if err != nil || ends[one] < leap[one] {
		t.Fatalf("the leap to %v ended at %v: %v", leap, ends, err)
	}

	salvaged, records := 0, 0
	for _, i := range found {
		a, b := p.visible(p.a, i.Partition), p.visible(p.b, i.Partition)
		in := func(o int64, list ...replicate.Range) bool {
			for _, r := range list {
				if r.Start <= o && o < r.End {
					return true
				}
			}
			return false
		}
		salvage := map[int64]string{}
		var chunks [][]byte
		held, err := mirror.ReadOrphans(t.Context(), p.ca, i.Partition, i.Orphans, func(c []byte) error { chunks = append(chunks, c); return nil })
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chunks {
			err := mirror.EachOrphan(c, i.Orphans, held.Aborted, func(o mirror.Orphan) error {
				if !o.Aborted {
					salvage[o.Offset] = fmt.Sprintf("%q=%q", o.Key, o.Value)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if int64(len(salvage)) != held.Records || len(held.Aborted) != 2 {
			t.Errorf("%s: %d records, counted %d, aborted %v", i.Partition, len(salvage), held.Records, held.Aborted)
		}
		for o, r := range a { // of the returned region: in both, or in the salvage
			records++
			if both := b[o] == r && o < i.Proven; both == (salvage[o] == r) {
				t.Errorf("%s: %d of the returned region is in both: %v, in the salvage: %v", i.Partition, o, both, salvage[o] == r)
			}
		}
		for o, r := range b { // of the other: in both, in a foreign range, or still to come
			records++
			comes := o >= i.Reunion.Start
			if both := a[o] == r && o < i.Proven; both == (comes || in(o, i.Foreign...)) {
				t.Errorf("%s: %d of the other region is in both: %v, comes: %v, foreign: %v", i.Partition, o, both, comes, in(o, i.Foreign...))
			}
		}
		salvaged += len(salvage)
	}
	if salvaged != 40+6 {
		t.Errorf("%d records were salvaged, want 46", salvaged)
	}
	t.Logf("%d records, each in exactly one place; %d salvaged", records, salvaged)
}
