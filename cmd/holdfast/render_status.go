package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// factsOld is the age above which status says that it shows the past.
const factsOld = 10 * time.Second

// frozenShown bounds the frozen partitions that status lists.
const frozenShown = 5

// renderStatus is one screen.
func renderStatus(s httpapi.Status) string {
	tables := [][][]string{}
	if len(s.Roles) > 0 {
		tables = append(tables, roleTable(s))
	}
	if len(s.Stores) > 0 {
		tables = append(tables, storeTable(s))
	}
	if len(s.Sets) > 0 {
		tables = append(tables, setTable(s))
	}
	if len(s.Links) > 0 {
		tables = append(tables, linkTable(s))
	}
	wide := 0
	blocks := make([][]string, len(tables))
	for i, t := range tables {
		blocks[i] = aligned(t)
		for _, l := range blocks[i] {
			wide = max(wide, width(l))
		}
	}
	var p page
	head := s.Cluster + gap + strings.Join(headline(s), ", ")
	at := clockTime(s.At) + " UTC"
	p.line("%s%s%s", head, strings.Repeat(" ", max(3, wide-width(head)-width(at))), at)
	for _, b := range blocks {
		p.line("")
		for _, l := range b {
			p.line("%s", l)
		}
	}
	if len(s.Roles) == 0 {
		does := "watches its stores"
		if len(s.Sets) > 0 {
			does = "backs up its stores"
		}
		if len(s.Links) > 0 {
			does = "mirrors"
		}
		p.line("\nThis fleet has no roles: it %s, and moves nothing.", does)
	}
	for _, pl := range s.Plans {
		p.line("")
		p.line("%s", planLine(pl, s.At))
		p.line("    next: holdfast failover status")
	}
	if all := statusFindings(s); len(all) > 0 {
		p.line("")
		p.findings(all)
	}
	return p.String()
}

func headline(s httpapi.Status) []string {
	var out []string
	if s.Leader == "" {
		out = append(out, "NO LEADER", some(s.Members, "member"))
	} else {
		out = append(out, "leader "+string(s.Leader))
		if s.Reachable >= 0 {
			out = append(out, fmt.Sprintf("%d of %s", s.Reachable, some(s.Members, "member")))
		} else {
			out = append(out, some(s.Members, "member"))
		}
	}
	out = append(out, fmt.Sprintf("generation %d", s.Generation))
	if s.Mode == "observe" {
		out = append(out, "observing only")
	}
	return out
}

func roleTable(s httpapi.Status) [][]string {
	rows := [][]string{{"ROLE", "HOLDER", "STATE", "EPOCH", "LEASE", "STANDBY", "BEHIND", "A PLANNED MOVE NOW"}}
	for _, r := range s.Roles {
		holder := string(r.Holder)
		if holder == "" {
			holder = "nobody"
			if r.Last != "" {
				holder += " (was " + string(r.Last) + ")"
			}
		}
		rows = append(rows, []string{
			string(r.Role), holder, string(r.Phase), fmt.Sprint(r.Epoch), lease(r), orDash(string(r.Standby)), behind(r.Behind), moveNow(r.Move, s.Leader != ""),
		})
	}
	return rows
}

func lease(r httpapi.RoleRow) string {
	if r.Holder == "" {
		return "-"
	}
	switch r.Lease {
	case httpapi.LeaseValid:
		return millis(r.LeaseMs)
	case httpapi.LeaseHeld, httpapi.LeaseLapsed:
		return string(r.Lease)
	}
	return "unknown"
}

func behind(all []httpapi.Behind) string {
	var out []string
	for _, b := range all {
		switch {
		case b.Store == "kafka":
			out = append(out, distance(b.Records, b.Seconds))
		default:
			out = append(out, b.Store+" "+seconds(b.Seconds))
		}
	}
	return orDash(strings.Join(out, "; "))
}

func moveNow(m *httpapi.MoveNow, led bool) string {
	switch {
	case m == nil:
		return "-"
	case !led:
		return "not without a leader"
	case m.Ready:
		return "ready, about " + span((time.Duration(m.PauseMs) * time.Millisecond).Round(time.Second)) + " pause"
	}
	return "blocked: " + some(len(m.Blockers), "gate") + " (see below)"
}

// storeTable has a row per store and a column per region.
func storeTable(s httpapi.Status) [][]string {
	var stores []string
	var regions []topology.Region
	cells := map[string]map[topology.Region]httpapi.StoreCell{}
	for _, c := range s.Stores {
		if cells[c.Store] == nil {
			cells[c.Store] = map[topology.Region]httpapi.StoreCell{}
			stores = append(stores, c.Store)
		}
		if !slices.Contains(regions, c.Region) {
			regions = append(regions, c.Region)
		}
		cells[c.Store][c.Region] = c
	}
	head := []string{"STORE"}
	for _, r := range regions {
		head = append(head, strings.ToUpper(string(r)))
	}
	rows := [][]string{head}
	for _, store := range stores {
		row := []string{store}
		for _, r := range regions {
			c, ok := cells[store][r]
			row = append(row, storeCell(c, ok))
		}
		rows = append(rows, row)
	}
	return rows
}

func storeCell(c httpapi.StoreCell, there bool) string {
	switch {
	case !there:
		return "-"
	case !c.Known:
		return "not checked yet"
	case !c.OK:
		return "NOT OK (see below)"
	}
	out := "ok"
	if c.Detail != "" {
		out = oneLine(c.Detail)
	}
	if c.Seconds >= 0 {
		out += ", " + seconds(c.Seconds) + " behind"
	}
	return out
}

// setTable has a row for each region that is backed up.
func setTable(s httpapi.Status) [][]string {
	rows := [][]string{{"BACKUP OF", "LAST SET", "AGE", "PROVEN BY A DRILL", "NEXT SET"}}
	for _, r := range s.Sets {
		last, old, proven, next := "none", "-", "never", "by hand"
		if r.Set != "" {
			last, old = when(r.Sealed, s.At)+", "+size(r.Uploaded)+" new", age(millisOf(r.AgeMs))
		}
		if !r.Proven.IsZero() {
			proven = age(s.At.Sub(r.Proven)) + " ago, RTO " + millis(r.ProvenRTOMs)
		}
		if r.Failed != "" {
			proven += ", then FAILED (see below)"
		}
		if !r.NextSlot.IsZero() {
			next = when(r.NextSlot, s.At)
		}
		rows = append(rows, []string{string(r.Region), last, old, proven, next})
	}
	return rows
}

func linkTable(s httpapi.Status) [][]string {
	rows := [][]string{{"MIRROR", "STATE", "BEHIND", "INCOMING", "PARTITIONS"}}
	for _, l := range s.Links {
		rows = append(rows, []string{
			linkName(l.ID), linkState(l.Phase, l.Running, l.HeardMs, l.Paused), linkBehind(l), rate(l), partitions(l.Partition, len(l.Frozen)),
		})
	}
	return rows
}

func linkName(id consensus.LinkID) string { return strings.Replace(string(id), ">", " to ", 1) }

func linkState(phase consensus.LinkPhase, running bool, heardMs int64, paused time.Time) string {
	switch {
	case phase == consensus.LinkEnded:
		return "ended"
	case !paused.IsZero():
		return "paused"
	case phase == consensus.LinkUnproven:
		return "being compared"
	case heardMs < 0:
		return "not heard of"
	case !running:
		return "NOT RUNNING"
	}
	return "running"
}

func linkBehind(l httpapi.LinkRow) string {
	if l.Phase == consensus.LinkEnded || l.HeardMs < 0 {
		return "-"
	}
	return distance(l.Records, l.Seconds)
}

func rate(l httpapi.LinkRow) string {
	if l.Phase == consensus.LinkEnded || l.HeardMs < 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f records/s", l.Rate)
}

func partitions(n, frozen int) string {
	if frozen > 0 {
		return fmt.Sprintf("%s, %s FROZEN", count(int64(n)), count(int64(frozen)))
	}
	return count(int64(n))
}

// planLine says in one line where a plan is.
func planLine(pl httpapi.Plan, now time.Time) string {
	out := fmt.Sprintf("PLAN %s, %s: %s", pl.ID, pl.Plan.Phase, planTitle(pl.Plan))
	if i, left := pl.Plan.Current(); left && pl.Plan.Phase != consensus.PlanAborting {
		out += fmt.Sprintf("; step %d of %d, %s", i+1, len(pl.Plan.Steps), pl.Plan.Steps[i].Title)
	}
	return out + "; for " + span(now.Sub(pl.Plan.Created).Round(100*time.Millisecond))
}

// statusFindings are the findings of the daemon and what the figures of the
// tables themselves say.
func statusFindings(s httpapi.Status) []httpapi.Finding {
	var out []httpapi.Finding
	add := func(sev httpapi.Severity, about, what, next string) {
		out = append(out, httpapi.Finding{Severity: sev, About: about, What: what, Next: next})
	}
	if s.Leader == "" {
		add(httpapi.Critical, "cluster", "no leader: fewer than a majority of the members reach each other; what is shown is what "+string(s.Node)+" last knew", "holdfast members list")
	}
	if age := time.Duration(s.FactsAgeMs) * time.Millisecond; age > factsOld {
		add(httpapi.Warning, "status", "what other nodes reported is "+span(age)+" old", "holdfast members list")
	}
	for _, c := range s.Stores {
		if c.Known && !c.OK {
			next := c.Next
			if next == "" {
				next = "holdfast check --region " + string(c.Region)
			}
			add(httpapi.Critical, c.Store+" of "+string(c.Region), c.Detail, next)
		}
	}
	out = append(out, roleFindings(s)...)
	for _, l := range s.Links {
		for i, f := range l.Frozen {
			if i == frozenShown {
				add(httpapi.Warning, "mirror "+linkName(l.ID), fmt.Sprintf("%d more partitions are frozen", len(l.Frozen)-i), "holdfast mirror status")
				break
			}
			add(httpapi.Warning, "mirror "+linkName(l.ID), frozenText(f), f.Next)
		}
	}
	out = append(out, setFindings(s)...)
	for _, pl := range s.Plans {
		if pl.Stuck != "" {
			add(httpapi.Critical, "plan "+string(pl.ID), "waits for a person: "+pl.Stuck, stuckNext(pl))
		}
	}
	return append(out, s.Findings...)
}

func roleFindings(s httpapi.Status) []httpapi.Finding {
	var out []httpapi.Finding
	said := map[failover.Blocker]bool{}
	for _, r := range s.Roles {
		if r.Lease == httpapi.LeaseHeld && r.Holder != "" {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: string(r.Role), What: string(r.Holder) + " goes on past its lease, because on_quorum_loss is hold", Next: "holdfast members list"})
		}
		if r.Move != nil && !r.Move.Ready && s.Leader != "" { // without one, that is the reason
			for _, b := range r.Move.Blockers {
				if said[b] {
					continue
				}
				said[b] = true
				out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: string(r.Role), What: "a planned move is blocked: " + b.Gate + ": " + b.Why, Next: b.Fix})
			}
		}
		if !r.Paused.IsZero() {
			what := "automatic moves are paused until " + when(r.Paused, s.At)
			if r.PausedReason != "" {
				what += ": " + r.PausedReason
			}
			out = append(out, httpapi.Finding{Severity: httpapi.Note, About: string(r.Role), What: what, Next: "holdfast resume --role " + string(r.Role)})
		}
	}
	return out
}

// slotLate is how long after its slot a set may begin before a person hears.
const slotLate = 10 * time.Minute

func setFindings(s httpapi.Status) []httpapi.Finding {
	var out []httpapi.Finding
	for _, r := range s.Sets {
		about, region := "backup of "+string(r.Region), string(r.Region)
		add := func(sev httpapi.Severity, what, next string) {
			out = append(out, httpapi.Finding{Severity: sev, About: about, What: what, Next: next})
		}
		if r.Failed != "" {
			add(httpapi.Critical, "the last drill failed: "+r.Failed, "holdfast drill list --region "+region)
		}
		switch {
		case r.Set == "":
			add(httpapi.Warning, "it is to be backed up, and has no recovery set yet", "holdfast backup run --region "+region)
		case r.Proven.IsZero() && r.Undrilled:
			add(httpapi.Note, "no drill is configured that would prove its sets", "name "+region+" in drill.of")
		case r.Proven.IsZero() && r.Failed == "":
			add(httpapi.Warning, "no drill has proven that a set can be restored", "holdfast drill run --of "+region)
		}
		if late := s.At.Sub(r.NextSlot); !r.NextSlot.IsZero() && late > slotLate {
			add(httpapi.Warning, "the set of "+when(r.NextSlot, s.At)+" is late by "+age(late), "holdfast backup list --region "+region)
		}
	}
	return out
}

func frozenText(f failover.FrozenPartition) string {
	return fmt.Sprintf("%s is frozen at [%d,%d): %s", f.Partition, f.From, f.To, f.Reason)
}
