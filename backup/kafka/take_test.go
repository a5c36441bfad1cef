package kafka

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	t    *testing.T
	fake *kfake.Cluster
	cl   *kafka.Client
	// honest is what the brokers said of their topics before they were spoiled.
	honest *kmsg.MetadataResponse
}

func newRig(t *testing.T, opts ...kfake.Opt) *rig {
	t.Helper()
	fake, err := kfake.NewCluster(append([]kfake.Opt{kfake.ClusterID("cluster-a"), kfake.NumBrokers(2)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	cl, err := kafka.Open(kafka.Config{Name: "us-east", Brokers: fake.ListenAddrs(), RequestTimeout: 2 * time.Second, RetryTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &rig{t: t, fake: fake, cl: cl}
}

func (r *rig) topic(name string, partitions int32) {
	r.t.Helper()
	if err := r.fake.CreateTopic(name, partitions, nil); err != nil {
		r.t.Fatal(err)
	}
}

// produce writes n records to a partition.
func (r *rig) produce(topic string, partition int32, n int) {
	r.t.Helper()
	p, err := r.cl.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.Close()
	for range n {
		if err := p.Kgo.ProduceSync(r.t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte("x")}).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) commit(group, topic string, partition int32, at int64, metadata string) {
	r.t.Helper()
	os := kadm.Offsets{}
	os.Add(kadm.Offset{Topic: topic, Partition: partition, At: at, LeaderEpoch: -1, Metadata: metadata})
	if err := kafka.UntilSettled(r.t.Context(), func() error { return r.cl.Admin.CommitAllOffsets(r.t.Context(), group, os) }); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) take(change ...func(*Config)) (backup.Manifest, error) {
	r.t.Helper()
	conf := Config{Client: r.cl}
	for _, c := range change {
		c(&conf)
	}
	taker, err := New(conf)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	return taker.Take(ctx, backup.Take{Set: "s", Attempt: "a"})
}

// filled is a cluster with two topics and a group.
func filled(t *testing.T, opts ...kfake.Opt) *rig {
	r := newRig(t, opts...)
	r.topic("events", 3)
	r.topic("outcomes", 1)
	r.topic("__holdfast-probe", 1)
	r.produce("events", 0, 5)
	r.produce("events", 2, 2)
	r.produce("__holdfast-probe", 0, 1)
	r.commit("snuba", "events", 2, 1, "")
	r.commit("snuba", "events", 0, 5, `{"host":"a|b"}`)
	r.commit("replays", "outcomes", 0, 0, "")
	return r
}

func TestTake_HoldsEveryGroupAndEveryLog(t *testing.T) {
	r := filled(t)
	m, err := r.take()
	if err != nil {
		t.Fatal(err)
	}
	if m.Engine != backup.Kafka || m.Store.ID != "cluster-a" || m.Store.Version == "" || m.Totals.Rows != 3 {
		t.Errorf("%+v", m)
	}
	for i := range m.Kafka.Topics {
		if len(m.Kafka.Topics[i].ID) != 32 {
			t.Errorf("%s has id %q", m.Kafka.Topics[i].Name, m.Kafka.Topics[i].ID)
		}
		m.Kafka.Topics[i].ID = ""
	}
	got, err := json.Marshal(m.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"topics":[{"name":"events","partitions":[{"partition":0,"start":0,"end":5},{"partition":1,"start":0,"end":0},{"partition":2,"start":0,"end":2}]},` +
		`{"name":"outcomes","partitions":[{"partition":0,"start":0,"end":0}]}],` +
		`"groups":[{"name":"replays","state":"Empty","offsets":[{"topic":"outcomes","partition":0,"offset":0,"leader_epoch":-1}]},` +
		`{"name":"snuba","state":"Empty","offsets":[{"topic":"events","partition":0,"offset":5,"leader_epoch":-1,"metadata":"{\"host\":\"a|b\"}"},{"topic":"events","partition":2,"offset":1,"leader_epoch":-1}]}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(m.Notes) != 0 {
		t.Errorf("notes %q", m.Notes)
	}
}

func TestTake_OfAnEmptyClusterIsEmptyAndNoError(t *testing.T) {
	r := newRig(t)
	r.topic("__consumer_offsets_like", 1)
	m, err := r.take()
	if err != nil || len(m.Kafka.Topics) != 0 || len(m.Kafka.Groups) != 0 || m.Totals.Rows != 0 {
		t.Errorf("%v: %+v", err, m.Kafka)
	}
}

func TestTake_ReadsOffsetsBeforeLogs(t *testing.T) {
	r := filled(t)
	var order []int16
	r.fake.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		if k := req.Key(); k == 9 || k == 2 {
			order = append(order, k)
		}
		return nil, nil, false
	})
	if _, err := r.take(); err != nil {
		t.Fatal(err)
	}
	first := slices.Index(order, 2)
	if first < 1 || slices.Contains(order[first:], 9) {
		t.Errorf("requests in this order: %v (9 reads offsets, 2 reads logs)", order)
	}
}

func TestTake_SaysWhatItLeavesOut(t *testing.T) {
	r := filled(t)
	r.commit("monitor", "__holdfast-probe", 0, 1, "")
	r.commit("late", "events", 1, 9, "")
	m, err := r.take(func(c *Config) { c.Exclude = func(g string) bool { return g == "replays" } })
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(m.Notes, "\n")
	for _, want := range []string{"excluded: replays", "internal topics are not taken: monitor at __holdfast-probe/0", "beyond the end of their log, which was cut back or made anew: late at events/1"} {
		if !strings.Contains(notes, want) {
			t.Errorf("%q is not said in\n%s", want, notes)
		}
	}
	if len(m.Kafka.Groups) != 3 || m.Totals.Rows != 3 {
		t.Errorf("%+v", m.Kafka.Groups)
	}
}

func TestTake_SaysWhichGroupsFellBehindRetention(t *testing.T) {
	r := filled(t)
	cut := kadm.Offsets{}
	cut.AddOffset("events", 2, 2, -1)
	if _, err := r.cl.Admin.DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	m, err := r.take()
	if err != nil {
		t.Fatal(err)
	}
	if p := m.Kafka.Topics[0].Partitions[2]; p.Start != 2 || p.End != 2 {
		t.Errorf("%+v", p)
	}
	if len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "snuba at events/2") {
		t.Errorf("notes %q", m.Notes)
	}
}

// A short list with a nil error is the worst bug: whatever one broker leaves
// out or cannot tell, the take fails.
func TestTake_WhatABrokerCannotTellFailsIt(t *testing.T) {
	denied := kerr.TopicAuthorizationFailed.Code
	for name, spoil := range map[string]func(*rig, kmsg.Request) kmsg.Response{
		"an offset": func(_ *rig, req kmsg.Request) kmsg.Response {
			return offsets(req, func(g *kmsg.OffsetFetchResponseGroup) { g.Topics[0].Partitions[1].ErrorCode = denied })
		},
		"a group": func(_ *rig, req kmsg.Request) kmsg.Response {
			return offsets(req, func(g *kmsg.OffsetFetchResponseGroup) { g.ErrorCode = kerr.GroupAuthorizationFailed.Code })
		},
		"a group that is left out": func(_ *rig, req kmsg.Request) kmsg.Response {
			resp := offsets(req, nil)
			if resp == nil {
				return nil
			}
			of := resp.(*kmsg.OffsetFetchResponse)
			of.Groups = of.Groups[:len(of.Groups)-1]
			return resp
		},
		"offsets of a transaction that does not end": func(_ *rig, req kmsg.Request) kmsg.Response {
			if of, ok := req.(*kmsg.OffsetFetchRequest); ok && !of.RequireStable {
				return nil // it would be told an offset that may still be taken back
			}
			return offsets(req, func(g *kmsg.OffsetFetchResponseGroup) {
				g.Topics[0].Partitions[1].ErrorCode = kerr.UnstableOffsetCommit.Code
			})
		},
		"a log": func(_ *rig, req kmsg.Request) kmsg.Response {
			return logs(req, func(t *kmsg.ListOffsetsResponseTopic) { t.Partitions[0].ErrorCode = denied })
		},
		"a log that is left out": func(_ *rig, req kmsg.Request) kmsg.Response {
			return logs(req, func(t *kmsg.ListOffsetsResponseTopic) { t.Partitions = t.Partitions[1:] })
		},
		"a log without an offset": func(_ *rig, req kmsg.Request) kmsg.Response {
			return logs(req, func(t *kmsg.ListOffsetsResponseTopic) { t.Partitions[0].Offset = -1 })
		},
		"a list of groups": func(_ *rig, req kmsg.Request) kmsg.Response {
			if req.Key() != 16 {
				return nil
			}
			resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
			resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
			return resp
		},
		"a topic": func(r *rig, req kmsg.Request) kmsg.Response {
			return r.metadata(req, func(t *kmsg.MetadataResponseTopic) { t.ErrorCode = denied })
		},
		"a topic without partitions": func(r *rig, req kmsg.Request) kmsg.Response {
			return r.metadata(req, func(t *kmsg.MetadataResponseTopic) { t.Partitions = nil })
		},
		"a partition that is left out": func(r *rig, req kmsg.Request) kmsg.Response {
			return r.metadata(req, func(t *kmsg.MetadataResponseTopic) {
				// They come in any order. That the last one is missing nobody could see.
				t.Partitions = slices.DeleteFunc(t.Partitions, func(p kmsg.MetadataResponseTopicPartition) bool { return p.Partition == 0 })
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := filled(t, kfake.NumBrokers(1)) // one that coordinates both groups
			r.learn()
			spoiled := 0
			r.fake.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
				r.fake.KeepControl()
				resp := spoil(r, req)
				if resp == nil {
					return nil, nil, false
				}
				spoiled++
				return resp, nil, true
			})
			m, err := r.take()
			if err == nil {
				t.Fatalf("taken all the same: %+v", m.Kafka)
			}
			if spoiled == 0 {
				t.Fatalf("nothing was spoiled: %v", err)
			}
			if m.Kafka != nil {
				t.Error("a manifest comes with the error")
			}
		})
	}
}

// learn keeps the honest answer to what topics there are.
func (r *rig) learn() {
	r.t.Helper()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(r.t.Context(), r.cl.Kgo)
	if err != nil {
		r.t.Fatal(err)
	}
	r.honest = resp
}

// metadata answers honestly but for the topic "events".
func (r *rig) metadata(req kmsg.Request, spoil func(*kmsg.MetadataResponseTopic)) kmsg.Response {
	if asked, ok := req.(*kmsg.MetadataRequest); !ok || asked.Topics != nil && len(asked.Topics) == 0 {
		return nil
	}
	resp := *r.honest
	resp.Topics = slices.Clone(resp.Topics)
	for i := range resp.Topics {
		if *resp.Topics[i].Topic == "events" {
			spoil(&resp.Topics[i])
		}
	}
	resp.SetVersion(req.GetVersion())
	return &resp
}

// offsets answers with two offsets of the topic "events" for each group.
func offsets(req kmsg.Request, spoil func(*kmsg.OffsetFetchResponseGroup)) kmsg.Response {
	asked, ok := req.(*kmsg.OffsetFetchRequest)
	if !ok || len(asked.Groups) == 0 {
		return nil
	}
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	for _, a := range asked.Groups {
		g := kmsg.NewOffsetFetchResponseGroup()
		g.Group = a.Group
		topic := kmsg.NewOffsetFetchResponseGroupTopic()
		topic.Topic = "events"
		for i := range int32(2) {
			p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			p.Partition, p.Offset = i, 0
			topic.Partitions = append(topic.Partitions, p)
		}
		g.Topics = append(g.Topics, topic)
		if spoil != nil {
			spoil(&g)
		}
		resp.Groups = append(resp.Groups, g)
	}
	return resp
}

// logs answers 0 for each log.
func logs(req kmsg.Request, spoil func(*kmsg.ListOffsetsResponseTopic)) kmsg.Response {
	asked, ok := req.(*kmsg.ListOffsetsRequest)
	if !ok {
		return nil
	}
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, a := range asked.Topics {
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = a.Topic
		for _, ap := range a.Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Offset = ap.Partition, 0
			topic.Partitions = append(topic.Partitions, p)
		}
		spoil(&topic)
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func TestNew_NeedsAClient(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("not refused")
	}
}
