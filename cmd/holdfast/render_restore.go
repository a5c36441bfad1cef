package main

import (
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/restore"
)

// renderRestorePlan is a restore before anything happened.
func renderRestorePlan(pl restore.Plan, vault string) string {
	var p page
	p.line("Restore of set %s of %s, sealed %s, from %s. Nothing has been changed.", pl.Set, pl.Region, when(pl.Sealed, pl.Made), vault)
	p.line("")
	rows := [][]string{{"ENGINE", "WHERE", "HOLDS", "READS"}}
	for _, part := range pl.Parts {
		rows = append(rows, []string{string(part.Engine), part.Where, holds(part), some(part.Objects, "object") + ", " + size(part.Bytes)})
	}
	p.table(rows)
	p.line("")
	read := fmt.Sprintf("reads   %s, %s", some(pl.Objects, "object"), size(pl.Bytes))
	if pl.EstimateMs > 0 {
		read += ", about " + age(millisOf(pl.EstimateMs)) + " at the pace of the last drill"
	}
	p.line("%s", read)
	p.line("loses   what was written in the last %s, since the set was begun", age(millisOf(pl.AgeMs)))
	for _, n := range restoreNotes(pl) {
		p.line("note    %s", n)
	}
	all := pl.Obstacles()
	if len(all) == 0 {
		return p.String()
	}
	p.line("")
	for _, o := range all {
		p.line("  NO  %s", oneLine(o.What))
		if o.Next != "" {
			p.line("      fix: %s", oneLine(o.Next))
		}
	}
	p.line("")
	p.line("Refused: %s in the way. Places are named with --clickhouse-database and --postgres-directory,", some(len(all), "thing"))
	p.line("parts with --engine. Nothing has been changed.")
	return p.String()
}

func holds(part restore.PlanPart) string {
	if part.Engine == backup.Kafka {
		return fmt.Sprintf("%s of %s", some(int(part.Rows), "offset"), some(part.Groups, "group"))
	}
	out := fmt.Sprintf("%s rows in %s", figure(part.Rows), some(part.Tables, "table"))
	if part.Files > 0 {
		out += ", " + some(part.Files, "file")
	}
	return out
}

func restoreNotes(pl restore.Plan) []string {
	var out []string
	for _, part := range pl.Parts {
		for _, n := range part.Notes {
			out = append(out, string(part.Engine)+": "+oneLine(n))
		}
	}
	for _, n := range pl.Notes {
		out = append(out, oneLine(n))
	}
	return out
}

// renderRestored is what a restore did, and where everything is.
func renderRestored(r restored) string {
	var p page
	o := r.Outcome
	p.stages(o.Stages)
	for _, e := range o.Engines {
		p.differences(e)
	}
	for _, f := range o.Findings {
		p.line("! %s: %s", f.Object, oneLine(f.What))
	}
	if !o.OK {
		p.line("")
		p.line("Not restored, after %s.", millis(o.Ms))
		for _, l := range o.Left {
			p.line("! still there: %s in %s: %s", l.Engine, l.Where, oneLine(l.Why))
		}
		return p.String()
	}
	p.line("")
	p.line("Restored in %s and equal to what was counted: %s rows, %s read and hashed. The data is %s old.", millis(o.Ms), figure(o.Rows), size(o.Bytes), age(millisOf(o.AgeMs)))
	for _, e := range r.Places {
		p.line("")
		p.line("%s is in %s", e.Engine, e.Where)
		if e.Connect != "" {
			p.line("  connect: %s", e.Connect)
		}
		for _, n := range e.Notes {
			p.line("  %s", oneLine(n))
		}
	}
	return p.String()
}

// stageWide is the picture of the longest stage.
const stageWide = 30

// stages draws how long each stage took, as bars of one scale.
func (p *page) stages(all []restore.Stage) {
	most := int64(1)
	for _, s := range all {
		most = max(most, s.Ms)
	}
	rows := [][]string{}
	for _, s := range all {
		state := "ok"
		if !s.OK {
			state = "NO"
		}
		bar := strings.Repeat("█", int(s.Ms*stageWide/most))
		rows = append(rows, []string{state, s.Name, millis(s.Ms), pad(bar, stageWide), oneLine(s.What)})
	}
	for _, l := range aligned(rows) {
		p.line("  %s", l)
	}
}

// differences names what is not as the manifest says.
func (p *page) differences(e restore.Proven) {
	for _, d := range e.Comparison.Differences {
		p.line("!! %s: %s: %s", e.Engine, oneLine(d.Where), oneLine(d.What))
	}
	if more := e.Comparison.Different - len(e.Comparison.Differences); more > 0 {
		p.line("!! %s: and %s more", e.Engine, count(int64(more)))
	}
}
