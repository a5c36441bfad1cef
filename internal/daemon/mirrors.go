package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/consensus"
	steps "github.com/holdfast-dr/holdfast/failover/kafka"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	reconcileEvery  = 500 * time.Millisecond
	mirrorRestart   = 2 * time.Second
	coverageTimeout = 10 * time.Second
	missingShown    = 8
)

// mirrors runs the links whose target is this node's region. A running link
// in the agreed state is its own standing task: this is what carries it out.
type mirrors struct {
	node    topology.Node
	region  topology.Region
	regions map[topology.Region]*region
	topics  replicate.Selection
	groups  *replicate.GroupSelector
	logs    []replicate.CommitLog
	access  *replicate.AccessRules
	sync    bool          // rights follow the source
	delete  time.Duration // of copies of topics that were deleted at the source; 0: never
	rate    float64
	records float64 // per second
	// topicLimits slow single topics.
	topicLimits      []mirror.TopicLimit
	holeMax, seedMax int64
	every            time.Duration // of group offsets
	compare          time.Duration // of topics and their settings
	appends          time.Duration // of one append: how long an unclean end may still be under way
	leap             time.Duration // most time to skip offsets
	salvage          func(ctx context.Context, link consensus.LinkID, epoch uint64) (salvaging, error)
	clock            clock.Clock
	former           time.Time // a former life of this daemon had ended by then; zero: there was none
	state            func() consensus.State
	propose          consensus.Proposer
	log              *slog.Logger
	metrics          prometheus.Registerer

	mu     sync.Mutex
	links  map[consensus.LinkID]*link
	held   map[consensus.LinkID]uint64 // stopped by a step at this epoch
	paused map[consensus.LinkID]time.Time
	said   map[consensus.LinkID]string // why a link stopped, as last logged
	past   map[consensus.LinkID]past
}

// past is what outlives the runs of a link.
type past struct {
	still time.Time // no append of an ended run is under way after it
	// The rest is of one epoch of the link.
	epoch  uint64
	clean  bool                         // the last run confirmed its stop
	seen   map[topology.Partition]int64 // ends of the source, where it was seen
	at     time.Time                    // no end was seen earlier than this
	rates  map[topology.Partition]*rateOf
	epochs consensus.LeaderEpochs // of the source, of the last mirrored records
	groups mirror.GroupReport     // the last one that was not empty
}

// link is one run of one link here.
type link struct {
	id     consensus.LinkID
	epoch  uint64
	mirror *mirror.Mirror
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done
	ended  time.Time

	rate     rateOf
	trouble  string
	inspects bool
	missing  map[string]time.Time       // topics on record that are not mirrored, since when
	told     map[topology.Partition]int // how many accepted ranges the mirror knows
}

func patterns(list []config.Pattern) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// run keeps what runs here equal to what the state says, until ctx ends.
func (m *mirrors) run(ctx context.Context, changes <-chan struct{}) {
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	var beside sync.WaitGroup
	beside.Go(func() { m.notes(ctx) })
	defer beside.Wait()
	defer m.stopAll()
	for {
		m.reconcile(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-tick.C:
		}
	}
}

func (m *mirrors) reconcile(ctx context.Context) {
	s := m.state()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, until := range m.paused {
		if time.Now().After(until) {
			delete(m.paused, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		if l.To != m.region || !m.served(l) {
			continue
		}
		if at, ok := m.held[id]; ok && at != l.Epoch {
			delete(m.held, id)
		}
		_, held := m.held[id]
		_, paused := m.paused[id]
		want := l.Phase != consensus.LinkEnded && !held && !paused && !reseeding(s, id)
		run := m.links[id]
		if run != nil && (!want || run.epoch != l.Epoch || run.inspects != (l.Phase == consensus.LinkUnproven)) {
			run.cancel()
			if run.over() {
				delete(m.links, id)
				run = nil
			} else {
				continue // the next round sees its end
			}
		}
		if run != nil && run.over() {
			if time.Since(run.ended) < mirrorRestart {
				continue
			}
			delete(m.links, id)
			run = nil
		}
		if run == nil && want {
			m.start(ctx, id, l)
		} else if run != nil {
			run.tell(accepted(l))
		}
	}
	for id, run := range m.links {
		if _, known := s.Links[id]; !known {
			run.cancel()
		}
		m.sample(run)
	}
}

// served reports whether both ends of a link have a Kafka.
func (m *mirrors) served(l consensus.Link) bool {
	from, to := m.regions[l.From], m.regions[l.To]
	return from != nil && to != nil && from.kafka != nil && to.kafka != nil
}

func (r *link) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (m *mirrors) sample(run *link) {
	if run.mirror == nil || run.over() {
		return
	}
	m.remember(run)
	sum, at := int64(0), time.Time{}
	for _, p := range run.mirror.Status().Partitions {
		if p.SourceSeenAt == nil {
			return // a sum without it would jump when it comes
		}
		sum += p.SourceEnd
		if at.IsZero() || p.SourceSeenAt.Before(at) {
			at = *p.SourceSeenAt
		}
	}
	if !at.IsZero() {
		run.rate.add(at, len(run.mirror.Status().Partitions), sum)
	}
}

// remember keeps what is asked for after the run is over.
func (m *mirrors) remember(run *link) {
	p := m.past[run.id]
	if p.epoch != run.epoch || p.seen == nil {
		p = past{still: p.still, epoch: run.epoch, seen: map[topology.Partition]int64{}, rates: map[topology.Partition]*rateOf{}}
	}
	oldest := time.Time{}
	for _, at := range run.mirror.Status().Partitions {
		if at.SourceSeenAt == nil || at.SourceEnd < 0 {
			continue
		}
		p.seen[at.Partition] = at.SourceEnd
		if p.rates[at.Partition] == nil {
			p.rates[at.Partition] = &rateOf{step: partRateStep}
		}
		p.rates[at.Partition].add(*at.SourceSeenAt, 1, at.SourceEnd)
		if at.State != replicate.Frozen && (oldest.IsZero() || at.SourceSeenAt.Before(oldest)) {
			oldest = *at.SourceSeenAt
		}
	}
	if !oldest.IsZero() {
		p.at = oldest
	}
	p.epochs = newEpochs(consensus.Link{}, run.mirror.Status())
	if g := run.mirror.Groups(); len(g.Rows) > 0 {
		p.groups = g
	}
	m.past[run.id] = p
}

// reseeding says whether a live plan recreates topics of the link.
func reseeding(s consensus.State, id consensus.LinkID) bool {
	for _, p := range s.Plans {
		if p.Kind == consensus.Reseed && p.Phase.Live() && consensus.LinkOf(p.From, p.To) == id {
			return true
		}
	}
	return false
}

func (m *mirrors) start(ctx context.Context, id consensus.LinkID, l consensus.Link) {
	ctx, cancel := context.WithCancel(ctx)
	run := &link{id: id, epoch: l.Epoch, cancel: cancel, done: make(chan struct{}), inspects: l.Phase == consensus.LinkUnproven}
	m.links[id] = run
	work := func() error { return m.inspect(ctx, id, l) }
	if !run.inspects {
		mr, err := mirror.New(mirror.Config{
			Link:   replicate.Link{Source: l.From, Target: l.To, Epoch: l.Epoch},
			Source: m.regions[l.From].kafka, Target: m.regions[l.To].kafka,
			Topics: m.topics, Groups: m.groups, GroupsEvery: m.every,
			Starts: flat(l.Starts), Skips: skips(l), Rate: m.rate, RecordRate: m.records, TopicLimits: m.topicLimits, HoleMax: m.holeMax, SeedMax: m.seedMax, RequestTimeout: m.appends, TopicsEvery: m.compare, ConfigsEvery: m.compare,
			Access: m.access, SyncAccess: m.sync, Known: known(m.state(), id),
			Leases: m.leases(id, l), Accepted: accepted(l), Held: heldBack(l),
			Logger: m.log, Registerer: m.metrics,
		})
		if err != nil {
			run.finish(err)
			m.log.Error("mirror", "link", id, "error", err)
			return
		}
		run.mirror, run.told = mr, map[topology.Partition]int{}
		for p, list := range accepted(l) {
			run.told[p] = len(list)
		}
		work = func() error { return mr.Run(ctx) }
	}
	m.log.Info("link", "link", id, "epoch", l.Epoch, "phase", l.Phase)
	go func() {
		err := m.rightClusters(ctx, l)
		if err == nil {
			err = work()
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil && ctx.Err() == nil && m.said[id] != err.Error() {
			m.said[id] = err.Error() // said once; status and readyz show it as long as it lasts
			m.log.Warn("link stopped, it is started again and again", "link", id, "every", mirrorRestart, "error", err)
		}
		m.ended(run, err)
		run.finish(err)
	}()
}

// ended notes until when appends of a run may still be carried out.
func (m *mirrors) ended(run *link, err error) {
	if run.mirror == nil {
		return
	}
	m.remember(run)
	p := m.past[run.id]
	p.clean = err == nil
	wait := time.Duration(0)
	var unclean *mirror.UncleanError
	if errors.As(err, &unclean) {
		wait = unclean.Wait
	} else if err != nil {
		wait = m.appends
	}
	if still := time.Now().Add(wait); still.After(p.still) {
		p.still = still
	}
	m.past[run.id] = p
}

// rightClusters refuses to read from or write to a cluster that is not the one
// the fleet file names. A cluster that does not answer is not wrong: the
// mirror waits for it.
func (m *mirrors) rightClusters(ctx context.Context, l consensus.Link) error {
	for _, name := range []topology.Region{l.From, l.To} {
		attempt, cancel := context.WithTimeout(ctx, m.regions[name].timeout)
		_, err := m.regions[name].kafka.Ping(attempt)
		cancel()
		if errors.Is(err, kafka.ErrWrongCluster) {
			return err
		}
	}
	return nil
}

func (r *link) finish(err error) {
	r.err, r.ended = err, time.Now()
	if err != nil {
		r.trouble = err.Error()
	}
	close(r.done)
}

func (m *mirrors) command(b consensus.Body) consensus.Command {
	return consensus.Command{At: m.clock.Wall(), By: "node " + string(m.node), Body: b}
}

// stop ends the run of a link, keeps it from starting again at this epoch, and
// waits until no append can be under way: none of this life, and none of a
// former one.
func (m *mirrors) stop(ctx context.Context, id consensus.LinkID, epoch uint64) (past, error) {
	m.mu.Lock()
	m.held[id] = epoch
	run := m.links[id]
	m.mu.Unlock()
	began := time.Now()
	if run != nil {
		run.cancel()
		select {
		case <-run.done:
		case <-ctx.Done():
			return past{}, fmt.Errorf("wait for the mirror to stop: %w", context.Cause(ctx))
		}
	}
	p := m.pastOf(id, epoch)
	still := m.former.Add(m.appends)
	if p.still.After(still) {
		still = p.still
	}
	ended := time.Since(began)
	defer func() {
		m.log.Info("mirror stopped", "link", id, "clean", p.clean, "ended_after", ended.Round(time.Millisecond), "still_after", time.Since(began).Round(time.Millisecond))
	}()
	if err := sleep(ctx, time.Until(still)); err != nil {
		return p, fmt.Errorf("wait until no append of an earlier run can be under way: %w", err)
	}
	return p, nil
}

// pastOf returns what is known of the runs of a link at one epoch.
func (m *mirrors) pastOf(id consensus.LinkID, epoch uint64) past {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.past[id]
	if p.epoch != epoch {
		return past{still: p.still}
	}
	p.seen = maps.Clone(p.seen)
	rates := make(map[topology.Partition]*rateOf, len(p.rates))
	for id, r := range p.rates {
		one := *r
		rates[id] = &one
	}
	p.rates = rates
	return p
}

func (m *mirrors) stopAll() {
	m.mu.Lock()
	runs := slices.Collect(maps.Values(m.links))
	m.mu.Unlock()
	for _, r := range runs {
		r.cancel()
	}
	for _, r := range runs {
		<-r.done
	}
}

// reports describes the links that run here.
func (m *mirrors) reports() map[consensus.LinkID]linkReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[consensus.LinkID]linkReport{}
	for id, run := range m.links {
		r := linkReport{Rate: run.rate.perSecond(), Trouble: run.trouble, PausedUntil: m.paused[id]}
		if run.mirror != nil {
			r.Status = withoutDeleted(run.mirror.Status(), run.mirror.Gone(), m.state().Tombstones[id])
			seen := time.Duration(0)
			silent := time.Duration(math.MaxInt64)
			for _, p := range r.Status.Partitions {
				if p.SourceSeenAt != nil {
					seen = max(seen, time.Since(*p.SourceSeenAt))
					silent = min(silent, time.Since(*p.SourceSeenAt))
				}
			}
			r.SourceSeenMs = seen.Milliseconds()
			switch from, _, _ := strings.Cut(string(id), ">"); {
			case r.Trouble != "" || run.over():
			case !r.Status.Seen:
				r.Trouble = "the topics of both regions have not been read yet"
			case silent > replicate.StaleAfter && silent < math.MaxInt64:
				r.Trouble = fmt.Sprintf("kafka of %s has been silent for %s; what it has accepted since is not known here", from, silent.Round(time.Second))
			}
			r.Coverage = coverage(m.past[id].groups)
			r.Exposed = exposed(m.state().Links[id], m.past[id].groups, r.Status)
			r.Drift = driftOf(run.mirror.Drift())
			r.Status.Running = r.Status.Running && !run.over()
		}
		out[id] = r
	}
	for id, until := range m.paused {
		if _, runs := out[id]; !runs {
			out[id] = linkReport{PausedUntil: until}
		}
	}
	return out
}

// pause stops mirroring to this region until a time.
func (m *mirrors) pause(until time.Time) []consensus.LinkID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []consensus.LinkID
	for id, l := range m.state().Links {
		if l.To == m.region && l.Phase == consensus.LinkRunning {
			m.paused[id] = until
			ids = append(ids, id)
		}
	}
	return ids
}

// resume ends pauses and tries frozen partitions of topics again.
func (m *mirrors) resume(topics []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.paused)
	for _, run := range m.links {
		if run.mirror == nil {
			continue
		}
		names := topics
		if len(names) == 0 {
			for _, p := range run.mirror.Status().Partitions {
				if p.Frozen != nil && !slices.Contains(names, p.Topic) {
					names = append(names, p.Topic)
				}
			}
		}
		for _, t := range names {
			run.mirror.Retry(t)
		}
	}
}

func flat(o consensus.Offsets) map[topology.Partition]int64 {
	out := map[topology.Partition]int64{}
	for topic, ps := range o {
		for p, at := range ps {
			out[topology.Partition{Topic: topic, Partition: p}] = at
		}
	}
	return out
}

func nested(o map[topology.Partition]int64) consensus.Offsets {
	out := consensus.Offsets{}
	for p, at := range o {
		if out[p.Topic] == nil {
			out[p.Topic] = map[int32]int64{}
		}
		out[p.Topic][p.Partition] = at
	}
	return out
}

// here is this node's region as the steps of a plan see it.
type here struct {
	*mirrors
}

func (h here) State() consensus.State { return h.state() }

func (h here) kafka() (*kafka.Client, error) {
	if r := h.regions[h.region]; r != nil && r.kafka != nil {
		return r.kafka, nil
	}
	return nil, fmt.Errorf("region %s has no kafka in this node's fleet file", h.region)
}

func (h here) Ends(ctx context.Context) (consensus.Offsets, error) {
	cl, err := h.kafka()
	if err != nil {
		return nil, err
	}
	ranges, err := mirror.Ends(ctx, cl, h.topics)
	if err != nil {
		return nil, err
	}
	ends := map[topology.Partition]int64{}
	for p, r := range ranges {
		if !r.Settled {
			return nil, fmt.Errorf("%s: %w", p, steps.ErrMoving)
		}
		ends[p] = r.End
	}
	return nested(ends), nil
}

func (h here) GroupLag(ctx context.Context, groups []string) (map[string]int64, error) {
	cl, err := h.kafka()
	if err != nil {
		return nil, err
	}
	ends, err := mirror.Ends(ctx, cl, h.topics)
	if err != nil {
		return nil, err
	}
	at := map[topology.Partition]int64{}
	for p, r := range ends {
		at[p] = r.End
	}
	lags, err := mirror.Drained(ctx, cl, groups, at)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, l := range lags {
		out[l.Group] = l.Lag
	}
	return out, nil
}

func (h here) StopMirror(ctx context.Context, id consensus.LinkID) (steps.Stopped, error) {
	p, err := h.stop(ctx, id, h.state().Links[id].Epoch)
	if err != nil {
		return steps.Stopped{}, err
	}
	st := steps.Stopped{Clean: p.clean, Seen: p.at, SourceEnds: nested(p.seen), Epochs: p.epochs, Rates: map[string]map[int32]float64{}}
	for id, r := range p.rates {
		if st.Rates[id.Topic] == nil {
			st.Rates[id.Topic] = map[int32]float64{}
		}
		st.Rates[id.Topic][id.Partition] = r.perSecond()
	}
	st.Ends, err = h.Ends(ctx)
	return st, err
}

func (h here) Reseed(ctx context.Context, id consensus.LinkID, topics []string) error {
	l := h.state().Links[id]
	if !h.served(l) {
		return fmt.Errorf("link %s: one of its regions has no kafka in this node's fleet file", id)
	}
	if _, err := h.stop(ctx, id, l.Epoch); err != nil {
		return err
	}
	var list []mirror.ReseedTopic
	for _, t := range topics {
		list = append(list, mirror.ReseedTopic{Name: t})
	}
	return mirror.Reseed(ctx, h.regions[l.From].kafka, h.regions[l.To].kafka, list)
}

func (h here) Canary(ctx context.Context) ([]steps.Check, error) {
	_, results := h.regions[h.region].tryAll(ctx)
	var out []steps.Check
	var errs []error
	for _, t := range results {
		out = append(out, steps.Check{Name: t.name, Took: t.took, Detail: t.say})
		if t.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.name, t.err))
		}
	}
	return out, errors.Join(errs...)
}
