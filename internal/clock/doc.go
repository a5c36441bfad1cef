// Package clock reads the clocks that a lease may be timed with.
//
// # Words
//
// An Instant is a point on CLOCK_BOOTTIME: it only rises, it does not follow
// steps of the wall clock, and it goes on while the machine is suspended.
// Go's own monotonic clock stops in suspend, so a lease timed with time.Since
// would be too long after a laptop lid, a paused VM or a hibernated host.
//
// An Instant means something only on the boot that read it: keep BootID next
// to any Instant that is written to disk.
//
// # Promises
//
//   - System never goes back within one boot.
//   - Fake moves only when told to, and at the rate it was given.
//   - This package imports nothing of ours.
//
// # Files
//
//	clock.go   Instant, Clock, System, BootID
//	fake.go    Fake, for tests
package clock
