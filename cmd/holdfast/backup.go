package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func backupVerb(a *app) *cobra.Command {
	return group("backup", "Recovery sets: take, list, show and verify them",
		backupRun(a), backupList(a), backupShow(a), backupVerify(a), cancelVerb(a, recovery.KindBackup))
}

func backupRun(a *app) *cobra.Command {
	var w where
	var engines []string
	var detach, fresh bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Take a recovery set of a region now, and follow it",
		Long: `Lets the daemon of a region take a recovery set: consumer group offsets, then
ClickHouse, then Postgres, and last the signed seal, without which there is no
backup. It follows the run until it has ended; Ctrl-C stops following, and the
run goes on.

What earlier sets hold already is not sent again. After a drill found a set bad
the next one shares nothing with it by itself; after backup verify found damage,
say --fresh.

  holdfast backup run
  holdfast backup run --region us-east --engine postgres --detach
  holdfast backup list

It ends with 0 when the set is sealed and with 1 when the run failed, and with 3
when a backup of this region is under way.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			want := httpapi.StartBackup{Region: topology.Region(w.region), Fresh: fresh}
			var err error
			if want.Engines, err = enginesOf(c, engines); err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			id, err := client.StartBackup(c.Context(), want)
			if err != nil {
				return err
			}
			if detach {
				return a.detached(recovery.KindBackup, id)
			}
			a.say("Backup %s has begun.", id)
			r, err := a.followRun(c.Context(), client, recovery.KindBackup, id)
			if err != nil {
				return err
			}
			e, err := evidence(r)
			if err != nil {
				return err
			}
			t := taken{Run: r.ID, RunEvidence: e}
			if w.region = string(e.Region); w.region != "" {
				t.Seal = a.sealOf(c, w, e)
			}
			return a.show(t, func() string { return renderTaken(t) })
		},
	}
	c.Flags().StringVar(&w.region, "region", "", "`region` to back up (default: that of the daemon on this host)")
	c.Flags().StringVar(&w.ca, "ca", "", "`file` with the certificates that the seal is verified with (default: tls.ca of the node)")
	c.Flags().StringSliceVar(&engines, "engine", nil, "`engine` to take, repeatable (default: all that are configured)")
	c.Flags().BoolVar(&fresh, "fresh", false, "share no object with earlier sets: after one of them was found damaged")
	c.Flags().BoolVar(&detach, "detach", false, "return when the run has begun")
	return c
}

// taken is the result of backup run.
type taken struct {
	Run consensus.RunID `json:"run"`
	httpapi.RunEvidence
	Seal *backup.Seal `json:"seal,omitempty"` // as read back from the repository; nil when it could not be
}

// sealOf reads back from the repository what a run says it has sealed. What
// cannot be read is said, and no reason to call the backup failed.
func (a *app) sealOf(c *cobra.Command, w where, e httpapi.RunEvidence) *backup.Seal {
	seal, err := func() (*backup.Seal, error) {
		d, err := a.depot(c, w)
		if err != nil {
			return nil, err
		}
		archive, err := d.vaults.Archive(c.Context(), e.Region, nil)
		if err != nil {
			return nil, err
		}
		seal, digest, err := archive.Seal(c.Context(), e.Set)
		if err == nil && digest != e.Digest {
			err = fmt.Errorf("its SHA-256 is %.12s, the run says %.12s", digest, e.Digest)
		}
		return &seal, err
	}()
	if err != nil {
		a.unread("seal", err)
		return nil
	}
	return seal
}

// unread says what a host cannot read that its daemon has written. Without a
// fleet file of its own there is nothing to explain: the log has the figures.
func (a *app) unread(what string, err error) {
	_, said := a.configPath()
	var no usage
	if !said && errors.Is(err, fs.ErrNotExist) || errors.As(err, &no) {
		a.say("note: the %s was not read back: --config and --node name the fleet file and this host", what)
		return
	}
	a.say("note: the %s was not read back from here: %s", what, oneLine(err.Error()))
}

// enginesOf checks the names of engines.
func enginesOf(c *cobra.Command, names []string) ([]backup.Engine, error) {
	var out []backup.Engine
	for _, n := range names {
		e := backup.Engine(n)
		if !slices.Contains(backup.Engines(), e) {
			return nil, usagef(c, "--engine %s: want %s", n, words(backup.Engines()))
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// detached says how to look after a run that nobody follows.
func (a *app) detached(kind string, id consensus.RunID) error {
	return a.show(httpapi.RunStarted{Run: id}, func() string {
		return fmt.Sprintf("%s %s has begun: holdfast %s list\n", title(kind), id, kind)
	})
}

func title(kind string) string {
	if kind == recovery.KindDrill {
		return "Drill"
	}
	return "Backup"
}

// cancelled is the result of backup cancel and drill cancel.
type cancelled struct {
	Run consensus.RunID `json:"run"`
}

func cancelVerb(a *app, kind string) *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "cancel RUN",
		Short: "End a live " + kind + "; what it was making is taken away",
		Long: fmt.Sprintf(`Ends a %[1]s that is under way. The id may be shortened as long as it is unique:
holdfast %[1]s list shows it. Sets that are sealed are not touched.`, kind),
		Args: wants(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Run(c.Context(), consensus.RunID(args[0]))
			if err != nil {
				return err
			}
			if r.Run.Kind != kind {
				return usagef(c, "run %s is a %s: `holdfast %s cancel` ends it", r.ID, r.Run.Kind, r.Run.Kind)
			}
			if err := client.CancelRun(c.Context(), r.ID, why); err != nil {
				return err
			}
			return a.show(cancelled{r.ID}, func() string { return fmt.Sprintf("%s %s is cancelled.\n", title(kind), r.ID) })
		},
	}
	c.Flags().StringVar(&why, "reason", "cancelled by a person", "`why`, for the audit log")
	return c
}
