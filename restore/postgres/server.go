package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// settings are given on the command line, where they win over what ALTER
// SYSTEM left in the data directory. First those that keep the cluster from
// acting as the production server that it was, then those that must not hide
// damage, then sizes.
var settings = []string{
	"listen_addresses=", "port=5432", "ssl=off", "archive_mode=off", "primary_conninfo=", "primary_slot_name=", "restore_command=",
	"synchronous_standby_names=", "shared_preload_libraries=", "unix_socket_permissions=0700", "unix_socket_group=",
	"max_logical_replication_workers=0", // a subscription would follow its publisher again, and drop what its slot there still holds
	"logging_collector=off", "log_destination=stderr", "log_min_messages=warning", "default_transaction_read_only=off",
	"lc_messages=C", "min_dynamic_shared_memory=0", "statement_timeout=0", "temp_tablespaces=", "autovacuum=off", "huge_pages=off",
	"zero_damaged_pages=off", "ignore_checksum_failure=off",
	"max_connections=20", "superuser_reserved_connections=3", "max_locks_per_transaction=256", "max_prepared_transactions=100", "max_wal_senders=0", "shared_buffers=32MB",
}

// loginTriggers is the first version in which the production's own code could
// run whenever somebody logs in.
const loginTriggers = 17

// arguments of the server; nothing in them is secret.
func (t *Target) arguments() []string {
	args := []string{"-D", t.data(), "-c", "config_file=" + filepath.Join(t.place, "postgresql.conf")}
	own := []string{"hba_file=" + filepath.Join(t.place, "hba.conf"), "ident_file=" + filepath.Join(t.place, "ident.conf"),
		"unix_socket_directories=" + t.socket(), "external_pid_file=" + filepath.Join(t.place, "pid")}
	if !t.conf.Durable {
		own = append(own, "fsync=off")
	}
	if t.major >= loginTriggers {
		own = append(own, "event_triggers=off")
	}
	for _, s := range append(own, settings...) {
		args = append(args, "-c", s)
	}
	return args
}

// Command is what a person types, as the owner of the folder, to start the
// server as Start does.
func (t *Target) Command() string {
	words := []string{quote(filepath.Join(t.conf.BinDir, "postgres"))}
	for _, a := range t.arguments() {
		words = append(words, quote(a))
	}
	return strings.Join(words, " ")
}

func quote(s string) string {
	plain := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-_./=:", r)
	}
	if s != "" && strings.IndexFunc(s, plain) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ConnString reaches the running server, for the owner of the folder.
func (t *Target) ConnString() string {
	as, at := t.as, t.at
	if as == "" {
		as = "postgres"
	}
	if at == "" {
		at = "postgres"
	}
	word := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	// What production set for a role or a database must not reach a session here.
	options := "-c session_preload_libraries= -c local_preload_libraries="
	if t.major >= loginTriggers {
		options += " -c event_triggers=off"
	}
	return "host=" + word(t.socket()) + " port=5432 user=" + word(as) + " dbname=" + word(at) + " sslmode=disable options='" + options + "'"
}

// Start runs the server and waits until it has recovered and answers. It
// starts nothing when one runs already in the place.
func (t *Target) Start(ctx context.Context, m *backup.Manifest) error {
	if !t.ours() {
		if info, err := os.Lstat(filepath.Join(t.place, kept)); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("start postgres in %s: it holds no mark of run %s", t.place, t.conf.Run)
		}
	}
	t.as, t.at = m.Postgres.Superuser, ""
	t.major, _ = postgres.Major(m.Store.Version) // Check refuses what is no number
	for _, c := range m.Postgres.Census {
		if c.Name != "" && c.Skipped == "" {
			t.at = c.Database
			break
		}
	}
	client, err := postgres.Open(postgres.Config{Name: t.place, DSN: func() (string, error) { return t.ConnString(), nil }})
	if err != nil {
		return err
	}
	t.client = client
	running, err := workers(t.data())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	if len(running) == 0 {
		if ended, err = t.run(); err != nil {
			return fmt.Errorf("start postgres in %s: %w", t.place, err)
		}
	}
	if err := t.await(ctx, ended); err != nil {
		if tail := t.logTail(); tail != "" {
			err = fmt.Errorf("%w; the end of its log:\n%s", err, tail)
		}
		return errors.Join(fmt.Errorf("start postgres in %s: %w", t.place, err), t.Stop(context.WithoutCancel(ctx)))
	}
	t.conf.Log.InfoContext(ctx, "the restored postgres answers", "place", t.place)
	return nil
}

// run writes the configuration and starts the server.
func (t *Target) run() (chan error, error) {
	as, err := t.credential()
	if err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"postgresql.conf": "# The settings are on the command line.\n",
		"hba.conf":        "local all all trust\n",
		"ident.conf":      "",
	} {
		path := filepath.Join(t.place, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if as != nil {
			if err := os.Lchown(path, int(as.Uid), int(as.Gid)); err != nil {
				return nil, err
			}
		}
	}
	log, err := os.OpenFile(t.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// A postmaster.pid of another life would stand in the way of a start; no
	// process works in the directory, as was looked up before.
	if err := os.Remove(filepath.Join(t.data(), "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(t.conf.BinDir, "postgres"), t.arguments()...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = t.data(), environment, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { // ends with the server
		ended <- cmd.Wait()
	}()
	return ended, nil
}

func (t *Target) log() string { return filepath.Join(t.place, "postgres.log") }

var errEnded = errors.New("without an error")

// await returns when the server answers and is not in recovery.
func (t *Target) await(ctx context.Context, ended <-chan error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, t.conf.StartTimeout, fmt.Errorf("it did not answer within %s", t.conf.StartTimeout))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = t.answers(ctx); last == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("it ended before it answered: %w", cmp.Or(err, errEnded))
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

func (t *Target) answers(ctx context.Context) error {
	conn, err := t.client.Connect(ctx, "")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var recovering bool
	if err := conn.QueryRow(ctx, "SELECT pg_catalog.pg_is_in_recovery()").Scan(&recovering); err != nil {
		return err
	}
	if recovering {
		return errors.New("it is still in recovery")
	}
	return nil
}

// Stop ends the server, also one that another process started in this place.
// It may be called when none runs.
func (t *Target) Stop(context.Context) error {
	t.client = nil
	return end(t.data())
}

// logTail is the end of what the server wrote.
func (t *Target) logTail() string {
	f, err := os.Open(t.log())
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 2048
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return strings.TrimSpace(string(b))
}
