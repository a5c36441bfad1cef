package main

import (
	"strings"

	"github.com/holdfast-dr/holdfast/restore"
)

// renderDrilled is a drill that just ended.
func renderDrilled(d drilled) string {
	var p page
	if d.Full == nil {
		switch {
		case d.OK:
			p.line("Proven: set %s of %s was restored in %s and equals what was counted; %d of %d controls caught.", d.Set, d.Region, millis(d.RTOMs), d.Caught, d.Controls)
			p.line("Its data was %s old.", age(millisOf(d.RPOMs)))
		default:
			p.line("Not proven: set %s of %s: %s", d.Set, d.Region, oneLine(d.Why))
		}
		return p.String()
	}
	p.report(*d.Full)
	p.line("")
	p.line("The whole report: holdfast drill show %s %s", d.Set, d.Run)
	return p.String()
}

// report is the verdict of a drill, its stages and its controls.
func (p *page) report(r restore.Report) {
	p.line("%s.", r.Verdict())
	if !r.OK {
		p.line("Why: %s", oneLine(r.Why))
	} else {
		p.line("RTO %s, measured. Lost would have been the last %s.", millis(r.RTOMs), age(millisOf(r.RPOMs)))
	}
	p.line("")
	p.stages(r.Stages)
	if len(r.Controls) > 0 {
		p.line("")
		p.line("Broken on purpose, %s:", controls(r.Controls))
		for _, c := range r.Controls {
			state := "ok"
			if !c.Caught {
				state = "NO"
			}
			p.wrap("  "+state+"  ", c.Name+" ("+c.What+")")
			p.wrap("      ", strings.TrimPrefix(c.How, lastWord(c.What)+" "))
		}
	}
	for _, e := range r.Engines {
		p.differences(e)
	}
	for _, f := range r.Findings {
		p.line("! %s: %s", f.Object, oneLine(f.What))
	}
	for _, l := range r.Left {
		p.line("! still there: %s in %s: %s", l.Engine, l.Where, oneLine(l.Why))
	}
}

// lastWord is the name of what was broken: what was said about it begins with
// it again.
func lastWord(s string) string {
	words := strings.Fields(s)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}

// renderDrills is the list of drills.
func renderDrills(l drillsListed) string {
	var p page
	p.runs(l.Runs, l.At)
	if len(l.Drills) == 0 {
		p.line("No drill has restored a set yet: `holdfast drill run` does.")
	} else {
		p.drillTable(l.Drills, l.At)
	}
	if l.Older > 0 {
		p.line("%s that the log does not call drilled were not looked at: holdfast drill show SET", some(l.Older, "older set"))
	}
	if len(l.Findings) > 0 {
		p.line("")
		p.findings(l.Findings)
	}
	return p.String()
}
