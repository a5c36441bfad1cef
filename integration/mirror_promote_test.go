//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// zombie writes to one partition as a mirror of a link would, at any moment
// and with no look at anything: what a paused one does when it wakes up.
type zombie struct {
	t    *testing.T
	cl   *kafka.Client
	name string
	id   [16]byte
	node int
	replicate.Run
}

// promoted is one broker as the target of a link.
type promoted struct {
	t    *testing.T
	k    *stack.Kafka
	cl   *kafka.Client
	link replicate.Link
}

func newPromoted(t *testing.T, more map[string]string) *promoted {
	p := &promoted{t: t, link: replicate.Link{Source: "a", Target: "b", Epoch: 2}}
	p.k = stack.RunKafka(t, stack.KafkaOptions{Name: "promoted", Properties: more})
	p.cl = p.client()
	return p
}

func (p *promoted) client(extra ...kgo.Opt) *kafka.Client {
	p.t.Helper()
	cl, err := kafka.Open(kafka.Config{Name: "b", Brokers: []string{p.k.Bootstrap()}}, extra...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(cl.Close)
	return cl
}

// zombie makes a topic of one partition and a mirror that knows it. The log
// begins at start: what is below was filled and deleted before the link.
func (p *promoted) zombie(t *testing.T, name string, start int64) *zombie {
	t.Helper()
	if _, err := p.cl.Admin.CreateTopic(t.Context(), 1, -1, nil, name); err != nil {
		t.Fatal(err)
	}
	z := &zombie{t: t, cl: p.cl, name: name}
	z.find(-1)
	z.Run = replicate.Run{Link: p.link, Topic: z.id, Start: start}
	if start > 0 {
		older := z.Run
		older.Link.Epoch, older.Start = 90, 0 // whoever it was
		z.must(z.write(older.Stamp(0), int(start), false))
	}
	return z
}

// find waits until the topic has a leader, another one than the given, that
// serves it.
func (z *zombie) find(not int) {
	z.t.Helper()
	mirrorSoon(z.t, z.name+" has a leader", func() bool {
		m, err := z.cl.Admin.Metadata(z.t.Context(), z.name)
		if err != nil || len(m.Topics[z.name].Partitions) != 1 {
			return false
		}
		at := m.Topics[z.name].Partitions[0]
		z.id, z.node = m.Topics[z.name].ID, int(at.Leader)
		if at.Leader < 0 || z.node == not {
			return false
		}
		_, err = mirror.Ends(z.t.Context(), z.cl, replicate.Only(z.name))
		return err == nil
	})
}

// at is the mirror in another run of its link.
func (z *zombie) at(start int64) *zombie {
	c := *z
	c.Start = start
	return &c
}

// data appends n records of the run at offset base.
func (z *zombie) data(base int64, n int) error { return z.write(z.Stamp(base), n, false) }

// filler appends n empty records of a seeding run at offset base.
func (z *zombie) filler(base int64, n int) error { return z.write(z.Seed(base), n, true) }

func (z *zombie) write(s replicate.Stamp, n int, empty bool) error {
	z.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = z.name, z.id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = stampedBatch(s, n, empty)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := z.cl.Kgo.Broker(z.node).RetriableRequest(z.t.Context(), req)
	if err != nil {
		z.t.Fatal(err)
	}
	return kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

// stampedBatch encodes n records, empty ones or not, without compression.
func stampedBatch(s replicate.Stamp, n int, empty bool) []byte {
	var records []byte
	for i := range n {
		r := binary.AppendVarint([]byte{0, 0}, int64(i)) // attributes, timestamp delta, offset delta
		r = binary.AppendVarint(r, -1)                   // no key
		if empty {
			r = binary.AppendVarint(r, -1)
		} else {
			v := fmt.Sprintf("zombie %d %d", s.Sequence, i)
			r = append(binary.AppendVarint(r, int64(len(v))), v...)
		}
		r = append(r, 0)
		records = append(binary.AppendVarint(records, int64(len(r))), r...)
	}
	b := make([]byte, replicate.HeaderSize, replicate.HeaderSize+len(records))
	b = append(b, records...)
	put := binary.BigEndian
	put.PutUint32(b[8:], uint32(len(b)-12))
	put.PutUint32(b[12:], ^uint32(0))
	b[16] = 2
	put.PutUint32(b[23:], uint32(n-1))
	now := uint64(time.Now().UnixMilli())
	put.PutUint64(b[27:], now)
	put.PutUint64(b[35:], now)
	put.PutUint64(b[43:], uint64(s.ProducerID))
	put.PutUint16(b[51:], uint16(s.Epoch))
	put.PutUint32(b[53:], uint32(s.Sequence))
	put.PutUint32(b[57:], uint32(n))
	put.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// marks writes hole markers for the offsets [from, to), in one request.
func (z *zombie) marks(from, to int64, g replicate.Generation) error {
	z.t.Helper()
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for o := from; o < to; o++ {
		m := z.Mark(o, g)
		rm := kmsg.NewWriteTxnMarkersRequestMarker()
		rm.ProducerID, rm.ProducerEpoch, rm.CoordinatorEpoch = m.ProducerID, m.Epoch, m.CoordinatorEpoch
		rt := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		rt.Topic, rt.Partitions = z.name, []int32{0}
		rm.Topics = append(rm.Topics, rt)
		req.Markers = append(req.Markers, rm)
	}
	resp, err := z.cl.Kgo.Broker(z.node).RetriableRequest(z.t.Context(), req)
	if err != nil {
		z.t.Fatal(err)
	}
	for _, m := range resp.(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (z *zombie) must(err error) {
	z.t.Helper()
	if err != nil {
		z.t.Fatal(err)
	}
}

// refused fails unless the broker answered as it does to a fenced mirror.
func (z *zombie) refused(what string, err error) {
	z.t.Helper()
	if !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.TransactionCoordinatorFenced) {
		z.t.Errorf("%s: the broker answered %v", what, err)
	}
}

func (z *zombie) end() int64 {
	z.t.Helper()
	ranges, err := mirror.Ends(z.t.Context(), z.cl, replicate.Only(z.name))
	if err != nil {
		z.t.Fatal(err)
	}
	return ranges[topology.Partition{Topic: z.name}].End
}

// deleteTo moves the log start.
func (z *zombie) deleteTo(offset int64) {
	z.t.Helper()
	var to kadm.Offsets
	to.Add(kadm.Offset{Topic: z.name, At: offset})
	got, err := z.cl.Admin.DeleteRecords(z.t.Context(), to)
	if err == nil {
		err = got.Error()
	}
	z.must(err)
}

// seesOnly fails unless a plain consumer sees so many records.
func (z *zombie) seesOnly(n int) {
	z.t.Helper()
	c, err := z.cl.Another(kgo.ConsumeTopics(z.name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		z.t.Fatal(err)
	}
	defer c.Close()
	seen := 0
	for {
		ctx, cancel := context.WithTimeout(z.t.Context(), time.Second)
		f := c.Kgo.PollFetches(ctx)
		quiet := ctx.Err() != nil
		cancel()
		seen += f.NumRecords()
		if quiet {
			break
		}
	}
	if seen != n {
		z.t.Errorf("a consumer sees %d records, want %d", seen, n)
	}
}

// options are those of the link to the zombie's topic, whose recorded start is start.
func (z *zombie) options(start int64) mirror.PromoteOptions {
	return mirror.PromoteOptions{
		Link: z.Link, Topics: replicate.Only(z.name), Patience: 20 * time.Second,
		Starts: map[topology.Partition]int64{{Topic: z.name}: start},
	}
}

// promote promotes the topic and fails unless its records end at x.
func (z *zombie) promote(opt mirror.PromoteOptions, x int64) mirror.Promotion {
	z.t.Helper()
	ctx, cancel := context.WithTimeout(z.t.Context(), time.Minute)
	defer cancel()
	got, err := mirror.Promote(ctx, z.cl, opt)
	if err != nil {
		z.t.Fatal(err)
	}
	if len(got) != 1 || got[0].X != x || got[0].Fence != x || got[0].End <= x || got[0].End != z.end() {
		z.t.Fatalf("got %+v, want x %d; the log ends at %d", got, x, z.end())
	}
	return got[0]
}

// fenced fails unless the check finds the fence whole.
func (z *zombie) fenced(opt mirror.PromoteOptions, at mirror.Promotion) {
	z.t.Helper()
	open, err := mirror.CheckFence(z.t.Context(), z.cl, opt, []mirror.Promotion{at})
	if err != nil || len(open) != 0 {
		z.t.Errorf("the check of the fence says %+v, %v", open, err)
	}
}

// produce writes n records as any producer does.
func (z *zombie) produce(n int) {
	z.t.Helper()
	p, err := z.cl.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		z.t.Fatal(err)
	}
	defer p.Close()
	for i := range n {
		z.must(p.Kgo.ProduceSync(z.t.Context(), &kgo.Record{Topic: z.name, Value: fmt.Appendf(nil, "local %d", i)}).FirstErr())
	}
}

// TestPromotion_ShutsOutEveryLateWrite is the table of what a mirror may do
// that wakes up after the promotion, on a real broker.
func TestPromotion_ShutsOutEveryLateWrite(t *testing.T) {
	p := newPromoted(t, nil)
	n := 0
	story := func(name string, start int64, do func(z *zombie)) {
		n++
		topic := fmt.Sprintf("t%d", n)
		t.Run(name, func(t *testing.T) { do(p.zombie(t, topic, start)) })
	}
	// settled runs what is late and fails if anything of it was stored.
	settled := func(z *zombie, late func()) {
		z.t.Helper()
		before := z.end()
		late()
		if end := z.end(); end != before {
			z.t.Errorf("the log ended at %d and now at %d: something was let in", before, end)
		}
	}

	story("TheRunningRun", 0, func(z *zombie) {
		z.must(z.data(0, 60))
		z.must(z.data(60, 40))
		opt := z.options(0)
		at := z.promote(opt, 100)
		settled(z, func() {
			z.refused("the next batch", z.data(100, 10))
			z.refused("its last batch again", z.data(60, 40))
			z.refused("an older batch again", z.data(0, 60))
			z.refused("a later run of the window", z.at(150).data(150, 5))
			z.refused("a run at x", z.at(100).data(100, 5))
			z.refused("a run at the end", z.at(at.End).data(at.End, 5))
			z.refused("markers from x on", z.marks(100, 120, 1))
			z.refused("markers at the end", z.marks(at.End, at.End+5, 7))
			z.refused("a marker at the end of the window", z.marks(4095, 4096, 9))
			z.refused("filler at the start", z.filler(0, 100))
			z.refused("filler at x", z.at(100).filler(100, 100))
			z.fenced(opt, at)
		})
	})
	story("AfterLeapAndProducers", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		opt := z.options(0)
		opt.LeapTo = map[topology.Partition]int64{{Topic: z.name}: 2500}
		at := z.promote(opt, 100)
		if at.End != 2500 || at.Short != 0 {
			z.t.Errorf("%+v, want an end of 2500", at)
		}
		z.produce(20)
		settled(z, func() {
			z.refused("the next batch", z.data(100, 10))
			z.refused("its last batch again", z.data(0, 100))
			z.refused("a run that the producers reach", z.at(z.end()).data(z.end(), 5))
			z.fenced(opt, at)
		})
		again := z.promote2(opt)
		if again.X != 100 || again.Fence != 100 || again.End <= 2520 {
			z.t.Errorf("a second promotion with producers gives %+v", again)
		}
		z.fenced(opt, again)
	})
	story("ARunAtX", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		z.must(z.marks(100, 105, 1)) // a hole; the next run begins behind it
		at := z.promote(z.options(0), 105)
		settled(z, func() {
			z.refused("the run that was to begin", z.at(105).data(105, 5))
			z.refused("more of the hole", z.marks(105, 110, 1))
			z.refused("by the next holder", z.marks(105, 110, 2))
			z.fenced(z.options(0), at)
		})
	})
	story("XOnAWindowBoundary", 0, func(z *zombie) {
		z.must(z.data(0, 1<<14))
		at := z.promote(z.options(0), 1<<14)
		settled(z, func() {
			z.refused("the run of the old window", z.data(1<<14, 5))
			z.refused("a run of the new window", z.at(1<<14).data(1<<14, 5))
			z.refused("markers of the new window", z.marks(1<<14, 1<<14+5, 1))
			z.fenced(z.options(0), at)
		})
	})
	story("XOnAWindowBoundaryBehindAHole", 16000, func(z *zombie) {
		z.must(z.data(16000, 300))
		z.must(z.marks(16300, 1<<14, 1))
		at := z.promote(z.options(16000), 1<<14)
		settled(z, func() {
			z.refused("a run of the new window", z.at(1<<14).data(1<<14, 5))
			z.refused("markers of the new window", z.marks(1<<14, 1<<14+5, 1))
			z.fenced(z.options(16000), at)
		})
	})
	story("XIsTheLastOffsetOfAFillWindow", 4000, func(z *zombie) {
		z.must(z.data(4000, 95))
		at := z.promote(z.options(4000), 4095)
		settled(z, func() {
			// This marker's own epoch is that of the fence.
			z.refused("the marker at x", z.marks(4095, 4096, 8))
			z.refused("the next batch", z.data(4095, 5))
			z.fenced(z.options(4000), at)
		})
	})
	story("XBehindAMarkerThatLooksLikeAFence", 4000, func(z *zombie) {
		z.must(z.data(4000, 95))
		z.must(z.marks(4095, 4096, 8)) // epoch 32767, of the last offset of its window
		z.must(z.marks(4096, 4099, 8))
		z.promote(z.options(4000), 4099)
	})
	story("NothingWasMirrored", 0, func(z *zombie) {
		at := z.promote(z.options(0), 0)
		settled(z, func() {
			z.refused("the first batch", z.data(0, 10))
			z.refused("the first filler", z.filler(0, 10))
			z.refused("the first markers", z.marks(0, 3, 1))
			z.fenced(z.options(0), at)
		})
	})
	story("NothingWasMirroredBehindOlderRecords", 700, func(z *zombie) {
		at := z.promote(z.options(700), 700)
		settled(z, func() {
			z.refused("the first batch", z.at(700).data(700, 10))
			z.refused("the first filler", z.at(700).filler(700, 10))
			z.refused("the first markers", z.marks(700, 703, 1))
			z.fenced(z.options(700), at)
		})
	})
	story("TheSeedersLateFiller", 0, func(z *zombie) {
		z.must(z.filler(0, 5000))
		z.must(z.filler(5000, 5000))
		at := z.promote2(z.options(0))
		if !at.Seeding || at.FillerShown || at.X != 10_000 || at.Fence <= at.X {
			z.t.Errorf("%s", at)
		}
		z.seesOnly(0)
		settled(z, func() {
			z.refused("the next filler", z.filler(10_000, 5000))
			z.refused("its last filler again", z.filler(5000, 5000))
			z.refused("a new seeding run", z.at(10_000).filler(10_000, 5000))
			z.refused("the first data", z.at(10_000).data(10_000, 10))
			z.fenced(z.options(0), at)
		})
	})
	story("SeedingGoesOnOverOlderRecords", 700, func(z *zombie) {
		z.must(z.filler(700, 5000))
		at := z.promote2(z.options(700))
		if !at.Seeding || !at.FillerShown || at.X != 5700 || at.Fence != 5700 {
			z.t.Errorf("%s", at)
		}
		settled(z, func() {
			z.refused("the next filler", z.filler(5700, 5000))
			z.fenced(z.options(700), at)
		})
		z.seesOnly(5700) // older records are worth more than a clean log
	})
	story("TheNextLinkOfTheSameDirectionIsLetIn", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		at := z.promote(z.options(0), 100)
		next := z.at(at.End)
		next.Link.Epoch++
		z.must(next.data(at.End, 10))
		z.must(next.data(at.End+10, 10))
		settled(z, func() { z.refused("the old link", z.data(100, 10)) })
		got := next.promote(next.options(at.End), at.End+20)
		settled(z, func() {
			z.refused("the old link", z.data(100, 10))
			z.refused("the next link", next.data(at.End+20, 10))
		})
		next.fenced(next.options(at.End), got)
	})
	story("AnEmptiedLog", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		z.must(z.marks(100, 20_000-100, 1))
		z.must(z.at(19_900).data(19_900, 10))
		z.deleteTo(19_910) // retention took everything: the log tells nothing of the run
		at := z.promote(z.options(0), 19_910)
		settled(z, func() {
			z.refused("the next batch of the running run", z.at(19_900).data(19_910, 5))
			z.refused("its last batch again", z.at(19_900).data(19_900, 10))
			z.refused("a run at x", z.at(19_910).data(19_910, 5))
			z.fenced(z.options(0), at)
		})
		again := z.promote2(z.options(0))
		if again.X != at.X || again.Fence != at.Fence {
			z.t.Errorf("%s after %s", again, at)
		}
	})
	story("RecordsOfOthersAtTheStartOfTheLog", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		z.promote(z.options(0), 100)
		z.produce(3)
		z.deleteTo(z.end() - 1) // the fence is gone too
		_, err := mirror.Promote(z.t.Context(), z.cl, z.options(0))
		if err == nil || !strings.Contains(err.Error(), "no longer tells where") {
			z.t.Errorf("%v", err)
		}
	})
	story("FewerInSyncThanRequired", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		two := "2"
		if _, err := z.cl.Admin.AlterTopicConfigs(z.t.Context(), []kadm.AlterConfig{{Name: "min.insync.replicas", Value: &two}}, z.name); err != nil {
			z.t.Fatal(err)
		}
		mirrorSoon(z.t, "the broker requires two", func() bool { return errors.Is(z.data(0, 100), kerr.NotEnoughReplicas) })
		opt := z.options(0)
		opt.Patience = time.Second
		_, err := mirror.Promote(z.t.Context(), z.cl, opt)
		if err == nil || !strings.Contains(err.Error(), "bring a broker back, or lower") {
			z.t.Errorf("%v", err)
		}
		if end := z.end(); end != 100 {
			z.t.Errorf("the log ends at %d", end)
		}
		// The condition ends while the promotion waits.
		opt.Patience = 20 * time.Second
		one := "1"
		opt.Progress = func(p mirror.PromoteProgress) {
			if p.Why != "" {
				if _, err := z.cl.Admin.AlterTopicConfigs(z.t.Context(), []kadm.AlterConfig{{Name: "min.insync.replicas", Value: &one}}, z.name); err != nil {
					z.t.Error(err)
				}
			}
		}
		z.fenced(opt, z.promote(opt, 100))
	})
	story("AFenceThatIsRepeatedDoesNotMoveX", 0, func(z *zombie) {
		z.must(z.data(0, 100))
		first := z.promote(z.options(0), 100)
		for range 3 {
			again := z.promote2(z.options(0))
			if again.X != 100 || again.Fence != 100 || again.End <= first.End {
				z.t.Errorf("%+v after %+v", again, first)
			}
			first = again
		}
		settled(z, func() { z.refused("the next batch", z.data(100, 10)) })
	})
}

// promote2 promotes again, when the log is not as it was at first.
func (z *zombie) promote2(opt mirror.PromoteOptions) mirror.Promotion {
	z.t.Helper()
	ctx, cancel := context.WithTimeout(z.t.Context(), time.Minute)
	defer cancel()
	got, err := mirror.Promote(ctx, z.cl, opt)
	if err != nil || len(got) != 1 {
		z.t.Fatalf("%+v %v", got, err)
	}
	return got[0]
}

// TestPromotion_OfAThousandPartitions measures the promotion of many
// partitions of one broker, with a leap.
func TestPromotion_OfAThousandPartitions(t *testing.T) {
	const topics, partitions, most = 10, 100, 10 * time.Second
	p := newPromoted(t, nil)
	var names []string
	for i := range topics {
		names = append(names, fmt.Sprintf("many-%d", i))
	}
	if _, err := p.cl.Admin.CreateTopics(t.Context(), partitions, 1, nil, names...); err != nil {
		t.Fatal(err)
	}
	filler := p.client(kgo.RequestTimeoutOverhead(time.Minute)) // the first use of each log is slow
	if err := filler.Kgo.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	leap := map[topology.Partition]int64{}
	wrote := map[topology.Partition]int64{}
	for i, name := range names {
		var id [16]byte
		mirrorSoon(t, name+" has leaders", func() bool {
			m, err := p.cl.Admin.Metadata(t.Context(), name)
			if err != nil || len(m.Topics[name].Partitions) != partitions {
				return false
			}
			for _, x := range m.Topics[name].Partitions {
				if x.Leader < 0 {
					return false
				}
			}
			id = m.Topics[name].ID
			return true
		})
		// Two batches, so that each log's index is in use: taking it into use
		// writes the first block of two files, in a thousand logs.
		for k, n := range []int{700, 100 + i} {
			base := int64(700 * k)
			req := kmsg.NewPtrProduceRequest()
			req.Acks, req.TimeoutMillis = -1, 60_000
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic, rt.TopicID = name, id
			for j := range int32(partitions) {
				run := replicate.Run{Link: p.link, Topic: id, Partition: j}
				rp := kmsg.NewProduceRequestTopicPartition()
				rp.Partition, rp.Records = j, stampedBatch(run.Stamp(base), n, false)
				rt.Partitions = append(rt.Partitions, rp)
				at := topology.Partition{Topic: name, Partition: j}
				wrote[at] = base + int64(n)
				leap[at] = wrote[at] + 50
			}
			req.Topics = append(req.Topics, rt)
			mirrorSoon(t, name+" is filled", func() bool { // a repeat is answered as a duplicate
				resp, err := filler.Kgo.Broker(1).Request(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range resp.(*kmsg.ProduceResponse).Topics[0].Partitions {
					if x.ErrorCode != 0 {
						return false
					}
				}
				return true
			})
		}
	}
	opt := mirror.PromoteOptions{Link: p.link, Topics: replicate.Only(names...)}
	promote := func(what string) []mirror.Promotion {
		t.Helper()
		step, began := map[string]time.Duration{}, time.Now()
		last := began
		opt.Progress = func(p mirror.PromoteProgress) {
			step[p.Step] += time.Since(last)
			last = time.Now()
		}
		got, err := mirror.Promote(t.Context(), p.cl, opt)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		t.Logf("%s: %d partitions in %s: %v", what, len(got), took.Round(time.Millisecond), step)
		if took > most {
			t.Errorf("%s took %s, want at most %s", what, took, most)
		}
		if len(got) != topics*partitions {
			t.Fatalf("%d partitions, want %d", len(got), topics*partitions)
		}
		for _, g := range got {
			if g.X != wrote[g.Partition] || g.Fence != g.X || g.Short != 0 {
				t.Fatalf("%s, want x %d", g, wrote[g.Partition])
			}
		}
		return got
	}
	promote("planned")
	opt.LeapTo = leap
	got := promote("again, with a leap of some 50 offsets each")
	began := time.Now()
	open, err := mirror.CheckFence(t.Context(), p.cl, opt, got)
	if err != nil || len(open) > 0 {
		t.Fatalf("%d partitions are not fenced, %v", len(open), err)
	}
	t.Logf("the fence was checked in %s", time.Since(began).Round(time.Millisecond))
}

// gate holds back what is written to a cluster, as a pause of the process
// would, and lets it go later.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
	held   int
}

func (g *gate) pass() {
	g.mu.Lock()
	wait := g.closed
	if wait != nil {
		g.held++
	}
	g.mu.Unlock()
	if wait != nil {
		<-wait
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = make(chan struct{})
}

func (g *gate) open() (held int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.closed)
	g.closed = nil
	return g.held
}

type gatedConn struct {
	net.Conn
	*gate
}

func (c gatedConn) Write(b []byte) (int, error) {
	c.pass()
	return c.Conn.Write(b)
}

// TestPromotion_OfALiveMirror promotes while one mirror runs at full speed,
// told nothing, and another one is held back in the middle of its requests and
// let go when producers have written to the target.
func TestPromotion_OfALiveMirror(t *testing.T) {
	const rounds, partitions = 8, 4
	p := newMirrorPair(t)
	moved, late := 0, 0
	for round := range rounds {
		topic := fmt.Sprintf("live-%d", round)
		p.topic(p.ca, topic, partitions, nil)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i += 200 {
				select {
				case <-stop:
					return
				default:
					p.produce(p.ca, topic, partitions, i, 200, mirrorCodecs[(i/200)%len(mirrorCodecs)])
				}
			}
		}()
		running := p.start(p.config(topic))
		g := &gate{}
		gated, err := kafka.Open(kafka.Config{Name: "b", Brokers: []string{p.b.Bootstrap()}, RequestTimeout: 5 * time.Second,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, network, address)
				return gatedConn{c, g}, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		conf := p.config(topic)
		conf.Target = gated
		paused := p.start(conf)
		reached := func(r *mirrorRun) (n int64) {
			for _, s := range r.Status().Partitions {
				n += max(0, s.TargetEnd)
			}
			return n
		}
		mirrorSoon(t, "both mirrors are at work", func() bool { return reached(running) > 800 && reached(paused) > 400 })
		g.shut()
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		before := p.ends(p.cb, topic)
		opt := mirror.PromoteOptions{Link: conf.Link, Topics: replicate.Only(topic)}
		if round%2 == 1 {
			opt.LeapTo = map[topology.Partition]int64{}
			for tp, end := range p.ends(p.ca, topic) {
				opt.LeapTo[tp] = end + 500
			}
		}
		got, err := mirror.Promote(t.Context(), p.cb, opt)
		if err != nil || len(got) != partitions {
			t.Fatalf("%v %v", got, err)
		}
		x := map[topology.Partition]int64{}
		for _, g := range got {
			x[g.Partition] = g.X
			if g.X > before[g.Partition] {
				moved++
			}
			if g.Fence != g.X || g.End < opt.LeapTo[g.Partition] {
				t.Errorf("%s", g)
			}
		}
		for i := range 5 {
			p.produce(p.cb, topic, partitions, i*20, 20, kgo.NoCompression())
		}
		late += g.open()
		mirrorSoon(t, "the running mirror has stopped for good", func() bool { return mirrorPromoted(running, topic, partitions) })
		mirrorSoon(t, "and the paused one", func() bool { return mirrorPromoted(paused, topic, partitions) })
		close(stop)
		<-stopped
		for what, r := range map[string]*mirrorRun{"running": running, "paused": paused} {
			if err := r.end(t); err != nil {
				t.Logf("the %s mirror: %v", what, err)
			}
		}
		gated.Close()
		again, err := mirror.Promote(t.Context(), p.cb, opt) // reads everything behind x: no stray
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range again {
			if g.X != got[i].X || g.Fence != got[i].Fence {
				t.Errorf("at first %s, then %s", got[i], g)
			}
		}
		if open, err := mirror.CheckFence(t.Context(), p.cb, opt, again); err != nil || len(open) > 0 {
			t.Errorf("%v %v", open, err)
		}
		// Below x both regions have the same, behind it the target has its own producers' records only.
		source, target := p.read(p.a, topic, x), p.read(p.b, topic, visibleEnds(t, p.b, topic))
		own := 0
		for tp := range x {
			n := 0
			for i, r := range target[tp] {
				if r.Offset >= x[tp] {
					own++
					continue
				}
				s := source[tp][i]
				if r.Offset != int64(i) || s.Offset != r.Offset || !bytes.Equal(s.Key, r.Key) || !bytes.Equal(s.Value, r.Value) || !s.Timestamp.Equal(r.Timestamp) {
					t.Fatalf("%s: record %d differs: %+v, %+v", tp, i, s, r)
				}
				n++
			}
			if int64(n) != x[tp] {
				t.Errorf("%s has %d records below %d", tp, n, x[tp])
			}
		}
		if own != 100 {
			t.Errorf("%d records behind x, the producers wrote 100", own)
		}
	}
	t.Logf("%d of %d partitions moved on between the reading and the fence; %d writes were held back and came late", moved, rounds*partitions, late)
	if late == 0 {
		t.Error("nothing came late")
	}
}

// visibleEnds are one past the last record of each partition that a plain
// consumer sees: it never gets a marker.
func visibleEnds(t *testing.T, k *stack.Kafka, topic string) map[topology.Partition]int64 {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Bootstrap()), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out := map[topology.Partition]int64{}
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		f := c.PollFetches(ctx)
		quiet := ctx.Err() != nil
		cancel()
		f.EachRecord(func(r *kgo.Record) { out[topology.Partition{Topic: topic, Partition: r.Partition}] = r.Offset + 1 })
		if quiet {
			return out
		}
	}
}

// TestPromotion_SurvivesAKillOfTheBroker kills the broker at several moments of
// a promotion and promotes again.
func TestPromotion_SurvivesAKillOfTheBroker(t *testing.T) {
	p := newPromoted(t, nil)
	for i, step := range []string{"fence", "leap", "end"} {
		z := p.zombie(t, "killed-"+step, 0)
		z.must(z.data(0, 1000))
		z.must(z.data(1000, 10))
		opt := z.options(0)
		opt.Patience = time.Minute
		opt.LeapTo = map[topology.Partition]int64{{Topic: z.name}: 3000}
		opt.LeapBudget = 20 * time.Second
		killed, restarted := 0, make(chan error, 1)
		opt.Progress = func(at mirror.PromoteProgress) {
			// For the fence, the second report: written and not yet read back.
			if at.Step == step && at.Done == 0 || at.Step == step && step == "end" {
				if killed++; killed == 2 || killed == 1 && step != "fence" {
					if err := p.k.Kill(); err != nil {
						t.Error(err)
					}
					go func() { restarted <- p.k.Restart(t.Context()) }()
				}
			}
		}
		got := z.promote2(opt)
		if err := <-restarted; err != nil {
			t.Fatal(err)
		}
		opt.Progress = nil
		if got.X != 1010 || got.Fence != 1010 || got.End < 3000 {
			t.Errorf("%d: killed in the step %s: %s", i, step, got)
		}
		z.refused("the next batch", z.data(1010, 5))
		z.refused("its last batch again", z.data(1000, 10))
		again := z.promote2(opt)
		if again.X != 1010 || again.Fence != 1010 {
			t.Errorf("%s after %s", again, got)
		}
		z.fenced(opt, again)
	}
}

// TestCheckFence_FindsAFenceThatTheBrokerForgot empties a log and restarts its
// broker, which then remembers no producer: the fence is lost, and a repeat of
// the mirror's batch would be stored, so the check must not send it.
func TestCheckFence_FindsAFenceThatTheBrokerForgot(t *testing.T) {
	p := newPromoted(t, nil)
	z, whole := p.zombie(t, "forgotten", 0), p.zombie(t, "remembered", 0)
	z.must(z.data(0, 100))
	whole.must(whole.data(0, 100))
	opt := z.options(0)
	opt.Topics = replicate.Only(z.name, whole.name)
	got, err := mirror.Promote(t.Context(), p.cl, opt)
	if err != nil || len(got) != 2 {
		t.Fatalf("%v %v", got, err)
	}
	z.deleteTo(z.end())
	if err := p.k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.k.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := z.end()
	open, err := mirror.CheckFence(t.Context(), p.cl, opt, got)
	if err != nil || len(open) != 1 || open[0].Topic != z.name || !strings.Contains(open[0].Why, "remember") {
		t.Errorf("%+v %v, want %s only", open, err, z.name)
	}
	if z.end() != before {
		t.Error("the check wrote a record")
	}
	if with, err := mirror.Authorizer(t.Context(), p.cl); err != nil || with {
		t.Errorf("the broker has no authorizer, said is %t, %v", with, err)
	}
}

// TestPromotion_WhileAPrefixIsBeingSeeded leaps far, over filler, shows
// nothing of it, and finds the same x again after kills of the broker.
func TestPromotion_WhileAPrefixIsBeingSeeded(t *testing.T) {
	p := newPromoted(t, nil)
	z := p.zombie(t, "seeding", 0)
	z.must(z.filler(0, 30_000))
	z.must(z.filler(30_000, 30_000))
	opt := z.options(0)
	tp := topology.Partition{Topic: z.name}
	opt.LeapTo = map[topology.Partition]int64{tp: 3_000_000}
	opt.LeapBudget, opt.Patience = 30*time.Second, time.Minute
	start := func() int64 {
		t.Helper()
		r, err := mirror.Ends(t.Context(), p.cl, replicate.Only(z.name))
		if err != nil {
			t.Fatal(err)
		}
		return r[tp].Start
	}
	restarted := make(chan error, 1)
	killed := false
	opt.Progress = func(at mirror.PromoteProgress) { // in the middle of the filler
		if at.Step == "seeded" && at.Done == 0 && !killed {
			killed = true
			go func() {
				time.Sleep(150 * time.Millisecond)
				restarted <- errors.Join(p.k.Kill(), p.k.Restart(context.Background()))
			}()
		}
	}
	began := time.Now()
	first := z.promote2(opt)
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	t.Logf("%s in %s", first, time.Since(began).Round(time.Millisecond))
	check := func(what string, got mirror.Promotion, records int) {
		t.Helper()
		if got.X != 60_000 || !got.Seeding || got.FillerShown || got.Short != 0 || got.End < 3_000_000 || got.Fence < start() || start() < 2_999_990 {
			t.Errorf("%s: %s; the log starts at %d", what, got, start())
		}
		z.seesOnly(records)
		z.refused("the next filler", z.filler(60_000, 5000))
		z.refused("the first data", z.at(60_000).data(60_000, 5))
		z.fenced(opt, got)
	}
	check("at first", first, 0)
	z.produce(7)
	check("again", z.promote2(opt), 7)
	// A broker notes the start of a log once a minute: a kill brings filler back.
	if err := errors.Join(p.k.Kill(), p.k.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Logf("after a kill the log starts at %d", start())
	if start() == 0 {
		open, err := mirror.CheckFence(t.Context(), p.cl, opt, []mirror.Promotion{first})
		if err != nil || len(open) != 1 || !strings.Contains(open[0].Why, "filler") {
			t.Errorf("the check says %+v %v", open, err)
		}
	}
	check("after a kill", z.promote2(opt), 7)
}

// TestPromotion_OnThreeBrokers takes followers and leaders away: a fence that
// only the leader has is none, and one that stands survives elections.
func TestPromotion_OnThreeBrokers(t *testing.T) {
	c := stack.RunKafkaCluster(t, stack.KafkaOptions{Name: "promoted"}, 3)
	cl, err := kafka.Open(kafka.Config{Name: "b", Brokers: c.Bootstrap(), RequestTimeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	p := &promoted{t: t, cl: cl, link: replicate.Link{Source: "a", Target: "b", Epoch: 2}}
	z := p.zombie(t, "three", 0)
	mirrorSoon(t, "the new topic takes records", func() bool { return z.data(0, 80) == nil })
	z.must(z.data(80, 20))
	insync := func(n int) {
		t.Helper()
		mirrorSoon(t, fmt.Sprintf("%d copies are in sync", n), func() bool {
			m, err := cl.Admin.Metadata(t.Context(), z.name)
			return err == nil && len(m.Topics[z.name].Partitions) == 1 && len(m.Topics[z.name].Partitions[0].ISR) == n
		})
	}
	others := func() (out []*stack.Kafka) {
		for i := range c.Nodes() {
			if i != z.node {
				out = append(out, c.Node(i))
			}
		}
		return out
	}
	opt := z.options(0)
	insync(3)

	// Both followers stand still: the leader has the markers, and nobody else.
	followers := others()
	for _, k := range followers {
		z.must(k.Pause())
	}
	// Not as long as it takes to shrink the in-sync replicas to the leader: the
	// controllers would do that when they wake up, and nobody else could lead.
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	began := time.Now()
	if got, err := mirror.Promote(short, cl, opt); err == nil {
		t.Fatalf("%s was promoted by a broker that is alone", got)
	} else {
		t.Logf("alone, after %s: %v", time.Since(began).Round(time.Millisecond), err)
	}
	old := z.node
	z.must(c.Node(old).Kill())
	for _, k := range followers {
		z.must(k.Resume())
	}
	z.find(old)
	// Whether a marker had reached a follower is chance; the repeat is harmless.
	t.Logf("on the next leader, before a fence that counts: the last batch again is answered %v", z.data(80, 20))
	opt.RequestTimeout, opt.Patience = 20*time.Second, time.Minute
	at := z.promote2(opt)
	if at.X != 100 || at.Fence != 100 {
		t.Errorf("%s", at)
	}
	late := func(when string) {
		t.Helper()
		z.refused(when+": the next batch", z.data(100, 5))
		z.refused(when+": its last batch again", z.data(80, 20))
		z.refused(when+": a run at x", z.at(100).data(100, 5))
		z.refused(when+": markers", z.marks(100, 103, 1))
		z.fenced(opt, at)
	}
	late("promoted with two of three")

	// The broker with the markers of the failed try returns, and the leader goes.
	z.must(c.Node(old).Restart(t.Context()))
	insync(3)
	second := z.node
	z.must(c.Node(second).Kill())
	z.find(second)
	late("after an election")
	z.must(c.Node(second).Restart(t.Context()))
	insync(3)

	// One follower stands still: the fence waits until it is out.
	z.find(-1)
	slow := others()[0]
	z.must(slow.Pause())
	began = time.Now()
	again := z.promote2(opt)
	t.Logf("with a follower that stands still: %s", time.Since(began).Round(time.Millisecond))
	if again.X != 100 || again.Fence != 100 {
		t.Errorf("%s after %s", again, at)
	}
	z.must(slow.Resume())
	late("at the end")
}
