package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	inspectTimeout = 10 * time.Minute
	inspectAgain   = 5 * time.Second
)

// inspect compares what this region holds with what the other one does, below
// where it began, and records the orphans above. It mirrors nothing.
func (m *mirrors) inspect(ctx context.Context, id consensus.LinkID, l consensus.Link) error {
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, inspectTimeout)
		found, err := m.compareRegions(round, id, l)
		cancel()
		if err == nil {
			ranges, orphans := judge(found)
			attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
			_, err = m.propose.Propose(attempt, m.command(&consensus.JudgeLink{Link: id, Epoch: l.Epoch, Frozen: ranges}))
			cancel()
			if err == nil || consensus.Refused(err, consensus.CodeStale) {
				m.log.Info("compared with "+string(l.From), "link", id, "partitions", len(found), "orphans", orphans)
				<-ctx.Done() // the next round of reconcile runs what the log says now
				break
			}
		}
		m.mu.Lock()
		if run := m.links[id]; run != nil {
			run.trouble = "compare with " + string(l.From) + ": " + err.Error()
		}
		m.mu.Unlock()
		_ = sleep(ctx, inspectAgain)
	}
	return nil
}

// compareRegions reads what both regions hold. First it ends the transactions
// that the returned region was left with: one that ended later would put its
// marker in the middle of what is mirrored here.
func (m *mirrors) compareRegions(ctx context.Context, id consensus.LinkID, l consensus.Link) ([]mirror.Inspection, error) {
	source, target := m.regions[l.From].kafka, m.regions[l.To].kafka
	ended, err := mirror.CloseTransactions(ctx, target, m.topics)
	if len(ended) > 0 {
		m.log.Warn("ended the transactions that were left open here", "link", id, "transactions", ended)
	}
	if err != nil {
		return nil, err
	}
	return mirror.Inspect(ctx, source, target, before(m.state(), l), 0)
}

// before is what the log knows of the partitions of an unproven link.
func before(s consensus.State, l consensus.Link) map[topology.Partition]mirror.Before {
	out := map[topology.Partition]mirror.Before{}
	shared := l.Shared
	if len(shared) == 0 { // started before such things were recorded
		shared = l.Starts
	}
	began := flat(l.Began)
	other := s.Links[consensus.LinkOf(l.To, l.From)]
	for p, x := range flat(shared) {
		b := mirror.Before{X: x, Began: began[p], Epoch: -1}
		if e, noted := l.SharedEpochs[p.Topic][p.Partition]; noted {
			b.Epoch = e
		}
		for _, spans := range []consensus.Spans{l.Orphans, l.Foreign, other.Orphans, other.Foreign} {
			for _, span := range spans[p.Topic][p.Partition] {
				b.Known = append(b.Known, replicate.Range{Start: span.From, End: span.To})
			}
		}
		for _, accepted := range slices.Concat(l.Accepted[p.Topic][p.Partition], other.Accepted[p.Topic][p.Partition]) {
			b.Known = append(b.Known, replicate.Range{Start: accepted.From, End: accepted.To})
		}
		out[p] = b
	}
	return out
}

// judge names what the returned region holds and the other does not: orphans,
// and, should the prefixes differ, all from the first difference on.
func judge(found []mirror.Inspection) (consensus.Ranges, int64) {
	ranges, orphans := consensus.Ranges{}, int64(0)
	for _, i := range found {
		f := consensus.Frozen{From: i.Orphans.Start, To: i.Orphans.End, Reason: "orphans: accepted here and never mirrored"}
		if i.Freeze != "" {
			f = consensus.Frozen{From: min(max(0, i.Differs), i.Target.End), To: i.Target.End, Reason: i.Freeze}
		}
		orphans += i.Orphans.End - i.Orphans.Start
		if f.To <= f.From {
			continue
		}
		if ranges[i.Topic] == nil {
			ranges[i.Topic] = map[int32]consensus.Frozen{}
		}
		ranges[i.Topic][i.Partition.Partition] = f
	}
	return ranges, orphans
}
