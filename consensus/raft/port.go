package raft

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// The protocols that share a Port, told apart by ALPN. A change of what
// follows the handshake gets a new number.
const (
	protoRaft    = "holdfast-raft/1"
	protoControl = "holdfast-control/1"
)

// Limits of a Port. A stranger can hold handshakesMax slots for
// handshakeTimeout each, and nothing more.
const (
	handshakeTimeout = 5 * time.Second
	handshakesMax    = 64
	connsPerPeerMax  = 32 // per protocol; the oldest gives way
)

// keepAlive notices a peer that is gone without a word in about 15 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}

// DialFunc connects to a peer's address. net.Dialer.DialContext is one.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// PortConfig says where to listen and whom to know.
type PortConfig struct {
	// Listen is the address to bind, such as ":7421". Listener, if set, is used instead.
	Listen   string
	Listener net.Listener
	// Identity is this node's certificate. It also says who this node is.
	Identity *certs.Identity
	// Peers are all nodes of the fleet file with their peer addresses, this one included.
	Peers map[topology.Node]string
	// Dial reaches an address of Peers. Default: TCP with keep-alives that
	// notice a dead peer in about 15 s.
	Dial DialFunc
	// Log gets refused connections, repeats counted. Default: nothing is logged.
	Log *slog.Logger
}

// Port is one node's peer address: raft streams and control calls on one TCP
// port. It serves from Open on; a connection made before waits. Its methods
// are safe for concurrent use.
type Port struct {
	c       PortConfig
	node    topology.Node
	l       net.Listener
	raft    *stream
	control *stream
	mux     *http.ServeMux
	server  *http.Server
	client  *http.Transport
	log     *repeats

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{} // handshakes under way

	mu      sync.Mutex
	started bool
	closed  bool
	conns   map[*conn]struct{}
	serial  uint64
	refused map[string]uint64 // by reason, for metrics
}

// Listen binds the peer address. It does not serve yet: Open does.
func Listen(c PortConfig) (*Port, error) {
	if c.Identity == nil {
		return nil, errors.New("listen for peers: no identity is given: peers speak mutual TLS only")
	}
	node := c.Identity.Name().Node
	if _, ok := c.Peers[node]; !ok {
		return nil, fmt.Errorf("listen for peers: this node, %s, is not among the nodes of the fleet file (%s)", node, names(c.Peers))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext
	}
	c.Peers = maps.Clone(c.Peers)
	l := c.Listener
	if l == nil {
		var err error
		if l, err = (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(context.Background(), "tcp", c.Listen); err != nil {
			return nil, fmt.Errorf("listen for peers on %s: %w (is another daemon running here? is the address one of this machine's?)", c.Listen, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Port{
		c: c, node: node, l: l, ctx: ctx, cancel: cancel,
		mux:     http.NewServeMux(),
		log:     newRepeats(c.Log),
		slots:   make(chan struct{}, handshakesMax),
		conns:   map[*conn]struct{}{},
		refused: map[string]uint64{},
	}
	p.raft, p.control = newStream(p, protoRaft), newStream(p, protoControl)
	p.initControl()
	return p, nil
}

// Node returns who this node is.
func (p *Port) Node() topology.Node { return p.node }

// Addr returns the bound address.
func (p *Port) Addr() net.Addr { return p.l.Addr() }

// Peers returns the names of all nodes of the fleet file, sorted.
func (p *Port) Peers() []topology.Node { return slices.Sorted(maps.Keys(p.c.Peers)) }

// start begins to serve. It may be called once.
func (p *Port) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started || p.closed {
		return errors.New("this peer port was used before: a port serves one Open")
	}
	p.started = true
	p.wg.Go(p.accept)
	p.wg.Go(p.serveControl)
	return nil
}

// Close ends all connections and waits until nothing of the Port runs.
func (p *Port) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.wg.Wait()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	err := p.l.Close()
	p.closeControl()
	err = errors.Join(err, p.raft.Close(), p.control.Close())
	p.wg.Wait()
	return err
}

func (p *Port) accept() {
	const delayMax = time.Second
	delay := 5 * time.Millisecond
	for {
		raw, err := p.l.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: it passes, or a person reads this.
			p.log.warn("accept a peer connection", "err", err)
			select {
			case <-time.After(delay):
			case <-p.ctx.Done():
				return
			}
			delay = min(2*delay, delayMax)
			continue
		}
		delay = 5 * time.Millisecond
		select {
		case p.slots <- struct{}{}:
			p.wg.Go(func() {
				defer func() { <-p.slots }()
				p.welcome(raw)
			})
		default:
			p.refuse("busy", raw.RemoteAddr(), fmt.Errorf("%d handshakes are under way already", handshakesMax))
			_ = raw.Close()
		}
	}
}

// welcome does the server's half of a connection's start: TLS, then one
// verdict that names any reason to refuse, then the hand-over.
func (p *Port) welcome(raw net.Conn) {
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(p.ctx, func() { _ = raw.Close() })
	defer stop()
	_ = raw.SetDeadline(time.Now().Add(handshakeTimeout))
	tc := tls.Server(raw, p.c.Identity.Server(protoRaft, protoControl))
	if err := tc.HandshakeContext(ctx); err != nil {
		p.refuse("handshake", raw.RemoteAddr(), err)
		_ = raw.Close()
		return
	}
	c, reason, err := p.admit(tc)
	if err != nil {
		p.refuse(reason, raw.RemoteAddr(), err)
		_ = writeVerdict(tc, err.Error())
		_ = tc.Close()
		return
	}
	if err := writeVerdict(tc, ""); err != nil {
		_ = c.Close()
		return
	}
	_ = raw.SetDeadline(time.Time{})
	if !c.of.deliver(ctx, c) {
		_ = c.Close()
	}
}

// admit decides on a verified peer. The reason is a label for metrics.
func (p *Port) admit(tc *tls.Conn) (c *conn, reason string, err error) {
	cs := tc.ConnectionState()
	name, err := certs.PeerName(cs)
	if err != nil {
		return nil, "name", err
	}
	if _, ok := p.c.Peers[name.Node]; !ok {
		return nil, "unknown-node", fmt.Errorf("%s is not a node of the fleet file of %s (%s): compare the two files", name.Node, p.node, names(p.c.Peers))
	}
	var s *stream
	switch cs.NegotiatedProtocol {
	case protoRaft:
		s = p.raft
	case protoControl:
		s = p.control
	default:
		return nil, "protocol", fmt.Errorf("%s asks for no protocol of ours (ALPN %q)", name.Node, cs.NegotiatedProtocol)
	}
	if why := s.closedWhy(); why != "" {
		return nil, "stopped", errors.New(why)
	}
	c = &conn{Conn: tc, peer: name.Node, of: s, accepted: true}
	if err := p.track(c); err != nil {
		return nil, "stopped", err
	}
	return c, "", nil
}

// track counts a connection in, so that Close finds it. A peer that has too
// many loses its oldest: on a link that dies without a word again and again,
// those are the dead ones, and the newest is the one that works.
func (p *Port) track(c *conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.serial++
	c.serial = p.serial
	if c.accepted {
		n, oldest := 0, c
		for other := range p.conns {
			if other.accepted && other.peer == c.peer && other.of == c.of {
				n++
				if other.serial < oldest.serial {
					oldest = other
				}
			}
		}
		if n >= connsPerPeerMax {
			delete(p.conns, oldest)
			p.wg.Go(func() { _ = oldest.Close() })
		}
	}
	p.conns[c] = struct{}{}
	return nil
}

func (p *Port) untrack(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// refuse counts and logs a connection that was turned away.
func (p *Port) refuse(reason string, from net.Addr, err error) {
	if p.ctx.Err() != nil {
		return
	}
	var bad *certs.Problem
	if errors.As(err, &bad) {
		reason = string(bad.Kind)
	}
	p.mu.Lock()
	p.refused[reason]++
	p.mu.Unlock()
	p.log.warn("refused a peer connection", "reason", reason, "from", host(from), "err", err)
}

func (p *Port) refusals() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.refused)
}

// conn is one connection of a Port, of either direction.
type conn struct {
	net.Conn // a *tls.Conn
	peer     topology.Node
	of       *stream
	accepted bool
	serial   uint64 // the order of connections of one Port
	once     sync.Once
	err      error
}

// Close closes the connection and forgets it. It may be called again.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.of.p.untrack(c)
		c.err = c.Conn.Close()
	})
	return c.err
}

// stream is one of the two protocols of a Port: a net.Listener for what comes
// in, and a way to dial out. For raft it is the StreamLayer.
type stream struct {
	p     *Port
	proto string
	in    chan net.Conn

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	// dialBound bounds one dial, greeting included. Set before start.
	dialBound time.Duration

	mu  sync.Mutex
	why string // it was closed
}

func newStream(p *Port, proto string) *stream {
	ctx, cancel := context.WithCancel(p.ctx)
	return &stream{p: p, proto: proto, in: make(chan net.Conn), ctx: ctx, cancel: cancel, dialBound: handshakeTimeout}
}

// deliver hands c to Accept within ctx.
func (s *stream) deliver(ctx context.Context, c *conn) bool {
	select {
	case s.in <- c:
		return true
	case <-s.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.in:
		return c, nil
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener. For raft the address of a node is its name.
func (s *stream) Addr() net.Addr { return nodeAddr(s.p.node) }

// Close implements net.Listener: it also ends every connection of this
// protocol, of both directions, since hashicorp/raft leaves its own open.
func (s *stream) Close() error {
	s.stop(fmt.Sprintf("%s has stopped", s.p.node))
	s.drop(func(*conn) bool { return true })
	return nil
}

// dropDialled ends the connections that this node made to a peer. Calls on
// them fail, and the next ones dial anew.
func (s *stream) dropDialled(peer topology.Node) {
	s.drop(func(c *conn) bool { return !c.accepted && c.peer == peer })
}

func (s *stream) drop(which func(*conn) bool) {
	s.p.mu.Lock()
	var mine []*conn
	for c := range s.p.conns {
		if c.of == s && which(c) {
			mine = append(mine, c)
		}
	}
	s.p.mu.Unlock()
	for _, c := range mine {
		_ = c.Close()
	}
}

// stop ends Accept and dialling, with a reason that later callers are told,
// and leaves connections open. The first reason stays.
func (s *stream) stop(why string) {
	s.setWhy(why)
	s.cancel()
}

func (s *stream) setWhy(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == "" {
		s.why = why
	}
}

func (s *stream) closedWhy() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

type nodeAddr topology.Node

func (nodeAddr) Network() string  { return "holdfast" }
func (a nodeAddr) String() string { return string(a) }

func names[V any](m map[topology.Node]V) string {
	var s []string
	for _, n := range slices.Sorted(maps.Keys(m)) {
		s = append(s, string(n))
	}
	return strings.Join(s, ", ")
}

func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}
