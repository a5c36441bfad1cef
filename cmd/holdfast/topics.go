package main

import (
	"fmt"

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
