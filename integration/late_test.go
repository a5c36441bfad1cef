//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lateLine is one mirror's way to its target. It takes every request at once,
// as the buffers of a network do, and delivers some of them late: after their
// sender gave them up, and even after it closed the connection. While it is
// held nothing gets through, as when the machine of the mirror stands still.
type lateLine struct {
	mu     sync.Mutex
	rng    *rand.Rand
	shut   chan struct{} // nil: open
	late   int           // appends and markers that were delivered late
	parked int           // of them, those that were held
}

const (
	lateOne   = 25 // one append or marker request in so many is late
	lateMax   = 60 * time.Millisecond
	lateQueue = 1024                   // requests on their way, on one connection
	lateGrace = 300 * time.Millisecond // from the last delivery to the end of the connection
)

func newLateLine(seed uint64) *lateLine { return &lateLine{rng: rand.New(rand.NewPCG(seed, 25))} }

// hold stops all deliveries until release.
func (l *lateLine) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut == nil {
		l.shut = make(chan struct{})
	}
}

func (l *lateLine) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut != nil {
		close(l.shut)
		l.shut = nil
	}
}

// counts says how many writes were late, and how many of them were held.
func (l *lateLine) counts() (late, parked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.late, l.parked
}

// wait returns when a request may be delivered.
func (l *lateLine) wait(request []byte) {
	writes := false
	if len(request) > 6 {
		key := binary.BigEndian.Uint16(request[4:])
		writes = key == 0 || key == 27 // produce, write markers
	}
	l.mu.Lock()
	shut, pause := l.shut, time.Duration(0)
	if writes && l.rng.IntN(lateOne) == 0 {
		pause = time.Duration(l.rng.Int64N(int64(lateMax)))
	}
	if writes && (shut != nil || pause > 0) {
		l.late++
	}
	if writes && shut != nil {
		l.parked++
	}
	l.mu.Unlock()
	time.Sleep(pause)
	if shut != nil {
		<-shut
	}
}

func (l *lateLine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &lateConn{Conn: conn, line: l, queue: make(chan []byte, lateQueue), closed: make(chan struct{})}
	go c.deliver()
	return c, nil
}

// lateConn delivers what was written in its order. It ends when it is closed
// and all is delivered, so its line must not stay held.
type lateConn struct {
	net.Conn
	line   *lateLine
	queue  chan []byte
	closed chan struct{}
	once   sync.Once
	failed atomic.Bool
}

func (c *lateConn) Write(b []byte) (int, error) {
	if c.failed.Load() {
		return 0, net.ErrClosed
	}
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	case c.queue <- append([]byte(nil), b...):
		return len(b), nil
	default:
		return 0, errors.New("too much is on its way")
	}
}

func (c *lateConn) deliver() {
	defer func() { _ = c.Conn.Close() }()
	send := func(b []byte) {
		c.line.wait(b)
		if _, err := c.Conn.Write(b); err != nil {
			c.failed.Store(true)
		}
	}
	for {
		select {
		case b := <-c.queue:
			send(b)
			continue
		case <-c.closed:
		}
		for n := len(c.queue); n > 0; n = len(c.queue) {
			send(<-c.queue)
		}
		time.Sleep(lateGrace) // a broker drops what it reads together with the end
		return
	}
}

// Close ends the connection for its owner only.
func (c *lateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// SetWriteDeadline does nothing: a write is taken at once.
func (c *lateConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline holds for reads.
func (c *lateConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline holds until the connection is closed.
func (c *lateConn) SetReadDeadline(t time.Time) error {
	select {
	case <-c.closed:
		return nil
	default:
		return c.Conn.SetReadDeadline(t)
	}
}
