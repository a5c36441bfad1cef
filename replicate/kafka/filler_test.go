package kafka

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/replicate"
)

func TestFiller_IsEmptyRecordsAtTheirOffsets(t *testing.T) {
	for _, compacted := range []bool{false, true} {
		for _, n := range []int{1, 2, 4097, fillerMost - 1, fillerMost} {
			for _, base := range []int64{0, 1 << 40} {
				b, err := filler(n, base, compacted)
				if err != nil {
					t.Fatal(err)
				}
				again, rest, err := replicate.NextBatch(b.Raw)
				if err != nil || len(rest) != 0 || cmp.Diff(again.Header, b.Header) != "" {
					t.Fatalf("%d records: stored as %+v, not %+v: %v", n, again.Header, b.Header, err)
				}
				if b.Base != base || b.End() != base+int64(n) || !b.Contiguous() || b.Codec() != 4 || b.Size() > fillerBytes {
					t.Fatalf("%d records: %d bytes, %+v", n, b.Size(), b.Header)
				}
				next := base
				if err := eachRecord(b, func(r replicate.Record) error {
					if r.Offset != next || r.Timestamp != -1 || r.Value != nil || len(r.Key) != 0 || (r.Key != nil) != compacted || r.Headers != nil {
						return fmt.Errorf("%+v at %d", r, next)
					}
					next++
					return nil
				}); err != nil || next != b.End() {
					t.Fatal(err, next)
				}
				if n == fillerMost {
					t.Logf("compacted %t: %d bytes, %.2f a record", compacted, b.Size(), float64(b.Size())/float64(n))
				}
			}
		}
	}
	for _, n := range []int{-1, 0, fillerMost + 1} {
		if _, err := filler(n, 0, false); err == nil {
			t.Errorf("a filler of %d records is made", n)
		}
	}
	if _, err := filler(1, -1, false); err == nil {
		t.Error("a filler is made below offset 0")
	}
	if _, err := filler(2, math.MaxInt64, false); err == nil {
		t.Error("a filler is made above all offsets")
	}
}

func TestFiller_BatchesDoNotShareBytes(t *testing.T) {
	a, err := filler(fillerMost, 7, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := filler(fillerMost, 9, false)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, _ := replicate.NextBatch(a.Raw); again.Base != 7 || a.Base != 7 || b.Base != 9 {
		t.Errorf("the first is at %d now, the second at %d", again.Base, b.Base)
	}
}
