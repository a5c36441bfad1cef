// Command holdfast is the daemon of a region and the command line that speaks
// to it.
//
// # Promises
//
//   - Results go to stdout, everything else to stderr; --json on each verb
//     prints the result as one JSON document.
//   - Exit codes mean one thing each: see exit in main.go and any verb's help.
//   - Nothing that moves traffic or discards data happens unasked: such a verb
//     shows a plan first, and runs it when the region's name was typed, or the
//     plan's hash was given with --yes.
//   - Verbs know no driver: they speak to the daemon on this host. What reads
//     recovery sets, and restores them, needs no daemon: it reads the
//     repositories through internal/recovery.
//
// # Files
//
//	main.go            the verbs, exit codes, how errors are shown
//	app.go             what verbs share: flags, streams, the daemon's client
//	VERB.go            one verb each
//	backup_VERB.go     recovery sets; restore.go and drill.go bring them back
//	restore_clean.go   what a killed restore has left
//	repository.go      the repositories of a fleet, and what the log says of their sets
//	follow.go          a running plan, step by step; follow_run.go a backup or a drill
//	gauge.go           how far something is: a bar on a terminal, else lines
//	render.go          tables, figures and units
//	render_WHAT.go     pure: from a value of the API to text
package main
