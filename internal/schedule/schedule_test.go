package schedule

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func must(t testing.TB, spec string) Schedule {
	t.Helper()
	s, err := Parse(spec)
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return s
}

func at(text string) time.Time {
	when, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err) // a slip in a test's table
	}
	return when
}

func TestParse_RefusesWhatHasNoSlots(t *testing.T) {
	for spec, want := range map[string]string{
		"": "empty", "  ": "empty", "@every 1h": "no fixed slots", "@EVERY 1h": "not a schedule", "TZ=Europe/Berlin 0 4 * * *": "time zone", "CRON_TZ=UTC 0 4 * * *": "time zone", "TZ=0": "time zone",
		"0 4 30 2 *": "never fires", "0 4 31 2,4,6,9,11 *": "never fires", "60 * * * *": "not a schedule", "* * * *": "not a schedule", "0 * * * * *": "not a schedule",
		"@reboot": "not a schedule", "*/0 * * * *": "not a schedule", strings.Repeat("1,", 200) + "1 * * * *": "longer",
	} {
		if s, err := Parse(spec); err == nil || !strings.Contains(err.Error(), want) || !s.IsZero() {
			t.Errorf("%q: want an error with %q, got %v", spec, want, err)
		}
	}
}

func TestNext_IsTheSlotInUTC(t *testing.T) {
	berlin := time.FixedZone("CEST", 2*3600)
	for _, c := range []struct{ spec, after, want string }{
		{"17 * * * *", "2026-11-23 21:17:00", "2026-11-23 22:17:00"},
		{"17 * * * *", "2026-11-23 21:16:59", "2026-11-23 21:17:00"},
		{"@hourly", "2026-11-23 21:00:01", "2026-11-23 22:00:00"},
		{"0 4 * * 0", "2026-11-23 21:00:00", "2026-11-29 04:00:00"},
		{"0 4 29 2 *", "2026-11-23 21:00:00", "2028-02-29 04:00:00"},
		{"30 2 * * *", "2026-03-29 00:00:00", "2026-03-29 02:30:00"}, // an hour that Berlin lacks
	} {
		s := must(t, c.spec)
		if got := s.Next(at(c.after).In(berlin)); !got.Equal(at(c.want)) || got.Location() != time.UTC {
			t.Errorf("%s after %s: %s, want %s", c.spec, c.after, got, c.want)
		}
	}
	if !(Schedule{}).Next(at("2026-01-01 00:00:00")).IsZero() {
		t.Error("no schedule has a slot")
	}
}

func TestDue_TellsTheNewestSlotAndWhatWasMissed(t *testing.T) {
	for _, c := range []struct {
		name, spec, last, now string
		catchUp               CatchUp
		slot                  string
		missed                int
		ok                    bool
	}{
		{"not yet", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 22:16:59", Latest, "", 0, false},
		{"to the second", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 22:17:00", Latest, "2026-11-23 22:17:00", 0, true},
		{"late is still due", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 23:16:59", Latest, "2026-11-23 22:17:00", 0, true},
		{"two were missed", "17 * * * *", "2026-11-23 21:17:00", "2026-11-24 00:18:00", Latest, "2026-11-24 00:17:00", 2, true},
		{"a month old", "0 4 1 * *", "2026-11-01 04:00:00", "2026-12-31 00:00:00", Latest, "2026-12-01 04:00:00", 0, true},
		{"years were missed", "* * * * *", "2016-01-01 00:00:00", "2026-01-01 00:00:30", Latest, "2026-01-01 00:00:00", missedMax, true},
		{"the clock went back", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 20:30:00", Latest, "", 0, false},
		{"at once", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 21:17:00", Latest, "", 0, false},
		{"in time", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 22:27:00", Skip, "2026-11-23 22:17:00", 0, true},
		{"too late", "17 * * * *", "2026-11-23 21:17:00", "2026-11-23 22:27:01", Skip, "2026-11-23 22:17:00", 1, false},
		{"half way to the next", "*/4 * * * *", "2026-11-23 21:00:00", "2026-11-23 21:06:00", Skip, "2026-11-23 21:04:00", 0, true},
		{"past half way", "*/4 * * * *", "2026-11-23 21:00:00", "2026-11-23 21:06:01", Skip, "2026-11-23 21:04:00", 1, false},
		{"in time after an outage", "17 * * * *", "2026-11-23 21:17:00", "2026-11-24 00:18:00", Skip, "2026-11-24 00:17:00", 2, true},
	} {
		slot, missed, ok := must(t, c.spec).Due(at(c.last), at(c.now), c.catchUp)
		want := time.Time{}
		if c.slot != "" {
			want = at(c.slot)
		}
		if !slot.Equal(want) || missed != c.missed || ok != c.ok {
			t.Errorf("%s: %s, %d missed, %v; want %s, %d, %v", c.name, slot, missed, ok, want, c.missed, c.ok)
		}
	}
}

func TestDue_AScheduleThatNeverRanStartsNow(t *testing.T) {
	now := at("2026-11-23 21:17:00")
	for _, s := range []Schedule{must(t, "* * * * *"), {}} {
		if slot, missed, ok := s.Due(time.Time{}, now, Latest); ok || missed != 0 || !slot.IsZero() {
			t.Errorf("%q: %s, %d, %v", s, slot, missed, ok)
		}
	}
	if _, _, ok := (Schedule{}).Due(now, now.AddDate(1, 0, 0), Latest); ok {
		t.Error("no schedule is due")
	}
}

// specs are lines of all rhythms, with months and days that are far apart.
var specs = []string{"* * * * *", "*/7 * * * *", "17 * * * *", "0,1,59 3-5 * * 1-5", "0 4 * * 0", "30 2 1,15 * *", "* * 1 1 *", "*/20 * * 1-6 6", "0 0 31 * *", "0 4 29 2 *", "@hourly", "@weekly", "@monthly", "@yearly"}

// TestDue_EachSlotOnceWhateverTheRhythm looks at random times, forth and back,
// and walks over all slots beside it.
func TestDue_EachSlotOnceWhateverTheRhythm(t *testing.T) {
	begin := at("2026-11-23 21:10:30")
	rapid.Check(t, func(t *rapid.T) {
		s, err := Parse(rapid.SampledFrom(specs).Draw(t, "spec"))
		if err != nil {
			t.Fatal(err)
		}
		catchUp := rapid.SampledFrom([]CatchUp{Latest, Skip}).Draw(t, "catch up")
		advances := rapid.Bool().Draw(t, "remembers what was too late")
		step := rapid.SampledFrom([]int{90, 3600, 86400, 40 * 86400}).Draw(t, "seconds between looks")
		last, now, furthest := begin, begin, begin
		taken := map[time.Time]bool{}
		passed, yielded := 0, 0
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(-step/3, step).Draw(t, "seconds")) * time.Second)
			slot, missed, ok := s.Due(last, now, catchUp)
			if now.After(furthest) {
				furthest = now
			}
			if slot.IsZero() {
				if ok || missed != 0 {
					t.Fatalf("ok without a slot")
				}
				if next := s.Next(last); !next.IsZero() && !next.After(now) {
					t.Fatalf("%s is due at %s and was not told", next, now)
				}
				continue
			}
			if !slot.After(last) || slot.After(now) {
				t.Fatalf("%s is not in (%s, %s]", slot, last, now)
			}
			if !s.Next(slot.Add(-time.Second)).Equal(slot) {
				t.Fatalf("%s is no slot", slot)
			}
			if next := s.Next(slot); !next.IsZero() && !next.After(now) {
				t.Fatalf("%s is newer than %s at %s", next, slot, now)
			}
			if late := now.Sub(slot); !ok && (catchUp == Latest || late*2 <= min(2*lateMax, s.Next(slot).Sub(slot))) {
				t.Fatalf("%s was passed over %s later", slot, late)
			}
			if late := now.Sub(slot); ok && catchUp == Skip && late*2 > min(2*lateMax, s.Next(slot).Sub(slot)) {
				t.Fatalf("%s is too late at %s", slot, now)
			}
			if ok && taken[slot] {
				t.Fatalf("%s twice", slot)
			}
			if ok {
				taken[slot] = true
				yielded++
			}
			if ok || advances {
				if missed >= missedMax {
					passed = -1 << 30 // more than is counted
				}
				passed += missed
				last = slot
			}
		}
		count := 0
		for n := s.Next(begin); passed >= 0 && !n.IsZero() && !n.After(last); n = s.Next(n) {
			count++
		}
		if passed >= 0 && count != yielded+passed {
			t.Fatalf("%d slots up to %s: %d taken and %d missed", count, last, yielded, passed)
		}
	})
}

func TestSchedule_ReadsWhatItPrints(t *testing.T) {
	for _, spec := range specs {
		text, err := json.Marshal(must(t, " "+spec+" "))
		if err != nil || string(text) != `"`+spec+`"` {
			t.Errorf("%s: %s, %v", spec, text, err)
		}
		var again Schedule
		if err := json.Unmarshal(text, &again); err != nil || again.String() != spec {
			t.Errorf("%s: %s, %v", spec, again, err)
		}
	}
	var s Schedule
	if err := s.UnmarshalText([]byte("@every 1h")); err == nil || !s.IsZero() {
		t.Error("takes what Parse refuses")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range append(specs, "TZ=", "@", "@every", "1-5/2,7 * ? JAN MON-FRI", "0-59/4294967295 * * * *", "99999999999999999999 * * * *") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		s, err := Parse(spec)
		if err != nil {
			if !s.IsZero() {
				t.Fatal("refused and given")
			}
			return
		}
		now := at("2026-11-23 21:10:30")
		if next := s.Next(now); next.IsZero() || !next.After(now) || next.Second() != 0 {
			t.Fatalf("%q: the slot after %s is %s", spec, now, next)
		}
		if again, err := Parse(s.String()); err != nil || again.String() != s.String() {
			t.Fatalf("%q prints as %q: %v", spec, s, err)
		}
	})
}
