// Package clickhouse restores ClickHouse's share of a set into scratch
// databases of their own, compares them with the manifest, and takes them away
// again. It fulfils restore.Target.
//
// The promises: nothing but our own scratch databases is written or dropped,
// and a mark in their comment says whose they are; merges and TTLs stand still
// in them, so that what is compared is what was restored; and whatever could
// reach out of them (views, Kafka and Buffer tables, dictionaries) is never
// created.
//
//	target.go   Config, New, Check, Keep
//	restore.go  Restore: databases, tables, partitions
//	create.go   the definition of a table under another name
//	compare.go  Compare and Disturb
//	remove.go   Remove, Leftovers: by the mark alone
package clickhouse
