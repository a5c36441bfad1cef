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
	dips    int    // a holder that acted turned inactive
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
type effect struct {
	until int64
	acts  int64 // until when the Holder itself answers "active"
}

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
		if n.effect.acts > 0 && n.effect.acts < w.now {
			w.dips++
		}
		if d, _ := n.holder.Deadline(""); d.Holds {
			if n.effect.until != forever {
				w.Held++
			}
			n.effect = effect{forever, forever}
		} else {
			n.effect.acts = n.clock.real(d.Deadline)
			n.effect.until = n.effect.acts + int64(w.tail)
		}
		w.moved = w.moved || v.Epoch > 1
	case n.effect.until > w.now+int64(w.tail):
		w.dips++
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
	w.leader = w.nodes[0] // until boot
	return w
}

// boot starts all daemons and lets one of them lead.
func (w *world) boot() {
	w.tell("scenario %+v", w.scenario)
	for _, n := range w.nodes {
		w.start(n)
		w.tell("machine  %s: clock %+d ppm", n.name, n.clock.ppm)
	}
	w.elections()
	w.heartbeat()
}

// runSchedule plays one schedule to its end, or to the first overlap.
func runSchedule(seed uint64, sc scenario, story func(string, ...any)) *world {
	w := newWorld(seed, sc)
	w.story = story
	w.boot()
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
	if b == ratesIgnored {
		sc.timing.ClockRatePPM = 100_000
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
	switch b { // a bug is looked for where it can show
	case timeOfRetriedAttempt:
		sc.weather, sc.impish = 1, false
	case promiseForgotten, ttlOfSettings:
		sc.flips = true
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
