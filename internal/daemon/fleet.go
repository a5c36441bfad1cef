package daemon

import (
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// heardWithin is how old a daemon's report may be for the daemon to count as alive.
const heardWithin = 3 * time.Second

func leaseTiming(t config.Lease) consensus.LeaseTiming {
	return consensus.LeaseTiming{
		TTL: t.TTL, Renew: t.Renew, AttemptTimeout: t.AttemptTimeout,
		Margin: t.Margin, Delta: t.Delta, ClockRatePPM: int64(t.ClockRatePPM),
	}
}

// agreed is what a fleet file asks all members to agree on.
func agreed(f *config.Fleet) (consensus.Settings, map[topology.Node]consensus.Member) {
	s := consensus.Settings{
		Digest: f.Digest(), Observe: f.Mode == config.Observe, Lease: leaseTiming(f.Timing.Lease),
		Roles: map[topology.Role]consensus.RoleSettings{}, Mirror: mirrored(f), AntiFlap: f.Timing.AntiFlap,
	}
	for name, r := range f.Roles {
		policy := consensus.Demote
		if r.OnQuorumLoss == config.Hold {
			policy = consensus.Hold
		}
		s.Roles[name] = consensus.RoleSettings{Initial: r.Initial, Auto: r.Auto, Policy: policy}
	}
	members := map[topology.Node]consensus.Member{}
	for name, n := range f.Nodes {
		members[name] = consensus.Member{Region: n.Region, Witness: n.Witness}
	}
	return s, members
}

// mirrored reports whether there are two regions with Kafka between which to mirror.
func mirrored(f *config.Fleet) bool {
	with := 0
	for _, r := range f.Regions {
		if r.Kafka != nil {
			with++
		}
	}
	return with >= 2
}

// rulesOf are the parts of the fleet file that plans are made from.
func rulesOf(f *config.Fleet) failover.Rules {
	r := failover.Rules{
		Cluster: f.Cluster, Expires: f.Timing.PlanExpires, Roles: map[topology.Role]failover.RoleRules{},
		HeardWithin: heardWithin, ProbeFailing: 2 * f.Timing.Probe.Interval, Lease: leaseTiming(f.Timing.Lease),
		ReachTimeout: 2 * time.Minute, LagMax: 30 * time.Second,
	}
	for name, role := range f.Roles {
		rr := failover.RoleRules{
			Quiesce: role.LB.Turn(), FenceWithin: role.FenceWithin, AcceptLoss: role.AcceptLoss.Kafka,
			DrainGroups: role.Drain.Groups, DrainTimeout: role.Drain.Timeout,
			Stop: hook(role.Stop), Start: hook(role.Start), Canary: hook(role.Canary),
		}
		for _, reg := range f.Regions {
			if reg.Kafka != nil && (name == topology.Ingestion || role.Probe.Kafka) {
				rr.Stores = append(rr.Stores, "kafka")
			}
			if reg.ClickHouse != nil {
				rr.Stores = append(rr.Stores, "clickhouse")
			}
		}
		r.Roles[name] = rr
	}
	return r
}

func hook(h *config.Hook) failover.Command {
	if h == nil {
		return failover.Command{}
	}
	return failover.Command{Argv: h.Exec, Timeout: h.Timeout}
}
