package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Table is what was counted in one table.
type Table struct {
	Database string
	Schema   string
	Name     string // empty: the whole database was skipped
	Rows     uint64
	RowHash  string // sum over all rows of a 64-bit hash of the row, in decimal
	// Writes is how many rows were written since the server's statistics
	// began, as far as they have arrived. Equal numbers do not prove that
	// nothing was written; different ones prove that something was.
	Writes  uint64
	Skipped string // why it was not counted; empty when it was
}

// CensusOptions bounds what a census costs the server.
type CensusOptions struct {
	SizeMax   int64         // bytes of a table with its TOAST; larger ones are skipped. 0: 2 GiB; negative: no bound
	TableMax  time.Duration // for counting one table; default 10 min
	Connected string        // database to ask for the list of databases; empty: the DSN's
	// Each is called for every table, from one goroutine; nil: not.
	Each func(Table)
}

const sizeMax = 2 << 30

// Census counts every table of every database that accepts connections, but
// for the templates that initdb made. The tables of one database are read in
// one snapshot. What cannot be counted is in the list with the reason; what
// the caller may not even list is an error. Ordered by database, schema and
// name.
func (c *Client) Census(ctx context.Context, o CensusOptions) ([]Table, error) {
	if o.SizeMax == 0 {
		o.SizeMax = sizeMax
	}
	if o.TableMax <= 0 {
		o.TableMax = 10 * time.Minute
	}
	names, err := c.databases(ctx, o.Connected)
	if err != nil {
		return nil, err
	}
	var all []Table
	for _, name := range names {
		found, err := c.count(ctx, name, o)
		if err != nil {
			return nil, fmt.Errorf("count the tables of database %s: %w", name, err)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b Table) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (c *Client) databases(ctx context.Context, at string) ([]string, error) {
	conn, err := c.Connect(ctx, at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	rows, err := conn.Query(ctx, `SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND datname NOT IN ('template0', 'template1') ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("list databases of postgres %s: %w", c.conf.Name, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list databases of postgres %s: %w", c.conf.Name, err)
	}
	return names, nil
}

// count reads one database. A database that refuses us is one skipped entry:
// a backup of the whole cluster does not need it to be counted.
func (c *Client) count(ctx context.Context, database string, o CensusOptions) ([]Table, error) {
	conn, err := c.Connect(ctx, database)
	if code(err) == "42501" || code(err) == "28000" {
		t := Table{Database: database, Skipped: "no right to connect to it"}
		if o.Each != nil {
			o.Each(t)
		}
		return []Table{t}, nil
	}
	if code(err) == "3D000" { // dropped since it was listed
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return (&counter{tx, database, o}).all(ctx)
}

// code is the SQLSTATE of what the server said, or "".
func code(err error) string {
	var spoke *pgconn.PgError
	if errors.As(err, &spoke) {
		return spoke.Code
	}
	return ""
}
