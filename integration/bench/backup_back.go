package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/restore"
	chrestore "github.com/holdfast-dr/holdfast/restore/clickhouse"
	pgrestore "github.com/holdfast-dr/holdfast/restore/postgres"
)

// readers is how many objects are read at once: as many as a repository reads.
const readers = 4

// backPostgres verifies and restores what was taken, beside a plain GET of
// every object and a cp of what was restored.
func (r *rig) backPostgres(ctx context.Context, p *postgresReport, m *backup.Manifest) error {
	verify, get, err := r.verifyWays(ctx, m)
	if err != nil {
		return err
	}
	var x *pgrestore.Target
	remove := func(ctx context.Context) error {
		if x == nil {
			return nil
		}
		return x.Remove(ctx)
	}
	defer func() { _ = remove(context.WithoutCancel(ctx)) }()
	var began, wrote time.Time
	var writes []run
	n := 0
	back := &way{
		name: "restore",
		prepare: func(ctx context.Context) error {
			if err := remove(ctx); err != nil {
				return err
			}
			n++
			x, err = pgrestore.New(pgrestore.Config{Directory: r.dir, Run: fmt.Sprint(n), BinDir: r.postgres.BinDir(), User: "nobody"})
			return err
		},
		do: func(ctx context.Context) error {
			began = time.Now()
			return x.Restore(ctx, m, r.repository, func(backup.Progress) { wrote = time.Now() })
		},
		after: func(ctx context.Context, _ run) error {
			writes = append(writes, run{Seconds: wrote.Sub(began).Seconds()})
			began := time.Now()
			c, err := x.Compare(ctx, m, nil)
			p.CompareAllSeconds = round2(time.Since(began).Seconds())
			return errors.Join(err, proven(c), x.Stop(ctx)) // what is copied stands still
		},
	}
	to := filepath.Join(r.dir, "copy")
	copied := &way{
		name:    "cp",
		prepare: func(context.Context) error { return os.RemoveAll(to) },
		do: func(ctx context.Context) error {
			return exec.CommandContext(ctx, "cp", "-a", filepath.Join(x.Where(), "data"), to).Run()
		},
	}
	c := contest{rounds: r.o.rounds, warmUp: true, peaks: true}
	for _, ways := range [][]*way{{verify, get}, {back, copied}} {
		if err := c.hold(ctx, ways, nil); err != nil {
			return err
		}
	}
	writes = writes[len(writes)-len(back.runs):] // the warm-up is in it
	p.Verify, p.Restore, p.Copy = median(verify.runs), median(back.runs), median(copied.runs)
	p.VerifyTimesGet = timesOf(verify.runs, get.runs)
	p.WriteTimesCopy, p.RestoreTimesCopy = wallOnly(timesOf(writes, copied.runs)), wallOnly(timesOf(back.runs, copied.runs))
	return nil
}

// backClickHouse verifies and restores what was taken, beside a plain GET of
// every object and the bare statement on a bare backup.
func (r *rig) backClickHouse(ctx context.Context, c *clickhouseReport, m *backup.Manifest, bareAt string) error {
	verify, get, err := r.verifyWays(ctx, m)
	if err != nil {
		return err
	}
	var x *chrestore.Target
	n := 0
	back := &way{
		name: "restore",
		prepare: func(ctx context.Context) error {
			if x != nil {
				if err := x.Remove(ctx); err != nil {
					return err
				}
			}
			n++
			x, err = chrestore.New(chrestore.Config{Client: r.clickhouseClient, Host: r.clickhouse.Address(), Database: "scratch", Collection: collection, Run: fmt.Sprint(n)})
			return err
		},
		do: func(ctx context.Context) error { return x.Restore(ctx, m, nil, nil) },
		after: func(ctx context.Context, _ run) error {
			began := time.Now()
			found, err := x.Compare(ctx, m, nil)
			c.CompareAllSeconds = round2(time.Since(began).Seconds())
			return errors.Join(err, proven(found))
		},
	}
	native := &way{
		name: "native RESTORE",
		prepare: func(ctx context.Context) error {
			return r.statements(ctx, "DROP DATABASE IF EXISTS "+plain+" SYNC", "CREATE DATABASE "+plain)
		},
		do: func(ctx context.Context) error {
			return r.statement(ctx, "RESTORE TABLE "+source+"."+table+" AS "+plain+"."+table+" FROM S3("+collection+", "+clickhouse.Literal(bareAt)+")")
		},
	}
	hold := contest{rounds: r.o.rounds, warmUp: true, peaks: true}
	for _, ways := range [][]*way{{verify, get}, {back, native}} {
		if err := hold.hold(ctx, ways, nil); err != nil {
			return err
		}
	}
	c.Verify, c.Restore, c.Native = median(verify.runs), median(back.runs), median(native.runs)
	c.VerifyTimesGet, c.RestoreTimesNative = timesOf(verify.runs, get.runs), wallOnly(timesOf(back.runs, native.runs))
	return nil
}

// proven refuses figures of a restore that did not bring everything back.
func proven(c restore.Comparison) error {
	if c.Different > 0 || c.Units == 0 {
		return fmt.Errorf("%d of %d differ from the manifest: %v", c.Different, c.Units, c.Differences)
	}
	return nil
}

// verifyWays are verify --read-data, and a GET of the same objects.
func (r *rig) verifyWays(ctx context.Context, m *backup.Manifest) (verify, get *way, err error) {
	var keys []string
	for _, b := range m.Blobs {
		keys = append(keys, b.Key)
	}
	for _, p := range m.Packs {
		x, err := r.repository.PackIndex(ctx, p)
		if err != nil {
			return nil, nil, err
		}
		for _, o := range x.Objects {
			keys = append(keys, backup.PackPrefix(m.Engine, p.ID)+o.Name)
		}
	}
	verify = &way{name: "verify --read-data", do: func(ctx context.Context) error {
		v, err := r.repository.Verify(ctx, m, true, nil)
		if err == nil && (v.Broken > 0 || v.Objects < len(keys)) {
			err = fmt.Errorf("%d of %d objects are broken: %+v", v.Broken, v.Objects, v.Findings)
		}
		return err
	}}
	get = &way{name: "GET of all objects", do: func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(readers)
		for _, key := range keys {
			g.Go(func() error {
				body, _, err := r.bucket.Open(ctx, key)
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, body)
				return errors.Join(err, body.Close())
			})
		}
		return g.Wait()
	}}
	return verify, get, nil
}
