package main

import (
	"github.com/spf13/cobra"
)

func auditVerb(a *app) *cobra.Command {
	n := 50
	list := &cobra.Command{
		Use:   "list",
		Short: "What was done and by whom, oldest first; checks the chain of hashes",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if n < 1 || n > 200 {
				return usagef(c, "--last %d: want 1 to 200", n)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.Audit(c.Context(), n)
			if err != nil {
				return err
			}
			if err := a.show(r, func() string { return renderAudit(r, a.now()) }); err != nil {
				return err
			}
			if r.Broken != "" {
				return ended{exitFindings}
			}
			return nil
		},
	}
	list.Flags().IntVar(&n, "last", n, "show the newest `n` lines, 200 at most")
	return group("audit", "The log of what was done", list)
}
