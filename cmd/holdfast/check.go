package main

import (
	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func checkVerb(a *app) *cobra.Command {
	var region string
	c := &cobra.Command{
		Use:   "check",
		Short: "Look now: reach, rights, versions, partition counts, round trips, clocks",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.Check(c.Context(), topology.Region(region))
			if err != nil {
				return err
			}
			if err := a.show(r, func() string { return renderCheck(r) }); err != nil {
				return err
			}
			if checkBad(r) {
				return ended{exitFindings}
			}
			return nil
		},
	}
	c.Flags().StringVar(&region, "region", "", "look at one `region` only")
	return c
}
