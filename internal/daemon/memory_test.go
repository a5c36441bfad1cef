package daemon

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east, west topology.Region = "us-east", "eu-west"
	eastNode   topology.Node   = "us-east-1"
	westNode   topology.Node   = "eu-west-1"
	witness    topology.Node   = "witness-1"
	ingestion                  = topology.Ingestion
	bootID                     = "boot-1"
)

var quiet = slog.New(slog.DiscardHandler)

// bubble is CLOCK_BOOTTIME in a bubble of synctest: it runs with its time, and
// jumps when it is told to, as after a suspend.
type bubble struct {
	mu   sync.Mutex
	born time.Time
	skip time.Duration
}

func newBubble() *bubble { return &bubble{born: time.Now()} }

func (b *bubble) Now() clock.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return clock.Instant(time.Hour + time.Since(b.born) + b.skip)
}

func (b *bubble) Wall() time.Time { return time.Now() }

func (b *bubble) jump(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.skip += d
}

// memory is a log that loses nothing, unless it is told to.
type memory struct {
	mu    sync.Mutex
	s     consensus.State
	took  []consensus.Body // applied, in order
	lose  int              // answers to lose after applying
	away  bool             // no leader
	tells chan struct{}
}

func newMemory(t *testing.T, policy consensus.Policy) *memory {
	t.Helper()
	m := &memory{s: consensus.NewState(), tells: make(chan struct{}, 1)}
	m.must(t, m.configure(policy, ""))
	for node := range m.s.Members {
		m.must(t, &consensus.OpenSession{Node: node, Session: "session of " + consensus.SessionID(node), Boot: bootID, Version: "test"})
	}
	return m
}

func (m *memory) configure(policy consensus.Policy, was string) *consensus.Configure {
	return &consensus.Configure{
		Settings: consensus.Settings{
			Digest: "digest of " + string(policy), Lease: consensus.DefaultLeaseTiming, Mirror: true,
			Roles: map[topology.Role]consensus.RoleSettings{ingestion: {Initial: east, Policy: policy}},
		},
		Members: map[topology.Node]consensus.Member{eastNode: {Region: east}, westNode: {Region: west}, witness: {Witness: true}},
		Was:     was,
	}
}

func (m *memory) must(t *testing.T, b consensus.Body) {
	t.Helper()
	if _, err := m.Propose(t.Context(), consensus.Command{At: time.Now(), By: "test", Body: b}); err != nil {
		t.Fatalf("%T: %v", b, err)
	}
}

func (m *memory) state() consensus.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.s
}

func (m *memory) Propose(_ context.Context, c consensus.Command) (consensus.Index, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return 0, consensus.ErrNoLeader
	}
	next, err := m.s.Apply(c)
	m.s = next
	if err != nil {
		return 0, err
	}
	m.took = append(m.took, c.Body)
	select {
	case m.tells <- struct{}{}:
	default:
	}
	if m.lose > 0 {
		m.lose--
		return 0, consensus.ErrUnknownOutcome
	}
	return consensus.Index(len(m.took)), nil
}

func (m *memory) set(f func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

func count[B consensus.Body](m *memory) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.took {
		if _, is := b.(B); is {
			n++
		}
	}
	return n
}
