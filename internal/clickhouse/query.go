package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
)

// QueryTimeout bounds a query that names no limit.
const QueryTimeout = 30 * time.Second

// Query is one statement with what goes with it.
type Query struct {
	SQL      string
	Settings map[string]any
	Timeout  time.Duration // 0: QueryTimeout
	// Outlives is for a statement that starts work which goes on after it:
	// the limit must not travel to the server, where it would end that work.
	Outlives bool
}

// ErrTimeout means that a query ran into its own limit, not into that of its caller.
var ErrTimeout = errors.New("no answer")

// whole are settings under which a result is all of it or an error, whatever
// the user's profile says: a short list with a nil error is the worst answer.
var whole = map[string]any{
	"timeout_overflow_mode":  "throw",
	"read_overflow_mode":     "throw",
	"result_overflow_mode":   "throw",
	"group_by_overflow_mode": "throw",
	"limit":                  0,
	"final":                  0,
}

func (q Query) in(ctx context.Context, with map[string]any) (context.Context, context.CancelFunc) {
	limit := q.Timeout
	if limit <= 0 {
		limit = QueryTimeout
	}
	settings := ch.Settings{}
	maps.Copy(settings, with)
	maps.Copy(settings, q.Settings)
	late := fmt.Errorf("%w within %s", ErrTimeout, limit)
	if !q.Outlives {
		ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
		return ch.Context(ctx, ch.WithSettings(settings)), cancel
	}
	// The driver sends each deadline as max_execution_time, so this context
	// ends like the other one and has none.
	free, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	timer := time.AfterFunc(limit, func() { end(late) })
	return ch.Context(free, ch.WithSettings(settings)), func() {
		timer.Stop()
		stop()
		end(context.Canceled)
	}
}

// because prefers the cause of a context that ended over what the driver made of it.
func because(ctx context.Context, err error) error {
	// The driver gives the deadline to the connection too, which may notice it
	// a moment before the context does.
	if at, ok := ctx.Deadline(); ok && ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded) && time.Until(at) < 100*time.Millisecond {
		<-ctx.Done()
	}
	if ctx.Err() != nil && context.Cause(ctx) != nil && !errors.Is(err, context.Cause(ctx)) {
		return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return err
}

// Exec runs a statement and waits for its end.
func (c *Client) Exec(ctx context.Context, q Query) error {
	ctx, cancel := q.in(ctx, nil)
	defer cancel()
	if err := c.conn.Exec(ctx, q.SQL); err != nil {
		return c.explain(because(ctx, err))
	}
	return nil
}

// Rows runs a query and calls each once per row; scan reads its columns. It
// returns nil only when each saw all rows. The limit of the query covers each
// as well.
func (c *Client) Rows(ctx context.Context, q Query, each func(scan func(dest ...any) error) error) (err error) {
	ctx, cancel := q.in(ctx, whole)
	defer cancel()
	r, err := c.conn.Query(ctx, q.SQL)
	if err != nil {
		return c.explain(because(ctx, err))
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for r.Next() {
		if err := each(r.Scan); err != nil {
			return err
		}
	}
	if err := r.Err(); err != nil {
		return c.explain(because(ctx, err))
	}
	return nil
}

// Codes of the server's errors that callers decide on.
const (
	CodeBadArguments   = 36
	CodeIllegalType    = 43
	CodeNotImplemented = 48
	CodeUnknownTable   = 60
	CodeTimeout        = 159
)

// Code returns the number of the server's own error, if err is one.
func Code(err error) (int, bool) {
	var spoke *ch.Exception
	if errors.As(err, &spoke) {
		return int(spoke.Code), true
	}
	return 0, false
}

var (
	quoteIdent   = strings.NewReplacer("\\", "\\\\", "`", "\\`", "\x00", "\\0")
	quoteLiteral = strings.NewReplacer("\\", "\\\\", "'", "\\'", "\x00", "\\0")
)

// Ident quotes a name.
func Ident(name string) string { return "`" + quoteIdent.Replace(name) + "`" }

// TableName quotes a table's name with its database.
func TableName(database, table string) string { return Ident(database) + "." + Ident(table) }

// Literal quotes a string.
func Literal(s string) string { return "'" + quoteLiteral.Replace(s) + "'" }

// Literals quotes strings as a list: 'a', 'b'.
func Literals(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = Literal(s)
	}
	return strings.Join(quoted, ", ")
}

// PartitionIDs writes the clause that names partitions by id. ID stands before
// each one: without it the server reads a literal as a value of the key.
func PartitionIDs(ids []string) string {
	quoted := make([]string, len(ids))
	for i, s := range ids {
		quoted[i] = "ID " + Literal(s)
	}
	return "PARTITIONS " + strings.Join(quoted, ", ")
}

// ServerUUID is the id that a server keeps over restarts; empty when it has none.
func (c *Client) ServerUUID(ctx context.Context) (id string, err error) {
	err = c.Rows(ctx, Query{SQL: "SELECT if(serverUUID() = toUUID('00000000-0000-0000-0000-000000000000'), '', toString(serverUUID()))"},
		func(scan func(...any) error) error { return scan(&id) })
	return id, err
}
