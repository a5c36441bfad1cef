// Package kafka opens connections to Kafka: addresses, TLS, SASL, timeouts,
// logging. It is the only package of the product that does; whoever speaks to
// a broker is given a Client made here.
//
// The promise: opening does not touch the network, so that a cluster which is
// down at start makes its own part unready and not the daemon; Ping says
// clearly what is wrong; secrets are read when a connection needs them and are
// never printed.
//
// The files:
//
//	config.go   what a cluster needs to be reached, checked as a whole
//	client.go   Open, Ping, Close
//	commits.go  the committed offsets of groups, whole or not at all
//	dial.go     TCP, address maps, TLS
//	log.go      franz-go's log lines as slog records
package kafka
