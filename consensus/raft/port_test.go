package raft

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// stranger makes a port that wants to be part of f, with certificates and a
// fleet file of its own. It never serves; it dials.
func stranger(t *testing.T, f *fleet, node topology.Node, dir, cluster string, now time.Time) *Port {
	t.Helper()
	id, err := certs.Load(certs.Options{Files: certs.FilesIn(dir, node), Cluster: cluster, Node: node, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	peers := map[topology.Node]string{node: "127.0.0.1:1"}
	for n, a := range f.peers {
		if n != node {
			peers[n] = a
		}
	}
	p, err := Listen(PortConfig{Listen: "127.0.0.1:0", Identity: id, Peers: peers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func issue(t *testing.T, cluster string, now time.Time, nodes ...topology.Node) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	if _, err := certs.Init(certs.InitOptions{Dir: dir, Cluster: cluster, Nodes: nodes, Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func dialBoth(t *testing.T, p *Port, to topology.Node, words ...string) {
	t.Helper()
	for _, s := range []*stream{p.raft, p.control} {
		c, err := s.dial(t.Context(), to)
		if err == nil {
			c.Close()
			t.Fatalf("%s was let in to %s", p.node, s.proto)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not say %q: %v", s.proto, w, err)
			}
		}
	}
}

func TestPort_RefusesStrangersAndSaysWhyOnBothEnds(t *testing.T) {
	f := newFleet(t, "a")
	f.open("a")
	now := time.Now()
	said := func(words ...string) {
		t.Helper()
		f.eventually("log of the refusal", func() error {
			for _, w := range words {
				if !strings.Contains(f.logs["a"].String(), w) {
					return fmt.Errorf("the log does not say %q:\n%s", w, f.logs["a"])
				}
			}
			return nil
		})
	}

	t.Run("another CA", func(t *testing.T) {
		p := stranger(t, f, "a2", issue(t, "lab", now, "a2"), "lab", now)
		// Its own check of the server fails first.
		dialBoth(t, p, "a", "certificate of the peer a is not signed by the CA in")
	})
	t.Run("another CA that skips its own check", func(t *testing.T) {
		p := stranger(t, f, "a2", issue(t, "lab", now, "a2"), "lab", now)
		raw, err := net.Dial("tcp", f.peers["a"])
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c := p.c.Identity.Client("a", protoRaft)
		c.VerifyConnection = nil
		tc := tls.Client(raw, c)
		if err := tc.Handshake(); err == nil {
			_, err = readVerdict(tc)
			if err == nil {
				t.Fatal("let in")
			}
			if got := p.raft.explain("a", err).Error(); !strings.Contains(got, "a does not accept our certificate") || !strings.Contains(got, "the log of a says why") {
				t.Errorf("the dialler reads: %v", got)
			}
		}
		said("refused a peer connection", "reason=wrong-ca", "certificate of the peer a2 is not signed by the CA in")
	})
	t.Run("a node of our CA that the fleet file does not list", func(t *testing.T) {
		if _, err := certs.Init(certs.InitOptions{Dir: f.certs, Cluster: "lab", Nodes: []topology.Node{"z"}}); err != nil {
			t.Fatal(err)
		}
		p := stranger(t, f, "z", f.certs, "lab", now)
		dialBoth(t, p, "a", "refused by the peer", "z is not a node of the fleet file of a (a)")
		said("reason=unknown-node")
		if _, err := p.raft.dial(t.Context(), "y"); err == nil || !strings.Contains(err.Error(), "not a node of the fleet file") {
			t.Errorf("dial of an unknown node: %v", err)
		}
	})
	t.Run("the address of another node", func(t *testing.T) {
		p := stranger(t, f, "z", f.certs, "lab", now)
		p.c.Peers["b"] = f.peers["a"]
		dialBoth(t, p, "b", "for the node a, not for b", "check the `peer` addresses")
	})
	t.Run("our own expired certificate", func(t *testing.T) {
		p := stranger(t, f, "z", f.certs, "lab", now)
		old := issue(t, "lab", now.Add(-certs.ValidityNode-48*time.Hour), "z")
		late := stranger(t, f, "z", old, "lab", now.Add(-certs.ValidityNode))
		late.c.Identity = expire(t, old, "z")
		_ = p
		dialBoth(t, late, "a", "expired")
	})
	t.Run("no protocol of ours", func(t *testing.T) {
		for _, protos := range [][]string{nil, {"h2"}} {
			raw, err := net.Dial("tcp", f.peers["a"])
			if err != nil {
				t.Fatal(err)
			}
			tc := tls.Client(raw, f.identity("a").Client("a", protos...))
			err = tc.Handshake()
			why := ""
			if err == nil {
				why, err = readVerdict(tc)
			}
			if err == nil && !strings.Contains(why, "asks for no protocol of ours") {
				t.Errorf("ALPN %v: verdict %q", protos, why)
			}
			raw.Close()
		}
	})
	t.Run("no TLS at all", func(t *testing.T) {
		raw, err := net.Dial("tcp", f.peers["a"])
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		fmt.Fprintf(raw, "GET / HTTP/1.1\r\n\r\n")
		raw.SetDeadline(time.Now().Add(patience))
		io.ReadAll(raw)
		said("reason=handshake")
	})
	if f.nodes["a"].port.refusals()["unknown-node"] != 2 {
		t.Errorf("refusals: %v", f.nodes["a"].port.refusals())
	}
}

// expire loads an identity whose certificate has run out since.
func expire(t *testing.T, dir string, node topology.Node) *certs.Identity {
	t.Helper()
	now := time.Now().Add(-certs.ValidityNode)
	id, err := certs.Load(certs.Options{Files: certs.FilesIn(dir, node), Cluster: "lab", Node: node, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	now = time.Now()
	return id
}

func TestPort_ExpiredPeerIsRefusedWithTheDate(t *testing.T) {
	f := newFleet(t, "a", "b")
	// b's certificate ended two days ago, and b's clock is wrong, so that it
	// does not see that itself.
	now := time.Now()
	old := filepath.Join(t.TempDir(), "old")
	if _, err := certs.Init(certs.InitOptions{Dir: old, Cluster: "lab", Nodes: []topology.Node{"b"},
		Now: func() time.Time { return now.Add(-certs.ValidityNode - 48*time.Hour) }}); err != nil {
		t.Fatal(err)
	}
	f.open("a")
	b := stranger(t, f, "b", old, "lab", now.Add(-certs.ValidityNode-24*time.Hour))
	raw, err := net.Dial("tcp", f.peers["a"])
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := b.c.Identity.Client("a", protoControl)
	c.VerifyConnection = nil
	tc := tls.Client(raw, c)
	if tc.Handshake() == nil {
		if _, err := readVerdict(tc); err == nil {
			t.Fatal("an expired peer was let in")
		}
	}
	f.eventually("log of the refusal", func() error {
		want := "certificate of the peer b expired 2 days ago, on " + now.Add(-48*time.Hour).UTC().Format(time.DateOnly)
		if !strings.Contains(f.logs["a"].String(), want) {
			return fmt.Errorf("want %q in %s", want, f.logs["a"])
		}
		return nil
	})
}

func TestPort_ControlCallsKnowTheirCaller(t *testing.T) {
	f := newFleet(t, "a", "b")
	pa := f.listen("a")
	pa.Handle("POST /control/v1/hello", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d %v", PeerOf(r.Context()), len(b), err != nil)
	}))
	n, err := Open(Config{Dir: f.dir("a"), Port: pa, Timings: fast()})
	if err != nil {
		t.Fatal(err)
	}
	f.nodes["a"] = n
	f.open("b")
	client, base, err := f.nodes["b"].port.ControlClient("a")
	if err != nil {
		t.Fatal(err)
	}
	call := func(body string) string {
		t.Helper()
		res, err := client.Post(base+"/control/v1/hello", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b)
	}
	for range 3 {
		if got := call("xyz"); got != "b 3 false" {
			t.Errorf("the handler saw %q", got)
		}
	}
	if got := call(strings.Repeat("x", controlBodyMax+1)); !strings.HasSuffix(got, "true") {
		t.Errorf("a body over the bound was read: %q", got)
	}
	if _, _, err := n.port.ControlClient("nobody"); err == nil {
		t.Error("a client for an unknown node")
	}
	if PeerOf(t.Context()) != "" {
		t.Error("a peer without a connection")
	}
}

func TestPort_BoundsTheConnectionsOfOnePeerAndSlowHandshakes(t *testing.T) {
	f := newFleet(t, "a", "b")
	f.open("a")
	b := f.listen("b")
	defer b.Close()
	// raft accepts what comes, so these stay open until the oldest must go.
	var held []net.Conn
	for range connsPerPeerMax + 2 {
		c, err := b.raft.dial(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	for i, c := range held {
		wait := patience
		if i >= 2 {
			wait = 20 * time.Millisecond
		}
		c.SetReadDeadline(time.Now().Add(wait))
		_, err := c.Read(make([]byte, 1))
		if closed := !isTimeout(err); closed != (i < 2) {
			t.Errorf("connection %d of %d: closed %v (%v)", i+1, len(held), closed, err)
		}
	}

	// Silent strangers fill the handshake slots; the next is turned away at once.
	var silent []net.Conn
	for range handshakesMax + 1 {
		c, err := net.Dial("tcp", f.peers["a"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	last := silent[len(silent)-1]
	last.SetReadDeadline(time.Now().Add(handshakeTimeout / 2))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("a handshake too many waits: %v", err)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestListen_RefusesWhatCannotWork(t *testing.T) {
	f := newFleet(t, "a")
	f.open("a")
	id := f.identity("a")
	for name, c := range map[string]struct {
		c    PortConfig
		want string
	}{
		"no identity":      {PortConfig{Listen: "127.0.0.1:0", Peers: f.peers}, "no identity"},
		"not in the fleet": {PortConfig{Listen: "127.0.0.1:0", Identity: id, Peers: map[topology.Node]string{"b": "x"}}, "this node, a, is not among the nodes of the fleet file (b)"},
		"port in use":      {PortConfig{Listen: f.peers["a"], Identity: id, Peers: f.peers}, "is another daemon running here?"},
	} {
		if p, err := Listen(c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
			if p != nil {
				p.Close()
			}
		}
	}
}

func TestForward_TakesOneHopAndOnlyWhatTheLeaderKnows(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	x, y := f.followers()[0], f.followers()[1]
	entry, err := consensus.EncodeCommand(slot("x", 1))
	if err != nil {
		t.Fatal(err)
	}
	// A follower that believes wrongly: the other follower must not pass it on.
	_, err = x.forward(t.Context(), y.self, pathPropose, entry)
	if !errors.Is(err, consensus.ErrNoLeader) || !strings.Contains(err.Error(), "does not lead") {
		t.Errorf("forward to a follower: %v", err)
	}
	if _, ok := leader.State().Slots["x"]; ok {
		t.Error("it was applied after a second hop")
	}
	// A newer follower: the older leader must not put it into its own log.
	last := leader.Status().Last
	_, err = x.forward(t.Context(), leader.self, pathPropose, []byte(`{"v":1,"kind":"from-the-future","body":{}}`))
	if !consensus.Refused(err, consensus.CodeInvalid) || !strings.Contains(err.Error(), "upgrade it first") {
		t.Errorf("forward of an unknown command: %v", err)
	}
	if got := leader.Status().Last; got != last {
		t.Errorf("the log grew from %d to %d", last, got)
	}
	// The leader cannot be reached, with nothing in the pool: not proposed.
	x.port.client.CloseIdleConnections()
	f.net.setCut(f.peers[x.self], f.peers[leader.self], true)
	_, err = x.forward(t.Context(), leader.self, pathPropose, entry)
	if !errors.Is(err, consensus.ErrNoLeader) || errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Errorf("forward over a cut link: %v", err)
	}
}

func TestForward_NeverSendsTwiceWhenTheAnswerIsLost(t *testing.T) {
	f := newFleet(t, "a", "b")
	pa := f.listen("a")
	calls := make(chan struct{}, 10)
	pa.Handle("POST /control/v1/test/swallow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		calls <- struct{}{}
		panic(http.ErrAbortHandler) // the connection ends without an answer
	}))
	pa.Handle("POST /control/v1/test/hang", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		calls <- struct{}{}
		<-r.Context().Done()
	}))
	n, err := Open(Config{Dir: f.dir("a"), Port: pa, Timings: fast()})
	if err != nil {
		t.Fatal(err)
	}
	f.nodes["a"] = n
	f.open("b")
	b := f.nodes["b"]
	if _, err := b.forward(t.Context(), "a", "/control/v1/test/swallow", []byte("{}")); !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Errorf("a lost answer: %v", err)
	}
	// Once more over a connection that was used before: http.Transport would
	// like to try such a request again by itself.
	if _, err := b.fetchIdentity(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.forward(t.Context(), "a", "/control/v1/test/swallow", []byte("{}")); !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Errorf("a lost answer on a kept connection: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := b.forward(ctx, "a", "/control/v1/test/hang", []byte("{}")); !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Errorf("no answer in time: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a deadline of 200 ms took %s", took)
	}
	if got := len(calls); got != 3 {
		t.Errorf("3 calls arrived as %d", got)
	}
	if _, err := b.forward(t.Context(), "a", "/control/v1/test/none", []byte("{}")); !errors.Is(err, consensus.ErrNoLeader) {
		t.Errorf("a call that nobody handles: %v", err)
	}
}

func FuzzReadVerdict(f *testing.F) {
	f.Add([]byte{0, 0})
	f.Add([]byte{0, 2, 'n', 'o'})
	f.Add([]byte{255, 255, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		why, err := readVerdict(strings.NewReader(string(b)))
		if err == nil && len(why) > verdictMax {
			t.Errorf("read %d bytes", len(why))
		}
	})
}
