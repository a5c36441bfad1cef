package postgres

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

func TestCompare_FindsEachDifferenceOnce(t *testing.T) {
	was := func(name string, rows uint64, hash string) backup.PostgresTable {
		return backup.PostgresTable{Database: "d", Schema: "s", Name: name, Rows: rows, RowHash: hash}
	}
	is := func(name string, rows uint64, hash string) postgres.Table {
		return postgres.Table{Database: "d", Schema: "s", Name: name, Rows: rows, RowHash: hash}
	}
	moving := was("t", 5, "5")
	moving.Moving = true
	gone := backup.PostgresTable{Database: "d", Schema: "s", Name: "t", Moving: true, Skipped: "came or went while the backup ran"}
	big := backup.PostgresTable{Database: "d", Schema: "s", Name: "t", Skipped: "too big"}
	closed := backup.PostgresTable{Database: "closed", Skipped: "no right to connect to it"}
	unread := is("t", 0, "")
	unread.Skipped = "damaged"
	for name, c := range map[string]struct {
		want  []backup.PostgresTable
		got   []postgres.Table
		diff  string // empty: none
		units int
	}{
		"equal":               {[]backup.PostgresTable{was("t", 2, "9")}, []postgres.Table{is("t", 2, "9")}, "", 1},
		"fewer rows":          {[]backup.PostgresTable{was("t", 2, "9")}, []postgres.Table{is("t", 1, "9")}, "1 rows, the manifest says 2", 0},
		"other content":       {[]backup.PostgresTable{was("t", 2, "9")}, []postgres.Table{is("t", 2, "8")}, "content differs", 0},
		"missing":             {[]backup.PostgresTable{was("t", 2, "9")}, nil, "is missing", 0},
		"too many":            {nil, []postgres.Table{is("t", 2, "9")}, "not in the manifest", 0},
		"unreadable":          {[]backup.PostgresTable{was("t", 2, "9")}, []postgres.Table{unread}, "cannot be read", 0},
		"moving":              {[]backup.PostgresTable{moving}, []postgres.Table{is("t", 7, "1")}, "", 0},
		"moving and missing":  {[]backup.PostgresTable{moving}, nil, "is missing", 0},
		"moving, unreadable":  {[]backup.PostgresTable{moving}, []postgres.Table{unread}, "cannot be read", 0},
		"went":                {[]backup.PostgresTable{gone}, nil, "", 0},
		"came":                {[]backup.PostgresTable{gone}, []postgres.Table{is("t", 7, "1")}, "", 0},
		"not counted":         {[]backup.PostgresTable{big}, []postgres.Table{is("t", 7, "1")}, "", 0},
		"not counted and out": {[]backup.PostgresTable{big}, nil, "is missing", 0},
		"closed database":     {[]backup.PostgresTable{closed}, []postgres.Table{{Database: "closed", Schema: "s", Name: "x"}}, "", 0},
		"database too many":   {nil, []postgres.Table{{Database: "closed", Schema: "s", Name: "x"}}, "closed.s.x", 0},
	} {
		r := compare(c.want, c.got)
		text := ""
		for _, d := range r.Differences {
			text += d.Where + " " + d.What
		}
		if (r.Different == 0) != (c.diff == "") || r.Different > 1 || !strings.Contains(text, c.diff) || r.Units != c.units {
			t.Errorf("%s: %+v, want %q", name, r, c.diff)
		}
	}
}
