package replicate

import (
	"cmp"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// LeapEntry is one marker for some partitions. The markers of a leap all have
// the link's one leap id, so one entry serves all partitions of a broker.
type LeapEntry struct {
	Last bool // the partitions' last marker: one epoch up, so that the log cleaner drops the others
	Of   []topology.Partition
}

// LeapEntries plans one request of markers: each partition moves on by up to
// what it needs, all at the same pace, and those that need least leave first.
// The markers of a request, counted over all partitions, are at most limit,
// but at least one per partition. It lowers need by what it planned.
func LeapEntries(need map[topology.Partition]int64, limit int) []LeapEntry {
	var of []topology.Partition
	for p, n := range need {
		if n > 0 {
			of = append(of, p)
		}
	}
	slices.SortFunc(of, func(a, b topology.Partition) int { // least first
		return cmp.Or(cmp.Compare(need[a], need[b]), a.Compare(b))
	})
	var out []LeapEntry
	for first := true; len(of) > 0 && (first || limit >= len(of)); first = false {
		limit -= len(of)
		left := 0
		for left < len(of) && need[of[left]] == 1 {
			left++
		}
		for _, p := range of {
			need[p]--
		}
		add := func(last bool, of []topology.Partition) {
			if len(of) > 0 {
				of = slices.SortedFunc(slices.Values(of), topology.Partition.Compare)
				out = append(out, LeapEntry{Last: last, Of: of})
			}
		}
		add(true, of[:left])
		of = of[left:]
		add(false, of)
	}
	return out
}

// LeapProducer is the id of the markers by which a promotion of this link
// leaps, the same one at all partitions.
func (l Link) LeapProducer() int64 { return Run{Link: l}.LeapProducer() }
