package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// ReseedTopic is one topic whose copy at the target is discarded.
type ReseedTopic struct {
	Name string `json:"name"`
	// Old is the identity of the copy that may be deleted. A topic of that
	// name with another identity is never touched: it was recreated already.
	// Zero means whatever is there, unless it is empty and starts at 0.
	Old replicate.TopicID `json:"old"`
	// Discards is what the copy holds, for the plan that a person reads.
	Discards map[int32]replicate.Range `json:"discards,omitempty"`
}

const reseedPoll = 100 * time.Millisecond

// ErrCannotReseed says that the source cannot fill an empty topic: it starts
// above 0, and nothing can take the place of what is gone.
var ErrCannotReseed = errors.New("it is only compacted, and such a prefix cannot be seeded")

// PlanReseed reads what a reseed of these topics would delete. It changes
// nothing; its answer is recorded before Reseed is called with it. It refuses
// a topic that could not be mirrored anew.
func PlanReseed(ctx context.Context, source, target *kafka.Client, topics []string) ([]ReseedTopic, error) {
	sel := replicate.Only(topics...)
	if err := reseedable(ctx, source, sel, topics); err != nil {
		return nil, err
	}
	v, err := readView(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("plan reseed: %w", err)
	}
	ranges, err := Ends(ctx, target, sel)
	if err != nil {
		return nil, fmt.Errorf("plan reseed: %w", err)
	}
	var out []ReseedTopic
	for _, name := range topics {
		t := ReseedTopic{Name: name, Discards: map[int32]replicate.Range{}}
		if tv := v.topics[name]; tv != nil {
			t.Old = tv.id
			for i := range tv.parts {
				if r := ranges[topology.Partition{Topic: name, Partition: int32(i)}]; r.End > 0 {
					t.Discards[int32(i)] = r
				}
			}
		}
		out = append(out, t)
	}
	return out, nil
}

// reseedable refuses unless an empty topic can become each of these. One that
// starts above 0 is seeded up to there, unless it is only compacted.
func reseedable(ctx context.Context, source *kafka.Client, sel replicate.Selection, topics []string) error {
	ranges, err := Ends(ctx, source, sel)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	found, cut := map[string]bool{}, map[string]topology.Partition{}
	for _, p := range sortedPartitions(ranges) {
		found[p.Topic] = true
		if ranges[p].Start != 0 {
			cut[p.Topic] = p
		}
	}
	for _, name := range topics {
		if !found[name] {
			return fmt.Errorf("reseed: kafka %s has no topic %s", source.Name(), name)
		}
		if !(replicate.Selection{}).Selects(name) {
			return fmt.Errorf("reseed: %s is internal and never mirrored", name)
		}
	}
	policies, err := readPolicies(ctx, source, slices.Sorted(maps.Keys(cut)))
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(cut)) {
		if p := cut[name]; !policies[name].Deletes {
			return fmt.Errorf("reseed: %s in kafka %s starts at %d: %w; exclude the topic, or let a new one take its place", p, source.Name(), ranges[p].Start, ErrCannotReseed)
		}
	}
	return nil
}

// Reseed deletes the target's copies and creates the topics anew and empty,
// with the source's partitions and settings. The mirror of the link must be
// stopped, and its next run needs a new link epoch. Everything is checked
// before the first deletion. It may be repeated after a crash at any point:
// what was recreated already is left alone.
func Reseed(ctx context.Context, source, target *kafka.Client, topics []ReseedTopic) error {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	if err := reseedable(ctx, source, replicate.Only(names...), names); err != nil {
		return err
	}
	from, err := readView(ctx, source)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	to, err := readView(ctx, target)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	if from.cluster != "" && from.cluster == to.cluster {
		return fmt.Errorf("reseed: %w", ErrSameCluster)
	}
	settings, err := readSettings(ctx, source, names)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	held, err := Ends(ctx, target, replicate.Only(names...))
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	for _, t := range topics {
		if from.topics[t.Name] == nil {
			return fmt.Errorf("reseed: kafka %s has no topic %s", source.Name(), t.Name)
		}
		if now := to.topics[t.Name]; now != nil && t.Old == (replicate.TopicID{}) && !empty(t.Name, held) {
			t.Old = now.id
		}
		plan := replicate.PlanTopic(topicOf(from, t.Name, settings), nil, to.brokers)
		if err := recreate(ctx, target, t, plan); err != nil {
			return fmt.Errorf("reseed %s: %w", t.Name, err)
		}
	}
	return nil
}

// empty says that no partition of the topic ever held anything.
func empty(topic string, held map[topology.Partition]replicate.Range) bool {
	for p, r := range held {
		if p.Topic == topic && (r.Start != 0 || r.End != 0) {
			return false
		}
	}
	return true
}

// recreate goes on from whatever it finds: the old copy, none, or a new one.
func recreate(ctx context.Context, target *kafka.Client, t ReseedTopic, plan replicate.TopicPlan) error {
	var last error
	for {
		v, err := readView(ctx, target)
		if err == nil {
			now := v.topics[t.Name]
			switch {
			case now != nil && now.id != t.Old:
				return nil // made anew, by an earlier try or this one
			case now != nil:
				_, err = target.Admin.DeleteTopic(ctx, t.Name)
				if errors.Is(err, kerr.UnknownTopicOrPartition) {
					err = nil // on its way out
				}
			default:
				// TopicAlreadyExists is no error: either a deletion that is
				// not through yet, or the new topic not yet in the metadata.
				err = createTopic(ctx, target, t.Name, plan)
			}
		}
		if err != nil {
			last = err
			if errors.Is(err, kerr.TopicDeletionDisabled) || errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
				return fmt.Errorf("delete and create the topic at kafka %s: %w", target.Name(), err)
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the topic at kafka %s is not recreated yet: %w; run it again, it goes on from there", target.Name(), ctx.Err()), last)
		case <-time.After(reseedPoll):
		}
	}
}
