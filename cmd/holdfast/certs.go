package main

import (
	"errors"
	"net"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// certsMade is the result of certs init.
type certsMade struct {
	Written []string `json:"written"`
	Kept    []string `json:"kept"`
}

func certsVerb(a *app) *cobra.Command {
	var dir, cluster string
	var renew bool
	initVerb := &cobra.Command{
		Use:   "init [NODE...]",
		Short: "Make a lab CA and a certificate for each node",
		Long: `Makes ca.pem and ca.key, and NODE.pem and NODE.key for each node, in one folder.
Nodes, cluster and addresses come from the fleet file unless they are named.
What exists is kept, so running it again adds the nodes that are new; --renew
replaces node certificates. The CA is never replaced. Keep ca.key off the nodes.`,
		RunE: func(c *cobra.Command, args []string) error {
			o := certs.InitOptions{Dir: dir, Cluster: cluster, Renew: renew, Now: a.now, Hosts: map[topology.Node][]string{}}
			for _, n := range args {
				o.Nodes = append(o.Nodes, topology.Node(n))
			}
			if err := a.fromFleet(c, &o); err != nil {
				return err
			}
			made, err := certs.Init(o)
			res := certsMade{append([]string{}, made.Written...), append([]string{}, made.Kept...)}
			if err != nil {
				for _, f := range made.Written {
					a.say("wrote %s before it failed", f)
				}
				return err
			}
			return a.show(res, func() string { return renderCerts(res, dir) })
		},
	}
	f := initVerb.Flags()
	f.StringVar(&dir, "dir", "certs", "`folder` for the files")
	f.StringVar(&cluster, "cluster", "", "`name` of the cluster (default: as in the fleet file)")
	f.BoolVar(&renew, "renew", false, "replace the certificates and keys of the nodes")
	return group("certs", "Certificates of the nodes", initVerb)
}

// fromFleet fills in what was not named.
func (a *app) fromFleet(c *cobra.Command, o *certs.InitOptions) error {
	path, said := a.configPath()
	if o.Cluster != "" && len(o.Nodes) > 0 && a.config == "" {
		return nil
	}
	if !said && !fileExists(path) {
		return usagef(c, "say --cluster NAME and the nodes, or --config FILE with a fleet file that has them")
	}
	fleet, err := config.Load(path)
	if err != nil {
		return err
	}
	if o.Cluster == "" {
		o.Cluster = fleet.Cluster
	}
	if o.Cluster != fleet.Cluster {
		return usagef(c, "--cluster %s: the fleet file %s is of %s", o.Cluster, path, fleet.Cluster)
	}
	if len(o.Nodes) == 0 {
		o.Nodes = fleet.NodeNames()
	}
	var unknown error
	for _, name := range o.Nodes {
		n, err := fleet.Node(name)
		if err != nil {
			unknown = errors.Join(unknown, usage{err.Error()})
			continue
		}
		if host, _, err := net.SplitHostPort(n.Peer); err == nil {
			o.Hosts[name] = []string{host}
		}
	}
	return unknown
}

func renderCerts(m certsMade, dir string) string {
	var p page
	for _, f := range m.Kept {
		p.line("kept   %s", f)
	}
	for _, f := range m.Written {
		p.line("wrote  %s", f)
	}
	if len(m.Written) == 0 {
		p.line("Nothing was missing. --renew replaces the certificates of the nodes.")
		return p.String()
	}
	p.line("")
	p.line("Copy %s/ca.pem, and to each node its own NODE.pem and NODE.key. Keep %s/ca.key somewhere else.", dir, dir)
	return p.String()
}
