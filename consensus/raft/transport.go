package raft

import (
	"slices"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// transport is raft's network transport, with a memory of whom it reached and
// an eye on connections that died without a word.
//
// A firewall that forgets its table, or a moved VM, leaves connections that
// swallow what is sent. Raft's one timeout for all calls has to allow for
// snapshots and slow disks (10 s), so a heartbeat on such a connection would
// keep a healthy follower without a leader, and so without renewed leases,
// for that long. Calls that need no disk are therefore given up much sooner,
// together with all connections to that peer.
type transport struct {
	*hraft.NetworkTransport
	timings Timings
	stream  *stream

	mu       sync.Mutex
	contacts map[hraft.ServerID]*contact
}

// contact holds the last answer of a member, and the times that the last
// heartbeats took.
type contact struct {
	at   time.Time
	rtts [128]time.Duration
	n    int
}

func newTransport(t *hraft.NetworkTransport, timings Timings, s *stream) *transport {
	return &transport{NetworkTransport: t, timings: timings, stream: s, contacts: map[hraft.ServerID]*contact{}}
}

// impatienceMin keeps a machine that is merely slow from making it worse:
// each connection given up costs a handshake.
const impatienceMin = 500 * time.Millisecond

// impatient makes a call that ends after the bound, with all connections to
// that peer. A dial under way is not ended: it has a bound of its own.
func (t *transport) impatient(id hraft.ServerID, bound time.Duration, call func() error) error {
	timer := time.AfterFunc(max(bound, impatienceMin), func() { t.stream.dropDialled(topology.Node(id)) })
	defer timer.Stop()
	return call()
}

// RequestVote implements hraft.Transport.
func (t *transport) RequestVote(id hraft.ServerID, target hraft.ServerAddress, args *hraft.RequestVoteRequest, resp *hraft.RequestVoteResponse) error {
	return t.impatient(id, t.timings.Election, func() error { return t.NetworkTransport.RequestVote(id, target, args, resp) })
}

// RequestPreVote implements hraft.WithPreVote.
func (t *transport) RequestPreVote(id hraft.ServerID, target hraft.ServerAddress, args *hraft.RequestPreVoteRequest, resp *hraft.RequestPreVoteResponse) error {
	return t.impatient(id, t.timings.Election, func() error { return t.NetworkTransport.RequestPreVote(id, target, args, resp) })
}

// AppendEntries implements hraft.Transport. Heartbeats take this way.
func (t *transport) AppendEntries(id hraft.ServerID, target hraft.ServerAddress, args *hraft.AppendEntriesRequest, resp *hraft.AppendEntriesResponse) error {
	start, heartbeat := time.Now(), len(args.Entries) == 0
	call := func() error { return t.NetworkTransport.AppendEntries(id, target, args, resp) }
	var err error
	if heartbeat {
		// As long as the leader lets a peer be silent before it counts it out.
		err = t.impatient(id, t.timings.LeaderLease, call)
	} else {
		err = call()
	}
	if err == nil {
		t.heard(id, time.Now(), time.Since(start), heartbeat)
	}
	return err
}

func (t *transport) heard(id hraft.ServerID, at time.Time, took time.Duration, heartbeat bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.contacts[id]
	if c == nil {
		c = &contact{}
		t.contacts[id] = c
	}
	c.at = at
	if heartbeat { // one with entries waits for the disk at the other end
		c.rtts[c.n%len(c.rtts)] = took
		c.n++
	}
}

func (t *transport) contactWith(id hraft.ServerID) (at time.Time, rtt time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.contacts[id]
	if c == nil {
		return time.Time{}, 0
	}
	if n := min(c.n, len(c.rtts)); n > 0 {
		sorted := slices.Sorted(slices.Values(c.rtts[:n]))
		rtt = sorted[(n*99+99)/100-1]
	}
	return c.at, rtt
}
