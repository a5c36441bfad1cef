package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/restore"
)

// Compare reads every stored byte of every restored row, and compares tables,
// columns, partitions, rows and row hashes with the manifest.
func (t *Target) Compare(ctx context.Context, m *backup.Manifest, progress func(backup.Progress)) (c restore.Comparison, err error) {
	if m.ClickHouse == nil {
		return c, errors.New("compare clickhouse: the manifest holds no ClickHouse part")
	}
	if err := t.sameServer(ctx); err != nil {
		return c, fmt.Errorf("compare %s: %w", t.Where(), err)
	}
	scratch := t.scratch(m)
	have, err := t.columns(ctx, databases(scratch))
	if err != nil {
		return c, fmt.Errorf("compare %s: %w", t.Where(), err)
	}
	total := int64(0)
	for _, table := range m.ClickHouse.Tables {
		if holdsData(table) {
			total += int64(len(table.Partitions))
		}
	}
	others := map[string]int{}
	done := int64(0)
	for _, table := range m.ClickHouse.Tables {
		if !holdsData(table) {
			others[table.Engine]++
			continue
		}
		name := [2]string{scratch[table.Database], table.Name}
		got, there := have[name]
		delete(have, name)
		if !there {
			c.Add(table.Name, "the table is missing")
			continue
		}
		c.Tables++
		if what := columnsDiffer(table.Columns, got); what != "" {
			c.Add(table.Name, what)
			continue
		}
		if err := t.compareRows(ctx, &c, name[0], table, got); err != nil {
			return c, fmt.Errorf("compare %s: %w", t.Where(), err)
		}
		done += int64(len(table.Partitions))
		if progress != nil {
			progress(backup.Progress{Stage: "clickhouse: compare", Done: done, Total: total, Unit: "partitions"})
		}
	}
	for name := range have {
		c.Add(name[1], "the table is not in the manifest")
	}
	for _, engine := range slices.Sorted(maps.Keys(others)) {
		c.Notes = append(c.Notes, fmt.Sprintf("%d objects with engine %s were neither created nor compared: they hold no data in the set", others[engine], engine))
	}
	return c, ctx.Err()
}

// columns are those of all tables in our databases.
func (t *Target) columns(ctx context.Context, databases []string) (map[[2]string][]clickhouse.Column, error) {
	have := map[[2]string][]clickhouse.Column{}
	if len(databases) == 0 {
		return have, nil
	}
	err := t.c.Client.Rows(ctx, clickhouse.Query{
		SQL: "SELECT database, table, name, type, default_kind FROM system.columns WHERE database IN (" + clickhouse.Literals(databases) + ") ORDER BY database, table, position",
	}, func(scan func(...any) error) error {
		var name [2]string
		var c clickhouse.Column
		if err := scan(&name[0], &name[1], &c.Name, &c.Type, &c.Kind); err != nil {
			return err
		}
		have[name] = append(have[name], c)
		return nil
	})
	return have, err
}

func columnsDiffer(want []backup.ClickHouseColumn, got []clickhouse.Column) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			return fmt.Sprintf("column %s is not in the manifest", got[i].Name)
		case i >= len(got):
			return fmt.Sprintf("column %s is missing", want[i].Name)
		case (clickhouse.Column{Name: want[i].Name, Type: want[i].Type, Kind: want[i].Kind}) != got[i]:
			return fmt.Sprintf("column %d is %s %s %s, the manifest says %s %s %s", i+1, got[i].Name, got[i].Type, got[i].Kind, want[i].Name, want[i].Type, want[i].Kind)
		}
	}
	return ""
}

func (t *Target) compareRows(ctx context.Context, c *restore.Comparison, database string, table backup.ClickHouseTable, columns []clickhouse.Column) error {
	// All hashes of one table were made by one method, unless the table was
	// taken over several versions of a server; then it is read once for each.
	counts := map[clickhouse.Method]map[string]clickhouse.RowCount{}
	methods := map[clickhouse.Method]bool{}
	for _, p := range table.Partitions {
		if p.RowHash == "" {
			continue
		}
		m, ok := clickhouse.MethodOf(p.RowHash)
		if !ok {
			c.Add(where(table, p.ID), fmt.Sprintf("its row hash %q is of a kind that this version does not know", p.RowHash))
			continue
		}
		methods[m] = true
	}
	if len(methods) == 0 {
		methods[clickhouse.TupleHash] = true
	}
	for m := range methods {
		got, _, err := t.c.Client.Count(ctx, clickhouse.Census{
			Database: database, Table: table.Name, Columns: columns, By: clickhouse.ByPartition, Method: m, Timeout: t.c.QueryTimeout,
		})
		if err != nil {
			code, spoke := clickhouse.Code(err)
			switch {
			case ctx.Err() != nil:
				return err
			case errors.Is(err, clickhouse.ErrTimeout), code == clickhouse.CodeTimeout:
				// What is in the set was hashed before.
				return fmt.Errorf("%w (is the server too slow for the table, or does it look for a flipped bit on its own disk?)", err)
			case spoke && !slices.Contains(aboutServer, code):
				c.Add(table.Name, "it cannot be read: "+err.Error())
				return nil
			}
			return err
		}
		counts[m] = got
	}
	var any map[string]clickhouse.RowCount
	for _, any = range counts {
		break
	}
	expected := map[string]bool{}
	for _, p := range table.Partitions {
		expected[p.ID] = true
		c.Units++
		m, ok := clickhouse.MethodOf(p.RowHash)
		got := any[p.ID]
		if ok {
			got = counts[m][p.ID]
		}
		c.Rows += got.Rows
		switch {
		case got.Rows != p.Rows:
			c.Add(where(table, p.ID), fmt.Sprintf("%d rows, the manifest says %d", got.Rows, p.Rows))
		case p.RowHash == "":
			c.Notes = append(c.Notes, where(table, p.ID)+": only the number of rows was compared; the manifest has no row hash of it")
		case ok && got.Text(m) != p.RowHash:
			c.Add(where(table, p.ID), fmt.Sprintf("row hash %s, the manifest says %s", got.Text(m), p.RowHash))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(any)) {
		if !expected[id] {
			c.Rows += any[id].Rows
			c.Add(where(table, id), fmt.Sprintf("%d rows, the manifest does not have this partition", any[id].Rows))
		}
	}
	return nil
}

// aboutServer are errors of a server that is too busy, too small or does not
// let us: they say nothing about what was restored.
var aboutServer = []int{
	160, // TOO_SLOW
	202, // TOO_MANY_SIMULTANEOUS_QUERIES
	209, // SOCKET_TIMEOUT
	210, // NETWORK_ERROR
	236, // ABORTED
	241, // MEMORY_LIMIT_EXCEEDED
	243, // NOT_ENOUGH_SPACE
	394, // QUERY_WAS_CANCELLED
	439, // CANNOT_SCHEDULE_TASK
	497, // ACCESS_DENIED
	516, // AUTHENTICATION_FAILED
	745, // SERVER_OVERLOADED
}

func where(t backup.ClickHouseTable, partition string) string {
	return t.Database + "." + t.Name + ", partition " + partition
}

// Disturb doubles one row of the table with the most rows.
func (t *Target) Disturb(ctx context.Context, m *backup.Manifest) (what string, err error) {
	if m.ClickHouse == nil {
		return "", errors.New("disturb clickhouse: the manifest holds no ClickHouse part")
	}
	var largest backup.ClickHouseTable
	var most uint64
	for _, table := range m.ClickHouse.Tables {
		var rows uint64
		for _, p := range table.Partitions {
			rows += p.Rows
		}
		if rows > most {
			largest, most = table, rows
		}
	}
	if most == 0 {
		return "", fmt.Errorf("disturb %s: there is no row to change", t.Where())
	}
	database := t.scratch(m)[largest.Database]
	ours, _, err := marked(ctx, t.c.Client, "name = "+clickhouse.Literal(database)+" AND comment = "+clickhouse.Literal(markOf(t.c.Run)))
	if err != nil {
		return "", fmt.Errorf("disturb %s: %w", t.Where(), err)
	}
	if len(ours) == 0 {
		return "", fmt.Errorf("disturb %s: database %s was not made by this run", t.Where(), database)
	}
	name := clickhouse.TableName(database, largest.Name)
	// Merges stand still, so the new part stays as it is; without
	// optimize_on_insert even a table that sums keeps its row.
	err = t.c.Client.Exec(ctx, clickhouse.Query{
		SQL:      "INSERT INTO " + name + " SELECT * FROM " + name + " LIMIT 1",
		Settings: map[string]any{"optimize_on_insert": 0, "async_insert": 0, "insert_deduplicate": 0},
	})
	if err != nil {
		return "", fmt.Errorf("disturb %s: %w", t.Where(), err)
	}
	return "one row of " + largest.Database + "." + largest.Name + " twice", nil
}
