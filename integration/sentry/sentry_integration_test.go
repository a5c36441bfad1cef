//go:build integration

package sentry

import (
	"maps"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/integration/stack"
)

func TestClickHouse_TheSameRowsTwiceDoubleOnlyWhatAddsUp(t *testing.T) {
	s := stack.RunClickHouse(t, stack.ClickHouseOptions{})
	c := ClickHouse{Address: s.HTTPAddress(), User: s.User(), Password: s.Password(), Database: "events"}
	const n = 500
	at := time.Now().Truncate(time.Hour)
	begun := time.Now()
	if err := CreateClickHouse(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	fill := func() map[string]Count {
		t.Helper()
		if err := FillClickHouse(t.Context(), c, n, at); err != nil {
			t.Fatal(err)
		}
		census, err := CensusClickHouse(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return census
	}
	once := fill()
	t.Logf("made and filled in %.1f s", time.Since(begun).Seconds())
	if len(once) != 21 { // and discover_local, which holds nothing
		t.Fatalf("%d tables: %v", len(once), once)
	}
	for table, count := range once {
		if count.Rows == 0 {
			t.Errorf("%s is empty", table)
		}
	}
	twice := fill()
	for _, table := range []string{"errors_local", "eap_items_1_local", "replays_local", "profile_chunks_local", "group_attributes_local"} {
		if once[table] != twice[table] || table != "replays_local" && once[table].Rows != n {
			t.Errorf("%s: once %v, twice %v", table, once[table], twice[table])
		}
	}
	for _, table := range []string{"outcomes_raw_local", "functions_raw_local"} {
		if twice[table].Rows != 2*n {
			t.Errorf("%s: twice %v", table, twice[table])
		}
	}
	for _, table := range []string{"outcomes_hourly_local", "generic_metric_counters_aggregated_local"} {
		if once[table].Rows != twice[table].Rows || once[table].Hash == twice[table].Hash {
			t.Errorf("%s: once %v, twice %v", table, once[table], twice[table])
		}
	}
}

func TestClickHouse_TheCensusSeesOneValueBesideANull(t *testing.T) {
	s := stack.RunClickHouse(t, stack.ClickHouseOptions{})
	c := ClickHouse{Address: s.HTTPAddress(), User: s.User(), Password: s.Password(), Database: s.Database()}
	census := func() Count {
		t.Helper()
		all, err := CensusClickHouse(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return all["t"]
	}
	for _, statement := range []string{
		"CREATE TABLE sentry.t (a UInt8, b Nullable(UInt8), v UInt8, m UInt8 MATERIALIZED v + 1) ENGINE = MergeTree ORDER BY a",
		"INSERT INTO sentry.t (a, b, v) VALUES (1, NULL, 1), (2, NULL, 2)",
	} {
		if err := s.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	before := census()
	if err := s.Exec(t.Context(), "ALTER TABLE sentry.t UPDATE v = 9 WHERE a = 2 SETTINGS mutations_sync = 1"); err != nil {
		t.Fatal(err)
	}
	if after := census(); before.Rows != 2 || after.Rows != 2 || before.Hash == after.Hash {
		t.Fatalf("before %v, after %v", before, after)
	}
}

func TestPostgres_FillsWhatIsThereFurther(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{})
	var before map[string]Count
	for round := 1; round <= 2; round++ {
		begun := time.Now()
		if err := FillPostgres(t.Context(), p.DSN(), 300); err != nil {
			t.Fatal(err)
		}
		t.Logf("filled in %.1f s", time.Since(begun).Seconds())
		census, err := CensusPostgres(t.Context(), p.BackupDSN()) // who may read, may count
		if err != nil {
			t.Fatal(err)
		}
		if len(census) != 19 || census["sentry_groupedmessage"].Rows != int64(300*round) || census["sentry_projectkey"].Rows == 0 {
			t.Fatalf("round %d: %v", round, census)
		}
		if maps.Equal(before, census) {
			t.Fatal("nothing was added")
		}
		before = census
	}
}
