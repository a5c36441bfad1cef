package main

import (
	"github.com/spf13/cobra"
)

func membersVerb(a *app) *cobra.Command {
	return group("members", "The daemons of the fleet", &cobra.Command{
		Use:   "list",
		Short: "List the daemons: who leads, who is reached, how far away",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			m, err := client.Members(c.Context())
			if err != nil {
				return err
			}
			if err := a.show(m, func() string { return renderMembers(m, a.now()) }); err != nil {
				return err
			}
			switch {
			case m.Leader == "":
				return ended{exitNoLeader}
			case grave(memberFindings(m)):
				return ended{exitFindings}
			}
			return nil
		},
	})
}
