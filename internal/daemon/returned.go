package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	inspectTimeout = time.Hour // of one round; what it has salvaged is not used again
	inspectAgain   = 5 * time.Second
)

// salvaging is a salvage under way; *recovery.Salvaging is one.
type salvaging interface {
	// Put stores whole batches and reads them back.
	Put(ctx context.Context, batches []byte) (backup.SalvagedBlob, error)
	// Seal makes the salvage exist, after every object was read once more.
	Seal(ctx context.Context, parts []backup.SalvagePart) (backup.Salvage, backup.Digest, error)
	Where() string
	Close()
}

// inspect brings a region that came back to where it can follow the one that
// went on: it ends the transactions that were left open here, compares what
// both hold below where the mirror stood, salvages what only this region has,
// and has the other one skip the offsets that are taken here. Then it records
// what it found, and the link runs. It mirrors nothing, and all of it may be
// repeated.
func (m *mirrors) inspect(ctx context.Context, id consensus.LinkID, l consensus.Link) error {
	for ctx.Err() == nil {
		err := m.reunite(ctx, id, l)
		if err == nil || consensus.Refused(err, consensus.CodeStale) {
			<-ctx.Done() // the next round of reconcile runs what the log says now
			break
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

func (m *mirrors) reunite(ctx context.Context, id consensus.LinkID, l consensus.Link) error {
	round, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	found, err := m.compareRegions(round, id, l)
	if err != nil {
		return err
	}
	// Nothing here is touched, and nothing is decided, before the records that
	// only this region has are safe.
	if err := m.leapSource(round, id, l, found); err != nil {
		return err
	}
	kept, err := m.keepOrphans(round, id, l, found)
	if err != nil {
		return err
	}
	if err := m.stillEnded(round, l, found); err != nil {
		return err
	}
	verdict := judge(id, l.Epoch, found, kept)
	if err := m.put(round, verdict); err != nil {
		return err
	}
	args := []any{"link", id, "partitions", len(found)}
	if s := verdict.Salvage; s != nil {
		args = append(args, "orphans", s.Records, "salvage", s.ID, "where", s.Where)
	}
	m.log.Info("compared with "+string(l.From), args...)
	return nil
}

// stillEnded refuses when something wrote here since the ends were read: what
// it wrote was not compared, and the link would begin below it.
func (m *mirrors) stillEnded(ctx context.Context, l consensus.Link, found []mirror.Inspection) error {
	ends, err := mirror.Ends(ctx, m.regions[l.To].kafka, m.topics)
	if err != nil {
		return err
	}
	for _, i := range found {
		if now, there := ends[i.Partition]; there && now.End != i.Target.End {
			return fmt.Errorf("something writes to %s in %s: it ended at %d and ends at %d now; stop its producers", i.Partition, l.To, i.Target.End, now.End)
		}
	}
	return nil
}

// put proposes until the log has decided, or ctx ends.
func (m *mirrors) put(ctx context.Context, b consensus.Body) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := m.propose.Propose(attempt, m.command(b))
		cancel()
		if err == nil || consensus.Refused(err) || sleep(ctx, fillRetry) != nil {
			return err
		}
	}
}

// kept is what a salvage holds.
type kept struct {
	seal   backup.Salvage
	digest backup.Digest
	where  string
	parts  map[topology.Partition]backup.SalvagePart // with at least one record
}

// keepOrphans reads all that only this region has, and seals it. Ranges
// without a visible record, such as a fence, are left out.
func (m *mirrors) keepOrphans(ctx context.Context, id consensus.LinkID, l consensus.Link, found []mirror.Inspection) (kept, error) {
	out := kept{parts: map[topology.Partition]backup.SalvagePart{}}
	found = slices.DeleteFunc(slices.Clone(found), func(i mirror.Inspection) bool { return i.Orphans.Start >= i.Orphans.End })
	if len(found) == 0 {
		return out, nil
	}
	v, err := m.salvage(ctx, id, l.Epoch)
	if err != nil {
		return out, fmt.Errorf("salvage the orphans: %w", err)
	}
	defer v.Close()
	var parts []backup.SalvagePart
	for _, i := range found {
		part := backup.SalvagePart{Topic: i.Topic, Partition: i.Partition.Partition, From: i.Orphans.Start, To: i.Orphans.End}
		held, err := mirror.ReadOrphans(ctx, m.regions[l.To].kafka, i.Partition, i.Orphans, func(batches []byte) error {
			blob, err := v.Put(ctx, batches)
			part.Blobs = append(part.Blobs, blob)
			return err
		})
		if err != nil {
			return out, fmt.Errorf("salvage the orphans: %w", err)
		}
		part.Records = held.Records
		for _, a := range held.Aborted {
			part.Aborted = append(part.Aborted, backup.AbortedSpan{Producer: a.Producer, From: a.From, To: a.To})
		}
		if len(part.Blobs) > 0 {
			parts, out.parts[i.Partition] = append(parts, part), part
		}
	}
	if len(parts) == 0 {
		return out, nil
	}
	out.seal, out.digest, err = v.Seal(ctx, parts)
	out.where = v.Where()
	return out, err
}

// leapTries bounds how often the source is asked to skip on, one budget each.
const leapTries = 20

// leapSource has the region that went on skip the offsets up to where this one
// ends: a link that starts above its source's end would never begin.
func (m *mirrors) leapSource(ctx context.Context, id consensus.LinkID, l consensus.Link, found []mirror.Inspection) error {
	to := map[topology.Partition]int64{}
	for _, i := range found {
		if i.Freeze == "" && i.LeapTo > 0 {
			to[i.Partition] = i.LeapTo
		}
	}
	for range leapTries {
		if len(to) == 0 {
			return nil
		}
		opt := m.promotion(id, l)
		opt.LeapTo, opt.Starts = to, nil
		ends, err := mirror.Leap(ctx, m.regions[l.From].kafka, opt)
		if err != nil {
			return fmt.Errorf("have %s skip the offsets that are taken here: %w", l.From, err)
		}
		m.log.Info("had "+string(l.From)+" skip the offsets that are taken here", "link", id, "partitions", len(to))
		maps.DeleteFunc(to, func(p topology.Partition, want int64) bool { return ends[p] >= want })
	}
	return fmt.Errorf("%s did not skip the offsets that are taken here in %s: %d partitions are left", l.From, m.leap*leapTries, len(to))
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
	known := before(m.state(), l)
	// A topic that came to be right before the failure was never mirrored: all
	// that is in it here is an orphan.
	all, err := mirror.Ends(ctx, target, m.topics)
	if err != nil {
		return nil, err
	}
	for p := range all {
		if _, ok := known[p]; !ok {
			known[p] = mirror.Before{Epoch: -1}
		}
	}
	return mirror.Inspect(ctx, source, target, known, 0)
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

// judge puts what was found into words for the log. A partition that cannot
// follow is frozen with the reason; so is a compacted one with orphans: there
// an orphan is the state of its key, and only mirroring anew takes it back.
func judge(id consensus.LinkID, epoch uint64, found []mirror.Inspection, k kept) *consensus.JudgeLink {
	out := &consensus.JudgeLink{Link: id, Epoch: epoch, Frozen: consensus.Ranges{}, Starts: consensus.Offsets{}, Orphans: consensus.Spans{}, Foreign: consensus.Spans{}}
	for _, i := range found {
		_, orphans := k.parts[i.Partition]
		if orphans {
			addSpan(out.Orphans, i.Partition, i.Orphans)
		}
		freeze := i.Freeze
		if freeze == "" && orphans && i.Compacted {
			freeze = "orphans in a compacted topic: they are the state of their keys here"
		}
		if freeze != "" {
			if out.Frozen[i.Topic] == nil {
				out.Frozen[i.Topic] = map[int32]consensus.Frozen{}
			}
			out.Frozen[i.Topic][i.Partition.Partition] = consensus.Frozen{From: i.Orphans.Start, To: i.Orphans.End, Reason: freeze}
			continue
		}
		for _, f := range i.Foreign {
			addSpan(out.Foreign, i.Partition, f)
		}
		if out.Starts[i.Topic] == nil {
			out.Starts[i.Topic] = map[int32]int64{}
		}
		out.Starts[i.Topic][i.Partition.Partition] = i.Reunion.Start
	}
	if len(k.parts) > 0 {
		records, stored := k.seal.Totals()
		out.Salvage = &consensus.Salvage{
			ID: consensus.SalvageID(k.seal.ID), Link: id, Epoch: epoch, At: k.seal.Sealed, Where: k.where, Digest: string(k.digest),
			Records: records, Bytes: stored, Orphans: out.Orphans,
		}
	}
	return out
}

func addSpan(to consensus.Spans, p topology.Partition, r replicate.Range) {
	if to[p.Topic] == nil {
		to[p.Topic] = map[int32][]consensus.Span{}
	}
	to[p.Topic][p.Partition] = append(to[p.Topic][p.Partition], consensus.Span{From: r.Start, To: r.End})
}

// exposed lists the topics of which a group would read orphans here: it has
// not passed them at the source, and they may be read there from its place on.
func exposed(l consensus.Link, groups mirror.GroupReport, status replicate.LinkStatus) []failover.Exposed {
	if len(l.Orphans) == 0 {
		return nil
	}
	start := map[topology.Partition]int64{}
	for _, p := range status.Partitions {
		start[p.Partition] = p.SourceStart
	}
	by := map[string]*failover.Exposed{}
	last := map[string]string{} // group counted last, by topic; rows of a group come together
	for _, row := range groups.Rows {
		spans := l.Orphans[row.Topic][row.Partition.Partition]
		if len(spans) == 0 {
			continue
		}
		end := spans[len(spans)-1].To
		if row.Source >= end || start[row.Partition] >= end {
			continue
		}
		e := by[row.Topic]
		if e == nil {
			e = &failover.Exposed{Topic: row.Topic, First: fmt.Sprintf("%s stands at %d of %s, below %d", row.Group, row.Source, row.Partition, end)}
			by[row.Topic] = e
		}
		if last[row.Topic] != row.Group {
			last[row.Topic] = row.Group
			e.Groups++
		}
	}
	var out []failover.Exposed
	for _, topic := range slices.Sorted(maps.Keys(by)) {
		out = append(out, *by[topic])
	}
	return out
}
