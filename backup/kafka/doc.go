// Package kafka takes the Kafka part of a recovery set: where every consumer
// group stood, and the range of every log. Records are not taken: a mirror
// keeps those.
//
// The promise: the answer is whole or an error. A group or a partition that
// cannot be read fails the take; what is left out on purpose (internal topics,
// excluded groups, groups that commit nothing to Kafka) is said in the notes.
// Committed offsets are read before the logs, so an offset is never beyond the
// end that is recorded for it, unless the log itself was cut back.
//
//	take.go    the order in which things are read, and the bounds
//	groups.go  groups and their committed offsets
//	topics.go  topics and the ranges of their logs
package kafka
