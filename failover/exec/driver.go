package exec

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// The kinds of steps that this driver runs.
const (
	KindStop   = "exec.stop"
	KindStart  = "exec.start"
	KindCanary = "exec.canary"
)

// Kinds lists them.
var Kinds = []string{KindStop, KindStart, KindCanary}

const graceDefault = 10 * time.Second

// Config is what a Driver is made of. All but Grace is needed.
type Config struct {
	Dir    string // of this driver alone; made when it is missing
	Region topology.Region
	Boot   string        // clock.BootID
	Grace  time.Duration // between TERM and KILL; default 10 s
	Log    *slog.Logger
}

// Driver runs hooks. One per Dir.
type Driver struct {
	cfg   Config
	mu    sync.Mutex
	turns map[topology.Role]chan struct{} // holds one while a hook of the role runs
}

// New returns a driver; it makes Dir. Call Recover before its runners are used.
func New(cfg Config) (*Driver, error) {
	if cfg.Dir == "" || cfg.Region == "" || cfg.Boot == "" || cfg.Log == nil {
		return nil, errors.New("make exec driver: dir, region, boot and log are needed")
	}
	cfg.Grace = cmp.Or(cfg.Grace, graceDefault)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make exec driver: %w", err)
	}
	return &Driver{cfg: cfg, turns: map[topology.Role]chan struct{}{}}, nil
}

// Runners returns one runner for each of Kinds.
func (d *Driver) Runners() []agent.Runner {
	var rs []agent.Runner
	for _, k := range Kinds {
		rs = append(rs, runner{d, k})
	}
	return rs
}

type runner struct {
	*Driver
	kind string
}

// Evidence is what a finished step leaves in the journal.
type Evidence struct {
	Hooks []Result `json:"hooks"`
}

// Kind implements agent.Runner.
func (r runner) Kind() string { return r.kind }

// Done implements agent.Runner: all hooks of this very step succeeded on this boot.
func (r runner) Done(_ context.Context, t agent.Task) (agent.Evidence, bool, error) {
	hooks, step, err := read(t)
	if err != nil {
		return nil, false, err
	}
	rec, err := r.loadDone(step, t)
	if err != nil || len(rec.Hooks) < len(hooks) {
		return nil, false, err
	}
	e, err := json.Marshal(Evidence{rec.Hooks})
	return e, err == nil, err
}

// Do implements agent.Runner. It goes on after the hooks that succeeded before.
func (r runner) Do(ctx context.Context, t agent.Task, f agent.Fence) (agent.Evidence, error) {
	hooks, step, err := read(t)
	if err != nil {
		return nil, err
	}
	leave, err := r.enter(ctx, hooks)
	if err != nil {
		return nil, err
	}
	defer leave()
	r.prune()
	rec, err := r.loadDone(step, t)
	if err != nil {
		return nil, err
	}
	for i, h := range hooks {
		if err := r.endLeft(ctx, h.Role); err != nil {
			return nil, err
		}
		if i < len(rec.Hooks) {
			continue
		}
		if err := f.Confirm(ctx); err != nil { // nothing at the other end refuses a hook that comes too late
			return nil, fmt.Errorf("confirm the claim before hook %s: %w", h.Argv[0], err)
		}
		name := fmt.Sprintf("%s-%d", step, t.Attempt)
		if len(hooks) > 1 {
			name += fmt.Sprintf("-%d", i+1)
		}
		result, err := r.run(ctx, h, t, f, name)
		if err != nil {
			return nil, err
		}
		rec.Hooks = append(rec.Hooks, result)
		if err := r.write(r.donePath(step), rec); err != nil {
			return nil, fmt.Errorf("hook %s succeeded and this could not be written down: %w", result.Path, err)
		}
	}
	return json.Marshal(Evidence{rec.Hooks})
}

func read(t agent.Task) ([]Hook, string, error) {
	hooks, err := ParseSpec(t.Spec)
	if err != nil {
		return nil, "", err
	}
	step, err := stepName(t)
	return hooks, step, err
}

// enter waits until no other hook of these roles runs in this process.
func (d *Driver) enter(ctx context.Context, hooks []Hook) (leave func(), err error) {
	var roles []topology.Role
	for _, h := range hooks {
		roles = append(roles, h.Role)
	}
	slices.Sort(roles) // one order for all, so that two cannot wait for each other
	var held []chan struct{}
	leave = func() {
		for _, turn := range held {
			<-turn
		}
	}
	for _, role := range slices.Compact(roles) {
		d.mu.Lock()
		turn, ok := d.turns[role]
		if !ok {
			turn = make(chan struct{}, 1)
			d.turns[role] = turn
		}
		d.mu.Unlock()
		select {
		case turn <- struct{}{}:
			held = append(held, turn)
		case <-ctx.Done():
			leave()
			return nil, fmt.Errorf("wait for another hook of role %s: %w", role, context.Cause(ctx))
		}
	}
	return leave, nil
}
