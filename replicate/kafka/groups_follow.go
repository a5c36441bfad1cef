package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// How long a group sync trusts what it read. What the source's groups commit
// and whether they have members at the target is asked in every pass.
const (
	groupViewFor   = 5 * time.Second  // topics, partitions and leaders
	groupTopicsFor = 5 * time.Second  // what live groups are assigned
	groupHaveFor   = 10 * time.Second // offsets at the target, beside our own writes
	retentionFor   = time.Hour        // the target's offsets.retention.minutes
	// renewDefault is how often unchanged offsets are written again where the
	// target does not tell its retention (7 days by default).
	renewDefault = 12 * time.Hour
)

// groupSync copies group offsets, pass by pass. It belongs to one goroutine.
type groupSync struct {
	source, target *kafka.Client
	opt            SyncOptions

	views        [2]groupView // source, target
	assigned     map[string][]string
	assignedAt   time.Time
	have         map[string]replicate.Commits // at the target
	haveAt       time.Time
	copied       map[string]bool // groups that the source had
	renewed      time.Time
	renewEvery   time.Duration
	renewEveryAt time.Time
}

type groupView struct {
	*view
	at time.Time
}

func newGroupSync(source, target *kafka.Client, opt SyncOptions) *groupSync {
	return &groupSync{source: source, target: target, opt: opt, copied: map[string]bool{}}
}

// syncFacts are what one pass knows.
type syncFacts struct {
	replicate.GroupFacts
	at   time.Time
	only map[string]int
}

// pass copies once. An error means that nothing is known of this pass, though
// some offsets may have been written.
func (s *groupSync) pass(ctx context.Context, renew bool) (GroupReport, error) {
	facts, err := s.facts(ctx)
	if err != nil {
		return GroupReport{}, fmt.Errorf("sync groups: %w", err)
	}
	rows := replicate.PlanGroups(facts.GroupFacts)
	writes := map[string]kadm.Offsets{}
	for _, g := range rows {
		if _, busy := facts.Busy[g.Group]; g.Outcome == replicate.GroupWrite || renew && g.Outcome == replicate.GroupSame && !busy {
			os := writes[g.Group]
			os.Add(kadm.Offset{Topic: g.Topic, Partition: g.Partition.Partition, At: g.Want, LeaderEpoch: -1, Metadata: g.Metadata})
			writes[g.Group] = os
		}
	}
	if len(writes) > 0 {
		if err := s.write(ctx, writes, rows); err != nil {
			s.have = nil // what was written is not known: ask for everything
			return GroupReport{}, fmt.Errorf("sync groups: %w", err)
		}
	}
	return GroupReport{At: facts.at, Rows: rows, Only: facts.only}, nil
}

// write writes offsets, reads all of them back, and says in the rows what
// became of them.
func (s *groupSync) write(ctx context.Context, writes map[string]kadm.Offsets, rows []replicate.GroupOffset) error {
	groups := slices.Sorted(maps.Keys(writes))
	refused := map[string]map[topology.Partition]string{}
	var mu sync.Mutex
	var work sync.WaitGroup
	lanes := make(chan struct{}, groupWriters)
	for _, group := range groups {
		lanes <- struct{}{}
		work.Go(func() {
			defer func() { <-lanes }()
			no := writeCommits(ctx, s.target, group, writes[group])
			mu.Lock()
			defer mu.Unlock()
			refused[group] = no
		})
	}
	work.Wait()
	back, err := readCommits(ctx, s.target, groups)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	maps.Copy(s.have, back)
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
	return nil
}

// facts reads all that the plan depends on, whole or not at all.
func (s *groupSync) facts(ctx context.Context) (syncFacts, error) {
	now := time.Now()
	f := syncFacts{at: now, GroupFacts: replicate.GroupFacts{
		Cap: s.opt.Cap, Skips: s.opt.Skips, Began: s.opt.Began, Selector: s.opt.Groups, Busy: map[string]string{},
	}}
	groups, live, err := s.sourceGroups(ctx)
	if err != nil {
		return f, err
	}
	// The commits first, then the ends: an end that is read later is never too
	// low for what was committed before.
	if f.Source, err = readCommits(ctx, s.source, groups); err != nil {
		return f, err
	}
	if err := s.readAssigned(ctx, now, live); err != nil {
		return f, err
	}
	read := s.topicsOf(f.Source)
	var there kadm.ListedGroups
	errs := make([]error, 3)
	together(
		func() { f.SourceRange, errs[0] = s.held(ctx, now, 0, read) },
		func() { f.TargetRange, errs[1] = s.held(ctx, now, 1, read) },
		func() {
			if there, errs[2] = s.target.Admin.ListGroups(ctx); errs[2] != nil {
				errs[2] = fmt.Errorf("list groups of kafka %s: %w", s.target.Name(), errs[2])
			}
		},
	)
	if err := errors.Join(errs...); err != nil {
		s.views = [2]groupView{} // a leader may have moved
		return f, err
	}
	f.Topics = s.assigned
	asked := map[string]bool{}
	for _, g := range groups {
		asked[g] = true
	}
	var only []string
	for name, g := range there {
		switch {
		case asked[name]:
			if g.State != "Empty" && g.State != "Dead" {
				f.Busy[name] = g.State
			}
		case s.opt.Groups.Selects(name) && consumers(g):
			only = append(only, name)
		}
	}
	if err := s.readHave(ctx, now, slices.Concat(groups, only)); err != nil {
		return f, err
	}
	f.Target, f.only = s.have, s.count(only)
	return f, nil
}

func consumers(g kadm.ListedGroup) bool { return g.ProtocolType == "consumer" || g.ProtocolType == "" }

func (s *groupSync) sourceGroups(ctx context.Context) (groups, live []string, err error) {
	listed, err := s.source.Admin.ListGroups(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list groups of kafka %s: %w", s.source.Name(), err)
	}
	for _, g := range listed.Sorted() {
		if s.opt.Groups.Selects(g.Group) && consumers(g) {
			groups = append(groups, g.Group)
			if g.State != "Empty" && g.State != "Dead" {
				live = append(live, g.Group)
			}
		}
	}
	return groups, live, nil
}

// readAssigned asks what the members of live groups are assigned: a group that
// has not committed yet is known by that alone.
func (s *groupSync) readAssigned(ctx context.Context, now time.Time, live []string) error {
	if s.assigned != nil && now.Sub(s.assignedAt) < groupTopicsFor {
		return nil
	}
	topics := map[string][]string{}
	if len(live) > 0 {
		described, err := s.source.Admin.DescribeGroups(ctx, live...)
		if err != nil {
			return fmt.Errorf("describe groups of kafka %s: %w", s.source.Name(), err)
		}
		for _, g := range described {
			if g.Err == nil { // groups of the newer protocol are known by their commits
				topics[g.Group] = slices.Sorted(maps.Keys(g.AssignedPartitions()))
			}
		}
	}
	s.assigned, s.assignedAt = topics, now
	return nil
}

// readHave reads the target's offsets of all these groups, unless they were
// read a moment ago: then only those of groups that are new.
func (s *groupSync) readHave(ctx context.Context, now time.Time, groups []string) error {
	ask := groups
	if s.have != nil && now.Sub(s.haveAt) < groupHaveFor {
		ask = slices.DeleteFunc(slices.Clone(groups), func(g string) bool { _, known := s.have[g]; return known })
	} else {
		s.have, s.haveAt = map[string]replicate.Commits{}, now
	}
	if len(ask) == 0 {
		return nil
	}
	got, err := readCommits(ctx, s.target, ask)
	if err != nil {
		s.have = nil
		return err
	}
	maps.Copy(s.have, got)
	return nil
}

// count returns how many offsets in mirrored topics each of these groups has.
func (s *groupSync) count(groups []string) map[string]int {
	out := map[string]int{}
	for _, g := range groups {
		for p := range s.have[g] {
			if s.opt.Topics.Selects(p.Topic) {
				out[g]++
			}
		}
	}
	return out
}

// topicsOf returns the mirrored topics that the groups read. Others need not be
// asked about.
func (s *groupSync) topicsOf(groups map[string]replicate.Commits) map[string]bool {
	read := map[string]bool{}
	note := func(topic string) {
		if _, known := read[topic]; !known {
			read[topic] = s.opt.Topics.Selects(topic)
		}
	}
	for _, commits := range groups {
		for p := range commits {
			note(p.Topic)
		}
	}
	for _, topics := range s.assigned {
		for _, t := range topics {
			note(t)
		}
	}
	return read
}

// held reads what the partitions of one side hold, again after an error that
// may pass by itself, such as a leader that just moved.
func (s *groupSync) held(ctx context.Context, now time.Time, side int, read map[string]bool) (out map[topology.Partition]replicate.Range, err error) {
	cl := s.source
	if side == 1 {
		cl = s.target
	}
	for range endsTries {
		if out, err = s.heldOnce(ctx, cl, now, &s.views[side], read); err == nil {
			return out, nil
		}
		s.views[side] = groupView{}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(endsWait):
		}
	}
	return nil, err
}

func (s *groupSync) heldOnce(ctx context.Context, cl *kafka.Client, now time.Time, v *groupView, read map[string]bool) (map[topology.Partition]replicate.Range, error) {
	if v.view == nil || now.Sub(v.at) >= groupViewFor {
		fresh, err := readView(ctx, cl)
		if err != nil {
			return nil, err
		}
		*v = groupView{fresh, now}
	}
	byNode := map[int32][]spot{}
	for name, t := range v.topics {
		if !read[name] {
			continue
		}
		for i, at := range t.parts {
			p := topology.Partition{Topic: name, Partition: int32(i)}
			if at.leader < 0 {
				return nil, fmt.Errorf("read ends of kafka %s: %s has no leader", cl.Name(), p)
			}
			byNode[at.leader] = append(byNode[at.leader], spot{Partition: p, id: t.id, epoch: at.epoch})
		}
	}
	out := map[topology.Partition]replicate.Range{}
	for node, spots := range byNode {
		bySpot(spots)
		var start, high map[topology.Partition]answer
		together(
			func() { start = offsetAt(ctx, cl, node, spots, -2) },
			func() { high = offsetAt(ctx, cl, node, spots, -1) },
		)
		for _, s := range spots {
			a, b := start[s.Partition], high[s.Partition]
			if err := errors.Join(a.err, b.err); err != nil {
				return nil, fmt.Errorf("read ends of %s in kafka %s: %w", s.Partition, cl.Name(), err)
			}
			out[s.Partition] = replicate.Range{Start: a.offset, End: b.offset}
		}
	}
	return out, nil
}

// renewDue says whether all offsets must be written again, so that the target
// does not let go of those that do not change. The first pass always does: how
// old they are is not known.
func (s *groupSync) renewDue(ctx context.Context, now time.Time) bool {
	if s.renewEvery == 0 || now.Sub(s.renewEveryAt) >= retentionFor {
		s.renewEveryAt, s.renewEvery = now, renewDefault
		if kept, err := offsetsRetention(ctx, s.target); err == nil {
			s.renewEvery = kept / 2
		}
	}
	return now.Sub(s.renewed) >= s.renewEvery
}

// offsetsRetention reads for how long the brokers keep offsets of a group
// without members: the least of what they say.
func offsetsRetention(ctx context.Context, cl *kafka.Client) (time.Duration, error) {
	const key = "offsets.retention.minutes"
	brokers, err := cl.Admin.ListBrokers(ctx)
	if err != nil {
		return 0, fmt.Errorf("read %s of kafka %s: %w", key, cl.Name(), err)
	}
	configs, err := cl.Admin.DescribeBrokerConfigs(ctx, brokers.NodeIDs()...)
	if err != nil {
		return 0, fmt.Errorf("read %s of kafka %s: %w", key, cl.Name(), err)
	}
	var least time.Duration
	for _, b := range configs {
		if b.Err != nil {
			return 0, fmt.Errorf("read %s of kafka %s: %w", key, cl.Name(), b.Err)
		}
		for _, c := range b.Configs {
			n, err := strconv.ParseInt(c.MaybeValue(), 10, 32)
			if c.Key == key && err == nil && n > 0 {
				if kept := time.Duration(n) * time.Minute; least == 0 || kept < least {
					least = kept
				}
			}
		}
	}
	if least == 0 {
		return 0, fmt.Errorf("read %s of kafka %s: the brokers do not tell it", key, cl.Name())
	}
	return least, nil
}

// gone names the groups that the source had and has no longer, and notes what
// it has now.
func (s *groupSync) gone(r GroupReport) []string {
	for _, g := range r.Rows {
		s.copied[g.Group] = true
	}
	var out []string
	for g := range r.Only {
		if s.copied[g] {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	return out
}

// keepGroups copies group offsets while the mirror runs. What does not work is
// a finding, and tried again.
func (l *loop) keepGroups(ctx context.Context) {
	s := newGroupSync(l.conf.Source, l.conf.Target, SyncOptions{Groups: l.conf.Groups, Topics: l.conf.Topics, Skips: l.conf.Skips, Began: l.conf.Starts})
	tick := time.NewTicker(l.conf.GroupsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rctx, cancel := context.WithTimeout(ctx, groupsTimeout)
		now := time.Now()
		renew := s.renewDue(rctx, now)
		report, err := s.pass(rctx, renew)
		cancel()
		if ctx.Err() != nil {
			return
		}
		var findings []replicate.Finding
		if err != nil {
			findings = []replicate.Finding{{About: "groups", Text: err.Error()}}
		} else {
			if renew {
				s.renewed = now
			}
			l.groups.Store(&report)
			findings = groupFindings(report, s.gone(report))
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
func groupFindings(r GroupReport, gone []string) []replicate.Finding {
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
	for _, g := range gone {
		out = append(out, replicate.Finding{
			About: "group " + g,
			Text:  fmt.Sprintf("it is gone at the source; its %d offsets at the target stay, and are let go after the target's offsets.retention", r.Only[g]),
			Next:  "delete the group at the target too, if it must not start from them",
		})
	}
	return out
}
