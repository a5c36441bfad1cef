// Package clickhouse takes ClickHouse's share of a recovery set, by SQL only:
// the server itself writes the partitions that changed to the repository's
// bucket, as one native backup, a pack. It fulfils backup.Taker.
//
// The promises: a partition that did not change is not written again; no pack
// builds on another one; what a manifest says of a partition (its parts, rows
// and row hash) is about exactly the data parts that the pack holds, however
// the server merged meanwhile; and what a native backup would lose without a
// word (patch parts of lightweight updates, mutations that have not run) is
// refused or waited for.
//
//	engine.go       Config, New, Take: the story from top to bottom
//	source.go       what the server says: tables, parts, mutations, patches
//	plan.go         fingerprints; what to take and what to refer to again
//	pack.go         one pack: hash, back up, read .backup, hash what was missed
//	description.go  the .backup file of a pack
//	notes.go        what a restore will not bring back
package clickhouse
