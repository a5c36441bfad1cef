//go:build integration

package fleet

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// TestFleet_WithBackupsHoldsOnEveryHost: the file passes every check that a
// daemon makes at its start, and what it names is there and closed to others.
func TestFleet_WithBackupsHoldsOnEveryHost(t *testing.T) {
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse, stack.NeedS3, stack.NeedPostgres)
	f, err := Start(t.Context(), Options{Postgres: true, Backups: &Backups{Schedule: "17 * * * *", Drill: &Drills{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(strings.TrimPrefix(clickhousePassword, "env:"), f.Regions["us-east"].ClickHouse.Password())
	file, err := config.Load(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	for name := range f.Nodes {
		if err := file.CheckHost(topology.Node(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, region := range []topology.Region{"us-east", "eu-west"} {
		if got := strings.Join(file.BackupEngines(region), " "); got != "kafka clickhouse postgres" {
			t.Errorf("region %s backs up %q", region, got)
		}
	}
	if of := file.DrillOf(); len(of) != 1 || of[0] != "us-east" {
		t.Errorf("drills %v", of)
	}
	err = filepath.WalkDir(f.keys.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	// Each node reaches the archive through a proxy of its own.
	for name, n := range file.Nodes {
		if n.Dial(f.Archive.Address()) == f.Archive.Address() {
			t.Errorf("node %s goes around the links", name)
		}
	}
	// What a region's ClickHouse writes, the drill's can read under that region's name.
	run := func(c *stack.ClickHouse, statement string) {
		t.Helper()
		if err := c.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	run(f.Regions["us-east"].ClickHouse, "CREATE TABLE sentry.t (i UInt64) ENGINE = MergeTree ORDER BY i AS SELECT * FROM numbers(10)")
	run(f.Regions["us-east"].ClickHouse, "BACKUP TABLE sentry.t TO S3("+ownCollection+", 'x/t')")
	run(f.Drill, "RESTORE TABLE sentry.t FROM S3("+Collection("us-east")+", 'x/t')")
	if _, err := os.Stat(filepath.Join(f.Archive.DataDir(), Bucket("us-east"), "x", "t")); err != nil && f.Archive.Kind() == stack.DefaultS3 {
		t.Error(err)
	}
}

func TestFleet_WithoutBackupsHasNoneOfIt(t *testing.T) {
	f := &Fleet{options: Options{}}
	if f.recovery("us-east") != nil || f.backupSections() != nil || f.collections("us-east") != nil {
		t.Fatal("a fleet without backups has sections for them")
	}
}
