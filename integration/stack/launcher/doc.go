// Command launcher is the small program that stands between the rig and each
// server. It is built by package stack on first use.
//
//	launcher hold [-as UID [-reach]] PROGRAM ARGS...
//	                                 run PROGRAM; kill it when stdin closes
//	launcher clickhouse LIB ARGS...  serve the ClickHouse engine of LIB
//
// hold promises that PROGRAM does not outlive whoever holds the other end of
// stdin: at end of file it sends SIGKILL to the process group of PROGRAM, which
// also ends a stopped process. When PROGRAM has ended, whatever it left behind
// is killed too, before hold ends itself. It writes the process id of PROGRAM
// as one line on descriptor 3, and ends with PROGRAM's exit code, 128 + n after
// signal n.
package main
