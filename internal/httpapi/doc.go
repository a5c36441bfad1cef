// Package httpapi is the surface of a daemon: the API that the command line
// and scripts speak, and the listener that load balancers ask.
//
// # Words
//
// A Backend answers the API; internal/daemon is one. A Problem is an error on
// the wire: what, why, what to try, and a Code for programs. A HealthBackend
// answers load balancers, from memory alone.
//
// # Promises
//
//   - Everything under /v1 is described by the OpenAPI 3.1 document that is
//     generated from the handlers: GET /openapi.json or /openapi.yaml.
//   - Planning changes nothing. What moves traffic or discards data names the
//     hash of a plan that was shown before, and is refused when that plan has
//     expired here.
//   - Who asked is taken from the socket's peer credentials, not from what the
//     request says about itself.
//   - A health answer is good for the instant at which it is sent: the verdict
//     is asked again after the answer was composed, and never turns from 503
//     to 200 on the way out.
//   - A socket file is removed only when nobody answers on it.
//   - Bodies, waits and lists are bounded.
//
// # Files
//
//	backend.go    Backend: what a daemon answers
//	types.go      what goes over the wire
//	problem.go    errors, and their codes
//	api.go        New: the handlers and their description
//	operations.go each operation of /v1
//	runs.go       backups and drills: what is asked for and what is kept of them
//	shown.go      the plans that were shown here, until they expire
//	operator.go   who asks, by peer credentials
//	socket.go     ListenUnix, NewServer
//	health.go     NewHealth: load balancers, probes, metrics
//	client.go     Client: typed calls, for the command line
package httpapi
