package replicate

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Selection says which topics a link mirrors. The zero value selects every
// topic but internal ones.
type Selection struct {
	include, exclude []*regexp.Regexp
	preset           *presetIndex
}

// NewSelection takes regular expressions that must match a whole name. An empty
// include list selects everything; exclude wins over include.
func NewSelection(include, exclude []string) (Selection, error) {
	in, err := wholeMatches("include", include)
	if err != nil {
		return Selection{}, err
	}
	out, err := wholeMatches("exclude", exclude)
	return Selection{include: in, exclude: out}, err
}

// NewPresetSelection selects what a preset mirrors, and refines it: include
// adds topics that the preset leaves out or does not know, but for those of
// class local; exclude takes topics away.
func NewPresetSelection(p Preset, include, exclude []string) (Selection, error) {
	s, err := NewSelection(include, exclude)
	if err != nil {
		return Selection{}, err
	}
	s.preset, err = newPresetIndex(p)
	return s, err
}

// Choice says whether a topic is mirrored, and by which rule.
type Choice struct {
	Topic    string `json:"topic"`
	Class    Class  `json:"class,omitempty"` // empty: no preset knows it
	Mirrored bool   `json:"mirrored"`
	Rule     string `json:"rule"`
}

// Selects says whether the topic is mirrored. Names that begin with two
// underscores never are: they belong to Kafka itself or to us.
func (s Selection) Selects(topic string) bool { return s.Choose(topic).Mirrored }

// Choose says the same with its reason. What is local in a preset comes before
// include: offsets of another cluster's consumers are poison, and nobody should
// get them by a pattern that was wider than meant.
func (s Selection) Choose(topic string) Choice {
	c := Choice{Topic: topic}
	var known PresetRule
	inPreset := false
	if s.preset != nil {
		known, inPreset = s.preset.rule(topic)
		c.Class = known.Class
	}
	by := func(mirrored bool, rule string) Choice {
		c.Mirrored, c.Rule = mirrored, rule
		return c
	}
	if strings.HasPrefix(topic, "__") {
		return by(false, "it begins with two underscores: Kafka's own, or ours")
	}
	if re := firstMatch(s.exclude, topic); re != nil {
		return by(false, "exclude "+written(re))
	}
	if inPreset && known.Class == ClassLocal {
		return by(false, "preset "+s.preset.name+": "+known.Why)
	}
	if re := firstMatch(s.include, topic); re != nil {
		return by(true, "include "+written(re))
	}
	switch {
	case inPreset:
		return by(known.Class == ClassMirror, "preset "+s.preset.name+": "+known.Why)
	case s.preset != nil:
		return by(false, "preset "+s.preset.name+" does not know it, and no include does")
	case len(s.include) > 0:
		return by(false, "no include matches")
	}
	return by(true, "every topic is mirrored")
}

// Preset names the preset of the selection; empty: none.
func (s Selection) Preset() string {
	if s.preset == nil {
		return ""
	}
	return s.preset.name
}

// Only returns a selection of exactly these topics.
func Only(topics ...string) Selection {
	if len(topics) == 0 {
		return Selection{exclude: []*regexp.Regexp{regexp.MustCompile("")}}
	}
	quoted := make([]string, len(topics))
	for i, t := range topics {
		quoted[i] = regexp.QuoteMeta(t)
	}
	return Selection{include: []*regexp.Regexp{regexp.MustCompile("^(?:" + strings.Join(quoted, "|") + ")$")}}
}

func wholeMatches(what string, patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile("^(?:" + p + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s pattern %q: %w", what, p, err)
		}
		out = append(out, re)
	}
	return out, nil
}

func anyMatch(res []*regexp.Regexp, s string) bool { return firstMatch(res, s) != nil }

func firstMatch(res []*regexp.Regexp, s string) *regexp.Regexp {
	for _, re := range res {
		if re.MatchString(s) {
			return re
		}
	}
	return nil
}

// written is a pattern as it stands in the configuration.
func written(re *regexp.Regexp) string {
	return strings.TrimSuffix(strings.TrimPrefix(re.String(), "^(?:"), ")$")
}

// Setting is the value of a topic setting in effect.
type Setting struct {
	Value string
	Set   bool // on the topic itself; else it is the broker's default
}

// Topic is what one cluster says about a topic.
type Topic struct {
	Name       string
	ID         TopicID
	Partitions int32
	Replicas   int16
	Settings   map[string]Setting // nil: not read
}

// TopicPlan is what must be done at the target so that it can take the topic.
type TopicPlan struct {
	Create     bool
	Partitions int32 // to create, or to grow to; 0: as they are
	Replicas   int16
	Set        map[string]string
	Unset      []string
	Findings   []Finding
}

// Empty says that there is nothing to do.
func (p TopicPlan) Empty() bool {
	return !p.Create && p.Partitions == 0 && len(p.Set) == 0 && len(p.Unset) == 0
}

// Applied is what the target has when the plan was carried out on t, which is
// empty where the topic was created.
func (p TopicPlan) Applied(t Topic, name string) Topic {
	t.Name, t.Settings = name, maps.Clone(t.Settings)
	if p.Partitions > 0 {
		t.Partitions = p.Partitions
	}
	if t.Settings == nil {
		t.Settings = map[string]Setting{}
	}
	for k, v := range p.Set {
		t.Settings[k] = Setting{Value: v, Set: true}
	}
	for _, k := range p.Unset {
		delete(t.Settings, k)
	}
	return t
}

// alike are the settings whose effect must be the same at both ends, whether a
// topic sets them or a broker defaults to them: a lower retention would delete
// early, a lower message size would refuse a batch.
var alike = []string{"cleanup.policy", "compression.type", "max.message.bytes", "message.timestamp.type", "retention.bytes", "retention.ms"}

// forced are settings that a mirrored topic needs whatever the source has:
// late records must not be refused for their age, and an unclean election
// would take back what was acknowledged.
var forced = map[string]string{
	"message.timestamp.after.max.ms": "9223372036854775807",
	"unclean.leader.election.enable": "false",
}

// Optional says whether a broker may not know this setting of ours; a topic is
// then created without it.
func Optional(setting string) bool { return forced[setting] != "" }

// local are settings that each cluster keeps to itself.
func local(setting string) bool {
	switch setting {
	case "min.insync.replicas", "message.format.version", "message.downconversion.enable",
		"message.timestamp.before.max.ms", "message.timestamp.difference.max.ms",
		"leader.replication.throttled.replicas", "follower.replication.throttled.replicas":
		return true
	}
	return strings.HasPrefix(setting, "confluent.") || strings.HasPrefix(setting, "remote.") ||
		strings.HasPrefix(setting, "local.retention.") || strings.HasPrefix(setting, "redpanda.")
}

// PlanTopic compares a topic at both ends; to is nil when the target has none.
// It never shrinks or deletes anything.
func PlanTopic(from Topic, to *Topic, targetBrokers int) TopicPlan {
	var p TopicPlan
	want := map[string]string{}
	if from.Settings != nil {
		for k, s := range from.Settings {
			if s.Set && !local(k) {
				want[k] = s.Value
			}
		}
		for _, k := range alike {
			if s, ok := from.Settings[k]; ok {
				want[k] = s.Value
			}
		}
	}
	maps.Copy(want, forced)
	if to == nil {
		p.Create, p.Partitions, p.Set = true, from.Partitions, want
		p.Replicas = max(1, min(from.Replicas, int16(min(targetBrokers, 1<<14))))
		return p
	}
	switch {
	case to.Partitions < from.Partitions:
		p.Partitions = from.Partitions
	case to.Partitions > from.Partitions:
		p.Findings = append(p.Findings, Finding{
			About: from.Name,
			Text:  fmt.Sprintf("the target has %d partitions, the source %d; keys would go elsewhere after a move", to.Partitions, from.Partitions),
			Next:  fmt.Sprintf("grow %s at the source to %d partitions", from.Name, to.Partitions),
		})
	}
	if from.Settings == nil || to.Settings == nil {
		return p
	}
	for k, v := range want {
		have, known := to.Settings[k]
		if !known && Optional(k) || have.Value == v && (have.Set || slices.Contains(alike, k)) {
			continue
		}
		if p.Set == nil {
			p.Set = map[string]string{}
		}
		p.Set[k] = v
	}
	for k, s := range to.Settings {
		if _, wanted := want[k]; s.Set && !wanted && !local(k) {
			p.Unset = append(p.Unset, k)
		}
	}
	slices.Sort(p.Unset)
	return p
}
