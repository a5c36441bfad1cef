// Package kafka carries out what package replicate decides, between two Kafka
// clusters: it mirrors topics at the same offsets, copies group offsets, reads
// ends, compares, reseeds and probes. It uses the public client protocol only.
//
// A Mirror is one link. One goroutine owns the state machines of all
// partitions; requests run beside it and give their answers back to it, so
// that no state is shared and no lock is held over a wait:
//
//	keeper   refreshes metadata, creates and corrects target topics
//	looks    read both ends and compare the last batch, before any write
//	fetches  one per source broker and lane; idle partitions wait on a
//	         connection of their own, as a broker serves one at a time
//	appends  one batch of each ready partition per request, two requests per
//	         target broker, never two for one partition
//
// The promises of a running link are in package replicate. Here is added: every
// request, queue and wait is bounded, and Run returns nil only when no append
// can still be carried out behind its back.
//
// The files:
//
//	mirror.go    Config, New, Run, Status, SetRate, Retry
//	loop.go      the owner: what to send now, what an answer means
//	append.go    sending batches and reading the answers
//	fetch.go     asking for batches and reading the answers
//	look.go      both ends and the last batch, before writing
//	keeper.go    when topics are looked at, and what is done about them
//	access.go    rights: read, added, taken away
//	drift.go     Compare, Drift, Gone
//	delete.go    copies of topics that the source does not have any more
//	topics.go    topics: read, created, grown, corrected
//	cluster.go   one cluster: metadata, offsets, raw requests
//	throttle.go  bytes per second
//	metrics.go   what Prometheus sees
//	ends.go      Ends, WaitReached
//	groups.go    SyncGroups, CheckGroups, Drained; groups_follow.go goes on
//	commitlog.go SeedCommitLogs
//	inspect.go   Inspect: the prefix compared, the orphans named
//	records.go   batches decoded, where bytes cannot be compared
//	shape.go     what the source answers, cut to what the target may hold
//	merge.go     many tiny batches into one
//	filler.go    empty records in the place of a prefix that the source lost
//	codec.go     the five compressions, with a bound on what they may unpack to
//	reseed.go    Reseed
//	promote.go   Promote: the end of a link at its target
//	fence.go     fence markers, written and read back
//	fence_trace.go  where the link's records end, read from the log
//	fence_check.go  CheckFence: does it still hold
//	leap.go      the offsets that the source may have used, skipped
//	leap_seeded.go  the same where a prefix was being seeded
//	probe.go     Probe
//	rights.go    MayMark: would a promotion be refused?
//	verify.go    Verify: both ends compared, record by record
//	verify_read.go  what it reads, decoded by franz-go alone
package kafka
