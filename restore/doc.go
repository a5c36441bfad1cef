// Package restore decides how a sealed set becomes running stores again: the
// plan, the comparison with the manifests, the drill that proves a set on an
// isolated target, and the report with measured times. It is a domain: it
// decides and does no I/O; engines live in folders below it. It may import
// backup, whose manifests it reads.
//
// The promise: no recovery claim without evidence. Every hash is checked
// before a server is asked to read a byte; nothing is restored over something
// that exists; a drill that cannot fail is worthless, so each one must also
// catch what it corrupts itself.
//
//	target.go  the contract of an engine's target, and of a set's vault
//	plan.go    what a restore would do: where, how much, what is in the way
//	run.go     a restore: verify, restore, compare
//	drill.go   a drill: the same on an isolated target, with controls that must fail
//	report.go  what a drill found, and its page for people
package restore
