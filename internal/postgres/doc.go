// Package postgres opens connections to Postgres: the only place that dials
// it. The data source name is read for each connection, so that a changed
// password is taken up without a restart, and no error repeats it.
//
// It also counts: a census is what every table of every database holds, with
// a hash of the rows, taken in the same way on a production server and on a
// restored one, so that the two can be compared.
//
//	client.go  Open, Connect, Replication, Version
//	census.go  Census: which tables there are, in which databases
//	count.go   one database: the snapshot, the fixed session, one table
package postgres
