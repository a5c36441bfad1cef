package daemon

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

func TestNotes_KeepWhoATopicIsUntilItIsGoneForAWhile(t *testing.T) {
	one, two := mirror.TopicIDs{Source: replicate.TopicID{1}, Target: replicate.TopicID{2}}, mirror.TopicIDs{Source: replicate.TopicID{3}, Target: replicate.TopicID{4}}
	pair := func(ids mirror.TopicIDs) consensus.TopicPair {
		return consensus.TopicPair{Source: ids.Source.String(), Target: ids.Target.String()}
	}
	run, now := &link{}, time.Now()
	ids := map[string]mirror.TopicIDs{"events": one}
	if d := cmp.Diff(map[string]consensus.TopicPair{"events": pair(one)}, run.newTopics(consensus.Link{}, ids, true, now)); d != "" {
		t.Error(d)
	}
	l := consensus.Link{Topics: map[string]consensus.TopicPair{"events": pair(one), "gone": pair(two)}}
	s := consensus.State{Links: map[consensus.LinkID]consensus.Link{"l": l}}
	if d := cmp.Diff(map[string]mirror.TopicIDs{"events": one, "gone": two}, known(s, "l")); d != "" {
		t.Errorf("the record as it is read: %s", d)
	}
	s.Tombstones = map[consensus.LinkID]map[string]consensus.Tombstone{"l": {"gone": {TopicPair: pair(one)}}}
	if got := known(s, "l")["gone"]; got != one {
		t.Errorf("a topic that was deleted at the source: %v", got)
	}
	s.Links["l"] = consensus.Link{Topics: map[string]consensus.TopicPair{"x": {Source: "no id"}}}
	if _, read := known(s, "l")["x"]; read {
		t.Error("what is no id was read as one")
	}
	// Made anew: the record stands.
	ids["events"] = two
	for _, c := range []struct {
		after time.Duration
		seen  bool
		want  map[string]consensus.TopicPair
	}{
		{0, false, map[string]consensus.TopicPair{}}, // nothing was read yet
		{time.Second, true, map[string]consensus.TopicPair{}},
		{30 * time.Second, true, map[string]consensus.TopicPair{}},
		{62 * time.Second, true, map[string]consensus.TopicPair{"gone": {}}},
	} {
		if d := cmp.Diff(c.want, run.newTopics(l, ids, c.seen, now.Add(c.after))); d != "" {
			t.Errorf("after %s: %s", c.after, d)
		}
	}
}

func TestNotes_KeepTheHighestEpochOfTheSource(t *testing.T) {
	at := func(topic string, epoch int32) replicate.PartitionStatus {
		return replicate.PartitionStatus{Partition: topology.Partition{Topic: topic}, SourceEpoch: epoch}
	}
	l := consensus.Link{SourceEpochs: consensus.LeaderEpochs{"same": {0: 3}, "rose": {0: 3}, "fell": {0: 3}}}
	status := replicate.LinkStatus{Partitions: []replicate.PartitionStatus{at("same", 3), at("rose", 4), at("fell", 2), at("first", 0), at("none", -1)}}
	want := consensus.LeaderEpochs{"rose": {0: 4}, "first": {0: 0}}
	if d := cmp.Diff(want, newEpochs(l, status)); d != "" {
		t.Error(d)
	}
}

func TestAccepted_IsWhatTheLogSays(t *testing.T) {
	l := consensus.Link{Accepted: map[string]map[int32][]consensus.Accepted{"events": {2: {{From: 1, To: 5}, {From: 9, To: 10}}}}}
	want := map[topology.Partition][]replicate.Range{{Topic: "events", Partition: 2}: {{Start: 1, End: 5, Settled: true}, {Start: 9, End: 10, Settled: true}}}
	if d := cmp.Diff(want, accepted(l)); d != "" {
		t.Error(d)
	}
}
