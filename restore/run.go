package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clock"
)

// RunOptions say how a restore is done.
type RunOptions struct {
	// Keep leaves what was made in its place when the restore fails, for a
	// person to look at. What was restored and compared equal always stays.
	Keep     bool
	Clock    clock.Clock           // nil: the system's
	Progress func(backup.Progress) // nil: nobody listens
}

// Outcome is what a restore did.
type Outcome struct {
	Set     backup.SetID  `json:"set"`
	Seal    backup.Digest `json:"seal"`
	OK      bool          `json:"ok"` // everything was restored and compared equal
	Started time.Time     `json:"started"`
	Ended   time.Time     `json:"ended"`
	Ms      int64         `json:"ms"`
	AgeMs   int64         `json:"age_ms"` // of the data, when the restore began
	Bytes   int64         `json:"bytes"`  // read and hashed
	Rows    uint64        `json:"rows"`   // compared
	Stages  []Stage       `json:"stages"`
	Engines []Proven      `json:"engines"`
	// Findings are damaged objects, or offsets that lead to the wrong place.
	Findings []Finding `json:"findings,omitempty"`
	// Left is what could not be removed after a failure, or was kept on purpose.
	Left  []Leftover `json:"left,omitempty"`
	Notes []string   `json:"notes,omitempty"`
}

// Run carries out a plan: it reads every byte of every object that is needed
// and refuses with a *DamagedError before any target is touched; it refuses
// with a *RefusedError what has an obstacle, also one that came up since; then
// it restores each part in the order of the set, and compares each.
//
// An error means that nothing is restored: what was made is removed again,
// unless Keep is set. The outcome is filled as far as it went.
func Run(ctx context.Context, v Vault, plan Plan, l Loaded, targets []Target, opt RunOptions) (out Outcome, err error) {
	j := newJob(v, opt.Clock, opt.Progress)
	from := j.clock.Now()
	out = Outcome{Set: plan.Set, Seal: plan.Seal, Started: j.clock.Wall(), AgeMs: ageOf(l.Seal, j.clock.Wall()).Milliseconds()}
	defer func() {
		// Also while a panic of a target goes by: it has made something.
		out.OK = out.OK && err == nil
		if !out.OK {
			out.Left = j.cleanUp(ctx, opt.Keep)
			if len(out.Left) > 0 && !opt.Keep {
				err = errors.Join(err, &LeftError{out.Left})
			}
		}
		out.Stages, out.Engines, out.Bytes, out.Findings, out.Notes = j.stages, j.engine, j.bytes, j.found, slices.Concat(plan.Notes, j.notes)
		for _, p := range out.Engines {
			out.Rows += p.Comparison.Rows
		}
		out.Ms, out.Ended = j.clock.Now().Sub(from).Milliseconds(), j.clock.Wall()
	}()
	if plan.Set != l.Seal.Set || plan.Seal != l.Digest || plan.Seal == "" {
		return out, fmt.Errorf("restore: the plan is for set %s with seal %s, what was read is set %s with seal %s: plan again", plan.Set, plan.Seal, l.Seal.Set, l.Digest)
	}
	if obstacles := plan.Obstacles(); len(obstacles) > 0 {
		return out, &RefusedError{obstacles}
	}
	if len(plan.Parts) == 0 {
		return out, errors.New("restore: the plan has no parts: there is nothing to restore")
	}
	if err := j.use(l, plan.Engines(), targets); err != nil {
		return out, fmt.Errorf("restore: %w", err)
	}
	if err := j.samePlaces(plan); err != nil {
		return out, err
	}
	for _, step := range []func(context.Context) error{j.preflight, j.verify, j.restore, j.compare} {
		if err := step(ctx); err != nil {
			return out, err
		}
	}
	out.OK = true
	return out, nil
}

// samePlaces refuses targets that are not the ones a person has read of.
func (j *job) samePlaces(plan Plan) error {
	for _, part := range plan.Parts {
		t, given := j.targets[part.Engine]
		switch {
		case part.Restored != given:
			return fmt.Errorf("restore: the plan and the targets do not agree about %s: plan again", part.Engine)
		case given && t.Where() != part.Where:
			return fmt.Errorf("restore: the plan puts %s into %s, the target is %s: plan again", part.Engine, part.Where, t.Where())
		}
	}
	return nil
}

// cleanUp removes what a failed restore made, or says what was kept.
func (j *job) cleanUp(ctx context.Context, keep bool) (left []Leftover) {
	if !keep {
		return j.remove(ctx)
	}
	for _, t := range j.began {
		left = append(left, Leftover{Engine: t.Engine(), Where: t.Where(), Why: "kept, as was asked"})
	}
	return left
}
