package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/restore"
	clickhousestore "github.com/holdfast-dr/holdfast/restore/clickhouse"
	postgresstore "github.com/holdfast-dr/holdfast/restore/postgres"
)

// ErrNowhere says that there is no place to look for abandoned restores in.
var ErrNowhere = errors.New("the fleet file names no target of drills: say where restores went, --clickhouse-region and --postgres-directory")

// Abandoned is a place that a restore by hand made and neither handed over nor
// took away: it was killed, it still runs, or it was told to leave what
// failed. What was handed over and what a drill made is never one.
type Abandoned struct {
	Run    string        `json:"run"` // id of the restore
	Began  time.Time     `json:"began"`
	Engine backup.Engine `json:"engine"`
	Where  string        `json:"where"`

	target restore.Target
}

// AbandonedAt is a place that a restore has left at a target.
func AbandonedAt(run string, t restore.Target) Abandoned {
	return Abandoned{Run: run, Engine: t.Engine(), Where: t.Where(), target: t}
}

// Remove takes the place away, by its mark alone. It may be called twice.
func (a Abandoned) Remove(ctx context.Context) error { return a.target.Remove(ctx) }

// Abandoned looks for such places on the ClickHouse server and below the
// directory that a restore with these options would use; by default those of
// drills. Nobody can tell from here whether the restore is still at work on
// another host: a person decides. closeAll ends the connections.
func (h *Host) Abandoned(ctx context.Context, o TargetOptions) (found []Abandoned, closeAll func() error, err error) {
	closeAll = func() error { return nil }
	looked := false
	if o.ClickHouseRegion != "" || h.o.Fleet.Drill != nil && h.o.Fleet.Drill.Target.ClickHouse != nil {
		looked = true
		client, where, err := h.targetServer(o)
		if err != nil {
			return nil, closeAll, err
		}
		closeAll = client.Close
		runs, err := clickhousestore.Leftovers(ctx, client)
		if err != nil {
			return nil, closeAll, fmt.Errorf("look for abandoned restores on %s: %w", where, err)
		}
		for _, mark := range runs {
			a, ours := abandoned(mark, backup.ClickHouse)
			if !ours {
				continue
			}
			names, err := clickhousestore.Places(ctx, client, mark)
			if err != nil {
				return nil, closeAll, err
			}
			if len(names) == 0 {
				continue // it went away meanwhile
			}
			if a.target, err = clickhousestore.New(clickhousestore.Config{
				Client: client, Host: where, Database: names[0], Collection: "none", Run: mark, Log: h.log, // nothing is restored through it
			}); err != nil {
				return nil, closeAll, err
			}
			a.Where = "database " + strings.Join(names, ", ") + " on " + where
			found = append(found, a)
		}
	}
	place := postgresPlace(h.o.Fleet)
	if dir := cmp.Or(o.PostgresDirectory, place.Directory); dir != "" {
		looked = true
		runs, err := postgresstore.Leftovers(dir)
		if err != nil {
			return nil, closeAll, err
		}
		for _, mark := range runs {
			a, ours := abandoned(mark, backup.Postgres)
			if !ours {
				continue
			}
			if a.target, err = postgresstore.New(postgresstore.Config{
				Directory: dir, Run: mark, BinDir: cmp.Or(place.Bin, filepath.Clean(dir)), User: cmp.Or(o.PostgresUser, place.User), Log: h.log, // no program of it is run
			}); err != nil {
				return nil, closeAll, err
			}
			a.Where = a.target.Where()
			found = append(found, a)
		}
	}
	if !looked {
		return nil, closeAll, ErrNowhere
	}
	return found, closeAll, nil
}

// abandoned reads a mark: only what a restore by hand made is meant.
func abandoned(mark string, e backup.Engine) (Abandoned, bool) {
	run, ours := strings.CutPrefix(mark, restoreMark)
	if !ours {
		return Abandoned{}, false
	}
	a := Abandoned{Run: strings.ToUpper(run), Engine: e}
	if id, err := ulid.ParseStrict(a.Run); err == nil {
		a.Began = ulid.Time(id.Time()).UTC()
	}
	return a, true
}
