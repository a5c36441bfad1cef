package config

import (
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/internal/schedule"
)

// Each type that has defaults sets them before its part of the file is read,
// so that a value that is written, zero included, wins over its default.

func (f *Fleet) setDefaults() {
	f.Mode = Active
	f.Mirror.setDefaults()
	f.Timing.setDefaults()
}

func (n *Node) setDefaults() {
	n.Data = "/var/lib/holdfast"
	n.Socket = "/run/holdfast/holdfast.sock"
	n.TLS = TLS{CA: "/etc/holdfast/ca.pem", Cert: "/etc/holdfast/node.pem", Key: "/etc/holdfast/node.key"}
}

func (c *ClickHouse) setDefaults() {
	c.Database = "default"
	c.User = "default"
	c.Follow = Shadow
}

func (r *Repository) setDefaults() { r.Region = "us-east-1" }

func (b *Backup) setDefaults() {
	b.CatchUp = schedule.Latest
	b.Timeout = 2 * time.Hour
}

func (d *Drill) setDefaults() {
	d.CatchUp = schedule.Latest
	d.Timeout = 4 * time.Hour
}

func (c *DrillClickHouse) setDefaults() {
	c.User = "default"
	c.DatabasePrefix = "holdfast_drill"
}

func (m *Mirror) setDefaults() {
	m.Topics.Include = []Pattern{everything}
	m.Topics.Interval = 3 * time.Second
	m.Groups.Include = []Pattern{everything}
	m.AppendTimeout = 15 * time.Second
	m.LeapBudget = 5 * time.Second
	m.Verify = Verify{Sample: 0.05, RateLimit: 20_000_000, Timeout: 4 * time.Hour}
	m.HoleMax, m.SeedMax = 1_000_000, 20_000_000_000
	m.GroupInterval = 500 * time.Millisecond
}

func (r *Role) setDefaults() {
	r.AcceptLoss.Kafka = 30 * time.Second
	r.LB = Balancer{Interval: time.Second, Fall: 2, Timeout: time.Second, Drain: 2 * time.Second}
	r.FenceWithin = 90 * time.Second
	r.Drain.Timeout = 2 * time.Minute
}

func (h *Hook) setDefaults() { h.Timeout = time.Minute }

// The numbers of Timing hold together by relation.go; they are the ones that
// the lease was tested with.
func (t *Timing) setDefaults() {
	t.Lease = Lease{
		TTL: 16 * time.Second, Renew: 2 * time.Second, AttemptTimeout: time.Second, Margin: 5 * time.Second,
		ClockRatePPM: 1000, Delta: 200 * time.Millisecond,
	}
	t.Raft = Raft{Heartbeat: 1500 * time.Millisecond, Election: 1500 * time.Millisecond, LeaderLease: 750 * time.Millisecond}
	t.Probe = ProbeTiming{Interval: time.Second, Timeout: time.Second}
	t.PlanExpires = 10 * time.Minute
	t.AntiFlap = 10 * time.Minute
}

// derive fills what follows from what was written elsewhere.
func (f *Fleet) derive() {
	for name, r := range f.Roles {
		if r.OnQuorumLoss == "" {
			r.OnQuorumLoss = Hold
			if r.Auto {
				r.OnQuorumLoss = Demote
			}
			f.Roles[name] = r
		}
	}
	if _, written := f.where["mirror.topics.include"]; !written && f.Mirror.Preset != "" {
		f.Mirror.Topics.Include = nil // the preset selects
	}
	for name, r := range f.Regions {
		if ch := r.ClickHouse; ch != nil && ch.Databases == nil {
			ch.Databases = []string{ch.Database}
		}
		if repo := r.Repository; repo != nil {
			if _, written := f.where["regions."+string(name)+".repository.path_style"]; !written {
				repo.PathStyle = repo.Endpoint != ""
			}
		}
	}
	for name, n := range f.Nodes {
		if n.Listen == "" && n.Peer != "" {
			n.Listen = bindFor(n.Peer)
			f.Nodes[name] = n
		}
	}
}

// bindFor is the address to bind for a peer address: itself when it names an
// IP address, otherwise its port on every address, because the name may be
// one that only the other side can resolve to us.
func bindFor(peer string) string {
	host, port, err := net.SplitHostPort(peer)
	if err != nil || net.ParseIP(host) != nil {
		return peer
	}
	if host == "localhost" {
		return peer
	}
	return net.JoinHostPort("", port)
}
