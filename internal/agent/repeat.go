package agent

import (
	"context"
	"encoding/json"
)

// Repeat returns the runner of a kind whose effect is idempotent for ever: an
// attempt does it again rather than asking whether it is there. What do
// returns becomes the evidence, as JSON.
func Repeat(kind string, do func(ctx context.Context, t Task, f Fence) (any, error)) Runner {
	return repeat{kind, do}
}

type repeat struct {
	kind string
	do   func(ctx context.Context, t Task, f Fence) (any, error)
}

func (r repeat) Kind() string { return r.kind }

func (r repeat) Done(context.Context, Task) (Evidence, bool, error) { return nil, false, nil }

func (r repeat) Do(ctx context.Context, t Task, f Fence) (Evidence, error) {
	v, err := r.do(ctx, t, f)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
