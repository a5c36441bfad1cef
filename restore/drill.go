package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// DrillSpec says what is drilled, and where.
type DrillSpec struct {
	Vault Vault
	Set   backup.SetID // empty: the newest
	// Expect is the digest of the seal that was recorded when this set was
	// made. Empty: it is not known. It needs Set.
	Expect  backup.Digest
	Targets []Target
	Run     string // id of the drill; Targets are named by it
	Attempt int    // from 1; above it, what an earlier attempt left is removed first
	Cluster string // whose sets these must be; empty: any
	By      topology.Node
	Seed    uint64 // chooses what the controls break
	Clock   clock.Clock
	// Progress may be nil.
	Progress func(backup.Progress)
}

// Drill restores a set into isolated targets, compares it, breaks things on
// purpose to see whether that is noticed, and removes everything again. It
// always returns a report; whether the set is proven is in its OK.
//
// Whatever is left after the removal does not make a proven set unproven, for
// it says nothing about the set: OK stays, the stage "teardown" is not OK, and
// Left says what a person has to remove.
func Drill(ctx context.Context, d DrillSpec) (r Report) {
	j := newJob(d.Vault, d.Clock, d.Progress)
	r = Report{
		Format: ReportFormat, Run: d.Run, Attempt: d.Attempt, Cluster: d.Cluster, Set: d.Set,
		Vault: d.Vault.Name(), By: d.By, Started: j.clock.Wall(),
	}
	err := j.drill(ctx, d, &r)
	r.Ended = j.clock.Wall()
	r.Stages, r.Engines, r.Bytes, r.Findings, r.Notes = j.stages, j.engine, j.bytes, j.found, j.notes
	for _, p := range r.Engines {
		r.Rows += p.Comparison.Rows
	}
	r.OK = err == nil
	if err != nil {
		r.Why, r.Fault, r.RTOMs = err.Error(), FaultDrill, 0
		if ctx.Err() == nil && exhibits(err) {
			r.Fault = FaultSet
		}
	}
	return r
}

// drill is the work of Drill. Its error is the reason why nothing is proven.
func (j *job) drill(ctx context.Context, d DrillSpec, r *Report) error {
	// Also while a panic of a target goes by.
	defer func() {
		if len(j.began) == 0 {
			return
		}
		_ = j.stage(context.WithoutCancel(ctx), "teardown", func(s *Stage) error {
			if r.Left = j.remove(ctx); len(r.Left) > 0 {
				j.notes = append(j.notes, "the targets were not removed whole: remove what is left by hand")
				return &LeftError{r.Left}
			}
			s.What = fmt.Sprintf("%s removed", count(len(j.began), "target"))
			return nil
		})
	}()
	if err := j.sweep(ctx, d); err != nil {
		return err
	}
	from := j.clock.Now()
	if err := j.choose(ctx, d, r); err != nil {
		return err
	}
	if err := j.load(ctx, d, r); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{j.preflight, j.verify, j.restore, j.compare} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	r.RTOMs = j.clock.Now().Sub(from).Milliseconds()
	return j.controls(ctx, d.Seed, r)
}

// sweep removes what an attempt that was killed has left, so that this one
// begins on empty places.
func (j *job) sweep(ctx context.Context, d DrillSpec) error {
	if d.Attempt <= 1 || len(d.Targets) == 0 {
		return nil
	}
	return j.stage(ctx, "sweep", func(s *Stage) error {
		if left := removeAll(ctx, d.Targets); len(left) > 0 {
			return &LeftError{left}
		}
		s.What = "what an earlier attempt may have left is gone"
		return nil
	})
}

func (j *job) choose(ctx context.Context, d DrillSpec, r *Report) error {
	return j.stage(ctx, "select", func(s *Stage) error {
		if d.Set != "" {
			s.What = fmt.Sprintf("set %s, as asked", d.Set)
			return nil
		}
		if d.Expect != "" {
			return errors.New("a digest is expected of a set that is not named: name the set")
		}
		sets, err := d.Vault.Sets(ctx)
		if err != nil {
			return fmt.Errorf("list the sets in %s: %w", d.Vault.Name(), err)
		}
		if len(sets) == 0 {
			return fmt.Errorf("there is no sealed set in %s: take one first (holdfast backup run)", d.Vault.Name())
		}
		r.Set = sets[0]
		s.What = fmt.Sprintf("set %s, the newest of %d", r.Set, len(sets))
		return nil
	})
}

func (j *job) load(ctx context.Context, d DrillSpec, r *Report) error {
	return j.stage(ctx, "load", func(s *Stage) error {
		l, err := Load(ctx, d.Vault, r.Set, d.Expect)
		if err != nil {
			return err
		}
		r.Seal, r.Region = l.Digest, l.Seal.Region
		r.RPOMs = ageOf(l.Seal, r.Started).Milliseconds()
		if d.Cluster != "" && l.Seal.Cluster != d.Cluster {
			return fmt.Errorf("set %s is of cluster %s, this is %s: is the repository the right one?", r.Set, l.Seal.Cluster, d.Cluster)
		}
		r.Cluster, r.Sealed = l.Seal.Cluster, l.Seal.Sealed
		s.What = fmt.Sprintf("the seal and %s are genuine", count(len(l.Manifests), "manifest"))
		return j.use(l, l.Engines(), d.Targets)
	})
}
