package consensus

import (
	"maps"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// LinkID names a mirrored direction, "us-east>eu-west".
type LinkID string

// LinkOf returns the link between two regions.
func LinkOf(from, to topology.Region) LinkID { return LinkID(from + ">" + to) }

// LinkPhase is where a link is.
type LinkPhase string

const (
	// LinkRunning: the target's daemon mirrors. A running link is its own
	// standing task.
	LinkRunning LinkPhase = "running"
	// LinkEnded: nothing is mirrored; Ends says how far it came.
	LinkEnded LinkPhase = "ended"
	// LinkUnproven: the target held the role before and lost it without
	// saying goodbye. Its daemon compares, and mirrors nothing.
	LinkUnproven LinkPhase = "unproven"
)

// Offsets maps topic and partition to an offset.
type Offsets map[string]map[int32]int64

// Ranges maps topic and partition to a frozen range.
type Ranges map[string]map[int32]Frozen

// LeaderEpochs maps topic and partition to a leader epoch.
type LeaderEpochs map[string]map[int32]int32

// Frozen is a range of offsets [From, To) of a target partition that the
// mirror will not touch.
type Frozen struct {
	From   int64  `json:"from"`
	To     int64  `json:"to"`
	Reason string `json:"reason"`
}

// TopicPair is the identity of one topic at both ends of a link, as Kafka's
// own tools print it.
type TopicPair struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Link is one mirrored direction. Its direction changes by plan steps only.
type Link struct {
	From  topology.Region `json:"from"`
	To    topology.Region `json:"to"`
	Epoch uint64          `json:"epoch"`
	Phase LinkPhase       `json:"phase"`
	// Starts is where this epoch began in the target; a partition that is not
	// in it began at 0.
	Starts Offsets `json:"starts,omitempty"`
	// Ends is one past the last record of the link in the target, of a link
	// that has ended.
	Ends Offsets `json:"ends,omitempty"`
	// Leaps is where the target's own records begin, once it was fenced: behind
	// the fence and, after a move without the source, behind what the source
	// may have used. Between Ends and Leaps nothing is visible.
	Leaps Offsets `json:"leaps,omitempty"`
	// SourceEnds is the last seen end of the source at that time.
	SourceEnds Offsets `json:"source_ends,omitempty"`

	// Shared and Began are of a link that was started behind another one:
	// below Shared both logs should hold the same, and from Began on are the
	// source's own records. Between them nothing of the source is visible.
	Shared Offsets `json:"shared,omitempty"`
	Began  Offsets `json:"began,omitempty"`
	// SharedEpochs are the target's leader epochs that wrote the last records
	// below Shared, where known. The target's log is what was mirrored from it
	// up to the end of that epoch, and no further.
	SharedEpochs LeaderEpochs `json:"shared_epochs,omitempty"`

	// Frozen names what the target holds beyond what was mirrored from it.
	Frozen Ranges `json:"frozen,omitempty"`
	// Orphans are the ranges of the target with records that it accepted and
	// that were never mirrored from it. They are in a salvage, see State.Salvages.
	Orphans Spans `json:"orphans,omitempty"`
	// Foreign are the ranges in which an offset names one record in the source
	// and another one in the target.
	Foreign Spans `json:"foreign,omitempty"`
	// Accepted are ranges that a person gave up; see AcceptLoss.
	Accepted map[string]map[int32][]Accepted `json:"accepted,omitempty"`
	// Proven is when the prefix was compared and found equal.
	Proven time.Time `json:"proven,omitzero"`
	// Turn rises over all links with each start and each end. Of two links
	// that have both ended, the one with the higher turn ran last.
	Turn uint64 `json:"turn,omitempty"`

	// Fill is the last generation that was handed out for filling holes, over
	// all epochs, and FillBy who got it. FillSettled is the block of
	// generations before which no request can be under way.
	Fill        int32  `json:"fill,omitempty"`
	FillBy      string `json:"fill_by,omitempty"`
	FillSettled int32  `json:"fill_settled,omitempty"`

	// Topics are the identities of the mirrored topics, and SourceEpochs the
	// highest leader epoch of the source among the mirrored records.
	Topics       map[string]TopicPair `json:"topics,omitempty"`
	SourceEpochs LeaderEpochs         `json:"source_epochs,omitempty"`
}

// StartLink starts a link anew, as a step of a plan: a new epoch, from where
// the link named by After ended.
type StartLink struct {
	Step  StepRef `json:"step"`
	Kind  string  `json:"kind"` // StepLinkStart or StepLinkReverse
	Link  LinkID  `json:"link"`
	After LinkID  `json:"after"`
	// Unproven starts it as unproven: after a move without the old region.
	Unproven bool `json:"unproven,omitempty"`
	// Reseeded lists the topics that were created anew: they start at 0 and
	// their frozen ranges are gone.
	Reseeded []string `json:"reseeded,omitempty"`
}

// EndLink records that a link has stopped for good, with what it reached.
// The target's daemon proposes it when its mirror is known to be still.
type EndLink struct {
	Link       LinkID  `json:"link"`
	Epoch      uint64  `json:"epoch"`
	Ends       Offsets `json:"ends"`
	SourceEnds Offsets `json:"source_ends,omitempty"`
	// Epochs are the last leader epochs of the source; see NoteLink.
	Epochs LeaderEpochs `json:"epochs,omitempty"`
}

// FenceLink records that no mirror of an ended link can write any more, and
// what was found then. Done again it may say that the target leapt further,
// and never that the link ended elsewhere.
type FenceLink struct {
	Link  LinkID  `json:"link"`
	Epoch uint64  `json:"epoch"`
	Ends  Offsets `json:"ends,omitempty"`
	Leaps Offsets `json:"leaps,omitempty"`
	// Began is set instead when it is the source that goes on, and leapt over
	// what the target may have used.
	Began Offsets `json:"began,omitempty"`
}

// JudgeLink records what the comparison of an unproven link found, and where
// it begins.
type JudgeLink struct {
	Link   LinkID `json:"link"`
	Epoch  uint64 `json:"epoch"`
	Frozen Ranges `json:"frozen,omitempty"`
	// Starts is the target's end of each partition: the link runs from there.
	Starts  Offsets `json:"starts,omitempty"`
	Orphans Spans   `json:"orphans,omitempty"`
	Foreign Spans   `json:"foreign,omitempty"`
	// Salvage is the sealed copy of the orphans, nil when there are none.
	Salvage *Salvage `json:"salvage,omitempty"`
}

// NoteLink records what a running link has to know of its topics after a
// restart, and what a reversal needs. Topics without identities are forgotten;
// epochs only rise, unless their topic is another one.
type NoteLink struct {
	Link   LinkID               `json:"link"`
	Epoch  uint64               `json:"epoch"`
	Topics map[string]TopicPair `json:"topics,omitempty"`
	Epochs LeaderEpochs         `json:"epochs,omitempty"`
}

func (*StartLink) kind() string { return "link.start" }
func (*EndLink) kind() string   { return "link.end" }
func (*FenceLink) kind() string { return "link.fence" }
func (*JudgeLink) kind() string { return "link.judge" }
func (*NoteLink) kind() string  { return "link.note" }

func (c *StartLink) apply(d *draft) error {
	if c.Kind != StepLinkStart && c.Kind != StepLinkReverse {
		return invalid("link step %q", c.Kind)
	}
	return d.decide(c.Step, c.Kind, func(p Plan) error {
		after, ok := d.Links[c.After]
		if !ok {
			return missing("no link %s", c.After)
		}
		l, known := d.Links[c.Link]
		if !known {
			l = Link{From: after.To, To: after.From}
			if LinkOf(l.From, l.To) != c.Link {
				return invalid("link %s does not reverse %s", c.Link, c.After)
			}
		}
		if len(c.Reseeded) > 0 {
			if p.Kind != Reseed || c.After != c.Link {
				return invalid("only a reseed plan restarts topics of link %s", c.Link)
			}
			l.forget(c.Reseeded)
		} else if c.Link == c.After && after.Phase == LinkRunning {
			// The plan was turned back before the mirror had confirmed that it
			// stopped: a new epoch, from where this one began. A late word that
			// it did stop then ends nothing.
		} else {
			if after.Phase != LinkEnded {
				return conflict("link %s is %s, not ended", c.After, after.Phase)
			}
			l.follow(after, c.Link == c.After, c.Unproven)
		}
		l.Epoch, l.Turn = l.Epoch+1, d.turn()
		l.Ends, l.Leaps, l.SourceEnds, l.Proven = nil, nil, nil, time.Time{}
		l.Phase = LinkRunning
		if c.Unproven {
			l.Phase = LinkUnproven
		}
		d.Links[c.Link] = l
		return nil
	})
}

// follow makes l begin where a link has ended: itself, when a plan was turned
// back, or when its target took the role and failed; else the one it reverses.
func (l *Link) follow(after Link, itself, unproven bool) {
	l.Starts = after.Ends
	switch {
	case itself && !unproven:
		return // what it knew of its logs is still so
	case itself:
		l.Shared, l.SharedEpochs = after.Ends, nil // the target wrote on, under epochs that nobody noted
		l.Began = raised(l.Began, after.Ends)
		return
	}
	l.Shared = after.Ends
	l.Frozen, l.Accepted = nil, nil
	l.Began, l.SharedEpochs = after.Leaps, after.SourceEpochs
	// What a reversal changes nothing about: which offsets differ, and who the
	// topics are.
	l.Foreign = mergeSpans(l.Foreign, after.Foreign)
	l.SourceEpochs, l.Topics = nil, nil
	for name, pair := range after.Topics {
		if l.Topics == nil {
			l.Topics = make(map[string]TopicPair, len(after.Topics))
		}
		l.Topics[name] = TopicPair{Source: pair.Target, Target: pair.Source}
	}
}

// forget drops what is known of topics that were created anew in the target.
func (l *Link) forget(topics []string) {
	l.Starts, l.Shared, l.Began = maps.Clone(l.Starts), maps.Clone(l.Shared), maps.Clone(l.Began)
	l.SharedEpochs, l.SourceEpochs, l.Topics = maps.Clone(l.SharedEpochs), maps.Clone(l.SourceEpochs), maps.Clone(l.Topics)
	l.Frozen, l.Orphans, l.Foreign, l.Accepted = maps.Clone(l.Frozen), maps.Clone(l.Orphans), maps.Clone(l.Foreign), maps.Clone(l.Accepted)
	for _, topic := range topics {
		delete(l.Starts, topic)
		delete(l.Shared, topic)
		delete(l.Began, topic)
		delete(l.SharedEpochs, topic)
		delete(l.SourceEpochs, topic)
		delete(l.Topics, topic)
		delete(l.Frozen, topic)
		delete(l.Orphans, topic)
		delete(l.Foreign, topic)
		delete(l.Accepted, topic)
	}
}

// LinkTurn returns the turn of the link that was started or ended last, 0
// when none was. What was decided on the links holds while it stays the same.
func (s State) LinkTurn() uint64 {
	var last uint64
	for _, l := range s.Links {
		last = max(last, l.Turn)
	}
	return last
}

// turn returns the next turn of any link.
func (d *draft) turn() uint64 { return d.LinkTurn() + 1 }

// linkAt returns a link at the epoch that a command is about.
func (d *draft) linkAt(id LinkID, epoch uint64) (Link, error) {
	l, ok := d.Links[id]
	if !ok {
		return Link{}, missing("no link %s", id)
	}
	if l.Epoch != epoch {
		return Link{}, stale("link %s is %s at epoch %d", id, l.Phase, l.Epoch)
	}
	return l, nil
}

func (c *EndLink) apply(d *draft) error {
	l, err := d.linkAt(c.Link, c.Epoch)
	if err != nil {
		return err
	}
	if l.Phase == LinkEnded {
		return stale("link %s is %s at epoch %d", c.Link, l.Phase, l.Epoch)
	}
	l.Phase, l.Ends, l.SourceEnds, l.Turn = LinkEnded, c.Ends, c.SourceEnds, d.turn()
	l.SourceEpochs = raised(l.SourceEpochs, c.Epochs)
	d.Links[c.Link] = l
	return nil
}

func (c *FenceLink) apply(d *draft) error {
	l, err := d.linkAt(c.Link, c.Epoch)
	if err != nil {
		return err
	}
	if l.Phase != LinkEnded {
		return conflict("link %s is %s: it is fenced after its mirror has stopped", c.Link, l.Phase)
	}
	for topic, ps := range c.Ends {
		for p, x := range ps {
			if was, fenced := l.Leaps[topic][p]; fenced && l.Ends[topic][p] != x {
				return conflict("link %s ended at %d of %s/%d when it was fenced (its target went on at %d), and cannot have ended at %d", c.Link, l.Ends[topic][p], topic, p, was, x)
			}
			if g, leapt := c.Leaps[topic][p]; !leapt || g < x {
				return invalid("link %s ended at %d of %s/%d: its target cannot go on before that", c.Link, x, topic, p)
			}
		}
	}
	for topic, ps := range c.Leaps {
		for p := range ps {
			if _, ended := c.Ends[topic][p]; !ended {
				return invalid("no end is given of %s/%d in link %s", topic, p, c.Link)
			}
		}
	}
	l.Ends = overlaid(l.Ends, c.Ends)
	l.Leaps = raised(l.Leaps, c.Leaps)
	l.Began = raised(l.Began, c.Began)
	d.Links[c.Link] = l
	return nil
}

func (c *JudgeLink) apply(d *draft) error {
	l, err := d.linkAt(c.Link, c.Epoch)
	if err != nil {
		return err
	}
	if l.Phase != LinkUnproven {
		return stale("link %s is %s at epoch %d", c.Link, l.Phase, l.Epoch)
	}
	if c.Salvage == nil && c.Orphans.any() {
		return invalid("link %s has orphans, and nothing says where they were salvaged to", c.Link)
	}
	if c.Salvage != nil {
		if err := d.keep(*c.Salvage, c.Link, c.Epoch); err != nil {
			return err
		}
	}
	l.Phase, l.Frozen, l.Proven = LinkRunning, c.Frozen, d.at
	l.Starts = overlaid(l.Starts, c.Starts)
	l.Orphans, l.Foreign = mergeSpans(l.Orphans, c.Orphans), mergeSpans(l.Foreign, c.Foreign)
	d.Links[c.Link] = l
	return nil
}

func (c *NoteLink) apply(d *draft) error {
	l, err := d.linkAt(c.Link, c.Epoch)
	if err != nil {
		return err
	}
	if l.Phase != LinkRunning {
		return stale("link %s is %s at epoch %d", c.Link, l.Phase, l.Epoch)
	}
	topics, epochs := maps.Clone(l.Topics), maps.Clone(l.SourceEpochs)
	if topics == nil {
		topics = map[string]TopicPair{}
	}
	for name, pair := range c.Topics {
		if was, known := topics[name]; known && was.Source != pair.Source {
			delete(epochs, name) // of another topic
		}
		if topics[name] = pair; pair == (TopicPair{}) {
			delete(topics, name)
		}
	}
	if len(topics) > topicsMax {
		return invalid("link %s: more than %d topics", c.Link, topicsMax)
	}
	l.Topics, l.SourceEpochs = topics, raised(epochs, c.Epochs)
	d.Links[c.Link] = l
	return nil
}

// topicsMax bounds what the state keeps of one link.
const topicsMax = 10_000

// overlaid returns m with the values of over in their places.
func overlaid(m, over Offsets) Offsets {
	return combined(m, over, func(_, b int64) int64 { return b })
}

// raised returns m with the values of by where they are higher or new.
func raised[M ~map[string]map[int32]V, V int32 | int64](m, by M) M {
	return combined(m, by, func(a, b V) V { return max(a, b) })
}

// combined returns a fresh map of what a or b hold; both decides where they meet.
func combined[M ~map[string]map[int32]V, V any](a, b M, both func(a, b V) V) M {
	if len(b) == 0 {
		return a
	}
	out := make(M, len(a)+len(b))
	maps.Copy(out, a)
	for topic, ps := range b {
		row := make(map[int32]V, len(ps))
		maps.Copy(row, out[topic])
		for p, v := range ps {
			if was, known := row[p]; known {
				v = both(was, v)
			}
			row[p] = v
		}
		out[topic] = row
	}
	return out
}
