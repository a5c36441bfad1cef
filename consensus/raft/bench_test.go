package raft

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkPropose says what one decision costs on this disk and machine.
func BenchmarkPropose(b *testing.B) {
	for _, where := range []string{"leader", "follower"} {
		b.Run(where, func(b *testing.B) {
			f := newFleet(b, "a", "b", "c")
			f.open("a", "b", "c")
			n := f.leader()
			if where == "follower" {
				n = f.followers()[0]
			}
			f.mustPropose(n, slot("warm", 1))
			var took []time.Duration
			i := 1
			for b.Loop() {
				start := time.Now()
				i++
				if _, err := n.Propose(b.Context(), slot("x", i)); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
