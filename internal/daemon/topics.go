package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
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

// accessRules says which rights should be alike: those of others than holdfast
// itself, at either end, and whom the fleet file names.
func accessRules(f *config.Fleet, regions map[topology.Region]*region, topics replicate.Selection, groups *replicate.GroupSelector) (*replicate.AccessRules, error) {
	own := map[string]bool{}
	for _, r := range regions {
		if r.kafka == nil {
			continue
		}
		p, err := r.kafka.Principal()
		if err != nil {
			return nil, err
		}
		own[p] = true
	}
	keep := f.Mirror.ACLs.Keep
	return &replicate.AccessRules{
		Topics: topics, Group: groups.Selects,
		Untouched: func(principal string) bool {
			return own[principal] || slices.ContainsFunc(keep, func(p config.Pattern) bool { return p.Match(principal) })
		},
	}, nil
}

// MirrorDrift implements httpapi.Backend.
func (d *Daemon) MirrorDrift(ctx context.Context, region topology.Region) (httpapi.DriftReport, error) {
	out := httpapi.DriftReport{At: d.clock.Wall().UTC(), Links: []httpapi.LinkDrift{}}
	topics, groups, err := selections(d.fleet)
	if err != nil {
		return out, err
	}
	access, err := accessRules(d.fleet, d.regions, topics, groups)
	if err != nil {
		return out, err
	}
	err = d.eachLink(region, func(id consensus.LinkID, l consensus.Link, from, to *kafka.Client) error {
		o := mirror.CompareOptions{Link: replicate.Link{Source: l.From, Target: l.To, Epoch: l.Epoch}, Topics: topics, Access: access, Known: d.mirrors.known(id), Deleted: map[string]bool{}}
		for _, t := range d.deleted(d.raft.State(), id) {
			o.Deleted[t.Topic] = true
		}
		report, err := mirror.Compare(ctx, from, to, o)
		row := httpapi.LinkDrift{ID: id}
		if errors.Is(err, mirror.ErrRightsUnread) { // the rest can still be compared
			row.Unread = err.Error()
			o.Access = nil
			report, err = mirror.Compare(ctx, from, to, o)
		}
		if err != nil {
			return err
		}
		row.Drift, row.Open = report.Drift, report.Open
		out.Links = append(out.Links, row)
		return nil
	})
	return out, err
}

const driftShown = 8

// driftOf sums up what a mirror found when it last compared.
func driftOf(r mirror.DriftReport) failover.Drift {
	out := failover.Drift{Open: r.Open}
	for _, d := range r.Drift { // sorted, blocking kinds first
		if d.Kind.Blocks() {
			out.Blocking++
		} else {
			out.Warnings++
		}
		if len(out.First) < driftShown {
			out.First = append(out.First, d.About+": "+d.Text)
		}
	}
	return out
}

// checkAuthorizer says whether a region's Kafka keeps rights at all.
func checkAuthorizer(ctx context.Context, reg *region, node topology.Node) httpapi.Check {
	c := httpapi.Check{Region: reg.name, Node: node, Name: "kafka authorizer", OK: true, Severity: httpapi.Note}
	start := time.Now()
	rules, err := mirror.Access(ctx, reg.kafka)
	c.TookMs = time.Since(start).Milliseconds()
	switch {
	case err == nil:
		c.Detail = fmt.Sprintf("%d rules", len(rules))
	case errors.Is(err, mirror.ErrNoAuthorizer):
		c.OK, c.Detail = false, "none: whoever reaches it may do everything, and after a move an old writer is kept out by producer epochs alone, which a broker may forget"
		c.Fix = "authorizer.class.name in the brokers' configuration, or keep the old region's writers away by other means"
	default:
		c.OK, c.Detail = false, err.Error()
		c.Fix = "grant holdfast's user Describe on the cluster, if rights are to be compared"
	}
	return c
}

// checkMarkers says before a move whether its fence would be refused.
func checkMarkers(ctx context.Context, reg *region, node topology.Node) httpapi.Check {
	c := httpapi.Check{Region: reg.name, Node: node, Name: "kafka markers", OK: true, Severity: httpapi.Critical, Detail: "may be written"}
	start := time.Now()
	err := mirror.MayMark(ctx, reg.kafka)
	c.TookMs = time.Since(start).Milliseconds()
	if err != nil {
		c.OK, c.Detail = false, err.Error()
		c.Fix = "grant holdfast's user ClusterAction on the cluster: without it holes are not filled, and no region can be promoted"
	}
	return c
}

// known are the identities of the topics of a link that runs here. A nil
// receiver, on a witness, knows none.
func (m *mirrors) known(id consensus.LinkID) map[string]mirror.TopicIDs {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if run := m.links[id]; run != nil && run.mirror != nil {
		return run.mirror.TopicIDs()
	}
	return nil
}

// topicLimits are the limits of single topics, as a mirror takes them.
func topicLimits(f *config.Fleet) []mirror.TopicLimit {
	var out []mirror.TopicLimit
	for _, l := range f.Mirror.Limits {
		topics, err := replicate.NewSelection([]string{l.Topics.String()}, nil)
		if err != nil {
			panic("compile a pattern that the configuration has compiled: " + err.Error())
		}
		out = append(out, mirror.TopicLimit{Topics: topics, Rate: float64(l.RateLimit), RecordRate: float64(l.RecordLimit)})
	}
	return out
}
