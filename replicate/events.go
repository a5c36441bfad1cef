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
	TargetStart int64
	TargetEnd   int64 // settled end: log end and high watermark agree
	// Last is the target's batch that holds TargetEnd-1; nil if the target's
	// log is empty or holds nothing there any more.
	Last *Header
	// Compared is the outcome of comparing that batch with the source's.
	Compared Comparison
	// SourceEpoch is the leader epoch of the source's batch at TargetEnd-1, -1
	// when it is not known.
	SourceEpoch int32
	// ForeignFrom is the first offset that this link did not write, when Last
	// is not its own; else it is not used.
	ForeignFrom int64
	// RunKnown says whether the target broker still remembers the producer
	// that wrote Last, if this link did.
	RunKnown bool
}

// Comparison is what comparing one range at both ends gave.
type Comparison int8

// The outcomes of a comparison.
const (
	NotCompared Comparison = iota // nothing to compare: one side has no such records any more
	Same
	Different
)

// LookFailed says that the ends could not be read.
type LookFailed struct {
	Gen uint32
	Why string
}

// Fetched is an answer of the source. Batches may begin below the offset that
// was asked for, as Kafka returns whole batches.
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
	Base   int64 // where the batch begins, for AppendAccepted
	Answer Answer
	Why    string
}

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
	// AppendOutOfOrder: the log does not end where our run is.
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

// Retry is a person's word: judge a frozen partition again, from its logs.
type Retry struct{}

func (Looked) event()         {}
func (LookFailed) event()     {}
func (Fetched) event()        {}
func (FetchFailed) event()    {}
func (Appended) event()       {}
func (TargetMoved) event()    {}
func (TopicRecreated) event() {}
func (SourceSeen) event()     {}
func (Retry) event()          {}

// Action is something that the state machine wants done. At most one Fetch, one
// Append and one Look of a partition are outstanding at a time.
type Action interface{ action() }

// Look asks to read both ends, after a while. It cancels an outstanding Fetch.
type Look struct {
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

// Append asks to store the batch with this stamp. Its answer must be given
// exactly once, as an Appended.
type Append struct {
	Batch Batch
	Stamp Stamp
}

func (Look) action()   {}
func (Fetch) action()  {}
func (Append) action() {}
