package httpapi

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var problemType = reflect.TypeFor[Problem]()

// How long an operation may take. The first is answered from memory, the
// second asks the leader, the third looks at the world.
const (
	withinMemory = 5 * time.Second
	withinLeader = 20 * time.Second
	withinWorld  = 60 * time.Second
)

// RunPlan starts a plan that was shown.
type RunPlan struct {
	Hash string `json:"hash" minLength:"6" maxLength:"64"`
	// Intent is needed only when another daemon showed the plan, or this one
	// was restarted since.
	Intent *failover.Intent `json:"intent,omitempty"`
}

// RunReseed starts a reseed plan that was shown.
type RunReseed struct {
	Hash   string  `json:"hash" minLength:"6" maxLength:"64"`
	Intent *Reseed `json:"intent,omitempty"` // as in RunPlan
}

// Started names a plan that was started.
type Started struct {
	Plan consensus.PlanID `json:"plan"`
}

// PlanList is the plans that the log keeps.
type PlanList struct {
	Plans []Plan `json:"plans"`
}

// Why is a reason for the audit log.
type Why struct {
	Why string `json:"why" maxLength:"1000"`
}

// PauseRole suspends automatic moves of a role until a time, or resumes them.
type PauseRole struct {
	Until  time.Time `json:"until,omitzero"` // zero resumes
	Reason string    `json:"reason,omitempty" maxLength:"1000"`
}

type (
	nothing  struct{}
	byRegion struct {
		Region topology.Region `query:"region" doc:"empty: all"`
	}
	byPlan struct {
		ID consensus.PlanID `path:"id"`
	}
	takes[T any] struct{ Body T }
)

func (s *server) operations() {
	handle(s, operation{http.MethodGet, "/v1/status", "status", "One screen about the fleet, also without a leader", "read status", withinMemory},
		func(ctx context.Context, _ *nothing) (Status, error) { return s.b.Status(ctx) })
	handle(s, operation{http.MethodGet, "/v1/check", "check", "Look now: reach, rights, versions, round trips, clocks", "check", withinWorld},
		func(ctx context.Context, in *byRegion) (CheckReport, error) { return s.b.Check(ctx, in.Region) })
	handle(s, operation{http.MethodGet, "/v1/members", "members", "The daemons of the fleet", "list members", withinLeader},
		func(ctx context.Context, _ *nothing) (Members, error) { return s.b.Members(ctx) })
	handle(s, operation{http.MethodGet, "/v1/audit", "audit", "The newest lines of the audit log, oldest first", "read the audit log", withinMemory},
		func(ctx context.Context, in *struct {
			N int `query:"n" default:"50" minimum:"1" maximum:"200"`
		},
		) (AuditReport, error) {
			return s.b.Audit(ctx, in.N)
		})
	handle(s, operation{http.MethodPost, "/v1/guard", "guard", "A guarded process says how it is and asks whether it may run", "ask about the role", withinMemory},
		func(ctx context.Context, in *takes[GuardStatus]) (GuardWord, error) {
			w, err := s.b.Guard(ctx, in.Body)
			w.Now = int64(clock.System().Now())
			return w, err
		})

	s.failoverOperations()
	s.planOperations()
	s.mirrorOperations()
	s.topicOperations()
	s.orphanOperations()
	s.verifyOperations()
	s.runOperations()

	handle(s, operation{http.MethodGet, "/v1/config", "config-drift", "Compare this node's fleet file with what is agreed on", "compare the configuration", withinLeader},
		func(ctx context.Context, _ *nothing) (ConfigDrift, error) { return s.b.ConfigDrift(ctx) })
	handle(s, operation{http.MethodPost, "/v1/config/apply", "config-apply", "Make this node's fleet file what all agree on", "apply the configuration", withinLeader},
		func(ctx context.Context, _ *nothing) (ConfigApplied, error) {
			return s.b.ConfigApply(ctx, s.by(ctx))
		})
}

func (s *server) failoverOperations() {
	handle(s, operation{http.MethodPost, "/v1/failover/plan", "failover-plan", "Plan a move of roles; nothing is changed", "plan failover", withinWorld},
		func(ctx context.Context, in *takes[failover.Intent]) (Planned, error) {
			c, blockers, err := s.b.PlanFailover(ctx, in.Body)
			if err != nil {
				return Planned{}, err
			}
			s.shown.remember(c, wish{move: &in.Body})
			return planned(c, blockers), nil
		})
	handle(s, operation{http.MethodPost, "/v1/failover/run", "failover-run", "Start a plan that was shown", "run failover", withinWorld},
		func(ctx context.Context, in *takes[RunPlan]) (Started, error) {
			w, err := s.shown.recall(in.Body.Hash, wish{move: in.Body.Intent})
			if err != nil {
				return Started{}, err
			}
			id, err := s.b.RunFailover(ctx, *w.move, in.Body.Hash, s.by(ctx))
			return Started{id}, err
		})
	handle(s, operation{http.MethodPost, "/v1/roles/{role}/ack", "failover-ack", "Acknowledge an unplanned failover: automatic moves are allowed again", "acknowledge failover", withinLeader},
		func(ctx context.Context, in *struct {
			Role topology.Role `path:"role"`
		},
		) (Done, error) {
			return Done{true}, s.b.Ack(ctx, in.Role, s.by(ctx))
		})
	handle(s, operation{http.MethodPost, "/v1/roles/{role}/pause", "role-pause", "Suspend automatic moves of a role until a time, or resume them", "pause role", withinLeader},
		func(ctx context.Context, in *struct {
			Role topology.Role `path:"role"`
			Body PauseRole
		},
		) (Done, error) {
			return Done{true}, s.b.Pause(ctx, in.Role, in.Body.Until, in.Body.Reason, s.by(ctx))
		})
}

func (s *server) planOperations() {
	handle(s, operation{http.MethodGet, "/v1/plans", "plans", "The plans that the log keeps, live ones first", "list plans", withinMemory},
		func(ctx context.Context, _ *nothing) (PlanList, error) {
			plans, err := s.b.Plans(ctx)
			return PlanList{plans}, err
		})
	handle(s, operation{http.MethodGet, "/v1/plans/{id}", "plan", "One plan with its journal", "read plan", withinMemory},
		func(ctx context.Context, in *byPlan) (Plan, error) { return s.b.Plan(ctx, in.ID) })
	handle(s, operation{http.MethodPost, "/v1/plans/{id}/abort", "plan-abort", "Turn a running plan back", "abort plan", withinLeader},
		func(ctx context.Context, in *struct {
			ID   consensus.PlanID `path:"id"`
			Body Why
		},
		) (Done, error) {
			return Done{true}, s.b.Abort(ctx, in.ID, in.Body.Why, s.by(ctx))
		})
	handle(s, operation{http.MethodPost, "/v1/plans/{id}/retry", "plan-retry", "Try the failed step of a plan again at once", "retry plan", withinLeader},
		func(ctx context.Context, in *byPlan) (Done, error) {
			return Done{true}, s.b.Retry(ctx, in.ID, s.by(ctx))
		})
}

func (s *server) mirrorOperations() {
	handle(s, operation{http.MethodGet, "/v1/mirror", "mirror-status", "Every mirrored direction in full", "read mirror status", withinLeader},
		func(ctx context.Context, _ *nothing) (MirrorReport, error) { return s.b.MirrorStatus(ctx) })
	handle(s, operation{http.MethodPost, "/v1/mirror/pause", "mirror-pause", "Stop mirroring for a while", "pause mirror", withinLeader},
		func(ctx context.Context, in *takes[MirrorHold]) (Done, error) {
			return Done{true}, s.b.MirrorPause(ctx, in.Body, s.by(ctx))
		})
	handle(s, operation{http.MethodPost, "/v1/mirror/resume", "mirror-resume", "Mirror again, and try frozen partitions once more", "resume mirror", withinLeader},
		func(ctx context.Context, in *takes[MirrorHold]) (Done, error) {
			return Done{true}, s.b.MirrorResume(ctx, in.Body, s.by(ctx))
		})
	handle(s, operation{http.MethodPost, "/v1/mirror/reseed/plan", "reseed-plan", "Plan to discard and mirror topics anew; nothing is changed", "plan reseed", withinWorld},
		func(ctx context.Context, in *takes[Reseed]) (Planned, error) {
			c, blockers, err := s.b.PlanReseed(ctx, in.Body)
			if err != nil {
				return Planned{}, err
			}
			s.shown.remember(c, wish{reseed: &in.Body})
			return planned(c, blockers), nil
		})
	handle(s, operation{http.MethodPost, "/v1/mirror/reseed/run", "reseed-run", "Start a reseed plan that was shown", "run reseed", withinWorld},
		func(ctx context.Context, in *takes[RunReseed]) (Started, error) {
			w, err := s.shown.recall(in.Body.Hash, wish{reseed: in.Body.Intent})
			if err != nil {
				return Started{}, err
			}
			id, err := s.b.RunReseed(ctx, *w.reseed, in.Body.Hash, s.by(ctx))
			return Started{id}, err
		})
	handle(s, operation{http.MethodGet, "/v1/groups", "groups-check", "Whether consumer groups could start in a region", "check groups", withinWorld},
		func(ctx context.Context, in *byRegion) (GroupsReport, error) { return s.b.GroupsCheck(ctx, in.Region) })
}

func planned(c failover.Candidate, blockers []failover.Blocker) Planned {
	if blockers == nil {
		blockers = []failover.Blocker{}
	}
	return Planned{c, blockers}
}
