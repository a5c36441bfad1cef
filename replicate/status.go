package replicate

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// PartitionStatus is one line of `mirror status`.
type PartitionStatus struct {
	topology.Partition
	State        State      `json:"state"`
	SourceStart  int64      `json:"source_start"`             // -1: not seen yet
	SourceEnd    int64      `json:"source_end"`               // as last seen; -1: not seen yet
	SourceSeenAt *time.Time `json:"source_seen_at,omitempty"` // when SourceEnd was seen
	TargetEnd    int64      `json:"target_end"`               // -1: not read yet
	// RecordsBehind is SourceEnd - TargetEnd, -1 when one of them is not known.
	RecordsBehind int64 `json:"records_behind"`
	// BytesBehindEstimate is RecordsBehind times the mean stored size of the
	// records mirrored so far; an estimate, 0 until some were.
	BytesBehindEstimate int64 `json:"bytes_behind_estimate"`
	// SecondsBehind is the age of the oldest record that is not mirrored, by
	// its own timestamp when it was read, else since it was first seen; and
	// never less than the time since the source was last seen, once that is
	// more than StaleAfter. 0 when caught up, -1 when not known.
	SecondsBehind float64 `json:"seconds_behind"`
	Frozen        *Freeze `json:"frozen,omitempty"`
	Next          string  `json:"next,omitempty"`    // what a person can do
	Trouble       string  `json:"trouble,omitempty"` // what is being retried
	// Hole is what is being filled. Seed is the prefix that is being seeded,
	// with how far it is and how long the rest takes at this pace.
	Hole *Range  `json:"hole,omitempty"`
	Seed *SeedOf `json:"seed,omitempty"`
	// OvertakenIn is the time in seconds until the source's retention reaches
	// what is not mirrored yet, if both go on as they did; absent: it does not.
	OvertakenIn *float64 `json:"overtaken_in_seconds,omitempty"`
	// LastStable is the source's last stable offset, -1 when not known. A
	// transaction that stays open holds it below SourceEnd, and the mirror too.
	LastStable int64 `json:"last_stable"`
	// SourceEpoch is the source's leader epoch of the newest mirrored record.
	SourceEpoch int32        `json:"source_epoch"`
	History     []Transition `json:"history,omitempty"`
	Unproven    bool         `json:"unproven,omitempty"`
	Records     int64        `json:"records"` // mirrored by this process
	Bytes       int64        `json:"bytes"`
	Holes       int64        `json:"holes,omitempty"`  // filled by this process
	Filled      int64        `json:"filled,omitempty"` // offsets in them
}

// SeedOf is how far the seeding of a prefix is.
type SeedOf struct {
	Range
	At        int64   `json:"at"`
	PerSecond float64 `json:"per_second"` // offsets
	// Left is how long the rest takes at this pace, in seconds; -1: not known.
	Left float64 `json:"left_seconds"`
}

// StaleAfter is how long a source may be silent before its last seen end is
// no longer taken for its end.
const StaleAfter = 5 * time.Second

// LinkStatus is the whole link. The lists are sorted.
type LinkStatus struct {
	Link    Link      `json:"link"`
	At      time.Time `json:"at"`
	Running bool      `json:"running"`
	// Seen says that the topics of both clusters were read at least once.
	// Until then the list of partitions is empty because nothing is known.
	Seen       bool              `json:"seen"`
	Partitions []PartitionStatus `json:"partitions"`
	Findings   []Finding         `json:"findings,omitempty"` // about topics and the link
	Totals     Totals            `json:"totals"`
}

// Finding is something a person should know, with the next step.
type Finding struct {
	About string `json:"about"` // a topic, a group, or "source", "target"
	Text  string `json:"text"`
	Next  string `json:"next,omitempty"`
}

// Totals sums up a link. Frozen partitions count in Frozen and in the
// distances, as what they lack is lacking.
type Totals struct {
	Partitions          int     `json:"partitions"`
	Working             int     `json:"working"` // following, seeding, filling or waiting
	Promoted            int     `json:"promoted"`
	Resuming            int     `json:"resuming"`
	Frozen              int     `json:"frozen"`
	Unknown             int     `json:"unknown"` // partitions whose distance is not known
	RecordsBehind       int64   `json:"records_behind"`
	BytesBehindEstimate int64   `json:"bytes_behind_estimate"`
	SecondsBehindMax    float64 `json:"seconds_behind_max"`
	Records             int64   `json:"records"`
	Bytes               int64   `json:"bytes"`
	Holes               int64   `json:"holes"`
	Filled              int64   `json:"filled"` // offsets in the holes
}

// Status describes the partition at the time now.
func (m Partition) Status(now time.Time) PartitionStatus {
	s := PartitionStatus{
		Partition: m.ID, State: m.State, SourceStart: m.SourceStart, SourceEnd: m.SourceEnd, TargetEnd: m.End,
		RecordsBehind: -1, SecondsBehind: -1, Frozen: m.Freeze, Trouble: m.Trouble, Unproven: m.Unproven,
		Records: m.Records, Bytes: m.Bytes, Holes: m.Holes, Filled: m.Filled,
		LastStable: m.LastStable, SourceEpoch: m.SourceEpoch, History: m.History,
	}
	if m.State == Filling || m.State == Waiting && m.Hole != (Range{}) {
		hole := m.Hole
		s.Hole = &hole
	}
	if m.State == Seeding {
		s.Seed = m.seedOf(now)
	}
	if !m.SourceSeenAt.IsZero() {
		at := m.SourceSeenAt
		s.SourceSeenAt = &at
	}
	if m.Freeze != nil {
		s.Next = m.Freeze.NextStep(m.Link.Link.Target, m.ID)
	}
	if m.End < 0 || m.SourceEnd < 0 {
		return s
	}
	s.RecordsBehind = max(0, m.SourceEnd-m.End)
	if m.Records > 0 {
		s.BytesBehindEstimate = int64(float64(s.RecordsBehind) * float64(m.Bytes) / float64(m.Records))
	}
	var age time.Duration
	if s.RecordsBehind > 0 {
		age = now.Sub(m.BehindSince)
		if len(m.queue) > 0 && m.queue[0].FirstTimestamp > 0 {
			age = now.Sub(time.UnixMilli(m.queue[0].FirstTimestamp))
		}
	}
	if unseen := now.Sub(m.SourceSeenAt); unseen > StaleAfter {
		age = max(age, unseen)
	}
	s.SecondsBehind = max(0, age.Seconds())
	return s
}

func (m Partition) seedOf(now time.Time) *SeedOf {
	s := SeedOf{Range: m.Seed, At: m.End, Left: -1}
	if took := now.Sub(m.SeedAt).Seconds(); took > 0 && m.SeedFrom < m.End {
		s.PerSecond = float64(m.End-m.SeedFrom) / took
		s.Left = float64(m.Seed.End-m.End) / s.PerSecond
	}
	return &s
}

// Sum sorts the partitions and fills in the totals.
func (l *LinkStatus) Sum() {
	slices.SortFunc(l.Partitions, func(a, b PartitionStatus) int { return a.Compare(b.Partition) })
	slices.SortFunc(l.Findings, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.About, b.About), cmp.Compare(a.Text, b.Text)) })
	l.Totals = Totals{Partitions: len(l.Partitions)}
	for _, p := range l.Partitions {
		switch p.State {
		case Following, Seeding, Filling, Waiting:
			l.Totals.Working++
		case Promoted:
			l.Totals.Promoted++
		case Resuming:
			l.Totals.Resuming++
		case Frozen:
			l.Totals.Frozen++
		}
		if p.RecordsBehind < 0 {
			l.Totals.Unknown++
		} else {
			l.Totals.RecordsBehind += p.RecordsBehind
		}
		l.Totals.BytesBehindEstimate += p.BytesBehindEstimate
		l.Totals.SecondsBehindMax = max(l.Totals.SecondsBehindMax, p.SecondsBehind)
		l.Totals.Records += p.Records
		l.Totals.Bytes += p.Bytes
		l.Totals.Holes += p.Holes
		l.Totals.Filled += p.Filled
	}
}
