package replicate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSelection_NeverSelectsInternalTopics(t *testing.T) {
	all := Selection{}
	some, err := NewSelection([]string{"events", "__.*", "ingest-.*"}, []string{"ingest-old"})
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string][2]bool{
		"events": {true, true}, "events2": {true, false}, "ingest-a": {true, true}, "ingest-old": {true, false},
		"__consumer_offsets": {false, false}, probeLike: {false, false},
	} {
		if got := [2]bool{all.Selects(topic), some.Selects(topic)}; got != want {
			t.Errorf("%s: %v, want %v", topic, got, want)
		}
	}
	if Only().Selects("events") || !Only("a.b").Selects("a.b") || Only("a.b").Selects("axb") {
		t.Error("Only selects by exact name")
	}
}

// probeLike is a name of our own.
const probeLike = "__holdfast-probe"

func set(v string) Setting   { return Setting{Value: v, Set: true} }
func deflt(v string) Setting { return Setting{Value: v} }

func TestPlanTopic_TheTargetBehavesLikeTheSource(t *testing.T) {
	from := Topic{Name: "t", Partitions: 4, Replicas: 3, Settings: map[string]Setting{
		"retention.ms": deflt("100"), "cleanup.policy": set("compact"), "max.message.bytes": deflt("9"),
		"min.insync.replicas": set("2"), "segment.ms": set("7"), "message.timestamp.before.max.ms": set("5"),
	}}
	made := PlanTopic(from, nil, 1)
	want := TopicPlan{Create: true, Partitions: 4, Replicas: 1, Set: map[string]string{
		"retention.ms": "100", "cleanup.policy": "compact", "max.message.bytes": "9", "segment.ms": "7",
		"message.timestamp.after.max.ms": "9223372036854775807", "unclean.leader.election.enable": "false",
	}}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Error(diff)
	}
	to := Topic{Name: "t", Partitions: 2, Replicas: 1, Settings: map[string]Setting{
		"retention.ms": deflt("50"), "cleanup.policy": deflt("delete"), "max.message.bytes": deflt("9"), "segment.ms": deflt("7"),
		"flush.ms": set("1"), "min.insync.replicas": set("1"), "unclean.leader.election.enable": set("false"),
	}}
	want = TopicPlan{Partitions: 4, Set: map[string]string{"retention.ms": "100", "cleanup.policy": "compact", "segment.ms": "7"}, Unset: []string{"flush.ms"}}
	if diff := cmp.Diff(want, PlanTopic(from, &to, 1)); diff != "" {
		t.Error(diff)
	}
}

func TestPlanTopic_IsDoneWhenItWasCarriedOut(t *testing.T) {
	from := Topic{Name: "t", Partitions: 4, Replicas: 2, Settings: map[string]Setting{"retention.ms": deflt("100"), "segment.ms": set("7")}}
	made := PlanTopic(from, nil, 3)
	to := Topic{Name: "t", Partitions: made.Partitions, Replicas: made.Replicas, Settings: map[string]Setting{}}
	for k, v := range made.Set {
		to.Settings[k] = set(v)
	}
	if again := PlanTopic(from, &to, 3); !again.Empty() {
		t.Errorf("still to do: %+v", again)
	}
	to.Partitions = 6
	if p := PlanTopic(from, &to, 3); !p.Empty() || len(p.Findings) != 1 {
		t.Errorf("partitions are never removed, and it is said: %+v", p)
	}
}
