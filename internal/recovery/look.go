package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Looked is one thing that backups or drills need, looked at now.
type Looked struct {
	Name   string // "repository", "postgres for backups", "clickhouse of drills"
	Detail string // what was found, when it is well
	Err    error
	Fix    string // what to do about it
	Took   time.Duration
}

// LookBackup looks whether a region's repository can be listed and written to,
// and whether its Postgres would give a base backup. It leaves one small
// object, always the same.
func (h *Host) LookBackup(ctx context.Context, region topology.Region) []Looked {
	conf := h.o.Fleet.Regions[region]
	var out []Looked
	if conf.Repository != nil {
		out = append(out, look("repository", fmt.Sprintf("are endpoint, keys and tls of regions.%s.repository right, and may the keys list, read and write?", region), func() (string, error) {
			return h.lookRepository(ctx, region)
		}))
	}
	if conf.Postgres != nil {
		out = append(out, look("postgres for backups", "the role needs LOGIN, REPLICATION and pg_read_all_data, and a replication line in pg_hba.conf", func() (string, error) {
			return lookPostgres(ctx, region, conf.Postgres, h.dial)
		}))
	}
	return out
}

// LookDrill looks at the places that drills restore to.
func (h *Host) LookDrill(ctx context.Context) []Looked {
	if h.o.Fleet.Drill == nil {
		return nil
	}
	var out []Looked
	if conf := h.o.Fleet.Drill.Target.ClickHouse; conf != nil {
		out = append(out, look("clickhouse of drills", "are addresses, user and password of drill.target.clickhouse right, and does it run?", func() (string, error) {
			client, err := openDrillClickHouse(conf, h.dial)
			if err != nil {
				return "", err
			}
			defer func() { _ = client.Close() }() // nothing was written through it
			return client.Version(ctx)
		}))
	}
	for _, region := range h.o.Fleet.DrillOf() {
		out = append(out, look("sets of "+string(region)+" for drills", fmt.Sprintf("may the keys of regions.%s.repository read here, and does drill.identity fit its recipient?", region), func() (string, error) {
			a, err := h.open(ctx, region, h.o.Fleet.Drill.Identity.Resolve)
			if err != nil {
				return "", err
			}
			defer a.Close()
			return newestSet(ctx, a)
		}))
	}
	return out
}

func look(name, fix string, at func() (string, error)) Looked {
	start := time.Now()
	detail, err := at()
	return Looked{Name: name, Detail: detail, Err: err, Fix: fix, Took: time.Since(start)}
}

func (h *Host) lookRepository(ctx context.Context, region topology.Region) (string, error) {
	a, err := h.open(ctx, region, nil)
	if err != nil {
		return "", err
	}
	defer a.Close()
	dialect, err := a.bucket.Probe(ctx)
	if err != nil {
		return "", err
	}
	said := "conditional puts are honoured"
	if !dialect.ConditionalPut {
		said = "no conditional puts: unique names carry the safety"
	}
	newest, err := newestSet(ctx, a)
	return newest + "; " + said, err
}

func newestSet(ctx context.Context, a *archive) (string, error) {
	sets, err := a.Sets(ctx)
	if err != nil {
		return "", err
	}
	if len(sets) == 0 {
		return "no set yet", nil
	}
	seal, _, err := a.Seal(ctx, sets[0])
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d sets, the newest is %s old", len(sets), seal.Age(time.Now()).Round(time.Second)), nil
}

func lookPostgres(ctx context.Context, region topology.Region, p *config.Postgres, dial Dial) (string, error) {
	client, err := openPostgres(region, p, dial)
	if err != nil {
		return "", err
	}
	conn, err := client.Replication(ctx)
	if err != nil {
		return "", err
	}
	version, err := client.Version(ctx)
	return version + ", gives base backups", errors.Join(err, conn.Close(ctx))
}
