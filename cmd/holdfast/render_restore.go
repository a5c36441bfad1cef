package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/restore"
)

// renderRestorePlan is a restore before anything happened.
func renderRestorePlan(pl restore.Plan, vault string) string {
	var p page
	p.line("Restore of set %s of %s, sealed %s.", pl.Set, pl.Region, when(pl.Sealed, pl.Made))
	p.line("From %s. Nothing has been changed.", vault)
	p.line("")
	rows := [][]string{{"ENGINE", "HOLDS", "READS"}}
	for _, part := range pl.Parts {
		rows = append(rows, []string{string(part.Engine), holds(part), some(part.Objects, "object") + ", " + size(part.Bytes)})
	}
	p.table(rows)
	p.line("")
	for _, part := range pl.Parts {
		p.wrap("to      ", string(part.Engine)+": "+part.Where)
	}
	read := fmt.Sprintf("reads   %s, %s", some(pl.Objects, "object"), size(pl.Bytes))
	if pl.EstimateMs > 0 {
		read += ", about " + age(millisOf(pl.EstimateMs)) + " at the pace of the last drill"
	}
	p.line("%s", read)
	p.line("loses   what was written in the last %s, since the set was begun", age(millisOf(pl.AgeMs)))
	for _, n := range restoreNotes(pl) {
		p.wrap("note    ", n)
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
	out := fmt.Sprintf("%s in %s", rowsOf(part.Rows), some(part.Tables, "table"))
	if part.Files > 0 {
		out += ", " + some(part.Files, "file")
	}
	return out
}

func restoreNotes(pl restore.Plan) []string {
	var out []string
	for _, part := range pl.Parts {
		for _, n := range part.Notes {
			out = append(out, string(part.Engine)+": "+brief(n))
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
		if len(o.Left) > 0 {
			p.line("    next: %s", cmp.Or(r.Clean, "holdfast restore clean"))
		} else {
			p.line("Whatever it made was taken away again.")
		}
		return p.String()
	}
	p.line("")
	p.line("Restored in %s and equal to what was counted: %s, %s read and hashed. The data is %s old.", millis(o.Ms), rowsOf(o.Rows), size(o.Bytes), age(millisOf(o.AgeMs)))
	for _, e := range r.Places {
		p.line("")
		p.line("%s is in %s", e.Engine, e.Where)
		if e.Connect != "" {
			p.line("  connect: %s", e.Connect)
		}
		for _, n := range e.Notes {
			p.wrap("  ", n)
		}
		if e.Start != "" {
			p.command("  ", e.Start)
		}
	}
	return p.String()
}

// command prints a long shell line, so that it can be copied as it stands.
func (p *page) command(indent, line string) {
	parts := strings.Split(line, " -")
	out := indent + "start: " + parts[0]
	for _, part := range parts[1:] {
		if width(out)+width(part)+4 > pageWide && strings.Count(out, "'")%2 == 0 { // never within a quoted path
			p.line("%s \\", out)
			out = indent + "  -" + part
			continue
		}
		out += " -" + part
	}
	p.line("%s", strings.TrimRight(out, " "))
}

// stageWide is the picture of the longest stage.
const stageWide = 20

// stageLine is how wide a stage may be with what it did; what is longer gets
// lines of its own.
const stageLine = 108

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
		rows = append(rows, []string{state, s.Name, millis(s.Ms), bar})
	}
	heads := aligned(rows)
	wide := 0
	for _, h := range heads {
		wide = max(wide, width(h))
	}
	for i, s := range all {
		what := oneLine(s.What)
		if wide+len(gap)+width(what) <= stageLine || what == "" {
			p.line("%s", strings.TrimRight("  "+pad(heads[i], wide)+gap+what, " "))
			continue
		}
		p.line("  %s", heads[i])
		p.wrap("       ", what)
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
