package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/failpoint"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	watchEvery     = 200 * time.Millisecond
	drivePause     = 200 * time.Millisecond
	proposeTimeout = 5 * time.Second
	placeEvery     = 2 * time.Second
	// placeSettled is how long a leader stays where it is before it moves for
	// placement: elections close together are worse than a misplaced leader.
	placeSettled = 10 * time.Second
	refusedAgain = time.Second // before a refused step is proposed again
	sayAgain     = time.Minute // before the same trouble is logged again
	toldMax      = 1000
)

// leader is what a member does while it leads: count leases out, walk plans,
// start automatic ones and what is scheduled, and hand leadership to a better
// place.
type leader struct {
	node     topology.Node
	clock    clock.Clock
	log      *slog.Logger
	propose  consensus.Proposer
	state    func() consensus.State
	changes  func(ctx context.Context) <-chan struct{}
	health   func(consensus.State) failover.Health
	rules    func() failover.Rules
	first    func() *consensus.Configure // from our fleet file, for a new cluster
	transfer func(ctx context.Context, to topology.Node) error
	alive    func(topology.Node) bool // reports, recently
	voters   func() []topology.Node
	add      func(ctx context.Context, n topology.Node) error
	remove   func(ctx context.Context, n topology.Node) error
	digest   string // of our fleet file
	jobs     []job
}

func (l *leader) body(by string, b consensus.Body) consensus.Command {
	return consensus.Command{At: l.clock.Wall(), By: by, Body: b}
}

func (l *leader) by() string { return "leader " + string(l.node) }

// work is one reign.
func (l *leader) work(ctx context.Context) error {
	l.log.Info("leading")
	defer l.log.Info("no longer leading")
	var wg sync.WaitGroup
	wg.Go(func() { l.countLeases(ctx) })
	wg.Go(func() { l.drive(ctx) })
	wg.Go(func() { l.place(ctx) })
	wg.Go(func() { l.admit(ctx) })
	wg.Go(func() { l.schedule(ctx) })
	wg.Wait()
	return ctx.Err()
}

func (l *leader) try(ctx context.Context, b consensus.Body) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := l.propose.Propose(ctx, l.body(l.by(), b))
	return err
}

// countLeases expires leases that this leader has seen unrenewed for the
// whole count, in this reign, on its own clock.
func (l *leader) countLeases(ctx context.Context) {
	var w consensus.Watch
	for ctx.Err() == nil {
		var over []*consensus.Expire
		w, over = w.Look(l.clock.Now(), 1, l.state())
		for _, e := range over {
			err := l.try(ctx, e)
			switch {
			case err == nil:
				l.log.Warn("lease ran out, the role is vacant", "role", e.Role, "epoch", e.Epoch)
			case !consensus.Refused(err):
				l.log.Warn("expire a lease", "role", e.Role, "error", err)
			}
		}
		_ = sleep(ctx, watchEvery)
	}
}

// told is what a reign remembers so as not to repeat itself: when something
// was last said, or tried.
type told map[string]time.Time

// again reports whether what was not told for d, and notes that it is now.
func (t told) again(now time.Time, what string, d time.Duration) bool {
	if last, ok := t[what]; ok && now.Sub(last) < d {
		return false
	}
	if len(t) >= toldMax {
		clear(t)
	}
	t[what] = now
	return true
}

// drive walks live plans and starts automatic ones.
func (l *leader) drive(ctx context.Context) {
	changes := l.changes(ctx)
	said := told{}
	for ctx.Err() == nil {
		if l.step(ctx, said) {
			continue
		}
		select {
		case <-ctx.Done():
		case _, open := <-changes:
			if !open {
				changes = nil // the pause goes on
			}
		case <-time.After(drivePause):
		}
	}
}

// step makes one decision; it reports whether there may be another at once. A
// plan whose step is refused keeps no other plan from going on.
func (l *leader) step(ctx context.Context, said told) bool {
	s := l.state()
	if s.Settings.Digest == "" {
		c := l.first()
		err := l.try(ctx, c)
		if err != nil && !consensus.Refused(err, consensus.CodeStale) && said.again(time.Now(), err.Error(), sayAgain) {
			l.log.Error("set the agreed configuration", "error", err)
		}
		return err == nil
	}
	for _, id := range slices.Sorted(maps.Keys(s.Plans)) {
		if l.stepPlan(ctx, s, id, said) {
			return true
		}
	}
	want, yes, why := failover.Automatic(l.clock.Wall(), s, l.health(s), l.rules())
	switch {
	case yes:
		l.automatic(ctx, s, want, said)
	case lostLease(s) && said.again(time.Now(), "not yet "+why, sayAgain):
		l.log.Info("no automatic failover yet", "why", why)
	}
	return false
}

// lostLease reports whether an automatic role is vacant because its lease ran out.
func lostLease(s consensus.State) bool {
	for name, r := range s.Roles {
		if s.Settings.Roles[name].Auto && r.Phase == consensus.Vacant && r.Last.Basis == consensus.LeaseExpiredOnly {
			return true
		}
	}
	return false
}

// stepPlan proposes what a plan needs next and reports whether it was taken.
func (l *leader) stepPlan(ctx context.Context, s consensus.State, id consensus.PlanID, said told) bool {
	next := failover.Next(l.clock.Wall(), id, s)
	if len(next) == 0 {
		return false
	}
	b := next[0]
	if grant, ok := b.(*consensus.GrantRoles); ok && grant.Step.Undo == 0 {
		if blocked := failover.BeforeGrant(s, l.health(s), l.rules(), s.Plans[id]); len(blocked) > 0 {
			b = &consensus.AbortPlan{Plan: id, Why: fmt.Sprintf("before the point of no return: %s: %s", blocked[0].Gate, blocked[0].Why)}
		}
	}
	kind := consensus.Command{Body: b}.Kind()
	refused := "refused " + string(id) + " " + kind
	if time.Since(said[refused]) < refusedAgain {
		return false
	}
	at := stepName(s.Plans[id])
	failpoint.At("before:" + at)
	if err := l.try(ctx, b); err != nil {
		stale := consensus.Refused(err, consensus.CodeStale) // the state that we saw was a moment old
		if consensus.Refused(err) && !stale {
			said.again(time.Now(), refused, 0)
		}
		if !stale && said.again(time.Now(), string(id)+kind+err.Error(), sayAgain) {
			l.log.Warn("plan cannot take its next step", "plan", id, "step", at, "wants", kind, "error", err)
		}
		return false
	}
	failpoint.At("after:" + at)
	l.log.Info("plan", "plan", id, "took", kind)
	return true
}

// stepName is what a plan is at: the kind of a step, "undo", or "finish".
func stepName(p consensus.Plan) string {
	if p.Phase == consensus.PlanAborting {
		return "undo"
	}
	if i, left := p.Current(); left {
		return p.Steps[i].Kind
	}
	return "finish"
}

func (l *leader) automatic(ctx context.Context, s consensus.State, want failover.Intent, said told) {
	c, blockers := failover.MakePlan(l.clock.Wall(), s, l.health(s), l.rules(), want)
	if len(blockers) > 0 {
		if said.again(time.Now(), "gate "+blockers[0].Gate, sayAgain) { // why may hold times
			l.log.Warn("automatic failover refused by a gate", "gate", blockers[0].Gate, "why", blockers[0].Why, "next", blockers[0].Fix)
		}
		return
	}
	id, err := startPlan(ctx, l.propose, l.clock.Wall(), c, l.by())
	if err != nil {
		if said.again(time.Now(), "automatic "+err.Error(), sayAgain) {
			l.log.Warn("automatic failover", "error", err)
		}
		return
	}
	l.log.Warn("automatic failover", "plan", id, "to", want.To, "roles", want.Roles, "why", want.Reason)
}

// startPlan puts a candidate into the log.
func startPlan(ctx context.Context, log consensus.Proposer, now time.Time, c failover.Candidate, by string) (consensus.PlanID, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	id := consensus.PlanID(ulid.Make().String())
	_, err := log.Propose(ctx, consensus.Command{At: now, By: by, Body: &consensus.CreatePlan{ID: id, Plan: c.Plan, Supersedes: c.Supersedes}})
	if errors.Is(err, consensus.ErrUnknownOutcome) {
		return "", fmt.Errorf("plan %s may have begun; `holdfast failover status` tells: %w", id, err)
	}
	return id, err
}

// place hands leadership to a node that holds no role, so that losing the
// holder's region costs no election.
func (l *leader) place(ctx context.Context) {
	if sleep(ctx, placeSettled) != nil {
		return
	}
	var w consensus.Watch
	for sleep(ctx, placeEvery) == nil {
		s, now := l.state(), l.clock.Now()
		w, _ = w.Look(now, 1, s)
		to, ok := betterPlace(s, l.node, l.alive)
		if !ok || slices.ContainsFunc(slices.Collect(maps.Keys(s.Roles)), func(r topology.Role) bool {
			age, held := w.Overdue(now, r)
			return held && age > s.Settings.Lease.Renew+s.Settings.Lease.AttemptTimeout
		}) {
			continue
		}
		l.log.Info("handing leadership to a node that holds no role", "to", to)
		if err := l.transfer(ctx, to); err != nil && ctx.Err() == nil { // the end of this reign is what was asked for
			l.log.Warn("hand over leadership", "to", to, "error", err)
			_ = sleep(ctx, placeSettled)
		}
	}
}

// admit keeps the voters equal to the members that are agreed on: a new node
// votes once its daemon reports, and one that was taken out of the agreed
// configuration votes no more.
func (l *leader) admit(ctx context.Context) {
	for sleep(ctx, placeEvery) == nil {
		s := l.state()
		if s.Settings.Digest != l.digest {
			continue // our file says something else than what is agreed on
		}
		join, leave := changes(s, l.voters(), l.alive)
		for _, n := range join {
			if err := l.add(ctx, n); err != nil {
				l.log.Warn("make a node a voter", "member", n, "error", err)
				continue
			}
			l.log.Info("a node votes from now on", "member", n)
		}
		for _, n := range leave {
			if n == l.node {
				continue // the next leader does it: see betterPlace
			}
			if err := l.remove(ctx, n); err != nil {
				l.log.Warn("take a vote away", "member", n, "error", err)
				continue
			}
			l.log.Info("a node that is no longer a member votes no more", "member", n)
		}
	}
}

// changes compares the voters with the members that are agreed on.
func changes(s consensus.State, voters []topology.Node, alive func(topology.Node) bool) (join, leave []topology.Node) {
	for _, n := range slices.Sorted(maps.Keys(s.Members)) {
		if !slices.Contains(voters, n) && alive(n) {
			join = append(join, n)
		}
	}
	for _, n := range voters {
		if _, member := s.Members[n]; !member {
			leave = append(leave, n)
		}
	}
	return join, leave
}

// betterPlace returns a node to lead instead of node: one whose region holds
// no role, a witness first. It returns false when node itself is such a one,
// or when there is none alive.
func betterPlace(s consensus.State, node topology.Node, alive func(topology.Node) bool) (topology.Node, bool) {
	holds := func(n topology.Node) bool {
		for _, r := range s.Roles {
			if r.Node == n {
				return true
			}
		}
		return false
	}
	if _, member := s.Members[node]; member && !holds(node) {
		return "", false
	}
	var best topology.Node
	for _, n := range slices.Sorted(maps.Keys(s.Members)) {
		if n == node || holds(n) || !alive(n) {
			continue
		}
		if best == "" || s.Members[n].Witness && !s.Members[best].Witness {
			best = n
		}
	}
	return best, best != ""
}
