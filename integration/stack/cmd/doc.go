// Command cmd is the program behind "make stack": it runs the services of two
// regions, Kafka and ClickHouse each, in the foreground, and writes where they
// are to build/stack/endpoints.yaml, so that anyone can point clients at them.
// With -backups there is also a Postgres in each region, and one S3 with a
// bucket for each, which the region's ClickHouse knows as a named collection.
//
// It promises to leave nothing behind but logs: Ctrl-C stops the services in
// order and removes their data and the endpoints file; a second Ctrl-C, or the
// death of this program, kills them. Each run starts with empty data.
//
// Exit codes: 0 stopped on request; 1 something did not start; 2 usage.
package main
