package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// drillSets bounds the newest sets of a region that are looked through for
// drills; sets that the log says were drilled come on top.
const drillSets = 100

// setIDWide is the length of a whole id.
const setIDWide = 26

func drillVerb(a *app) *cobra.Command {
	return group("drill", "Prove that recovery sets can be restored", drillRun(a), drillList(a), drillShow(a), cancelVerb(a, recovery.KindDrill))
}

func drillRun(a *app) *cobra.Command {
	var w where
	var set, of string
	var detach bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Restore a recovery set for real on the isolated target, compare it, and take it away",
		Long: `Lets the daemon of drill.region restore a set into places of its own, time every
stage, compare structure, counts and content with what was counted, and then break
things on purpose to see whether that is noticed: a drill that cannot fail proves
nothing. The signed report lies beside the set. Ctrl-C stops following, and the
drill goes on.

  holdfast drill run
  holdfast drill run --of us-east
  holdfast drill run --set 01KJN9Z0000000000000000NEW --detach

It ends with 0 when the set is proven, 5 when the set was found bad, 1 when the
drill itself failed, which says nothing about the set, and 3 when one is under way.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			want := httpapi.StartDrill{Of: topology.Region(of)}
			if want.Set, err = wholeID(ctx, client, set); err != nil {
				return err
			}
			id, err := client.StartDrill(ctx, want)
			if err != nil {
				return err
			}
			if detach {
				return a.detached(recovery.KindDrill, id)
			}
			a.say("Drill %s has begun.", id)
			r, err := a.followRun(ctx, client, recovery.KindDrill, id)
			if err != nil {
				return err
			}
			e, err := evidence(r)
			if err != nil {
				return err
			}
			d := drilled{Run: r.ID, RunEvidence: e}
			w.region = string(e.Region)
			d.Full = a.reportOf(c, w, e, string(r.ID))
			if err := a.show(d, func() string { return renderDrilled(d) }); err != nil {
				return err
			}
			if !e.OK {
				return ended{exitFindings}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&set, "set", "", "`id` of the set, or latest (default: the newest)")
	f.StringVar(&of, "of", "", "`region` whose sets are meant (default: as configured)")
	f.StringVar(&w.ca, "ca", "", "`file` with the certificates that the report is verified with (default: tls.ca of the node)")
	f.BoolVar(&detach, "detach", false, "return when the drill has begun")
	return c
}

// drilled is the result of drill run.
type drilled struct {
	Run consensus.RunID `json:"run"`
	httpapi.RunEvidence
	Full *restore.Report `json:"full_report,omitempty"` // nil when it could not be read from here
}

// reportOf reads the report of a drill that has ended. What cannot be read is
// said: the verdict is in the log.
func (a *app) reportOf(c *cobra.Command, w where, e httpapi.RunEvidence, run string) *restore.Report {
	r, err := func() (restore.Report, error) {
		d, err := a.depot(c, w)
		if err != nil {
			return restore.Report{}, err
		}
		archive, err := d.vaults.Archive(c.Context(), e.Region, nil)
		if err != nil {
			return restore.Report{}, err
		}
		return archive.Report(c.Context(), e.Set, run)
	}()
	if err != nil {
		a.unread("report", err)
		return nil
	}
	return &r
}

// setLister is what finding a set in the log needs.
type setLister interface {
	Sets(ctx context.Context) ([]httpapi.SetRow, error)
}

// wholeID completes the start of an id from the log. A whole one is left to the
// daemon, who may find it in the repository alone.
func wholeID(ctx context.Context, from setLister, name string) (backup.SetID, error) {
	if name == "" || name == latest {
		return "", nil
	}
	name = strings.ToUpper(name)
	if len(name) == setIDWide {
		return backup.SetID(name), nil
	}
	sets, err := from.Sets(ctx)
	if err != nil {
		return "", err
	}
	sets = slices.DeleteFunc(sets, func(s httpapi.SetRow) bool { return !strings.HasPrefix(string(s.ID), name) })
	if len(sets) != 1 {
		return "", usage{fmt.Sprintf("%s of the log start with %s: `holdfast backup list` shows whole ids", some(len(sets), "set"), name)}
	}
	return backup.SetID(sets[0].ID), nil
}

// drillsListed is the result of drill list.
type drillsListed struct {
	At       time.Time         `json:"at"`
	Drills   []drillShown      `json:"drills"`
	Runs     []httpapi.Run     `json:"runs"` // live ones, and the newest that failed or were cancelled
	Older    int               `json:"older_sets"`
	Findings []httpapi.Finding `json:"findings"`
}

func drillList(a *app) *cobra.Command {
	var w where
	var most int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the drills of the sets in the repositories, newest first",
		Long: `Reads the signed reports that lie beside the sets, without a daemon, and verifies
them. A daemon that answers adds the drills that are under way or failed.

  holdfast drill list
  holdfast drill list --region us-east --json

It ends with 5 when the newest verdict of a region is a failure.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if most < 1 || most > setsMost {
				return usagef(c, "-n %d: want 1 to %d", most, setsMost)
			}
			d, err := a.depot(c, w)
			if err != nil {
				return err
			}
			l, err := a.listDrills(c.Context(), d, most)
			if err != nil {
				return err
			}
			if err := a.show(l, func() string { return renderDrills(l) }); err != nil {
				return err
			}
			if grave(l.Findings) {
				return ended{exitFindings}
			}
			return nil
		},
	}
	w.flags(c.Flags())
	c.Flags().IntVarP(&most, "last", "n", 20, "`how many` drills")
	return c
}

func (a *app) listDrills(ctx context.Context, d *depot, most int) (drillsListed, error) {
	book := a.logbook(ctx)
	l := drillsListed{At: a.now().UTC(), Drills: []drillShown{}, Findings: []httpapi.Finding{}, Runs: notable(book.runs, recovery.KindDrill, d.regions)}
	drilled := book.drilled()
	var unread error
	opened := 0
	for _, s := range d.openAll(ctx, nil) {
		if s.err != nil {
			unread = errors.Join(unread, s.err)
			l.Findings = append(l.Findings, unreached(s, "drills"))
			continue
		}
		opened++
		got, older, err := s.allDrills(ctx, drilled, most)
		if err != nil {
			return l, err
		}
		l.Drills, l.Older = append(l.Drills, got...), l.Older+older
	}
	if opened == 0 {
		return l, unread
	}
	slices.SortStableFunc(l.Drills, func(a, b drillShown) int { return cmp.Compare(b.Run, a.Run) })
	l.Findings = append(l.Findings, lastVerdicts(l.Drills)...)
	l.Drills = l.Drills[:min(most, len(l.Drills))]
	return l, nil
}

// drilled names the sets that the log knows to have been drilled.
func (b logbook) drilled() map[backup.SetID]bool {
	out := map[backup.SetID]bool{}
	for id, s := range b.sets {
		if !s.Proof.At.IsZero() {
			out[id] = true
		}
	}
	return out
}

// allDrills reads the drills of the newest sets and of those that were drilled
// for all that is known. older is how many sets were not looked at.
func (s shelf) allDrills(ctx context.Context, drilled map[backup.SetID]bool, most int) (out []drillShown, older int, err error) {
	var look []backup.SetID
	for i, id := range s.sets {
		if i < drillSets || drilled[id] {
			look = append(look, id)
		}
	}
	each := make([][]drillShown, len(look))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sealReads)
	for i, id := range look {
		g.Go(func() (err error) {
			each[i], err = found{s, id}.drills(ctx, most)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	return slices.Concat(each...), len(s.sets) - len(look), nil
}

// lastVerdicts are the regions whose newest drill with a verdict failed.
func lastVerdicts(newestFirst []drillShown) []httpapi.Finding {
	var out []httpapi.Finding
	said := map[topology.Region]bool{}
	for _, d := range newestFirst {
		r := d.Report
		if said[r.Region] || !r.OK && r.Fault != restore.FaultSet {
			continue
		}
		said[r.Region] = true
		if !r.OK {
			out = append(out, httpapi.Finding{Severity: httpapi.Critical, About: "sets of " + string(r.Region), What: fmt.Sprintf("the newest drill could not restore set %s: %s", r.Set, r.Why), Next: fmt.Sprintf("holdfast drill show %s %s", r.Set, d.Run)})
		}
	}
	return out
}

func drillShow(a *app) *cobra.Command {
	var w where
	c := &cobra.Command{
		Use:   "show SET|latest [RUN]",
		Short: "Print the report of a drill: the newest of a set, or the one named",
		Long: `Reads the signed report beside the set, verifies it, and prints its page, or with
--json all of it. Ids may be shortened as long as they are unique.

  holdfast drill show latest
  holdfast drill show 01KJN9Z 01KJNA --json

It ends with 5 when that drill did not prove the set.`,
		Args: wants(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			d, err := a.depot(c, w)
			if err != nil {
				return err
			}
			f, err := d.find(ctx, a, args[0], nil)
			if err != nil {
				return err
			}
			run, err := f.drill(ctx, args[1:])
			if err != nil {
				return err
			}
			r, err := f.archive.Report(ctx, f.set, run)
			if err != nil {
				return fmt.Errorf("read the report of drill %s: %w", run, err)
			}
			if err := a.show(r, func() string { return string(r.Page()) }); err != nil {
				return err
			}
			if !r.OK {
				return ended{exitFindings}
			}
			return nil
		},
	}
	w.flags(c.Flags())
	return c
}

// drill is the one named, or the newest.
func (f found) drill(ctx context.Context, named []string) (string, error) {
	runs, err := f.archive.Reports(ctx, f.set)
	if err != nil {
		return "", fmt.Errorf("list the drills of set %s: %w", f.set, err)
	}
	if len(runs) == 0 {
		return "", usage{fmt.Sprintf("no drill of set %s: `holdfast drill run --set %s` makes one", f.set, f.set)}
	}
	if len(named) == 0 {
		return runs[0], nil
	}
	runs = slices.DeleteFunc(runs, func(r string) bool { return !strings.HasPrefix(r, strings.ToUpper(named[0])) })
	if len(runs) != 1 {
		return "", usage{fmt.Sprintf("%s of set %s start with %s: `holdfast drill list` shows them", some(len(runs), "drill"), f.set, named[0])}
	}
	return runs[0], nil
}
