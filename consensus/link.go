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

// Frozen is a range of offsets [From, To) of a target partition that the
// mirror will not touch.
type Frozen struct {
	From   int64  `json:"from"`
	To     int64  `json:"to"`
	Reason string `json:"reason"`
}

// Link is one mirrored direction. Its direction changes by plan steps only.
type Link struct {
	From  topology.Region `json:"from"`
	To    topology.Region `json:"to"`
	Epoch uint64          `json:"epoch"`
	Phase LinkPhase       `json:"phase"`
	// Starts is where this epoch began; a partition that is not in it began at 0.
	Starts Offsets `json:"starts,omitempty"`
	// Ends is the target's end of each partition when the link ended.
	Ends Offsets `json:"ends,omitempty"`
	// SourceEnds is the last seen end of the source at that time.
	SourceEnds Offsets `json:"source_ends,omitempty"`
	// Frozen names what the target holds beyond what was mirrored from it.
	Frozen Ranges `json:"frozen,omitempty"`
	// Proven is when the prefix was compared and found equal.
	Proven time.Time `json:"proven,omitzero"`
	// Turn rises over all links with each start and each end. Of two links
	// that have both ended, the one with the higher turn ran last.
	Turn uint64 `json:"turn,omitempty"`
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
}

// JudgeLink records what the comparison of an unproven link found.
type JudgeLink struct {
	Link   LinkID `json:"link"`
	Epoch  uint64 `json:"epoch"`
	Frozen Ranges `json:"frozen,omitempty"`
}

func (*StartLink) kind() string { return "link.start" }
func (*EndLink) kind() string   { return "link.end" }
func (*JudgeLink) kind() string { return "link.judge" }

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
			l.Starts, l.Frozen = maps.Clone(l.Starts), maps.Clone(l.Frozen)
			for _, topic := range c.Reseeded {
				delete(l.Starts, topic)
				delete(l.Frozen, topic)
			}
		} else if c.Link == c.After && after.Phase == LinkRunning {
			// The plan was turned back before the mirror had confirmed that it
			// stopped: a new epoch, from where this one began. A late word that
			// it did stop then ends nothing.
		} else {
			if after.Phase != LinkEnded {
				return conflict("link %s is %s, not ended", c.After, after.Phase)
			}
			l.Starts, l.Frozen = after.Ends, nil
		}
		l.Epoch, l.Turn = l.Epoch+1, d.turn()
		l.Ends, l.SourceEnds, l.Proven = nil, nil, time.Time{}
		l.Phase = LinkRunning
		if c.Unproven {
			l.Phase = LinkUnproven
		}
		d.Links[c.Link] = l
		return nil
	})
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

func (c *EndLink) apply(d *draft) error {
	l, ok := d.Links[c.Link]
	if !ok {
		return missing("no link %s", c.Link)
	}
	if l.Epoch != c.Epoch || l.Phase == LinkEnded {
		return stale("link %s is %s at epoch %d", c.Link, l.Phase, l.Epoch)
	}
	l.Phase, l.Ends, l.SourceEnds, l.Turn = LinkEnded, c.Ends, c.SourceEnds, d.turn()
	d.Links[c.Link] = l
	return nil
}

func (c *JudgeLink) apply(d *draft) error {
	l, ok := d.Links[c.Link]
	if !ok {
		return missing("no link %s", c.Link)
	}
	if l.Epoch != c.Epoch || l.Phase != LinkUnproven {
		return stale("link %s is %s at epoch %d", c.Link, l.Phase, l.Epoch)
	}
	l.Phase, l.Frozen, l.Proven = LinkRunning, c.Frozen, d.at
	d.Links[c.Link] = l
	return nil
}
