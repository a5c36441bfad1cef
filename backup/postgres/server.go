package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/postgres"
)

// server is what is asked over SQL before a backup begins.
type server struct {
	major     int
	superuser string // the first one that may log in; empty: not known
	notes     []string
}

// oldest is the first major version whose framing was tried.
const oldest = 14

// ask looks at the cluster; it refuses what a base backup would not carry.
func ask(ctx context.Context, c *postgres.Client) (s server, err error) {
	conn, err := c.Connect(ctx, "")
	if err != nil {
		return s, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	version := conn.PgConn().ParameterStatus("server_version")
	if s.major, err = postgres.Major(version); err != nil {
		return s, err
	}
	if s.major < oldest {
		return s, fmt.Errorf("back up postgres %s: its version is %s: want %d or newer", c.Name(), version, oldest)
	}
	rows, err := conn.Query(ctx, `SELECT spcname || ' at ' || pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1`)
	if err != nil {
		return s, fmt.Errorf("list the tablespaces of postgres %s: %w", c.Name(), err)
	}
	spaces, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s, fmt.Errorf("list the tablespaces of postgres %s: %w", c.Name(), err)
	}
	if len(spaces) > 0 {
		return s, spacesRefused(c.Name(), spaces)
	}
	err = conn.QueryRow(ctx, `SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1`).Scan(&s.superuser)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return s, fmt.Errorf("ask postgres %s for its superuser: %w", c.Name(), err)
	}
	// Where the configuration lies is for privileged roles: others get no row
	// here, and no note.
	var data, conf string
	err = conn.QueryRow(ctx, `SELECT d.setting, c.setting FROM pg_catalog.pg_settings d, pg_catalog.pg_settings c WHERE d.name = 'data_directory' AND c.name = 'config_file'`).Scan(&data, &conf)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return s, fmt.Errorf("ask postgres %s for its configuration: %w", c.Name(), err)
	}
	if err == nil && conf != "" && data != "" && !strings.HasPrefix(conf, data+"/") {
		s.notes = append(s.notes, "the server's configuration is not in its data directory and so not in this backup: "+conf+" and pg_hba.conf")
	}
	return s, nil
}

// settle waits until the server's statistics tell of what was written before
// now. Postgres 14 shows them up to half a second late; without the wait, a
// table that was written to just before would seem to move.
func (s server) settle(ctx context.Context) error {
	if s.major >= 15 {
		return nil
	}
	select {
	case <-time.After(600 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func spacesRefused(name string, spaces []string) error {
	return fmt.Errorf("back up postgres %s: tablespaces outside of the data directory are not supported yet: %s (move what is in them with ALTER TABLE … SET TABLESPACE pg_default and drop them)",
		name, strings.Join(spaces, ", "))
}

// begin asks who the server is, and has it keep its WAL.
func begin(ctx context.Context, conn *pgconn.PgConn, silence time.Duration) (system, note string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("the server sent nothing for %s", silence))
	defer cancel()
	if system, err = identify(ctx, conn); err == nil {
		note, err = holdWAL(ctx, conn)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return system, note, err
}

// identify asks a replication connection which cluster it is.
func identify(ctx context.Context, conn *pgconn.PgConn) (system string, err error) {
	results, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return "", fmt.Errorf("identify the system: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return "", errors.New("identify the system: the answer is not one row of three fields")
	}
	return string(results[0].Rows[0][0]), nil
}

// holdWAL has the server keep all WAL from now on until the connection ends:
// under load it would otherwise recycle what the backup still needs. It
// returns a note when the server has no slot to give, and the backup then is
// a race that an error ends.
func holdWAL(ctx context.Context, conn *pgconn.PgConn) (note string, err error) {
	_, err = conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+slotName()+" TEMPORARY PHYSICAL RESERVE_WAL").ReadAll()
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return "the server gave no replication slot, so it may recycle WAL that a backup needs while it runs: " + refused.Message, nil
	}
	if err != nil {
		return "", fmt.Errorf("ask the server to keep its WAL: %w", err)
	}
	return "", nil
}

func slotName() string { return "holdfast_backup_" + strings.ToLower(rand.Text()[:12]) }

// command is BASE_BACKUP as the version wants it.
func command(major int, label string) string {
	label = "'" + strings.ReplaceAll(label, "'", "") + "'"
	if major < 15 {
		return "BASE_BACKUP LABEL " + label + " PROGRESS FAST WAL TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'"
	}
	return "BASE_BACKUP (LABEL " + label + ", PROGRESS, CHECKPOINT 'fast', WAL, TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
}
