package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Region is what the steps need from the region they run in. All methods are
// bounded by their context and may be repeated.
type Region interface {
	// Ends returns the end offset of each partition of the mirrored topics in
	// this region's Kafka: all of them, or an error. The error is ErrMoving
	// while records are on their way in.
	Ends(ctx context.Context) (consensus.Offsets, error)
	// GroupLag returns how many records each group has left to read here.
	GroupLag(ctx context.Context, groups []string) (map[string]int64, error)
	// StopMirror stops the mirror of a link, waits until none of its requests
	// can still be under way, and returns what it reached and last saw.
	StopMirror(ctx context.Context, link consensus.LinkID) (Stopped, error)
	// CloseTransactions ends every transaction on the mirrored topics here that
	// its producer left open, and says which. The error names those that it
	// may not or cannot end.
	CloseTransactions(ctx context.Context) ([]string, error)
	// Fence shuts every mirror of an ended link out of this region for good,
	// and then skips the offsets up to the ends given (none: no further than
	// the fence itself).
	Fence(ctx context.Context, link consensus.LinkID, to consensus.Offsets) (Fenced, error)
	// Leap skips offsets here up to the ends given, without a fence. It returns
	// where each partition ends then.
	Leap(ctx context.Context, link consensus.LinkID, to consensus.Offsets) (consensus.Offsets, error)
	// WriteGroups copies the groups' offsets into this region, none beyond
	// the ends given, and reads them back. Without fromSource it copies
	// nothing and proves what was copied before.
	WriteGroups(ctx context.Context, link consensus.LinkID, ends consensus.Offsets, fromSource bool) (Groups, error)
	// Reseed recreates topics of a link's target, empty. The mirror of the
	// link is stopped before and not started again.
	Reseed(ctx context.Context, link consensus.LinkID, topics []string) error
	// Canary writes to and reads from the region's stores.
	Canary(ctx context.Context) ([]Check, error)
	// State returns the state as applied here.
	State() consensus.State
}

// ErrMoving says that an end is not settled: the log holds more than its
// followers have confirmed.
var ErrMoving = errors.New("its end is not settled")

// Stopped is a link that is known to be still.
type Stopped struct {
	Ends       consensus.Offsets `json:"ends"`
	SourceEnds consensus.Offsets `json:"source_ends,omitempty"`
	// Clean says that the mirror's own process confirmed the stop. Otherwise
	// one request timeout was waited for.
	Clean bool `json:"clean"`
	// Seen is when SourceEnds were read, and Rates how many records per second
	// each partition of the source took in until then.
	Seen  time.Time                    `json:"seen,omitzero"`
	Rates map[string]map[int32]float64 `json:"rates,omitempty"`
	// Epochs are the last leader epochs of the source.
	Epochs consensus.LeaderEpochs `json:"epochs,omitempty"`
}

// Fenced is a target that no mirror can write to any more.
type Fenced struct {
	// Ends is one past the last mirrored record, Leaps where the region's own
	// records begin.
	Ends  consensus.Offsets `json:"ends"`
	Leaps consensus.Offsets `json:"leaps"`
	// Short lists where the leap ended before it was through, for its budget.
	Short []string `json:"short,omitempty"`
	// Late lists records that a mirror wrote after it was thought to be still.
	// They are the source's, where they belong.
	Late []string `json:"late,omitempty"`
	// Stray says which records of a mirror stand behind the fence, at offsets
	// that are not theirs: none, unless a broker forgot something.
	Stray string `json:"stray,omitempty"`
}

// Groups is what a group write did.
type Groups struct {
	Groups  int      `json:"groups"`
	Written int      `json:"written"`          // offsets
	Seeded  int      `json:"seeded,omitempty"` // entries of commit logs
	Notes   []string `json:"notes,omitempty"`
}

// Check is one use of one store.
type Check struct {
	Name   string        `json:"name"`
	Took   time.Duration `json:"took"`
	Detail string        `json:"detail,omitempty"`
}

// Runners returns the runners of all Kafka steps, for one region.
func Runners(r Region, p consensus.Proposer, by string) []agent.Runner {
	s := &steps{r, p, by}
	return []agent.Runner{
		agent.Repeat(failover.KindKafkaDrain, s.drain),
		agent.Repeat(failover.KindKafkaClose, s.closeTransactions),
		agent.Repeat(failover.KindKafkaEnds, s.ends),
		agent.Repeat(failover.KindMirrorReach, s.reach),
		agent.Repeat(failover.KindKafkaSame, s.confirm),
		agent.Repeat(failover.KindMirrorStop, s.stop),
		agent.Repeat(failover.KindMirrorFence, s.fence),
		agent.Repeat(failover.KindMirrorLeap, s.leap),
		agent.Repeat(failover.KindGroupsWrite, s.writeGroups),
		agent.Repeat(failover.KindReseed, s.reseed),
		agent.Repeat(failover.KindCanary, s.canary),
	}
}

type steps struct {
	region Region
	log    consensus.Proposer
	by     string
}

const (
	pollEvery = 200 * time.Millisecond // the pace of the waiting steps
	// patience is how long a region may fail to answer before a step fails:
	// a leader that just moved is no reason to turn a plan back.
	patience       = 10 * time.Second
	proposeTimeout = 5 * time.Second
)

// patiently reads again while reading fails, up to patience or the end of ctx.
func patiently[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	end := time.Now().Add(patience)
	for {
		v, err := read(ctx)
		if err == nil || !time.Now().Before(end) || wait(ctx, pollEvery) != nil {
			return v, err
		}
	}
}

// DrainEvidence says how far the groups came.
type DrainEvidence struct {
	Lag map[string]int64 `json:"lag"` // records left; 0 for all unless TimedOut
	// TimedOut: the wait ended with records left. They are mirrored, and read
	// in the new region.
	TimedOut bool `json:"timed_out,omitempty"`
}

func (s *steps) drain(ctx context.Context, t agent.Task, _ agent.Fence) (any, error) {
	var spec failover.DrainSpec
	if err := decode(t, &spec); err != nil {
		return nil, err
	}
	end := time.Now().Add(spec.Timeout)
	for {
		lag, err := patiently(ctx, func(ctx context.Context) (map[string]int64, error) { return s.region.GroupLag(ctx, spec.Groups) })
		if err != nil {
			return nil, fmt.Errorf("read the lag of %s: %w", strings.Join(spec.Groups, ", "), err)
		}
		left := int64(0)
		for _, n := range lag {
			left += n
		}
		if left == 0 {
			return DrainEvidence{Lag: lag}, nil
		}
		if time.Now().After(end) {
			return DrainEvidence{Lag: lag, TimedOut: true}, nil
		}
		if err := wait(ctx, pollEvery); err != nil {
			return nil, fmt.Errorf("groups have %d records left to read: %w", left, err)
		}
	}
}

// EndsEvidence holds the end offset of each partition.
type EndsEvidence struct {
	Ends consensus.Offsets `json:"ends"`
}

func (s *steps) ends(ctx context.Context, _ agent.Task, _ agent.Fence) (any, error) {
	ends, err := patiently(ctx, s.region.Ends)
	if err != nil {
		return nil, fmt.Errorf("read the end offsets: %w", err)
	}
	return EndsEvidence{ends}, nil
}

func recorded(t agent.Task) (consensus.Offsets, error) {
	raw, ok := t.Plan.Evidence(failover.KindKafkaEnds)
	if !ok {
		return nil, errors.New("the plan has no recorded ends: its journal is incomplete")
	}
	var e EndsEvidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, fmt.Errorf("read the recorded ends: %w", err)
	}
	return e.Ends, nil
}

func (s *steps) reach(ctx context.Context, t agent.Task, _ agent.Fence) (any, error) {
	want, err := recorded(t)
	if err != nil {
		return nil, err
	}
	last := "its ends" // what was missing
	for {
		have, err := patiently(ctx, func(ctx context.Context) (consensus.Offsets, error) {
			ends, err := s.region.Ends(ctx)
			if errors.Is(err, ErrMoving) { // the mirror is at work
				return nil, nil
			}
			return ends, err
		})
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the mirrored end offsets: %w", err)
		case have != nil:
			missing, beyond := compare(want, have)
			if len(beyond) > 0 {
				return nil, fmt.Errorf("the target holds records that the source does not: %s", head(beyond))
			}
			if len(missing) == 0 {
				return EndsEvidence{have}, nil
			}
			last = head(missing)
		}
		if err := wait(ctx, pollEvery); err != nil {
			return nil, fmt.Errorf("the mirror has not reached %s: %w", last, err)
		}
	}
}

func (s *steps) confirm(ctx context.Context, t agent.Task, _ agent.Fence) (any, error) {
	want, err := recorded(t)
	if err != nil {
		return nil, err
	}
	have, err := patiently(ctx, s.region.Ends)
	if err != nil {
		return nil, fmt.Errorf("read the end offsets again: %w", err)
	}
	missing, beyond := compare(want, have)
	if len(beyond) > 0 {
		return nil, fmt.Errorf("something still writes to the topics here, although the role is drained: %s; stop it in the role's stop hook", head(beyond))
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("topics lost records here since their ends were recorded: %s", head(missing))
	}
	return EndsEvidence{have}, nil
}

func (s *steps) stop(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec failover.LinkSpec
	if err := decode(t, &spec); err != nil {
		return nil, err
	}
	link, ok := s.region.State().Links[spec.Link]
	if !ok {
		return nil, fmt.Errorf("no link %s", spec.Link)
	}
	if link.Phase == consensus.LinkEnded {
		return Stopped{Ends: link.Ends, SourceEnds: link.SourceEnds, Clean: true}, nil
	}
	st, err := patiently(ctx, func(ctx context.Context) (Stopped, error) { return s.region.StopMirror(ctx, spec.Link) })
	if err != nil {
		return nil, fmt.Errorf("stop the mirror %s: %w", spec.Link, err)
	}
	if t.Plan.Kind == consensus.Planned {
		want, err := recorded(t)
		if err != nil {
			return nil, err
		}
		if missing, beyond := compare(want, st.Ends); len(missing)+len(beyond) > 0 {
			return nil, fmt.Errorf("the stopped mirror does not stand at the recorded ends: %s", head(append(missing, beyond...)))
		}
	}
	if err := s.record(ctx, f, &consensus.EndLink{Link: spec.Link, Epoch: link.Epoch, Ends: st.Ends, SourceEnds: st.SourceEnds, Epochs: st.Epochs}); err != nil {
		return nil, fmt.Errorf("record the end of %s: %w", spec.Link, err)
	}
	return st, nil
}

// record puts what is so into the log, again while nobody leads or the answer
// is lost. Stale is fine: it is in the log already.
func (s *steps) record(ctx context.Context, f agent.Fence, b consensus.Body) error {
	for {
		if err := f.Check(); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := s.log.Propose(attempt, consensus.Command{At: time.Now(), By: s.by, Body: b})
		cancel()
		switch {
		case err == nil || consensus.Refused(err, consensus.CodeStale):
			return nil
		case consensus.Refused(err) || wait(ctx, pollEvery) != nil:
			return err
		}
	}
}

func (s *steps) writeGroups(ctx context.Context, t agent.Task, _ agent.Fence) (any, error) {
	var spec failover.LinkSpec
	if err := decode(t, &spec); err != nil {
		return nil, err
	}
	link, ok := s.region.State().Links[spec.Link]
	if !ok || link.Phase != consensus.LinkEnded {
		return nil, fmt.Errorf("link %s has not ended: offsets are written after the mirror stands still", spec.Link)
	}
	return patiently(ctx, func(ctx context.Context) (Groups, error) {
		return s.region.WriteGroups(ctx, spec.Link, link.Ends, t.Plan.Kind == consensus.Planned)
	})
}

func (s *steps) reseed(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec failover.ReseedSpec
	if err := decode(t, &spec); err != nil {
		return nil, err
	}
	if err := f.Check(); err != nil {
		return nil, err
	}
	if err := s.region.Reseed(ctx, spec.Link, spec.Topics); err != nil {
		return nil, err
	}
	return map[string]any{"recreated": spec.Topics}, nil
}

func decode(t agent.Task, into any) error {
	if err := json.Unmarshal(t.Spec, into); err != nil {
		return fmt.Errorf("read the spec of %s: %w", t.Kind, err)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// compare lists where have is short of want, and where it is beyond. A
// partition that only one side has counts as 0 on the other.
func compare(want, have consensus.Offsets) (missing, beyond []string) {
	for _, tp := range partitions(want, have) {
		w, h := want[tp.Topic][tp.Partition], have[tp.Topic][tp.Partition]
		switch {
		case h < w:
			missing = append(missing, fmt.Sprintf("%s: %d, want %d", tp, h, w))
		case h > w:
			beyond = append(beyond, fmt.Sprintf("%s: %d, want %d", tp, h, w))
		}
	}
	return missing, beyond
}

func partitions(sides ...consensus.Offsets) []topology.Partition {
	set := map[topology.Partition]bool{}
	for _, m := range sides {
		for topic, ps := range m {
			for p := range ps {
				set[topology.Partition{Topic: topic, Partition: p}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), topology.Partition.Compare)
}

func head(list []string) string {
	const most = 3
	if len(list) == 0 {
		return "its ends"
	}
	text := strings.Join(list[:min(most, len(list))], "; ")
	if more := len(list) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// CanaryEvidence says what was tried and how long it took.
type CanaryEvidence struct {
	Checks []Check `json:"checks"`
}

func (s *steps) canary(ctx context.Context, _ agent.Task, _ agent.Fence) (any, error) {
	checks, err := s.region.Canary(ctx)
	if err != nil {
		return nil, fmt.Errorf("canary: %w", err)
	}
	return CanaryEvidence{checks}, nil
}
