package replicate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// DriftKind says in what two clusters differ.
type DriftKind string

// The kinds of drift.
const (
	DriftTopicMissing   DriftKind = "topic_missing"   // mirrored, and the target lacks it
	DriftTopicExtra     DriftKind = "topic_extra"     // would be mirrored, and only the target has it
	DriftTopicRecreated DriftKind = "topic_recreated" // another topic of the same name than the one that was mirrored
	DriftPartitions     DriftKind = "partitions"
	DriftSetting        DriftKind = "setting"
	DriftACLMissing     DriftKind = "acl_missing"
	DriftACLExtra       DriftKind = "acl_extra"
)

// DriftKinds lists the kinds in the order in which they are shown.
func DriftKinds() []DriftKind {
	return []DriftKind{DriftTopicMissing, DriftTopicRecreated, DriftPartitions, DriftTopicExtra, DriftSetting, DriftACLMissing, DriftACLExtra}
}

// Blocks says whether a move must wait for it: records would be missing, or
// keys would go to other partitions than before. The rest is a warning.
func (k DriftKind) Blocks() bool {
	return k == DriftTopicMissing || k == DriftTopicRecreated || k == DriftPartitions
}

// Drift is one difference between a source and its target.
type Drift struct {
	Kind  DriftKind `json:"kind"`
	About string    `json:"about"` // a topic, or a principal
	Text  string    `json:"text"`
	Next  string    `json:"next,omitempty"`
}

// Cluster is what one side says about itself.
type Cluster struct {
	Topics  map[string]Topic
	Brokers int
	// ACLs are the rules of its authorizer; without Authorizer it has none.
	ACLs       []ACL
	Authorizer bool
}

// DriftRules say what should be alike.
type DriftRules struct {
	Link   Link
	Topics Selection
	// Access says which rights should be alike; nil: rights are not compared.
	Access *AccessRules
	// Mirrored are the identities of the topics that were mirrored, as far as
	// they are known.
	Mirrored map[string][2]TopicID // source, target
	// Deleted are topics that were deleted at the source and whose copies are
	// kept for a while: they are no drift.
	Deleted map[string]bool
}

// FindDrift compares two clusters and says in what they differ, sorted by kind
// and name. An empty answer means that the target would behave as the source.
func FindDrift(source, target Cluster, r DriftRules) []Drift {
	var out []Drift
	add := func(k DriftKind, about, next, text string, args ...any) {
		out = append(out, Drift{Kind: k, About: about, Text: fmt.Sprintf(text, args...), Next: next})
	}
	reseed := fmt.Sprintf("holdfast mirror reseed --region %s --topic ", r.Link.Target)
	for _, name := range slices.Sorted(maps.Keys(source.Topics)) {
		if !r.Topics.Selects(name) {
			continue
		}
		from := source.Topics[name]
		to, there := target.Topics[name]
		ids, known := r.Mirrored[name]
		switch {
		case !there:
			add(DriftTopicMissing, name, "holdfast mirror status", "the target lacks it; the source has it with %d partitions", from.Partitions)
			continue
		case known && ids[0] != from.ID:
			add(DriftTopicRecreated, name, reseed+name+" --reason WHY", "the source has another topic of this name than the one that was mirrored")
			continue // nothing of it is for the copy of the former one
		case known && ids[1] != to.ID:
			add(DriftTopicRecreated, name, reseed+name+" --reason WHY", "the target has another topic of this name than the one that was mirrored into")
			continue
		}
		if from.Partitions != to.Partitions {
			next := "holdfast mirror status"
			if to.Partitions > from.Partitions {
				next = fmt.Sprintf("grow %s at the source to %d partitions", name, to.Partitions)
			}
			add(DriftPartitions, name, next, "%d partitions at the source, %d at the target", from.Partitions, to.Partitions)
		}
		for _, d := range settingDrift(from, to, target.Brokers) {
			add(DriftSetting, name, "holdfast mirror status", "%s", d)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(target.Topics)) {
		if _, there := source.Topics[name]; !there && r.Topics.Selects(name) && !r.Deleted[name] {
			add(DriftTopicExtra, name, "delete it at the target, create it at the source, or exclude it: mirror.topics.exclude", "only the target has it, and nothing says that it was mirrored from there")
		}
	}
	if r.Access != nil && source.Authorizer && target.Authorizer {
		out = append(out, accessDrift(source, target, *r.Access)...)
	}
	order := DriftKinds()
	slices.SortStableFunc(out, func(a, b Drift) int {
		return cmp.Or(slices.Index(order, a.Kind)-slices.Index(order, b.Kind), cmp.Compare(a.About, b.About), cmp.Compare(a.Text, b.Text))
	})
	return out
}

// settingDrift names the settings that PlanTopic would change.
func settingDrift(from, to Topic, brokers int) []string {
	p := PlanTopic(from, &to, brokers)
	var out []string
	for _, key := range slices.Sorted(maps.Keys(p.Set)) {
		have := "its default"
		if s, ok := to.Settings[key]; ok {
			have = s.Value
			if !s.Set {
				have += " (the broker's default)"
			}
		}
		out = append(out, fmt.Sprintf("%s is %s at the target, want %s", key, have, p.Set[key]))
	}
	for _, key := range p.Unset {
		out = append(out, fmt.Sprintf("%s is set to %s at the target, and not set at the source", key, to.Settings[key].Value))
	}
	return out
}

func accessDrift(source, target Cluster, r AccessRules) []Drift {
	p := PlanAccess(source.ACLs, target.ACLs, topicNames(source, target), r, nil)
	var out []Drift
	for _, a := range p.Create {
		out = append(out, Drift{Kind: DriftACLMissing, About: a.Principal, Text: "the target lacks: " + a.String(), Next: "mirror.acls.sync: true, or add it there"})
	}
	for _, a := range append(p.Delete, p.Extra...) {
		out = append(out, Drift{Kind: DriftACLExtra, About: a.Principal, Text: "only the target has: " + a.String(), Next: "remove it there, or name whom it is for: mirror.acls.keep"})
	}
	return out
}

// topicNames lists the topics of both clusters.
func topicNames(clusters ...Cluster) []string {
	all := map[string]bool{}
	for _, c := range clusters {
		for name := range c.Topics {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
