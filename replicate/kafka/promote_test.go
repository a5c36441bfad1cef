package kafka

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// mirrored is a rig whose topic was mirrored to the end and whose mirror has stopped.
func mirrored(t *testing.T, topic string, partitions int32) (*rig, PromoteOptions) {
	r := newRig(t)
	r.topic(r.fakeA, topic, partitions, nil)
	for i := range partitions {
		r.produce(r.a, topic, i, 40+int(i), 7)
	}
	m := r.start(r.config())
	r.caughtUp(m, topic)
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	return r, PromoteOptions{Link: r.link, Topics: replicate.Only(topic), Patience: 5 * time.Second, RequestTimeout: 2 * time.Second}
}

func promoteSoon(t *testing.T, r *rig, opt PromoteOptions) ([]Promotion, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return Promote(ctx, r.b, opt)
}

func TestPromote_GivesTheMirrorsEndAndTheSameOnceMore(t *testing.T) {
	const partitions = 5
	r, opt := mirrored(t, "orders", partitions)
	var steps []string
	opt.Progress = func(p PromoteProgress) {
		if p.Done == p.Of {
			steps = append(steps, p.Step)
		}
	}
	opt.LeapTo = map[topology.Partition]int64{{Topic: "orders", Partition: 1}: 700, {Topic: "orders", Partition: 2}: 5}
	var before []Promotion
	for try := range 3 {
		got, err := promoteSoon(t, r, opt)
		if err != nil || len(got) != partitions {
			t.Fatalf("%+v %v", got, err)
		}
		for i, p := range got {
			x := int64(40 + i)
			if p.Partition != (topology.Partition{Topic: "orders", Partition: int32(i)}) || p.X != x || p.Fence != x || p.Short != 0 || p.Seeding {
				t.Errorf("%+v, want x %d", p, x)
			}
			if end := r.fakeB.PartitionInfo("orders", int32(i)).HighWatermark; end != p.End {
				t.Errorf("%+v, but the log ends at %d", p, end)
			}
			if try == 0 && (i == 1 && p.End != 700 || i != 1 && p.End != x+3) {
				t.Errorf("%+v: another end than expected", p)
			}
			if try > 0 && p.End <= before[i].End {
				t.Errorf("%+v: was not fenced anew", p)
			}
		}
		before = got
		r.produce(r.b, "orders", 3, 30, 3) // producers are at work, and it is promoted again
	}
	if strings.Join(steps[:3], " ") != "fence leap end" {
		t.Errorf("steps %q", steps)
	}
}

func TestPromote_TriesAgainUntilEachMarkerIsConfirmed(t *testing.T) {
	r, opt := mirrored(t, "orders", 2)
	seen := 0
	r.fakeB.ControlKey(27, func(req kmsg.Request) (kmsg.Response, error, bool) {
		r.fakeB.KeepControl()
		seen++
		switch seen {
		case 1: // refused, nothing stored
			return markerAnswers(req, kerr.NotEnoughReplicas.Code), nil, true
		case 2: // no answer
			return nil, errors.New("gone"), true
		}
		return nil, nil, false
	})
	got, err := promoteSoon(t, r, opt)
	if err != nil {
		t.Fatal(err)
	}
	if seen < 3 || got[0].X != 40 || got[1].X != 41 || got[0].Fence != 40 {
		t.Errorf("%d requests: %+v", seen, got)
	}
}

func TestPromote_SaysWhatToDoWhenNoFenceCanStand(t *testing.T) {
	for _, c := range []struct {
		code  *kerr.Error
		words []string
	}{
		{kerr.NotEnoughReplicas, []string{"orders", "min.insync.replicas", "bring a broker back", "no progress"}},
		{kerr.ClusterAuthorizationFailed, []string{"orders", "ALTER", "cluster"}},
	} {
		r, opt := mirrored(t, "orders", 2)
		opt.Patience = 500 * time.Millisecond
		r.fakeB.ControlKey(27, func(req kmsg.Request) (kmsg.Response, error, bool) {
			r.fakeB.KeepControl()
			return markerAnswers(req, c.code.Code), nil, true
		})
		got, err := promoteSoon(t, r, opt)
		if err == nil || got != nil {
			t.Fatalf("%s: %+v %v", c.code.Message, got, err)
		}
		for _, w := range c.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
	}
}

func TestPromote_RefusesATopicThatIsNotTheRecordedOne(t *testing.T) {
	r, opt := mirrored(t, "orders", 1)
	opt.Known = map[string]TopicIDs{"orders": {Target: replicate.TopicID{1}}}
	if _, err := promoteSoon(t, r, opt); err == nil || !strings.Contains(err.Error(), "made again") {
		t.Errorf("%v", err)
	}
	opt.Known = nil
	opt.Starts = map[topology.Partition]int64{{Topic: "orders"}: 900}
	if _, err := promoteSoon(t, r, opt); err == nil || !strings.Contains(err.Error(), "below the recorded start 900") {
		t.Errorf("%v", err)
	}
	opt.Starts = map[topology.Partition]int64{{Topic: "orders", Partition: 7}: 0}
	if _, err := promoteSoon(t, r, opt); err == nil || !strings.Contains(err.Error(), "orders/7") && !strings.Contains(err.Error(), "orders-7") {
		t.Errorf("%v", err)
	}
}

func TestPromote_SaysWhatTheLeapHadNoTimeFor(t *testing.T) {
	r, opt := mirrored(t, "orders", 2)
	opt.LeapTo = map[topology.Partition]int64{{Topic: "orders"}: 100, {Topic: "orders", Partition: 1}: 10_000_000}
	opt.LeapBudget = 300 * time.Millisecond
	began := time.Now()
	got, err := promoteSoon(t, r, opt)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].End != 100 || got[0].Short != 0 || got[1].Short == 0 || got[1].End+got[1].Short != 10_000_000 || got[1].End < 1000 {
		t.Errorf("%+v", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestPromote_NamesRecordsOfTheMirrorBehindTheFence(t *testing.T) {
	r, opt := mirrored(t, "orders", 2)
	first, err := promoteSoon(t, r, opt)
	if err != nil {
		t.Fatal(err)
	}
	// The fake broker knows no fences: its mirror's next batch is let in.
	id := topology.Partition{Topic: "orders"}
	stored := r.batches(r.b, id)
	var last replicate.Batch
	for _, b := range stored {
		if b.End() == first[0].X {
			last = b
		}
	}
	run := replicate.Run{Link: r.link, Topic: first[0].TopicID}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 1000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = "orders", first[0].TopicID
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = last.Restamp(run.Stamp(first[0].X))
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := r.b.Kgo.Broker(int(r.fakeB.LeaderFor("orders", 0))).Request(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if code := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatal(kerr.ErrorForCode(code))
	}
	got, err := promoteSoon(t, r, opt)
	var stray *StrayError
	if !errors.As(err, &stray) || len(stray.At) != 1 || stray.At[id] != first[0].End {
		t.Fatalf("%v, want a stray at %d", err, first[0].End)
	}
	if len(got) != 2 || got[0].X != first[0].X || got[1].X != first[1].X {
		t.Errorf("%+v after %+v", got, first)
	}
}

func TestAuthorizer_SaysWhetherRightsCanBeTakenAway(t *testing.T) {
	for code, want := range map[int16]bool{kerr.SecurityDisabled.Code: false, 0: true, kerr.ClusterAuthorizationFailed.Code: true} {
		r := newRig(t, kfake.NumBrokers(1))
		r.fakeB.ControlKey(29, func(req kmsg.Request) (kmsg.Response, error, bool) {
			resp := req.ResponseKind().(*kmsg.DescribeACLsResponse)
			resp.ErrorCode = code
			return resp, nil, true
		})
		if got, err := Authorizer(t.Context(), r.b); err != nil || got != want {
			t.Errorf("code %d: %t %v, want %t", code, got, err, want)
		}
	}
}

// markerAnswers gives every marker of a request the same code.
func markerAnswers(req kmsg.Request, code int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	for _, m := range req.(*kmsg.WriteTxnMarkersRequest).Markers {
		rm := kmsg.NewWriteTxnMarkersResponseMarker()
		rm.ProducerID = m.ProducerID
		for _, t := range m.Topics {
			rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
				rp.Partition, rp.ErrorCode = p, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			rm.Topics = append(rm.Topics, rt)
		}
		resp.Markers = append(resp.Markers, rm)
	}
	return resp
}

// TestPromote_EndsWithItsContextWhenABrokerHangs promotes at a broker that takes
// connections and never answers, as one does that stands still.
func TestPromote_EndsWithItsContextWhenABrokerHangs(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var taking sync.WaitGroup
	var conns []net.Conn
	taking.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	cl, err := kafka.Open(kafka.Config{Name: "hangs", Brokers: []string{ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cl.Close()
		_ = ln.Close()
		taking.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	opt := PromoteOptions{Link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, Topics: replicate.Only("t")}
	for what, do := range map[string]func(context.Context) error{
		"promote":             func(ctx context.Context) error { _, err := Promote(ctx, cl, opt); return err },
		"check the fence":     func(ctx context.Context) error { _, err := CheckFence(ctx, cl, opt, nil); return err },
		"leap":                func(ctx context.Context) error { _, err := Leap(ctx, cl, opt); return err },
		"ask for its ends":    func(ctx context.Context) error { _, err := Ends(ctx, cl, opt.Topics); return err },
		"ask for authorizers": func(ctx context.Context) error { _, err := Authorizer(ctx, cl); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		err := do(ctx)
		cancel()
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 2*time.Second {
			t.Errorf("%s ended after %s: %v", what, took.Round(time.Millisecond), err)
		}
	}
}
