// Package postgres takes a base backup of a Postgres cluster over the
// replication protocol, as an engine of package backup. It needs a role with
// REPLICATION, and nothing on the server's host.
//
// The promise: a manifest is returned only when every file that the server
// says it has sent arrived with the SHA-256 that the server says it has, no
// other file arrived, the server's own list is intact by its own checksum,
// and the WAL that makes the files consistent is there without a gap. Files
// are cut at fixed offsets, so that what did not change is not stored again.
//
// Before and after the backup every table is counted and hashed. A table that
// was the same at both ends is the same in a restore, to the row; the others
// are marked as moving.
//
// It does not follow the WAL after the backup, and does not take tablespaces
// outside of the data directory: both are refused or absent, never guessed.
//
//	taker.go     New, Take: the order of things
//	server.go    what is asked before: version, identity, tablespaces
//	stream.go    the two framings of BASE_BACKUP: 14, and 15 or newer
//	receive.go   the archive: each file hashed, cut into pieces, handed on
//	pieces.go    the bounded workers behind it
//	manifest.go  the server's list of files: its parser, its checksum
//	compare.go   that list and its WAL against what arrived
//	census.go    the two counts, and what moved between them
package postgres
