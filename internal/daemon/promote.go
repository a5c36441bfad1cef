package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/consensus"
	steps "github.com/holdfast-dr/holdfast/failover/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// CloseTransactions implements steps.Region.
func (h here) CloseTransactions(ctx context.Context) ([]string, error) {
	cl, err := h.kafka()
	if err != nil {
		return nil, err
	}
	return mirror.CloseTransactions(ctx, cl, h.topics)
}

// Fence implements steps.Region.
func (h here) Fence(ctx context.Context, id consensus.LinkID, to consensus.Offsets) (steps.Fenced, error) {
	cl, err := h.kafka()
	if err != nil {
		return steps.Fenced{}, err
	}
	opt := h.promotion(id, h.state().Links[id])
	opt.Topics, opt.LeapTo = h.topics, flat(to)
	done, err := mirror.Promote(ctx, cl, opt)
	var strays *mirror.StrayError
	if err != nil && !errors.As(err, &strays) {
		return steps.Fenced{}, err
	}
	var out steps.Fenced
	if strays != nil { // the fence stands all the same
		h.log.Error("a mirror wrote behind its end", "link", id, "error", strays)
		out.Stray = strays.Error()
	}
	ends, leaps := map[topology.Partition]int64{}, map[topology.Partition]int64{}
	for _, p := range done {
		ends[p.Partition], leaps[p.Partition] = p.X, p.End
		if p.Short > 0 {
			out.Short = append(out.Short, fmt.Sprintf("%s: %d offsets", p.Partition, p.Short))
		}
	}
	out.Ends, out.Leaps = nested(ends), nested(leaps)
	h.log.Info("shut every mirror out", "link", id, "partitions", len(done), "short_of_the_leap", len(out.Short))
	return out, nil
}

// Leap implements steps.Region.
func (h here) Leap(ctx context.Context, id consensus.LinkID, to consensus.Offsets) (consensus.Offsets, error) {
	cl, err := h.kafka()
	if err != nil {
		return nil, err
	}
	opt := h.promotion(id, h.state().Links[id])
	opt.LeapTo = flat(to)
	ends, err := mirror.Leap(ctx, cl, opt)
	if err != nil {
		return nil, err
	}
	return nested(ends), nil
}

func (m *mirrors) promotion(id consensus.LinkID, l consensus.Link) mirror.PromoteOptions {
	return mirror.PromoteOptions{
		Link: linkOf(l), Starts: flat(l.Starts), LeapBudget: m.leap,
		Progress: func(p mirror.PromoteProgress) {
			m.log.Debug("promotion", "link", id, "step", p.Step, "done", p.Done, "of", p.Of, "waits_for", p.Why)
		},
	}
}

func linkOf(l consensus.Link) replicate.Link {
	return replicate.Link{Source: l.From, Target: l.To, Epoch: l.Epoch}
}
