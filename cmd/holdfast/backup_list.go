package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

const (
	setsMost     = 1000 // that a list may ask for
	sealReads    = 4    // at once
	reportsTried = 5    // newest reports of a set, for one with a verdict
	failedShown  = 5    // newest failed runs
	missingShown = 5    // sets that are gone
)

func backupList(a *app) *cobra.Command {
	var w where
	var most int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the recovery sets in the repositories, newest first, and whether they are proven",
		Long: `Reads the repositories themselves, without a daemon: the fleet file, the keys of
the repository and the fleet's certificates are enough. A daemon that answers
adds the runs that are under way or failed, and what the log says each seal must
be: a seal that was exchanged, or a set that is gone, is a finding.

PROVEN tells when a drill last restored the set for real, and how long that took.

  holdfast backup list
  holdfast backup list --region us-east -n 100 --json

It ends with 5 when something needs a person.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if most < 1 || most > setsMost {
				return usagef(c, "-n %d: want 1 to %d", most, setsMost)
			}
			d, err := a.depot(c, w)
			if err != nil {
				return err
			}
			l, err := a.listSets(c.Context(), d, most)
			if err != nil {
				return err
			}
			if err := a.show(l, func() string { return renderSets(l) }); err != nil {
				return err
			}
			if grave(l.Findings) {
				return ended{exitFindings}
			}
			return nil
		},
	}
	w.flags(c.Flags())
	c.Flags().IntVarP(&most, "last", "n", 20, "`how many` sets")
	return c
}

// setList is the result of backup list.
type setList struct {
	At       time.Time         `json:"at"`
	Sets     []setRow          `json:"sets"`
	Older    int               `json:"older"` // that are not listed
	Log      bool              `json:"log"`   // the daemon answered
	Runs     []httpapi.Run     `json:"runs"`  // live ones, and the newest that failed or were cancelled
	Findings []httpapi.Finding `json:"findings"`
}

// setRow is one set.
type setRow struct {
	Set     backup.SetID    `json:"set"`
	Region  topology.Region `json:"region"`
	Vault   string          `json:"vault"`
	Sealed  time.Time       `json:"sealed,omitzero"`
	AgeMs   int64           `json:"age_ms"`
	Digest  backup.Digest   `json:"digest,omitempty"`
	Totals  backup.Totals   `json:"totals"`
	Logged  bool            `json:"logged"` // the log has its header
	Proof   proof           `json:"proof"`
	Damaged string          `json:"damaged,omitempty"` // why its seal is none
	Unread  string          `json:"unread,omitempty"`  // why its seal could not be read, or verified
}

// proof is what is known of whether a set can be restored.
type proof struct {
	State provenState `json:"state"`
	At    time.Time   `json:"at,omitzero"`
	RTOMs int64       `json:"rto_ms,omitempty"`
	Run   string      `json:"run,omitempty"`
	Why   string      `json:"why,omitempty"`
}

type provenState string

const (
	isProven  provenState = "proven"
	isFailed  provenState = "failed"
	isNot     provenState = "no"
	isUnknown provenState = "unknown"
)

// listSets asks the log before the repositories, so that a set which is sealed
// meanwhile is not taken for one that is gone.
func (a *app) listSets(ctx context.Context, d *depot, most int) (setList, error) {
	book := a.logbook(ctx)
	l := setList{At: a.now().UTC(), Sets: []setRow{}, Log: book.answered, Runs: []httpapi.Run{}, Findings: []httpapi.Finding{}}
	var all []found
	var unread error
	for _, s := range d.openAll(ctx, nil) {
		if s.err != nil {
			unread = errors.Join(unread, s.err)
			l.Findings = append(l.Findings, unreached(s, "sets"))
			continue
		}
		for _, id := range s.sets {
			all = append(all, found{s.shelf, id})
		}
		l.Findings = append(l.Findings, missing(s.shelf, book)...)
	}
	if unread != nil && len(all) == 0 {
		return l, unread
	}
	slices.SortStableFunc(all, func(a, b found) int { return cmp.Compare(b.set, a.set) })
	l.Older = max(0, len(all)-most)
	all = all[:len(all)-l.Older]
	l.Sets = make([]setRow, len(all))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sealReads)
	for i, f := range all {
		g.Go(func() (err error) {
			l.Sets[i], err = f.row(gctx, book, l.At)
			if err != nil && ctx.Err() == nil {
				l.Sets[i].Unread, err = err.Error(), nil // the others are still there to be restored from
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return l, err
	}
	if len(l.Sets) > 0 && !slices.ContainsFunc(l.Sets, func(r setRow) bool { return r.Unread == "" }) {
		return l, errors.New(l.Sets[0].Unread)
	}
	for _, r := range l.Sets {
		l.Findings = append(l.Findings, r.findings(book)...)
	}
	l.Runs = notable(book.runs, recovery.KindBackup, d.regions)
	l.Findings = append(l.Findings, lastFailed(l.Runs, all)...)
	return l, nil
}

// unreached says that a list is short, and why.
func unreached(s reached, what string) httpapi.Finding {
	return httpapi.Finding{Severity: httpapi.Critical, About: "repository of " + string(s.region), What: "its " + what + " are not listed: " + s.err.Error(), Next: "holdfast check --region " + string(s.region)}
}

// row reads one seal, and what proves it.
func (f found) row(ctx context.Context, book logbook, now time.Time) (setRow, error) {
	r := setRow{Set: f.set, Region: f.region, Vault: f.archive.Name(), AgeMs: -1, Proof: proof{State: isUnknown}}
	header, logged := book.sets[f.set]
	r.Logged = logged
	seal, digest, err := f.archive.Seal(ctx, f.set)
	if errors.Is(err, restore.ErrDamaged) {
		r.Damaged = err.Error()
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read the seal of set %s in the repository of %s: %w", f.set, f.region, err)
	}
	r.Sealed, r.Digest, r.Totals, r.AgeMs = seal.Sealed, digest, seal.Totals(), max(0, seal.Age(now)).Milliseconds()
	if logged && header.Digest != string(digest) {
		return r, nil // what was proven is another set
	}
	r.Proof = f.proof(ctx, digest, header, logged)
	return r, nil
}

// proof asks the log, else the reports that lie beside the set.
func (f found) proof(ctx context.Context, digest backup.Digest, header consensus.Set, logged bool) proof {
	if p := header.Proof; logged && !p.At.IsZero() {
		out := proof{State: isProven, At: p.At, RTOMs: p.RTOMs, Run: string(p.Run), Why: p.Why}
		if !p.OK {
			out.State = isFailed
		}
		return out
	}
	reports, err := f.archive.Reports(ctx, f.set)
	if err != nil {
		if logged {
			return proof{State: isNot}
		}
		return proof{State: isUnknown, Why: err.Error()}
	}
	for i, run := range reports {
		if i == reportsTried {
			return proof{State: isUnknown, Why: "its newest drills reached no verdict"}
		}
		r, err := f.archive.Report(ctx, f.set, run)
		switch {
		case err != nil:
			return proof{State: isUnknown, Run: run, Why: err.Error()}
		case r.Seal != digest, !r.OK && r.Fault != restore.FaultSet: // it says nothing about this set
			continue
		case r.OK:
			return proof{State: isProven, At: r.Ended, RTOMs: r.RTOMs, Run: run}
		}
		return proof{State: isFailed, At: r.Ended, Run: run, Why: r.Why}
	}
	return proof{State: isNot}
}

// findings are what a row says that should not be.
func (r setRow) findings(book logbook) []httpapi.Finding {
	about := fmt.Sprintf("set %s of %s", r.Set, r.Region)
	switch {
	case r.Damaged != "":
		return []httpapi.Finding{{Severity: httpapi.Critical, About: about, What: "its seal is none, so it is no backup: " + r.Damaged, Next: "use another set; who can write to " + r.Vault + "?"}}
	case r.Unread != "":
		return []httpapi.Finding{{Severity: httpapi.Critical, About: about, What: "it cannot be restored from here: " + r.Unread, Next: "holdfast backup verify " + string(r.Set)}}
	case r.Logged && book.digest(r.Set) != r.Digest:
		return []httpapi.Finding{{
			Severity: httpapi.Critical, About: about,
			What: fmt.Sprintf("ITS SEAL WAS EXCHANGED: its SHA-256 is %s, the log says %s", short(string(r.Digest)), short(string(book.digest(r.Set)))),
			Next: "do not restore from it; who can write to " + r.Vault + "?",
		}}
	case r.Proof.State == isFailed:
		return []httpapi.Finding{{Severity: httpapi.Critical, About: about, What: "a drill could not restore it: " + r.Proof.Why, Next: fmt.Sprintf("holdfast drill show %s %s", r.Set, r.Proof.Run)}}
	}
	return nil
}

// missing are sets that the log knows and the repository does not have.
func missing(s shelf, book logbook) []httpapi.Finding {
	var gone []backup.SetID
	for _, id := range book.order {
		if book.sets[id].Region == s.region && !slices.Contains(s.sets, id) {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	what := fmt.Sprintf("%s of the log %s not there: %s", some(len(gone), "set"), map[bool]string{true: "is", false: "are"}[len(gone) == 1], words(gone[:min(len(gone), missingShown)]))
	if more := len(gone) - missingShown; more > 0 {
		what += fmt.Sprintf(" and %d more", more)
	}
	return []httpapi.Finding{{Severity: httpapi.Warning, About: "repository of " + string(s.region), What: what, Next: "who can delete from " + s.archive.Name() + "?"}}
}

// notable are the live runs of a kind, and the newest that came to nothing.
func notable(runs []httpapi.Run, kind string, regions []topology.Region) []httpapi.Run {
	out := []httpapi.Run{}
	failed := 0
	for _, r := range runs {
		if r.Run.Kind != kind || kind == recovery.KindBackup && !slices.Contains(regions, r.Run.Region) {
			continue
		}
		switch r.Run.State {
		case consensus.RunLive:
			out = append(out, r)
		case consensus.RunFailed, consensus.RunCancelled:
			if failed++; failed <= failedShown {
				out = append(out, r)
			}
		}
	}
	return out
}

// lastFailed are regions whose newest backup failed: there is none since.
func lastFailed(runs []httpapi.Run, sets []found) []httpapi.Finding {
	var out []httpapi.Finding
	said := map[topology.Region]bool{}
	for _, r := range runs {
		if r.Run.State != consensus.RunFailed || said[r.Run.Region] {
			continue
		}
		said[r.Run.Region] = true
		since := slices.ContainsFunc(sets, func(f found) bool { return f.region == r.Run.Region && string(f.set) > string(r.ID) })
		if !since {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: "backups of " + string(r.Run.Region), What: "the newest one failed: " + r.Run.Error, Next: "holdfast backup run --region " + string(r.Run.Region)})
		}
	}
	return out
}
