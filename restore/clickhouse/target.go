package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/restore"
)

// Config says where to restore to.
type Config struct {
	Client *clickhouse.Client
	Host   string // for people, such as 10.0.0.7:9000
	// Database is the scratch database. A manifest with several databases gets
	// one each: this name, an underscore, and theirs.
	Database string
	// Collection is the named collection on this server whose URL is the root
	// of the repository that the set lies in.
	Collection string
	Run        string // marks what is ours
	Log        *slog.Logger

	Poll         time.Duration // how often to look at a running restore; default 200 ms
	Silence      time.Duration // how long the server may be out of reach meanwhile; default 2 min
	QueryTimeout time.Duration // of reading one table; default 10 min
	// StatementBytes is where a RESTORE statement is split; default clickhouse.StatementBytesMax.
	StatementBytes int
}

// Target is one place for one run.
type Target struct {
	c        Config
	restores int // numbers the operations of this process
	// serverStarted is when the server was started that Restore spoke to; 0: not known.
	serverStarted int64
}

var _ restore.Target = (*Target)(nil)

var (
	plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,99}$`)
	plainRun  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)
)

// New checks the configuration; it does not dial.
func New(c Config) (*Target, error) {
	switch {
	case c.Client == nil:
		return nil, errors.New("clickhouse target: no client")
	case !plainName.MatchString(c.Database):
		return nil, fmt.Errorf("clickhouse target: database %q: want up to 100 letters, digits and underscores", c.Database)
	case !plainRun.MatchString(c.Run):
		return nil, fmt.Errorf("clickhouse target: run %q: want up to 100 letters, digits, dashes and underscores", c.Run)
	case c.Collection == "":
		return nil, errors.New("clickhouse target: no named collection: name the one on the server that holds the repository's URL and keys")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.QueryTimeout <= 0 {
		c.QueryTimeout = 10 * time.Minute
	}
	if c.StatementBytes <= 0 {
		c.StatementBytes = clickhouse.StatementBytesMax
	}
	return &Target{c: c}, nil
}

// Engine is clickhouse.
func (t *Target) Engine() backup.Engine { return backup.ClickHouse }

// Where names the scratch database and the server.
func (t *Target) Where() string {
	if t.c.Host == "" {
		return "database " + t.c.Database
	}
	return "database " + t.c.Database + " on " + t.c.Host
}

// scratch maps the databases of a manifest to ours.
func (t *Target) scratch(m *backup.Manifest) map[string]string {
	names := map[string]string{}
	for _, table := range m.ClickHouse.Tables {
		names[table.Database] = t.c.Database
	}
	if len(names) > 1 {
		for db := range names {
			names[db] = t.c.Database + "_" + db
		}
	}
	return names
}

func databases(scratch map[string]string) []string {
	var list []string
	for _, name := range scratch {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// holdsData reports whether the manifest has rows of this table.
func holdsData(t backup.ClickHouseTable) bool { return clickhouse.InPacks(t.Engine, t.Name) }

func replicated(t backup.ClickHouseTable) bool {
	return holdsData(t) && (strings.HasPrefix(t.Engine, "Replicated") || strings.HasPrefix(t.Engine, "Shared"))
}

// Check looks whether Restore could work. It changes nothing.
func (t *Target) Check(ctx context.Context, m *backup.Manifest) ([]restore.Obstacle, error) {
	if m.ClickHouse == nil {
		return nil, errors.New("check the clickhouse target: the manifest holds no ClickHouse part")
	}
	var list []restore.Obstacle
	found := func(what, next string) { list = append(list, restore.Obstacle{What: what, Next: next}) }
	version, err := t.c.Client.Version(ctx)
	if err != nil {
		return nil, err
	}
	if older(version, m.Store.Version) {
		found(fmt.Sprintf("The server is ClickHouse %s; the set was taken from %s.", version, m.Store.Version), "Use a server that is as new as the one the set was taken from.")
	}
	var need uint64
	for _, table := range m.ClickHouse.Tables {
		for _, p := range table.Partitions {
			need += p.Bytes
		}
		if replicated(table) {
			found(fmt.Sprintf("%s.%s has engine %s: restoring replicated tables into a scratch database is not supported yet.", table.Database, table.Name, table.Engine), "Restore it by hand with RESTORE TABLE on one replica, or take the table out of the backup.")
		} else if holdsData(table) {
			if _, err := createAs(table, t.c.Database, table.Name); err != nil {
				found("A table cannot be created: "+err.Error()+".", "Report this; the set itself may be good.")
			}
		}
	}
	names := databases(t.scratch(m))
	if len(names) == 0 {
		names = []string{t.c.Database} // a set without tables
	}
	there, comments, err := marked(ctx, t.c.Client, "name IN ("+clickhouse.Literals(names)+")")
	if err != nil {
		return nil, err
	}
	for i, name := range there {
		if comments[i] != markOf(t.c.Run) {
			found(fmt.Sprintf("Database %s exists and was not made by this run.", name), "Name another scratch database, or drop this one by hand if nobody needs it.")
		}
	}
	missing, err := t.missingPolicies(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, policy := range missing {
		found(fmt.Sprintf("The server has no storage policy %q, which tables of the set are kept by.", policy), "Define a policy of this name, with volumes of the same names, in the server's configuration; any disks will do.")
	}
	free, err := t.free(ctx)
	if err != nil {
		return nil, err
	}
	if need > free {
		found(fmt.Sprintf("The set needs %d MB on the server's disks; %d MB are free on the largest.", need>>20, free>>20), "Free space, or use a larger target.")
	}
	for _, right := range []string{"CREATE DATABASE, DROP DATABASE, CREATE TABLE, INSERT, SELECT ON " + clickhouse.Ident(names[0]) + ".*", "NAMED COLLECTION ON " + clickhouse.Ident(t.c.Collection)} {
		if ok, known := t.granted(ctx, right); known && !ok {
			found("The user lacks a right: "+right+".", "GRANT "+right+" TO the user that holdfast logs in as.")
		}
	}
	return list, ctx.Err()
}

var policyIn = regexp.MustCompile(`\bstorage_policy = '([^']+)'`)

// missingPolicies are storage policies that tables name and the server has not.
func (t *Target) missingPolicies(ctx context.Context, m *backup.Manifest) ([]string, error) {
	need := map[string]bool{}
	for _, table := range m.ClickHouse.Tables {
		// Settings come last; a comment or a default may hold the same words.
		settings := table.Create[max(strings.LastIndex(table.Create, " SETTINGS "), 0):]
		if found := policyIn.FindStringSubmatch(settings); found != nil && holdsData(table) {
			need[found[1]] = true
		}
	}
	if len(need) == 0 {
		return nil, nil
	}
	err := t.c.Client.Rows(ctx, clickhouse.Query{SQL: "SELECT DISTINCT policy_name FROM system.storage_policies"}, func(scan func(...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		delete(need, name)
		return nil
	})
	return slices.Sorted(maps.Keys(need)), err
}

func (t *Target) free(ctx context.Context) (bytes uint64, err error) {
	err = t.c.Client.Rows(ctx, clickhouse.Query{SQL: "SELECT max(unreserved_space) FROM system.disks"}, func(scan func(...any) error) error { return scan(&bytes) })
	return bytes, err
}

// granted asks for a right. Servers before 24.10 cannot say.
func (t *Target) granted(ctx context.Context, right string) (ok, known bool) {
	var answer uint8
	err := t.c.Client.Rows(ctx, clickhouse.Query{SQL: "CHECK GRANT " + right}, func(scan func(...any) error) error {
		known = true
		return scan(&answer)
	})
	return answer == 1, known && err == nil
}

// older compares major and minor numbers. What it cannot read is not older.
func older(server, set string) bool {
	number := func(v string) (n [2]int, ok bool) {
		fields := strings.SplitN(v, ".", 3)
		if len(fields) < 2 {
			return n, false
		}
		a, err1 := strconv.Atoi(fields[0])
		b, err2 := strconv.Atoi(fields[1])
		return [2]int{a, b}, err1 == nil && err2 == nil
	}
	a, ok1 := number(server)
	b, ok2 := number(set)
	return ok1 && ok2 && slices.Compare(a[:], b[:]) < 0
}

// Keep hands the restored databases over to the user: merges run again, and
// the mark goes, so that no later Remove takes them away.
func (t *Target) Keep(ctx context.Context) error {
	names, _, err := marked(ctx, t.c.Client, "comment = "+clickhouse.Literal(markOf(t.c.Run)))
	if err != nil {
		return fmt.Errorf("keep %s: %w", t.Where(), err)
	}
	if len(names) == 0 {
		return fmt.Errorf("keep %s: it does not exist, or it was kept or removed before", t.Where())
	}
	for _, name := range names {
		tables, err := t.tables(ctx, name)
		if err != nil {
			return fmt.Errorf("keep database %s: %w", name, err)
		}
		for _, table := range tables {
			for _, what := range []string{"START MERGES", "START TTL MERGES"} {
				if err := t.exec(ctx, "SYSTEM "+what+" "+clickhouse.TableName(name, table)); err != nil {
					return fmt.Errorf("keep database %s: %w", name, err)
				}
			}
		}
		if err := t.exec(ctx, "ALTER DATABASE "+clickhouse.Ident(name)+" MODIFY COMMENT "+clickhouse.Literal(keptMark+t.c.Run)); err != nil {
			return fmt.Errorf("keep database %s: its mark stays, so a later sweep would remove it: %w", name, err)
		}
	}
	return nil
}

func (t *Target) exec(ctx context.Context, sql string) error {
	return t.c.Client.Exec(ctx, clickhouse.Query{SQL: sql})
}

// tables lists what is in one of our databases.
func (t *Target) tables(ctx context.Context, database string) (names []string, err error) {
	err = t.c.Client.Rows(ctx, clickhouse.Query{SQL: "SELECT name FROM system.tables WHERE database = " + clickhouse.Literal(database) + " ORDER BY name"}, func(scan func(...any) error) error {
		names = append(names, "")
		return scan(&names[len(names)-1])
	})
	return names, err
}
