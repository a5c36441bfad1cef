package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// PostgresOptions describes one Postgres. The zero value is a server of the
// default version on a free port, in a temporary folder.
type PostgresOptions struct {
	Name     string // in messages and file names; default "postgres"
	Version  string // PostgresVersions; default $HOLDFAST_POSTGRES, then DefaultPostgres
	Dir      string // data; default a temporary folder
	Log      string // default NAME.log in Dir
	Port     int    // 0: a free one, kept over restarts
	Database string // made at start; default "sentry"
	// Settings are added to postgresql.conf and win over ours.
	Settings map[string]string

	Progress io.Writer // plain lines; nil: silence
}

// BackupRole is the role that a backup logs in as: it may read all data and
// stream the whole cluster, and change nothing.
const BackupRole = "holdfast"

// Postgres is one server, which runs as nobody when we are root.
type Postgres struct {
	*service
	pin      postgresPin
	bin      string
	user     *user
	port     int
	database string
	words    passwords
}

// passwords are kept beside the data, so that a folder can be used again.
type passwords struct {
	Superuser string `json:"superuser"`
	Backup    string `json:"backup"`
}

const initTimeout = time.Minute

// StartPostgres installs the version if needed, makes a new cluster if the
// folder holds none, starts the server and returns when it answers queries and
// the database and BackupRole exist. Close it after use.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	pin, err := findPostgres(o.Version)
	if err != nil {
		return nil, err
	}
	if o.Database == "" {
		o.Database = "sentry"
	}
	if !identifier.MatchString(o.Database) {
		return nil, fmt.Errorf("start Postgres: database %q is no plain name; use letters, digits and underscores", o.Database)
	}
	root, err := installPostgres(ctx, o.Progress, pin)
	if err != nil {
		return nil, err
	}
	launcher, err := installLauncher(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = "postgres"
	}
	s, err := newService(o.Name, o.Dir, o.Log, o.Progress)
	if err != nil {
		return nil, err
	}
	p := &Postgres{service: s, pin: pin, bin: filepath.Join(root, "native", "bin"), database: o.Database}
	if err := p.prepare(ctx, o, launcher); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.listens = []int{p.port}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// InstallPostgres brings one version, and what it needs to run, onto this
// machine without running it.
func InstallPostgres(ctx context.Context, version string, progress io.Writer) error {
	pin, err := findPostgres(version)
	if err != nil {
		return err
	}
	if _, err := installLauncher(ctx, progress); err != nil {
		return err
	}
	_, err = installPostgres(ctx, progress, pin)
	return err
}

func installPostgres(ctx context.Context, progress io.Writer, pin postgresPin) (string, error) {
	cache, err := openCacheDir()
	if err != nil {
		return "", err
	}
	return installIn(ctx, progress, cache, "postgres-"+pin.version, func(dir string) error {
		if err := fetchNPM(ctx, progress, pin.npm, dir); err != nil {
			return err
		}
		return linkLibraries(dir)
	})
}

// linkLibraries makes the links that a package of npm cannot hold: it only
// lists them, for a script of its own that we do not run.
func linkLibraries(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "native", "pg-symlinks.json"))
	if err != nil {
		return fmt.Errorf("read the list of links: %w", err)
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(b, &links); err != nil {
		return fmt.Errorf("read the list of links: %w", err)
	}
	for _, l := range links {
		if !filepath.IsLocal(l.Source) || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("link %s to %s: it would leave the folder", l.Target, l.Source)
		}
		to, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return fmt.Errorf("link %s to %s: %w", l.Target, l.Source, err)
		}
		if err := os.Symlink(to, filepath.Join(root, l.Target)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Postgres) prepare(ctx context.Context, o PostgresOptions, launcher string) error {
	var err error
	if p.port, err = p.service.port(o.Port); err != nil {
		return err
	}
	if p.tempDir {
		if err := os.Chmod(p.dir, 0o711); err != nil {
			return fmt.Errorf("open the folder of %s: %w", p.name, err)
		}
	}
	p.user = userFor(p.dir)
	if err := p.initialise(ctx); err != nil {
		return err
	}
	conf := filepath.Join(p.DataDir(), "holdfast.conf")
	if err := errors.Join(os.WriteFile(conf, p.settings(o), 0o600), p.user.own(conf)); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", p.name, err)
	}
	p.command = command{
		launcher: launcher, program: filepath.Join(p.bin, "postgres"),
		args: []string{"-D", p.DataDir(), "-p", fmt.Sprint(p.port)},
		env:  postgresEnv, dir: p.dir, log: p.log,
		user: p.user, quit: syscall.SIGINT, family: true,
	}
	p.ready = p.serves
	return nil
}

var postgresEnv = []string{"LC_ALL=C", "TZ=UTC"}

// initialise makes a new cluster, or takes the one that is there. Each gets an
// initdb of its own: copies of one cluster would have the same identifier, by
// which backups tell clusters apart.
func (p *Postgres) initialise(ctx context.Context) error {
	kept := filepath.Join(p.dir, "passwords.json")
	if b, err := os.ReadFile(kept); err == nil {
		if err := json.Unmarshal(b, &p.words); err != nil {
			return fmt.Errorf("read %s: %w; remove the folder %s to start anew", kept, err, p.dir)
		}
		return nil
	}
	p.words = passwords{Superuser: newSecret(16), Backup: newSecret(16)}
	data := p.DataDir()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("make the data folder of %s: %w", p.name, err)
	}
	word := filepath.Join(p.dir, "initdb.password")
	if err := os.WriteFile(word, []byte(p.words.Superuser+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the password of %s: %w", p.name, err)
	}
	defer func() { _ = os.Remove(word) }()
	if err := errors.Join(p.user.own(data), p.user.own(word)); err != nil {
		return fmt.Errorf("give the folder of %s to the user it runs as: %w", p.name, err)
	}
	if err := p.user.run(ctx, initTimeout, postgresEnv, filepath.Join(p.bin, "initdb"), "-D", data, "-U", "postgres", "--pwfile="+word,
		"-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--data-checksums", "--no-sync"); err != nil {
		return fmt.Errorf("make the cluster of %s: %w", p.name, err)
	}
	hba := "# TYPE DATABASE USER ADDRESS METHOD\n" +
		"host all all 127.0.0.1/32 scram-sha-256\n" +
		"host replication postgres," + BackupRole + " 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644); err != nil { // exists: its owner stays
		return fmt.Errorf("write the access list of %s: %w", p.name, err)
	}
	conf, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write the configuration of %s: %w", p.name, err)
	}
	_, err = conf.WriteString("\ninclude_if_exists 'holdfast.conf'\n")
	if err = errors.Join(err, conf.Close()); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", p.name, err)
	}
	b, err := json.Marshal(p.words)
	if err != nil {
		return fmt.Errorf("keep the passwords of %s: %w", p.name, err)
	}
	if err := os.WriteFile(kept, b, 0o600); err != nil {
		return fmt.Errorf("keep the passwords of %s: %w", p.name, err)
	}
	return nil
}

// settings are small and without fear of a power cut: what the rig kills are
// processes, and the kernel keeps what they wrote.
func (p *Postgres) settings(o PostgresOptions) []byte {
	all := map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "timezone": "UTC",
		"fsync": "off", "wal_level": "replica", "max_wal_senders": "10", "max_connections": "60",
		"shared_buffers": "16MB", "log_line_prefix": "%m [%p] ",
	}
	maps.Copy(all, o.Settings)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s = '%s'\n", key, strings.ReplaceAll(all[key], "'", "''"))
	}
	return []byte(b.String())
}

// serves makes sure of the database and the role, once each.
func (p *Postgres) serves(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.dsn("postgres", p.words.Superuser, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var role, database bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_database WHERE datname = $2)",
		BackupRole, p.database).Scan(&role, &database)
	if err != nil {
		return err
	}
	if !role {
		// The words are hexadecimal, and a statement like this takes no argument.
		if _, err := conn.Exec(ctx, "CREATE ROLE "+BackupRole+" LOGIN REPLICATION IN ROLE pg_read_all_data PASSWORD '"+p.words.Backup+"'"); err != nil {
			return err
		}
	}
	if !database {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{p.database}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}

// Close does what the Close of every service does, and frees the few bytes of
// shared memory that a killed server leaves to its next start.
func (p *Postgres) Close() error {
	err := p.Kill()
	b, _ := os.ReadFile(filepath.Join(p.DataDir(), "postmaster.pid")) // gone after a stop in order
	if lines := strings.Split(string(b), "\n"); len(lines) > 6 {
		var key, id int
		if _, scan := fmt.Sscan(lines[6], &key, &id); scan == nil {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // it may be gone already
		}
	}
	return errors.Join(err, p.service.Close())
}

// Exec runs statements as the superuser in the database, and drops their results.
func (p *Postgres) Exec(ctx context.Context, statements string) error {
	conn, err := pgx.Connect(ctx, p.DSN())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", p.name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		return fmt.Errorf("run statements on %s: %w", p.name, err)
	}
	return nil
}

func (p *Postgres) dsn(user, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: p.Address(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// DSN is the URL of the superuser, in the database of the options.
func (p *Postgres) DSN() string { return p.dsn("postgres", p.words.Superuser, p.database) }

// BackupDSN is the URL of BackupRole, in the database of the options.
func (p *Postgres) BackupDSN() string { return p.dsn(BackupRole, p.words.Backup, p.database) }

// Password is that of the superuser, postgres.
func (p *Postgres) Password() string { return p.words.Superuser }

// Address is the server's host:port.
func (p *Postgres) Address() string { return loopback(p.port) }

// Port is the server's port.
func (p *Postgres) Port() int { return p.port }

// Database exists from the first start on.
func (p *Postgres) Database() string { return p.database }

// DataDir is the cluster's folder.
func (p *Postgres) DataDir() string { return filepath.Join(p.dir, "data") }

// BinDir holds postgres, initdb and pg_ctl of this version, where every user
// can run them.
func (p *Postgres) BinDir() string { return p.bin }

// Version is the version that runs, such as 14.23.
func (p *Postgres) Version() string { return p.pin.version }
