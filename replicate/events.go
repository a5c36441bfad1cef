package replicate

import "time"

// Event is something that happened to a partition.
type Event interface{ event() }

// Looked is the answer to a Look: both ends as they were read, and the batch
// that holds the target's last record compared with the source's.
type Looked struct {
	Gen         uint32
	At          time.Time
	SourceStart int64
	SourceEnd   int64 // high watermark
	TargetTail
	// Compared is the outcome of comparing Last with the source's. A hole
	// marker has nothing to compare.
	Compared Comparison
	// DiffersFrom is the first offset that is not the same at both ends, when
	// Last differs.
	DiffersFrom int64
	// SourceEpoch is the leader epoch of the source's batch at End-1, -1 when
	// it is not known.
	SourceEpoch int32
	// RunKnown says whether the target broker still remembers the producer
	// that wrote Last, if this link did.
	RunKnown bool
}

// TargetTail is the end of the target's log.
type TargetTail struct {
	Start int64
	End   int64 // settled: log end and high watermark agree
	// Last is the target's batch that holds End-1; nil if the target's log is
	// empty or holds nothing there any more.
	Last *Batch
	// ForeignFrom is the first offset that this link did not write, when Last
	// is not its own; else it is not used.
	ForeignFrom int64
	// Fenced says that what stands at ForeignFrom is a fence of this link: the
	// target was promoted there.
	Fenced bool
}

// Comparison is what comparing one range at both ends gave.
type Comparison int8

// The outcomes of a comparison.
const (
	NotCompared Comparison = iota // nothing to compare: one side has no such records any more
	Same
	Different
)

// LookFailed says that the ends could not be read, for a Look or a LookTarget.
type LookFailed struct {
	Gen uint32
	Why string
}

// TargetLooked is the answer to a LookTarget.
type TargetLooked struct {
	Gen uint32
	At  time.Time
	TargetTail
}

// Fetched is an answer of the source. The batches are in order, and each is
// whole, contiguous data or void (see Batch.Void). The first begins at the
// offset that was asked for or above; what lies between two batches holds no
// record.
type Fetched struct {
	Gen        uint32
	At         time.Time
	Batches    []Batch
	Broken     error // why parsing stopped behind the last of Batches; nil if it did not
	LogStart   int64 // -1: not said
	End        int64 // high watermark
	LastStable int64
}

// FetchFailed says that the source gave no records.
type FetchFailed struct {
	Gen  uint32
	Kind FetchFailure
	Why  string
	// At is the offset where the source's history leaves ours, for
	// FetchDiverged.
	At int64
}

// FetchFailure is the kind of a failed fetch.
type FetchFailure int8

// The kinds. Whatever passes by itself is FetchRetry.
const (
	FetchRetry FetchFailure = iota
	FetchOutOfRange
	FetchDiverged
)

// Appended is the target's answer to an Append, or that there was none.
type Appended struct {
	Base   int64 // where the first batch begins, for AppendAccepted
	Count  int   // how many of the batches were sent, as one; 0 means 1
	Answer Answer
	Why    string
}

// Marked is the target's answer to a MarkHole, or that there was none. Which of
// the markers were stored is read from the log afterwards, always.
type Marked struct {
	Answer Answer
	Why    string
}

// Trimmed is the target's answer to a Trim. Why is empty when it was done.
type Trimmed struct {
	Gen uint32
	Why string
}

// Leased gives the partition a generation for filling holes, see Lease. All
// requests of earlier blocks are known to be dead.
type Leased struct{ Generation Generation }

// LeaseLost says that a generation was taken by somebody else.
type LeaseLost struct{ Generation Generation }

// Answer is the kind of an answer to an append.
type Answer int8

// The answers.
const (
	// AppendAccepted: the batch is stored, now or by an earlier try.
	AppendAccepted Answer = iota
	// AppendUnknown: no answer came; the request may still be carried out.
	AppendUnknown
	// AppendRetry: nothing was stored, or it will be known after a look.
	AppendRetry
	// AppendOutOfOrder: the log does not end where our run is, or a marker of
	// a later generation stands there.
	AppendOutOfOrder
	// AppendRejected: the broker will not take this batch.
	AppendRejected
)

// TargetMoved says that the target partition has a new leader or leader epoch:
// what we know of its end must be read again before the next write.
type TargetMoved struct{}

// TopicRecreated says that metadata shows another topic id on one side.
type TopicRecreated struct{ Side string }

// SourceSeen is a source end that was read beside the fetches, for a partition
// that does not fetch.
type SourceSeen struct {
	At         time.Time
	Start, End int64
}

// Policy says whether the topic is compacted at either end. There the source's
// past may change, so appends need the lease too, and a log that was cleaned
// at one end only is no difference.
type Policy struct {
	Compacted bool
	// Deletes says that retention may also delete: only then can a prefix be
	// seeded, as DeleteRecords is refused otherwise.
	Deletes bool
}

// Accepted is a person's recorded word that the offsets [From, To) are lost:
// they become a hole.
type Accepted struct{ From, To int64 }

// Hold is the record's word that the two logs do not fit together here: nothing
// is mirrored until the topic is made anew.
type Hold struct{ Freeze }

// Retry is a person's word: judge a frozen partition again, from its logs.
type Retry struct{}

func (Looked) event()         {}
func (LookFailed) event()     {}
func (TargetLooked) event()   {}
func (Fetched) event()        {}
func (FetchFailed) event()    {}
func (Appended) event()       {}
func (Marked) event()         {}
func (Trimmed) event()        {}
func (Leased) event()         {}
func (LeaseLost) event()      {}
func (TargetMoved) event()    {}
func (TopicRecreated) event() {}
func (SourceSeen) event()     {}
func (Policy) event()         {}
func (Accepted) event()       {}
func (Hold) event()           {}
func (Retry) event()          {}

// Action is something that the state machine wants done. Of a partition at
// most one Fetch is outstanding at a time, one of Look and LookTarget, one of
// Append, MarkHole and Trim, and one Lease.
type Action interface{ action() }

// Look asks to read both ends, after a while. It cancels an outstanding Fetch.
type Look struct {
	Gen   uint32
	After time.Duration
}

// LookTarget asks to read the target's end, after a while.
type LookTarget struct {
	Gen   uint32
	After time.Duration
}

// Fetch asks for batches from Offset on, after a while.
type Fetch struct {
	Gen       uint32
	Offset    int64
	LastEpoch int32 // leader epoch of the batch before Offset, -1 if not known
	After     time.Duration
	Behind    bool // the source is known to have more right now
}

// Append asks to store batches, the first with this stamp. They follow each
// other without a gap. The first must be sent as it is; those after it may be
// sent with it, as one batch, if that is cheaper. Its answer must be given
// exactly once, as an Appended.
type Append struct {
	Batches []Batch
	Stamp   Stamp
	// Filler asks for one batch of as many empty records instead; Batches then
	// holds one header with Base, LastDelta and Count, and no bytes.
	Filler bool
}

// MarkHole asks for hole markers at the offsets [From, To), in one request and in
// order; fewer, from From on, are as good. All are of one fill window. Its
// answer must be given exactly once, as a Marked.
type MarkHole struct {
	From, To   int64
	Generation Generation
	After      time.Duration
}

// Trim asks to delete what the target holds below the offset To. Its answer
// must be given exactly once, as a Trimmed.
type Trim struct {
	Gen uint32
	To  int64
}

// Lease asks for a generation above this one. It may take as long as it takes.
type Lease struct{ Above Generation }

func (Look) action()       {}
func (LookTarget) action() {}
func (Fetch) action()      {}
func (Append) action()     {}
func (MarkHole) action()   {}
func (Trim) action()       {}
func (Lease) action()      {}
