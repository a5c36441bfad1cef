package replicate

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Reason says in one word why a partition is frozen.
type Reason string

// The reasons. Each is derived from the two logs, so that a mirror that starts
// again comes to the same one.
const (
	// HoleTooLong: more offsets without a record follow each other at the
	// source than markers may take.
	HoleTooLong Reason = "hole-too-long"
	// Corrupt: the source serves a batch whose checksum or records are wrong.
	Corrupt Reason = "corrupt"
	// OldFormat: the source holds messages older than format 2.
	OldFormat Reason = "old-format"
	// Prefix: the source starts above 0, the target is empty, and the prefix
	// cannot be seeded or is longer than allowed.
	Prefix Reason = "prefix"
	// Lost: the source deleted records that the target does not have yet.
	Lost Reason = "lost"
	// Diverged: the target holds records that this link did not write, or
	// other records than the source at the same offsets.
	Diverged Reason = "diverged"
	// Straddle: a batch of the source could not be cut to where the target
	// ends.
	Straddle Reason = "straddle"
	// SourceShort: the source ends below what the target already has.
	SourceShort Reason = "source-short"
	// TargetShort: the target lost records that it had acknowledged.
	TargetShort Reason = "target-short"
	// Recreated: the topic was deleted and made again on one side.
	Recreated Reason = "recreated"
	// Misplaced: the target stored a batch at another offset than its own.
	Misplaced Reason = "misplaced"
	// Refused: the target refuses our batches again and again.
	Refused Reason = "refused"
)

// Freeze is a stop: why, which offsets [From, To) it is about, and what to do.
type Freeze struct {
	Reason Reason `json:"reason"`
	From   int64  `json:"from"`
	To     int64  `json:"to"`
	Detail string `json:"detail"`
}

// String returns "hole [12,17): offsets are missing at the source".
func (f Freeze) String() string {
	return fmt.Sprintf("%s [%d,%d): %s", f.Reason, f.From, f.To, f.Detail)
}

// NextStep says what a person can do about it in the target region.
func (f Freeze) NextStep(target topology.Region, p topology.Partition) string {
	reseed := fmt.Sprintf("holdfast mirror reseed --region %s --topic %s --reason WHY", target, p.Topic)
	switch f.Reason {
	case HoleTooLong:
		return fmt.Sprintf("raise mirror.hole_max above %d if the time is there (about 50 000 offsets a second), then: holdfast mirror resume --topic %s", f.To-f.From, p.Topic)
	case OldFormat:
		return fmt.Sprintf("this mirror cannot copy such a topic; exclude %s under mirror.topics.exclude, or let retention pass offset %d and then: %s", p.Topic, f.To, reseed)
	case Corrupt:
		return fmt.Sprintf("read offset %d of %s in the source region with a plain consumer; if it is damaged there, let retention pass it and then: %s", f.From, p, reseed)
	case Prefix:
		return fmt.Sprintf("raise mirror.seed_max above %d, or exclude %s under mirror.topics.exclude; then: holdfast mirror resume --topic %s", f.To-f.From, p.Topic, p.Topic)
	case Lost:
		return fmt.Sprintf("the records are gone at the source; raise retention.ms there, and go on without them: holdfast mirror resume --topic %s --partition %d --accept-loss %d-%d --reason WHY", p.Topic, p.Partition, f.From, f.To)
	case Recreated:
		return fmt.Sprintf("check which copy is wanted; then discard the target's: %s", reseed)
	case Refused:
		return fmt.Sprintf("correct what the broker says (topic limits, rights), then: holdfast mirror resume --topic %s", p.Topic)
	default:
		return fmt.Sprintf("read [%d,%d) of %s in %s with a plain consumer if it is wanted; then discard that copy: %s", f.From, f.To, p, target, reseed)
	}
}
