package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// votersMax bounds the members of the replicated log: more voters make each
// decision slower and no region safer.
const votersMax = 7

// checker collects problems at paths.
type checker struct {
	fleet    *Fleet
	problems Problems
}

func (c *checker) refuse(path, what, why, try string) {
	p := at(c.fleet.where, path)
	c.problems = append(c.problems, Problem{File: c.fleet.file, Line: p.line, Column: p.column, Path: path, What: what, Why: why, Try: try})
}

// check reports what is wrong, and is silent about sections that could not be
// read and about what follows from them.
func (f *Fleet) check(tainted map[string]bool) Problems {
	c := &checker{fleet: f}
	if tainted[""] {
		return nil
	}
	for _, s := range []struct {
		name  string
		check func()
	}{
		{"cluster", c.cluster}, {"nodes", c.nodes}, {"regions", c.regions}, {"mirror", c.mirror}, {"roles", c.roles}, {"timing", c.timing}, {"backup", c.backup}, {"drill", c.drill},
	} {
		if !tainted[s.name] {
			s.check()
		}
	}
	if !tainted["nodes"] && !tainted["regions"] && !tainted["roles"] && !tainted["timing"] {
		c.relations()
	}
	if !tainted["nodes"] && !tainted["regions"] && !tainted["backup"] {
		c.backups()
		if !tainted["drill"] {
			c.drills()
		}
	}
	return c.problems
}

func (c *checker) cluster() {
	if c.fleet.Cluster == "" {
		c.refuse("cluster", "is missing", "nodes of different fleets must not take each other for their own", "cluster: sentry-prod")
		return
	}
	c.name("cluster", "cluster", c.fleet.Cluster)
}

func (c *checker) name(path, kind, name string) {
	if err := topology.CheckName(kind, name); err != nil {
		c.refuse(path, err.Error(), "the name is used in certificates, metrics and file names", "")
	}
}

func (c *checker) nodes() {
	f := c.fleet
	if len(f.Nodes) == 0 {
		c.refuse("nodes", "is missing or empty", "a fleet is made of daemons", "nodes: {us-east-1: {region: us-east, peer: us-east.example:7421}}")
		return
	}
	if len(f.Nodes) > votersMax {
		c.refuse("nodes", fmt.Sprintf("%d nodes, more than %d", len(f.Nodes), votersMax), "every node votes, and each decision waits for a majority", "")
	}
	peers := map[string]topology.Node{}
	for _, name := range f.NodeNames() {
		n, path := f.Nodes[name], "nodes."+string(name)
		c.name(path, "node", string(name))
		switch {
		case n.Witness && n.Region != "":
			c.refuse(path+".witness", "has both a region and witness: true", "a witness votes and serves no region", "remove one of the two")
		case !n.Witness && n.Region == "":
			c.refuse(path, "has neither a region nor witness: true", "", "add region: NAME, or witness: true")
		}
		if n.Peer == "" {
			c.refuse(path+".peer", "is missing", "the other nodes must know how to reach it", "peer: host:7421")
		} else {
			c.address(path+".peer", n.Peer, true)
		}
		if other, twice := peers[n.Peer]; twice && n.Peer != "" {
			c.refuse(path+".peer", fmt.Sprintf("%s is the peer of %s too", n.Peer, other), "two daemons cannot be reached at one address", "")
		}
		peers[n.Peer] = name
		if n.Listen != "" && n.Listen != n.Peer {
			c.address(path+".listen", n.Listen, false)
		}
		if n.Health != "" {
			c.address(path+".health", n.Health, false)
			if n.Health == n.Listen {
				c.refuse(path+".health", "is the address of the peer listener too", "load balancers must not reach the peers' port", "another port, such as 7422")
			}
		}
		for _, from := range sorted(n.Via) {
			c.address(path+".via."+from, from, true)
			c.address(path+".via."+from, n.Via[from], true)
		}
		c.absolute(path+".data", n.Data)
		c.absolute(path+".socket", n.Socket)
		c.absolute(path+".tls.ca", n.TLS.CA)
		c.absolute(path+".tls.cert", n.TLS.Cert)
		c.absolute(path+".tls.key", n.TLS.Key)
	}
}

func (c *checker) regions() {
	f := c.fleet
	if len(f.Regions) == 0 {
		c.refuse("regions", "is missing or empty", "", "regions: {us-east: {kafka: {brokers: [kafka.us-east.example:9092]}}}")
		return
	}
	for _, name := range f.RegionNames() {
		r, path := f.Regions[name], "regions."+string(name)
		c.name(path, "region", string(name))
		if k := r.Kafka; k != nil {
			c.addresses(path+".kafka.brokers", k.Brokers)
			c.storeTLS(path+".kafka.tls", k.TLS)
			if s := k.SASL; s != nil {
				c.need(path+".kafka.sasl.mechanism", string(s.Mechanism), "mechanism: scram-sha-512")
				c.need(path+".kafka.sasl.user", s.User, "user: holdfast")
				c.need(path+".kafka.sasl.password", s.Password.Reference(), "password: file:/etc/holdfast/kafka.pw")
				if s.Mechanism == Plain && k.TLS == nil {
					c.refuse(path+".kafka.sasl.mechanism", "plain without tls", "the password would cross the network readable", "add tls: {}, or use scram-sha-512")
				}
			}
		}
		if ch := r.ClickHouse; ch != nil {
			c.addresses(path+".clickhouse.addresses", ch.Addresses)
			c.storeTLS(path+".clickhouse.tls", ch.TLS)
			c.need(path+".clickhouse.database", ch.Database, "")
			c.need(path+".clickhouse.user", ch.User, "")
		}
		c.backedUp(path, r)
	}
}

func (c *checker) mirror() {
	m := c.fleet.Mirror
	c.positive("mirror.append_timeout", m.AppendTimeout)
	c.positive("mirror.leap_budget", m.LeapBudget)
	c.positive("mirror.group_interval", m.GroupInterval)
	c.positive("mirror.topics.interval", m.Topics.Interval)
	if d := m.Topics.DeleteAfter; d > 0 && d < time.Hour {
		c.refuse("mirror.topics.delete_after", fmt.Sprintf("%s is less than an hour", d), "a topic that is deleted by mistake must be noticed before its copy is gone", "delete_after: 24h, or 0s to keep copies for ever")
	}
	if m.HoleMax < 1 || m.HoleMax > 100_000_000 {
		c.refuse("mirror.hole_max", fmt.Sprintf("%d is not within 1 and 100000000", m.HoleMax), "a hole is filled offset by offset", "hole_max: 1000000")
	}
	if m.SeedMax < 0 {
		c.refuse("mirror.seed_max", fmt.Sprintf("%d is negative", m.SeedMax), "it is a number of offsets", "seed_max: 20000000000, or 0 to seed nothing")
	}
	if m.RecordLimit < 0 {
		c.refuse("mirror.record_limit", fmt.Sprintf("%d is negative", m.RecordLimit), "it is records per second", "record_limit: 5000, or leave it out")
	}
	for i, l := range m.Limits {
		path := fmt.Sprintf("mirror.limits[%d]", i)
		c.need(path+".topics", l.Topics.String(), "")
		if l.RecordLimit < 0 || l.RateLimit == 0 && l.RecordLimit == 0 {
			c.refuse(path, "it limits nothing", "an entry bounds bytes or records per second", "rate_limit: 5MB/s")
		}
	}
	c.positive("mirror.verify.timeout", m.Verify.Timeout)
	for i, l := range m.CommitLogs {
		path := fmt.Sprintf("mirror.commit_logs[%d]", i)
		c.need(path+".topic", l.Topic, "")
		c.need(path+".of", l.Of, "")
		c.need(path+".group", l.Group, "")
		if l.Topic != "" && l.Topic == l.Of {
			c.refuse(path+".of", fmt.Sprintf("%q is the commit log itself", l.Of), "it names the topic whose offsets the log holds", "of: events")
		}
		if strings.Contains(l.Group, ":") {
			c.refuse(path+".group", fmt.Sprintf("%q has a colon", l.Group), "a commit log's keys are topic:partition:group, and no reader could take this one apart", "")
		}
	}
}

func (c *checker) roles() {
	if n := len(c.fleet.Regions); n > 2 && len(c.fleet.Roles) > 0 {
		c.refuse("regions", fmt.Sprintf("%d data regions with roles", n),
			"this version mirrors and moves roles between two; which of the others would follow is not decided yet", "two regions and a witness")
	}
	for _, name := range c.fleet.RoleNames() {
		r, path := c.fleet.Roles[name], "roles."+string(name)
		c.name(path, "role", string(name))
		c.need(path+".initial", string(r.Initial), "initial: NAME of the region that has the role today")
		c.positive(path+".accept_loss.kafka", r.AcceptLoss.Kafka)
		c.probe(path+".probe", r.Probe)
		c.positive(path+".lb.interval", r.LB.Interval)
		c.positive(path+".lb.timeout", r.LB.Timeout)
		if r.LB.Fall < 1 || r.LB.Fall > 100 {
			c.refuse(path+".lb.fall", fmt.Sprintf("%d is not between 1 and 100", r.LB.Fall), "", "fall: 2")
		}
		if r.Auto && r.OnQuorumLoss == Hold {
			c.refuse(path+".on_quorum_loss", "hold together with auto: true",
				"a holder that goes on without a quorum and a standby that is promoted by itself could both be active", "on_quorum_loss: demote, or auto: false")
		}
		if r.Auto && !r.Probe.Any() {
			c.refuse(path+".probe", "auto: true without a probe",
				"an automatic move needs evidence that the region is gone, not only that its daemon is silent", "probe: {kafka: true}")
		}
		c.hook(path+".stop", r.Stop)
		c.hook(path+".start", r.Start)
		c.hook(path+".canary", r.Canary)
		c.positive(path+".drain.timeout", r.Drain.Timeout)
		for i, g := range r.Drain.Groups {
			c.need(fmt.Sprintf("%s.drain.groups[%d]", path, i), g, "")
		}
	}
}

func (c *checker) probe(path string, p Probe) {
	if q := strings.TrimSpace(p.ClickHouse); q != "" {
		first, _, _ := strings.Cut(strings.ToUpper(q), " ")
		if first != "SELECT" || strings.Contains(q, ";") {
			c.refuse(path+".clickhouse", "is not one SELECT", "a probe runs every second from every node and must change nothing", "clickhouse: SELECT 1")
		}
	}
	if p.HTTP != "" {
		u, err := url.Parse(strings.ReplaceAll(p.HTTP, "{region}", "region"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			c.refuse(path+".http", fmt.Sprintf("%q is not a URL with http or https", shorten(p.HTTP)), "", "http: https://sentry.{region}.example/")
		}
	}
}

func (c *checker) hook(path string, h *Hook) {
	if h == nil {
		return
	}
	if len(h.Exec) == 0 {
		c.refuse(path+".exec", "is missing or empty", "", "exec: [/etc/holdfast/hooks/NAME]")
		return
	}
	if !filepath.IsAbs(h.Exec[0]) {
		c.refuse(path+".exec", fmt.Sprintf("%q is not an absolute path", shorten(h.Exec[0])), "the daemon's PATH is not yours, and there is no shell",
			"the full path of the program; for a shell: [/bin/sh, -c, …]")
	}
	c.positive(path+".timeout", h.Timeout)
}

func (c *checker) timing() {
	t := c.fleet.Timing
	c.positive("timing.lease.ttl", t.Lease.TTL)
	c.positive("timing.lease.renew", t.Lease.Renew)
	c.positive("timing.lease.attempt_timeout", t.Lease.AttemptTimeout)
	c.positive("timing.lease.margin", t.Lease.Margin)
	c.positive("timing.lease.delta", t.Lease.Delta)
	if ppm := t.Lease.ClockRatePPM; ppm < 1 || ppm > 100_000 {
		c.refuse("timing.lease.clock_rate_ppm", fmt.Sprintf("%d is not between 1 and 100000", ppm), "no clock is exact, and one that is wrong by a tenth is broken", "clock_rate_ppm: 1000")
	}
	c.positive("timing.raft.heartbeat", t.Raft.Heartbeat)
	c.positive("timing.raft.election", t.Raft.Election)
	c.positive("timing.raft.leader_lease", t.Raft.LeaderLease)
	c.positive("timing.probe.interval", t.Probe.Interval)
	c.positive("timing.probe.timeout", t.Probe.Timeout)
	c.positive("timing.plan_expires", t.PlanExpires)
}

func (c *checker) need(path, value, try string) {
	if strings.TrimSpace(value) == "" {
		c.refuse(path, "is missing or empty", "", try)
	}
}

func (c *checker) positive(path string, d time.Duration) {
	if d <= 0 {
		c.refuse(path, fmt.Sprintf("%s is not more than zero", d), "", "")
	}
}

func (c *checker) absolute(path, name string) {
	if !filepath.IsAbs(name) {
		c.refuse(path, fmt.Sprintf("%q is not an absolute path", shorten(name)), "the daemon's working directory is not yours", "")
	}
}

// addresses checks a list of host:port that must not be empty.
func (c *checker) addresses(path string, list []string) {
	if len(list) == 0 {
		c.refuse(path, "is missing or empty", "", "a list of host:port")
	}
	for i, a := range list {
		here := fmt.Sprintf("%s[%d]", path, i)
		c.address(here, a, true)
		if slices.Index(list, a) < i {
			c.refuse(here, a+" is in the list twice", "", "remove one")
		}
	}
}

// address checks host:port. The host may be missing where one binds.
func (c *checker) address(path, a string, dialled bool) {
	host, port, err := net.SplitHostPort(a)
	number, numberErr := strconv.Atoi(port)
	switch {
	case err != nil || numberErr != nil || number < 1 || number > 65535:
		c.refuse(path, fmt.Sprintf("%q is not host:port", shorten(a)), "", "such as kafka.us-east.example:9092 or [2001:db8::1]:9092")
	case strings.Contains(host, "/"):
		c.refuse(path, fmt.Sprintf("%q is a URL", shorten(a)), "", "host:port alone")
	case dialled && (host == "" || host == "0.0.0.0" || host == "::"):
		c.refuse(path, fmt.Sprintf("%q names no host", shorten(a)), "others must be able to dial it", "a name or address of the host")
	}
}

func (c *checker) storeTLS(path string, t *TLS) {
	if t == nil {
		return
	}
	if (t.Cert == "") != (t.Key == "") {
		c.refuse(path, "has one of cert and key", "a certificate is presented with its key, or not at all", "give both or none")
	}
	for key, name := range map[string]string{".ca": t.CA, ".cert": t.Cert, ".key": t.Key} {
		if name != "" {
			c.absolute(path+key, name)
		}
	}
}

func sorted[K ~string, V any](m map[K]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}
