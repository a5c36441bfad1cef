package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Column is one column; Kind is "", DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL.
type Column struct{ Name, Type, Kind string }

// Stored reports whether the column's values are kept on disk.
func (c Column) Stored() bool { return c.Kind != "ALIAS" && c.Kind != "EPHEMERAL" }

// InPacks reports whether a table's rows can be in a native backup of that
// table: the MergeTree family, but for the inner tables of materialized views,
// which the server does not let anybody back up by name.
func InPacks(engine, name string) bool {
	return strings.HasSuffix(engine, "MergeTree") && !Inner(name)
}

// Inner reports whether a table is the hidden store of a materialized view.
func Inner(name string) bool {
	return strings.HasPrefix(name, ".inner_id.") || strings.HasPrefix(name, ".inner.")
}

// Method is how a row becomes a number. It stands before each hash, so that
// only equal methods are compared.
type Method string

// Both see NULLs; a hash of the bare columns does not. The second one is for
// types that the first refuses, and costs about three times as much.
const (
	TupleHash Method = "tuple1"
	BytesHash Method = "bytes1"
)

// RowCount is what a group of rows adds up to.
type RowCount struct {
	Rows uint64
	Hash uint64 // a sum modulo 2^64: groups may be added up
}

// Add joins two groups.
func (r RowCount) Add(o RowCount) RowCount { return RowCount{r.Rows + o.Rows, r.Hash + o.Hash} }

// Text is the hash as manifests keep it, with its method in front.
func (r RowCount) Text(m Method) string { return string(m) + ":" + strconv.FormatUint(r.Hash, 10) }

// MethodOf reads the method of a hash that Text wrote.
func MethodOf(text string) (Method, bool) {
	m, rest, ok := strings.Cut(text, ":")
	_, err := strconv.ParseUint(rest, 10, 64)
	return Method(m), ok && err == nil && (Method(m) == TupleHash || Method(m) == BytesHash)
}

// Grouping is what rows are counted by.
type Grouping string

// A partition, or a data part.
const (
	ByPartition Grouping = "_partition_id"
	ByPart      Grouping = "_part"
)

// Census asks for the rows of one table.
type Census struct {
	Database, Table string
	Columns         []Column // all of them; those that are not stored are left out
	By              Grouping
	// Only restricts it to these partitions or parts; nil: all.
	Only     []string
	OnlyBy   Grouping // what Only names
	Method   Method   // empty: TupleHash, or BytesHash where it is refused
	Timeout  time.Duration
	Settings map[string]any
}

// onlyMax is how many names one query lists.
const onlyMax = 2000

// sql is one query of a census, over some of its names.
func (q Census) sql(m Method, only []string) string {
	var names []string
	for _, c := range q.Columns {
		if c.Stored() {
			names = append(names, Ident(c.Name))
		}
	}
	row := "tuple(" + strings.Join(names, ", ") + ")"
	if m == BytesHash {
		row = "formatRow('RowBinary', " + strings.Join(names, ", ") + ")"
	}
	where := ""
	if q.Only != nil {
		where = " WHERE " + string(q.OnlyBy) + " IN (" + Literals(only) + ")"
	}
	return fmt.Sprintf("SELECT toString(%[1]s) AS holdfast_group, count(), sum(cityHash64(%[2]s)) FROM %[3]s%[4]s GROUP BY holdfast_group", q.By, row, TableName(q.Database, q.Table), where)
}

// Count reads every stored byte of every row that it counts. It returns the
// groups that have rows, and the method that made their hashes.
func (c *Client) Count(ctx context.Context, q Census) (map[string]RowCount, Method, error) {
	if !slices.ContainsFunc(q.Columns, Column.Stored) {
		return nil, "", fmt.Errorf("count the rows of %s.%s: no stored column is known", q.Database, q.Table)
	}
	methods := []Method{q.Method}
	if q.Method == "" {
		methods = []Method{TupleHash, BytesHash}
	}
	for i, m := range methods {
		counts, err := c.count(ctx, q, m)
		if err == nil {
			return counts, m, nil
		}
		if code, ok := Code(err); ok && i+1 < len(methods) && (code == CodeIllegalType || code == CodeNotImplemented) {
			continue
		}
		return nil, "", fmt.Errorf("count the rows of %s.%s: %w", q.Database, q.Table, err)
	}
	panic("unreachable: the last method returns")
}

func (c *Client) count(ctx context.Context, q Census, m Method) (map[string]RowCount, error) {
	counts := map[string]RowCount{}
	groups := [][]string{nil}
	if q.Only != nil {
		groups = slices.Collect(slices.Chunk(q.Only, onlyMax))
	}
	for _, only := range groups {
		settings := map[string]any{"max_query_size": 4 << 20}
		maps.Copy(settings, q.Settings)
		err := c.Rows(ctx, Query{SQL: q.sql(m, only), Timeout: q.Timeout, Settings: settings}, func(scan func(...any) error) error {
			var group string
			var n RowCount
			if err := scan(&group, &n.Rows, &n.Hash); err != nil {
				return err
			}
			counts[group] = counts[group].Add(n)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return counts, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
