package retry

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Delay returns the wait before try n, counted from 0: first, doubled n times,
// at most longest. It has no jitter.
func Delay(first, longest time.Duration, n int) time.Duration {
	d := first
	for range n {
		if d >= longest/2 {
			return longest
		}
		d *= 2
	}
	return min(d, longest)
}

// Delays is a sequence of growing waits with jitter. It belongs to one
// goroutine.
type Delays struct {
	b       *backoff.ExponentialBackOff
	longest time.Duration
}

// New returns Delays that start near first and stay at or below longest.
func New(first, longest time.Duration) *Delays {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, longest, 2
	b.Reset()
	return &Delays{b, longest}
}

// Reset starts the sequence anew; call it after a success.
func (d *Delays) Reset() { d.b.Reset() }

// Wait waits for the next delay. It returns the cause of ctx when that ends first.
func (d *Delays) Wait(ctx context.Context) error {
	t := time.NewTimer(min(d.b.NextBackOff(), d.longest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
