package main

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func failoverVerb(a *app) *cobra.Command {
	var m move
	c := &cobra.Command{
		Use:     "failover",
		Aliases: []string{"switchover"},
		Short:   "Move roles to another region: shows the plan, and asks for the region's name",
		Long: `Moves roles to another region. Without a command below it, failover --to REGION
shows the plan, changes nothing, and runs it only after a person has typed the
region's name. Scripts plan first, and then run that very plan:

  holdfast failover plan --to eu-west --json
  holdfast failover run --plan HASH --yes

A planned move needs both regions, and loses nothing. When the old region is
gone, and its lease with it: --unplanned. When its lease does not run out
(on_quorum_loss: hold): make sure that it is cut off, then --fenced REGION
--reason "who fenced it, and how". Such a move states its loss as a bound.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.move(c, m) },
	}
	m.flags(c.Flags())
	m.runFlags(c.Flags())
	c.AddCommand(failoverPlan(a), failoverRun(a), failoverStatus(a), failoverAbort(a), failoverRetry(a), failoverAck(a))
	return c
}

// move is a wish to move roles, and how to go about it.
type move struct {
	to, fenced, reason    string
	roles                 []string
	unplanned, acceptLoss bool
	acceptOrphans         []string
	start
}

// start is how a plan is started and followed.
type start struct {
	hash   string
	yes    bool
	noWait bool
	within time.Duration
}

func (m *move) flags(f *pflag.FlagSet) {
	f.StringVar(&m.to, "to", "", "`region` that gets the roles")
	f.StringSliceVar(&m.roles, "role", nil, "`role` to move, repeatable (default: all that the other region holds)")
	f.StringVar(&m.fenced, "fenced", "", "attest that this `region` is cut off (needs --reason)")
	f.StringVar(&m.reason, "reason", "", "`why`, for the audit log")
	f.BoolVar(&m.unplanned, "unplanned", false, "move without the old region, whose lease has run out")
	f.StringSliceVar(&m.acceptOrphans, "accept-orphans", nil, "`topic` of which groups may read orphans in the new region, repeatable")
	f.BoolVar(&m.acceptLoss, "accept-loss", false, "accept a loss above the limits of the roles")
}

func (s *start) runFlags(f *pflag.FlagSet) {
	f.StringVar(&s.hash, "plan", "", "`hash` of the plan to run, as it was shown")
	f.BoolVar(&s.yes, "yes", false, "do not ask (needs --plan)")
	f.BoolVar(&s.noWait, "no-wait", false, "return when the plan has started")
	f.DurationVar(&s.within, "wait", 30*time.Minute, "how long to follow the plan; it goes on afterwards")
}

// intent is nil when nothing says where to move.
func (m move) intent() *failover.Intent {
	if m.to == "" {
		return nil
	}
	want := failover.Intent{
		To: topology.Region(m.to), Fenced: topology.Region(m.fenced), Reason: m.reason,
		AcceptLoss: m.acceptLoss, AcceptOrphans: m.acceptOrphans, Unplanned: m.unplanned,
	}
	for _, r := range m.roles {
		want.Roles = append(want.Roles, topology.Role(r))
	}
	return &want
}

func failoverPlan(a *app) *cobra.Command {
	var m move
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what a move would do, and what would refuse it; changes nothing",
		Long:  "Shows steps, gates, the expected pause and loss, and the hash to run it by. It\nends with 3 when a gate refuses.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			want := m.intent()
			if want == nil {
				return usagef(c, "say where to: --to REGION")
			}
			_, err = a.showPlan(c.Context(), func(ctx context.Context) (httpapi.Planned, error) { return client.PlanFailover(ctx, *want) })
			return err
		},
	}
	m.flags(c.Flags())
	return c
}

func failoverRun(a *app) *cobra.Command {
	var m move
	c := &cobra.Command{
		Use:   "run --plan HASH --yes",
		Short: "Run a plan that was shown, and follow its steps",
		Long: `Runs the plan with this hash if nothing that it was decided on has changed.
Gates are asked again now, and before the point of no return. Name the move as it
was planned (--to, --role ...) only if another daemon showed the plan.

It follows the steps until the plan has ended: 0 completed, 1 rolled back.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if m.hash == "" {
				return usagef(c, "say which plan: --plan HASH; `holdfast failover plan` shows one")
			}
			return a.move(c, m)
		},
	}
	m.flags(c.Flags())
	m.runFlags(c.Flags())
	return c
}

// move shows a plan and asks, or runs the one that was named.
func (a *app) move(c *cobra.Command, m move) error {
	want := m.intent()
	if want == nil && m.hash == "" {
		return usagef(c, "say where to: --to REGION; `holdfast status` shows who holds what")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	return a.begin(c, m.start, client, want != nil, m.to,
		func(ctx context.Context) (httpapi.Planned, error) { return client.PlanFailover(ctx, *want) },
		func(ctx context.Context, hash string) (consensus.PlanID, error) {
			return client.RunFailover(ctx, hash, want)
		})
}

// planHash is what a plan may be named by.
var planHash = regexp.MustCompile(`^[0-9a-f]{6,64}$`)

// begin is the one way in which anything that cannot be taken back is
// started: with a hash and --yes, or by typing the name after the plan.
func (a *app) begin(c *cobra.Command, s start, client *httpapi.Client, canPlan bool, name string,
	plan func(context.Context) (httpapi.Planned, error), run func(context.Context, string) (consensus.PlanID, error),
) error {
	ctx := c.Context()
	switch {
	case s.hash != "" && !planHash.MatchString(s.hash):
		return usagef(c, "--plan %s: no hash of a plan, which has 6 to 64 hexadecimal digits as it was shown", s.hash)
	case s.yes && s.hash == "":
		return usagef(c, "--yes needs --plan HASH: it runs the plan that was read")
	case !s.yes && !canPlan:
		return usagef(c, "add --yes to run plan %s without being asked", s.hash)
	case !s.yes:
		p, err := a.showPlan(ctx, plan)
		if err != nil {
			return err
		}
		hash := p.Candidate.Plan.Hash
		if s.hash != "" && s.hash != hash {
			return httpapi.Problemf(httpapi.Changed, "run plan "+s.hash, "read the plan above, and run that one", "what it was decided on has changed: the plan is now %s", hash)
		}
		if !a.asks || a.json {
			a.say("Nothing was changed. To run it: %s --plan %s --yes", runCommand(c), hash)
			return nil
		}
		yes, err := a.ask(ctx, "\nType "+name+" to run this plan", name)
		if err != nil {
			return err
		}
		if !yes {
			a.say("That is not %s: nothing was changed.", name)
			return ended{exitFailed}
		}
		s.hash = hash
	}
	asked := a.now()
	id, err := run(ctx, s.hash)
	var p *httpapi.Problem
	if errors.As(err, &p) && p.Code == httpapi.Unknown {
		a.say("It is not known whether the plan has started (%s); looking.", p.Detail)
		id, err = a.findStarted(ctx, client, s.hash, asked, err)
	}
	if err != nil {
		return err
	}
	if s.noWait {
		return a.show(httpapi.Started{Plan: id}, func() string {
			return "Plan " + string(id) + " has started: holdfast failover status " + string(id) + "\n"
		})
	}
	a.say("Plan %s has started.", id)
	pl, err := a.follow(ctx, client, id, s.within)
	if err != nil {
		return err
	}
	return a.outcome(pl)
}

// lookFor bounds how long a plan is looked for whose start is not known.
const lookFor = 15 * time.Second

// findStarted looks for a plan that was asked to start and whose answer was lost.
// A plan that is not found may still start: then the error says so.
func (a *app) findStarted(ctx context.Context, from planLister, hash string, asked time.Time, lost error) (consensus.PlanID, error) {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	for {
		plans, err := from.Plans(ctx)
		if err == nil {
			for _, pl := range plans {
				// The clock that wrote Created may be another machine's.
				if pl.Plan.Hash == hash && pl.Plan.Created.After(asked.Add(-time.Minute)) {
					return pl.ID, nil
				}
			}
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return "", lost
		}
	}
}

// planLister is what looking for a plan needs.
type planLister interface {
	Plans(ctx context.Context) ([]httpapi.Plan, error)
}

// runCommand is the command that runs a plan shown by c.
func runCommand(c *cobra.Command) string {
	if c.Name() == "failover" {
		return c.CommandPath() + " run"
	}
	return c.CommandPath()
}

// showPlan prints a plan; one that is refused is the error.
func (a *app) showPlan(ctx context.Context, plan func(context.Context) (httpapi.Planned, error)) (httpapi.Planned, error) {
	p, err := plan(ctx)
	if err != nil {
		return p, err
	}
	if err := a.show(p, func() string { return renderCandidate(p.Candidate, p.Blockers) }); err != nil {
		return p, err
	}
	if len(p.Blockers) > 0 || p.Candidate.Plan.Hash == "" {
		return p, ended{exitRefused}
	}
	return p, nil
}
