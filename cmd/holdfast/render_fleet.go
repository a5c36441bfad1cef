package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// renderCheck lists what was looked at, by region, with the remedy below each no.
func renderCheck(r httpapi.CheckReport) string {
	var p page
	var regions []topology.Region
	for _, c := range r.Checks {
		if !slices.Contains(regions, c.Region) {
			regions = append(regions, c.Region)
		}
	}
	wide := 0
	for _, c := range r.Checks {
		wide = max(wide, width(checkName(r, c)))
	}
	bad := 0
	for _, region := range regions {
		title := string(region)
		if title == "" {
			title = "fleet"
		}
		p.line("%s", title)
		for _, c := range r.Checks {
			if c.Region != region {
				continue
			}
			verdict := "ok"
			if !c.OK {
				verdict = "NO"
				bad++
				if c.Severity == httpapi.Note {
					verdict = "--"
					bad--
				}
			}
			p.line("%s", strings.TrimRight(fmt.Sprintf("  %s  %s   %s%s", verdict, pad(checkName(r, c), wide), oneLine(c.Detail), tookLong(c)), " "))
			if !c.OK && c.Fix != "" {
				p.line("      %s   fix: %s", pad("", wide), oneLine(c.Fix))
			}
		}
		p.line("")
	}
	if bad == 0 {
		p.line("%s, all well.", some(len(r.Checks), "check"))
	} else {
		p.line("%s, %d not well.", some(len(r.Checks), "check"), bad)
	}
	return p.String()
}

// checkName says also who looked, where several did.
func checkName(r httpapi.CheckReport, c httpapi.Check) string {
	for _, o := range r.Checks {
		if o.Name == c.Name && o.Region == c.Region && o.Node != c.Node {
			return c.Name + ", from " + string(c.Node)
		}
	}
	return c.Name
}

// tookLong shows a duration only where it says something.
func tookLong(c httpapi.Check) string {
	if c.TookMs < 500 {
		return ""
	}
	return " (took " + millis(c.TookMs) + ")"
}

// checkBad reports whether a person should act on any of it.
func checkBad(r httpapi.CheckReport) bool {
	return slices.ContainsFunc(r.Checks, func(c httpapi.Check) bool { return !c.OK && c.Severity != httpapi.Note })
}

// renderMembers lists the daemons.
func renderMembers(m httpapi.Members, now time.Time) string {
	rows := [][]string{{"NODE", "REGION", "PART", "REACHED", "ROUND TRIP", "VERSION", "UP FOR", "ADDRESS"}}
	for _, n := range m.Members {
		region, part := string(n.Region), "follows"
		if n.Witness {
			region = "(witness)"
		}
		switch {
		case n.Leader:
			part = "leads"
		case !n.Voter:
			part = "no vote"
		}
		reached := "yes"
		if !n.Reachable {
			reached = "NO"
		}
		trip := "-"
		if n.RTTMs >= 0 {
			trip = fmt.Sprintf("%.1f ms", n.RTTMs)
		}
		up := "-"
		if !n.Since.IsZero() {
			up = span(now.Sub(n.Since).Round(time.Second))
		}
		rows = append(rows, []string{string(n.Node), orDash(region), part, reached, trip, orDash(n.Version), up, n.Address})
	}
	var p page
	p.table(rows)
	if all := memberFindings(m); len(all) > 0 {
		p.line("")
		p.findings(all)
	}
	return p.String()
}

func memberFindings(m httpapi.Members) []httpapi.Finding {
	var out []httpapi.Finding
	if m.Leader == "" {
		out = append(out, httpapi.Finding{Severity: httpapi.Critical, What: "no leader: fewer than a majority of the members reach each other", Next: "start the missing daemons, and look at the network between them: `systemctl status holdfast` on each"})
	}
	for _, n := range m.Members {
		if !n.Reachable {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: string(n.Node), What: "is not reached at " + n.Address, Next: "`systemctl status holdfast` there; then the network and its certificate: holdfast check"})
		}
	}
	return out
}

// renderAudit lists what was done, oldest first.
func renderAudit(r httpapi.AuditReport, now time.Time) string {
	var p page
	rows := [][]string{{"LINE", "AT", "BY", "DID", "WHAT"}}
	for _, l := range r.Lines {
		body := []rune(oneLine(string(l.Body)))
		if len(body) > 100 {
			body = append(body[:97], []rune("...")...)
		}
		rows = append(rows, []string{fmt.Sprint(l.Number), when(l.At, now), orDash(l.By), l.Kind, string(body)})
	}
	p.table(rows)
	p.line("")
	if r.Broken != "" {
		p.findings([]httpapi.Finding{{Severity: httpapi.Critical, What: "the chain is broken: " + r.Broken, Next: "compare with the other nodes: holdfast audit --node ..., and keep the data directories"}})
		return p.String()
	}
	p.line("%s of %s; the chain holds, head %.16s.", some(len(r.Lines), "line"), count(int64(r.Count)), r.Head)
	return p.String()
}
