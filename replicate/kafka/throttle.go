package kafka

import "time"

// throttle spreads bytes over time by debt: a batch of any size may go when
// nothing is owed, and then its time must pass. So batches larger than a
// second's worth work, and the mean is exact. The zero value does not limit.
type throttle struct {
	rate  float64 // bytes, or records, per second; 0: no limit
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

// brakes are the throttles of one topic.
type brakes struct{ bytes, records throttle }

func (b *brakes) wait(now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	return max(b.bytes.wait(now), b.records.wait(now))
}

func (b *brakes) spend(now time.Time, bytes, records int) {
	if b != nil {
		b.bytes.spend(now, bytes)
		b.records.spend(now, records)
	}
}

// brakesOf returns the throttles of a topic, nil when it has none.
func (l *loop) brakesOf(topic string) *brakes {
	if len(l.conf.TopicLimits) == 0 {
		return nil
	}
	if b, ok := l.brakes[topic]; ok {
		return b
	}
	var b *brakes
	for _, limit := range l.conf.TopicLimits {
		if limit.Topics.Selects(topic) {
			b = &brakes{throttle{rate: limit.Rate}, throttle{rate: limit.RecordRate}}
			break
		}
	}
	l.brakes[topic] = b
	return b
}
