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
	gen        uint32
	link       replicate.Run
	from, to   spot
	targetOnly bool // a replicate.LookTarget
	compacted  bool // the log cleaner may have taken records of one end only
}

// lookMany reads both ends of partitions that share their source broker and
// their target broker. Every item gets a Looked or TargetLooked, or a
// LookFailed.
func lookMany(ctx context.Context, source *kafka.Client, sourceNode int32, target *kafka.Client, targetNode int32, items []lookItem) map[topology.Partition]replicate.Event {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var from, to []spot
	for _, it := range items {
		to = append(to, it.to)
		if !it.targetOnly {
			from = append(from, it.from)
		}
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
		case !it.targetOnly && fromStart[p].err != nil:
			out[p] = replicate.LookFailed{Gen: it.gen, Why: "read source: " + fromStart[p].err.Error()}
		case !it.targetOnly && fromEnd[p].err != nil:
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
				TargetTail: replicate.TargetTail{Start: toStart[p].offset, End: toEnd[p].offset},
			}
			looked[p] = l
			last[p] = l.End - 1
			if l.End > l.Start {
				toLast = append(toLast, it.to)
				if !it.targetOnly && l.SourceStart < l.End && l.End <= l.SourceEnd {
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
			l.Last = b.batch
		}
		if a.batch != nil {
			l.SourceEpoch = a.batch.LeaderEpoch
		}
		if a.batch != nil && b.batch != nil {
			l.Compared = compareAt(*a.batch, *b.batch, l.End, it.compacted)
			if l.Compared == replicate.Different {
				l.DiffersFrom = differsFrom(ctx, source, sourceNode, target, targetNode, it, max(it.link.Start, l.SourceStart, l.Start), max(a.batch.Base, b.batch.Base))
			}
		}
		if l.End > it.link.Start && l.Last != nil {
			switch w, kind := it.link.Author(*l.Last); {
			case kind == replicate.Foreign:
				l.ForeignFrom, l.Fenced = foreignFrom(ctx, target, targetNode, it, max(it.link.Start, l.Start), *l.Last)
			case kind != replicate.Fill && w.Link == it.link.Link && !it.targetOnly:
				ask = append(ask, it.to)
				ids[p] = l.Last.ProducerID
			}
		}
		looked[p] = l
	}
	known := map[topology.Partition]answer{}
	if len(ask) > 0 {
		known = knowsProducer(ctx, target, targetNode, ask, ids)
	}
	now := time.Now()
	for _, it := range items {
		p := it.to.Partition
		l, ok := looked[p]
		switch {
		case !ok:
		case it.targetOnly:
			out[p] = replicate.TargetLooked{Gen: it.gen, At: now, TargetTail: l.TargetTail}
		default:
			l.RunKnown, l.At = known[p].known, now
			out[p] = l
		}
	}
	return out
}

// foreignFrom finds the first offset from lo on that the link did not write,
// and whether a fence of the link stands there; last is the target's last
// batch, which is foreign. A link writes without gaps, so what is foreign lies
// behind all that is its own and halving finds the border. When a read fails,
// the answer is the lowest offset that is known to be foreign.
func foreignFrom(ctx context.Context, cl *kafka.Client, node int32, it lookItem, lo int64, last replicate.Batch) (int64, bool) {
	hi, at := last.Base, last
	for range 64 {
		if lo >= hi {
			break
		}
		mid := lo + (hi-lo)/2
		got := batchAt(ctx, cl, node, []spot{it.to}, map[topology.Partition]int64{it.to.Partition: mid}, oneBatch)[it.to.Partition]
		if got.err != nil || got.batch == nil {
			break
		}
		if _, kind := it.link.Author(*got.batch); kind != replicate.Foreign {
			lo = got.batch.End()
		} else {
			hi, at = min(hi, max(lo, got.batch.Base)), *got.batch
		}
	}
	return hi, at.IsFence()
}

// differsFrom finds the first offset from lo on at which the two logs are not
// the same, knowing that they are not at hi. A log that was cut and written
// again differs from where it was cut on, so halving finds the border. Where
// there are no records to compare, such as in a hole, the offsets behind tell.
// When a read fails, the answer is the lowest offset that is known to differ.
func differsFrom(ctx context.Context, source *kafka.Client, sourceNode int32, target *kafka.Client, targetNode int32, it lookItem, lo, hi int64) int64 {
	p := it.to.Partition
	for top, reads := hi, 0; lo < top; {
		mid := lo + (top-lo)/2
		compared, at := replicate.NotCompared, mid
		for at < top && compared == replicate.NotCompared {
			if reads++; reads > differReads {
				return hi
			}
			want := map[topology.Partition]int64{p: at}
			a := batchAt(ctx, source, sourceNode, []spot{it.from}, want, oneBatch)[p]
			b := batchAt(ctx, target, targetNode, []spot{it.to}, want, oneBatch)[p]
			switch {
			case a.err != nil || b.err != nil:
				return hi
			case a.batch == nil || b.batch == nil:
				at++ // nothing is stored here at one end
			default:
				end := min(a.batch.End(), b.batch.End())
				compared = compareAt(*a.batch, *b.batch, end, it.compacted)
				if compared == replicate.Different {
					hi = max(lo, a.batch.Base, b.batch.Base)
				}
				at = end
			}
		}
		if compared == replicate.Same {
			lo = at
		} else {
			top = min(mid, hi)
		}
	}
	return hi
}

// differReads bounds the search for where two logs went apart.
const differReads = 512

// oneBatch asks for as little as a broker gives: one whole batch.
func oneBatch(topology.Partition) int32 { return 1 }

// compareAt compares what two batches hold below end, first by their bytes
// and, where brokers store them differently, by their records. On a compacted
// topic only offsets that both still have count.
func compareAt(a, b replicate.Batch, end int64, compacted bool) replicate.Comparison {
	if replicate.SameContent(a, b) {
		return replicate.Same
	}
	if b.Control() || a.Control() {
		return replicate.NotCompared
	}
	same, err := sameRecords(a, b, max(a.Base, b.Base), end, compacted)
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
