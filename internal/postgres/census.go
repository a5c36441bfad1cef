package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

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
	// Library: it was not counted because this server has not the library of
	// an extension. That says nothing about the rows.
	Library bool
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

// Census counts every table of every database, but for the templates that
// initdb made. A database that takes no connection is one skipped entry. The tables of one database are read in
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
	names, closed, err := c.databases(ctx, o.Connected)
	if err != nil {
		return nil, err
	}
	var all []Table
	for _, name := range closed {
		all = append(all, o.skip(name, "it takes no connections, or its name is not UTF-8"))
	}
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

// databases lists those that take connections, and those that do not: they
// are marked so, or what was left by a DROP DATABASE that did not end.
func (c *Client) databases(ctx context.Context, at string) (open, closed []string, err error) {
	conn, err := c.Connect(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// The bytes as they are: a name is in the encoding of the database that it
	// was created from, and would be changed on its way out of another one.
	rows, err := conn.Query(ctx, `SELECT pg_catalog.replace(datname::text, '\', '\\')::bytea, datallowconn AND datconnlimit <> -2 FROM pg_catalog.pg_database WHERE datname NOT IN ('template0', 'template1') ORDER BY 1`)
	if err != nil {
		return nil, nil, fmt.Errorf("list databases of postgres %s: %w", c.conf.Name, err)
	}
	var raw []byte
	var takes bool
	_, err = pgx.ForEachRow(rows, []any{&raw, &takes}, func() error {
		name, readable := legible(string(raw))
		if takes && readable {
			open = append(open, name)
		} else {
			closed = append(closed, name)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list databases of postgres %s: %w", c.conf.Name, err)
	}
	return open, closed, nil
}

// legible is a name as a manifest can hold it, and whether it is the name itself.
func legible(name string) (string, bool) {
	if utf8.ValidString(name) {
		return name, true
	}
	return strconv.QuoteToASCII(name), false
}

// skip is the entry of a database that was not looked into.
func (o CensusOptions) skip(database, why string) Table {
	t := Table{Database: database, Skipped: why}
	if o.Each != nil {
		o.Each(t)
	}
	return t
}

// count reads one database. A database that refuses us is one skipped entry:
// a backup of the whole cluster does not need it to be counted.
func (c *Client) count(ctx context.Context, database string, o CensusOptions) ([]Table, error) {
	conn, err := c.Connect(ctx, database)
	switch code(err) {
	case "42501", "28000":
		return []Table{o.skip(database, "no right to connect to it")}, nil
	case "53300":
		return []Table{o.skip(database, "it takes no more connections")}, nil
	case "3D000": // dropped since it was listed
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
