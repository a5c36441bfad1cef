package replicate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func shop(t *testing.T, include, exclude []string) Selection {
	t.Helper()
	s, err := NewPresetSelection(Preset{Name: "shop-1", Rules: []PresetRule{
		{Topic: "orders", Class: ClassMirror, Why: "they are money"},
		{Topic: "orders-dlq", Class: ClassMirror, Why: "named before the pattern"},
		{Match: ".*-dlq", Class: ClassOptional, Why: "for salvage"},
		{Match: ".*-commit-log", Class: ClassLocal, Why: "offsets of its own cluster"},
		{Topic: "ticks", Class: ClassRegenerate, Why: "the clock"},
	}}, include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSelection_SaysByWhichRuleATopicIsMirrored(t *testing.T) {
	plain, refined := shop(t, nil, nil), shop(t, []string{".*-dlq", "extra", "x-.*"}, []string{"orders-.*", "x-no"})
	for _, c := range []struct {
		s    Selection
		want Choice
	}{
		{plain, Choice{"orders", ClassMirror, true, "preset shop-1: they are money"}},
		{plain, Choice{"orders-dlq", ClassMirror, true, "preset shop-1: named before the pattern"}},
		{plain, Choice{"mail-dlq", ClassOptional, false, "preset shop-1: for salvage"}},
		{plain, Choice{"ticks", ClassRegenerate, false, "preset shop-1: the clock"}},
		{plain, Choice{"my-own", "", false, "preset shop-1 does not know it, and no include does"}},
		{plain, Choice{"__consumer_offsets", "", false, "it begins with two underscores: Kafka's own, or ours"}},
		{refined, Choice{"mail-dlq", ClassOptional, true, "include .*-dlq"}},
		{refined, Choice{"orders-dlq", ClassMirror, false, "exclude orders-.*"}},
		{refined, Choice{"x-yes", "", true, "include x-.*"}},
		{refined, Choice{"x-no", "", false, "exclude x-no"}},
		{Selection{}, Choice{"any", "", true, "every topic is mirrored"}},
	} {
		if diff := cmp.Diff(c.want, c.s.Choose(c.want.Topic)); diff != "" {
			t.Errorf("%s: %s", c.want.Topic, diff)
		}
	}
}

func TestSelection_NeverMirrorsWhatIsLocalWhateverIsIncluded(t *testing.T) {
	s := shop(t, []string{".*", "a-commit-log"}, nil)
	for _, topic := range []string{"a-commit-log", "-commit-log", "x-y-commit-log"} {
		if c := s.Choose(topic); c.Mirrored || c.Class != ClassLocal {
			t.Errorf("%+v", c)
		}
	}
}

func TestPreset_RefusesWhatItCannotMean(t *testing.T) {
	for name, r := range map[string]PresetRule{
		"class": {Topic: "a", Class: "mirrored"}, "neither": {Class: ClassMirror}, "both": {Topic: "a", Match: "a", Class: ClassMirror}, "pattern": {Match: "(", Class: ClassLocal},
	} {
		if _, err := NewPresetSelection(Preset{Name: "p", Rules: []PresetRule{r}}, nil, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := NewPresetSelection(Preset{Name: "p", Rules: []PresetRule{{Topic: "a", Class: ClassLocal}, {Topic: "a", Class: ClassMirror}}}, nil, nil); err == nil {
		t.Error("one name with two classes: taken")
	}
}
