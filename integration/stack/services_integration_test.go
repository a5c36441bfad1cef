//go:build integration

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaClient connects as any client would, through what the broker advertises.
func kafkaClient(t *testing.T, k *Kafka, o ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.Bootstrap()), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MetadataMinAge(100 * time.Millisecond)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func createTopic(t *testing.T, c *kgo.Client, topic string) {
	t.Helper()
	res, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, topic)
	if err := errors.Join(err, res.Err); err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
}

// produce returns when all records from..to (to not included) are acknowledged.
func produce(t *testing.T, c *kgo.Client, topic string, from, to int) {
	t.Helper()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", i)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatalf("produce %d to %d: %v", from, to, err)
	}
}

// consume reads want records from the start and checks that they are 0, 1, 2 …
func consume(t *testing.T, k *Kafka, topic string, want int) {
	t.Helper()
	c := kafkaClient(t, k, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := 0; n < want; {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", n, want, err)
		}
		for _, r := range f.Records() {
			if got := string(r.Value); got != fmt.Sprint(n) || r.Offset != int64(n) {
				t.Fatalf("record %d: got %q at offset %d", n, got, r.Offset)
			}
			n++
		}
	}
}

func TestKafka_KeepsAcknowledgedRecordsOverKillAndRestart(t *testing.T) {
	versions := KafkaVersions()
	if v := os.Getenv("HOLDFAST_KAFKA"); v != "" {
		versions = []string{v}
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // most of the time is the wait for the killed broker's session
			k := RunKafka(t, KafkaOptions{Version: version})
			id, address, pid := k.ClusterID(), k.Address(), k.PID()
			c := kafkaClient(t, k)
			createTopic(t, c, "events")
			produce(t, c, "events", 0, 1000)
			if err := k.Kill(); err != nil {
				t.Fatal(err)
			}
			if k.PID() != 0 {
				t.Fatal("still runs after Kill")
			}
			begun := time.Now()
			if err := k.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("ready %.1f s after the kill, resident %d MB", time.Since(begun).Seconds(), residentMB(t, k.PID()))
			if k.ClusterID() != id || k.Address() != address || k.PID() == pid {
				t.Fatalf("restarted as %s %s process %d, was %s %s process %d", k.ClusterID(), k.Address(), k.PID(), id, address, pid)
			}
			produce(t, c, "events", 1000, 1100)
			begun = time.Now()
			if err := k.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("stopped in %.1f s", time.Since(begun).Seconds())
			if err := k.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			consume(t, k, "events", 1100)
		})
	}
}

func clickhouseConn(t *testing.T, c *ClickHouse) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{c.Address()},
		Auth: clickhouse.Auth{Database: c.Database(), Username: c.User(), Password: c.Password()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func insert(t *testing.T, c *ClickHouse, from, to int) {
	t.Helper()
	b, err := clickhouseConn(t, c).PrepareBatch(t.Context(), "INSERT INTO events")
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < to; i++ {
		if err := b.Append(uint64(i), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Send(); err != nil {
		t.Fatalf("insert %d to %d: %v", from, to, err)
	}
}

// count checks that the table holds 0, 1, … want-1, once each.
func count(t *testing.T, c *ClickHouse, want int) {
	t.Helper()
	var rows, distinct, last uint64
	row := clickhouseConn(t, c).QueryRow(t.Context(), "SELECT count(), uniqExact(id), max(id) FROM events WHERE text = toString(id)")
	if err := row.Scan(&rows, &distinct, &last); err != nil {
		t.Fatal(err)
	}
	if rows != uint64(want) || distinct != rows || last != rows-1 {
		t.Fatalf("%d rows, %d distinct, last %d; want %d", rows, distinct, last, want)
	}
}

func TestClickHouse_KeepsAcknowledgedRowsOverKillAndRestart(t *testing.T) {
	c := RunClickHouse(t, ClickHouseOptions{})
	if err := c.Exec(t.Context(), "CREATE TABLE sentry.events (id UInt64, text String) ENGINE = MergeTree ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	insert(t, c, 0, 10_000)
	count(t, c, 10_000)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready %.1f s after the kill, resident %d MB", time.Since(begun).Seconds(), residentMB(t, c.PID()))
	insert(t, c, 10_000, 11_000)
	begun = time.Now()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %.1f s", time.Since(begun).Seconds())
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	count(t, c, 11_000)
}

func residentMB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize() >> 20
}
