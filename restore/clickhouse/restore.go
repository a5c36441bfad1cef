package clickhouse

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// Restore makes the scratch databases and lets the server read the packs. What
// an earlier call of the same run left is dropped first. It is not for use by
// two callers at once.
func (t *Target) Restore(ctx context.Context, m *backup.Manifest, _ backup.Source, progress func(backup.Progress)) error {
	if m.ClickHouse == nil {
		return errors.New("restore clickhouse: the manifest holds no ClickHouse part")
	}
	if progress == nil {
		progress = func(backup.Progress) {}
	}
	plan, err := t.plan(m)
	if err != nil {
		return fmt.Errorf("restore into %s: %w", t.Where(), err)
	}
	if err := t.makeDatabases(ctx, plan.scratch); err != nil {
		return fmt.Errorf("restore into %s: %w", t.Where(), err)
	}
	if err := t.makeTables(ctx, plan, progress); err != nil {
		return fmt.Errorf("restore into %s: %w", t.Where(), err)
	}
	var done int64
	for _, step := range plan.steps {
		statements, holds := clickhouse.SplitStatements("RESTORE", step.tables, t.c.StatementBytes)
		for i, statement := range statements {
			t.restores++
			err := t.c.Client.Operate(ctx, clickhouse.Operation{
				SQL: statement + " FROM S3(" + clickhouse.Ident(t.c.Collection) + ", " + clickhouse.Literal(step.prefix) + ")",
				ID:  t.c.Run + "-" + strconv.Itoa(t.restores) + "-" + rand.Text()[:12],
				// A table gets partitions from several packs; each partition
				// comes once, as plan has made sure.
				Settings: map[string]string{"allow_non_empty_tables": "1"},
				Poll:     t.c.Poll, Silence: t.c.Silence,
			})
			if err != nil {
				return fmt.Errorf("restore pack %s into %s: %w", step.pack, t.Where(), err)
			}
			for _, h := range holds[i] {
				done += int64(len(h.Partitions))
			}
			progress(backup.Progress{Stage: "clickhouse: restore", Done: done, Total: plan.partitions, Unit: "partitions"})
		}
	}
	return nil
}

// plan is what Restore does, decided before the first write.
type plan struct {
	scratch    map[string]string
	create     []statement
	steps      []step
	partitions int64
}

type statement struct{ database, table, sql string }

// step is one pack and what is read from it.
type step struct {
	pack, prefix string
	tables       []clickhouse.PartitionsOf
}

func (t *Target) plan(m *backup.Manifest) (p plan, err error) {
	p.scratch = t.scratch(m)
	steps := map[int]*step{}
	for _, table := range m.ClickHouse.Tables {
		if !holdsData(table) {
			continue
		}
		if replicated(table) {
			return p, fmt.Errorf("%s.%s has engine %s: replicated tables cannot be restored into a scratch database yet", table.Database, table.Name, table.Engine)
		}
		into := p.scratch[table.Database]
		sql, err := createAs(table, into, table.Name)
		if err != nil {
			return p, err
		}
		p.create = append(p.create, statement{into, table.Name, sql})
		name := clickhouse.TableName(table.Database, table.Name) + " AS " + clickhouse.TableName(into, table.Name)
		seen := map[string]bool{}
		for _, part := range table.Partitions {
			switch {
			case part.Pack < 0 || part.Pack >= len(m.Packs):
				return p, fmt.Errorf("%s.%s, partition %s: the manifest has no pack %d", table.Database, table.Name, part.ID, part.Pack)
			case seen[part.ID]:
				return p, fmt.Errorf("%s.%s, partition %s: the manifest has it twice", table.Database, table.Name, part.ID)
			}
			seen[part.ID] = true
			s := steps[part.Pack]
			if s == nil {
				id := m.Packs[part.Pack].ID
				s = &step{pack: id, prefix: backup.PackPrefix(backup.ClickHouse, id)}
				steps[part.Pack] = s
			}
			if n := len(s.tables); n == 0 || s.tables[n-1].Table != name {
				s.tables = append(s.tables, clickhouse.PartitionsOf{Table: name})
			}
			last := &s.tables[len(s.tables)-1]
			last.Partitions = append(last.Partitions, part.ID)
			p.partitions++
		}
	}
	for _, i := range slices.Sorted(maps.Keys(steps)) {
		p.steps = append(p.steps, *steps[i])
	}
	return p, nil
}

// makeDatabases creates the scratch databases, marked from their first moment.
func (t *Target) makeDatabases(ctx context.Context, scratch map[string]string) error {
	names := databases(scratch)
	if len(names) == 0 {
		return nil // the set holds no table at all
	}
	there, comments, err := marked(ctx, t.c.Client, "name IN ("+clickhouse.Literals(names)+")")
	if err != nil {
		return err
	}
	for i, name := range there {
		if comments[i] != markOf(t.c.Run) {
			return fmt.Errorf("database %s exists and was not made by this run; name another scratch database", name)
		}
	}
	for _, name := range there {
		if err := t.drop(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range names {
		// Without IF NOT EXISTS: a database that came between is not ours.
		if err := t.exec(ctx, "CREATE DATABASE "+clickhouse.Ident(name)+" COMMENT "+clickhouse.Literal(markOf(t.c.Run))); err != nil {
			return err
		}
	}
	return nil
}

// permissive are settings without which a server refuses to create tables that
// another server of the same version has.
var permissive = []string{
	"allow_suspicious_low_cardinality_types", "allow_suspicious_fixed_string_types", "allow_suspicious_indices", "allow_suspicious_ttl_expressions",
	"allow_suspicious_variant_types", "allow_suspicious_primary_key", "allow_suspicious_codecs", "allow_experimental_codecs",
	"allow_experimental_json_type", "allow_experimental_object_type", "allow_experimental_variant_type", "allow_experimental_dynamic_type",
	"allow_experimental_full_text_index", "allow_experimental_vector_similarity_index", "allow_experimental_bfloat16_type",
}

func (t *Target) makeTables(ctx context.Context, p plan, progress func(backup.Progress)) error {
	var err error
	if t.serverStarted, err = t.startOfServer(ctx); err != nil {
		return err
	}
	settings := map[string]any{"max_query_size": 16 << 20}
	err = t.c.Client.Rows(ctx, clickhouse.Query{SQL: "SELECT name FROM system.settings WHERE name IN (" + clickhouse.Literals(permissive) + ")"}, func(scan func(...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		settings[name] = 1
		return nil
	})
	if err != nil {
		return err
	}
	for i, s := range p.create {
		if err := t.c.Client.Exec(ctx, clickhouse.Query{SQL: s.sql, Settings: settings}); err != nil {
			return fmt.Errorf("create table %s.%s: %w", s.database, s.table, err)
		}
		// Merges and TTLs change rows: what is compared must be what came back.
		for _, what := range []string{"STOP MERGES", "STOP TTL MERGES"} {
			if err := t.exec(ctx, "SYSTEM "+what+" "+clickhouse.TableName(s.database, s.table)); err != nil {
				return err
			}
		}
		progress(backup.Progress{Stage: "clickhouse: create tables", Done: int64(i + 1), Total: int64(len(p.create)), Unit: "tables"})
	}
	return nil
}

// startOfServer is when the server was started, in seconds since 1970.
func (t *Target) startOfServer(ctx context.Context) (seconds int64, err error) {
	err = t.c.Client.Rows(ctx, clickhouse.Query{SQL: "SELECT toInt64(toUnixTimestamp(now())) - toInt64(uptime())"}, func(scan func(...any) error) error { return scan(&seconds) })
	return seconds, err
}

// sameServer refuses to go on after a restart of the server: it forgets that
// merges were stopped, and what they changed since would look like a bad set.
func (t *Target) sameServer(ctx context.Context) error {
	if t.serverStarted == 0 {
		return nil // restored by another process: nothing is known
	}
	now, err := t.startOfServer(ctx)
	if err != nil {
		return err
	}
	if d := now - t.serverStarted; d > 2 || d < -2 {
		return errors.New("the server was restarted since the restore, and merges ran: restore again")
	}
	return nil
}
