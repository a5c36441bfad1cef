package stack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// echo answers each byte with itself until the test ends. It counts who came.
type echo struct {
	ln    net.Listener
	mu    sync.Mutex
	came  int
	tasks sync.WaitGroup
	conns []net.Conn
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{ln: ln}
	e.tasks.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.came++
			e.conns = append(e.conns, c)
			e.mu.Unlock()
			e.tasks.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		e.mu.Lock()
		for _, c := range e.conns {
			_ = c.Close()
		}
		e.mu.Unlock()
		e.tasks.Wait()
	})
	return e
}

// noLeaks is called first, so that it looks last.
func noLeaks(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
}

func (e *echo) visitors() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.came
}

func newTestProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends words and reads them back, and says how long that took.
func ask(t *testing.T, c net.Conn, words string) time.Duration {
	t.Helper()
	begun := time.Now()
	if _, err := c.Write([]byte(words)); err != nil {
		t.Fatal(err)
	}
	hear(t, c, words)
	return time.Since(begun)
}

func hear(t *testing.T, c net.Conn, words string) {
	t.Helper()
	b := make([]byte, len(words))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("want %q: %v", words, err)
	}
	if string(b) != words {
		t.Fatalf("got %q, want %q", b, words)
	}
}

// silent checks that a connection says nothing, not even goodbye.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Fatalf("read %d bytes, %v; want silence", n, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// broken checks that a connection ends.
func broken(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		t.Fatalf("read %d bytes, %v; want a broken connection", n, err)
	}
}

func TestProxy_PassesBytesAndEndsUnchanged(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	c := dial(t, p.Address()).(*net.TCPConn)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	go func() {
		_, _ = c.Write(want)
		_ = c.CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
	if up, down := p.Moved(); up != int64(len(want)) || down != int64(len(want)) {
		t.Fatalf("counted %d up, %d down; want %d", up, down, len(want))
	}
}

func TestProxy_DelaysEachDirectionByItself(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	c := dial(t, p.Address())
	ask(t, c, "warm")
	p.SetDelay(Up, 60*time.Millisecond, 0)
	if d := ask(t, c, "up"); d < 60*time.Millisecond {
		t.Fatalf("up took %s, want 60ms or more", d)
	}
	p.SetDelay(Down, 90*time.Millisecond, 20*time.Millisecond)
	if d := ask(t, c, "both"); d < 150*time.Millisecond {
		t.Fatalf("both took %s, want 150ms or more", d)
	}
	p.SetDelay(Both, 0, 0)
	if d := ask(t, c, "none"); d > 150*time.Millisecond {
		t.Fatalf("took %s without a delay", d)
	}
}

func TestProxy_DelayIsNoBottleneckAndKeepsOrder(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	p.SetDelay(Both, 50*time.Millisecond, 50*time.Millisecond)
	c := dial(t, p.Address())
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(i * 7 / 5)
	}
	begun := time.Now()
	go func() { _, _ = c.Write(want) }()
	got := make([]byte, len(want))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("bytes differ or %v", err)
	}
	if d := time.Since(begun); d < 100*time.Millisecond || d > 3*time.Second { // one chunk after the other would take 4 s
		t.Fatalf("1 MiB took %s, want about 0.2 s", d)
	}
}

func TestProxy_RateIsSharedByAllConnections(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	p.SetRate(Up, 400_000)
	var all sync.WaitGroup
	begun := time.Now()
	for range 2 {
		c := dial(t, p.Address())
		all.Go(func() {
			go func() { _, _ = c.Write(make([]byte, 100_000)) }()
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.ReadFull(c, make([]byte, 100_000))
		})
	}
	all.Wait()
	if d := time.Since(begun); d < 400*time.Millisecond || d > 5*time.Second {
		t.Fatalf("200 kB at 400 kB/s took %s, want about 0.5 s", d)
	}
}

func TestProxy_ANewRateFreesWhatWaited(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	p.SetRate(Up, 10) // "slowly" would take most of a second
	c := dial(t, p.Address())
	time.AfterFunc(50*time.Millisecond, func() { p.SetRate(Up, 0) })
	if d := ask(t, c, "slowly and more and more"); d > 2*time.Second {
		t.Fatalf("took %s", d)
	}
}

func TestProxy_CutIsSilentAndHealClosesWhatLostSomething(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	busy, idle := dial(t, p.Address()), dial(t, p.Address())
	ask(t, busy, "a")
	ask(t, idle, "b")

	p.Cut(Both)
	if _, err := busy.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	late := dial(t, p.Address())
	_, _ = late.Write([]byte("hello?"))
	for _, c := range []net.Conn{busy, idle, late} {
		silent(t, c)
	}
	if e.visitors() != 2 {
		t.Fatalf("%d connections reached the target, want the 2 from before the cut", e.visitors())
	}

	if err := p.Heal(); err != nil {
		t.Fatal(err)
	}
	broken(t, busy)
	broken(t, late)
	ask(t, idle, "still here")
	ask(t, dial(t, p.Address()), "new")
}

func TestProxy_CutOfOneWayLetsTheOtherThrough(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	c := dial(t, p.Address())
	ask(t, c, "a")
	p.Cut(Down)
	if _, err := c.Write([]byte("work")); err != nil {
		t.Fatal(err)
	}
	silent(t, c)
	if up, down := p.Moved(); up != 5 || down != 1 {
		t.Fatalf("%d up, %d down; want the work done (5) and the answer lost (1)", up, down)
	}
	p.Restore(Down)
	broken(t, c)
}

func TestProxy_NothingPassesAfterCutReturns(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	for range 10 {
		c := dial(t, p.Address())
		ask(t, c, "a")
		go func() {
			for {
				if _, err := c.Write(make([]byte, 8192)); err != nil {
					return
				}
			}
		}()
		_ = c.SetReadDeadline(time.Time{})
		go func() { _, _ = io.Copy(io.Discard, c) }()
		time.Sleep(2 * time.Millisecond)
		p.Cut(Both)
		up, down := p.Moved()
		time.Sleep(5 * time.Millisecond)
		if u, d := p.Moved(); u != up || d != down {
			t.Fatalf("moved %d up and %d down behind the cut", u-up, d-down)
		}
		_ = c.Close()
		p.Restore(Both)
	}
}

func TestProxy_CutEndsAWriteThatTheTargetDoesNotTake(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // its backlog connects, nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := newTestProxy(t, ln.Addr().String())
	c := dial(t, p.Address())
	_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = c.Write(make([]byte, 64<<20))
	done := make(chan struct{})
	go func() { p.Cut(Up); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Cut waits for a write that never ends")
	}
}

func TestProxy_AClientThatLeavesDuringACutIsNotSeen(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	c := dial(t, p.Address())
	ask(t, c, "a")
	p.Cut(Both)
	_ = c.Close()
	e.mu.Lock()
	far := e.conns[0]
	e.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatalf("the target learned of it: %v", err)
	}
}

func TestProxy_RefusesAndComesBackOnTheSamePort(t *testing.T) {
	e := newEcho(t)
	p := newTestProxy(t, e.ln.Addr().String())
	c := dial(t, p.Address())
	ask(t, c, "a")
	p.Refuse()
	broken(t, c)
	if _, err := net.DialTimeout("tcp", p.Address(), time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial: %v, want connection refused", err)
	}
	if err := p.Heal(); err != nil {
		t.Fatal(err)
	}
	ask(t, dial(t, p.Address()), "b")
}

func TestProxy_TargetThatIsDownBreaksTheConnection(t *testing.T) {
	noLeaks(t)
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	defer ReleasePort(port)
	p := newTestProxy(t, loopback(port))
	c, err := net.DialTimeout("tcp", p.Address(), 2*time.Second)
	if errors.Is(err, syscall.ECONNRESET) {
		return // broken before the dial had returned
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	broken(t, c)
}

func TestLinks_CutOneWayBetweenTwoPlaces(t *testing.T) {
	e := newEcho(t)
	target := e.ln.Addr().String()
	l := NewLinks()
	t.Cleanup(l.Close)
	l.Place("eu", target)
	from := func(place string) net.Conn {
		c, err := l.Dial(place)(t.Context(), "tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	us, eu, witness := from("us"), from("eu"), from("witness")
	for _, c := range []net.Conn{us, eu, witness} {
		ask(t, c, "a")
	}

	l.Cut("eu", "us") // the answers to us
	_, _ = us.Write([]byte("b"))
	silent(t, us)
	ask(t, eu, "b")
	ask(t, witness, "b")
	p, err := l.Proxy("us", "eu", target)
	if err != nil {
		t.Fatal(err)
	}
	if up, down := p.Moved(); up != 2 || down != 1 {
		t.Fatalf("%d up, %d down; want 2 and 1", up, down)
	}
	l.Heal("eu", "us")
	broken(t, us)
	ask(t, from("us"), "c")

	l.CutBoth("witness", "eu")
	silent(t, from("witness"))
	l.HealBoth("witness", "eu")
	ask(t, from("witness"), "d")
}

func TestLinks_AProxyMadeDuringACutIsCut(t *testing.T) {
	e := newEcho(t)
	l := NewLinks()
	t.Cleanup(l.Close)
	l.Cut("us", "eu")
	p, err := l.Proxy("us", "eu", e.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, p.Address())
	_, _ = c.Write([]byte("a"))
	silent(t, c)
	if e.visitors() != 0 {
		t.Fatal("the target was reached")
	}
}

func TestLinks_UnknownAddressIsNotReachedAroundTheLinks(t *testing.T) {
	l := NewLinks()
	t.Cleanup(l.Close)
	if _, err := l.Dial("us")(t.Context(), "tcp", "127.0.0.1:9"); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v, want an error that names Place", err)
	}
}
