package replicate

import (
	"fmt"
	"regexp"
)

// Class says what a topic is to a standby.
type Class string

// The classes of a preset.
const (
	ClassMirror     Class = "mirror"     // data is lost without it
	ClassLocal      Class = "local"      // means something in its own cluster only
	ClassRegenerate Class = "regenerate" // made anew; consumers start at its end
	ClassOptional   Class = "optional"   // not needed to go on
)

// Known says whether this is one of the classes.
func (c Class) Known() bool {
	switch c {
	case ClassMirror, ClassLocal, ClassRegenerate, ClassOptional:
		return true
	}
	return false
}

// Preset knows the topics of one product, so that nobody has to list them.
type Preset struct {
	Name       string
	Rules      []PresetRule
	CommitLogs []CommitLog
}

// PresetRule is the class of one topic, or of all topics that a pattern
// matches, with the reason.
type PresetRule struct {
	Topic string // a whole name
	Match string // or a regular expression on the whole name
	Class Class
	Why   string
}

// presetIndex is a preset made ready to be asked. A name counts before a
// pattern, and the first pattern that matches counts.
type presetIndex struct {
	name     string
	topics   map[string]PresetRule
	patterns []presetPattern
}

type presetPattern struct {
	re   *regexp.Regexp
	rule PresetRule
}

func newPresetIndex(p Preset) (*presetIndex, error) {
	x := &presetIndex{name: p.Name, topics: map[string]PresetRule{}}
	for _, r := range p.Rules {
		if !r.Class.Known() {
			return nil, fmt.Errorf("preset %s, %s%s: class %q is not known", p.Name, r.Topic, r.Match, r.Class)
		}
		if (r.Topic == "") == (r.Match == "") {
			return nil, fmt.Errorf("preset %s: want a name or a pattern, got %q and %q", p.Name, r.Topic, r.Match)
		}
		if r.Topic != "" {
			if _, twice := x.topics[r.Topic]; twice {
				return nil, fmt.Errorf("preset %s names %s twice", p.Name, r.Topic)
			}
			x.topics[r.Topic] = r
			continue
		}
		res, err := wholeMatches("preset "+p.Name, []string{r.Match})
		if err != nil {
			return nil, err
		}
		x.patterns = append(x.patterns, presetPattern{res[0], r})
	}
	return x, nil
}

// rule returns what the preset says about a topic; false: it does not know it.
func (x *presetIndex) rule(topic string) (PresetRule, bool) {
	if r, ok := x.topics[topic]; ok {
		return r, true
	}
	for _, p := range x.patterns {
		if p.re.MatchString(topic) {
			return p.rule, true
		}
	}
	return PresetRule{}, false
}
