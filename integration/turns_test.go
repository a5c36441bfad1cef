//go:build integration

package integration

import (
	"context"
	"sync"

	"github.com/holdfast-dr/holdfast/replicate"
)

// turns hands out generations for filling holes to all mirrors of one link, as
// the agreed state does.
type turns struct {
	mu      sync.Mutex
	last    replicate.Generation
	settled int32
}

func (l *turns) Take(context.Context, replicate.Generation) (replicate.Generation, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	return l.last, l.last.Block() == l.settled, nil
}

func (l *turns) Settle(_ context.Context, g replicate.Generation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled = max(l.settled, g.Block())
	return nil
}

func (l *turns) Held(g replicate.Generation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return g == l.last
}
