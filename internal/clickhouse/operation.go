package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/retry"
)

// ErrForgotten means that the server knows no operation of this id: it was
// restarted meanwhile, or the statement never reached it. What the operation
// left has to be looked at.
var ErrForgotten = errors.New("the server knows nothing of this operation (it was restarted, or it never got the statement)")

// Operation is a BACKUP or RESTORE that the server runs by itself, so that it
// outlives the connection it came over.
type Operation struct {
	SQL      string            // up to SETTINGS
	ID       string            // never used before on this server; it is burnt by any outcome
	Settings map[string]string // of the statement, as written in SQL
	// Poll is how often to look at first; default 200 ms. It grows with the time
	// the operation has taken, so that what is short is not waited for much
	// longer than it took, and what is long is not asked often.
	Poll time.Duration
	// Silence is how long the server may be out of reach; default 2 min.
	Silence  time.Duration
	Progress func(OperationState)
}

// OperationState is what system.backups says.
type OperationState struct {
	Status  string
	Error   string
	QueryID string
	Bytes   uint64 // of all files
	Files   uint64
}

// killTimeout bounds the attempt to end an operation that nobody waits for.
const killTimeout = 10 * time.Second

// lateWait is how long an operation may need to show up on its server after
// the statement was given up.
const lateWait = time.Second

func (o Operation) statement() string {
	var b strings.Builder
	b.WriteString(o.SQL)
	b.WriteString(" SETTINGS id = " + Literal(o.ID))
	for _, k := range sortedKeys(o.Settings) {
		b.WriteString(", " + k + " = " + o.Settings[k])
	}
	b.WriteString(" ASYNC")
	return b.String()
}

// Operate starts an operation and waits for its end. A lost connection is no
// end. When ctx ends first, the server is asked to stop.
func (c *Client) Operate(ctx context.Context, o Operation) (err error) {
	if o.Poll <= 0 {
		o.Poll = 200 * time.Millisecond
	}
	if o.Silence <= 0 {
		o.Silence = 2 * time.Minute
	}
	defer func() {
		if ctx.Err() != nil {
			c.kill(context.WithoutCancel(ctx), o.ID, o.Poll)
		}
	}()
	sent := c.Exec(ctx, Query{SQL: o.statement(), Outlives: true, Settings: map[string]any{"max_query_size": 4 * StatementBytesMax}})
	if _, refused := Code(sent); refused {
		return sent
	}
	// Any other error may have come after the server had begun: look.
	begun, heard := time.Now(), time.Now()
	for {
		select {
		case <-time.After(min(max(o.Poll, time.Since(begun)/10), 10*o.Poll)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		state, known, err := c.operation(ctx, o.ID)
		switch {
		case err != nil:
			if _, refused := Code(err); refused || time.Since(heard) > o.Silence {
				return errors.Join(err, sent)
			}
			continue
		case !known:
			return errors.Join(fmt.Errorf("operation %s: %w", o.ID, ErrForgotten), sent)
		}
		heard = time.Now()
		if o.Progress != nil {
			o.Progress(state)
		}
		switch state.Status {
		case "BACKUP_CREATED", "RESTORED":
			return nil
		case "CREATING_BACKUP", "RESTORING":
		default:
			return fmt.Errorf("clickhouse %s: operation %s ended as %s: %s", c.name, o.ID, state.Status, state.Error)
		}
	}
}

func (c *Client) operation(ctx context.Context, id string) (s OperationState, known bool, err error) {
	err = c.Rows(ctx, Query{
		SQL:     "SELECT toString(status), error, query_id, toUInt64(total_size), toUInt64(num_files) FROM system.backups WHERE id = " + Literal(id),
		Timeout: 10 * time.Second,
	}, func(scan func(...any) error) error {
		known = true
		return scan(&s.Status, &s.Error, &s.QueryID, &s.Bytes, &s.Files)
	})
	// A stack trace follows the message on lines of its own.
	s.Error, _, _ = strings.Cut(s.Error, ", Stack trace")
	if len(s.Error) > 2000 {
		s.Error = s.Error[:2000] + "…"
	}
	return s, known, err
}

// kill ends an operation and waits for its end, so that nothing goes on
// writing behind whoever gave it up. It is best effort: what it cannot end
// within killTimeout ends by itself and is an orphan.
func (c *Client) kill(ctx context.Context, id string, poll time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	begun, waits := time.Now(), retry.New(poll, time.Second)
	for {
		s, known, err := c.operation(ctx, id)
		switch {
		case err != nil:
		case !known:
			// The statement may still be on its way to the server.
			if time.Since(begun) > lateWait {
				return
			}
		case s.Status != "CREATING_BACKUP" && s.Status != "RESTORING":
			return
		case s.QueryID != "":
			_ = c.Exec(ctx, Query{SQL: "KILL QUERY WHERE query_id = " + Literal(s.QueryID) + " ASYNC"})
		}
		if waits.Wait(ctx) != nil {
			return
		}
	}
}

// StatementBytesMax is where long statements are split: the server's default
// for max_query_size is 262,144.
const StatementBytesMax = 200_000

// PartitionsOf is a table and some of its partitions, for a statement.
type PartitionsOf struct {
	Table      string // as the statement names it, such as `a`.`b` AS `c`.`d`
	Partitions []string
}

// SplitStatements writes "VERB TABLE x PARTITIONS ID 'a', ID 'b', TABLE y …"
// as often as needed to keep each statement's list within limit bytes. A
// single partition is never split, so a list may pass a limit that is absurdly
// small. The second value tells which partitions each one holds.
func SplitStatements(verb string, tables []PartitionsOf, limit int) (statements []string, holds [][]PartitionsOf) {
	var list []string
	var now []PartitionsOf
	size := 0
	flush := func() {
		if len(now) == 0 {
			return
		}
		for _, t := range now {
			list = append(list, "TABLE "+t.Table+" "+PartitionIDs(t.Partitions))
		}
		statements = append(statements, verb+" "+strings.Join(list, ", "))
		holds = append(holds, now)
		list, now, size = nil, nil, 0
	}
	for _, t := range tables {
		open := false
		for _, p := range t.Partitions {
			cost := len(Literal(p)) + 5
			if !open {
				cost += len(t.Table) + 20
			}
			if size > 0 && size+cost > limit {
				flush()
				open = false
				cost = len(Literal(p)) + 5 + len(t.Table) + 20
			}
			if !open {
				now = append(now, PartitionsOf{Table: t.Table})
				open = true
			}
			now[len(now)-1].Partitions = append(now[len(now)-1].Partitions, p)
			size += cost
		}
	}
	flush()
	return statements, holds
}
