package config

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/replicate"
)

// TestPreset_OfEveryNameIsWhole reads each preset that is shipped, as a daemon
// would at its start.
func TestPreset_OfEveryNameIsWhole(t *testing.T) {
	for _, name := range presetNames() {
		for _, shadow := range []bool{false, true} {
			p, err := Preset(name).Read(shadow)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := replicate.NewPresetSelection(p, nil, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, r := range p.Rules {
				if r.Why == "" {
					t.Errorf("%s: no reason for %s%s", name, r.Topic, r.Match)
				}
			}
		}
	}
	if _, err := Preset("sentry-1").Read(false); err == nil {
		t.Error("a preset that is not there was read")
	}
}

func TestPreset_SentryMirrorsDataAndNoCommitLog(t *testing.T) {
	fleet := func(more string) *Fleet {
		f, err := Parse("holdfast.yaml", []byte(small+"mirror: {preset: sentry-26.8"+more+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	mirrored := func(f *Fleet, topics ...string) []string {
		s, err := f.Selection()
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(topics, func(topic string) bool { return !s.Selects(topic) })
	}
	some := []string{
		"events", "taskworker", "outcomes-billing", "snuba-items", "profiles", "event-replacements",
		"snuba-commit-log", "snuba-items-commit-log", "anything-commit-log", "scheduled-subscriptions-events",
		"monitors-clock-tick", "ingest-events-dlq", "snuba-dead-letter-items", "events-subscription-results", "our-own", "__consumer_offsets",
	}
	data := []string{"events", "taskworker", "outcomes-billing", "snuba-items", "profiles", "event-replacements"}
	if diff := cmp.Diff(data, mirrored(fleet(""), slices.Clone(some)...)); diff != "" {
		t.Error(diff)
	}
	// Include adds, and still brings no commit log.
	everything := append(slices.Clone(data), "monitors-clock-tick", "ingest-events-dlq", "snuba-dead-letter-items", "events-subscription-results", "our-own")
	if diff := cmp.Diff(everything, mirrored(fleet(`, topics: {include: [".*"]}`), slices.Clone(some)...)); diff != "" {
		t.Error(diff)
	}
	// Where consumers of ClickHouse run in both regions, what they produce is local.
	f := fleet("")
	for name, r := range f.Regions {
		r.ClickHouse = &ClickHouse{Follow: Shadow}
		f.Regions[name] = r
	}
	if diff := cmp.Diff(data[:5], mirrored(f, slices.Clone(some)...)); diff != "" {
		t.Error(diff)
	}
}

func TestCommitLogs_AreThoseOfTheFileThenOfThePresetAndNeverMirrored(t *testing.T) {
	f := &Fleet{Mirror: Mirror{Preset: "sentry-26.8", CommitLogs: []CommitLog{{Topic: "a.commits", Of: "events", Group: "g"}, {Topic: "snuba-commit-log", Of: "events", Group: "my-consumers"}}}}
	logs, err := f.CommitLogs()
	if err != nil {
		t.Fatal(err)
	}
	if len(logs) != 7 || logs[0].Topic != "a.commits" || logs[1].Group != "my-consumers" {
		t.Errorf("%+v", logs)
	}
	for _, preset := range []Preset{"", "sentry-26.8"} {
		f.Mirror.Preset = preset
		if logs, err = f.CommitLogs(); err != nil {
			t.Fatal(err)
		}
		f.Mirror.Topics.Include = []Pattern{everything}
		topics, err := f.Selection()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range logs {
			if topics.Selects(l.Topic) || !topics.Selects(l.Of) {
				t.Errorf("preset %q: %+v", preset, l)
			}
		}
		if !topics.Selects("axcommits") {
			t.Errorf("preset %q: the name of a commit log is taken for a pattern", preset)
		}
	}
}
