package httpapi

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Backend answers the API. Its methods may be called at any time and by many
// goroutines at once; each returns when ctx ends at the latest. An error is a
// *Problem, an error of package consensus (a *Refusal, ErrNoLeader,
// ErrUnknownOutcome), or anything else, which becomes an internal Problem.
//
// by names who asks, as it goes into the audit log: "operator root@us-east-1".
type Backend interface {
	// Status answers with what this node knows, also without a leader.
	Status(ctx context.Context) (Status, error)
	// Check looks at the world now: reach, rights, versions, round trips,
	// clocks. An empty region means all.
	Check(ctx context.Context, region topology.Region) (CheckReport, error)
	Members(ctx context.Context) (Members, error)
	// Audit returns the newest n lines that are kept, oldest first.
	Audit(ctx context.Context, n int) (AuditReport, error)

	Failover
	Mirror
	MirrorTopics
	MirrorLosses
	Verification
	Recovery
	Configuration

	// Guard answers a guarded process about its role, from memory: it is
	// asked about once a second by each, and a slow answer ends a process.
	Guard(ctx context.Context, s GuardStatus) (GuardWord, error)
}

// Failover makes and drives plans.
type Failover interface {
	// PlanFailover changes nothing. Blockers without a plan (an empty hash)
	// say why there is none.
	PlanFailover(ctx context.Context, want failover.Intent) (failover.Candidate, []failover.Blocker, error)
	// RunFailover plans again and starts the plan only if it has this hash and
	// no blocker. Otherwise a Problem of Code Refused or Changed.
	RunFailover(ctx context.Context, want failover.Intent, hash, by string) (consensus.PlanID, error)
	// PlanReseed changes nothing, as PlanFailover.
	PlanReseed(ctx context.Context, want Reseed) (failover.Candidate, []failover.Blocker, error)
	// RunReseed is to PlanReseed what RunFailover is to PlanFailover.
	RunReseed(ctx context.Context, want Reseed, hash, by string) (consensus.PlanID, error)
	// Plans returns the plans that the log keeps, live ones first, then the
	// newest first.
	Plans(ctx context.Context) ([]Plan, error)
	// Plan returns one of them. An id may be shortened as long as it is unique.
	Plan(ctx context.Context, id consensus.PlanID) (Plan, error)
	// Abort turns a running plan back. Past the point of no return it is Refused.
	Abort(ctx context.Context, id consensus.PlanID, why, by string) error
	// Retry tries the failed step of a plan again at once.
	Retry(ctx context.Context, id consensus.PlanID, by string) error
	// Ack says that a person has seen an unplanned failover of role: the next
	// automatic one is no longer blocked.
	Ack(ctx context.Context, role topology.Role, by string) error
	// Pause suspends what holdfast does by itself for a role until a time; a
	// zero until resumes it.
	Pause(ctx context.Context, role topology.Role, until time.Time, reason, by string) error
}

// Mirror shows and steers the mirrored directions.
type Mirror interface {
	MirrorStatus(ctx context.Context) (MirrorReport, error)
	// MirrorPause stops the mirroring to a region until MirrorResume or until
	// h.Until; a restarted daemon mirrors again.
	MirrorPause(ctx context.Context, h MirrorHold, by string) error
	// MirrorResume ends a pause of h.Region and tries frozen partitions of
	// h.Topics (empty: all) again.
	MirrorResume(ctx context.Context, h MirrorHold, by string) error
	// GroupsCheck reads the groups of a region now. An empty region means the
	// targets of all links.
	GroupsCheck(ctx context.Context, region topology.Region) (GroupsReport, error)
}

// Configuration compares the fleet file with what is agreed on.
type Configuration interface {
	// ConfigDrift reads the file of this node again and compares.
	ConfigDrift(ctx context.Context) (ConfigDrift, error)
	// ConfigApply reads the file of this node again and makes it what all
	// agree on.
	ConfigApply(ctx context.Context, by string) (ConfigApplied, error)
}
