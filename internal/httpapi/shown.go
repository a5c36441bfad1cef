package httpapi

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/failover"
)

// shownMax bounds the plans that are remembered; the oldest goes first.
const shownMax = 128

// wish is what a plan was made for: one of the two.
type wish struct {
	move   *failover.Intent
	reseed *Reseed
}

// shown remembers which plans this daemon has shown, so that running one
// needs only its hash, and an expired one is refused.
type shown struct {
	now   func() time.Time
	mu    sync.Mutex
	plans map[string]shownPlan
	order []string // of plans, oldest first
}

type shownPlan struct {
	wish    wish
	expires time.Time
}

func newShown(now func() time.Time) *shown {
	return &shown{now: now, plans: map[string]shownPlan{}}
}

func (s *shown) remember(c failover.Candidate, w wish) {
	hash := c.Plan.Hash
	if hash == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = append(slices.DeleteFunc(s.order, func(h string) bool { return h == hash }), hash)
	s.plans[hash] = shownPlan{w, c.Expires}
	if len(s.order) > shownMax {
		delete(s.plans, s.order[0])
		s.order = s.order[1:]
	}
}

// recall returns the wish behind a hash. A wish that came with the request
// wins: a plan that another daemon showed is checked by its hash alone.
func (s *shown) recall(hash string, given wish) (wish, error) {
	s.mu.Lock()
	p, known := s.plans[hash]
	s.mu.Unlock()
	if known && !p.expires.IsZero() && s.now().After(p.expires) {
		return wish{}, Problemf(Changed, "run plan "+hash, "plan again, read it, and run the new one", "it expired at %s", p.expires.UTC().Format(time.TimeOnly))
	}
	if given.move != nil || given.reseed != nil {
		return given, nil
	}
	if !known {
		return wish{}, Problemf(NotFound, "run plan "+hash, "plan again, or name the move as it was planned: --to, --role, --region …", "this daemon has not shown such a plan since it started")
	}
	return p.wish, nil
}
