//go:build integration

package integration

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	taker "github.com/holdfast-dr/holdfast/backup/clickhouse"
	"github.com/holdfast-dr/holdfast/integration/sentry"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/restore"
	target "github.com/holdfast-dr/holdfast/restore/clickhouse"
)

// chRig is a ClickHouse that can write to a bucket under the name holdfast.
type chRig struct {
	t      *testing.T
	server *stack.ClickHouse
	client *clickhouse.Client
	bucket *objects.Bucket
}

func newCHRig(t *testing.T) *chRig {
	s3 := stack.RunS3(t, stack.S3Options{})
	if err := s3.CreateBucket(t.Context(), "archive"); err != nil {
		t.Fatal(err)
	}
	r := &chRig{t: t}
	r.server = stack.RunClickHouse(t, stack.ClickHouseOptions{Collections: map[string]stack.Collection{
		"holdfast": {URL: s3.Endpoint() + "/archive/repo", AccessKey: s3.AccessKey(), SecretKey: s3.SecretKey()},
	}})
	secret := func(v string) objects.Secret { return func() (string, error) { return v, nil } }
	var err error
	r.bucket, err = objects.Open(objects.Config{
		Name: "archive", Endpoint: s3.Endpoint(), Bucket: "archive", Prefix: "repo/", PathStyle: true,
		AccessKey: secret(s3.AccessKey()), SecretKey: secret(s3.SecretKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.bucket.Close)
	r.client, err = clickhouse.Open(clickhouse.Config{
		Name: "us-east", Addresses: []string{r.server.Address()}, User: r.server.User(),
		Password: func() (string, error) { return r.server.Password(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.client.Close() })
	return r
}

func (r *chRig) exec(sql string, settings ...string) {
	r.t.Helper()
	q := clickhouse.Query{SQL: sql, Settings: map[string]any{}}
	for _, s := range settings {
		q.Settings[s] = 1
	}
	if err := r.client.Exec(r.t.Context(), q); err != nil {
		r.t.Fatalf("%.100s: %v", sql, err)
	}
}

// fill makes Sentry's tables, with rows, in a database.
func (r *chRig) fill(database string, rows int) {
	r.t.Helper()
	c := sentry.ClickHouse{Address: r.server.HTTPAddress(), User: r.server.User(), Password: r.server.Password(), Database: database}
	if err := sentry.CreateClickHouse(r.t.Context(), c); err != nil {
		r.t.Fatal(err)
	}
	if err := sentry.FillClickHouse(r.t.Context(), c, rows, time.Now()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *chRig) taker(databases ...string) *taker.Engine {
	r.t.Helper()
	e, err := taker.New(taker.Config{Client: r.client, Databases: databases, Collection: "holdfast", Poll: 20 * time.Millisecond, MutationsWait: 5 * time.Second, Silence: 30 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *chRig) target(run, database string) *target.Target {
	r.t.Helper()
	g, err := target.New(target.Config{Client: r.client, Host: r.server.Address(), Database: database, Collection: "holdfast", Run: run, Poll: 20 * time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

// chSink accounts for packs as a repository does, without its index objects.
type chSink struct {
	backup.Sink // ClickHouse puts no pieces
	r           *chRig
	packs       []backup.Pack
	adopted     int
	onNew       func()
	onRead      func()
}

func (s *chSink) NewPack() backup.PackPlace {
	if s.onNew != nil {
		s.onNew()
	}
	id := ulid.Make().String()
	return backup.PackPlace{ID: id, Prefix: backup.PackPrefix(backup.ClickHouse, id)}
}

func (s *chSink) ReadPack(ctx context.Context, at backup.PackPlace, name string, max int64) ([]byte, error) {
	if s.onRead != nil {
		s.onRead()
	}
	return s.r.bucket.Get(ctx, at.Prefix+name, max)
}

func (s *chSink) Adopt(ctx context.Context, at backup.PackPlace, named []backup.PackObject, _ func(backup.Progress)) (int, error) {
	there, err := s.r.bucket.List(ctx, at.Prefix, "", 100_000)
	if err != nil {
		return 0, err
	}
	sizes := map[string]int64{}
	for _, o := range there {
		sizes[strings.TrimPrefix(o.Key, at.Prefix)] = o.Bytes
	}
	p := backup.Pack{ID: at.ID, Objects: len(named), Encryption: "none"}
	for _, o := range named {
		if size, ok := sizes[o.Name]; !ok || size != o.Bytes {
			return 0, fmt.Errorf("object %s has %d bytes (there: %t), the engine says %d", o.Name, size, ok, o.Bytes)
		}
		delete(sizes, o.Name)
		p.Bytes += o.Bytes
	}
	if len(sizes) > 0 {
		return 0, fmt.Errorf("objects that the engine does not know: %v", slices.Collect(maps.Keys(sizes)))
	}
	body, _, err := s.r.bucket.Open(ctx, at.Prefix+named[0].Name)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return 0, err
	}
	s.adopted++
	s.packs = append(s.packs, p)
	return len(s.packs) - 1, nil
}

func (s *chSink) Reuse(p backup.Pack) int {
	s.packs = append(s.packs, p)
	return len(s.packs) - 1
}

// take runs one attempt as a repository would, and gives the manifest its packs.
func (r *chRig) take(e *taker.Engine, prev *backup.Manifest, s *chSink, progress func(backup.Progress)) (backup.Manifest, error) {
	s.r = r
	m, err := e.Take(r.t.Context(), backup.Take{Set: backup.SetID(ulid.Make().String()), Attempt: ulid.Make().String(), Prev: prev, Sink: s, Progress: progress})
	m.Packs = s.packs
	return m, err
}

func (r *chRig) mustTake(e *taker.Engine, prev *backup.Manifest) (backup.Manifest, *chSink) {
	r.t.Helper()
	s := &chSink{}
	m, err := r.take(e, prev, s, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return m, s
}

// fresh are the partitions that lie in packs which this take made.
func chFresh(m backup.Manifest, prev backup.Manifest) (list []string) {
	old := map[string]bool{}
	for _, p := range prev.Packs {
		old[p.ID] = true
	}
	for _, t := range m.ClickHouse.Tables {
		for _, p := range t.Partitions {
			if !old[m.Packs[p.Pack].ID] {
				list = append(list, t.Name+"/"+p.ID)
			}
		}
	}
	return list
}

// proves restores a manifest into a scratch database and compares; it returns
// the target, still there.
func (r *chRig) proves(m backup.Manifest, run string) *target.Target {
	r.t.Helper()
	g := r.target(run, "drill_"+run)
	if obstacles, err := g.Check(r.t.Context(), &m); err != nil || len(obstacles) > 0 {
		r.t.Fatalf("%v %v", obstacles, err)
	}
	if err := g.Restore(r.t.Context(), &m, nil, nil); err != nil {
		r.t.Fatal(err)
	}
	if c := r.compares(g, m); c.Different > 0 || c.Rows != m.Totals.Rows || c.Rows == 0 {
		r.t.Fatalf("restored %d of %d rows, %d differences: %v", c.Rows, m.Totals.Rows, c.Different, c.Differences)
	}
	return g
}

func (r *chRig) compares(g *target.Target, m backup.Manifest) restore.Comparison {
	r.t.Helper()
	c, err := g.Compare(r.t.Context(), &m, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *chRig) removes(g *target.Target) {
	r.t.Helper()
	for range 2 { // the second time there is nothing
		if err := g.Remove(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestClickHouseBackup_TakesWhatChangedAndGivesItBack is the life of a source:
// taken, restored and compared; changed a little, taken again; and with every
// thing in it that a native backup is known to lose.
func TestClickHouseBackup_TakesWhatChangedAndGivesItBack(t *testing.T) {
	r := newCHRig(t)
	r.fill("src", 1500)
	r.exec("CREATE TABLE src.`we``ird 'ta/ble.` (`a%b` UInt8, `p/q` String, j JSON, m Map(String, Nullable(Int64)), e Array(UInt8)) ENGINE = MergeTree PARTITION BY `p/q` ORDER BY `a%b` SETTINGS min_bytes_for_wide_part = 0")
	r.exec("INSERT INTO src.`we``ird 'ta/ble.` (`a%b`, `p/q`, j, m) VALUES (1, 'x y', '{\"a\":1}', {'k':NULL}), (2, '', '{}', {})")
	r.exec("CREATE MATERIALIZED VIEW src.inner_mv ENGINE = MergeTree ORDER BY project_id AS SELECT project_id, count() AS n FROM src.errors_local GROUP BY project_id")
	r.exec("INSERT INTO src.inner_mv SELECT number, 1 FROM numbers(10)")
	r.exec("CREATE TABLE src.logged (a UInt8) ENGINE = Log")
	r.exec("CREATE TABLE src.nothing (a UInt8) ENGINE = MergeTree ORDER BY a")
	e := r.taker("src")

	first, sink := r.mustTake(e, nil)
	if sink.adopted != 1 {
		t.Fatalf("%d packs", sink.adopted)
	}
	for _, name := range []string{"src.logged", "src..inner_id."} {
		if !slices.ContainsFunc(first.Notes, func(n string) bool { return strings.Contains(n, "NOT taken") && strings.Contains(n, name) }) {
			t.Errorf("no note says that the rows of %s are not taken: %q", name, first.Notes)
		}
	}
	t.Run("the whole comes back, and a disturbed row is caught", func(t *testing.T) {
		r := r.with(t)
		g := r.proves(first, "one")
		if runs, err := target.Leftovers(t.Context(), r.client); err != nil || !slices.Equal(runs, []string{"one"}) {
			t.Fatalf("leftovers %v %v", runs, err)
		}
		what, err := g.Disturb(t.Context(), &first)
		if err != nil {
			t.Fatal(err)
		}
		if c := r.compares(g, first); c.Different != 1 {
			t.Fatalf("%s: %d differences: %v", what, c.Different, c.Differences)
		}
		r.removes(g)
	})
	t.Run("one changed value is caught by the row hash alone", func(t *testing.T) {
		r := r.with(t)
		g := r.proves(first, "value")
		// Every row of this table has a NULL: a hash of the bare columns sees none of them.
		r.exec("SYSTEM START MERGES drill_value.group_attributes_local")
		r.exec("ALTER TABLE drill_value.group_attributes_local UPDATE assignee_user_id = 1 WHERE group_id = 7", "mutations_sync")
		c := r.compares(g, first)
		if c.Different != 1 || !strings.Contains(c.Differences[0].What, "row hash") {
			t.Fatalf("%d differences: %v", c.Different, c.Differences)
		}
		// What was never told to this run stays.
		r.exec("CREATE DATABASE drill_two")
		defer r.exec("DROP DATABASE drill_two SYNC")
		if err := r.target("two", "drill_two").Restore(t.Context(), &first, nil, nil); err == nil || !strings.Contains(err.Error(), "not made by this run") {
			t.Fatalf("restored over a database of others: %v", err)
		}
		if obstacles, err := r.target("two", "drill_two").Check(t.Context(), &first); err != nil || len(obstacles) != 1 {
			t.Fatalf("%v %v", obstacles, err)
		}
		r.removes(r.target("two", "drill_two"))
		if runs, err := target.Leftovers(t.Context(), r.client); err != nil || !slices.Equal(runs, []string{"value"}) {
			t.Fatalf("leftovers %v %v", runs, err)
		}
		r.removes(g)
		r.exec("DROP DATABASE drill_two SYNC")
		r.exec("CREATE DATABASE drill_two")
	})
	t.Run("both ways to hash a row read every type of column", func(t *testing.T) {
		r := r.with(t)
		for _, table := range first.ClickHouse.Tables {
			if len(table.Partitions) == 0 {
				continue
			}
			var columns []clickhouse.Column
			for _, c := range table.Columns {
				columns = append(columns, clickhouse.Column{Name: c.Name, Type: c.Type, Kind: c.Kind})
			}
			for _, m := range []clickhouse.Method{clickhouse.TupleHash, clickhouse.BytesHash} {
				got, _, err := r.client.Count(t.Context(), clickhouse.Census{Database: "src", Table: table.Name, Columns: columns, By: clickhouse.ByPartition, Method: m})
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range table.Partitions {
					if n := got[p.ID]; n.Rows != p.Rows || n.Hash == 0 || m == clickhouse.TupleHash && n.Text(m) != p.RowHash {
						t.Errorf("%s %s: %+v, the manifest says %+v", table.Name, m, n, p)
					}
				}
			}
		}
	})
	t.Run("nothing changed, nothing is written", func(t *testing.T) {
		r := r.with(t)
		again, sink := r.mustTake(e, &first)
		if sink.adopted != 0 || len(again.Packs) != 1 || again.Totals.Rows != first.Totals.Rows {
			t.Fatalf("%d packs made, %d referred to, %d rows (%d before)", sink.adopted, len(again.Packs), again.Totals.Rows, first.Totals.Rows)
		}
	})
	var second backup.Manifest
	t.Run("only what changed is taken, and a set stands on several packs", func(t *testing.T) {
		r := r.with(t)
		r.exec("INSERT INTO src.migrations_local (group, migration_id, timestamp, status) VALUES ('events', 'new', now(), 'completed')")
		r.exec("DELETE FROM src.profiles_local WHERE offset = 3", "lightweight_deletes_sync")
		r.exec("ALTER TABLE src.group_attributes_local DROP PARTITION ID 'all'")
		second, sink = r.mustTake(e, &first)
		fresh := chFresh(second, first)
		if sink.adopted != 1 || len(fresh) < 2 || len(fresh) > 3 || !strings.HasPrefix(fresh[0], "migrations_local/") || !strings.HasPrefix(fresh[1], "profiles_local/") {
			t.Fatalf("%d packs, taken again: %v", sink.adopted, fresh)
		}
		r.removes(r.proves(second, "several"))
		if c, err := r.target("absent", "absent").Compare(t.Context(), &second, nil); err != nil || c.Different == 0 {
			t.Fatalf("nothing at all compared equal: %v %v", c, err)
		}
	})
	t.Run("what is kept is never swept", func(t *testing.T) {
		r := r.with(t)
		g := r.proves(second, "kept")
		if err := g.Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.removes(g)
		r.exec("OPTIMIZE TABLE drill_kept.migrations_local FINAL") // exists, and merges
		r.exec("DROP DATABASE drill_kept SYNC")
	})
	t.Run("long statements become several packs", func(t *testing.T) {
		r := r.with(t)
		split, err := taker.New(taker.Config{Client: r.client, Databases: []string{"src"}, Collection: "holdfast", Poll: 20 * time.Millisecond, StatementBytes: 1200})
		if err != nil {
			t.Fatal(err)
		}
		m, sink := r.mustTake(split, nil)
		if sink.adopted < 2 {
			t.Fatalf("%d packs", sink.adopted)
		}
		r.removes(r.proves(m, "split"))
	})
	t.Run("a part that comes or goes under our hands is counted, or taken again", func(t *testing.T) {
		r := r.with(t)
		n := 0
		grow := func() {
			n++
			r.exec(fmt.Sprintf("INSERT INTO src.migrations_local (group, migration_id, timestamp, status) VALUES ('race', '%d', now(), 'completed')", n))
			r.exec("OPTIMIZE TABLE src.migrations_local FINAL")
		}
		reads := 0
		s := &chSink{onNew: grow, onRead: func() {
			if reads++; reads == 1 {
				grow()
			}
		}}
		grow()
		m, err := r.take(e, &second, s, nil)
		if err != nil {
			t.Fatal(err)
		}
		if fresh := chFresh(m, second); reads != 2 || s.adopted != 1 || len(fresh) != 1 {
			t.Fatalf("%d rounds, %d packs, taken: %v", reads, s.adopted, fresh)
		}
		r.removes(r.proves(m, "race"))
		// A merge that is always faster leaves rows to compare by number, and
		// is taken again next time.
		s = &chSink{onNew: grow, onRead: grow}
		grow()
		m, err = r.take(e, &second, s, nil)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(m.ClickHouse.Tables, func(t backup.ClickHouseTable) bool { return t.Name == "migrations_local" })
		if p := m.ClickHouse.Tables[i].Partitions[0]; p.RowHash != "" || p.Fingerprint != "" || p.Rows == 0 {
			t.Fatalf("%+v", p)
		}
		r.removes(r.proves(m, "faster"))
	})
	t.Run("a running mutation is waited for, a stuck one is named", func(t *testing.T) {
		r := r.with(t)
		r.exec("SYSTEM STOP MERGES src.querylog_local")
		if err := r.client.Exec(t.Context(), clickhouse.Query{SQL: "ALTER TABLE src.querylog_local UPDATE duration_ms = 6 WHERE offset = 1", Settings: map[string]any{"mutations_sync": 0}}); err != nil {
			t.Fatal(err)
		}
		impatient, err := taker.New(taker.Config{Client: r.client, Databases: []string{"src"}, Collection: "holdfast", MutationsWait: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.take(impatient, &second, &chSink{}, nil); err == nil || !strings.Contains(err.Error(), "src.querylog_local") || !strings.Contains(err.Error(), "KILL MUTATION") {
			t.Fatalf("a mutation that does not end: %v", err)
		}
		time.AfterFunc(500*time.Millisecond, func() {
			_ = r.client.Exec(context.Background(), clickhouse.Query{SQL: "SYSTEM START MERGES src.querylog_local"})
		})
		m, _ := r.mustTake(e, &second)
		r.removes(r.proves(m, "mutation"))
		if !slices.ContainsFunc(chFresh(m, second), func(p string) bool { return strings.HasPrefix(p, "querylog_local/") }) {
			t.Fatal("the mutated partition was not taken")
		}
	})
	t.Run("a lightweight update that is not applied is refused", func(t *testing.T) {
		r := r.with(t)
		r.exec("CREATE TABLE src.patched (a UInt8, v UInt8) ENGINE = MergeTree ORDER BY a PARTITION BY a % 2 SETTINGS enable_block_number_column = 1, enable_block_offset_column = 1")
		r.exec("INSERT INTO src.patched SELECT number, 0 FROM numbers(10)")
		r.exec("SYSTEM STOP MERGES src.patched")
		r.exec("UPDATE src.patched SET v = 1 WHERE a = 3", "enable_lightweight_update", "allow_experimental_lightweight_update")
		_, err := r.take(e, &second, &chSink{}, nil)
		if !errors.Is(err, taker.ErrPatched) || !strings.Contains(err.Error(), "src.patched, partition 1") || !strings.Contains(err.Error(), "APPLY PATCHES") {
			t.Fatalf("a patch part: %v", err)
		}
		r.exec("SYSTEM START MERGES src.patched")
		r.exec("ALTER TABLE src.patched APPLY PATCHES", "mutations_sync")
		m, _ := r.mustTake(e, &second)
		r.removes(r.proves(m, "patched"))
	})
	t.Run("who cancels is not kept waiting", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var at time.Time
		_, err := e.Take(ctx, backup.Take{Set: "S", Attempt: "A", Sink: &chSink{r: r.with(t)}, Progress: func(p backup.Progress) {
			if strings.Contains(p.Stage, "back up") && p.Done > 0 && at.IsZero() {
				at = time.Now()
				cancel()
			}
		}})
		if at.IsZero() || !errors.Is(err, context.Canceled) || time.Since(at) > 5*time.Second {
			t.Fatalf("after %s: %v", time.Since(at), err)
		}
	})
	t.Run("a server that is killed in the middle fails the attempt, and the next one works", func(t *testing.T) {
		r := r.with(t)
		killed := false
		_, err := r.take(e, nil, &chSink{}, func(p backup.Progress) {
			if killed || !strings.Contains(p.Stage, "back up") || p.Done == 0 {
				return
			}
			killed = true
			if err := r.server.Kill(); err != nil {
				t.Error(err)
			}
			if err := r.server.Restart(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if !killed || !errors.Is(err, clickhouse.ErrForgotten) || !errors.Is(err, objects.ErrNotFound) {
			t.Fatalf("killed: %t, the attempt: %v", killed, err)
		}
		m, _ := r.mustTake(e, nil)
		r.removes(r.proves(m, "killed"))
	})
}

// with is the rig as a part of the test sees it.
func (r *chRig) with(t *testing.T) *chRig {
	c := *r
	c.t = t
	return &c
}
