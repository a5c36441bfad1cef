package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	fillPoll    = 10 * time.Millisecond
	fillApplied = 2 * time.Second // how long an applied entry may take to be seen here
	fillRetry   = 200 * time.Millisecond
)

// fills hands out the right to fill holes to one run of a mirror: generations
// that the log gives to nobody else. It is safe for concurrent use, and an
// answer that was lost costs nothing but another question.
type fills struct {
	link    consensus.LinkID
	epoch   uint64
	state   func() consensus.State
	propose consensus.Proposer
	command func(consensus.Body) consensus.Command

	mu    sync.Mutex
	nonce string // the last one that something was handed out to here
}

// Take returns a generation that nobody else has or had, higher than above.
// Settled says that no request of an earlier block of generations can be
// under way; otherwise wait for them, and say so with Settle.
func (f *fills) Take(ctx context.Context, above replicate.Generation) (g replicate.Generation, settled bool, err error) {
	for {
		nonce := rand.Text()
		if err := f.put(ctx, &consensus.TakeFill{Link: f.link, Epoch: f.epoch, Nonce: nonce, Above: int32(above)}); err != nil {
			return 0, false, fmt.Errorf("ask for the right to fill holes of %s: %w", f.link, err)
		}
		// The entry is applied, here perhaps a moment later. Should another
		// one have asked right behind us, ours is worth nothing: ask again.
		for end := time.Now().Add(fillApplied); time.Now().Before(end); {
			if l := f.state().Links[f.link]; l.FillBy == nonce {
				f.mu.Lock()
				f.nonce = nonce
				f.mu.Unlock()
				return replicate.Generation(l.Fill), l.FillSettled >= consensus.FillBlock(l.Fill), nil
			}
			if err := sleep(ctx, fillPoll); err != nil {
				return 0, false, fmt.Errorf("ask for the right to fill holes of %s: %w", f.link, err)
			}
		}
	}
}

// Settle records that no request of a generation in an earlier block than g's
// can be under way.
func (f *fills) Settle(ctx context.Context, g replicate.Generation) error {
	err := f.put(ctx, &consensus.SettleFill{Link: f.link, Block: g.Block()})
	if err != nil && !consensus.Refused(err, consensus.CodeStale) { // stale: it is in the log already
		return fmt.Errorf("record that earlier fillers of %s are gone: %w", f.link, err)
	}
	return nil
}

// Held reports whether g is the last one handed out, and to us, as far as this
// node has heard. The target refuses the markers of any other.
func (f *fills) Held(g replicate.Generation) bool {
	f.mu.Lock()
	nonce := f.nonce
	f.mu.Unlock()
	l := f.state().Links[f.link]
	return nonce != "" && l.FillBy == nonce && l.Fill == int32(g) && l.Epoch == f.epoch && l.Phase == consensus.LinkRunning
}

// put proposes until the log has decided.
func (f *fills) put(ctx context.Context, b consensus.Body) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := f.propose.Propose(attempt, f.command(b))
		cancel()
		if err == nil || consensus.Refused(err) {
			return err
		}
		if sleep(ctx, fillRetry) != nil {
			return err
		}
	}
}

// leases hands out generations to the mirror of a link at its present epoch.
func (m *mirrors) leases(id consensus.LinkID, l consensus.Link) mirror.Leaser {
	return &fills{link: id, epoch: l.Epoch, state: m.state, propose: m.propose, command: m.command}
}
