package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/objects"
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
	seal := backup.Seal{Set: id, Started: begun(id)}
	for _, e := range s.parts[id] {
		seal.Parts = append(seal.Parts, backup.Part{Engine: e, Manifest: backup.ManifestKey(id, "a", e)})
	}
	return seal, "", s.fault[backup.SealKey(id)]
}

// begun is when a set of a shelf was: as many hours after the first as its
// letter is after a.
func begun(id backup.SetID) time.Time { return time.Unix(3600*int64(id[0]), 0) }

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
		"all whole":                               {"", nil, "c b"},
		"the newest seal is damaged":              {backup.SealKey("c"), damaged, "b b"},
		"the newest seal is of a CA that is gone": {backup.SealKey("c"), errors.New("not signed by a node of the cluster"), "b b"},
		"a manifest is damaged":                   {backup.ManifestKey("b", "a", backup.Postgres), damaged, "c a"},
		"the store does not answer":               {backup.SealKey("c"), fmt.Errorf("no route: %w", objects.ErrUnreachable), ""},
		"the list does not come":                  {"list", fmt.Errorf("no route: %w", objects.ErrUnreachable), ""},
		"a manifest does not come":                {backup.ManifestKey("b", "a", backup.Postgres), fmt.Errorf("no route: %w", objects.ErrUnreachable), ""},
		"the oldest is not asked for":             {backup.SealKey("a"), fmt.Errorf("no route: %w", objects.ErrUnreachable), "c b"},
	} {
		s := newShelf()
		s.fault[c.key] = c.err
		found, err := newest(t.Context(), s, both, time.Time{})
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

func TestTake_BuildsOnNothingThatADrillFoundBad(t *testing.T) {
	s := &shelf{sets: []backup.SetID{"c", "b", "a"}, parts: map[backup.SetID][]backup.Engine{"c": {backup.Kafka}, "b": {backup.Kafka, backup.Postgres}}}
	both := []backup.Engine{backup.Kafka, backup.Postgres}
	for after, want := range map[backup.SetID]int{"a": 2, "b": 1, "c": 0} {
		if found, err := newest(t.Context(), s, both, begun(after)); err != nil || len(found) != want {
			t.Errorf("after %s: %v, %v", after, found, err)
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
	if found, err := newest(t.Context(), s, []backup.Engine{backup.Postgres}, time.Time{}); err != nil || len(found) != 0 {
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
	h, other := &Host{o: Options{Fleet: &config.Fleet{Cluster: "lab"}}}, &Host{o: Options{Fleet: &config.Fleet{Cluster: "prod"}}}
	drill, restored := h.markOf(TargetOptions{Run: "01ABC", Drill: true}), h.markOf(TargetOptions{Run: "01ABC"})
	if strings.HasPrefix(drill, other.drillsMark()) {
		t.Errorf("another fleet would sweep %q", drill)
	}
	if !strings.HasPrefix(drill, h.drillsMark()) || strings.HasPrefix(restored, drillMark) || drill == restored {
		t.Errorf("%q and %q", drill, restored)
	}
}

func TestDrill_TakesTheRegionThatHasGoneUnprovenForLongest(t *testing.T) {
	monday := time.Date(2026, 3, 2, 4, 0, 0, 0, time.UTC)
	east, west := candidate{"us-east", "01B", monday}, candidate{"eu-west", "01A", monday.Add(-time.Hour)}
	if c := slices.MinFunc([]candidate{east, west}, candidate.compare); c.region != "eu-west" {
		t.Errorf("chose %s, whose set is newer and whose proof is too", c.region)
	}
	west.proven = east.proven
	if c := slices.MinFunc([]candidate{west, east}, candidate.compare); c.region != "us-east" {
		t.Errorf("chose %s; proven at one time, the newer set counts", c.region)
	}
	west.proven = time.Time{}
	if c := slices.MinFunc([]candidate{east, west}, candidate.compare); c.region != "eu-west" {
		t.Errorf("chose %s, and the other was never proven", c.region)
	}
}

func TestTake_NamesTheEngineOfAStageOnce(t *testing.T) {
	for stage, want := range map[string]string{"hash 28 objects": "clickhouse: hash 28 objects", "clickhouse: back up": "clickhouse: back up", "clickhouse: clickhouse: hash": "clickhouse: hash"} {
		if got := stageOf(backup.ClickHouse, stage); got != want {
			t.Errorf("%q is said as %q", stage, got)
		}
	}
}

func TestTake_SaysWhereAServerMayHaveWritten(t *testing.T) {
	h := &Host{o: Options{Fleet: &config.Fleet{Regions: map[topology.Region]config.Region{"us-east": {
		ClickHouse: &config.ClickHouse{BackupCollection: "holdfast"}, Repository: &config.Repository{Bucket: "sets", Prefix: "solo/"},
	}}}}}
	err := h.elsewhere(fmt.Errorf("no description of it: %w", objects.ErrNotFound), backup.ClickHouse, "us-east")
	if !errors.Is(err, objects.ErrNotFound) || !strings.Contains(err.Error(), `collection holdfast lead to bucket sets, and end with the prefix "solo/"?`) {
		t.Error(err)
	}
	if other := errors.New("disk full"); !errors.Is(h.elsewhere(other, backup.ClickHouse, "us-east"), other) || strings.Contains(h.elsewhere(other, backup.ClickHouse, "us-east").Error(), "collection") {
		t.Error("any other error is its own")
	}
}

func TestAbandoned_IsOnlyWhatARestoreByHandMade(t *testing.T) {
	a, ours := abandoned("restore-01kjn9z0000000000000000new", backup.Postgres)
	if !ours || a.Run != "01KJN9Z0000000000000000NEW" || a.Began.IsZero() || a.Engine != backup.Postgres {
		t.Errorf("%+v %t", a, ours)
	}
	for _, mark := range []string{"drill-01kjn9z0000000000000000new", "01kjn9z0000000000000000new", ""} {
		if _, ours := abandoned(mark, backup.Postgres); ours {
			t.Errorf("%q is taken for a restore by hand", mark)
		}
	}
}

func TestAbandoned_FindsAndRemovesAFolderByItsMark(t *testing.T) {
	dir := t.TempDir()
	for _, run := range []string{"restore-01kjn9z0000000000000000new", "restore-01kjn6f0000000000000000mid", "drill-01kjn6f0000000000000000mid"} {
		place := filepath.Join(dir, "holdfast-"+run)
		if err := os.MkdirAll(filepath.Join(place, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		name := "holdfast-scratch"
		if strings.Contains(run, "mid") && strings.HasPrefix(run, restoreMark) {
			name = "holdfast-restored" // it was handed over
		}
		if err := os.WriteFile(filepath.Join(place, name), []byte(run+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := &Host{o: Options{Fleet: &config.Fleet{}}}
	found, closeAll, err := h.Abandoned(t.Context(), TargetOptions{PostgresDirectory: dir})
	if err != nil || len(found) != 1 || found[0].Run != "01KJN9Z0000000000000000NEW" {
		t.Fatalf("%+v %v", found, err)
	}
	for range 2 {
		if err := errors.Join(found[0].Remove(t.Context()), closeAll()); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v %v", left, err)
	}
	if _, _, err := h.Abandoned(t.Context(), TargetOptions{}); !errors.Is(err, ErrNowhere) {
		t.Error("nowhere to look, and nothing was said")
	}
}
