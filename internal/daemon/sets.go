package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

const (
	checkTimeout = 20 * time.Second
	unclaimed    = time.Minute // before a run that no daemon works on is a finding
	errorLength  = 120         // of an error within a finding
)

// setsOf sums up what the log knows about the sets of each region that is
// backed up.
func setsOf(f *config.Fleet, s consensus.State, now time.Time) []httpapi.SetStatus {
	if f.Backup == nil {
		return nil
	}
	var rows []httpapi.SetStatus
	for _, region := range f.BackupRegions() {
		row := httpapi.SetStatus{Region: region, AgeMs: -1, Undrilled: !slices.Contains(f.DrillOf(), region)}
		if id, newest := newestSet(s, region); id != "" {
			row.Set, row.Sealed, row.Uploaded = backup.SetID(id), newest.Sealed, newest.Uploaded
			row.AgeMs = max(0, now.Sub(newest.Sealed)).Milliseconds()
		}
		proven, id, judged := proofs(s, region)
		row.Proven, row.ProvenSet, row.ProvenRTOMs = proven.At, backup.SetID(id), proven.RTOMs
		if !judged.OK {
			row.Failed = judged.Why
		}
		if last, begun := s.Slots["backup/"+string(region)]; begun && !f.Backup.Schedule.IsZero() {
			row.NextSlot = f.Backup.Schedule.Next(last)
		}
		rows = append(rows, row)
	}
	return rows
}

func newestSet(s consensus.State, region topology.Region) (newest consensus.SetID, set consensus.Set) {
	for id, other := range s.Sets {
		if other.Region == region && id > newest {
			newest, set = id, other
		}
	}
	return newest, set
}

// proofs returns the last verdict that proved a set of a region, with the set,
// and the last verdict at all. They are zero when there was none.
func proofs(s consensus.State, region topology.Region) (proven consensus.Proof, of consensus.SetID, judged consensus.Proof) {
	for id, set := range s.Sets {
		if set.Region != region {
			continue
		}
		if p := set.Proof; p.OK && p.At.After(proven.At) {
			proven, of = p, id
		}
		if set.Proof.At.After(judged.At) {
			judged = set.Proof
		}
	}
	return proven, of, judged
}

// setFindings are what a person should know about backups and drills, and the
// rows of status do not say by themselves.
func setFindings(f *config.Fleet, s consensus.State, rows []httpapi.SetStatus, now time.Time) []httpapi.Finding {
	var out []httpapi.Finding
	for _, row := range rows {
		about := "sets of " + string(row.Region)
		if r, failed := lastRun(s, recovery.KindBackup, row.Region); failed && r.Ended.After(row.Sealed) {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: about,
				What: fmt.Sprintf("the last backup failed %s ago: %s", span(now.Sub(r.Ended)), cut(r.Error)),
				Next: "holdfast backup run --region " + string(row.Region)})
		}
	}
	if f.Drill != nil {
		if r, failed := lastRun(s, recovery.KindDrill, f.Drill.Region); failed {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: "drills in " + string(f.Drill.Region),
				What: fmt.Sprintf("the last drill could not be done, %s ago, and says nothing about the set: %s", span(now.Sub(r.Ended)), cut(r.Error)),
				Next: "holdfast drill run"})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Runs)) {
		r, t := s.Runs[id], s.Tasks[consensus.TaskOfRun(id)]
		if r.State == consensus.RunLive && t.Claim.Node == "" && now.Sub(r.Created) > unclaimed {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: r.Kind + " " + string(id),
				What: fmt.Sprintf("has waited for the daemon of %s for %s", r.Region, span(now.Sub(r.Created))),
				Next: "start that daemon, or: holdfast " + r.Kind + " cancel " + string(id)})
		}
	}
	return out
}

// checkRecovery looks at what backups of this node's region need, and drills
// if they are made here.
func (d *Daemon) checkRecovery(ctx context.Context, region topology.Region) []httpapi.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	looked := d.runs.host.LookBackup(ctx, region)
	if drill := d.fleet.Drill; drill != nil && drill.Region == region {
		looked = append(looked, d.runs.host.LookDrill(ctx)...)
	}
	var out []httpapi.Check
	for _, l := range looked {
		c := httpapi.Check{Region: region, Node: d.node, Name: l.Name, OK: l.Err == nil, Severity: httpapi.Warning, Detail: l.Detail, TookMs: l.Took.Milliseconds(), Fix: l.Fix}
		if l.Err != nil {
			c.Detail = l.Err.Error()
		}
		out = append(out, c)
	}
	return out
}

// lastRun is the newest run of a kind in a region that has ended, and whether
// it failed.
func lastRun(s consensus.State, kind string, region topology.Region) (last consensus.Run, failed bool) {
	for _, r := range s.Runs {
		if r.Kind == kind && r.Region == region && r.State != consensus.RunLive && r.Ended.After(last.Ended) {
			last = r
		}
	}
	return last, last.State == consensus.RunFailed
}

// span writes a duration for people.
func span(d time.Duration) string { return restore.Took(d.Milliseconds()) }

func cut(text string) string {
	if runes := []rune(text); len(runes) > errorLength {
		return string(runes[:errorLength]) + "…"
	}
	return text
}
