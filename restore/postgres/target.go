package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/postgres"
	"github.com/holdfast-dr/holdfast/restore"
)

// Config says where to restore to, and with which programs.
type Config struct {
	Directory string // holds the folder of each run; absolute
	Run       string // id of the run: letters, digits, '-' and '_'
	BinDir    string // holds the postgres program of the same major version
	// User runs the server when we are root, which Postgres refuses to be;
	// default "postgres". Without root it is ignored.
	User string
	Log  *slog.Logger // nil: silent
	// StartTimeout bounds the recovery and the start; default 10 min.
	StartTimeout time.Duration
	// Durable makes every file and the server sync to disk. A drill does not
	// need it; what is kept does.
	Durable bool
	// TableMax bounds reading one table in Compare; default 1 h.
	TableMax time.Duration
}

// Target is one run's place. It fulfils restore.Target; its methods are called
// by one goroutine at a time.
type Target struct {
	conf   Config
	place  string
	client *postgres.Client // nil: not started by us
	as     string           // superuser
	at     string           // a database that is there
	major  int              // version of the server; 0: not known yet
}

var _ restore.Target = (*Target)(nil)

// New checks the configuration; it touches nothing.
func New(c Config) (*Target, error) {
	if !filepath.IsAbs(c.Directory) || !filepath.IsAbs(c.BinDir) {
		return nil, fmt.Errorf("restore postgres: directory %q and programs %q: want absolute paths", c.Directory, c.BinDir)
	}
	if !validRun(c.Run) {
		return nil, fmt.Errorf("restore postgres: run %q: want 1 to 64 letters, digits, '-' and '_'", c.Run)
	}
	if c.User == "" {
		c.User = "postgres"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = 10 * time.Minute
	}
	if c.TableMax <= 0 {
		c.TableMax = time.Hour
	}
	return &Target{conf: c, place: filepath.Join(filepath.Clean(c.Directory), placePrefix+c.Run)}, nil
}

// Engine is backup.Postgres.
func (t *Target) Engine() backup.Engine { return backup.Postgres }

// Where is the folder.
func (t *Target) Where() string { return t.place }

func (t *Target) data() string   { return filepath.Join(t.place, "data") }
func (t *Target) socket() string { return filepath.Join(t.place, "s") }

// Check looks at the manifest, the programs, the directory and its free space.
func (t *Target) Check(ctx context.Context, m *backup.Manifest) ([]restore.Obstacle, error) {
	var found []restore.Obstacle
	add := func(next, format string, args ...any) {
		found = append(found, restore.Obstacle{What: fmt.Sprintf(format, args...), Next: next})
	}
	if err := checkManifest(m); err != nil {
		add("drill another set; this one's manifest is not one that we wrote", "%s", err)
		return found, nil
	}
	if n := len(t.socket()) + len("/.s.PGSQL.5432"); n > socketMax {
		add("name a directory with a shorter path", "the path of the socket below %s would be %d bytes long, and the system takes %d", t.conf.Directory, n, socketMax)
	}
	as, err := t.credential()
	if err != nil {
		add("name an existing user that is not root, such as postgres", "the server must not run as root, and %s", err)
	}
	info, err := os.Stat(t.conf.Directory)
	switch {
	case err != nil || !info.IsDir():
		add("make it, and let holdfast write to it", "%s is no directory that can be reached (%v)", t.conf.Directory, err)
		return found, nil
	case unix.Access(t.conf.Directory, unix.W_OK|unix.X_OK) != nil:
		add("let holdfast write to it", "%s cannot be written to by this user", t.conf.Directory)
	}
	if _, err := os.Lstat(t.place); !errors.Is(err, fs.ErrNotExist) && !t.ours() {
		add("move it away, or use another run", "%s exists", t.place)
	}
	if as != nil || os.Geteuid() != 0 {
		version, err := t.version(ctx, as)
		want, _ := postgres.Major(m.Store.Version)
		if got, _ := postgres.Major(version); err != nil {
			add("install the server's programs and name their folder, and let the user of the server enter the directory", "%s", err)
		} else if got != want {
			add(fmt.Sprintf("install postgres %d and name the folder of its programs", want), "%s holds postgres %s, the set was taken from %s", t.conf.BinDir, version, m.Store.Version)
		}
	}
	var room unix.Statfs_t
	if err := unix.Statfs(t.conf.Directory, &room); err != nil {
		return nil, fmt.Errorf("look for free space in %s: %w", t.conf.Directory, err)
	}
	var need uint64
	for _, f := range m.Postgres.Files {
		need += uint64(f.Bytes)
	}
	need += need/10 + walBytes
	if free := room.Bavail * uint64(room.Bsize); free < need {
		add("make room, or name another directory", "%s has %d MiB free, the restore needs %d MiB", t.conf.Directory, free>>20, need>>20)
	}
	return found, ctx.Err()
}

// walBytes is what a server writes of its own while it recovers and is read:
// a few segments of the usual 16 MiB.
const walBytes = 64 << 20

// socketMax is what fits into the kernel's address of a unix socket.
const socketMax = 107

// checkManifest refuses what would lead out of the data directory.
func checkManifest(m *backup.Manifest) error {
	p := m.Postgres
	if m.Engine != backup.Postgres || p == nil || len(p.Files) == 0 {
		return errors.New("the manifest holds no postgres backup")
	}
	seen := make(map[string]bool, len(p.Files)+len(p.Dirs))
	check := func(name string, mode uint32) error {
		switch {
		case !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00"):
			return fmt.Errorf("the manifest names %q, which does not stay inside the data directory", name)
		case strings.HasPrefix(name, "pg_tblspc/"):
			return fmt.Errorf("the manifest names %q: tablespaces are not supported yet", name)
		case seen[name]:
			return fmt.Errorf("the manifest names %q twice", name)
		case mode&^0o777 != 0:
			return fmt.Errorf("the manifest gives %q the mode %o", name, mode)
		}
		seen[name] = true
		return nil
	}
	for _, d := range p.Dirs {
		if err := check(d.Name, d.Mode); err != nil {
			return err
		}
	}
	for _, f := range p.Files {
		if err := check(f.Name, f.Mode); err != nil {
			return err
		}
		var size int64
		for _, i := range f.Pieces {
			if i < 0 || i >= len(m.Pieces) {
				return fmt.Errorf("the manifest gives %q a piece that it does not hold", f.Name)
			}
			size += m.Pieces[i].Size
		}
		if size != f.Bytes {
			return fmt.Errorf("the manifest gives %q %d bytes in pieces of %d bytes together", f.Name, f.Bytes, size)
		}
	}
	if _, err := postgres.Major(m.Store.Version); err != nil {
		return err
	}
	return nil
}

// credential is who the server runs as; nil: as we do.
func (t *Target) credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(t.conf.User)
	if err != nil {
		return nil, fmt.Errorf("user %q is not there: %w", t.conf.User, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("user %q has no number: %w", t.conf.User, err)
	}
	if uid == 0 {
		return nil, fmt.Errorf("user %q is root", t.conf.User)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// version runs the program as the server will run, from the directory, so
// that a missing right shows here.
func (t *Target) version(ctx context.Context, as *syscall.Credential) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(t.conf.BinDir, "postgres"), "--version")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = t.conf.Directory, environment, &syscall.SysProcAttr{Credential: as}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s in %s: %w", cmd.Path, t.conf.Directory, err)
	}
	_, version, ok := strings.Cut(strings.TrimSpace(string(out)), ") ")
	if !ok {
		return "", fmt.Errorf("%s --version says %.80q", cmd.Path, out)
	}
	return version, nil
}

// environment of the server: nothing of ours.
var environment = []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/bin:/bin"}
