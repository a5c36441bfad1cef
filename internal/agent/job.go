package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/failpoint"
	"github.com/holdfast-dr/holdfast/internal/retry"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	retryFirst     = 50 * time.Millisecond
	retryLongest   = 5 * time.Second
	proposeTimeout = 10 * time.Second
	errorBytesMax  = 4096 // what the state keeps of an error
)

// job is one attempt at one task.
type job struct {
	agent   *Agent
	id      consensus.TaskID
	task    Task
	fence   Fence
	ctx     context.Context // ends when the attempt is no longer ours
	cancel  context.CancelCauseFunc
	claimed func()        // closes seen, once
	seen    chan struct{} // the claim is in the state as applied here
	log     *slog.Logger

	cancelled, warned time.Time // of Run's goroutine
}

func newJob(ctx context.Context, a *Agent, t Task, s consensus.State) *job {
	j := &job{agent: a, id: t.ID, task: t, seen: make(chan struct{}),
		log: a.cfg.Log.With("task", string(t.ID), "kind", t.Kind, "attempt", t.Attempt)}
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	j.claimed = sync.OnceFunc(func() { close(j.seen) })
	j.fence = Fence{Epochs: map[topology.Role]consensus.Epoch{}, Generation: s.Generation, Check: j.check, Confirm: j.claim}
	for name, r := range s.Roles {
		if len(t.Plan.Roles) == 0 || slices.Contains(t.Plan.Roles, name) {
			j.fence.Epochs[name] = r.Epoch
		}
	}
	return j
}

// check is Fence.Check.
func (j *job) check() error {
	if j.ctx.Err() != nil {
		return context.Cause(j.ctx)
	}
	s := j.agent.cfg.State.State()
	t, there := s.Tasks[j.id]
	switch session := j.agent.cfg.Session; {
	case !there:
		return fmt.Errorf("task %s is over: %w", j.id, ErrLost)
	case t.Attempt != j.task.Attempt:
		return fmt.Errorf("task %s is at attempt %d, not %d: %w", j.id, t.Attempt, j.task.Attempt, ErrLost)
	case t.Claim.Session != session || s.Sessions[j.agent.cfg.Node].ID != session:
		return fmt.Errorf("task %s is not claimed by this life of the daemon: %w", j.id, ErrLost)
	}
	return nil
}

// warn logs that a cancelled runner does not return; now and then.
func (j *job) warn() {
	now := time.Now()
	if j.cancelled.IsZero() {
		j.cancelled, j.warned = now, now
	}
	if now.Sub(j.warned) >= warnEvery {
		j.warned = now
		j.log.Warn("a cancelled task has not returned; nothing else of its plan starts here", "waited", now.Sub(j.cancelled))
	}
}

func (j *job) run() {
	if err := j.claim(j.ctx); err != nil {
		j.log.Info("task not claimed", "why", err)
		return
	}
	select {
	case <-j.seen:
	case <-j.ctx.Done():
		return
	}
	failpoint.At("claimed:" + j.task.Kind)
	start := time.Now()
	j.agent.metrics.running.Inc()
	evidence, err := j.work()
	j.agent.metrics.running.Dec()
	took := time.Since(start)
	if j.ctx.Err() != nil {
		// The plan went on without us, or the daemon stops. Either way there
		// is nothing to say: no longer ours, or freed by the session's end.
		j.agent.metrics.ended(j.task.Kind, "lost", took)
		j.log.Info("task dropped", "why", context.Cause(j.ctx), "took", took)
		return
	}
	var body consensus.Body
	if err == nil {
		body, err = j.finish(evidence)
	}
	if err != nil {
		body = j.fail(err)
	}
	failpoint.At("done:" + j.task.Kind)
	refused := j.propose(j.ctx, body)
	if err == nil && consensus.Refused(refused, consensus.CodeInvalid) {
		err = fmt.Errorf("record evidence of %d bytes: %w", len(evidence), refused)
		refused = j.propose(j.ctx, j.fail(err))
	}
	if errors.Is(refused, ErrLost) && j.over() {
		refused = nil // applied here before the answer came
	}
	switch {
	case refused != nil:
		j.agent.metrics.ended(j.task.Kind, "lost", took)
		j.log.Info("result not taken", "why", refused, "took", took)
	case err != nil:
		j.agent.metrics.ended(j.task.Kind, "failed", took)
		j.log.Warn("task failed", "error", err, "took", took)
	default:
		j.agent.metrics.ended(j.task.Kind, "done", took)
		j.log.Info("task done", "took", took)
	}
}

// over reports whether the log holds an end of this very task: the result that
// was just proposed, for nobody else may speak for the attempt.
func (j *job) over() bool {
	s := j.agent.cfg.State.State()
	if run, ok := s.Runs[j.task.Run]; ok {
		return run.State == consensus.RunDone || run.State == consensus.RunFailed
	}
	p, ok := s.Plans[j.task.Ref.Plan]
	if !ok || j.task.Ref.Undo > 0 {
		return false
	}
	state := p.Journal[j.task.Ref.Step].State
	return state == consensus.StepDone || state == consensus.StepFailed
}

// work asks the runner, within the timeout of the task. A panic is an error.
func (j *job) work() (evidence Evidence, err error) {
	r, known := j.agent.runners[j.task.Kind]
	if !known {
		return nil, fmt.Errorf("task kind %q is unknown to holdfast %s on %s, which knows %s: upgrade it, or configure the driver that provides this kind",
			j.task.Kind, j.agent.cfg.Version, j.agent.cfg.Node, strings.Join(slices.Sorted(maps.Keys(j.agent.runners)), ", "))
	}
	timeout := j.task.Timeout
	if timeout <= 0 {
		timeout = j.agent.cfg.Timeout
	}
	ctx, cancel := context.WithTimeoutCause(j.ctx, timeout, fmt.Errorf("the task's timeout of %s passed: %w", timeout, context.DeadlineExceeded))
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			j.log.Error("runner panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			evidence, err = nil, fmt.Errorf("runner of %s panicked: %v (the stack is in the log of %s)", j.task.Kind, p, j.agent.cfg.Node)
		}
	}()
	evidence, done, err := r.Done(ctx, j.task)
	if err != nil {
		return nil, fmt.Errorf("ask whether %s is done: %w", j.task.Kind, late(ctx, err))
	}
	if done {
		return evidence, nil
	}
	evidence, err = r.Do(ctx, j.task, j.fence)
	if err != nil {
		return nil, late(ctx, err)
	}
	return evidence, nil
}

// late adds the timeout to an error that only says "deadline exceeded" or "canceled".
func late(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

func (j *job) claim(ctx context.Context) error {
	return j.propose(ctx, &consensus.ClaimTask{Task: j.id, Attempt: j.task.Attempt, Node: j.agent.cfg.Node, Session: j.agent.cfg.Session})
}

func (j *job) finish(e Evidence) (consensus.Body, error) {
	if len(e) > 0 && !json.Valid(e) { // could never be encoded, so would be tried for ever
		return nil, fmt.Errorf("runner of %s returned evidence that is not JSON", j.task.Kind)
	}
	return &consensus.FinishTask{Task: j.id, Attempt: j.task.Attempt, Session: j.agent.cfg.Session, Evidence: e}, nil
}

func (j *job) fail(err error) consensus.Body {
	text := strings.ToValidUTF8(err.Error(), "�")
	if len(text) > errorBytesMax {
		text = strings.ToValidUTF8(text[:errorBytesMax], "")
	}
	return &consensus.FailTask{Task: j.id, Attempt: j.task.Attempt, Session: j.agent.cfg.Session, Error: text}
}

// propose puts body into the log, again and again while nobody leads or the
// answer is lost. It ends with nil, a Refusal, or the cause of a context that
// ended; Run ends the job's when the task is gone or moved on.
func (j *job) propose(ctx context.Context, body consensus.Body) error {
	delays := retry.New(retryFirst, retryLongest)
	for tries := 1; ; tries++ {
		once, cancel := context.WithTimeout(ctx, proposeTimeout)
		cmd := consensus.Command{At: j.agent.cfg.Wall(), By: j.agent.by, Body: body}
		_, err := j.agent.cfg.Propose.Propose(once, cmd)
		cancel()
		if err == nil || consensus.Refused(err) {
			return err
		}
		if tries == 1 && ctx.Err() == nil {
			j.log.Warn("proposal has no answer, trying until it has", "command", cmd.Kind(), "error", err)
		}
		if err := delays.Wait(ctx); err != nil {
			return err
		}
	}
}
