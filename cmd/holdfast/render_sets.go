package main

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

const (
	provenWide = 40  // of a reason in a table
	errorWide  = 200 // of an error of a run that has ended; --json has all of it
)

// renderSets is the list of sets, with what is under way and what is wrong.
func renderSets(l setList) string {
	var p page
	p.runs(l.Runs, l.At)
	if len(l.Sets) == 0 {
		p.line("There is no set yet: `holdfast backup run` takes one.")
	} else {
		rows := [][]string{{"SET", "REGION", "SEALED", "AGE", "ROWS", "SIZE", "NEW", "PROVEN"}}
		for _, s := range l.Sets {
			if s.Damaged != "" || s.Unread != "" {
				state := "SEAL DAMAGED"
				if s.Unread != "" {
					state = "NOT READ"
				}
				rows = append(rows, []string{string(s.Set), string(s.Region), state, "-", "-", "-", "-", "-"})
				continue
			}
			t := s.Totals
			rows = append(rows, []string{
				string(s.Set), string(s.Region), when(s.Sealed, l.At), age(millisOf(s.AgeMs)), figure(t.Rows), size(t.Bytes), size(t.Uploaded), s.Proof.text(l.At),
			})
		}
		p.table(rows)
	}
	if l.Older > 0 {
		p.line("%s %s not listed: -n shows more", some(l.Older, "older set"), map[bool]string{true: "is", false: "are"}[l.Older == 1])
	}
	if len(l.Findings) > 0 {
		p.line("")
		p.findings(l.Findings)
	}
	return p.String()
}

// runs prints a line for each run, and an empty one after them.
func (p *page) runs(runs []httpapi.Run, now time.Time) {
	for _, r := range runs {
		p.wrap("", runLine(r, now))
	}
	if len(runs) > 0 {
		p.line("")
	}
}

func runLine(r httpapi.Run, now time.Time) string {
	head := fmt.Sprintf("%s %s in %s", title(r.Run.Kind), r.ID, r.Run.Region)
	switch r.Run.State {
	case consensus.RunLive:
		return fmt.Sprintf("%s: under way for %s: %s", head, age(now.Sub(r.Run.Created)), progressText(runProgress(r)))
	case consensus.RunFailed:
		return fmt.Sprintf("%s: failed %s ago: %s", head, age(now.Sub(r.Run.Ended)), shorten(oneLine(r.Run.Error), errorWide))
	case consensus.RunCancelled:
		return fmt.Sprintf("%s: cancelled %s ago: %s", head, age(now.Sub(r.Run.Ended)), oneLine(r.Run.Error))
	}
	return fmt.Sprintf("%s: done %s ago", head, age(now.Sub(r.Run.Ended)))
}

func (p proof) text(now time.Time) string {
	switch p.State {
	case isProven:
		return age(now.Sub(p.At)) + " ago, RTO " + millis(p.RTOMs)
	case isFailed:
		return "FAILED: " + shorten(oneLine(p.Why), provenWide)
	case isNot:
		return "no"
	}
	return "?"
}

// age is a span without the seconds that nobody asks for after a minute.
func age(d time.Duration) string {
	switch d = max(0, d); {
	case d >= time.Minute:
		d = d.Round(time.Minute)
	case d >= time.Second:
		d = d.Round(time.Second)
	}
	return span(d)
}

func millisOf(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// rowsOf writes "1 row", "1,018 rows".
func rowsOf(n uint64) string {
	if n == 1 {
		return "1 row"
	}
	return figure(n) + " rows"
}

// figure is count for numbers that have no sign.
func figure(n uint64) string { return count(int64(n)) }

// partTable has a row per engine, and one for all.
func partTable(s backup.Seal) [][]string {
	rows := [][]string{{"ENGINE", "ROWS", "SIZE", "NEW", "OBJECTS", "TOOK"}}
	line := func(name string, t backup.Totals, took time.Duration) {
		rows = append(rows, []string{name, figure(t.Rows), size(t.Bytes), size(t.Uploaded), count(int64(t.Objects)), span(took.Round(time.Millisecond))})
	}
	for _, p := range s.Parts {
		line(string(p.Engine), p.Totals, p.Finished.Sub(p.Started))
	}
	if len(s.Parts) > 1 {
		line("all", s.Totals(), s.Sealed.Sub(s.Started))
	}
	return rows
}

// renderTaken is a set that was just sealed.
func renderTaken(t taken) string {
	var p page
	p.line("Set %s of %s is sealed, after %s.", t.Set, t.Region, millis(t.TookMs))
	p.line("")
	if t.Seal != nil {
		p.table(partTable(*t.Seal))
	} else {
		p.line("%s, %s, of which %s are new, in %s", rowsOf(t.Totals.Rows), size(t.Totals.Bytes), size(t.Totals.Uploaded), some(t.Totals.Objects, "object"))
	}
	p.line("")
	p.line("seal  sha256 %s", t.Digest)
	p.line("Nobody has restored it yet. Prove it: holdfast drill run --set %s", t.Set)
	return p.String()
}
