package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// pauseMax bounds a pause: a forgotten one must end by itself.
const pauseMax = 7 * 24 * time.Hour

// paused is the result of pause and resume.
type paused struct {
	Role  topology.Role `json:"role"`
	Until time.Time     `json:"until,omitzero"` // zero: resumed
}

func pauseVerb(a *app) *cobra.Command {
	var role, reason string
	var within time.Duration
	c := &cobra.Command{
		Use:   "pause --role ROLE --for 1h --reason WHY",
		Short: "Suspend automatic moves of a role for a while, such as during works",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if role == "" || reason == "" {
				return usagef(c, "say which role and why: --role ROLE --reason WHY")
			}
			if within <= 0 || within > pauseMax {
				return usagef(c, "--for %s: want more than 0 and at most %s", within, span(pauseMax))
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			p := paused{topology.Role(role), a.now().Add(within).UTC().Round(time.Second)}
			if err := client.Pause(c.Context(), p.Role, p.Until, reason); err != nil {
				return err
			}
			return a.show(p, func() string {
				return "Automatic moves of " + role + " are paused until " + when(p.Until, a.now()) + ". A person can still move it.\n"
			})
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "", "`role` to pause")
	f.StringVar(&reason, "reason", "", "`why`, for status and the audit log")
	f.DurationVar(&within, "for", time.Hour, "how long")
	return c
}

func resumeVerb(a *app) *cobra.Command {
	var role string
	c := &cobra.Command{
		Use:   "resume --role ROLE",
		Short: "Allow automatic moves of a role again",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if role == "" {
				return usagef(c, "say which role: --role ROLE")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			p := paused{Role: topology.Role(role)}
			if err := client.Pause(c.Context(), p.Role, time.Time{}, ""); err != nil {
				return err
			}
			return a.show(p, func() string { return "Automatic moves of " + role + " are allowed again.\n" })
		},
	}
	c.Flags().StringVar(&role, "role", "", "`role` to resume")
	return c
}
