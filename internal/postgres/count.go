package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// counter reads the tables of one database in one snapshot.
type counter struct {
	tx       pgx.Tx
	database string
	o        CensusOptions
}

// session makes the text of a row the same on every server, whatever its
// configuration, database or role says, and keeps a census from getting in
// the way of others.
var session = []string{
	"datestyle = 'ISO, YMD'", "timezone = 'UTC'", "intervalstyle = 'postgres'", "extra_float_digits = 1", "bytea_output = 'hex'",
	"xmloption = 'content'", "lc_monetary = 'C'", "lc_numeric = 'C'", "lc_time = 'C'", "search_path = pg_catalog", "quote_all_identifiers = off",
	"row_security = off", // rows that a policy hides are an error and not a smaller number
	"jit = off", "max_parallel_workers_per_gather = 0", "lock_timeout = '2s'", "idle_in_transaction_session_timeout = 0",
}

const listTables = `
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       CASE WHEN c.relkind IN ('r', 'm') THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END,
       pg_catalog.pg_stat_get_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_tuples_updated(c.oid) + pg_catalog.pg_stat_get_tuples_deleted(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1, 2`

func (c *counter) all(ctx context.Context) ([]Table, error) {
	if _, err := c.tx.Exec(ctx, "SET LOCAL "+strings.Join(session, "; SET LOCAL ")); err != nil {
		return nil, fmt.Errorf("prepare the session: %w", err)
	}
	if _, err := c.tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", c.o.TableMax.Milliseconds())); err != nil {
		return nil, fmt.Errorf("prepare the session: %w", err)
	}
	rows, err := c.tx.Query(ctx, listTables)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	type entry struct {
		t                 Table
		kind, persistence string
		size              int64
		legible           bool
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (entry, error) {
		e := entry{t: Table{Database: c.database}}
		// A table that is dropped meanwhile has no size.
		var size, writes *int64
		err := r.Scan(&e.t.Schema, &e.t.Name, &e.kind, &e.persistence, &size, &writes)
		if size != nil {
			e.size = *size
		}
		var schema, table bool
		e.t.Schema, schema = legible(e.t.Schema)
		e.t.Name, table = legible(e.t.Name)
		e.legible = schema && table
		if writes != nil && *writes > 0 {
			e.t.Writes = uint64(*writes)
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	all := make([]Table, 0, len(list))
	for _, e := range list {
		there := true
		switch {
		case !e.legible:
			e.t.Skipped = "its name is not UTF-8"
		case e.kind == "m":
			e.t.Skipped = "a materialized view: its rows are those of other tables"
		case e.kind == "f":
			e.t.Skipped = "a foreign table: its rows are on another server"
		case e.persistence == "u":
			e.t.Skipped = "unlogged: Postgres empties it in a restore"
		case c.o.SizeMax > 0 && e.size > c.o.SizeMax:
			e.t.Skipped = fmt.Sprintf("%d MiB, above the limit of %d MiB for counting", e.size>>20, c.o.SizeMax>>20)
		default:
			if there, err = c.one(ctx, &e.t); err != nil {
				return nil, fmt.Errorf("table %s.%s: %w", e.t.Schema, e.t.Name, err)
			}
		}
		if !there {
			continue
		}
		all = append(all, e.t)
		if c.o.Each != nil {
			c.o.Each(e.t)
		}
	}
	return all, nil
}

// one counts a table behind a savepoint, so that one that cannot be read does
// not end the snapshot of the others. Going back to the savepoint also gives
// up the locks on the table and its indexes: a transaction that kept those of
// some thousand tables would use up the server's lock table. It reports
// whether the table is still there.
func (c *counter) one(ctx context.Context, t *Table) (there bool, err error) {
	if _, err := c.tx.Exec(ctx, "SAVEPOINT one"); err != nil {
		return false, err
	}
	defer func() {
		if _, back := c.tx.Exec(ctx, "ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one"); back != nil {
			err = errors.Join(err, back)
		}
	}()
	// The alias stands for the row. With t.* it does so also where a column
	// has the same name. A text cannot be NULL here: that of a row of NULLs is
	// "(,)".
	q := fmt.Sprintf(`SELECT count(*), (coalesce(sum(pg_catalog.hashtextextended((holdfast_row.*)::pg_catalog.text COLLATE pg_catalog."C", 0)::pg_catalog.numeric), 0) %% 18446744073709551616)::pg_catalog.text FROM ONLY %s AS holdfast_row`,
		pgx.Identifier{t.Schema, t.Name}.Sanitize())
	var n int64
	err = c.tx.QueryRow(ctx, q, pgx.QueryExecModeSimpleProtocol).Scan(&n, &t.RowHash)
	switch code(err) {
	case "":
	case "42P01": // dropped since it was listed
		return false, nil
	case "42501":
		t.Skipped = "no right to read it, or only some of its rows"
		return true, nil
	case "55P03":
		t.Skipped = "locked by somebody else for 2 s"
		return true, nil
	case "57014":
		if ctx.Err() == nil {
			t.Skipped = fmt.Sprintf("counting it took longer than %s", c.o.TableMax)
			return true, nil
		}
	}
	if said := code(err); said != "" {
		t.Skipped, t.Library = whyNot(said, err)
		if t.Skipped != "" {
			return true, nil
		}
	}
	if err != nil {
		return false, err
	}
	t.Rows = uint64(n)
	return true, nil
}

// whyNot says why a table could not be counted; an empty text means that the
// error is about the server or the connection.
func whyNot(code string, err error) (why string, library bool) {
	switch code[:min(2, len(code))] {
	case "XX", "58":
		// A library of an extension is looked for when a value of its type is
		// written as text.
		if text := err.Error(); strings.Contains(text, "could not access file") || strings.Contains(text, "could not load library") {
			return "the library of an extension is missing on this server: " + text, true
		}
		return "damaged: " + err.Error(), false
	case "22", "2F", "38", "39", "42", "54", "55", "0A", "P0":
		// Code of the table's own ran: a column that is computed when it is
		// read, or the output function of a type.
		return "it cannot be read: " + err.Error(), false
	}
	return "", false
}
