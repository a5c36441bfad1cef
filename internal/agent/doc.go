// Package agent runs a region's tasks. Each daemon has one Agent: it watches
// the applied state, claims the tasks of its region, and hands each to the
// Runner that is registered for the kind.
//
// # Words
//
// A Runner knows one kind of task: whether its effect is there (Done), and how
// to bring it about (Do). A Fence goes with Do: the epochs to pass along to
// where the effect happens, and a check to make right before it. Evidence is
// what a finished task leaves in the journal, as JSON.
//
// # Promises
//
//   - Nothing runs before the log has accepted the claim and this node has
//     applied it.
//   - One task of a plan at a time, and one run of a kind. When a task
//     vanishes, or its attempt or session moves on, its context is cancelled
//     and the runner is waited for before another one of that plan or kind
//     starts here; however long that takes.
//   - A result is proposed until the log has taken or refused it. A proposal
//     whose answer was lost is made again: the attempt makes it idempotent.
//   - A runner that panics or returns nonsense fails its task, never the
//     daemon. (A panic in a goroutine that the runner started itself cannot
//     be caught here.)
//   - A stop releases nothing: claims end with the session.
//
// # Files
//
//	agent.go    Agent: watch, start and end jobs
//	job.go      one attempt: claim, Done, Do, report
//	runner.go   Runner, Task, Fence and what the agent needs from its caller
//	repeat.go   Repeat: the runner of what is idempotent for ever
//	metrics.go  what can be watched
package agent
