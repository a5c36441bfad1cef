// Package daemon wires one node of a fleet: it opens what the fleet file
// names, hands each part its neighbours, and unwinds all of it in reverse.
// Nothing imports it but `holdfast serve` and the integration tests.
//
//	daemon.go    Run: start, serve, stop
//	fleet.go     from the fleet file to agreed settings and planning rules
//	keeper.go    this node's leases: renew, keep on disk, watch the clock
//	roles.go     the steps that concern leases: quiesce, wait, release
//	leader.go    what a leader does: count leases out, walk plans, place itself
//	regions.go   the regions' stores as reached from here, and their probes
//	mirrors.go   the links that end here, and the Kafka steps
//	tombstones.go topics that were deleted at the source, and their copies
//	topics.go    which topics are mirrored, and how both ends differ
//	reports.go   what daemons tell each other twice a second
//	api.go       the answers of the API and of the health listener
//	schedule.go  what is due: slots that the leader turns into runs
//	runs.go      backups and drills of this node's region, and their part of the API
//	sets.go      what the log knows about sets: status and findings
//	forward.go   calls that only one region's daemon can carry out
//	metrics.go   the gauges of leases, probes and plans
package daemon
