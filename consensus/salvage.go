package consensus

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Span is a range of offsets [From, To).
type Span struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Spans maps topic and partition to ranges, in order and apart.
type Spans map[string]map[int32][]Span

// spansMax bounds the ranges that are kept of one partition, the highest ones:
// retention takes the lowest first.
const spansMax = 64

func (s Spans) any() bool {
	for _, ps := range s {
		for _, list := range ps {
			if len(list) > 0 {
				return true
			}
		}
	}
	return false
}

// mergeSpans returns all that a or b cover.
func mergeSpans(a, b Spans) Spans {
	return combined(a, b, func(x, y []Span) []Span {
		all := slices.Concat(x, y)
		slices.SortFunc(all, func(p, q Span) int { return cmp.Or(cmp.Compare(p.From, q.From), cmp.Compare(p.To, q.To)) })
		var out []Span
		for _, s := range all {
			if n := len(out); n > 0 && s.From <= out[n-1].To {
				out[n-1].To = max(out[n-1].To, s.To)
				continue
			}
			out = append(out, s)
		}
		return out[max(0, len(out)-spansMax):]
	})
}

// SalvageID names a salvage: the region and link epoch that it came from.
type SalvageID string

// Salvage is a sealed copy of records that a region accepted and that were
// never mirrored from it.
type Salvage struct {
	ID    SalvageID `json:"id"`
	Link  LinkID    `json:"link"` // that was judged
	Epoch uint64    `json:"epoch"`
	At    time.Time `json:"at"`
	// Where is the place, for people; Digest is that of the seal as stored.
	Where   string `json:"where"`
	Digest  string `json:"digest"`
	Records int64  `json:"records"`
	Bytes   int64  `json:"bytes"` // as stored
	Orphans Spans  `json:"orphans"`
	// Replays are the partitions whose records were produced again.
	Replays []Replay `json:"replays,omitempty"`
}

// Replay is one time that records of a salvage were produced again, as new
// records.
type Replay struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	To        string    `json:"to"` // the region
	Records   int64     `json:"records"`
	At        time.Time `json:"at"`
	By        string    `json:"by"`
}

const (
	salvagesKept = 256  // forgetting one leaves its object where it is
	replaysMax   = 4096 // of one salvage
)

// keep adds a salvage to the record.
func (d *draft) keep(s Salvage, link LinkID, epoch uint64) error {
	if s.ID == "" || s.Digest == "" || s.Where == "" || len(s.Replays) > 0 {
		return invalid("a salvage of %s needs a name, a place and a digest, and nothing of it was produced again yet", link)
	}
	if s.Link != link || s.Epoch != epoch {
		return invalid("salvage %s is of %s at epoch %d, not of %s at epoch %d", s.ID, s.Link, s.Epoch, link, epoch)
	}
	if _, taken := d.Salvages[s.ID]; taken {
		return conflict("salvage %s is there already", s.ID)
	}
	if d.Salvages == nil {
		d.Salvages = map[SalvageID]Salvage{}
	}
	d.Salvages[s.ID] = s
	oldest := slices.SortedFunc(maps.Keys(d.Salvages), func(a, b SalvageID) int {
		return cmp.Or(d.Salvages[a].At.Compare(d.Salvages[b].At), cmp.Compare(a, b))
	})
	for _, id := range oldest[:max(0, len(oldest)-salvagesKept)] {
		delete(d.Salvages, id)
	}
	return nil
}

// NoteReplay records, before the first of them is produced, that records of a
// salvage are produced again. A partition whose records were is refused,
// unless a person says Again.
type NoteReplay struct {
	Salvage   SalvageID `json:"salvage"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	To        string    `json:"to"`
	Records   int64     `json:"records"`
	Again     bool      `json:"again,omitempty"`
}

func (*NoteReplay) kind() string { return "salvage.replay" }

func (c *NoteReplay) apply(d *draft) error {
	s, ok := d.Salvages[c.Salvage]
	if !ok {
		return missing("no salvage %s", c.Salvage)
	}
	if len(s.Orphans[c.Topic][c.Partition]) == 0 {
		return missing("salvage %s has nothing of %s/%d", c.Salvage, c.Topic, c.Partition)
	}
	for _, r := range s.Replays {
		if r.Topic == c.Topic && r.Partition == c.Partition && !c.Again {
			return conflict("the %d records of %s/%d were produced again at %s by %s: once more would be twice", r.Records, c.Topic, c.Partition, r.At.UTC().Format(time.RFC3339), r.By)
		}
	}
	if len(s.Replays) >= replaysMax {
		return conflict("records of salvage %s were produced again %d times", c.Salvage, replaysMax)
	}
	s.Replays = append(slices.Clone(s.Replays), Replay{c.Topic, c.Partition, c.To, c.Records, d.at, d.by})
	d.Salvages[c.Salvage] = s
	return nil
}

// Accepted is a range of a partition that a person gave up.
type Accepted struct {
	From   int64     `json:"from"`
	To     int64     `json:"to"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// AcceptLoss gives up a range of a partition that the source has no more: the
// target gets a hole there, and mirroring goes on behind it.
type AcceptLoss struct {
	Link      LinkID `json:"link"`
	Epoch     uint64 `json:"epoch"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	Reason    string `json:"reason"`
}

const acceptedMax = 100 // of one partition

func (*AcceptLoss) kind() string { return "link.accept-loss" }

func (c *AcceptLoss) apply(d *draft) error {
	l, err := d.linkAt(c.Link, c.Epoch)
	if err != nil {
		return err
	}
	switch {
	case l.Phase != LinkRunning:
		return conflict("link %s is %s: a loss is accepted of one that runs", c.Link, l.Phase)
	case c.Topic == "" || c.Partition < 0 || c.From < 0 || c.To <= c.From:
		return invalid("%s/%d [%d,%d) is no range", c.Topic, c.Partition, c.From, c.To)
	case strings.TrimSpace(c.Reason) == "":
		return invalid("giving up records needs a reason")
	}
	was := l.Accepted[c.Topic][c.Partition]
	for _, a := range was {
		if a.From == c.From && a.To == c.To {
			return stale("%s/%d [%d,%d) was given up already, by %s", c.Topic, c.Partition, c.From, c.To, a.By)
		}
	}
	if len(was) >= acceptedMax {
		return conflict("%d ranges of %s/%d were given up: mirror the topic anew, `holdfast mirror reseed`", acceptedMax, c.Topic, c.Partition)
	}
	list := append(slices.Clone(was), Accepted{c.From, c.To, c.Reason, d.by, d.at})
	l.Accepted = combined(l.Accepted, map[string]map[int32][]Accepted{c.Topic: {c.Partition: list}}, func(_, b []Accepted) []Accepted { return b })
	d.Links[c.Link] = l
	return nil
}
