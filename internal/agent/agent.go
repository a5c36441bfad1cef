package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	timeoutDefault = 5 * time.Minute
	stopDefault    = 15 * time.Second
	lookEvery      = 2 * time.Second // even when no change is told
	againAfter     = time.Second     // before the same attempt is looked at again
	warnEvery      = 30 * time.Second
	jobsMax        = 64
)

// Config is what an Agent is made of. Runners may be empty; the rest up to
// Log is needed.
type Config struct {
	Node    topology.Node
	Region  topology.Region
	Session consensus.SessionID // opened by the caller; nothing runs before it is in the state
	Version string              // for the error about an unknown kind
	State   Source
	Propose consensus.Proposer
	Runners []Runner
	Log     *slog.Logger

	Metrics     prometheus.Registerer // optional
	Timeout     time.Duration         // of tasks that name none; default 5 min
	StopTimeout time.Duration         // how long Run waits for runners at its end; default 15 s
	Wall        func() time.Time      // for the time of commands; default time.Now
}

// Agent runs the tasks of one region. Make it with New.
type Agent struct {
	cfg     Config
	runners map[string]Runner
	metrics *metrics
	by      string
}

// New checks cfg and returns an agent that does nothing yet.
func New(cfg Config) (*Agent, error) {
	if cfg.Node == "" || cfg.Region == "" || cfg.Session == "" || cfg.State == nil || cfg.Propose == nil || cfg.Log == nil {
		return nil, errors.New("make agent: node, region, session, state, proposer and log are needed")
	}
	a := &Agent{cfg: cfg, runners: map[string]Runner{}, by: "node " + string(cfg.Node)}
	a.cfg.Timeout = cmp.Or(cfg.Timeout, timeoutDefault)
	a.cfg.StopTimeout = cmp.Or(cfg.StopTimeout, stopDefault)
	if a.cfg.Wall == nil {
		a.cfg.Wall = time.Now
	}
	for _, r := range cfg.Runners {
		if _, twice := a.runners[r.Kind()]; twice {
			return nil, fmt.Errorf("make agent: two runners for kind %q", r.Kind())
		}
		a.runners[r.Kind()] = r
	}
	var err error
	if a.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("make agent: %w", err)
	}
	return a, nil
}

// Run watches and works until ctx ends, then cancels what runs and waits for
// it. It returns nil, or an error that names the tasks whose runner did not
// return in StopTimeout. Call it once.
func (a *Agent) Run(ctx context.Context) error {
	w := &work{agent: a, jobs: map[turn]*job{}, rest: map[consensus.TaskID]ended{}, over: make(chan *job, jobsMax)}
	changed := a.cfg.State.Watch(ctx)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return w.stop()
		case _, ok := <-changed:
			if !ok {
				changed = nil // the ticker goes on
			}
		case j := <-w.over:
			w.ended(j)
		case <-look.C:
		}
	}
}

// turn is what takes turns here: the tasks of one plan, or the runs of one kind.
type turn struct {
	plan consensus.PlanID
	kind string
}

func turnOf(t consensus.Task) turn {
	if t.Run != "" {
		return turn{kind: t.Kind}
	}
	return turn{plan: t.Ref.Plan}
}

// work is what Run's goroutine owns.
type work struct {
	agent *Agent
	jobs  map[turn]*job
	rest  map[consensus.TaskID]ended // attempts that ended here, while the state may not say so yet
	over  chan *job
}

// ended says when an attempt ended here. The state may lag behind the log, so
// the same attempt may seem to be there still; looking again is harmless,
// since a claim goes through the log, and once in a while it is needed.
type ended struct {
	attempt int
	at      time.Time
}

func (w *work) look(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	a, s := w.agent, w.agent.cfg.State.State()
	ours := s.Sessions[a.cfg.Node].ID == a.cfg.Session
	for _, j := range w.jobs {
		t, there := s.Tasks[j.id]
		switch {
		case !ours || !there || t.Attempt != j.task.Attempt || (t.Claim.Session != "" && t.Claim.Session != a.cfg.Session):
			j.cancel(ErrLost)
			j.warn()
		case t.Claim.Session == a.cfg.Session:
			j.claimed()
		}
	}
	maps.DeleteFunc(w.rest, func(id consensus.TaskID, e ended) bool {
		t, there := s.Tasks[id]
		return !there || t.Attempt != e.attempt || time.Since(e.at) >= againAfter
	})
	if !ours {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.Tasks)) {
		t := s.Tasks[id]
		if t.Region != a.cfg.Region || (t.Claim.Session != "" && t.Claim.Session != a.cfg.Session) {
			continue
		}
		if _, busy := w.jobs[turnOf(t)]; busy || len(w.jobs) == jobsMax {
			continue
		}
		if _, resting := w.rest[id]; resting {
			continue
		}
		j := newJob(ctx, a, Task{ID: id, Task: t, Plan: s.Plans[t.Ref.Plan], State: a.cfg.State.State}, s)
		if t.Claim.Session == a.cfg.Session {
			j.claimed()
		}
		w.jobs[turnOf(t)] = j
		go func() { //nolint:contextcheck // the job has its own, made from ctx
			defer func() { w.over <- j }() // never blocks: as many places as jobs
			j.run()
		}()
	}
}

func (w *work) ended(j *job) {
	j.cancel(nil)
	delete(w.jobs, turnOf(j.task.Task))
	w.rest[j.id] = ended{j.task.Attempt, time.Now()}
}

func (w *work) stop() error {
	for _, j := range w.jobs {
		j.cancel(errStopped)
	}
	bound := time.NewTimer(w.agent.cfg.StopTimeout)
	defer bound.Stop()
	for len(w.jobs) > 0 {
		select {
		case j := <-w.over:
			w.ended(j)
		case <-bound.C:
			var left []string
			for _, j := range w.jobs {
				left = append(left, fmt.Sprintf("%s (%s)", j.id, j.task.Kind))
			}
			slices.Sort(left)
			return fmt.Errorf("stop agent: still running after %s: %s", w.agent.cfg.StopTimeout, strings.Join(left, ", "))
		}
	}
	return nil
}
