package postgres

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// fakeServer speaks the replication protocol as far as a backup needs it. It
// answers BASE_BACKUP with the script, or with nothing at all.
func fakeServer(t *testing.T, version string, answer *script) (*postgres.Client, func() string) {
	t.Helper()
	var mu sync.Mutex
	var asked string
	serve := func(conn net.Conn) {
		defer conn.Close()
		b := pgproto3.NewBackend(conn, conn)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: version})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		for b.Flush() == nil {
			m, err := b.Receive()
			if err != nil {
				return
			}
			q, ok := m.(*pgproto3.Query)
			switch {
			case !ok:
				return
			case q.String == "IDENTIFY_SYSTEM":
				b.Send(&pgproto3.RowDescription{Fields: make([]pgproto3.FieldDescription, 4)})
				b.Send(text("7300000000000000001", "1", "0/3000000", ""))
				b.Send(&pgproto3.CommandComplete{CommandTag: []byte("IDENTIFY_SYSTEM")})
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case strings.HasPrefix(q.String, "CREATE_REPLICATION_SLOT holdfast_backup_"):
				switch {
				case answer == nil: // silence
				case strings.HasPrefix(version, "14"):
					b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "53400", Message: "all replication slots are in use"})
					b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
				default:
					b.Send(&pgproto3.CommandComplete{CommandTag: []byte("CREATE_REPLICATION_SLOT")})
					b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
				}
			default:
				mu.Lock()
				asked = q.String
				mu.Unlock()
				if answer == nil {
					continue
				}
				for _, m := range answer.messages() {
					b.Send(m)
					if b.Flush() != nil {
						return
					}
				}
			}
		}
	}
	var servers sync.WaitGroup
	t.Cleanup(servers.Wait)
	c, err := postgres.Open(postgres.Config{Name: "us-east", DSN: func() (string, error) { return "host=db user=holdfast sslmode=disable", nil },
		Dial: func(context.Context, string, string) (net.Conn, error) {
			mine, theirs := net.Pipe()
			servers.Go(func() { serve(theirs) })
			return mine, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

func quiet(backup.Progress) {}

func TestBase_SpeaksToBothGenerations(t *testing.T) {
	for version, want := range map[string]string{"14.23 (Debian 14.23-1)": "BASE_BACKUP LABEL", "15.18": "BASE_BACKUP (LABEL", "18beta1": "BASE_BACKUP (LABEL"} {
		s := good(t, !strings.HasPrefix(version, "14"))
		c, asked := fakeServer(t, version, &s)
		var m backup.Manifest
		got, err := New(Config{Client: c}).base(t.Context(), backup.Take{Set: "01K0", Sink: &memory{}}, quiet, &m)
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		if !strings.HasPrefix(asked(), want) || !strings.Contains(asked(), "'holdfast 01K0'") {
			t.Errorf("%s: asked %q", version, asked())
		}
		if noted := slices.ContainsFunc(m.Notes, func(n string) bool { return strings.Contains(n, "all replication slots are in use") }); noted != strings.HasPrefix(version, "14") {
			t.Errorf("%s: notes %q", version, m.Notes)
		}
		if len(got.files) != 7 || m.Store != (backup.Store{Version: version, ID: "7300000000000000001"}) ||
			m.Postgres.StartLSN != "0/2000028" || m.Postgres.EndLSN != "0/2000100" || m.Postgres.Timeline != 1 {
			t.Errorf("%s: %d files, %+v, %+v", version, len(got.files), m.Store, m.Postgres)
		}
	}
}

func TestBase_GivesUpOnAServerThatFallsSilent(t *testing.T) {
	c, _ := fakeServer(t, "17.10", nil)
	begun := time.Now()
	_, err := New(Config{Client: c, SilenceMax: 50 * time.Millisecond}).base(t.Context(), backup.Take{Sink: &memory{}}, quiet, &backup.Manifest{})
	if err == nil || !strings.Contains(err.Error(), "sent nothing for 50ms") || time.Since(begun) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

func TestBase_EndsWithItsContext(t *testing.T) {
	c, _ := fakeServer(t, "17.10", nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := New(Config{Client: c}).base(ctx, backup.Take{Sink: &memory{}}, quiet, &backup.Manifest{}); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
