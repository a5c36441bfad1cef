package kafka

import (
	"bytes"
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Inspection is what the comparison of one partition found, after a region
// came back: do both logs hold the same below X, and what does the returned
// region hold that was never mirrored?
type Inspection struct {
	topology.Partition
	X      int64           `json:"x"`      // end of what was mirrored before the move
	Source replicate.Range `json:"source"` // the region that goes on
	Target replicate.Range `json:"target"` // the region that came back
	// Compared is the range that was compared, at most ending at X. It is
	// empty when no offset below X is left on both sides.
	Compared replicate.Range `json:"compared"`
	Same     bool            `json:"same"`    // no difference in Compared
	Differs  int64           `json:"differs"` // first offset in Compared that differs, -1 if none
	// Orphans is what the returned region holds from X on: records it
	// accepted and the mirror never got. Empty when it ends at X or below.
	Orphans replicate.Range `json:"orphans"`
	// Lacks is what it no longer has below X, [Target.End, X). Empty if nothing.
	Lacks replicate.Range `json:"lacks"`
}

// Orphaned returns the number of offsets in Orphans.
func (i Inspection) Orphaned() int64 { return i.Orphans.End - i.Orphans.Start }

// Proven says that both logs were compared right below X and are the same, or
// that there is nothing to compare because X is 0.
func (i Inspection) Proven() bool {
	return i.Same && (i.X == 0 || i.Compared.End == i.X && i.Compared.Start < i.X)
}

const (
	inspectChunk = 10_000  // offsets compared at a time
	inspectFetch = 4 << 20 // bytes asked for at a time
)

// Inspect compares, for each partition, what both regions hold below x, from x
// downwards and at most maxBytes of the target's stored bytes a partition (0:
// 64 MiB), and names the orphans. It compares stored bytes where the batches
// are the same and records where they are not: offset, time, key, value and
// headers. It writes nothing. A partition that one side no longer has counts
// as empty there. The answer is whole or an error; it fails when the target's
// ends are not settled, as an orphan range must not move.
func Inspect(ctx context.Context, source, target *kafka.Client, x map[topology.Partition]int64, maxBytes int) ([]Inspection, error) {
	if maxBytes <= 0 {
		maxBytes = 64 << 20
	}
	topics := make([]string, 0, len(x))
	for p := range x {
		topics = append(topics, p.Topic)
	}
	sel := replicate.Only(topics...)
	from, err := Ends(ctx, source, sel)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	to, err := Ends(ctx, target, sel)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	fromView, err := readView(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	toView, err := readView(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	var out []Inspection
	for _, p := range sortedPartitions(x) {
		a, onSource := from[p]
		b, onTarget := to[p]
		if onTarget && !b.Settled {
			return nil, fmt.Errorf("inspect %s: the end in kafka %s is not settled; are all its brokers back, or does something still write there?", p, target.Name())
		}
		i := Inspection{Partition: p, X: x[p], Source: a, Target: b, Differs: -1, Same: true}
		if b.End > i.X {
			i.Orphans = replicate.Range{Start: max(i.X, b.Start), End: b.End, Settled: true}
		} else if b.End < i.X {
			i.Lacks = replicate.Range{Start: b.End, End: i.X, Settled: true}
		}
		if !onSource || !onTarget { // deleted on one side: nothing to compare, and nothing proven
			i.Compared = replicate.Range{Start: i.X, End: i.X, Settled: true}
			out = append(out, i)
			continue
		}
		left, err := newReader(source, fromView, p)
		if err != nil {
			return nil, err
		}
		right, err := newReader(target, toView, p)
		if err != nil {
			return nil, err
		}
		if err := i.compare(ctx, left, right, maxBytes); err != nil {
			return nil, fmt.Errorf("inspect %s: %w", p, err)
		}
		out = append(out, i)
	}
	return out, nil
}

// compare goes down from X until the budget is spent or a side has no more.
func (i *Inspection) compare(ctx context.Context, left, right *reader, budget int) error {
	low := max(i.Source.Start, i.Target.Start)
	high := min(i.X, i.Source.End, i.Target.End)
	i.Compared = replicate.Range{Start: max(high, 0), End: max(high, 0), Settled: true}
	if low >= high {
		i.Compared = replicate.Range{Start: i.X, End: i.X, Settled: true}
		return nil
	}
	for hi := high; hi > low && budget > 0; {
		lo := max(low, hi-inspectChunk)
		a, err := left.read(ctx, lo, hi)
		if err != nil {
			return err
		}
		b, err := right.read(ctx, lo, hi)
		if err != nil {
			return err
		}
		for _, batch := range b {
			budget -= batch.Size()
		}
		at, err := firstDifference(a, b, lo, hi)
		if err != nil {
			return err
		}
		if at >= 0 {
			i.Same, i.Differs = false, at
		}
		i.Compared.Start = lo
		hi = lo
	}
	return nil
}

// firstDifference returns the first offset in [lo, hi) at which two lists of
// batches hold different records, -1 if they hold the same.
func firstDifference(a, b []replicate.Batch, lo, hi int64) (int64, error) {
	for len(a) > 0 && len(b) > 0 && replicate.SameContent(a[0], b[0]) {
		a, b = a[1:], b[1:]
	}
	if len(a) == 0 && len(b) == 0 {
		return -1, nil
	}
	withTime := true
	for _, x := range append(a[:len(a):len(a)], b...) {
		withTime = withTime && !x.LogAppendTime()
	}
	x, err := flatten(a, lo, hi, withTime)
	if err != nil {
		return 0, err
	}
	y, err := flatten(b, lo, hi, withTime)
	if err != nil {
		return 0, err
	}
	for n := range max(len(x), len(y)) {
		switch {
		case n >= len(x):
			return y[n].offset, nil
		case n >= len(y):
			return x[n].offset, nil
		case !bytes.Equal(x[n].canonical, y[n].canonical):
			return min(x[n].offset, y[n].offset), nil
		}
	}
	return -1, nil
}

type flat struct {
	offset    int64
	canonical []byte
}

// flatten decodes the visible records in [lo, hi); transaction markers hold none.
func flatten(batches []replicate.Batch, lo, hi int64, withTime bool) ([]flat, error) {
	var out []flat
	for _, b := range batches {
		if b.Control() {
			continue
		}
		err := eachRecord(b, func(r replicate.Record) error {
			if lo <= r.Offset && r.Offset < hi {
				out = append(out, flat{r.Offset, r.AppendCanonical(nil, withTime)})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// reader reads the stored batches of one partition.
type reader struct {
	cl   *kafka.Client
	node int32
	spot spot
}

func newReader(cl *kafka.Client, v *view, p topology.Partition) (*reader, error) {
	t, at, ok := v.part(p)
	if !ok || at.leader < 0 {
		return nil, fmt.Errorf("read %s: kafka %s has no such partition, or no leader for it", p, cl.Name())
	}
	return &reader{cl: cl, node: at.leader, spot: spot{Partition: p, id: t.id, epoch: at.epoch}}, nil
}

// read returns all batches that hold offsets of [lo, hi), in order. The first
// may begin below lo and the last end above hi. Offsets without a record are
// left out.
func (r *reader) read(ctx context.Context, lo, hi int64) ([]replicate.Batch, error) {
	var out []replicate.Batch
	for next := lo; next < hi; {
		req := fetchRequest(0, inspectFetch, 0)
		addFetch(req, r.spot, next, -1, inspectFetch)
		resp, err := r.cl.Kgo.Broker(int(r.node)).Request(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("fetch at %d from kafka %s: %w", next, r.cl.Name(), err)
		}
		fr := resp.(*kmsg.FetchResponse)
		if err := fetchError(fr); err != nil {
			return nil, err
		}
		if len(fr.Topics) != 1 || len(fr.Topics[0].Partitions) != 1 {
			return nil, fmt.Errorf("fetch at %d from kafka %s: %w", next, r.cl.Name(), errNoAnswer)
		}
		p := fr.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return nil, fmt.Errorf("fetch at %d from kafka %s: %w", next, r.cl.Name(), err)
		}
		batches, err := replicate.ParseBatches(p.RecordBatches)
		if err != nil {
			return nil, fmt.Errorf("fetch at %d from kafka %s: %w", next, r.cl.Name(), err)
		}
		before := next
		for _, b := range batches {
			if b.End() <= next || b.Base >= hi {
				next = max(next, b.End())
				continue
			}
			out = append(out, b)
			next = b.End()
		}
		if next == before {
			return nil, fmt.Errorf("fetch at %d from kafka %s gave no whole batch", next, r.cl.Name())
		}
	}
	return out, nil
}
