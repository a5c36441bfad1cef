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
	"github.com/holdfast-dr/holdfast/internal/guard"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	tickEvery    = 100 * time.Millisecond
	tickGapMax   = time.Second            // a longer one means that we, or the clock, stood still
	clocksApart  = 200 * time.Millisecond // between CLOCK_BOOTTIME and CLOCK_MONOTONIC: a suspend
	retryEvery   = 100 * time.Millisecond
	reclaimEvery = 500 * time.Millisecond
	guardsSettle = 3 * time.Second // within which every guard that runs has asked a new daemon
)

// keeper holds this node's leases: it renews them, keeps their deadlines on
// disk, watches the clock, and answers whether this node may act. Its answers
// come from an atomic value and never wait. No disk is waited for under mu:
// neither a renewal nor a word to a guard depends on one, except where a
// promise must be on disk first.
type keeper struct {
	node    topology.Node
	session consensus.SessionID
	boot    string
	clock   clock.Clock
	file    string
	log     *slog.Logger
	propose consensus.Proposer
	state   func() consensus.State

	nonce  atomic.Uint64
	view   atomic.Pointer[map[topology.Role]consensus.Holder] // a copy of holders
	ticked atomic.Int64                                       // the clock.Instant of the last tick
	guards *guard.Registry
	toKeep chan struct{} // the holders changed: keep them on disk

	mu      sync.Mutex
	holders map[topology.Role]consensus.Holder
	version uint64 // of holders
	pokes   map[topology.Role]chan struct{}
	// unbinding: the policy became demote; words no longer say held, and the
	// promise to demote follows once every guard has heard one.
	unbinding map[topology.Role]bool

	disk    sync.Mutex // orders writes of file; never taken under mu
	written uint64     // version that is in file
}

// newKeeper reads the deadlines that an earlier life of this daemon kept.
func newKeeper(node topology.Node, session consensus.SessionID, boot, dir string, timing consensus.LeaseTiming, clk clock.Clock, log *slog.Logger) *keeper {
	k := &keeper{
		node: node, session: session, boot: boot, clock: clk, log: log,
		file:      filepath.Join(dir, "leases.json"),
		toKeep:    make(chan struct{}, 1),
		holders:   map[topology.Role]consensus.Holder{},
		pokes:     map[topology.Role]chan struct{}{},
		unbinding: map[topology.Role]bool{},
	}
	kept, err := readDeadlines(k.file)
	if err != nil {
		// The file only saves a restarted daemon a moment of 503. It never
		// holds more right than a renewal does.
		log.Warn("kept leases are unreadable, waiting for a renewal instead", "file", k.file, "error", err)
	}
	now := clk.Now()
	unsure := map[topology.Role]clock.Instant{} // until when guards that an earlier life allowed may run unheard
	for _, d := range kept {
		h := consensus.NewHolder(d.Role, node, session, timing).Restore(d, boot)
		k.holders[d.Role] = h
		if v := h.At(now); v.Leased {
			log.Info("lease of an earlier life goes on", "role", d.Role, "epoch", d.Epoch, "remaining", v.Remaining.Round(time.Millisecond))
		}
		if d.Boot == boot && !d.Holds {
			unsure[d.Role] = d.Deadline.Add(timing.Margin)
		} else if d.Boot == boot { // one that holds and is stopped now loses its command after the margin
			unsure[d.Role] = now.Add(timing.Margin + guardsSettle)
		}
	}
	k.guards = guard.NewRegistry(now, guardsSettle, unsure)
	k.ticked.Store(int64(now))
	k.publish()
	return k
}

func readDeadlines(file string) ([]consensus.Deadline, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kept leases: %w", err)
	}
	var kept []consensus.Deadline
	if err := json.Unmarshal(b, &kept); err != nil {
		return nil, fmt.Errorf("decode %s: %w", file, err)
	}
	return kept, nil
}

// run renews until ctx ends. propose and state must be set.
func (k *keeper) run(ctx context.Context, changes <-chan struct{}) {
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		_ = k.keep() // the last word before a restart; it has logged
	}()
	wg.Go(func() { k.watchClock(ctx) })
	wg.Go(func() { k.keepOnDisk(ctx) })
	started := map[topology.Role]bool{}
	again := time.NewTicker(reclaimEvery)
	defer again.Stop()
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
		case _, open := <-changes:
			if !open {
				changes = nil // the ticker goes on
			}
		case <-again.C:
		}
	}
}

// watchClock notices when this process, or its clock, stood still. It waits
// for nothing but time.
func (k *keeper) watchClock(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	last, lastMono := k.clock.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, mono := k.clock.Now(), time.Now()
		gap, monoGap := now.Sub(last), mono.Sub(lastMono)
		if gap > tickGapMax || gap-monoGap > clocksApart || monoGap-gap > clocksApart {
			k.clockUnsafe(now, gap)
		}
		last, lastMono = now, mono
		k.ticked.Store(int64(now))
	}
}

// moves reports whether the clock was watched within d.
func (k *keeper) moves(d time.Duration) bool {
	return k.clock.Now().Sub(clock.Instant(k.ticked.Load())) < d
}

func (k *keeper) clockUnsafe(now clock.Instant, gap time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	held := 0
	for name, h := range k.holders {
		v := h.At(now)
		if v.Held && gap < k.state().Settings.Lease.TTL {
			// It acts by no deadline that a clock could get wrong, and without a
			// quorum no renewal could make it safe again.
			continue
		}
		if v.Leased {
			held++
		}
		k.holders[name] = h.ClockUnsafe(now)
		k.pokeLocked(name) // only a renewal that is sent from now on makes us safe
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
			k.pokeLocked(name)
		}
	}
	if changed {
		k.publishLocked()
		k.keepSoon()
	}
}

// poke returns what tells the renewals of role not to wait.
func (k *keeper) poke(role topology.Role) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pokeLocked(role)
}

// pokeLocked tells the renewals of role, present and future, not to wait.
func (k *keeper) pokeLocked(role topology.Role) <-chan struct{} {
	c, ok := k.pokes[role]
	if !ok {
		c = make(chan struct{}, 1)
		k.pokes[role] = c
	}
	select {
	case c <- struct{}{}:
	default:
	}
	return c
}

// renew keeps one role renewed while this node holds it, and asks for it back
// when it was lost by expiry alone.
func (k *keeper) renew(ctx context.Context, role topology.Role, poke <-chan struct{}) {
	said := ""
	for ctx.Err() == nil {
		wait, trouble := k.renewOnce(ctx, role)
		if trouble != "" && trouble != said {
			k.log.Warn("lease", "role", role, "trouble", trouble)
		}
		said = trouble
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-poke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// renewOnce makes one attempt. It returns how long to wait for the next, and
// what went wrong, if that is worth telling.
func (k *keeper) renewOnce(ctx context.Context, role topology.Role) (wait time.Duration, trouble string) {
	s := k.state()
	r, known := s.Roles[role]
	if !known {
		return reclaimEvery, ""
	}
	if r.Phase == consensus.Vacant {
		return reclaimEvery, k.reclaim(ctx, s, role, r)
	}
	if r.Node != k.node || s.Sessions[k.node].ID != k.session {
		return reclaimEvery, ""
	}
	nonce := consensus.Nonce(k.nonce.Add(1))
	t0 := k.clock.Now()
	policy := s.Settings.Roles[role].Policy
	cmd, promise, ok := k.attempt(role, t0, nonce, policy)
	if !ok {
		return s.Settings.Lease.Renew, ""
	}
	if cmd.Policy != policy {
		trouble = "bound to hold until every guard has heard that the policy is demote; if one was killed, restart this daemon"
	}
	if promise {
		if err := k.keep(); err != nil {
			return retryEvery, "" // a restart would still hold: it was logged
		}
	}
	attempt, cancel := context.WithTimeout(ctx, s.Settings.Lease.AttemptTimeout)
	_, err := k.propose.Propose(attempt, k.command(cmd))
	cancel()
	switch {
	case err == nil:
		k.result(role, nonce, true)
		return max(0, s.Settings.Lease.Renew-k.clock.Now().Sub(t0)), trouble
	case consensus.Refused(err):
		k.result(role, nonce, false)
		return retryEvery, "renewal refused: " + err.Error()
	default:
		return retryEvery, trouble
	}
}

// attempt begins a renewal. promise says that it binds this node to demote,
// which must be on disk before the renewal is proposed. While guards still go
// by a word that said held, it binds to hold, as before.
func (k *keeper) attempt(role topology.Role, t0 clock.Instant, nonce consensus.Nonce, policy consensus.Policy) (cmd *consensus.Renew, promise, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unbinding[role] = policy == consensus.Demote
	if policy == consensus.Demote && len(k.guards.Holding(role)) > 0 {
		policy = consensus.Hold
	}
	before, _ := k.holders[role].Deadline(k.boot)
	h, cmd, ok := k.holders[role].Attempt(t0, nonce, policy)
	k.holders[role] = h
	k.publishLocked()
	after, _ := h.Deadline(k.boot)
	return cmd, before.Holds && !after.Holds, ok
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
	k.keepSoon()
}

// reclaim asks for a vacant role when the rules give it to this node. The
// rules are those of the log, so it is asked here first: what would be
// refused does not get there twice a second.
func (k *keeper) reclaim(ctx context.Context, s consensus.State, role topology.Role, r consensus.Role) (trouble string) {
	me := s.Members[k.node]
	if me.Witness || me.Region == "" || s.Settings.Observe || s.Sessions[k.node].ID != k.session {
		return ""
	}
	cmd := k.command(&consensus.Reclaim{Role: role, Node: k.node, Session: k.session, Generation: s.Generation, Epoch: r.Epoch + 1})
	if _, err := s.Apply(cmd); err != nil {
		return ""
	}
	attempt, cancel := context.WithTimeout(ctx, s.Settings.Lease.AttemptTimeout)
	defer cancel()
	_, err := k.propose.Propose(attempt, cmd)
	switch {
	case err == nil:
		k.log.Info("took the role", "role", role, "epoch", r.Epoch+1)
	case consensus.Refused(err, consensus.CodeConflict):
		return "role not given back: " + err.Error()
	}
	return ""
}

func (k *keeper) command(b consensus.Body) consensus.Command {
	return consensus.Command{At: k.clock.Wall(), By: "node " + string(k.node), Body: b}
}

// giveUp turns this node inactive for the current epochs of roles that it
// holds, on disk too, so that not even a restart answers otherwise. No guard
// hears a yes after it has begun. It returns what was given up.
func (k *keeper) giveUp(roles []topology.Role) ([]consensus.Deadline, error) {
	k.mu.Lock()
	var given []consensus.Deadline
	for _, r := range roles {
		h, known := k.holders[r]
		if !known {
			continue
		}
		h = h.GiveUp()
		k.holders[r] = h
		if d, holds := h.Deadline(k.boot); holds {
			given = append(given, d)
		}
	}
	k.publishLocked()
	k.mu.Unlock()
	return given, k.keep()
}

func (k *keeper) publish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.publishLocked()
}

func (k *keeper) publishLocked() {
	v := maps.Clone(k.holders)
	k.view.Store(&v)
	k.version++
}

// keepSoon has the deadlines written without waiting for it.
func (k *keeper) keepSoon() {
	select {
	case k.toKeep <- struct{}{}:
	default:
	}
}

func (k *keeper) keepOnDisk(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.toKeep:
			_ = k.keep() // it has logged; the next renewal tries again
		}
	}
}

// keep writes the deadlines. Without fsync: after a crash of the machine they
// are worthless, and after one of the process the kernel still has them.
func (k *keeper) keep() error {
	k.disk.Lock()
	defer k.disk.Unlock()
	kept := []consensus.Deadline{}
	k.mu.Lock()
	version := k.version
	for _, name := range slices.Sorted(maps.Keys(k.holders)) {
		if d, ok := k.holders[name].Deadline(k.boot); ok {
			kept = append(kept, d)
		}
	}
	k.mu.Unlock()
	if version == k.written {
		return nil
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
		return fmt.Errorf("keep leases over a restart: %w", err)
	}
	k.written = version
	return nil
}

// verdict answers for now. The second value is false for an unknown role.
func (k *keeper) verdict(role topology.Role) (consensus.Verdict, bool) {
	h, ok := (*k.view.Load())[role]
	if !ok {
		return consensus.Verdict{}, false
	}
	return h.At(k.clock.Now()), true
}

// word answers a guard and remembers what it said: a word that allows is
// either recorded before a release begins, or not given.
func (k *keeper) word(st guard.Status, gen consensus.Generation, timing consensus.LeaseTiming) (guard.Word, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	h := k.holders[st.Role]
	w := guard.WordOf(h, now, k.boot, gen, timing)
	if d, _ := h.Deadline(k.boot); w.Held && k.unbinding[st.Role] && now.Before(d.Deadline) {
		w.Held, w.Deadline = false, d.Deadline
	}
	return w, k.guards.Answer(now, st, w)
}

// running describes the guards that may still run something for one of roles.
func (k *keeper) running(roles []topology.Role) []string {
	var out []string
	now := k.clock.Now()
	for _, role := range roles {
		busy, err := k.guards.Running(now, role)
		for _, g := range busy {
			out = append(out, fmt.Sprintf("%s of guard %s (pid %d)", role, g.ID, g.PID))
		}
		if err != nil && len(busy) == 0 {
			out = append(out, fmt.Sprintf("%s: %s", role, err))
		}
	}
	return out
}
