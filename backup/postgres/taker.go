package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// Config says what to back up.
type Config struct {
	Client *postgres.Client
	Log    *slog.Logger // nil: silent
	// CensusBytesMax is the largest table that is counted; 0: 2 GiB.
	CensusBytesMax int64
	// TableMax bounds counting one table; default 10 min.
	TableMax time.Duration
	// SilenceMax is how long the server may send nothing before the backup is
	// given up. The checkpoint that begins it may take a while. Default 5 min.
	SilenceMax time.Duration
}

// Taker takes base backups. It fulfils backup.Taker.
type Taker struct{ conf Config }

var _ backup.Taker = (*Taker)(nil)

// New returns a Taker; it does not connect.
func New(c Config) *Taker {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.SilenceMax <= 0 {
		c.SilenceMax = 5 * time.Minute
	}
	return &Taker{c}
}

// Engine is backup.Postgres.
func (t *Taker) Engine() backup.Engine { return backup.Postgres }

// Take counts, takes a base backup, compares it with the server's manifest,
// and counts again.
func (t *Taker) Take(ctx context.Context, in backup.Take) (backup.Manifest, error) {
	tell := in.Progress
	if tell == nil {
		tell = func(backup.Progress) {}
	}
	srv, err := ask(ctx, t.conf.Client)
	if err != nil {
		return backup.Manifest{}, err
	}
	if err := srv.settle(ctx); err != nil {
		return backup.Manifest{}, err
	}
	before, err := t.census(ctx, "postgres: count before", tell)
	if err != nil {
		return backup.Manifest{}, err
	}
	m := backup.Manifest{Engine: backup.Postgres, Set: in.Set, Attempt: in.Attempt, Started: time.Now()}
	got, err := t.base(ctx, in, tell, &m)
	if err != nil {
		return backup.Manifest{}, fmt.Errorf("back up postgres %s: %w", t.conf.Client.Name(), err)
	}
	after, err := t.census(ctx, "postgres: count after", tell)
	if err != nil {
		return backup.Manifest{}, err
	}
	p := m.Postgres
	p.Files, p.Dirs, p.Superuser, p.Census = got.files, got.dirs, srv.superuser, join(before, after)
	m.Finished = time.Now()
	m.Notes = slices.Concat(m.Notes, srv.notes, notes(p.Census))
	moving := 0
	for _, c := range p.Census {
		m.Totals.Rows += c.Rows
		if c.Moving {
			moving++
		}
	}
	if moving > 0 {
		m.Notes = append(m.Notes, fmt.Sprintf("%d tables changed while the backup ran: a restore holds them as of %s, which was not counted", moving, p.EndLSN))
	}
	if in.Prev != nil && in.Prev.Store.ID != "" && in.Prev.Store.ID != m.Store.ID {
		m.Notes = append(m.Notes, fmt.Sprintf("the cluster was rebuilt since the last set: its system identifier is %s and was %s", m.Store.ID, in.Prev.Store.ID))
	}
	t.conf.Log.InfoContext(ctx, "postgres was backed up", "files", len(p.Files), "bytes", got.bytes, "tables", len(p.Census), "moving", moving, "until", p.EndLSN)
	return m, nil
}

func (t *Taker) census(ctx context.Context, stage string, tell func(backup.Progress)) ([]postgres.Table, error) {
	n := int64(0)
	return t.conf.Client.Census(ctx, postgres.CensusOptions{
		SizeMax: t.conf.CensusBytesMax, TableMax: t.conf.TableMax,
		Each: func(postgres.Table) {
			n++
			tell(backup.Progress{Stage: stage, Done: n, Unit: "tables"})
		},
	})
}

// base takes the base backup itself and fills in who and where.
func (t *Taker) base(ctx context.Context, in backup.Take, tell func(backup.Progress), m *backup.Manifest) (*received, error) {
	conn, err := t.conf.Client.Replication(ctx)
	if err != nil {
		return nil, err
	}
	// The server stops sending when its connection is gone.
	cut := func() { _ = conn.Conn().Close() }
	defer func() {
		cut()
		gone(conn)
	}()
	version := conn.ParameterStatus("server_version")
	major, err := postgres.Major(version)
	if err != nil {
		return nil, err
	}
	system, note, err := begin(ctx, conn, t.conf.SilenceMax)
	if err != nil {
		return nil, err
	}
	if note != "" {
		m.Notes = append(m.Notes, note)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(ctx, cut)()

	conn.Frontend().SendQuery(&pgproto3.Query{String: command(major, "holdfast "+string(in.Set))})
	if err := conn.Frontend().Flush(); err != nil {
		return nil, fmt.Errorf("ask for the base backup: %w", err)
	}
	s := &stream{tagged: major >= 15, receive: patient(conn, t.conf.SilenceMax, fail)}
	got, h, end, err := receive(ctx, s, system, in.Sink, tell)
	if err != nil {
		if ctx.Err() != nil { // the broken connection is then only what we did
			err = context.Cause(ctx)
		}
		return nil, err
	}
	m.Store = backup.Store{Version: version, ID: system}
	m.Postgres = &backup.PostgresPart{SystemID: system, Timeline: h.Timeline, StartLSN: h.Start.String(), EndLSN: end.String()}
	return got, nil
}

// closeTimeout bounds how long the end of a connection is waited for.
const closeTimeout = 5 * time.Second

// gone waits until nothing works on a connection any more: when its context
// ends, the library still asks the server to cancel, on a connection of its own.
func gone(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // it is cut already; this ends what is left of it
	select {
	case <-conn.CleanupDone():
	case <-ctx.Done():
	}
}

// patient receives messages and gives up when none comes for too long. What
// the sink needs is not counted.
func patient(conn *pgconn.PgConn, silence time.Duration, fail context.CancelCauseFunc) func() (pgproto3.BackendMessage, error) {
	watch := time.AfterFunc(silence, func() {
		fail(fmt.Errorf("the server sent nothing for %s (is it waiting for a checkpoint, or is the network cut?)", silence))
	})
	watch.Stop()
	return func() (pgproto3.BackendMessage, error) {
		watch.Reset(silence)
		defer watch.Stop()
		return conn.ReceiveMessage(context.Background())
	}
}

// receive reads all that answers BASE_BACKUP and holds it against the
// server's manifest.
func receive(ctx context.Context, s *stream, system string, sink backup.Sink, tell func(backup.Progress)) (_ *received, h header, end lsn, err error) {
	// The workers end with this call, whatever happens.
	ctx, stop := context.WithCancel(ctx)
	r := &receiver{pieces: newPieces(ctx, sink)}
	defer func() {
		stop()
		_ = r.pieces.wait()
	}()
	if h, err = s.header(); err != nil {
		return nil, h, 0, err
	}
	var total int64
	var outside []string
	for _, sp := range h.Spaces {
		total += sp.KB << 10
		if sp.OID != "" {
			outside = append(outside, sp.OID+" at "+sp.Location)
		}
	}
	if len(outside) > 0 {
		return nil, h, 0, fmt.Errorf("tablespaces outside of the data directory are not supported yet: %v", outside)
	}
	r.progress = func(done int64) {
		tell(backup.Progress{Stage: "postgres: base backup", Done: done, Total: max(total, done), Unit: "bytes"})
	}
	for {
		more, err := s.archive()
		if err != nil {
			return nil, h, 0, err
		}
		if !more {
			break
		}
		if err := r.archive(s); err != nil {
			return nil, h, 0, err
		}
	}
	if err := r.manifest(s); err != nil {
		return nil, h, 0, err
	}
	if end, err = s.end(); err != nil {
		return nil, h, 0, err
	}
	l, err := parseListed(r.list)
	if err != nil {
		return nil, h, 0, err
	}
	if l.SystemID != 0 && strconv.FormatUint(l.SystemID, 10) != system {
		return nil, h, 0, fmt.Errorf("the manifest is of system %d, the server said it is %s", l.SystemID, system)
	}
	if err := compare(l, r.files, h.Start, end); err != nil {
		return nil, h, 0, err
	}
	if len(s.notices) > 0 {
		return nil, h, 0, errors.New("the server found damaged pages: " + s.notices[0])
	}
	if err := r.keepManifest(); err != nil {
		return nil, h, 0, err
	}
	if err := r.finish(); err != nil {
		return nil, h, 0, err
	}
	return &r.received, h, end, nil
}
