package consensus

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// What befalls the world of the simulator (lease_sim_test.go): elections,
// faults, people, and the calm at the end.

// elect makes n the leader of a new term. The old one does not know yet.
func (w *world) elect(n *node) {
	old := w.leader
	if w.term == 0 {
		old = nil
	}
	w.term++
	w.leader = n
	w.tell("leader   %s leads term %d", n.name, w.term)
	if old != nil && old != n {
		if w.bug == leaseKeptAcrossLeaders {
			n.watch = old.watch
		}
		term := old.leads
		w.on(old, w.between(time.Millisecond, 5*time.Second), func() {
			if old.leads == term {
				old.leads = 0
			}
		})
	}
	again := n.leads != 0
	n.leads = w.term
	if !again {
		w.tick(n)
	}
	w.catchUp(n)
}

// heartbeat brings to every node what it missed.
func (w *world) heartbeat() {
	w.after(w.between(200*time.Millisecond, 2*time.Second), w.heartbeat)
	for _, n := range w.nodes {
		if n.view < len(w.log)-1 {
			w.catchUp(n)
		}
	}
}

// govern replaces a leader that lost its majority, after a while.
func (w *world) govern() {
	w.after(w.between(200*time.Millisecond, 2*time.Second), w.govern)
	if w.led() || !w.calm && w.chance(0.5) {
		return
	}
	w.elections()
}

// elections makes any node the leader that could be one.
func (w *world) elections() {
	first := w.rng.IntN(len(w.nodes))
	for i := range w.nodes {
		if n := w.nodes[(first+i)%len(w.nodes)]; w.works(n) {
			w.elect(n)
			return
		}
	}
}

// trouble is one fault, and then the next.
func (w *world) trouble() {
	w.after(w.between(500*time.Millisecond, 25*time.Second), func() {
		if w.calm {
			return
		}
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		if holder := w.head().Roles[theRole].Node; holder != "" && w.chance(0.4) {
			n = w.named(holder)
		}
		switch p := w.rng.IntN(100); {
		case p < 30:
			w.cut(n)
		case p < 36:
			w.vanish(n, 0.5)
		case p < 50:
			w.kill(n, w.between(300*time.Millisecond, time.Minute))
		case p < 62:
			w.pause(n)
		case p < 72:
			if w.works(n) {
				w.elect(n)
			}
		case p < 86:
			w.operate(true)
		default:
			w.operate(false)
		}
		w.trouble()
	})
}

func (w *world) named(name topology.Node) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	panic("no node " + name)
}

func (w *world) cut(n *node) {
	both := w.rng.IntN(3)
	n.deaf, n.mute = both != 1, both != 2
	w.tell("network  %s deaf %v, mute %v", n.name, n.deaf, n.mute)
	w.after(w.between(2*time.Second, time.Minute), func() {
		n.deaf, n.mute = false, false
		w.tell("network  %s is back", n.name)
	})
}

func (w *world) kill(n *node, down time.Duration) {
	if !n.alive {
		return
	}
	w.tell("machine  %s: its daemon is killed", n.name)
	n.alive, n.leads = false, 0
	life := n.life
	w.after(down, func() {
		if n.life == life && !n.alive {
			w.start(n)
		}
	})
}

func (w *world) pause(n *node) {
	if !n.alive || n.paused(w.now) {
		return
	}
	d := w.between(300*time.Millisecond, time.Minute)
	n.pausedU = w.now + int64(d)
	w.tell("machine  %s: its daemon is paused for %s", n.name, d.Round(time.Millisecond))
	if n.region == "" || d < time.Second {
		return
	}
	w.on(n, d+w.between(time.Microsecond, 100*time.Millisecond), func() { // the ticker sees the gap
		n.holder = n.holder.ClockUnsafe(n.clock.at(w.now))
		w.refresh(n)
	})
}

// operate is what a person does: move the role, change the settings, or
// switch a machine off that holds the role and is out of reach.
func (w *world) operate(move bool) {
	s := w.head()
	r := s.Roles[theRole]
	_, _, live := s.LivePlan(theRole)
	if r.Node == "" || live {
		return
	}
	holder := w.named(r.Node)
	out := !holder.alive || !w.reaches(holder, w.leader) || holder.paused(w.now)
	switch {
	case move && out && r.Policy == Hold:
		if w.led() && w.leader != holder {
			w.switchOff(holder)
			w.commit(w.leader, 0, w.attested(s, w.other(holder.region)), nil, 0)
		}
	case move:
		if r.Phase == Open {
			w.propose(w.leader, w.planned(s, w.other(holder.region)), nil)
		}
	case w.flips:
		c := w.settings(s)
		w.tell("person   sets policy %s, ttl %s", c.Settings.Roles[theRole].Policy, c.Settings.Lease.TTL)
		w.propose(w.leader, c, nil)
		if w.chance(0.5) { // and the holder may never hear of it
			w.after(w.between(20*time.Millisecond, 2*time.Second), func() { w.vanish(holder, 0.5) })
		}
	}
}

// vanish cuts a machine off; its daemon may die, and return before the network does.
func (w *world) vanish(n *node, dies float64) {
	if w.calm {
		return
	}
	if w.chance(dies) {
		w.kill(n, w.between(300*time.Millisecond, 5*time.Second))
	}
	w.cut(n)
}

// switchOff fences a machine for as long as the plan that rests on it is live.
func (w *world) switchOff(n *node) {
	w.tell("person   switches %s off", n.name)
	n.alive, n.leads, n.off = false, 0, true
	n.life++
	n.boot++
	n.clock.offset = w.bootOffset() - w.now
	n.effect.until = w.now
	var on func()
	on = func() {
		if _, _, live := w.head().LivePlan(theRole); live {
			w.after(time.Second, on)
			return
		}
		n.off = false
		w.start(n)
	}
	w.after(w.between(5*time.Second, time.Minute), on)
}

func (w *world) settings(s State) *Configure {
	c := &Configure{Was: s.Settings.Digest, Settings: s.Settings, Members: s.Members}
	c.Settings.Digest = fmt.Sprint("settings ", len(w.log))
	policy := w.policy
	if w.flips && w.chance(0.5) {
		policy = map[Policy]Policy{Hold: Demote, Demote: Hold}[policy]
	}
	c.Settings.Lease = w.timing
	if w.flips && w.chance(0.5) { // the margin stays: it covers the tail
		c.Settings.Lease.TTL += time.Duration(w.rng.Int64N(int64(w.timing.TTL)))
	}
	c.Settings.Roles = map[topology.Role]RoleSettings{theRole: {Initial: "us-east", Policy: policy}}
	return c
}

func (w *world) bootOffset() int64 { return int64(w.between(time.Minute, 1000*time.Hour)) }

// settle ends all faults: from now on a healthy fleet must do its work.
func (w *world) settle() {
	w.calm = true
	w.tell("calm     all faults end")
	for _, n := range w.nodes {
		n.deaf, n.mute = false, false
		n.pausedU = min(n.pausedU, w.now)
		if !n.alive && !n.off {
			w.start(n)
		}
	}
}
