package failover

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	us = topology.Region("us-east")
	eu = topology.Region("eu-west")

	there = consensus.LinkID("us-east>eu-west")
	back  = consensus.LinkID("eu-west>us-east")
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fleet is two regions and a witness around the real state. Its regions do
// what the daemon does: claim a task, bring its effect about, record it.
// Nothing in it decides; that is what is under test.
type fleet struct {
	state consensus.State
	now   time.Time
	rules Rules
	h     Health

	regions map[topology.Region]*region
	faults  map[string]*fault // by kind of step
	effects []effect          // in the order in which they came about
	broken  error             // the first promise that was broken
	words   map[string]bool   // the attempts whose word the log has taken

	// applied is told of each command, refused or not.
	applied func(by string, b consensus.Body, before consensus.State, err error)
}

type region struct {
	name topology.Region
	node topology.Node
	up   bool
	life int
	// begun are the attempts that this life works on or has worked on.
	begun map[string]bool
}

// fault makes the next tasks of a kind fail.
type fault struct {
	times int
	text  string
}

// effect is a mark that a region left on its systems.
type effect struct {
	plan    consensus.PlanID
	task    consensus.TaskID
	kind    string
	region  topology.Region
	attempt int
	life    int
}

type setup struct {
	policy  consensus.Policy
	auto    bool
	observe bool
	hooks   bool
	roles   []topology.Role
}

func newFleet(with setup) *fleet {
	f := &fleet{
		state: consensus.NewState(), now: start,
		regions: map[topology.Region]*region{
			us: {name: us, node: "us-east-1", up: true},
			eu: {name: eu, node: "eu-west-1", up: true},
		},
		faults:  map[string]*fault{},
		words:   map[string]bool{},
		applied: func(string, consensus.Body, consensus.State, error) {},
	}
	f.rules = Rules{
		Cluster: "sentry-test", Expires: 10 * time.Minute, Roles: map[topology.Role]RoleRules{},
		HeardWithin: 10 * time.Second, ProbeFailing: 10 * time.Second, Lease: consensus.DefaultLeaseTiming,
		ReachTimeout: time.Minute, LagMax: 30 * time.Second,
	}
	if len(with.roles) == 0 {
		with.roles = []topology.Role{topology.Ingestion, topology.Query}
	}
	settings := consensus.Settings{
		Digest: "c0ffee", Observe: with.observe, Lease: f.rules.Lease, Mirror: true, AntiFlap: 10 * time.Minute,
		Roles: map[topology.Role]consensus.RoleSettings{},
	}
	for _, name := range with.roles {
		settings.Roles[name] = consensus.RoleSettings{Initial: us, Auto: with.auto, Policy: cmp.Or(with.policy, consensus.Hold)}
		r := RoleRules{Quiesce: 5 * time.Second, FenceWithin: 90 * time.Second, AcceptLoss: 30 * time.Second, Stores: []string{"clickhouse"}}
		if name == topology.Ingestion {
			r.Stores = []string{"kafka"}
		}
		if with.hooks {
			r.Stop = Command{[]string{"stop-" + string(name)}, time.Minute}
			r.Start = Command{[]string{"start-" + string(name)}, time.Minute}
		}
		f.rules.Roles[name] = r
	}
	f.h = healthy()
	members := map[topology.Node]consensus.Member{"us-east-1": {Region: us}, "eu-west-1": {Region: eu}, "witness-1": {Witness: true}}
	observe := settings.Observe
	settings.Observe = false // nothing is granted under observe: begin as a fleet that once was active
	f.must(f.propose("operator", &consensus.Configure{Settings: settings, Members: members}))
	f.boot(us)
	f.boot(eu)
	for _, name := range with.roles {
		f.must(f.reclaim(us, name))
		f.must(f.renew(us, name))
		r := f.state.Roles[name]
		r.Phase = consensus.Open // a first grant opens by itself; say so plainly
		f.state.Roles[name] = r
	}
	if observe {
		settings.Observe = true
		f.must(f.propose("operator", &consensus.Configure{Settings: settings, Members: members, Was: settings.Digest}))
	}
	return f
}

// healthy is what a leader hears when all is well.
func healthy() Health {
	ok := func() RegionHealth {
		return RegionHealth{
			Heard:  time.Second,
			Stores: map[string]Check{"kafka": {true, "ok"}, "clickhouse": {true, "ok"}},
			Probes: map[topology.Node]Probe{},
		}
	}
	h := Health{Regions: map[topology.Region]RegionHealth{us: ok(), eu: ok()}, Links: map[consensus.LinkID]LinkHealth{}, Voters: 3, Members: 3}
	h.Regions[us].Probes["eu-west-1"], h.Regions[us].Probes["witness-1"] = Probe{Age: time.Second}, Probe{Age: time.Second}
	h.Regions[eu].Probes["us-east-1"], h.Regions[eu].Probes["witness-1"] = Probe{Age: time.Second}, Probe{Age: time.Second}
	h.Links[there] = mirrored()
	return h
}

func mirrored() LinkHealth {
	return LinkHealth{
		Heard: time.Second, Running: true, Records: 212, Seconds: 0.4, SourceSeen: time.Second, Rate: 500,
		Partitions: 4, Coverage: Coverage{Groups: 2, Covered: 2},
	}
}

func (f *fleet) must(err error) {
	if err != nil && f.broken == nil {
		f.broken = fmt.Errorf("set up a fleet: %w", err)
	}
}

// propose sends one command through the log: it is written, read and applied.
func (f *fleet) propose(by string, b consensus.Body) error {
	line, err := consensus.EncodeCommand(consensus.Command{At: f.now, By: by, Body: b})
	if err != nil {
		return err
	}
	c, err := consensus.DecodeCommand(line)
	if err != nil {
		return err
	}
	before := f.state
	next, err := before.Apply(c)
	if err != nil && !consensus.Refused(err) {
		f.broken = cmp.Or(f.broken, fmt.Errorf("%s halts the members: %w", c.Kind(), err))
		return err
	}
	f.state = next
	if f.broken == nil {
		f.broken = neverTwo(before, next, c.Body)
	}
	if err == nil && f.broken == nil {
		f.broken = f.oneWord(before, c.Body)
	}
	f.applied(by, c.Body, before, err)
	return err
}

// oneWord checks that the log takes one word for each attempt, and only for
// the one that is being worked on.
func (f *fleet) oneWord(before consensus.State, b consensus.Body) error {
	var id consensus.TaskID
	var attempt int
	switch c := b.(type) {
	case *consensus.FinishTask:
		id, attempt = c.Task, c.Attempt
	case *consensus.FailTask:
		id, attempt = c.Task, c.Attempt
	default:
		return nil
	}
	key := fmt.Sprintf("%s attempt %d", id, attempt)
	if now := before.Tasks[id].Attempt; now != attempt {
		return fmt.Errorf("%T speaks for %s, which is at attempt %d", b, key, now)
	}
	if f.words[key] {
		return fmt.Errorf("%T speaks a second time for %s", b, key)
	}
	f.words[key] = true
	return nil
}

// neverTwo checks one entry of the log against the first promise: a role
// moves between regions only through vacant, and with a new epoch.
func neverTwo(before, after consensus.State, c consensus.Body) error {
	for name, now := range after.Roles {
		was, known := before.Roles[name]
		if !known {
			continue
		}
		if now.Holder != "" && was.Holder != now.Holder && (was.Phase != consensus.Vacant || now.Epoch != was.Epoch+1) {
			return fmt.Errorf("%T moved %s from %s (%s, epoch %d) to %s at epoch %d", c, name, was.Holder, was.Phase, was.Epoch, now.Holder, now.Epoch)
		}
		l, mirrored := after.Links[consensus.LinkOf(us, eu)]
		r, reversed := after.Links[consensus.LinkOf(eu, us)]
		if name == topology.Ingestion {
			if mirrored && l.Phase == consensus.LinkRunning && now.Holder == eu || reversed && r.Phase == consensus.LinkRunning && now.Holder == us {
				return fmt.Errorf("%T lets a mirror write into %s, which holds ingestion", c, now.Holder)
			}
		}
		if mirrored && reversed && l.Phase != consensus.LinkEnded && r.Phase != consensus.LinkEnded {
			return fmt.Errorf("%T lets both directions mirror at once", c)
		}
	}
	for id, p := range before.Plans {
		next, kept := after.Plans[id]
		if kept && p.Phase == consensus.PlanGranted && (next.Phase == consensus.PlanAborting || next.Phase == consensus.PlanRolledBack || next.Phase == consensus.PlanRunning) {
			return fmt.Errorf("%T turned plan %s back after its grant", c, id)
		}
	}
	return nil
}

// boot begins a new life of a region's daemon.
func (f *fleet) boot(name topology.Region) {
	r := f.regions[name]
	r.up, r.life, r.begun = true, r.life+1, map[string]bool{}
	f.must(f.propose(string(name), &consensus.OpenSession{Node: r.node, Session: r.session(), Boot: "boot-1"}))
}

func (r *region) session() consensus.SessionID {
	return consensus.SessionID(fmt.Sprintf("%s.%d", r.node, r.life))
}

func (f *fleet) reclaim(at topology.Region, name topology.Role) error {
	r := f.regions[at]
	return f.propose(string(at), &consensus.Reclaim{Role: name, Node: r.node, Session: r.session(), Generation: f.state.Generation, Epoch: f.state.Roles[name].Epoch + 1})
}

func (f *fleet) renew(at topology.Region, name topology.Role) error {
	r, role := f.regions[at], f.state.Roles[name]
	nonce := role.Nonce + 1
	if role.Session != r.session() {
		nonce = 1
	}
	return f.propose(string(at), &consensus.Renew{
		Role: name, Node: r.node, Session: r.session(), Generation: f.state.Generation, Epoch: role.Epoch,
		Policy: f.state.Settings.Roles[name].Policy, TTL: f.state.Settings.Lease.TTL, Nonce: nonce,
	})
}

// renewals is what holders do all the time: renew, and ask for what they lost.
func (f *fleet) renewals() {
	for _, name := range sortedKeys(f.state.Roles) {
		for _, at := range []topology.Region{us, eu} {
			role := f.state.Roles[name]
			switch {
			case !f.regions[at].up:
			case role.Holder == at && role.Policy != f.state.Settings.Roles[name].Policy:
				_ = f.renew(at, name)
			case role.Phase == consensus.Vacant && role.Last.Holder == at:
				_ = f.reclaim(at, name)
			}
		}
	}
}

// expire counts out the leases of a region that is not there to renew them.
func (f *fleet) expire(at topology.Region) error {
	var errs []error
	for _, name := range sortedKeys(f.state.Roles) {
		if r := f.state.Roles[name]; r.Holder == at {
			errs = append(errs, f.propose("leader", &consensus.Expire{Role: name, Generation: f.state.Generation, Epoch: r.Epoch, Sequence: r.Sequence}))
		}
	}
	return errors.Join(errs...)
}

// run starts a candidate as the leader does.
func (f *fleet) run(id consensus.PlanID, c Candidate, by string) error {
	return f.propose(by, &consensus.CreatePlan{ID: id, Plan: c.Plan, Supersedes: c.Supersedes})
}

// lead is one round of a leader that sees the state as it is.
func (f *fleet) lead() bool {
	moved := false
	for _, id := range sortedKeys(f.state.Plans) {
		for _, b := range Next(f.now, id, f.state) {
			if f.propose("leader", b) == nil {
				moved = true
			}
		}
	}
	return moved
}

// claim takes a task for the region's present life, each attempt once.
func (f *fleet) claim(id consensus.TaskID) bool {
	t := f.state.Tasks[id]
	r := f.regions[t.Region]
	key := fmt.Sprintf("%s#%d", id, t.Attempt)
	if !r.up || r.begun[key] {
		return false
	}
	r.begun[key] = true
	return f.propose(string(t.Region), &consensus.ClaimTask{Task: id, Attempt: t.Attempt, Node: r.node, Session: r.session()}) == nil
}

// do brings the effect of a task about, as its runner would: each first looks
// whether it is there already.
func (f *fleet) do(id consensus.TaskID) (json.RawMessage, error) {
	t := f.state.Tasks[id]
	p := f.state.Plans[t.Ref.Plan]
	r := f.regions[t.Region]
	if fault := f.faults[t.Kind]; fault != nil && fault.times > 0 {
		fault.times--
		return nil, errors.New(fault.text)
	}
	switch t.Kind {
	case KindQuiesce, KindFenceWait:
		var w WaitSpec
		_ = json.Unmarshal(t.Spec, &w)
		f.now = f.now.Add(w.Wait)
	case KindRelease:
		for _, name := range p.Roles {
			role := f.state.Roles[name]
			if role.Node != r.node {
				continue // it is gone already
			}
			if err := f.propose(string(r.name), &consensus.Release{Role: name, Node: r.node, Generation: f.state.Generation, Epoch: role.Epoch}); err != nil {
				return nil, err
			}
		}
	case KindMirrorStop:
		var spec LinkSpec
		_ = json.Unmarshal(t.Spec, &spec)
		if l := f.state.Links[spec.Link]; l.Phase != consensus.LinkEnded {
			ends := consensus.Offsets{"events": {0: 1000, 1: 1000}}
			_ = f.propose(string(r.name), &consensus.EndLink{Link: spec.Link, Epoch: l.Epoch, Ends: ends, SourceEnds: ends})
		}
	case KindMirrorFence:
		var spec LinkSpec
		_ = json.Unmarshal(t.Spec, &spec)
		l := f.state.Links[spec.Link]
		if l.Phase != consensus.LinkEnded || p.Phase != consensus.PlanGranted {
			f.broken = cmp.Or(f.broken, fmt.Errorf("link %s was fenced while it is %s and the plan %s: no way back for a plan that may turn back", spec.Link, l.Phase, p.Phase))
		}
		ends := consensus.Offsets{"events": {0: 1000, 1: 1000}}
		if err := f.propose(string(r.name), &consensus.FenceLink{Link: spec.Link, Epoch: l.Epoch, Ends: ends, Leaps: consensus.Offsets{"events": {0: 1003, 1: 1003}}}); err != nil {
			return nil, err
		}
	case KindMirrorLeap:
		var spec LinkSpec
		_ = json.Unmarshal(t.Spec, &spec)
		l := f.state.Links[spec.Link]
		if err := f.propose(string(r.name), &consensus.FenceLink{Link: spec.Link, Epoch: l.Epoch, Began: consensus.Offsets{"events": {0: 1300, 1: 1300}}}); err != nil {
			return nil, err
		}
	case KindGroupsWrite:
		var spec LinkSpec
		_ = json.Unmarshal(t.Spec, &spec)
		if f.state.Links[spec.Link].Phase != consensus.LinkEnded {
			return nil, fmt.Errorf("link %s has not ended", spec.Link)
		}
		fallthrough
	case KindExecStart, KindExecCanary, KindCanary:
		if t.Ref.Undo == 0 {
			for _, name := range p.Roles {
				if at := f.state.Roles[name].Holder; at != "" && at != t.Region {
					f.broken = cmp.Or(f.broken, fmt.Errorf("%s ran in %s while %s was held by %s", t.Kind, t.Region, name, at))
				}
			}
		}
	}
	f.effects = append(f.effects, effect{t.Ref.Plan, id, t.Kind, t.Region, t.Attempt, r.life})
	return json.RawMessage(`{"by":"` + string(t.Region) + `"}`), nil
}

// finish records what became of a task.
func (f *fleet) finish(id consensus.TaskID, t consensus.Task, evidence json.RawMessage, failed error) error {
	r := f.regions[t.Region]
	if failed != nil {
		return f.propose(string(t.Region), &consensus.FailTask{Task: id, Attempt: t.Attempt, Session: r.session(), Error: failed.Error()})
	}
	return f.propose(string(t.Region), &consensus.FinishTask{Task: id, Attempt: t.Attempt, Session: r.session(), Evidence: evidence})
}

// work lets every region that is up carry out its tasks.
func (f *fleet) work() bool {
	moved := false
	for _, id := range sortedKeys(f.state.Tasks) {
		if !f.claim(id) {
			continue
		}
		t := f.state.Tasks[id]
		evidence, err := f.do(id)
		if f.finish(id, t, evidence, err) == nil {
			moved = true
		}
	}
	return moved
}

// roundsMax is more rounds than the longest plan with all its retries takes.
const roundsMax = 200

// settle lets leader and regions go on until nothing moves. It returns the
// number of rounds.
func (f *fleet) settle() int {
	for n := range roundsMax {
		f.renewals()
		led := f.lead()
		worked := f.work()
		if !led && !worked {
			return n
		}
	}
	return roundsMax
}

// waits says what the fleet waits for, in one sentence; "" when no plan is live.
func (f *fleet) waits() string {
	var out []string
	for _, id := range sortedKeys(f.state.Plans) {
		p := f.state.Plans[id]
		if !p.Phase.Live() {
			continue
		}
		switch why := Stuck(id, f.state); {
		case why != "":
			out = append(out, "a person: "+why)
		default:
			for _, task := range sortedKeys(f.state.Tasks) {
				if t := f.state.Tasks[task]; t.Ref.Plan == id {
					s, _ := p.At(t.Ref)
					out = append(out, string(t.Region)+", which is away, to "+s.Title)
				}
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
