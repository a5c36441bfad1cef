package daemon

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	notesEvery = 2 * time.Second
	// forgetAfter is how long a topic must be gone at either end before a new
	// one of its name is not taken for it made anew.
	forgetAfter = time.Minute
)

// notes puts what a running link has to know after a restart, and what a
// reversal needs, into the log when it changes: who the topics are, and the
// last leader epoch of the source.
func (m *mirrors) notes(ctx context.Context) {
	for sleep(ctx, notesEvery) == nil {
		for _, note := range m.newNotes(time.Now()) {
			attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
			_, err := m.propose.Propose(attempt, m.command(note))
			cancel()
			if err != nil && !consensus.Refused(err, consensus.CodeStale) {
				m.log.Debug("what a link has to know is not in the log yet", "link", note.Link, "error", err)
			}
		}
	}
}

// newNotes returns what the log does not know yet.
func (m *mirrors) newNotes(now time.Time) []*consensus.NoteLink {
	s := m.state()
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*consensus.NoteLink
	for _, id := range slices.Sorted(maps.Keys(m.links)) {
		run, l := m.links[id], s.Links[id]
		if run.mirror == nil || run.over() || run.epoch != l.Epoch || l.Phase != consensus.LinkRunning {
			continue
		}
		n := &consensus.NoteLink{Link: id, Epoch: l.Epoch, Topics: run.newTopics(l, run.mirror.TopicIDs(), run.mirror.Status().Seen, now)}
		n.Epochs = newEpochs(l, run.mirror.Status())
		if len(n.Topics)+len(n.Epochs) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// newTopics compares the topics that are mirrored with those on record. One
// with another identity is not noted: it was made anew, its partitions are
// frozen, and stay so until a person has it mirrored anew.
func (r *link) newTopics(l consensus.Link, ids map[string]mirror.TopicIDs, seen bool, now time.Time) map[string]consensus.TopicPair {
	out := map[string]consensus.TopicPair{}
	for name, pair := range ids {
		delete(r.missing, name)
		if _, known := l.Topics[name]; !known {
			out[name] = consensus.TopicPair{Source: pair.Source.String(), Target: pair.Target.String()}
		}
	}
	for name := range l.Topics {
		if _, there := ids[name]; there || !seen {
			continue
		}
		since, noticed := r.missing[name]
		if !noticed {
			if r.missing == nil {
				r.missing = map[string]time.Time{}
			}
			r.missing[name] = now
		} else if now.Sub(since) >= forgetAfter {
			out[name] = consensus.TopicPair{}
		}
	}
	return out
}

// known is the record as a mirror takes it: the topics of this epoch, and
// above them those that were deleted at the source.
func known(s consensus.State, id consensus.LinkID) map[string]mirror.TopicIDs {
	out := map[string]mirror.TopicIDs{}
	for name, pair := range s.Links[id].Topics {
		if ids, err := topicIDs(pair); err == nil {
			out[name] = ids
		}
	}
	maps.Copy(out, entombed(s, id))
	return out
}

// accepted is what people gave up, as a mirror takes it.
func accepted(l consensus.Link) map[topology.Partition][]replicate.Range {
	out := map[topology.Partition][]replicate.Range{}
	for topic, ps := range l.Accepted {
		for n, list := range ps {
			p := topology.Partition{Topic: topic, Partition: n}
			for _, a := range list {
				out[p] = append(out[p], replicate.Range{Start: a.From, End: a.To, Settled: true})
			}
		}
	}
	return out
}

// tell lets a mirror know what was given up since it began.
func (r *link) tell(accepted map[topology.Partition][]replicate.Range) {
	if r.mirror == nil || r.over() {
		return
	}
	for p, list := range accepted {
		for _, a := range list[min(r.told[p], len(list)):] {
			r.mirror.Accept(p, a.Start, a.End)
		}
		r.told[p] = len(list)
	}
}

// newEpochs are the leader epochs of the source that rose since they were noted.
func newEpochs(l consensus.Link, status replicate.LinkStatus) consensus.LeaderEpochs {
	out := consensus.LeaderEpochs{}
	for _, p := range status.Partitions {
		if was, noted := l.SourceEpochs[p.Topic][p.Partition.Partition]; p.SourceEpoch < 0 || noted && was >= p.SourceEpoch {
			continue
		}
		if out[p.Topic] == nil {
			out[p.Topic] = map[int32]int32{}
		}
		out[p.Topic][p.Partition.Partition] = p.SourceEpoch
	}
	return out
}

// heldBack is what the log froze, as a mirror takes it.
func heldBack(l consensus.Link) map[topology.Partition]replicate.Freeze {
	out := map[topology.Partition]replicate.Freeze{}
	for topic, ps := range l.Frozen {
		for n, f := range ps {
			out[topology.Partition{Topic: topic, Partition: n}] = replicate.Freeze{Reason: replicate.Diverged, From: f.From, To: f.To, Detail: f.Reason}
		}
	}
	return out
}
