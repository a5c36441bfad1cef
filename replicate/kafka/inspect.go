package kafka

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Before is what is known of one partition before the regions are compared.
type Before struct {
	X     int64 // end of what was mirrored from the returned region
	Began int64 // where the records of the region that went on begin; below X: at X
	// Epoch is the returned region's leader epoch that wrote the last mirrored
	// record, -1 if it was never noted.
	Epoch int32
	// Known are offsets in which the logs are known to differ: earlier orphans,
	// foreign ranges, and what a person gave up.
	Known []replicate.Range
}

// Inspection is what the comparison of one partition found, after a region
// came back: do both logs hold the same below where the mirror stood, and what
// does the returned region hold that was never mirrored?
type Inspection struct {
	topology.Partition
	replicate.Returned
	replicate.Reunion
	Source replicate.Range // the region that goes on
	Target replicate.Range // the region that came back
}

const (
	inspectChunk = 10_000  // offsets compared at a time
	inspectFetch = 4 << 20 // bytes asked for at a time
	inspectLanes = 4       // partitions at the same time
)

// Inspect compares, for each partition, what both regions hold below x, from
// there downwards and at most maxBytes of the target's stored bytes a partition
// (0: 64 MiB), and judges how the returned region, the target, can follow. It
// compares stored bytes where the batches are the same and records where they
// are not: offset, time, key, value and headers, as who reads committed records
// sees them. Of a compacted topic, records that only one side has may have been
// cleaned on the other. It writes nothing. A partition that one side no longer
// has counts as empty there. The answer is whole or an error; it fails when the
// target's ends are not settled, as an orphan range must not move.
func Inspect(ctx context.Context, source, target *kafka.Client, before map[topology.Partition]Before, maxBytes int) ([]Inspection, error) {
	if maxBytes <= 0 {
		maxBytes = 64 << 20
	}
	topics := map[string]bool{}
	for p := range before {
		topics[p.Topic] = true
	}
	in := &inspector{source: source, target: target, budget: maxBytes}
	err := in.look(ctx, slices.Sorted(maps.Keys(topics)))
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	parts := sortedPartitions(before)
	out, errs := make([]Inspection, len(parts)), make([]error, len(parts))
	var lanes sync.WaitGroup
	free := make(chan struct{}, inspectLanes)
	for n, p := range parts {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			lanes.Wait()
			return nil, fmt.Errorf("inspect: %w", context.Cause(ctx))
		}
		lanes.Go(func() {
			defer func() { <-free }()
			if out[n], errs[n] = in.partition(ctx, p, before[p]); errs[n] != nil {
				errs[n] = fmt.Errorf("inspect %s: %w", p, errs[n])
			}
		})
	}
	lanes.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// inspector is the two clusters as they were when the comparison began.
type inspector struct {
	source, target         *kafka.Client
	fromView, toView       *view
	from, to               map[topology.Partition]replicate.Range
	fromSettings, settings map[string]map[string]replicate.Setting
	budget                 int
}

func (in *inspector) look(ctx context.Context, topics []string) (err error) {
	sel := replicate.Only(topics...)
	side := func(cl *kafka.Client) (*view, map[topology.Partition]replicate.Range, map[string]map[string]replicate.Setting, error) {
		ends, err := Ends(ctx, cl, sel)
		if err != nil {
			return nil, nil, nil, err
		}
		v, err := readView(ctx, cl)
		if err != nil {
			return nil, nil, nil, err
		}
		there := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return v.topics[t] == nil })
		settings, err := readSettings(ctx, cl, there)
		return v, ends, settings, err
	}
	if in.fromView, in.from, in.fromSettings, err = side(in.source); err != nil {
		return err
	}
	in.toView, in.to, in.settings, err = side(in.target)
	return err
}

func (in *inspector) partition(ctx context.Context, p topology.Partition, known Before) (Inspection, error) {
	a, onSource := in.from[p]
	b, onTarget := in.to[p]
	if onTarget && !b.Settled {
		return Inspection{}, fmt.Errorf("the end in kafka %s is not settled; are all its brokers back, or does something still write there?", in.target.Name())
	}
	compacted := func(settings map[string]map[string]replicate.Setting) bool {
		return strings.Contains(settings[p.Topic]["cleanup.policy"].Value, "compact")
	}
	i := Inspection{Partition: p, Source: a, Target: b}
	i.Returned = replicate.Returned{
		X: known.X, Began: max(known.X, known.Began), Start: b.Start, End: b.End, Ahead: a.End, EpochEnd: -1, Differs: -1,
		Compacted: compacted(in.fromSettings) || compacted(in.settings),
	}
	if !onSource || !onTarget { // deleted on one side: nothing to compare
		i.Whole = true
		if !onSource {
			i.Ahead = b.End // there is nothing to follow, and nothing to leap
		}
		i.Reunion = i.Returned.Judge()
		return i, nil
	}
	left, err := newReader(in.source, in.fromView, p)
	if err != nil {
		return i, err
	}
	right, err := newReader(in.target, in.toView, p)
	if err != nil {
		return i, err
	}
	left.committed, right.committed = true, true
	if known.Epoch >= 0 {
		if i.EpochEnd, err = right.epochEnd(ctx, known.Epoch); err != nil {
			return i, err
		}
	}
	if err := i.compare(ctx, left, right, known.Known, in.budget); err != nil {
		return i, err
	}
	if known.Epoch >= 0 && i.EpochEnd < 0 && !i.Whole {
		i.Records = 0 // that epoch is unknown there: equal records at the top alone prove nothing
	}
	i.Reunion = i.Returned.Judge()
	return i, nil
}

// compare goes down from where both should be the same until the budget is
// spent or a side has no more.
func (i *Inspection) compare(ctx context.Context, left, right *reader, known []replicate.Range, budget int) error {
	low, high := max(i.Source.Start, i.Target.Start), i.Shared()
	i.Compared = replicate.Range{Start: high, End: high, Settled: true}
	for high > low && budget > 0 {
		lo := max(low, high-inspectChunk)
		a, err := left.read(ctx, lo, high)
		if err != nil {
			return err
		}
		b, err := right.read(ctx, lo, high)
		if err != nil {
			return err
		}
		for _, batch := range b {
			budget -= batch.Size()
		}
		same, at, err := firstDifference(a, b, lo, high, known, i.Compacted)
		if err != nil {
			return err
		}
		i.Records += same
		if at >= 0 {
			i.Differs = at
		}
		i.Compared.Start = lo
		high = lo
	}
	i.Whole = high <= low
	return nil
}

// firstDifference returns the first offset in [lo, hi) at which two lists of
// batches hold different records, -1 if they hold the same, and how many are
// the same. Known offsets are passed over. With cleaned, a record that only one
// of them has is no difference.
func firstDifference(a, b []replicate.Batch, lo, hi int64, known []replicate.Range, cleaned bool) (same, at int64, err error) {
	for len(a) > 0 && len(b) > 0 && replicate.SameContent(a[0], b[0]) {
		if !a[0].Control() {
			same += int64(a[0].Count)
		}
		a, b = a[1:], b[1:]
	}
	if len(a) == 0 && len(b) == 0 {
		return same, -1, nil
	}
	withTime := true
	for _, x := range append(a[:len(a):len(a)], b...) {
		withTime = withTime && !x.LogAppendTime()
	}
	x, err := flatten(a, lo, hi, withTime, known)
	if err != nil {
		return 0, 0, err
	}
	y, err := flatten(b, lo, hi, withTime, known)
	if err != nil {
		return 0, 0, err
	}
	for len(x) > 0 || len(y) > 0 {
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].offset < y[0].offset:
			if !cleaned {
				return same, x[0].offset, nil
			}
			x = x[1:]
		case len(x) == 0 || y[0].offset < x[0].offset:
			if !cleaned {
				return same, y[0].offset, nil
			}
			y = y[1:]
		case !bytes.Equal(x[0].canonical, y[0].canonical):
			return same, x[0].offset, nil
		default:
			same++
			x, y = x[1:], y[1:]
		}
	}
	return same, -1, nil
}

type flat struct {
	offset    int64
	canonical []byte
}

// flatten decodes the visible records in [lo, hi); transaction markers hold none.
func flatten(batches []replicate.Batch, lo, hi int64, withTime bool, known []replicate.Range) ([]flat, error) {
	var out []flat
	for _, b := range batches {
		if b.Control() {
			continue
		}
		err := eachRecord(b, func(r replicate.Record) error {
			passed := slices.ContainsFunc(known, func(k replicate.Range) bool { return k.Start <= r.Offset && r.Offset < k.End })
			if lo <= r.Offset && r.Offset < hi && !passed {
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
	cl        *kafka.Client
	node      int32
	spot      spot
	committed bool // leave out aborted records
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
		req := fetchRequest(0, inspectFetch, r.isolation())
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
		tx := newAborts(p.AbortedTransactions)
		for _, b := range batches {
			hidden, err := tx.hides(b)
			if err != nil {
				return nil, fmt.Errorf("fetch at %d from kafka %s: %w", next, r.cl.Name(), err)
			}
			if b.End() <= next || b.Base >= hi {
				next = max(next, b.End())
				continue
			}
			if !hidden {
				out = append(out, b)
			}
			next = b.End()
		}
		if next == before {
			return nil, fmt.Errorf("fetch at %d from kafka %s gave no whole batch", next, r.cl.Name())
		}
	}
	return out, nil
}

func (r *reader) isolation() int8 {
	if r.committed {
		return 1
	}
	return 0
}

// epochEnd returns how far the log goes under a leader epoch, -1 when the
// broker knows no such epoch.
func (r *reader) epochEnd(ctx context.Context, epoch int32) (int64, error) {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = r.spot.Partition.Partition, r.spot.epoch, epoch
	rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
	rt.Topic, rt.Partitions = r.spot.Topic, append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := r.cl.Kgo.Broker(int(r.node)).Request(ctx, req)
	if err != nil {
		return 0, fmt.Errorf("ask kafka %s where leader epoch %d ends: %w", r.cl.Name(), epoch, err)
	}
	got := resp.(*kmsg.OffsetForLeaderEpochResponse)
	if len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("ask kafka %s where leader epoch %d ends: %w", r.cl.Name(), epoch, errNoAnswer)
	}
	if err := kerr.ErrorForCode(got.Topics[0].Partitions[0].ErrorCode); err != nil {
		return 0, fmt.Errorf("ask kafka %s where leader epoch %d ends: %w", r.cl.Name(), epoch, err)
	}
	return got.Topics[0].Partitions[0].EndOffset, nil
}
