package recovery

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// DrillSpec is what a drill is told. Empty: the newest set of those regions
// that are configured.
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
	Expect   func(backup.SetID) backup.Digest
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
	region, set, err := h.choose(ctx, o.Spec)
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

// choose finds the set to drill. A repository that cannot be reached is
// passed over while another one has a set: its region may be lost.
func (h *Host) choose(ctx context.Context, spec DrillSpec) (topology.Region, backup.SetID, error) {
	of := h.o.Fleet.DrillOf()
	if spec.Of != "" {
		of = []topology.Region{spec.Of}
	}
	var region topology.Region
	var set backup.SetID
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
		case spec.Set == "" && len(sets) > 0 && sets[0] > set:
			region, set = name, sets[0]
		}
	}
	switch {
	case set != "":
		return region, set, nil
	case len(errs) > 0:
		return "", "", fmt.Errorf("choose a set to drill: %w", errors.Join(errs...))
	case spec.Set != "":
		return "", "", fmt.Errorf("choose a set to drill: there is no set %s of %s (`holdfast backup list` shows them): %w", spec.Set, names(of), objects.ErrNotFound)
	}
	return "", "", fmt.Errorf("choose a set to drill: there is no sealed set of %s yet (take one: `holdfast backup run --region %s`)", names(of), of[0])
}

func names(regions []topology.Region) string {
	out := make([]string, len(regions))
	for i, r := range regions {
		out[i] = string(r)
	}
	return strings.Join(out, ", ")
}
