package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

// page collects lines.
type page struct{ strings.Builder }

func (p *page) line(format string, a ...any) {
	fmt.Fprintf(&p.Builder, format, a...)
	p.WriteByte('\n')
}

// pageWide is where sentences are broken that are in no column.
const pageWide = 100

// wrap prints a sentence behind a head, broken at blanks, each line below its
// first word. A word is never broken: it may be a path or a key.
func (p *page) wrap(head, text string) {
	line, indent := head, strings.Repeat(" ", width(head))
	begun := false
	for _, word := range strings.Fields(text) {
		if begun && width(line)+1+width(word) > pageWide {
			p.line("%s", line)
			line, begun = indent, false
		}
		if begun {
			line += " "
		}
		line, begun = line+word, true
	}
	p.line("%s", strings.TrimRight(line, " "))
}

// namesShown bounds a list of names at the end of a note.
const namesShown = 3

// brief cuts the list of names that a note ends with, and counts the rest.
func brief(note string) string {
	note = oneLine(note)
	at := strings.LastIndex(note, ": ")
	if at < 0 {
		return note
	}
	names := strings.Split(note[at+2:], ", ")
	if len(names) <= namesShown+1 || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, " ") }) {
		return note
	}
	return fmt.Sprintf("%s: %s and %d more (--json)", note[:at], strings.Join(names[:namesShown], ", "), len(names)-namesShown)
}

// gap is between two columns.
const gap = "   "

// table aligns rows in columns. The first row is the head.
func (p *page) table(rows [][]string) {
	for _, l := range aligned(rows) {
		p.line("%s", l)
	}
}

func aligned(rows [][]string) []string {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	out := make([]string, len(rows))
	for n, r := range rows {
		var b strings.Builder
		for i, cell := range r {
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-width(cell)) + gap)
			}
		}
		out[n] = strings.TrimRight(b.String(), " ")
	}
	return out
}

func width(s string) int { return utf8.RuneCountInString(s) }

func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-width(s))) }

// span writes a duration as people say it: 40 ms, 0.4 s, 9.8 s, 3 min 12 s.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "unknown"
	case d == 0:
		return "0 s"
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%d ms", max(1, d.Milliseconds()))
	case d < 99950*time.Millisecond:
		return strings.TrimSuffix(strconv.FormatFloat(d.Seconds(), 'f', 1, 64), ".0") + " s"
	case d < time.Hour:
		return two(d, time.Minute, "min", time.Second, "s")
	case d < 48*time.Hour:
		return two(d, time.Hour, "h", time.Minute, "min")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func two(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	d = d.Round(small)
	if rest := d % big / small; rest > 0 {
		return fmt.Sprintf("%d %s %d %s", d/big, bigName, rest, smallName)
	}
	return fmt.Sprintf("%d %s", d/big, bigName)
}

// seconds is span for a figure in seconds; negative is unknown.
func seconds(s float64) string {
	if s < 0 || math.IsNaN(s) || s > 1e9 {
		return "unknown"
	}
	return span(time.Duration(s * float64(time.Second)))
}

func millis(ms int64) string { return span(time.Duration(ms) * time.Millisecond) }

// count writes 1234567 as 1,234,567.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// some writes "1 gate", "3 gates".
func some(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return count(int64(n)) + " " + word + "s"
}

func records(n int64) string {
	switch {
	case n < 0:
		return "unknown records"
	case n == 1:
		return "1 record"
	}
	return count(n) + " records"
}

func size(n int64) string {
	if n < 0 {
		return "unknown"
	}
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// distance is how far something is behind.
func distance(n int64, s float64) string {
	if n < 0 {
		return seconds(s)
	}
	return records(n) + ", " + seconds(s)
}

func clockTime(t time.Time) string { return t.UTC().Format(time.TimeOnly) }

// when is the time of day, with the date unless it is the day of now.
func when(t, now time.Time) string {
	if t.UTC().Format(time.DateOnly) == now.UTC().Format(time.DateOnly) {
		return clockTime(t) + " UTC"
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// words joins names: "ingestion", "ingestion and query", "a, b and c".
func words[T ~string](names []T) string {
	switch len(names) {
	case 0:
		return "nothing"
	case 1:
		return string(names[0])
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return strings.Join(out[:len(out)-1], ", ") + " and " + out[len(out)-1]
}

func orDash(s string) string { return cmp.Or(s, "-") }

// oneLine keeps foreign text from breaking a table.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// severities, worst first, with the mark they get.
var severities = []httpapi.Severity{httpapi.Critical, httpapi.Warning, httpapi.Note}

func mark(s httpapi.Severity) string {
	switch s {
	case httpapi.Critical:
		return "!!"
	case httpapi.Note:
		return "-"
	}
	return "!"
}

// findings prints the worst first; the order within one severity stays. A
// next step that several in a row share is said once, below the last.
func (p *page) findings(all []httpapi.Finding) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b httpapi.Finding) int {
		return cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity))
	})
	for i, f := range all {
		what := f.What
		if f.About != "" {
			what = f.About + ": " + what
		}
		p.line("%s %s", mark(f.Severity), oneLine(what))
		again := i+1 < len(all) && all[i+1].Next == f.Next && all[i+1].Severity == f.Severity
		if f.Next != "" && !again {
			p.line("    next: %s", oneLine(f.Next))
		}
	}
}

// grave reports whether a person should act on any of them.
func grave(all []httpapi.Finding) bool {
	return slices.ContainsFunc(all, func(f httpapi.Finding) bool { return f.Severity != httpapi.Note })
}

// renderProblem is an error as a person reads it.
func renderProblem(p *httpapi.Problem) string {
	var out page
	if len(p.Blockers) == 0 {
		out.line("holdfast: %s: %s", p.Title, p.Detail)
		if p.Fix != "" {
			out.line("    try: %s", p.Fix)
		}
		return out.String()
	}
	out.line("holdfast: %s: refused by %s; nothing was changed", p.Title, some(len(p.Blockers), "gate"))
	for _, b := range p.Blockers {
		out.line("  NO  %s: %s", b.Gate, b.Why)
		if b.Fix != "" {
			out.line("      fix: %s", b.Fix)
		}
	}
	return out.String()
}
