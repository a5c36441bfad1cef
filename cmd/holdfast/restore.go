package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

const restoreHelp = `
Everything goes into a place of its own, never over something that exists:
ClickHouse into a database that it makes (on the server for drills, or with
--clickhouse-region on the server of that region), Postgres into a directory that
it makes below --postgres-directory. Offsets of consumer groups are shown by
backup show --offsets, and written to no broker. No daemon and no quorum is
needed: the fleet file, the repository's keys, the fleet's certificates and the
age identity are enough.
`

func restoreVerb(a *app) *cobra.Command {
	return group("restore", "Bring a recovery set back, into places of its own", restorePlan(a), restoreRun(a))
}

// wish is what is to be restored, and to where, as flags.
type wish struct {
	where
	engines    []string
	identity   string
	to         recovery.TargetOptions
	toRegion   string
	start      bool
	keepFailed bool
}

func (w *wish) flags(f *pflag.FlagSet) {
	w.where.flags(f)
	f.StringSliceVar(&w.engines, "engine", nil, "`engine` to restore, repeatable (default: all of the set)")
	f.StringVar(&w.identity, "identity", "", "`file` with the age identity that decrypts the set (default: drill.identity)")
	f.StringVar(&w.to.ClickHouseDatabase, "clickhouse-database", "", "`name` of the database to make")
	f.StringVar(&w.toRegion, "clickhouse-region", "", "`region` on whose server it is made (default: the server for drills)")
	f.StringVar(&w.to.ClickHouseCollection, "clickhouse-collection", "", "`name` of that server's collection for the repository (default: as configured)")
	f.StringVar(&w.to.PostgresDirectory, "postgres-directory", "", "`directory` to make the data directory in")
	f.StringVar(&w.to.PostgresBin, "postgres-bin", "", "`directory` of the server's programs (default: the drill's)")
	f.StringVar(&w.to.PostgresUser, "postgres-user", "", "`user` to run it as when we are root (default: the drill's)")
}

func restorePlan(a *app) *cobra.Command {
	var w wish
	c := &cobra.Command{
		Use:   "plan SET|latest",
		Short: "Show what a restore would read, where it would put it, and what is in the way; changes nothing",
		Long: `Reads the set, looks at the places it would go to, and says how much is read, how
old the data is, what does not come back, and what is in the way.
` + restoreHelp + `
  holdfast restore plan latest --region us-east \
    --clickhouse-database restored --postgres-directory /srv/restore

It ends with 3 when something is in the way.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			j, err := a.restorePlan(c, w, args[0])
			if err != nil {
				return err
			}
			defer j.close(a)
			if err := a.show(j.plan, func() string { return renderRestorePlan(j.plan, j.vault) }); err != nil {
				return err
			}
			return j.refused()
		},
	}
	w.flags(c.Flags())
	return c
}

func restoreRun(a *app) *cobra.Command {
	var w wish
	c := &cobra.Command{
		Use:   "run SET|latest",
		Short: "Restore a recovery set into places of its own, and compare it with what was counted",
		Long: `Shows the plan, then reads and hashes every object before any server is touched,
restores each part, and compares structure, counts and content with the manifest.
What fails is taken away again (--keep-failed leaves it); what was restored and is
equal stays. --start leaves Postgres running and says how to connect.
` + restoreHelp + `
  holdfast restore run latest --region us-east --engine postgres \
    --postgres-directory /srv/restore --postgres-bin /usr/lib/postgresql/14/bin --start
  holdfast restore run 01KJN9Z --engine clickhouse --clickhouse-database restored \
    --identity /media/key/age.txt

It ends with 0 when all is restored and equal, 1 when it failed, and 3 when
something was in the way and nothing was touched.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.restoreRun(c, w, args[0]) },
	}
	w.flags(c.Flags())
	c.Flags().BoolVar(&w.start, "start", false, "leave the restored server running, and say how to connect")
	c.Flags().BoolVar(&w.keepFailed, "keep-failed", false, "leave what was made when the restore fails, to look at it")
	return c
}

// restoring is a restore that was planned.
type restoring struct {
	found
	vault   string
	loaded  restore.Loaded
	targets []restore.Target
	closing func() error
	plan    restore.Plan
}

func (j *restoring) close(a *app) {
	if err := j.closing(); err != nil {
		a.say("note: %s", oneLine(err.Error()))
	}
}

// refused is the exit code of a plan with something in the way.
func (j *restoring) refused() error {
	if len(j.plan.Obstacles()) > 0 {
		return ended{exitRefused}
	}
	return nil
}

// restorePlan reads the set and looks at the places that it would go to.
func (a *app) restorePlan(c *cobra.Command, w wish, name string) (*restoring, error) {
	ctx := c.Context()
	engines, err := enginesOf(c, w.engines)
	if err != nil {
		return nil, err
	}
	d, err := a.depot(c, w.where)
	if err != nil {
		return nil, err
	}
	if r := topology.Region(w.toRegion); r != "" && d.fleet.Regions[r].ClickHouse == nil {
		return nil, usagef(c, "--clickhouse-region %s: the fleet file has no clickhouse there", r)
	}
	key := identity(d.fleet, w.identity)
	f, err := d.find(ctx, a, name, key)
	if err != nil {
		return nil, err
	}
	book := a.logbook(ctx)
	l, err := restore.Load(ctx, f.archive, f.set, book.digest(f.set))
	if err != nil {
		return nil, err
	}
	to := w.to
	to.Run, to.Of, to.ClickHouseRegion = ulid.Make().String(), f.region, topology.Region(w.toRegion)
	targets, closing, err := d.vaults.Targets(to)
	if err != nil {
		return nil, fmt.Errorf("open the places to restore to: %w", err)
	}
	j := &restoring{found: f, vault: f.archive.Name(), loaded: l, targets: targets, closing: closing}
	j.plan, err = restore.MakePlan(ctx, l, targets, restore.PlanOptions{Now: a.now(), Engines: engines, Rate: f.rate(ctx)})
	if err != nil {
		j.close(a)
		return nil, err
	}
	j.needKey(key)
	return j, nil
}

// needKey looks whether the identity can be had, before gigabytes are verified
// that could not be decrypted. The error names no secret.
func (j *restoring) needKey(key func() (string, error)) {
	for _, part := range j.plan.Parts {
		if !part.Restored || len(j.loaded.Manifests[part.Engine].Blobs) == 0 {
			continue
		}
		if _, err := key(); err != nil {
			j.plan.Blocked = append(j.plan.Blocked, restore.Obstacle{What: err.Error(), Next: "--identity FILE with the private age key of the repository's recipient"})
		}
		return
	}
}

// identity reads the age identity from a file, else from where drills have it.
func identity(fleet *config.Fleet, file string) func() (string, error) {
	return func() (string, error) {
		if file == "" {
			if fleet.Drill == nil {
				return "", errors.New("no age identity to decrypt the set with: the fleet file names none (drill.identity)")
			}
			return fleet.Drill.Identity.Resolve()
		}
		path, err := filepath.Abs(file)
		if err != nil {
			return "", fmt.Errorf("find the identity %s: %w", file, err)
		}
		var s config.Secret
		if err := s.UnmarshalText([]byte("file:" + path)); err != nil {
			return "", fmt.Errorf("read the identity %s: %w", file, err)
		}
		return s.Resolve()
	}
}

// rateSets bounds the sets that are looked through for a drill.
const rateSets = 5

// rate is how fast the last drill of this repository was, in bytes per second;
// 0 when there is none, or it cannot be read: it is for an estimate only.
func (s shelf) rate(ctx context.Context) int64 {
	for _, set := range s.sets[:min(rateSets, len(s.sets))] {
		drills, err := found{s, set}.drills(ctx, 1)
		if err != nil {
			return 0
		}
		if len(drills) > 0 && drills[0].Report.OK && drills[0].Report.RTOMs > 0 {
			return drills[0].Report.Bytes * 1000 / drills[0].Report.RTOMs
		}
	}
	return 0
}

// restored is the result of restore run.
type restored struct {
	Plan    restore.Plan    `json:"plan"`
	Outcome restore.Outcome `json:"outcome"`
	Places  []place         `json:"places"`
	Error   string          `json:"error,omitempty"`
}

// place is where one part is now.
type place struct {
	Engine  backup.Engine `json:"engine"`
	Where   string        `json:"where"`
	Connect string        `json:"connect,omitempty"` // how to connect; empty: it was not started
	Notes   []string      `json:"notes,omitempty"`
}

func (a *app) restoreRun(c *cobra.Command, w wish, name string) error {
	ctx := c.Context()
	j, err := a.restorePlan(c, w, name)
	if err != nil {
		return err
	}
	defer j.close(a)
	r := restored{Plan: j.plan, Places: []place{}}
	if err := j.refused(); err != nil {
		return errors.Join(a.show(r, func() string { return renderRestorePlan(j.plan, j.vault) }), err)
	}
	if !a.json {
		if err := a.show(nil, func() string { return renderRestorePlan(j.plan, j.vault) + "\n" }); err != nil {
			return err
		}
	}
	g := a.gauge(ctx)
	r.Outcome, err = restore.Run(ctx, j.archive, j.plan, j.loaded, j.targets, restore.RunOptions{Keep: w.keepFailed, Progress: g.show})
	g.end()
	if err == nil {
		err = j.handOver(ctx, w.start, &r)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return errors.Join(a.show(r, func() string { return renderRestored(r) }), err)
}

// handOver makes what was restored and compared a person's: what protected it
// during the comparison ends, and with start its server is left running.
func (j *restoring) handOver(ctx context.Context, start bool, r *restored) error {
	var all error
	for _, t := range j.targets {
		p := place{Engine: t.Engine(), Where: t.Where()}
		if k, ok := t.(recovery.Keeper); ok {
			notes, err := k.Keep(ctx)
			if err != nil {
				all = errors.Join(all, fmt.Errorf("%s is restored and equal in %s, but it could not be handed over: %w", p.Engine, p.Where, err))
			}
			p.Notes = notes
		}
		if s, ok := t.(recovery.Starter); ok && start {
			connect, err := s.Start(ctx)
			if err != nil {
				all = errors.Join(all, fmt.Errorf("%s is restored and equal in %s, but its server could not be started: %w", p.Engine, p.Where, err))
			}
			p.Connect = connect
		}
		r.Places = append(r.Places, p)
	}
	return all
}
