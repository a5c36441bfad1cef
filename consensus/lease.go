package consensus

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Why two regions never answer "active" at one instant, for one role whose
// holder was told to Demote:
//
//  1. A node acts at most until t0 + TTL - margin, where t0 was read on its
//     own clock before it proposed the renewal that armed it, and the log
//     accepted that very renewal, as sequence n.
//  2. A leader proposes Expire{n} only after it has seen sequence n in its own
//     term for TTL·(1+ρ)/(1-ρ)+δ on its own clock. It saw n after it was
//     proposed, so after t0. With rates within ρ of true time, that count ends
//     after t0 + TTL of the holder's clock. TTL is the longest that a renewal
//     of this epoch declared, so a shorter one in new settings is no trap.
//  3. Expire{n} is refused if a renewal n+1 was accepted first. So nobody is
//     armed by a sequence that nobody counted.
//  4. Grant needs a vacant role: after an Expire, a Release (its holder has
//     turned inactive before it proposed it) or a person's attestation.
//
// The margin is not needed for this argument. It covers what stands between
// our answer and its effect: a balancer that asks every second, a guarded
// process that needs a moment to end.

// LeaseTiming are the durations of a lease. All nodes use the same ones: they
// are part of Settings.
type LeaseTiming struct {
	TTL            time.Duration `json:"ttl"`
	Renew          time.Duration `json:"renew"`           // between renewals
	AttemptTimeout time.Duration `json:"attempt_timeout"` // of one renewal
	Margin         time.Duration `json:"margin"`
	Delta          time.Duration `json:"delta"` // a constant added to the leader's count
	ClockRatePPM   int64         `json:"clock_rate_ppm"`
}

// DefaultLeaseTiming is for regions up to 150 ms apart.
var DefaultLeaseTiming = LeaseTiming{
	TTL: 16 * time.Second, Renew: 2 * time.Second, AttemptTimeout: time.Second,
	Margin: 5 * time.Second, Delta: 200 * time.Millisecond, ClockRatePPM: 1000,
}

// ttlMax bounds every duration of a lease, so that sums of them stay exact.
const ttlMax = time.Hour

// Check says whether the durations can work at all.
func (t LeaseTiming) Check() error {
	switch {
	case t.TTL <= 0 || t.Renew <= 0 || t.AttemptTimeout <= 0 || t.Delta < 0:
		return errors.New("lease: ttl, renew and attempt_timeout must be above 0")
	case t.TTL > ttlMax || t.Renew > ttlMax || t.AttemptTimeout > ttlMax || t.Delta > ttlMax:
		return fmt.Errorf("lease: no duration may exceed %s", ttlMax)
	case t.Margin <= 0 || t.Margin >= t.TTL:
		return fmt.Errorf("lease: margin %s must lie between 0 and the ttl of %s", t.Margin, t.TTL)
	case t.Renew+t.AttemptTimeout > t.TTL-t.Margin:
		return fmt.Errorf("lease: renew %s + attempt_timeout %s exceed ttl %s - margin %s: a lease would lapse between two renewals", t.Renew, t.AttemptTimeout, t.TTL, t.Margin)
	case t.ClockRatePPM < 0 || t.ClockRatePPM > 100_000:
		return fmt.Errorf("lease: clock_rate_ppm %d must lie between 0 and 100000", t.ClockRatePPM)
	}
	return nil
}

// Count is how long a leader waits, on its own clock, before it takes a lease
// that it saw renewed to be over: TTL·(1+ρ)/(1-ρ)+δ, which is TTL·(1+2ρ)+δ
// for the small ρ of real clocks.
func (t LeaseTiming) Count() time.Duration {
	skew := 2*t.ClockRatePPM*int64(t.TTL)/(1_000_000-t.ClockRatePPM) + 1 // rounded up
	return t.TTL + time.Duration(skew) + t.Delta
}

// attemptsMax bounds the renewals whose answer is awaited.
const attemptsMax = 16

type attempt struct {
	nonce  Nonce
	t0     clock.Instant
	until  clock.Instant // what it arms
	epoch  Epoch
	gen    Generation
	policy Policy
}

// Holder says whether a node may act in one role. It is a value: each method
// returns the next one. It holds no clock; every instant is CLOCK_BOOTTIME of
// the node it runs on.
type Holder struct {
	role    topology.Role
	node    topology.Node
	session SessionID
	timing  LeaseTiming

	gen   Generation // of the grant that the fields below are about
	epoch Epoch
	phase Phase // as last applied here; Vacant if another node holds it

	armed    bool          // deadline is set
	deadline clock.Instant // act before it
	holds    bool          // the last accepted renewal bound us to Hold, and none since to Demote
	released Epoch         // sticky: this epoch was given up here
	unsafe   bool          // our clock cannot be trusted until a renewal is accepted
	unsafeAt clock.Instant

	attempts []attempt
	demoted  Nonce // of the last attempt that bound us to Demote, whatever became of it
}

// NewHolder returns a holder that may not act.
func NewHolder(role topology.Role, node topology.Node, session SessionID, timing LeaseTiming) Holder {
	return Holder{role: role, node: node, session: session, timing: timing, phase: Vacant}
}

// Observe takes in what the log says about the role. It never arms a lease.
func (h Holder) Observe(gen Generation, r Role, timing LeaseTiming) Holder {
	h.timing = timing
	if r.Node != h.node || r.Phase == Vacant {
		if gen < h.gen || gen == h.gen && r.Epoch < h.epoch {
			return h // an older state than the one we restored from
		}
		h.phase, h.armed, h.holds, h.attempts = Vacant, false, false, nil
		h.gen, h.epoch = gen, r.Epoch
		return h
	}
	if gen < h.gen || gen == h.gen && r.Epoch < h.epoch {
		return h
	}
	if gen != h.gen || r.Epoch != h.epoch {
		h.gen, h.epoch, h.phase = gen, r.Epoch, Vacant
		h.armed, h.holds, h.attempts = false, false, nil
	}
	if order[r.Phase] > order[h.phase] || h.phase == Vacant {
		h.phase = r.Phase // a replayed log passes through phases that are over
	}
	return h
}

// order is the way of a role through one epoch; it never goes back.
var order = map[Phase]int{Closed: 1, Open: 2, Draining: 3}

// Attempt starts a renewal at now. The caller keeps the new Deadline, then
// proposes the returned command and reports what became of it to Result, with
// the nonce, which starts above 0 and must rise within a session. It returns
// false when there is nothing to renew.
func (h Holder) Attempt(now clock.Instant, nonce Nonce, policy Policy) (Holder, *Renew, bool) {
	if h.phase == Vacant || h.released == h.epoch {
		return h, nil, false
	}
	if policy == Demote {
		h.holds, h.demoted = false, nonce // bound from the moment it may be accepted
	}
	until := now.Add(h.timing.TTL - h.timing.Margin)
	h.attempts = append(slices.Clone(h.attempts), attempt{nonce, now, until, h.epoch, h.gen, policy})
	if len(h.attempts) > attemptsMax {
		h.attempts = h.attempts[len(h.attempts)-attemptsMax:]
	}
	return h, &Renew{Role: h.role, Node: h.node, Session: h.session, Generation: h.gen, Epoch: h.epoch, Policy: policy, TTL: h.timing.TTL, Nonce: nonce}, true
}

// Result takes in the outcome of the attempt with this nonce. Call it with
// accepted only if Apply accepted that very attempt; an answer that was lost
// is no answer. Unknown and repeated nonces change nothing.
func (h Holder) Result(nonce Nonce, accepted bool) Holder {
	i := slices.IndexFunc(h.attempts, func(a attempt) bool { return a.nonce == nonce })
	if i < 0 {
		return h
	}
	a := h.attempts[i]
	h.attempts = slices.Delete(slices.Clone(h.attempts), i, i+1)
	if accepted { // the log refuses earlier attempts from now on
		h.attempts = slices.DeleteFunc(h.attempts, func(b attempt) bool { return b.nonce < nonce })
	}
	if !accepted || a.gen != h.gen || a.epoch != h.epoch || h.phase == Vacant || h.released == h.epoch {
		return h
	}
	if h.unsafe {
		if a.t0.Before(h.unsafeAt) {
			return h // it was sent before the clock jumped
		}
		h.unsafe = false
	}
	if !h.armed || h.deadline.Before(a.until) {
		h.armed, h.deadline = true, a.until
	}
	if a.policy == Hold && a.nonce > h.demoted { // else the log may still accept the later one
		h.holds = true
	}
	return h
}

// GiveUp turns the holder inactive for the rest of this epoch, whatever is
// accepted later. Release is proposed only after it.
func (h Holder) GiveUp() Holder {
	h.released = h.epoch
	return h
}

// ClockUnsafe turns the holder inactive until a renewal sent after now has
// been accepted: the clock stood still, jumped, or disagrees with another.
func (h Holder) ClockUnsafe(now clock.Instant) Holder {
	h.unsafe, h.unsafeAt = true, now
	return h
}

// Verdict is what a holder answers at one instant.
type Verdict struct {
	Active    bool          // the role is open here and the lease is valid, or held
	Leased    bool          // the lease is valid or held, whatever the phase: a guarded process may run while open or draining
	Held      bool          // past the deadline, by the policy hold
	Phase     Phase         // as last applied here
	Epoch     Epoch         // of the grant
	Remaining time.Duration // until the deadline; 0 when held or not leased
	Why       string        // one sentence, when not Active
}

// At answers for the instant now. Read the clock again after composing a
// response, and ask again: the answer is good for its own instant only.
func (h Holder) At(now clock.Instant) Verdict {
	v := Verdict{Phase: h.phase, Epoch: h.epoch}
	switch {
	case h.phase == Vacant:
		v.Why = "this region does not hold the role"
		return v
	case h.released == h.epoch:
		v.Why = "the role is being released"
		return v
	case h.unsafe:
		v.Why = "the clock of this node stood still or jumped; waiting for a renewal"
		return v
	case h.armed && now.Before(h.deadline):
		v.Leased, v.Remaining = true, h.deadline.Sub(now)
	case h.holds && h.phase == Open:
		v.Leased, v.Held = true, true
	case h.armed:
		v.Why = fmt.Sprintf("the lease ran out %s ago", now.Sub(h.deadline).Round(time.Millisecond))
		return v
	default:
		v.Why = "no renewal has been accepted yet"
		return v
	}
	v.Active = h.phase == Open
	if !v.Active {
		v.Why = "the role is " + string(h.phase) + " here"
	}
	return v
}

// Deadline is what a node keeps on disk, so that its daemon may restart
// within it. It is worthless after a reboot: CLOCK_BOOTTIME starts anew.
//
// What is on disk must never allow more than the Holder itself. So keep it,
// and tell what runs under guard, after an accepted Result, and before a
// command leaves that binds the holder to less: the Renew of an Attempt that
// ended Holds, and the Release after GiveUp.
type Deadline struct {
	Boot       string        `json:"boot"`
	Role       topology.Role `json:"role"`
	Generation Generation    `json:"generation"`
	Epoch      Epoch         `json:"epoch"`
	Deadline   clock.Instant `json:"deadline"`
	Holds      bool          `json:"holds,omitempty"`
	Phase      Phase         `json:"phase"`
	Released   bool          `json:"released,omitempty"`
}

// Deadline returns what to keep, or false when there is nothing.
func (h Holder) Deadline(boot string) (Deadline, bool) {
	if h.phase == Vacant {
		return Deadline{}, false
	}
	d := Deadline{Boot: boot, Role: h.role, Generation: h.gen, Epoch: h.epoch, Holds: h.holds, Phase: h.phase, Released: h.released == h.epoch}
	if h.armed && !h.unsafe {
		d.Deadline = h.deadline
	}
	return d, true
}

// Restore continues from what an earlier life of this daemon kept on the same
// boot. A released epoch stays released; a lease that ran out stays so.
func (h Holder) Restore(d Deadline, boot string) Holder {
	if d.Boot != boot || d.Role != h.role || d.Generation < h.gen || d.Generation == h.gen && d.Epoch < h.epoch {
		return h
	}
	h.gen, h.epoch, h.phase = d.Generation, d.Epoch, d.Phase
	h.holds = d.Holds
	if d.Released {
		h.released = d.Epoch
	}
	if d.Deadline != 0 {
		h.armed, h.deadline = true, d.Deadline
	}
	return h
}

// Watch counts leases out on the leader. It is a value; each leader starts
// with an empty one in each term, and counts only what it saw itself.
type Watch struct {
	term uint64
	seen map[topology.Role]sighting
}

type sighting struct {
	gen      Generation
	epoch    Epoch
	sequence uint64
	at       clock.Instant
}

// Look takes in the state at now, in the given term of this leader, and
// returns the leases that have been counted out, in the order of role names.
func (w Watch) Look(now clock.Instant, term uint64, s State) (Watch, []*Expire) {
	if term != w.term {
		w = Watch{term: term}
	}
	seen := make(map[topology.Role]sighting, len(s.Roles))
	var over []*Expire
	for _, name := range slices.Sorted(maps.Keys(s.Roles)) {
		r := s.Roles[name]
		if r.Phase == Vacant {
			continue
		}
		last, known := w.seen[name]
		if !known || last.gen != s.Generation || last.epoch != r.Epoch || last.sequence != r.Sequence {
			last = sighting{s.Generation, r.Epoch, r.Sequence, now}
		}
		seen[name] = last
		timing := s.Settings.Lease
		timing.TTL = max(timing.TTL, r.TTL)
		if r.Policy == Demote && now.Sub(last.at) >= timing.Count() {
			over = append(over, &Expire{Role: name, Generation: s.Generation, Epoch: r.Epoch, Sequence: r.Sequence})
		}
	}
	w.seen = seen
	return w, over
}

// Overdue returns how long ago the last renewal of a held role was seen, or
// false when the role is vacant or was not seen.
func (w Watch) Overdue(now clock.Instant, role topology.Role) (time.Duration, bool) {
	s, ok := w.seen[role]
	if !ok {
		return 0, false
	}
	return now.Sub(s.at), true
}
