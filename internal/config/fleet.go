package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Fleet is the whole configuration, loaded, completed by defaults and checked.
// It is never changed after Load and may be shared between goroutines.
type Fleet struct {
	Cluster string                     `yaml:"cluster" jsonschema:"required" jsonschema_description:"Name of the whole fleet; shown by status, carried in the certificates and metrics."`
	Mode    Mode                       `yaml:"mode" jsonschema_description:"active: holdfast drives roles. observe: it mirrors and plans, and drives nothing."`
	Nodes   map[topology.Node]Node     `yaml:"nodes" jsonschema:"required" jsonschema_description:"One daemon per data region, and witnesses, which vote and hold no data."`
	Regions map[topology.Region]Region `yaml:"regions" jsonschema:"required" jsonschema_description:"The places and their stores."`
	Mirror  Mirror                     `yaml:"mirror" jsonschema_description:"What is mirrored between the regions' Kafka clusters."`
	Roles   map[topology.Role]Role     `yaml:"roles" jsonschema_description:"What exactly one region may do. None: holdfast holds no leases and moves nothing."`
	Timing  Timing                     `yaml:"timing" jsonschema_description:"Leases, elections and probes. The defaults hold together; change them together."`
	Backup  *Backup                    `yaml:"backup" jsonschema_description:"Which recovery sets are taken, and when. Absent: none."`
	Drill   *Drill                     `yaml:"drill" jsonschema_description:"How recovery sets are proven, and when. Absent: not."`
	where   map[string]place           // where each key stands, by path
	file    string                     // as given to Load or Parse
	_       struct{}                   `yaml:"-"` // named fields only
}

// Node is one daemon.
type Node struct {
	Region  topology.Region   `yaml:"region" jsonschema_description:"The data region this daemon serves. One node per region."`
	Witness bool              `yaml:"witness" jsonschema_description:"true: votes and probes, serves no region."`
	Peer    string            `yaml:"peer" jsonschema:"required" jsonschema_description:"host:port by which the other nodes reach this one: raft and control, mutual TLS."`
	Listen  string            `yaml:"listen" agree:"-" jsonschema_description:"host:port this node binds for its peers. Default: peer when its host is an IP address, otherwise every address with the port of peer."`
	Health  string            `yaml:"health" agree:"-" jsonschema_description:"host:port of the listener that load balancers ask. Empty: none."`
	Via     map[string]string `yaml:"via" agree:"-" jsonschema_description:"Dial map of this node, for VPNs, NAT and forwarded ports: the address in this file to the address that this node must dial. Applies to peers, brokers and stores."`
	Data    string            `yaml:"data" agree:"-" jsonschema_description:"Directory of the replicated log and of deadlines. Never shared by two daemons."`
	Socket  string            `yaml:"socket" agree:"-" jsonschema_description:"Unix socket of the API, for the command line on this host."`
	TLS     TLS               `yaml:"tls" agree:"-" jsonschema_description:"Certificate for peers; its name must be the node's."`
}

// TLS names certificate files in PEM form. For a store, an empty CA means the
// host's own roots, and Cert and Key are only for a store that asks for them.
type TLS struct {
	CA   string `yaml:"ca" jsonschema_description:"File with the certificates of the authorities to trust."`
	Cert string `yaml:"cert" jsonschema_description:"File with the certificate chain to present."`
	Key  string `yaml:"key" jsonschema_description:"File with its private key."`
}

// Region is a place and its stores. A store that is nil is not there.
type Region struct {
	Kafka      *Kafka      `yaml:"kafka" jsonschema_description:"The region's Kafka cluster. Needed in each region once there are two."`
	ClickHouse *ClickHouse `yaml:"clickhouse" jsonschema_description:"The region's ClickHouse."`
	Postgres   *Postgres   `yaml:"postgres" jsonschema_description:"The region's PostgreSQL. For backups alone: it is not replicated or promoted yet."`
	Repository *Repository `yaml:"repository" jsonschema_description:"Where the region's recovery sets are kept."`
}

// Kafka says how to reach a cluster.
type Kafka struct {
	Brokers   []string `yaml:"brokers" jsonschema:"required" jsonschema_description:"host:port of some brokers; the rest is discovered."`
	ClusterID string   `yaml:"cluster_id" jsonschema_description:"When given, a cluster with another id is refused."`
	TLS       *TLS     `yaml:"tls" agree:"-" jsonschema_description:"Encrypt; {} trusts the host's own roots. Absent: plain text."`
	SASL      *SASL    `yaml:"sasl" agree:"-" jsonschema_description:"Authenticate. Absent: not."`
}

// SASL says how to authenticate to Kafka.
type SASL struct {
	Mechanism Mechanism `yaml:"mechanism" jsonschema:"required" jsonschema_description:"How the password is proven."`
	User      string    `yaml:"user" jsonschema:"required" jsonschema_description:"Name of the user."`
	Password  Secret    `yaml:"password" jsonschema:"required" jsonschema_description:"Reference to the password."`
}

// ClickHouse says how to reach the servers of a region, and how a standby
// there gets its data.
type ClickHouse struct {
	Addresses []string `yaml:"addresses" jsonschema:"required" jsonschema_description:"host:port of the native protocol, any number of replicas."`
	Database  string   `yaml:"database" jsonschema_description:"Database of the event tables."`
	User      string   `yaml:"user" agree:"-" jsonschema_description:"Name of the user."`
	Password  Secret   `yaml:"password" agree:"-" jsonschema_description:"Reference to the password. Absent: empty."`
	TLS       *TLS     `yaml:"tls" agree:"-" jsonschema_description:"Encrypt; {} trusts the host's own roots. Absent: plain text."`
	// The two that follow are for backups.
	BackupCollection string   `yaml:"backup_collection" jsonschema_description:"For backups: name of the named collection on the server whose URL is the root (bucket and prefix) of this region's repository."`
	Databases        []string `yaml:"databases" jsonschema_description:"For backups: which databases are taken. Absent: database."`
	Follow           Follow   `yaml:"follow" jsonschema_description:"How this store follows while the region stands by. shadow: consumers run here too, over mirrored topics. restore: from sets. external: its own replication."`
}

// Mirror says what is copied between the regions' Kafka clusters. Topics whose
// name starts with two underscores are never mirrored.
type Mirror struct {
	Preset        Preset        `yaml:"preset" jsonschema_description:"Which topics a known product needs in another region; include and exclude refine it. Absent: none."`
	Topics        Topics        `yaml:"topics" jsonschema_description:"Which topics are mirrored."`
	ACLs          ACLs          `yaml:"acls" jsonschema_description:"Whether rights follow the source."`
	Groups        Groups        `yaml:"groups" jsonschema_description:"Whose offsets are copied."`
	RateLimit     Rate          `yaml:"rate_limit" jsonschema_description:"Bytes per second that one mirror may read over the WAN, such as 50MB/s. Absent: no limit."`
	RecordLimit   int           `yaml:"record_limit" jsonschema_description:"Records per second that one mirror may write. Absent: no limit."`
	Limits        []TopicLimit  `yaml:"limits" jsonschema_description:"Limits of single topics, beside those of the whole mirror."`
	HoleMax       int           `yaml:"hole_max" jsonschema_description:"Offsets without a record that may follow each other at the source. A longer hole freezes its partition: at about 50 000 offsets a second it would hold the mirror up."`
	SeedMax       int           `yaml:"seed_max" jsonschema_description:"Offsets that the source deleted before it was ever mirrored, and that are seeded so that the rest keeps its offsets. A longer prefix freezes its partition: 1e9 take some minutes and 1 GB for a while."`
	LeapBudget    time.Duration `yaml:"leap_budget" jsonschema_description:"How long a move without the old region may take to skip the offsets that it may have used. More is safer and makes that move longer."`
	AppendTimeout time.Duration `yaml:"append_timeout" jsonschema_description:"Bound of one write to the target's Kafka. After a mirror that ended without a word it is waited for this long, so not less than the target brokers' session timeout (9 s by default)."`
	GroupInterval time.Duration `yaml:"group_interval" jsonschema_description:"How often group offsets are copied."`
	CommitLogs    []CommitLog   `yaml:"commit_logs" jsonschema_description:"Topics by which consumers tell others how far they have come, each region its own: never mirrored, and seeded when a role moves."`
	Verify        Verify        `yaml:"verify" jsonschema_description:"How both ends are compared, by schedule and by hand."`
}

// TopicLimit slows the mirror of some topics, each for itself.
type TopicLimit struct {
	Topics      Pattern `yaml:"topics" jsonschema:"required" jsonschema_description:"Regular expression on the whole name. The first entry that matches counts."`
	RateLimit   Rate    `yaml:"rate_limit" jsonschema_description:"Bytes per second of each topic. Absent: no limit."`
	RecordLimit int     `yaml:"record_limit" jsonschema_description:"Records per second of each topic. Absent: no limit."`
}

// Verify says how the two ends of a mirror are compared with each other.
type Verify struct {
	Schedule  schedule.Schedule `yaml:"schedule" jsonschema_description:"Cron line in UTC, as in backup: what came since the last time is compared. Absent: by hand alone."`
	Sample    Share             `yaml:"sample" jsonschema_description:"Share of the offsets that a scheduled run reads, chosen by chance, such as 5%. 100%: all of them."`
	RateLimit Rate              `yaml:"rate_limit" jsonschema_description:"Bytes per second that a comparison may read over the WAN, also one by hand that names no other."`
	Timeout   time.Duration     `yaml:"timeout" jsonschema_description:"Bound of one run."`
}

// CommitLog is a topic in the format of Sentry's arroyo.
type CommitLog struct {
	Topic string `yaml:"topic" jsonschema:"required" jsonschema_description:"The commit log."`
	Of    string `yaml:"of" jsonschema:"required" jsonschema_description:"The topic whose offsets it holds."`
	Group string `yaml:"group" jsonschema:"required" jsonschema_description:"The consumer group whose offsets it holds."`
}

// Topics selects topics by patterns on the whole name.
type Topics struct {
	Include []Pattern `yaml:"include" jsonschema_description:"Regular expressions on the whole name. Default: everything, or with a preset what the preset mirrors; with both, include adds to the preset, but nothing of its class local."`
	Exclude []Pattern `yaml:"exclude" jsonschema_description:"Regular expressions on the whole name; stronger than include and preset."`
	// Interval is how often topics, settings and access are compared.
	Interval time.Duration `yaml:"interval" jsonschema_description:"How often topics, their settings and the rights on them are compared: a change at the source is in the target this much later, plus the time of the requests."`
	// DeleteAfter is how long the copy of a deleted topic is kept.
	DeleteAfter time.Duration `yaml:"delete_after" jsonschema_description:"How long the target keeps its copy of a topic that was deleted at the source; then the copy is deleted. 0s: for ever."`
}

// ACLs say whether the rights in the target's Kafka follow the source's.
type ACLs struct {
	Sync bool      `yaml:"sync" jsonschema_description:"true: rules on mirrored topics and groups become what the source has, deletions included; wider ones (all topics, prefixes of others, the cluster) are added, and taken away when the source's are. Both clusters need an authorizer, and holdfast's user Describe and, at the target, Alter on the cluster."`
	Keep []Pattern `yaml:"keep" jsonschema_description:"Principals, such as User:admin-.*, whose rules are each cluster's own: never added, never taken away. holdfast's own users always are."`
}

// Groups selects consumer groups by patterns on the whole name.
type Groups struct {
	Include []Pattern `yaml:"include" jsonschema_description:"Regular expressions on the whole name."`
	Exclude []Pattern `yaml:"exclude" jsonschema_description:"Groups that nobody needs in another region."`
	Local   []Pattern `yaml:"local" jsonschema_description:"Groups that run in each region with offsets of their own (shadow consumers): never overwritten, by no sync and no switch."`
	// Latest is the rule for partitions that a group never read.
	Latest []Pattern `yaml:"start_latest" jsonschema_description:"Groups whose consumers start at the end of a partition that they never read (auto.offset.reset: latest). All others start at its beginning (earliest)."`
}

// Role is a thing that exactly one region may do.
type Role struct {
	Initial      topology.Region `yaml:"initial" jsonschema:"required" jsonschema_description:"The region that gets the role when the fleet is bootstrapped. Later the log decides."`
	Auto         bool            `yaml:"auto" jsonschema_description:"true: an unplanned move needs no person. Needs three failure domains and a probe."`
	OnQuorumLoss QuorumLoss      `yaml:"on_quorum_loss" jsonschema_description:"hold: an open holder goes on without a quorum, and nothing is promoted. demote: it stops. Default: demote with auto, hold without."`
	AcceptLoss   Loss            `yaml:"accept_loss" jsonschema_description:"Above these an unplanned move asks a person."`
	Probe        Probe           `yaml:"probe" jsonschema_description:"What the other nodes try against the holder's region before they believe that it is gone."`
	LB           Balancer        `yaml:"lb" jsonschema_description:"How the load balancers check; must be what they are really configured with."`
	FenceWithin  time.Duration   `yaml:"fence_within" jsonschema_description:"Bound after which workloads that do not run under holdfast guard have stopped by other means. 0s: all of them run under guard."`
	Stop         *Hook           `yaml:"stop" jsonschema_description:"Stops the role's producers and singletons in the region that gives it up."`
	Drain        Drain           `yaml:"drain" jsonschema_description:"Which groups must have read everything before the end is taken."`
	Start        *Hook           `yaml:"start" jsonschema_description:"Starts the role's workloads in the region that gets it."`
	Canary       *Hook           `yaml:"canary" jsonschema_description:"Sends something through the new region before it is opened."`
}

// Loss bounds what an unplanned move may lose without a person's word.
type Loss struct {
	Kafka time.Duration `yaml:"kafka" jsonschema_description:"Mirror lag in time."`
}

// Probe says what is tried against a region's data plane.
type Probe struct {
	Kafka      bool   `yaml:"kafka" jsonschema_description:"Produce to and fetch from a topic of holdfast's own."`
	ClickHouse string `yaml:"clickhouse" jsonschema_description:"A SELECT that must return."`
	HTTP       string `yaml:"http" jsonschema_description:"A URL that must answer 2xx or 3xx; {region} stands for the region's name."`
}

// Any reports whether there is anything to probe.
func (p Probe) Any() bool { return p.Kafka || p.ClickHouse != "" || p.HTTP != "" }

// Balancer is how load balancers check the health listener.
type Balancer struct {
	Interval time.Duration `yaml:"interval" jsonschema_description:"Time between two checks."`
	Fall     int           `yaml:"fall" jsonschema_description:"Failed checks in a row until a region is taken out."`
	Timeout  time.Duration `yaml:"timeout" jsonschema_description:"Bound of one check."`
	Drain    time.Duration `yaml:"drain" jsonschema_description:"Bound of a request that was accepted before."`
}

// Turn is the longest time from the first 503 until no request that was sent
// to the region is still under way there: interval × fall + timeout + drain.
func (b Balancer) Turn() time.Duration {
	return b.Interval*time.Duration(b.Fall) + b.Timeout + b.Drain
}

// Hook is a command of the operator. It is run without a shell, with
// HOLDFAST_ROLE, HOLDFAST_REGION and HOLDFAST_EPOCH in its environment, and
// must be safe to run twice.
type Hook struct {
	Exec    []string      `yaml:"exec" jsonschema:"required" jsonschema_description:"Absolute path of the program, and its arguments. No shell is involved."`
	Timeout time.Duration `yaml:"timeout" jsonschema_description:"Bound; then the program is ended and the step has failed."`
}

// Drain says which groups must reach the end of their topics in a planned move.
type Drain struct {
	Groups  []string      `yaml:"groups" jsonschema_description:"Names of groups, in the order of the pipeline."`
	Timeout time.Duration `yaml:"timeout" jsonschema_description:"Bound; then the move is undone."`
}

// Timing holds the clocks of the fleet. All nodes must agree on it.
type Timing struct {
	Lease       Lease         `yaml:"lease" jsonschema_description:"A region's right to act."`
	Raft        Raft          `yaml:"raft" jsonschema_description:"The replicated log. heartbeat must be at least ten times the round trip's 99th percentile."`
	Probe       ProbeTiming   `yaml:"probe" jsonschema_description:"Probes of the data plane."`
	PlanExpires time.Duration `yaml:"plan_expires" jsonschema_description:"How long a failover plan may be run after it was made."`
	AntiFlap    time.Duration `yaml:"anti_flap" jsonschema_description:"After a failover, no automatic one within this time, unless a person acknowledges."`
}

// Lease holds the numbers of the lease. The holder acts until its send time +
// TTL − Margin; the leader declares it lapsed TTL·(1+2ρ)+Delta after it first
// observed the last renewal.
type Lease struct {
	TTL            time.Duration `yaml:"ttl" jsonschema_description:"Length of the lease as the leader counts it."`
	Renew          time.Duration `yaml:"renew" jsonschema_description:"Time between renewals."`
	AttemptTimeout time.Duration `yaml:"attempt_timeout" jsonschema_description:"Bound of one renewal attempt; the next follows at once."`
	Margin         time.Duration `yaml:"margin" jsonschema_description:"How much earlier the holder stops; covers balancers and guarded processes."`
	ClockRatePPM   int           `yaml:"clock_rate_ppm" jsonschema_description:"How far a clock's rate may be off, in millionths."`
	Delta          time.Duration `yaml:"delta" jsonschema_description:"Extra wait of the leader."`
}

// Raft holds the timeouts of the replicated log.
type Raft struct {
	Heartbeat   time.Duration `yaml:"heartbeat" jsonschema_description:"Silence after which a follower stands for election."`
	Election    time.Duration `yaml:"election" jsonschema_description:"Bound of one election round."`
	LeaderLease time.Duration `yaml:"leader_lease" jsonschema_description:"A leader without its quorum for this long steps down."`
}

// ProbeTiming holds the rhythm of the data plane's probes.
type ProbeTiming struct {
	Interval time.Duration `yaml:"interval" jsonschema_description:"Time between two probes of one store."`
	Timeout  time.Duration `yaml:"timeout" jsonschema_description:"Bound of one probe."`
}

// File is the name under which the fleet was loaded.
func (f *Fleet) File() string { return f.file }

// Node returns the part of the named node. The error lists the names there are.
func (f *Fleet) Node(name topology.Node) (Node, error) {
	n, ok := f.Nodes[name]
	if !ok {
		names := make([]string, 0, len(f.Nodes))
		for _, n := range f.NodeNames() {
			names = append(names, string(n))
		}
		return Node{}, fmt.Errorf("find node %q in %s: it has %s; pass --node or set HOLDFAST_NODE", name, f.file, strings.Join(names, ", "))
	}
	return n, nil
}

// NodeNames returns all nodes, witnesses included, in order of name.
func (f *Fleet) NodeNames() []topology.Node { return slices.Sorted(maps.Keys(f.Nodes)) }

// RegionNames returns the data regions in order of name.
func (f *Fleet) RegionNames() []topology.Region { return slices.Sorted(maps.Keys(f.Regions)) }

// RoleNames returns the roles in order of name.
func (f *Fleet) RoleNames() []topology.Role { return slices.Sorted(maps.Keys(f.Roles)) }

// Witnesses returns the witness nodes in order of name.
func (f *Fleet) Witnesses() []topology.Node {
	return slices.DeleteFunc(f.NodeNames(), func(n topology.Node) bool { return !f.Nodes[n].Witness })
}

// NodeOf returns the node that serves a region. A checked fleet has exactly
// one for each of its regions; false is for a region that it does not have.
func (f *Fleet) NodeOf(region topology.Region) (topology.Node, bool) {
	for _, name := range f.NodeNames() {
		if n := f.Nodes[name]; !n.Witness && n.Region == region {
			return name, true
		}
	}
	return "", false
}

// Dial returns the address that this node must dial for an address of the
// fleet file.
func (n Node) Dial(address string) string {
	if via, ok := n.Via[address]; ok {
		return via
	}
	return address
}
