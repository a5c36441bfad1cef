// Package integration holds the tests that need real services: real brokers,
// real databases, SIGKILL in the middle. They are built with the tag
// integration and stand on the rig in integration/stack,
// on the fleet in integration/fleet, and on the databases in integration/sentry.
//
//	mirror_test.go  the Kafka mirror between two real clusters
//	kill_test.go    a whole fleet whose daemons die at every boundary of a plan
//	badday_test.go  bad input and bad days: what an operator reads, and that nothing is lost
//	postgres_backup_test.go  a base backup, restored, compared and disturbed; servers and parents that die
package integration
