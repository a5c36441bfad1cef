package replicate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// State is what a mirrored partition is doing.
type State string

// The states. Resuming turns into one of the working states when both ends
// were read and fit together. Frozen and Promoted do nothing: the first is
// left by a person, the second never.
const (
	Resuming  State = "resuming"  // reads both ends
	Seeding   State = "seeding"   // fills the prefix that the source no longer has
	Following State = "following" // appends what the source has
	Filling   State = "filling"   // takes offsets that hold no record at the source
	Waiting   State = "waiting"   // needs a generation before it may go on
	Frozen    State = "frozen"    // stopped, see Freeze
	Promoted  State = "promoted"  // the target was fenced against this link
)

// Working says whether the state moves records.
func (s State) Working() bool {
	return s == Seeding || s == Following || s == Filling || s == Waiting
}

// Limits bound one partition.
type Limits struct {
	BufferBytes  int           // stop fetching above this many bytes in the queue
	RetryMin     time.Duration // first wait after a failure
	RetryMax     time.Duration // longest wait between tries
	RequestGrace time.Duration // how long a lost request may still be carried out
	Doubts       int           // how often an odd finding must repeat before it freezes
	HoleMax      int64         // offsets of one hole; a longer one freezes
	SeedMax      int64         // offsets of one prefix; a longer one freezes
	MarksMax     int64         // markers in one request
	FillerMax    int64         // empty records in one filler batch
	TogetherMax  int           // batches offered to one append
}

// DefaultLimits are sane for production.
var DefaultLimits = Limits{
	BufferBytes: 2 << 20, RetryMin: 100 * time.Millisecond, RetryMax: 5 * time.Second,
	RequestGrace: 15 * time.Second, Doubts: 5,
	HoleMax: 1_000_000, SeedMax: 20_000_000_000, MarksMax: 2000, FillerMax: 250_000, TogetherMax: 1024,
}

// Transition is one change of state.
type Transition struct {
	At   time.Time `json:"at"`
	From State     `json:"from"`
	To   State     `json:"to"`
	Why  string    `json:"why,omitempty"`
}

// transitionsKept bounds the history of one partition.
const transitionsKept = 16

// Partition is the state machine of one mirrored partition. It is a value: Next
// returns the new one and leaves the old one untouched.
type Partition struct {
	ID topology.Partition
	// Link is what was decided for this partition: Link.Start is the target's
	// end when the link was made. Run is what is being written now: the same,
	// or a later run that began behind a hole or where an earlier epoch ended.
	Link, Run Run
	State     State
	Freeze    *Freeze // set while frozen
	// History holds the last changes of state, oldest first.
	History []Transition
	// End is the target's end as far as it is known: the offset that the next
	// append must get. -1 before the first look.
	End int64
	// Trouble is what went wrong last; empty again after progress.
	Trouble string
	// Unproven says that the last record could not be compared at both ends,
	// because one side no longer has it.
	Unproven bool
	// SourceEpoch is the highest leader epoch among the source's batches below
	// End that this instance saw, -1 when none.
	SourceEpoch int32
	// Hole is what is being filled, empty otherwise; Seed the prefix that is
	// being seeded, and SeedAt since when.
	Hole   Range
	Seed   Range
	SeedAt time.Time
	// SeedFrom is where this instance began to seed.
	SeedFrom int64
	Holes    int64 // filled by this instance
	Filled   int64 // offsets in them

	SourceStart, SourceEnd int64 // as last seen; -1 before
	LastStable             int64
	SourceSeenAt           time.Time
	BehindSince            time.Time // when SourceEnd was first seen above End
	Records, Bytes         int64     // appended by this instance

	limits     Limits
	policy     Policy
	now        time.Time // of the last event that told the time
	gen        uint32
	queue      []Batch // fetched and shaped, in order and without gaps, from End on
	queued     int     // bytes in queue
	fetchAt    int64
	lastEpoch  int32
	fetching   bool
	writing    write   // the outstanding append, mark or trim
	lookAfter  *Look   // look as soon as the outstanding write is answered
	recreated  *Freeze // what to freeze as when the next look has told the target's end
	stop       *Freeze // freeze as soon as the queue is written
	known      int64   // highest end that the target confirmed to this instance
	attempts   int     // failures since the last progress
	refusals   int     // refused writes at refusedAt
	refusedAt  int64
	broken     int        // damaged answers at brokenAt
	brokenAt   int64      //
	doubts     int        // odd findings in a row
	graced     bool       // waited for lost requests once since the run became unknown
	noEpoch    bool       // the source could not serve our LastEpoch
	generation Generation // 0: none
	spent      Generation // the highest one that is not to be used again
	leasing    bool       // a Lease is outstanding
	lookHeld   Generation // what was held when the last look was asked for
	endHeld    Generation // and of the look that End was read by
	settled    bool       // on a compacted topic: older requests are dead since we hold the lease
	held       bool       // frozen by the record, whatever the logs say
	alone      bool       // only the holder of the generation may write what comes next
	seeded     bool       // what stands at End is filler that must be trimmed
	accepted   []Accepted
}

// write is the outstanding write of a partition.
type write int8

const (
	noWrite write = iota
	anAppend
	aFiller
	aMark
	aTrim
)

// NewPartition returns the machine of one partition and its first action.
func NewPartition(id topology.Partition, link Run, limits Limits) (Partition, []Action) {
	m := Partition{
		ID: id, Link: link, Run: link, State: Resuming, End: -1, SourceStart: -1, SourceEnd: -1, LastStable: -1,
		SourceEpoch: -1, known: -1, limits: limits, policy: Policy{Deletes: true},
	}
	return m.look(0)
}

// Next takes one event and returns the new state with what must be done now.
// Answers that belong to an abandoned request are ignored, except that of a
// write, which always counts.
func (m Partition) Next(ev Event) (Partition, []Action) {
	switch ev := ev.(type) {
	case Appended:
		return m.appended(ev)
	case Marked:
		return m.marked(ev)
	case Trimmed:
		return m.trimmed(ev)
	case Leased:
		return m.leased(ev)
	case LeaseLost:
		if ev.Generation != m.generation || m.generation == 0 {
			return m, nil
		}
		m.drop()
		if m.Leased() && m.State.Working() {
			return m.look(0)
		}
		return m, nil
	case SourceSeen:
		m.seen(ev.At, ev.Start, ev.End)
		return m, nil
	case Policy:
		if m.policy == ev {
			return m, nil
		}
		m.policy = ev
		if m.State.Working() || m.State == Resuming {
			return m.look(0)
		}
		return m, nil
	case Accepted:
		m.accepted = append(slices.Clone(m.accepted), ev)
		return m.Next(Retry{})
	case Hold:
		m.held = true
		return m.freeze(ev.Freeze)
	case Retry:
		if m.State != Frozen || m.held {
			return m, nil
		}
		m.Freeze, m.stop, m.recreated, m.known, m.doubts, m.attempts, m.refusals, m.graced = nil, nil, nil, -1, 0, 0, 0, false
		return m.look(0)
	}
	if ev, ok := ev.(TopicRecreated); ok && m.State == Frozen && m.Freeze.Reason == Misplaced {
		// The batch under way landed in a new topic: brokers older than Kafka 4
		// take what is produced by name.
		f := *m.Freeze
		f.Reason, f.Detail = Recreated, fmt.Sprintf("the %s topic was deleted and made again, and the batch under way landed in the new one: %s", ev.Side, f.Detail)
		m.Freeze = &f
		return m, nil
	}
	if m.State == Frozen || m.State == Promoted {
		return m, nil
	}
	switch ev := ev.(type) {
	case Looked:
		if ev.Gen != m.gen || m.State != Resuming {
			return m, nil
		}
		return m.looked(ev)
	case TargetLooked:
		if ev.Gen != m.gen || m.State != Filling {
			return m, nil
		}
		return m.targetLooked(ev)
	case LookFailed:
		switch {
		case ev.Gen != m.gen:
			return m, nil
		case m.State == Resuming && m.recreated != nil && m.attempts >= m.limits.Doubts:
			return m.freeze(*m.recreated)
		case m.State == Resuming:
			return m.retry(ev.Why)
		case m.State == Filling && m.writing == noWrite:
			m.Trouble = ev.Why
			m.attempts++
			return m.lookTarget(m.backoff())
		}
		return m, nil
	case Fetched:
		if ev.Gen != m.gen || !m.fetching {
			return m, nil
		}
		return m.fetched(ev)
	case FetchFailed:
		if ev.Gen != m.gen || !m.fetching {
			return m, nil
		}
		return m.fetchFailed(ev)
	case TargetMoved:
		if m.State == Resuming {
			return m, nil // a look is on its way and asks the current leader
		}
		return m.look(0)
	case TopicRecreated:
		f := Freeze{Recreated, 0, max(m.End, 0), fmt.Sprintf("the %s topic was deleted and made again", ev.Side)}
		if m.End < 0 && m.State == Resuming {
			m.recreated = &f // the look that is under way tells how much the target holds
			return m, nil
		}
		return m.freeze(f)
	}
	return m, nil
}

// looked decides whether the two logs fit together (facts first, then doubt,
// then writing). The order matters: who wrote the target's end is asked before
// how far the source is.
func (m Partition) looked(ev Looked) (Partition, []Action) {
	m.seen(ev.At, ev.SourceStart, ev.SourceEnd)
	if m.recreated != nil {
		f := *m.recreated
		f.To = ev.End
		return m.freeze(f)
	}
	start, end := m.Link.Start, ev.End
	run, kind := m.Link, Foreign
	ours := end <= start
	switch {
	case ours:
	case ev.Last == nil:
		run.Start = end // nothing left to read the run from: begin a new one
		ours = true
	default:
		run, kind = m.Link.Author(*ev.Last)
		ours = kind != Foreign
		if kind == Fill || ours && run.Link != m.Link.Link {
			run = m.Link // a hole, or an earlier epoch, ended here
			run.Start = end
		}
	}
	empty := start == 0 && end == 0
	prefix := empty || kind == Seeded || m.seeded && ev.Last == nil
	// Where the source's past may change, what two mirrors read does not fit
	// together: on a compacted topic, and as long as the target holds no record
	// whose sequence goes on, so that a broker takes anything anywhere.
	alone := m.policy.Compacted || prefix && ev.SourceStart > end || end > start && (kind == Seeded || ev.Last == nil)
	switch {
	case end < m.known:
		return m.doubt(Freeze{TargetShort, end, m.known, "the target acknowledged these records and no longer has them (unclean election?)"})
	case end < start:
		return m.doubt(Freeze{TargetShort, end, start, "the target ends below the recorded start of this link"})
	case !ours && ev.Fenced:
		m.End = max(ev.ForeignFrom, start)
		return m.promoted(fmt.Sprintf("the target was promoted at offset %d", m.End))
	case !ours:
		return m.freeze(Freeze{Diverged, max(ev.ForeignFrom, start), end, "the target holds records that this link did not write"})
	case ev.Compared == Different && kind == Data:
		return m.freeze(Freeze{Diverged, max(ev.DiffersFrom, start), end, "the target's records differ from the source's"})
	case ev.SourceEnd < end:
		return m.doubt(Freeze{SourceShort, ev.SourceEnd, end, "the source ends below what the target has (truncated, or made again)"})
	case kind == Seeded && ev.SourceStart < end:
		return m.freeze(Freeze{Diverged, ev.SourceStart, end, "the source starts below the prefix that was seeded here (made again?)"})
	case ev.SourceStart > end && prefix && !m.policy.Deletes:
		return m.freeze(Freeze{Prefix, end, ev.SourceStart, fmt.Sprintf("the source starts at %d, and a topic that is only compacted cannot be seeded", ev.SourceStart)})
	case prefix && ev.SourceStart-end > m.limits.SeedMax:
		return m.freeze(Freeze{Prefix, end, ev.SourceStart, fmt.Sprintf("the source starts at %d: %d offsets are more than mirror.seed_max", ev.SourceStart, ev.SourceStart-end)})
	case ev.SourceStart > end && !prefix && !m.accepts(end, ev.SourceStart):
		return m.freeze(Freeze{Lost, end, ev.SourceStart, "the source deleted these records before they were mirrored"})
	case kind != Fill && end > start && !prefix && !ev.RunKnown && !m.graced:
		// The broker forgot our sequence (expired, or an emptied log and a
		// restart). A request that an earlier process lost could be accepted
		// now, so outlast it and read again.
		m.graced = true
		m.Trouble = "the target broker forgot this link's producer; waiting for lost requests to die"
		return m.look(m.limits.RequestGrace)
	case alone && m.generation == 0:
		m.enter(Waiting, "what the source holds here may change below us, so one mirror writes at a time")
		return m.lease()
	case alone && !m.settled && end == start && !m.policy.Compacted:
		m.settled = true // whatever an earlier mirror sent would begin here too: one of both is refused
	case alone && !m.settled:
		m.settled = true
		m.Trouble = "waiting for requests of an earlier mirror to die"
		return m.look(m.limits.RequestGrace)
	}
	m.Run = run
	m.End, m.fetchAt, m.known, m.endHeld = end, end, end, m.lookHeld
	m.queue, m.queued, m.doubts = nil, 0, 0
	m.Hole, m.seeded, m.alone = Range{}, prefix && end > start, alone
	if end != m.refusedAt { // another mirror of this link was faster: that is progress
		m.refusals = 0
	}
	m.lastEpoch = ev.SourceEpoch
	m.SourceEpoch = max(m.SourceEpoch, ev.SourceEpoch)
	if m.noEpoch {
		m.lastEpoch = -1
	}
	m.Unproven = ev.Compared == NotCompared && kind == Data
	m.measure(ev.At)
	if prefix && ev.SourceStart > end {
		return m.seed(ev.SourceStart)
	}
	if m.seeded {
		return m.trim(end)
	}
	m.enter(Following, "")
	if ev.SourceStart > end { // a person accepted that these are lost: a hole like any other
		m.take([]Batch{VoidBatch(end, ev.SourceStart, ev.SourceEpoch)})
		m.fetchAt = ev.SourceStart
		return m.work(0)
	}
	return m.fetch(0)
}

// accepts says whether a person accepted the loss of all of [from, to).
func (m Partition) accepts(from, to int64) bool {
	return to-from <= m.limits.HoleMax && slices.ContainsFunc(m.accepted, func(a Accepted) bool { return a.From <= from && to <= a.To })
}

// seed goes on filling the prefix up to the offset to.
func (m Partition) seed(to int64) (Partition, []Action) {
	if m.State != Seeding {
		m.SeedAt, m.SeedFrom = m.now, m.End
		m.Seed.Start = m.Run.Start
		m.enter(Seeding, fmt.Sprintf("the source starts at %d", to))
	}
	m.Seed.End = to
	n := min(to-m.End, m.limits.FillerMax)
	m.writing = aFiller
	h := Header{Base: m.End, LastDelta: int32(n - 1), Count: int32(n)}
	return m, []Action{Append{Batches: []Batch{{Header: h}}, Stamp: m.Run.Seed(m.End), Filler: true}}
}

// trim deletes the filler below to. A part of a longer prefix keeps its last
// batch, as the producer id of that batch tells a restarted mirror where it is.
func (m Partition) trim(to int64) (Partition, []Action) {
	m.writing = aTrim
	m.enter(Seeding, "")
	return m, []Action{Trim{Gen: m.gen, To: to}}
}

func (m Partition) trimmed(ev Trimmed) (Partition, []Action) {
	if m.writing != aTrim {
		return m, nil
	}
	m.writing = noWrite
	switch {
	case m.State == Frozen || m.State == Promoted:
		return m, nil
	case m.lookAfter != nil:
		return m.look(m.lookAfter.After)
	case ev.Why != "":
		return m.retry("delete the filler below the source's start: " + ev.Why)
	}
	// The run that follows begins behind the prefix. The source may have moved
	// on meanwhile: then the fetch says so, and seeding goes on.
	m.Run.Start = m.End
	m.attempts, m.Trouble = 0, ""
	m.enter(Following, fmt.Sprintf("the prefix below %d is seeded", m.End))
	return m.fetch(0)
}

func (m Partition) fetched(ev Fetched) (Partition, []Action) {
	m.fetching, m.attempts, m.noEpoch = false, 0, false
	if m.refusals == 0 {
		m.Trouble = ""
	}
	m.seen(ev.At, ev.LogStart, ev.End)
	m.LastStable = ev.LastStable
	fresh := make([]Batch, 0, len(ev.Batches))
	stop := func(r Reason, from, to int64, why string) (Partition, []Action) {
		m.take(fresh)
		return m.stopAt(Freeze{r, from, to, why})
	}
	if ev.LogStart > m.fetchAt {
		switch {
		case m.seeded && len(m.queue) == 0 && m.writing == noWrite:
			return m.look(0) // the source's start moved on while its prefix was seeded
		case m.accepts(m.fetchAt, ev.LogStart):
			fresh = appendVoid(fresh, m.fetchAt, ev.LogStart, m.lastEpoch)
			m.fetchAt = ev.LogStart
		default:
			return stop(Lost, m.fetchAt, ev.LogStart, "the source deleted these records before they were mirrored")
		}
	}
	for _, b := range ev.Batches {
		if b.End() <= m.fetchAt {
			continue
		}
		if b.Base < m.fetchAt {
			if !b.Void() {
				return stop(Straddle, m.fetchAt, b.End(), fmt.Sprintf("the target ends inside the source's batch [%d,%d)", b.Base, b.End()))
			}
			b = VoidBatch(m.fetchAt, b.End(), b.LeaderEpoch)
		}
		if !b.Void() && !b.Contiguous() {
			return stop(Straddle, b.Base, b.End(), fmt.Sprintf("the batch holds %d records in %d offsets", b.Count, b.LastDelta+1))
		}
		void := m.fetchAt
		if b.Void() {
			void = b.End()
		} else if b.Base > m.fetchAt {
			void = b.Base
		}
		if void > m.fetchAt {
			if n := m.voidBehind(fresh) + void - m.fetchAt; n > m.limits.HoleMax {
				return stop(HoleTooLong, m.fetchAt, void, fmt.Sprintf("%d offsets without a record are more than mirror.hole_max", n))
			}
			fresh = appendVoid(fresh, m.fetchAt, void, b.LeaderEpoch)
		}
		if !b.Void() {
			fresh = append(fresh, b)
		}
		m.fetchAt, m.lastEpoch = b.End(), b.LeaderEpoch
	}
	if errors.Is(ev.Broken, ErrOldFormat) {
		return stop(OldFormat, m.fetchAt, m.fetchAt+1, "the source holds messages older than format 2")
	}
	m.take(fresh)
	m.measure(ev.At)
	var wait time.Duration
	if ev.Broken != nil { // a checksum: ask again, it may have been the wire
		m.Trouble = "read source: " + ev.Broken.Error()
		if m.brokenAt != m.fetchAt {
			m.broken, m.brokenAt = 0, m.fetchAt
		}
		if m.broken++; m.broken >= m.limits.Doubts {
			return m.stopAt(Freeze{Corrupt, m.fetchAt, m.fetchAt + 1, "the source serves a damaged batch again and again: " + ev.Broken.Error()})
		}
		m.attempts++
		wait = m.backoff()
	}
	return m.work(wait)
}

// appendVoid adds a void and joins it to one before it.
func appendVoid(list []Batch, from, to int64, epoch int32) []Batch {
	if n := len(list); n > 0 && list[n-1].Void() {
		return append(list[:n-1], VoidBatch(list[n-1].Base, to, max(epoch, list[n-1].LeaderEpoch)))
	}
	return append(list, VoidBatch(from, to, epoch))
}

// voidBehind is the length of the hole at the end of what was fetched.
func (m Partition) voidBehind(fresh []Batch) (n int64) {
	for _, list := range [][]Batch{fresh, m.queue} {
		for i := len(list) - 1; i >= 0; i-- {
			if !list[i].Void() {
				return n
			}
			n += list[i].End() - list[i].Base
		}
	}
	return n
}

func (m Partition) fetchFailed(ev FetchFailed) (Partition, []Action) {
	m.fetching = false
	switch ev.Kind {
	case FetchDiverged:
		if ev.At >= m.End && m.writing == noWrite {
			return m.retry(ev.Why) // only what was read ahead is void; the target is still a prefix
		}
		return m.freeze(Freeze{SourceShort, ev.At, m.fetchAt, "the source's history changed below what was read (unclean election?)"})
	case FetchOutOfRange:
		m.noEpoch = true
		return m.retry(ev.Why)
	}
	m.Trouble = ev.Why
	m.attempts++
	m, acts := m.work(m.backoff())
	return m, acts
}

func (m Partition) appended(ev Appended) (Partition, []Action) {
	what := m.writing
	if what != anAppend && what != aFiller {
		return m, nil
	}
	m.writing = noWrite
	if ev.Answer == AppendUnknown {
		m.settled = false // where the source's past may change, it must be dead before anything else is written
	}
	if what == aFiller {
		return m.fillerAppended(ev)
	}
	n := max(1, ev.Count)
	sent := m.queue[:n]
	b := sent[0]
	if ev.Answer == AppendAccepted && ev.Base == b.Base {
		for _, b := range sent {
			m.queued -= b.Size()
			m.Records, m.Bytes = m.Records+int64(b.Count), m.Bytes+int64(b.Size())
			m.SourceEpoch = max(m.SourceEpoch, b.LeaderEpoch)
		}
		m.queue = m.queue[n:]
		m.progress(sent[n-1].End())
	}
	if m.State == Frozen || m.State == Promoted {
		m.queue, m.queued = nil, 0
		return m, nil
	}
	switch ev.Answer {
	case AppendAccepted:
		if ev.Base != b.Base {
			return m.misplaced(b.Base, ev.Base, sent[n-1].End()-b.Base)
		}
		m.seeded, m.alone = false, false
		if m.lookAfter != nil {
			return m.look(m.lookAfter.After)
		}
		return m.work(0)
	case AppendOutOfOrder, AppendRejected:
		return m.refused(b.Base, sent[n-1].End(), ev.Why)
	}
	return m.retry(ev.Why)
}

func (m Partition) fillerAppended(ev Appended) (Partition, []Action) {
	from, n := m.End, min(m.Seed.End-m.End, m.limits.FillerMax)
	if ev.Answer == AppendAccepted && ev.Base == from {
		m.progress(from + n)
		m.seeded = true
	}
	if m.State == Frozen || m.State == Promoted {
		return m, nil
	}
	switch ev.Answer {
	case AppendAccepted:
		switch {
		case ev.Base != from:
			return m.misplaced(from, ev.Base, n)
		case m.lookAfter != nil:
			return m.look(m.lookAfter.After)
		case m.End >= m.Seed.End:
			return m.look(0) // reads the source's start again, and trims
		}
		return m.seed(m.Seed.End)
	case AppendOutOfOrder, AppendRejected:
		return m.refused(from, from+n, ev.Why)
	}
	return m.retry(ev.Why)
}

// progress notes that the target holds everything below end.
func (m *Partition) progress(end int64) {
	m.End, m.known = end, max(m.known, end)
	m.attempts, m.refusals, m.doubts, m.graced, m.Trouble = 0, 0, 0, false, ""
	if m.End >= m.SourceEnd {
		m.BehindSince = time.Time{}
	}
}

func (m Partition) misplaced(want, got, n int64) (Partition, []Action) {
	return m.freeze(Freeze{Misplaced, min(want, got), got + n, fmt.Sprintf("the target stored the batch of offset %d at %d: somebody else writes to it", want, got)})
}

func (m Partition) refused(from, to int64, why string) (Partition, []Action) {
	if m.refusedAt != from {
		m.refusals = 0
	}
	m.refusals++
	m.refusedAt = from
	if m.refusals > m.limits.Doubts {
		return m.freeze(Freeze{Refused, from, to, "the target refuses the batch: " + why})
	}
	return m.retry(why)
}

// hole begins or goes on filling the void at the head of the queue.
func (m Partition) hole(after time.Duration) (Partition, []Action) {
	to := m.holeEnd()
	if m.Hole.Start == 0 && m.Hole.End == 0 || m.Hole.End < m.End {
		m.Hole.Start = m.End
	}
	m.Hole.End = to
	if m.generation == 0 {
		m.enter(Waiting, fmt.Sprintf("the hole [%d,%d) needs a generation", m.Hole.Start, to))
		return m.lease()
	}
	if m.endHeld.Block() != m.generation.Block() {
		// Turns begin again with each block, so that a marker of this one would
		// pass at an offset that an earlier block has filled. Only an end that
		// was read since that block is silent is behind all it wrote.
		m.Trouble = "reading the target's end again: the generation is of a new block"
		return m.look(0)
	}
	m.enter(Filling, fmt.Sprintf("[%d,%d) hold no record at the source", m.Hole.Start, to))
	m.writing = aMark
	to = min(to, m.End+m.limits.MarksMax, FillWindowEnd(m.End))
	return m, []Action{MarkHole{From: m.End, To: to, Generation: m.generation, After: after}}
}

// holeEnd is where the void at the head of the queue ends.
func (m Partition) holeEnd() int64 {
	to := m.End
	for _, b := range m.queue {
		if !b.Void() {
			break
		}
		to = b.End()
	}
	return to
}

func (m Partition) marked(ev Marked) (Partition, []Action) {
	if m.writing != aMark {
		return m, nil
	}
	m.writing = noWrite
	if ev.Answer == AppendUnknown {
		m.drop() // its markers may still come: only a later generation is safe from them
	}
	switch {
	case m.State == Frozen || m.State == Promoted:
		return m, nil
	case m.lookAfter != nil:
		return m.look(m.lookAfter.After)
	case ev.Answer == AppendRejected:
		return m.refused(m.End, m.holeEnd(), ev.Why)
	case ev.Answer == AppendAccepted:
		return m.lookTarget(0)
	case ev.Answer == AppendOutOfOrder:
		// Somebody of a later generation wrote here. Twice without progress,
		// and ours is worth nothing any more.
		if m.refusals++; m.refusals >= 2 {
			m.drop()
		}
	}
	m.Trouble = ev.Why
	m.attempts++
	return m.lookTarget(m.backoff())
}

// drop gives the generation up for good.
func (m *Partition) drop() {
	m.spent, m.generation, m.settled = max(m.spent, m.generation), 0, false
}

// targetLooked goes on in a hole from where the log really ends. Who wrote the
// last offset is asked before whether the hole is full: what stands there may
// be a fence.
func (m Partition) targetLooked(ev TargetLooked) (Partition, []Action) {
	m.now = ev.At
	to := m.holeEnd()
	kind := Foreign
	if ev.Last != nil {
		_, kind = m.Link.Author(*ev.Last)
	}
	switch {
	case ev.Last == nil || ev.End < m.End || ev.End > to:
		return m.look(0) // another mirror was faster, or something odd: all is read again
	case kind == Foreign && ev.Fenced:
		m.End = ev.ForeignFrom
		return m.promoted(fmt.Sprintf("the target was promoted at offset %d", m.End))
	case kind == Foreign:
		return m.freeze(Freeze{Diverged, max(ev.ForeignFrom, m.Link.Start), ev.End, "the target holds markers or records in a hole that this link did not write"})
	case ev.End == m.End:
		// Nothing was stored, whatever the answer was: too few replicas, or a
		// later generation that stands a little further.
		m.attempts++
		return m.hole(m.backoff())
	}
	m.Filled += ev.End - m.End
	for len(m.queue) > 0 && m.queue[0].End() <= ev.End {
		m.SourceEpoch = max(m.SourceEpoch, m.queue[0].LeaderEpoch)
		m.queue = m.queue[1:]
	}
	m.progress(ev.End)
	if m.End < to {
		m.queue = slices.Clone(m.queue)
		m.queue[0] = VoidBatch(m.End, m.queue[0].End(), m.queue[0].LeaderEpoch)
		return m.hole(0)
	}
	m.Hole = Range{}
	m.Holes++
	m.Run = m.Link
	m.Run.Start = m.End // the log end was seen here, behind a marker of ours
	m.enter(Following, "the hole is filled")
	return m.work(0)
}

// lease asks for a generation, once.
func (m Partition) lease() (Partition, []Action) {
	if m.leasing {
		return m, nil
	}
	m.leasing = true
	return m, []Action{Lease{Above: m.spent}}
}

func (m Partition) leased(ev Leased) (Partition, []Action) {
	m.leasing = false
	if ev.Generation <= m.spent {
		if m.State == Waiting {
			return m.lease()
		}
		return m, nil
	}
	m.generation = ev.Generation
	if m.State != Waiting {
		return m, nil
	}
	if m.Leased() && !m.settled {
		return m.look(0)
	}
	if len(m.queue) == 0 || !m.queue[0].Void() {
		return m.look(0)
	}
	return m.hole(0)
}

// take puts shaped batches behind the queue, never into the old value's array.
func (m *Partition) take(fresh []Batch) {
	if len(fresh) == 0 {
		return
	}
	m.queue = slices.Clip(m.queue)
	if n := len(m.queue); n > 0 && m.queue[n-1].Void() && fresh[0].Void() {
		m.queue = appendVoid(slices.Clone(m.queue), fresh[0].Base, fresh[0].End(), fresh[0].LeaderEpoch)
		fresh = fresh[1:]
	}
	m.queue = append(m.queue, fresh...)
	for _, b := range fresh {
		m.queued += b.Size()
	}
}

// work asks for what a partition can do next: write the head of the queue, and
// fetch behind its tail while there is room.
func (m Partition) work(fetchAfter time.Duration) (Partition, []Action) {
	var acts []Action
	if m.State != Following && m.State != Filling && m.State != Waiting {
		return m, nil
	}
	if m.stop != nil && len(m.queue) == 0 && m.writing == noWrite {
		return m.freeze(*m.stop)
	}
	if m.State == Following && m.writing == noWrite && len(m.queue) > 0 {
		var more []Action
		if m.queue[0].Void() {
			m, more = m.hole(0)
		} else {
			m, more = m.append()
		}
		acts = append(acts, more...)
	}
	if !m.fetching && m.stop == nil && m.queued < m.limits.BufferBytes {
		var more []Action
		m, more = m.fetch(fetchAfter)
		acts = append(acts, more...)
	}
	return m, acts
}

// append offers the head of the queue and what follows it up to the next hole.
func (m Partition) append() (Partition, []Action) {
	n := 1
	for n < len(m.queue) && n < m.limits.TogetherMax && !m.queue[n].Void() {
		n++
	}
	m.writing = anAppend
	return m, []Action{Append{Batches: m.queue[:n:n], Stamp: m.Run.Stamp(m.queue[0].Base)}}
}

func (m Partition) fetch(after time.Duration) (Partition, []Action) {
	m.fetching = true
	return m, []Action{Fetch{Gen: m.gen, Offset: m.fetchAt, LastEpoch: m.lastEpoch, After: after, Behind: m.SourceEnd > m.fetchAt}}
}

// look abandons what was fetched and reads both ends again, but never while a
// write of ours is unanswered.
func (m Partition) look(after time.Duration) (Partition, []Action) {
	if m.writing != noWrite {
		m.lookAfter = &Look{After: after}
		return m, nil
	}
	m.gen++
	m.lookHeld = m.generation
	m.fetching, m.queue, m.queued, m.lookAfter, m.stop = false, nil, 0, nil, nil
	m.Hole = Range{}
	m.enter(Resuming, m.Trouble)
	return m, []Action{Look{Gen: m.gen, After: after}}
}

func (m Partition) lookTarget(after time.Duration) (Partition, []Action) {
	return m, []Action{LookTarget{Gen: m.gen, After: after}}
}

func (m Partition) retry(why string) (Partition, []Action) {
	m.Trouble = why
	m.attempts++
	return m.look(m.backoff())
}

// doubt freezes only what is seen several times: ends that are read during an
// election may be stale for a moment.
func (m Partition) doubt(f Freeze) (Partition, []Action) {
	m.doubts++
	if m.doubts >= m.limits.Doubts {
		return m.freeze(f)
	}
	return m.retry("odd, looking again: " + f.String())
}

// stopAt freezes behind what is already queued: the records before a stop are
// still good.
func (m Partition) stopAt(f Freeze) (Partition, []Action) {
	m.stop = &f
	return m.work(0)
}

func (m Partition) freeze(f Freeze) (Partition, []Action) {
	m.Freeze, m.Trouble = &f, ""
	return m.rest(Frozen, f.String())
}

func (m Partition) promoted(why string) (Partition, []Action) {
	m.Trouble = ""
	return m.rest(Promoted, why)
}

// rest ends all work but an outstanding write.
func (m Partition) rest(s State, why string) (Partition, []Action) {
	m.enter(s, why)
	m.stop, m.lookAfter = nil, nil
	m.gen++
	m.fetching = false
	if m.writing != anAppend {
		m.queue = nil // an append's answer is still to come
	}
	m.queued = 0
	for _, b := range m.queue {
		m.queued += b.Size()
	}
	return m, nil
}

// enter changes the state and notes it. Holes come and go by the thousand:
// they are counted, see Holes, and not noted one by one.
func (m *Partition) enter(s State, why string) {
	if m.State == s {
		return
	}
	if s == Filling && m.State == Following || s == Following && m.State == Filling {
		m.State = s
		return
	}
	h := m.History
	if len(h) >= transitionsKept {
		h = h[len(h)-transitionsKept+1:]
	}
	m.History = append(slices.Clone(h), Transition{At: m.now, From: m.State, To: s, Why: why})
	m.State = s
}

func (m Partition) backoff() time.Duration {
	wait := m.limits.RetryMin
	for range min(m.attempts-1, 16) {
		wait = min(2*wait, m.limits.RetryMax)
	}
	return wait
}

func (m *Partition) seen(at time.Time, start, end int64) {
	before := m.SourceSeenAt
	m.SourceSeenAt, m.now = at, at
	if start >= 0 {
		m.SourceStart = start
	}
	if end >= 0 {
		m.SourceEnd = end
	}
	if before.IsZero() {
		before = at
	}
	// What is new may be as old as the last look: a distance in time is
	// better too long than too short.
	m.measure(before)
}

func (m *Partition) measure(at time.Time) {
	switch {
	case m.End >= m.SourceEnd:
		m.BehindSince = time.Time{}
	case m.BehindSince.IsZero():
		m.BehindSince = at
	}
}

// Idle says that a partition has nothing to write: the target's end should be
// End, and stay there.
func (m Partition) Idle() bool {
	return m.State == Following && m.writing == noWrite && len(m.queue) == 0
}

// Queued returns the bytes that are fetched and not yet written.
func (m Partition) Queued() int { return m.queued }

// Generation returns the generation that the partition fills holes with, 0
// when it has none.
func (m Partition) Generation() Generation { return m.generation }

// Leased says that the partition may append only while it has a generation.
func (m Partition) Leased() bool { return m.policy.Compacted || m.alone }
