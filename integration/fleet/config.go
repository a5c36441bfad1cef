package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Timing are the clocks of a fleet, which tests make faster than production's.
type Timing struct {
	TTL, Renew, AttemptTimeout, Margin time.Duration
	Heartbeat, Election, LeaderLease   time.Duration
	Probe, ProbeTimeout                time.Duration
	LBInterval, LBTimeout, LBDrain     time.Duration
	LBFall                             int
	GroupInterval, AppendTimeout       time.Duration
}

// DemoTiming is half as slow as production: a person can follow it.
func DemoTiming() Timing {
	return Timing{
		TTL: 10 * time.Second, Renew: time.Second, AttemptTimeout: 800 * time.Millisecond, Margin: 4 * time.Second,
		Heartbeat: 600 * time.Millisecond, Election: 600 * time.Millisecond, LeaderLease: 400 * time.Millisecond,
		Probe: 500 * time.Millisecond, ProbeTimeout: 2 * time.Second,
		LBInterval: 400 * time.Millisecond, LBFall: 3, LBTimeout: 400 * time.Millisecond, LBDrain: time.Second, GroupInterval: time.Second, AppendTimeout: 8 * time.Second,
	}
}

// TestTiming is as fast as the lease's inequalities allow on a busy machine.
func TestTiming() Timing {
	return Timing{
		TTL: 5 * time.Second, Renew: 500 * time.Millisecond, AttemptTimeout: 500 * time.Millisecond, Margin: 1500 * time.Millisecond,
		Heartbeat: 400 * time.Millisecond, Election: 400 * time.Millisecond, LeaderLease: 350 * time.Millisecond,
		Probe: 300 * time.Millisecond, ProbeTimeout: 2 * time.Second,
		LBInterval: 100 * time.Millisecond, LBFall: 2, LBTimeout: 200 * time.Millisecond, LBDrain: 200 * time.Millisecond, GroupInterval: 500 * time.Millisecond, AppendTimeout: 4 * time.Second,
	}
}

// RoleOptions are what tests and the demo vary about a role.
type RoleOptions struct {
	Initial     string
	Auto        bool
	AcceptLoss  time.Duration
	FenceWithin time.Duration
	DrainGroups []string
	Stop, Start []string // argv of the operator's hooks
	Hold        bool     // on_quorum_loss: hold although Auto would allow demote
}

// file renders the fleet file: the same for every node, each with its own
// address map through the proxies.
func (f *Fleet) file() ([]byte, error) {
	t := f.options.Timing
	ms := func(d time.Duration) string { return d.String() }
	nodes := yaml.MapSlice{}
	for _, name := range f.nodeNames() {
		n := f.Nodes[name]
		via := map[string]string{}
		for place, addresses := range f.addresses {
			if place == n.Place {
				continue
			}
			for _, a := range addresses {
				p, err := f.Links.Proxy(n.Place, place, a)
				if err != nil {
					return nil, err
				}
				via[a] = p.Address()
			}
		}
		node := yaml.MapSlice{}
		if n.Witness {
			node = append(node, yaml.MapItem{Key: "witness", Value: true})
		} else {
			node = append(node, yaml.MapItem{Key: "region", Value: n.Place})
		}
		node = append(node,
			yaml.MapItem{Key: "peer", Value: n.peer}, yaml.MapItem{Key: "listen", Value: n.peer}, yaml.MapItem{Key: "health", Value: n.health},
			yaml.MapItem{Key: "data", Value: n.Data}, yaml.MapItem{Key: "socket", Value: n.Socket},
			yaml.MapItem{Key: "tls", Value: map[string]string{"ca": n.ca, "cert": n.cert, "key": n.key}},
			yaml.MapItem{Key: "via", Value: via})
		nodes = append(nodes, yaml.MapItem{Key: name, Value: node})
	}
	regions := yaml.MapSlice{}
	for _, name := range f.options.Regions {
		r := f.Regions[name]
		clickhouse := map[string]any{
			"addresses": []string{r.ClickHouse.Address()}, "database": r.ClickHouse.Database(), "user": r.ClickHouse.User(),
			"password": clickhousePassword, "follow": "shadow",
		}
		if f.options.Backups != nil {
			clickhouse["backup_collection"] = ownCollection
		}
		region := yaml.MapSlice{
			{Key: "kafka", Value: map[string]any{"brokers": []string{r.Kafka.Bootstrap()}, "cluster_id": r.Kafka.ClusterID()}},
			{Key: "clickhouse", Value: clickhouse},
		}
		regions = append(regions, yaml.MapItem{Key: name, Value: append(region, f.recovery(name)...)})
	}
	roles := yaml.MapSlice{}
	for _, name := range slices.Sorted(maps.Keys(f.options.Roles)) {
		r := f.options.Roles[name]
		role := yaml.MapSlice{
			{Key: "initial", Value: r.Initial}, {Key: "auto", Value: r.Auto},
			{Key: "probe", Value: map[string]any{"kafka": true, "clickhouse": "SELECT 1"}},
			{Key: "lb", Value: map[string]any{"interval": ms(t.LBInterval), "fall": t.LBFall, "timeout": ms(t.LBTimeout), "drain": ms(t.LBDrain)}},
			{Key: "fence_within", Value: ms(r.FenceWithin)},
		}
		if r.AcceptLoss > 0 {
			role = append(role, yaml.MapItem{Key: "accept_loss", Value: map[string]string{"kafka": ms(r.AcceptLoss)}})
		}
		if r.Hold {
			role = append(role, yaml.MapItem{Key: "on_quorum_loss", Value: "hold"})
		}
		if len(r.DrainGroups) > 0 {
			role = append(role, yaml.MapItem{Key: "drain", Value: map[string]any{"groups": r.DrainGroups, "timeout": "10s"}})
		}
		if len(r.Stop) > 0 {
			role = append(role, yaml.MapItem{Key: "stop", Value: map[string]any{"exec": r.Stop, "timeout": "20s"}})
		}
		if len(r.Start) > 0 {
			role = append(role, yaml.MapItem{Key: "start", Value: map[string]any{"exec": r.Start, "timeout": "20s"}})
		}
		roles = append(roles, yaml.MapItem{Key: name, Value: role})
	}
	doc := yaml.MapSlice{
		{Key: "cluster", Value: f.options.Cluster}, {Key: "mode", Value: f.options.Mode}, {Key: "nodes", Value: nodes}, {Key: "regions", Value: regions},
		{Key: "mirror", Value: map[string]any{
			"topics":         map[string]any{"include": f.options.Topics},
			"groups":         map[string]any{"include": []string{".*"}, "local": f.options.LocalGroups},
			"append_timeout": ms(t.AppendTimeout), // the rig's brokers lead for 3 s after their last word
			"group_interval": ms(t.GroupInterval),
		}},
		{Key: "timing", Value: yaml.MapSlice{
			{Key: "lease", Value: map[string]any{"ttl": ms(t.TTL), "renew": ms(t.Renew), "attempt_timeout": ms(t.AttemptTimeout), "margin": ms(t.Margin)}},
			{Key: "raft", Value: map[string]any{"heartbeat": ms(t.Heartbeat), "election": ms(t.Election), "leader_lease": ms(t.LeaderLease)}},
			{Key: "probe", Value: map[string]any{"interval": ms(t.Probe), "timeout": ms(t.ProbeTimeout)}},
		}},
	}
	if len(roles) > 0 {
		doc = append(doc, yaml.MapItem{Key: "roles", Value: roles})
	}
	doc = append(doc, f.backupSections()...)
	b, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write the fleet file: %w", err)
	}
	return []byte(strings.TrimSpace(string(b)) + "\n"), nil
}
