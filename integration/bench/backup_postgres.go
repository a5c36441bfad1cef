package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-dr/holdfast/backup"
	pgbackup "github.com/holdfast-dr/holdfast/backup/postgres"
	"github.com/holdfast-dr/holdfast/integration/sentry"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// postgresReport compares a whole take (two counts of all rows, the base
// backup with hashes, dedupe, zstd, age and upload, manifest and seal) with
// the same base backup read over the same protocol and thrown away, and with
// that compressed and thrown away.
type postgresReport struct {
	Version    string             `json:"version"`
	Issues     int                `json:"issues"`
	StreamMB   float64            `json:"stream_mb"`
	UniqueMB   float64            `json:"unique_mb"`   // of it, what no other piece holds
	UploadedMB float64            `json:"uploaded_mb"` // by a first take
	Files      int                `json:"files"`
	Take       run                `json:"take"` // medians
	Raw        run                `json:"raw_stream"`
	RawZstd    run                `json:"raw_stream_zstd"`
	Stages     map[string]float64 `json:"take_stages_seconds"` // of the last take
	// TakeTimes: the whole take; BaseTimes: without its counts, which the
	// others do not make (wall alone).
	TakeTimesRaw     times `json:"take_times_raw"`
	TakeTimesRawZstd times `json:"take_times_raw_zstd"`
	BaseTimesRaw     times `json:"base_backup_times_raw"`
	BaseTimesRawZstd times `json:"base_backup_times_raw_zstd"`

	Unchanged later `json:"second_take_nothing_changed"`
	Newest    later `json:"second_take_newest_1_percent_changed"` // the issues that events come for
	Spread    later `json:"second_take_every_100th_changed"`      // the worst case: something in every piece of the table

	VerifyTimesGet    times   `json:"verify_read_data_times_get"`
	WriteTimesCopy    times   `json:"restored_files_times_cp"` // wall: cp is a process of its own
	RestoreTimesCopy  times   `json:"restored_and_started_times_cp"`
	Verify            run     `json:"verify_read_data"`
	Restore           run     `json:"restore"`
	Copy              run     `json:"cp"`
	CompareAllSeconds float64 `json:"compare_all_rows_seconds"`
}

// later is a take that builds on the one before it.
type later struct {
	Run        run     `json:"run"`
	TimesFirst times   `json:"times_first"` // the full take of the same round
	NewMB      float64 `json:"new_mb"`      // plain text that was not there before
	NewWALMB   float64 `json:"new_wal_mb"`  // of it, WAL: never twice the same
	TotalMB    float64 `json:"total_mb"`
	NewShare   float64 `json:"new_share"`
	UploadedMB float64 `json:"uploaded_mb"`
}

// say prints what counts.
func (p *postgresReport) say() {
	fmt.Printf("\nPostgres, %.0f MB\n", p.StreamMB)
	p.TakeTimesRaw.say("full take", "raw BASE_BACKUP")
	p.TakeTimesRawZstd.say("full take", "raw BASE_BACKUP + zstd")
	p.BaseTimesRaw.say("full take without its counts", "raw BASE_BACKUP")
	p.BaseTimesRawZstd.say("full take without its counts", "raw BASE_BACKUP + zstd")
	for _, l := range []struct {
		name string
		later
	}{{"nothing changed", p.Unchanged}, {"newest 1 % changed", p.Newest}, {"every 100th changed", p.Spread}} {
		l.TimesFirst.say(fmt.Sprintf("second take, %s: %.1f %% new", l.name, 100*l.NewShare), "full take")
	}
	p.VerifyTimesGet.say("verify --read-data", "GET of all objects")
	p.WriteTimesCopy.say("restored files", "cp")
	p.RestoreTimesCopy.say("restored and started", "cp")
}

func (p *postgresReport) peak() float64 {
	return max(p.Take.PeakMB, p.Unchanged.Run.PeakMB, p.Newest.Run.PeakMB, p.Spread.Run.PeakMB, p.Verify.PeakMB, p.Restore.PeakMB)
}

func (r *rig) benchPostgres(ctx context.Context) (*postgresReport, error) {
	p := &postgresReport{Version: r.postgres.Version(), Issues: r.o.issues}
	fmt.Printf("filling Postgres %s with %d issues\n", p.Version, p.Issues)
	if err := sentry.FillPostgres(ctx, r.postgres.DSN(), p.Issues); err != nil {
		return nil, err
	}
	// What the first reader of new rows leaves on their pages is left now.
	for _, statement := range []string{"VACUUM (FREEZE, ANALYZE)", "CHECKPOINT"} {
		if err := r.postgres.Exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	size, err := r.rawStream(ctx, io.Discard)
	if err != nil {
		return nil, err
	}
	p.StreamMB = mb(size)
	fmt.Printf("a base backup is %.1f MB\n", p.StreamMB)

	taker := pgbackup.New(pgbackup.Config{Client: r.postgresClient})
	var k taken
	var last *backup.Manifest
	var base []run // the full takes without their counts
	take := &way{
		name: "take",
		do: func(ctx context.Context) error {
			k, err = r.profiled(func() (taken, error) { return r.take(ctx, taker, nil) })
			return err
		},
		after: func(ctx context.Context, of run) error {
			base = append(base, run{Seconds: of.Seconds - k.stages["count before"] - k.stages["count after"]})
			if last, err = r.manifest(ctx, k); err != nil {
				return err
			}
			var l later
			l.fill(&backup.Manifest{}, last)
			p.Stages, p.UploadedMB, p.UniqueMB, p.Files = k.stages, l.UploadedMB, l.NewMB, len(last.Postgres.Files)
			return nil
		},
	}
	raw := &way{name: "raw stream", do: func(ctx context.Context) error {
		_, err := r.rawStream(ctx, io.Discard)
		return err
	}}
	rawZstd := &way{name: "raw stream, zstd", do: r.rawZstd}

	changes := 0
	second := func(name string, into *later, change func(n int) string) *way {
		return &way{
			name: name,
			prepare: func(ctx context.Context) error {
				if change == nil {
					return nil
				}
				changes++
				if err := r.postgres.Exec(ctx, "UPDATE sentry_groupedmessage SET times_seen = times_seen + 1, last_seen = now() WHERE "+change(changes)); err != nil {
					return err
				}
				return r.postgres.Exec(ctx, "CHECKPOINT")
			},
			do: func(ctx context.Context) error {
				k, err = r.take(ctx, taker, last)
				return err
			},
			after: func(ctx context.Context, _ run) error {
				prev := last
				if last, err = r.manifest(ctx, k); err == nil {
					into.fill(prev, last)
				}
				return err
			},
		}
	}
	laters := []*way{
		second("take, nothing changed", &p.Unchanged, nil),
		second("take, newest 1 %", &p.Newest, func(int) string { return "id > 0.99 * (SELECT max(id) FROM sentry_groupedmessage)" }),
		second("take, every 100th", &p.Spread, func(n int) string { return fmt.Sprintf("id %% 100 = %d", n%100) }),
	}
	full := contest{rounds: r.o.rounds, warmUp: true, payload: p.StreamMB, peaks: true}
	if err := full.hold(ctx, []*way{take, raw, rawZstd}, laters); err != nil {
		return nil, err
	}
	base = base[len(base)-len(take.runs):] // the warm-up is in it
	p.Take, p.Raw, p.RawZstd = median(take.runs), median(raw.runs), median(rawZstd.runs)
	p.TakeTimesRaw, p.TakeTimesRawZstd = timesOf(take.runs, raw.runs), timesOf(take.runs, rawZstd.runs)
	p.BaseTimesRaw, p.BaseTimesRawZstd = wallOnly(timesOf(base, raw.runs)), wallOnly(timesOf(base, rawZstd.runs))
	for i, l := range []*later{&p.Unchanged, &p.Newest, &p.Spread} {
		l.Run, l.TimesFirst = median(laters[i].runs), timesOf(laters[i].runs, take.runs)
	}
	return p, r.backPostgres(ctx, p, last)
}

// fill says how much of a manifest is new.
func (l *later) fill(prev, m *backup.Manifest) {
	old := map[string]bool{}
	for _, b := range prev.Blobs {
		old[b.Key] = true
	}
	wal := map[int]bool{}
	var total, fresh, freshWAL int64
	for _, f := range m.Postgres.Files {
		total += f.Bytes
		if strings.HasPrefix(f.Name, "pg_wal/") {
			for _, piece := range f.Pieces {
				wal[piece] = true
			}
		}
	}
	for i, piece := range m.Pieces {
		if old[m.Blobs[piece.Blob].Key] {
			continue
		}
		fresh += piece.Size
		if wal[i] {
			freshWAL += piece.Size
		}
	}
	l.TotalMB, l.NewMB, l.NewWALMB, l.UploadedMB = mb(total), mb(fresh), mb(freshWAL), mb(m.Totals.Uploaded)
	l.NewShare = round4(float64(fresh) / float64(total))
}

// rawStream reads a base backup as the server sends it: the same command as a
// take's, and nothing done with the answer but w.
func (r *rig) rawStream(ctx context.Context, w io.Writer) (size int64, err error) {
	conn, err := r.postgresClient.Replication(ctx)
	if err != nil {
		return 0, err
	}
	cut := func() { _ = conn.Conn().Close() }
	defer cut()
	defer context.AfterFunc(ctx, cut)()
	major, err := postgres.Major(r.postgres.Version())
	if err != nil {
		return 0, err
	}
	command := "BASE_BACKUP (LABEL 'bench', PROGRESS, CHECKPOINT 'fast', WAL, TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
	if major < 15 {
		command = "BASE_BACKUP LABEL 'bench' PROGRESS FAST WAL TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'"
	}
	conn.Frontend().SendQuery(&pgproto3.Query{String: command})
	if err := conn.Frontend().Flush(); err != nil {
		return 0, err
	}
	for {
		m, err := conn.ReceiveMessage(context.Background())
		if err != nil {
			return 0, fmt.Errorf("receive the base backup: %w", errors.Join(err, context.Cause(ctx)))
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			size += int64(len(m.Data))
			if _, err := w.Write(m.Data); err != nil {
				return 0, err
			}
		case *pgproto3.ErrorResponse:
			return 0, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return size, nil
		}
	}
}

// rawZstd compresses the stream as much as the repository does.
func (r *rig) rawZstd(ctx context.Context) error {
	w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderConcurrency(4), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	_, err = r.rawStream(ctx, w)
	return errors.Join(err, w.Close())
}

// profiled writes the profiles of the work if they were asked for. Each call
// replaces those of the former one.
func (r *rig) profiled(do func() (taken, error)) (k taken, err error) {
	if r.o.profile == "" {
		return do()
	}
	if err := os.MkdirAll(r.o.profile, 0o755); err != nil {
		return k, err
	}
	cpu, err := os.Create(filepath.Join(r.o.profile, "take.cpu.pprof"))
	if err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, cpu.Close()) }()
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return k, err
	}
	k, err = do()
	pprof.StopCPUProfile()
	if err != nil {
		return k, err
	}
	allocs, err := os.Create(filepath.Join(r.o.profile, "take.allocs.pprof"))
	if err != nil {
		return k, err
	}
	return k, errors.Join(pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close())
}
