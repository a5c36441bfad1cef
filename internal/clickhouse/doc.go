// Package clickhouse opens connections to ClickHouse's native protocol: the
// only place that dials it. Servers of one region are tried in order; TLS is
// verified; the password is read when a client is opened and never printed.
package clickhouse
