package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// MirrorOrphans implements httpapi.Backend.
func (d *Daemon) MirrorOrphans(context.Context) (httpapi.OrphansReport, error) {
	s := d.raft.State()
	out := httpapi.OrphansReport{At: d.clock.Wall().UTC(), Salvages: slices.Collect(maps.Values(s.Salvages)), Links: []httpapi.LinkLosses{}}
	slices.SortFunc(out.Salvages, func(a, b consensus.Salvage) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.ID, b.ID))
	})
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		if l := s.Links[id]; len(l.Orphans)+len(l.Foreign)+len(l.Accepted) > 0 {
			out.Links = append(out.Links, httpapi.LinkLosses{ID: id, Orphans: l.Orphans, Foreign: l.Foreign, Accepted: l.Accepted})
		}
	}
	return out, nil
}

// NoteReplay implements httpapi.Backend. Orphans go where producers write:
// anywhere else they would make the logs differ once more.
func (d *Daemon) NoteReplay(ctx context.Context, r httpapi.ReplayOrphans, by string) error {
	role := d.raft.State().Roles[topology.Ingestion]
	if role.Phase != consensus.Open || role.Holder != r.To {
		return httpapi.Problemf(httpapi.Refused, "produce orphans again in "+string(r.To), "`holdfast status` shows who holds ingestion", "%s does not hold ingestion: new records belong to the region that does", r.To)
	}
	return d.mutate(ctx, by, &consensus.NoteReplay{Salvage: r.Salvage, Topic: r.Topic, Partition: r.Partition, To: string(r.To), Records: r.Records, Again: r.Again})
}

// AcceptLoss implements httpapi.Backend. It takes the very range that mirror
// status shows, so that nobody gives up what they have not read.
func (d *Daemon) AcceptLoss(ctx context.Context, a httpapi.AcceptLoss, by string) error {
	what := fmt.Sprintf("give up [%d,%d) of %s/%d", a.From, a.To, a.Topic, a.Partition)
	if strings.TrimSpace(a.Reason) == "" {
		return httpapi.Problemf(httpapi.Usage, what, "--reason \"…\"", "giving up records needs a reason")
	}
	s := d.raft.State()
	p := topology.Partition{Topic: a.Topic, Partition: a.Partition}
	shown := "it is not frozen"
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		if l.Phase != consensus.LinkRunning {
			continue
		}
		node, _ := d.fleet.NodeOf(l.To)
		r, age := d.hub.of(node)
		if age < 0 || age > heardWithin {
			shown = fmt.Sprintf("%s does not report", node)
			continue
		}
		for _, at := range r.Links[id].Status.Partitions {
			if at.Partition != p || at.Frozen == nil {
				continue
			}
			if at.Frozen.Reason != replicate.Lost {
				return httpapi.Problemf(httpapi.Refused, what, at.Next, "it is frozen at %s: only records that the source deleted can be given up", at.Frozen)
			}
			if at.Frozen.From == a.From && at.Frozen.To == a.To && a.To > a.From {
				return d.mutate(ctx, by, &consensus.AcceptLoss{Link: id, Epoch: l.Epoch, Topic: a.Topic, Partition: a.Partition, From: a.From, To: a.To, Reason: a.Reason})
			}
			shown = fmt.Sprintf("it is frozen at %s", at.Frozen)
		}
	}
	return httpapi.Problemf(httpapi.Refused, what, "`holdfast mirror status` shows the range", "%s", shown)
}
