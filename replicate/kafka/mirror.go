package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Config describes one link and how hard it may work. The zero value of every
// limit means its default.
type Config struct {
	Link   replicate.Link
	Source *kafka.Client // not closed by the mirror
	Target *kafka.Client

	Topics replicate.Selection
	// Groups, when set, are copied every GroupsEvery while the mirror runs.
	Groups *replicate.GroupSelector
	// Starts are the target ends recorded when the link was made. A partition
	// that is not in it starts at 0.
	Starts map[topology.Partition]int64
	// Skips are the ranges that the source leapt over when it was promoted:
	// groups that stand there go on behind them.
	Skips map[topology.Partition]replicate.Range
	// Known are topic identities recorded earlier; a topic with another one is
	// frozen. Topics that are not in it are taken as they are found.
	Known map[string]TopicIDs
	// Accepted are offsets that a person gave up, see Accept.
	Accepted map[topology.Partition][]replicate.Range
	// Held are partitions of which the record says that the two logs do not
	// fit together. They are shown as frozen and never touched.
	Held map[topology.Partition]replicate.Freeze
	// Leases hand out the generations by which holes are filled. Without it a
	// partition with a hole waits, and says so.
	Leases Leaser

	Rate float64 // bytes per second, 0: no limit; see SetRate
	// RecordRate is records per second, 0: no limit. TopicLimits slow single
	// topics, each for itself; the first entry that selects a topic counts.
	RecordRate  float64
	TopicLimits []TopicLimit
	// HoleMax and SeedMax bound a hole and a prefix, in offsets; 0 means
	// replicate.DefaultLimits. Limits, when set, say it themselves.
	HoleMax, SeedMax int64

	BufferBytes int           // fetched and not yet appended, whole link; default 32 MiB
	FetchBytes  int32         // per partition and fetch; default 1 MiB
	FetchWait   time.Duration // how long a broker may wait for records; default 250 ms

	// RequestTimeout is how long an append may take. A request without an
	// answer is taken to be in flight for that long. Default 15 s; it must not
	// be less than the target brokers' session timeout (9 s by default), after
	// which a broker that hangs no longer leads.
	RequestTimeout time.Duration

	TopicsEvery  time.Duration // topics, partitions, leaders; default 3 s
	ConfigsEvery time.Duration // topic settings; default 3 s
	GroupsEvery  time.Duration // default 500 ms

	// Access says which rights should be alike; nil: they are not looked at.
	// With SyncAccess the target's are made so.
	Access     *replicate.AccessRules
	SyncAccess bool

	Limits     *replicate.Limits // nil: replicate.DefaultLimits
	Logger     *slog.Logger
	Registerer prometheus.Registerer // has the metrics while Run runs; nil: no metrics
}

// TopicLimit bounds each topic that it selects; 0 means no limit.
type TopicLimit struct {
	Topics     replicate.Selection
	Rate       float64 // bytes per second
	RecordRate float64 // records per second
}

// TopicIDs are the identities of one topic at both ends.
type TopicIDs struct {
	Source replicate.TopicID `json:"source"`
	Target replicate.TopicID `json:"target"`
}

func (c Config) withDefaults() Config {
	orDuration := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	orDuration(&c.FetchWait, 250*time.Millisecond)
	orDuration(&c.RequestTimeout, 15*time.Second)
	orDuration(&c.TopicsEvery, 3*time.Second)
	orDuration(&c.ConfigsEvery, 3*time.Second)
	orDuration(&c.GroupsEvery, 500*time.Millisecond)
	if c.BufferBytes == 0 {
		c.BufferBytes = 32 << 20
	}
	if c.FetchBytes == 0 {
		c.FetchBytes = 1 << 20
	}
	if c.Limits == nil {
		l := replicate.DefaultLimits
		l.BufferBytes = 2 * int(c.FetchBytes)
		l.RequestGrace = c.RequestTimeout
		if c.HoleMax > 0 {
			l.HoleMax = c.HoleMax
		}
		if c.SeedMax > 0 {
			l.SeedMax = c.SeedMax
		}
		c.Limits = &l
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Source == nil || c.Target == nil:
		return errors.New("mirror: want a source and a target client")
	case c.Link.Source == c.Link.Target:
		return fmt.Errorf("mirror %s: source and target are the same region", c.Link)
	case c.BufferBytes < 0 || c.FetchBytes < 0 || c.Rate < 0 || c.RecordRate < 0 || c.RequestTimeout < 0:
		return fmt.Errorf("mirror %s: limits must not be negative", c.Link)
	}
	return nil
}

// Leaser hands out generations for filling holes. Each is given once, over all
// mirrors of the link that ever ran, and they rise.
type Leaser interface {
	// Take returns the next generation above this one, and whether all
	// requests of mirrors with a generation of an earlier block are known to
	// be dead. It may wait, until ctx ends.
	Take(ctx context.Context, above replicate.Generation) (g replicate.Generation, settled bool, err error)
	// Settle records that they are dead.
	Settle(ctx context.Context, g replicate.Generation) error
	// Held says whether g is still the last one that was handed out, as far
	// as is known here. It does not wait.
	Held(g replicate.Generation) bool
}

// ErrSameCluster says that both ends of a link are one cluster.
var ErrSameCluster = errors.New("source and target are the same kafka cluster")

// UncleanError says that a mirror ended while appends had no answer. The
// target may still carry them out for as long as Wait; after that, and once
// its brokers answer, its ends may be taken as they are read.
type UncleanError struct {
	Partitions []topology.Partition
	Wait       time.Duration
}

func (e *UncleanError) Error() string {
	return fmt.Sprintf("mirror ended with %d appends unanswered: wait %s before taking the target's ends as final", len(e.Partitions), e.Wait.Round(time.Millisecond))
}

// Mirror is one link at work. Its methods are safe for concurrent use.
type Mirror struct {
	conf    Config
	log     *slog.Logger
	metrics *metrics
	status  atomic.Pointer[replicate.LinkStatus]
	ids     atomic.Pointer[map[string]TopicIDs]
	groups  atomic.Pointer[GroupReport]
	drift   atomic.Pointer[DriftReport]
	gone    atomic.Pointer[[]Gone]
	running atomic.Bool

	mu     sync.Mutex
	orders []func(*loop) // for the owner, given between its steps
	nudge  chan struct{}
}

// New checks the configuration. It does not touch the network.
func New(conf Config) (*Mirror, error) {
	conf = conf.withDefaults()
	if err := conf.check(); err != nil {
		return nil, err
	}
	m := &Mirror{conf: conf, log: conf.Logger.With("link", conf.Link.String()), nudge: make(chan struct{}, 1)}
	empty := &replicate.LinkStatus{Link: conf.Link}
	empty.Sum()
	m.status.Store(empty)
	m.ids.Store(&map[string]TopicIDs{})
	m.groups.Store(&GroupReport{})
	m.drift.Store(&DriftReport{})
	m.gone.Store(&[]Gone{})
	m.metrics = newMetrics(m)
	return m, nil
}

// Run mirrors until ctx ends. A cluster that is away is waited for. It returns
// nil when every append was answered, or is known to be carried out or dead;
// an *UncleanError when not; another error when the link can never work, such
// as ErrSameCluster. A Mirror runs once.
func (m *Mirror) Run(ctx context.Context) error {
	if !m.running.CompareAndSwap(false, true) {
		return fmt.Errorf("mirror %s: it ran already; make a new one", m.conf.Link)
	}
	if m.conf.Registerer != nil {
		if err := m.conf.Registerer.Register(m.metrics); err != nil {
			return fmt.Errorf("mirror %s: register metrics: %w", m.conf.Link, err)
		}
		defer m.conf.Registerer.Unregister(m.metrics)
	}
	// A request that the client splits among brokers waits for each of them,
	// and does not hear that its context ended. So what is read from the source
	// has connections of its own, and the end closes them: a source that hangs
	// must not keep another region from taking over.
	source, err := m.conf.Source.Another()
	if err != nil {
		return fmt.Errorf("mirror %s: %w", m.conf.Link, err)
	}
	tail, err := source.Another()
	if err != nil {
		source.Close()
		return fmt.Errorf("mirror %s: %w", m.conf.Link, err)
	}
	hangUp := sync.OnceFunc(func() { source.Close(); tail.Close() })
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)()
	m.conf.Source = source
	return newLoop(m, tail).run(ctx)
}

// Status is the state of a moment ago (at most half a second while it runs).
func (m *Mirror) Status() replicate.LinkStatus { return *m.status.Load() }

// TopicIDs returns the identities of the topics that are mirrored, for the
// record. See Config.Known.
func (m *Mirror) TopicIDs() map[string]TopicIDs { return *m.ids.Load() }

// Groups is the last report of copied group offsets; it is empty before the
// first.
func (m *Mirror) Groups() GroupReport { return *m.groups.Load() }

// SetRate changes the limit of bytes per second; 0 removes it.
func (m *Mirror) SetRate(bytesPerSecond float64) {
	m.order(func(l *loop) { l.throttle.set(max(0, bytesPerSecond)) })
}

// Retry judges the frozen partitions of a topic again; "" means all topics. It
// moves nothing by itself: a partition whose logs still do not fit freezes
// again.
func (m *Mirror) Retry(topic string) {
	m.order(func(l *loop) {
		for id, p := range l.parts {
			if topic == "" || id.Topic == topic {
				l.apply(p, replicate.Retry{})
			}
		}
	})
}

// Accept makes the offsets [from, to) of a partition a hole, by a person's word
// that is on record: the source deleted them before they were mirrored. The
// partition goes on if that is what it is frozen for.
func (m *Mirror) Accept(p topology.Partition, from, to int64) {
	m.order(func(l *loop) {
		if part := l.parts[p]; part != nil {
			l.apply(part, replicate.Accepted{From: from, To: to})
		}
	})
}

func (m *Mirror) order(do func(*loop)) {
	m.mu.Lock()
	m.orders = append(m.orders, do)
	m.mu.Unlock()
	select {
	case m.nudge <- struct{}{}:
	default:
	}
}

func (m *Mirror) takeOrders() []func(*loop) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.orders
	m.orders = nil
	return out
}
