//go:build integration

package integration

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// documentedRights reads one block of rights out of docs/mirror.md, so that what
// an operator types is what is tried here.
func documentedRights(t *testing.T, block string) []rule {
	t.Helper()
	text, err := os.ReadFile("../docs/mirror.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<!-- rights:"+block+" -->")
	_, rest, _ = strings.Cut(rest, "```\n")
	rest, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatalf("docs/mirror.md has no block rights:%s", block)
	}
	var out []rule
	for line := range strings.Lines(rest) {
		words, of := strings.CutPrefix(strings.TrimSpace(line), "acl ")
		if !of {
			continue
		}
		words, _, _ = strings.Cut(words, "#")
		r := rule{Pattern: "LITERAL", Principal: "User:holdfast", Host: "*", Permission: "ALLOW"}
		var operations []string
		for f := strings.Fields(words); len(f) > 0; f = f[1:] {
			switch f[0] {
			case "--operation":
				operations, f = append(operations, f[1]), f[1:]
			case "--topic", "--group", "--transactional-id":
				r.Resource, r.Name, f = strings.ToUpper(strings.ReplaceAll(f[0][2:], "-", "_")), strings.Trim(f[1], "'"), f[1:]
			case "--cluster":
				r.Resource, r.Name = "CLUSTER", "kafka-cluster"
			default:
				t.Fatalf("docs/mirror.md: %q is not understood in %q", f[0], line)
			}
		}
		for _, o := range operations {
			r.Operation = o
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		t.Fatalf("docs/mirror.md: block %s grants nothing", block)
	}
	return out
}

// TestMirror_TheDocumentedRightsAreEnough runs a mirror, a comparison and a
// promotion as a user who has the rights of docs/mirror.md and no others.
func TestMirror_TheDocumentedRightsAreEnough(t *testing.T) {
	p := &mirrorPair{t: t, turns: &turns{}}
	var wg sync.WaitGroup
	settings := map[string]string{"auto.create.topics.enable": "false", "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1"}
	for name, into := range map[string]**stack.Kafka{"a": &p.a, "b": &p.b} {
		wg.Go(func() {
			*into = stack.RunKafka(t, stack.KafkaOptions{Name: "rights-" + name, Properties: settings, Users: []string{"holdfast"}})
		})
	}
	wg.Wait()
	if t.Failed() || t.Skipped() || p.a == nil || p.b == nil {
		t.FailNow()
	}
	as := func(user string, k *stack.Kafka) *kafka.Client {
		t.Helper()
		cl, err := kafka.Open(kafka.Config{
			Name: k.Name(), Brokers: []string{k.Bootstrap()}, RequestTimeout: 5 * time.Second,
			SASL: &kafka.SASL{Mechanism: kafka.Plain, User: user, Password: func() (string, error) { return k.Password(user), nil }},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	source, target := as(stack.Admin, p.a), as(stack.Admin, p.b)
	p.ca, p.cb = as("holdfast", p.a), as("holdfast", p.b)
	for _, cl := range []*kafka.Client{p.ca, p.cb} {
		if err := mirror.MayMark(t.Context(), cl); !errors.Is(err, mirror.ErrMayNotMark) {
			t.Errorf("without a right to markers: %v", err)
		}
	}
	p.grant(source, documentedRights(t, "source")...)
	p.grant(target, slices.Concat(documentedRights(t, "source"), documentedRights(t, "target"), documentedRights(t, "delete"), documentedRights(t, "acls"))...)

	// Transactions with aborts, a prefix that retention took, a group.
	const topic = "shop-orders"
	p.topic(source, topic, 2, map[string]string{"retention.ms": "7200000"})
	p.produce(source, topic, 2, 0, 400, kgo.Lz4Compression())
	cut := kadm.Offsets{}
	cut.Add(kadm.Offset{Topic: topic, Partition: 0, At: 100})
	if _, err := source.Admin.DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	p.transaction(source, "shop-1", topic, 20, "aborted")
	p.transaction(source, "shop-2", topic, 20, "committed")
	stands := kadm.Offsets{}
	stands.Add(kadm.Offset{Topic: topic, Partition: 0, At: 150, LeaderEpoch: -1})
	if err := source.Admin.CommitAllOffsets(t.Context(), "readers", stands); err != nil {
		t.Fatal(err)
	}
	app := rule{Resource: "TOPIC", Pattern: "LITERAL", Name: topic, Principal: "User:app", Host: "*", Operation: "READ", Permission: "ALLOW"}
	p.grant(source, app)

	groups, err := replicate.NewGroupSelector([]string{"readers"}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	conf := p.config(topic)
	conf.Groups, conf.SyncAccess = groups, true
	conf.Access = &replicate.AccessRules{Topics: conf.Topics, Group: groups.Selects, Untouched: func(p string) bool { return p == "User:holdfast" || p == "User:admin" }}
	run := p.start(conf)
	p.caughtUp([]*mirrorRun{run}, topic)
	if _, err := source.Admin.UpdatePartitions(t.Context(), 3, topic); err != nil {
		t.Fatal(err)
	}
	p.set(source, topic, map[string]*string{"retention.ms": str("3600000")})
	took := map[string]int64{}
	p.follows(took, "more partitions", p.partitions(topic, 3))
	p.follows(took, "a setting", p.setting(topic, "retention.ms", str("3600000")))
	p.follows(took, "a right", p.right(app, true))
	opt := mirror.SyncOptions{Groups: groups, Topics: conf.Topics}
	mirrorSoon(t, "the group's offsets are in the target", func() bool {
		r, err := mirror.CheckGroups(t.Context(), p.ca, p.cb, opt, 0)
		return err == nil && r.Count(replicate.GroupSame) == 3
	})
	mirrorSoon(t, "nothing is wanting", func() bool {
		s := run.Status()
		return len(s.Findings) == 0 && s.Totals.Frozen == 0
	})
	plain := func(k *stack.Kafka) map[int32]*plainLog {
		t.Helper()
		logs, err := readPlain(t.Context(), append(p.seeds(k), k.ClientOptions(stack.Admin)...), topic, committed)
		if err != nil {
			t.Fatal(err)
		}
		return logs
	}
	records, copied := 0, plain(p.b)
	for part, log := range plain(p.a) {
		records += len(log.records)
		if d := log.differences(copied[part]); len(d) > 0 {
			t.Errorf("partition %d: %q", part, firstFew(d))
		}
	}
	verified, err := mirror.Verify(t.Context(), mirror.VerifyConfig{Link: conf.Link, Source: p.ca, Target: p.cb, Topics: conf.Topics, Each: func(s replicate.Statement) error {
		if s.Verdict == replicate.Differs {
			return fmt.Errorf("differs: %v", s)
		}
		return nil
	}})
	if err != nil {
		t.Errorf("verify: %v, %+v", err, verified)
	}
	if drift, err := mirror.Compare(t.Context(), p.ca, p.cb, mirror.CompareOptions{Link: conf.Link, Topics: conf.Topics, Access: conf.Access}); err != nil || len(drift.Drift) > 0 || len(drift.Open) > 0 {
		t.Errorf("drift: %v, %+v", err, drift)
	}

	// A move: the source's transactions are ended, the target is fenced and leaps.
	p.transaction(source, "shop-3", topic, 5, "left open")
	if ended, err := mirror.CloseTransactions(t.Context(), p.ca, conf.Topics); err != nil || !slices.Equal(ended, []string{"shop-3"}) {
		t.Errorf("ended %q, %v; want shop-3", ended, err)
	}
	p.caughtUp([]*mirrorRun{run}, topic)
	if err := run.end(t); err != nil {
		t.Fatal(err)
	}
	first := topology.Partition{Topic: topic}
	leap := map[topology.Partition]int64{first: p.ends(p.ca, topic)[first] + 300}
	promotion := mirror.PromoteOptions{Link: conf.Link, Topics: conf.Topics, LeapTo: leap, LeapBudget: 10 * time.Second}
	done, err := mirror.Promote(t.Context(), p.cb, promotion)
	if err != nil {
		t.Fatal(err)
	}
	if loose, err := mirror.CheckFence(t.Context(), p.cb, promotion, done); err != nil || len(loose) > 0 {
		t.Errorf("the fence: %v, %+v", err, loose)
	}
	if ends, err := mirror.Leap(t.Context(), p.ca, promotion); err != nil || ends[first] < leap[first] {
		t.Errorf("the source leaps to %d, %v; want %d", ends[first], err, leap[first])
	}
	if _, err := mirror.Probe(t.Context(), p.cb, ""); err != nil {
		t.Error(err)
	}

	for _, cl := range []*kafka.Client{p.ca, p.cb} {
		if err := mirror.MayMark(t.Context(), cl); err != nil {
			t.Error(err)
		}
	}
	// The user is held back: it may not write at the source.
	err = p.ca.Kgo.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr()
	if !errors.Is(err, kerr.TopicAuthorizationFailed) && !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		t.Errorf("the mirror's user writes at the source: %v", err)
	}
	t.Logf(`{"records":%d,"partitions":%d,"differences":0}`, records, len(done))
}
