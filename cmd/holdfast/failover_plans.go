package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func failoverStatus(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "status [PLAN]",
		Short: "Show the live plan step by step, or the last one",
		Long:  "Shows one plan with its journal: the live one, or the newest. It ends with 5 when\na plan waits for a person. --all lists every plan that is kept.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				pl, err := client.Plan(c.Context(), consensus.PlanID(args[0]))
				if err != nil {
					return err
				}
				return a.showPlans([]httpapi.Plan{pl}, pl)
			}
			plans, err := client.Plans(c.Context())
			if err != nil {
				return err
			}
			if all || len(plans) == 0 {
				return a.show(httpapi.PlanList{Plans: plans}, func() string { return renderPlans(plans, a.now()) })
			}
			live := livePlans(plans)
			if len(live) == 0 {
				live = plans[:1]
			}
			return a.showPlans(live, httpapi.PlanList{Plans: live})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "list every plan that is kept")
	return c
}

func (a *app) showPlans(plans []httpapi.Plan, asJSON any) error {
	err := a.show(asJSON, func() string {
		var p page
		for i, pl := range plans {
			if i > 0 {
				p.line("")
			}
			p.WriteString(renderPlan(pl, a.now()))
		}
		return p.String()
	})
	if err != nil {
		return err
	}
	for _, pl := range plans {
		if pl.Stuck != "" {
			return ended{exitFindings}
		}
	}
	return nil
}

func livePlans(plans []httpapi.Plan) []httpapi.Plan {
	var out []httpapi.Plan
	for _, pl := range plans {
		if pl.Plan.Phase.Live() {
			out = append(out, pl)
		}
	}
	return out
}

// onePlan is the plan that was named, or the only live one.
func onePlan(ctx context.Context, client *httpapi.Client, args []string) (consensus.PlanID, error) {
	if len(args) == 1 {
		pl, err := client.Plan(ctx, consensus.PlanID(args[0]))
		return pl.ID, err
	}
	plans, err := client.Plans(ctx)
	if err != nil {
		return "", err
	}
	live := livePlans(plans)
	switch len(live) {
	case 0:
		return "", usage{"no plan is live; `holdfast failover status --all` lists them"}
	case 1:
		return live[0].ID, nil
	}
	ids := make([]consensus.PlanID, len(live))
	for i, pl := range live {
		ids[i] = pl.ID
	}
	return "", usage{fmt.Sprintf("say which plan: %s are live", words(ids))}
}

// steer does something to the plan that was named, or to the only live one,
// and follows it. started says in one line what goes on when nobody waits.
func (a *app) steer(c *cobra.Command, args []string, s start, started string, act func(*httpapi.Client, consensus.PlanID) error) (pl httpapi.Plan, followed bool, err error) {
	client, err := a.client()
	if err != nil {
		return pl, false, err
	}
	id, err := onePlan(c.Context(), client, args)
	if err != nil {
		return pl, false, err
	}
	if err := act(client, id); err != nil {
		return pl, false, err
	}
	if s.noWait {
		return pl, false, a.show(httpapi.Started{Plan: id}, func() string { return "Plan " + string(id) + " " + started + ": holdfast failover status\n" })
	}
	pl, err = a.follow(c.Context(), client, id, s.within)
	return pl, err == nil, err
}

func failoverAbort(a *app) *cobra.Command {
	var s start
	var why string
	c := &cobra.Command{
		Use:   "abort [PLAN]",
		Short: "Turn a running plan back, up to the point of no return",
		Long: `Turns the live plan back: what it has done is undone, in reverse. Past the point
of no return it is refused; a new plan moves back then.

It follows the plan until everything is as it was: 0 rolled back, 1 not.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			pl, followed, err := a.steer(c, args, s, "turns back", func(client *httpapi.Client, id consensus.PlanID) error {
				return client.Abort(c.Context(), id, why)
			})
			if err != nil || !followed {
				return err
			}
			if err := a.outcome(pl); err != nil && pl.Plan.Phase != consensus.PlanRolledBack {
				return err
			}
			return nil
		},
	}
	c.Flags().StringVar(&why, "reason", "aborted by a person", "`why`, for the audit log")
	c.Flags().BoolVar(&s.noWait, "no-wait", false, "return when the plan turns back")
	c.Flags().DurationVar(&s.within, "wait", followAbort, "how long to follow the plan")
	return c
}

func failoverRetry(a *app) *cobra.Command {
	var s start
	c := &cobra.Command{
		Use:   "retry [PLAN]",
		Short: "Try the failed step of a plan again at once",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			pl, followed, err := a.steer(c, args, s, "tries again", func(client *httpapi.Client, id consensus.PlanID) error {
				return client.Retry(c.Context(), id)
			})
			if err != nil || !followed {
				return err
			}
			return a.outcome(pl)
		},
	}
	c.Flags().BoolVar(&s.noWait, "no-wait", false, "return at once")
	c.Flags().DurationVar(&s.within, "wait", followAbort, "how long to follow the plan")
	return c
}

// acked is the result of failover ack.
type acked struct {
	Roles []topology.Role `json:"roles"`
}

func failoverAck(a *app) *cobra.Command {
	var roles []string
	c := &cobra.Command{
		Use:   "ack",
		Short: "Say that a failover was seen: automatic moves are allowed again",
		Long:  "After an automatic or unplanned failover, no automatic one follows for a while, so\nthat roles do not flap. This lifts the block.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			done := acked{Roles: []topology.Role{}}
			for _, r := range roles {
				done.Roles = append(done.Roles, topology.Role(r))
			}
			if len(roles) == 0 {
				s, err := client.Status(c.Context())
				if err != nil {
					return err
				}
				for _, r := range s.Roles {
					if !r.Failover.IsZero() {
						done.Roles = append(done.Roles, r.Role)
					}
				}
			}
			for i, r := range done.Roles {
				if err := client.Ack(c.Context(), r); err != nil {
					if i > 0 {
						a.say("acknowledged %s before it failed", words(done.Roles[:i]))
					}
					return err
				}
			}
			return a.show(done, func() string {
				if len(done.Roles) == 0 {
					return "No failover waits to be acknowledged.\n"
				}
				return "Acknowledged: " + words(done.Roles) + " may move automatically again.\n"
			})
		},
	}
	c.Flags().StringSliceVar(&roles, "role", nil, "`role`, repeatable (default: all that failed over)")
	return c
}
