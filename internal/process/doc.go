// Package process finds and ends processes that were started on behalf of
// holdfast, including those that their starter lost sight of.
//
// # Words
//
// A Proc is a line of /proc. A Family is what grew from one started process:
// its process group, and everything that carries its mark, a variable with a
// random value in the environment that children inherit.
//
// # Promises
//
//   - A process that merely got the number of one of ours is never signalled:
//     a number counts only together with the start time that the kernel keeps
//     for it, on the same boot, or with the mark.
//   - End returns nil only when nothing of the family lives. A zombie is dead.
//
// Two kinds of process cannot be found: one that left the group and cleared
// its environment, and one that did so by becoming another user, whose
// environment we may not read.
//
// # Files
//
//	proc.go     Proc, List, Read
//	family.go   Family: Members, Signal, End
package process
