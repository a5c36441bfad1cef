package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// domainsMin is how many places must be able to fail one by one before a
// machine may decide alone that one of them is gone: two can only accuse each
// other.
const domainsMin = 3

// relations checks what sections must hold together.
func (c *checker) relations() {
	c.oneNodePerRegion()
	c.stores()
	c.leases()
	c.balancers()
	c.failureDomains()
}

func (c *checker) oneNodePerRegion() {
	f := c.fleet
	serves := map[topology.Region]topology.Node{}
	for _, name := range f.NodeNames() {
		n, path := f.Nodes[name], "nodes."+string(name)+".region"
		if n.Witness || n.Region == "" {
			continue
		}
		if _, known := f.Regions[n.Region]; !known {
			c.refuse(path, fmt.Sprintf("%q is not under regions", n.Region), "", c.meant(string(n.Region)))
			continue
		}
		if first, twice := serves[n.Region]; twice {
			c.refuse(path, fmt.Sprintf("second node for region %s; the first is %s", n.Region, first),
				"a region's mirror and its roles are driven by exactly one daemon", "remove one, or make it a witness in a place of its own")
			continue
		}
		serves[n.Region] = name
	}
	for _, r := range f.RegionNames() {
		if _, ok := serves[r]; !ok {
			c.refuse("regions."+string(r), "no node serves it", "each region needs its daemon", fmt.Sprintf("nodes: {%s-1: {region: %s, peer: host:7421}}", r, r))
		}
	}
	for _, name := range f.RoleNames() {
		if initial := f.Roles[name].Initial; initial != "" {
			if _, known := f.Regions[initial]; !known {
				c.refuse("roles."+string(name)+".initial", fmt.Sprintf("%q is not under regions", initial), "", c.meant(string(initial)))
			}
		}
	}
}

// meant proposes a region for a name that is none.
func (c *checker) meant(name string) string {
	var names []string
	for _, r := range c.fleet.RegionNames() {
		names = append(names, string(r))
	}
	if word, ok := nearest(name, names); ok {
		return "did you mean " + word + "?"
	}
	return "one of " + strings.Join(names, ", ")
}

// stores checks that each region has what the mirror and the probes need.
func (c *checker) stores() {
	f := c.fleet
	for _, name := range f.RegionNames() {
		r, path := f.Regions[name], "regions."+string(name)
		if r.Kafka == nil && len(f.Regions) > 1 {
			c.refuse(path, "has no kafka", "with two regions or more each is a mirror's source or target", "kafka: {brokers: [host:9092]}")
		}
		for _, role := range f.RoleNames() {
			p, probe := f.Roles[role].Probe, "roles."+string(role)+".probe"
			if p.Kafka && r.Kafka == nil && len(f.Regions) == 1 {
				c.refuse(probe+".kafka", fmt.Sprintf("region %s has no kafka to probe", name), "", "kafka: false, or add it under "+path)
			}
			if p.ClickHouse != "" && r.ClickHouse == nil {
				c.refuse(probe+".clickhouse", fmt.Sprintf("region %s has no clickhouse to probe", name), "a probe that always fails is evidence of nothing", "remove it, or add clickhouse under "+path)
			}
		}
	}
}

// leases checks that losing a leader alone never takes a healthy holder down,
// and what the log's own timeouts ask of each other.
func (c *checker) leases() {
	l, r := c.fleet.Timing.Lease, c.fleet.Timing.Raft
	if l.Margin >= l.TTL {
		c.refuse("timing.lease.margin", fmt.Sprintf("%s is not less than ttl (%s)", l.Margin, l.TTL), "the holder acts for ttl − margin after each renewal", "ttl: 16s and margin: 5s")
		return
	}
	silence := l.Renew + 3*r.Heartbeat + 2*r.Election + time.Second
	if held := l.TTL - l.Margin; silence > held {
		c.refuse("timing.lease", fmt.Sprintf("renew + 3·heartbeat + 2·election + 1s = %s is more than ttl − margin = %s", silence, held),
			"electing a new leader would outlast the lease, and the loss of a leader alone would take a healthy region down",
			fmt.Sprintf("ttl of at least %s, or shorter raft timeouts", silence+l.Margin))
	}
	if l.AttemptTimeout > l.Renew {
		c.refuse("timing.lease.attempt_timeout", fmt.Sprintf("%s is more than renew (%s)", l.AttemptTimeout, l.Renew), "renewals would queue behind each other", "at most renew")
	}
	if r.Election < r.Heartbeat {
		c.refuse("timing.raft.election", fmt.Sprintf("%s is less than heartbeat (%s)", r.Election, r.Heartbeat), "an election would be given up before the old leader is missed", "election equal to heartbeat")
	}
	if r.LeaderLease > r.Heartbeat {
		c.refuse("timing.raft.leader_lease", fmt.Sprintf("%s is more than heartbeat (%s)", r.LeaderLease, r.Heartbeat), "a cut-off leader must step down before another one is elected", "half of heartbeat")
	}
}

// balancers checks that requests have left a region before its lease ends.
func (c *checker) balancers() {
	margin := c.fleet.Timing.Lease.Margin
	for _, name := range c.fleet.RoleNames() {
		lb := c.fleet.Roles[name].LB
		if turn := lb.Turn(); turn > margin {
			c.refuse("roles."+string(name)+".lb", fmt.Sprintf("interval × fall + timeout + drain = %s is more than timing.lease.margin = %s", turn, margin),
				"balancers could still send to this region when another one becomes active",
				fmt.Sprintf("check more often, or a margin of %s (and a ttl that is longer by as much)", turn))
		}
	}
}

// failureDomains checks that roles which move or stop by themselves have
// enough independent judges.
func (c *checker) failureDomains() {
	f := c.fleet
	domains, have := len(f.Regions)+len(f.Witnesses()), fmt.Sprintf("%d regions and %d witnesses", len(f.Regions), len(f.Witnesses()))
	for _, name := range f.RoleNames() {
		r, path := f.Roles[name], "roles."+string(name)
		switch {
		case r.Auto && (domains < domainsMin || len(f.Regions) < 2):
			c.refuse(path+".auto", "true needs three failure domains; there are "+have,
				"two places that lose each other cannot tell which of them is gone", "add a witness in a third place, or auto: false")
		case !r.Auto && r.OnQuorumLoss == Demote && domains < domainsMin:
			c.refuse(path+".on_quorum_loss", "demote needs three failure domains; there are "+have,
				"with two voters the loss of either would stop the healthy region too", "add a witness in a third place, or on_quorum_loss: hold")
		}
	}
}
