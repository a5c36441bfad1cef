package sentry

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed clickhouse.sql
var clickhouseTables string

//go:embed clickhouse-fill.sql
var clickhouseRows string

// RowsMax bounds n: with more, the oldest rows would be past the life that
// their tables give them.
const RowsMax = 10_000

// answerMax bounds what a server may answer.
const answerMax = 16 << 20

// ClickHouse is one database on one server, by its HTTP interface.
type ClickHouse struct {
	Address        string // host:port
	User, Password string
	Database       string
}

// Count is what a census knows of one table.
type Count struct {
	Rows int64  `json:"rows"`
	Hash string `json:"hash"` // of all rows, whatever their order
}

// client keeps no connection: servers come and go under it.
var client = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}

// CreateClickHouse makes the database, unless it is there, and all tables and
// views in it.
func CreateClickHouse(ctx context.Context, c ClickHouse) error {
	server := c
	server.Database = "default"
	if _, err := server.query(ctx, "CREATE DATABASE IF NOT EXISTS `"+c.Database+"`", nil); err != nil {
		return fmt.Errorf("make the database %s: %w", c.Database, err)
	}
	for _, statement := range statements(clickhouseTables) {
		if _, err := c.query(ctx, statement, nil); err != nil {
			return fmt.Errorf("make the tables of %s: %w", c.Database, err)
		}
	}
	return nil
}

// FillClickHouse inserts n rows into each table, one for each minute back from
// at, and waits until the views have made theirs of them. at is near now:
// tables drop what is past its life.
func FillClickHouse(ctx context.Context, c ClickHouse, n int, at time.Time) error {
	if n < 1 || n > RowsMax {
		return fmt.Errorf("fill %s: %d rows for each table; want 1 to %d", c.Database, n, RowsMax)
	}
	values := map[string]string{"n": strconv.Itoa(n), "at": strconv.FormatInt(at.Unix(), 10)}
	for _, statement := range statements(clickhouseRows) {
		if _, err := c.query(ctx, statement, values); err != nil {
			return fmt.Errorf("fill %s: %w", c.Database, err)
		}
	}
	return nil
}

// CensusClickHouse counts and hashes every table that holds rows, each merged
// to its end for the count. Columns of states whose value depends on the order
// of merges are left out.
func CensusClickHouse(ctx context.Context, c ClickHouse) (map[string]Count, error) {
	type column struct{ Table, Name, Type, Kind string }
	var columns []column
	err := c.rows(ctx, `SELECT c.table AS Table, c.name AS Name, c.type AS Type, c.default_kind AS Kind
FROM system.columns c JOIN system.tables t ON t.database = c.database AND t.name = c.table
WHERE c.database = currentDatabase() AND t.engine LIKE '%MergeTree' ORDER BY c.table, c.position`, func(line []byte) error {
		var col column
		err := json.Unmarshal(line, &col)
		columns = append(columns, col)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the columns of %s: %w", c.Database, err)
	}
	expressions := map[string][]string{}
	for _, col := range columns {
		if e := stable(col.Name, col.Type); e != "" && col.Kind != "ALIAS" {
			expressions[col.Table] = append(expressions[col.Table], e)
		}
	}
	census := map[string]Count{}
	for table, list := range expressions {
		// A hash of the bytes of a row sees the values beside a NULL, which a
		// hash of its values does not.
		query := "SELECT toInt64(count()) AS rows, hex(sum(sipHash64(formatRow('RowBinary', " + strings.Join(list, ", ") + ")))) AS hash" +
			" FROM `" + table + "` SETTINGS final = 1"
		err := c.rows(ctx, query, func(line []byte) error {
			var count Count
			err := json.Unmarshal(line, &count)
			census[table] = count
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("count %s.%s: %w", c.Database, table, err)
		}
	}
	return census, nil
}

// stable is an expression for a column that does not change with merges, or
// nothing.
func stable(name, kind string) string {
	column := "`" + name + "`"
	state, isState := strings.CutPrefix(kind, "AggregateFunction(")
	if !isState {
		return column
	}
	function, _, _ := strings.Cut(state, ",")
	if slices.Contains([]string{"sum", "count", "min", "max", "maxIf"}, function) {
		return "finalizeAggregation(" + column + ")"
	}
	return ""
}

func (c ClickHouse) rows(ctx context.Context, query string, each func(line []byte) error) error {
	answer, err := c.query(ctx, query+" FORMAT JSONEachRow", nil)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(answer)) {
		if err := each([]byte(line)); err != nil {
			return fmt.Errorf("read %q: %w", strings.TrimSpace(line), err)
		}
	}
	return nil
}

// query runs one statement.
func (c ClickHouse) query(ctx context.Context, statement string, values map[string]string) ([]byte, error) {
	words := url.Values{"database": {c.Database}, "output_format_json_quote_64bit_integers": {"0"}}
	for name, value := range values {
		words.Set("param_"+name, value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.Address+"/?"+words.Encode(), strings.NewReader(statement))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-ClickHouse-User", c.User)
	req.Header.Set("X-ClickHouse-Key", c.Password)
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, answerMax))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(answer)))
	}
	return answer, nil
}

// statements splits a script at each semicolon that ends a line, and drops the
// lines that are comments.
func statements(script string) []string {
	var all []string
	var one strings.Builder
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "--") || one.Len() == 0 && strings.TrimSpace(line) == "" {
			continue
		}
		text := strings.TrimRight(line, "\n")
		end := strings.HasSuffix(text, ";")
		one.WriteString(strings.TrimSuffix(text, ";") + "\n")
		if end {
			all = append(all, one.String())
			one.Reset()
		}
	}
	return all
}

// Databases lists the databases of a server.
func Databases(ctx context.Context, c ClickHouse) (names []string, err error) {
	server := c
	server.Database = "default"
	err = server.rows(ctx, "SELECT name AS Name FROM system.databases", func(line []byte) error {
		var row struct{ Name string }
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		names = append(names, row.Name)
		return nil
	})
	return names, err
}
