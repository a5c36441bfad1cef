package replicate

import (
	"testing"

	"pgregory.net/rapid"
)

// What Judge says of two logs that went apart in any way, and what a link from
// the end of the returned one does then, leaves every record in exactly one
// place: in both logs at its offset, in the salvage, or in a foreign range.
func TestJudge_LeavesEveryRecordInExactlyOnePlace(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string, most int) int64 { return int64(rapid.IntRange(0, most).Draw(t, name)) }
		// The mirrored prefix, and what each region wrote behind it. 0 is no
		// record: a fence, a leap, a marker.
		x := n("x", 12)
		old, went := map[int64]int{}, map[int64]int{}
		for o := range x {
			old[o], went[o] = int(o)+1, int(o)+1
		}
		lost := n("lost", int(x)) // the returned log was cut there
		for o := lost; o < x; o++ {
			delete(old, o)
		}
		end := lost
		if lost == x || rapid.Bool().Draw(t, "rewritten") {
			for range n("orphans", 10) {
				old[end] = 1000 + int(end)
				end++
			}
		}
		began := x + 1 + n("leap", 8)
		ahead := began
		for range n("later", 10) {
			went[ahead] = 2000 + int(ahead)
			ahead++
		}
		r := Returned{X: x, Began: began, End: end, Ahead: ahead, EpochEnd: -1, Differs: -1, Whole: true}
		if rapid.Bool().Draw(t, "epoch noted") {
			r.EpochEnd = lost
		}
		for o := range r.Shared() {
			if old[o] != went[o] {
				r.Differs = o
				break
			}
		}
		r.Compared = Range{End: r.Shared()}
		v := r.Judge()
		if v.Freeze != "" || v.Start != end {
			t.Fatalf("%+v: %+v", r, v)
		}
		for range n("meanwhile", 3) { // producers do not wait for the leap
			went[ahead] = 3000 + int(ahead)
			ahead++
		}
		ahead = max(ahead, v.LeapTo)

		// The link copies from v.Start on.
		after := map[int64]int{}
		for o, rec := range old {
			after[o] = rec
		}
		for o := v.Start; o < ahead; o++ {
			if rec := went[o]; rec != 0 {
				after[o] = rec
			}
		}
		foreign := func(o int64) bool {
			for _, f := range v.Foreign {
				if f.Start <= o && o < f.End {
					return true
				}
			}
			return false
		}
		for o, rec := range went { // nothing of the region that went on is lost, or named by chance
			if both := after[o] == rec; both == foreign(o) {
				t.Fatalf("%+v: %+v: record %d at %d: in both %v, foreign %v", r, v, rec, o, both, foreign(o))
			}
		}
		for o, rec := range old {
			if orphan := v.Orphans.Start <= o && o < v.Orphans.End; orphan == (went[o] == rec) {
				t.Fatalf("%+v: %+v: record %d of the returned log at %d: orphan %v", r, v, rec, o, orphan)
			}
		}
		for o, rec := range after { // no offset names two records outside a foreign range
			if other := went[o]; other != 0 && other != rec && !foreign(o) {
				t.Fatalf("%+v: %+v: %d names %d and %d", r, v, o, rec, other)
			}
		}
		if end <= began && lost == x && len(v.Foreign) > 0 {
			t.Fatalf("%+v: the leap covered all orphans, and %v is foreign", r, v.Foreign)
		}
		switch {
		case end <= x:
			seen["below x"]++
		case end <= began:
			seen["in the leap"]++
		case end > ahead:
			seen["beyond all"]++
		default:
			seen["beyond the leap"]++
		}
	})
	for _, what := range []string{"below x", "in the leap", "beyond the leap"} {
		if seen[what] == 0 {
			t.Errorf("no log ended %s: %v", what, seen)
		}
	}
}

func TestJudge_FreezesWhatIsNotProven(t *testing.T) {
	whole := Returned{X: 100, Began: 110, End: 105, Ahead: 120, EpochEnd: 100, Differs: -1, Whole: true, Compared: Range{Start: 0, End: 100}}
	for name, c := range map[string]struct {
		change func(*Returned)
		proven int64
		frozen bool
	}{
		"all compared":                         {func(*Returned) {}, 100, false},
		"the tail compared":                    {func(r *Returned) { r.Whole, r.Records, r.Compared.Start = false, 7, 90 }, 100, false},
		"nothing compared":                     {func(r *Returned) { r.Whole, r.Compared.Start = false, 100 }, 0, true},
		"a difference in the tail":             {func(r *Returned) { r.Whole, r.Records, r.Differs = false, 7, 95 }, 0, true},
		"a difference, all below compared":     {func(r *Returned) { r.Differs, r.Records = 95, 95 }, 95, false},
		"a difference in a compacted topic":    {func(r *Returned) { r.Differs, r.Compacted = 95, true }, 0, true},
		"an epoch that ends before":            {func(r *Returned) { r.EpochEnd = 60 }, 60, false},
		"a log that was cut":                   {func(r *Returned) { r.End = 40 }, 40, false},
		"nothing was mirrored, no epoch noted": {func(r *Returned) { r.X, r.EpochEnd = 0, -1 }, 0, false},
	} {
		r := whole
		c.change(&r)
		v := r.Judge()
		if frozen := v.Freeze != ""; frozen != c.frozen || !frozen && v.Proven != c.proven {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
