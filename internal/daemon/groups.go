package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	steps "github.com/holdfast-dr/holdfast/failover/kafka"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// copyWithin is how long after a commit at the source its copy must be there,
// beside the interval of copies.
const copyWithin = 2 * time.Second

// groupRowsShown bounds the wrong offsets that one check names.
const groupRowsShown = 2000

func selections(f *config.Fleet) (replicate.Selection, *replicate.GroupSelector, error) {
	topics, err := f.Selection()
	if err != nil {
		return replicate.Selection{}, nil, fmt.Errorf("mirror.topics: %w", err)
	}
	g := f.Mirror.Groups
	groups, err := replicate.NewGroupSelector(patterns(g.Include), patterns(g.Exclude), patterns(g.Local), patterns(g.Latest))
	if err != nil {
		return replicate.Selection{}, nil, fmt.Errorf("mirror.groups: %w", err)
	}
	return topics, groups, nil
}

// skips returns what the source of a link leapt over when it was promoted.
func skips(l consensus.Link) map[topology.Partition]replicate.Range {
	shared, began := flat(l.Shared), flat(l.Began)
	out := map[topology.Partition]replicate.Range{}
	for p, g := range began {
		if x, ok := shared[p]; ok && x < g {
			out[p] = replicate.Range{Start: x, End: g}
		}
	}
	return out
}

func coverage(r mirror.GroupReport) failover.Coverage {
	bad := map[string]bool{}
	all := map[string]bool{}
	var c failover.Coverage
	for _, row := range r.Rows {
		all[row.Group] = true
	}
	for _, row := range r.Findings() {
		bad[row.Group] = true
		if len(c.Missing) < missingShown {
			c.Missing = append(c.Missing, fmt.Sprintf("group %s has no right offset for %s: %s", row.Group, row.Partition, row.Note))
		}
	}
	c.Groups, c.Covered = len(all), len(all)-len(bad)
	return c
}

// WriteGroups implements steps.Region. Without the source it proves what was
// copied before, and gives offsets to partitions that a group of this region
// has none for. Then it seeds the commit logs.
func (h here) WriteGroups(ctx context.Context, id consensus.LinkID, ends consensus.Offsets, fromSource bool) (steps.Groups, error) {
	l := h.state().Links[id]
	if !h.served(l) {
		return steps.Groups{}, fmt.Errorf("link %s: one of its regions has no kafka in this node's fleet file", id)
	}
	source, target := h.regions[l.From].kafka, h.regions[l.To].kafka
	opt := mirror.SyncOptions{Groups: h.groups, Topics: h.topics, Cap: flat(ends), Skips: skips(l), Began: flat(l.Starts)}
	var out steps.Groups
	var report mirror.GroupReport
	var err error
	if fromSource {
		report, err = mirror.SyncGroups(ctx, source, target, opt)
		out.Written = report.Count(replicate.GroupWrite)
	} else {
		report, out, err = h.settleGroups(ctx, id, l, target, opt)
	}
	if err != nil {
		return steps.Groups{}, err
	}
	all := map[string]bool{}
	for _, r := range report.Rows {
		all[r.Group] = true
	}
	out.Groups = len(all)
	if bad := report.Findings(); len(bad) > 0 {
		var text []string
		for _, b := range bad[:min(len(bad), missingShown)] {
			text = append(text, fmt.Sprintf("group %s, %s: %s", b.Group, b.Partition, b.Note))
		}
		return out, fmt.Errorf("%d group offsets are not right: %s", len(bad), strings.Join(text, "; "))
	}
	return out, h.seedCommitLogs(ctx, target, &out)
}

// settleGroups sees to the groups' offsets in a region whose source is away:
// none beyond the caps, none missing, and what was copied before is there.
func (h here) settleGroups(ctx context.Context, id consensus.LinkID, l consensus.Link, target *kafka.Client, opt mirror.SyncOptions) (mirror.GroupReport, steps.Groups, error) {
	var out steps.Groups
	opt.Skips, opt.Began = nil, nil
	settled, err := mirror.SyncGroups(ctx, target, target, opt)
	if err != nil {
		return mirror.GroupReport{}, out, err
	}
	out.Written = settled.Count(replicate.GroupWrite)
	earlier := h.pastOf(id, l.Epoch).groups
	report, err := mirror.CheckGroupsAlone(ctx, target, h.topics, capped(earlier, opt.Cap))
	if err != nil {
		return mirror.GroupReport{}, out, err
	}
	if len(earlier.Rows) == 0 {
		out.Notes = append(out.Notes, "this life of the daemon copied no group offsets before: what the region holds was taken as it is")
		report = settled
		// A group that has members here is no copy that could be wrong.
		report.Rows = slices.DeleteFunc(slices.Clone(settled.Rows), func(g replicate.GroupOffset) bool { return g.Outcome == replicate.GroupBusy })
	}
	return report, out, nil
}

// capped lowers what an earlier report wants to where the target may be read.
func capped(r mirror.GroupReport, limit map[topology.Partition]int64) mirror.GroupReport {
	r.Rows = slices.Clone(r.Rows)
	for i, g := range r.Rows {
		if at, ok := limit[g.Partition]; ok {
			r.Rows[i].Want = min(g.Want, at)
		}
	}
	return r
}

// seedCommitLogs writes what the commit logs of this region lack. What it can
// not mend is noted and stops nothing: the region serves without the followers.
func (h here) seedCommitLogs(ctx context.Context, target *kafka.Client, out *steps.Groups) error {
	var groups []string
	for _, l := range h.logs {
		if !slices.Contains(groups, l.Group) {
			groups = append(groups, l.Group)
		}
	}
	if len(groups) == 0 {
		return nil
	}
	committed, err := mirror.Commits(ctx, target, groups)
	if err != nil {
		return err
	}
	seeds, err := mirror.SeedCommitLogs(ctx, target, h.logs, committed)
	if err != nil {
		return err
	}
	noted := map[string]bool{}
	for _, s := range seeds {
		if s.Write && !s.Bad {
			out.Seeded++
		}
		if s.Bad && !noted[s.Topic] && len(out.Notes) < missingShown {
			noted[s.Topic] = true
			out.Notes = append(out.Notes, fmt.Sprintf("commit log %s of %s/%d: %s", s.Topic, s.Of, s.Partition, s.Note))
		}
	}
	return nil
}

// nextOf says what to try about a wrong offset.
func nextOf(o replicate.GroupOffset, from, to topology.Region) string {
	switch {
	case o.Busy != "":
		return fmt.Sprintf("stop the group's consumers in %s, or list it under mirror.groups.local", to)
	case o.Outcome == replicate.GroupAhead:
		return fmt.Sprintf("a group is never rewound: delete its offsets in %s (kafka-consumer-groups --delete-offsets) and they are copied again, or list it under mirror.groups.local", to)
	}
	return fmt.Sprintf("holdfast mirror status: is the mirror from %s running, and are its topics there?", from)
}

// GroupsCheck implements httpapi.Backend.
func (d *Daemon) GroupsCheck(ctx context.Context, region topology.Region) (httpapi.GroupsReport, error) {
	s := d.raft.State()
	topics, groups, err := selections(d.fleet)
	if err != nil {
		return httpapi.GroupsReport{}, err
	}
	out := httpapi.GroupsReport{At: d.clock.Wall().UTC(), Groups: []httpapi.GroupRow{}}
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		if l.Phase == consensus.LinkEnded || region != "" && l.To != region {
			continue
		}
		if from, to := d.regions[l.From], d.regions[l.To]; from == nil || to == nil || from.kafka == nil || to.kafka == nil {
			continue // nothing is mirrored between them
		}
		opt := mirror.SyncOptions{Groups: groups, Topics: topics, Skips: skips(l), Began: flat(l.Starts)}
		report, err := mirror.CheckGroups(ctx, d.regions[l.From].kafka, d.regions[l.To].kafka, opt, copyWithin+d.fleet.Mirror.GroupInterval)
		if err != nil {
			return out, err
		}
		out.Groups = append(out.Groups, groupRows(l.From, l.To, report)...)
	}
	return out, nil
}

func groupRows(from, to topology.Region, report mirror.GroupReport) []httpapi.GroupRow {
	rows := map[string]*httpapi.GroupRow{}
	shown := 0
	for _, o := range report.Rows {
		g := rows[o.Group]
		if g == nil {
			g = &httpapi.GroupRow{Region: to, Group: o.Group, OK: true}
			rows[o.Group] = g
		}
		g.Partitions++
		if o.Assumed {
			g.NeverRead++
			g.Rule = o.Rule
		}
		if o.Good() {
			g.Covered++
			continue
		}
		g.OK = false
		g.Skipped += o.Skipped
		g.Repeated += o.Repeated
		if shown++; shown <= groupRowsShown {
			g.Wrong = append(g.Wrong, httpapi.WrongOffset{Topic: o.Topic, Partition: o.Partition.Partition, Want: o.Want, Have: o.Have, Skipped: o.Skipped, Repeated: o.Repeated, Why: o.Note, Next: nextOf(o, from, to)})
		} else {
			g.Unnamed++
		}
	}
	for name, n := range report.Only {
		rows[name] = &httpapi.GroupRow{Region: to, Group: name, OK: true, Only: n}
	}
	var out []httpapi.GroupRow
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		out = append(out, *rows[name])
	}
	return out
}
