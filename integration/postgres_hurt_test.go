//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	pgbackup "github.com/holdfast-dr/holdfast/backup/postgres"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// pgIn runs statements in one database of a server.
func pgIn(t *testing.T, dsn, database, statements string) {
	t.Helper()
	if _, err := pgConn(t, dsn, database).Exec(t.Context(), statements); err != nil {
		t.Fatalf("%.80s: %v", statements, err)
	}
}

func pgConn(t *testing.T, dsn, database string) *pgx.Conn {
	t.Helper()
	c, err := postgres.Open(postgres.Config{Name: "test", DSN: func() (string, error) { return dsn, nil }})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// pgCalls counts who connects to an address that production would connect to.
func pgCalls(t *testing.T) (port int, calls *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	calls = new(atomic.Int64)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port, calls
}

// pgStrange is what tables, columns, rows and policies can be like.
var pgStrange = pgStrangeWith(strings.Repeat("é", 31))

func pgStrangeWith(long string) string {
	return `
CREATE TABLE "ta$1ble :x ?%s 'q' \n` + "\n" + `🐘 -- /*" ("$1" int, "a""b" text, "holdfast_row" int, "count" int, "tableoid " int); INSERT INTO "ta$1ble :x ?%s 'q' \n` + "\n" + `🐘 -- /*" VALUES (1, 'x', 2, 3, 4);
CREATE TABLE "` + long + `" ("` + long + `" int); INSERT INTO "` + long + `" VALUES (1);
CREATE TABLE parent (i int); CREATE TABLE child (j int) INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3), (4, 5);
CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO computed VALUES (1), (NULL);
CREATE TABLE divided (a int, b int GENERATED ALWAYS AS (100 / a) VIRTUAL); INSERT INTO divided VALUES (0);
CREATE TABLE hidden (i int); INSERT INTO hidden SELECT generate_series(1, 10); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON hidden USING (i < 5);
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', '"'); CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%'); CREATE TYPE pair AS (a int, b mood);
CREATE TABLE kinds (n numeric, f float8, r float4, t timestamptz, d date, iv interval, by bytea, j jsonb, js json, m mood, e email, p pair, ps pair[], c text COLLATE "und-x-icu", mo money, ip inet, bi bit(5), ra int8range, ts tsvector, u uuid, x xml);
INSERT INTO kinds VALUES
 ('NaN', '-0', '-0', 'infinity', 'infinity', 'infinity', '\x0001ff', '{"b":1,"a":{"z":[1,2.50,null]}}', '{"b":1,  "a":2}', 'sad', 'a@b', (1,'"'), '{"(1,sad)",NULL}', 'ß', '1.5', '::1/64', '10101', '[1,5)', 'a:1 b:2', '00000000-0000-0000-0000-000000000001', '<a/>'),
 (1e1000, 'NaN', 1e-40, '-infinity', '4713-01-01 BC', '-1 mon 3 days', '', 'null', 'null', NULL, NULL, NULL, '{}', 'ss', '-0.01', '10.0.0.0/8', '00000', 'empty', '', NULL, NULL),
 ('-Infinity', 0, 0, '0001-01-01 BC', '0001-01-01', '0', NULL, '"\u00e9"', '""', 'it''s ok', '@', (NULL,NULL), NULL, '', NULL, NULL, NULL, '(,)', NULL, NULL, NULL);
CREATE EXTENSION hstore; CREATE TABLE stored (h hstore); INSERT INTO stored VALUES ('a=>1,b=>NULL');
CREATE VIEW looks AS SELECT * FROM kinds; CREATE MATERIALIZED VIEW looked AS SELECT f FROM kinds; CREATE UNLOGGED TABLE lost (i int); INSERT INTO lost VALUES (1);
SELECT lo_from_bytea(0, '\x1234');
CREATE TABLE logins (at timestamptz);
CREATE FUNCTION spy() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO public.logins VALUES (now()); END';
CREATE EVENT TRIGGER watch ON login EXECUTE FUNCTION spy(); ALTER EVENT TRIGGER watch ENABLE ALWAYS;
ALTER DATABASE sentry SET timezone = 'Asia/Tokyo'; ALTER DATABASE sentry SET bytea_output = 'escape'; ALTER ROLE holdfast SET datestyle = 'German'; ALTER ROLE postgres SET event_triggers = on;`
}

func TestPostgresBackup_StrangeClustersComeBackAndCallNobody(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgstrange", Version: "18", Settings: map[string]string{"summarize_wal": "on"}})
	pgIn(t, p.DSN(), "", pgStrange)
	for _, q := range []string{`CREATE DATABASE "we""ird ;db 'é"`, `CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'`, "CREATE DATABASE closed", "CREATE DATABASE halfway", "CREATE DATABASE filled",
		"ALTER DATABASE latin SET standard_conforming_strings = off", "ALTER SYSTEM SET archive_command = 'touch ARCHIVED'", "ALTER SYSTEM SET unix_socket_group = 'no-such-group'", "ALTER SYSTEM SET max_prepared_transactions = 3"} {
		pgIn(t, p.DSN(), "", q)
	}
	pgIn(t, p.DSN(), `we"ird ;db 'é`, "CREATE TABLE t AS SELECT 1 AS i")
	pgIn(t, p.DSN(), "latin", "CREATE TABLE \"é\" (\"ü\" text); INSERT INTO \"é\" VALUES ('ÿ')")
	pgIn(t, p.DSN(), "closed", "CREATE TABLE t AS SELECT 1 AS i")
	pgIn(t, p.DSN(), "", "UPDATE pg_database SET datallowconn = false WHERE datname = 'closed'; UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'halfway'; UPDATE pg_database SET datconnlimit = 0 WHERE datname = 'filled'")
	port, calls := pgCalls(t)
	pgIn(t, p.DSN(), "", fmt.Sprintf("CREATE SUBSCRIPTION follows CONNECTION 'host=127.0.0.1 port=%d dbname=x user=y' PUBLICATION z WITH (connect = false, slot_name = 's')", port))
	pgIn(t, p.DSN(), "", "ALTER SUBSCRIPTION follows ENABLE")
	if err := os.WriteFile(filepath.Join(p.DataDir(), "core.4711"), bytes.Repeat([]byte{0}, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.DataDir(), "empty file é"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &pgStore{all: map[[32]byte][]byte{}}
	m, a, err := pgTake(t.Context(), pgTaker(t, p), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	skipped := map[string]string{}
	counted := 0
	for _, c := range m.Postgres.Census {
		if c.Skipped != "" {
			skipped[c.Database+"."+c.Name] = c.Skipped
		} else if c.Moving {
			t.Logf("%s moved", c.Name) // "logins": a census logs in itself
		} else {
			counted++
		}
	}
	for name, why := range map[string]string{"sentry.hidden": "no right", "sentry.divided": "division by zero", "sentry.looked": "materialized", "sentry.lost": "unlogged", "closed.": "takes no connections", "halfway.": "takes no connections", "filled.": "takes no more connections"} {
		if !strings.Contains(skipped[name], why) {
			t.Errorf("%s was skipped because of %q, want %q", name, skipped[name], why)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); calls.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if calls.Load() == 0 {
		t.Error("the source does not follow its publisher, so nothing is proven")
	}
	bin := p.BinDir()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	before := calls.Load()

	x := pgTarget(t, bin, pgPlace(t), "strange")
	c := pgRestore(t, x, &m, a)
	if c.Different != 0 || c.Units != counted || counted < 9 {
		t.Errorf("compared %+v, want %d tables without a difference; skipped %v", c, counted, skipped)
	}
	// The launcher of subscriptions looks at once, and every second after a failure.
	time.Sleep(2 * time.Second)
	if n := calls.Load(); n != before {
		t.Errorf("the restored server called its publisher %d times", n-before)
	}
	logins := func() (n int) {
		if err := pgConn(t, x.ConnString(), "sentry").QueryRow(t.Context(), "SELECT count(*) FROM logins").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if one, two := logins(), logins(); one != two {
		t.Errorf("production's trigger ran at each login: %d, %d", one, two)
	}
	pgIn(t, x.ConnString(), "sentry", "SELECT pg_switch_wal()")
	if _, err := os.Stat(filepath.Join(x.Where(), "data", "ARCHIVED")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the restored server archived: %v", err)
	}
	// A drill's server without the library of an extension knows nothing about the set.
	pgIn(t, x.ConnString(), "sentry", "UPDATE pg_proc SET probin = '$libdir/not_installed' WHERE probin = '$libdir/hstore'")
	if c, err := x.Compare(t.Context(), &m, nil); err == nil || !strings.Contains(err.Error(), "not_installed") || !strings.Contains(err.Error(), "sentry.public.stored") {
		t.Errorf("a library is missing, and the comparison says %+v, %v", c, err)
	}
}

func TestPostgresBackup_SaysWhyItIsRefusedAndTellsNoSecret(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgrefuses", Version: "17", Settings: map[string]string{"max_wal_senders": "1"}})
	const password = "correct-horse-9d2e"
	pgIn(t, p.DSN(), "", "CREATE ROLE plain LOGIN PASSWORD '"+password+"'; GRANT pg_read_all_data TO plain")
	as := func(user, word string) string {
		c, err := pgx.ParseConfig(p.DSN())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", c.Host, c.Port, user, word, c.Database)
	}
	refused := func(dsn, want string) {
		t.Helper()
		client, err := postgres.Open(postgres.Config{Name: "us-east", DSN: func() (string, error) { return dsn, nil }})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = pgTake(t.Context(), pgbackup.New(pgbackup.Config{Client: client}), &pgStore{all: map[[32]byte][]byte{}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), p.Password()) {
			t.Errorf("want %q and no secret: %v", want, err)
		}
		t.Log(err)
	}
	refused(as("plain", password), "replication")
	refused(as("plain", password+"x"), "password authentication failed")
	refused(as("nobody_known", password), "password authentication failed")

	// Somebody else holds the only sender.
	client, err := postgres.Open(postgres.Config{Name: "us-east", DSN: func() (string, error) { return p.BackupDSN(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	sender, err := client.Replication(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	refused(p.BackupDSN(), "max_wal_senders")
	if err := sender.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A file that the server may not read.
	secret := filepath.Join(p.DataDir(), "root-only")
	if err := os.WriteFile(secret, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	refused(p.BackupDSN(), "root-only")
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	hba := filepath.Join(p.DataDir(), "pg_hba.conf")
	was, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host replication all all reject\n"), was...), 0o600); err != nil {
		t.Fatal(err)
	}
	pgIn(t, p.DSN(), "", "SELECT pg_reload_conf()")
	time.Sleep(200 * time.Millisecond)
	refused(p.BackupDSN(), "pg_hba.conf")
}

func TestPostgresBackup_WALIsKeptForItAndWithoutThatTheErrorSaysSo(t *testing.T) {
	p := stack.RunPostgres(t, stack.PostgresOptions{Name: "pgwal", Version: "14", Settings: map[string]string{
		"wal_keep_size": "0", "max_wal_size": "32MB", "min_wal_size": "32MB", "max_replication_slots": "1",
	}})
	pgIn(t, p.DSN(), "", "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i")
	writer := pgConn(t, p.DSN(), "")
	churned := 0
	s := &pgStore{all: map[[32]byte][]byte{}}
	var mu sync.Mutex
	churn := func() {
		churned = 0
		s.before = func(n int) {
			mu.Lock()
			defer mu.Unlock()
			if n < 50 || churned > 0 {
				return
			}
			churned++
			for range 6 {
				for _, q := range []string{"SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))", "SELECT pg_switch_wal()", "CHECKPOINT"} {
					if _, err := writer.Exec(t.Context(), q); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
	churn()
	m, a, err := pgTake(t.Context(), pgTaker(t, p), s, nil)
	if err != nil || churned != 1 {
		t.Fatalf("%d, %v", churned, err)
	}
	if c := pgRestore(t, pgTarget(t, p.BinDir(), pgPlace(t), "wal"), &m, a); c.Different != 0 || c.Units != 1 {
		t.Errorf("%+v", c)
	}
	var slots int
	if err := writer.QueryRow(t.Context(), "SELECT count(*) FROM pg_replication_slots").Scan(&slots); err != nil || slots != 0 {
		t.Errorf("%d slots are left, %v", slots, err)
	}
	// Without a free slot it is a race, which is lost here.
	pgIn(t, p.DSN(), "", "SELECT pg_create_physical_replication_slot('other')")
	churn()
	_, _, err = pgTake(t.Context(), pgTaker(t, p), s, nil)
	if err == nil || !strings.Contains(err.Error(), "WAL segment") || !strings.Contains(err.Error(), "max_replication_slots") {
		t.Errorf("want an error that names the WAL and what to do: %v", err)
	}
	s.before = nil
	pgIn(t, p.DSN(), "", "SELECT pg_drop_replication_slot('other')")
	if _, _, err = pgTake(t.Context(), pgTaker(t, p), s, nil); err != nil {
		t.Error(err)
	}
}
