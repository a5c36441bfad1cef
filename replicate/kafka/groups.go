package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	groupsTimeout = 30 * time.Second
	// groupsRenew is how often unchanged offsets are written again, so that an
	// idle group at the target does not expire (offsets.retention.minutes is 7
	// days by default).
	groupsRenew = 12 * time.Hour
)

// SyncOptions say what SyncGroups copies.
type SyncOptions struct {
	Groups *replicate.GroupSelector
	Topics replicate.Selection
	// Cap, when set, is the final step of a move: no group may start beyond
	// these offsets, and one that is beyond is set back to them.
	Cap map[topology.Partition]int64
	// Renew writes offsets again that are the same already.
	Renew bool
}

// GroupReport is what became of every (group, topic, partition).
type GroupReport struct {
	At   time.Time               `json:"at"`
	Rows []replicate.GroupOffset `json:"rows"`
}

// Findings returns the rows on which no consumer should start.
func (r GroupReport) Findings() []replicate.GroupOffset {
	var out []replicate.GroupOffset
	for _, g := range r.Rows {
		if !g.Good() {
			out = append(out, g)
		}
	}
	return out
}

// Count returns the number of rows with this outcome.
func (r GroupReport) Count(o replicate.Outcome) (n int) {
	for _, g := range r.Rows {
		if g.Outcome == o {
			n++
		}
	}
	return n
}

// SyncGroups copies committed offsets of the selected groups, within what the
// target holds, and reads back what it wrote. It never rewinds a group and
// never writes to one that has members at the target; those rows say so. An
// error means that nothing is known; a report may hold findings.
func SyncGroups(ctx context.Context, source, target *kafka.Client, opt SyncOptions) (GroupReport, error) {
	facts, err := groupFacts(ctx, source, target, opt)
	if err != nil {
		return GroupReport{}, fmt.Errorf("sync groups: %w", err)
	}
	rows := replicate.PlanGroups(facts)
	writes := map[string]kadm.Offsets{}
	for _, g := range rows {
		if _, busy := facts.Busy[g.Group]; g.Outcome == replicate.GroupWrite || opt.Renew && g.Outcome == replicate.GroupSame && !busy {
			os := writes[g.Group]
			os.Add(kadm.Offset{Topic: g.Topic, Partition: g.Partition.Partition, At: g.Want, LeaderEpoch: -1, Metadata: g.Metadata})
			writes[g.Group] = os
		}
	}
	refused := map[string]map[topology.Partition]string{}
	for _, group := range slices.Sorted(maps.Keys(writes)) {
		refused[group] = writeCommits(ctx, target, group, writes[group])
	}
	if len(writes) == 0 {
		return GroupReport{At: time.Now(), Rows: rows}, nil
	}
	back, err := readCommits(ctx, target, slices.Sorted(maps.Keys(writes)))
	if err != nil {
		return GroupReport{}, fmt.Errorf("sync groups: read back: %w", err)
	}
	for i := range rows {
		g := &rows[i]
		if g.Outcome != replicate.GroupWrite {
			continue
		}
		got, ok := back[g.Group][g.Partition]
		switch why := refused[g.Group][g.Partition]; {
		case why != "":
			g.Outcome, g.Note = replicate.GroupFailed, "the target refused the offset: "+why
		case !ok:
			g.Outcome, g.Note = replicate.GroupFailed, "the offset was written and is not there"
		case got.Offset != g.Want:
			g.Outcome, g.Note = replicate.GroupFailed, fmt.Sprintf("wrote %d and read back %d: another writer?", g.Want, got.Offset)
		}
		if ok {
			g.Have = got.Offset
		}
	}
	return GroupReport{At: time.Now(), Rows: rows}, nil
}

// CheckGroups says for every (group, topic, partition) that the source's
// groups read whether the target has the right offset. It writes nothing.
func CheckGroups(ctx context.Context, source, target *kafka.Client, opt SyncOptions) (GroupReport, error) {
	facts, err := groupFacts(ctx, source, target, opt)
	if err != nil {
		return GroupReport{}, fmt.Errorf("check groups: %w", err)
	}
	return GroupReport{At: time.Now(), Rows: replicate.Coverage(replicate.PlanGroups(facts), facts.Target, facts.TargetRange)}, nil
}

// CheckGroupsAlone checks the target against an earlier report, when the
// source cannot be asked any more: every offset must be there, within the log
// and not behind what the report says was there.
func CheckGroupsAlone(ctx context.Context, target *kafka.Client, topics replicate.Selection, earlier GroupReport) (GroupReport, error) {
	ranges, err := Ends(ctx, target, topics)
	if err != nil {
		return GroupReport{}, fmt.Errorf("check groups: %w", err)
	}
	groups := map[string]bool{}
	for _, g := range earlier.Rows {
		groups[g.Group] = true
	}
	have, err := readCommits(ctx, target, slices.Sorted(maps.Keys(groups)))
	if err != nil {
		return GroupReport{}, fmt.Errorf("check groups: %w", err)
	}
	// A copy may have been made after the report: further, within the log, is
	// where the source's group was.
	want := slices.Clone(earlier.Rows)
	for i, g := range want {
		if c, ok := have[g.Group][g.Partition]; ok && c.Offset <= ranges[g.Partition].End {
			want[i].Want = max(g.Want, c.Offset)
		}
	}
	return GroupReport{At: time.Now(), Rows: replicate.Coverage(want, have, ranges)}, nil
}

// groupFacts reads all that the plan depends on, whole or not at all.
func groupFacts(ctx context.Context, source, target *kafka.Client, opt SyncOptions) (replicate.GroupFacts, error) {
	f := replicate.GroupFacts{Cap: opt.Cap, Selector: opt.Groups, Topics: map[string][]string{}, Busy: map[string]string{}}
	listed, err := source.Admin.ListGroups(ctx)
	if err != nil {
		return f, fmt.Errorf("list groups of kafka %s: %w", source.Name(), err)
	}
	var groups, live []string
	for _, g := range listed.Sorted() {
		if opt.Groups.Selects(g.Group) && (g.ProtocolType == "consumer" || g.ProtocolType == "") {
			groups = append(groups, g.Group)
			if g.State != "Empty" && g.State != "Dead" {
				live = append(live, g.Group)
			}
		}
	}
	// The commits first, then the target's ends: an end that is read later is
	// never too low for what was committed before.
	if f.Source, err = readCommits(ctx, source, groups); err != nil {
		return f, err
	}
	if f.SourceRange, err = endsSoon(ctx, source, opt.Topics); err != nil {
		return f, err
	}
	if f.TargetRange, err = endsSoon(ctx, target, opt.Topics); err != nil {
		return f, err
	}
	if f.Target, err = readCommits(ctx, target, groups); err != nil {
		return f, err
	}
	there, err := target.Admin.ListGroups(ctx)
	if err != nil {
		return f, fmt.Errorf("list groups of kafka %s: %w", target.Name(), err)
	}
	for _, g := range groups {
		if t, ok := there[g]; ok && t.State != "Empty" && t.State != "Dead" {
			f.Busy[g] = t.State
		}
	}
	if len(live) > 0 {
		described, err := source.Admin.DescribeGroups(ctx, live...)
		if err != nil {
			return f, fmt.Errorf("describe groups of kafka %s: %w", source.Name(), err)
		}
		for _, g := range described {
			if g.Err == nil { // groups of the newer protocol are known by their commits
				f.Topics[g.Group] = slices.Sorted(maps.Keys(g.AssignedPartitions()))
			}
		}
	}
	return f, nil
}

// readCommits reads the committed offsets of all these groups, whole or not at
// all; a group without any has an empty entry.
func readCommits(ctx context.Context, cl *kafka.Client, groups []string) (map[string]replicate.Commits, error) {
	got, err := cl.Commits(ctx, groups)
	if err != nil {
		return nil, err
	}
	out := make(map[string]replicate.Commits, len(got))
	for group, offsets := range got {
		commits := make(replicate.Commits, len(offsets))
		for _, o := range offsets {
			commits[topology.Partition{Topic: o.Topic, Partition: o.Partition}] = replicate.Commit{Offset: o.At, Metadata: o.Metadata}
		}
		out[group] = commits
	}
	return out, nil
}

// writeCommits writes the offsets of one group and says which were refused.
func writeCommits(ctx context.Context, cl *kafka.Client, group string, os kadm.Offsets) map[topology.Partition]string {
	var refused map[topology.Partition]string
	_ = kafka.UntilSettled(ctx, func() error { // the last try's answers are in refused
		refused = map[topology.Partition]string{}
		resp, err := cl.Admin.CommitOffsets(ctx, group, os)
		first := err
		os.Each(func(o kadm.Offset) {
			one, ok := resp.Lookup(o.Topic, o.Partition)
			why := err
			switch {
			case err != nil:
			case !ok:
				why = errNoAnswer
			default:
				why = one.Err
			}
			if why != nil {
				refused[topology.Partition{Topic: o.Topic, Partition: o.Partition}] = why.Error()
				first = why
			}
		})
		return first
	})
	return refused
}

// GroupLag is how far one group is from the given ends.
type GroupLag struct {
	Group   string               `json:"group"`
	Lag     int64                `json:"lag"`               // records up to the ends
	Behind  []topology.Partition `json:"behind,omitempty"`  // partitions that are not at their end
	Missing []topology.Partition `json:"missing,omitempty"` // among Behind: nothing committed; counted from offset 0
}

// Drained says how many records each group has to read up to the given ends,
// in the topics it has committed anything for. Lag 0 everywhere is drained. A
// group that has committed nothing at all counts with every given partition.
func Drained(ctx context.Context, cl *kafka.Client, groups []string, ends map[topology.Partition]int64) ([]GroupLag, error) {
	commits, err := readCommits(ctx, cl, groups)
	if err != nil {
		return nil, fmt.Errorf("drained: %w", err)
	}
	var out []GroupLag
	for _, group := range groups {
		topics := map[string]bool{}
		for p := range commits[group] {
			topics[p.Topic] = true
		}
		lag := GroupLag{Group: group}
		for _, p := range sortedPartitions(ends) {
			end := ends[p]
			if len(topics) > 0 && !topics[p.Topic] {
				continue
			}
			c, ok := commits[group][p]
			if end > c.Offset {
				lag.Lag += end - c.Offset
				lag.Behind = append(lag.Behind, p)
				if !ok {
					lag.Missing = append(lag.Missing, p)
				}
			}
		}
		out = append(out, lag)
	}
	return out, nil
}

// keepGroups copies group offsets while the mirror runs. What does not work is
// a finding, and tried again.
func (l *loop) keepGroups(ctx context.Context) {
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(l.conf.GroupsEvery):
		}
		opt := SyncOptions{Groups: l.conf.Groups, Topics: l.conf.Topics, Renew: time.Since(renewed) >= groupsRenew}
		rctx, cancel := context.WithTimeout(ctx, groupsTimeout)
		report, err := SyncGroups(rctx, l.conf.Source, l.conf.Target, opt)
		cancel()
		if ctx.Err() != nil {
			return
		}
		var findings []replicate.Finding
		if err != nil {
			findings = []replicate.Finding{{About: "groups", Text: err.Error()}}
		} else {
			if opt.Renew {
				renewed = time.Now()
			}
			l.groups.Store(&report)
			findings = groupFindings(report)
		}
		select {
		case l.events <- func() { l.findings["groups"] = findings }:
		case <-ctx.Done():
			return
		}
	}
}

// groupFindings says one line for each group and kind of trouble. A partition
// that the target will get soon is none.
func groupFindings(r GroupReport) []replicate.Finding {
	type key struct {
		group   string
		outcome replicate.Outcome
	}
	var out []replicate.Finding
	seen := map[key]int{}
	for _, g := range r.Findings() {
		k := key{g.Group, g.Outcome}
		if i, ok := seen[k]; ok {
			out[i].Next = "and more partitions; holdfast groups check"
			continue
		}
		seen[k] = len(out)
		out = append(out, replicate.Finding{About: "group " + g.Group, Text: fmt.Sprintf("%s: %s", g.Partition, g.Note), Next: "holdfast groups check"})
	}
	return out
}
