package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	refreshMin    = 200 * time.Millisecond // between two refreshes, however urgent
	keeperTimeout = 30 * time.Second       // one round of the keeper
)

// keeper looks after the topics of a link, beside its owner.
type keeper struct {
	*loop
	created   map[string]bool // topics seen at the target, which are never created again
	settledAt time.Time       // when settings were last compared
}

// keep refreshes metadata every TopicsEvery and when asked. It ends the whole
// mirror through stop when the link can never work.
func (l *loop) keep(ctx context.Context, stop context.CancelCauseFunc) {
	k := &keeper{loop: l, created: map[string]bool{}}
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
	if sourceErr == nil && targetErr == nil {
		for _, name := range topics {
			if target.topics[name] != nil {
				k.created[name] = true
			}
		}
		changed, more := k.align(ctx, source, target, topics)
		findings = append(findings, more...)
		if changed {
			target, targetErr = readView(ctx, k.conf.Target)
			note("target", targetErr, "")
		}
	}
	if sourceErr != nil {
		source = nil
	}
	if targetErr != nil {
		target = nil
	}
	select {
	case k.events <- func() {
		k.findings["topics"] = findings
		k.update(source, target, topics)
	}:
	case <-ctx.Done():
	}
	return nil
}

// align creates missing topics, adds partitions and corrects settings. It says
// whether the target's metadata changed.
func (k *keeper) align(ctx context.Context, source, target *view, topics []string) (changed bool, findings []replicate.Finding) {
	now := time.Now()
	// A round that comes a moment early must not leave the comparison to the next.
	compare := now.Sub(k.settledAt) >= k.conf.ConfigsEvery-k.conf.TopicsEvery/2
	var missing, present []string
	for _, name := range topics {
		switch {
		case target.topics[name] != nil:
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
	if compare {
		k.settledAt = now
	}
	plans := map[string]replicate.TopicPlan{}
	for _, name := range topics {
		if k.created[name] && target.topics[name] == nil {
			continue
		}
		plan := replicate.PlanTopic(topicOf(source, name, from), topicPtr(target, name, to), target.brokers)
		findings = append(findings, plan.Findings...)
		if !plan.Empty() {
			plans[name] = plan
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
	}
	return changed, findings
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
