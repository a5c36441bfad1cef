package clickhouse

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

func TestCreateAs_ChangesTheNameAndNothingElse(t *testing.T) {
	f, err := os.Open("testdata/created.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		var row struct{ DB, Name, Engine, Create string }
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		table := backup.ClickHouseTable{Database: row.DB, Name: row.Name, Engine: row.Engine, Create: row.Create}
		got, err := createAs(table, "scratch", row.Name)
		if err != nil {
			t.Errorf("%s: %v", row.Name, err)
			continue
		}
		_, before, _ := strings.Cut(row.Create, " (")
		head, after, _ := strings.Cut(got, " (")
		if before != after || head != "CREATE TABLE "+clickhouse.TableName("scratch", row.Name) {
			t.Errorf("%s became\n%s", row.Create, got)
		}
	}
	if n < 20 {
		t.Fatalf("only %d tables", n)
	}
}

func TestCreateAs_RefusesWhatItDoesNotRecognize(t *testing.T) {
	table := func(create string) backup.ClickHouseTable {
		return backup.ClickHouseTable{Database: "d", Name: "t", Create: create}
	}
	for create, want := range map[string]string{
		"CREATE VIEW d.t AS SELECT 1":           "CREATE TABLE",
		"CREATE TABLE e.t (a UInt8)":            "is that of e.t",
		"CREATE TABLE t (a UInt8)":              "names no database",
		"CREATE TABLE d.t AS e.t":               "no list of columns",
		"CREATE TABLE d.`t (a UInt8)":           "no end",
		"CREATE TABLE ":                         "a name was expected",
		"CREATE TABLE d.t UUID 'x (a UInt8)":    "no end",
		"CREATE TABLE d.t ON CLUSTER c (a Int)": "no list of columns",
	} {
		if got, err := createAs(table(create), "s", "t"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q %v, want %q", create, got, err, want)
		}
	}
	got, err := createAs(table("CREATE TABLE d.t UUID '1-2' (`a` UInt8)"), "s", "t")
	if err != nil || got != "CREATE TABLE `s`.`t` (`a` UInt8)" {
		t.Errorf("%q %v", got, err)
	}
}

// FuzzIdentifier: whatever quotes a name, reading it gives the name back.
func FuzzIdentifier(f *testing.F) {
	f.Add("we`ird 'ta/ble.")
	f.Add("a\\b\x00")
	f.Fuzz(func(t *testing.T, name string) {
		got, rest, err := identifier(clickhouse.Ident(name) + " (x")
		if err != nil || got != name || rest != " (x" {
			t.Fatalf("%q became %q, rest %q, %v", name, got, rest, err)
		}
		_, _, _ = identifier(name) // whatever it is, it ends
	})
}

func manifest(partitions ...backup.ClickHousePartition) *backup.Manifest {
	return &backup.Manifest{
		Packs: []backup.Pack{{ID: "P0"}, {ID: "P1"}},
		ClickHouse: &backup.ClickHousePart{Tables: []backup.ClickHouseTable{
			{Database: "d", Name: "t", Engine: "MergeTree", Create: "CREATE TABLE d.t (a UInt8)", Partitions: partitions},
			{Database: "e", Name: "v", Engine: "Kafka", Create: "CREATE TABLE e.v (a UInt8)"},
		}},
	}
}

func testTarget(t *testing.T) *Target {
	t.Helper()
	client, err := clickhouse.Open(clickhouse.Config{Addresses: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Client: client, Database: "scratch", Collection: "nc", Run: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestPlan_ReadsEachPartitionOnceFromItsPackAndNeverCreatesALiveTable(t *testing.T) {
	p, err := testTarget(t).plan(manifest(backup.ClickHousePartition{ID: "a", Pack: 1}, backup.ClickHousePartition{ID: "b", Pack: 0}, backup.ClickHousePartition{ID: "c", Pack: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.create) != 1 || p.create[0].database != "scratch_d" || p.partitions != 3 {
		t.Errorf("%+v", p)
	}
	if len(p.steps) != 2 || p.steps[0].prefix != "packs/clickhouse/P0/" || strings.Join(p.steps[1].tables[0].Partitions, " ") != "a c" || p.steps[1].tables[0].Table != "`d`.`t` AS `scratch_d`.`t`" {
		t.Errorf("%+v", p.steps)
	}
}

func TestPlan_RefusesAManifestThatWouldDoubleOrMissRows(t *testing.T) {
	for want, m := range map[string]*backup.Manifest{
		"twice":      manifest(backup.ClickHousePartition{ID: "a"}, backup.ClickHousePartition{ID: "a", Pack: 1}),
		"no pack 2":  manifest(backup.ClickHousePartition{ID: "a", Pack: 2}),
		"no pack -1": manifest(backup.ClickHousePartition{ID: "a", Pack: -1}),
		"replicated": {ClickHouse: &backup.ClickHousePart{Tables: []backup.ClickHouseTable{{Database: "d", Name: "t", Engine: "ReplicatedMergeTree"}}}},
	} {
		if _, err := testTarget(t).plan(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestOlder_ComparesMajorAndMinor(t *testing.T) {
	for v, want := range map[[2]string]bool{
		{"26.7.2", "26.7.9"}: false, {"25.8.1", "26.3.1"}: true, {"26.3", "25.8"}: false, {"9.9.1", "25.3.1"}: true, {"?", "25.3"}: false, {"25.3.1", ""}: false,
	} {
		if got := older(v[0], v[1]); got != want {
			t.Errorf("%v: %t", v, got)
		}
	}
}

func TestNew_RefusesNamesThatNeedQuoting(t *testing.T) {
	client, err := clickhouse.Open(clickhouse.Config{Addresses: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"no client":           {},
		"database \"a`b\"":    {Client: client, Database: "a`b"},
		"run \"\"":            {Client: client, Database: "a"},
		"no named collection": {Client: client, Database: "a", Run: "r"},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
