package guard

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Word is what the local daemon answers about one role.
type Word struct {
	Phase      consensus.Phase      `json:"phase"` // as last applied here
	Leased     bool                 `json:"leased"`
	Epoch      consensus.Epoch      `json:"epoch"`
	Generation consensus.Generation `json:"generation"`
	// Deadline is the instant before which this region may act. It is no
	// limit when Held.
	Deadline clock.Instant `json:"deadline,omitempty"`
	// Held: the policy hold binds the lease, so nothing but this region or a
	// person takes the role away. A daemon may say so as soon as the last
	// accepted renewal bound it (consensus.Deadline.Holds, while Open), not
	// only past the deadline; then its own death does not end the command.
	// A guard that was told so goes on for good, so before a daemon binds
	// itself to demote again (consensus.Holder.Attempt), it answers without
	// Held until Registry.Holding is empty.
	Held   bool          `json:"held,omitempty"`
	Margin time.Duration `json:"margin"`
	// Now is what the daemon's CLOCK_BOOTTIME read as it answered, and BootID
	// its boot. A guard whose clock disagrees does not use the word: it sits
	// in another time namespace, or on another machine.
	Now    clock.Instant `json:"now"`
	BootID string        `json:"boot_id"`
	Why    string        `json:"why,omitempty"` // not leased
}

// WordOf is the word of a daemon whose holder is h, at now on boot. gen is the
// generation of its state, which counts when h holds nothing.
func WordOf(h consensus.Holder, now clock.Instant, boot string, gen consensus.Generation, timing consensus.LeaseTiming) Word {
	v := h.At(now)
	w := Word{Phase: v.Phase, Leased: v.Leased, Epoch: v.Epoch, Generation: gen, Held: v.Held, Margin: timing.Margin, Now: now, BootID: boot, Why: v.Why}
	d, holds := h.Deadline(boot)
	if holds {
		w.Generation = d.Generation
	}
	if v.Leased && d.Holds && v.Phase == consensus.Open {
		w.Held = true
	}
	if v.Leased && !w.Held {
		w.Deadline = d.Deadline
	}
	return w
}

// Allows reports whether the word lets the command run, as of its own time.
func (w Word) Allows() bool {
	return w.Leased && (w.Phase == consensus.Open || w.Phase == consensus.Draining)
}

// Status is what a guard tells the daemon with each question.
type Status struct {
	ID    string          `json:"id"` // of this life of the guard
	Role  topology.Role   `json:"role"`
	Epoch consensus.Epoch `json:"epoch,omitempty"` // of the command; 0 when none runs
	PID   int             `json:"pid,omitempty"`   // of the command, once known
	// Running is true from before the command starts until everything of it
	// is gone.
	Running bool `json:"running"`
	// AllowedUntil is the deadline of the word that the guard goes by, whether
	// or not a command runs; 0 when that word says no, or is Held.
	AllowedUntil clock.Instant `json:"allowed_until,omitempty"`
	Held         bool          `json:"held,omitempty"`
	Gone         bool          `json:"gone,omitempty"` // the guard ends for good
}

// Daemon is the way to the local daemon.
type Daemon interface {
	// Ask reports s and returns the daemon's word on its role. An error means
	// that there is no word: the guard goes on by the last one.
	Ask(ctx context.Context, s Status) (Word, error)
}
