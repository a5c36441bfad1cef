package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// Config says what to take, and with what patience.
type Config struct {
	Client *clickhouse.Client
	// Databases to take, whole. They must exist.
	Databases []string
	// Collection is the named collection on the server whose URL is the root
	// of the repository: the keys of packs are appended to it.
	Collection string
	Log        *slog.Logger
	Now        func() time.Time // default time.Now

	Poll          time.Duration // how often to look at a running backup; default 200 ms
	Silence       time.Duration // how long the server may be out of reach meanwhile; default 2 min
	QueryTimeout  time.Duration // of one query that hashes rows; default 10 min
	MutationsWait time.Duration // for mutations that are under way; default 60 s
	// StatementBytes is where a BACKUP statement is split into several packs;
	// default clickhouse.StatementBytesMax.
	StatementBytes int
}

// roundsMax bounds how often a partition is taken again because the server
// merged it under our hands.
const roundsMax = 3

// Engine takes ClickHouse's share of a set. It is safe for one Take at a time.
type Engine struct{ c Config }

var _ backup.Taker = (*Engine)(nil)

// New checks the configuration; it does not dial.
func New(c Config) (*Engine, error) {
	switch {
	case c.Client == nil:
		return nil, fmt.Errorf("clickhouse backup: no client")
	case len(c.Databases) == 0:
		return nil, fmt.Errorf("clickhouse backup: no databases: name at least one")
	case c.Collection == "":
		return nil, fmt.Errorf("clickhouse backup: no named collection: name the one on the server that holds the repository's URL and keys")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for into, or := range map[*time.Duration]time.Duration{&c.QueryTimeout: 10 * time.Minute, &c.MutationsWait: time.Minute, &c.Poll: 200 * time.Millisecond, &c.Silence: 2 * time.Minute} {
		if *into <= 0 {
			*into = or
		}
	}
	if c.StatementBytes <= 0 {
		c.StatementBytes = clickhouse.StatementBytesMax
	}
	c.Databases = slices.Clone(c.Databases)
	slices.Sort(c.Databases)
	c.Databases = slices.Compact(c.Databases)
	return &Engine{c}, nil
}

// Engine is clickhouse.
func (e *Engine) Engine() backup.Engine { return backup.ClickHouse }

// Take backs up what changed since in.Prev and refers to the rest.
func (e *Engine) Take(ctx context.Context, in backup.Take) (backup.Manifest, error) {
	m := backup.Manifest{
		Format: backup.Format, Engine: backup.ClickHouse, Set: in.Set, Attempt: in.Attempt,
		Started: e.c.Now().UTC(), ClickHouse: &backup.ClickHousePart{},
	}
	fail := func(err error) (backup.Manifest, error) { return backup.Manifest{}, err }
	t := &taking{Engine: e, in: in}
	var err error
	if m.Store, err = e.server(ctx); err != nil {
		return fail(err)
	}
	t.flush(ctx)
	if err := t.look(ctx); err != nil {
		return fail(err)
	}
	if err := e.settle(ctx, t.source); err != nil {
		return fail(err)
	}
	// Mutations and inserts may have changed parts since the first look.
	if err := t.look(ctx); err != nil {
		return fail(err)
	}
	t.planned = t.source
	plan := makePlan(t.planned, in.Prev)
	t.refer(plan)
	for round := 1; len(plan.take) > 0; round++ {
		left, err := t.pack(ctx, plan.take, round == roundsMax)
		if err != nil {
			return fail(err)
		}
		plan.take = left
	}
	m.ClickHouse.Tables = t.tables()
	for _, table := range m.ClickHouse.Tables {
		for _, p := range table.Partitions {
			m.Totals.Rows += p.Rows
		}
	}
	m.Notes = append(notes(t.planned.tables), t.notes...)
	m.Finished = e.c.Now().UTC()
	return m, nil
}

// taking is one call of Take.
type taking struct {
	*Engine
	in     backup.Take
	source source // the newest look
	// planned is the look that the plan stands on. What comes into being
	// later belongs to the next set, also whole tables.
	planned source
	// taken is what the manifest will say of each partition.
	taken map[partition]backup.ClickHousePartition
	notes []string
}

// partition names one partition of one table.
type partition struct{ database, table, id string }

func (p partition) String() string { return p.database + "." + p.table + ", partition " + p.id }

func (p partition) of() tableName { return tableName{p.database, p.table} }

func (t *taking) look(ctx context.Context) error {
	s, err := t.read(ctx)
	if err != nil {
		return err
	}
	t.source = s
	return nil
}

// flush asks the server to write down inserts that it holds in memory. They
// are in the set or after it; so a refusal is worth a note and no failure.
func (t *taking) flush(ctx context.Context) {
	err := t.c.Client.Exec(ctx, clickhouse.Query{SQL: "SYSTEM FLUSH ASYNC INSERT QUEUE"})
	if code, ok := clickhouse.Code(err); err == nil || ok && code == clickhouse.CodeBadArguments {
		return // the latter: there is no queue
	}
	t.note("The queue of asynchronous inserts was not flushed before the backup (%v): rows that were acknowledged and still queued are not in it.", err)
}

func (t *taking) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

func (t *taking) progress(stage string, done, total int64, unit string) {
	if t.in.Progress != nil {
		t.in.Progress(backup.Progress{Stage: "clickhouse: " + stage, Done: done, Total: total, Unit: unit})
	}
}

// refer takes over what did not change, each pack once.
func (t *taking) refer(p plan) {
	t.taken = map[partition]backup.ClickHousePartition{}
	packs := map[int]int{}
	for _, k := range p.keep {
		old := k.was
		now, seen := packs[old.Pack]
		if !seen {
			now = t.in.Sink.Reuse(t.in.Prev.Packs[old.Pack])
			packs[old.Pack] = now
		}
		old.Pack = now
		t.taken[k.partition] = old
	}
}

// tables is what the manifest says, ordered by database and name.
func (t *taking) tables() []backup.ClickHouseTable {
	list := make([]backup.ClickHouseTable, 0, len(t.planned.tables))
	byTable := map[tableName][]backup.ClickHousePartition{}
	for p, taken := range t.taken {
		byTable[p.of()] = append(byTable[p.of()], taken)
	}
	for _, table := range t.planned.tables {
		def := table.ClickHouseTable
		if table.holdsData() {
			def.Partitions = byTable[table.name()]
			slices.SortFunc(def.Partitions, func(a, b backup.ClickHousePartition) int { return strings.Compare(a.ID, b.ID) })
			if def.Partitions == nil {
				def.Partitions = []backup.ClickHousePartition{}
			}
		}
		list = append(list, def)
	}
	return list
}
