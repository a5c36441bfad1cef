package clickhouse

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseDescription_NamesEveryObjectOnce(t *testing.T) {
	for name, want := range map[string]struct {
		objects int
		parts   map[tableName][]string
	}{
		// 53 files, 8 of which are equal to another one.
		"shared.backup.xml": {46, map[tableName][]string{
			{"s1", "errors_local"}:     {"30-20261116_1_1_1", "90-20261116_2_2_1"},
			{"s1", "j"}:                {"0_1_1_0"},
			{"s1", "migrations_local"}: {"all_1_1_1"},
		}},
		// 63 files, 27 of which are equal to another one, and 7 without a byte.
		"empty.backup.xml": {30, map[tableName][]string{{"s1", "w"}: {"0_1_1_0", "1_2_2_0", "2_3_3_0"}}},
		"names.backup.xml": {23, map[tableName][]string{
			{"s1", "we`ird 'ta/ble."}: {"e574636f8752b746f7ba6a58c34e0166_1_1_0", "f64abffc6c96f8ef72c783f1b9426e19_2_2_0"},
		}},
	} {
		data := read(t, name)
		d, err := parseDescription(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(d.objects) != want.objects || d.objects[0].Name != descriptionName || d.objects[0].Bytes != int64(len(data)) {
			t.Errorf("%s: %d objects, first %+v", name, len(d.objects), d.objects[0])
		}
		if len(d.parts) != len(want.parts) {
			t.Errorf("%s: %v", name, d.parts)
		}
		for table, parts := range want.parts {
			if !slices.Equal(d.parts[table], parts) {
				t.Errorf("%s: %v has %v", name, table, d.parts[table])
			}
		}
		if !strings.HasPrefix(d.id, "P") {
			t.Errorf("%s: id %q", name, d.id)
		}
	}
}

func TestParseDescription_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	file := func(inner string) string {
		return "<config><version>1</version><contents><file>" + inner + "</file></contents></config>"
	}
	for text, want := range map[string]string{
		"":                                      "empty",
		"<config><version>1</version>":          "unexpected EOF",
		"<other></other>":                       "config was expected",
		"<config></config><config></config>":    "config was expected",
		"<config><version>2</version></config>": "version",
		"<config><base_backup>x</base_backup></config>":                                                       "builds on another",
		file("<name>a</name>"):                                                                                "no size",
		file("<name>a</name><size>-1</size>"):                                                                 "no size",
		file("<name>../a</name><size>1</size>"):                                                               "named",
		file("<name>/a</name><size>1</size>"):                                                                 "named",
		file("<name>a</name><size>1</size><use_base>true</use_base>"):                                         "another backup",
		file("<name>a</name><size>1</size><data_file>../../b</data_file>"):                                    "lies in object",
		file("<name>a</name><size>1</size><data_file>.backup</data_file>"):                                    "lies in object",
		file("<name>a</name><size>1</size></file><file><name>a</name><size>1</size>"):                         "named twice",
		file("<name>a</name><size>1</size></file><file><name>b</name><size>2</size><data_file>a</data_file>"): "1 bytes and 2 bytes",
	} {
		if _, err := parseDescription([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestParseDescription_ATruncatedOneIsNeverTaken(t *testing.T) {
	whole := read(t, "shared.backup.xml")
	end := strings.LastIndex(string(whole), "</config>") + len("</config>") - 1
	for n := 0; n < end; n += 97 {
		if _, err := parseDescription(whole[:n]); err == nil {
			t.Fatalf("%d of %d bytes were taken for the whole", n, len(whole))
		}
	}
}

func FuzzParseDescription(f *testing.F) {
	for _, name := range []string{"shared.backup.xml", "empty.backup.xml", "names.backup.xml"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDescription(data)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, o := range d.objects {
			if seen[o.Name] || !safeName(o.Name) || o.Bytes < 0 || strings.Contains(o.Name, "../") {
				t.Fatalf("object %+v", o)
			}
			seen[o.Name] = true
		}
		for table, parts := range d.parts {
			if !slices.IsSorted(parts) || len(parts) == 0 {
				t.Fatalf("%v: %v", table, parts)
			}
		}
	})
}

func aTable(parts ...part) table {
	return table{ClickHouseTable: backup.ClickHouseTable{
		Database: "d", Name: "t", Engine: "MergeTree", Create: "CREATE TABLE d.t (a UInt8)",
		Columns: []backup.ClickHouseColumn{{Name: "a", Type: "UInt8"}},
	}, parts: parts}
}

func TestFingerprint_SeesPartsAndDefinitionAndNotTheirOrder(t *testing.T) {
	def := aTable().ClickHouseTable
	base := fingerprint(def, []string{"x", "y"})
	if base == "" || base != fingerprint(def, []string{"y", "x"}) {
		t.Error("order changes it")
	}
	altered := def
	altered.Create += " COMMENT 'x'"
	columns := def
	columns.Columns = []backup.ClickHouseColumn{{Name: "a", Type: "UInt16"}}
	for what, other := range map[string]string{
		"a part less":     fingerprint(def, []string{"x"}),
		"a part twice":    fingerprint(def, []string{"x", "y", "y"}),
		"borders":         fingerprint(def, []string{"xy"}),
		"definition":      fingerprint(altered, []string{"x", "y"}),
		"type of columns": fingerprint(columns, []string{"x", "y"}),
	} {
		if other == base || other == "" {
			t.Errorf("%s does not change it", what)
		}
	}
	if fingerprint(def, []string{"x", ""}) != "" || fingerprint(def, nil) != "" {
		t.Error("an unknown part has a fingerprint")
	}
}

func TestPlan_TakesWhatChangedAndRefersToTheRest(t *testing.T) {
	src := source{tables: []table{aTable(
		part{name: "1_1_1_0", partition: "1", hash: "a", active: true, rows: 5},
		part{name: "2_2_2_0", partition: "2", hash: "b", active: true, rows: 5},
		part{name: "2_9_9_0", partition: "2", hash: "old", active: false, rows: 5},
		part{name: "3_3_3_0", partition: "3", hash: "c", active: true, rows: 5},
		part{name: "4_4_4_1", partition: "4", hash: "e", active: true, rows: 0}, // was dropped
		part{name: "5_5_5_0", partition: "5", hash: "f", active: true, rows: 5},
	)}}
	def := src.tables[0].ClickHouseTable
	def.Partitions = []backup.ClickHousePartition{
		{ID: "1", Pack: 0, RowHash: "tuple1:1", Fingerprint: fingerprint(def, []string{"a"})},
		{ID: "2", Pack: 0, RowHash: "tuple1:1", Fingerprint: fingerprint(def, []string{"x"})},
		{ID: "3", Pack: 7, RowHash: "tuple1:1", Fingerprint: fingerprint(def, []string{"c"})}, // no such pack
		{ID: "5", Pack: 0, RowHash: "", Fingerprint: fingerprint(def, []string{"f"})},         // not proven
	}
	prev := &backup.Manifest{Packs: []backup.Pack{{ID: "P"}}, ClickHouse: &backup.ClickHousePart{Tables: []backup.ClickHouseTable{def}}}
	p := makePlan(src, prev)
	if len(p.keep) != 1 || p.keep[0].id != "1" {
		t.Errorf("keeps %v", p.keep)
	}
	if want := []partition{{"d", "t", "2"}, {"d", "t", "3"}, {"d", "t", "5"}}; !slices.Equal(p.take, want) {
		t.Errorf("takes %v, want %v", p.take, want)
	}
	if p := makePlan(src, nil); len(p.take) != 4 || len(p.keep) != 0 {
		t.Errorf("with nothing before: %v", p)
	}
}

func TestUnpatched_RefusesAPatchThatIsNewerThanItsPart(t *testing.T) {
	base := part{name: "1_1_1_0", partition: "1", active: true, rows: 5, version: 2}
	patch := part{name: "patch", partition: "patch-e5ad35f20db194099a46a0d253ac3651-1", active: true, rows: 1, version: 4}
	if err := (source{[]table{aTable(base, patch)}}).unpatched(); err == nil || !strings.Contains(err.Error(), "APPLY PATCHES") {
		t.Errorf("%v", err)
	}
	base.version = 4 // applied; the patch lingers
	if err := (source{[]table{aTable(base, patch)}}).unpatched(); err != nil {
		t.Error(err)
	}
	other := patch
	other.partition = "patch-e5ad35f20db194099a46a0d253ac3651-12"
	base.version = 2
	if err := (source{[]table{aTable(base, other)}}).unpatched(); err != nil {
		t.Errorf("a patch of another partition: %v", err)
	}
}

func TestPartitionsOf_RefusesWhatWasNotAskedFor(t *testing.T) {
	d := description{parts: map[tableName][]string{{"d", "t"}: {"1_1_1_0", "1_2_2_0"}}}
	got, err := partitionsOf(d, nil, []partition{{"d", "t", "1"}, {"d", "t", "2"}})
	if err != nil || len(got[partition{"d", "t", "1"}]) != 2 || len(got[partition{"d", "t", "2"}]) != 0 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := partitionsOf(d, nil, []partition{{"d", "t", "2"}}); err == nil || !strings.Contains(err.Error(), "not asked for") {
		t.Errorf("%v", err)
	}
}

func TestNotes_SayWhichRowsAreNotTaken(t *testing.T) {
	of := func(engine, name string) table {
		return table{ClickHouseTable: backup.ClickHouseTable{Database: "d", Name: name, Engine: engine}}
	}
	text := strings.Join(notes([]table{of("MergeTree", "a"), of("Log", "b"), of("View", "c"), of("MergeTree", ".inner_id.x"), of("Buffer", "e"), of("ReplicatedMergeTree", "f")}), "\n")
	for _, want := range []string{"Log: may hold rows of its own, which are NOT taken; only the definition is kept: d.b", "View: only the definition is kept", "1 inner tables", "not yet flushed", "1 replicated tables"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "d.a") {
		t.Errorf("a note about a table that is whole:\n%s", text)
	}
}

func TestNew_SaysWhatIsMissing(t *testing.T) {
	client, err := clickhouse.Open(clickhouse.Config{Addresses: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"no client":           {},
		"no databases":        {Client: client},
		"no named collection": {Client: client, Databases: []string{"a"}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
