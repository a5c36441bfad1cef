package failover

import (
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Health is what a leader knows about the regions, from reports. It is not
// agreed on and may be old: each part says how old.
type Health struct {
	Regions map[topology.Region]RegionHealth `json:"regions"`
	Links   map[consensus.LinkID]LinkHealth  `json:"links"`
	// Voters is how many members reach the leader, itself included.
	Voters  int `json:"voters"`
	Members int `json:"members"`
}

// RegionHealth is what is known about one region.
type RegionHealth struct {
	// Heard is how long ago the region's daemon reported; negative if never.
	Heard time.Duration `json:"heard"`
	// Stores are the region's own checks: "kafka", "clickhouse".
	Stores map[string]Check `json:"stores"`
	// Probes are what other nodes found when they used the region's stores.
	Probes map[topology.Node]Probe `json:"probes"`
	// Guards says which guarded processes run here.
	Guards []Guard `json:"guards,omitempty"`
	// ClockPPM is how much faster this daemon's clock runs than the leader's.
	ClockPPM float64 `json:"clock_ppm,omitempty"`
}

// Alive reports whether the region's daemon reported within d.
func (r RegionHealth) Alive(d time.Duration) bool { return r.Heard >= 0 && r.Heard <= d }

// Check is one verdict, with one sentence.
type Check struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Probe is what one node found when it used another region's stores.
type Probe struct {
	Age    time.Duration    `json:"age"` // of the report
	Checks map[string]Check `json:"checks"`
	// Failing is for how long at least one check has failed in a row; 0 if none does.
	Failing time.Duration `json:"failing"`
}

// Guard is a process under `holdfast guard`.
type Guard struct {
	ID      string          `json:"id"`
	Role    topology.Role   `json:"role"`
	Epoch   consensus.Epoch `json:"epoch"`
	PID     int             `json:"pid"`
	Running bool            `json:"running"`
	Age     time.Duration   `json:"age"`
}

// LinkHealth is what the target's daemon last said about its mirror.
type LinkHealth struct {
	Heard   time.Duration `json:"heard"` // age of the report; negative if never
	Running bool          `json:"running"`
	// Records, Bytes and Seconds are how far the target is behind.
	Records int64   `json:"records"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// SourceSeen is how long before the report the source's ends were read.
	SourceSeen time.Duration `json:"source_seen"`
	// Rate is how many records per second the source accepts.
	Rate       float64 `json:"rate"`
	Partitions int     `json:"partitions"`
	// Frozen lists partitions that do not move, each with reason and next step.
	Frozen []FrozenPartition `json:"frozen,omitempty"`
	// Coverage is what is known about consumer groups in the target.
	Coverage Coverage `json:"coverage"`
	// Exposed are the topics of which a consumer group would read orphans in
	// the target, in order.
	Exposed []Exposed `json:"exposed,omitempty"`
	// Drift is in what the two clusters differ.
	Drift Drift `json:"drift"`
}

// Drift counts in what a source and its target differ, beside their records:
// topics, partitions, settings, rights.
type Drift struct {
	Blocking int      `json:"blocking"` // records would be missing, or keys would move
	Warnings int      `json:"warnings"`
	First    []string `json:"first,omitempty"` // one sentence each, blocking ones first, bounded
	// Open names the regions whose Kafka has no authorizer.
	Open []topology.Region `json:"open,omitempty"`
}

// FrozenPartition is a partition that the mirror will not touch.
type FrozenPartition struct {
	topology.Partition
	From   int64  `json:"from"`
	To     int64  `json:"to"`
	Reason string `json:"reason"`
	Next   string `json:"next"`
}

// Exposed is a topic with orphans in the target that consumer groups have not
// passed yet: one that started there would read them.
type Exposed struct {
	Topic  string `json:"topic"`
	Groups int    `json:"groups"`
	First  string `json:"first"` // "billing stands at 990 of events/0, below 1023"
}

// Coverage counts consumer groups whose offsets are present and in range.
type Coverage struct {
	Groups  int      `json:"groups"`
	Covered int      `json:"covered"`
	Missing []string `json:"missing,omitempty"` // one sentence each, bounded
}
