// Package objects talks to one bucket of an S3-compatible store: the only
// place that imports its client library. All keys are relative to a prefix.
//
// # Promises
//
//   - An object that was put is whole: each put carries the SHA-256 of its
//     body, which the store compares.
//   - A put that must not replace anything reports ErrExists only when
//     somebody else's bytes are there: after a lost answer it reads back and
//     compares.
//   - A list is complete or an error, never short.
//   - A stream that broke is continued where it broke, of the same object, or
//     its reader gets an error; it never ends early without one.
//   - Every wait, retry and size is bounded. Access keys appear in no error.
//   - Nothing leans on one error code for a refusal, on conditional deletes, or
//     on checksums in trailers: stores differ there.
//
// # Files
//
//	bucket.go   Config, Open
//	http.go     the transport: stalls, rate, TLS
//	put.go      Put, Probe
//	read.go     Get, Open, Head, Now
//	list.go     List, Delete
//	error.go    what went wrong, whether to try again, and what to tell a person
package objects
