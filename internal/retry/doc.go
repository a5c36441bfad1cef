// Package retry says how long to wait before trying again.
//
// # Promises
//
//   - A wait grows from a first to a longest delay and never beyond it.
//   - A wait ends at once when its context does.
//   - Delay is pure; Delays adds jitter, so that many who failed together do
//     not come back together.
//
// # Files
//
//	retry.go   Delay, Delays
package retry
