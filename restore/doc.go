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
//	target.go   the contract of an engine's target, and of a set's vault
//	errors.go   the ways in which a set or a restore is refused
//	load.go     a set's seal and manifests, verified and checked against each other
//	plan.go     what a restore would do: where, how much, what is in the way
//	job.go      what a restore and a drill share: preflight, verify, restore, compare
//	run.go      a restore of a plan that a person could read first
//	drill.go    a drill: the same on an isolated target, and what becomes of it
//	control.go  what a drill breaks on purpose, and must notice
//	offsets.go  the Kafka part, which is checked against itself
//	report.go   what a drill found
//	page.go     the report as a page for people
//	encode.go   the report as bytes
//	words.go    figures with units
package restore
