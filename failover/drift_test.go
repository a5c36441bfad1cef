package failover

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestGates_DriftBlocksWhatMattersAndMentionsTheRest(t *testing.T) {
	gates := func(want Intent, d Drift) map[string]Gate {
		f := newFleet(setup{policy: consensus.Demote})
		l := f.h.Links[there]
		l.Drift = d
		f.h.Links[there] = l
		c, _ := MakePlan(f.now, f.state, f.h, f.rules, want)
		out := map[string]Gate{}
		for _, g := range c.Gates {
			out[g.Name] = g
		}
		return out
	}
	if _, told := gates(planned, Drift{})["drift"]; told {
		t.Error("a gate about nothing")
	}
	bad := Drift{Blocking: 1, Warnings: 3, First: []string{"events: 4 partitions at the source, 2 at the target"}}
	for _, want := range []Intent{planned, fenced} {
		if g := gates(want, bad)["drift"]; g.OK || !strings.Contains(g.Detail, bad.First[0]) || g.Fix == "" {
			t.Errorf("partitions that differ: %+v", g)
		}
	}
	lossy := fenced
	lossy.AcceptLoss = true
	if g := gates(lossy, bad)["drift"]; !g.OK || !g.Note || !strings.Contains(g.Detail, "accepted") {
		t.Errorf("partitions that differ, accepted: %+v", g)
	}
	if g := gates(planned, Drift{Warnings: 1, First: []string{"events: retention.ms is 1 at the target, want 2"}})["drift"]; !g.OK || !g.Note {
		t.Errorf("settings that differ: %+v", g)
	}
	if g := gates(planned, Drift{Open: []topology.Region{eu}})["authorizer of eu-west"]; !g.OK || !g.Note || !strings.Contains(g.Detail, "no authorizer") {
		t.Errorf("no authorizer: %+v", g)
	}
}
