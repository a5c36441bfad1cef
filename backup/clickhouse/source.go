package clickhouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/retry"
)

// Bounds of what is read about a server. Whoever has more needs another design,
// and should hear so and not run out of memory.
const (
	tablesMax = 20_000
	partsMax  = 1_000_000
)

type tableName struct{ database, table string }

// table is one table with its parts.
type table struct {
	backup.ClickHouseTable
	parts []part
}

func (t table) name() tableName { return tableName{t.Database, t.Name} }

// holdsData reports whether rows of its own lie in partitions: only these
// tables are in packs.
func (t table) holdsData() bool { return clickhouse.InPacks(t.Engine, t.Name) }

func (t table) columns() []clickhouse.Column {
	list := make([]clickhouse.Column, len(t.Columns))
	for i, c := range t.Columns {
		list[i] = clickhouse.Column{Name: c.Name, Type: c.Type, Kind: c.Kind}
	}
	return list
}

// part is one data part. Its name says its content for as long as the table lives.
type part struct {
	name, partition, hash string
	active                bool
	rows, bytes, version  uint64
}

// patchPrefix begins the partition id of the parts of a lightweight update:
// patch-HASH-ID, where HASH are 32 letters.
const patchPrefix = "patch-"

// patches returns the partition that a patch part changes.
func (p part) patches() (partition string, ok bool) {
	rest, ok := strings.CutPrefix(p.partition, patchPrefix)
	if !ok || len(rest) < 34 || rest[32] != '-' {
		return "", false
	}
	return rest[33:], true
}

// source is what the server holds.
type source struct{ tables []table }

func (s source) table(n tableName) (table, bool) {
	i, ok := slices.BinarySearchFunc(s.tables, n, func(t table, n tableName) int {
		return cmp.Or(strings.Compare(t.Database, n.database), strings.Compare(t.Name, n.table))
	})
	if !ok {
		return table{}, false
	}
	return s.tables[i], true
}

func (e *Engine) server(ctx context.Context) (s backup.Store, err error) {
	err = e.c.Client.Rows(ctx, clickhouse.Query{
		SQL: "SELECT version(), if(serverUUID() = toUUID('00000000-0000-0000-0000-000000000000'), hostName(), toString(serverUUID()))",
	}, func(scan func(...any) error) error { return scan(&s.Version, &s.ID) })
	return s, err
}

// read asks for tables, columns and parts. Tables are ordered by database and name.
func (e *Engine) read(ctx context.Context) (s source, err error) {
	in := " IN (" + clickhouse.Literals(e.c.Databases) + ")"
	var there []string
	err = e.c.Client.Rows(ctx, clickhouse.Query{SQL: "SELECT name FROM system.databases WHERE name" + in}, func(scan func(...any) error) error {
		there = append(there, "")
		return scan(&there[len(there)-1])
	})
	if err != nil {
		return s, err
	}
	for _, d := range e.c.Databases {
		if !slices.Contains(there, d) {
			return s, fmt.Errorf("database %s does not exist on the server, or its user may not see it; correct the list of databases or grant it", d)
		}
	}
	at := map[tableName]int{}
	err = e.c.Client.Rows(ctx, clickhouse.Query{
		SQL: fmt.Sprintf("SELECT database, name, engine, create_table_query FROM system.tables WHERE database%s AND NOT is_temporary ORDER BY database, name LIMIT %d", in, tablesMax+1),
	}, func(scan func(...any) error) error {
		var t table
		if err := scan(&t.Database, &t.Name, &t.Engine, &t.Create); err != nil {
			return err
		}
		s.tables = append(s.tables, t)
		return nil
	})
	if err != nil {
		return s, err
	}
	if len(s.tables) > tablesMax {
		return s, fmt.Errorf("more than %d tables in %s: too many for one backup; take fewer databases", tablesMax, strings.Join(e.c.Databases, ", "))
	}
	slices.SortFunc(s.tables, func(a, b table) int {
		return cmp.Or(strings.Compare(a.Database, b.Database), strings.Compare(a.Name, b.Name))
	})
	for i, t := range s.tables {
		at[t.name()] = i
	}
	err = e.c.Client.Rows(ctx, clickhouse.Query{
		SQL: "SELECT database, table, name, type, default_kind FROM system.columns WHERE database" + in + " ORDER BY database, table, position",
	}, func(scan func(...any) error) error {
		var n tableName
		var c backup.ClickHouseColumn
		if err := scan(&n.database, &n.table, &c.Name, &c.Type, &c.Kind); err != nil {
			return err
		}
		if i, ok := at[n]; ok {
			s.tables[i].Columns = append(s.tables[i].Columns, c)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	found := 0
	err = e.c.Client.Rows(ctx, clickhouse.Query{
		SQL: fmt.Sprintf("SELECT database, table, name, partition_id, hash_of_all_files, active, rows, bytes_on_disk, data_version FROM system.parts WHERE database%s LIMIT %d", in, partsMax+1),
	}, func(scan func(...any) error) error {
		var n tableName
		var p part
		var active uint8
		if err := scan(&n.database, &n.table, &p.name, &p.partition, &p.hash, &active, &p.rows, &p.bytes, &p.version); err != nil {
			return err
		}
		p.active = active == 1
		found++
		if i, ok := at[n]; ok {
			s.tables[i].parts = append(s.tables[i].parts, p)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if found > partsMax {
		return s, fmt.Errorf("more than %d data parts in %s: too many for one backup; take fewer databases", partsMax, strings.Join(e.c.Databases, ", "))
	}
	return s, nil
}

// mutation is an ALTER that rewrites parts and has not ended.
type mutation struct {
	tableName
	id, command, failure string
}

func (e *Engine) mutations(ctx context.Context) (list []mutation, err error) {
	err = e.c.Client.Rows(ctx, clickhouse.Query{
		SQL: "SELECT database, table, mutation_id, substring(command, 1, 200), substring(latest_fail_reason, 1, 300) FROM system.mutations WHERE NOT is_done AND database IN (" + clickhouse.Literals(e.c.Databases) + ") ORDER BY create_time LIMIT 100",
	}, func(scan func(...any) error) error {
		var m mutation
		if err := scan(&m.database, &m.table, &m.id, &m.command, &m.failure); err != nil {
			return err
		}
		list = append(list, m)
		return nil
	})
	return list, err
}

// settle waits until no mutation is under way and refuses patch parts: a
// backup loses both without a word. A mutation that begins later is in the set
// or after it, part by part, and the row hashes say which.
func (e *Engine) settle(ctx context.Context, s source) error {
	begun, waits := time.Now(), retry.New(200*time.Millisecond, 2*time.Second)
	for {
		open, err := e.mutations(ctx)
		if err != nil {
			return err
		}
		if len(open) == 0 {
			break
		}
		if time.Since(begun) > e.c.MutationsWait {
			m := open[0]
			why := "it is still running"
			if m.failure != "" {
				why = "it fails with: " + m.failure
			}
			return fmt.Errorf("mutation %s of %s.%s (%s) did not end within %s, and %d in all: %s; a backup would lose it. Wait for it, mend it, or end it with KILL MUTATION, and take the backup again",
				m.id, m.database, m.table, m.command, e.c.MutationsWait, len(open), why)
		}
		if err := waits.Wait(ctx); err != nil {
			return err
		}
	}
	return s.unpatched()
}

// ErrPatched means that a lightweight update is not applied to its parts.
var ErrPatched = errors.New("a lightweight update is not applied")

// unpatched refuses partitions with patch parts that are newer than a part
// they change. Applied ones linger, and are harmless.
func (s source) unpatched() error {
	for _, t := range s.tables {
		newest := map[string]uint64{}
		for _, p := range t.parts {
			if base, ok := p.patches(); ok && p.active {
				newest[base] = max(newest[base], p.version)
			}
		}
		for _, p := range t.parts {
			if patch, ok := newest[p.partition]; ok && p.active && p.rows > 0 && p.version < patch {
				return fmt.Errorf("%s.%s, partition %s: %w, and a native backup would leave it out without a word; run ALTER TABLE %s APPLY PATCHES and take the backup again",
					t.Database, t.Name, p.partition, ErrPatched, clickhouse.TableName(t.Database, t.Name))
			}
		}
	}
	return nil
}
