// Command bench measures the mirror beside a baseline, in one run on one
// machine, and ends with one line of JSON.
//
// The work is fixed: a topic that is full before the clock starts is copied
// from one real Kafka to another, once by the mirror and once by a consumer
// and a producer of the same client library, which is how most tools do it.
// Both copy the same bytes on the same two brokers, one after the other, in an
// order that alternates. What counts is the ratio: the machine is noisy.
package main
