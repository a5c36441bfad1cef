package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// DrillSpec is what a drill is told. Empty: of the regions that are configured
// the one that has gone unproven for longest, and its newest set.
type DrillSpec struct {
	Of  topology.Region `json:"of,omitempty"`
	Set backup.SetID    `json:"set,omitempty"`
}

// DrillOptions say what to prove.
type DrillOptions struct {
	Run     string
	Attempt int
	Spec    DrillSpec
	// Expect is the digest that the log has of a set's seal; empty: none.
	Expect func(backup.SetID) backup.Digest
	// Proven is when the last drill proved a set of a region; zero: never. Nil:
	// it is not known.
	Proven   func(topology.Region) time.Time
	Progress func(backup.Progress)
}

// Drilled is the outcome of a drill that ran to its end.
type Drilled struct {
	Report restore.Report
	Digest backup.Digest // of the report as stored
	Key    string        // of the report
	Header consensus.Set // of the set that was drilled
}

// Drill proves a set on the isolated target of the fleet file, stores the
// report beside the set, and returns it. An error means that there is no
// report; a report that is not OK is none.
func (h *Host) Drill(ctx context.Context, o DrillOptions) (Drilled, error) {
	conf := h.o.Fleet.Drill
	if conf == nil {
		return Drilled{}, errors.New("drill: no drill is configured")
	}
	region, set, err := h.choose(ctx, o.Spec, o.Proven)
	if err != nil {
		return Drilled{}, err
	}
	vault, err := h.open(ctx, region, conf.Identity.Resolve)
	if err != nil {
		return Drilled{}, err
	}
	defer vault.Close()
	seal, _, err := vault.Seal(ctx, set)
	if err != nil && !errors.Is(err, restore.ErrDamaged) {
		return Drilled{}, fmt.Errorf("read the seal of set %s: %w", set, err)
	}
	if _, err := h.Sweep(ctx); err != nil {
		return Drilled{}, fmt.Errorf("make room on the drill's targets: %w", err)
	}
	targets, closeTargets, err := h.drillTargets(o.Run, region, seal)
	if err != nil {
		return Drilled{}, err
	}
	defer func() { _ = closeTargets() }() // nothing is written through them any more
	seed := fnv.New64a()
	fmt.Fprintf(seed, "%s %d", o.Run, o.Attempt)
	expect := backup.Digest("")
	if o.Expect != nil {
		expect = o.Expect(set)
	}
	r := restore.Drill(ctx, restore.DrillSpec{
		Vault: vault, Set: set, Expect: expect, Targets: targets, Run: o.Run, Attempt: o.Attempt, Cluster: h.o.Fleet.Cluster,
		By: h.o.Node, Seed: seed.Sum64(), Clock: clock.System(), Progress: o.Progress,
	})
	if r.Region == "" {
		r.Region = region // its seal could not be read
	}
	done := Drilled{Report: r, Key: repository.ReportKey(r)}
	if ctx.Err() != nil {
		return done, fmt.Errorf("drill of set %s: %w", set, context.Cause(ctx))
	}
	if done.Digest, err = vault.PutReport(ctx, r, r.Page()); err != nil {
		return done, fmt.Errorf("store the report of the drill of set %s (it found: ok %t %s): %w", set, r.OK, r.Why, err)
	}
	t := seal.Totals()
	done.Header = consensus.Set{Region: region, Sealed: seal.Sealed, Digest: string(r.Seal), Rows: t.Rows, Bytes: t.Bytes, Uploaded: t.Uploaded}
	if done.Header.Digest == "" {
		done.Header.Digest = string(expect)
	}
	return done, nil
}

// errNoSet means that there is nothing to drill: asking again soon helps nobody.
var errNoSet = errors.New("there is no such set")

// choose finds the set to drill: the one that was named, or the newest of the
// region whose sets have gone unproven for longest. A repository that cannot
// be reached is passed over while another one has a set: its region may be lost.
func (h *Host) choose(ctx context.Context, spec DrillSpec, proven func(topology.Region) time.Time) (topology.Region, backup.SetID, error) {
	of := h.o.Fleet.DrillOf()
	if spec.Of != "" {
		of = []topology.Region{spec.Of}
	}
	var there []candidate
	var errs []error
	for _, name := range of {
		vault, err := h.open(ctx, name, nil)
		if err != nil {
			return "", "", err
		}
		sets, err := vault.Sets(ctx)
		vault.Close()
		switch {
		case err != nil:
			errs = append(errs, err)
		case spec.Set != "" && slices.Contains(sets, spec.Set):
			return name, spec.Set, nil
		case spec.Set == "" && len(sets) > 0:
			c := candidate{region: name, set: sets[0]}
			if proven != nil {
				c.proven = proven(name)
			}
			there = append(there, c)
		}
	}
	switch {
	case len(there) > 0:
		c := slices.MinFunc(there, candidate.compare)
		return c.region, c.set, nil
	case len(errs) > 0:
		return "", "", fmt.Errorf("choose a set to drill: %w", errors.Join(errs...))
	case spec.Set != "":
		return "", "", fmt.Errorf("choose a set to drill: %w: no set %s of %s (`holdfast backup list` shows them)", errNoSet, spec.Set, names(of))
	}
	return "", "", fmt.Errorf("choose a set to drill: %w: none of %s is sealed yet (take one: `holdfast backup run --region %s`)", errNoSet, names(of), of[0])
}

// candidate is the newest set of a region, and when a drill last proved any of
// that region.
type candidate struct {
	region topology.Region
	set    backup.SetID
	proven time.Time
}

// compare puts first what has gone unproven for longest, then the newest.
func (c candidate) compare(d candidate) int {
	return cmp.Or(c.proven.Compare(d.proven), cmp.Compare(d.set, c.set))
}

// names joins the names of regions for an error.
func names(of []topology.Region) string {
	all := make([]string, len(of))
	for i, r := range of {
		all[i] = string(r)
	}
	return strings.Join(all, ", ")
}
