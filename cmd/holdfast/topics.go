package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func mirrorTopics(a *app) *cobra.Command {
	var region string
	c := &cobra.Command{
		Use:   "topics",
		Short: "Each topic of the source: whether it is mirrored, and by which rule",
		Long: `Reads the topics of each link's source now, and says of each whether it is
mirrored and by which rule: the preset (mirror.preset), mirror.topics.include or
mirror.topics.exclude.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.MirrorTopics(c.Context(), topology.Region(region))
			if err != nil {
				return err
			}
			return a.show(r, func() string { return renderTopics(r) })
		},
	}
	c.Flags().StringVar(&region, "region", "", "target `region` (default: every one)")
	return c
}

// renderTopics lists the topics of each link.
func renderTopics(r httpapi.TopicsReport) string {
	var p page
	if len(r.Links) == 0 {
		p.line("Nothing is mirrored.")
	}
	for i, l := range r.Links {
		if i > 0 {
			p.line("")
		}
		mirrored := 0
		rows := [][]string{{"TOPIC", "CLASS", "MIRRORED", "PARTITIONS", "BY"}}
		for _, t := range l.Topics {
			yes, partitions := "no", fmt.Sprint(t.Partitions)
			if t.Mirrored {
				mirrored++
				yes = "yes"
				switch t.Target {
				case t.Partitions:
				case 0:
					partitions += ", none at the target yet"
				default:
					partitions += fmt.Sprintf(", %d at the target", t.Target)
				}
			}
			rows = append(rows, []string{t.Topic, orDash(string(t.Class)), yes, partitions, t.Rule})
		}
		p.line("%s: %d of %s mirrored.", linkName(l.ID), mirrored, some(len(l.Topics), "topic"))
		p.line("")
		p.table(rows)
	}
	return p.String()
}

func mirrorDrift(a *app) *cobra.Command {
	var region string
	c := &cobra.Command{
		Use:   "drift",
		Short: "In what source and target differ: topics, partitions, settings, rights",
		Long: `Compares both ends of each link now: the mirrored topics, their partitions and
settings, and the rights on them where both clusters have an authorizer. Rights
are compared whether or not mirror.acls.sync makes them alike, so it shows before
what that would change. It ends with 5 when there is a difference.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.MirrorDrift(c.Context(), topology.Region(region))
			if err != nil {
				return err
			}
			if err := a.show(r, func() string { return renderMirrorDrift(r) }); err != nil {
				return err
			}
			for _, l := range r.Links {
				if len(l.Drift) > 0 {
					return ended{exitFindings}
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&region, "region", "", "target `region` (default: every one)")
	return c
}

// renderMirrorDrift names each difference.
func renderMirrorDrift(r httpapi.DriftReport) string {
	var p page
	if len(r.Links) == 0 {
		p.line("Nothing is mirrored.")
	}
	for i, l := range r.Links {
		if i > 0 {
			p.line("")
		}
		if len(l.Drift) == 0 {
			p.line("%s: no difference.", linkName(l.ID))
		} else {
			p.line("%s: %s.", linkName(l.ID), some(len(l.Drift), "difference"))
		}
		for _, region := range l.Open {
			p.line("Rights are not compared: kafka of %s has no authorizer.", region)
		}
		if l.Unread != "" {
			p.line("Rights are not compared: %s", l.Unread)
		}
		if len(l.Drift) == 0 {
			continue
		}
		var all []httpapi.Finding
		for _, d := range l.Drift {
			f := httpapi.Finding{Severity: httpapi.Warning, About: d.About, What: d.Text, Next: d.Next}
			if d.Kind.Blocks() {
				f.Severity, f.What = httpapi.Critical, f.What+" (blocks a move)"
			}
			all = append(all, f)
		}
		p.line("")
		p.findings(all)
	}
	return p.String()
}

// deletedFinding tells of a copy that outlives its topic.
func deletedFinding(link string, t httpapi.DeletedTopic) httpapi.Finding {
	f := httpapi.Finding{Severity: httpapi.Note, About: link, What: fmt.Sprintf("%s was deleted at the source at %s; its copy is kept", t.Topic, t.At.UTC().Format(time.RFC3339)), Next: "delete it at the target when nobody wants it, or set mirror.topics.delete_after"}
	if !t.Until.IsZero() {
		f.What += " until " + t.Until.UTC().Format(time.RFC3339)
		f.Next = "nothing; to keep it, set mirror.topics.delete_after: 0s before then"
	}
	return f
}
