// Package repository keeps recovery sets in one bucket, and gives them back.
// It fulfils backup.Sink for those who write and restore.Vault for those who
// restore and drill.
//
// # Promises
//
//   - A set is listed only when its seal is there. The seal is written last,
//     once, signed, and read back; it carries the hash of each manifest, which
//     was read back too; a manifest carries the hash of each blob and of each
//     pack's index, and an index those of the pack's objects.
//   - Nothing is read on trust: a seal must be signed by a node of the cluster
//     and be of the set that was asked for; everything below it must have the
//     hash that is said above it, and blobs are compared before they are
//     decrypted. What is swapped is found like what is broken.
//   - Objects are written once. Whoever crashes leaves objects without a seal,
//     and the next attempt writes under names of its own.
//   - A writer needs no key that can read: what is there already is found by a
//     keyed hash in the manifests. What an earlier set holds is reused only
//     after looking whether it is still there, and every object of a set is
//     looked for once more right before the seal.
//   - An attempt that is older than half the grace of a removal, by the
//     store's clock, or that uses what is marked for removal, is void.
//   - Sizes, waits, queues and lists are bounded; a list is whole or an error.
//
// # Files
//
//	repository.go  Config, Open, what is asked of a store
//	attempt.go     Begin: the session, and what of the previous sets is whole
//	sink.go        pieces into blobs, and reuse
//	adopt.go       packs that a server wrote
//	finish.go      an engine's manifest
//	seal.go        the commit
//	envelope.go    what is signed, and how it is checked
//	damage.go      which errors are about the set itself, and not about the way to it
//	decode.go      manifests and indexes from foreign bytes
//	read.go        sets, seals, manifests, indexes
//	pieces.go      plain text back out of blobs
//	verify.go      every object of a set, and hurts.go: what is lost with it
//	corrupt.go     a view with one wrong byte, for negative controls
//	salvage.go     records that a region accepted and that were never mirrored
//	dir.go         a directory as a store, for salvages where there is no bucket
//	report.go      reports of drills beside their sets
package repository
