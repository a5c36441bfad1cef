// Package clickhouse opens connections to ClickHouse's native protocol: the
// only place that dials it. Servers of one region are tried in order; TLS is
// verified; the password is read when a client is opened and never printed.
//
// It also holds what a backup and a restore must do in the same way, so that
// what the one wrote the other understands: quoting, statements that the
// server runs by itself, and the row hash.
//
//	client.go    connections
//	query.go     statements with a time limit of their own, quoting
//	operation.go BACKUP and RESTORE: start, poll, cancel
//	census.go    rows and their hash, by partition or by part
package clickhouse
