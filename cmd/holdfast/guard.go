package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/guard"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// whereEvery is how often guard asks a silent daemon which region this is.
const whereEvery = time.Second

func guardVerb(a *app) *cobra.Command {
	var role, region string
	var grace time.Duration
	var once bool
	var l logFlag
	c := &cobra.Command{
		Use:   "guard --role ROLE -- COMMAND [ARGUMENT...]",
		Short: "Run a command only while this region holds a role, and end it in time",
		Long: `Runs a command while this region holds the role, and ends it (TERM, then KILL)
within the lease's margin when it does not. It waits for the role, and starts the
command anew with each grant, with HOLDFAST_ROLE, HOLDFAST_REGION, HOLDFAST_EPOCH
and HOLDFAST_GENERATION in its environment. It keeps the last deadline itself: a
daemon that restarts does not stop the command.

It ends with the command's own exit code, with 126 or 127 when the command could
not be started, or with 0 when it was told to stop.`,
		Args: func(c *cobra.Command, args []string) error {
			if role == "" {
				return usagef(c, "say which role: --role ROLE")
			}
			if len(args) == 0 || c.ArgsLenAtDash() != 0 {
				return usagef(c, "say what to run, after two dashes: -- COMMAND [ARGUMENT...]")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			log, err := l.logger(c, a.err)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			boot, err := clock.BootID()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program, which keeps the command too: %w", err)
			}
			where := topology.Region(region)
			if where == "" {
				if where, err = whereAmI(c.Context(), client, log); err != nil {
					return err
				}
			}
			code, err := guard.Run(c.Context(), guard.Config{
				Role: topology.Role(role), Region: where, Argv: args, Env: os.Environ(), Daemon: guardDaemon{client},
				Rules: guard.Rules{BootID: boot, TermGrace: grace, Once: once}, Keeper: []string{self, keeperVerbName}, Log: log.With("role", role),
				Stdin: asFile(a.stdin), Stdout: asFile(a.out), Stderr: asFile(a.err),
			})
			if err != nil {
				return err
			}
			return ended{exit(code)}
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "", "`role` that the command belongs to")
	f.StringVar(&region, "region", "", "`region` of this host (default: as the daemon says)")
	f.DurationVar(&grace, "grace", 0, "time between TERM and KILL (default, and at most: half the lease's margin)")
	f.BoolVar(&once, "once", false, "end when the command ends by itself, instead of starting it again")
	l.add(c)
	return c
}

// keeperVerbName is the hidden verb of the process that ends a command whose
// guard is stopped or dead.
const keeperVerbName = "guard-keeper"

func keeperVerb(a *app) *cobra.Command {
	return &cobra.Command{
		Use: keeperVerbName, Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return ended{exit(guard.Keep(a.stdin, clock.System()))} },
	}
}

// whereAmI asks the daemon for the region of this host until it answers, or
// ctx ends.
func whereAmI(ctx context.Context, client *httpapi.Client, log *slog.Logger) (topology.Region, error) {
	said := false
	for {
		region, err := regionOf(ctx, client)
		var wrong usage
		switch {
		case err == nil, errors.As(err, &wrong):
			return region, err
		case ctx.Err() != nil:
			return "", ended{exitDone} // told to stop before there was anything to run
		case !said:
			said = true
			log.Warn("the daemon does not say yet which region this is; asking on", "error", err)
		}
		select {
		case <-time.After(whereEvery):
		case <-ctx.Done():
		}
	}
}

func regionOf(ctx context.Context, client *httpapi.Client) (topology.Region, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	m, err := client.Members(ctx)
	if err != nil {
		return "", err
	}
	for _, n := range m.Members {
		if n.Node != s.Node {
			continue
		}
		if n.Region == "" {
			return "", usage{fmt.Sprintf("%s is a witness: it holds no role, and nothing runs under guard there", n.Node)}
		}
		return n.Region, nil
	}
	return "", fmt.Errorf("%s is not among the members that it lists", s.Node)
}

// guardDaemon lets a guard ask through the API.
type guardDaemon struct{ client *httpapi.Client }

// Ask implements guard.Daemon.
func (d guardDaemon) Ask(ctx context.Context, s guard.Status) (guard.Word, error) {
	w, err := d.client.Guard(ctx, httpapi.GuardStatus{
		ID: s.ID, Role: s.Role, Epoch: s.Epoch, PID: s.PID, Running: s.Running,
		AllowedUntil: int64(s.AllowedUntil), Held: s.Held, Gone: s.Gone,
	})
	if err != nil {
		return guard.Word{}, err
	}
	return guard.Word{
		Phase: w.Phase, Leased: w.Leased, Epoch: w.Epoch, Generation: w.Generation, Deadline: clock.Instant(w.Deadline),
		Held: w.Held, Margin: time.Duration(w.MarginNs), Now: clock.Instant(w.Now), BootID: w.Boot, Why: w.Why,
	}, nil
}

// asFile is the stream if it is a file; another one cannot be handed to a process.
func asFile(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}
