package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	commitLogStep  = 20_000 // offsets of a commit log that are held in memory at once
	commitLogShown = 3      // records that no follower could read, by offset
)

// SeedCommitLogs makes the commit logs of a region say where its groups stand:
// one entry for each partition of the followed topic, unless the log says as
// much or more already. Without one, what follows the log would wait until the
// next record of each partition has gone through its consumer. committed are
// the groups' offsets in this region. It returns a row for each partition,
// after what it wrote was read back, and may be repeated.
func SeedCommitLogs(ctx context.Context, target *kafka.Client, specs []replicate.CommitLog, committed map[string]replicate.Commits) ([]replicate.Seed, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	rows, err := seedCommitLogs(ctx, target, specs, committed)
	if err != nil {
		return nil, fmt.Errorf("seed the commit logs of kafka %s: %w", target.Name(), err)
	}
	return rows, nil
}

func seedCommitLogs(ctx context.Context, target *kafka.Client, specs []replicate.CommitLog, committed map[string]replicate.Commits) ([]replicate.Seed, error) {
	v, err := readView(ctx, target)
	if err != nil {
		return nil, err
	}
	of := map[string]bool{}
	var logs []string
	for _, s := range specs {
		of[s.Of] = true
		if v.topics[s.Topic] != nil && !slices.Contains(logs, s.Topic) {
			logs = append(logs, s.Topic)
		}
	}
	ranges, err := readEnds(ctx, target, func(t string) bool { return of[t] || slices.Contains(logs, t) })
	if err != nil {
		return nil, err
	}
	said, bad := map[string]map[string]int64{}, map[string][]string{}
	for _, topic := range logs {
		if said[topic], bad[topic], err = readCommitLog(ctx, target, v, topic, ranges); err != nil {
			return nil, err
		}
	}
	rows := replicate.PlanSeeds(specs, committed, ranges, said)
	var records []*kgo.Record
	for _, s := range rows {
		if s.Write {
			r, err := seedRecord(ctx, target, v, s, ranges)
			if err != nil {
				return nil, err
			}
			records = append(records, r)
		}
	}
	if len(records) > 0 {
		if err := writeSeeds(ctx, target, records); err != nil {
			return nil, err
		}
		if err := readBackSeeds(ctx, target, v, rows, records); err != nil {
			return nil, fmt.Errorf("read back: %w", err)
		}
	}
	for i, s := range rows {
		if list := bad[s.Topic]; len(list) > 0 && !s.Bad {
			rows[i].Bad = true
			rows[i].Note = fmt.Sprintf("followers stumble over %d of its records whenever they start, such as %s: recreate the topic, never mend it with a tombstone", len(list), list[0])
		}
	}
	return rows, nil
}

// readBackSeeds reads the logs from our first record on and says in the rows
// what they say now.
func readBackSeeds(ctx context.Context, cl *kafka.Client, v *view, rows []replicate.Seed, records []*kgo.Record) error {
	ends, err := readEnds(ctx, cl, func(t string) bool {
		return slices.ContainsFunc(records, func(r *kgo.Record) bool { return r.Topic == t })
	})
	if err != nil {
		return err
	}
	from := written(ends, records)
	said := map[string]map[string]int64{}
	for i, s := range rows {
		if !s.Write {
			continue
		}
		if said[s.Topic] == nil {
			if said[s.Topic], _, err = readCommitLog(ctx, cl, v, s.Topic, from); err != nil {
				return err
			}
		}
		e := replicate.CommitEntry{Group: s.Group, Partition: topology.Partition{Topic: s.Of, Partition: s.Partition}}
		if at, ok := said[s.Topic][e.Key()]; ok && at >= s.Want {
			rows[i].Have = at
		} else {
			rows[i].Bad, rows[i].Note = true, fmt.Sprintf("an entry for %d was written and is not there: another writer?", s.Want)
		}
	}
	return nil
}

// written narrows the ranges of the logs to what begins with our first record,
// so that the rest is not read a second time.
func written(ranges map[topology.Partition]replicate.Range, records []*kgo.Record) map[topology.Partition]replicate.Range {
	out := map[topology.Partition]replicate.Range{}
	for _, r := range records {
		p := topology.Partition{Topic: r.Topic, Partition: r.Partition}
		n, ok := out[p]
		if !ok {
			n = replicate.Range{Start: r.Offset, End: ranges[p].End}
		}
		n.Start = min(n.Start, r.Offset)
		out[p] = n
	}
	return out
}

// readCommitLog reads a whole commit log within the given ranges: the last
// offset of each key, and the records that no follower could read.
func readCommitLog(ctx context.Context, cl *kafka.Client, v *view, topic string, ranges map[topology.Partition]replicate.Range) (last map[string]int64, bad []string, err error) {
	last = map[string]int64{}
	for _, p := range sortedPartitions(ranges) {
		if p.Topic != topic {
			continue
		}
		r, err := newReader(cl, v, p)
		if err != nil {
			return nil, nil, err
		}
		for lo, end := ranges[p].Start, ranges[p].End; lo < end; lo += commitLogStep {
			hi := min(lo+commitLogStep, end)
			batches, err := r.read(ctx, lo, hi)
			if err != nil {
				return nil, nil, fmt.Errorf("read %s: %w", p, err)
			}
			for _, b := range batches {
				if b.Control() {
					continue
				}
				err := eachRecord(b, func(rec replicate.Record) error {
					if rec.Offset < lo || rec.Offset >= hi {
						return nil
					}
					e, err := replicate.DecodeCommit(rec.Key, rec.Value)
					if err == nil {
						last[e.Key()] = e.Offset
					} else if len(bad) < commitLogShown {
						bad = append(bad, fmt.Sprintf("%s at %d: %v", p, rec.Offset, err))
					} else {
						bad = append(bad, "")
					}
					return nil
				})
				if err != nil {
					return nil, nil, fmt.Errorf("read %s: %w", p, err)
				}
			}
		}
	}
	return last, bad, nil
}

// seedRecord makes the record of one seed. Its time is that of the record
// before the offset, as its own writer would have put it: followers that work
// in steps of time go on from there.
func seedRecord(ctx context.Context, cl *kafka.Client, v *view, s replicate.Seed, ranges map[topology.Partition]replicate.Range) (*kgo.Record, error) {
	p := topology.Partition{Topic: s.Of, Partition: s.Partition}
	held, at := ranges[p], time.Now()
	if held.Start < held.End {
		reader, err := newReader(cl, v, p)
		if err != nil {
			return nil, err
		}
		before := max(held.Start, min(s.Want, held.End)-1)
		batches, err := reader.read(ctx, before, before+1)
		if err != nil {
			return nil, fmt.Errorf("read the record before %d of %s: %w", s.Want, p, err)
		}
		if len(batches) > 0 {
			stamp := batches[0].FirstTimestamp
			if !batches[0].Control() {
				err = eachRecord(batches[0], func(r replicate.Record) error {
					if r.Offset <= before {
						stamp = r.Timestamp
					}
					return nil
				})
			}
			if err != nil {
				return nil, fmt.Errorf("read the record before %d of %s: %w", s.Want, p, err)
			}
			at = time.UnixMilli(max(0, stamp))
		}
	}
	key, value, err := replicate.EncodeCommit(replicate.CommitEntry{Group: s.Group, Partition: p, Offset: s.Want, At: at, ReceivedP99: at})
	if err != nil {
		return nil, err
	}
	return &kgo.Record{Topic: s.Topic, Key: key, Value: value}, nil
}

func writeSeeds(ctx context.Context, cl *kafka.Client, records []*kgo.Record) error {
	p, err := cl.Another(kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(groupsTimeout))
	if err != nil {
		return err
	}
	defer p.Close()
	var errs []error
	for _, r := range p.Kgo.ProduceSync(ctx, records...) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("write %s to %s: %w", r.Record.Key, r.Record.Topic, r.Err))
		}
	}
	return errors.Join(errs...)
}
