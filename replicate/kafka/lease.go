package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/replicate"
)

// lease is the generation that this mirror fills holes with.
type lease struct {
	held    replicate.Generation // 0: none
	taking  bool
	lostAt  time.Time // when another mirror took it last
	checked time.Time
}

const (
	leaseRetry = time.Second            // after a generation could not be had
	leaseRest  = 3                      // request timeouts that who lost it waits before it asks again
	leaseCheck = 100 * time.Millisecond // between two questions whether it is still ours
)

// dispatchLease hands the mirror's generation to the partitions that ask, and
// gets a new one when one of them needs a higher.
func (l *loop) dispatchLease(now time.Time) {
	if l.lease.held != 0 && now.Sub(l.lease.checked) >= leaseCheck {
		l.lease.checked = now
		if !l.conf.Leases.Held(l.lease.held) {
			lost := l.lease.held
			l.lease.held, l.lease.lostAt = 0, now
			for _, p := range l.parts {
				if p.mark != nil || p.append != nil && p.m.Leased() {
					l.unsent(p, "the right to write here is another mirror's now")
				}
				l.apply(p, replicate.LeaseLost{Generation: lost})
			}
		}
	}
	need, asked := replicate.Generation(0), false
	for _, p := range l.parts {
		if p.leaseAbove == nil {
			continue
		}
		if above := *p.leaseAbove; l.lease.held > above {
			p.leaseAbove = nil
			l.apply(p, replicate.Leased{Generation: l.lease.held})
		} else {
			need, asked = max(need, above), true
		}
	}
	if !asked || l.lease.taking {
		return
	}
	// Who lost it lets the other one work for a while. Two mirrors that took it
	// from each other at once would both wait for ever.
	if rest := l.lease.lostAt.Add(leaseRest * l.conf.RequestTimeout).Sub(now); !l.lease.lostAt.IsZero() && rest > 0 {
		l.due(now, jitter(rest))
		return
	}
	if l.conf.Leases == nil {
		l.findings["lease"] = []replicate.Finding{{About: "link", Text: "topics with holes wait: nothing hands out generations for filling them"}}
		return
	}
	l.lease.taking = true
	last := l.lease.held
	l.work.Go(func() {
		g, err := l.takeLease(l.reads, need, last)
		if err != nil {
			_ = pause(l.reads, leaseRetry)
		}
		l.events <- func() {
			l.lease.taking = false
			delete(l.findings, "lease")
			if err != nil {
				if l.reads.Err() == nil {
					l.findings["lease"] = []replicate.Finding{{About: "link", Text: "topics with holes wait: " + err.Error(), Next: "has the fleet a leader? holdfast status"}}
				}
				return
			}
			l.lease.held, l.lease.checked = g, time.Now()
		}
	})
}

// takeLease gets a generation. Turns begin again with each block of them, so a
// new block waits until no request of an earlier one can be under way.
func (l *loop) takeLease(ctx context.Context, above, last replicate.Generation) (replicate.Generation, error) {
	g, settled, err := l.conf.Leases.Take(ctx, above)
	if err != nil {
		return 0, fmt.Errorf("take a generation: %w", err)
	}
	if settled || last != 0 && last.Block() == g.Block() {
		return g, nil
	}
	l.log.Info("waiting for requests of earlier mirrors to die before holes are filled", "wait", l.conf.RequestTimeout, "generation", int32(g))
	if err := pause(ctx, l.conf.RequestTimeout); err != nil {
		return 0, err
	}
	if err := l.conf.Leases.Settle(ctx, g); err != nil {
		l.log.Warn("record that earlier mirrors are silent", "error", err) // the next mirror waits once more
	}
	return g, nil
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
