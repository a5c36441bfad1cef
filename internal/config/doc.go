// Package config reads the fleet file: one YAML file for all regions, the same
// everywhere, of which each daemon takes the part of its own node.
//
// The promise: the file is loaded once, checked as a whole and never changed
// afterwards. A key that is unknown, written twice or not supported by this
// version is an error, not a surprise. All problems are reported together,
// each with its line and column, what is wrong, why it matters and what to
// try. Relations between timings are checked here, so that a lease that could
// overlap is a refusal at start-up and not a mystery at night. Secrets are
// references; their values are read when they are used and never held.
//
// Files:
//
//	fleet.go     the types of the file, and questions about a fleet
//	defaults.go  every default, in one place
//	load.go      from bytes to a checked Fleet
//	decode.go    strict decoding, with the place of every key
//	check.go     what each section must hold by itself
//	relation.go  what sections must hold together: leases, balancers, domains
//	problem.go   what a refusal looks like
//	secret.go    references that print as stars
//	values.go    patterns, rates and words with a fixed list of spellings
//	host.go      whether the files and secrets it refers to are there
//	show.go      the fleet in effect, for people and programs
//	agreed.go    what all nodes must agree on, and its digest
//	schema.go    the JSON Schema for editors
//
// Backups and drills have files of their own:
//
//	recovery.go        their types, and questions about them
//	recovery_check.go  what they must hold; production is no drill's target
//	recovery_host.go   whether what they need is on this host
package config
