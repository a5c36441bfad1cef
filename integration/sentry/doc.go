// Package sentry fills real ClickHouse and Postgres servers with databases in
// the shape of a self-hosted Sentry's, for tests and the demo of backups,
// restores and drills. Names, types and keys are Sentry's; the rows are ours.
//
// The promise:
//
//   - What is hard in the real thing is there: every merging engine, views that
//     fire on INSERT, computed and nullable columns, NULLs in rows and in
//     sorting keys, a partition a day and none at all; foreign keys, sequences,
//     functions and an extension.
//   - In ClickHouse, rows follow from n and at alone: the same values twice are
//     what a replay does.
//   - A census tells two databases apart that differ in one value of one row,
//     whatever NULLs that row holds, and is blind to what merges may change.
//
// The files:
//
//	clickhouse.go           CreateClickHouse, FillClickHouse, CensusClickHouse
//	clickhouse.sql          22 tables and 7 views
//	clickhouse-fill.sql     rows
//	postgres.go             FillPostgres, CensusPostgres
//	postgres.sql            19 tables, and functions that fill and count them
package sentry
