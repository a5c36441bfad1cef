// Package integration holds the tests that need real services: real brokers,
// real databases, SIGKILL in the middle. They are built with the tag
// integration and stand on the rig in integration/stack.
//
//	mirror_test.go  the Kafka mirror between two real clusters
//	kill_test.go    a whole fleet whose daemons die at every boundary of a plan
//	badday_test.go  bad input and bad days: what an operator reads, and that nothing is lost
package integration
