package replicate

import "fmt"

// Returned is what is known of one partition of a region that lost its role
// without a word and is back: its log and the log of the region that went on.
// They held the same up to X at most; the returned one may have lost some of
// that, and may have accepted records of its own from there on.
type Returned struct {
	X int64 // end of what was mirrored from it
	// Began is where the records of the region that went on begin: it skipped
	// the offsets from X up to there. X if it skipped none.
	Began int64
	Start int64 // of the returned log
	End   int64 // of the returned log, settled
	Ahead int64 // end of the log that went on
	// EpochEnd is how far the returned log goes under the leader epoch that
	// wrote the last mirrored record: below it is the log that was mirrored.
	// -1: that epoch is not known there, or was never noted.
	EpochEnd int64
	// Compared is the range whose records were compared, right below Shared().
	// Whole says that it goes down to where either log begins. Differs is the
	// first offset in it with a difference, -1 if there is none, and Records
	// how many records were found equal.
	Compared Range
	Whole    bool
	Differs  int64
	Records  int64
	// Compacted: the log cleaner may have removed records on either side.
	Compacted bool
}

// Shared is below which offset both logs should hold the same records.
func (r Returned) Shared() int64 {
	c := min(r.X, r.End)
	if r.EpochEnd >= 0 {
		c = min(c, r.EpochEnd)
	}
	return max(0, c)
}

// Reunion says how a returned partition can follow the other one.
type Reunion struct {
	// Proven is below which offset both logs hold the same.
	Proven int64
	// Orphans is what only the returned log holds, as far as is known. It must
	// be salvaged before anything else happens. It may turn out to hold nothing
	// visible.
	Orphans Range
	// Foreign are the offsets that name one record here and another one there.
	Foreign []Range
	// Start is where the link begins: the end of the returned log, always.
	Start int64
	// LeapTo is where the log that went on must end at least, before the link
	// can begin; 0 if it does.
	LeapTo int64
	// Freeze says why the partition cannot follow; empty if it can.
	Freeze string
}

// Judge decides from what was found. It names no record twice and leaves none
// out: what lies below Proven is in both logs, what the returned log holds
// above it is orphaned, and what the other log holds there and the returned
// one cannot take is foreign.
func (r Returned) Judge() Reunion {
	v := Reunion{Proven: r.Shared(), Start: r.End}
	switch {
	case r.Differs >= 0 && r.Whole && !r.Compacted:
		v.Proven = min(v.Proven, r.Differs) // everything below was compared
	case r.Differs >= 0:
		v.Freeze = fmt.Sprintf("it differs from %d on, below where the mirror stood (%d)", r.Differs, r.X)
	case !r.Whole && r.Records == 0:
		v.Freeze = fmt.Sprintf("nothing below where the mirror stood (%d) could be compared", r.X)
	}
	if v.Freeze != "" {
		// What is known to differ is discarded when the topic is mirrored anew.
		from := v.Proven
		if r.Differs >= 0 {
			from = r.Differs
		}
		v.Orphans = Range{Start: min(max(from, r.Start), r.End), End: r.End, Settled: true}
		return v
	}
	if v.Orphans = (Range{Start: max(v.Proven, r.Start), End: r.End, Settled: true}); v.Orphans.Start >= v.Orphans.End {
		v.Orphans = Range{Start: r.End, End: r.End, Settled: true}
	}
	// The other log may grow until it is leapt to the end of this one, so all
	// up to there counts as its own.
	for _, f := range []Range{{Start: v.Proven, End: min(r.End, r.X)}, {Start: max(r.Began, r.X), End: r.End}} {
		if f.Start < f.End {
			f.Settled = true
			v.Foreign = append(v.Foreign, f)
		}
	}
	if r.Ahead < r.End {
		v.LeapTo = r.End
	}
	return v
}
