package daemon

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/replicate"
)

func newFills(m *memory) *fills {
	return &fills{link: consensus.LinkOf(east, west), epoch: 1, state: m.state, propose: m, command: func(b consensus.Body) consensus.Command {
		return consensus.Command{At: time.Now(), By: "node eu-west-1", Body: b}
	}}
}

func TestFills_HandOutOneGenerationAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, consensus.Hold)
		one, other := newFills(m), newFills(m)
		if one.Held(0) || one.Held(1) {
			t.Error("who never took anything holds something")
		}
		g, settled, err := one.Take(t.Context(), 0)
		if g != 1 || !settled || err != nil || !one.Held(1) || other.Held(1) {
			t.Fatalf("the first: %d settled %v %v, held %v and %v", g, settled, err, one.Held(1), other.Held(1))
		}
		m.set(func(m *memory) { m.lose = 3 }) // answers
		if g, _, err = other.Take(t.Context(), g); g != 2 || err != nil || one.Held(1) || !other.Held(2) {
			t.Fatalf("the second: %d %v", g, err)
		}
		if g, settled, err = one.Take(t.Context(), 21); g != 22 || settled || err != nil {
			t.Fatalf("above one that was seen: %d settled %v %v", g, settled, err)
		}
		for range 2 { // the second is no news
			if err := one.Settle(t.Context(), 22); err != nil {
				t.Fatal(err)
			}
		}
		if g, settled, err = one.Take(t.Context(), 0); g != 23 || !settled || err != nil {
			t.Fatalf("the next of a settled block: %d settled %v %v", g, settled, err)
		}
		m.must(t, &consensus.EndLink{Link: one.link, Epoch: 1, Ends: consensus.Offsets{}})
		if _, _, err := one.Take(t.Context(), 0); !consensus.Refused(err, consensus.CodeStale) || one.Held(23) {
			t.Errorf("after the end of the link: %v, held %v", err, one.Held(23))
		}
	})
}

func TestFills_WaitForALeaderNoLongerThanTheyMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, consensus.Hold)
		m.set(func(m *memory) { m.away = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, _, err := newFills(m).Take(ctx, 0); err == nil || time.Since(start) != time.Minute {
			t.Errorf("without a leader: %v after %s", err, time.Since(start))
		}
		go func() {
			time.Sleep(time.Second)
			m.set(func(m *memory) { m.away = false })
		}()
		if g, _, err := newFills(m).Take(t.Context(), 0); g != 1 || err != nil {
			t.Errorf("a leader came: %d %v", g, err)
		}
	})
}

// Mirrors that know nothing of each other ask at once, and answers are lost:
// nobody is ever told a generation that another was told.
func TestFills_NeverTellTwoTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, consensus.Hold)
		m.set(func(m *memory) { m.lose = 7 })
		var mu sync.Mutex
		told := map[replicate.Generation]int{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				f := newFills(m)
				last := replicate.Generation(0)
				for range 25 {
					g, _, err := f.Take(t.Context(), last)
					if err != nil || g <= last {
						t.Errorf("%d after %d: %v", g, last, err)
						return
					}
					last = g
					mu.Lock()
					told[g]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for g, n := range told {
			if n != 1 {
				t.Errorf("generation %d was told %d times", g, n)
			}
		}
		if len(told) != 100 {
			t.Errorf("%d generations were told, want 100", len(told))
		}
	})
}
