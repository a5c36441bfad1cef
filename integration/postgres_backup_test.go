//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	pgbackup "github.com/holdfast-dr/holdfast/backup/postgres"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/postgres"
	"github.com/holdfast-dr/holdfast/internal/process"
	"github.com/holdfast-dr/holdfast/restore"
	pgrestore "github.com/holdfast-dr/holdfast/restore/postgres"
)

// pgStore keeps pieces in memory, each once.
type pgStore struct {
	mu     sync.Mutex
	all    map[[32]byte][]byte
	fresh  int64
	before func(n int) // called before the n-th piece of an attempt; nil: not
}

// pgAttempt is the sink of one attempt, and the source of its manifest.
type pgAttempt struct {
	*pgStore
	backup.Sink // only Put is asked for
	sums        [][32]byte
	sizes       []int64
	at          map[[32]byte]int
}

func (s *pgStore) attempt() *pgAttempt {
	return &pgAttempt{pgStore: s, at: map[[32]byte]int{}}
}

func (a *pgAttempt) Put(ctx context.Context, data []byte) (int, error) {
	sum := sha256.Sum256(data)
	a.mu.Lock()
	n, hook := len(a.sums), a.before
	a.mu.Unlock()
	if hook != nil {
		hook(n)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.all[sum]; !ok {
		a.all[sum] = bytes.Clone(data)
		a.fresh += int64(len(data))
	}
	if i, ok := a.at[sum]; ok {
		return i, ctx.Err()
	}
	a.at[sum] = len(a.sums)
	a.sums, a.sizes = append(a.sums, sum), append(a.sizes, int64(len(data)))
	return a.at[sum], ctx.Err()
}

func (a *pgAttempt) Pieces(ctx context.Context, _ *backup.Manifest, pieces []int, each func([]byte) error) error {
	for _, i := range pieces {
		a.mu.Lock()
		data := a.all[a.sums[i]]
		a.mu.Unlock()
		if err := errors.Join(ctx.Err(), each(data)); err != nil {
			return err
		}
	}
	return nil
}

func (a *pgAttempt) PackIndex(context.Context, backup.Pack) (backup.PackIndex, error) {
	return backup.PackIndex{}, errors.New("no packs here")
}

func pgTaker(t *testing.T, p *stack.Postgres) *pgbackup.Taker {
	t.Helper()
	c, err := postgres.Open(postgres.Config{Name: p.Name(), DSN: func() (string, error) { return p.BackupDSN(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	return pgbackup.New(pgbackup.Config{Client: c, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// pgTake takes a backup and adds what the caller of a Taker adds.
func pgTake(ctx context.Context, k *pgbackup.Taker, s *pgStore, prev *backup.Manifest) (backup.Manifest, *pgAttempt, error) {
	a := s.attempt()
	m, err := k.Take(ctx, backup.Take{Set: "01K00000000000000000000000", Attempt: "01K00000000000000000000001", Prev: prev, Sink: a})
	for _, size := range a.sizes {
		m.Pieces = append(m.Pieces, backup.Piece{Size: size})
	}
	return m, a, err
}

// pgPlace is a folder that the server's user can enter.
func pgPlace(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := pgrestore.Leftovers(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left over in %s: %v, %v", dir, left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func pgNew(t *testing.T, bin, dir, run string) *pgrestore.Target {
	t.Helper()
	x, err := pgrestore.New(pgrestore.Config{
		Directory: dir, Run: run, BinDir: bin, User: "nobody", StartTimeout: time.Minute,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// pgTarget is taken away at the end.
func pgTarget(t *testing.T, bin, dir, run string) *pgrestore.Target {
	t.Helper()
	x := pgNew(t, bin, dir, run)
	t.Cleanup(func() {
		if err := x.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return x
}

// pgRestore restores and returns what the comparison found.
func pgRestore(t *testing.T, x *pgrestore.Target, m *backup.Manifest, src backup.Source) restore.Comparison {
	t.Helper()
	obstacles, err := x.Check(t.Context(), m)
	if err != nil || len(obstacles) > 0 {
		t.Fatalf("%v, %v", obstacles, err)
	}
	if err := x.Restore(t.Context(), m, src, nil); err != nil {
		t.Fatal(err)
	}
	c, err := x.Compare(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pgDamage turns one bit in a table of a restored server, and leaves the
// server stopped.
func pgDamage(t *testing.T, x *pgrestore.Target, table string) {
	t.Helper()
	c, err := postgres.Open(postgres.Config{Name: "scratch", DSN: func() (string, error) { return x.ConnString(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Connect(t.Context(), "sentry")
	if err != nil {
		t.Fatal(err)
	}
	var path string
	err = conn.QueryRow(t.Context(), "SELECT pg_relation_filepath($1::regclass)", table).Scan(&path)
	if err := errors.Join(err, conn.Close(t.Context()), x.Stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(x.Where(), "data", path)
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 8192 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	b[len(b)-100] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pgOdd is what Sentry's tables do not have.
const pgOdd = `
CREATE SCHEMA "odd Schema";
CREATE TABLE "odd Schema"."ta.ble""q" (t text, b bytea, n numeric, f float8, j jsonb, i interval, d timestamptz, a int[], x regclass);
INSERT INTO "odd Schema"."ta.ble""q" VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), ('', '\x00ff', 1.50, 0.1, '{"a":1}', '1 day 2 h', '2026-01-02 03:04:05.678901+00', '{1,NULL}', 'pg_class');
CREATE TABLE no_columns (); INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE parted (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100); CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200);
INSERT INTO parted SELECT i, md5(i::text) FROM generate_series(0, 199) i;
CREATE UNLOGGED TABLE fleeting (i int); INSERT INTO fleeting VALUES (1);
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM parted;
CREATE TABLE busy (i bigserial, v text);`

// pgMany makes more tables than the server has room for locks.
const pgMany = `DO $$ BEGIN FOR i IN 1 .. 2500 LOOP EXECUTE format('CREATE TABLE many_%s (i int PRIMARY KEY)', i); IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$`

// pgQuiet waits until who filled the tables is gone, and with them what they
// had yet to report to the statistics: a table counts as moving for it.
const pgQuiet = `DO $$ BEGIN
	FOR i IN 1 .. 500 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid());
		PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
	END LOOP;
END $$`

func pgFill(t *testing.T, p *stack.Postgres) {
	t.Helper()
	schema, err := os.ReadFile(filepath.Join("sentry", "postgres.sql"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{string(schema), "SELECT sentry_fill(1000)", pgOdd, "CREATE DATABASE second", pgQuiet} {
		if err := p.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPostgresBackup_RestoresEveryRowAndSeesOneThatIsNot(t *testing.T) {
	for _, version := range []string{"14", "17", "18"} {
		t.Run(version, func(t *testing.T) {
			p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pg" + version, Version: version})
			pgFill(t, p)
			k, s, dir := pgTaker(t, p), &pgStore{all: map[[32]byte][]byte{}}, pgPlace(t)

			begun := time.Now()
			m, a, err := pgTake(t.Context(), k, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			first := s.fresh
			t.Logf("took %d files and %d directories, %.1f MB, %d rows of %d tables in %.2f s; notes %q", len(m.Postgres.Files), len(m.Postgres.Dirs),
				float64(first)/1e6, m.Totals.Rows, len(m.Postgres.Census), time.Since(begun).Seconds(), m.Notes)
			compared := 0
			for _, c := range m.Postgres.Census {
				if c.Moving {
					t.Errorf("%s moved, and nobody wrote", c.Name)
				}
				if c.Skipped == "" {
					compared++
				}
			}
			if m.Store.ID == "" || m.Totals.Rows < 2500 || compared < 23 || !strings.HasPrefix(m.Store.Version, version) {
				t.Errorf("store %+v, %d rows, %d tables compared", m.Store, m.Totals.Rows, compared)
			}

			begun = time.Now()
			x := pgTarget(t, p.BinDir(), dir, "one")
			c := pgRestore(t, x, &m, a)
			t.Logf("restored, started and compared in %.2f s: %+v", time.Since(begun).Seconds(), c)
			if c.Different != 0 || c.Units != compared || c.Rows < m.Totals.Rows {
				t.Errorf("compared %+v, want %d tables and %d rows without a difference", c, compared, m.Totals.Rows)
			}
			what, err := x.Disturb(t.Context(), &m)
			if err != nil {
				t.Fatal(err)
			}
			c, err = x.Compare(t.Context(), &m, nil)
			if err != nil || c.Different != 1 {
				t.Errorf("%s; compared %+v, %v; want exactly one difference", what, c, err)
			}
			t.Logf("%s: %v", what, c.Differences)
			pgDamage(t, x, "public.sentry_grouphash")
			if err := x.Start(t.Context(), &m); err != nil {
				t.Fatal(err)
			}
			c, err = x.Compare(t.Context(), &m, nil)
			if err != nil || c.Different != 2 || !strings.Contains(c.Differences[1].What, "cannot be read: damaged") {
				t.Errorf("one bit of a page was turned; compared %+v, %v; want exactly one more difference", c, err)
			}
			if err := errors.Join(x.Remove(t.Context()), x.Remove(t.Context())); err != nil {
				t.Error(err)
			}

			// Again, while somebody writes.
			ctx, stop := context.WithCancel(t.Context())
			var load sync.WaitGroup
			load.Go(func() {
				for ctx.Err() == nil {
					if err := p.Exec(t.Context(), "INSERT INTO busy (v) SELECT md5(i::text) FROM generate_series(1, 500) i; DELETE FROM busy WHERE i % 3 = 0"); err != nil {
						t.Error(err)
						return
					}
				}
			})
			m, a, err = pgTake(t.Context(), k, s, &m)
			stop()
			load.Wait()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("again, under load: %.1f MB of %.1f MB are new", float64(s.fresh-first)/1e6, float64(first)/1e6)
			if s.fresh-first > first {
				t.Errorf("%d bytes were new, %d at first: nothing was reused", s.fresh-first, first)
			}
			for _, c := range m.Postgres.Census {
				if c.Moving != (c.Name == "busy") {
					t.Errorf("%s: moving is %t", c.Name, c.Moving)
				}
			}
			c = pgRestore(t, pgTarget(t, p.BinDir(), dir, "two"), &m, a)
			if c.Different != 0 || c.Units != compared-1 {
				t.Errorf("compared %+v, want %d tables without a difference", c, compared-1)
			}
		})
	}
}

func TestPostgresBackup_ServerThatDiesIsAnErrorAndTheNextAttemptPasses(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgdies", Version: "14"})
	if err := p.Exec(t.Context(), "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i"); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	s := &pgStore{all: map[[32]byte][]byte{}, before: func(n int) {
		if n == 200 {
			once.Do(func() {
				if err := p.Kill(); err != nil {
					t.Error(err)
				}
			})
		}
	}}
	k := pgTaker(t, p)
	_, _, err := pgTake(t.Context(), k, s, nil)
	if err == nil || strings.Contains(err.Error(), p.BackupDSN()) {
		t.Fatalf("%v, want an error that tells no secret", err)
	}
	t.Logf("killed: %v", err)
	s.before = nil
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, a, err := pgTake(t.Context(), k, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	x := pgNew(t, p.BinDir(), pgPlace(t), "after")
	if c := pgRestore(t, x, &m, a); c.Different != 0 || c.Units != 1 {
		t.Errorf("%+v", c)
	}
	// What is kept can be started again, and is never removed.
	if err := errors.Join(x.Keep(t.Context()), x.Start(t.Context(), &m)); err != nil {
		t.Fatal(err)
	}
	if c, err := x.Compare(t.Context(), &m, nil); err != nil || c.Different != 0 || c.Units != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := x.Remove(t.Context()); err == nil {
		t.Error("what was kept was removed")
	}
	if err := x.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPostgresBackup_CancelledAttemptEndsAtOnce(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgcancel", Version: "17"})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	s := &pgStore{all: map[[32]byte][]byte{}, before: func(n int) {
		if n == 100 {
			cancel(why)
		}
	}}
	begun := time.Now()
	_, _, err := pgTake(ctx, pgTaker(t, p), s, nil)
	if !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestPostgresCensus_HoldsTheLocksOfOneTableAtATime(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgmany", Version: "14", Settings: map[string]string{"max_locks_per_transaction": "10", "max_connections": "20"}})
	if err := p.Exec(t.Context(), pgMany); err != nil {
		t.Fatal(err)
	}
	c, err := postgres.Open(postgres.Config{Name: p.Name(), DSN: func() (string, error) { return p.BackupDSN(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Census(t.Context(), postgres.CensusOptions{})
	if err != nil || len(all) != 2500 {
		t.Errorf("%d tables, %v", len(all), err)
	}
}

// pgParent is how the test below tells its child what to do.
const pgParent = "HOLDFAST_TEST_PG_PARENT"

type pgOrphan struct {
	Config   pgrestore.Config
	Manifest backup.Manifest
}

func TestPostgresRestore_RemovesWhatADeadParentLeft(t *testing.T) {
	if file := os.Getenv(pgParent); file != "" {
		pgBeParent(t, file)
		return
	}
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgorphan", Version: "17"})
	s, dir := &pgStore{all: map[[32]byte][]byte{}}, pgPlace(t)
	m, a, err := pgTake(t.Context(), pgTaker(t, p), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	x := pgTarget(t, p.BinDir(), dir, "orphan")
	pgRestore(t, x, &m, a)
	if err := x.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(pgOrphan{pgrestore.Config{Directory: dir, Run: "orphan", BinDir: p.BinDir(), User: "nobody"}, m})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "orphan.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), pgParent+"="+file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 3)
	_, readErr := io.ReadFull(out, said)
	killErr := cmd.Process.Kill()
	_ = cmd.Wait()
	if readErr != nil || killErr != nil || string(said) != "up\n" {
		t.Fatalf("child said %q, %v, %v", said, readErr, killErr)
	}
	pid, err := os.ReadFile(filepath.Join(x.Where(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatalf("no server is left over: %v", err)
	}
	var number int
	if _, err := fmt.Sscan(string(pid), &number); err != nil {
		t.Fatal(err)
	}
	was, err := process.Read(number)
	if err != nil || was.Dead() {
		t.Fatalf("the server ended with its parent: %+v, %v", was, err)
	}
	left, err := pgrestore.Leftovers(dir)
	if err != nil || len(left) != 1 || left[0] != "orphan" {
		t.Fatalf("left over: %v, %v", left, err)
	}
	if err := pgTarget(t, p.BinDir(), dir, left[0]).Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, err := process.Read(number); err == nil && !now.Dead() && now.Start == was.Start {
		t.Errorf("process %d is still there", number)
	}
	if _, err := os.Stat(x.Where()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", x.Where(), err)
	}
}

// pgBeParent starts the server, says so, and waits to be killed.
func pgBeParent(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var o pgOrphan
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	x, err := pgrestore.New(o.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context(), &o.Manifest); err != nil {
		t.Fatal(err)
	}
	fmt.Println("up")
	time.Sleep(time.Minute)
}
