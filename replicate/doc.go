// Package replicate decides how one region's Kafka topics become another
// region's, record by record at the same offsets. It is pure: it reads no
// clock and opens no connection; package replicate/kafka carries it out.
//
// The words:
//
//   - A Link is one mirrored direction with its epoch. It runs in the target
//     region and is the only writer of the topics it mirrors.
//   - A Run is what a link writes to one partition. Its producer id, epoch and
//     sequence are functions of the offset, so that the broker itself refuses
//     a batch that would land anywhere but at its own offset.
//   - A hole is a range of offsets that holds no record at the source: what a
//     transaction aborted or the log cleaner took. The target gets markers
//     there, which take an offset each and show nothing.
//   - A prefix is what lies below the source's log start. It is seeded with
//     empty records that are deleted again.
//   - A Generation is a turn at filling holes; the agreed state hands it out.
//   - A Partition is the state machine of one mirrored partition: resuming,
//     seeding, following, filling, waiting, frozen or promoted.
//   - A Freeze is a stop with a reason, an exact range and a next step.
//
// The promise: a record is appended at the offset it has at the source, once,
// in order, byte for byte; or its partition stops and says why. One frozen
// partition never stops another, and a frozen one stays frozen until a person
// decides.
//
// The files:
//
//	batch.go      the record batch: parse, check, restamp, compare
//	records.go    the records inside one batch, decoded
//	encode.go     records into a batch; void batches
//	link.go       Link, Run, Stamp, Mark: who wrote this batch
//	partition.go  the state machine: Next(event) -> actions
//	events.go     what can happen to a partition, and what it may ask for
//	freeze.go     the reasons to stop, their ranges and next steps
//	fence.go      what shuts a link out of its target, and where it ends
//	leap.go       offsets that nobody may use, in few requests
//	preset.go     the topics of a known product, each with its class
//	access.go     which rights follow the source, and the plan for them
//	drift.go      in what two clusters differ
//	topics.go     which topics, and what a target topic must look like
//	groups.go     consumer group offsets: plan, coverage
//	commitlog.go  commit logs: an entry as bytes, what to seed
//	forecast.go   when retention overtakes a mirror
//	verify.go     both ends compared: what is proven, and how it is said
//	status.go     what the operator sees
package replicate
