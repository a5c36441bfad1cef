package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// store is one region's ClickHouse, as the index and the counter reach it.
type store struct {
	Address, Database, User, Password string
}

func (s store) open() (driver.Conn, error) {
	return ch.Open(&ch.Options{Addr: []string{s.Address}, Auth: ch.Auth{Database: s.Database, Username: s.User, Password: s.Password}, DialTimeout: 3 * time.Second})
}

func (s store) args() []string {
	return []string{"--clickhouse", s.Address, "--database", s.Database, "--user", s.User}
}

func storeFlags(fs *flag.FlagSet) *store {
	s := &store{Password: os.Getenv("DEMO_CLICKHOUSE_PASSWORD")}
	fs.StringVar(&s.Address, "clickhouse", "", "native address")
	fs.StringVar(&s.Database, "database", "", "database")
	fs.StringVar(&s.User, "user", "", "user")
	return s
}

// table keeps the Kafka position of each row, as Sentry's tables do.
const table = `CREATE TABLE IF NOT EXISTS events_local (
	event_id String, project_id UInt64, timestamp DateTime64(9), via LowCardinality(String),
	partition UInt16, offset UInt64, received DateTime64(9) DEFAULT now64(9)
) ENGINE = MergeTree PARTITION BY toMonday(timestamp) ORDER BY (project_id, timestamp, event_id)`

// startIndex writes the group's offsets once, before its first start: a group
// without offsets would begin wherever its client likes.
func startIndex(ctx context.Context, brokers string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return err
	}
	defer cl.Close()
	offsets := kadm.Offsets{}
	for p := range int32(partitions) {
		offsets.AddOffset(topic, p, 0, -1)
	}
	_, err = kadm.NewClient(cl).CommitOffsets(ctx, groupIndex, offsets)
	return err
}

// indexMain fills the region's table from the region's topic, for ever.
func indexMain(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("index", flag.ContinueOnError)
	brokers := fs.String("brokers", "", "that region's Kafka")
	s := storeFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	conn, err := s.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.Exec(ctx, table); err != nil {
		return err
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...), kgo.ConsumerGroup(groupIndex), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(100*time.Millisecond), kgo.SessionTimeout(6*time.Second),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollRecords(ctx, 5000)
		if fetches.NumRecords() == 0 {
			continue
		}
		if err := insert(context.WithoutCancel(ctx), conn, fetches); err != nil {
			return fmt.Errorf("insert: %w", err) // nothing was committed: a new start reads it again
		}
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		err := cl.CommitUncommittedOffsets(cctx)
		cancel()
		if err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return nil
}

func insert(ctx context.Context, conn driver.Conn, fetches kgo.Fetches) error {
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO events_local (event_id, project_id, timestamp, via, partition, offset)")
	if err != nil {
		return err
	}
	fetches.EachRecord(func(r *kgo.Record) {
		var e event
		if err == nil {
			err = json.Unmarshal(r.Value, &e)
		}
		if err == nil {
			err = batch.Append(e.EventID, uint64(e.ProjectID), time.Unix(0, e.Start), e.Via, uint16(r.Partition), uint64(r.Offset))
		}
	})
	if err != nil {
		return errors.Join(err, batch.Abort())
	}
	return batch.Send()
}
