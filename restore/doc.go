// Package restore will decide how a sealed set becomes running stores again:
// the plan, the comparison with the manifest, the drill that proves a set on
// an isolated target, and the report with measured times. It is a domain: it
// decides and does no I/O; engines live in folders below it. It may import
// backup, whose manifests it reads.
//
// The promise it is being built for: no recovery claim without evidence.
//
// Nothing of this is implemented yet. A fleet file that asks for drills is
// refused by internal/config rather than being read and ignored.
package restore
