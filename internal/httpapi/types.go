package httpapi

import (
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Times are UTC. Fields that end in _ms are milliseconds, in _seconds seconds;
// the durations inside plans, gates and intents are nanoseconds, as Go writes
// them. A figure of -1 is not known.

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	Note     Severity = "note"     // good to know; nothing is wrong
	Warning  Severity = "warning"  // something should be done, in working hours
	Critical Severity = "critical" // something is at risk now
)

// Finding is something that a person should know, with the next step.
type Finding struct {
	Severity Severity `json:"severity" enum:"note,warning,critical"`
	About    string   `json:"about"`          // a role, store, link, node: "query", "kafka of eu-west"
	What     string   `json:"what"`           // one sentence, with figures
	Next     string   `json:"next,omitempty"` // the command or act that helps
}

// Status is one screen about the fleet, as one node sees it.
type Status struct {
	Cluster    string               `json:"cluster"`
	Node       topology.Node        `json:"node"`    // who answers
	Version    string               `json:"version"` // of that daemon
	Mode       string               `json:"mode" enum:"active,observe"`
	At         time.Time            `json:"at"`
	Leader     topology.Node        `json:"leader,omitempty"` // empty: no leader is known
	Reachable  int                  `json:"reachable"`        // members that reach the leader, itself included; -1 when this node does not know
	Members    int                  `json:"members"`
	Generation consensus.Generation `json:"generation"`
	// FactsAgeMs is how old what follows is where it came from other nodes:
	// the age of the last summary from the leader. 0 on the leader.
	FactsAgeMs int64       `json:"facts_age_ms"`
	Roles      []RoleRow   `json:"roles"`
	Stores     []StoreCell `json:"stores"`
	Links      []LinkRow   `json:"links"`
	Plans      []Plan      `json:"plans"` // live ones
	// Sets has a row for each region that is backed up; empty when none is.
	Sets []SetStatus `json:"sets,omitempty"`
	// Findings are what the fields above do not say by themselves. The
	// command line makes its own findings of stores that are not OK, frozen
	// ranges, blocked moves, holds, pauses, stuck plans and a missing leader.
	Findings []Finding `json:"findings"`
}

// RoleRow is one role.
type RoleRow struct {
	Role    topology.Role   `json:"role"`
	Holder  topology.Region `json:"holder,omitempty"` // empty when vacant
	Phase   consensus.Phase `json:"phase"`
	Epoch   consensus.Epoch `json:"epoch"`
	Lease   LeaseState      `json:"lease" enum:"valid,held,lapsed,unknown"`
	LeaseMs int64           `json:"lease_remaining_ms"` // by the holder's own deadline, less the age of its report; -1 unless valid
	Basis   consensus.Basis `json:"basis,omitempty"`    // what the last grant rested on
	Auto    bool            `json:"auto"`
	Policy  string          `json:"on_quorum_loss"` // hold or demote
	Last    topology.Region `json:"last_holder,omitempty"`
	Standby topology.Region `json:"standby,omitempty"` // where it could move
	// Behind is how far the standby is behind, per store that the role needs.
	Behind []Behind `json:"behind,omitempty"`
	// Move is what a planned move to the standby would meet now; nil if there
	// is no standby.
	Move *MoveNow `json:"move,omitempty"`
	// Paused is until when automatic moves are suspended; zero if they are not.
	Paused       time.Time `json:"paused_until,omitzero"`
	PausedReason string    `json:"paused_reason,omitempty"`
	// Failover is when an unplanned move granted the role that nobody has
	// acknowledged; zero otherwise.
	Failover time.Time `json:"failover_unacknowledged,omitzero"`
}

// LeaseState is what is known about a holder's lease.
type LeaseState string

// The states of a lease.
const (
	LeaseValid   LeaseState = "valid"
	LeaseHeld    LeaseState = "held"    // past its deadline, by on_quorum_loss: hold
	LeaseLapsed  LeaseState = "lapsed"  // nobody may act
	LeaseUnknown LeaseState = "unknown" // its holder has not reported
)

// Behind is the distance of one store of a standby.
type Behind struct {
	Store   string  `json:"store"`   // kafka, clickhouse
	Records int64   `json:"records"` // -1: not known, or not counted for this store
	Seconds float64 `json:"seconds"` // -1: not known
}

// MoveNow is what a planned move would meet.
type MoveNow struct {
	Ready    bool               `json:"ready"`
	PauseMs  int64              `json:"pause_ms"` // estimate
	Blockers []failover.Blocker `json:"blockers,omitempty"`
}

// StoreCell is one store of one region.
type StoreCell struct {
	Store   string          `json:"store"`
	Region  topology.Region `json:"region"`
	OK      bool            `json:"ok"`
	Known   bool            `json:"known"`          // false: nobody reported about it yet
	Detail  string          `json:"detail"`         // short when OK: "36 topics", "mirrored", "shadow"; one sentence when not
	Next    string          `json:"next,omitempty"` // when not OK
	Seconds float64         `json:"behind_seconds"` // how far behind; -1 when it does not follow, or not known
}

// SetStatus is what the log knows about the recovery sets of one region.
type SetStatus struct {
	Region topology.Region `json:"region"`
	// Set is the newest one that is sealed; empty: there is none.
	Set      backup.SetID `json:"set,omitempty"`
	Sealed   time.Time    `json:"sealed,omitzero"`
	AgeMs    int64        `json:"age_ms"`   // since it was sealed; -1 without a set
	Uploaded int64        `json:"uploaded"` // bytes that its run wrote
	// Proven is when a drill last proved a set of this region, whichever; zero: never.
	Proven      time.Time    `json:"proven,omitzero"`
	ProvenSet   backup.SetID `json:"proven_set,omitempty"`
	ProvenRTOMs int64        `json:"proven_rto_ms,omitempty"`
	// Undrilled is true when no drill is configured to prove its sets.
	Undrilled bool `json:"undrilled,omitempty"`
	// Failed says why the last drill failed; empty when it did not.
	Failed string `json:"failed,omitempty"`
	// NextSlot is the scheduled time of the next set, in the past when it is
	// late; zero: none is scheduled.
	NextSlot time.Time `json:"next_slot,omitzero"`
}

// LinkRow is one mirrored direction, in brief.
type LinkRow struct {
	ID        consensus.LinkID           `json:"id"`
	Phase     consensus.LinkPhase        `json:"phase"`
	Epoch     uint64                     `json:"epoch"`
	Running   bool                       `json:"running"`        // the target's daemon mirrors
	HeardMs   int64                      `json:"heard_ms"`       // age of its report; -1 if never
	Records   int64                      `json:"records_behind"` // -1: not known
	Bytes     int64                      `json:"bytes_behind"`
	Seconds   float64                    `json:"seconds_behind"`
	Rate      float64                    `json:"records_per_second"` // accepted by the source
	Partition int                        `json:"partitions"`
	Frozen    []failover.FrozenPartition `json:"frozen,omitempty"`
	Paused    time.Time                  `json:"paused_until,omitzero"`
}

// Plan is a plan in the log, live or ended.
type Plan struct {
	ID   consensus.PlanID `json:"id"`
	Plan consensus.Plan   `json:"plan"`
	// Stuck says what the plan waits for a person to do.
	Stuck string `json:"stuck,omitempty"`
}

// Planned is the answer to a request to plan. Nothing has been changed.
type Planned struct {
	// Candidate has an empty hash when there is no plan; the blockers say why.
	Candidate failover.Candidate `json:"candidate"`
	Blockers  []failover.Blocker `json:"blockers"`
}

// Reseed is the wish to discard what a standby holds of some topics and to
// mirror them anew.
type Reseed struct {
	Region topology.Region `json:"region"`
	Topics []string        `json:"topics,omitempty" maxItems:"10000"` // empty: all that have a frozen partition
	Reason string          `json:"reason,omitempty" maxLength:"1000"`
}

// CheckReport is what Check found, in the order in which it looked.
type CheckReport struct {
	At     time.Time `json:"at"`
	Checks []Check   `json:"checks"`
}

// Check is one thing that was looked at.
type Check struct {
	Region   topology.Region `json:"region,omitempty"` // empty: of the fleet, or of a witness
	Node     topology.Node   `json:"node,omitempty"`   // who looked
	Name     string          `json:"name"`             // "kafka reach", "clock", "round trip to eu-west-1"
	OK       bool            `json:"ok"`
	Severity Severity        `json:"severity,omitempty"` // when not OK; empty means warning
	Detail   string          `json:"detail"`             // one sentence, with figures
	Fix      string          `json:"fix,omitempty"`      // when not OK
	TookMs   int64           `json:"took_ms"`
}

// Members are the daemons of the fleet.
type Members struct {
	Leader     topology.Node        `json:"leader,omitempty"`
	Generation consensus.Generation `json:"generation"`
	Members    []Member             `json:"members"`
}

// Member is one daemon.
type Member struct {
	Node    topology.Node   `json:"node"`
	Region  topology.Region `json:"region,omitempty"` // empty for a witness
	Witness bool            `json:"witness,omitempty"`
	Leader  bool            `json:"leader,omitempty"`
	Voter   bool            `json:"voter"`
	// Reachable is whether the answering node reaches it now.
	Reachable bool      `json:"reachable"`
	Address   string    `json:"address"`
	HeardMs   int64     `json:"heard_ms"` // age of its last report; -1 if never
	RTTMs     float64   `json:"rtt_ms"`   // round trip from the answering node, 99th percentile; -1 if not known
	Version   string    `json:"version,omitempty"`
	Since     time.Time `json:"since,omitzero"` // start of its session
}

// AuditReport is the tail of the audit log.
type AuditReport struct {
	Count uint64                `json:"count"` // lines there ever were
	Head  string                `json:"head"`
	Lines []consensus.AuditLine `json:"lines"`
	// Broken says where the chain does not hold; empty when it does.
	Broken string `json:"broken,omitempty"`
}

// MirrorReport is every mirrored direction in full.
type MirrorReport struct {
	At    time.Time    `json:"at"`
	Links []MirrorLink `json:"links"`
}

// MirrorLink is one mirrored direction: what is agreed on, and what the
// daemon of its target reports.
type MirrorLink struct {
	ID     consensus.LinkID    `json:"id"`
	Phase  consensus.LinkPhase `json:"phase"`
	Epoch  uint64              `json:"epoch"`
	Proven time.Time           `json:"proven,omitzero"` // when its prefix was compared
	Paused time.Time           `json:"paused_until,omitzero"`
	// Frozen are the agreed ranges that the mirror will not touch.
	Frozen []failover.FrozenPartition `json:"frozen,omitempty"`
	// Report is nil when the target's daemon could not be asked; Why says why.
	Report   *replicate.LinkStatus `json:"report,omitempty"`
	Why      string                `json:"why,omitempty"`
	HeardMs  int64                 `json:"heard_ms"` // age of Report; -1 if none
	Coverage failover.Coverage     `json:"coverage"`
	// Deleted are the topics that were deleted at the source.
	Deleted []DeletedTopic `json:"deleted,omitempty"`
}

// MirrorHold names what to pause or to resume.
type MirrorHold struct {
	Region topology.Region `json:"region"` // the target; empty: every target
	Topics []string        `json:"topics,omitempty" maxItems:"10000"`
	Until  time.Time       `json:"until,omitzero"` // of a pause; zero: until resumed
	Reason string          `json:"reason,omitempty" maxLength:"1000"`
}

// GroupsReport says whether consumer groups could start in a region.
type GroupsReport struct {
	At     time.Time  `json:"at"`
	Groups []GroupRow `json:"groups"`
}

// GroupRow is one consumer group in one region.
type GroupRow struct {
	Region topology.Region `json:"region"` // the target
	Group  string          `json:"group"`
	// Local groups have offsets of their own in each region and are not copied.
	Local      bool `json:"local,omitempty"`
	Partitions int  `json:"partitions"` // of the topics that it reads
	Covered    int  `json:"covered"`    // with the right offset at the target
	OK         bool `json:"ok"`
	// NeverRead are the partitions without an offset at the source. They are
	// given the one where its consumer would start, by the Rule of the group:
	// earliest or latest.
	NeverRead int    `json:"never_read,omitempty"`
	Rule      string `json:"rule,omitempty"`
	// Wrong names where the group would start at the wrong place; Unnamed more
	// are left out of a list that is too long.
	Wrong   []WrongOffset `json:"wrong,omitempty"`
	Unnamed int           `json:"unnamed,omitempty"`
	// Skipped and Repeated are the sums over all of them, Unnamed included.
	Skipped  int64 `json:"skipped,omitempty"`
	Repeated int64 `json:"repeated,omitempty"`
	// Only, when set, says that the group has this many offsets at the target
	// and is unknown to the source: deleted or expired there, or never there.
	Only int `json:"only,omitempty"`
}

// WrongOffset is a partition on which a group would start at the wrong place.
type WrongOffset struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Want      int64  `json:"want"` // -1: not known
	Have      int64  `json:"have"` // -1: none
	// Skipped and Repeated are the records that a consumer would miss or read
	// again, at most: offsets that hold no record count too. Both are set when
	// its own setting would decide where it starts.
	Skipped  int64  `json:"skipped,omitempty"`
	Repeated int64  `json:"repeated,omitempty"`
	Why      string `json:"why"`
	Next     string `json:"next,omitempty"` // what to try
}

// ConfigDrift compares the file of this node with what is agreed on.
type ConfigDrift struct {
	Node    topology.Node `json:"node"`
	File    string        `json:"file"`    // path on this node
	Digest  string        `json:"digest"`  // of the file; empty when it was refused
	Refused string        `json:"refused"` // why the file was refused; empty when it was not
	Applied string        `json:"applied"` // digest that is agreed on
	Drift   bool          `json:"drift"`
	// Nodes are the digests of the files that other daemons started with, as
	// far as they reported.
	Nodes map[topology.Node]string `json:"nodes,omitempty"`
}

// ConfigApplied says what ConfigApply did.
type ConfigApplied struct {
	Digest  string `json:"digest"`
	Was     string `json:"was"`
	Changed bool   `json:"changed"`
	// Restart lists what takes effect only when a daemon starts again.
	Restart []string `json:"restart,omitempty"`
}

// GuardStatus is what a guarded process tells its daemon about itself.
type GuardStatus struct {
	ID      string          `json:"id" minLength:"1" maxLength:"200"` // one per run of `holdfast guard`
	Role    topology.Role   `json:"role" minLength:"1"`
	Epoch   consensus.Epoch `json:"epoch"`   // for which the process runs; 0 when it does not
	PID     int             `json:"pid"`     // of the process; 0 when it does not run
	Running bool            `json:"running"` // the process exists, or something of it
	// AllowedUntil is the deadline of the word that the guard goes by, as
	// CLOCK_BOOTTIME in nanoseconds; 0 when that word says no, or is Held.
	AllowedUntil int64 `json:"allowed_until_boottime_ns,omitempty"`
	Held         bool  `json:"held,omitempty"`
	Gone         bool  `json:"gone,omitempty"` // the guard ends for good
}

// GuardWord is the daemon's word to a guarded process. It may run before the
// deadline while its role is open or draining, and ends within the margin.
type GuardWord struct {
	Role       topology.Role        `json:"role"`
	Phase      consensus.Phase      `json:"phase"`
	Active     bool                 `json:"active"`
	Leased     bool                 `json:"leased"`
	Held       bool                 `json:"held"` // by the policy hold: the deadline is no limit
	Epoch      consensus.Epoch      `json:"epoch"`
	Generation consensus.Generation `json:"generation"`
	// Deadline is CLOCK_BOOTTIME of this machine in nanoseconds, 0 when there
	// is none. It means something only on the boot named.
	Deadline int64  `json:"deadline_boottime_ns"`
	Boot     string `json:"boot_id"`
	MarginNs int64  `json:"margin_ns"`
	// Now is what CLOCK_BOOTTIME of the daemon read as it answered; the API
	// fills it in. A guard whose clock disagrees does not use the word.
	Now int64  `json:"now_boottime_ns"`
	Why string `json:"why,omitempty"` // one sentence, when not Active
}
