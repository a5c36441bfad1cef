package replicate

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestSampler_TakesAsManyPiecesAsTheShareAsksFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Int64Range(0, 1e6).Draw(t, "from")
		n := rapid.Int64Range(1, 20_000).Draw(t, "offsets")
		piece := rapid.Int64Range(1, 2000).Draw(t, "piece")
		share := rapid.Float64Range(0.001, 1.5).Draw(t, "share")
		s := NewSampler(from, from+n, piece, share, rand.Int64N)
		promised, sum, last := s.Offsets(), int64(0), from
		for {
			lo, hi, ok := s.Next()
			if !ok {
				break
			}
			if lo < last || hi <= lo || hi > from+n {
				t.Fatalf("[%d,%d) after %d, of [%d,%d)", lo, hi, last, from, from+n)
			}
			sum, last = sum+hi-lo, hi
		}
		if sum == 0 || share >= 1 && sum != n || sum > promised || promised-sum >= piece {
			t.Fatalf("%d offsets of %d, promised %d", sum, n, promised)
		}
	})
	if lo, hi, ok := NewSampler(7, 7, 10, 0.5, rand.Int64N).Next(); ok {
		t.Fatalf("[%d,%d) of nothing", lo, hi)
	}
}

func TestStatement_OnlyAWholeLookClearsADifference(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	same := Statement{Partition: topology.Partition{Topic: "t"}, Verdict: Identical, From: 0, Through: 1000, Sample: 1, At: at.Add(time.Hour)}
	bad := same
	bad.Verdict, bad.At, bad.DiffersTo, bad.Differences = Differs, at, 501, []Difference{{From: 400, To: 501, Records: 101}}
	for name, c := range map[string]struct {
		change func(*Statement)
		want   bool
	}{
		"all of it, later":           {func(*Statement) {}, true},
		"earlier":                    {func(s *Statement) { s.At = at.Add(-time.Hour) }, false},
		"a sample":                   {func(s *Statement) { s.Sample = 0.99 }, false},
		"it ends below":              {func(s *Statement) { s.Through = 500 }, false},
		"it goes on from behind":     {func(s *Statement) { s.Prior = &Prior{Through: 600} }, false},
		"it goes on from below":      {func(s *Statement) { s.Prior = &Prior{Through: 400} }, true},
		"it differs as before":       {func(s *Statement) { s.Verdict = Differs }, false},
		"both ends have deleted it":  {func(s *Statement) { s.SourceStart, s.TargetStart, s.From, s.Sample = 501, 501, 501, 0.1 }, true},
		"one end has deleted it":     {func(s *Statement) { s.SourceStart, s.From, s.Sample = 501, 501, 0.1 }, false},
		"a part of it is deleted":    {func(s *Statement) { s.SourceStart, s.TargetStart, s.From = 450, 450, 450 }, true},
		"the link was made anew":     {func(s *Statement) { s.Link.Epoch, s.Verdict = 9, Nothing }, true},
		"the topic was made anew":    {func(s *Statement) { s.TargetTopic[0] = 9 }, true},
		"another one's, and earlier": {func(s *Statement) { s.Link.Epoch, s.At = 0, at.Add(-time.Hour) }, false},
	} {
		s := same
		c.change(&s)
		if got := s.Clears(bad); got != c.want {
			t.Errorf("%s: cleared is %v", name, got)
		}
	}
}

func TestJudge_KeepsTheFirstDifferencesAndCountsAll(t *testing.T) {
	j := NewJudge(false, true, nil)
	for i := range int64(100) {
		r := Visible{Record: Record{Offset: i, Value: []byte("v")}}
		if i%2 == 0 {
			j.Only(AtSource, r)
		} else {
			j.Both(r, r)
		}
	}
	s := Statement{Through: 100}
	j.Verdict(&s)
	if s.Verdict != Differs || s.Differing != 50 || s.Ranges != 50 || len(s.Differences) != differencesKept || s.DiffersFrom() != 0 || s.DiffersTo != 99 || s.Records != 50 {
		t.Fatalf("%+v", s)
	}
}
