package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// trace brings the tails of these partitions up to their settled ends. At first
// it goes back from the end to a batch of the link's own; from there on it
// reads forward.
func (p *promoter) trace(ctx context.Context, parts []*promoting) error {
	var fresh []*promoting
	for _, q := range parts {
		if q.tail == nil {
			fresh = append(fresh, q)
		}
	}
	finals := make(chan error, len(parts))
	p.perNode(fresh, func(node int32, of []*promoting) {
		if err := p.goBack(ctx, node, of); err != nil {
			finals <- err
		}
	})
	p.perNode(readyOf(parts), func(node int32, of []*promoting) { p.readOn(ctx, node, of) })
	select {
	case err := <-finals:
		return err
	default:
		return nil
	}
}

// border searches the end of the link's own records: at or above low, below
// high. Own records have no gaps and are followed by foreign ones only, so
// steps back that double, and then halving, find it.
type border struct {
	q         *promoting
	low, high int64 // below low all is own, at high and behind it nothing is
	last      *replicate.Batch
	step      int64 // how far below high to look; 0: halve
}

// at is the offset to look at next; ok is false when there is no need.
func (b *border) at() (int64, bool) {
	switch {
	case b.high <= b.low:
		return 0, false
	case b.step > 0:
		return max(b.low, b.high-b.step), true
	case b.high-b.low <= traceNear && b.last != nil:
		return 0, false
	}
	return b.low + (b.high-b.low)/2, true
}

// saw takes the first batch of the log that ends behind the offset at.
func (b *border) saw(at int64, batch replicate.Batch) {
	if _, kind := b.q.run.Author(batch); kind != replicate.Foreign {
		b.low, b.last, b.step = batch.End(), &batch, 0
		return
	}
	b.high = min(b.high, max(b.low, min(at, batch.Base)))
	b.step *= 2
}

// goBack finds where the link's own records end.
func (p *promoter) goBack(ctx context.Context, node int32, of []*promoting) error {
	search := map[topology.Partition]*border{}
	for _, q := range of {
		search[q.Partition] = &border{q: q, low: max(q.run.Start, q.start), high: q.end, step: 1}
	}
	for range traceSteps {
		at := map[topology.Partition]int64{}
		var spots []spot
		for _, q := range of {
			if o, more := search[q.Partition].at(); more && q.ready {
				at[q.Partition] = o
				spots = append(spots, q.at)
			}
		}
		if len(spots) == 0 {
			break
		}
		for id, got := range peekMany(ctx, p.cl, node, spots, at) {
			b := search[id]
			switch {
			case got.err != nil:
				b.q.failed("read the end of its log: " + got.err.Error())
			case len(got.batches) == 0:
				b.q.failed(fmt.Sprintf("read the end of its log: nothing at %d, although it ends at %d", at[id], b.q.end))
			default:
				b.saw(at[id], got.batches[0])
			}
		}
	}
	for _, q := range of {
		b := search[q.Partition]
		if !q.ready {
			continue
		}
		if _, more := b.at(); more {
			q.failed("the end of the mirror's records was not found")
			continue
		}
		q.tail = replicate.NewTail(q.run, b.low, b.last)
		if b.last == nil && b.low > q.run.Start && b.low < q.end {
			if err := p.startsElsewhere(ctx, node, q); err != nil {
				return err
			}
		}
	}
	return nil
}

// startsElsewhere finds x for a log that begins, behind the link's start, with
// a batch that is not the link's own: all that was below is deleted. The first
// batch may tell: the fence stands at x, and a stone carries it. Else x must
// have been recorded.
func (p *promoter) startsElsewhere(ctx context.Context, node int32, q *promoting) error {
	got := peekMany(ctx, p.cl, node, []spot{q.at}, q.offset(q.tail.X))[q.Partition]
	if len(got.batches) == 0 { // with an error or without
		q.tail = nil
		q.failed(fmt.Sprintf("read the start of its log: no batch, %v", got.err))
		return nil
	}
	x, known := q.run.StoneAt(got.batches[0])
	q.stone = known
	if !known {
		x, known = p.Recorded[q.Partition]
	}
	switch {
	case known && x <= q.tail.X:
		start := q.tail.X
		q.tail = replicate.NewTail(q.run, x, nil)
		q.tail.Next = start
	case !known && got.batches[0].IsFence():
	default:
		return fmt.Errorf("%s in kafka %s: %w: it starts at %d with records of somebody else (was it promoted before? then say the x that was recorded)", q.Partition, p.cl.Name(), errLogStart, q.start)
	}
	return nil
}

// readOn reads the logs forward to their ends. Of a long part behind the
// border, such as a leap or producers' records, only the beginning is read.
func (p *promoter) readOn(ctx context.Context, node int32, of []*promoting) {
	read := map[topology.Partition]int{}
	byID := make(map[topology.Partition]*promoting, len(of))
	for _, q := range of {
		byID[q.Partition] = q
	}
	for {
		at := map[topology.Partition]int64{}
		var spots []spot
		for _, q := range of {
			if !q.ready || q.tail == nil {
				continue
			}
			limit, skip := traceBytes, q.end
			if q.seeding() {
				limit = traceFiller
			}
			if q.wrote && q.tail.Next < q.from {
				skip = q.from // the markers to be read back are behind it
			} else if q.wrote {
				limit = max(limit, traceMarks)
			}
			if read[q.Partition] > limit {
				q.tail.Skip(skip)
				read[q.Partition] = 0
			}
			if q.tail.Next < q.end {
				at[q.Partition] = q.tail.Next
				spots = append(spots, q.at)
			}
		}
		if len(spots) == 0 || ctx.Err() != nil {
			return
		}
		for id, got := range peekMany(ctx, p.cl, node, spots, at) {
			q := byID[id]
			switch {
			case got.err != nil:
				q.failed("read the end of its log: " + got.err.Error())
			case len(got.batches) == 0:
				q.failed(fmt.Sprintf("read the end of its log: nothing at %d, although it ends at %d", at[id], q.end))
			}
			for _, b := range got.batches {
				if b.Base >= q.end {
					break
				}
				q.tail.Take(b)
				read[id] += b.Size()
			}
		}
	}
}

// peeked are the whole batches of a log that end behind an offset, as many as
// one answer had.
type peeked struct {
	batches []replicate.Batch
	err     error
}

// peekMany reads batches of each spot from its offset on, at least one of each
// that has any, and uncommitted ones too.
func peekMany(ctx context.Context, cl *kafka.Client, node int32, spots []spot, at map[topology.Partition]int64) map[topology.Partition]peeked {
	out := make(map[topology.Partition]peeked, len(spots))
	size := int32(traceGuess)
	for rest := spots; len(rest) > 0; size = traceGuessMax {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		got, err := peekOnce(ctx, cl, node, rest, at, size)
		cancel()
		var again []spot
		for i, s := range rest {
			a, ok := got[s.Partition]
			switch {
			case err != nil:
				a = peeked{err: err}
			case !ok:
				a = peeked{err: errNoAnswer}
			case a.err == nil && len(a.batches) == 0 && (i > 0 || size < traceGuessMax):
				// A broker promises a whole batch only for the first partition
				// of a request: ask on until each had its turn.
				again = append(again, s)
				continue
			}
			out[s.Partition] = a
		}
		rest = again
	}
	return out
}

func peekOnce(ctx context.Context, cl *kafka.Client, node int32, spots []spot, at map[topology.Partition]int64, size int32) (map[topology.Partition]peeked, error) {
	req := fetchRequest(0, 32<<20, 0)
	for _, s := range spots {
		addFetch(req, s, at[s.Partition], -1, size)
	}
	resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	fr := resp.(*kmsg.FetchResponse)
	if err := fetchError(fr); err != nil {
		return nil, err
	}
	names := namesOf(spots)
	out := make(map[topology.Partition]peeked, len(spots))
	for _, t := range fr.Topics {
		for _, p := range t.Partitions {
			id := topology.Partition{Topic: names[t.TopicID], Partition: p.Partition}
			a := peeked{err: kerr.ErrorForCode(p.ErrorCode)}
			if a.err == nil {
				a.batches, a.err = replicate.ParseBatches(p.RecordBatches)
				a.batches = slices.DeleteFunc(a.batches, func(b replicate.Batch) bool { return b.End() <= at[id] })
				for i := range a.batches { // let the answer's buffer go
					a.batches[i].Raw = slices.Clone(a.batches[i].Raw)
				}
			}
			out[id] = a
		}
	}
	return out, nil
}

func sortedIDs(m map[int64]int64) []int64 { return slices.Sorted(maps.Keys(m)) }
