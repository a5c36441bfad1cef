package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clock"
)

// removeWait bounds how long one target may take to be removed.
const removeWait = 5 * time.Minute

// job is the part that a restore and a drill have in common: stages, one after
// the other and timed, and the targets that have to be removed again.
type job struct {
	vault    Vault
	clock    clock.Clock
	progress func(backup.Progress)

	loaded  Loaded
	engines []backup.Engine // in the order of the set
	targets map[backup.Engine]Target

	stages []Stage
	began  []Target // whose Restore was called, in this order
	engine []Proven
	bytes  int64 // read and hashed
	notes  []string
	found  []Finding // of damaged objects, and of offsets
	source *watched
}

func newJob(v Vault, c clock.Clock, progress func(backup.Progress)) *job {
	if c == nil {
		c = clock.System()
	}
	if progress == nil {
		progress = func(backup.Progress) {}
	}
	return &job{vault: v, clock: c, progress: progress, source: &watched{src: v}}
}

// stage does one piece of work and notes how long it took and how it ended. It
// does not begin, and does not count as done, once the context has ended.
func (j *job) stage(ctx context.Context, name string, do func(s *Stage) error) error {
	s := Stage{Name: name}
	from := j.clock.Now()
	err := ctx.Err()
	if err == nil {
		j.progress(backup.Progress{Stage: name})
		err = do(&s)
	}
	if err == nil {
		err = ctx.Err()
	}
	s.Ms, s.OK = j.clock.Now().Sub(from).Milliseconds(), err == nil
	if err != nil {
		s.What = err.Error()
		err = fmt.Errorf("%s: %w", name, err)
	}
	j.stages = append(j.stages, s)
	return err
}

// use takes a set and the targets that its parts go to.
func (j *job) use(l Loaded, engines []backup.Engine, targets []Target) error {
	by, err := byEngine(targets)
	if err != nil {
		return err
	}
	j.loaded, j.engines, j.targets = l, engines, by
	return nil
}

// preflight asks each target whether it could work, before anything is read.
func (j *job) preflight(ctx context.Context) error {
	return j.stage(ctx, "preflight", func(s *Stage) error {
		var obstacles []Obstacle
		for _, e := range j.engines {
			t, ok := j.targets[e]
			if !ok {
				if e != backup.Kafka {
					obstacles = append(obstacles, Obstacle{fmt.Sprintf("no target is given for %s", e), "name one, or leave this engine out"})
				}
				continue
			}
			got, err := t.Check(ctx, j.loaded.Manifests[e])
			if err != nil {
				return fmt.Errorf("look at the target of %s, %s: %w", e, t.Where(), err)
			}
			obstacles = append(obstacles, got...)
		}
		if len(obstacles) > 0 {
			return &RefusedError{obstacles}
		}
		s.What = fmt.Sprintf("%s looked at, nothing in the way", count(len(j.targets), "target"))
		return nil
	})
}

// verify reads every byte of every object that is needed. Nothing is restored
// from a set in which one is wrong.
func (j *job) verify(ctx context.Context) error {
	return j.stage(ctx, "verify", func(s *Stage) error {
		var all Verification
		for _, e := range j.engines {
			m := j.loaded.Manifests[e]
			v, err := j.vault.Verify(ctx, m, true, j.progress)
			if err != nil {
				return fmt.Errorf("read the objects of %s: %w", e, err)
			}
			if need := needsOf(m); v.Broken == 0 && (v.Objects < need.least || v.Bytes < need.bytes) {
				return &blindError{fmt.Sprintf("of %s only %s and %s were read, it has %s and %s", e,
					count(v.Objects, "object"), Bytes(v.Bytes), count(need.least, "object"), Bytes(need.bytes))}
			}
			all = all.Add(v)
		}
		s.Bytes, j.bytes = all.Bytes, all.Bytes
		if all.Broken > 0 {
			j.found = append(j.found, all.Findings...)
			return &DamagedError{Set: j.loaded.Seal.Set, Findings: all.Findings, Broken: all.Broken}
		}
		s.What = fmt.Sprintf("%s read and equal to their hashes, %s", count(all.Objects, "object"), Bytes(all.Bytes))
		return nil
	})
}

// restore fills the targets, in the order of the set.
func (j *job) restore(ctx context.Context) error {
	for _, e := range j.engines {
		t, ok := j.targets[e]
		if !ok {
			continue
		}
		err := j.stage(ctx, "restore "+string(e), func(s *Stage) error {
			j.began = append(j.began, t) // also when it panics or half works
			if err := t.Restore(ctx, j.loaded.Manifests[e], j.source, j.progress); err != nil {
				return errors.Join(err, j.source.damage())
			}
			s.Bytes = needsOf(j.loaded.Manifests[e]).bytes
			s.What = fmt.Sprintf("%s into %s", Bytes(s.Bytes), t.Where())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// compare reads what was restored. All engines are compared, also after one of
// them differs: a person wants to know all of it.
func (j *job) compare(ctx context.Context) error {
	var first error
	for _, e := range j.engines {
		m, where := j.loaded.Manifests[e], OffsetsOnly
		t, ok := j.targets[e]
		if ok {
			where = t.Where()
		}
		p := Proven{Engine: e, Where: where}
		err := j.stage(ctx, "compare "+string(e), func(s *Stage) error {
			var err error
			if ok {
				p.Comparison, err = t.Compare(ctx, m, j.progress)
			} else {
				p.Comparison = CheckOffsets(m)
				j.found = append(j.found, misplaced(m)...)
			}
			if err != nil {
				return err
			}
			if err := verdict(e, where, m, p.Comparison); err != nil {
				return err
			}
			s.What = fmt.Sprintf("%s equal", rows(e, p.Comparison.Rows))
			return nil
		})
		p.OK = err == nil
		j.engine = append(j.engine, p)
		if first == nil {
			first = err
		}
		if err != nil && !exhibits(err) {
			break // the way there is broken, not this one part
		}
	}
	return first
}

// verdict says whether a comparison proves the part. One that read less than
// there is proves nothing, whatever it says.
func verdict(e backup.Engine, where string, m *backup.Manifest, c Comparison) error {
	if c.Different > 0 || len(c.Differences) > 0 {
		c.Different = max(c.Different, len(c.Differences))
		return &DifferentError{Engine: e, Where: where, Comparison: c}
	}
	if want := rowsAtLeast(m); c.Rows < want {
		return &blindError{fmt.Sprintf("the comparison read %s of %s, the manifest counts %d: it proves nothing", rows(e, c.Rows), e, want)}
	}
	return nil
}

// rowsAtLeast is how many rows a comparison must have read.
func rowsAtLeast(m *backup.Manifest) (n uint64) {
	switch {
	case m.Kafka != nil:
		for _, g := range m.Kafka.Groups {
			n += uint64(len(g.Offsets))
		}
	case m.ClickHouse != nil:
		for _, t := range m.ClickHouse.Tables {
			for _, p := range t.Partitions {
				n += p.Rows
			}
		}
	case m.Postgres != nil:
		for _, t := range m.Postgres.Census {
			if t.Skipped == "" && !t.Moving {
				n += t.Rows
			}
		}
	}
	return n
}

// remove takes away what Restore made, the last one first, also after the work
// was cancelled. It says what is left.
func (j *job) remove(ctx context.Context) []Leftover { return removeAll(ctx, j.began) }

func removeAll(ctx context.Context, targets []Target) (left []Leftover) {
	for i := len(targets) - 1; i >= 0; i-- {
		t := targets[i]
		err := func() error {
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWait)
			defer cancel()
			return t.Remove(rctx)
		}()
		if err != nil {
			left = append(left, Leftover{Engine: t.Engine(), Where: t.Where(), Why: err.Error()})
		}
	}
	return left
}

// watched is a source that remembers damage it was told of, whatever a target
// makes of the error.
type watched struct {
	src backup.Source

	mu  sync.Mutex
	bad error
}

func (w *watched) Pieces(ctx context.Context, m *backup.Manifest, pieces []int, each func(data []byte) error) error {
	return w.note(w.src.Pieces(ctx, m, pieces, each))
}

func (w *watched) PackIndex(ctx context.Context, p backup.Pack) (backup.PackIndex, error) {
	x, err := w.src.PackIndex(ctx, p)
	return x, w.note(err)
}

func (w *watched) note(err error) error {
	if errors.Is(err, ErrDamaged) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.bad == nil {
			w.bad = err
		}
	}
	return err
}

func (w *watched) damage() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bad
}
