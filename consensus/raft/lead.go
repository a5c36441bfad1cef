package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// reign is one unbroken stretch of leadership of this node. Its context ends
// at once when it does.
type reign struct {
	ctx    context.Context
	cancel context.CancelFunc
	term   uint64
	since  time.Time
}

// leading tells everyone who asks about the present reign.
type leading struct {
	mu      sync.Mutex
	now     *reign        // nil when another leads, or nobody
	changed chan struct{} // closed and replaced with each change
}

func (l *leading) init() { l.changed = make(chan struct{}) }

func (l *leading) set(r *reign) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now.cancel()
	}
	l.now = r
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leading) get() (now *reign, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now, l.changed
}

// watchLeadership turns raft's notices into reigns. It does nothing else, so
// that it is always ready to read: raft's channel keeps only the last notice.
// Two notices of leadership in a row mean that it was lost in between, so
// each begins a new reign.
func (n *Node) watchLeadership() {
	defer n.leading.set(nil)
	for {
		select {
		case leads := <-n.r.LeaderCh():
			if !leads {
				n.leading.set(nil)
				n.log.Info("leadership ended", "node", n.self)
				continue
			}
			ctx, cancel := context.WithCancel(n.ctx)
			r := &reign{ctx: ctx, cancel: cancel, term: n.r.CurrentTerm(), since: time.Now()}
			n.leading.set(r)
			n.metrics.reigns.Inc()
			n.log.Info("leadership begins", "node", n.self, "term", r.term)
		case <-n.ctx.Done():
			return
		}
	}
}

// Waits of Lead between two tries of one reign.
const (
	leadRetryFirst = 200 * time.Millisecond
	leadRetryLast  = 15 * time.Second
)

// Lead calls work in each reign of this node, after a barrier, so that State
// holds everything that earlier leaders committed. Work's context ends when
// the reign or ctx does; work is waited for before the next reign's. Work
// that returns nil has done its part of the reign; work that returns an error
// is logged and called again in the same reign, ever less often. Several
// callers may Lead with different work.
//
// Lead returns ctx's error when ctx ends, or ErrStopped when the node has.
func (n *Node) Lead(ctx context.Context, work func(ctx context.Context) error) error {
	var last *reign
	for {
		now, changed := n.leading.get()
		if now == nil || now == last {
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			case <-n.ctx.Done():
				return n.ended()
			}
			continue
		}
		last = now
		n.reignOnce(ctx, now, work)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// reignOnce runs work until it is done, or the reign or ctx ends.
func (n *Node) reignOnce(ctx context.Context, r *reign, work func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)() //nolint:contextcheck // the reign has a life of its own, and both end the work
	for delay := leadRetryFirst; ctx.Err() == nil; delay = min(2*delay, leadRetryLast) {
		err := n.barrier(ctx)
		if err == nil {
			if err = work(ctx); err == nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("leader work failed, it is tried again", "term", r.term, "wait", delay, "err", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// barrier waits until this node has applied all that was committed before.
func (n *Node) barrier(ctx context.Context) error {
	err := n.await(ctx, func() error { return n.r.Barrier(n.c.Timings.Election).Error() })
	if err != nil {
		return fmt.Errorf("wait for what earlier leaders committed: %w", err)
	}
	return nil
}

// Leader returns the node that this node believes leads, and the term it is
// in. The node is empty when none is known. It is a hint: see VerifyLeader.
func (n *Node) Leader() (topology.Node, uint64) {
	_, id := n.r.LeaderWithID()
	return topology.Node(id), n.r.CurrentTerm()
}

// VerifyLeader asks a majority whether this node leads now. It returns
// consensus.ErrNoLeader when it does not, or when none answers in time.
func (n *Node) VerifyLeader(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeoutMax)
	defer cancel()
	err := n.await(ctx, func() error { return n.r.VerifyLeader().Error() })
	if err != nil {
		return &notProposed{why: fmt.Sprintf("%s could not prove that it leads", n.self), cause: err}
	}
	return nil
}

// TransferTo hands leadership to a voter. Only the leader can; on any other
// node the error is consensus.ErrNoLeader. It takes one election timeout at
// most, and proposals in that time are not taken.
func (n *Node) TransferTo(ctx context.Context, to topology.Node) error {
	if n.r.State() != hraft.Leader {
		return &notProposed{why: fmt.Sprintf("hand leadership to %s: %s does not lead", to, n.self)}
	}
	if to == n.self {
		return nil
	}
	found := false
	for _, s := range n.servers() {
		found = found || s.ID == hraft.ServerID(to) && s.Suffrage == hraft.Voter
	}
	if !found {
		return fmt.Errorf("hand leadership to %s: it is not a voting member", to)
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeoutMax)
	defer cancel()
	err := n.await(ctx, func() error {
		return n.r.LeadershipTransferToServer(hraft.ServerID(to), hraft.ServerAddress(to)).Error()
	})
	switch {
	case errors.Is(err, hraft.ErrNotLeader):
		return &notProposed{why: fmt.Sprintf("hand leadership to %s: %s does not lead", to, n.self)}
	case err != nil:
		return fmt.Errorf("hand leadership to %s: %w (is it reachable, and has it caught up?)", to, err)
	}
	return nil
}
