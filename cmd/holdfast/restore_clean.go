package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func restoreClean(a *app) *cobra.Command {
	var w where
	var to recovery.TargetOptions
	var toRegion string
	var yes bool
	c := &cobra.Command{
		Use:   "clean [RESTORE...]",
		Short: "List the places that killed restores have left, and with --yes remove those named",
		Long: `Looks where restores go (the targets of drills, or what the flags name) for places
that a restore run made and neither handed over nor took away: it was killed, or
--keep-failed left them. What was restored and handed over, what drills make, and
what holdfast has not made is never listed and never removed.

A restore that is still at work looks the same from here. So nothing is removed
unless it is named: an id may be shortened as long as it is unique.

  holdfast restore clean
  holdfast restore clean --clickhouse-region us-east --postgres-directory /srv/restore
  holdfast restore clean 01KJN9Z --yes

It ends with 0 when it has listed or removed them, and with 1 when one is still there.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if yes && len(args) == 0 {
				return usagef(c, "--yes removes what is named: `holdfast restore clean` lists what there is")
			}
			d, err := a.depot(c, w)
			if err != nil {
				return err
			}
			if r := topology.Region(toRegion); r != "" && d.fleet.Regions[r].ClickHouse == nil {
				return usagef(c, "--clickhouse-region %s: the fleet file has no clickhouse there", r)
			}
			to.ClickHouseRegion = topology.Region(toRegion)
			if to.PostgresDirectory, err = absolute(to.PostgresDirectory); err != nil {
				return err
			}
			places, closeAll, err := d.vaults.Abandoned(c.Context(), to)
			defer func() { _ = closeAll() }() // what it did has been answered
			if errors.Is(err, recovery.ErrNowhere) {
				return usagef(c, "%s", err)
			}
			if err != nil {
				return err
			}
			l := cleaned{At: a.now().UTC(), Places: []cleanedPlace{}, flags: placeFlags(toRegion, to.PostgresDirectory)}
			for _, p := range places {
				l.Places = append(l.Places, cleanedPlace{Abandoned: p})
			}
			if err := l.only(c, args); err != nil {
				return err
			}
			if yes {
				l.Removed, err = true, l.remove(c.Context())
			}
			return errors.Join(a.show(l, func() string { return renderCleaned(l, len(args) > 0) }), err)
		},
	}
	f := c.Flags()
	f.StringVar(&toRegion, "clickhouse-region", "", "`region` on whose server to look (default: the server for drills)")
	f.StringVar(&to.PostgresDirectory, "postgres-directory", "", "`directory` to look in (default: the drill's)")
	f.StringVar(&w.ca, "ca", "", "`file` with the certificates of the fleet (default: tls.ca of the node)")
	f.BoolVar(&yes, "yes", false, "remove the places of the restores that are named")
	return c
}

// placeFlags are the flags that name where a restore goes.
func placeFlags(region, directory string) (out string) {
	if region != "" {
		out += " --clickhouse-region " + region
	}
	if directory != "" {
		out += " --postgres-directory " + directory
	}
	return out
}

// cleaned is the result of restore clean.
type cleaned struct {
	At      time.Time      `json:"at"`
	Removed bool           `json:"removed"` // it was asked for
	Places  []cleanedPlace `json:"places"`
	flags   string         // that named where to look
}

// cleanedPlace is one place that a restore left.
type cleanedPlace struct {
	recovery.Abandoned
	Gone  bool   `json:"gone"`
	Error string `json:"error,omitempty"` // why it is still there
}

// only leaves the places of the restores that are named: each name must mean
// exactly one.
func (l *cleaned) only(c *cobra.Command, names []string) error {
	if len(names) == 0 {
		return nil
	}
	meant := map[string]bool{}
	for _, name := range names {
		runs := map[string]bool{}
		for _, p := range l.Places {
			if name != "" && strings.HasPrefix(p.Run, strings.ToUpper(name)) {
				runs[p.Run], meant[p.Run] = true, true
			}
		}
		if len(runs) != 1 {
			return usagef(c, "%s that left a place start with %q: `holdfast restore clean` lists them", some(len(runs), "restore"), name)
		}
	}
	l.Places = slices.DeleteFunc(l.Places, func(p cleanedPlace) bool { return !meant[p.Run] })
	return nil
}

func (l *cleaned) remove(ctx context.Context) error {
	var all error
	for i := range l.Places {
		p := &l.Places[i]
		if err := p.Remove(ctx); err != nil {
			p.Error = err.Error()
			all = errors.Join(all, fmt.Errorf("%s of restore %s is still there: %w", p.Engine, p.Run, err))
			continue
		}
		p.Gone = true
	}
	return all
}

func renderCleaned(l cleaned, named bool) string {
	var p page
	if len(l.Places) == 0 {
		p.line("No restore has left a place.")
		return p.String()
	}
	if l.Removed {
		for _, at := range l.Places {
			state := "removed"
			if !at.Gone {
				state = "STILL THERE"
			}
			p.line("%s: %s, %s", state, at.Engine, at.Where)
		}
		return p.String()
	}
	p.line("Restores have left %s, neither handed over nor taken away. Nothing has been changed.", some(len(l.Places), "place"))
	var runs []string
	for _, at := range l.Places {
		if !slices.Contains(runs, at.Run) {
			runs = append(runs, at.Run)
			p.line("")
			p.line("%s, begun %s, %s ago", at.Run, when(at.Began, l.At), age(l.At.Sub(at.Began)))
		}
		p.line("  %s: %s", at.Engine, at.Where)
	}
	p.line("")
	p.line("A restore that is still at work looks the same: make sure that none runs, on any host.")
	if !named {
		runs = []string{"RESTORE..."}
	}
	p.line("Remove them: holdfast restore clean %s%s --yes", strings.Join(runs, " "), l.flags)
	return p.String()
}
