package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fast are timings for one machine.
func fast() Timings {
	return Timings{Heartbeat: 200 * time.Millisecond, Election: 200 * time.Millisecond, LeaderLease: 200 * time.Millisecond, Commit: 10 * time.Millisecond, Transport: 2 * time.Second}
}

// patience bounds each wait of these tests; under the race detector on a busy
// machine an election can take seconds.
const patience = 30 * time.Second

// fleet is some nodes in this process, over real TLS on loopback, with links
// between them that a test can cut.
type fleet struct {
	t     testing.TB
	root  string
	certs string
	names []topology.Node
	peers map[topology.Node]string
	net   *network
	nodes map[topology.Node]*Node
	logs  map[topology.Node]*syncBuffer
	tune  func(topology.Node, *Config)
	// Another network than loopback, if set.
	listenOn func(addr string) net.Listener
	dialFrom func(addr string) DialFunc
}

func newFleet(t testing.TB, names ...topology.Node) *fleet {
	t.Helper()
	f := newFleetIn(t, t.TempDir(), names...)
	for _, n := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.peers[n] = l.Addr().String()
		l.Close()
	}
	return f
}

// newFleetIn is newFleet without addresses.
func newFleetIn(t testing.TB, root string, names ...topology.Node) *fleet {
	t.Helper()
	f := &fleet{
		t: t, root: root, names: names, peers: map[topology.Node]string{}, nodes: map[topology.Node]*Node{},
		logs: map[topology.Node]*syncBuffer{}, net: &network{cut: map[[2]string]bool{}, open: map[net.Conn][2]string{}},
	}
	f.certs = filepath.Join(f.root, "certs")
	if _, err := certs.Init(certs.InitOptions{Dir: f.certs, Cluster: "lab", Nodes: names}); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		f.logs[n] = &syncBuffer{}
	}
	t.Cleanup(func() {
		for _, n := range f.nodes {
			f.stop(n)
		}
		if t.Failed() && testing.Verbose() {
			for _, n := range names {
				t.Logf("log of %s:\n%s", n, f.logs[n])
			}
		}
	})
	return f
}

func (f *fleet) identity(n topology.Node) *certs.Identity {
	f.t.Helper()
	id, err := certs.Load(certs.Options{Files: certs.FilesIn(f.certs, n), Cluster: "lab", Node: n})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// listen makes the port of a node, with its outgoing links under control.
func (f *fleet) listen(n topology.Node) *Port {
	f.t.Helper()
	log := slog.New(slog.NewTextHandler(f.logs[n], nil))
	c := PortConfig{Listen: f.peers[n], Identity: f.identity(n), Peers: f.peers, Log: log, Dial: f.net.dialer(f.peers[n])}
	if f.listenOn != nil {
		c.Listener, c.Dial = f.listenOn(f.peers[n]), f.dialFrom(f.peers[n])
	}
	p, err := Listen(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func (f *fleet) dir(n topology.Node) string { return filepath.Join(f.root, string(n)) }

func (f *fleet) config(n topology.Node) Config {
	c := Config{Dir: f.dir(n), Port: f.listen(n), Timings: fast(), Log: slog.New(slog.NewTextHandler(f.logs[n], nil))}
	if f.tune != nil {
		f.tune(n, &c)
	}
	return c
}

func (f *fleet) open(names ...topology.Node) {
	f.t.Helper()
	for _, name := range names {
		n, err := Open(f.config(name))
		if err != nil {
			f.t.Fatal(err)
		}
		f.nodes[name] = n
	}
}

func (f *fleet) stop(n *Node) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		f.t.Errorf("stop %s: %v", n.self, err)
	}
	delete(f.nodes, n.self)
}

// kill ends a node without a word to the others: its links are cut first.
func (f *fleet) kill(n *Node) {
	f.t.Helper()
	f.isolate(n.self)
	f.stop(n)
	f.heal()
}

func (f *fleet) isolate(n topology.Node) {
	for _, other := range f.names {
		if other != n {
			f.net.setCut(f.peers[n], f.peers[other], true)
			f.net.setCut(f.peers[other], f.peers[n], true)
		}
	}
}

func (f *fleet) heal() {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	clear(f.net.cut)
}

// leader waits until one of the open nodes leads and all agree on it.
func (f *fleet) leader(among ...topology.Node) *Node {
	f.t.Helper()
	if len(among) == 0 {
		for n := range f.nodes {
			among = append(among, n)
		}
	}
	var found *Node
	f.eventually("a leader that all agree on", func() error {
		leader, term := f.nodes[among[0]].Leader()
		for _, n := range among {
			if l, at := f.nodes[n].Leader(); l != leader || l == "" || at != term {
				return fmt.Errorf("%s sees %q at %d, %s sees %q at %d", among[0], leader, term, n, l, at)
			}
		}
		found = f.nodes[leader]
		if found == nil {
			return fmt.Errorf("the leader %s is not open", leader)
		}
		if now, _ := found.leading.get(); now == nil {
			return fmt.Errorf("%s does not know yet", leader)
		}
		return nil
	})
	return found
}

func (f *fleet) without(gone topology.Node) []topology.Node {
	return slices.DeleteFunc(slices.Clone(f.names), func(n topology.Node) bool { return n == gone })
}

func (f *fleet) followers() []*Node {
	leader := f.leader()
	var all []*Node
	for _, name := range f.names {
		if n := f.nodes[name]; n != nil && n != leader {
			all = append(all, n)
		}
	}
	return all
}

func (f *fleet) eventually(what string, ok func() error) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	var err error
	// Ever less often: many that wait must not starve what they wait for.
	for wait := 10 * time.Millisecond; time.Now().Before(deadline); wait = min(2*wait, 250*time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
		time.Sleep(wait)
	}
	f.t.Fatalf("no %s within %s: %v", what, patience, err)
}

// slot is a command that can be applied once.
func slot(job string, n int) consensus.Command {
	return consensus.Command{By: "test", At: time.Unix(1, 0), Body: &consensus.TakeSlot{Job: job, Slot: time.Unix(int64(n), 0).UTC()}}
}

// mustPropose proposes until it is known to have been applied. On a busy
// machine a leader can be deposed in between.
func (f *fleet) mustPropose(n *Node, c consensus.Command) consensus.Index {
	f.t.Helper()
	var at consensus.Index
	unknown := false
	f.eventually("proposal through "+string(n.self), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		i, err := n.Propose(ctx, c)
		switch {
		case errors.Is(err, consensus.ErrNoLeader):
			return err
		case errors.Is(err, consensus.ErrUnknownOutcome):
			unknown = true
			return err
		case unknown && consensus.Refused(err, consensus.CodeStale):
			err = nil // the one whose answer was lost took effect
		}
		if err != nil {
			f.t.Fatalf("propose through %s: %v", n.self, err)
		}
		at = i
		return nil
	})
	return at
}

// settled waits until all open nodes have applied index, and checks that
// their states are the same, byte for byte.
func (f *fleet) settled(index consensus.Index) []byte {
	f.t.Helper()
	var want []byte
	for _, name := range f.names {
		n := f.nodes[name]
		if n == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := n.WaitIndex(ctx, index); err != nil {
			f.t.Fatalf("%s: %v", name, err)
		}
		cancel()
		got, err := consensus.EncodeState(n.State())
		if err != nil {
			f.t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			f.t.Fatalf("states differ at %d:\n%s\n%s", index, want, got)
		}
	}
	return want
}

// network is the links of a fleet. A cut link refuses new connections and
// ends those it carries.
type network struct {
	mu   sync.Mutex
	cut  map[[2]string]bool
	open map[net.Conn][2]string
}

func (w *network) dialer(from string) DialFunc {
	return func(ctx context.Context, proto, to string) (net.Conn, error) {
		link := [2]string{from, to}
		w.mu.Lock()
		cut := w.cut[link]
		w.mu.Unlock()
		if cut {
			return nil, fmt.Errorf("link to %s is cut", to)
		}
		c, err := (&net.Dialer{}).DialContext(ctx, proto, to)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cut[link] {
			c.Close()
			return nil, fmt.Errorf("link to %s is cut", to)
		}
		w.open[c] = link
		return linked{c, w}, nil
	}
}

func (w *network) setCut(from, to string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]string{from, to}] = cut
	for c, link := range w.open {
		if cut && link == [2]string{from, to} {
			c.Close()
			delete(w.open, c)
		}
	}
}

type linked struct {
	net.Conn
	w *network
}

func (l linked) Close() error {
	l.w.mu.Lock()
	delete(l.w.open, l.Conn)
	l.w.mu.Unlock()
	return l.Conn.Close()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()
}
