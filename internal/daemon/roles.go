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
		agent.Repeat(failover.KindQuiesce, k.quiesce),
		agent.Repeat(failover.KindFenceWait, waitStep),
		agent.Repeat(failover.KindRelease, k.release),
	}
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
// latest; on disk too, so that a restart in the wait does not let them in.
func (k *keeper) quiesce(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	k.observe(t.State())
	if err := k.keep(); err != nil {
		return nil, err
	}
	return waitStep(ctx, t, f)
}

type released struct {
	Guards int `json:"guards"` // that were waited for
}

// release gives the roles up: sticky and on disk, then guarded processes end,
// then the log learns it.
func (k *keeper) release(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	k.observe(t.State())
	if err := f.Check(); err != nil {
		return nil, err
	}
	given, err := k.giveUp(t.Plan.Roles)
	if err != nil {
		return nil, err
	}
	running := k.running(t.Plan.Roles)
	ended := released{Guards: len(running)}
	for len(running) > 0 {
		if err := sleep(ctx, retryEvery); err != nil {
			return nil, fmt.Errorf("guarded processes may still run: %s: %w; end them, or restart this daemon if their guards are dead", strings.Join(running, ", "), err)
		}
		running = k.running(t.Plan.Roles)
	}
	for _, d := range given {
		if err := f.Check(); err != nil {
			return nil, err
		}
		if err := k.releaseOne(ctx, d); err != nil {
			return nil, err
		}
	}
	return ended, nil
}

// releaseOne tells the log, again and again while nobody leads or the answer
// is lost: what was given up cannot be taken back.
func (k *keeper) releaseOne(ctx context.Context, d consensus.Deadline) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := k.propose.Propose(attempt, k.command(&consensus.Release{Role: d.Role, Node: k.node, Generation: d.Generation, Epoch: d.Epoch}))
		cancel()
		if err == nil || consensus.Refused(err, consensus.CodeStale) {
			return nil
		}
		if consensus.Refused(err) {
			return fmt.Errorf("release %s: %w", d.Role, err)
		}
		if sleep(ctx, retryEvery) != nil {
			return fmt.Errorf("release %s: %w", d.Role, err)
		}
	}
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
