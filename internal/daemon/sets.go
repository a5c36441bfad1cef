package daemon

import (
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
)

// Patience before something about sets is worth a finding.
const (
	slotLate    = 5 * time.Minute // a scheduled set that is not sealed
	unclaimed   = time.Minute     // a run that no daemon works on
	stateLength = 120             // of an error within a finding
)

// setsOf sums up what the log knows about the sets of each region that is
// backed up.
func setsOf(f *config.Fleet, s consensus.State, now time.Time) []httpapi.SetStatus {
	if f.Backup == nil {
		return nil
	}
	var rows []httpapi.SetStatus
	for _, region := range f.BackupRegions() {
		row := httpapi.SetStatus{Region: region, AgeMs: -1}
		var judged consensus.Proof // the last verdict on any set of this region
		for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.Sets))) {
			set := s.Sets[id]
			if set.Region != region {
				continue
			}
			if row.Set == "" {
				row.Set, row.Sealed, row.Uploaded = backup.SetID(id), set.Sealed, set.Uploaded
				row.AgeMs = max(0, now.Sub(set.Sealed)).Milliseconds()
			}
			p := set.Proof
			if p.OK && p.At.After(row.Proven) {
				row.Proven, row.ProvenSet, row.ProvenRTOMs = p.At, backup.SetID(id), p.RTOMs
			}
			if p.At.After(judged.At) {
				judged = p
			}
		}
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

// setFindings are what a person should know about backups and drills.
func setFindings(f *config.Fleet, s consensus.State, rows []httpapi.SetStatus, now time.Time) []httpapi.Finding {
	var out []httpapi.Finding
	for _, row := range rows {
		about := "sets of " + string(row.Region)
		if r, failed := lastRun(s, recovery.KindBackup, row.Region); failed && r.Ended.After(row.Sealed) {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: about,
				What: fmt.Sprintf("the last backup failed %s ago: %s", now.Sub(r.Ended).Round(time.Second), cut(r.Error)),
				Next: "holdfast backup run --region " + string(row.Region)})
		}
		if late := now.Sub(row.NextSlot); !row.NextSlot.IsZero() && late > slotLate {
			if _, live := s.LiveRun(recovery.KindBackup, row.Region); !live {
				out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: about,
					What: fmt.Sprintf("the set of %s is %s late, and no backup is under way", row.NextSlot.Format(time.RFC3339), late.Round(time.Second)),
					Next: "holdfast status on the leader; a fleet file that differs there starts nothing (holdfast config check)"})
			}
		}
		if row.Failed != "" {
			out = append(out, httpapi.Finding{Severity: httpapi.Critical, About: about,
				What: "a drill found a set that cannot be restored as it should: " + cut(row.Failed),
				Next: "holdfast drill list --region " + string(row.Region)})
		}
	}
	if f.Drill != nil {
		if r, failed := lastRun(s, recovery.KindDrill, f.Drill.Region); failed {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: "drills in " + string(f.Drill.Region),
				What: fmt.Sprintf("the last drill could not be done, %s ago, and says nothing about the set: %s", now.Sub(r.Ended).Round(time.Second), cut(r.Error)),
				Next: "holdfast drill run"})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Runs)) {
		r, t := s.Runs[id], s.Tasks[consensus.TaskOfRun(id)]
		if r.State == consensus.RunLive && t.Claim.Node == "" && now.Sub(r.Created) > unclaimed {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: r.Kind + " " + string(id),
				What: fmt.Sprintf("waits for the daemon of %s since %s", r.Region, now.Sub(r.Created).Round(time.Second)),
				Next: "start that daemon, or: holdfast " + r.Kind + " cancel " + string(id)})
		}
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

func cut(text string) string {
	if runes := []rune(text); len(runes) > stateLength {
		return string(runes[:stateLength]) + "…"
	}
	return text
}
