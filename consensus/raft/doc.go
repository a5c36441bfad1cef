// Package raft carries the decisions of package consensus between the daemons
// of a fleet, with hashicorp/raft underneath.
//
// # Words
//
// A Port is a node's one peer address: raft and control calls share it, told
// apart by ALPN. A Node is this daemon's member of the cluster. A reign is one
// unbroken stretch of leadership of this node. To halt is to stop taking part
// and stay stopped, with a reason, until a person acts.
//
// # Promises
//
//   - Only nodes of the fleet file get in, with a certificate of our CA and
//     cluster that names them; a dial reaches the very node that was meant or
//     fails, and says why on both ends.
//   - Propose never sends a command twice. Its error tells which of three
//     things is true: applied and refused (*consensus.Refusal), not proposed
//     (consensus.ErrNoLeader), or not known (consensus.ErrUnknownOutcome).
//   - A forwarded proposal takes one hop: who gets it leads, or refuses it.
//   - A log entry or snapshot that this binary does not know wholly halts the
//     node before it changes anything; nothing is skipped.
//   - Leader work runs after a barrier, its context ends at once when the
//     reign does, and it has returned before the next reign's work starts.
//     It is still no fence: a deposed leader may believe for a moment, and
//     only the log's compare-and-set holds against that.
//   - Two daemons never share a data folder. A full or read-only disk halts
//     the node with that reason; it does not crash the daemon.
//   - A cluster is bootstrapped once, by the node whose name sorts first, after
//     every node of the fleet file has answered that it holds no state and
//     reads the same fleet. A node that lost its disk therefore never starts
//     a second cluster. Node.Bootstrap is the way round, for a person.
//   - Connections that died without a word cost a follower about a second of
//     its leader, not raft's whole timeout for a call.
//   - After Stop no goroutine, connection or lock is left.
//
// # Addresses
//
// In raft's own configuration the address of a server is its node name. The
// Port resolves it by the fleet file when it dials, so an address can change
// without a change of membership, and the name dialled is the name checked.
//
// # Files
//
//	config.go      Config, Timings and their relations
//	port.go        Port: listen, handshake, admission, the two protocols
//	dial.go        dialling a peer by name
//	control.go     the HTTP side of the Port, and clients for it
//	node.go        Node: open, halt, stop
//	dir.go         the data folder: lock, space, errors of the disk
//	store.go       the log store, and what happens when it cannot write
//	machine.go     log entries and snapshots into consensus.State
//	propose.go     Propose, and forwarding to the leader
//	lead.go        leadership as a context
//	bootstrap.go   the first configuration
//	transport.go   raft's calls: who answers, how fast, and dead connections
//	members.go     Members, Status, adding and removing
//	log.go         raft's logger into slog, repeats counted
//	metrics.go     what watches us
package raft
