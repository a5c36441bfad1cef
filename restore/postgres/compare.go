package postgres

import (
	"context"
	"fmt"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
	"github.com/holdfast-dr/holdfast/restore"
)

// Compare counts and hashes every table of the restored cluster and holds it
// against the census in the manifest.
func (t *Target) Compare(ctx context.Context, m *backup.Manifest, progress func(backup.Progress)) (restore.Comparison, error) {
	if t.client == nil || m.Postgres == nil {
		return restore.Comparison{}, fmt.Errorf("compare postgres in %s: no server runs there; restore first", t.place)
	}
	n, total := int64(0), int64(len(m.Postgres.Census))
	got, err := t.client.Census(ctx, postgres.CensusOptions{
		SizeMax: -1, TableMax: t.conf.TableMax,
		Each: func(postgres.Table) {
			n++
			if progress != nil {
				progress(backup.Progress{Stage: "postgres: compare", Done: n, Total: max(total, n), Unit: "tables"})
			}
		},
	})
	if err != nil {
		return restore.Comparison{}, fmt.Errorf("compare postgres in %s: %w", t.place, err)
	}
	for _, g := range got {
		if g.Library { // the set may well be good
			return restore.Comparison{}, fmt.Errorf("compare postgres in %s: %s: %s (install the extensions that the source has for the postgres in %s)",
				t.place, name{g.Database, g.Schema, g.Name}, g.Skipped, t.conf.BinDir)
		}
	}
	return compare(m.Postgres.Census, got), nil
}

type name struct{ database, schema, table string }

func (n name) String() string {
	if n.table == "" {
		return "database " + n.database
	}
	return n.database + "." + n.schema + "." + n.table
}

// compare holds what was counted in the restored cluster against the census
// of the manifest.
func compare(want []backup.PostgresTable, got []postgres.Table) restore.Comparison {
	var c restore.Comparison
	here := make(map[name]postgres.Table, len(got))
	for _, g := range got {
		here[name{g.Database, g.Schema, g.Name}] = g
		if g.Name != "" {
			c.Tables++
		}
		c.Rows += g.Rows
	}
	known := make(map[name]bool, len(want))
	unknown := map[string]bool{} // databases that could not be looked into
	var moving, uncounted int
	for _, w := range want {
		n := name{w.Database, w.Schema, w.Name}
		known[n] = true
		if w.Name == "" {
			unknown[w.Database] = true
			uncounted++
			continue
		}
		g, ok := here[n]
		switch {
		case !ok && w.Moving && w.Skipped != "": // it came or went
			moving++
		case !ok:
			c.Add(n.String(), "is missing")
		case w.Moving:
			moving++
			if g.Skipped != "" && w.Skipped == "" {
				c.Add(n.String(), "cannot be read: "+g.Skipped)
			}
		case w.Skipped != "":
			uncounted++
		case g.Skipped != "":
			c.Add(n.String(), "cannot be read: "+g.Skipped)
		case g.Rows != w.Rows:
			c.Add(n.String(), fmt.Sprintf("%d rows, the manifest says %d", g.Rows, w.Rows))
		case g.RowHash != w.RowHash:
			c.Add(n.String(), fmt.Sprintf("%d rows as the manifest says, and their content differs", g.Rows))
		default:
			c.Units++
		}
	}
	for _, g := range got {
		n := name{g.Database, g.Schema, g.Name}
		if !known[n] && !unknown[g.Database] {
			c.Add(n.String(), "is there, and not in the manifest")
		}
	}
	if moving > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d tables changed while the backup ran: they were read and not compared", moving))
	}
	if uncounted > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d tables or databases were not counted when the backup was taken: they were not compared", uncounted))
	}
	return c
}
