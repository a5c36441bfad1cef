package guard

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	guardsMax   = 1024
	forgetAfter = time.Minute // a guard that ran nothing and is not heard of
)

// Registry is what a daemon knows of the guards that ask it, so that a
// release can wait until nothing guarded runs. It is safe for concurrent use.
//
// A guard that is silent is not waited for for ever: it, or its keeper, or
// the kernel has ended its command by the deadline it was given plus the
// margin. One that was last told to hold has no deadline; it is waited for
// until it reports, since it may go on while it cannot reach us.
type Registry struct {
	mu     sync.Mutex
	known  map[string]entry
	unsure map[topology.Role]clock.Instant // guards of a former life of the daemon may run until then
	// unsureAll is for roles that are not in unsure.
	unsureAll clock.Instant
}

type entry struct {
	status Status
	heard  clock.Instant
	until  clock.Instant // everything of it is gone by then, heard of or not
	held   bool          // or not even then
	margin time.Duration
}

// NewRegistry returns a Registry of a daemon that starts at now. Guards that
// a former life of the daemon answered are unknown to it; they ask within
// settle (say 3 s), unless they are stopped, and then they have ended by the
// deadline that was kept on disk for the role, plus the margin. Give those
// instants in until.
func NewRegistry(now clock.Instant, settle time.Duration, until map[topology.Role]clock.Instant) *Registry {
	r := &Registry{known: map[string]entry{}, unsure: map[topology.Role]clock.Instant{}, unsureAll: now.Add(settle)}
	for role, at := range until {
		r.unsure[role] = max(at, r.unsureAll)
	}
	return r
}

// ErrManyGuards means that more guards ask than are kept track of.
var ErrManyGuards = errors.New("too many guards ask this daemon; it keeps track of 1024")

// Answer records what a guard reported at now and the word it is about to be
// given. Call it right before the answer is sent, under whatever orders it
// with the release: a word that allows must not be composed before a release
// begins and recorded after Running was asked. On an error send no answer.
func (r *Registry) Answer(now clock.Instant, s Status, w Word) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.known {
		if !e.busy(now) && now.Sub(e.heard) > forgetAfter {
			delete(r.known, id)
		}
	}
	if s.Gone && !s.Running {
		delete(r.known, s.ID)
		return nil
	}
	e, known := r.known[s.ID]
	if !known && len(r.known) >= guardsMax {
		return ErrManyGuards
	}
	e.status, e.heard = s, now
	e.margin = cmp.Or(max(w.Margin, 0), e.margin)
	switch {
	case w.Allows():
		e.held = w.Held || s.Held // the answer may get lost: what it last reported holds until it reports otherwise
		e.until = max(e.until, w.Deadline.Add(e.margin))
	case !s.Running && s.AllowedUntil == 0 && !s.Held:
		e.until, e.held = 0, false // it has heard no before, and will hear no now
	case s.Running || s.Held || now.Before(s.AllowedUntil):
		// It may not hear this no, and goes by a word that we may not have
		// given: a former life of this daemon did.
		e.held = e.held || s.Held
		e.until = max(e.until, s.AllowedUntil.Add(e.margin))
		if s.Running {
			e.until = max(e.until, now.Add(e.margin)) // it ends within the margin of a no, or tells us that it has not
		}
	}
	r.known[s.ID] = e
	return nil
}

// busy reports whether something of the guard may run, now or by the word it was given.
func (e entry) busy(now clock.Instant) bool {
	return e.held || now.Before(e.until)
}

// Running returns the guards of a role whose command runs, or may run by a
// word they were given; the last report of each, in the order of IDs. When
// there is none, and the daemon has listened long enough to know, it returns
// an empty list and a nil error. Ask it again and again after the daemon has
// begun to answer "no".
func (r *Registry) Running(now clock.Instant, role topology.Role) ([]Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var busy []Status
	for _, e := range r.known {
		if e.status.Role == role && e.busy(now) {
			busy = append(busy, e.status)
		}
	}
	slices.SortFunc(busy, func(a, b Status) int { return cmp.Compare(a.ID, b.ID) })
	unsure, ok := r.unsure[role]
	if !ok {
		unsure = r.unsureAll
	}
	if now.Before(unsure) {
		return busy, fmt.Errorf("guards that a former life of this daemon answered may run for another %s", unsure.Sub(now).Round(time.Millisecond))
	}
	return busy, nil
}

// Holding returns the guards of a role that were told to hold and have not
// reported since that they no longer do. A daemon does not bind itself to
// demote while there are any.
func (r *Registry) Holding(role topology.Role) []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	var held []Status
	for _, e := range r.known {
		if e.status.Role == role && e.held {
			held = append(held, e.status)
		}
	}
	slices.SortFunc(held, func(a, b Status) int { return cmp.Compare(a.ID, b.ID) })
	return held
}

// Known is the last report of a guard and when it came.
type Known struct {
	Status
	Heard clock.Instant
}

// List returns the last report of each guard, in the order of IDs.
func (r *Registry) List() []Known {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Known
	for _, e := range r.known {
		all = append(all, Known{e.status, e.heard})
	}
	slices.SortFunc(all, func(a, b Known) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
