package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

func configVerb(a *app) *cobra.Command {
	return group("config", "The fleet file: one for all regions", configCheck(a), configApply(a), configShow(a), configSchema(a))
}

// configVerdict is the result of config check.
type configVerdict struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Cluster  string          `json:"cluster,omitempty"`
	Nodes    int             `json:"nodes"`
	Regions  int             `json:"regions"`
	Roles    int             `json:"roles"`
	Digest   string          `json:"digest,omitempty"` // of what all nodes must agree on
	Host     string          `json:"host,omitempty"`   // the node whose files and secrets were looked at
	Problems config.Problems `json:"problems,omitempty"`
}

func configCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a fleet file, and with --node the files and secrets that it names on this host",
		Long: `Checks the fleet file as a whole: keys, values, and that timings hold together.
It needs no daemon. With --node it also looks at the certificates and secrets
that this node needs on this host. A file that must be refused ends with 1.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := checkFleet(a, args)
			if err != nil {
				return err
			}
			if err := a.show(v, v.text); err != nil {
				return err
			}
			if !v.OK {
				return ended{exitFailed}
			}
			return nil
		},
	}
}

func checkFleet(a *app, args []string) (configVerdict, error) {
	path, _ := a.configPath()
	if len(args) > 0 {
		path = args[0]
	}
	v := configVerdict{File: path}
	fleet, err := config.Load(path)
	if errors.As(err, &v.Problems) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.Cluster, v.Nodes, v.Regions, v.Roles, v.Digest = fleet.Cluster, len(fleet.Nodes), len(fleet.Regions), len(fleet.Roles), fleet.Digest()
	if name := a.nodeName(); name != "" {
		v.Host = string(name)
		err := fleet.CheckHost(name)
		if !errors.As(err, &v.Problems) && err != nil {
			return v, err
		}
	}
	v.OK = len(v.Problems) == 0
	return v, nil
}

func (v configVerdict) text() string {
	var p page
	if !v.OK {
		p.line("%s", v.Problems.Error())
		p.line("")
		p.line("%s: refused, %s.", v.File, some(len(v.Problems), "problem"))
		return p.String()
	}
	p.line("%s: ok. Cluster %s: %s, %s, %s; digest %.12s.", v.File, v.Cluster, some(v.Nodes, "node"), some(v.Regions, "region"), some(v.Roles, "role"), v.Digest)
	if v.Host != "" {
		p.line("Certificates and secrets of %s are readable here.", v.Host)
	}
	return p.String()
}

func configShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the fleet file as it is in effect: defaults included, secrets as stars",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			path, _ := a.configPath()
			fleet, err := config.Load(path)
			if err != nil {
				return err
			}
			if a.json {
				text, err := fleet.JSON()
				if err != nil {
					return err
				}
				return a.show(json.RawMessage(text), nil)
			}
			text, err := fleet.YAML()
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		},
	}
}

func configSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the fleet file, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(config.Schema())
			return err
		},
	}
}

func configApply(a *app) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:   "apply",
		Short: "Make this node's fleet file what all nodes agree on",
		Long: `Lets the daemon read its fleet file again and puts what all nodes must agree on
(roles, timings, plans) into the log. Install the same file on every node; one
that differs is drift, which status shows. --dry-run only compares.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if dry {
				d, err := client.ConfigDrift(c.Context())
				if err != nil {
					return err
				}
				if err := a.show(d, func() string { return renderDrift(d) }); err != nil {
					return err
				}
				if d.Drift || d.Refused != "" {
					return ended{exitFindings}
				}
				return nil
			}
			done, err := client.ConfigApply(c.Context())
			if err != nil {
				return err
			}
			return a.show(done, func() string { return renderApplied(done) })
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "compare, and change nothing")
	return c
}

func renderDrift(d httpapi.ConfigDrift) string {
	var p page
	switch {
	case d.Refused != "":
		p.line("%s of %s is refused:\n%s", d.File, d.Node, d.Refused)
	case d.Drift:
		p.line("%s of %s (digest %.12s) differs from what is agreed on (%s).", d.File, d.Node, d.Digest, short(d.Applied))
		p.line("    next: holdfast config apply")
	default:
		p.line("%s of %s is what is agreed on: digest %.12s.", d.File, d.Node, d.Digest)
	}
	for _, n := range slices.Sorted(maps.Keys(d.Nodes)) {
		if d.Nodes[n] != d.Applied {
			p.line("! %s started with another file: digest %s", n, short(d.Nodes[n]))
			p.line("    next: install the same file there and restart holdfast.service")
		}
	}
	return p.String()
}

func renderApplied(d httpapi.ConfigApplied) string {
	var p page
	if !d.Changed {
		p.line("Nothing to apply: digest %s is agreed on already.", short(d.Digest))
	} else {
		p.line("Applied: digest %s, it was %s.", short(d.Digest), short(d.Was))
	}
	for _, r := range d.Restart {
		p.line("! takes effect when the daemon starts again: %s", oneLine(r))
	}
	return p.String()
}

func short(digest string) string {
	if digest == "" {
		return "nothing yet"
	}
	return fmt.Sprintf("%.12s", digest)
}
