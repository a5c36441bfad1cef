package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/agent"
)

// roleRunners are the steps that concern this node's own leases.
func roleRunners(k *keeper) []agent.Runner {
	return []agent.Runner{
		roleStep{failover.KindQuiesce, k.quiesce},
		roleStep{failover.KindFenceWait, waitStep},
		roleStep{failover.KindRelease, k.release},
	}
}

// roleStep is a step that is repeated rather than asked about.
type roleStep struct {
	kind string
	do   func(ctx context.Context, t agent.Task, f agent.Fence) (any, error)
}

func (r roleStep) Kind() string { return r.kind }

func (r roleStep) Done(context.Context, agent.Task) (agent.Evidence, bool, error) {
	return nil, false, nil
}

func (r roleStep) Do(ctx context.Context, t agent.Task, f agent.Fence) (agent.Evidence, error) {
	v, err := r.do(ctx, t, f)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

type waited struct {
	Waited time.Duration `json:"waited"`
}

func waitStep(ctx context.Context, t agent.Task, _ agent.Fence) (any, error) {
	var spec failover.WaitSpec
	if err := json.Unmarshal(t.Spec, &spec); err != nil {
		return nil, fmt.Errorf("read the spec of %s: %w", t.Kind, err)
	}
	return waited{spec.Wait}, sleep(ctx, spec.Wait)
}

// quiesce waits until clients have noticed that this region answers 503. The
// drain was applied before this task existed, so answering starts here at the
// latest.
func (k *keeper) quiesce(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	k.observe(t.State())
	return waitStep(ctx, t, f)
}

type released struct {
	Guards int `json:"guards"` // that were waited for
}

// release gives the roles up: sticky and on disk, then guarded processes end,
// then the log learns it.
func (k *keeper) release(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	s := t.State()
	k.observe(s)
	if err := f.Check(); err != nil {
		return nil, err
	}
	if err := k.giveUp(t.Plan.Roles); err != nil {
		return nil, fmt.Errorf("keep the release on disk: %w", err)
	}
	ended := released{Guards: len(k.guarded(t.Plan.Roles, s.Settings.Lease.Margin))}
	for {
		running := k.guarded(t.Plan.Roles, s.Settings.Lease.Margin)
		if len(running) == 0 {
			break
		}
		if err := sleep(ctx, retryEvery); err != nil {
			return nil, fmt.Errorf("guarded processes still run: %s: %w", strings.Join(running, ", "), err)
		}
	}
	for _, name := range t.Plan.Roles {
		r := t.State().Roles[name]
		if r.Phase == consensus.Vacant || r.Node != k.node {
			continue
		}
		_, err := k.propose.Propose(ctx, k.command(&consensus.Release{Role: name, Node: k.node, Generation: s.Generation, Epoch: r.Epoch}))
		if err != nil && !consensus.Refused(err, consensus.CodeStale) {
			return nil, fmt.Errorf("release %s: %w", name, err)
		}
	}
	return ended, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
