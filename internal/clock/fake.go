package clock

import (
	"sync"
	"time"
)

// Fake is a Clock that a test moves. Its rate models a crystal that runs fast
// or slow: Advance(d) is d of true time, of which Now sees d × rate. It is
// safe for concurrent use.
type Fake struct {
	mu   sync.Mutex
	now  Instant
	frac float64 // of a nanosecond, so that many small steps lose nothing
	wall time.Time
	rate float64
}

// NewFake returns a Fake that reads now and wall, at rate 1.
func NewFake(now Instant, wall time.Time) *Fake {
	return &Fake{now: now, wall: wall, rate: 1}
}

// Now implements Clock.
func (f *Fake) Now() Instant {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Wall implements Clock.
func (f *Fake) Wall() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wall
}

// SetRate sets how fast this clock runs from now on: 1 is right, 1.001 is
// 1000 ppm fast. It panics on a rate that is not positive, since a clock that
// stops or goes back is no Clock.
func (f *Fake) SetRate(rate float64) {
	if !(rate > 0) {
		panic("clock: the rate of a Fake must be positive")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rate = rate
}

// Advance lets d of true time pass, for both readings. It panics when d is
// negative.
func (f *Fake) Advance(d time.Duration) {
	if d < 0 {
		panic("clock: a Fake cannot go back")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := float64(d)*f.rate + f.frac
	whole := int64(seen)
	f.frac = seen - float64(whole)
	f.now += Instant(whole)
	f.wall = f.wall.Add(time.Duration(whole))
}

// StepWall moves only the wall clock, as an operator or NTP would.
func (f *Fake) StepWall(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wall = f.wall.Add(d)
}
