package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// counts are the rows of data parts, by table and part.
type counts map[tableName]map[string]clickhouse.RowCount

func (c counts) add(t tableName, groups map[string]clickhouse.RowCount) {
	if c[t] == nil {
		c[t] = map[string]clickhouse.RowCount{}
	}
	maps.Copy(c[t], groups)
}

// pack takes partitions, in one pack unless the statement gets too long. It
// returns those that have to be taken once more because the server merged a
// part away before its rows were counted; in the last round there are none.
func (t *taking) pack(ctx context.Context, take []partition, last bool) (left []partition, err error) {
	var tables []clickhouse.PartitionsOf
	var names []tableName
	for _, p := range take {
		if n := len(names); n == 0 || names[n-1] != p.of() {
			names = append(names, p.of())
			tables = append(tables, clickhouse.PartitionsOf{Table: clickhouse.TableName(p.database, p.table)})
		}
		tables[len(tables)-1].Partitions = append(tables[len(tables)-1].Partitions, p.id)
	}
	byQuoted := map[string]tableName{}
	for i, n := range names {
		byQuoted[tables[i].Table] = n
	}
	statements, holds := clickhouse.SplitStatements("BACKUP", tables, t.c.StatementBytes)
	for i, statement := range statements {
		var asked []partition
		for _, h := range holds[i] {
			n := byQuoted[h.Table]
			for _, id := range h.Partitions {
				asked = append(asked, partition{n.database, n.table, id})
			}
		}
		again, err := t.packOne(ctx, statement, asked, last)
		if err != nil {
			return nil, err
		}
		left = append(left, again...)
	}
	return left, nil
}

func (t *taking) packOne(ctx context.Context, statement string, asked []partition, last bool) (left []partition, err error) {
	before := t.source
	counted, methods := counts{}, map[tableName]clickhouse.Method{}
	ids := map[tableName][]string{}
	for _, p := range asked {
		ids[p.of()] = append(ids[p.of()], p.id)
	}
	tables := slices.SortedFunc(maps.Keys(ids), func(a, b tableName) int { return strings.Compare(a.database+"."+a.table, b.database+"."+b.table) })
	for i, name := range tables {
		t.progress("count rows", int64(i), int64(len(tables)), "tables")
		table, _ := before.table(name)
		groups, method, err := t.c.Client.Count(ctx, clickhouse.Census{
			Database: name.database, Table: name.table, Columns: table.columns(),
			By: clickhouse.ByPart, Only: ids[name], OnlyBy: clickhouse.ByPartition, Timeout: t.c.QueryTimeout,
		})
		if err != nil {
			return nil, err
		}
		counted.add(name, groups)
		methods[name] = method
	}
	place := t.in.Sink.NewPack()
	d, err := t.backUp(ctx, place, statement, len(asked))
	if err != nil {
		return nil, err
	}
	// What the server says now covers parts that came between.
	if err := t.look(ctx); err != nil {
		return nil, err
	}
	known := map[tableName]map[string]part{}
	for _, s := range []source{before, t.source} {
		for _, name := range tables {
			table, ok := s.table(name)
			if !ok {
				return nil, fmt.Errorf("table %s.%s is gone since the backup began: take it again", name.database, name.table)
			}
			if known[name] == nil {
				known[name] = map[string]part{}
			}
			for _, p := range table.parts {
				known[name][p.name] = p
			}
		}
	}
	for _, name := range tables {
		was, _ := t.planned.table(name)
		now, _ := t.source.table(name)
		if was.Create != now.Create || !slices.Equal(was.Columns, now.Columns) {
			return nil, fmt.Errorf("the definition of %s.%s changed while it was backed up: take it again", name.database, name.table)
		}
	}
	if err := t.source.unpatched(); err != nil {
		return nil, err
	}
	inPack, err := partitionsOf(d, known, asked)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", place.ID, err)
	}
	if err := t.countMissed(ctx, d, counted, methods); err != nil {
		return nil, err
	}
	return t.adopt(ctx, place, d, asked, inPack, known, counted, methods, last)
}

// lockName is the object that the server keeps in a pack while it writes it.
const (
	lockName     = ".lock"
	lockBytesMax = 64 << 10
)

// backUp lets the server write one pack, and reads what it says of it.
func (t *taking) backUp(ctx context.Context, place backup.PackPlace, statement string, partitions int) (description, error) {
	what := fmt.Sprintf("back up %d partitions", partitions)
	t.progress(what, 0, 0, "bytes")
	err := t.c.Client.Operate(ctx, clickhouse.Operation{
		SQL: statement + " TO S3(" + clickhouse.Ident(t.c.Collection) + ", " + clickhouse.Literal(place.Prefix) + ")",
		ID:  place.ID, Poll: t.c.Poll, Silence: t.c.Silence,
		Progress: func(s clickhouse.OperationState) { t.progress(what, int64(s.Bytes), 0, "bytes") },
	})
	forgotten := errors.Is(err, clickhouse.ErrForgotten)
	// The lock is deleted after the description was written. A key that may not
	// delete makes the server report a failure of what is whole.
	locked := err != nil && !forgotten && strings.Contains(err.Error(), lockName) && ctx.Err() == nil
	if locked {
		err = fmt.Errorf("%w (the server's key must be allowed to delete objects that end in /%s)", err, lockName)
	}
	if err != nil && !forgotten && !locked {
		return description{}, fmt.Errorf("back up %d partitions into pack %s: %w", partitions, place.ID, err)
	}
	// The description is written last. So a backup that the server forgot is
	// whole if it is there; Adopt accounts for every object of it.
	data, readErr := t.in.Sink.ReadPack(ctx, place, descriptionName, descriptionBytesMax)
	if readErr != nil {
		return description{}, fmt.Errorf("back up %d partitions into pack %s: no description of it: %w", partitions, place.ID, errors.Join(readErr, err))
	}
	d, parseErr := parseDescription(data)
	if parseErr == nil && d.id != "" && d.id != place.ID {
		parseErr = fmt.Errorf("the description is that of %s", d.id)
	}
	if parseErr != nil {
		return description{}, fmt.Errorf("pack %s: %w", place.ID, errors.Join(parseErr, err))
	}
	if locked {
		lock, lockErr := t.in.Sink.ReadPack(ctx, place, lockName, lockBytesMax)
		if lockErr != nil {
			return description{}, fmt.Errorf("pack %s: %w", place.ID, errors.Join(lockErr, err))
		}
		d.objects = append(d.objects, backup.PackObject{Name: lockName, Bytes: int64(len(lock))})
		t.note("The server wrote pack %s and could not delete its lock: every object of it was read and hashed, and it is used. Allow the server's key to delete objects that end in /%s.", place.ID, lockName)
	}
	return d, nil
}

// partitionsOf sorts the parts of a pack by partition, and refuses what was not asked for.
func partitionsOf(d description, known map[tableName]map[string]part, asked []partition) (map[partition][]string, error) {
	inPack := map[partition][]string{}
	wanted := map[partition]bool{}
	for _, p := range asked {
		wanted[p] = true
	}
	for name, parts := range d.parts {
		for _, part := range parts {
			id := known[name][part].partition
			if id == "" {
				// PARTITION_MIN_MAX_LEVEL; a partition id has no underscore.
				id, _, _ = strings.Cut(part, "_")
			}
			p := partition{name.database, name.table, id}
			if !wanted[p] {
				return nil, fmt.Errorf("it holds part %s of %s.%s, which was not asked for", part, name.database, name.table)
			}
			inPack[p] = append(inPack[p], part)
		}
	}
	return inPack, nil
}

// countMissed counts the parts of a pack that came after the first count, while
// they are still there.
func (t *taking) countMissed(ctx context.Context, d description, counted counts, methods map[tableName]clickhouse.Method) error {
	missing := func(name tableName) (list []string) {
		for _, p := range d.parts[name] {
			if _, ok := counted[name][p]; !ok {
				list = append(list, p)
			}
		}
		return list
	}
	unsure := false
	for name := range d.parts {
		list := missing(name)
		if len(list) == 0 {
			continue
		}
		table, _ := t.source.table(name)
		groups, _, err := t.c.Client.Count(ctx, clickhouse.Census{
			Database: name.database, Table: name.table, Columns: table.columns(),
			By: clickhouse.ByPart, Only: list, OnlyBy: clickhouse.ByPart, Method: methods[name], Timeout: t.c.QueryTimeout,
		})
		if err != nil {
			return err
		}
		counted.add(name, groups)
		unsure = unsure || len(missing(name)) > 0
	}
	if !unsure {
		return nil
	}
	// A part that gave no row was merged away, or all its rows are deleted. In
	// the latter case it was there before and is there still.
	was := t.source
	if err := t.look(ctx); err != nil {
		return err
	}
	for name := range d.parts {
		before, _ := was.table(name)
		after, _ := t.source.table(name)
		for _, p := range missing(name) {
			here := func(x part) bool { return x.name == p && x.active }
			if slices.ContainsFunc(before.parts, here) && slices.ContainsFunc(after.parts, here) {
				counted.add(name, map[string]clickhouse.RowCount{p: {}})
			}
		}
	}
	return nil
}

// adopt accounts for the objects of a pack and writes down what it holds.
func (t *taking) adopt(ctx context.Context, place backup.PackPlace, d description, asked []partition, inPack map[partition][]string,
	known map[tableName]map[string]part, counted counts, methods map[tableName]clickhouse.Method, last bool,
) (left []partition, err error) {
	taken := map[partition]backup.ClickHousePartition{}
	for _, p := range asked {
		name := p.of()
		parts := inPack[p]
		if len(parts) == 0 {
			table, _ := t.source.table(name)
			_, there := table.partitionParts()[p.id]
			switch {
			case !there:
				t.note("%s vanished while the backup ran (its time was up, or it was dropped): it is not in the set.", p)
			case last:
				return nil, fmt.Errorf("%s: the server left it out of pack %s without a word, %d times: take the backup again", p, place.ID, roundsMax)
			default:
				left = append(left, p)
			}
			continue
		}
		out := backup.ClickHousePartition{ID: p.id, Parts: parts}
		var sum clickhouse.RowCount
		var hashes []string
		whole := true
		for _, part := range parts {
			k := known[name][part]
			hashes = append(hashes, k.hash)
			out.Bytes += k.bytes
			if n, ok := counted[name][part]; ok {
				sum = sum.Add(n)
			} else {
				whole = false
				sum.Rows += k.rows
			}
		}
		out.Rows = sum.Rows
		if whole {
			out.RowHash = sum.Text(methods[name])
			table, _ := t.source.table(name)
			out.Fingerprint = fingerprint(table.ClickHouseTable, hashes)
		} else if !last {
			left = append(left, p)
			continue
		} else {
			t.note("%s was merged faster than its rows could be counted, %d times: a restore of it is compared by the number of rows alone, and the next backup takes it again.", p, roundsMax)
		}
		taken[p] = out
	}
	if len(taken) == 0 {
		return left, nil // nothing refers to the pack: it is an orphan
	}
	pack, err := t.in.Sink.Adopt(ctx, place, d.objects, func(p backup.Progress) { t.progress(p.Stage, p.Done, p.Total, p.Unit) })
	if err != nil {
		return nil, err
	}
	for p, out := range taken {
		out.Pack = pack
		t.taken[p] = out
	}
	return left, nil
}
