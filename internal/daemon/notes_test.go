package daemon

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
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
