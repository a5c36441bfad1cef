package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	tombstonesEvery = 10 * time.Second
	tombstonesTry   = 30 * time.Second // bound of one round
)

// entomb records topics that were deleted at their source, and deletes their
// copies when their time is over, until ctx ends. All it knows is in the log,
// so that a restart loses no tombstone and no second daemon acts on one.
func (m *mirrors) entomb(ctx context.Context) {
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, tombstonesTry)
		for id, l := range m.state().Links {
			if l.To == m.region && l.Phase == consensus.LinkRunning && m.served(l) {
				m.entombLink(round, id, l)
			}
		}
		cancel()
		_ = sleep(ctx, tombstonesEvery)
	}
}

func (m *mirrors) entombLink(ctx context.Context, id consensus.LinkID, l consensus.Link) {
	stones := m.state().Tombstones[id]
	for _, g := range m.gone(id, l.Epoch) {
		pair := consensus.TopicPair{Source: g.IDs.Source.String(), Target: g.IDs.Target.String()}
		if was, known := stones[g.Topic]; known && was.Epoch == l.Epoch && was.TopicPair == pair {
			continue
		}
		if m.decide(ctx, &consensus.MarkDeleted{Link: id, Epoch: l.Epoch, Topic: g.Topic, Pair: pair, At: g.Since.UTC()}) {
			m.log.Warn("a mirrored topic was deleted at the source", "link", id, "topic", g.Topic, "copy", m.fate(g.Since))
		}
	}
	if len(stones) == 0 {
		return
	}
	copies := map[string]mirror.TopicIDs{}
	for _, topic := range slices.Sorted(maps.Keys(stones)) {
		t := stones[topic]
		if t.Epoch != l.Epoch {
			m.decide(ctx, &consensus.DropTombstone{Link: id, Epoch: t.Epoch, Topic: topic, Why: fmt.Sprintf("the link is at epoch %d now: the copy may have been written to, and is kept", l.Epoch)})
			continue
		}
		ids, err := topicIDs(t.TopicPair)
		if err != nil { // written by us: cannot be
			m.log.Error("read a tombstone", "link", id, "topic", topic, "error", err)
			continue
		}
		copies[topic] = ids
	}
	states, err := mirror.LookAtCopies(ctx, m.regions[l.From].kafka, m.regions[l.To].kafka, copies)
	if err != nil {
		return // tried again; status says that a cluster is away
	}
	for _, topic := range slices.Sorted(maps.Keys(states)) {
		t := stones[topic]
		drop := func(deleted bool, why string) {
			m.decide(ctx, &consensus.DropTombstone{Link: id, Epoch: t.Epoch, Topic: topic, Deleted: deleted, Why: why})
		}
		switch states[topic] {
		case mirror.CopyBack:
			drop(false, "the source shows the topic again")
		case mirror.CopyGone:
			drop(false, "the target has no such copy any more")
		case mirror.CopyKept:
			if m.delete <= 0 || m.clock.Wall().Before(t.At.Add(m.delete)) {
				continue
			}
			if !m.mayDelete(id, l.Epoch) {
				continue
			}
			if err := mirror.DeleteCopy(ctx, m.regions[l.To].kafka, topic, copies[topic].Target); err != nil {
				m.log.Warn("delete the copy of a topic; it is tried again", "link", id, "topic", topic, "error", err)
				continue
			}
			m.log.Warn("the copy of a topic was deleted", "link", id, "topic", topic, "deleted_at_source", t.At)
			drop(true, fmt.Sprintf("mirror.topics.delete_after (%s) is over", m.delete))
		case mirror.CopyRecreated, mirror.CopyHidden: // shown, and not for us to decide
		}
	}
}

// mayDelete says whether the target is still only a target. While a plan is
// live it may be about to become more.
func (m *mirrors) mayDelete(id consensus.LinkID, epoch uint64) bool {
	s := m.state()
	for _, p := range s.Plans {
		if p.Phase.Live() {
			return false
		}
	}
	l := s.Links[id]
	return l.Phase == consensus.LinkRunning && l.Epoch == epoch
}

// decide proposes, and says whether it was taken. What was not is proposed
// again in the next round, as long as it is still so.
func (m *mirrors) decide(ctx context.Context, b consensus.Body) bool {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := m.propose.Propose(ctx, m.command(b))
	return err == nil
}

// gone lists what the running mirror of a link says is gone.
func (m *mirrors) gone(id consensus.LinkID, epoch uint64) []mirror.Gone {
	m.mu.Lock()
	defer m.mu.Unlock()
	if run := m.links[id]; run != nil && run.mirror != nil && run.epoch == epoch {
		return run.mirror.Gone()
	}
	return nil
}

// fate says what becomes of a copy.
func (m *mirrors) fate(since time.Time) string {
	if m.delete <= 0 {
		return "kept"
	}
	return "deleted at " + since.Add(m.delete).UTC().Format(time.RFC3339)
}

// entombed are the identities of the topics of a link that were deleted at the
// source. A topic of one of these names is another one.
func entombed(s consensus.State, id consensus.LinkID) map[string]mirror.TopicIDs {
	out := map[string]mirror.TopicIDs{}
	for topic, t := range s.Tombstones[id] {
		if ids, err := topicIDs(t.TopicPair); err == nil && t.Epoch == s.Links[id].Epoch {
			out[topic] = ids
		}
	}
	return out
}

func topicIDs(p consensus.TopicPair) (ids mirror.TopicIDs, err error) {
	if err := ids.Source.UnmarshalText([]byte(p.Source)); err != nil {
		return ids, err
	}
	return ids, ids.Target.UnmarshalText([]byte(p.Target))
}

// withoutDeleted leaves out the partitions of topics that are gone at the
// source and have a tombstone: they stand still because there is nothing more,
// and nobody has to decide about them.
func withoutDeleted(s replicate.LinkStatus, gone []mirror.Gone, stones map[string]consensus.Tombstone) replicate.LinkStatus {
	left := map[string]bool{}
	for _, g := range gone {
		if t, ok := stones[g.Topic]; ok && t.Epoch == s.Link.Epoch {
			left[g.Topic] = true
		}
	}
	if len(left) == 0 {
		return s
	}
	var kept []replicate.PartitionStatus
	for _, p := range s.Partitions {
		if !left[p.Topic] {
			kept = append(kept, p)
		}
	}
	total := s.Totals
	s.Partitions = append([]replicate.PartitionStatus{}, kept...)
	s.Findings = slices.Clone(s.Findings)
	s.Sum()
	s.Totals.Records, s.Totals.Bytes = total.Records, total.Bytes // what was mirrored was
	return s
}

// deleted lists the tombstones of a link, for people.
func (d *Daemon) deleted(s consensus.State, id consensus.LinkID) []httpapi.DeletedTopic {
	var out []httpapi.DeletedTopic
	for _, topic := range slices.Sorted(maps.Keys(s.Tombstones[id])) {
		t := s.Tombstones[id][topic]
		if t.Epoch != s.Links[id].Epoch {
			continue
		}
		row := httpapi.DeletedTopic{Topic: topic, At: t.At}
		if after := d.fleet.Mirror.Topics.DeleteAfter; after > 0 {
			row.Until = t.At.Add(after)
		}
		out = append(out, row)
	}
	return out
}
