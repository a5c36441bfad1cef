package recovery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
	clickhousestore "github.com/holdfast-dr/holdfast/restore/clickhouse"
	postgresstore "github.com/holdfast-dr/holdfast/restore/postgres"
)

// What a drill makes and what a person has restored carry different marks: a
// sweep takes the first away and leaves the second alone.
const (
	drillMark   = "drill-"
	restoreMark = "restore-"
)

// markOf is what a place carries: drill-CLUSTER-RUN, where the cluster is four
// letters that follow from its name, so that fleets can share a target; or
// restore-RUN.
func (h *Host) markOf(o TargetOptions) string {
	if o.Drill {
		return h.drillsMark() + strings.ToLower(o.Run)
	}
	return restoreMark + strings.ToLower(o.Run)
}

// drillsMark begins the marks of this fleet's drills.
func (h *Host) drillsMark() string {
	sum := sha256.Sum256([]byte(h.o.Fleet.Cluster))
	return drillMark + hex.EncodeToString(sum[:2]) + "-"
}

// Targets opens scratch places. What they make outlives the close of their
// connections; Target.Remove takes it away.
func (h *Host) Targets(o TargetOptions) (targets []restore.Target, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	if o.ClickHouseDatabase != "" {
		client, where, collection, err := h.clickhouseTarget(o)
		if err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, client.Close)
		t, err := clickhousestore.New(clickhousestore.Config{
			Client: client, Host: where, Database: o.ClickHouseDatabase, Collection: collection, Run: h.markOf(o), Log: h.log,
		})
		if err != nil {
			return nil, closeAll, errors.Join(err, closeAll())
		}
		targets = append(targets, &clickhouseTarget{t, client, o.Drill})
	}
	if o.PostgresDirectory != "" {
		place := postgresPlace(h.o.Fleet)
		bin := cmp.Or(o.PostgresBin, place.Bin)
		if bin == "" {
			err := errors.New("restore postgres: the fleet file names no programs of the server (drill.target.postgres.bin); name their folder, such as /usr/lib/postgresql/14/bin (--postgres-bin)")
			return nil, closeAll, errors.Join(err, closeAll())
		}
		t, err := postgresstore.New(postgresstore.Config{
			Directory: o.PostgresDirectory, Run: h.markOf(o), BinDir: bin, User: cmp.Or(o.PostgresUser, place.User),
			Log: h.log, Durable: !o.Drill,
		})
		if err != nil {
			return nil, closeAll, errors.Join(err, closeAll())
		}
		targets = append(targets, &postgresTarget{Target: t})
	}
	return targets, closeAll, nil
}

// postgresPlace is where drills put Postgres; empty without a drill.
func postgresPlace(f *config.Fleet) config.DrillPostgres {
	if f.Drill == nil || f.Drill.Target.Postgres == nil {
		return config.DrillPostgres{}
	}
	return *f.Drill.Target.Postgres
}

// clickhouseTarget opens the server to restore to, and names it and the
// collection that leads to the repository from there.
func (h *Host) clickhouseTarget(o TargetOptions) (c *clickhouse.Client, where, collection string, err error) {
	if c, where, err = h.targetServer(o); err != nil {
		return nil, "", "", err
	}
	collection = o.ClickHouseCollection
	unnamed := fmt.Errorf("restore clickhouse: drill.target.clickhouse.backup_collection has no name for the repository of %s; name the server's collection for it (--clickhouse-collection)", o.Of)
	if r := o.ClickHouseRegion; r == "" {
		collection = cmp.Or(collection, h.o.Fleet.Drill.Target.ClickHouse.BackupCollection[o.Of])
	} else {
		unnamed = fmt.Errorf("restore clickhouse to %s: name the named collection on that server that leads to the repository of %s (--clickhouse-collection)", r, o.Of)
		if r == o.Of {
			collection = cmp.Or(collection, h.o.Fleet.Regions[r].ClickHouse.BackupCollection)
		}
	}
	if collection == "" {
		return nil, "", "", errors.Join(unnamed, c.Close())
	}
	return c, where, collection, nil
}

// targetServer opens a region's server, or that of drills, and names it.
func (h *Host) targetServer(o TargetOptions) (c *clickhouse.Client, where string, err error) {
	if r := o.ClickHouseRegion; r != "" {
		conf := h.o.Fleet.Regions[r].ClickHouse
		if conf == nil {
			return nil, "", fmt.Errorf("restore clickhouse: region %s has none", r)
		}
		c, err = OpenClickHouse(r, conf, h.dial)
		return c, fmt.Sprintf("clickhouse of %s, %s", r, strings.Join(conf.Addresses, ", ")), err
	}
	if h.o.Fleet.Drill == nil || h.o.Fleet.Drill.Target.ClickHouse == nil {
		return nil, "", errors.New("restore clickhouse: the fleet file names no server for it (drill.target.clickhouse); name a region's (--clickhouse-region)")
	}
	conf := h.o.Fleet.Drill.Target.ClickHouse
	c, err = openDrillClickHouse(conf, h.dial)
	return c, "the clickhouse of drills, " + strings.Join(conf.Addresses, ", "), err
}

func openDrillClickHouse(conf *config.DrillClickHouse, dial Dial) (*clickhouse.Client, error) {
	return openClickHouse("of drills", conf.Addresses, "default", conf.User, conf.Password, conf.TLS, dial)
}

// drillTargets opens the targets of the fleet file for what a set contains.
func (h *Host) drillTargets(run string, of topology.Region, seal backup.Seal) ([]restore.Target, func() error, error) {
	conf, o := h.o.Fleet.Drill.Target, TargetOptions{Run: run, Of: of, Drill: true}
	if _, has := seal.Part(backup.ClickHouse); has && conf.ClickHouse != nil {
		o.ClickHouseDatabase = conf.ClickHouse.DatabasePrefix + "_" + strings.ToLower(run)
	}
	if _, has := seal.Part(backup.Postgres); has && conf.Postgres != nil {
		o.PostgresDirectory = conf.Postgres.Directory
	}
	return h.Targets(o)
}

// Sweep takes away whatever drills of this fleet have left on their targets, of
// any run, and says what it was. No drill may be under way.
func (h *Host) Sweep(ctx context.Context) (gone []string, err error) {
	if h.o.Fleet.Drill == nil {
		return nil, nil
	}
	conf := h.o.Fleet.Drill.Target
	var errs []error
	if conf.ClickHouse != nil {
		client, err := openDrillClickHouse(conf.ClickHouse, h.dial)
		if err != nil {
			return nil, err
		}
		defer func() { _ = client.Close() }() // what it did has been answered
		left, err := clickhousestore.Leftovers(ctx, client)
		errs = append(errs, err)
		for _, run := range left {
			if !strings.HasPrefix(run, h.drillsMark()) {
				continue
			}
			database := conf.ClickHouse.DatabasePrefix + "_" + strings.TrimPrefix(run, h.drillsMark())
			t, err := clickhousestore.New(clickhousestore.Config{Client: client, Host: "the clickhouse of drills", Database: database, Collection: "none", Run: run, Log: h.log})
			gone, errs = swept(ctx, t, err, gone, errs)
		}
	}
	if conf.Postgres != nil {
		runs, err := postgresstore.Leftovers(conf.Postgres.Directory)
		errs = append(errs, err)
		for _, run := range runs {
			if !strings.HasPrefix(run, h.drillsMark()) {
				continue
			}
			t, err := postgresstore.New(postgresstore.Config{Directory: conf.Postgres.Directory, Run: run, BinDir: conf.Postgres.Bin, User: conf.Postgres.User, Log: h.log})
			gone, errs = swept(ctx, t, err, gone, errs)
		}
	}
	return gone, errors.Join(errs...)
}

func swept(ctx context.Context, t restore.Target, err error, gone []string, errs []error) ([]string, []error) {
	if err == nil {
		err = t.Remove(ctx)
	}
	if err != nil {
		return gone, append(errs, err)
	}
	return append(gone, t.Where()), errs
}

// clickhouseTarget is a scratch database that can be handed over.
type clickhouseTarget struct {
	*clickhousestore.Target
	client *clickhouse.Client
	drill  bool
}

// Check implements restore.Target. The fleet file keeps drills off the
// addresses of production; this sees a server behind another name too.
func (t *clickhouseTarget) Check(ctx context.Context, m *backup.Manifest) ([]restore.Obstacle, error) {
	found, err := t.Target.Check(ctx, m)
	if err != nil || !t.drill {
		return found, err
	}
	id, err := t.client.ServerUUID(ctx)
	if err == nil && id != "" && id == m.Store.ID {
		found = append(found, restore.Obstacle{
			What: "the clickhouse of drills is the very server that the set was taken from (" + id + ")",
			Next: "name another server in drill.target.clickhouse: a drill belongs on an isolated one",
		})
	}
	return found, err
}

// Keep implements Keeper.
func (t *clickhouseTarget) Keep(ctx context.Context) ([]string, error) {
	if err := t.Target.Keep(ctx); err != nil {
		return nil, err
	}
	return []string{"merges run again, and rows past their TTL go with the next one; views and tables that feed others were not made"}, nil
}

// postgresTarget is a scratch cluster that can be handed over.
type postgresTarget struct {
	*postgresstore.Target
	m *backup.Manifest
}

var (
	_ Starter = (*postgresTarget)(nil)
	_ Keeper  = (*postgresTarget)(nil)
	_ Keeper  = (*clickhouseTarget)(nil)

	_ Commander = (*postgresTarget)(nil)
)

// Restore implements restore.Target.
func (t *postgresTarget) Restore(ctx context.Context, m *backup.Manifest, src backup.Source, progress func(backup.Progress)) error {
	t.m = m
	return t.Target.Restore(ctx, m, src, progress)
}

// Start implements Starter.
func (t *postgresTarget) Start(ctx context.Context) (string, error) {
	if err := t.Target.Start(ctx, t.m); err != nil {
		return "", err
	}
	return "psql \"" + t.ConnString() + "\"", nil
}

// Keep implements Keeper.
func (t *postgresTarget) Keep(ctx context.Context) ([]string, error) {
	if err := t.Target.Keep(ctx); err != nil {
		return nil, err
	}
	return []string{"the server is stopped; the owner of the folder can start it"}, nil
}
