package failover

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Automatic says whether the leader should move roles by itself now, and if
// not, why not. It needs two independent signs: the lease has run out, and
// every other node finds that the stores of the old region do not answer it.
// A crashed daemon beside a healthy stack moves nothing.
func Automatic(now time.Time, s consensus.State, h Health, rules Rules) (Intent, bool, string) {
	if s.Settings.Observe {
		return Intent{}, false, "mode is observe"
	}
	var roles []topology.Role
	var from topology.Region
	for _, name := range sortedKeys(s.Roles) {
		r := s.Roles[name]
		if !s.Settings.Roles[name].Auto || r.Phase != consensus.Vacant || r.Last.Basis != consensus.LeaseExpiredOnly {
			continue
		}
		if from == "" {
			from = r.Last.Holder
		}
		if r.Last.Holder != from {
			continue // the next round moves it
		}
		if id, p, live := s.LivePlan(name); live && p.Phase != consensus.PlanAborting {
			return Intent{}, false, fmt.Sprintf("plan %s is %s", id, p.Phase)
		}
		if pause, ok := s.Pauses[name]; ok && now.Before(pause.Until) {
			return Intent{}, false, fmt.Sprintf("%s is paused until %s", name, pause.Until.UTC().Format(time.RFC3339))
		}
		if !r.Failover.IsZero() && now.Before(r.Failover.Add(s.Settings.AntiFlap)) {
			return Intent{}, false, fmt.Sprintf("%s failed over at %s and nobody acknowledged it: `holdfast failover ack`", name, r.Failover.UTC().Format(time.TimeOnly))
		}
		roles = append(roles, name)
	}
	if len(roles) == 0 {
		return Intent{}, false, "no automatic role lost its lease"
	}
	// Leases of one region run out within a moment of each other, and what
	// moves together should be one plan: wait for the others of a daemon that
	// is silent.
	if !h.Regions[from].Alive(rules.HeardWithin) {
		for _, name := range sortedKeys(s.Roles) {
			r := s.Roles[name]
			if s.Settings.Roles[name].Auto && r.Holder == from && r.Policy == consensus.Demote {
				return Intent{}, false, fmt.Sprintf("the lease of %s in %s runs out too", name, from)
			}
		}
	}
	others := 0
	for _, node := range sortedKeys(s.Members) {
		if s.Members[node].Region == from {
			continue
		}
		others++
		probe, ok := h.Regions[from].Probes[node]
		if !ok || probe.Age > rules.HeardWithin {
			return Intent{}, false, fmt.Sprintf("%s has not reported its probe of %s", node, from)
		}
		if probe.Failing < rules.ProbeFailing || probe.Failing == 0 {
			return Intent{}, false, fmt.Sprintf("%s still reaches the stores of %s: its daemon may be down, the region is not", node, from)
		}
	}
	if others < 2 {
		return Intent{}, false, "an automatic move needs two other nodes that agree"
	}
	for _, to := range regionsOf(s) {
		if to != from && h.Regions[to].Alive(rules.HeardWithin) {
			return Intent{To: to, Roles: roles, Unplanned: true, Auto: true, Reason: fmt.Sprintf("the lease of %s ran out and %d nodes find its stores unreachable", from, others)}, true, ""
		}
	}
	return Intent{}, false, "no other region's daemon reports"
}
