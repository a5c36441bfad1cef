//go:build integration

package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// cycleLoad is the producers of one region while it is in use.
type cycleLoad struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// open starts the producers of a region: one that writes plain records, and one
// that writes transactions and aborts a third of them.
func (c *cycles) open(r *cycleRegion) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.load = &cycleLoad{stop: cancel}
	r.bore++
	id := fmt.Sprintf("%s-%s%d", c.topic, r.name, r.bore)
	one, two := rand.New(rand.NewPCG(c.rng.Uint64(), 1)), rand.New(rand.NewPCG(c.rng.Uint64(), 2))
	plain := c.producer(r, kgo.ProducerBatchCompression(mirrorCodecs[one.IntN(len(mirrorCodecs))]), kgo.ProducerLinger(time.Duration(one.IntN(3))*time.Millisecond))
	tx := c.producer(r, kgo.TransactionalID(id), kgo.ProducerBatchCompression(mirrorCodecs[two.IntN(len(mirrorCodecs))]))
	r.load.done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			c.send(plain, r, one, fmt.Sprintf("%s-plain-%d", id, n), 1+one.IntN(20), "")
			time.Sleep(time.Duration(one.IntN(15)) * time.Millisecond)
		}
	})
	r.load.done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			c.transact(tx, r, two, fmt.Sprintf("%s-tx-%d", id, n))
			time.Sleep(time.Duration(two.IntN(20)) * time.Millisecond)
		}
	})
	load := r.load
	c.t.Cleanup(func() { load.stop(); load.done.Wait() })
}

// close stops them; what they were promised stays so.
func (c *cycles) close(r *cycleRegion) {
	if r.load != nil {
		r.load.stop()
		r.load.done.Wait()
		r.load = nil
	}
}

// write lets somebody write a few records who should not.
func (c *cycles) write(r *cycleRegion, n int) {
	c.t.Helper()
	r.bore++
	p := c.producer(r)
	for i := range n {
		c.send(p, r, c.rng, fmt.Sprintf("%s-%s%d-stray-%d", c.topic, r.name, r.bore, i), 1, "")
	}
}

// hang begins a transaction that nobody ever ends.
func (c *cycles) hang(r *cycleRegion) {
	c.t.Helper()
	r.bore++
	id := fmt.Sprintf("%s-%s%d-open", c.topic, r.name, r.bore)
	p := c.producer(r, kgo.TransactionalID(id))
	if err := p.BeginTransaction(); err != nil {
		c.t.Fatal(err)
	}
	c.send(p, r, c.rng, id, 4, "aborted")
}

func (c *cycles) producer(r *cycleRegion, extra ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	opts := slices.Concat([]kgo.Opt{kgo.SeedBrokers(r.addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(cycleSoon), kgo.TransactionTimeout(time.Minute)}, extra)
	p, err := kgo.NewClient(opts...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(p.Close)
	return p
}

func (c *cycles) transact(p *kgo.Client, r *cycleRegion, rng *rand.Rand, name string) {
	if err := p.BeginTransaction(); err != nil {
		c.t.Errorf("%s: begin: %v", name, err)
		return
	}
	commit := rng.IntN(3) > 0
	sent := c.send(p, r, rng, name, 1+rng.IntN(8), "unknown")
	ctx, cancel := context.WithTimeout(context.Background(), cycleSoon)
	defer cancel()
	err := p.EndTransaction(ctx, kgo.TransactionEndTry(commit))
	if err != nil {
		c.t.Errorf("%s: end: %v", name, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range sent {
		if commit {
			c.tell(one, "")
		} else {
			c.tell(one, "aborted")
		}
	}
}

// send writes records and notes where the region says that they are.
func (c *cycles) send(p *kgo.Client, r *cycleRegion, rng *rand.Rand, name string, n int, fate string) (names []string) {
	var records []*kgo.Record
	for i := range n {
		one := fmt.Sprintf("%s-%d", name, i)
		names = append(names, one)
		rec := &kgo.Record{Topic: c.topic, Partition: int32(rng.IntN(cycleParts)), Value: []byte(one + " " + strings.Repeat("x", rng.IntN(200)))}
		if rng.IntN(3) > 0 {
			rec.Key, rec.Headers = []byte("k"+strconv.Itoa(rng.IntN(50))), []kgo.RecordHeader{{Key: "h", Value: []byte{1}}}
		}
		records = append(records, rec)
	}
	c.mu.Lock()
	for i, one := range names {
		c.sent[one] = cycleRecord{region: r.name, Partition: topology.Partition{Topic: c.topic, Partition: records[i].Partition}, offset: -1, fate: "unknown"}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), cycleSoon)
	defer cancel()
	results := p.ProduceSync(ctx, records...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, res := range results {
		if res.Err != nil {
			c.t.Logf("%s: %v", name, res.Err)
			continue
		}
		one := cycleName(res.Record.Value)
		was := c.sent[one]
		was.offset = res.Record.Offset
		c.sent[one] = was
		c.tell(one, fate)
	}
	return names
}

// tell notes what became of a record. It needs the mutex.
func (c *cycles) tell(name, fate string) {
	was := c.sent[name]
	if was.offset < 0 {
		return // never acknowledged
	}
	was.fate = fate
	c.sent[name] = was
}

// cycleName is what names a record, once over all seeds.
func cycleName(value []byte) string {
	name, _, _ := strings.Cut(string(value), " ")
	return name
}

// judge reads both regions with plain consumers and finds the place of every
// record that was acknowledged in either.
func (c *cycles) judge() {
	t := c.t
	logs := map[topology.Region]map[topology.Partition]map[int64]*kgo.Record{}
	for _, r := range []*cycleRegion{c.a, c.b} {
		all, err := readPlain(t.Context(), []kgo.Opt{kgo.SeedBrokers(r.addresses()...)}, c.topic, committed)
		if err != nil {
			t.Fatal(err)
		}
		logs[r.name] = map[topology.Partition]map[int64]*kgo.Record{}
		for n, log := range all {
			p := topology.Partition{Topic: c.topic, Partition: n}
			logs[r.name][p] = map[int64]*kgo.Record{}
			last := map[string]int{} // by producer
			for _, rec := range log.records {
				logs[r.name][p][rec.Offset] = rec
				producer, at := cycleOrder(cycleName(rec.Value))
				if at <= last[producer] {
					c.bad(&c.sum.Reordered, "%s of %s: %s at %d stands behind a later one", p, r.name, cycleName(rec.Value), rec.Offset)
				}
				last[producer] = at
			}
		}
	}
	in := func(list []replicate.Range, o int64) bool {
		return slices.ContainsFunc(list, func(r replicate.Range) bool { return r.Start <= o && o < r.End })
	}
	same := func(x, y *kgo.Record) bool { return x != nil && y != nil && recordDifference(x, y) == "" }
	c.mu.Lock()
	defer c.mu.Unlock()
	acked, unknown := 0, 0
	for name, s := range c.sent {
		if s.fate == "unknown" {
			unknown++
		}
		if s.fate != "" {
			continue
		}
		acked++
		a, b := logs["a"][s.Partition][s.offset], logs["b"][s.Partition][s.offset]
		is := func(r *kgo.Record) bool { return r != nil && cycleName(r.Value) == name }
		both := is(a) && same(a, b)
		salvaged := s.region == "a" && c.salvage[s.Partition][s.offset] == name
		foreign := in(c.foreign[s.Partition], s.offset) && is(b) && !is(a)
		places := 0
		for _, one := range []struct {
			is  bool
			sum *int
		}{{both, &c.sum.Both}, {salvaged, &c.sum.Salvaged}, {foreign, &c.sum.Foreign}} {
			if one.is {
				places++
				*one.sum++
			}
		}
		switch {
		case places == 0:
			c.bad(&c.sum.Lost, "%s at %d of %s was acknowledged by %s and is in no place; a has %s, b has %s", name, s.offset, s.Partition, s.region, cycleSaid(a), cycleSaid(b))
		case places > 1:
			c.bad(&c.sum.Duplicated, "%s at %d of %s is in %d places: both %t, salvaged %t, foreign %t", name, s.offset, s.Partition, places, both, salvaged, foreign)
		}
	}
	c.sum.Acknowledged += acked
	seen := map[string]int64{} // one offset a record, in all logs
	for region, parts := range logs {
		for p, log := range parts {
			for o, rec := range log {
				name := cycleName(rec.Value)
				was, known := seen[name]
				switch s, sent := c.sent[name]; {
				case !sent || s.fate == "aborted" || s.Partition != p || s.offset >= 0 && s.offset != o:
					c.bad(&c.sum.Renumbered, "%s has %s at %d of %s, which was sent as %+v", region, name, o, p, s)
				case known && was != o:
					c.bad(&c.sum.Duplicated, "%s is at %d and at %d of %s", name, was, o, p)
				}
				seen[name] = o
				other := logs["a"][p][o]
				if region == "a" {
					other = logs["b"][p][o]
				}
				if other != nil && !same(rec, other) && !in(c.foreign[p], o) {
					c.bad(&c.sum.Renumbered, "%d of %s names %s and %s", o, p, cycleSaid(rec), cycleSaid(other))
				}
			}
		}
	}
	for p, kept := range c.salvage {
		for o, name := range kept {
			if s := c.sent[name]; s.fate == "aborted" || s.region != "a" || s.Partition != p || s.offset >= 0 && s.offset != o {
				c.bad(&c.sum.Renumbered, "the salvage has %s at %d of %s, which was sent as %+v", name, o, p, s)
			}
		}
	}
	t.Logf("%d acknowledged, %d without an answer; foreign %v", acked, unknown, c.foreign)
	if acked < 500 {
		t.Errorf("%d records prove little", acked)
	}
}

// bad counts a violation and names the first ones.
func (c *cycles) bad(sum *int, format string, args ...any) {
	c.t.Helper()
	if *sum++; *sum <= 5 {
		c.t.Errorf(format, args...)
	} else {
		c.t.Fail()
	}
}

// cycleOrder splits a record's name into its producer and its place in the
// producer's order, from 1.
func cycleOrder(name string) (producer string, at int) {
	parts := strings.Split(name, "-")
	if len(parts) < 3 {
		return name, 1
	}
	n, _ := strconv.Atoi(parts[len(parts)-2])
	i, _ := strconv.Atoi(parts[len(parts)-1])
	return strings.Join(parts[:len(parts)-2], "-"), 1 + n*1000 + i
}

func cycleSaid(r *kgo.Record) string {
	if r == nil {
		return "nothing"
	}
	return string(bytes.Clone(r.Value[:min(len(r.Value), 40)]))
}

func TestCycleOrder_RisesWithEveryRecordOfAProducer(t *testing.T) {
	one, first := cycleOrder("cycles-0-a1-plain-4-19")
	two, second := cycleOrder("cycles-0-a1-plain-5-0")
	if one != two || first >= second || one != "cycles-0-a1-plain" {
		t.Errorf("%s %d, %s %d", one, first, two, second)
	}
}
