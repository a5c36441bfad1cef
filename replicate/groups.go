package replicate

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Range is what a partition holds: offsets [Start, End).
type Range struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Settled says that the log's real end and the high watermark agreed when
	// they were read. Only a settled end may decide something: an unsettled
	// one can still grow without a write, or shrink at an election.
	Settled bool `json:"settled"`
}

// GroupSelector says which consumer groups are copied. Local groups consume in
// both regions, so theirs is never overwritten; they win over everything. The
// nil selector selects no group.
type GroupSelector struct {
	include, exclude, local, atEnd []*regexp.Regexp
}

// NewGroupSelector takes regular expressions that must match a whole group id.
// An empty include list selects every group that is not excluded. Groups of
// atEnd are those whose consumers start at the end of a partition that they
// have no offset for; all others start at its beginning.
func NewGroupSelector(include, exclude, local, atEnd []string) (*GroupSelector, error) {
	var s GroupSelector
	for _, list := range []struct {
		what     string
		patterns []string
		into     *[]*regexp.Regexp
	}{{"group include", include, &s.include}, {"group exclude", exclude, &s.exclude}, {"local group", local, &s.local}, {"group at_end", atEnd, &s.atEnd}} {
		var err error
		if *list.into, err = wholeMatches(list.what, list.patterns); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

// Selects says whether the group is copied.
func (s *GroupSelector) Selects(group string) bool {
	if s == nil || anyMatch(s.local, group) || anyMatch(s.exclude, group) {
		return false
	}
	return len(s.include) == 0 || anyMatch(s.include, group)
}

// StartsAtEnd says where the group's consumers start without an offset.
func (s *GroupSelector) StartsAtEnd(group string) bool { return s != nil && anyMatch(s.atEnd, group) }

// Commit is one committed offset.
type Commit struct {
	Offset   int64
	Metadata string
}

// Commits are the committed offsets of one group.
type Commits map[topology.Partition]Commit

// GroupFacts is all that the plan for group offsets depends on.
type GroupFacts struct {
	Source      map[string]Commits  // selected groups
	Topics      map[string][]string // topics that members of a group are assigned, beside those with commits
	Target      map[string]Commits
	Busy        map[string]string // groups with members at the target, with their state
	SourceRange map[topology.Partition]Range
	TargetRange map[topology.Partition]Range
	// Cap, when set, is where the target may be read at most.
	Cap      map[topology.Partition]int64
	Selector *GroupSelector
}

// Outcome says what became of one group offset.
type Outcome string

// The outcomes. The first three are good to start a consumer on; behind means
// that it would read some records again, as an offset that is copied while the
// source goes on always is.
const (
	GroupSame    Outcome = "same"    // the target has it already
	GroupWrite   Outcome = "written" // in a plan: to be written; in a report: written and read back
	GroupBehind  Outcome = "behind"  // in a check: lower than wanted, within the log
	GroupAhead   Outcome = "ahead"   // the target is further; a group is never rewound
	GroupBusy    Outcome = "busy"    // the group has members at the target
	GroupAbsent  Outcome = "absent"  // the target lacks the partition, or in a check the offset
	GroupFailed  Outcome = "failed"  // the broker refused it, or read back something else
	GroupOutside Outcome = "outside" // in a check: beyond the target's log
)

// GroupOffset is one (group, topic, partition).
type GroupOffset struct {
	Group string `json:"group"`
	topology.Partition
	Source   int64   `json:"source"`            // committed there, or see Assumed
	Assumed  bool    `json:"assumed,omitempty"` // nothing is committed: where its consumer would start
	Want     int64   `json:"want"`              // Source within what the target holds
	Have     int64   `json:"have"`              // at the target; -1: none
	Metadata string  `json:"-"`
	Outcome  Outcome `json:"outcome"`
	Note     string  `json:"note,omitempty"`
}

// Good says whether a consumer could start here and miss nothing that the
// target holds.
func (g GroupOffset) Good() bool {
	return g.Outcome == GroupSame || g.Outcome == GroupWrite || g.Outcome == GroupBehind
}

// PlanGroups says for each (group, topic, partition) what must be written at
// the target. Every partition of a topic that a group reads gets an offset,
// committed at the source or not: without one its consumer would start
// wherever its own settings say, and silently skip or repeat.
func PlanGroups(f GroupFacts) []GroupOffset {
	parts := map[string][]topology.Partition{}
	for p := range f.SourceRange {
		parts[p.Topic] = append(parts[p.Topic], p)
	}
	var out []GroupOffset
	for group, commits := range f.Source {
		topics := map[string]bool{}
		for p := range commits {
			topics[p.Topic] = true
		}
		for _, t := range f.Topics[group] {
			topics[t] = true
		}
		for topic := range maps.Keys(topics) {
			for _, p := range parts[topic] {
				out = append(out, planGroup(f, group, p))
			}
		}
	}
	SortGroups(out)
	return out
}

func planGroup(f GroupFacts, group string, p topology.Partition) GroupOffset {
	g := GroupOffset{Group: group, Partition: p, Have: -1, Want: -1}
	if c, ok := f.Source[group][p]; ok {
		g.Source, g.Metadata = c.Offset, c.Metadata
	} else {
		g.Assumed, g.Source = true, f.SourceRange[p].Start
		g.Note = "nothing committed at the source: set to its beginning"
		if f.Selector.StartsAtEnd(group) {
			g.Source = f.SourceRange[p].End
			g.Note = "nothing committed at the source: set to its end"
		}
	}
	if c, ok := f.Target[group][p]; ok {
		g.Have = c.Offset
	}
	r, ok := f.TargetRange[p]
	if !ok {
		g.Outcome, g.Note = GroupAbsent, "the target does not have this partition yet"
		return g
	}
	end := r.End
	if limit, ok := f.Cap[p]; ok {
		end = min(end, limit)
	}
	g.Want = max(min(g.Source, end), r.Start)
	inside := r.Start <= g.Have && g.Have <= r.End
	switch state, busy := f.Busy[group]; {
	case g.Have == g.Want:
		g.Outcome = GroupSame
	case busy:
		g.Outcome, g.Note = GroupBusy, "the group is "+state+" at the target; stop its consumers there, or list it as local"
	case g.Have > g.Want && inside && !(f.Cap != nil && g.Have > end):
		g.Outcome = GroupAhead
		g.Note = fmt.Sprintf("the target's offset %d is ahead of %d; a group is never rewound", g.Have, g.Want)
	default:
		g.Outcome = GroupWrite
	}
	return g
}

// Coverage judges what the target holds against a plan, after it was carried
// out or instead: every offset must be there, within the log and as wanted.
// It returns all rows; those that are not Good are the findings.
func Coverage(want []GroupOffset, have map[string]Commits, target map[topology.Partition]Range) []GroupOffset {
	out := slices.Clone(want)
	for i := range out {
		g := &out[i]
		c, committed := have[g.Group][g.Partition]
		r, exists := target[g.Partition]
		g.Have = -1
		if committed {
			g.Have = c.Offset
		}
		switch {
		case !exists:
			g.Outcome, g.Note = GroupAbsent, "the target does not have this partition"
		case !committed:
			g.Outcome, g.Note = GroupAbsent, "the target has no offset; the consumer would silently start at its own default"
		case c.Offset < r.Start || c.Offset > r.End:
			g.Outcome, g.Note = GroupOutside, fmt.Sprintf("the offset is outside of the target's [%d,%d)", r.Start, r.End)
		case c.Offset > g.Want:
			g.Outcome, g.Note = GroupAhead, fmt.Sprintf("the target's offset is ahead of %d: records would be skipped", g.Want)
		case c.Offset < g.Want:
			g.Outcome, g.Note = GroupBehind, fmt.Sprintf("%d records would be read again", g.Want-c.Offset)
		default:
			g.Outcome = GroupSame
		}
	}
	SortGroups(out)
	return out
}

// SortGroups sorts by group, topic, partition.
func SortGroups(rows []GroupOffset) {
	slices.SortFunc(rows, func(a, b GroupOffset) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), a.Partition.Compare(b.Partition))
	})
}
