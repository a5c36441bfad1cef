package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/restore"
)

// tablesShown bounds the tables of one part in a text.
const tablesShown = 20

// renderSet is one set: what it holds, what it does not, and who proved it.
func renderSet(s setShown, offsets bool) string {
	var p page
	seal := s.Seal
	p.line("Set %s of %s, %s. Sealed %s, %s old.", seal.Set, seal.Region, seal.Cluster, when(seal.Sealed, s.At), age(seal.Age(s.At)))
	p.line("Taken by %s (%s) in %s; its parts were taken within %s.", seal.Node, cmp.Or(seal.Version, "unknown version"), span(seal.Sealed.Sub(seal.Started).Round(time.Millisecond)), millis(seal.SkewMs))
	p.line("In %s.", s.Vault)
	stands := "which is not in the log: it stands on its signature"
	switch {
	case s.Logged:
		stands = "as the log says"
	case !s.Log:
		stands = "which stands on its signature: the log was not asked"
	}
	p.line("Seal sha256 %s,", s.Digest)
	p.line("  %s.", stands)
	p.line("")
	p.table(partTable(seal))
	for _, part := range s.Parts {
		p.line("")
		p.part(part, offsets)
	}
	p.line("")
	p.line("A restore will not bring back:")
	p.line("  - what was written after %s", when(oldest(seal), s.At))
	if _, ok := seal.Part(backup.Kafka); ok {
		p.line("  - records of topics that retention takes: a set holds offsets, not records")
	}
	for _, part := range s.Parts {
		for _, n := range part.Notes {
			p.wrap("  - ", string(part.Engine)+": "+brief(n))
		}
	}
	p.line("")
	switch {
	case s.DrillsWhy != "":
		p.line("Its drills could not be read: %s", oneLine(s.DrillsWhy))
	case len(s.Drills) == 0:
		p.line("No drill has restored it. Prove it: holdfast drill run --set %s", seal.Set)
	default:
		p.drillTable(s.Drills, s.At)
	}
	return p.String()
}

// oldest is when the first part was begun: it knows nothing of what came after.
func oldest(s backup.Seal) time.Time {
	t := s.Sealed
	for _, p := range s.Parts {
		if !p.Started.IsZero() && p.Started.Before(t) {
			t = p.Started
		}
	}
	return t
}

func (p *page) part(s partShown, offsets bool) {
	head := strings.ToUpper(string(s.Engine)) + "  " + orDash(s.Store.Version)
	switch {
	case s.Kafka != nil:
		parts, committed := 0, 0
		for _, t := range s.Kafka.Topics {
			parts += len(t.Partitions)
		}
		for _, g := range s.Kafka.Groups {
			committed += len(g.Offsets)
		}
		p.line("%s, %s with %s; %s with %s", head, some(len(s.Kafka.Topics), "topic"), some(parts, "partition"), some(len(s.Kafka.Groups), "group"), some(committed, "offset"))
		if offsets {
			p.offsets(*s.Kafka)
		} else {
			p.line("  --offsets lists them")
		}
		return
	case s.Postgres != nil:
		p.line("%s, system %s, timeline %d, %s to %s, %s", head, s.Postgres.SystemID, s.Postgres.Timeline, s.Postgres.StartLSN, s.Postgres.EndLSN, some(s.Postgres.Files, "file"))
	default:
		partitions := 0
		for _, t := range s.Tables {
			partitions += len(t.Partitions)
		}
		p.line("%s, %s, %s in %s", head, some(len(s.Tables), "table"), some(partitions, "partition"), some(s.Packs, "pack"))
	}
	p.tables(s)
}

// tables lists the largest ones; what is cut is summed up.
func (p *page) tables(s partShown) {
	all := slices.Clone(s.Tables)
	slices.SortStableFunc(all, func(a, b tableShown) int { return cmp.Compare(b.Rows, a.Rows) })
	rows := [][]string{}
	for _, t := range all[:min(len(all), tablesShown)] {
		row := []string{t.Name, rowsOf(t.Rows)}
		if len(t.Partitions) > 0 {
			row = append(row, some(len(t.Partitions), "partition"))
		}
		if t.Note != "" {
			row = append(row, oneLine(t.Note))
		}
		rows = append(rows, row)
	}
	for _, l := range aligned(rows) {
		p.line("  %s", l)
	}
	if cut := all[min(len(all), tablesShown):]; len(cut) > 0 {
		var rest uint64
		for _, t := range cut {
			rest += t.Rows
		}
		p.line("  and %s with %s in all: --json lists every one", some(len(cut), "smaller table"), rowsOf(rest))
	}
}

func (p *page) offsets(k backup.KafkaPart) {
	type log struct {
		topic     string
		partition int32
	}
	ends := map[log]int64{}
	for _, t := range k.Topics {
		for _, part := range t.Partitions {
			ends[log{t.Name, part.Partition}] = part.End
		}
	}
	rows := [][]string{{"GROUP", "TOPIC", "PARTITION", "NEXT", "END", "BEHIND"}}
	for _, g := range k.Groups {
		for _, o := range g.Offsets {
			end, behind := "-", "-"
			if e, ok := ends[log{o.Topic, o.Partition}]; ok {
				end, behind = fmt.Sprint(e), count(max(0, e-o.Offset))
			}
			rows = append(rows, []string{g.Name, o.Topic, fmt.Sprint(o.Partition), fmt.Sprint(o.Offset), end, behind})
		}
	}
	for _, l := range aligned(rows) {
		p.line("  %s", l)
	}
}

// renderVerified says what was found, and how deep the look was.
func renderVerified(v verified) string {
	var p page
	for i, s := range v.Sets {
		if i > 0 && (!s.OK || !v.Sets[i-1].OK) {
			p.line("")
		}
		p.wrap("", s.verdict(v.ReadData, v.Log))
		for _, f := range s.Findings {
			p.line("!! %s: %s", f.Object, oneLine(f.What))
			if f.Hurts != "" {
				p.line("    hurts: %s", oneLine(f.Hurts))
			}
		}
		if more := s.Broken - len(s.Findings); more > 0 {
			p.line("!! and %s more", count(int64(more)))
		}
	}
	p.line("")
	switch broken := brokenSets(v); {
	case broken > 0:
		p.line("%d of %s cannot be restored as taken. Use another: holdfast backup list", broken, some(len(v.Sets), "set"))
	case v.ReadData:
		p.line("Every byte is what was hashed when it was taken. Whether it restores, a drill proves: holdfast drill run")
	default:
		p.line("Every object is there with its size. Bytes were not read: --read-data")
	}
	return p.String()
}

func (s setVerified) verdict(read, log bool) string {
	head := fmt.Sprintf("Set %s of %s", s.Set, s.Region)
	if !s.OK {
		return fmt.Sprintf("%s: NOT WHOLE, %s", head, some(s.Broken, "finding"))
	}
	out := fmt.Sprintf("%s: seal and manifests genuine, %s of %s there", head, some(s.Objects, "object"), size(s.Bytes))
	if read {
		out += fmt.Sprintf(", %s read and equal to their hashes in %s", size(s.Read), millis(s.TookMs))
	}
	if log && !s.Logged {
		out += "; the log does not name this seal"
	}
	return out
}

func brokenSets(v verified) (n int) {
	for _, s := range v.Sets {
		if !s.OK {
			n++
		}
	}
	return n
}

// drillTable lists drills of sets, as read from the repository.
func (p *page) drillTable(all []drillShown, now time.Time) {
	rows := [][]string{{"DRILL", "SET", "OF", "ENDED", "RTO", "LOST", "CAUGHT", "RESULT"}}
	for _, d := range all {
		r := d.Report
		rto, rpo := "-", "-"
		if r.OK {
			rto, rpo = millis(r.RTOMs), age(millisOf(r.RPOMs))
		}
		rows = append(rows, []string{d.Run, string(r.Set), string(r.Region), when(r.Ended, now), rto, rpo, strings.TrimSuffix(controls(r.Controls), " caught"), drillResult(r)})
	}
	p.table(rows)
}

func drillResult(r restore.Report) string {
	switch {
	case r.OK:
		return "proven"
	case r.Fault == restore.FaultSet:
		return "FAILED: " + shorten(oneLine(r.Why), provenWide)
	}
	return "no verdict: " + shorten(oneLine(r.Why), provenWide)
}

func controls(all []restore.Control) string {
	caught := 0
	for _, c := range all {
		if c.Caught {
			caught++
		}
	}
	return fmt.Sprintf("%d of %d caught", caught, len(all))
}
