package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	tickEvery     = 100 * time.Millisecond
	tickGapMax    = time.Second            // a longer one means that we, or the clock, stood still
	clocksApart   = 200 * time.Millisecond // between CLOCK_BOOTTIME and CLOCK_MONOTONIC: a suspend
	retryEvery    = 100 * time.Millisecond
	reclaimEvery  = 500 * time.Millisecond
	guardsForget  = 10 * time.Minute
	guardsTracked = 256
)

// keeper holds this node's leases: it renews them, keeps their deadlines on
// disk, watches the clock, and answers whether this node may act. Its answers
// come from an atomic value and never wait.
type keeper struct {
	node    topology.Node
	session consensus.SessionID
	boot    string
	clock   clock.Clock
	file    string
	log     *slog.Logger
	propose consensus.Proposer
	state   func() consensus.State

	nonce atomic.Uint64
	view  atomic.Pointer[map[topology.Role]consensus.Holder] // a copy of holders

	mu      sync.Mutex
	holders map[topology.Role]consensus.Holder
	pokes   map[topology.Role]chan struct{}
	guards  map[string]guardSeen
}

type guardSeen struct {
	role    topology.Role
	epoch   consensus.Epoch
	pid     int
	running bool
	allowed clock.Instant // it ends by itself at this instant, plus the margin
	seen    clock.Instant
}

// newKeeper reads the deadlines that an earlier life of this daemon kept.
func newKeeper(node topology.Node, session consensus.SessionID, dir string, clk clock.Clock, log *slog.Logger) (*keeper, error) {
	boot, err := clock.BootID()
	if err != nil {
		return nil, err
	}
	k := &keeper{
		node: node, session: session, boot: boot, clock: clk, log: log,
		file:    filepath.Join(dir, "leases.json"),
		holders: map[topology.Role]consensus.Holder{},
		pokes:   map[topology.Role]chan struct{}{},
		guards:  map[string]guardSeen{},
	}
	kept, err := readDeadlines(k.file)
	if err != nil {
		// The file only saves a restarted daemon a moment of 503. It never
		// holds more right than a renewal does.
		log.Warn("kept leases are unreadable, waiting for a renewal instead", "file", k.file, "error", err)
	}
	for _, d := range kept {
		h := consensus.NewHolder(d.Role, node, session, consensus.DefaultLeaseTiming).Restore(d, boot)
		k.holders[d.Role] = h
		if v := h.At(clk.Now()); v.Leased {
			log.Info("lease of an earlier life goes on", "role", d.Role, "epoch", d.Epoch, "remaining", v.Remaining.Round(time.Millisecond))
		}
	}
	k.publish()
	return k, nil
}

func readDeadlines(file string) ([]consensus.Deadline, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var kept []consensus.Deadline
	if err := json.Unmarshal(b, &kept); err != nil {
		return nil, fmt.Errorf("decode %s: %w", file, err)
	}
	return kept, nil
}

// run renews until ctx ends. start must have set propose and state.
func (k *keeper) run(ctx context.Context, changes <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	started := map[topology.Role]bool{}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	last, lastMono := k.clock.Now(), time.Now()
	for {
		s := k.state()
		k.observe(s)
		for name := range s.Roles {
			if !started[name] {
				started[name] = true
				poke := k.poke(name)
				wg.Go(func() { k.renew(ctx, name, poke) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-tick.C:
			now, mono := k.clock.Now(), time.Now()
			gap, monoGap := now.Sub(last), mono.Sub(lastMono)
			if gap > tickGapMax || gap-monoGap > clocksApart || monoGap-gap > clocksApart {
				k.clockUnsafe(now, gap)
			}
			last, lastMono = now, mono
		}
	}
}

func (k *keeper) clockUnsafe(now clock.Instant, gap time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	held := 0
	for name, h := range k.holders {
		if h.At(now).Leased {
			held++
		}
		k.holders[name] = h.ClockUnsafe(now)
	}
	k.publishLocked()
	if held > 0 {
		k.log.Warn("this process or its clock stood still: inactive until a renewal is accepted", "gap", gap.Round(time.Millisecond))
	}
}

// observe takes in the applied state. After it returns, every answer knows it.
func (k *keeper) observe(s consensus.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed := false
	for name, r := range s.Roles {
		h, ok := k.holders[name]
		if !ok {
			h = consensus.NewHolder(name, k.node, k.session, s.Settings.Lease)
		}
		now := k.clock.Now()
		before := h.At(now)
		h = h.Observe(s.Generation, r, s.Settings.Lease)
		k.holders[name] = h
		after := h.At(now)
		if !ok || before.Phase != after.Phase || before.Epoch != after.Epoch {
			changed = true
			if after.Phase != before.Phase {
				k.log.Info("role", "role", name, "phase", after.Phase, "epoch", after.Epoch, "was", before.Phase)
			}
			select {
			case k.pokeLocked(name) <- struct{}{}:
			default:
			}
		}
	}
	if changed {
		k.keepLocked()
		k.publishLocked()
	}
}

func (k *keeper) poke(role topology.Role) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pokeLocked(role)
}

func (k *keeper) pokeLocked(role topology.Role) chan struct{} {
	c, ok := k.pokes[role]
	if !ok {
		c = make(chan struct{}, 1)
		k.pokes[role] = c
	}
	return c
}

// renew keeps one role renewed while this node holds it, and asks for it back
// when it was lost by expiry alone.
func (k *keeper) renew(ctx context.Context, role topology.Role, poke <-chan struct{}) {
	for ctx.Err() == nil {
		timer := time.NewTimer(k.renewOnce(ctx, role))
		select {
		case <-ctx.Done():
		case <-poke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// renewOnce makes one attempt and returns how long to wait for the next.
func (k *keeper) renewOnce(ctx context.Context, role topology.Role) time.Duration {
	s := k.state()
	r, known := s.Roles[role]
	if !known {
		return reclaimEvery
	}
	if r.Phase == consensus.Vacant {
		k.reclaim(ctx, s, role, r)
		return reclaimEvery
	}
	if r.Node != k.node || s.Sessions[k.node].ID != k.session {
		return reclaimEvery
	}
	policy := s.Settings.Roles[role].Policy
	nonce := consensus.Nonce(k.nonce.Add(1))
	t0 := k.clock.Now()
	cmd, ok := k.attempt(role, t0, nonce, policy)
	if !ok {
		return s.Settings.Lease.Renew
	}
	attempt, cancel := context.WithTimeout(ctx, s.Settings.Lease.AttemptTimeout)
	_, err := k.propose.Propose(attempt, k.command(cmd))
	cancel()
	switch {
	case err == nil:
		k.result(role, nonce, true)
		return max(0, s.Settings.Lease.Renew-k.clock.Now().Sub(t0))
	case consensus.Refused(err):
		k.result(role, nonce, false)
		k.log.Warn("renewal refused", "role", role, "epoch", cmd.Epoch, "why", err)
		return retryEvery
	default:
		return retryEvery
	}
}

func (k *keeper) attempt(role topology.Role, t0 clock.Instant, nonce consensus.Nonce, policy consensus.Policy) (*consensus.Renew, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h, cmd, ok := k.holders[role].Attempt(t0, nonce, policy)
	k.holders[role] = h
	k.publishLocked()
	return cmd, ok
}

func (k *keeper) result(role topology.Role, nonce consensus.Nonce, accepted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	was := k.holders[role].At(now)
	k.holders[role] = k.holders[role].Result(nonce, accepted)
	if is := k.holders[role].At(now); is.Active != was.Active {
		k.log.Info("active", "role", role, "active", is.Active, "epoch", is.Epoch)
	}
	k.publishLocked()
	k.keepLocked()
}

// reclaim asks for a vacant role when the rules may give it to this node.
func (k *keeper) reclaim(ctx context.Context, s consensus.State, role topology.Role, r consensus.Role) {
	me := s.Members[k.node]
	if me.Witness || s.Settings.Observe || s.Sessions[k.node].ID != k.session {
		return
	}
	_, plan, live := s.LivePlan(role)
	switch {
	case live && (plan.Phase != consensus.PlanGranted || plan.To != me.Region):
		return
	case !live && r.Epoch == 0 && s.Settings.Roles[role].Initial != me.Region:
		return
	case !live && r.Epoch > 0 && (r.Last.Holder != me.Region || r.Last.Basis == consensus.Attested):
		return
	}
	attempt, cancel := context.WithTimeout(ctx, s.Settings.Lease.AttemptTimeout)
	defer cancel()
	_, err := k.propose.Propose(attempt, k.command(&consensus.Reclaim{Role: role, Node: k.node, Session: k.session, Generation: s.Generation, Epoch: r.Epoch + 1}))
	if err == nil {
		k.log.Info("took the role", "role", role, "epoch", r.Epoch+1)
	} else if consensus.Refused(err, consensus.CodeConflict) {
		k.log.Info("role not given back", "role", role, "why", err)
	}
}

func (k *keeper) command(b consensus.Body) consensus.Command {
	return consensus.Command{At: k.clock.Wall(), By: "node " + string(k.node), Body: b}
}

// giveUp turns this node inactive for the roles' current epochs, on disk
// first, so that not even a restart answers otherwise.
func (k *keeper) giveUp(roles []topology.Role) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range roles {
		k.holders[r] = k.holders[r].GiveUp()
	}
	k.publishLocked()
	return k.keepLocked()
}

func (k *keeper) publish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.publishLocked()
}

func (k *keeper) publishLocked() {
	v := maps.Clone(k.holders)
	k.view.Store(&v)
}

// keepLocked writes the deadlines. Without fsync: after a crash of the machine
// they are worthless, and after one of the process the kernel still has them.
func (k *keeper) keepLocked() error {
	kept := []consensus.Deadline{}
	for _, name := range slices.Sorted(maps.Keys(k.holders)) {
		if d, ok := k.holders[name].Deadline(k.boot); ok {
			kept = append(kept, d)
		}
	}
	b, err := json.Marshal(kept)
	if err == nil {
		err = os.WriteFile(k.file+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(k.file+".new", k.file)
	}
	if err != nil {
		k.log.Error("keep leases over a restart", "file", k.file, "error", err)
	}
	return err
}

// verdict answers for now. The second value is false for an unknown role.
func (k *keeper) verdict(role topology.Role) (consensus.Verdict, bool) {
	h, ok := (*k.view.Load())[role]
	if !ok {
		return consensus.Verdict{}, false
	}
	return h.At(k.clock.Now()), true
}

// deadline returns until when this node may act in role, for guards.
func (k *keeper) deadline(role topology.Role) (consensus.Deadline, bool) {
	h, ok := (*k.view.Load())[role]
	if !ok {
		return consensus.Deadline{}, false
	}
	return h.Deadline(k.boot)
}

// sawGuard records what a guard said about its process.
func (k *keeper) sawGuard(id string, g guardSeen) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	for other, o := range k.guards {
		if now.Sub(o.seen) > guardsForget {
			delete(k.guards, other)
		}
	}
	if _, known := k.guards[id]; !known && len(k.guards) >= guardsTracked {
		return fmt.Errorf("%d guards ask already, the limit", guardsTracked)
	}
	g.seen = now
	k.guards[id] = g
	return nil
}

// guarded returns the guards that may still run a process for one of roles:
// those that said so, or that have been silent and not yet past the instant
// until which they were allowed to.
func (k *keeper) guarded(roles []topology.Role, margin time.Duration) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	var out []string
	for _, id := range slices.Sorted(maps.Keys(k.guards)) {
		g := k.guards[id]
		if slices.Contains(roles, g.role) && g.running && now.Before(g.allowed.Add(margin)) {
			out = append(out, fmt.Sprintf("%s (pid %d)", id, g.pid))
		}
	}
	return out
}

func (k *keeper) allGuards() map[string]guardSeen {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.guards)
}
