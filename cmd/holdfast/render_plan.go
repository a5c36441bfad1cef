package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

// gateWide is the longest verdict that shares a line with another.
const gateWide = 50

// renderCandidate is a plan before anything happened.
func renderCandidate(c failover.Candidate, blockers []failover.Blocker) string {
	var p page
	if c.Plan.Hash == "" {
		p.line("There is no plan. Nothing has been changed.")
		p.line("")
		for _, b := range blockers {
			p.line("  NO  %s: %s", b.Gate, b.Why)
			if b.Fix != "" {
				p.line("      fix: %s", b.Fix)
			}
		}
		return p.String()
	}
	p.line("Plan %s, %s. Nothing has been changed. Expires %s.", c.Plan.Hash, planTitle(c.Plan), clockTime(c.Expires))
	if c.Supersedes != "" {
		p.line("It gives up plan %s, which cannot go on.", c.Supersedes)
	}
	p.line("")
	p.gates(c.Gates)
	p.steps(c.Plan)
	p.line("  expect  %s", expectation(c))
	if len(blockers) > 0 {
		p.line("")
		p.line("Refused by %s. Nothing has been changed.", some(len(blockers), "gate"))
		for _, b := range blockers {
			if b.Fix != "" {
				p.line("  fix %s: %s", b.Gate, b.Fix)
			}
		}
	}
	return p.String()
}

// planTitle says what a plan is about: "planned: ingestion, a to b".
func planTitle(pl consensus.Plan) string {
	if pl.Kind == consensus.Reseed {
		return fmt.Sprintf("reseed: mirror topics of %s anew from %s", pl.To, pl.From)
	}
	out := fmt.Sprintf("%s: %s, %s to %s", pl.Kind, words(pl.Roles), pl.From, pl.To)
	if pl.Fenced != "" {
		out += fmt.Sprintf(" (%s attested to be fenced)", pl.Fenced)
	}
	return out
}

// gates lays short verdicts out in two columns; a no, and a long one, has a
// line of its own.
func (p *page) gates(all []failover.Gate) {
	label := "  gates   "
	put := func(text string) {
		p.line("%s", strings.TrimRight(label+text, " "))
		label = strings.Repeat(" ", len(label))
	}
	half := ""
	flush := func() {
		if half != "" {
			put(half)
			half = ""
		}
	}
	for _, g := range all {
		text := "ok  " + g.Detail
		switch {
		case g.Note:
			text = "--  " + strings.TrimPrefix(g.Detail, "note: ")
		case !g.OK:
			text = "NO  " + g.Detail
		}
		switch {
		case g.Note || !g.OK || width(text) > gateWide:
			flush()
			put(text)
		case half != "":
			put(pad(half, gateWide+2) + text)
			half = ""
		default:
			half = text
		}
	}
	flush()
}

func (p *page) steps(pl consensus.Plan) {
	regions := 0
	for _, s := range pl.Steps {
		regions = max(regions, width(string(s.Region)))
	}
	label := "  steps   "
	for i, s := range pl.Steps {
		title := s.Title
		if s.NoReturn {
			title += "      <- no way back from here"
		}
		p.line("%s", strings.TrimRight(fmt.Sprintf("%s%2d  %s  %s", label, i+1, pad(string(s.Region), regions), title), " "))
		label = strings.Repeat(" ", len(label))
	}
}

func expectation(c failover.Candidate) string {
	pause := "pause about " + span(c.Pause.Round(time.Second))
	switch c.Plan.Kind {
	case consensus.Reseed:
		return "what is named above is discarded for good, and copied again from the source"
	case consensus.Planned:
		return pause + ", nothing lost"
	}
	return pause + ", " + lossText(c.Loss)
}

func lossText(b consensus.LossBound) string {
	var out string
	switch {
	case b.Max == math.MaxInt64:
		out = "loss NOT KNOWN"
	case b.Max == 0:
		out = "nothing lost"
	case b.Min == b.Max:
		out = records(b.Max) + " lost"
	default:
		out = fmt.Sprintf("between %s and %s lost", count(b.Min), records(b.Max))
	}
	if b.Basis != "" {
		out += " (" + b.Basis + ")"
	}
	return out
}

// renderPlan is a plan in the log with its journal.
func renderPlan(pl httpapi.Plan, now time.Time) string {
	var p page
	head := fmt.Sprintf("Plan %s, %s. %s", pl.ID, planTitle(pl.Plan), planPhase(pl.Plan))
	p.line("%s", head)
	p.line("Started %s by %s.", when(pl.Plan.Created, now), orDash(pl.Plan.By))
	if pl.Plan.Reason != "" {
		p.line("Reason: %s", oneLine(pl.Plan.Reason))
	}
	if pl.Plan.Why != "" {
		p.line("Turned back because: %s", oneLine(pl.Plan.Why))
	}
	p.line("")
	for i := range pl.Plan.Steps {
		for _, l := range stepLines(pl.Plan, i, now) {
			p.line("%s", l)
		}
	}
	if sum := planSum(pl.Plan); sum != "" {
		p.line("")
		p.line("%s", sum)
	}
	if pl.Stuck != "" {
		p.line("")
		p.findings([]httpapi.Finding{{Severity: httpapi.Critical, What: "waits for a person: " + pl.Stuck, Next: stuckNext(pl)}})
	}
	return p.String()
}

func stuckNext(pl httpapi.Plan) string {
	return fmt.Sprintf("correct the cause, then: holdfast failover retry %s", pl.ID)
}

func planPhase(pl consensus.Plan) string {
	done := 0
	for _, r := range pl.Journal {
		if r.State == consensus.StepDone {
			done++
		}
	}
	switch pl.Phase {
	case consensus.PlanRunning:
		return fmt.Sprintf("Running: %d of %d steps done, can still turn back.", done, len(pl.Steps))
	case consensus.PlanGranted:
		return fmt.Sprintf("Past the point of no return: %d of %d steps done.", done, len(pl.Steps))
	case consensus.PlanAborting:
		return "Turning back."
	case consensus.PlanCompleted:
		return "Completed."
	case consensus.PlanRolledBack:
		return "Rolled back: everything is as it was."
	case consensus.PlanSuperseded:
		return "Given up for another plan."
	}
	return string(pl.Phase) + "."
}

// titleWide is where durations are aligned.
const titleWide = 58

// stepLines is one step of the journal: its state, who, what, how long.
func stepLines(pl consensus.Plan, i int, now time.Time) []string {
	s, r := pl.Steps[i], consensus.StepRecord{State: consensus.StepPending}
	if i < len(pl.Journal) {
		r = pl.Journal[i]
	}
	regions := 0
	for _, st := range pl.Steps {
		regions = max(regions, width(string(st.Region)))
	}
	state, took := "  ", ""
	switch r.State {
	case consensus.StepDone:
		state, took = "ok", span(r.Finished.Sub(r.Started).Round(time.Millisecond))
	case consensus.StepRunning:
		state, took = "..", "for "+span(max(0, now.Sub(r.Started)).Round(100*time.Millisecond))
	case consensus.StepFailed:
		state = "NO"
	}
	if r.Attempts > 1 {
		took = strings.TrimPrefix(took+fmt.Sprintf(", attempt %d", r.Attempts), ", ")
	}
	if s.NoReturn {
		took = pad(took, 6) + gap + "<- no way back from here"
	}
	out := []string{strings.TrimRight(fmt.Sprintf("  %s  %2d  %s  %s  %s", state, i+1, pad(string(s.Region), regions), pad(s.Title, titleWide), took), " ")}
	if r.Error != "" {
		out = append(out, "          "+oneLine(r.Error))
	}
	out = append(out, undoLines(pl, i)...)
	return out
}

func undoLines(pl consensus.Plan, i int) []string {
	if i >= len(pl.Journal) {
		return nil
	}
	var out []string
	r := pl.Journal[i]
	for u, s := range pl.Steps[i].Undo {
		switch {
		case u < r.Undone:
			out = append(out, fmt.Sprintf("      <-  ok  %s", s.Title))
		case u == r.Undone && pl.Phase == consensus.PlanAborting && r.UndoState == consensus.StepFailed:
			out = append(out, fmt.Sprintf("      <-  NO  %s: %s", s.Title, oneLine(r.UndoFailed)))
		case u == r.Undone && pl.Phase == consensus.PlanAborting && r.UndoState == consensus.StepRunning:
			out = append(out, fmt.Sprintf("      <-  ..  %s", s.Title))
		}
	}
	return out
}

// planSum is the outcome of an ended plan in one or two sentences.
func planSum(pl consensus.Plan) string {
	took := span(pl.Ended.Sub(pl.Created).Round(100 * time.Millisecond))
	switch pl.Phase {
	case consensus.PlanCompleted:
		if pl.Kind == consensus.Reseed {
			return fmt.Sprintf("Completed in %s: %s is mirrored anew.", took, pl.To)
		}
		out := fmt.Sprintf("Completed in %s: %s holds %s", took, pl.To, words(pl.Roles))
		if n, ok := oneEpoch(pl); ok {
			out += fmt.Sprintf(", epoch %d", n)
		}
		if pause, ok := measuredPause(pl); ok {
			out += "; paused " + span(pause.Round(100*time.Millisecond))
		}
		if pl.Kind == consensus.Unplanned {
			return out + ".\nLoss bound: " + lossText(pl.Bound) + "."
		}
		return out + "; nothing lost."
	case consensus.PlanRolledBack:
		if len(pl.Roles) == 0 {
			return fmt.Sprintf("Rolled back after %s: everything is as it was.", took)
		}
		return fmt.Sprintf("Rolled back after %s: %s holds %s as before.", took, pl.From, words(pl.Roles))
	case consensus.PlanSuperseded:
		return "Given up for another plan: `holdfast failover status` shows it."
	}
	return ""
}

func oneEpoch(pl consensus.Plan) (consensus.Epoch, bool) {
	var one consensus.Epoch
	for _, r := range pl.Roles {
		e := pl.Epochs[r]
		if e == 0 || one != 0 && e != one {
			return 0, false
		}
		one = e
	}
	return one, one != 0
}

// measuredPause is from when the old region turned inactive until the new one
// was opened, by the wall clock of the leader that wrote both lines.
func measuredPause(pl consensus.Plan) (time.Duration, bool) {
	var from, to time.Time
	for i, s := range pl.Steps {
		if i >= len(pl.Journal) || pl.Journal[i].State != consensus.StepDone {
			continue
		}
		switch s.Kind {
		case consensus.StepDrain:
			from = pl.Journal[i].Finished
		case consensus.StepOpen:
			to = pl.Journal[i].Finished
		}
	}
	if from.IsZero() || to.Before(from) {
		return 0, false
	}
	return to.Sub(from), true
}

// renderPlans lists plans, one line each.
func renderPlans(plans []httpapi.Plan, now time.Time) string {
	if len(plans) == 0 {
		return "No plan has been run.\n"
	}
	rows := [][]string{{"PLAN", "STATE", "WHAT", "STARTED", "TOOK", "BY"}}
	for _, pl := range plans {
		took := "-"
		if !pl.Plan.Ended.IsZero() {
			took = span(pl.Plan.Ended.Sub(pl.Plan.Created).Round(100 * time.Millisecond))
		}
		state := string(pl.Plan.Phase)
		if pl.Stuck != "" {
			state += ", STUCK"
		}
		rows = append(rows, []string{string(pl.ID), state, planTitle(pl.Plan), when(pl.Plan.Created, now), took, orDash(pl.Plan.By)})
	}
	var p page
	p.table(rows)
	return p.String()
}
