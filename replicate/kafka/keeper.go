package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	refreshMin    = 200 * time.Millisecond // between two refreshes, however urgent
	policeTimeout = 5 * time.Second        // reading cleanup policies
	keeperTimeout = 30 * time.Second       // one round of the keeper
	accessEvery   = time.Minute            // rights that are only compared
	goneAfter     = 5 * time.Second        // a topic that the source does not list for so long is asked for by name
)

// keeper looks after the topics of a link, beside its owner.
type keeper struct {
	*loop
	created   map[string]bool     // topics seen at the target, which are never created again
	ids       map[string]TopicIDs // of the topics that are mirrored, as first seen
	settledAt time.Time           // when settings were last compared
	policed   map[string]bool     // topics whose cleanup policy was read

	missing map[string]absence // topics that the source does not list any more
	lost    map[string]bool    // those of them that were asked for by name
	hidden  map[string]bool    // and those that the source will not speak about

	accessAt time.Time              // when rights were last compared
	had      map[replicate.ACL]bool // rights that the source was seen to have
	rights   [2]rights              // of source and target, as last read
	bare     [2]bool                // source, target have no authorizer
}

// absence is how long and how often a topic was missing.
type absence struct {
	since  time.Time
	rounds int
}

// rights are the rules of one cluster.
type rights struct {
	rules []replicate.ACL
	known bool
}

// keep refreshes metadata every TopicsEvery and when asked. It ends the whole
// mirror through stop when the link can never work.
func (l *loop) keep(ctx context.Context, stop context.CancelCauseFunc) {
	k := &keeper{loop: l, created: map[string]bool{}, ids: maps.Clone(l.conf.Known), missing: map[string]absence{}, lost: map[string]bool{}, hidden: map[string]bool{}, had: map[replicate.ACL]bool{}, policed: map[string]bool{}}
	if k.ids == nil {
		k.ids = map[string]TopicIDs{}
	}
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-l.refresh:
			select {
			case <-ctx.Done():
				return
			case <-time.After(refreshMin):
			}
		}
		if err := k.round(ctx); err != nil {
			stop(err)
			return
		}
		next.Reset(l.conf.TopicsEvery)
	}
}

// round reads both clusters and brings the target's topics in line. What goes
// wrong is a finding and is tried again in the next round.
func (k *keeper) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keeperTimeout)
	defer cancel()
	var source, target *view
	var sourceErr, targetErr error
	together(
		func() { source, sourceErr = readView(ctx, k.conf.Source) },
		func() { target, targetErr = readView(ctx, k.conf.Target) },
	)
	if sourceErr == nil && targetErr == nil && source.cluster != "" && source.cluster == target.cluster {
		return fmt.Errorf("mirror %s: %w (%s); do both regions have the right brokers?", k.conf.Link, ErrSameCluster, source.cluster)
	}
	var findings []replicate.Finding
	note := func(about string, err error, next string) {
		if err != nil && ctx.Err() == nil {
			findings = append(findings, replicate.Finding{About: about, Text: err.Error(), Next: next})
		}
	}
	note("source", sourceErr, "is the source's kafka running and reachable from here?")
	note("target", targetErr, "is the target's kafka running and reachable from here?")
	var topics []string
	if sourceErr == nil {
		for name := range source.topics {
			if k.conf.Topics.Selects(name) {
				topics = append(topics, name)
			}
		}
		slices.Sort(topics)
	}
	// The owner gets what was read before anything is asked for or changed:
	// a leader that moved must not wait for that.
	if sourceErr != nil {
		source = nil
	}
	if targetErr != nil {
		target = nil
	}
	if fresh := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return k.policed[t] }); len(fresh) > 0 {
		k.police(ctx, fresh, note) // a new topic needs to know before it begins
	}
	if !k.tell(ctx, func() { k.update(source, target, topics) }) {
		return nil
	}
	if source != nil && target != nil {
		findings = append(findings, k.lookForGone(ctx, source)...)
		changed, more := k.align(ctx, source, target, topics)
		findings = append(findings, more...)
		if changed {
			after, err := readView(ctx, k.conf.Target)
			note("target", err, "")
			if err == nil {
				k.tell(ctx, func() { k.update(nil, after, topics) })
			}
		}
	}
	k.tell(ctx, func() { k.findings["topics"] = findings })
	return nil
}

// police reads what the log cleaner may do to new topics and tells the owner.
// From then on the comparison of settings says it.
func (k *keeper) police(ctx context.Context, topics []string, note func(about string, err error, next string)) {
	ctx, cancel := context.WithTimeout(ctx, policeTimeout)
	defer cancel()
	policies, err := readPolicies(ctx, k.conf.Source, topics)
	if err != nil {
		note("source", err, "")
		return
	}
	if k.tell(ctx, func() { k.setPolicies(policies) }) {
		for t := range policies {
			k.policed[t] = true
		}
	}
}

// tell hands work to the owner, and says whether it was taken.
func (k *keeper) tell(ctx context.Context, do func()) bool {
	select {
	case k.events <- do:
		return true
	case <-ctx.Done():
		return false
	}
}

// align creates missing topics, adds partitions, corrects settings and rights,
// and notes in what both clusters still differ. It says whether the target's
// metadata changed.
func (k *keeper) align(ctx context.Context, source, target *view, topics []string) (changed bool, findings []replicate.Finding) {
	now := time.Now()
	// A round that comes a moment early must not leave the comparison to the next.
	compare := now.Sub(k.settledAt) >= k.conf.ConfigsEvery-k.conf.TopicsEvery/2
	var missing, present []string
	for _, name := range topics {
		from, to := source.topics[name], target.topics[name]
		if to != nil {
			k.created[name] = true
			if _, known := k.ids[name]; !known {
				k.ids[name] = TopicIDs{Source: from.id, Target: to.id}
			}
		}
		switch ids, known := k.ids[name]; {
		case known && from.id != ids.Source, known && to != nil && to.id != ids.Target:
			// Another topic of this name: its partitions are frozen, and nothing
			// of the new one is done to the copy of the former one.
		case to != nil:
			present = append(present, name)
		case k.created[name]:
			findings = append(findings, replicate.Finding{About: name, Text: "the topic was deleted at the target", Next: fmt.Sprintf("holdfast mirror reseed --region %s --topic %s --reason WHY", k.conf.Link.Target, name)})
		default:
			missing = append(missing, name)
		}
	}
	ask := missing
	if compare {
		ask = append(slices.Clone(missing), present...)
	}
	var from, to map[string]map[string]replicate.Setting
	var fromErr, toErr error
	together(
		func() { from, fromErr = readSettings(ctx, k.conf.Source, ask) },
		func() {
			if compare {
				to, toErr = readSettings(ctx, k.conf.Target, present)
			}
		},
	)
	if err := errors.Join(fromErr, toErr); err != nil {
		// Nothing is created or corrected by halves: tried again in the next round.
		return false, append(findings, replicate.Finding{About: "settings", Text: err.Error(), Next: "may the mirror's user describe topics and their settings?"})
	}
	if policies := policiesOf(from); !k.tell(ctx, func() { k.setPolicies(policies) }) {
		return false, findings
	}
	have := map[string]replicate.Topic{} // at the target, as it will be
	plans := map[string]replicate.TopicPlan{}
	for _, name := range slices.Concat(missing, present) {
		there := topicPtr(target, name, to)
		plan := replicate.PlanTopic(topicOf(source, name, from), there, target.brokers)
		findings = append(findings, plan.Findings...)
		if !plan.Empty() {
			plans[name] = plan
		}
		if there != nil {
			have[name] = *there
		}
	}
	errs := carryOut(ctx, k.conf.Target, plans)
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		plan := plans[name]
		if err := errs[name]; err != nil {
			findings = append(findings, replicate.Finding{About: name, Text: err.Error(), Next: "has the mirror's user the right to create and alter topics at the target?"})
			continue
		}
		k.log.Info("topic aligned", "topic", name, "created", plan.Create, "partitions", plan.Partitions, "set", len(plan.Set), "unset", len(plan.Unset))
		changed = changed || plan.Create || plan.Partitions > 0
		k.created[name] = true
		have[name] = plan.Applied(have[name], name)
	}
	if !compare {
		return changed, findings
	}
	k.settledAt = now
	findings = append(findings, k.alignAccess(ctx, now, source, target)...)
	k.noteDrift(now, source, target, from, have)
	return changed, findings
}

// noteDrift records in what both clusters differ after what was just done.
func (k *keeper) noteDrift(now time.Time, source, target *view, from map[string]map[string]replicate.Setting, have map[string]replicate.Topic) {
	a, b := k.cluster(0, source), k.cluster(1, target)
	for name, settings := range from {
		a.Topics[name] = topicOf(source, name, map[string]map[string]replicate.Setting{name: settings})
	}
	maps.Copy(b.Topics, have)
	rules := replicate.DriftRules{Link: k.conf.Link, Topics: k.conf.Topics, Mirrored: map[string][2]replicate.TopicID{}, Deleted: k.lost}
	for name, ids := range k.ids {
		rules.Mirrored[name] = [2]replicate.TopicID{ids.Source, ids.Target}
		if b.Topics[name].ID == (replicate.TopicID{}) { // just created, not read yet
			delete(rules.Mirrored, name)
		}
	}
	if k.rights[0].known && k.rights[1].known {
		rules.Access = k.conf.Access
	}
	k.drift.Store(&DriftReport{At: now, Drift: replicate.FindDrift(a, b, rules), Open: k.open()})
}

// cluster is one side as it was last read, without settings.
func (k *keeper) cluster(side int, v *view) replicate.Cluster {
	c := replicate.Cluster{Topics: make(map[string]replicate.Topic, len(v.topics)), Brokers: v.brokers, ACLs: k.rights[side].rules, Authorizer: k.rights[side].known}
	for name := range v.topics {
		c.Topics[name] = topicOf(v, name, nil)
	}
	return c
}

// open names the regions whose cluster has no authorizer.
func (k *keeper) open() []topology.Region {
	var out []topology.Region
	for side, region := range []topology.Region{k.conf.Link.Source, k.conf.Link.Target} {
		if k.bare[side] {
			out = append(out, region)
		}
	}
	return out
}

// alignAccess makes the target's rights follow the source's, or only compares
// them when it may not.
func (k *keeper) alignAccess(ctx context.Context, now time.Time, source, target *view) []replicate.Finding {
	if k.conf.Access == nil || !k.conf.SyncAccess && now.Sub(k.accessAt) < accessEvery {
		return nil
	}
	k.accessAt = now
	var errs [2]error
	together(
		func() { k.rights[0].rules, errs[0] = Access(ctx, k.conf.Source) },
		func() { k.rights[1].rules, errs[1] = Access(ctx, k.conf.Target) },
	)
	var findings []replicate.Finding
	for side, err := range errs {
		k.rights[side].known, k.bare[side] = err == nil, errors.Is(err, ErrNoAuthorizer)
		if err != nil && k.conf.SyncAccess {
			next := "may the mirror's user describe the cluster (ACL: Describe on Cluster)?"
			if k.bare[side] {
				next = "rights do not follow: set mirror.acls.sync: false, or give both clusters an authorizer"
			}
			findings = append(findings, replicate.Finding{About: "rights", Text: err.Error(), Next: next})
		}
	}
	if !k.rights[0].known || !k.rights[1].known || !k.conf.SyncAccess {
		return findings
	}
	from, to := k.rights[0].rules, k.rights[1].rules
	for _, a := range from {
		k.had[a] = true
	}
	plan := replicate.PlanAccess(from, to, topicNames(source, target), *k.conf.Access, func(a replicate.ACL) bool { return k.had[a] })
	if !plan.Empty() {
		err := grant(ctx, k.conf.Target, plan)
		if err != nil {
			return append(findings, replicate.Finding{About: "rights", Text: err.Error(), Next: "may the mirror's user alter the target's cluster (ACL: Alter on Cluster)?"})
		}
		for _, a := range plan.Create {
			k.log.Info("right added at the target", "rule", a.String())
		}
		for _, a := range plan.Delete {
			k.log.Info("right taken away at the target", "rule", a.String())
		}
		to = slices.DeleteFunc(slices.Concat(to, plan.Create), func(a replicate.ACL) bool { return slices.Contains(plan.Delete, a) })
		k.rights[1].rules = to
	}
	// What neither side has any more is forgotten: should the target get it
	// again, somebody set it there.
	still := make(map[replicate.ACL]bool, len(from)+len(to))
	for _, a := range slices.Concat(from, to) {
		still[a] = k.had[a]
	}
	k.had = still
	return findings
}

func topicNames(views ...*view) []string {
	names := map[string]bool{}
	for _, v := range views {
		for name := range v.topics {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// lookForGone notices topics that were mirrored and that the source does not
// have any more. A topic that is only not listed may be hidden from us by a
// right that was taken away, so it is asked for by name.
func (k *keeper) lookForGone(ctx context.Context, source *view) []replicate.Finding {
	var ask []string
	for _, name := range slices.Sorted(maps.Keys(k.ids)) {
		if source.topics[name] != nil {
			delete(k.missing, name)
			delete(k.lost, name)
			delete(k.hidden, name)
			continue
		}
		m := k.missing[name]
		if m.rounds++; m.rounds == 1 {
			m.since = time.Now()
		}
		k.missing[name] = m
		if m.rounds >= missingMax && time.Since(m.since) >= goneAfter && !k.lost[name] {
			ask = append(ask, name)
		}
	}
	if len(ask) > 0 {
		there, err := presence(ctx, k.conf.Source, ask)
		if err != nil {
			return []replicate.Finding{{About: "source", Text: err.Error()}}
		}
		for _, name := range ask {
			if k.lost[name] = there[name] == absent; k.lost[name] {
				k.log.Warn("topic was deleted at the source; its copy is kept", "topic", name)
			}
			k.hidden[name] = there[name] == concealed
		}
	}
	var findings []replicate.Finding
	for _, name := range slices.Sorted(maps.Keys(k.hidden)) {
		if k.hidden[name] {
			findings = append(findings, replicate.Finding{About: name, Text: "the source does not show it any more, and will not say whether it exists", Next: "may the mirror's user still describe it there?"})
		}
	}
	var gone []Gone
	for _, name := range slices.Sorted(maps.Keys(k.lost)) {
		if k.lost[name] {
			gone = append(gone, Gone{Topic: name, IDs: k.ids[name], Since: k.missing[name].since})
		}
	}
	k.gone.Store(&gone)
	return findings
}

func topicOf(v *view, name string, settings map[string]map[string]replicate.Setting) replicate.Topic {
	t := v.topics[name]
	return replicate.Topic{Name: name, ID: t.id, Partitions: int32(len(t.parts)), Replicas: t.replicas, Settings: settings[name]}
}

func topicPtr(v *view, name string, settings map[string]map[string]replicate.Setting) *replicate.Topic {
	if v.topics[name] == nil {
		return nil
	}
	t := topicOf(v, name, settings)
	return &t
}
