package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/replicate"
)

// renderMirror is every direction with what does not move, and with all its
// partitions when asked.
func renderMirror(r httpapi.MirrorReport, every bool) string {
	var p page
	if len(r.Links) == 0 {
		p.line("Nothing is mirrored.")
	}
	for i, l := range r.Links {
		if i > 0 {
			p.line("")
		}
		p.link(l, r.At, every)
	}
	if all := mirrorFindings(r); len(all) > 0 {
		p.line("")
		p.findings(all)
	}
	return p.String()
}

func (p *page) link(l httpapi.MirrorLink, now time.Time, every bool) {
	running := l.Report != nil && l.Report.Running
	head := fmt.Sprintf("%s   %s, epoch %d", linkName(l.ID), linkState(l.Phase, running, l.HeardMs, l.Paused), l.Epoch)
	if !l.Proven.IsZero() {
		head += ", compared " + when(l.Proven, now)
	}
	if !l.Paused.IsZero() {
		head += ", paused until " + when(l.Paused, now)
	}
	if l.HeardMs > factsOld.Milliseconds() {
		head += ", as of " + millis(l.HeardMs) + " ago"
	}
	p.line("%s", head)
	if l.Report == nil || l.Phase == consensus.LinkEnded {
		return
	}
	t := l.Report.Totals
	behind := fmt.Sprintf("%s, about %s, %s", records(t.RecordsBehind), size(t.BytesBehindEstimate), seconds(t.SecondsBehindMax))
	switch {
	case t.Unknown > 0 && t.Unknown == t.Partitions:
		behind = "not known"
	case t.Unknown > 0:
		behind += fmt.Sprintf(", without %d of unknown distance", t.Unknown)
	}
	p.line("  behind      %s", behind)
	state := []string{count(int64(t.Working)) + " working"}
	for _, s := range []struct {
		n    int
		word string
	}{{t.Resuming, "resuming"}, {t.Promoted, "promoted"}, {t.Frozen, "FROZEN"}, {t.Unknown, "of unknown distance"}} {
		if s.n > 0 {
			state = append(state, count(int64(s.n))+" "+s.word)
		}
	}
	p.line("  partitions  %s: %s", count(int64(t.Partitions)), strings.Join(state, ", "))
	p.line("  mirrored    %s, %s since the daemon started", records(t.Records), size(t.Bytes))
	if t.Holes > 0 {
		p.line("  holes       %s, %s offsets that hold no record at the source", count(t.Holes), count(t.Filled))
	}
	p.line("  groups      offsets cover %d of %d", l.Coverage.Covered, l.Coverage.Groups)
	p.partitionTable(l.Report.Partitions, every)
}

func (p *page) partitionTable(all []replicate.PartitionStatus, every bool) {
	rows := [][]string{{"  PARTITION", "STATE", "SOURCE END", "TARGET END", "BEHIND"}}
	for _, s := range all {
		if !every && s.State == replicate.Following && s.Trouble == "" {
			continue
		}
		state := strings.ToLower(fmt.Sprint(s.State))
		if s.Unproven {
			state += ", not compared"
		}
		switch {
		case s.Seed != nil:
			state += fmt.Sprintf(" to %d", s.Seed.End)
			if s.Seed.Left >= 0 {
				state += ", " + seconds(s.Seed.Left) + " left"
			}
		case s.Hole != nil:
			state += fmt.Sprintf(" [%d,%d)", s.Hole.Start, s.Hole.End)
		}
		rows = append(rows, []string{"  " + s.Partition.String(), state, offset(s.SourceEnd), offset(s.TargetEnd), distance(s.RecordsBehind, s.SecondsBehind)})
	}
	if len(rows) > 1 {
		p.line("")
		p.table(rows)
	}
}

func offset(n int64) string {
	if n < 0 {
		return "unknown"
	}
	return fmt.Sprint(n)
}

// mirrorFindings are what does not move, what is being retried, and what the
// mirror itself reports.
func mirrorFindings(r httpapi.MirrorReport) []httpapi.Finding {
	var out []httpapi.Finding
	for _, l := range r.Links {
		name := linkName(l.ID)
		if l.Report == nil {
			if l.Phase != consensus.LinkEnded {
				out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: name, What: "its daemon does not report: " + l.Why, Next: "holdfast members list"})
			}
			out = append(out, agreedFrozen(l, nil)...)
			continue
		}
		if l.Phase == consensus.LinkRunning && !l.Report.Running && l.Paused.IsZero() {
			out = append(out, httpapi.Finding{Severity: httpapi.Critical, About: name, What: "the mirror does not run; " + orDash(l.Why), Next: "holdfast check"})
		}
		var shown []string
		for _, s := range l.Report.Partitions {
			switch {
			case s.Frozen != nil:
				shown = append(shown, s.Partition.String())
				out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: name, What: s.Partition.String() + " is frozen: " + s.Frozen.String(), Next: s.Next})
			case s.State == replicate.Promoted:
				out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: name, What: fmt.Sprintf("%s is promoted: a fence stands at offset %d, nothing of this link may follow it", s.Partition, s.TargetEnd), Next: "holdfast failover status; if no plan is live: " + fmt.Sprintf("holdfast mirror reseed --region %s --topic %s --reason WHY", l.Report.Link.Target, s.Topic)})
			case s.Trouble != "":
				out = append(out, httpapi.Finding{Severity: httpapi.Note, About: name, What: s.Partition.String() + " is being retried: " + s.Trouble})
			}
		}
		out = append(out, agreedFrozen(l, shown)...)
		for _, t := range l.Deleted {
			out = append(out, deletedFinding(name, t))
		}
		var groups []string // the mirror's own words on a group are the fuller ones
		for _, f := range l.Report.Findings {
			if strings.HasPrefix(f.About, "group ") {
				groups = append(groups, f.About+" ")
			}
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: name, What: f.About + ": " + f.Text, Next: f.Next})
		}
		for _, why := range l.Coverage.Missing {
			if slices.ContainsFunc(groups, func(g string) bool { return strings.HasPrefix(why, g) }) {
				continue
			}
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: name, What: why, Next: "holdfast groups check"})
		}
	}
	return out
}

func agreedFrozen(l httpapi.MirrorLink, shown []string) []httpapi.Finding {
	var out []httpapi.Finding
	for _, f := range l.Frozen {
		if !slices.Contains(shown, f.Partition.String()) {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: linkName(l.ID), What: frozenText(f), Next: f.Next})
		}
	}
	return out
}
