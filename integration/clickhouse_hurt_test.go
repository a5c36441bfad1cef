//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/objects"
	target "github.com/holdfast-dr/holdfast/restore/clickhouse"
)

// chUndeletable is a store in which nothing can be deleted, with a rig on it.
func chUndeletable(t *testing.T) (*chRig, *atomic.Int64) {
	s3 := stack.RunS3(t, stack.S3Options{})
	if err := s3.CreateBucket(t.Context(), "archive"); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(s3.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	refused := new(atomic.Int64)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete || r.URL.Query().Has("delete") {
			refused.Add(1)
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"))
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	r := &chRig{t: t}
	r.server = stack.RunClickHouse(t, stack.ClickHouseOptions{Collections: map[string]stack.Collection{
		"holdfast": {URL: front.URL + "/archive/repo", AccessKey: s3.AccessKey(), SecretKey: s3.SecretKey()},
	}})
	r.bucket, err = objects.Open(objects.Config{
		Name: "archive", Endpoint: s3.Endpoint(), Bucket: "archive", Prefix: "repo/", PathStyle: true,
		AccessKey: func() (string, error) { return s3.AccessKey(), nil }, SecretKey: func() (string, error) { return s3.SecretKey(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.bucket.Close)
	r.client = r.connect(r.server)
	return r, refused
}

func (r *chRig) connect(s *stack.ClickHouse) *clickhouse.Client {
	r.t.Helper()
	c, err := clickhouse.Open(clickhouse.Config{
		Name: "us-east", Addresses: []string{s.Address()}, User: s.User(), Password: func() (string, error) { return s.Password(), nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (r *chRig) value(sql string) (n uint64) {
	r.t.Helper()
	err := r.client.Rows(r.t.Context(), clickhouse.Query{SQL: "SELECT toUInt64(" + sql + ")"}, func(scan func(...any) error) error { return scan(&n) })
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func TestClickHouseBackup_PackWhoseLockCannotBeDeletedIsUsed(t *testing.T) {
	r, refused := chUndeletable(t)
	r.exec("CREATE DATABASE src")
	r.exec("CREATE TABLE src.t (a UInt64, s String) ENGINE = MergeTree ORDER BY a PARTITION BY a % 3")
	r.exec("INSERT INTO src.t SELECT number, toString(number) FROM numbers(1000)")
	m, s := r.mustTake(r.taker("src"), nil)
	if refused.Load() == 0 || s.adopted != 1 || !slices.ContainsFunc(m.Notes, func(n string) bool { return strings.Contains(n, "could not delete its lock") }) {
		t.Fatalf("%d refused, %d packs, notes %q", refused.Load(), s.adopted, m.Notes)
	}
	r.removes(r.proves(m, "locked"))
}

// chStrange are names and keys that tables can have.
var chStrange = []string{
	"CREATE DATABASE `we``ird 'd\"b é`",
	"CREATE TABLE `we``ird 'd\"b é`.`ta\\\\b\\nle \\t 🐘 %41 .+` (`a 'b` UInt8, `é` String) ENGINE = MergeTree PARTITION BY `é` ORDER BY `a 'b`",
	"INSERT INTO `we``ird 'd\"b é`.`ta\\\\b\\nle \\t 🐘 %41 .+` VALUES (1, 'qu\\'ote'), (2, 'ünï'), (3, ''), (4, '\\0')",
	"CREATE TABLE `we``ird 'd\"b é`." + strings.Repeat("n", 150) + " (i Int64, d Date) ENGINE = MergeTree PARTITION BY (i, d) ORDER BY tuple()",
	"INSERT INTO `we``ird 'd\"b é`." + strings.Repeat("n", 150) + " VALUES (-5, '2026-01-01'), (5, '1970-01-01')",
	"CREATE DATABASE src",
	"CREATE TABLE src.neg (i Int64) ENGINE = MergeTree PARTITION BY i ORDER BY i", "INSERT INTO src.neg VALUES (-1), (0), (1)",
	"CREATE TABLE src.day (d Date, x UInt8) ENGINE = MergeTree PARTITION BY d ORDER BY x", "INSERT INTO src.day VALUES ('2026-01-01', 1), ('1970-01-01', 2)",
	"CREATE TABLE src.nul (a Nullable(Int8), b UInt8) ENGINE = MergeTree PARTITION BY a ORDER BY a SETTINGS allow_nullable_key = 1", "INSERT INTO src.nul VALUES (NULL, 1), (1, 2)",
	"CREATE TABLE src.agg (k UInt8, s AggregateFunction(uniq, UInt64), q AggregateFunction(quantiles(0.5, 0.9), Float64), f SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree ORDER BY k",
	"INSERT INTO src.agg SELECT number % 3, uniqState(number), quantilesState(0.5, 0.9)(toFloat64(number)), sum(number) FROM numbers(100) GROUP BY number % 3",
	"CREATE TABLE src.new (i UInt8, j JSON(max_dynamic_paths = 2), y Dynamic, v Variant(String, Array(UInt8)), l LowCardinality(Nullable(String)), t Tuple(a UInt8, b Nested(c String)), p Point, u UUID, e Enum8('a''b' = -1), dt DateTime64(9, 'Asia/Tokyo'), de Decimal(76, 3), f Float32, ip IPv6) ENGINE = MergeTree ORDER BY i SETTINGS min_bytes_for_wide_part = 0",
	"INSERT INTO src.new SELECT number, format('{{\"a\":{},\"b{}\":[1,{{\"c\":null}}]}}', number, number)::JSON, if(number % 2 = 0, number::Dynamic, 'x'::Dynamic), if(number % 2 = 0, 's'::Variant(String, Array(UInt8)), [1]::Variant(String, Array(UInt8))), if(number % 3 = 0, NULL, toString(number)), (number, [tuple('z')]), (1, nan), generateUUIDv4(), 'a\\'b', now64(9), -0.001, -0.0, '::1' FROM numbers(20)",
	"CREATE TABLE src.dressed (i UInt64 CODEC(Delta, ZSTD(3)), s String TTL d + INTERVAL 1 YEAR, d Date, h UInt64 MATERIALIZED cityHash64(s), al UInt8 ALIAS 1, ep UInt8 EPHEMERAL 2, INDEX ix s TYPE ngrambf_v1(3, 256, 2, 0) GRANULARITY 1, PROJECTION pr (SELECT d, count() GROUP BY d), CONSTRAINT ck CHECK i < 1000000) ENGINE = ReplacingMergeTree(i) PARTITION BY toYYYYMM(d) ORDER BY (d, i) TTL d + INTERVAL 10 YEAR DELETE SETTINGS deduplicate_merge_projection_mode = 'rebuild'",
	"INSERT INTO src.dressed (i, s, d) SELECT number, toString(number), today() - number FROM numbers(100)",
	"CREATE TABLE src.graph (a UInt8, v Float64, t DateTime) ENGINE = SummingMergeTree((v)) ORDER BY (a, t)", "INSERT INTO src.graph VALUES (1, nan, 0), (1, 2, 0), (1, -0.0, 1)",
	"CREATE TABLE src.coll (a UInt8, s Int8) ENGINE = VersionedCollapsingMergeTree(s, a) ORDER BY a", "INSERT INTO src.coll VALUES (1, 1), (1, -1), (2, 1)",
}

func TestClickHouseBackup_EveryNameKeyAndTypeComesBack(t *testing.T) {
	r := newCHRig(t)
	for _, q := range chStrange {
		r.exec(q, "allow_experimental_json_type", "allow_experimental_dynamic_type", "allow_experimental_variant_type", "allow_suspicious_types_in_order_by")
	}
	m, _ := r.mustTake(r.taker("src", "we`ird 'd\"b é"), nil)
	methods := map[string]string{}
	for _, table := range m.ClickHouse.Tables {
		for _, p := range table.Partitions {
			methods[table.Name], _, _ = strings.Cut(p.RowHash, ":")
		}
	}
	t.Logf("methods: %v", methods)
	r.removes(r.proves(m, "names"))
}

func TestClickHouseRestore_AServerWithoutTheStoragePolicyIsAnObstacle(t *testing.T) {
	r := newCHRig(t)
	r.exec("CREATE DATABASE src")
	r.exec("CREATE TABLE src.t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS storage_policy = 'default'")
	r.exec("INSERT INTO src.t VALUES (1)")
	m, _ := r.mustTake(r.taker("src"), nil)
	r.removes(r.proves(m, "policy"))
	at := &m.ClickHouse.Tables[0].Create // as a source with tiers has it
	*at = strings.Replace(*at, "storage_policy = 'default'", "storage_policy = 'hot_and_cold'", 1)
	obstacles, err := r.target("tiers", "drill_tiers").Check(t.Context(), &m)
	if err != nil || len(obstacles) != 1 || !strings.Contains(obstacles[0].What, "hot_and_cold") {
		t.Errorf("%v, %v in %s", obstacles, err, *at)
	}
}

func TestClickHouseBackup_OutlivesARestartOfTheServerOnceThePackIsWritten(t *testing.T) {
	r := newCHRig(t)
	r.exec("CREATE DATABASE src")
	r.exec("CREATE TABLE src.t (a UInt64, s String) ENGINE = MergeTree ORDER BY a PARTITION BY a % 20")
	r.exec("INSERT INTO src.t SELECT number, randomPrintableASCII(100) FROM numbers(20000)")
	s := &chSink{}
	restarted := false
	m, err := r.take(r.taker("src"), nil, s, func(p backup.Progress) {
		if restarted || !strings.Contains(p.Stage, "back up") || p.Done == 0 {
			return
		}
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			all, err := r.bucket.List(t.Context(), "packs/", "", 10_000)
			if err != nil {
				t.Error(err)
				return
			}
			ends := func(tail string) bool {
				return slices.ContainsFunc(all, func(o objects.Object) bool { return strings.HasSuffix(o.Key, tail) })
			}
			if ends("/.backup") && !ends("/.lock") {
				break
			}
		}
		restarted = true
		if err := errors.Join(r.server.Kill(), r.server.Restart(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err != nil || !restarted || s.adopted != 1 {
		t.Fatalf("restarted %t, %d packs, %v", restarted, s.adopted, err)
	}
	g := r.proves(m, "back")
	// A target that is restarted merges again: nothing is known about the set then.
	time.Sleep(3 * time.Second)
	if err := errors.Join(r.server.Kill(), r.server.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	if c, err := g.Compare(t.Context(), &m, nil); err == nil || !strings.Contains(err.Error(), "restarted") {
		t.Errorf("after a restart of the target: %+v, %v", c, err)
	}
	r.removes(g)
}

func TestClickHouseBackup_CancelledTakeEndsTheWorkOfTheServer(t *testing.T) {
	r := newCHRig(t)
	r.exec("CREATE DATABASE src")
	r.exec("CREATE TABLE src.t (a UInt64, s String) ENGINE = MergeTree ORDER BY a PARTITION BY a % 50 SETTINGS min_bytes_for_wide_part = 0")
	r.exec("INSERT INTO src.t SELECT number, randomPrintableASCII(2000) FROM numbers(20000)")
	ctx, cancel := context.WithCancel(t.Context())
	var at time.Time
	_, err := r.taker("src").Take(ctx, backup.Take{Set: "S", Attempt: "A", Sink: &chSink{r: r}, Progress: func(p backup.Progress) {
		if strings.Contains(p.Stage, "back up") && at.IsZero() {
			at = time.Now()
			cancel() // before the statement is sent
		}
	}})
	if !errors.Is(err, context.Canceled) || time.Since(at) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(at), err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	at = time.Time{}
	_, err = r.taker("src").Take(ctx, backup.Take{Set: "S", Attempt: "A", Sink: &chSink{r: r}, Progress: func(p backup.Progress) {
		if strings.Contains(p.Stage, "back up") && at.IsZero() && r.value("(SELECT count() FROM system.backups WHERE status = 'CREATING_BACKUP')") > 0 {
			at = time.Now()
			cancel()
		}
	}})
	t.Logf("%s after the cancellation: %v", time.Since(at), err)
	if at.IsZero() {
		t.Fatal("no backup was seen running")
	}
	if n := r.value("(SELECT count() FROM system.backups WHERE status = 'CREATING_BACKUP')"); n != 0 || time.Since(at) > 8*time.Second {
		t.Errorf("%d backups still run %s after the cancellation", n, time.Since(at))
	}
	before, err := r.bucket.List(t.Context(), "packs/", "", 100_000)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if after, err := r.bucket.List(t.Context(), "packs/", "", 100_000); err != nil || len(after) != len(before) {
		t.Errorf("%d objects, and %d a second later, %v", len(before), len(after), err)
	}
}

func TestClickHouseRestore_OneFlippedBitOnTheTargetsDiskIsSeenInTime(t *testing.T) {
	r := newCHRig(t)
	r.exec("CREATE DATABASE src")
	r.exec("CREATE TABLE src.t (a UInt64, s String) ENGINE = MergeTree ORDER BY a SETTINGS min_bytes_for_wide_part = 0")
	r.exec("INSERT INTO src.t SELECT number, hex(randomString(20)) || repeat('a', 200) FROM numbers(50000)")
	r.exec("CREATE TABLE src.u (a UInt64) ENGINE = MergeTree ORDER BY a")
	r.exec("INSERT INTO src.u SELECT number FROM numbers(10)")
	m, _ := r.mustTake(r.taker("src"), nil)
	g, err := target.New(target.Config{Client: r.client, Host: r.server.Address(), Database: "flip", Collection: "holdfast", Run: "flip", Poll: 20 * time.Millisecond, QueryTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Restore(t.Context(), &m, nil, nil); err != nil {
		t.Fatal(err)
	}
	var path string
	err = r.client.Rows(t.Context(), clickhouse.Query{SQL: "SELECT path FROM system.parts WHERE database = 'flip' AND table = 't' AND active LIMIT 1"}, func(scan func(...any) error) error { return scan(&path) })
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "s.bin")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// Far behind the head of the first block, so that its hash is what fails.
	b[len(b)/2] ^= 4 // one bit: the server looks for it
	if err := os.WriteFile(file, b, 0o640); err != nil {
		t.Fatal(err)
	}
	r.exec("SYSTEM DROP MARK CACHE")
	r.exec("SYSTEM DROP UNCOMPRESSED CACHE")
	begun := time.Now()
	c, err := g.Compare(t.Context(), &m, nil)
	t.Logf("after %s: %+v, %v", time.Since(begun), c, err)
	// The server looks for the bit, for minutes in a large block: either it
	// finds it, or nothing is known.
	found := err == nil && c.Different == 1 && c.Differences[0].Where == "t"
	late := err != nil && strings.Contains(err.Error(), "flipped bit")
	if !found && !late || time.Since(begun) > 15*time.Second {
		t.Errorf("after %s: %+v, %v", time.Since(begun), c, err)
	}
	begun = time.Now()
	for deadline := time.Now().Add(20 * time.Second); r.value("(SELECT count() FROM system.processes WHERE query LIKE '%cityHash64%' AND query NOT LIKE '%system.processes%')") > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("the server still looks for the flipped bit")
			break
		}
	}
	t.Logf("the server was busy for %s more", time.Since(begun))
	r.removes(g)
}

func TestClickHouseBackup_TablesThatChangeUnderItAreTakenOrRefused(t *testing.T) {
	r := newCHRig(t)
	r.exec("CREATE DATABASE src")
	fresh := func() {
		r.exec("DROP TABLE IF EXISTS src.t SYNC")
		r.exec("DROP TABLE IF EXISTS src.t2 SYNC")
		r.exec("CREATE TABLE src.t (a UInt64, d Date) ENGINE = MergeTree ORDER BY a PARTITION BY a")
		r.exec("INSERT INTO src.t SELECT number, today() FROM numbers(4)")
		r.exec("CREATE TABLE IF NOT EXISTS src.stays (a UInt8) ENGINE = MergeTree ORDER BY a")
		r.exec("INSERT INTO src.stays VALUES (1)")
	}
	once := func(sql string) func() {
		done := false
		return func() {
			if !done {
				done = true
				r.exec(sql)
			}
		}
	}
	for _, c := range []struct{ sql, when, want string }{
		{"DROP TABLE src.t SYNC", "new", "src.t"},
		{"DROP TABLE src.t SYNC", "read", "src.t"},
		{"RENAME TABLE src.t TO src.t2", "new", "src.t"},
		{"RENAME TABLE src.t TO src.t2", "read", "src.t"},
		{"ALTER TABLE src.t ADD COLUMN z UInt8", "new", "definition of src.t changed"},
		{"ALTER TABLE src.t ADD COLUMN z UInt8", "read", "definition of src.t changed"},
		{"ALTER TABLE src.t DROP PARTITION ID '2'", "new", ""},
		{"ALTER TABLE src.t DROP PARTITION ID '2'", "read", ""},
		{"TRUNCATE TABLE src.t", "read", ""},
	} {
		fresh()
		s := &chSink{}
		if c.when == "new" {
			s.onNew = once(c.sql)
		} else {
			s.onRead = once(c.sql)
		}
		m, err := r.take(r.taker("src"), nil, s, nil)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s at %s: %v, want %q", c.sql, c.when, err, c.want)
			}
			t.Logf("%s at %s: %v", c.sql, c.when, err)
			continue
		}
		if err != nil {
			t.Errorf("%s at %s: %v", c.sql, c.when, err)
			continue
		}
		t.Logf("%s at %s: %d rows, notes %q", c.sql, c.when, m.Totals.Rows, m.Notes)
		r.removes(r.proves(m, "changed"))
	}
}

func TestClickHouseBackup_PartitionsThatDidNotChangeCostLittle(t *testing.T) {
	r := newCHRig(t)
	r.exec("CREATE DATABASE src")
	r.exec("CREATE TABLE src.many (a UInt64, s String) ENGINE = MergeTree ORDER BY a PARTITION BY a % 200")
	r.exec("INSERT INTO src.many SELECT number, toString(number) FROM numbers(2000) SETTINGS max_partitions_per_insert_block = 0")
	begun := time.Now()
	first, _ := r.mustTake(r.taker("src"), nil)
	t.Logf("first take: %s", time.Since(begun))
	begun = time.Now()
	again, s := r.mustTake(r.taker("src"), &first)
	took := time.Since(begun)
	b, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("no change: %s, manifest %d bytes, %d bytes a partition", took, len(b), len(b)/200)
	if s.adopted != 0 || took > 2*time.Second || len(b) > 200*256 || len(again.Packs) != 1 {
		t.Errorf("%d packs, %s, %d bytes", s.adopted, took, len(b))
	}
}
