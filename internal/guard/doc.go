// Package guard runs a command only while this region holds a role, and ends
// it in time. It is the logic behind `holdfast guard --role R -- CMD`: an
// endpoint that says "inactive" is no fence, an ended process is one.
//
// # Words
//
// A Word is what the local daemon answers: may the command run, for which
// epoch, and until which instant. The deadline is the instant before which
// the region may act; the margin after it is there for us to end the command.
// The keeper is a second, tiny process that kills the command when the guard
// itself is stopped or dead.
//
// # Promises
//
//   - The command runs only while the last word allowed it and its deadline
//     lies ahead; only in the phases open and draining.
//   - TERM at the deadline, or at once when a word says no. KILL after the
//     grace, and never later than deadline + margin/2. If the guard is stopped
//     (SIGSTOP) the keeper kills at deadline + 3/4 margin; if it is dead, the
//     kernel kills the command at once (PR_SET_PDEATHSIG) and the keeper what
//     the command left.
//   - A daemon that is silent changes nothing before the deadline.
//   - A word with Held has no deadline: by the policy hold nobody takes the
//     role from a region that cannot renew, so the command goes on until a
//     word says otherwise, also while the daemon is silent. A guard that is
//     itself stopped loses its command after the margin even then (and 300 ms),
//     since it could not obey.
//   - A new epoch means a new process: the old one is ended first.
//   - What the guard reports as not running is gone: the process group, and
//     everything that carries HOLDFAST_GUARD in its environment.
//   - Each decision looks at the clock first, so one that is woken from a
//     stop or a suspend acts on the present.
//
// Not covered: a child that leaves the process group and also clears its
// environment; and the instant after a freezer (a paused container) thaws the
// guard, the keeper and the command at once, until one of the first two runs.
//
// # The command's environment
//
// That of the guard, with HOLDFAST_ROLE, HOLDFAST_REGION, HOLDFAST_EPOCH,
// HOLDFAST_GENERATION and HOLDFAST_GUARD. It leads a process group of its own.
// PR_SET_PDEATHSIG is tied to the thread that forks, so one thread does
// nothing else and lives as long as the guard. A program with set-user-id bits
// drops it; the keeper still ends what it may signal.
//
// # Files
//
//	word.go      Word, Status and Daemon, between guard and daemon
//	state.go     State: what to do, pure
//	run.go       Run: carries it out
//	child.go     the command, on its thread
//	keeper.go    Keep (the second process) and its handle
//	registry.go  Registry: what a daemon knows of its guards, for a release
package guard
