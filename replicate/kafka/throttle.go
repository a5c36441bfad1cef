package kafka

import "time"

// throttle spreads bytes over time by debt: a batch of any size may go when
// nothing is owed, and then its time must pass. So batches larger than a
// second's worth work, and the mean is exact. The zero value does not limit.
type throttle struct {
	rate  float64 // bytes per second; 0: no limit
	clear time.Time
}

// wait returns how long nothing may be sent.
func (t *throttle) wait(now time.Time) time.Duration {
	if t.rate <= 0 {
		return 0
	}
	return max(0, t.clear.Sub(now))
}

// spend notes n bytes that are sent now.
func (t *throttle) spend(now time.Time, n int) {
	if t.rate <= 0 {
		return
	}
	if t.clear.Before(now) {
		t.clear = now
	}
	t.clear = t.clear.Add(time.Duration(float64(n) / t.rate * float64(time.Second)))
}

// set changes the rate. What is owed is forgiven, so that a higher rate or
// none works at once.
func (t *throttle) set(bytesPerSecond float64) { *t = throttle{rate: bytesPerSecond} }
