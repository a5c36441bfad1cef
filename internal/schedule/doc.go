// Package schedule says when something that repeats is due. A slot is a time
// that a cron line names; a slot, and not the moment at which somebody looked,
// is what work is done for.
//
// The promise: a slot is due at most once for a caller that remembers the last
// one it took, however often, how late and in whatever rhythm it looks. Due
// never gives a slot that is not after the last one, so a clock that goes back
// repeats nothing. All times are UTC: no hour is missing or there twice. The
// package is pure; it reads no clock and keeps nothing.
//
// Files:
//
//	schedule.go  cron lines, their slots, and which one is due
package schedule
