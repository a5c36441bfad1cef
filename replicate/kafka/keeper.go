package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
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
	compare := time.Since(k.settledAt) >= k.conf.ConfigsEvery
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
		ask = topics
	}
	from, err := readSettings(ctx, k.conf.Source, ask)
	if err != nil {
		return false, append(findings, replicate.Finding{About: "source", Text: err.Error()})
	}
	to := map[string]map[string]replicate.Setting{}
	if compare {
		if to, err = readSettings(ctx, k.conf.Target, present); err != nil {
			return false, append(findings, replicate.Finding{About: "target", Text: err.Error()})
		}
		k.settledAt = time.Now()
	}
	for _, name := range topics {
		if k.created[name] && target.topics[name] == nil {
			continue
		}
		plan := replicate.PlanTopic(topicOf(source, name, from), topicPtr(target, name, to), target.brokers)
		findings = append(findings, plan.Findings...)
		if plan.Empty() {
			continue
		}
		if err := carryOut(ctx, k.conf.Target, name, plan); err != nil {
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

// readSettings reads the settings in effect of all these topics, or fails.
func readSettings(ctx context.Context, cl *kafka.Client, topics []string) (map[string]map[string]replicate.Setting, error) {
	out := make(map[string]map[string]replicate.Setting, len(topics))
	if len(topics) == 0 {
		return out, nil
	}
	all, err := cl.Admin.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("read topic settings of kafka %s: %w", cl.Name(), err)
	}
	for _, rc := range all {
		if rc.Err != nil {
			return nil, fmt.Errorf("read settings of topic %s in kafka %s: %w", rc.Name, cl.Name(), rc.Err)
		}
		settings := make(map[string]replicate.Setting, len(rc.Configs))
		for _, c := range rc.Configs {
			if c.Value != nil {
				settings[c.Key] = replicate.Setting{Value: *c.Value, Set: c.Source == kmsg.ConfigSourceDynamicTopicConfig}
			}
		}
		out[rc.Name] = settings
	}
	for _, t := range topics {
		if out[t] == nil {
			return nil, fmt.Errorf("read settings of topic %s in kafka %s: %w", t, cl.Name(), errNoAnswer)
		}
	}
	return out, nil
}

// carryOut does at the target what the plan says. A setting of ours that the
// broker does not know is left out.
func carryOut(ctx context.Context, cl *kafka.Client, topic string, plan replicate.TopicPlan) error {
	if plan.Create {
		return createTopic(ctx, cl, topic, plan)
	}
	if plan.Partitions > 0 {
		resp, err := cl.Admin.UpdatePartitions(ctx, int(plan.Partitions), topic)
		if err == nil {
			err = resp[topic].Err
		}
		if err != nil && !errors.Is(err, kerr.InvalidPartitions) { // somebody else grew it meanwhile: seen in the next round
			return fmt.Errorf("grow topic %s to %d partitions: %w", topic, plan.Partitions, err)
		}
	}
	var alter []kadm.AlterConfig
	for _, key := range slices.Sorted(maps.Keys(plan.Set)) {
		value := plan.Set[key]
		alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value})
	}
	for _, key := range plan.Unset {
		alter = append(alter, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	if len(alter) == 0 {
		return nil
	}
	resp, err := cl.Admin.AlterTopicConfigs(ctx, alter, topic)
	if err == nil {
		var one kadm.AlterConfigsResponse
		if one, err = resp.On(topic, nil); err == nil {
			err = one.Err
		}
	}
	if err != nil {
		return fmt.Errorf("set %v and unset %v on topic %s: %w", plan.Set, plan.Unset, topic, err)
	}
	return nil
}

func createTopic(ctx context.Context, cl *kafka.Client, topic string, plan replicate.TopicPlan) error {
	settings := map[string]*string{}
	for k, v := range plan.Set {
		settings[k] = &v
	}
	_, err := cl.Admin.CreateTopic(ctx, plan.Partitions, plan.Replicas, settings, topic)
	if errors.Is(err, kerr.InvalidConfig) {
		maps.DeleteFunc(settings, func(k string, _ *string) bool { return replicate.Optional(k) })
		_, err = cl.Admin.CreateTopic(ctx, plan.Partitions, plan.Replicas, settings, topic)
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s with %d partitions at kafka %s: %w", topic, plan.Partitions, cl.Name(), err)
	}
	return nil
}
