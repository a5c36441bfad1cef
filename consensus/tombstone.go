package consensus

import (
	"maps"
	"time"
)

// Tombstone is a mirrored topic that was deleted at the source. The target's
// copy is kept for a while, in case nobody meant it; the tombstone says which
// copy, and since when. It holds for one epoch of its link: after a move the
// former target may have written to its copy.
type Tombstone struct {
	TopicPair
	Epoch uint64    `json:"epoch"` // of the link
	At    time.Time `json:"at"`    // when the source was first seen without it
}

// MarkDeleted records that a topic of a running link was deleted at the source.
type MarkDeleted struct {
	Link  LinkID    `json:"link"`
	Epoch uint64    `json:"epoch"`
	Topic string    `json:"topic"`
	Pair  TopicPair `json:"pair"`
	At    time.Time `json:"at"`
}

// DropTombstone ends a tombstone: the copy was deleted, or it is not for us to
// delete any more.
type DropTombstone struct {
	Link  LinkID `json:"link"`
	Epoch uint64 `json:"epoch"` // of the tombstone
	Topic string `json:"topic"`
	// Deleted says that the target's copy was deleted for it.
	Deleted bool   `json:"deleted,omitempty"`
	Why     string `json:"why"`
}

func (*MarkDeleted) kind() string   { return "topic.deleted" }
func (*DropTombstone) kind() string { return "topic.dropped" }

func (c *MarkDeleted) apply(d *draft) error {
	l, ok := d.Links[c.Link]
	if !ok {
		return missing("no link %s", c.Link)
	}
	if l.Epoch != c.Epoch || l.Phase != LinkRunning {
		return stale("link %s is %s at epoch %d", c.Link, l.Phase, l.Epoch)
	}
	if c.Topic == "" || c.Pair.Target == "" {
		return invalid("a tombstone names a topic and its copy")
	}
	was, known := d.Tombstones[c.Link][c.Topic]
	if known && was.Epoch == c.Epoch && was.TopicPair == c.Pair {
		return stale("the deletion of %s is recorded already", c.Topic)
	}
	if !known && len(d.Tombstones[c.Link]) >= topicsMax {
		return conflict("link %s has %d tombstones: nothing more is recorded until some are gone", c.Link, topicsMax)
	}
	d.setTombstones(c.Link, func(of map[string]Tombstone) {
		of[c.Topic] = Tombstone{TopicPair: c.Pair, Epoch: c.Epoch, At: c.At}
	})
	return nil
}

func (c *DropTombstone) apply(d *draft) error {
	was, ok := d.Tombstones[c.Link][c.Topic]
	if !ok {
		return missing("no tombstone of %s on link %s", c.Topic, c.Link)
	}
	if was.Epoch != c.Epoch {
		return stale("the tombstone of %s is of epoch %d", c.Topic, was.Epoch)
	}
	d.setTombstones(c.Link, func(of map[string]Tombstone) { delete(of, c.Topic) })
	return nil
}

// setTombstones changes a copy of a link's tombstones: what was handed out
// stays as it is.
func (d *draft) setTombstones(id LinkID, change func(map[string]Tombstone)) {
	of := maps.Clone(d.Tombstones[id])
	if of == nil {
		of = map[string]Tombstone{}
	}
	change(of)
	all := maps.Clone(d.Tombstones)
	if all == nil {
		all = map[LinkID]map[string]Tombstone{}
	}
	all[id] = of
	if len(of) == 0 {
		delete(all, id)
	}
	if len(all) == 0 {
		all = nil
	}
	d.Tombstones = all
}
