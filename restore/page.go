package restore

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-dr/holdfast/backup"
)

// barWidth is how many characters the whole of a drill takes in its picture.
const barWidth = 40

// Page is the report for people, in Markdown: the verdict in its first line,
// then when each stage ran, what was compared, what was broken on purpose.
func (r Report) Page() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", r.Verdict())
	if !r.OK {
		fmt.Fprintf(&b, "Why: %s\n\n", inline(r.Why))
	}
	r.facts(&b)
	r.timeline(&b)
	r.compared(&b)
	r.broken(&b)
	list(&b, "Findings", r.Findings, func(f Finding) string {
		s := "`" + inline(f.Object) + "` " + inline(f.What)
		if f.Hurts != "" {
			s += "; it hurts " + inline(f.Hurts)
		}
		return s
	})
	list(&b, "To be removed by hand", r.Left, func(l Leftover) string {
		return fmt.Sprintf("%s in %s: %s", l.Engine, inline(l.Where), inline(l.Why))
	})
	list(&b, "Notes", r.Notes, inline)
	return []byte(b.String())
}

// Verdict is the report in one sentence.
func (r Report) Verdict() string {
	set := fmt.Sprintf("set %s", r.Set)
	if r.Region != "" && !r.Sealed.IsZero() {
		set = fmt.Sprintf("the set of %s sealed %s", r.Region, at(r.Sealed))
	}
	switch {
	case r.OK:
		return fmt.Sprintf("Proven: %s was restored in %s; %s equal", set, Took(r.RTOMs), r.equal())
	case r.Fault == FaultSet:
		return fmt.Sprintf("Not proven: %s cannot be restored as it was taken", set)
	default:
		return fmt.Sprintf("Not proven: the drill failed, and nothing new is known about %s", set)
	}
}

// equal says what was compared: "1,234,567 rows and 36 offsets".
func (r Report) equal() string {
	var offsets, others uint64
	other := false
	for _, p := range r.Engines {
		if p.Engine == backup.Kafka {
			offsets += p.Comparison.Rows
		} else {
			others, other = others+p.Comparison.Rows, true
		}
	}
	switch {
	case !other:
		return rows(backup.Kafka, offsets)
	case offsets == 0:
		return rows("", others)
	default:
		return rows("", others) + " and " + rows(backup.Kafka, offsets)
	}
}

func (r Report) facts(b *strings.Builder) {
	t := [][]string{{"", ""}}
	add := func(name, value string) {
		if value != "" {
			t = append(t, []string{name, value})
		}
	}
	add("set", string(r.Set))
	add("seal", string(r.Seal))
	if r.OK {
		add("RTO", Took(r.RTOMs)+", from the first look at the repository until all was equal")
	}
	if r.Seal != "" {
		add("RPO", Took(r.RPOMs)+", the age of the data when the drill began")
	}
	if r.Bytes > 0 {
		add("read", Bytes(r.Bytes)+" and hashed")
	}
	add("from", r.Vault)
	add("cluster", r.Cluster)
	add("by", string(r.By))
	add("drill", fmt.Sprintf("%s, attempt %d", r.Run, r.Attempt))
	add("began", at(r.Started))
	add("ended", at(r.Ended))
	table(b, t)
}

// timeline draws the stages as bars, each where it ran in the whole.
func (r Report) timeline(b *strings.Builder) {
	var whole, width int64
	for _, s := range r.Stages {
		whole += span(s)
		width = max(width, int64(utf8.RuneCountInString(s.Name)))
	}
	if len(r.Stages) == 0 {
		return
	}
	b.WriteString("## Stages\n\n```text\n")
	var from int64
	for _, s := range r.Stages {
		ms := span(s)
		mark := "ok  "
		if !s.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(b, "%-*s  %s  %s  %12s\n", int(width), s.Name, mark, bar(from, ms, whole), Took(ms))
		from += ms
	}
	b.WriteString("```\n\n")
	for _, s := range r.Stages {
		fmt.Fprintf(b, "- %s: %s\n", s.Name, inline(s.What))
	}
	b.WriteString("\n")
}

// span is how long a stage took, within what a picture can hold: a report may
// come from foreign hands.
func span(s Stage) int64 { return min(max(0, s.Ms), 1<<40) }

// bar is a run of blocks from one moment of the whole to another, to an eighth
// of a character. What took any time at all is seen.
func bar(from, took, whole int64) string {
	const eighths = " ▏▎▍▌▋▊▉█"
	if whole <= 0 {
		return strings.Repeat("·", barWidth)
	}
	parts := []rune(eighths)
	// Characters are filled from their left, so a bar begins at a whole one.
	start := min(int(float64(from)/float64(whole)*barWidth), barWidth-1)
	fill := int(float64(took) / float64(whole) * barWidth * 8)
	if took > 0 {
		fill = max(fill, 1)
	}
	fill = min(fill, (barWidth-start)*8)
	s := strings.Repeat("·", start) + strings.Repeat("█", fill/8)
	if fill%8 > 0 {
		s += string(parts[fill%8])
	}
	return s + strings.Repeat("·", barWidth-utf8.RuneCountInString(s))
}

func (r Report) compared(b *strings.Builder) {
	if len(r.Engines) == 0 {
		return
	}
	b.WriteString("## Compared\n\n")
	t := [][]string{{"engine", "result", "tables", "compared", "rows", "where"}}
	for _, p := range r.Engines {
		result := "equal"
		switch {
		case p.Comparison.Different > 0:
			result = count(p.Comparison.Different, "difference")
		case !p.OK:
			result = "not compared"
		}
		c := p.Comparison
		t = append(t, []string{string(p.Engine), result, thousands(uint64(max(0, c.Tables))), thousands(uint64(max(0, c.Units))), thousands(c.Rows), p.Where})
	}
	table(b, t)
	for _, p := range r.Engines {
		list(b, "Differences in "+string(p.Engine), p.Comparison.Differences, func(d Difference) string {
			return inline(d.Where) + ": " + inline(d.What)
		})
		if n := p.Comparison.Different - len(p.Comparison.Differences); n > 0 {
			fmt.Fprintf(b, "And %s more.\n\n", thousands(uint64(n)))
		}
		list(b, "Not compared in "+string(p.Engine), p.Comparison.Notes, inline)
	}
}

func (r Report) broken(b *strings.Builder) {
	if len(r.Controls) == 0 {
		return
	}
	b.WriteString("## Broken on purpose\n\nThe drill broke each of these in a view or a scratch copy. A check that does not notice proves nothing.\n\n")
	t := [][]string{{"what", "caught", "which", "what the check said"}}
	for _, c := range r.Controls {
		caught := "yes"
		if !c.Caught {
			caught = "NO"
		}
		t = append(t, []string{c.Name, caught, c.What, c.How})
	}
	table(b, t)
}

// table writes rows, the first of which is the head, with columns that align.
func table(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = cell(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]), 3)
		}
	}
	line := func(row []string) {
		b.WriteString("|")
		for i, s := range row {
			b.WriteString(" " + s + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(s)) + " |")
		}
		b.WriteString("\n")
	}
	line(rows[0])
	b.WriteString("|")
	for _, w := range widths {
		b.WriteString(strings.Repeat("-", w+2) + "|")
	}
	b.WriteString("\n")
	for _, row := range rows[1:] {
		line(row)
	}
	b.WriteString("\n")
}

func list[T any](b *strings.Builder, title string, items []T, say func(T) string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, "## %s\n\n", title)
	for _, it := range items {
		fmt.Fprintf(b, "- %s\n", say(it))
	}
	b.WriteString("\n")
}

// inline keeps foreign text on its line and free of markup.
func inline(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.NewReplacer("<", "&lt;", "`", "'").Replace(s)
}

// cell is inline, within a table.
func cell(s string) string { return strings.ReplaceAll(inline(s), "|", "\\|") }

// at says a moment as on every page of ours, in UTC.
func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
