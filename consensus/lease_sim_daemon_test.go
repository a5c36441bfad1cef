package consensus

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// The daemons of the simulator (lease_sim_test.go): what a real one does
// around this package, with the same calls in the same order.

// start begins a life of the daemon.
func (w *world) start(n *node) {
	n.life++
	n.alive, n.known, n.leaving, n.catches, n.asking = true, false, false, false, false
	n.nonce, n.leads, n.pausedU, n.watch, n.busy = 0, 0, 0, Watch{}, 0
	n.session = SessionID(fmt.Sprintf("%s life %d", n.name, n.life))
	w.tell("machine  %s starts", n.name)
	if n.region != "" {
		n.holder = NewHolder(theRole, n.name, n.session, w.timing)
		if n.hasDisk {
			n.holder = n.holder.Restore(n.disk, n.bootID())
		}
		if !w.calm || w.chance(0.5) { // the log is replayed from an older snapshot
			n.view = max(0, n.view-w.rng.IntN(200))
		}
		w.refresh(n)
		w.see(n, n.view)
		w.openSession(n)
		w.renew(n)
		w.reclaim(n)
	}
	w.catchUp(n)
}

// openSession asks until it is told yes. Later, see begins anew if an entry of
// an earlier life came late and took the session over.
func (w *world) openSession(n *node) {
	if n.known {
		return
	}
	w.propose(n, &OpenSession{Node: n.name, Session: n.session, Boot: n.bootID()}, func(accepted bool) {
		if accepted && !n.known {
			n.known, n.knownAt = true, len(w.log)-1
		}
	})
	w.on(n, time.Second, func() { w.openSession(n) })
}

// renew is the loop of a holder: one attempt, its answer or its timeout, again.
func (w *world) renew(n *node) {
	again := func(d time.Duration) { w.on(n, n.local(d), func() { w.renew(n) }) }
	if !n.known {
		again(100 * time.Millisecond)
		return
	}
	policy := w.state(n).Settings.Roles[theRole].Policy
	t0 := n.clock.at(w.now)
	h, renew, ok := n.holder.Attempt(t0, n.nonce+1, policy)
	if !ok {
		again(200 * time.Millisecond)
		return
	}
	n.nonce++
	nonce := n.nonce
	promise := n.holder.holds && !h.holds // to demote
	n.holder = h
	if w.bug == promiseForgotten {
		w.refresh(n)
	} else {
		w.keep(n)
	}
	if promise && w.chance(0.3) { // the worst moment to die
		w.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() { w.vanish(n, 1) })
	}
	answered := false
	w.propose(n, renew, func(accepted bool) {
		if w.bug == timeOfRetriedAttempt && accepted {
			nonce = n.nonce
		}
		n.holder = n.holder.Result(nonce, accepted)
		w.keep(n)
		if !answered {
			answered = true
			if accepted {
				again(w.timing.Renew - n.clock.at(w.now).Sub(t0))
				return
			}
			again(200 * time.Millisecond)
		}
	})
	w.on(n, n.local(w.timing.AttemptTimeout), func() {
		if answered {
			return
		}
		answered = true
		if w.impish {
			n.holder = n.holder.Result(nonce, false)
		}
		w.renew(n)
	})
}

// drained starts to leave a role that drains: inactive, wait, release.
// It asks the Holder, which knows what a replayed state does not.
func (w *world) drained(n *node) {
	v := n.holder.At(n.clock.at(w.now))
	if v.Phase != Draining || n.leaving {
		return
	}
	n.leaving = true
	epoch := v.Epoch
	over := func() bool {
		v := n.holder.At(n.clock.at(w.now))
		return v.Phase != Draining || v.Epoch != epoch
	}
	var release func()
	release = func() {
		if over() {
			n.leaving = false
			return
		}
		w.propose(n, &Release{Role: theRole, Node: n.name, Generation: 1, Epoch: epoch}, nil)
		w.on(n, time.Second, release)
	}
	if w.bug == releaseBeforeGiveUp {
		release()
		return
	}
	w.on(n, w.between(time.Millisecond, 3*time.Second), func() {
		if over() {
			n.leaving = false
			return
		}
		n.holder = n.holder.GiveUp()
		if w.bug == giveUpForgotten {
			w.refresh(n)
		} else {
			w.keep(n)
		}
		wait := float64(w.tail) * (1 + float64(w.timing.ClockRatePPM)/1e6)
		w.on(n, n.local(time.Duration(wait)+1), release)
	})
}

// reclaim asks for a role that lapsed here, now and then.
func (w *world) reclaim(n *node) {
	w.on(n, w.between(200*time.Millisecond, 4*time.Second), func() {
		r := w.state(n).Roles[theRole]
		mine := r.Last.Holder == n.region || r.Epoch == 0 && n.region == "us-east"
		if n.known && r.Phase == Vacant && mine {
			w.propose(n, &Reclaim{Role: theRole, Node: n.name, Session: n.session, Generation: 1, Epoch: r.Epoch + 1}, nil)
		}
		w.reclaim(n)
	})
}

// tick is the leader's work, every half second by its clock.
func (w *world) tick(n *node) {
	w.on(n, n.local(500*time.Millisecond), func() {
		if n.leads == 0 {
			return
		}
		w.tick(n)
		s, term := w.state(n), n.leads
		switch w.bug {
		case leaseKeptAcrossLeaders:
			term = 1
		case ratesIgnored:
			s.Settings.Lease.ClockRatePPM, s.Settings.Lease.Delta = 0, 0
		case ttlOfSettings:
			s = withoutTTL(s)
		}
		var over []*Expire
		n.watch, over = n.watch.Look(n.clock.at(w.now), term, s)
		for _, e := range over {
			w.tell("leader   %s proposes to expire epoch %d, sequence %d", n.name, e.Epoch, e.Sequence)
			w.propose(n, e, nil)
		}
		if n.busy <= w.now {
			w.control(n, w.state(n))
		}
	})
}

func withoutTTL(s State) State {
	s = s.clone()
	for name, r := range s.Roles {
		r.TTL = 0
		s.Roles[name] = r
	}
	return s
}

// control decides what the leader does next: drive the live plan, or make one
// when the role is vacant and the other region can be reached.
func (w *world) control(n *node, s State) {
	r := s.Roles[theRole]
	id, p, live := s.LivePlan(theRole)
	var body Body
	switch {
	case live:
		body = w.drive(id, p, r)
	case r.Phase == Closed && w.chance(0.1): // its plan was superseded: go on, or back
		if body = w.planned(s, w.other(r.Holder)); w.chance(0.5) {
			body = w.plan(s, Unplanned, w.named(r.Node), Step{Kind: StepOpen})
		}
	case r.Phase == Vacant && r.Epoch > 0 && w.chance(0.5):
		to := w.other(r.Last.Holder)
		if to.alive && !to.paused(w.now) && w.reaches(n, to) && w.reaches(to, n) {
			body = w.unplanned(s, to)
		}
	}
	if body != nil {
		n.busy = w.now + int64(time.Second)
		w.propose(n, body, func(bool) { n.busy = w.now + int64(20*time.Millisecond) })
	}
}

func (w *world) drive(id PlanID, p Plan, r Role) Body {
	age := w.wall().Sub(p.Created)
	switch {
	case p.Phase == PlanRunning && age > 40*time.Second:
		return &AbortPlan{Plan: id, Why: "it takes too long"}
	case age > 60*time.Second:
		return &SupersedePlan{Plan: id, Why: "it is stuck"}
	}
	ref := StepRef{Plan: id}
	var left bool
	if p.Phase == PlanAborting {
		ref.Step, ref.Undo, left = p.CurrentUndo()
	} else {
		ref.Step, left = p.Current()
	}
	if !left {
		return &FinishPlan{Plan: id}
	}
	step, _ := p.At(ref)
	now, next := []RoleEpoch{{theRole, r.Epoch}}, []RoleEpoch{{theRole, r.Epoch + 1}}
	switch step.Kind {
	case StepDrain:
		return &DrainRoles{Step: ref, Roles: now}
	case StepVoid:
		return &VoidRoles{Step: ref, Roles: now, Reason: "the machine is off"}
	case StepOpen:
		return &OpenRoles{Step: ref, Roles: now}
	case StepGrant:
		to := p.To
		if ref.Undo > 0 {
			to = p.From
		}
		return &GrantRoles{Step: ref, To: to, Roles: next}
	}
	panic("no such step: " + step.Kind)
}

func (w *world) other(r topology.Region) *node {
	if w.nodes[0].region == r {
		return w.nodes[1]
	}
	return w.nodes[0]
}

func (w *world) plan(s State, kind PlanKind, to *node, steps ...Step) *CreatePlan {
	w.plans++
	return &CreatePlan{ID: PlanID(fmt.Sprintf("p%04d", w.plans)), Plan: Plan{
		Kind: kind, Hash: "h", From: w.other(to.region).region, To: to.region, Roles: []topology.Role{theRole},
		Epochs: map[topology.Role]Epoch{theRole: s.Roles[theRole].Epoch}, Steps: steps,
	}}
}

func (w *world) unplanned(s State, to *node) *CreatePlan {
	return w.plan(s, Unplanned, to, Step{Kind: StepGrant, NoReturn: true}, Step{Kind: StepOpen})
}

func (w *world) planned(s State, to *node) *CreatePlan {
	return w.plan(s, Planned, to,
		Step{Kind: StepDrain, Undo: []Step{{Kind: StepGrant}, {Kind: StepOpen}}},
		Step{Kind: StepGrant, NoReturn: true}, Step{Kind: StepOpen})
}

// attested is what a person plans who has switched a machine off.
func (w *world) attested(s State, to *node) *CreatePlan {
	c := w.plan(s, Unplanned, to, Step{Kind: StepVoid}, Step{Kind: StepGrant, NoReturn: true}, Step{Kind: StepOpen})
	c.Plan.Fenced = c.Plan.From
	return c
}
