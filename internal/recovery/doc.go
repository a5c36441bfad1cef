// Package recovery wires what takes, restores and proves recovery sets: the
// repository of a region, the engines of its stores, and scratch targets. The
// daemon's runners use it, and so does the command line, which must be able to
// list, verify and restore sets when no daemon and no quorum is left: a fleet
// file, the repository's keys and the fleet's CA are enough.
//
//	host.go     Host: a fleet as reached from this machine
//	take.go     take a set: engines in order, seal last
//	targets.go  scratch places for a restore and for a drill
//	stores.go   connections to a region's stores
//	look.go     what `holdfast check` wants to know
//	clean.go    what a restore by hand left when it was killed
//	salvage.go  where records that were never mirrored are kept
//	drill.go    a drill of one set, and its report
package recovery
