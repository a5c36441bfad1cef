package replicate

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// alikeClusters are a source and a target without drift.
func alikeClusters() (source, target Cluster) {
	settings := func() map[string]Setting {
		return map[string]Setting{
			"retention.ms": set("100"), "segment.ms": deflt("7"), "cleanup.policy": deflt("delete"),
			"message.timestamp.after.max.ms": set("9223372036854775807"), "unclean.leader.election.enable": set("false"),
		}
	}
	make := func(side byte) Cluster {
		c := Cluster{Topics: map[string]Topic{}, Brokers: 3, Authorizer: true, ACLs: []ACL{acl("TOPIC", "LITERAL", "events", "User:a", "READ", "ALLOW")}}
		for i, name := range []string{"events", "ingest-a", "infra"} {
			c.Topics[name] = Topic{Name: name, ID: TopicID{side, byte(i)}, Partitions: 4, Replicas: 3, Settings: settings()}
		}
		return c
	}
	return make(1), make(2)
}

func driftRules(t *testing.T) DriftRules {
	access := accessRules(t)
	return DriftRules{
		Link: Link{Source: "us-east", Target: "eu-west", Epoch: 1}, Topics: access.Topics, Access: &access,
		Mirrored: map[string][2]TopicID{"events": {{1, 0}, {2, 0}}},
	}
}

func TestFindDrift_IsEmptyWhenBothAreAlikeAndNamesEachDifference(t *testing.T) {
	source, target := alikeClusters()
	if got := FindDrift(source, target, driftRules(t)); len(got) > 0 {
		t.Fatalf("no drift was seeded: %+v", got)
	}
	topic := func(c *Cluster, name string, edit func(*Topic)) {
		x := c.Topics[name]
		x.Settings = maps.Clone(x.Settings)
		edit(&x)
		c.Topics[name] = x
	}
	for name, c := range map[string]struct {
		seed func(source, target *Cluster, r *DriftRules)
		want []Drift
	}{
		"missing": {func(_, b *Cluster, _ *DriftRules) { delete(b.Topics, "events") }, []Drift{{DriftTopicMissing, "events", "the target lacks it; the source has it with 4 partitions", "holdfast mirror status"}}},
		"extra":   {func(a, _ *Cluster, _ *DriftRules) { delete(a.Topics, "ingest-a") }, []Drift{{DriftTopicExtra, "ingest-a", "only the target has it, and nothing says that it was mirrored from there", "delete it at the target, create it at the source, or exclude it: mirror.topics.exclude"}}},
		"deleted at the source, its copy kept": {func(a, _ *Cluster, r *DriftRules) {
			delete(a.Topics, "ingest-a")
			r.Deleted = map[string]bool{"ingest-a": true}
		}, nil},
		"not mirrored": {func(a, b *Cluster, _ *DriftRules) { delete(b.Topics, "infra") }, nil},
		"recreated at the source": {func(a, _ *Cluster, _ *DriftRules) {
			topic(a, "events", func(x *Topic) { x.ID, x.Partitions = TopicID{9}, 1 })
		}, []Drift{{DriftTopicRecreated, "events", "the source has another topic of this name than the one that was mirrored", "holdfast mirror reseed --region eu-west --topic events --reason WHY"}}},
		"recreated at the target": {func(_, b *Cluster, _ *DriftRules) { topic(b, "events", func(x *Topic) { x.ID = TopicID{9} }) }, []Drift{{DriftTopicRecreated, "events", "the target has another topic of this name than the one that was mirrored into", "holdfast mirror reseed --region eu-west --topic events --reason WHY"}}},
		"fewer partitions":        {func(_, b *Cluster, _ *DriftRules) { topic(b, "events", func(x *Topic) { x.Partitions = 2 }) }, []Drift{{DriftPartitions, "events", "4 partitions at the source, 2 at the target", "holdfast mirror status"}}},
		"more partitions":         {func(_, b *Cluster, _ *DriftRules) { topic(b, "events", func(x *Topic) { x.Partitions = 6 }) }, []Drift{{DriftPartitions, "events", "4 partitions at the source, 6 at the target", "grow events at the source to 6 partitions"}}},
		"settings": {func(_, b *Cluster, _ *DriftRules) {
			topic(b, "events", func(x *Topic) {
				x.Settings["retention.ms"], x.Settings["flush.ms"], x.Settings["min.insync.replicas"] = deflt("50"), set("1"), set("9")
			})
		}, []Drift{
			{DriftSetting, "events", "flush.ms is set to 1 at the target, and not set at the source", "holdfast mirror status"},
			{DriftSetting, "events", "retention.ms is 50 (the broker's default) at the target, want 100", "holdfast mirror status"},
		}},
		"rights": {func(a, b *Cluster, _ *DriftRules) {
			b.ACLs = []ACL{acl("TOPIC", "LITERAL", "events", "User:b", "WRITE", "ALLOW"), acl("TOPIC", "LITERAL", "events", "User:holdfast", "WRITE", "ALLOW")}
		}, []Drift{
			{DriftACLMissing, "User:a", "the target lacks: allow User:a to READ topic events", "mirror.acls.sync: true, or add it there"},
			{DriftACLExtra, "User:b", "only the target has: allow User:b to WRITE topic events", "remove it there, or name whom it is for: mirror.acls.keep"},
		}},
		"no authorizer at one end": {func(_, b *Cluster, _ *DriftRules) { b.Authorizer, b.ACLs = false, nil }, nil},
	} {
		source, target := alikeClusters()
		r := driftRules(t)
		c.seed(&source, &target, &r)
		if diff := cmp.Diff(c.want, FindDrift(source, target, r)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDrift_BlocksWhatWouldLoseRecordsOrMoveKeys(t *testing.T) {
	for _, k := range DriftKinds() {
		want := k == DriftTopicMissing || k == DriftTopicRecreated || k == DriftPartitions
		if k.Blocks() != want {
			t.Errorf("%s blocks: %t", k, k.Blocks())
		}
	}
}
