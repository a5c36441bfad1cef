// Package fleet runs a whole holdfast fleet on one machine, for the demo and
// the integration tests: two regions with real Kafka and ClickHouse, a
// witness, and three daemons that are real processes of the real binary.
//
// Everything that crosses from one place to another goes through a proxy of
// package stack, so a test can slow, throttle or cut each direction. All of it
// listens on 127.0.0.1 and ends with Close, or with the process that made it.
//
//	fleet.go   Fleet: regions, nodes, links; start and close
//	node.go    Node: one daemon process, its client and its health listener
//	config.go  the fleet file
//	backups.go what recovery sets need: an archive, keys, a place for drills
//	thread.go  the thread that children are tied to
package fleet
