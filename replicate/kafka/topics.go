package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
)

// How much one administrative request takes. A broker works through one at a
// time, and a request must end within the client's own timeout.
const (
	settingsChunk = 1000 // topics described
	changesChunk  = 100  // topics created, grown or altered
	changesMillis = 10_000
)

// Topics reads all topics of a cluster, without their settings. The answer is
// whole or an error.
func Topics(ctx context.Context, cl *kafka.Client) (map[string]replicate.Topic, error) {
	v, err := readView(ctx, cl)
	if err != nil {
		return nil, err
	}
	out := make(map[string]replicate.Topic, len(v.topics))
	for name := range v.topics {
		out[name] = topicOf(v, name, nil)
	}
	return out, nil
}

// readSettings reads the settings in effect of all these topics, or fails. It
// asks for neither synonyms nor documentation: they are most of the bytes, and
// this is asked every few seconds.
func readSettings(ctx context.Context, cl *kafka.Client, topics []string) (map[string]map[string]replicate.Setting, error) {
	out := make(map[string]map[string]replicate.Setting, len(topics))
	for names := range slices.Chunk(topics, settingsChunk) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, name := range names {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
			req.Resources = append(req.Resources, r)
		}
		resp, err := req.RequestWith(ctx, cl.Kgo)
		if err != nil {
			return nil, fmt.Errorf("read topic settings of kafka %s: %w", cl.Name(), err)
		}
		for _, r := range resp.Resources {
			if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
				return nil, fmt.Errorf("read settings of topic %s in kafka %s: %w", r.ResourceName, cl.Name(), err)
			}
			settings := make(map[string]replicate.Setting, len(r.Configs))
			for _, c := range r.Configs {
				if c.Value != nil {
					settings[c.Name] = replicate.Setting{Value: *c.Value, Set: c.Source == kmsg.ConfigSourceDynamicTopicConfig}
				}
			}
			out[r.ResourceName] = settings
		}
	}
	for _, t := range topics {
		if out[t] == nil {
			return nil, fmt.Errorf("read settings of topic %s in kafka %s: %w", t, cl.Name(), errNoAnswer)
		}
	}
	return out, nil
}

// carryOut does at the target what the plans say, many topics in one request.
// It returns what failed, by topic.
func carryOut(ctx context.Context, cl *kafka.Client, plans map[string]replicate.TopicPlan) map[string]error {
	failed := map[string]error{}
	var create, grow, alter []string
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		switch p := plans[name]; {
		case p.Create:
			create = append(create, name)
		default:
			if p.Partitions > 0 {
				grow = append(grow, name)
			}
			if len(p.Set)+len(p.Unset) > 0 {
				alter = append(alter, name)
			}
		}
	}
	each := func(names []string, do func([]string) map[string]error) {
		for chunk := range slices.Chunk(names, changesChunk) {
			maps.Copy(failed, do(chunk))
		}
	}
	each(create, func(names []string) map[string]error { return createTopics(ctx, cl, names, plans) })
	each(grow, func(names []string) map[string]error { return growTopics(ctx, cl, names, plans) })
	each(alter, func(names []string) map[string]error { return alterTopics(ctx, cl, names, plans) })
	return failed
}

// outcome says which of the names failed, given the answers by name. A name
// without an answer failed.
func outcome(names []string, answers map[string]error, about func(name string) string) map[string]error {
	failed := map[string]error{}
	for _, name := range names {
		err, ok := answers[name]
		if !ok {
			err = errNoAnswer
		}
		if err != nil {
			failed[name] = fmt.Errorf("%s: %w", about(name), err)
		}
	}
	return failed
}

// all gives one error to all names.
func all(names []string, err error) map[string]error {
	out := map[string]error{}
	for _, n := range names {
		out[n] = err
	}
	return out
}

// said is what a broker said about one topic, with its own words.
func said(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err != nil && message != nil && *message != "" {
		return fmt.Errorf("%w (%s)", err, *message)
	}
	return err
}

// createTopics creates topics. A setting of ours that the broker does not know
// is left out.
func createTopics(ctx context.Context, cl *kafka.Client, names []string, plans map[string]replicate.TopicPlan) map[string]error {
	answers := askCreate(ctx, cl, names, plans, func(string) bool { return true })
	var again []string
	for _, name := range names {
		if errors.Is(answers[name], kerr.InvalidConfig) {
			again = append(again, name)
		}
	}
	if len(again) > 0 {
		maps.Copy(answers, askCreate(ctx, cl, again, plans, func(setting string) bool { return !replicate.Optional(setting) }))
	}
	for name, err := range answers {
		if errors.Is(err, kerr.TopicAlreadyExists) { // by somebody else meanwhile: compared in the next round
			answers[name] = nil
		}
	}
	return outcome(names, answers, func(name string) string {
		return fmt.Sprintf("create topic %s with %d partitions at kafka %s", name, plans[name].Partitions, cl.Name())
	})
}

func askCreate(ctx context.Context, cl *kafka.Client, names []string, plans map[string]replicate.TopicPlan, with func(setting string) bool) map[string]error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = changesMillis
	for _, name := range names {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, plans[name].Partitions, plans[name].Replicas
		for _, key := range slices.Sorted(maps.Keys(plans[name].Set)) {
			if with(key) {
				c := kmsg.NewCreateTopicsRequestTopicConfig()
				c.Name, c.Value = key, kmsg.StringPtr(plans[name].Set[key])
				t.Configs = append(t.Configs, c)
			}
		}
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return all(names, err)
	}
	answers := map[string]error{}
	for _, t := range resp.Topics {
		answers[t.Topic] = said(t.ErrorCode, t.ErrorMessage)
	}
	return answers
}

func growTopics(ctx context.Context, cl *kafka.Client, names []string, plans map[string]replicate.TopicPlan) map[string]error {
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.TimeoutMillis = changesMillis
	for _, name := range names {
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = name, plans[name].Partitions
		req.Topics = append(req.Topics, t)
	}
	about := func(name string) string {
		return fmt.Sprintf("grow topic %s to %d partitions", name, plans[name].Partitions)
	}
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return outcome(names, all(names, err), about)
	}
	answers := map[string]error{}
	for _, t := range resp.Topics {
		err := said(t.ErrorCode, t.ErrorMessage)
		if errors.Is(err, kerr.InvalidPartitions) { // somebody else grew it meanwhile: seen in the next round
			err = nil
		}
		answers[t.Topic] = err
	}
	return outcome(names, answers, about)
}

func alterTopics(ctx context.Context, cl *kafka.Client, names []string, plans map[string]replicate.TopicPlan) map[string]error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	for _, name := range names {
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		add := func(key string, op kmsg.IncrementalAlterConfigOp, value *string) {
			c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
			c.Name, c.Op, c.Value = key, op, value
			r.Configs = append(r.Configs, c)
		}
		for _, key := range slices.Sorted(maps.Keys(plans[name].Set)) {
			add(key, kmsg.IncrementalAlterConfigOpSet, kmsg.StringPtr(plans[name].Set[key]))
		}
		for _, key := range plans[name].Unset {
			add(key, kmsg.IncrementalAlterConfigOpDelete, nil)
		}
		req.Resources = append(req.Resources, r)
	}
	about := func(name string) string {
		return fmt.Sprintf("set %v and unset %v on topic %s", plans[name].Set, plans[name].Unset, name)
	}
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return outcome(names, all(names, err), about)
	}
	answers := map[string]error{}
	for _, r := range resp.Resources {
		answers[r.ResourceName] = said(r.ErrorCode, r.ErrorMessage)
	}
	return outcome(names, answers, about)
}

// createTopic creates one topic, or finds it there.
func createTopic(ctx context.Context, cl *kafka.Client, topic string, plan replicate.TopicPlan) error {
	return createTopics(ctx, cl, []string{topic}, map[string]replicate.TopicPlan{topic: plan})[topic]
}

// readPolicies reads what the log cleaner may do to a cluster's topics.
func readPolicies(ctx context.Context, cl *kafka.Client, topics []string) (map[string]replicate.Policy, error) {
	settings, err := readSettings(ctx, cl, topics)
	return policiesOf(settings), err
}

// policiesOf says what the log cleaner may do to topics with these settings.
func policiesOf(settings map[string]map[string]replicate.Setting) map[string]replicate.Policy {
	out := make(map[string]replicate.Policy, len(settings))
	for name, s := range settings {
		policy := s["cleanup.policy"].Value
		out[name] = replicate.Policy{
			Compacted: strings.Contains(policy, "compact"),
			Deletes:   policy == "" || strings.Contains(policy, "delete"),
		}
	}
	return out
}
