package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/agent"
)

// ClosedEvidence lists the transactions that were ended.
type ClosedEvidence struct {
	Ended []string `json:"ended,omitempty"`
}

func (s *steps) closeTransactions(ctx context.Context, _ agent.Task, _ agent.Fence) (any, error) {
	ended, err := patiently(ctx, s.region.CloseTransactions)
	if err != nil {
		return nil, fmt.Errorf("end the transactions that were left open: %w", err)
	}
	return ClosedEvidence{ended}, nil
}

// How far a leap goes beyond the last end that was seen at the source.
const (
	leapMargin = 3   // times what the source took in meanwhile, at its last rate
	leapLeast  = 256 // offsets, for a partition that was quiet
)

// LeapTo returns where the new region's own records may begin, so that no
// offset is used twice: behind all that the source may have accepted since it
// was last seen. Ends are the target's.
func LeapTo(now time.Time, st Stopped, ends consensus.Offsets) consensus.Offsets {
	out := consensus.Offsets{}
	for _, tp := range partitions(ends, st.SourceEnds) {
		at := max(ends[tp.Topic][tp.Partition], st.SourceEnds[tp.Topic][tp.Partition])
		unseen := 0.0
		if !st.Seen.IsZero() {
			unseen = max(0, now.Sub(st.Seen).Seconds())
		}
		room := leapLeast + math.Ceil(leapMargin*unseen*st.Rates[tp.Topic][tp.Partition])
		if out[tp.Topic] == nil {
			out[tp.Topic] = map[int32]int64{}
		}
		out[tp.Topic][tp.Partition] = at + int64(min(room, math.MaxInt32))
	}
	return out
}

// fence shuts the mirrors out. It comes after the grant: see the package
// failover. Said again it finds the same end.
func (s *steps) fence(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec failover.LinkSpec
	if err := decode(t, &spec); err != nil {
		return nil, err
	}
	link, err := s.ended(spec.Link)
	if err != nil {
		return nil, err
	}
	var to consensus.Offsets
	if t.Plan.Kind == consensus.Unplanned {
		to = LeapTo(time.Now(), s.stopped(t, link), link.Ends)
	}
	if err := f.Check(); err != nil {
		return nil, err
	}
	got, err := patiently(ctx, func(ctx context.Context) (Fenced, error) { return s.region.Fence(ctx, spec.Link, to) })
	if err != nil {
		return nil, fmt.Errorf("shut the mirrors of %s out: %w", spec.Link, err)
	}
	// The link ended no earlier than where its mirror stood when it stopped:
	// what was mirrored does not go away.
	missing, late := compare(link.Ends, got.Ends)
	if len(missing) > 0 {
		return nil, fmt.Errorf("the target lost mirrored records since the mirror stopped: %s; are all of its brokers back?", head(missing))
	}
	got.Late = late[:min(len(late), shortShown)]
	got.Short = got.Short[:min(len(got.Short), shortShown)]
	if err := s.record(ctx, f, &consensus.FenceLink{Link: spec.Link, Epoch: link.Epoch, Ends: got.Ends, Leaps: got.Leaps}); err != nil {
		return nil, fmt.Errorf("record where %s was fenced: %w", spec.Link, err)
	}
	return got, nil
}

const shortShown = 20

// ended returns a link whose mirror has stopped.
func (s *steps) ended(id consensus.LinkID) (consensus.Link, error) {
	link, ok := s.region.State().Links[id]
	if !ok || link.Phase != consensus.LinkEnded {
		return link, fmt.Errorf("link %s has not ended: its mirror must have stopped first", id)
	}
	return link, nil
}

// stopped is what the stop of the mirror left behind, in this plan or, when
// the link had ended before it, in the link itself.
func (s *steps) stopped(t agent.Task, link consensus.Link) Stopped {
	var st Stopped
	if raw, ok := t.Plan.Evidence(failover.KindMirrorStop); ok && json.Unmarshal(raw, &st) == nil && len(st.SourceEnds) > 0 {
		return st
	}
	return Stopped{SourceEnds: link.SourceEnds}
}

// LeapEvidence says from where on this region's own records are.
type LeapEvidence struct {
	Began consensus.Offsets `json:"began"`
}

// leap is for a role that comes back by a second plan before the first one had
// reversed the mirror: the region that it leaves has used offsets for its
// fence, and for records if it was open.
func (s *steps) leap(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec failover.LinkSpec
	if err := decode(t, &spec); err != nil {
		return nil, err
	}
	link, err := s.ended(spec.Link)
	if err != nil {
		return nil, err
	}
	used := link.Leaps
	if len(used) == 0 {
		used = link.Ends
	}
	to := LeapTo(time.Now(), Stopped{}, used)
	if err := f.Check(); err != nil {
		return nil, err
	}
	began, err := patiently(ctx, func(ctx context.Context) (consensus.Offsets, error) { return s.region.Leap(ctx, spec.Link, to) })
	if err != nil {
		return nil, fmt.Errorf("skip the offsets that %s may have used: %w", link.To, err)
	}
	if err := s.record(ctx, f, &consensus.FenceLink{Link: spec.Link, Epoch: link.Epoch, Began: began}); err != nil {
		return nil, fmt.Errorf("record what was skipped: %w", err)
	}
	return LeapEvidence{began}, nil
}
