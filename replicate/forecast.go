package replicate

import "time"

// Forecast says when retention overtakes a mirror: in how long the source's
// log start reaches the mirror's end. It learns from what it is shown and
// keeps at most forecastSteps moves of the start and forecastEnds ends, however
// long it is used. The zero value knows nothing yet.
//
// A log start moves in steps, as segments are deleted, so its speed is that
// from step to step. Between two steps it is taken to be where a steady start
// would be, and never more than one step ahead: a forecast is early rather
// than late. The mirror's speed is that of the last minutes, so one that
// stands still is seen as such.
//
// Retention does not pass a mirror that has all records. Ask only about a
// partition that is behind.
type Forecast struct {
	steps series // moves of the source's start; the first is only where it was found
	ends  series // the mirror's end
}

// Bounds of a forecast.
const (
	forecastSteps  = 16
	forecastEnds   = 8
	forecastSparse = 4 * time.Minute // steps closer than this are taken together, when there are many
	forecastRecent = time.Minute     // ends are kept at most this far apart
	forecastLately = 3               // steps that count as lately
)

// Add shows the source's log start and the mirror's end at one moment. A start
// or an end that goes back is another log: the forecast begins anew.
func (f *Forecast) Add(at time.Time, start, end int64) {
	if s, ok := f.steps.last(); ok && (start < s.offset || at.Before(s.at)) {
		*f = Forecast{}
	}
	if e, ok := f.ends.last(); ok && (end < e.offset || at.Before(e.at)) {
		*f = Forecast{}
	}
	if s, ok := f.steps.last(); !ok || start > s.offset {
		f.steps.add(point{at, start}, forecastSteps, forecastSparse)
	}
	f.ends.add(point{at, end}, forecastEnds, forecastRecent)
}

// Overtakes returns the time from now until the source's start reaches the
// mirror's end, if both go on as they did. It is false when that never
// happens, or when too little was seen: at least two steps of the start, or a
// single one after which the next of its size would reach the end.
func (f Forecast) Overtakes(now time.Time) (time.Duration, bool) {
	end, ok := f.ends.last()
	if !ok {
		return 0, false
	}
	step, _ := f.steps.last()
	gap := float64(end.offset - step.offset)
	if gap < 0 {
		return 0, true // it has happened
	}
	since := max(0, now.Sub(step.at)).Seconds()
	speed := 0.0 // offsets per second of the start
	for _, back := range []int{f.steps.n - 2, forecastLately} {
		// The first point is where the start was found, not a step, and tells
		// when it moved only where there is no other.
		from := f.steps.n - 1 - back
		if back < 1 || from < 1 {
			continue
		}
		first := f.steps.points[from]
		every := step.at.Sub(first.at).Seconds() / float64(back)
		size := float64(step.offset-first.offset) / float64(back)
		speed = max(speed, size/max(every, since))
	}
	if f.steps.n == 2 {
		first := f.steps.points[0]
		if size := float64(step.offset - first.offset); size >= gap {
			speed = size / max(step.at.Sub(first.at).Seconds(), since)
		}
	}
	first := f.ends.points[0]
	pace := 0.0
	if took := now.Sub(first.at).Seconds(); took > 0 {
		pace = float64(end.offset-first.offset) / took
	}
	if speed <= pace {
		return 0, false
	}
	left := max(0, (gap-speed*since)/(speed-pace))
	if left >= forecastFar.Seconds() {
		return 0, false
	}
	return time.Duration(left * float64(time.Second)), true
}

// forecastFar is further than anybody plans; beyond it a forecast is noise.
const forecastFar = 30 * 24 * time.Hour

// point is an offset at a moment.
type point struct {
	at     time.Time
	offset int64
}

// series keeps a bounded number of points: densely while there are few, then
// ever more sparsely, at last as a window that moves on.
type series struct {
	points [forecastSteps]point
	n      int
	apart  time.Duration // how far apart two points must be at least
}

func (s *series) last() (point, bool) {
	if s.n == 0 {
		return point{}, false
	}
	return s.points[s.n-1], true
}

// add takes a new last point. The newest is always kept, as it is; it takes
// the place of the one before it when that is too close to its own
// predecessor. When all places are taken, every second is given up until the
// points are sparse apart, then the first.
func (s *series) add(p point, most int, sparse time.Duration) {
	if s.n > 1 && s.points[s.n-1].at.Sub(s.points[s.n-2].at) < s.apart {
		s.points[s.n-1] = p
		return
	}
	if s.n == most && s.apart < sparse {
		s.apart = min(sparse, max(time.Second, 2*s.apart))
		kept := 1 // the first
		for i := 2; i < s.n; i += 2 {
			s.points[kept] = s.points[i]
			kept++
		}
		s.n = kept
	}
	if s.n == most {
		copy(s.points[:], s.points[1:s.n])
		s.n--
	}
	s.points[s.n] = p
	s.n++
}
