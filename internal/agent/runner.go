package agent

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Evidence is what a finished task leaves in the journal: JSON, at most 1 MiB.
type Evidence = json.RawMessage

// Runner carries out tasks of one kind. It is used by several goroutines, one
// per plan; of runs there is one at a time.
type Runner interface {
	// Kind is the kind of task that this runner knows, such as "exec.stop".
	Kind() string
	// Done reports whether the effect of t is already there, with its
	// evidence. It changes nothing. It is asked first, so that an attempt
	// that was killed after its effect is not repeated.
	Done(ctx context.Context, t Task) (Evidence, bool, error)
	// Do brings the effect about and returns its evidence. It may be called
	// again after any kind of end of an earlier call, in this process or a
	// former one. It returns soon after ctx ends, with nothing left running:
	// until it returns, no other task of the plan, or run of the kind, starts
	// here. It calls
	// f.Check right before each effect.
	Do(ctx context.Context, t Task, f Fence) (Evidence, error)
}

// Task is a task as it was when its attempt began.
type Task struct {
	ID consensus.TaskID
	consensus.Task
	Plan consensus.Plan
	// State returns the state as applied here now.
	State func() consensus.State
}

// Fence is what an effect is guarded by.
type Fence struct {
	// Epochs are those of the roles that the plan moves, as of the start of
	// the attempt; of all roles when the plan moves none.
	Epochs     map[topology.Role]consensus.Epoch
	Generation consensus.Generation
	// Check says whether the claim is still ours in the state as applied
	// here. It costs nothing. The state here may lag behind the log.
	Check func() error
	// Confirm asks the log itself. It costs a round trip and is for an
	// effect that nothing at the resource makes conditional.
	Confirm func(ctx context.Context) error
}

// ErrLost means that the claim is no longer ours: the plan was aborted, or the
// attempt or the session moved on. Stop, and change nothing more.
var ErrLost = errors.New("the task is no longer ours")

// errStopped is the cause of a context that ended because the agent stops.
var errStopped = errors.New("the agent stops")

// Source gives the applied state.
type Source interface {
	// State returns the state as applied on this node.
	State() consensus.State
	// Watch returns a channel that receives after the state has changed;
	// several changes may be one message. It ends with ctx, closed or not.
	Watch(ctx context.Context) <-chan struct{}
}
