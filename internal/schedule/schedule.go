package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// CatchUp says what becomes of a slot that nobody looked at in time.
type CatchUp string

// The ways to catch up.
const (
	Latest CatchUp = "latest" // the newest slot counts, however old; those before it are missed
	Skip   CatchUp = "skip"   // a slot that is too late is missed too
)

// Spellings lists the ways to catch up as they are written.
func (CatchUp) Spellings() []string { return []string{string(Latest), string(Skip)} }

const (
	// lateMax bounds how late a slot may be taken with Skip. Where slots are
	// near to each other the bound is half the way to the next one.
	lateMax = 10 * time.Minute
	// missedMax bounds the count of missed slots, and with it the work of one
	// look after years.
	missedMax = 1000
	specMax   = 256
)

// origin is where Parse begins to look for a first slot. Any time would do
// that has a leap year within the five years that cron looks ahead.
var origin = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// Schedule is a cron line that was understood. The zero Schedule has no slots.
type Schedule struct {
	spec string
	cron cron.Schedule
}

// Parse reads the five fields of a cron line (minute, hour, day of the month,
// month, day of the week), or @hourly, @daily, @weekly, @monthly, @yearly.
// What has no fixed slots or another time than UTC is refused, and so is a
// line that no day fulfils.
func Parse(spec string) (Schedule, error) {
	text := strings.TrimSpace(spec)
	switch {
	case text == "":
		return Schedule{}, errors.New("a schedule has five fields, and this one is empty")
	case len(text) > specMax:
		return Schedule{}, fmt.Errorf("a schedule of %d characters is longer than %d", len(text), specMax)
	case strings.Contains(text, "TZ="):
		return Schedule{}, errors.New("a schedule is in UTC and names no time zone: slots must not be missing or there twice when the clocks change")
	case strings.HasPrefix(text, "@every"):
		return Schedule{}, errors.New("@every has no fixed slots: it would count from whenever a daemon started")
	}
	parsed, err := cron.ParseStandard(text)
	if err != nil {
		return Schedule{}, fmt.Errorf("not a schedule: %w", err)
	}
	if parsed.Next(origin).IsZero() {
		return Schedule{}, errors.New("never fires: no day within five years fulfils it")
	}
	return Schedule{spec: text, cron: parsed}, nil
}

// String is the line as written.
func (s Schedule) String() string { return s.spec }

// IsZero reports whether there is no schedule.
func (s Schedule) IsZero() bool { return s.cron == nil }

// MarshalText gives the line as written.
func (s Schedule) MarshalText() ([]byte, error) { return []byte(s.spec), nil }

// UnmarshalText reads what Parse reads.
func (s *Schedule) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// Next is the first slot after a time, in UTC; zero when there is none within
// five years.
func (s Schedule) Next(after time.Time) time.Time {
	if s.cron == nil {
		return time.Time{}
	}
	return s.cron.Next(after.UTC())
}

// Due gives the newest slot that is after last and not after now, and counts
// the slots between the two that nobody will get any more (up to a bound).
//
// last is the slot that was taken before, or the time at which the schedule
// began. A zero last means never: nothing is due, and the caller begins at
// now. With Skip a slot that is too late is returned with false, to be
// remembered as last without being worked on; it is among the missed ones.
func (s Schedule) Due(last, now time.Time, catchUp CatchUp) (slot time.Time, missed int, ok bool) {
	if s.cron == nil || last.IsZero() {
		return time.Time{}, 0, false
	}
	last, now = last.UTC(), now.UTC()
	slot = s.newest(last, now)
	if slot.IsZero() {
		return time.Time{}, 0, false
	}
	missed = s.count(last, slot)
	if catchUp == Skip && now.Sub(slot) > s.lateness(slot) {
		return slot, min(missed+1, missedMax), false
	}
	return slot, missed, true
}

// newest finds the newest slot in (last, now], or zero. Next never falls as
// its argument rises, so the slot is found by halving and not by a walk over
// all that was missed.
func (s Schedule) newest(last, now time.Time) time.Time {
	due := func(t time.Time) bool {
		next := s.Next(t)
		return !next.IsZero() && !next.After(now)
	}
	if !due(last) {
		return time.Time{}
	}
	before, after := last, now // due(before) and not due(after)
	for after.Sub(before) > time.Second {
		middle := before.Add(after.Sub(before) / 2)
		if due(middle) {
			before = middle
		} else {
			after = middle
		}
	}
	return s.Next(before)
}

// count counts the slots between last and slot, up to missedMax.
func (s Schedule) count(last, slot time.Time) int {
	n := 0
	for t := s.Next(last); t.Before(slot) && !t.IsZero() && n < missedMax; t = s.Next(t) {
		n++
	}
	return n
}

// lateness is how late a slot may be taken with Skip.
func (s Schedule) lateness(slot time.Time) time.Duration {
	next := s.Next(slot)
	if next.IsZero() {
		return lateMax
	}
	return min(next.Sub(slot)/2, lateMax)
}
