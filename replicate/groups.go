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
// never read (auto.offset.reset=latest); all others start at its beginning.
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

// Rule is the name of that rule, as consumers call it.
func (s *GroupSelector) Rule(group string) string {
	if s.StartsAtEnd(group) {
		return "latest"
	}
	return "earliest"
}

// Reposition returns where a group that stands at p goes on in a region that
// gets its log from one that was promoted at x and leapt to g: that one holds
// nothing visible in [x, g), while this one may hold orphans there. So p in
// [x, g) becomes g, where the group's next record is in both.
func Reposition(p, x, g int64) int64 {
	if x <= p && p < g {
		return g
	}
	return p
}

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
	Cap map[topology.Partition]int64
	// Skips are what the source leapt over when it was promoted; see Reposition.
	Skips map[topology.Partition]Range
	// Began is the target's end when the link was made. An offset of the target
	// up to there is of the time before, when the target was the source: what is
	// committed at the present source takes its place, in either direction.
	Began    map[topology.Partition]int64
	Selector *GroupSelector
}

// Outcome says what became of one group offset.
type Outcome string

// The outcomes. The first three are good to start a consumer on; behind means
// that it would read some records again, as an offset that is copied while the
// source goes on always is. One that stays behind is late.
const (
	GroupSame    Outcome = "same"    // the target has it already
	GroupWrite   Outcome = "written" // in a plan: to be written; in a report: written and read back
	GroupBehind  Outcome = "behind"  // in a check: lower than wanted, within the log
	GroupAhead   Outcome = "ahead"   // the target is further; a group is never rewound
	GroupBusy    Outcome = "busy"    // the group has members at the target
	GroupAbsent  Outcome = "absent"  // the target lacks the partition, or in a check the offset
	GroupFailed  Outcome = "failed"  // the broker refused it, or read back something else
	GroupOutside Outcome = "outside" // in a check: beyond the target's log
	GroupLate    Outcome = "late"    // in a check: behind, and not because it is being copied
)

// GroupOffset is one (group, topic, partition).
type GroupOffset struct {
	Group string `json:"group"`
	topology.Partition
	Source   int64   `json:"source"`            // committed there, or see Assumed
	Assumed  bool    `json:"assumed,omitempty"` // nothing is committed: where its consumer would start
	Rule     string  `json:"rule,omitempty"`    // by which it was assumed: earliest or latest
	Want     int64   `json:"want"`              // Source within what the target holds
	Have     int64   `json:"have"`              // at the target; -1: none
	Metadata string  `json:"-"`
	Outcome  Outcome `json:"outcome"`
	// Busy is the group's state at the target, where that kept it from a copy.
	Busy string `json:"busy,omitempty"`
	// Skipped and Repeated are what a consumer that started now would miss or
	// read twice, in offsets: no fewer than the records. Both are set when it
	// would start by its own setting, at the end or at the beginning.
	Skipped  int64  `json:"skipped,omitempty"`
	Repeated int64  `json:"repeated,omitempty"`
	Note     string `json:"note,omitempty"`
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
//
// A partition that was never read gets the place where its consumer would
// start, by the rule of its group. The end is taken when the partition is
// first seen without an offset, and kept: a consumer that waits at the end has
// not committed what came since.
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
	if c, ok := f.Target[group][p]; ok {
		g.Have = c.Offset
	}
	r, ok := f.TargetRange[p]
	inside := r.Start <= g.Have && g.Have <= r.End
	if c, ok := f.Source[group][p]; ok {
		g.Source, g.Metadata = c.Offset, c.Metadata
	} else {
		g.Assumed, g.Rule, g.Source = true, f.Selector.Rule(group), f.SourceRange[p].Start
		g.Note = "never read at the source: its beginning, by the rule earliest"
		if f.Selector.StartsAtEnd(group) {
			g.Source = f.SourceRange[p].End
			if inside && g.Have <= g.Source {
				g.Source = g.Have
			}
			g.Note = "never read at the source: its end when that was first seen, by the rule latest"
		}
	}
	if !ok {
		g.Outcome, g.Note = GroupAbsent, "the target does not have this partition yet"
		return g
	}
	end := r.End
	if limit, ok := f.Cap[p]; ok {
		end = min(end, limit)
	}
	next := g.Source
	if leapt, ok := f.Skips[p]; ok {
		next = Reposition(next, leapt.Start, leapt.End)
	}
	g.Want = max(min(next, end), r.Start)
	former := !g.Assumed && g.Have <= f.Began[p] // the target's own, of a time before the link
	beyond := f.Cap != nil && g.Have > end       // the final step takes it back
	switch state, busy := f.Busy[group]; {
	case g.Have == g.Want:
		g.Outcome = GroupSame
	case busy:
		g.Outcome, g.Busy, g.Note = GroupBusy, state, "the group is "+state+" at the target; stop its consumers there, or list it as local"
	case g.Have > g.Want && inside && !former && !beyond:
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
		g.Have, g.Skipped, g.Repeated = -1, 0, 0
		if committed {
			g.Have = c.Offset
		}
		busy := ""
		if g.Busy != "" {
			busy = " (the group is " + g.Busy + " there)"
		}
		switch {
		case !exists:
			g.Outcome, g.Note = GroupAbsent, "the target does not have this partition"
		case !committed:
			g.Outcome = GroupAbsent
			g.byItself(r, "the target has no offset"+busy)
		case c.Offset < r.Start || c.Offset > r.End:
			g.Outcome = GroupOutside
			g.byItself(r, fmt.Sprintf("the offset %d is outside of the target's [%d,%d]%s", c.Offset, r.Start, r.End, busy))
		case c.Offset > g.Want:
			g.Outcome, g.Skipped = GroupAhead, c.Offset-g.Want
			g.Note = fmt.Sprintf("the target's offset %d is ahead of %d: %s would be skipped%s", g.Have, g.Want, upTo(g.Skipped), busy)
		case c.Offset < g.Want:
			g.Outcome, g.Repeated = GroupBehind, g.Want-c.Offset
			g.Note = fmt.Sprintf("the target's offset %d is behind %d: %s would be read again%s", g.Have, g.Want, upTo(g.Repeated), busy)
		default:
			g.Outcome = GroupSame
		}
	}
	SortGroups(out)
	return out
}

// byItself says what follows when the group's consumer finds no offset that it
// can use: nothing stops it, it starts where its own setting says.
func (g *GroupOffset) byItself(r Range, why string) {
	g.Skipped, g.Repeated = max(0, r.End-g.Want), max(0, g.Want-r.Start)
	g.Note = fmt.Sprintf("%s: the consumer would start by its own setting, skip %s (latest) or read %s again (earliest)", why, upTo(g.Skipped), upTo(g.Repeated))
}

func upTo(n int64) string {
	switch n {
	case 0:
		return "no record"
	case 1:
		return "1 record"
	}
	return fmt.Sprintf("up to %d records", n)
}

// Late tells what is behind because it is just being copied from what stays
// behind. Both are a check's rows, later ones taken after the time in which a
// copy must have been made.
func Late(earlier, later []GroupOffset) []GroupOffset {
	type key struct {
		group string
		topology.Partition
	}
	wanted := make(map[key]int64, len(earlier))
	for _, g := range earlier {
		wanted[key{g.Group, g.Partition}] = g.Want
	}
	out := slices.Clone(later)
	for i := range out {
		g := &out[i]
		if before, known := wanted[key{g.Group, g.Partition}]; known && g.Outcome == GroupBehind && g.Have < before {
			g.Outcome = GroupLate
		}
	}
	return out
}

// SortGroups sorts by group, topic, partition.
func SortGroups(rows []GroupOffset) {
	slices.SortFunc(rows, func(a, b GroupOffset) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), a.Partition.Compare(b.Partition))
	})
}
