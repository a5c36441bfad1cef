package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Bounds of the owner's work.
const (
	looksMax        = 8                      // looks at the same time
	lookPartitions  = 200                    // partitions in one look
	appendLanes     = 2                      // append requests per target broker
	appendBytes     = 4 << 20                // per request, unless one batch is larger
	fetchPartitions = 500                    // partitions in one fetch
	statusEvery     = 250 * time.Millisecond // how fresh Status is
	settleTimeout   = 3 * time.Second        // for reading ends after the last append
	missingMax      = 3                      // refreshes without a topic before it counts as deleted
	sleptMin        = 2 * time.Second        // a step of the loop that took longer was a pause
)

// part is one partition with what its machine wants and has not got yet.
type part struct {
	m          replicate.Partition
	from       replicate.TopicID // at the source
	look       *wantedLook
	lookAt     time.Time
	fetch      *replicate.Fetch
	fetchAt    time.Time
	append     *replicate.Append
	together   int       // of its batches, how many go as one; 0: not looked at yet
	plainUntil time.Time // no batches are joined until then
	mark       *replicate.MarkHole
	markAt     time.Time
	trim       *replicate.Trim
	leaseAbove *replicate.Generation // asks for a generation above this one
	policy     replicate.Policy
	turn       uint64 // when it was last served, for fairness
	epoch      int32  // the target's leader epoch at the last look
	missing    [2]int // refreshes without the topic at source, target
	lostEnd    int64  // end of the last write without an answer, 0: none
	lostUntil  time.Time
	seenAsked  time.Time // when the source end was asked for, beside fetches
	frozenSaid bool
	forecast   replicate.Forecast
}

// wantedLook is a Look, or a LookTarget.
type wantedLook struct {
	gen        uint32
	targetOnly bool
}

// loop owns all partitions. Only its goroutine touches its fields; the rest of
// the mirror hands it functions to run.
type loop struct {
	*Mirror
	tail     *kafka.Client // for fetches that wait
	events   chan func()
	work     sync.WaitGroup
	reads    context.Context // ends when the mirror is told to stop
	appends  context.Context // outlives it
	parts    map[topology.Partition]*part
	source   *view
	target   *view
	findings map[string][]replicate.Finding // by who found them
	throttle throttle                       // bytes of the whole link
	records  throttle                       // and its records
	brakes   map[string]*brakes             // of topics

	looking   int
	fetching  map[laneKey]bool
	appending map[int32]int // by target broker
	marking   map[int32]int // marker requests, by target broker
	inFlight  int           // append requests
	joinCost  mean          // of joining batches, per byte
	turnCost  mean          // of an append, from when it is sent to its answer
	lease     lease
	queued    int           // bytes in the machines' queues
	asks      map[int32]ask // by source broker
	reserved  int           // bytes that outstanding fetches may bring
	turn      uint64
	stopping  bool
	policies  map[string]replicate.Policy
	wake      time.Time // earliest time at which something becomes due
	refresh   chan struct{}
}

// laneKey is one connection for fetches: a source broker, waiting or not.
type laneKey struct {
	node int32
	tail bool
}

func newLoop(m *Mirror, tail *kafka.Client) *loop {
	return &loop{
		Mirror: m, tail: tail, events: make(chan func(), 64),
		parts: map[topology.Partition]*part{}, findings: map[string][]replicate.Finding{},
		throttle: throttle{rate: m.conf.Rate}, records: throttle{rate: m.conf.RecordRate}, brakes: map[string]*brakes{},
		fetching: map[laneKey]bool{}, asks: map[int32]ask{}, appending: map[int32]int{}, marking: map[int32]int{}, policies: map[string]replicate.Policy{}, refresh: make(chan struct{}, 1),
	}
}

// run is the owner. It ends when ctx has ended, every append was answered or
// timed out, and every goroutine it started is gone.
func (l *loop) run(ctx context.Context) error {
	reads, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.reads, l.appends = reads, context.WithoutCancel(ctx)
	l.work.Go(func() { l.keep(reads, cancel) })
	if l.conf.Groups != nil {
		l.work.Go(func() { l.keepGroups(reads) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := reads.Done()
	var gone chan struct{} // closed when all goroutines are gone, after stopping
	published := time.Time{}
	last := time.Now()
	for {
		now := time.Now()
		l.wokeUp(last, now)
		for _, do := range l.takeOrders() {
			do(l)
		}
		l.dispatch(now)
		if now.Sub(published) >= statusEvery {
			l.publish(now, true)
			published = now
			l.due(now, statusEvery)
		}
		timer.Reset(min(max(0, l.wake.Sub(now)), statusEvery))
		last = time.Now()
		select {
		case do := <-l.events:
			do()
			for range len(l.events) { // what came meanwhile, before sending again
				(<-l.events)()
			}
		case <-timer.C:
		case <-l.nudge:
		case <-done:
			done, l.stopping = nil, true
			gone = make(chan struct{})
			go func() { l.work.Wait(); close(gone) }()
		case <-gone:
			for len(l.events) > 0 {
				(<-l.events)()
			}
			err := l.settle()
			l.publish(time.Now(), false)
			if cause := context.Cause(reads); err == nil && ctx.Err() == nil && cause != nil {
				err = cause // the keeper found that the link can never work
			}
			return err
		}
	}
}

// wokeUp notices that the machine or the process was paused. Time that was
// slept does not count on the monotonic clock, so the wall clock is compared.
// After a pause, what is known of the target is old: look before writing.
func (l *loop) wokeUp(last, now time.Time) {
	if pause := now.Round(0).Sub(last.Round(0)); pause > max(sleptMin, l.conf.RequestTimeout/2) {
		l.log.Warn("the mirror was paused; reading all ends again", "pause", pause.Round(time.Millisecond))
		for _, p := range l.parts {
			l.unsent(p, "the mirror was paused")
			l.apply(p, replicate.TargetMoved{})
		}
	}
}

// unsent answers the write that a partition wants and that must not go out any
// more: what it was chosen for is gone.
func (l *loop) unsent(p *part, why string) {
	if p.append != nil {
		p.append = nil
		l.apply(p, replicate.Appended{Answer: replicate.AppendRetry, Why: why})
	}
	if p.mark != nil {
		p.mark = nil
		l.apply(p, replicate.Marked{Answer: replicate.AppendRetry, Why: why})
	}
}

// apply gives one event to a partition and notes what it wants now.
func (l *loop) apply(p *part, ev replicate.Event) {
	before := p.m.Queued()
	was, changes := p.m.State, len(p.m.History)
	m, acts := p.m.Next(ev)
	p.m = m
	l.queued += m.Queued() - before
	l.take(p, acts)
	if m.State != was && len(m.History) > 0 && changes > 0 {
		l.tell(m.History[len(m.History)-1], m)
	}
	if m.State == replicate.Frozen && !p.frozenSaid {
		l.log.Warn("partition frozen", "partition", m.ID.String(), "reason", string(m.Freeze.Reason), "from", m.Freeze.From, "to", m.Freeze.To, "detail", m.Freeze.Detail, "next", m.Freeze.NextStep(l.conf.Link.Target, m.ID))
	}
	p.frozenSaid = m.State == replicate.Frozen
	if p.frozenSaid || m.State == replicate.Promoted {
		p.look, p.fetch, p.leaseAbove = nil, nil, nil
	}
}

// tell logs a change of state. What changes with every hole is for debugging.
func (l *loop) tell(t replicate.Transition, m replicate.Partition) {
	level := slog.LevelDebug
	if t.To == replicate.Seeding || t.From == replicate.Seeding || t.To == replicate.Promoted {
		level = slog.LevelInfo
	}
	l.log.Log(context.Background(), level, "partition", "partition", m.ID.String(), "was", string(t.From), "is", string(t.To), "end", m.End, "why", t.Why)
}

func (l *loop) take(p *part, acts []replicate.Action) {
	now := time.Now()
	for _, act := range acts {
		switch act := act.(type) {
		case replicate.Look:
			p.look, p.fetch = &wantedLook{gen: act.Gen}, nil
			p.lookAt = now.Add(jitter(act.After))
		case replicate.LookTarget:
			p.look = &wantedLook{gen: act.Gen, targetOnly: true}
			p.lookAt = now.Add(jitter(act.After))
		case replicate.Fetch:
			p.fetch = &act
			p.fetchAt = now.Add(jitter(act.After))
		case replicate.Append:
			p.append, p.together = &act, 0
		case replicate.MarkHole:
			p.mark = &act
			p.markAt = now.Add(jitter(act.After))
		case replicate.Trim:
			p.trim = &act
		case replicate.Lease:
			p.leaseAbove = &act.Above
		}
	}
}

// jitter spreads retries by up to a fifth.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + time.Duration(rand.Int64N(int64(d)/5+1))
}

// due notes when the owner must look again.
func (l *loop) due(now time.Time, after time.Duration) {
	if at := now.Add(after); at.Before(l.wake) {
		l.wake = at
	}
}

// dispatch sends what can be sent now.
func (l *loop) dispatch(now time.Time) {
	l.wake = now.Add(statusEvery)
	if l.stopping {
		// Appends that were not sent are answered here: nothing went out.
		for _, p := range l.parts {
			l.unsent(p, "stopping")
		}
		return
	}
	l.dispatchLease(now)
	l.dispatchAppends(now)
	l.dispatchMarks(now)
	l.dispatchTrims()
	l.dispatchLooks(now)
	l.dispatchFetches(now)
	l.dispatchSeen(now)
}

// byTurn returns the partitions that want something, longest unserved first.
func (l *loop) byTurn(wants func(*part) bool) []*part {
	var out []*part
	for _, p := range l.parts {
		if wants(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *part) int {
		if a.turn != b.turn {
			return int(int64(a.turn) - int64(b.turn))
		}
		return a.m.ID.Compare(b.m.ID)
	})
	return out
}

// home returns where the partition is led, or why that is not known.
func home(v *view, p *part, side string) (int32, spot, error) {
	t, at, ok := v.part(p.m.ID)
	want := p.m.Run.Topic
	if side == "source" {
		want = p.from
	}
	switch {
	case !ok:
		return 0, spot{}, fmt.Errorf("the %s has no such partition (now)", side)
	case t.id != want:
		return 0, spot{}, fmt.Errorf("the %s topic is another one now", side)
	case at.leader < 0:
		return 0, spot{}, fmt.Errorf("the %s partition has no leader", side)
	}
	return at.leader, spot{Partition: p.m.ID, id: t.id, epoch: at.epoch, thin: at.thin}, nil
}

// dispatchLooks starts looks, grouped by the two brokers they ask.
func (l *loop) dispatchLooks(now time.Time) {
	type pair struct{ from, to int32 }
	groups := map[pair][]lookItem{}
	var order []pair
	for _, p := range l.byTurn(func(p *part) bool { return p.look != nil }) {
		if wait := p.lookAt.Sub(now); wait > 0 {
			l.due(now, wait)
			continue
		}
		fromNode, from, err := int32(-1), spot{}, error(nil)
		if !p.look.targetOnly {
			fromNode, from, err = home(l.source, p, "source")
		}
		toNode, to, err2 := home(l.target, p, "target")
		if err = errors.Join(err, err2); err != nil {
			l.wantRefresh()
			gen := p.look.gen
			p.look = nil
			l.apply(p, replicate.LookFailed{Gen: gen, Why: err.Error()})
			continue
		}
		key := pair{fromNode, toNode}
		if _, ok := groups[key]; !ok {
			order = append(order, key)
		}
		groups[key] = append(groups[key], lookItem{gen: p.look.gen, link: p.m.Link, from: from, to: to, targetOnly: p.look.targetOnly, compacted: p.policy.Compacted})
	}
	for _, key := range order {
		for items := range slices.Chunk(groups[key], lookPartitions) {
			if l.looking >= looksMax {
				return // the end of a look wakes us
			}
			l.looking++
			for _, it := range items {
				p := l.parts[it.to.Partition]
				p.look, p.epoch = nil, it.to.epoch
				l.serve(p)
			}
			l.work.Go(func() {
				got := lookMany(l.reads, l.conf.Source, key.from, l.conf.Target, key.to, items)
				l.events <- func() {
					l.looking--
					for id, ev := range got {
						p := l.parts[id]
						switch ev := ev.(type) {
						case replicate.Looked:
							p.found(ev.End)
						case replicate.TargetLooked:
							p.found(ev.End)
						}
						if _, failed := ev.(replicate.LookFailed); failed {
							l.wantRefresh()
						}
						l.apply(p, ev)
					}
				}
			})
		}
	}
}

// found notes the target's settled end: an unanswered write below it was
// carried out.
func (p *part) found(end int64) {
	if end >= p.lostEnd {
		p.lostEnd = 0
	}
}

func (l *loop) serve(p *part) {
	l.turn++
	p.turn = l.turn
}

// dispatchSeen asks, every TopicsEvery, what the rest of the loop does not see:
// the source's ends of partitions that do not fetch, so that their distance
// stays true, and the target's ends of idle ones, so that a foreign record is
// noticed before the next append runs into it.
func (l *loop) dispatchSeen(now time.Time) {
	sources, targets := map[int32][]spot{}, map[int32][]spot{}
	ends := map[topology.Partition]int64{}
	for id, p := range l.parts {
		if now.Sub(p.seenAsked) < l.conf.TopicsEvery {
			continue
		}
		if p.m.State == replicate.Frozen || now.Sub(p.m.SourceSeenAt) >= l.conf.TopicsEvery {
			// The second: on a thin line an answer to a fetch, which tells the
			// end too, may take longer than a person wants to be in the dark.
			if node, at, err := home(l.source, p, "source"); err == nil {
				p.seenAsked = now
				sources[node] = append(sources[node], at)
			}
		} else if p.m.Idle() {
			if node, at, err := home(l.target, p, "target"); err == nil {
				p.seenAsked = now
				targets[node] = append(targets[node], at)
				ends[id] = p.m.End
			}
		}
	}
	for node, spots := range sources {
		l.work.Go(func() {
			ctx, cancel := context.WithTimeout(l.reads, lookTimeout)
			defer cancel()
			start, end := offsetAt(ctx, l.conf.Source, node, spots, -2), offsetAt(ctx, l.conf.Source, node, spots, -1)
			l.events <- func() {
				for _, s := range spots {
					if start[s.Partition].err == nil && end[s.Partition].err == nil {
						l.apply(l.parts[s.Partition], replicate.SourceSeen{At: time.Now(), Start: start[s.Partition].offset, End: end[s.Partition].offset})
					}
				}
			}
		})
	}
	for node, spots := range targets {
		l.work.Go(func() {
			ctx, cancel := context.WithTimeout(l.reads, lookTimeout)
			defer cancel()
			high := offsetAt(ctx, l.conf.Target, node, spots, -1)
			l.events <- func() {
				for _, s := range spots {
					p, a := l.parts[s.Partition], high[s.Partition]
					if a.err == nil && p.m.Idle() && p.m.End == ends[s.Partition] && a.offset > p.m.End {
						l.apply(p, replicate.TargetMoved{}) // a look will say whose it is
					}
				}
			}
		})
	}
}

// wantRefresh asks the keeper for fresh metadata soon.
func (l *loop) wantRefresh() {
	select {
	case l.refresh <- struct{}{}:
	default:
	}
}

// setPolicies takes the cleanup policies of some topics as they are now.
func (l *loop) setPolicies(policies map[string]replicate.Policy) {
	maps.Copy(l.policies, policies)
	for id, p := range l.parts {
		if policy, ok := policies[id.Topic]; ok && policy != p.policy {
			p.policy = policy
			l.apply(p, policy)
		}
	}
}

// update takes new metadata: new partitions join, moved ones look again,
// recreated ones freeze.
func (l *loop) update(source, target *view, topics []string) {
	if source != nil {
		l.source = source
	}
	if target != nil {
		l.target = target
	}
	if l.source == nil || l.target == nil {
		return
	}
	for _, name := range topics {
		from, to := l.source.topics[name], l.target.topics[name]
		if from == nil || to == nil {
			continue
		}
		for i := range min(len(from.parts), len(to.parts)) {
			id := topology.Partition{Topic: name, Partition: int32(i)}
			if l.parts[id] == nil {
				l.join(id, from.id, to.id)
			}
		}
	}
	ids := map[string]TopicIDs{}
	for id, p := range l.parts {
		ids[id.Topic] = TopicIDs{Source: p.from, Target: p.m.Run.Topic}
		l.compareTopic(p, 0, "source", l.source, p.from, source != nil)
		l.compareTopic(p, 1, "target", l.target, p.m.Run.Topic, target != nil)
		if _, at, ok := l.target.part(id); ok && at.epoch != p.epoch && p.m.State.Working() {
			p.epoch = at.epoch
			l.apply(p, replicate.TargetMoved{})
		}
	}
	l.ids.Store(&ids)
}

func (l *loop) join(id topology.Partition, from, to replicate.TopicID) {
	run := replicate.Run{Link: l.conf.Link, Topic: to, Partition: id.Partition, Start: l.conf.Starts[id]}
	m, acts := replicate.NewPartition(id, run, *l.conf.Limits)
	p := &part{m: m, from: from}
	l.parts[id] = p
	l.take(p, acts)
	if f, held := l.conf.Held[id]; held {
		l.apply(p, replicate.Hold{Freeze: f})
		return
	}
	for _, r := range l.conf.Accepted[id] {
		l.apply(p, replicate.Accepted{From: r.Start, To: r.End})
	}
	if policy, ok := l.policies[id.Topic]; ok {
		p.policy = policy
		l.apply(p, policy)
	}
	if known, ok := l.conf.Known[id.Topic]; ok {
		if known.Source != from {
			l.apply(p, replicate.TopicRecreated{Side: "source"})
		} else if known.Target != to {
			l.apply(p, replicate.TopicRecreated{Side: "target"})
		}
	}
}

// compareTopic freezes a partition whose topic is another one now, or is
// missing in several answers running.
func (l *loop) compareTopic(p *part, side int, name string, v *view, want replicate.TopicID, fresh bool) {
	if !fresh || p.m.State == replicate.Promoted || p.m.State == replicate.Frozen && p.m.Freeze.Reason != replicate.Misplaced {
		return
	}
	t := v.topics[p.m.ID.Topic]
	switch {
	case t != nil && t.id == want:
		p.missing[side] = 0
	case t != nil:
		l.apply(p, replicate.TopicRecreated{Side: name})
	default:
		if p.missing[side]++; p.missing[side] >= missingMax {
			l.apply(p, replicate.TopicRecreated{Side: name})
		}
	}
}

// publish makes a new Status.
func (l *loop) publish(now time.Time, running bool) {
	s := &replicate.LinkStatus{Link: l.conf.Link, At: now, Running: running, Seen: l.source != nil && l.target != nil}
	s.Partitions = make([]replicate.PartitionStatus, 0, len(l.parts))
	var first replicate.PartitionStatus // the one that retention overtakes first
	for _, p := range l.parts {
		at := p.m.Status(now)
		at.OvertakenIn = p.overtaken(now)
		if at.OvertakenIn != nil && (first.OvertakenIn == nil || *at.OvertakenIn < *first.OvertakenIn) {
			first = at
		}
		s.Partitions = append(s.Partitions, at)
	}
	if first.OvertakenIn != nil {
		s.Findings = append(s.Findings, overtakes(first))
	}
	for _, by := range slices.Sorted(maps.Keys(l.findings)) {
		s.Findings = append(s.Findings, l.findings[by]...)
	}
	s.Sum()
	l.status.Store(s)
}

// alarmWithin is how near retention must be for a finding.
const alarmWithin = time.Hour

// overtaken returns in how many seconds the source's retention reaches what is
// not mirrored yet; nil when it does not, or nothing is behind.
func (p *part) overtaken(now time.Time) *float64 {
	if p.m.SourceStart < 0 || p.m.End < 0 || p.m.State == replicate.Seeding || p.m.State == replicate.Promoted {
		return nil
	}
	p.forecast.Add(now, p.m.SourceStart, p.m.End)
	if p.m.End >= p.m.SourceEnd {
		return nil
	}
	in, ok := p.forecast.Overtakes(now)
	if !ok || in > 30*24*time.Hour {
		return nil
	}
	s := in.Seconds()
	return &s
}

func overtakes(p replicate.PartitionStatus) replicate.Finding {
	in := time.Duration(*p.OvertakenIn * float64(time.Second)).Round(time.Second)
	f := replicate.Finding{About: p.Partition.String(), Text: fmt.Sprintf("retention at the source overtakes this mirror in about %s", in)}
	if in < alarmWithin {
		f.Text = "ALARM: " + f.Text
	}
	f.Next = fmt.Sprintf("raise retention.ms of %s at the source, or mirror.rate_limit", p.Topic)
	return f
}

// settle says whether an append may still be carried out. A request that had
// no answer counts as carried out when the target's end is behind it, and as
// dead when its time has passed and the broker answers again. A broker that
// does not answer may sleep on it and wake up later.
func (l *loop) settle() error {
	groups := map[int32][]spot{}
	lost := &UncleanError{}
	for id, p := range l.parts {
		if p.lostEnd == 0 {
			continue
		}
		lost.Partitions = append(lost.Partitions, id)
		if node, at, err := home(l.target, p, "target"); err == nil {
			groups[node] = append(groups[node], at)
		}
	}
	if len(lost.Partitions) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.appends, settleTimeout)
	defer cancel()
	answered := map[topology.Partition]bool{}
	for node, spots := range groups {
		for id, a := range logEnd(ctx, l.conf.Target, node, spots) {
			p := l.parts[id]
			answered[id] = a.err == nil
			if a.err == nil && (a.offset >= p.lostEnd || time.Now().After(p.lostUntil)) {
				lost.Partitions = slices.DeleteFunc(lost.Partitions, func(q topology.Partition) bool { return q == id })
			}
		}
	}
	if len(lost.Partitions) == 0 {
		return nil
	}
	for _, id := range lost.Partitions {
		wait := time.Until(l.parts[id].lostUntil)
		if !answered[id] {
			wait = l.conf.RequestTimeout // from when it answers again, which is now at the earliest
		}
		lost.Wait = max(lost.Wait, wait)
	}
	slices.SortFunc(lost.Partitions, topology.Partition.Compare)
	return lost
}
