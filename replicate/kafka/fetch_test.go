package kafka

import (
	"testing"
	"time"
)

func TestAsk_ShrinksOnAThinLineAndGrowsBack(t *testing.T) {
	const part, whole = 1 << 20, 8 << 20
	var a ask
	for range 20 { // every answer runs into its timeout
		_, n := a.within(part, whole)
		a = a.after(n, 10*time.Second, true)
	}
	p, n := a.within(part, whole)
	if n != askLowest || p != askLowest {
		t.Fatalf("asks %d of a partition and %d in all after 20 timeouts, want %d", p, n, askLowest)
	}
	steps := 0
	for ; n < whole && steps < 20; steps++ {
		a = a.after(n, time.Millisecond, false)
		_, n = a.within(part, whole)
	}
	if n != whole {
		t.Fatalf("asks %d after %d quick answers, want the whole budget %d", n, steps, whole)
	}
	if b := a.after(n, 3*time.Second, false); b.halved != a.halved+1 {
		t.Error("a slow answer does not halve the next ask")
	}
	if b := a.after(n, time.Second, false); b != a {
		t.Error("an answer in good time changes the ask")
	}
	if p, n := (ask{}).within(4<<10, 8<<10); p != 4<<10 || n != 8<<10 {
		t.Errorf("a small budget was changed to %d, %d", p, n)
	}
}
