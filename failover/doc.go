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
