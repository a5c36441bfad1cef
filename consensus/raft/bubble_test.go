package raft

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// wires is a network in memory, so that nodes can live in a bubble of virtual
// time. Its links can be cut, which ends connections, and frozen, which loses
// what is sent without a word, as a dead router does.
type wires struct {
	mu        sync.Mutex
	listeners map[string]*wireListener
	frozen    map[string]bool // by address: nothing gets in or out
	conns     []*wire
}

type wireListener struct {
	addr string
	in   chan net.Conn
	once sync.Once
	done chan struct{}
}

func newWires() *wires {
	return &wires{listeners: map[string]*wireListener{}, frozen: map[string]bool{}}
}

func (w *wires) listen(addr string) net.Listener {
	l := &wireListener{addr: addr, in: make(chan net.Conn), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listeners[addr] = l
	return l
}

func (l *wireListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *wireListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *wireListener) Addr() net.Addr { return nodeAddr(l.addr) }

func (w *wires) dialer(from string) DialFunc {
	return func(ctx context.Context, _, to string) (net.Conn, error) {
		w.mu.Lock()
		l, dead := w.listeners[to], w.frozen[from] || w.frozen[to]
		w.mu.Unlock()
		if dead || l == nil {
			<-ctx.Done() // a dead router does not say no
			return nil, ctx.Err()
		}
		near, far := net.Pipe()
		a, b := &wire{Conn: near, w: w, from: from, to: to}, &wire{Conn: far, w: w, from: to, to: from}
		select {
		case l.in <- b:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.conns = append(w.conns, a, b)
			return a, nil
		case <-l.done:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *wires) freeze(addr string, frozen bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen[addr] = frozen
}

// wire is one end of a connection.
type wire struct {
	net.Conn
	w        *wires
	from, to string
}

func (c *wire) Write(b []byte) (int, error) {
	c.w.mu.Lock()
	dead := c.w.frozen[c.from] || c.w.frozen[c.to]
	c.w.mu.Unlock()
	if dead {
		return len(b), nil // lost on the way
	}
	return c.Conn.Write(b)
}

// bubble runs three nodes with the timings of production in virtual time.
func bubble(t *testing.T, do func(t *testing.T, f *fleet, w *wires)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWires()
		f := newFleetIn(t, dir, "a", "b", "c")
		f.listenOn = func(addr string) net.Listener { return w.listen(addr) }
		f.dialFrom = w.dialer
		f.tune = func(_ topology.Node, c *Config) { c.Timings = DefaultTimings() }
		for _, n := range f.names {
			f.peers[n] = "host-" + string(n) + ":7421"
		}
		f.open("a", "b", "c")
		do(t, f, w)
		for _, n := range f.nodes {
			f.stop(n)
		}
	})
}

func TestBubble_ALeaderThatFallsSilentIsReplacedWithinThreeHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet, w *wires) {
		old := f.leader()
		f.settled(f.mustPropose(old, slot("before", 1)))
		time.Sleep(time.Minute) // an idle minute costs nothing
		if s := f.leader(); s != old {
			t.Fatalf("leadership went from %s to %s in peace", old.self, s.self)
		}
		reign, _ := old.leading.get()
		start := time.Now()
		w.freeze(f.peers[old.self], true)
		<-reign.ctx.Done()
		t.Logf("the old leader knew after %s", time.Since(start))
		if took := time.Since(start); took > 2*DefaultTimings().LeaderLease+time.Second {
			t.Errorf("the old leader led on for %s", took)
		}
		rest := f.without(old.self)
		now := f.leader(rest...)
		f.mustPropose(now, slot("after", 1))
		t.Logf("another led after %s", time.Since(start))
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("another led only after %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := old.Propose(ctx, slot("lost", 1)); err == nil {
			t.Error("a proposal into silence was applied")
		}
		w.freeze(f.peers[old.self], false)
		at := f.mustPropose(old, slot("healed", 1))
		if s := string(f.settled(at)); strings.Contains(s, "lost") || !strings.Contains(s, "after") {
			t.Errorf("after the heal: %s", s)
		}
		t.Logf("all agreed again %s after the start", time.Since(start))
	})
}

func TestBubble_StopIsBoundedWhenAPeerIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet, w *wires) {
		leader := f.leader()
		f.settled(f.mustPropose(leader, slot("x", 1)))
		w.freeze(f.peers[leader.self], true)
		go leader.Propose(t.Context(), slot("hangs", 1))
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := leader.Stop(ctx); err != nil {
			t.Error(err)
		}
		delete(f.nodes, leader.self)
		t.Logf("Stop took %s", time.Since(start))
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("Stop took %s", took)
		}
		w.freeze(f.peers[leader.self], false)
		f.mustPropose(f.leader(), slot("others", 1))
	})
}

func TestBubble_ForwardedProposalsSurviveASilentLink(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet, w *wires) {
		leader := f.leader()
		x := f.followers()[0]
		f.settled(f.mustPropose(x, slot("x", 1)))
		// Less than a heartbeat timeout: nobody loses leadership, but each
		// connection of x is dead for good.
		w.freeze(f.peers[x.self], true)
		time.Sleep(time.Second)
		w.killConnsOf(f.peers[x.self])
		w.freeze(f.peers[x.self], false)
		start := time.Now()
		lost := 0
		for i := 2; ; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // as a lease renewal has
			_, err := x.Propose(ctx, slot("x", i))
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, consensus.ErrUnknownOutcome) && !errors.Is(err, consensus.ErrNoLeader) {
				t.Fatal(err)
			}
			if errors.Is(err, consensus.ErrUnknownOutcome) {
				lost++
			}
			time.Sleep(100 * time.Millisecond)
			if took := time.Since(start); took > 30*time.Second {
				t.Fatalf("no proposal got through in %s: %v", took, err)
			}
		}
		took := time.Since(start)
		t.Logf("%d proposals lost in %s, leader %s then %s", lost, took, leader.self, f.leader().self)
		if lost > 2 {
			t.Errorf("%d proposals were lost to dead connections", lost)
		}
		// A lease allows 9 s of this; raft's own timeout for calls is 10 s.
		if took > 5*time.Second {
			t.Errorf("dead connections kept a node without a leader for %s", took)
		}
	})
}

// killConnsOf makes every open connection of addr lose all that is sent, for good.
func (w *wires) killConnsOf(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		if c.from == addr || c.to == addr {
			c.from, c.to = "dead", "dead"
		}
	}
	w.frozen["dead"] = true
}
