package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestDelay_GrowsAndStaysBounded(t *testing.T) {
	want := []time.Duration{100, 200, 400, 800, 1000, 1000}
	for n, w := range want {
		if got := Delay(100, 1000, n); got != w {
			t.Errorf("Delay(%d) = %d, want %d", n, got, w)
		}
	}
	if got := Delay(time.Second, time.Minute, 1<<20); got != time.Minute {
		t.Errorf("a large n gives %s", got)
	}
	if got := Delay(time.Hour, time.Minute, 0); got != time.Minute {
		t.Errorf("a first above the longest gives %s", got)
	}
}

func TestDelays_NeverWaitsLongerThanTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(100*time.Millisecond, time.Second)
		for n := range 20 {
			start := time.Now()
			if err := d.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > time.Second || took <= 0 {
				t.Fatalf("wait %d took %s", n, took)
			}
		}
		d.Reset()
		start := time.Now()
		_ = d.Wait(t.Context())
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("the first wait after Reset took %s", took)
		}
	})
}

func TestDelays_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("over")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { cancel(why) })
		d := New(time.Hour, time.Hour)
		if err := d.Wait(ctx); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
}
