package main

import (
	"github.com/spf13/cobra"
)

func statusVerb(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "One screen: roles, stores, mirrors, the live plan, and what needs a person",
		Long: `Shows what the daemon on this host knows, also without a leader.

It ends with 4 when there is no leader, and with 5 when something needs a
person: each line that starts with ! says what, and what to do next.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if err := a.show(s, func() string { return renderStatus(s) }); err != nil {
				return err
			}
			switch {
			case s.Leader == "":
				return ended{exitNoLeader}
			case grave(statusFindings(s)):
				return ended{exitFindings}
			}
			return nil
		},
	}
}
