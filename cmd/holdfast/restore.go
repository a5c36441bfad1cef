package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

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
	return group("restore", "Bring a recovery set back, into places of its own", restorePlan(a), restoreRun(a), restoreClean(a))
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
		Args: wants(1, 1),
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
equal stays. --start leaves Postgres running and says how to connect. Ctrl-C takes
away what was made; after a kill, restore clean does.
` + restoreHelp + `
  holdfast restore run latest --region us-east --engine postgres \
    --postgres-directory /srv/restore --postgres-bin /usr/lib/postgresql/14/bin --start
  holdfast restore run 01KJN9Z --engine clickhouse --clickhouse-database restored \
    --identity /media/key/age.txt

It ends with 0 when all is restored and equal, 1 when it failed, and 3 when
something was in the way and nothing was touched.`,
		Args: wants(1, 1),
		RunE: func(c *cobra.Command, args []string) error { return a.restoreRun(c, w, args[0]) },
	}
	w.flags(c.Flags())
	c.Flags().BoolVar(&w.start, "start", false, "leave the restored server running, and say how to connect")
	c.Flags().BoolVar(&w.keepFailed, "keep-failed", false, "leave what was made when the restore fails, to look at it")
	return c
}

// clean is the command that takes away what a restore of this wish has left.
func (w *wish) clean(run string) string {
	return "holdfast restore clean " + run + placeFlags(w.toRegion, w.to.PostgresDirectory) + " --yes"
}

// restoring is a restore that was planned.
type restoring struct {
	found
	run     string
	clean   string // command that takes away what it leaves
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
	for _, path := range []*string{&w.to.PostgresDirectory, &w.to.PostgresBin} {
		if *path, err = absolute(*path); err != nil {
			return nil, err
		}
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
		return nil, usagef(c, "%s", err) // it dials nothing: what was asked for cannot be
	}
	j := &restoring{found: f, run: to.Run, clean: w.clean(to.Run), vault: f.archive.Name(), loaded: l, targets: targets, closing: closing}
	j.plan, err = restore.MakePlan(ctx, l, targets, restore.PlanOptions{Now: a.now(), Engines: engines, Rate: f.rate(ctx)})
	if err != nil {
		j.close(a)
		return nil, err
	}
	if err := j.needKey(ctx, key); err != nil {
		j.close(a)
		return nil, err
	}
	j.needPart()
	return j, nil
}

// needKey decrypts the smallest blob that the restore would read, before
// gigabytes are verified that could not be decrypted. No error names a secret.
func (j *restoring) needKey(ctx context.Context, key func() (string, error)) error {
	for _, part := range j.plan.Parts {
		m := j.loaded.Manifests[part.Engine]
		if !part.Restored || len(m.Pieces) == 0 {
			continue
		}
		block := func(what string) {
			j.plan.Blocked = append(j.plan.Blocked, restore.Obstacle{What: what, Next: "--identity FILE with the private age key of the repository's recipient"})
		}
		_, err := key()
		if err != nil {
			block(err.Error())
			return nil
		}
		least := slices.MinFunc(m.Pieces, func(a, b backup.Piece) int { return cmp.Compare(m.Blobs[a.Blob].Stored, m.Blobs[b.Blob].Stored) })
		err = j.archive.Pieces(ctx, m, []int{slices.Index(m.Pieces, least)}, func([]byte) error { return nil })
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, restore.ErrDamaged): // all that is damaged is found and named before a server is touched
		case err != nil:
			block("the set cannot be decrypted: " + err.Error())
		}
		return nil
	}
	return nil
}

// needPart refuses a restore that would restore nothing, and say that it did.
func (j *restoring) needPart() {
	if len(j.plan.Obstacles()) > 0 || slices.ContainsFunc(j.plan.Parts, func(p restore.PlanPart) bool { return p.Restored }) {
		return
	}
	j.plan.Blocked = append(j.plan.Blocked, restore.Obstacle{
		What: "nothing would be restored: offsets are written to no broker",
		Next: fmt.Sprintf("holdfast backup show %s --offsets", j.set),
	})
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
		text, err := s.Resolve()
		var read *fs.PathError
		if errors.As(err, &read) {
			return "", fmt.Errorf("the identity %s cannot be read: %w", file, read.Err)
		}
		if err != nil {
			return "", fmt.Errorf("the identity %s is none: %s", file, strings.TrimPrefix(err.Error(), "resolve secret "+s.Reference()+": "))
		}
		return text, nil
	}
}

// absolute is a path as a person means it who stands in a folder.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	out, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	return out, nil
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
	// Clean removes what is left when the restore failed or was killed.
	Clean string `json:"clean"`
}

// place is where one part is now.
type place struct {
	Engine  backup.Engine `json:"engine"`
	Where   string        `json:"where"`
	Connect string        `json:"connect,omitempty"` // how to connect; empty: it was not started
	Start   string        `json:"start,omitempty"`   // starts its server, as one shell line; empty: it runs, or there is none
	Notes   []string      `json:"notes,omitempty"`
}

func (a *app) restoreRun(c *cobra.Command, w wish, name string) error {
	ctx := c.Context()
	j, err := a.restorePlan(c, w, name)
	if err != nil {
		return err
	}
	defer j.close(a)
	r := restored{Plan: j.plan, Places: []place{}, Clean: j.clean}
	if err := j.refused(); err != nil {
		return errors.Join(a.show(r, func() string { return renderRestorePlan(j.plan, j.vault) }), err)
	}
	if !a.json {
		if err := a.show(nil, func() string { return renderRestorePlan(j.plan, j.vault) + "\n" }); err != nil {
			return err
		}
	}
	a.say("Restore %s. If it is killed, this takes away what it made: %s", j.run, r.Clean)
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
		if s, ok := t.(recovery.Commander); ok && p.Connect == "" {
			p.Start = s.Command()
		}
		r.Places = append(r.Places, p)
	}
	return all
}
