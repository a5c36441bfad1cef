package replicate

import (
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

var forecastBegin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// shown is a forecast that saw a source whose start moves by size every step,
// first after phase, and a mirror with a lead that goes on at a steady pace, at
// looks that are a while apart. It ends when start reaches end, or at the last
// moment, and tells what was forecast then.
func shown(step, phase, apart, until time.Duration, size, lead int64, pace float64, look func(now time.Time, f Forecast)) (reached time.Time, f Forecast) {
	for at := time.Duration(0); at <= until; at += apart {
		start := int64(0)
		if at >= phase {
			start = size * (1 + int64((at-phase)/step))
		}
		end := lead + int64(pace*at.Seconds())
		now := forecastBegin.Add(at)
		f.Add(now, start, end)
		if start >= end {
			return now, f
		}
		if look != nil {
			look(now, f)
		}
	}
	return time.Time{}, f
}

func TestForecast_IsEarlyByLessThanAStepAndNeverLate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := time.Duration(rapid.Int64Range(20, 3600).Draw(t, "seconds between steps")) * time.Second
		apart := max(time.Second, step/time.Duration(rapid.Int64Range(40, 200).Draw(t, "looks a step")))
		phase := time.Duration(rapid.Int64Range(1, int64(step)).Draw(t, "phase"))
		size := rapid.Int64Range(100_000, 1_000_000_000).Draw(t, "size")
		lead := size * rapid.Int64Range(8, 40).Draw(t, "lead in steps")
		pace := float64(size) / step.Seconds() * rapid.Float64Range(0, 0.5).Draw(t, "pace")
		type said struct{ at, overtaken time.Time }
		var forecasts []said
		missed := 0
		reached, _ := shown(step, phase, apart, 200*step, size, lead, pace, func(now time.Time, f Forecast) {
			if now.Sub(forecastBegin) < phase+2*step+apart {
				return // fewer steps than it needs
			}
			if in, ok := f.Overtakes(now); ok {
				forecasts = append(forecasts, said{now, now.Add(in)})
			} else {
				missed++
			}
		})
		if reached.IsZero() || missed > 0 || len(forecasts) == 0 {
			t.Fatalf("reached %v, %d forecasts, none at %d looks", reached, len(forecasts), missed)
		}
		for _, s := range forecasts {
			left := reached.Sub(s.at)
			noise := left/10 + 3*apart // a step is seen at the look behind it
			if wrong := reached.Sub(s.overtaken); wrong < -noise || wrong > step+noise {
				t.Fatalf("%s before it happened the forecast was %s (steps are %s apart)", left, s.overtaken.Sub(s.at), step)
			}
		}
	})
}

func TestForecast_SaysNothingOfAMirrorThatKeepsAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := time.Duration(rapid.Int64Range(20, 3600).Draw(t, "seconds between steps")) * time.Second
		size := rapid.Int64Range(100_000, 1_000_000_000).Draw(t, "size")
		pace := float64(size) / step.Seconds() * rapid.Float64Range(1.3, 20).Draw(t, "pace")
		shown(step, step/2, step/40, 60*step, size, 3*size, pace, func(now time.Time, f Forecast) {
			if in, ok := f.Overtakes(now); ok {
				t.Fatalf("overtaken in %s after %s", in, now.Sub(forecastBegin))
			}
		})
	})
}

func TestForecast_NoticesAMirrorThatStopsAndOneThatGoesOn(t *testing.T) {
	at := forecastBegin
	var f Forecast
	start, end := int64(0), int64(1_000_000)
	run := func(d time.Duration, pace int64) {
		for until := at.Add(d); at.Before(until); at = at.Add(10 * time.Second) {
			if int(at.Sub(forecastBegin).Seconds())%300 == 0 {
				start += 30_000 // 100 a second
			}
			end += 10 * pace
			f.Add(at, start, end)
		}
	}
	run(2*time.Hour, 100)
	if in, ok := f.Overtakes(at); ok && in < 12*time.Hour {
		t.Fatalf("a mirror that keeps its distance is overtaken in %s", in)
	}
	run(10*time.Minute, 0)
	want := time.Duration(float64(end-start)/100) * time.Second
	if in, ok := f.Overtakes(at); !ok || in > want || in < want-6*time.Minute {
		t.Fatalf("%s %t after 10 minutes of standstill, want about %s", in, ok, want)
	}
	run(10*time.Minute, 5000)
	if in, ok := f.Overtakes(at); ok {
		t.Fatalf("a mirror that catches up is overtaken in %s", in)
	}
}

func TestForecast_KnowsWhenItKnowsTooLittle(t *testing.T) {
	none := func(what string, f Forecast, now time.Time) {
		t.Helper()
		if in, ok := f.Overtakes(now); ok {
			t.Errorf("%s: overtaken in %s", what, in)
		}
	}
	after := func(s int) time.Time { return forecastBegin.Add(time.Duration(s) * time.Second) }
	var f Forecast
	none("nothing seen", f, after(0))
	for s := range 1000 {
		f.Add(after(s), 500, 600)
	}
	none("the start never moves", f, after(1000))
	f.Add(after(1000), 510, 600)
	none("one small step says nothing", f, after(1001))
	if in, ok := f.Overtakes(after(100_000)); ok {
		t.Errorf("a step of long ago: overtaken in %s", in)
	}
	f.Add(after(1001), 400, 600)
	none("the start went back: another log", f, after(1001))
	f.Add(after(1100), 550, 600)
	if in, ok := f.Overtakes(after(1110)); !ok || in > 99*time.Second {
		t.Errorf("the next step of this size reaches the end: %s %t", in, ok)
	}
	f.Add(after(1200), 601, 600)
	if in, ok := f.Overtakes(after(1200)); !ok || in != 0 {
		t.Errorf("the start is behind the end: %s %t", in, ok)
	}
	f.Add(after(1300), 601, 2000)
	f.Add(after(1301), 601, 1990)
	none("the end went back: another log", f, after(1400))
}

func TestForecast_StaysSmallHoweverLongItIsUsed(t *testing.T) {
	if size := unsafe.Sizeof(Forecast{}); size > 1200 {
		t.Errorf("a forecast takes %d bytes", size)
	}
	var f Forecast
	for s := range 200_000 {
		f.Add(forecastBegin.Add(time.Duration(s)*time.Second), int64(s), int64(s)/2+200_000)
		if f.steps.n > forecastSteps || f.ends.n > forecastEnds {
			t.Fatalf("%d steps, %d ends", f.steps.n, f.ends.n)
		}
	}
	first, last := f.steps.points[0], f.steps.points[f.steps.n-1]
	if kept := last.at.Sub(first.at); kept < 30*time.Minute || kept > 2*time.Hour {
		t.Errorf("steps of %s are kept", kept)
	}
	now := forecastBegin.Add(200_000 * time.Second)
	if in, ok := f.Overtakes(now); !ok || (in-200_000*time.Second).Abs() > 20*time.Minute {
		t.Errorf("%s %t, want about %s", in, ok, 200_000*time.Second)
	}
}
