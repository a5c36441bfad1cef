package main

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

// renderGroups says which groups could start, and where the others would
// begin.
func renderGroups(r httpapi.GroupsReport) string {
	var p page
	if len(r.Groups) == 0 {
		p.line("No consumer group is copied.")
		return p.String()
	}
	rows := [][]string{{"GROUP", "REGION", "OFFSETS", "NEVER READ", "SKIPPED", "READ AGAIN", "COULD START"}}
	var all []httpapi.Finding
	var ok, offsets, wrong int
	for _, g := range r.Groups {
		if g.OK {
			ok++
		}
		offsets += g.Partitions
		wrong += g.Partitions - g.Covered
		rows = append(rows, groupLine(g))
		if !g.OK {
			all = append(all, groupFindings(g)...)
		}
	}
	if wrong == 0 && ok == len(r.Groups) {
		p.line("%d of %s could start: %s compared, none is wrong.", ok, some(ok, "group"), some(offsets, "offset"))
	} else {
		p.line("%d of %s could start: %s compared, %d of them wrong.", ok, some(len(r.Groups), "group"), some(offsets, "offset"), wrong)
	}
	p.line("")
	p.table(rows)
	if len(all) > 0 {
		p.line("")
		p.findings(all)
	}
	return p.String()
}

func groupLine(g httpapi.GroupRow) []string {
	could, cover, never := "yes", fmt.Sprintf("%d of %s", g.Covered, some(g.Partitions, "partition")), ""
	switch {
	case g.Local:
		could, cover = "yes, local", "its own"
	case g.Only > 0:
		could, cover = "left alone", fmt.Sprintf("%d, none at the source", g.Only)
	case !g.OK:
		could = "NO (see below)"
	}
	if g.NeverRead > 0 {
		never = fmt.Sprintf("%d, set to %s", g.NeverRead, g.Rule)
	}
	return []string{g.Group, string(g.Region), cover, never, most(g.Skipped), most(g.Repeated), could}
}

// most is a number of records that is an upper bound.
func most(n int64) string {
	if n == 0 {
		return ""
	}
	return "<= " + count(n)
}

func groupFindings(g httpapi.GroupRow) []httpapi.Finding {
	about := g.Group + " in " + string(g.Region)
	var out []httpapi.Finding
	for i, w := range g.Wrong {
		next := w.Next
		if i+1 < len(g.Wrong) && g.Wrong[i+1].Next == next {
			next = "" // said once, behind the last
		}
		out = append(out, httpapi.Finding{Next: next, Severity: httpapi.Warning, About: about, What: fmt.Sprintf("%s/%d: %s", w.Topic, w.Partition, w.Why)})
	}
	if g.Unnamed > 0 || len(out) == 0 {
		out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: about, What: "and on " + some(max(g.Unnamed, 1), "more partition")})
	}
	return out
}
