package postgres

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

func TestCoverWAL(t *testing.T) {
	wal := func(size int64, names ...string) (all []backup.PostgresFile) {
		for _, n := range names {
			all = append(all, backup.PostgresFile{Name: "pg_wal/" + n, Bytes: size})
		}
		return all
	}
	const mb = 1 << 20
	one := []walRange{{1, 0x2000028, 0x2000100}}
	check := func(name, want string, ranges []walRange, files []backup.PostgresFile, start, end lsn) {
		t.Helper()
		err := coverWAL(ranges, files, start, end)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	check("16 MiB", "", one, wal(16*mb, "000000010000000000000002"), 0x2000028, 0x2000100)
	check("1 MiB", "", one, wal(mb, "000000010000000000000020"), 0x2000028, 0x2000100)
	check("1 GiB, over a border", "", []walRange{{3, 0xC0000028, 0x1_40000001}}, wal(1<<30, "000000030000000000000003", "000000030000000100000000", "000000030000000100000001"), 0xC0000028, 0x1_40000001)
	check("end at a border", "", []walRange{{1, 0x2000028, 0x3000000}}, wal(16*mb, "000000010000000000000002"), 0x2000028, 0x3000000)
	check("other timeline", "did not arrive", one, wal(16*mb, "000000020000000000000002"), 0x2000028, 0x2000100)
	check("gap between segments", "segment 000000010000000000000003", []walRange{{1, 0x2000028, 0x4000100}}, wal(16*mb, "000000010000000000000002", "000000010000000000000004"), 0x2000028, 0x4000100)
	check("two timelines", "", []walRange{{2, 0x2000080, 0x2000100}, {1, 0x2000028, 0x2000080}}, wal(16*mb, "000000010000000000000002", "000000020000000000000002"), 0x2000028, 0x2000100)
	check("gap between ranges", "no range covers 0/2000080 to 0/2000090", []walRange{{1, 0x2000028, 0x2000080}, {2, 0x2000090, 0x2000100}}, wal(16*mb, "000000010000000000000002", "000000020000000000000002"), 0x2000028, 0x2000100)
	check("starts later", "the server itself", one, wal(16*mb, "000000010000000000000002"), 0x2000027, 0x2000100)
	check("ends earlier", "the server itself", one, wal(16*mb, "000000010000000000000002"), 0x2000028, 0x2000101)
	check("two sizes", "is no segment", one, append(wal(16*mb, "000000010000000000000002"), wal(mb, "000000010000000000000003")...), 0x2000028, 0x2000100)
	check("absurd range", "needs", []walRange{{1, 1, 0xFFFFFFFFFFFFFFFF}}, wal(mb, "000000010000000000000000"), 1, 0xFFFFFFFFFFFFFFFF)
	check("none", "no segment arrived", one, nil, 0x2000028, 0x2000100)
}

func TestJoin_MarksWhatMovedAndWhatCameOrWent(t *testing.T) {
	table := func(name string, rows, writes uint64, hash, skipped string) postgres.Table {
		return postgres.Table{Database: "d", Schema: "public", Name: name, Rows: rows, RowHash: hash, Writes: writes, Skipped: skipped}
	}
	got := join(
		[]postgres.Table{table("still", 1, 5, "7", ""), table("grew", 1, 1, "7", ""), table("changed", 1, 1, "7", ""), table("back", 1, 1, "7", ""),
			table("went", 1, 1, "7", ""), table("locked", 0, 1, "", "locked"), table("big", 0, 1, "", "too big")},
		[]postgres.Table{table("still", 1, 5, "7", ""), table("grew", 2, 2, "8", ""), table("changed", 1, 2, "9", ""), table("back", 1, 3, "7", ""),
			table("came", 1, 1, "7", ""), table("locked", 4, 1, "7", ""), table("big", 0, 1, "", "too big")})
	want := map[string]backup.PostgresTable{
		"still": {Rows: 1, RowHash: "7"}, "grew": {Rows: 2, RowHash: "8", Moving: true}, "changed": {Rows: 1, RowHash: "9", Moving: true},
		"back": {Rows: 1, RowHash: "7", Moving: true}, "came": {Moving: true, Skipped: CameOrWent}, "went": {Moving: true, Skipped: CameOrWent},
		"locked": {Rows: 4, RowHash: "7", Moving: true}, "big": {Skipped: "too big"},
	}
	if len(got) != len(want) {
		t.Errorf("%d tables, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[g.Name]
		w.Database, w.Schema, w.Name = "d", "public", g.Name
		if g != w {
			t.Errorf("%+v, want %+v", g, w)
		}
		if i > 0 && got[i-1].Name >= g.Name {
			t.Errorf("%s stands after %s", g.Name, got[i-1].Name)
		}
	}
	if n := notes(got); len(n) != 1 || !strings.Contains(n[0], "d.public.big was not counted: too big") {
		t.Errorf("%q", n)
	}
}

func TestCommand_SpeaksTheDialectOfTheVersion(t *testing.T) {
	if c := command(14, "x'y"); strings.Contains(c, "(") || !strings.Contains(c, "LABEL 'xy' PROGRESS FAST WAL ") || !strings.Contains(c, "MANIFEST_CHECKSUMS 'SHA256'") {
		t.Error(c)
	}
	if c := command(15, "x"); !strings.HasPrefix(c, "BASE_BACKUP (LABEL 'x', PROGRESS, CHECKPOINT 'fast', WAL, ") {
		t.Error(c)
	}
}
