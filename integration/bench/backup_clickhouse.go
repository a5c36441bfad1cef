package main

import (
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	chbackup "github.com/holdfast-dr/holdfast/backup/clickhouse"
	"github.com/holdfast-dr/holdfast/integration/sentry"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// clickhouseReport compares a take (rows counted and hashed, the native backup
// of all partitions, every object read back and hashed, manifest and seal)
// with the bare native statement, of the same table to the same bucket.
type clickhouseReport struct {
	Version    string             `json:"version"`
	Events     int                `json:"events"`
	Partitions int                `json:"partitions"`
	PackMB     float64            `json:"pack_mb"`
	Objects    int                `json:"objects"`
	Take       run                `json:"take"` // medians
	Bare       run                `json:"bare_backup"`
	Stages     map[string]float64 `json:"take_stages_seconds"` // of the last take
	TakeTimes  times              `json:"take_times_bare"`

	Unchanged packs `json:"second_take_nothing_changed"`
	OneChange packs `json:"second_take_one_partition_changed"`

	VerifyTimesGet     times   `json:"verify_read_data_times_get"`
	RestoreTimesNative times   `json:"restore_times_native_restore"`
	Verify             run     `json:"verify_read_data"`
	Restore            run     `json:"restore"`
	Native             run     `json:"native_restore"`
	CompareAllSeconds  float64 `json:"compare_all_rows_seconds"`
}

// packs is a take that builds on the one before it.
type packs struct {
	Run        run     `json:"run"`
	TimesFirst times   `json:"times_first"`
	NewObjects int     `json:"new_objects"`
	UploadedMB float64 `json:"uploaded_mb"`
	ManifestMB float64 `json:"manifest_mb"`
}

// say prints what counts.
func (c *clickhouseReport) say() {
	fmt.Printf("\nClickHouse, %.0f MB in %d partitions and %d objects\n", c.PackMB, c.Partitions, c.Objects)
	c.TakeTimes.say("take", "bare BACKUP")
	c.Unchanged.TimesFirst.say(fmt.Sprintf("second take, nothing changed: %.2f MB written", c.Unchanged.UploadedMB), "first take")
	c.OneChange.TimesFirst.say(fmt.Sprintf("second take, one partition changed: %.2f MB written", c.OneChange.UploadedMB), "first take")
	c.VerifyTimesGet.say("verify --read-data", "GET of all objects")
	c.RestoreTimesNative.say("restore", "native RESTORE")
}

func (c *clickhouseReport) peak() float64 {
	return max(c.Take.PeakMB, c.Unchanged.Run.PeakMB, c.OneChange.Run.PeakMB, c.Verify.PeakMB, c.Restore.PeakMB)
}

const (
	source = "bench" // database
	plain  = "plain" // database that the server restores to by itself
	table  = "errors_local"
	weeks  = 12
	// statementMax bounds what is waited for in one statement.
	statementMax = 5 * time.Minute
)

// events inserts rows that compress like real ones: ids are random, words are not.
const events = `INSERT INTO bench.errors_local (project_id, timestamp, event_id, platform, environment, user, tags.key, tags.value, partition, offset,
	message_timestamp, retention_days, deleted, group_id, primary_hash, received, message, title, level)
SELECT 1 + number %% 50, now() - toIntervalDay(number %% %d * 7), reinterpretAsUUID(sipHash128('event', number)), 'python', if(number %% 3 = 0, NULL, 'prod'),
	concat('user', toString(sipHash64(number) %% 10000)), ['release', 'url'], [toString(number %% 40), concat('/api/', toString(sipHash64(number) %% 1000))], number %% 8, intDiv(number, 8),
	now(), 90, 0, sipHash64(number) %% 5000, reinterpretAsUUID(sipHash128('hash', sipHash64(number) %% 5000)), now(),
	concat('ValueError: bad thing number ', hex(sipHash64('m', number)), ' in app.views'), concat('bad thing ', toString(sipHash64(number) %% 5000)), 'error'
FROM numbers(%d, %d)`

func (r *rig) statement(ctx context.Context, sql string) error {
	return r.clickhouseClient.Exec(ctx, clickhouse.Query{SQL: sql, Timeout: statementMax})
}

func (r *rig) statements(ctx context.Context, list ...string) error {
	for _, sql := range list {
		if err := r.statement(ctx, sql); err != nil {
			return fmt.Errorf("%.60s: %w", sql, err)
		}
	}
	return nil
}

func (r *rig) benchClickHouse(ctx context.Context) (*clickhouseReport, error) {
	c := &clickhouseReport{Events: r.o.events}
	var err error
	if c.Version, err = r.clickhouseClient.Version(ctx); err != nil {
		return nil, err
	}
	fmt.Printf("filling ClickHouse %s with %d events of %d weeks\n", c.Version, c.Events, weeks)
	at := sentry.ClickHouse{Address: r.clickhouse.HTTPAddress(), User: r.clickhouse.User(), Password: r.clickhouse.Password(), Database: source}
	if err := sentry.CreateClickHouse(ctx, at); err != nil {
		return nil, err
	}
	// Rounds are only alike when no merge comes between them.
	if err := r.statements(ctx, fmt.Sprintf(events, weeks, 0, c.Events), "OPTIMIZE TABLE bench.errors_local FINAL", "SYSTEM STOP MERGES bench.errors_local"); err != nil {
		return nil, err
	}
	taker, err := chbackup.New(chbackup.Config{Client: r.clickhouseClient, Databases: []string{source}, Collection: collection})
	if err != nil {
		return nil, err
	}
	var k taken
	var last *backup.Manifest
	take := &way{
		name: "take",
		do: func(ctx context.Context) error {
			k, err = r.take(ctx, taker, nil)
			return err
		},
		after: func(ctx context.Context, _ run) error {
			if last, err = r.manifest(ctx, k); err != nil {
				return err
			}
			c.Stages, c.PackMB, c.Objects, c.Partitions = k.stages, mb(last.Totals.Bytes), last.Totals.Objects, partitions(last)
			return nil
		},
	}
	bareAt := ""
	bare := &way{name: "bare BACKUP", do: func(ctx context.Context) error {
		bareAt = "bare/" + ulid.Make().String() + "/"
		return r.statement(ctx, "BACKUP TABLE bench.errors_local TO S3("+collection+", "+clickhouse.Literal(bareAt)+")")
	}}
	second := func(name string, into *packs) *way {
		return &way{
			name: name,
			do: func(ctx context.Context) error {
				k, err = r.take(ctx, taker, last)
				return err
			},
			after: func(ctx context.Context, _ run) error {
				into.NewObjects, into.UploadedMB, into.ManifestMB = k.part.Totals.New, mb(k.part.Totals.Uploaded), mb(k.part.Bytes)
				last, err = r.manifest(ctx, k)
				return err
			},
		}
	}
	unchanged, one := second("take, nothing changed", &c.Unchanged), second("take, one partition changed", &c.OneChange)
	more := c.Events
	one.prepare = func(ctx context.Context) error {
		rows := max(1, c.Events/weeks/100) // 1 % of the newest week
		err := r.statement(ctx, fmt.Sprintf(events, 1, more, rows))
		more += rows
		return err
	}
	if err := (contest{rounds: r.o.rounds, warmUp: true, peaks: true}).hold(ctx, []*way{take, bare}, []*way{unchanged, one}); err != nil {
		return nil, err
	}
	c.Take, c.Bare, c.TakeTimes = median(take.runs), median(bare.runs), wallOnly(timesOf(take.runs, bare.runs))
	c.Unchanged.Run, c.Unchanged.TimesFirst = median(unchanged.runs), timesOf(unchanged.runs, take.runs)
	c.OneChange.Run, c.OneChange.TimesFirst = median(one.runs), timesOf(one.runs, take.runs)

	// The last take holds what the last one changed; so must the bare backup.
	if err := bare.do(ctx); err != nil {
		return nil, err
	}
	return c, r.backClickHouse(ctx, c, last, bareAt)
}

func partitions(m *backup.Manifest) (n int) {
	for _, t := range m.ClickHouse.Tables {
		n += len(t.Partitions)
	}
	return n
}
