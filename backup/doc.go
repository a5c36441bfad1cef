// Package backup will decide what a backup is made of: the contract that each
// engine (ClickHouse, Postgres, Redis, buckets, files) fulfils, the manifest
// and its seal, the keys of objects, the plan of a run and its retention, with
// a reason for every set that is kept or dropped. It is a domain: it decides
// and does no I/O; engines and the repository live in folders below it.
//
// The promise it is being built for: a backup is listed only when its seal is
// written, the seal stands on hashes of what was written and read back, and
// deleting any set never breaks another.
//
// Nothing of this is implemented yet. A fleet file that asks for backups is
// refused by internal/config rather than being read and ignored.
package backup
