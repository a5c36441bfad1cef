package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// lookTimeout bounds one look; a failed one is tried again.
const lookTimeout = 10 * time.Second

// lookItem is one partition that wants its ends read, with where it lives.
type lookItem struct {
	gen      uint32
	link     replicate.Run
	from, to spot
}

// lookMany reads both ends of partitions that share their source broker and
// their target broker. Every item gets a Looked or a LookFailed.
func lookMany(ctx context.Context, source *kafka.Client, sourceNode int32, target *kafka.Client, targetNode int32, items []lookItem) map[topology.Partition]replicate.Event {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	from, to := make([]spot, len(items)), make([]spot, len(items))
	for i, it := range items {
		from[i], to[i] = it.from, it.to
	}
	var fromStart, fromEnd, toStart, toHigh, toEnd map[topology.Partition]answer
	together(
		func() { fromStart = offsetAt(ctx, source, sourceNode, from, -2) },
		func() { fromEnd = offsetAt(ctx, source, sourceNode, from, -1) },
		func() { toStart = offsetAt(ctx, target, targetNode, to, -2) },
		func() { toHigh = offsetAt(ctx, target, targetNode, to, -1) },
		func() { toEnd = logEnd(ctx, target, targetNode, to) },
	)
	out := make(map[topology.Partition]replicate.Event, len(items))
	looked := map[topology.Partition]replicate.Looked{}
	last := map[topology.Partition]int64{} // offset of the target's last record
	var fromLast, toLast []spot
	for _, it := range items {
		p := it.to.Partition
		switch {
		case fromStart[p].err != nil:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: "read source: " + fromStart[p].err.Error()}
		case fromEnd[p].err != nil:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: "read source: " + fromEnd[p].err.Error()}
		case toStart[p].err != nil:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: "read target: " + toStart[p].err.Error()}
		case toHigh[p].err != nil:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: "read target: " + toHigh[p].err.Error()}
		case toEnd[p].err != nil:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: "read target: " + toEnd[p].err.Error()}
		case toHigh[p].offset != toEnd[p].offset:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: fmt.Sprintf("the target's end is not settled: log end %d, high watermark %d (a follower is behind or below min.insync.replicas)", toEnd[p].offset, toHigh[p].offset)}
		default:
			l := replicate.Looked{
				Gen: it.gen, At: time.Now(), SourceEpoch: -1,
				SourceStart: fromStart[p].offset, SourceEnd: fromEnd[p].offset,
				TargetStart: toStart[p].offset, TargetEnd: toEnd[p].offset,
			}
			looked[p] = l
			last[p] = l.TargetEnd - 1
			if l.TargetEnd > l.TargetStart {
				toLast = append(toLast, it.to)
				if l.SourceStart < l.TargetEnd && l.TargetEnd <= l.SourceEnd {
					fromLast = append(fromLast, it.from)
				}
			}
		}
	}
	// The target ends with its batch; the source may go on for long, so it is
	// asked for no more than that.
	toBatch := batchAt(ctx, target, targetNode, toLast, last, anySize)
	fromBatch := batchAt(ctx, source, sourceNode, fromLast, last, func(p topology.Partition) int32 {
		if b := toBatch[p].batch; b != nil {
			return int32(b.Size())
		}
		return anySize(p)
	})
	var ask []spot
	ids := map[topology.Partition]int64{}
	for _, it := range items {
		p := it.to.Partition
		l, ok := looked[p]
		if !ok {
			continue
		}
		a, b := fromBatch[p], toBatch[p]
		if a.err != nil || b.err != nil {
			side, err := "source", a.err
			if err == nil {
				side, err = "target", b.err
			}
			out[p] = replicate.LookFailed{Gen: it.gen, Why: fmt.Sprintf("read the last batch at the %s: %v", side, err)}
			delete(looked, p)
			continue
		}
		if b.batch != nil {
			l.Last = &b.batch.Header
		}
		if a.batch != nil {
			l.SourceEpoch = a.batch.LeaderEpoch
		}
		if a.batch != nil && b.batch != nil {
			l.Compared = compareAt(*a.batch, *b.batch, l.TargetEnd)
		}
		if l.TargetEnd > it.link.Start {
			if l.Last != nil {
				w, ours := it.link.Writer(*l.Last)
				if !ours {
					l.ForeignFrom = foreignFrom(ctx, target, targetNode, it, max(it.link.Start, l.TargetStart), l.Last.Base)
				} else if w.Link == it.link.Link {
					ask = append(ask, it.to)
					ids[p] = l.Last.ProducerID
				}
			}
		}
		looked[p] = l
	}
	known := map[topology.Partition]answer{}
	if len(ask) > 0 {
		known = knowsProducer(ctx, target, targetNode, ask, ids)
	}
	for p, l := range looked {
		l.RunKnown = known[p].known
		l.At = time.Now()
		out[p] = l
	}
	return out
}

// foreignFrom finds the first offset in [lo, hi) that the link did not write. A
// link writes without gaps, so what is foreign lies behind all that is its own
// and halving finds the border. When a read fails, the answer is the lowest
// offset that is known to be foreign.
func foreignFrom(ctx context.Context, cl *kafka.Client, node int32, it lookItem, lo, hi int64) int64 {
	for range 64 {
		if lo >= hi {
			break
		}
		mid := lo + (hi-lo)/2
		got := batchAt(ctx, cl, node, []spot{it.to}, map[topology.Partition]int64{it.to.Partition: mid}, oneBatch)[it.to.Partition]
		if got.err != nil || got.batch == nil {
			break
		}
		if _, ours := it.link.Writer(got.batch.Header); ours {
			lo = got.batch.End()
		} else {
			hi = min(hi, max(lo, got.batch.Base))
		}
	}
	return hi
}

// oneBatch asks for as little as a broker gives: one whole batch.
func oneBatch(topology.Partition) int32 { return 1 }

// compareAt compares what two batches hold below end, first by their bytes
// and, where brokers store them differently, by their records.
func compareAt(a, b replicate.Batch, end int64) replicate.Comparison {
	if replicate.SameContent(a, b) {
		return replicate.Same
	}
	same, err := sameRecords(a, b, max(a.Base, b.Base), end)
	if err == nil && same {
		return replicate.Same
	}
	return replicate.Different
}

// together runs the functions at the same time and waits for all.
func together(work ...func()) {
	var wg sync.WaitGroup
	for _, w := range work {
		wg.Go(w)
	}
	wg.Wait()
}

// bySpot sorts by partition, so that requests are the same for the same work.
func bySpot(spots []spot) []spot {
	slices.SortFunc(spots, func(a, b spot) int { return a.Compare(b.Partition) })
	return spots
}

// sortedPartitions returns the keys of m in order.
func sortedPartitions[V any](m map[topology.Partition]V) []topology.Partition {
	return slices.SortedFunc(maps.Keys(m), topology.Partition.Compare)
}
