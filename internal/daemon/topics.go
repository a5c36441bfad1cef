package daemon

import (
	"context"
	"maps"
	"slices"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// eachLink calls do for the links to a region that have not ended and whose
// both ends have a Kafka; an empty region means all.
func (d *Daemon) eachLink(region topology.Region, do func(id consensus.LinkID, l consensus.Link, from, to *kafka.Client) error) error {
	if _, ok := d.regions[region]; region != "" && !ok {
		return httpapi.Problemf(httpapi.NotFound, "find the links to "+string(region), "`holdfast mirror status` shows them", "no region %q in this fleet", region)
	}
	s := d.raft.State()
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		if l.Phase == consensus.LinkEnded || region != "" && l.To != region {
			continue
		}
		from, to := d.regions[l.From], d.regions[l.To]
		if from == nil || to == nil || from.kafka == nil || to.kafka == nil {
			continue
		}
		if err := do(id, l, from.kafka, to.kafka); err != nil {
			return err
		}
	}
	return nil
}

// MirrorTopics implements httpapi.Backend.
func (d *Daemon) MirrorTopics(ctx context.Context, region topology.Region) (httpapi.TopicsReport, error) {
	out := httpapi.TopicsReport{At: d.clock.Wall().UTC(), Links: []httpapi.LinkTopics{}}
	sel, err := d.fleet.Selection()
	if err != nil {
		return out, err
	}
	err = d.eachLink(region, func(id consensus.LinkID, _ consensus.Link, from, to *kafka.Client) error {
		source, err := mirror.Topics(ctx, from)
		if err != nil {
			return err
		}
		target, err := mirror.Topics(ctx, to)
		if err != nil {
			return err
		}
		l := httpapi.LinkTopics{ID: id, Preset: sel.Preset(), Topics: []httpapi.TopicRow{}}
		for _, name := range slices.Sorted(maps.Keys(source)) {
			l.Topics = append(l.Topics, httpapi.TopicRow{Choice: sel.Choose(name), Partitions: source[name].Partitions, Target: target[name].Partitions})
		}
		out.Links = append(out.Links, l)
		return nil
	})
	return out, err
}
