package replicate

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// State is what a mirrored partition is doing.
type State string

// The states. Resuming turns into Running when both ends were read and fit
// together; Frozen is left only by a person.
const (
	Resuming State = "resuming"
	Running  State = "running"
	Frozen   State = "frozen"
)

// Limits bound one partition.
type Limits struct {
	BufferBytes  int           // stop fetching above this many bytes in the queue
	RetryMin     time.Duration // first wait after a failure
	RetryMax     time.Duration // longest wait between tries
	RequestGrace time.Duration // how long a lost request may still be carried out
	Doubts       int           // how often an odd finding must repeat before it freezes
}

// DefaultLimits are sane for production.
var DefaultLimits = Limits{
	BufferBytes: 2 << 20, RetryMin: 100 * time.Millisecond, RetryMax: 5 * time.Second,
	RequestGrace: 15 * time.Second, Doubts: 5,
}

// Partition is the state machine of one mirrored partition. It is a value: Next
// returns the new one and leaves the old one untouched.
type Partition struct {
	ID topology.Partition
	// Link is what was decided for this partition: Link.Start is the target's
	// end when the link was made. Run is what is being written now: the same,
	// or a later run that began where an earlier epoch's ended.
	Link, Run Run
	State     State
	Freeze    *Freeze // set while frozen
	// End is the target's end as far as it is known: the offset that the next
	// append must get. -1 before the first look.
	End int64
	// Trouble is what went wrong last; empty again after progress.
	Trouble string
	// Unproven says that the last record could not be compared at both ends,
	// because one side no longer has it.
	Unproven bool

	SourceStart, SourceEnd int64 // as last seen; -1 before
	LastStable             int64
	SourceSeenAt           time.Time
	BehindSince            time.Time // when SourceEnd was first seen above End
	Records, Bytes         int64     // appended by this instance

	limits    Limits
	gen       uint32
	queue     []Batch // fetched and checked, in order, from End on
	queued    int     // bytes in queue
	fetchAt   int64
	lastEpoch int32
	fetching  bool
	appending bool
	lookAfter *Look   // look as soon as the outstanding append is answered
	stop      *Freeze // freeze as soon as the queue is appended
	known     int64   // highest end that the target confirmed to this instance
	attempts  int     // failures since the last progress
	refusals  int     // refused appends of the batch at refusedAt
	refusedAt int64
	doubts    int  // odd findings in a row
	graced    bool // waited for lost requests once since the run became unknown
	noEpoch   bool // the source could not serve our LastEpoch
}

// NewPartition returns the machine of one partition and its first action.
func NewPartition(id topology.Partition, link Run, limits Limits) (Partition, []Action) {
	m := Partition{ID: id, Link: link, Run: link, State: Resuming, End: -1, SourceStart: -1, SourceEnd: -1, LastStable: -1, known: -1, limits: limits}
	return m.look(0)
}

// Next takes one event and returns the new state with what must be done now.
// Answers that belong to an abandoned request are ignored, except that of an
// append, which always counts.
func (m Partition) Next(ev Event) (Partition, []Action) {
	switch ev := ev.(type) {
	case Appended:
		return m.appended(ev)
	case SourceSeen:
		m.seen(ev.At, ev.Start, ev.End)
		return m, nil
	case Retry:
		if m.State != Frozen {
			return m, nil
		}
		m.Freeze, m.stop, m.known, m.doubts, m.attempts, m.refusals, m.graced = nil, nil, -1, 0, 0, 0, false
		return m.look(0)
	}
	if m.State == Frozen {
		return m, nil
	}
	switch ev := ev.(type) {
	case Looked:
		if ev.Gen != m.gen || m.State != Resuming {
			return m, nil
		}
		return m.looked(ev)
	case LookFailed:
		if ev.Gen != m.gen || m.State != Resuming {
			return m, nil
		}
		return m.retry(ev.Why)
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
		return m.freeze(Freeze{Recreated, 0, max(m.End, 0), fmt.Sprintf("the %s topic was deleted and made again", ev.Side)})
	}
	return m, nil
}

// looked decides whether the two logs fit together (facts first, then doubt,
// then writing). The order matters: who wrote the target's end is asked before
// how far the source is.
func (m Partition) looked(ev Looked) (Partition, []Action) {
	m.seen(ev.At, ev.SourceStart, ev.SourceEnd)
	start, end := m.Link.Start, ev.TargetEnd
	run, ours := m.Link, end <= start
	switch {
	case ours:
	case ev.Last != nil:
		run, ours = m.Link.Writer(*ev.Last)
		if ours && run.Link != m.Link.Link {
			run = m.Link // an earlier epoch ended here
			run.Start = end
		}
	default:
		run.Start = end // nothing left to read the run from: begin a new one
	}
	switch {
	case end < m.known:
		return m.doubt(Freeze{TargetShort, end, m.known, "the target acknowledged these records and no longer has them (unclean election?)"})
	case end < start:
		return m.doubt(Freeze{TargetShort, end, start, "the target ends below the recorded start of this link"})
	case !ours && ev.Last != nil:
		return m.freeze(Freeze{Diverged, max(ev.ForeignFrom, start), end, "the target holds records that this link did not write"})
	case ev.Compared == Different && ev.Last != nil:
		return m.freeze(Freeze{Diverged, ev.Last.Base, end, "the last batch of the target differs from the source's"})
	case ev.SourceEnd < end:
		return m.doubt(Freeze{SourceShort, ev.SourceEnd, end, "the source ends below what the target has (truncated, or made again)"})
	case ev.SourceStart > end && end == start && end == 0:
		return m.freeze(Freeze{Prefix, 0, ev.SourceStart, fmt.Sprintf("the source starts at %d and the target is empty", ev.SourceStart)})
	case ev.SourceStart > end:
		return m.freeze(Freeze{Lost, end, ev.SourceStart, "the source deleted these records before they were mirrored"})
	case end > start && !ev.RunKnown && !m.graced:
		// The broker forgot our sequence (expired, or an emptied log and a
		// restart). A request that an earlier process lost could be accepted
		// now, so outlast it and read again.
		m.graced = true
		m.Trouble = "the target broker forgot this link's producer; waiting for lost requests to die"
		return m.look(m.limits.RequestGrace)
	}
	m.Run = run
	m.State, m.End, m.fetchAt, m.known = Running, end, end, end
	m.queue, m.queued, m.doubts = nil, 0, 0
	if end != m.refusedAt { // another mirror of this link was faster: that is progress
		m.refusals = 0
	}
	m.lastEpoch = ev.SourceEpoch
	if m.noEpoch {
		m.lastEpoch = -1
	}
	m.Unproven = ev.Compared == NotCompared && end > 0
	m.measure(ev.At)
	return m.fetch(0)
}

func (m Partition) fetched(ev Fetched) (Partition, []Action) {
	m.fetching, m.attempts, m.noEpoch = false, 0, false
	if m.refusals == 0 {
		m.Trouble = ""
	}
	m.seen(ev.At, ev.LogStart, ev.End)
	m.LastStable = ev.LastStable
	if ev.LogStart > m.fetchAt {
		return m.stopAt(Freeze{Lost, m.fetchAt, ev.LogStart, "the source deleted these records before they were mirrored"})
	}
	fresh := make([]Batch, 0, len(ev.Batches))
	stop := func(r Reason, from, to int64, why string) (Partition, []Action) {
		m.take(fresh)
		return m.stopAt(Freeze{r, from, to, why})
	}
	for _, b := range ev.Batches {
		switch {
		case b.End() <= m.fetchAt:
			continue
		case b.Base < m.fetchAt:
			return stop(Straddle, m.fetchAt, b.End(), fmt.Sprintf("the target ends inside the source's batch [%d,%d)", b.Base, b.End()))
		case b.Base > m.fetchAt:
			return stop(Hole, m.fetchAt, b.Base, "offsets are missing at the source (compacted or aborted records)")
		case b.Control(), b.Transactional():
			return stop(Transactional, b.Base, b.End(), "the source holds a transactional or control batch")
		case !b.Contiguous():
			return stop(Hole, b.Base, b.End(), fmt.Sprintf("the batch holds %d records in %d offsets (compacted)", b.Count, b.LastDelta+1))
		}
		fresh = append(fresh, b)
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
		m.attempts++
		wait = m.backoff()
	}
	return m.work(wait)
}

func (m Partition) fetchFailed(ev FetchFailed) (Partition, []Action) {
	m.fetching = false
	switch ev.Kind {
	case FetchDiverged:
		if ev.At >= m.End && !m.appending {
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
	if !m.appending {
		return m, nil
	}
	m.appending = false
	b := m.queue[0]
	if ev.Answer == AppendAccepted && ev.Base == b.Base {
		m.queue, m.queued = m.queue[1:], m.queued-b.Size()
		m.End, m.known = b.End(), max(m.known, b.End())
		m.Records, m.Bytes = m.Records+int64(b.Count), m.Bytes+int64(b.Size())
		m.attempts, m.refusals, m.doubts, m.graced, m.Trouble = 0, 0, 0, false, ""
		if m.End >= m.SourceEnd {
			m.BehindSince = time.Time{}
		}
	}
	if m.State == Frozen {
		m.queue, m.queued = nil, 0
		return m, nil
	}
	switch ev.Answer {
	case AppendAccepted:
		if ev.Base != b.Base {
			return m.freeze(Freeze{Misplaced, ev.Base, ev.Base + int64(b.Count), fmt.Sprintf("the target stored the batch of offset %d at %d: somebody else writes to it", b.Base, ev.Base)})
		}
		if m.lookAfter != nil {
			return m.look(m.lookAfter.After)
		}
		return m.work(0)
	case AppendOutOfOrder, AppendRejected:
		m.refusals++
		m.refusedAt = b.Base
		if m.refusals > m.limits.Doubts {
			return m.freeze(Freeze{Refused, b.Base, b.End(), "the target refuses the batch: " + ev.Why})
		}
	}
	return m.retry(ev.Why)
}

// take puts checked batches behind the queue, never into the old value's array.
func (m *Partition) take(fresh []Batch) {
	if len(fresh) == 0 {
		return
	}
	m.queue = append(m.queue[:len(m.queue):len(m.queue)], fresh...)
	for _, b := range fresh {
		m.queued += b.Size()
	}
}

// work asks for what a running partition can do next: append the head of the
// queue, and fetch behind its tail while there is room.
func (m Partition) work(fetchAfter time.Duration) (Partition, []Action) {
	var acts []Action
	if m.State != Running {
		return m, nil
	}
	if m.stop != nil && len(m.queue) == 0 {
		return m.freeze(*m.stop)
	}
	if !m.appending && len(m.queue) > 0 {
		m.appending = true
		acts = append(acts, Append{Batch: m.queue[0], Stamp: m.Run.Stamp(m.queue[0].Base)})
	}
	if !m.fetching && m.stop == nil && m.queued < m.limits.BufferBytes {
		var more []Action
		m, more = m.fetch(fetchAfter)
		acts = append(acts, more...)
	}
	return m, acts
}

func (m Partition) fetch(after time.Duration) (Partition, []Action) {
	m.fetching = true
	return m, []Action{Fetch{Gen: m.gen, Offset: m.fetchAt, LastEpoch: m.lastEpoch, After: after, Behind: m.SourceEnd > m.fetchAt}}
}

// look abandons what was fetched and reads both ends again, but never while an
// append of ours is unanswered.
func (m Partition) look(after time.Duration) (Partition, []Action) {
	if m.appending {
		m.lookAfter = &Look{After: after}
		return m, nil
	}
	m.gen++
	m.State, m.fetching, m.queue, m.queued, m.lookAfter, m.stop = Resuming, false, nil, 0, nil, nil
	return m, []Action{Look{Gen: m.gen, After: after}}
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

// stopAt freezes behind what is already queued: the records before a hole are
// still good.
func (m Partition) stopAt(f Freeze) (Partition, []Action) {
	m.stop = &f
	return m.work(0)
}

func (m Partition) freeze(f Freeze) (Partition, []Action) {
	m.State, m.Freeze, m.Trouble, m.stop, m.lookAfter = Frozen, &f, "", nil, nil
	m.gen++
	m.fetching = false
	if m.appending {
		m.queue = m.queue[:1] // its answer is still to come
	} else {
		m.queue = nil
	}
	m.queued = 0
	for _, b := range m.queue {
		m.queued += b.Size()
	}
	return m, nil
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
	m.SourceSeenAt = at
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

// Idle says that a running partition has nothing to append: the target's end
// should be End, and stay there.
func (m Partition) Idle() bool { return m.State == Running && !m.appending && len(m.queue) == 0 }

// Queued returns the bytes that are fetched and not yet appended.
func (m Partition) Queued() int { return m.queued }
