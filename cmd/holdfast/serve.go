package main

import (
	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/daemon"
)

func serveVerb(a *app) *cobra.Command {
	var l logFlag
	c := &cobra.Command{
		Use:   "serve --node NAME",
		Short: "Run the daemon of one node",
		Long: `Runs the daemon of one node of the fleet file until it is told to stop (TERM or
INT; a second one ends it at once). It tells systemd when it serves. A store that
is down makes its own part unready, not the daemon: see /readyz.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.nodeName() == "" {
				return usagef(c, "say which node of the fleet file this is: --node NAME or HOLDFAST_NODE")
			}
			log, err := l.logger(c, a.err)
			if err != nil {
				return err
			}
			path, _ := a.configPath()
			return daemon.Run(c.Context(), daemon.Options{
				ConfigPath: path, Node: string(a.nodeName()), Version: thisBuild().Version, Log: log,
			})
		},
	}
	l.add(c)
	return c
}
