//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// followBound is generous: what is measured is logged, and a slow machine is no
// failure.
const followBound = 60 * time.Second

// newGuardedPair is a pair of clusters with an authorizer each.
func newGuardedPair(t *testing.T, version string) *mirrorPair {
	settings := map[string]string{"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS"}
	return startPair(t, stack.KafkaOptions{Name: "guarded", Version: version, Properties: settings})
}

type rule = replicate.ACL

func (p *mirrorPair) grant(cl *kafka.Client, rules ...rule) {
	p.t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, a := range rules {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, _ = kmsg.ParseACLResourceType(a.Resource)
		c.ResourcePatternType, _ = kmsg.ParseACLResourcePatternType(a.Pattern)
		c.Operation, _ = kmsg.ParseACLOperation(a.Operation)
		c.PermissionType, _ = kmsg.ParseACLPermissionType(a.Permission)
		c.ResourceName, c.Principal, c.Host = a.Name, a.Principal, a.Host
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(p.t.Context(), cl.Kgo)
	if err != nil {
		p.t.Fatal(err)
	}
	for i, r := range resp.Results {
		if r.ErrorCode != 0 {
			p.t.Fatalf("add %s: code %d", rules[i], r.ErrorCode)
		}
	}
}

func (p *mirrorPair) revoke(cl *kafka.Client, a rule) {
	p.t.Helper()
	req := kmsg.NewPtrDeleteACLsRequest()
	f := kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType, _ = kmsg.ParseACLResourceType(a.Resource)
	f.ResourcePatternType, _ = kmsg.ParseACLResourcePatternType(a.Pattern)
	f.Operation, _ = kmsg.ParseACLOperation(a.Operation)
	f.PermissionType, _ = kmsg.ParseACLPermissionType(a.Permission)
	f.ResourceName, f.Principal, f.Host = &a.Name, &a.Principal, &a.Host
	req.Filters = append(req.Filters, f)
	resp, err := req.RequestWith(p.t.Context(), cl.Kgo)
	if err != nil || len(resp.Results) != 1 || len(resp.Results[0].MatchingACLs) != 1 {
		p.t.Fatalf("take %s away: %v %+v", a, err, resp)
	}
}

// set changes one setting of a topic; a nil value unsets it.
func (p *mirrorPair) set(cl *kafka.Client, topic string, values map[string]*string) {
	p.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for _, key := range slices.Sorted(maps.Keys(values)) {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value, c.Op = key, values[key], kmsg.IncrementalAlterConfigOpSet
		if c.Value == nil {
			c.Op = kmsg.IncrementalAlterConfigOpDelete
		}
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(p.t.Context(), cl.Kgo)
	if err != nil || resp.Resources[0].ErrorCode != 0 {
		p.t.Fatalf("alter %s: %v %+v", topic, err, resp)
	}
}

// follows waits until so says yes, and notes how long that took.
func (p *mirrorPair) follows(took map[string]int64, what string, so func(ctx context.Context) (bool, error)) {
	p.t.Helper()
	p.followsSince(time.Now(), took, what, so)
}

func (p *mirrorPair) followsSince(began time.Time, took map[string]int64, what string, so func(ctx context.Context) (bool, error)) {
	p.t.Helper()
	var err error
	for time.Since(began) < followBound {
		ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
		var ok bool
		ok, err = so(ctx)
		cancel()
		if ok {
			took[what] = time.Since(began).Milliseconds()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.t.Fatalf("%s has not reached the target in %s (%v)", what, followBound, err)
}

func (p *mirrorPair) partitions(topic string, want int32) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		topics, err := mirror.Topics(ctx, p.cb)
		return topics[topic].Partitions == want, err
	}
}

// setting says whether the target's topic has the value, set on the topic; nil:
// whether it is not set on the topic.
func (p *mirrorPair) setting(topic, key string, want *string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		all, err := p.cb.Admin.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			return false, err
		}
		rc, err := all.On(topic, nil)
		if err != nil {
			return false, err
		}
		for _, c := range rc.Configs {
			if c.Key == key {
				set := c.Source == kmsg.ConfigSourceDynamicTopicConfig
				return want == nil && !set || want != nil && set && c.Value != nil && *c.Value == *want, nil
			}
		}
		return false, fmt.Errorf("no setting %s", key)
	}
}

func (p *mirrorPair) right(a rule, there bool) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		rules, err := mirror.Access(ctx, p.cb)
		return err == nil && slices.Contains(rules, a) == there, err
	}
}

func str(s string) *string { return &s }

func guardedRules(t *testing.T) *replicate.AccessRules {
	topics, err := replicate.NewSelection([]string{"shop-.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &replicate.AccessRules{
		Topics: topics, Group: func(g string) bool { return g == "readers" },
		Untouched: func(p string) bool { return p == "User:ANONYMOUS" || p == "User:keeper" },
	}
}

// TestMirror_TopicsSettingsAndRightsFollowWithinSeconds changes one thing after
// the other at the source and measures when it is in the target.
func TestMirror_TopicsSettingsAndRightsFollowWithinSeconds(t *testing.T) {
	for _, version := range []string{"3.6.2", "4"} {
		t.Run(version, func(t *testing.T) { topicsFollow(t, version) })
	}
}

func topicsFollow(t *testing.T, version string) {
	p := newGuardedPair(t, version)
	p.topic(p.ca, "shop-orders", 2, map[string]string{"retention.ms": "7200000"})
	p.topic(p.ca, "infra", 1, nil)
	acl := func(resource, pattern, name, principal, operation, permission string) rule {
		return rule{Resource: resource, Pattern: pattern, Name: name, Principal: principal, Host: "*", Operation: operation, Permission: permission}
	}
	base := acl("TOPIC", "LITERAL", "shop-orders", "User:app", "READ", "ALLOW")
	p.grant(p.ca, base, acl("TOPIC", "LITERAL", "infra", "User:app", "READ", "ALLOW"))
	// What the operator set at the target: for holdfast itself, for whom he
	// keeps, on a topic that is not mirrored, on the cluster; and a leftover on
	// a mirrored topic, which is not his to keep.
	kept := []rule{
		acl("TOPIC", "LITERAL", "shop-orders", "User:ANONYMOUS", "WRITE", "ALLOW"), acl("TOPIC", "LITERAL", "shop-orders", "User:keeper", "ALL", "ALLOW"),
		acl("TOPIC", "LITERAL", "infra", "User:metrics", "DESCRIBE", "ALLOW"), acl("CLUSTER", "LITERAL", "kafka-cluster", "User:metrics", "DESCRIBE", "ALLOW"),
	}
	leftover := acl("TOPIC", "LITERAL", "shop-orders", "User:former", "READ", "ALLOW")
	p.grant(p.cb, append(slices.Clone(kept), leftover)...)

	access := guardedRules(t)
	conf := p.config()
	conf.Topics, conf.Access, conf.SyncAccess = access.Topics, access, true
	conf.TopicsEvery, conf.ConfigsEvery = 0, 0 // as shipped
	run := p.start(conf)
	took := map[string]int64{}
	p.follows(map[string]int64{}, "the first topic", p.partitions("shop-orders", 2))

	p.topic(p.ca, "shop-mail", 3, map[string]string{"message.timestamp.type": "LogAppendTime"})
	p.follows(took, "a new topic", p.partitions("shop-mail", 3))
	p.follows(map[string]int64{}, "its setting", p.setting("shop-mail", "message.timestamp.type", str("LogAppendTime")))
	if _, err := p.ca.Admin.UpdatePartitions(t.Context(), 5, "shop-orders"); err != nil {
		t.Fatal(err)
	}
	p.follows(took, "more partitions", p.partitions("shop-orders", 5))
	p.set(p.ca, "shop-orders", map[string]*string{"retention.ms": str("3600000"), "max.message.bytes": str("2000000"), "segment.ms": str("600000")})
	p.follows(took, "a setting changed", p.setting("shop-orders", "retention.ms", str("3600000")))
	p.follows(map[string]int64{}, "another", p.setting("shop-orders", "max.message.bytes", str("2000000")))
	p.follows(map[string]int64{}, "a third", p.setting("shop-orders", "segment.ms", str("600000")))
	p.set(p.ca, "shop-orders", map[string]*string{"segment.ms": nil, "message.timestamp.type": str("LogAppendTime")})
	p.follows(took, "a setting unset", p.setting("shop-orders", "segment.ms", nil))
	p.follows(map[string]int64{}, "a setting added", p.setting("shop-orders", "message.timestamp.type", str("LogAppendTime")))

	rules := map[string]rule{
		"a right on a topic":         acl("TOPIC", "LITERAL", "shop-orders", "User:new", "WRITE", "ALLOW"),
		"a right on a prefix":        acl("TOPIC", "PREFIXED", "shop-", "User:new", "READ", "DENY"),
		"a right on all topics":      acl("TOPIC", "LITERAL", "*", "User:new", "DESCRIBE", "ALLOW"),
		"a right on a group":         acl("GROUP", "LITERAL", "readers", "User:new", "READ", "ALLOW"),
		"a right on groups":          acl("GROUP", "PREFIXED", "read", "User:new", "READ", "ALLOW"),
		"a right on transactions":    acl("TRANSACTIONAL_ID", "PREFIXED", "tx-", "User:new", "WRITE", "ALLOW"),
		"a right on one transaction": acl("TRANSACTIONAL_ID", "LITERAL", "tx-1", "User:new", "DESCRIBE", "ALLOW"),
		"a right on the cluster":     acl("CLUSTER", "LITERAL", "kafka-cluster", "User:new", "IDEMPOTENT_WRITE", "ALLOW"),
	}
	began := time.Now()
	p.grant(p.ca, slices.Collect(maps.Values(rules))...)
	for what, a := range rules {
		p.followsSince(began, took, what, p.right(a, true))
	}
	began = time.Now()
	for _, a := range rules {
		p.revoke(p.ca, a)
	}
	for what, a := range rules {
		p.followsSince(began, took, what+" taken away", p.right(a, false))
	}
	p.follows(map[string]int64{}, "the leftover's end", p.right(leftover, false))
	for _, a := range append(slices.Clone(kept), base) {
		if ok, err := p.right(a, true)(t.Context()); !ok {
			t.Errorf("the target lost: %s (%v)", a, err)
		}
	}
	if ok, err := p.right(acl("TOPIC", "LITERAL", "infra", "User:app", "READ", "ALLOW"), false)(t.Context()); !ok {
		t.Errorf("a right on a topic that is not mirrored was copied (%v)", err)
	}
	p.follows(map[string]int64{}, "a comparison without a difference", func(context.Context) (bool, error) {
		d := run.Drift()
		return !d.At.IsZero() && onlyExtra(d.Drift), fmt.Errorf("%+v", d.Drift)
	})
	if err := run.end(t); err != nil {
		t.Error(err)
	}
	line, _ := json.Marshal(map[string]any{"kafka": version, "slowest_ms": slices.Max(slices.Collect(maps.Values(took))), "took_ms": took})
	t.Logf("%s", line)
	p.driftIsNamed(access)
	p.onlyTheVeryCopyIsDeleted()
}

// onlyTheVeryCopyIsDeleted deletes by identity: another topic of the name stays.
func (p *mirrorPair) onlyTheVeryCopyIsDeleted() {
	t := p.t
	p.topic(p.cb, "shop-dead", 1, nil)
	p.follows(map[string]int64{}, "the topic to delete", p.partitions("shop-dead", 1))
	topics, err := mirror.Topics(t.Context(), p.cb)
	if err != nil {
		t.Fatal(err)
	}
	ids := mirror.TopicIDs{Source: replicate.TopicID{1}, Target: topics["shop-dead"].ID}
	states, err := mirror.LookAtCopies(t.Context(), p.ca, p.cb, map[string]mirror.TopicIDs{
		"shop-dead": ids, "shop-mail": {Source: replicate.TopicID{1}, Target: topics["shop-mail"].ID}, "shop-alone": {Target: replicate.TopicID{2}},
	})
	want := map[string]mirror.CopyState{"shop-dead": mirror.CopyKept, "shop-mail": mirror.CopyRecreated, "shop-alone": mirror.CopyGone}
	if diff := cmp.Diff(want, states); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if err := mirror.DeleteCopy(t.Context(), p.cb, "shop-dead", replicate.TopicID{7}); err != nil {
		t.Error(err)
	}
	if ok, err := p.partitions("shop-dead", 1)(t.Context()); !ok {
		t.Errorf("another topic of the name was deleted (%v)", err)
	}
	for range 2 { // a second time is no error
		if err := mirror.DeleteCopy(t.Context(), p.cb, "shop-dead", ids.Target); err != nil {
			t.Error(err)
		}
	}
	p.follows(map[string]int64{}, "the end of the copy", p.partitions("shop-dead", 0))
}

// onlyExtra: the operator's right on the cluster is named, and nothing else.
func onlyExtra(all []replicate.Drift) bool {
	return len(all) == 1 && all[0].Kind == replicate.DriftACLExtra && all[0].About == "User:metrics"
}

// driftIsNamed seeds one difference after the other, with no mirror running.
func (p *mirrorPair) driftIsNamed(access *replicate.AccessRules) {
	t := p.t
	compare := func() []replicate.Drift {
		t.Helper()
		r, err := mirror.Compare(t.Context(), p.ca, p.cb, mirror.CompareOptions{Link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, Topics: access.Topics, Access: access})
		if err != nil {
			t.Fatal(err)
		}
		return r.Drift
	}
	// A broker takes in a moment later what its controller has confirmed, so
	// each comparison is repeated until it is the wanted one, for a while.
	drift := func(want ...string) []string {
		t.Helper()
		for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			var got []string
			for _, d := range compare() {
				got = append(got, fmt.Sprintf("%s %s: %s", d.Kind, d.About, d.Text))
			}
			if slices.Equal(want, got) || time.Now().After(until) {
				return got
			}
		}
	}
	metrics := rule{Resource: "CLUSTER", Pattern: "LITERAL", Name: "kafka-cluster", Principal: "User:metrics", Host: "*", Operation: "DESCRIBE", Permission: "ALLOW"}
	p.revoke(p.cb, metrics)
	if d := drift(); len(d) > 0 {
		t.Fatalf("no difference was seeded: %+v", d)
	}
	extra := rule{Resource: "TOPIC", Pattern: "LITERAL", Name: "shop-mail", Principal: "User:x", Host: "*", Operation: "READ", Permission: "ALLOW"}
	p.grant(p.cb, extra)
	lacking := extra
	lacking.Principal = "User:y"
	p.grant(p.ca, lacking)
	p.set(p.cb, "shop-orders", map[string]*string{"retention.ms": str("1000")})
	if _, err := p.cb.Admin.UpdatePartitions(t.Context(), 4, "shop-mail"); err != nil {
		t.Fatal(err)
	}
	p.topic(p.ca, "shop-late", 1, nil)
	p.topic(p.cb, "shop-alone", 1, nil)
	want := []string{
		"topic_missing shop-late: the target lacks it; the source has it with 1 partitions",
		"partitions shop-mail: 3 partitions at the source, 4 at the target",
		"topic_extra shop-alone: only the target has it, and nothing says that it was mirrored from there",
		"setting shop-orders: retention.ms is 1000 at the target, want 3600000",
		"acl_missing User:y: the target lacks: allow User:y to READ topic shop-mail",
		"acl_extra User:x: only the target has: allow User:x to READ topic shop-mail",
	}
	if diff := cmp.Diff(want, drift(want...)); diff != "" {
		t.Error(diff)
	}
}

// TestMirror_SaysThatAClusterKeepsNoRights: without an authorizer there is
// nothing to compare, which is said and is no error.
func TestMirror_SaysThatAClusterKeepsNoRights(t *testing.T) {
	p := newMirrorPair(t)
	if _, err := mirror.Access(t.Context(), p.ca); !errors.Is(err, mirror.ErrNoAuthorizer) {
		t.Errorf("got %v", err)
	}
	access := guardedRules(t)
	p.topic(p.ca, "shop-orders", 1, nil)
	conf := p.config()
	conf.Topics, conf.Access, conf.SyncAccess = access.Topics, access, true
	run := p.start(conf)
	p.follows(map[string]int64{}, "the topic", p.partitions("shop-orders", 1))
	p.follows(map[string]int64{}, "a finding for each side", func(context.Context) (bool, error) {
		n := 0
		for _, f := range run.Status().Findings {
			if f.About == "rights" {
				n++
			}
		}
		return n == 2 && len(run.Drift().Open) == 2, fmt.Errorf("%+v %+v", run.Status().Findings, run.Drift())
	})
	r, err := mirror.Compare(t.Context(), p.ca, p.cb, mirror.CompareOptions{Link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, Topics: access.Topics, Access: access})
	if err != nil || len(r.Drift) > 0 || len(r.Open) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestMirror_ComparingAThousandTopicsCostsLittle logs what it costs to compare
// a thousand topics every three seconds, as the CPU time of an idle mirror that
// does and of one that does not.
func TestMirror_ComparingAThousandTopicsCostsLittle(t *testing.T) {
	const topics = 1000
	p := newMirrorPair(t)
	names := make([]string, topics)
	for i := range names {
		names[i] = fmt.Sprintf("many-%04d", i)
	}
	for chunk := range slices.Chunk(names, 100) {
		if _, err := p.ca.Admin.CreateTopics(t.Context(), 1, 1, nil, chunk...); err != nil {
			t.Fatal(err)
		}
	}
	sel, err := replicate.NewSelection([]string{"many-.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const span = 20 * time.Second
	var read settingsRead
	// In the configuration: the mirror opens connections of its own from it.
	source := p.open(kafka.Config{Name: p.a.Name(), Brokers: []string{p.a.Bootstrap()}, RequestTimeout: 5 * time.Second, Hooks: []kgo.Hook{&read}})
	cpu := map[string]float64{}
	took := map[string]int64{}
	for _, c := range []struct {
		name  string
		every time.Duration
	}{{"compared", 0}, {"not_compared", time.Hour}} {
		conf := p.config()
		conf.Source, conf.Topics, conf.TopicsEvery, conf.ConfigsEvery, conf.FetchWait = source, sel, 0, c.every, 5*time.Second
		run := p.start(conf)
		p.follows(took, "all topics, "+c.name, func(context.Context) (bool, error) {
			s := run.Status()
			return s.Totals.Working == topics, fmt.Errorf("%+v", s.Totals)
		})
		time.Sleep(5 * time.Second) // until all is quiet
		before := cpuTime(t)
		time.Sleep(span)
		cpu[c.name] = (cpuTime(t) - before).Seconds() / span.Seconds()
		if c.every == 0 {
			p.set(p.ca, names[topics-1], map[string]*string{"retention.ms": str("3600000")})
			p.follows(took, "a setting of the last one", p.setting(names[topics-1], "retention.ms", str("3600000")))
		}
		if err := run.end(t); err != nil {
			t.Error(err)
		}
	}
	line, _ := json.Marshal(map[string]any{"topics": topics, "cores_compared": cpu["compared"], "cores_not_compared": cpu["not_compared"], "bytes_a_comparison": read.bytes.Load() / max(1, read.times.Load()), "took_ms": took})
	t.Logf("%s", line)
}

// settingsRead counts what a cluster answers to questions for settings.
type settingsRead struct{ bytes, times atomic.Int64 }

// OnBrokerRead implements kgo.HookBrokerRead.
func (s *settingsRead) OnBrokerRead(_ kgo.BrokerMetadata, key int16, n int, _, _ time.Duration, err error) {
	if err == nil && key == int16(kmsg.DescribeConfigs) {
		s.bytes.Add(int64(n))
		s.times.Add(1)
	}
}

// cpuTime is what this process has used so far.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
