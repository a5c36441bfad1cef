// Package backup decides what a backup is made of. It is a domain: it holds
// the words and the rules, and does no I/O; engines and the repository live in
// folders below it.
//
// A recovery set is what one run took from the stores of one region: a part
// per engine (kafka, clickhouse, postgres), each described by a manifest, and
// last a seal that carries the hash of each manifest and is signed. Without a
// seal there is no backup.
//
// The promise: a set is listed only when its seal is there; the seal stands on
// hashes of what was written and read back; no set needs another one's
// manifest, so there are no chains.
//
//	set.go       ids, the seal, the header that enters the log
//	manifest.go  what an engine took: blobs, pieces, packs, and its own part
//	keys.go      the names of objects in a repository
//	engine.go    the contract between an engine and the repository
package backup
