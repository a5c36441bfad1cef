package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// ErrStopped means that this node does not take part any more, or not yet
// again: Stop was called.
var ErrStopped = errors.New("this node's raft has stopped")

// stopBound bounds each wait of a shutdown, whatever the caller's context says.
const (
	stopBound  = 10 * time.Second
	drainBound = time.Second
)

// Node is this daemon's member of the cluster. Its methods are safe for
// concurrent use.
type Node struct {
	c       Config
	self    topology.Node
	log     *slog.Logger
	port    *Port
	lock    *os.File
	store   *store
	trans   *transport
	r       *hraft.Raft
	machine *machine
	metrics *metrics
	slots   chan struct{} // proposals in flight here

	ctx    context.Context // ends when the node halts or stops
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines of ours that live as long as ctx
	ops    operations     // calls into raft that wait for its answer

	leading leading
	boot    bootstrap

	mu      sync.Mutex
	err     error         // why it halted
	running bool          // Open has succeeded
	ending  bool          // the end was begun
	done    chan struct{} // closed at its end
	endOnce sync.Once
}

var (
	_ consensus.Proposer   = (*Node)(nil)
	_ consensus.Leadership = (*Node)(nil)
)

// Open starts this daemon's member on its data folder and begins to serve its
// Port. A member that was here before goes on where it was; a new one waits
// for the first bootstrap, or for the leader that knows it. On error nothing
// is left running, and the Port is closed.
func Open(c Config) (*Node, error) {
	if err := c.complete(); err != nil {
		if c.Port != nil {
			err = errors.Join(err, c.Port.Close())
		}
		return nil, err
	}
	n := &Node{
		c: c, self: c.Port.node, log: c.Log, port: c.Port,
		slots: make(chan struct{}, proposalsMax),
		done:  make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.leading.init()
	n.machine = newMachine(n.halt)
	if err := n.open(); err != nil {
		n.cancel()
		n.finish()
		return nil, fmt.Errorf("start raft on %s: %w", c.Dir, errors.Join(err, n.port.Close()))
	}
	return n, nil
}

// open does the steps of Open. On error finish undoes those that were done.
func (n *Node) open() (err error) {
	if n.lock, err = openDir(n.c.Dir); err != nil {
		return err
	}
	if n.store, err = openStore(n.c.Dir, n.halt, n.c.diskFault); err != nil {
		return err
	}
	logger := newRaftLog(n.c.Log)
	snaps, err := hraft.NewFileSnapshotStoreWithLogger(n.c.Dir, snapshotsKept, logger)
	if err != nil {
		return explainDisk(n.c.Dir, fmt.Errorf("open the snapshots: %w", err))
	}
	cache, err := hraft.NewLogCache(logCacheEntries, n.store)
	if err != nil {
		return fmt.Errorf("make the log cache: %w", err)
	}
	existing, err := hraft.HasExistingState(cache, n.store, snaps)
	if err != nil {
		return fmt.Errorf("look for earlier state: %w", err)
	}
	n.port.raft.dialBound = max(n.c.Timings.Election, time.Second)
	n.trans = newTransport(hraft.NewNetworkTransportWithConfig(&hraft.NetworkTransportConfig{
		Stream: n.port.raft, MaxPool: poolPerPeer, Timeout: n.c.Timings.Transport, Logger: logger,
	}), n.c.Timings, n.port.raft)
	if n.r, err = n.newRaft(logger, cache, snaps); err != nil {
		if why := n.Err(); why != nil { // the snapshot was not understood: raft only says that it failed
			err = why
		}
		return err
	}
	n.store.armed.Store(true)
	metrics := newMetrics(n)
	if err := metrics.register(n.c.Metrics); err != nil {
		return err
	}
	n.metrics = metrics
	n.mountControl()
	if err := n.port.start(); err != nil {
		return err
	}
	n.wg.Go(n.watchLeadership)
	if !existing {
		n.wg.Go(n.firstStart)
	}
	// From here on a halt runs the end by itself. One that came before is the
	// error of this Open.
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running = n.err == nil
	return n.err
}

// newRaft starts raft. It reports as an error what raft panics with while it
// starts, such as a term that cannot be saved.
func (n *Node) newRaft(logger hclog.Logger, logs hraft.LogStore, snaps hraft.SnapshotStore) (r *hraft.Raft, err error) {
	c := hraft.DefaultConfig()
	c.LocalID = hraft.ServerID(n.self)
	c.ProtocolVersion = hraft.ProtocolVersionMax
	c.HeartbeatTimeout = n.c.Timings.Heartbeat
	c.ElectionTimeout = n.c.Timings.Election
	c.LeaderLeaseTimeout = n.c.Timings.LeaderLease
	c.CommitTimeout = n.c.Timings.Commit
	c.SnapshotThreshold = n.c.snapshotThreshold
	c.TrailingLogs = n.c.trailingLogs
	c.PreVoteDisabled = false
	// A removed member stays up as a follower without a vote, so that status
	// can say so; shutting raft down behind our back would look like a fault.
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = logger
	defer func() {
		if p := recover(); p != nil {
			err = explainDisk(n.c.Dir, fmt.Errorf("raft panicked: %v", p))
		}
	}()
	return hraft.NewRaft(c, n.machine, logs, n.store, snaps, n.trans)
}

// Done is closed when the node has ended: after Stop, or after it halted.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err says why the node halted. It is nil while the node runs and after a
// plain Stop.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// halt ends the node for a reason. It returns at once: raft's own goroutines
// call it.
func (n *Node) halt(why error) {
	n.mu.Lock()
	if n.err == nil && !n.ending {
		n.err = why
	}
	begun := n.ending || !n.running
	n.ending = n.ending || n.running
	n.mu.Unlock()
	if begun {
		return
	}
	n.log.Error("raft halted", "err", why)
	n.cancel()
	go n.finish() // ends with done closed; Stop waits for it
}

// Stop hands leadership over, if this node leads, and ends the node and its
// Port. It returns when nothing of them runs any more, at the latest a few
// seconds after ctx ends. It may be called again, and after a halt.
func (n *Node) Stop(ctx context.Context) error {
	n.mu.Lock()
	begun := n.ending
	n.ending = true
	n.mu.Unlock()
	if !begun {
		if err := n.handOver(ctx); err != nil {
			n.log.Info("leadership was not handed over before the stop; the others elect", "err", err)
		}
		n.cancel()
		n.finish()
	}
	<-n.done
	return n.port.Close() //nolint:contextcheck // it has a bound of its own, so that a cancelled stop is still a whole one
}

// handOver gives leadership to whom raft thinks best.
func (n *Node) handOver(ctx context.Context) error {
	if n.r.State() != hraft.Leader {
		return nil
	}
	voters := 0
	for _, s := range n.servers() {
		if s.Suffrage == hraft.Voter {
			voters++
		}
	}
	if voters < 2 {
		return nil
	}
	return n.await(ctx, func() error { return n.r.LeadershipTransfer().Error() })
}

// finish ends everything but the Port, in reverse order of open.
func (n *Node) finish() {
	n.endOnce.Do(func() {
		defer close(n.done)
		n.cancel()
		if !n.endRaft() {
			n.log.Error("raft did not end in time; its files stay open until the daemon exits", "bound", stopBound)
			return
		}
		n.wg.Wait()
		n.metrics.unregister()
		if n.store != nil {
			if err := n.store.Close(); err != nil {
				n.log.Error("close the raft log", "err", err)
			}
		}
		if n.lock != nil {
			_ = n.lock.Close() // and with it the lock
		}
	})
}

// endRaft reports whether nothing of raft runs any more.
func (n *Node) endRaft() bool {
	if n.trans == nil {
		return true
	}
	// Answers that are on their way come within moments. Raft forgets those
	// that it is still applying when it shuts down.
	n.ops.end(drainBound)
	why := fmt.Sprintf("raft of %s has stopped", n.self)
	if n.Err() != nil {
		why = fmt.Sprintf("raft of %s has halted: its log says why", n.self)
	}
	n.port.raft.setWhy(why)
	ended := true
	var shutdown hraft.Future
	if n.r != nil {
		shutdown = n.r.Shutdown()
	}
	// Connections next: a call to a peer that is gone would hold raft's
	// goroutines for the whole transport timeout.
	_ = n.trans.Close()
	if shutdown != nil {
		ended = within(stopBound, func() { _ = shutdown.Error() })
		n.ops.end(drainBound)
	}
	return ended
}

// State returns what this node knows to be agreed. It may be behind the
// leader; see WaitIndex and VerifyLeader. Do not change what it refers to.
func (n *Node) State() consensus.State { return n.machine.now.Load().state }

// StateAt returns State and the index of the last command in it.
func (n *Node) StateAt() (consensus.State, consensus.Index) {
	a := n.machine.now.Load()
	return a.state, a.index
}

// Watch returns a channel that holds a notice from the start and after each
// change of State, until ctx ends. Changes that come before the last notice
// is taken make one notice. The channel is never closed.
func (n *Node) Watch(ctx context.Context) <-chan struct{} {
	w := n.machine.watch()
	context.AfterFunc(ctx, func() { n.machine.unwatch(w) })
	return w
}

// WaitIndex waits until State on this node holds the command at index, as
// Propose returned it.
func (n *Node) WaitIndex(ctx context.Context, index consensus.Index) error {
	for {
		next, ok := n.machine.reached(index)
		if ok {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("wait for log index %d: %w", index, ctx.Err())
		case <-n.ctx.Done():
			return n.ended()
		}
	}
}

// ended says why nothing works any more.
func (n *Node) ended() error {
	if err := n.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return ErrStopped
}

// await runs a call into raft that cannot be cancelled, and leaves it behind
// when ctx ends. Raft answers within a few leader leases, or at shutdown.
func (n *Node) await(ctx context.Context, call func() error) error {
	if !n.ops.begin() {
		return n.ended()
	}
	answer := make(chan error, 1)
	go func() {
		defer n.ops.finish()
		answer <- call()
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// operations counts calls into raft, so that the end can wait for them.
type operations struct {
	mu     sync.Mutex
	ended  bool
	n      int
	closed chan struct{} // set by end, closed by the last
}

func (o *operations) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	o.n++
	return true
}

func (o *operations) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n--
	if o.n == 0 && o.closed != nil {
		close(o.closed)
		o.closed = nil
	}
}

// end refuses further calls and waits for those under way.
func (o *operations) end(bound time.Duration) {
	o.mu.Lock()
	o.ended = true
	var wait chan struct{}
	if o.n > 0 {
		wait = make(chan struct{})
		o.closed = wait
	}
	o.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-time.After(bound):
		}
	}
}

// within reports whether do returned within the bound. If not, it is left
// behind.
func within(bound time.Duration, do func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
		return true
	case <-time.After(bound):
		return false
	}
}
