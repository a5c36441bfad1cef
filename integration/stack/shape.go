package stack

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Direction is one way through a proxy, or both.
type Direction uint8

// The ways through a proxy.
const (
	Up   Direction = 1 << iota // from the client to the target
	Down                       // from the target to the client
	Both = Up | Down
)

const (
	chunkBytes = 32 << 10 // read at once, and written at once when nothing is shaped
	bufferMax  = 4 << 20  // under way per connection and direction
	bufferMin  = 64 << 10
)

// shape is how one direction of a proxy behaves. The proxy's mutex guards it.
type shape struct {
	delay, jitter time.Duration
	rate          int64 // bytes per second over all connections; 0: no limit
	cut           bool

	rateSet  int       // how often the rate was set: a reservation made before counts no more
	nextFree time.Time // when the line has sent all that was reserved
}

// limit bounds what may be under way: what such a line would hold, and a small
// buffer at its head.
func (s shape) limit() int {
	if s.rate == 0 {
		return bufferMax
	}
	held := float64(s.rate) * (s.delay + s.jitter).Seconds()
	return int(min(bufferMax, bufferMin+held))
}

// slice is how many of n bytes go in one piece: about 50 ms of the line, so
// that a change of the rate takes hold soon.
func (s shape) slice(n int) int {
	n = min(n, chunkBytes)
	if s.rate > 0 {
		n = min(n, int(max(1, s.rate/20)))
	}
	return n
}

// reserve books n bytes on the line and returns when the last of them is out.
func (s *shape) reserve(now time.Time, n int) time.Time {
	if s.rate == 0 {
		return now
	}
	if s.nextFree.Before(now) {
		s.nextFree = now
	}
	s.nextFree = s.nextFree.Add(time.Duration(float64(n) / float64(s.rate) * float64(time.Second)))
	return s.nextFree
}

// parcel is what one read brought. A parcel without bytes is the end.
type parcel struct {
	bytes  []byte
	end    error // io.EOF: an orderly end; anything else: a broken connection
	at     time.Time
	jitter float64 // its share of the jitter, 0 to 1
}

func newParcel(b []byte, end error) parcel {
	return parcel{bytes: b, end: end, at: time.Now(), jitter: rand.Float64()}
}

// queue holds parcels under way, for one reader and one writer.
type queue struct {
	mu     sync.Mutex
	line   []parcel
	bytes  int
	pushed chan struct{} // holds one token
	popped chan struct{} // holds one token
}

func newQueue() *queue {
	return &queue{pushed: make(chan struct{}, 1), popped: make(chan struct{}, 1)}
}

// push waits until fewer than limit bytes are under way. It reports false when
// done was closed first.
func (q *queue) push(p parcel, limit int, done <-chan struct{}) bool {
	for {
		q.mu.Lock()
		if q.bytes < limit {
			q.line = append(q.line, p)
			q.bytes += len(p.bytes)
			q.mu.Unlock()
			token(q.pushed)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.popped:
		case <-done:
			return false
		}
	}
}

// pop waits for the next parcel. It reports false when done was closed first.
func (q *queue) pop(done <-chan struct{}) (parcel, bool) {
	for {
		q.mu.Lock()
		if len(q.line) > 0 {
			p := q.line[0]
			q.line[0] = parcel{}
			q.line = q.line[1:]
			q.bytes -= len(p.bytes)
			q.mu.Unlock()
			token(q.popped)
			return p, true
		}
		q.mu.Unlock()
		select {
		case <-q.pushed:
		case <-done:
			return parcel{}, false
		}
	}
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
