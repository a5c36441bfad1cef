package recovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// shelf is a vault with sets whose parts are named by engine.
type shelf struct {
	restore.Vault
	sets  []backup.SetID // newest first
	parts map[backup.SetID][]backup.Engine
	fault map[string]error // by key: of a seal, or of a manifest
}

func (s *shelf) Sets(context.Context) ([]backup.SetID, error) { return s.sets, s.fault["list"] }

func (s *shelf) Seal(_ context.Context, id backup.SetID) (backup.Seal, backup.Digest, error) {
	seal := backup.Seal{Set: id}
	for _, e := range s.parts[id] {
		seal.Parts = append(seal.Parts, backup.Part{Engine: e, Manifest: backup.ManifestKey(id, "a", e)})
	}
	return seal, "", s.fault[backup.SealKey(id)]
}

func (s *shelf) Manifest(_ context.Context, id backup.SetID, p backup.Part) (backup.Manifest, error) {
	return backup.Manifest{Set: id, Engine: p.Engine}, s.fault[p.Manifest]
}

func TestTake_BuildsOnTheNewestSetThatCanBeRead(t *testing.T) {
	both := []backup.Engine{backup.ClickHouse, backup.Postgres}
	newShelf := func() *shelf {
		return &shelf{sets: []backup.SetID{"c", "b", "a"}, fault: map[string]error{}, parts: map[backup.SetID][]backup.Engine{
			"c": {backup.ClickHouse}, "b": both, "a": both,
		}}
	}
	damaged := fmt.Errorf("its bytes: %w", restore.ErrDamaged)
	for name, c := range map[string]struct {
		key  string
		err  error
		want string // set of clickhouse, set of postgres
	}{
		"all whole":                   {"", nil, "c b"},
		"the newest seal is damaged":  {backup.SealKey("c"), damaged, "b b"},
		"a manifest is damaged":       {backup.ManifestKey("b", "a", backup.Postgres), damaged, "c a"},
		"the store does not answer":   {backup.SealKey("c"), errors.New("no route"), ""},
		"the list does not come":      {"list", errors.New("no route"), ""},
		"a manifest does not come":    {backup.ManifestKey("b", "a", backup.Postgres), errors.New("no route"), ""},
		"the oldest is not asked for": {backup.SealKey("a"), errors.New("no route"), "c b"},
	} {
		s := newShelf()
		s.fault[c.key] = c.err
		found, err := newest(t.Context(), s, both)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: built on %v", name, found)
			}
			continue
		}
		got := strings.TrimSpace(string(found[backup.ClickHouse].Set) + " " + string(found[backup.Postgres].Set))
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestTake_LooksBackABoundedNumberOfSets(t *testing.T) {
	s := &shelf{parts: map[backup.SetID][]backup.Engine{}}
	for i := range 3 * setsBack {
		s.sets = append(s.sets, backup.SetID(fmt.Sprintf("%03d", i)))
	}
	old := s.sets[2*setsBack]
	s.parts[old] = []backup.Engine{backup.Postgres}
	if found, err := newest(t.Context(), s, []backup.Engine{backup.Postgres}); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
}

func TestEngines_AreThoseOfTheRegionInTheOrderOfASet(t *testing.T) {
	f := &config.Fleet{Regions: map[topology.Region]config.Region{
		"us-east": {Postgres: &config.Postgres{}, Kafka: &config.Kafka{}, ClickHouse: &config.ClickHouse{}},
		"eu-west": {Postgres: &config.Postgres{}},
	}}
	h := &Host{o: Options{Fleet: f}}
	for _, c := range []struct {
		region topology.Region
		want   []backup.Engine
		out    string
	}{
		{"us-east", nil, "[kafka clickhouse postgres]"},
		{"us-east", []backup.Engine{backup.Postgres, backup.Kafka}, "[kafka postgres]"},
		{"eu-west", nil, "[postgres]"},
		{"eu-west", []backup.Engine{backup.Kafka}, ""},
		{"us-east", []backup.Engine{backup.Kafka, "redis"}, ""},
	} {
		got, err := h.engines(c.region, c.want)
		if (err != nil) != (c.out == "") || err == nil && fmt.Sprint(got) != c.out {
			t.Errorf("%s %v: %v, %v; want %s", c.region, c.want, got, err, c.out)
		}
	}
}

func TestMarks_ASweepOfDrillsLeavesWhatAPersonRestored(t *testing.T) {
	drill, restored := markOf(TargetOptions{Run: "01ABC", Drill: true}), markOf(TargetOptions{Run: "01ABC"})
	if !strings.HasPrefix(drill, drillMark) || strings.HasPrefix(restored, drillMark) || drill == restored {
		t.Errorf("%q and %q", drill, restored)
	}
}
