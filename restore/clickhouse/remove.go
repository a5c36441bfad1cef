package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// mark begins the comment of a scratch database; the run follows. The comment
// is set by the statement that creates the database, so there is no moment in
// which ours is unmarked.
const mark = "holdfast scratch "

// keptMark replaces it when the user keeps what was restored.
const keptMark = "restored by holdfast, run "

func markOf(run string) string { return mark + run }

// dropTimeout bounds dropping one database.
const dropTimeout = 2 * time.Minute

// marked lists databases by comment.
func marked(ctx context.Context, c *clickhouse.Client, where string) (names, comments []string, err error) {
	err = c.Rows(ctx, clickhouse.Query{SQL: "SELECT name, comment FROM system.databases WHERE " + where + " ORDER BY name"}, func(scan func(...any) error) error {
		var name, comment string
		if err := scan(&name, &comment); err != nil {
			return err
		}
		names, comments = append(names, name), append(comments, comment)
		return nil
	})
	return names, comments, err
}

// Remove drops the scratch databases of this run, which it knows by their mark
// alone. None is no error.
func (t *Target) Remove(ctx context.Context) error {
	names, _, err := marked(ctx, t.c.Client, "comment = "+clickhouse.Literal(markOf(t.c.Run)))
	if err != nil {
		return fmt.Errorf("remove %s: %w", t.Where(), err)
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, t.drop(ctx, name))
	}
	return errors.Join(errs...)
}

func (t *Target) drop(ctx context.Context, database string) error {
	err := t.c.Client.Exec(ctx, clickhouse.Query{
		SQL: "DROP DATABASE IF EXISTS " + clickhouse.Ident(database) + " SYNC", Timeout: dropTimeout,
		Settings: map[string]any{"max_table_size_to_drop": 0, "max_partition_size_to_drop": 0},
	})
	if err != nil {
		return fmt.Errorf("drop scratch database %s: %w", database, err)
	}
	return nil
}

// Leftovers lists the runs that have scratch databases on a server. After a
// crash the caller removes those that nobody works on: New with that run, then Remove.
func Leftovers(ctx context.Context, c *clickhouse.Client) (runs []string, err error) {
	_, comments, err := marked(ctx, c, "startsWith(comment, "+clickhouse.Literal(mark)+")")
	if err != nil {
		return nil, fmt.Errorf("look for scratch databases: %w", err)
	}
	for _, c := range comments {
		if run := strings.TrimPrefix(c, mark); run != "" {
			runs = append(runs, run)
		}
	}
	slices.Sort(runs)
	return slices.Compact(runs), nil
}

// Places names the scratch databases of a run on a server, as their mark says.
func Places(ctx context.Context, c *clickhouse.Client, run string) (databases []string, err error) {
	databases, _, err = marked(ctx, c, "comment = "+clickhouse.Literal(markOf(run)))
	if err != nil {
		return nil, fmt.Errorf("look for the scratch databases of %s: %w", run, err)
	}
	return databases, nil
}
