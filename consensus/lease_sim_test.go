package consensus

// A simulator of leases. It runs the product's own Holder, Watch, Deadline and
// State.Apply in a world of three machines with bad clocks, a slow network and
// worse luck, and judges what it sees by the effects alone.
//
// # The world
//
// Real time is an int64 of nanoseconds that only the simulator knows. Each
// machine reads a clock of its own: a random offset, and a rate at or within
// the bounds of LeaseTiming.ClockRatePPM. The log is one list of States; a
// command is applied, one at a time, if its proposer reaches the leader and
// the leader reaches a majority. Everything between takes a random time with
// a heavy tail (longer than the margin, longer than the TTL), gets lost, or
// comes twice. Machines are cut off in one or both directions, daemons are
// killed or paused, leaders change, settings change, roles are moved by plan.
//
// # What is judged
//
// The effect of a region is on from the moment its Holder answers "active"
// until it is inactive and a tail has passed: what a balancer needs to notice
// and a process to end. A daemon that is dead or paused tells nobody, so its
// effect goes on to the last deadline it told. Two regions' effects must never
// overlap in real time. A schedule that shows no progress fails, too.
//
// # How to read and replay
//
// A schedule is a pure function of its number. When one fails, the test says
//
//	HOLDFAST_SEED=4711 HOLDFAST_SCHEDULES=1 go test ./consensus -run TestLease_TwoRegionsNeverAct -v
//
// which runs it again, and prints the last minutes of its story.
//
// # Seeded bugs
//
// A bug is a change of the plumbing here, never a hook in the product. Each
// must be found by the same checker, or the checker is worth nothing.

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// bug names a mistake that a daemon around this package could make.
type bug string

const (
	noBug                  bug = ""
	noMargin               bug = "no margin"
	noCompareOnExpire      bug = "no compare-and-set on expiry"
	leaseKeptAcrossLeaders bug = "lease kept across a new leader"
	timeOfRetriedAttempt   bug = "time taken from a retried attempt"
	replayArms             bug = "replaying the log arms a lease"
	releaseBeforeGiveUp    bug = "released before giving up"
	giveUpForgotten        bug = "giving up is not kept on disk"
	promiseForgotten       bug = "the promise to demote is not kept on disk"
	ratesIgnored           bug = "the leader's count ignores the rates of clocks"
	ttlOfSettings          bug = "the leader counts by new settings, the holder acts by old ones"
)

const (
	theRole  = topology.Ingestion
	forever  = math.MaxInt64
	simFault = 6 * time.Minute   // of faults, in each schedule
	simCalm  = 150 * time.Second // of healing, in which the role must move once more if it never did
)

// scenario is what is fixed during one schedule.
type scenario struct {
	timing  LeaseTiming
	policy  Policy
	flips   bool          // the settings change now and then: policy and TTL
	tail    time.Duration // real time, margin·(1-ρ) at most
	weather float64       // 0 is a good network, 1 is a terrible one
	impish  bool          // a lost answer is reported as "not accepted"
	bug     bug
}

// figures are what a schedule did.
type figures struct {
	Grants, Renewals, Expiries, Held int
}

// world is one schedule.
type world struct {
	scenario
	rng    *rand.Rand
	now    int64
	end    int64
	calm   bool
	queue  events
	order  uint64
	log    []State // every state there was; Apply never changes one
	nodes  []*node
	leader *node
	term   uint64
	plans  int
	figures
	moved   bool   // someone became active in a later epoch than the first
	verdict string // the first overlap, in words
	story   func(format string, a ...any)
}

// event is something that happens at a real time. Ties go by order of creation.
type event struct {
	at    int64
	order uint64
	do    func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + int64(max(d, 0)), w.order, do})
}

func (w *world) run(until int64) {
	for len(w.queue) > 0 && w.queue[0].at <= until && w.verdict == "" {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, until)
}

// skewed is a clock: it reads offset at real time 0, and is ppm too fast.
type skewed struct{ offset, ppm int64 }

func (c skewed) at(real int64) clock.Instant {
	return clock.Instant(c.offset + real + real*c.ppm/1_000_000)
}

// real returns the first real time at which the clock reads i or later.
func (c skewed) real(i clock.Instant) int64 {
	guess := int64(float64(int64(i)-c.offset) / (1 + float64(c.ppm)/1e6))
	for c.at(guess) >= i {
		guess -= 1000
	}
	for step := int64(1 << 20); step > 0; step /= 2 { // the largest time still before i
		for c.at(guess+step) < i {
			guess += step
		}
	}
	return guess + 1
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// between returns a duration between two, mostly a short one.
func (w *world) between(a, b time.Duration) time.Duration {
	return time.Duration(float64(a) * math.Pow(float64(b)/float64(a), w.rng.Float64()))
}

// delay is what a message takes: tens of milliseconds, and rarely longer than
// the margin or the TTL.
func (w *world) delay() time.Duration {
	d := w.between(5*time.Millisecond, 120*time.Millisecond)
	if w.calm {
		return d
	}
	switch p := w.rng.Float64() / (w.weather + 1e-9); {
	case p < 0.02:
		d += w.between(5*time.Second, 40*time.Second)
	case p < 0.06:
		d += w.between(time.Second, 8*time.Second)
	case p < 0.15:
		d += w.between(100*time.Millisecond, 2*time.Second)
	}
	return d
}

func (w *world) lost() bool { return !w.calm && w.chance(0.05*w.weather) }

// node is a machine and its daemon.
type node struct {
	name   topology.Node
	region topology.Region // "" for the witness
	clock  skewed
	boot   int

	// The machine.
	off        bool     // fenced by a person
	deaf, mute bool     // cut off, in one direction or both
	disk       Deadline // survives the daemon, not the clock that it was read from
	hasDisk    bool
	view       int // index of the newest state that was applied here; survives
	effect     effect

	// The daemon; its events carry the life they belong to.
	life    int
	alive   bool
	pausedU int64 // paused until then
	session SessionID
	known   bool // the session is open
	knownAt int  // since this index of the log, at the latest
	holder  Holder
	nonce   Nonce
	leaving bool // a release is under way
	catches bool // a catch-up is under way
	asking  bool // a reclaim is under way

	// The leader.
	leads uint64 // the term that this daemon believes to lead; 0 if none
	watch Watch
	busy  int64 // the controller waits for an answer until then
}

// effect is what the world sees of a region: on until a real time.
type effect struct{ until int64 }

func (n *node) paused(now int64) bool { return n.pausedU > now }

// on runs do in the daemon's present life after d; a paused daemon runs it
// when it wakes up.
func (w *world) on(n *node, d time.Duration, do func()) {
	life := n.life
	var fire func()
	fire = func() {
		switch {
		case !n.alive || n.life != life:
		case n.paused(w.now):
			w.after(time.Duration(n.pausedU-w.now)+w.between(time.Microsecond, 100*time.Millisecond), fire)
		default:
			do()
		}
	}
	w.after(d, fire)
}

// local converts a duration that n waits by its own clock, rounded up.
func (n *node) local(d time.Duration) time.Duration {
	return time.Duration(float64(d)/(1+float64(n.clock.ppm)/1e6)) + 2
}

func (w *world) state(n *node) State { return w.log[n.view] }
func (w *world) head() State         { return w.log[len(w.log)-1] }
func (w *world) wall() time.Time     { return time.Unix(1_800_000_000, w.now).UTC() }

func (w *world) tell(format string, a ...any) {
	if w.story != nil {
		w.story("%9.3f "+format, append([]any{float64(w.now) / 1e9}, a...)...)
	}
}

// reaches says whether a message from a gets to b now.
func (w *world) reaches(a, b *node) bool {
	return a == b || !a.mute && !b.deaf && a.alive && b.alive
}

// works says whether n could lead: it talks both ways with a majority.
func (w *world) works(n *node) bool {
	if !n.alive || n.paused(w.now) {
		return false
	}
	reach := 0
	for _, m := range w.nodes {
		if m == n || m.alive && !m.paused(w.now) && w.reaches(n, m) && w.reaches(m, n) {
			reach++
		}
	}
	return reach >= 2
}

// led says whether commands can be applied now. A leader that restarted leads
// no more, until it is elected again.
func (w *world) led() bool { return w.leader.leads == w.term && w.works(w.leader) }

// propose sends a command towards the log. done is told what Apply said, if
// the answer finds its way back into the same life of the daemon.
func (w *world) propose(n *node, body Body, done func(accepted bool)) {
	if !w.reaches(n, w.leader) || w.lost() {
		return
	}
	times := 1
	if !w.calm && w.chance(0.03*w.weather) {
		times = 2
	}
	life := n.life
	for range times {
		w.after(w.delay(), func() { w.commit(n, life, body, done, 3) })
	}
}

func (w *world) commit(n *node, life int, body Body, done func(bool), tries int) {
	if !w.led() {
		if tries > 0 && w.chance(0.5) { // it was replicated, and the next leader finds it
			w.after(w.between(500*time.Millisecond, 6*time.Second), func() { w.commit(n, life, body, done, tries-1) })
		}
		return
	}
	if e, ok := body.(*Expire); ok && w.bug == noCompareOnExpire {
		r := w.head().Roles[theRole]
		body = &Expire{Role: e.Role, Generation: e.Generation, Epoch: r.Epoch, Sequence: r.Sequence}
	}
	before := w.head()
	next, err := before.Apply(Command{At: w.wall(), By: string(n.name), Body: body})
	if err == nil {
		w.log = append(w.log, next)
		w.count(body, before, next)
		for _, m := range w.nodes {
			w.catchUp(m)
		}
	}
	if w.story != nil {
		w.storyOf(n, body, err)
	}
	if done == nil || w.lost() {
		return
	}
	survives := w.chance(0.5) // a cut that comes while the answer is in flight
	w.after(w.delay(), func() {
		if n.life == life && (survives || w.reaches(w.leader, n)) {
			w.on(n, 0, func() { done(err == nil) })
		}
	})
}

func (w *world) count(body Body, before, next State) {
	switch body.(type) {
	case *Renew:
		w.Renewals++
	case *Expire:
		w.Expiries++
	}
	if next.Roles[theRole].Epoch > before.Roles[theRole].Epoch {
		w.Grants++
	}
}

func (w *world) storyOf(n *node, body Body, err error) {
	r := w.head().Roles[theRole]
	if err != nil {
		w.tell("log      %s of %s refused: %v", body.kind(), n.name, err)
		return
	}
	w.tell("log      %s of %s: %s, epoch %d, sequence %d, policy %s", body.kind(), n.name, r.describe(), r.Epoch, r.Sequence, r.Policy)
}

// catchUp brings the newest state to n, if it can be reached.
func (w *world) catchUp(n *node) {
	if n.catches || !n.alive {
		return
	}
	n.catches = true
	d := w.between(time.Millisecond, 5*time.Millisecond)
	if n != w.leader {
		d = w.delay()
	}
	w.on(n, d, func() {
		n.catches = false
		if !w.reaches(w.leader, n) {
			return
		}
		to := len(w.log) - 1
		if to-n.view > 3 && w.chance(0.3) { // a log is applied entry by entry
			to = n.view + 1 + w.rng.IntN(to-n.view)
			w.catchUp(n)
		}
		w.see(n, to)
	})
}

// see applies the log up to an index.
func (w *world) see(n *node, index int) {
	n.view = index
	if n.region == "" {
		return
	}
	s := w.state(n)
	r := s.Roles[theRole]
	if n.known && index >= n.knownAt && s.Sessions[n.name].ID != n.session {
		w.tell("machine  %s lost its session", n.name)
		w.start(n)
		return
	}
	n.holder = n.holder.Observe(s.Generation, r, w.timingOf(s))
	if w.bug == replayArms && r.Node == n.name && n.nonce == 0 {
		if h, renew, ok := n.holder.Attempt(n.clock.at(w.now), 1, Demote); ok {
			n.holder = h.Result(renew.Nonce, true)
		}
	}
	w.drained(n)
	w.refresh(n)
}

func (w *world) timingOf(s State) LeaseTiming {
	t := s.Settings.Lease
	if w.bug == noMargin {
		t.Margin = 1
	}
	return t
}

// refresh looks at the Holder as everyone does who is about to act.
func (w *world) refresh(n *node) {
	v := n.holder.At(n.clock.at(w.now))
	switch {
	case v.Active:
		if n.effect.until <= w.now {
			w.tell("effect   %s is on, epoch %d", n.name, v.Epoch)
		}
		if d, _ := n.holder.Deadline(""); d.Holds {
			if n.effect.until != forever {
				w.Held++
			}
			n.effect.until = forever
		} else {
			n.effect.until = n.clock.real(d.Deadline) + int64(w.tail)
		}
		w.moved = w.moved || v.Epoch > 1
	case n.effect.until > w.now+int64(w.tail):
		w.tell("effect   %s turns off: %s", n.name, v.Why)
		n.effect.until = w.now + int64(w.tail)
	}
	if !v.Active {
		return
	}
	for _, m := range w.nodes {
		if m != n && m.effect.until > w.now && w.verdict == "" {
			w.verdict = fmt.Sprintf("at %.3f s %s acts at epoch %d while the effect of %s lasts until %.3f s",
				float64(w.now)/1e9, n.name, v.Epoch, m.name, float64(min(m.effect.until, w.end))/1e9)
			w.tell("OVERLAP  %s", w.verdict)
		}
	}
}

// keep writes what a restart may rely on. See Deadline for when.
func (w *world) keep(n *node) {
	if d, ok := n.holder.Deadline(n.bootID()); ok {
		n.disk, n.hasDisk = d, true
	}
	w.refresh(n)
}

func (n *node) bootID() string { return fmt.Sprintf("%s boot %d", n.name, n.boot) }

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
		w.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() { w.vanish(n) })
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
		if w.impish && w.bug != timeOfRetriedAttempt {
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
			body = w.plan(s, Planned, w.named(r.Node), Step{Kind: StepOpen})
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

// elect makes n the leader of a new term. The old one does not know yet.
func (w *world) elect(n *node) {
	old := w.leader
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

// govern replaces a leader that lost its majority, after an election.
func (w *world) govern() {
	w.after(w.between(200*time.Millisecond, 2*time.Second), w.govern)
	for _, n := range w.nodes { // heartbeats bring what was missed
		if n.view < len(w.log)-1 {
			w.catchUp(n)
		}
	}
	if w.led() || !w.calm && w.chance(0.5) {
		return
	}
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
			w.vanish(n)
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
			w.after(w.between(20*time.Millisecond, 2*time.Second), func() { w.vanish(holder) })
		}
	}
}

// vanish cuts a machine off; its daemon may die, and return before the network does.
func (w *world) vanish(n *node) {
	if w.calm {
		return
	}
	if w.chance(0.5) {
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

// newWorld prepares a schedule: machines, clocks, a cluster that is configured.
func newWorld(seed uint64, sc scenario) *world {
	w := &world{scenario: sc, rng: rand.New(rand.NewPCG(seed, 0x1ea5e)), end: int64(simFault + simCalm)}
	rho := sc.timing.ClockRatePPM
	members := map[topology.Node]Member{}
	for _, n := range []*node{
		{name: "us-east-1", region: "us-east"}, {name: "eu-west-1", region: "eu-west"}, {name: "witness-1"},
	} {
		n.clock = skewed{w.bootOffset(), rho}
		switch w.rng.IntN(3) {
		case 0:
			n.clock.ppm = -rho
		case 1:
			n.clock.ppm = w.rng.Int64N(2*rho+1) - rho
		}
		w.nodes = append(w.nodes, n)
		members[n.name] = Member{Region: n.region, Witness: n.region == ""}
	}
	s := NewState()
	s.Members = members
	s, err := s.Apply(Command{At: w.wall(), By: "test", Body: w.settings(s)})
	if err != nil {
		panic(err)
	}
	w.log = []State{s}
	w.elect(w.nodes[w.rng.IntN(3)])
	return w
}

// runSchedule plays one schedule to its end, or to the first overlap.
func runSchedule(seed uint64, sc scenario, story func(string, ...any)) *world {
	w := newWorld(seed, sc)
	w.story = story
	w.tell("scenario %+v", sc)
	for _, n := range w.nodes {
		w.start(n)
		w.tell("machine  %s: clock %+d ppm", n.name, n.clock.ppm)
	}
	w.leader.leads = w.term
	w.tick(w.leader)
	w.govern()
	w.trouble()
	w.run(int64(simFault))
	if w.verdict != "" {
		return w
	}
	w.settle()
	w.run(int64(simFault + simCalm/2))
	if w.verdict == "" && !w.moved {
		w.operate(true) // nothing ever moved: show that it can
	}
	w.run(w.end)
	return w
}

// progress says what a schedule failed to do, or "".
func (w *world) progress() string {
	active := 0
	for _, n := range w.nodes {
		if n.region != "" && n.holder.At(n.clock.at(w.now)).Active {
			active++
		}
	}
	switch {
	case active != 1:
		return fmt.Sprintf("%d regions are active after %s of calm", active, simCalm)
	case w.Grants < 2 || !w.moved:
		return fmt.Sprintf("no grant after the first (%d in all)", w.Grants)
	case w.Renewals < 10:
		return fmt.Sprintf("%d renewals only", w.Renewals)
	}
	return ""
}

// scenarioOf draws what a schedule is about from its number.
func scenarioOf(seed uint64, b bug) scenario {
	rng := rand.New(rand.NewPCG(seed, 0x5ce0))
	sc := scenario{timing: DefaultLeaseTiming, policy: Demote, weather: rng.Float64(), impish: rng.IntN(2) == 0, bug: b}
	switch rng.IntN(10) {
	case 0, 1: // clocks that are as bad as the configuration may allow for
		sc.timing.ClockRatePPM = 100_000
	case 2, 3: // short, with nothing to spare
		sc.timing = LeaseTiming{TTL: 6 * time.Second, Renew: 800 * time.Millisecond, AttemptTimeout: 500 * time.Millisecond,
			Margin: 2 * time.Second, ClockRatePPM: rng.Int64N(20_000)}
	}
	switch rng.IntN(8) {
	case 0:
		sc.policy = Hold
	case 1:
		sc.policy, sc.flips = Hold, true
	case 2, 3:
		sc.flips = true
	}
	tailMax := float64(sc.timing.Margin) * (1 - float64(sc.timing.ClockRatePPM)/1e6)
	sc.tail = time.Duration(tailMax)
	if rng.IntN(3) == 0 {
		sc.tail = time.Duration(rng.Float64() * tailMax)
	}
	return sc
}

// tellStory plays a schedule again and returns the last lines of its story.
func tellStory(seed uint64, b bug) string {
	const keep = 120
	var lines []string
	runSchedule(seed, scenarioOf(seed, b), func(format string, a ...any) {
		lines = append(lines, fmt.Sprintf(format, a...))
	})
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}
