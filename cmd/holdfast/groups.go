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
		Long: `Compares the committed offsets of both regions, for every partition of every topic
that a group reads, and names each on which the group would start at the wrong
place in the standby: how many records it would skip or read again, and why. An
offset that the source committed a moment ago is given the time that its copy may
take.

A partition that a group never read has no offset at the source. It is given the
one where the group's consumers would start: the beginning, or for groups under
mirror.groups.start_latest the end.

Exit code 0: all groups could start. 5: some would start at the wrong place.`,
		Args: cobra.NoArgs,
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
