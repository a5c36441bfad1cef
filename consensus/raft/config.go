package raft

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Node needs. Its Port says who the node is and who its
// peers are.
type Config struct {
	// Dir is the data folder. It is created with mode 0700 and belongs to one
	// daemon at a time.
	Dir string
	// Port is the peer address, from Listen. Open takes it over: Stop closes it.
	Port *Port
	// Timings default to DefaultTimings when zero.
	Timings Timings
	// Log gets what an operator should know. Default: nothing is logged.
	Log *slog.Logger
	// Metrics gets the metrics of metrics.go, until Stop. Default: none.
	Metrics prometheus.Registerer

	// snapshotThreshold and trailingLogs are for tests; zero is the default.
	snapshotThreshold, trailingLogs uint64
	// diskFault is for tests: it may fail a write of the log store.
	diskFault func(op string) error
}

// Timings are raft's clocks. They must fit the leases: see the relations in
// the fleet file's check.
type Timings struct {
	Heartbeat   time.Duration // a follower that hears nothing for 1 to 2 of these asks for votes
	Election    time.Duration // a candidate that wins nothing for 1 to 2 of these tries again
	LeaderLease time.Duration // a leader that hears no majority for this long steps down
	Commit      time.Duration // followers learn the commit index within about this
	Transport   time.Duration // one raft call, dialling included
}

// DefaultTimings are for regions up to 150 ms apart.
func DefaultTimings() Timings {
	return Timings{
		Heartbeat: 1500 * time.Millisecond, Election: 1500 * time.Millisecond,
		LeaderLease: 750 * time.Millisecond, Commit: 150 * time.Millisecond, Transport: 10 * time.Second,
	}
}

// Check says whether the timings can work together.
func (t Timings) Check() error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"heartbeat", t.Heartbeat}, {"election", t.Election}, {"leader lease", t.LeaderLease}, {"commit", t.Commit}, {"transport", t.Transport}} {
		if d.d < 5*time.Millisecond {
			return fmt.Errorf("raft timing %s is %s: want at least 5ms", d.name, d.d)
		}
	}
	switch {
	case t.LeaderLease > t.Heartbeat:
		return fmt.Errorf("raft timings: leader lease %s is longer than heartbeat %s, so an old leader could outlive the election of a new one", t.LeaderLease, t.Heartbeat)
	case t.Heartbeat > t.Election:
		return fmt.Errorf("raft timings: heartbeat %s is longer than election %s", t.Heartbeat, t.Election)
	case t.Commit > t.LeaderLease:
		return fmt.Errorf("raft timings: commit %s is longer than leader lease %s", t.Commit, t.LeaderLease)
	}
	return nil
}

// The log is cut when it has grown by snapshotEvery entries; trailing entries
// are kept so that a node that was away briefly needs no snapshot.
const (
	snapshotEvery   = 4096
	trailing        = 2048
	snapshotsKept   = 2
	logCacheEntries = 512
	poolPerPeer     = 3
)

func (c *Config) complete() error {
	if c.Port == nil {
		return errors.New("raft needs a peer port: call Listen first")
	}
	if c.Dir == "" {
		return errors.New("raft needs a data folder")
	}
	if c.Timings == (Timings{}) {
		c.Timings = DefaultTimings()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.snapshotThreshold == 0 {
		c.snapshotThreshold = snapshotEvery
	}
	if c.trailingLogs == 0 {
		c.trailingLogs = trailing
	}
	return c.Timings.Check()
}
