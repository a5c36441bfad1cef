// Package failover decides how roles move between regions. It is pure: it
// turns facts (the agreed state, what the daemons reported, the rules of the
// fleet file) into a plan, and a plan into the next thing to propose.
//
// # Words
//
// A Candidate is a plan that a person can read before anything happens, with
// its gates. A Gate that says no is a Blocker: what, why, and what to do. The
// hash of a candidate covers everything that was decided on, so the plan that
// runs is the plan that was read.
//
// # Promises
//
//   - MakePlan, MakeReseed, Automatic and Next read nothing but their
//     arguments and change nothing.
//   - A planned move has one point of no return, the grant. Next turns a
//     failure before it into an abort, and undoes in reverse; after it there
//     is only forward.
//   - Next may be asked by any leader at any time, and proposes at most what
//     the journal says comes next. Commands compare and set, so proposing one
//     twice does its effect once.
//   - An unplanned move states its loss as a bound, min ≤ lost ≤ max.
//
// # Where the mirror is fenced
//
// The mirror is stopped before the grant, and fenced right after it, before
// anything writes in the new region. Stopping is enough to turn back: the
// target is an exact prefix of the source, and the mirror goes on from its end
// under a new link epoch. A fence is not: its markers take offsets in the
// target that the source will use for records, and nothing takes them back.
// So a fence before the grant would make each aborted plan a divergence. After
// the grant there is only forward, the old region lets nothing in, and those
// offsets are never used there. What a mirror that nobody knows of still
// writes between the stop and the fence are the source's own records at their
// own offsets: the end that counts is the one found behind the fence.
//
// Only a role that goes back by a second plan, before the first one opened it,
// finds such markers in its standby: its region skips as many offsets before
// it opens.
//
// # Files
//
//	health.go     what is known about regions and links, and how old it is
//	plan.go       Intent, Rules, Candidate; MakePlan and the hash
//	gates.go      what could refuse a plan
//	steps.go      the steps of each kind of plan
//	next.go       Next: from a plan and the state to commands
//	automatic.go  Automatic: when the leader moves roles by itself
//	loss.go       the bound on what an unplanned move loses
//	reseed.go     MakeReseed
//	testdata/     how a failover goes, as stories: begin with README.md there
package failover
