package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

// runEvery is how often a run is looked at while it is followed. Its daemon
// reports about once a second.
const runEvery = 500 * time.Millisecond

// runReader is what following a run needs.
type runReader interface {
	Run(ctx context.Context, id consensus.RunID) (httpapi.Run, error)
}

// followRun shows how far a backup or a drill is until it has ended; the run's
// own timeout bounds that. It only looks: the run goes on without it.
func (a *app) followRun(ctx context.Context, from runReader, kind string, id consensus.RunID) (httpapi.Run, error) {
	g := a.gauge(ctx)
	defer g.end()
	tick := time.NewTicker(runEvery)
	defer tick.Stop()
	var silentSince time.Time
	for {
		r, err := from.Run(ctx, id)
		switch {
		case err == nil:
			silentSince = time.Time{}
			if r.Run.State != consensus.RunLive {
				return r, nil
			}
			g.show(runProgress(r))
		case ctx.Err() != nil:
		case silentSince.IsZero():
			silentSince = a.now()
			var p *httpapi.Problem
			if !errors.As(err, &p) || p.Code != httpapi.NotFound { // a daemon behind the log does not know the run yet
				g.say("the daemon does not answer (%s); the %s goes on without it, still asking", oneLine(why(err)), kind)
			}
		case a.now().Sub(silentSince) > followSilent:
			return r, fmt.Errorf("follow %s %s: %w; it may go on: `%s`", kind, id, err, listing(kind))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.end()
			return r, fmt.Errorf("stopped following %s %s; it goes on: `%s`, or end it: `holdfast %s cancel %s`", kind, id, listing(kind), kind, id)
		}
	}
}

// listing is the command that shows what runs of a kind have left.
func listing(kind string) string {
	if kind == httpapi.KindVerify {
		return "holdfast mirror verify --last"
	}
	return "holdfast " + kind + " list"
}

// runProgress is what can be said of a live run.
func runProgress(r httpapi.Run) backup.Progress {
	switch {
	case r.Progress != nil:
		return *r.Progress
	case r.Node == "":
		return backup.Progress{Stage: "waits for the daemon of " + string(r.Run.Region)}
	}
	return backup.Progress{Stage: string(r.Node) + " works on it"}
}

// evidence is what a run that is done has left. A run that failed or was
// cancelled is the error.
func evidence(r httpapi.Run) (httpapi.RunEvidence, error) { return evidenceOf[httpapi.RunEvidence](r) }

// evidenceOf is evidence of another form.
func evidenceOf[T any](r httpapi.Run) (e T, err error) {
	switch r.Run.State {
	case consensus.RunDone:
		if err := json.Unmarshal(r.Run.Evidence, &e); err != nil {
			return e, fmt.Errorf("read the evidence of %s %s: %w", r.Run.Kind, r.ID, err)
		}
		return e, nil
	case consensus.RunCancelled:
		return e, fmt.Errorf("%s %s was cancelled: %s", r.Run.Kind, r.ID, oneLine(r.Run.Error))
	}
	return e, fmt.Errorf("%s %s failed after %s: %s (`journalctl -u holdfast` in %s says more)", r.Run.Kind, r.ID,
		span(r.Run.Ended.Sub(r.Run.Created).Round(100*time.Millisecond)), oneLine(r.Run.Error), r.Run.Region)
}
