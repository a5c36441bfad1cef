package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	connsMax    = 1024 // beyond it a proxy accepts no more until one ends
	dialTimeout = 5 * time.Second
)

// Proxy is one TCP address on 127.0.0.1 that leads to a target through a line
// which can be slow, narrow, cut or gone. It is safe for concurrent use.
//
// What a cut promises: when Cut returns, no further byte and no end of a
// connection gets through in that direction until it is restored, and nobody
// is told. A connection that is opened meanwhile is accepted and silent, as if
// the first packet were lost; the target does not see it. What was under way
// is lost: a connection that lost something is closed when the line comes
// back. A connection that had nothing to say lives on.
type Proxy struct {
	target string
	port   int
	slots  chan struct{} // bounds the connections

	switching sync.Mutex // one Cut or Restore at a time

	mu      sync.Mutex
	ln      net.Listener // nil while refusing
	lines   map[Direction]*shape
	pairs   map[*pair]struct{}
	changed chan struct{} // closed and replaced when a shape changes
	closed  bool

	moved [2]atomic.Int64
	tasks sync.WaitGroup
}

// NewProxy listens on a free port and leads to target, which need not be there
// yet.
func NewProxy(target string) (*Proxy, error) {
	if _, _, err := net.SplitHostPort(target); err != nil {
		return nil, fmt.Errorf("make a proxy to %q: %w", target, err)
	}
	port, err := FreePort()
	if err != nil {
		return nil, fmt.Errorf("make a proxy to %s: %w", target, err)
	}
	p := &Proxy{
		target:  target,
		port:    port,
		slots:   make(chan struct{}, connsMax),
		lines:   map[Direction]*shape{Up: {}, Down: {}},
		pairs:   map[*pair]struct{}{},
		changed: make(chan struct{}),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.listen(); err != nil {
		ReleasePort(port)
		return nil, err
	}
	return p, nil
}

// Address is the proxy's own host:port; it never changes.
func (p *Proxy) Address() string { return loopback(p.port) }

// Target is where the proxy leads.
func (p *Proxy) Target() string { return p.target }

// Moved counts the bytes that went through, per direction.
func (p *Proxy) Moved() (up, down int64) { return p.moved[0].Load(), p.moved[1].Load() }

// SetDelay makes each byte arrive delay later, plus a random part of jitter.
// Bytes of one connection keep their order. It also holds for what is under way.
func (p *Proxy) SetDelay(d Direction, delay, jitter time.Duration) {
	p.change(d, func(s *shape) { s.delay, s.jitter = max(0, delay), max(0, jitter) })
}

// SetRate lets bytesPerSecond through, shared by all connections; 0 means
// without limit.
func (p *Proxy) SetRate(d Direction, bytesPerSecond int64) {
	p.change(d, func(s *shape) {
		s.rate = max(0, bytesPerSecond)
		s.rateSet++
		s.nextFree = time.Time{}
	})
}

// Cut turns a direction into a black hole; see Proxy for what that promises.
func (p *Proxy) Cut(d Direction) {
	p.switching.Lock()
	defer p.switching.Unlock()
	p.change(d, func(s *shape) { s.cut = true })
	// A write that began before the cut is made to end now, and waited for.
	past := time.Unix(1, 0)
	for _, q := range p.snapshot() {
		for _, f := range q.flows {
			if f.way&d == 0 {
				continue
			}
			if to := f.to(); to != nil {
				_ = to.SetWriteDeadline(past)
			}
			f.writing.Lock()
			f.writing.Unlock() //nolint:staticcheck,gocritic // empty on purpose: it waits for the write
		}
	}
}

// Restore ends the cut of a direction. Connections that lost something are
// closed as soon as neither direction is cut.
func (p *Proxy) Restore(d Direction) {
	p.switching.Lock()
	defer p.switching.Unlock()
	p.change(d, func(s *shape) { s.cut = false })
	p.mu.Lock()
	cut := p.cut()
	p.mu.Unlock()
	for _, q := range p.snapshot() {
		if q.hurt() {
			if cut == 0 {
				q.abort()
			}
			continue
		}
		for _, f := range q.flows {
			if to := f.to(); f.way&d != 0 && to != nil {
				_ = to.SetWriteDeadline(time.Time{})
			}
		}
	}
}

// Refuse closes the port and breaks all connections, as when the machine is
// there and the server is not. It keeps the port number for Heal.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	if p.ln != nil {
		_ = p.ln.Close()
		p.ln = nil
	}
	p.mu.Unlock()
	for _, q := range p.snapshot() {
		q.abort()
	}
}

// Heal ends Cut and Refuse. Delays and rates stay.
func (p *Proxy) Heal() error {
	p.Restore(Both)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil || p.closed {
		return nil
	}
	return p.listen()
}

// Close breaks all connections, gives the port back and returns when no
// goroutine of the proxy is left. It may be called twice.
func (p *Proxy) Close() {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	p.Refuse()
	p.tasks.Wait()
	if !again {
		ReleasePort(p.port)
	}
}

// listen needs the mutex.
func (p *Proxy) listen() error {
	ln, err := net.Listen("tcp", loopback(p.port))
	if err != nil {
		return fmt.Errorf("listen for the proxy to %s: %w", p.target, err)
	}
	p.ln = ln
	p.tasks.Go(func() { p.accept(ln) })
	return nil
}

func (p *Proxy) change(d Direction, set func(*shape)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for way, s := range p.lines {
		if way&d != 0 {
			set(s)
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// line is the shape of one direction now, and what tells that it changed.
func (p *Proxy) line(way Direction) (shape, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.lines[way], p.changed
}

// cut is the directions that are cut. It needs the mutex.
func (p *Proxy) cut() Direction {
	var d Direction
	for way, s := range p.lines {
		if s.cut {
			d |= way
		}
	}
	return d
}

func (p *Proxy) snapshot() []*pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*pair, 0, len(p.pairs))
	for q := range p.pairs {
		all = append(all, q)
	}
	return all
}

// accept ends when its listener is closed.
func (p *Proxy) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors, perhaps; try again
			continue
		}
		client, ok := conn.(*net.TCPConn)
		if !ok {
			panic(fmt.Sprintf("a TCP listener accepted a %T", conn)) // net promises a TCPConn
		}
		q := &pair{proxy: p, client: client}
		q.ctx, q.cancel = context.WithCancel(context.Background())
		q.flows = [2]*flow{{pair: q, way: Up, queue: newQueue()}, {pair: q, way: Down, queue: newQueue()}}
		p.mu.Lock()
		if p.ln != ln { // refused since, and not in the snapshot of Refuse
			p.mu.Unlock()
			q.abort()
			return
		}
		p.pairs[q] = struct{}{}
		silent := p.cut() != 0
		q.lost = silent
		p.tasks.Go(func() { q.serve(silent) })
		p.mu.Unlock()
		p.slots <- struct{}{} // the backlog of the kernel waits with us
	}
}

// pair is one connection of a client and the one to the target.
type pair struct {
	proxy  *Proxy
	client *net.TCPConn
	flows  [2]*flow
	ctx    context.Context // ended by close
	cancel context.CancelFunc

	mu     sync.Mutex
	server *net.TCPConn // nil until dialled
	lost   bool         // a cut swallowed something
	closed bool
}

// serve ends when both directions have ended, or with abort.
func (q *pair) serve(silent bool) {
	p := q.proxy
	defer func() {
		q.abort()
		p.mu.Lock()
		delete(p.pairs, q)
		p.mu.Unlock()
		<-p.slots
	}()
	if silent {
		// Read a little, as a kernel would, to notice when the client gives up.
		if n, _ := io.CopyN(io.Discard, q.client, bufferMin); n == bufferMin {
			<-q.ctx.Done()
		}
		return
	}
	ctx, cancel := context.WithTimeout(q.ctx, dialTimeout)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.target)
	cancel()
	if err != nil {
		return
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		_ = conn.Close()
		return
	}
	server, ok := conn.(*net.TCPConn)
	if !ok {
		panic(fmt.Sprintf("a TCP dial made a %T", conn)) // net promises a TCPConn
	}
	q.server = server
	q.mu.Unlock()
	var both sync.WaitGroup
	for _, f := range q.flows {
		both.Go(f.read)
		both.Go(f.write)
	}
	both.Wait()
	q.close(false)
}

// abort breaks both connections at once and without a goodbye.
func (q *pair) abort() { q.close(true) }

// close ends both connections; only the first call counts. Without abrupt, the
// kernel still delivers what was written.
func (q *pair) close(abrupt bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	q.cancel()
	for _, c := range []*net.TCPConn{q.client, q.server} {
		if c == nil {
			continue
		}
		if abrupt {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
}

func (q *pair) hurt() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// flow is one direction of a pair.
type flow struct {
	pair    *pair
	way     Direction
	queue   *queue
	writing sync.Mutex // held from the look at the cut to the end of the write
}

func (f *flow) from() *net.TCPConn { return f.pair.end(f.way == Up) }
func (f *flow) to() *net.TCPConn   { return f.pair.end(f.way != Up) }

func (q *pair) end(client bool) *net.TCPConn {
	if client {
		return q.client
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.server
}

// read puts what arrives on the line until the connection ends.
func (f *flow) read() {
	buf := make([]byte, chunkBytes)
	from := f.from()
	for {
		n, err := from.Read(buf)
		line, _ := f.pair.proxy.line(f.way)
		if n > 0 && !f.queue.push(newParcel(append([]byte(nil), buf[:n]...), nil), line.limit(), f.pair.ctx.Done()) {
			return
		}
		if err != nil {
			f.queue.push(newParcel(nil, err), bufferMax*2, f.pair.ctx.Done())
			return
		}
	}
}

// write takes parcels from the line when they are due. It ends with the
// connection, or for good at a cut.
func (f *flow) write() {
	var last time.Time // no parcel overtakes another
	for {
		parcel, ok := f.queue.pop(f.pair.ctx.Done())
		if !ok {
			return
		}
		if last, ok = f.due(parcel, last); !ok {
			return
		}
		if parcel.end != nil {
			f.finish(parcel.end)
			return
		}
		for b := parcel.bytes; len(b) > 0; {
			n, ok := f.book(len(b))
			if !ok {
				return
			}
			if !f.send(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// due waits for the delay of a parcel. The delay that counts is the one set at
// the end of the wait.
func (f *flow) due(c parcel, last time.Time) (time.Time, bool) {
	for {
		line, changed := f.pair.proxy.line(f.way)
		if line.cut {
			return last, f.lose()
		}
		due := c.at.Add(line.delay + time.Duration(c.jitter*float64(line.jitter)))
		if due.Before(last) {
			due = last
		}
		over, ok := f.wait(due, changed)
		if !ok {
			return last, false
		}
		if over {
			return due, true
		}
	}
}

// book waits until the line has room for a piece of n bytes and returns its size.
func (f *flow) book(n int) (int, bool) {
	p := f.pair.proxy
	for {
		p.mu.Lock()
		line := p.lines[f.way]
		n, set := line.slice(n), line.rateSet
		due := line.reserve(time.Now(), n)
		var changed <-chan struct{} = p.changed
		p.mu.Unlock()
		for {
			over, ok := f.wait(due, changed)
			if !ok {
				return 0, false
			}
			if over {
				return n, true
			}
			var now shape
			now, changed = p.line(f.way)
			if now.cut {
				return 0, f.lose()
			}
			if now.rateSet != set {
				break // book again at the new rate
			}
		}
	}
}

// wait reports that due is reached, or that something changed before; ok is
// false when the connection was broken.
func (f *flow) wait(due time.Time, changed <-chan struct{}) (over, ok bool) {
	d := time.Until(due)
	if d <= 0 {
		return true, true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true, true
	case <-changed:
		return false, true
	case <-f.pair.ctx.Done():
		return false, false
	}
}

// send writes one piece, unless the line is cut.
func (f *flow) send(b []byte) bool {
	err := f.writeThrough(func(to *net.TCPConn) error {
		n, err := to.Write(b)
		f.pair.proxy.moved[f.way-Up].Add(int64(n))
		return err
	})
	if err != nil {
		return f.lose()
	}
	return true
}

// finish hands on the end of a connection. An orderly end lets the other
// direction go on.
func (f *flow) finish(end error) {
	err := f.writeThrough(func(to *net.TCPConn) error {
		if !errors.Is(end, io.EOF) {
			return end
		}
		return to.CloseWrite()
	})
	if err != nil {
		f.lose()
	}
}

var errCut = errors.New("the line is cut")

// writeThrough does one write. Cut waits for it, so none begins after a cut.
func (f *flow) writeThrough(write func(*net.TCPConn) error) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if line, _ := f.pair.proxy.line(f.way); line.cut {
		return errCut
	}
	return write(f.to())
}

// lose ends a flow that cannot go on, and returns false. While anything is cut
// neither side may learn of it, so the connection stays as it is until Restore
// closes it.
func (f *flow) lose() bool {
	p, q := f.pair.proxy, f.pair
	p.mu.Lock()
	hang := p.cut() != 0
	if hang {
		q.mu.Lock()
		q.lost = true
		q.mu.Unlock()
	}
	p.mu.Unlock()
	if !hang {
		q.abort()
	}
	<-q.ctx.Done()
	return false
}
