package sentry

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:embed postgres.sql
var postgresTables string

// IssuesMax bounds n of FillPostgres, so that a slip of a zero does not fill
// the disk: a hundred thousand issues are about 84 MB.
const IssuesMax = 1_000_000

// FillPostgres adds n issues and, in proportion, what they hang on to the
// database of dsn. When its tables are not there it makes them first, for
// which the role must be allowed to create the extension citext.
func FillPostgres(ctx context.Context, dsn string, n int) (err error) {
	if n < 1 || n > IssuesMax {
		return fmt.Errorf("fill Postgres: %d issues; want 1 to %d", n, IssuesMax)
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("fill Postgres: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('sentry_groupedmessage') IS NOT NULL").Scan(&there); err != nil {
		return fmt.Errorf("fill Postgres: %w", err)
	}
	if !there {
		if _, err := conn.PgConn().Exec(ctx, postgresTables).ReadAll(); err != nil {
			return fmt.Errorf("make the tables of Postgres: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, "SELECT sentry_fill($1)", n); err != nil {
		return fmt.Errorf("fill Postgres: %w", err)
	}
	return nil
}

// CensusPostgres counts and hashes every table of the database of dsn.
func CensusPostgres(ctx context.Context, dsn string) (census map[string]Count, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("count Postgres: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	rows, err := conn.Query(ctx, "SELECT tab, n, hash FROM sentry_census()")
	if err != nil {
		return nil, fmt.Errorf("count Postgres: %w", err)
	}
	census = map[string]Count{}
	var table string
	var count Count
	_, err = pgx.ForEachRow(rows, []any{&table, &count.Rows, &count.Hash}, func() error {
		census[table] = count
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count Postgres: %w", err)
	}
	return census, nil
}
