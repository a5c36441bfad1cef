package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

const (
	followEvery  = 200 * time.Millisecond
	followSilent = 2 * time.Minute // how long a daemon may not answer meanwhile
	followAbort  = 10 * time.Minute
)

// planReader is what following a plan needs.
type planReader interface {
	Plan(ctx context.Context, id consensus.PlanID) (httpapi.Plan, error)
}

// follow prints one line per step as it ends, until the plan has ended, waits
// for a person, or within has passed. It only looks: the plan goes on without it.
func (a *app) follow(ctx context.Context, from planReader, id consensus.PlanID, within time.Duration) (httpapi.Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	steps := a.out
	if a.json {
		steps = a.err // stdout is for the one document
	}
	tell := narrator{}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var pl httpapi.Plan
	var silentSince time.Time
	for {
		got, err := from.Plan(ctx, id)
		switch {
		case err == nil:
			pl, silentSince = got, time.Time{}
			a.clearProgress()
			for _, l := range tell.next(pl) {
				fmt.Fprintln(steps, l)
			}
			if !pl.Plan.Phase.Live() || pl.Stuck != "" {
				return pl, nil
			}
			a.progress(pl)
		case ctx.Err() != nil:
		case silentSince.IsZero():
			silentSince = a.now()
			a.clearProgress()
			var p *httpapi.Problem
			if !errors.As(err, &p) || p.Code != httpapi.NotFound { // a daemon behind the log does not know the plan yet
				a.say("the daemon does not answer (%s); the plan goes on without it, still asking", err)
			}
		case a.now().Sub(silentSince) > followSilent:
			return pl, fmt.Errorf("follow plan %s: %w; the plan goes on: `holdfast failover status %s`", id, err, id)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.clearProgress()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return pl, fmt.Errorf("follow plan %s: it has not ended within %s; it goes on: `holdfast failover status %s`", id, span(within), id)
			}
			return pl, fmt.Errorf("stopped following plan %s; it goes on: `holdfast failover status %s`, or turn it back: `holdfast failover abort %s`", id, id, id)
		}
	}
}

// progress draws the running step on a terminal, over itself.
func (a *app) progress(pl httpapi.Plan) {
	if !a.live {
		return
	}
	i, left := pl.Plan.Current()
	if !left || pl.Plan.Phase == consensus.PlanAborting {
		return
	}
	took := time.Duration(0)
	if at := pl.Plan.Journal[i].Started; !at.IsZero() {
		took = a.now().Sub(at)
	}
	_, _ = io.WriteString(a.err, fmt.Sprintf("\r\x1b[K%s  %s ...", stepHead(pl.Plan, i), span(max(0, took).Round(100*time.Millisecond))))
}

func (a *app) clearProgress() {
	if a.live {
		_, _ = io.WriteString(a.err, "\r\x1b[K")
	}
}

// narrator turns what a plan is into what is new about it.
type narrator struct {
	done   int         // steps told of
	failed map[int]int // attempts of a step whose failure was told
	undone map[int]int // undo steps told of, per step
	turned bool
	stuck  string
}

func (n *narrator) next(pl httpapi.Plan) []string {
	if n.failed == nil {
		n.failed, n.undone = map[int]int{}, map[int]int{}
	}
	p := pl.Plan
	var out []string
	for n.done < len(p.Steps) && p.Journal[n.done].State == consensus.StepDone {
		r := p.Journal[n.done]
		out = append(out, stepHead(p, n.done)+"  "+span(r.Finished.Sub(r.Started).Round(time.Millisecond)))
		if p.Steps[n.done].NoReturn {
			out = append(out, "      no way back from here")
		}
		n.done++
	}
	if n.done < len(p.Steps) {
		if r := p.Journal[n.done]; r.State == consensus.StepFailed && n.failed[n.done] != r.Attempts {
			n.failed[n.done] = r.Attempts
			out = append(out, fmt.Sprintf("%s  failed, attempt %d: %s", stepHead(p, n.done), r.Attempts, oneLine(r.Error)))
		}
	}
	if !n.turned && (p.Phase == consensus.PlanAborting || p.Phase == consensus.PlanRolledBack) {
		n.turned = true
		out = append(out, "Turning back: "+oneLine(p.Why))
	}
	if n.turned {
		out = append(out, n.undo(p)...)
	}
	if pl.Stuck != n.stuck {
		n.stuck = pl.Stuck
		if pl.Stuck != "" {
			out = append(out, "!! waits for a person: "+oneLine(pl.Stuck), "    next: "+stuckNext(pl))
		}
	}
	return out
}

// undo tells of steps that were taken back, last step first.
func (n *narrator) undo(p consensus.Plan) []string {
	var out []string
	for i := len(p.Steps) - 1; i >= 0; i-- {
		for n.undone[i] < p.Journal[i].Undone {
			out = append(out, fmt.Sprintf("  <-%2d  %s", i+1, p.Steps[i].Undo[n.undone[i]].Title))
			n.undone[i]++
		}
	}
	return out
}

func stepHead(p consensus.Plan, i int) string {
	wide := 0
	for _, s := range p.Steps {
		wide = max(wide, width(string(s.Region)))
	}
	return fmt.Sprintf("  %2d  %s  %s", i+1, pad(string(p.Steps[i].Region), wide), pad(p.Steps[i].Title, titleWide))
}

// outcome prints how a plan that was followed ended, and says the exit code.
func (a *app) outcome(pl httpapi.Plan) error {
	if a.json {
		if err := a.show(pl, nil); err != nil {
			return err
		}
	} else if sum := planSum(pl.Plan); sum != "" {
		fmt.Fprintln(a.out, strings.TrimSpace(sum))
	}
	if pl.Plan.Phase == consensus.PlanCompleted {
		return nil
	}
	return ended{exitFailed}
}
