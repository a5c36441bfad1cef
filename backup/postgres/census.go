package postgres

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// CameOrWent is why a table that was there at only one end of the backup was
// not counted: a restore may hold it or not.
const CameOrWent = "came or went while the backup ran"

// join makes one census of the two that were taken before and after. A table
// that held the same rows at both ends, and to which nothing is known to have
// been written, is in the backup as it was counted; every other one is moving.
func join(before, after []postgres.Table) []backup.PostgresTable {
	type key struct{ database, schema, name string }
	was := make(map[key]postgres.Table, len(before))
	for _, t := range before {
		was[key{t.Database, t.Schema, t.Name}] = t
	}
	var all []backup.PostgresTable
	for _, t := range after {
		k := key{t.Database, t.Schema, t.Name}
		b, both := was[k]
		delete(was, k)
		out := backup.PostgresTable{Database: t.Database, Schema: t.Schema, Name: t.Name, Rows: t.Rows, RowHash: t.RowHash, Skipped: t.Skipped}
		switch {
		case !both:
			out.Moving, out.Skipped = true, CameOrWent
			out.Rows, out.RowHash = 0, ""
		case t.Skipped == "" && b.Skipped != "":
			out.Moving = true // known at one end only
		case t.Skipped == "":
			out.Moving = b.Rows != t.Rows || b.RowHash != t.RowHash || b.Writes != t.Writes
		}
		all = append(all, out)
	}
	for k := range was {
		all = append(all, backup.PostgresTable{Database: k.database, Schema: k.schema, Name: k.name, Moving: true, Skipped: CameOrWent})
	}
	slices.SortFunc(all, func(a, b backup.PostgresTable) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// notes say what a restore will not bring back or cannot prove.
func notes(census []backup.PostgresTable) (notes []string) {
	for _, t := range census {
		if t.Skipped == "" || t.Skipped == CameOrWent {
			continue
		}
		where := t.Database
		if t.Name != "" {
			where += "." + t.Schema + "." + t.Name
		}
		if len(notes) == notesMax {
			return append(notes, "more tables were not counted; they are in the census")
		}
		notes = append(notes, fmt.Sprintf("%s was not counted: %s", where, t.Skipped))
	}
	return notes
}

const notesMax = 20
