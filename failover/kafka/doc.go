// Package kafka carries out the steps of a plan that concern Kafka and the
// mirror: let groups drain, record the ends, let the mirror reach them, stop
// it, write group offsets, recreate topics, prove that the stores work.
//
// # Promises
//
//   - A step is done when its effect was read back, not when a call returned.
//   - A planned move passes only if the source's ends did not move between
//     the record and the confirmation, and the target's ends equal them.
//   - A link ends only when its mirror is known to be still; what it reached
//     is in the same log entry.
//   - No group is started with an offset that is missing, or outside what the
//     new region holds.
//
// The package knows no client library. Region, which the daemon implements,
// is what a step needs from the region it runs in.
package kafka
