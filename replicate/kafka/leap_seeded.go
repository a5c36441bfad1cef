package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/replicate"
)

// fillerTries bounds how often a leap over filler begins again after an error.
const fillerTries = 10

// leapSeeded ends the seeding of partitions whose last own batch is filler.
// The way to LeapTo may be far there, so it goes over filler, some hundred
// thousand offsets a request. Then a stone and the fence once more, and all
// below the stone is deleted: nobody ever sees filler. A crash between the two
// leaves a log that is read as before.
//
// Records of somebody else are never deleted: where there are some, below the
// link's start or behind its end, the filler stays and is said.
func (p *promoter) leapSeeded(ctx context.Context) error {
	hide := map[*promoting]bool{}
	for _, q := range p.parts {
		q.ready, q.tries = false, 0
		if q.hideable() && !q.stone {
			hide[q] = true
		}
	}
	if len(hide) == 0 {
		return nil
	}
	until := time.Now().Add(p.LeapBudget)
	return p.rounds(ctx, "seeded", func(q *promoting) bool { return !hide[q] || q.stone }, func(ctx context.Context, todo []*promoting) error {
		if err := p.read(ctx, todo); err != nil {
			return err
		}
		for _, q := range readyOf(todo) {
			if q.tries++; q.tries > fillerTries {
				return fmt.Errorf("%s: %s", q.Partition, q.why)
			}
			p.readOn(ctx, q.node, []*promoting{q}) // what came since the fence
			hide[q] = q.hideable()
			if !hide[q] || !q.ready {
				continue
			}
			if err := p.endSeeding(ctx, q, until); err != nil {
				q.failed(err.Error())
			}
		}
		return nil
	})
}

// hideable says that the partition was being seeded, and all that would be
// deleted with its filler was read and is filler and markers only.
func (q *promoting) hideable() bool {
	return q.seeding() && q.start >= q.run.Start && (q.tail.Stone >= 0 || q.tail.Other < 0 && q.tail.Stray < 0 && !q.tail.Skipped)
}

// endSeeding goes from wherever the log is to a log that starts with a stone.
func (p *promoter) endSeeding(ctx context.Context, q *promoting, until time.Time) error {
	if q.tail.Stone < 0 {
		if err := p.leapOverFiller(ctx, q, until); err != nil {
			return err
		}
		if err := p.layStone(ctx, q); err != nil {
			return err
		}
	}
	var to kadm.Offsets
	to.Add(kadm.Offset{Topic: q.Topic, Partition: q.Partition.Partition, At: q.tail.Stone})
	deleted, err := p.cl.Admin.DeleteRecords(ctx, to)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		return fmt.Errorf("delete the filler below %d: %w", q.tail.Stone, err)
	}
	q.stone = true
	return nil
}

// leapOverFiller appends filler from the settled end to LeapTo, under an id of
// the promotion's own, or as far as the time goes.
func (p *promoter) leapOverFiller(ctx context.Context, q *promoting, until time.Time) error {
	target := p.LeapTo[q.Partition] - 1 // the stone is one more
	if q.end >= target {
		return nil
	}
	id := q.run.LeapProducer()
	epoch, err := p.leapEpoch(ctx, []*promoting{q}, id)
	if err != nil {
		return err
	}
	// Its own epoch for each try: what an earlier one left on its way is refused.
	run := replicate.Stamp{ProducerID: id, Epoch: epoch + 1}
	for next := q.end; next < target && time.Now().Before(until); {
		n := min(target-next, fillerMost)
		b, err := filler(int(n), next, true)
		if err != nil {
			return err
		}
		run.Sequence = int32((next - q.end) & 0x7fffffff)
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, int32(p.RequestTimeout.Milliseconds())
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.TopicID = q.Topic, q.at.id
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = q.Partition.Partition, b.Restamp(run)
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := p.slow.Kgo.Broker(int(q.node)).Request(ctx, req)
		if err != nil {
			return fmt.Errorf("leap over filler at %d: %w", next, err)
		}
		pr := resp.(*kmsg.ProduceResponse)
		if len(pr.Topics) != 1 || len(pr.Topics[0].Partitions) != 1 {
			return fmt.Errorf("leap over filler at %d: %w", next, errNoAnswer)
		}
		got := pr.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
			return fmt.Errorf("leap over filler at %d: %w", next, err)
		}
		if got.BaseOffset != next {
			q.tail.Other = next
			return fmt.Errorf("leap over filler at %d: it was stored at %d: somebody else writes here", next, got.BaseOffset)
		}
		next += n
		q.tail.Next = next // known without reading it
		q.moved = time.Now()
	}
	return nil
}

// layStone writes the stone and the fence once more behind it, and sees them
// in the log.
func (p *promoter) layStone(ctx context.Context, q *promoting) error {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for _, m := range append([]replicate.Mark{q.run.Stone(q.tail.X)}, q.want...) {
		addMarker(req, m, q.only())
	}
	codes, err := writeMarkers(ctx, p.slow, q.node, p.RequestTimeout, req)
	if err != nil {
		return fmt.Errorf("write the stone: %w", err)
	}
	if len(codes) != len(req.Markers) {
		return fmt.Errorf("write the stone: %w", errNoAnswer)
	}
	for _, err := range codes {
		if err != nil {
			why, _ := markerTrouble(err)
			return errors.New(why)
		}
	}
	from := q.tail.Next
	if err := p.readOne(ctx, q); err != nil {
		return err
	}
	p.readOn(ctx, q.node, []*promoting{q})
	switch {
	case !q.ready:
		return errors.New(q.why)
	case q.tail.Stone < from || !q.tail.Stands(q.want, q.tail.Stone):
		return fmt.Errorf("the stone was not found behind %d, with the fence behind it", from)
	}
	return nil
}

// readOne reads the settled end of one partition.
func (p *promoter) readOne(ctx context.Context, q *promoting) error {
	for range fillerTries {
		if err := p.read(ctx, []*promoting{q}); err != nil {
			return err
		}
		if q.ready {
			return nil
		}
		if err := pause(ctx, promotePause); err != nil {
			return err
		}
	}
	return errors.New(q.why)
}
