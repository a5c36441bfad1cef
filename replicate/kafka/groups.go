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
	groupWriters  = 8 // groups that are written at the same time
)

// SyncOptions say what SyncGroups copies.
type SyncOptions struct {
	Groups *replicate.GroupSelector
	Topics replicate.Selection
	// Cap, when set, is the final step of a move: no group may start beyond
	// these offsets, and one that is beyond is set back to them.
	Cap map[topology.Partition]int64
	// Skips are the ranges that the source leapt over when it was promoted.
	Skips map[topology.Partition]replicate.Range
	// Began is the target's end when the link was made.
	Began map[topology.Partition]int64
	// Renew writes offsets again that are the same already.
	Renew bool
}

// GroupReport is what became of every (group, topic, partition).
type GroupReport struct {
	At   time.Time               `json:"at"` // when the source was asked
	Rows []replicate.GroupOffset `json:"rows"`
	// Only are the selected groups that have offsets at the target and are
	// unknown to the source, with their number: deleted or expired there, or
	// never there. They are left alone. A list of groups that comes back short
	// must never delete an offset; and what is not copied any more is not
	// renewed either, so that the target lets it go after its own retention.
	Only map[string]int `json:"only,omitempty"`
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
	return newGroupSync(source, target, opt).pass(ctx, opt.Renew)
}

// CheckGroups says for every (group, topic, partition) that the source's
// groups read whether the target has the right offset. It writes nothing. An
// offset that is behind counts as late only when it still is after within, the
// time that a copy may take.
func CheckGroups(ctx context.Context, source, target *kafka.Client, opt SyncOptions, within time.Duration) (GroupReport, error) {
	once := func() (GroupReport, error) {
		facts, err := newGroupSync(source, target, opt).facts(ctx)
		if err != nil {
			return GroupReport{}, fmt.Errorf("check groups: %w", err)
		}
		rows := replicate.Coverage(replicate.PlanGroups(facts.GroupFacts), facts.Target, facts.TargetRange)
		return GroupReport{At: facts.at, Rows: rows, Only: facts.only}, nil
	}
	first, err := once()
	if err != nil || first.Count(replicate.GroupSame) == len(first.Rows) {
		return first, err
	}
	select {
	case <-ctx.Done():
		return GroupReport{}, fmt.Errorf("check groups: %w", context.Cause(ctx))
	case <-time.After(within):
	}
	second, err := once()
	if err == nil {
		second.Rows = replicate.Late(first.Rows, second.Rows)
	}
	return second, err
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

// Commits reads the committed offsets of groups, whole or not at all.
func Commits(ctx context.Context, cl *kafka.Client, groups []string) (map[string]replicate.Commits, error) {
	return readCommits(ctx, cl, groups)
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
