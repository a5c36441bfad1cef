package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	endsTries = 10
	endsWait  = 50 * time.Millisecond
	reachPoll = 50 * time.Millisecond
)

// Ends reads what every partition of the selected topics holds: log start and
// high watermark. The answer is whole or an error. An end that is not settled
// is read again a few times and then given as it is, with Settled false: on a
// topic that is being written that is no fault.
func Ends(ctx context.Context, cl *kafka.Client, sel replicate.Selection) (map[topology.Partition]replicate.Range, error) {
	var out map[topology.Partition]replicate.Range
	var err error
	for range endsTries {
		out, err = readEnds(ctx, cl, sel.Selects)
		if err == nil && allSettled(out) {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("read ends of kafka %s: %w", cl.Name(), ctx.Err()), err)
		case <-time.After(endsWait):
		}
	}
	return out, err
}

func allSettled(ranges map[topology.Partition]replicate.Range) bool {
	for _, r := range ranges {
		if !r.Settled {
			return false
		}
	}
	return true
}

// readEnds asks once. Any partition without an answer is an error.
func readEnds(ctx context.Context, cl *kafka.Client, selects func(topic string) bool) (map[topology.Partition]replicate.Range, error) {
	v, err := readView(ctx, cl)
	if err != nil {
		return nil, err
	}
	byNode := map[int32][]spot{}
	for name, t := range v.topics {
		if !selects(name) {
			continue
		}
		for i, at := range t.parts {
			s := spot{Partition: topology.Partition{Topic: name, Partition: int32(i)}, id: t.id, epoch: at.epoch}
			if at.leader < 0 {
				return nil, fmt.Errorf("read ends of kafka %s: %s has no leader", cl.Name(), s.Partition)
			}
			byNode[at.leader] = append(byNode[at.leader], s)
		}
	}
	out := map[topology.Partition]replicate.Range{}
	for node, spots := range byNode {
		bySpot(spots)
		var start, high, end map[topology.Partition]answer
		together(
			func() { start = offsetAt(ctx, cl, node, spots, -2) },
			func() { high = offsetAt(ctx, cl, node, spots, -1) },
			func() { end = logEnd(ctx, cl, node, spots) },
		)
		for _, s := range spots {
			a, b, c := start[s.Partition], high[s.Partition], end[s.Partition]
			if err := errors.Join(a.err, b.err, c.err); err != nil {
				return nil, fmt.Errorf("read ends of %s in kafka %s: %s", s.Partition, cl.Name(), strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			out[s.Partition] = replicate.Range{Start: a.offset, End: b.offset, Settled: b.offset == c.offset}
		}
	}
	return out, nil
}

// NotReachedError says which partitions do not end where they should.
type NotReachedError struct {
	Cluster string
	Missing map[topology.Partition]int64 // records that are lacking; negative: too many
	Last    error                        // why the last reading failed, if it did
}

func (e *NotReachedError) Error() string {
	var what []string
	for _, p := range sortedPartitions(e.Missing) {
		n := e.Missing[p]
		switch {
		case len(what) == 5:
			what = append(what, fmt.Sprintf("and %d more", len(e.Missing)-5))
		case len(what) > 5:
		case n < 0:
			what = append(what, fmt.Sprintf("%s has %d records too many", p, -n))
		default:
			what = append(what, fmt.Sprintf("%s lacks %d records", p, n))
		}
	}
	s := fmt.Sprintf("kafka %s has not reached the recorded ends: %s", e.Cluster, strings.Join(what, ", "))
	if e.Last != nil {
		s += fmt.Sprintf(" (last reading: %v)", e.Last)
	}
	return s
}

// WaitReached waits until every partition's settled end is the recorded one.
// It returns a *NotReachedError when ctx ends first, and at once when a
// partition holds more than recorded: that never heals by waiting.
func WaitReached(ctx context.Context, target *kafka.Client, ends map[topology.Partition]int64) error {
	topics := map[string]bool{}
	for p := range ends {
		topics[p.Topic] = true
	}
	e := &NotReachedError{Cluster: target.Name(), Missing: map[topology.Partition]int64{}}
	for p, end := range ends {
		e.Missing[p] = end // until something is known
	}
	for {
		got, err := readEnds(ctx, target, func(t string) bool { return topics[t] })
		if err != nil {
			e.Last = err
		} else {
			e.Last = nil
			clear(e.Missing)
			over := false
			for p, want := range ends {
				r := got[p]
				if r.End != want || !r.Settled {
					e.Missing[p] = want - r.End
				}
				over = over || r.Settled && r.End > want
			}
			if len(e.Missing) == 0 {
				return nil
			}
			if over {
				return e
			}
		}
		select {
		case <-ctx.Done():
			return e
		case <-time.After(reachPoll):
		}
	}
}
