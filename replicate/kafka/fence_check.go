package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Unfenced is a partition whose fence does not hold any more, or could not be
// proven to. Repeat the promotion: it fences again and keeps X.
type Unfenced struct {
	topology.Partition
	Why string `json:"why"`
}

// String says it in one line.
func (u Unfenced) String() string { return fmt.Sprintf("%s: %s", u.Partition, u.Why) }

// checkBytes bounds what one request of a check sends again.
const checkBytes = 4 << 20

// CheckFence proves that the fences of a promotion hold, as far as the brokers
// go now: each fence marker still stands where it stood, the broker remembers
// that the producer ids of the link are shut, and it refuses the link's last
// batch, sent once more exactly as it is stored. Such a repeat is never stored:
// it is sent only where the broker remembers the batch's producer, and there it
// is refused or, without a fence, answered as a duplicate.
//
// It returns the partitions where the fence does not hold; none is the good
// answer. A fence can be lost with an unclean election, so check again when a
// leader epoch has changed.
func CheckFence(ctx context.Context, target *kafka.Client, opt PromoteOptions, promoted []Promotion) ([]Unfenced, error) {
	opt = opt.withDefaults()
	p, err := newPromoter(ctx, target, opt)
	if err != nil {
		return nil, fmt.Errorf("check the fence of %s: %w", opt.Link, err)
	}
	defer p.slow.Close()
	c := &fenceCheck{promoter: p, of: map[topology.Partition]Promotion{}, holds: map[topology.Partition]bool{}, why: map[topology.Partition]string{}}
	for _, one := range promoted {
		c.of[one.Partition] = one
	}
	p.parts = slices.DeleteFunc(p.parts, func(q *promoting) bool { _, ok := c.of[q.Partition]; return !ok })
	if len(p.parts) != len(c.of) {
		return nil, fmt.Errorf("check the fence of %s: kafka %s has %d of the %d promoted partitions", opt.Link, target.Name(), len(p.parts), len(c.of))
	}
	err = p.rounds(ctx, "check", func(q *promoting) bool { return c.holds[q.Partition] || c.why[q.Partition] != "" }, c.round)
	if err != nil {
		return nil, fmt.Errorf("check the fence of %s: %w", opt.Link, err)
	}
	var out []Unfenced
	for _, id := range sortedPartitions(c.why) {
		out = append(out, Unfenced{id, c.why[id]})
	}
	return out, nil
}

// fenceCheck is one check under way.
type fenceCheck struct {
	*promoter
	of    map[topology.Partition]Promotion
	holds map[topology.Partition]bool
	why   map[topology.Partition]string // why the fence does not hold
}

func (c *fenceCheck) round(ctx context.Context, todo []*promoting) error {
	if err := c.read(ctx, todo); err != nil {
		return err
	}
	todo = readyOf(todo)
	states, err := c.producers(ctx, todo)
	if err != nil {
		for _, q := range todo {
			q.failed(err.Error())
		}
		return nil
	}
	by := map[int32][]*promoting{}
	for _, q := range todo {
		by[q.node] = append(by[q.node], q)
	}
	for node, of := range by {
		c.at(ctx, node, of, states)
	}
	return nil
}

// at checks the partitions of one broker.
func (c *fenceCheck) at(ctx context.Context, node int32, of []*promoting, states map[topology.Partition][]replicate.ProducerState) {
	marker, last := map[topology.Partition]int64{}, map[topology.Partition]int64{}
	var spots, own []spot
	for _, q := range of {
		at := c.of[q.Partition]
		marker[q.Partition] = at.Fence
		spots = append(spots, q.at)
		if at.X > max(q.run.Start, q.start) {
			last[q.Partition] = at.X - 1
			own = append(own, q.at)
		}
	}
	markers := peekMany(ctx, c.cl, node, spots, marker)
	lasts := peekMany(ctx, c.cl, node, own, last)
	var again []*promoting
	stamped := map[topology.Partition][]byte{}
	for _, q := range of {
		at, id := c.of[q.Partition], q.Partition
		var lastBatch *replicate.Batch
		if got, ok := lasts[id]; ok {
			if got.err != nil {
				q.failed("read its last batch: " + got.err.Error())
				continue
			}
			if len(got.batches) > 0 && got.batches[0].Base < at.X {
				lastBatch = &got.batches[0]
			}
		}
		found := markers[id]
		if found.err != nil && !errors.Is(found.err, kerr.OffsetOutOfRange) {
			q.failed("read its fence: " + found.err.Error())
			continue
		}
		stands := len(found.batches) > 0 && found.batches[0].IsFence() && found.batches[0].Base == at.Fence
		if !stands && q.start <= at.Fence { // else retention took it, as it takes everything
			c.why[id] = fmt.Sprintf("no fence marker stands at %d any more (an unclean election?)", at.Fence)
			continue
		}
		if at.Seeding && !at.FillerShown && q.start < at.X {
			c.why[id] = fmt.Sprintf("its filler is shown again: the log starts at %d (a broker that was killed forgets the last minute's log starts)", q.start)
			continue
		}
		need := q.run.Fence(at.X, lastBatch, nil)
		if lastBatch == nil { // deleted since: what every fence at X has
			need = []replicate.Mark{replicate.FenceMark(q.run.DataProducer(at.X)), replicate.FenceMark(q.run.SeedProducer(q.run.Start)), replicate.FenceMark(q.run.FillProducer(at.X))}
		}
		if open := openID(need, states[id]); open != nil {
			c.why[id] = fmt.Sprintf("the broker does not remember that producer %d is shut (expired, an emptied log and a restart, or an unclean election)", open.ProducerID)
			continue
		}
		if lastBatch != nil {
			if w, kind := q.run.Author(*lastBatch); kind == replicate.Data || kind == replicate.Seeded {
				stamp := w.Stamp(lastBatch.Base)
				if kind == replicate.Seeded {
					stamp = w.Seed(lastBatch.Base)
				}
				stamped[id] = lastBatch.Restamp(stamp)
				again = append(again, q)
				continue
			}
		}
		c.holds[id] = true
	}
	for len(again) > 0 {
		n, size := 0, 0
		for n < len(again) && (n == 0 || size+len(stamped[again[n].Partition]) <= checkBytes) {
			size += len(stamped[again[n].Partition])
			n++
		}
		c.repeat(ctx, node, again[:n], stamped)
		again = again[n:]
	}
}

// openID returns the first of these markers whose id the broker does not know
// as shut.
func openID(marks []replicate.Mark, states []replicate.ProducerState) *replicate.Mark {
	for _, m := range marks {
		if !slices.ContainsFunc(states, func(s replicate.ProducerState) bool {
			return s.ID == m.ProducerID && s.Shut()
		}) {
			return &m
		}
	}
	return nil
}

// repeat sends the last batches once more.
func (c *fenceCheck) repeat(ctx context.Context, node int32, of []*promoting, stamped map[topology.Partition][]byte) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = int32((10 * time.Second).Milliseconds())
	for _, q := range of {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != q.Topic {
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic, rt.TopicID = q.Topic, q.at.id
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = q.Partition.Partition, stamped[q.Partition]
		rt := &req.Topics[len(req.Topics)-1]
		rt.Partitions = append(rt.Partitions, rp)
	}
	resp, err := c.slow.Kgo.Broker(int(node)).Request(ctx, req)
	if err != nil {
		for _, q := range of {
			q.failed("send its last batch again: " + err.Error())
		}
		return
	}
	answers := map[topology.Partition]error{}
	names := namesOf(spotsOf(of))
	for _, t := range resp.(*kmsg.ProduceResponse).Topics {
		name := t.Topic
		if name == "" {
			name = names[t.TopicID]
		}
		for _, x := range t.Partitions {
			id := topology.Partition{Topic: name, Partition: x.Partition}
			if answers[id] = kerr.ErrorForCode(x.ErrorCode); answers[id] == nil {
				answers[id] = errRepeatTaken
			}
		}
	}
	for _, q := range of {
		switch err := answers[q.Partition]; {
		case err == nil:
			q.failed("send its last batch again: " + errNoAnswer.Error())
		case errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
			c.holds[q.Partition] = true // fenced, or not even allowed
		case errors.Is(err, errRepeatTaken), errors.Is(err, kerr.OutOfOrderSequenceNumber):
			c.why[q.Partition] = "the broker does not refuse the mirror's last batch: " + err.Error()
		default:
			q.failed("send its last batch again: " + err.Error())
		}
	}
}

var errRepeatTaken = errors.New("it was answered as a duplicate")
