package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func groupsVerb(a *app) *cobra.Command {
	var region string
	check := &cobra.Command{
		Use:   "check",
		Short: "Could every consumer group start in the standby? Reads the offsets now",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.GroupsCheck(c.Context(), topology.Region(region))
			if err != nil {
				return err
			}
			if err := a.show(r, func() string { return renderGroups(r) }); err != nil {
				return err
			}
			if slices.ContainsFunc(r.Groups, func(g httpapi.GroupRow) bool { return !g.OK }) {
				return ended{exitFindings}
			}
			return nil
		},
	}
	check.Flags().StringVar(&region, "region", "", "check one `region` only (default: every mirror's target)")
	return group("groups", "Consumer groups and their offsets", check)
}
