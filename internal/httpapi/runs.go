package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Recovery starts and shows backups and drills. The sets themselves are in
// the repositories, which the command line reads without a daemon.
type Recovery interface {
	// StartBackup has a region's daemon take a set now.
	StartBackup(ctx context.Context, want StartBackup, by string) (consensus.RunID, error)
	// StartDrill has a region's daemon prove a set now.
	StartDrill(ctx context.Context, want StartDrill, by string) (consensus.RunID, error)
	// CancelRun ends a live run; what it was making is taken away.
	CancelRun(ctx context.Context, id consensus.RunID, why, by string) error
	// Runs returns the runs that the log keeps, live ones first, then the
	// newest first. An empty kind means all.
	Runs(ctx context.Context, kind string) (RunList, error)
	// Run returns one of them. An id may be shortened as long as it is unique.
	Run(ctx context.Context, id consensus.RunID) (Run, error)
	// Sets returns the headers of the sets that the log keeps, newest first.
	Sets(ctx context.Context) (SetList, error)
}

// StartBackup says what to take. Engines: empty for all that are configured.
type StartBackup struct {
	Region  topology.Region `json:"region"`
	Engines []backup.Engine `json:"engines,omitempty" maxItems:"10"`
	// Fresh: share no object with earlier sets.
	Fresh bool `json:"fresh,omitempty"`
}

// StartDrill says what to prove. Of and Set empty: the newest set of the
// regions that are configured.
type StartDrill struct {
	Of  topology.Region `json:"of,omitempty"`
	Set backup.SetID    `json:"set,omitempty" maxLength:"26"`
}

// RunStarted names a run that was started.
type RunStarted struct {
	Run consensus.RunID `json:"run"`
}

// RunList is the runs that the log keeps.
type RunList struct {
	Runs []Run `json:"runs"`
}

// Run is a backup or a drill in the log.
type Run struct {
	ID  consensus.RunID `json:"id"`
	Run consensus.Run   `json:"run"`
	// Node is who works on a live run; empty while nobody does.
	Node topology.Node `json:"node,omitempty"`
	// Progress of a live run, as its daemon last reported; nil: not heard.
	Progress *backup.Progress `json:"progress,omitempty"`
}

// SetList is the headers of sets that the log keeps.
type SetList struct {
	Sets []SetRow `json:"sets"`
}

// SetRow is one of them.
type SetRow struct {
	ID  consensus.SetID `json:"id"`
	Set consensus.Set   `json:"set"`
}

// RunEvidence is what a finished backup or drill leaves in its run.
type RunEvidence struct {
	Set    backup.SetID    `json:"set"`
	Region topology.Region `json:"region"` // of the set
	Digest backup.Digest   `json:"digest"` // of its seal
	Totals backup.Totals   `json:"totals,omitzero"`
	TookMs int64           `json:"took_ms"`
	// Of a drill.
	OK       bool          `json:"ok,omitempty"`
	Why      string        `json:"why,omitempty"`
	Fault    string        `json:"fault,omitempty"`
	RTOMs    int64         `json:"rto_ms,omitempty"`
	RPOMs    int64         `json:"rpo_ms,omitempty"`
	Controls int           `json:"controls,omitempty"`        // that were made
	Caught   int           `json:"controls_caught,omitempty"` // of these
	Report   backup.Digest `json:"report,omitempty"`
	Ended    time.Time     `json:"ended,omitzero"`
}

type byRun struct {
	ID consensus.RunID `path:"id"`
}

func (s *server) runOperations() {
	handle(s, operation{http.MethodPost, "/v1/backups", "backup-run", "Take a recovery set of a region now", "start backup", withinLeader},
		func(ctx context.Context, in *takes[StartBackup]) (RunStarted, error) {
			id, err := s.b.StartBackup(ctx, in.Body, s.by(ctx))
			return RunStarted{id}, err
		})
	handle(s, operation{http.MethodPost, "/v1/drills", "drill-run", "Prove a recovery set now, on the isolated target", "start drill", withinLeader},
		func(ctx context.Context, in *takes[StartDrill]) (RunStarted, error) {
			id, err := s.b.StartDrill(ctx, in.Body, s.by(ctx))
			return RunStarted{id}, err
		})
	handle(s, operation{http.MethodGet, "/v1/runs", "runs", "The backups and drills that the log keeps, live ones first", "list runs", withinMemory},
		func(ctx context.Context, in *struct {
			Kind string `query:"kind" doc:"backup or drill; empty: both"`
		},
		) (RunList, error) {
			return s.b.Runs(ctx, in.Kind)
		})
	handle(s, operation{http.MethodGet, "/v1/runs/{id}", "run", "One backup or drill, with its progress", "read run", withinMemory},
		func(ctx context.Context, in *byRun) (Run, error) { return s.b.Run(ctx, in.ID) })
	handle(s, operation{http.MethodPost, "/v1/runs/{id}/cancel", "run-cancel", "End a live backup or drill", "cancel run", withinLeader},
		func(ctx context.Context, in *struct {
			ID   consensus.RunID `path:"id"`
			Body Why
		},
		) (Done, error) {
			return Done{true}, s.b.CancelRun(ctx, in.ID, in.Body.Why, s.by(ctx))
		})
	handle(s, operation{http.MethodGet, "/v1/sets", "sets", "Headers of the sets that the log keeps, newest first", "list sets", withinMemory},
		func(ctx context.Context, _ *nothing) (SetList, error) { return s.b.Sets(ctx) })
}
