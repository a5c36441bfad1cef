package consensus

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTombstone_NamesOneCopyAtOneEpoch(t *testing.T) {
	b := newMirrorStory(t).held()
	link := there
	mark := func(epoch uint64, pair TopicPair) *MarkDeleted {
		return &MarkDeleted{Link: link, Epoch: epoch, Topic: "old", Pair: pair, At: storyStart.Add(time.Minute)}
	}
	before := b.State
	b.do(mark(1, TopicPair{"in-us", "in-eu"}))
	want := map[LinkID]map[string]Tombstone{link: {"old": {TopicPair: TopicPair{"in-us", "in-eu"}, Epoch: 1, At: storyStart.Add(time.Minute)}}}
	if diff := cmp.Diff(want, b.Tombstones); diff != "" || before.Tombstones != nil {
		t.Errorf("%s\nbefore: %v", diff, before.Tombstones)
	}
	b.refused(CodeStale, mark(1, TopicPair{"in-us", "in-eu"})) // the first sight counts
	b.refused(CodeStale, mark(2, TopicPair{"in-us", "in-eu"}))
	b.refused(CodeInvalid, mark(1, TopicPair{"in-us", ""}))
	b.refused(CodeMissing, &MarkDeleted{Link: "a>b", Epoch: 1, Topic: "old", Pair: TopicPair{"a", "b"}})

	held := b.State
	b.refused(CodeMissing, &DropTombstone{Link: link, Epoch: 1, Topic: "other", Why: "w"})
	b.refused(CodeStale, &DropTombstone{Link: link, Epoch: 2, Topic: "old", Why: "w"})
	b.do(&DropTombstone{Link: link, Epoch: 1, Topic: "old", Deleted: true, Why: "24h are over"})
	if b.Tombstones != nil || len(held.Tombstones[link]) != 1 {
		t.Errorf("after: %v, what was handed out: %v", b.Tombstones, held.Tombstones)
	}
	if n := len(b.Audit.Lines); b.Audit.Lines[n-1].Kind != "topic.dropped" || b.Audit.Lines[n-2].Kind != "topic.deleted" {
		t.Errorf("the audit log says %+v", b.Audit.Lines[n-2:])
	}

	// It outlives a restart.
	b.do(mark(1, TopicPair{"in-us", "in-eu"}))
	text, err := EncodeState(b.State)
	if err != nil {
		t.Fatal(err)
	}
	read, err := DecodeState(text)
	if diff := cmp.Diff(b.Tombstones, read.Tombstones); err != nil || diff != "" {
		t.Error(err, diff)
	}
}
