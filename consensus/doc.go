// Package consensus decides. It holds the state that all daemons agree on,
// the commands that change it, and the two halves of a lease. It is pure: no
// clock, no network, no files, no map order; time arrives as a value.
//
// # Words
//
// A State is what every member computes from the same log. A Command is one
// entry of that log; State.Apply turns a State and a Command into the next
// State, or into a Refusal that changes nothing. A role is held by one region
// at one Epoch; a Plan moves roles by Steps; a Run is a piece of work outside
// of any plan, such as a backup or a drill; a Task is the step or the run that
// a region is working on; a Link is one mirrored direction; a Set is the
// header of a sealed recovery set.
//
// # Promises
//
//   - Apply is a function: the same State and Command give the same result on
//     every machine. An unknown command is an error that halts a member; it
//     is never skipped.
//   - A role is granted only while it is vacant, to the next epoch. So no two
//     regions ever hold one role at one epoch.
//   - The real-time intervals in which the Holders of two regions answer
//     "active" for one role never overlap, given clocks whose rates are right
//     within LeaseTiming.ClockRatePPM. Lease.go says why.
//   - An answer that was lost counts for nothing, and replaying the log never
//     arms a lease: only the result of the very attempt that was sent does.
//   - A claim dies with its session: a daemon that wakes up cannot speak for
//     a task that moved on, because every journal command names the attempt.
//   - A slot, one scheduled time of one job, is taken once, in the entry that
//     starts its run. A set's digest never changes once it is in the log.
//   - Abort and Grant compare and set one field, the phase of the plan. One of
//     them wins, and everyone reads the same winner.
//
// # Files
//
//	state.go     State, its parts, and the codec of snapshots
//	command.go   Command, its bodies, and the codec of log entries
//	apply.go     Apply: version, dispatch, refusals
//	role.go      drain, grant, open, release, expire, void, reclaim
//	lease.go     Holder (may this node act?) and Watch (has a lease run out?)
//	plan.go      plans: create, start a step, abort, complete
//	task.go      tasks: claim, finish, fail; sessions
//	run.go       runs and their slots, headers of sets and their proofs
//	link.go      links: started, ended, fenced, judged, noted
//	fill.go      who may fill holes
//	salvage.go   orphans, what was salvaged, and what a person gave up
//	tombstone.go topics that were deleted at the source, and their copies
//	audit.go     the hash chain of mutations
package consensus
