package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// every lets every nth request of a kind be answered by do. The request is
// dropped, as if the connection broke, when do says so.
func every(c *kfake.Cluster, key kmsg.Key, n int64, do func() error) *atomic.Int64 {
	var seen, hit atomic.Int64
	c.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if seen.Add(1)%n != 0 {
			return nil, nil, false
		}
		hit.Add(1)
		return nil, do(), true
	})
	return &hit
}

func TestMirror_LostAnswersMakeNoDuplicates(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 3, nil)
	for p := range int32(3) {
		r.produce(r.a, "events", p, 300, 5)
	}
	// The append happens, and then the answer says that it timed out.
	timedOut := r.fakeB.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: 10})
	m := r.start(r.apart())
	if err := timedOut.Wait(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	// The append never happens, and no answer comes: the connection breaks.
	broken := every(r.fakeB, kmsg.Produce, 4, func() error { return errors.New("broken") })
	r.caughtUp(m, "events")
	r.identical("events", 3)
	if timedOut.Hits() < 10 || broken.Load() == 0 {
		t.Fatalf("%d timeouts and %d broken connections: nothing was tested", timedOut.Hits(), broken.Load())
	}
}

func TestMirror_TwoAtOnceStoreEachBatchOnce(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	m := r.start(r.apart())
	other := r.start(r.apart())
	for round := range 10 {
		r.produce(r.a, "events", int32(round%2), 30, 3)
	}
	r.caughtUp(m, "events")
	r.identical("events", 2)
	eventually(t, "both know it", func() bool {
		a, b := m.Status(), other.Status()
		return a.Totals.Working == 2 && b.Totals.Working == 2 && a.Totals.RecordsBehind+b.Totals.RecordsBehind == 0
	})
	if a, b := m.Status().Totals, other.Status().Totals; a.Records+b.Records < 300 {
		t.Fatalf("%d and %d records", a.Records, b.Records)
	}
}

func TestMirror_FollowsLeadersOnBothSides(t *testing.T) {
	r := newRig(t, kfake.NumBrokers(3))
	r.topic(r.fakeA, "events", 4, nil)
	m := r.start(r.apart())
	for round := range 6 {
		r.produce(r.a, "events", int32(round%4), 40, 5)
		r.fakeA.ShufflePartitionLeaders()
		r.produce(r.a, "events", int32((round+1)%4), 40, 5)
		r.fakeB.ShufflePartitionLeaders()
	}
	r.caughtUp(m, "events")
	r.identical("events", 4)
	if f := m.Status().Totals.Frozen; f != 0 {
		t.Fatalf("%d partitions frozen: %+v", f, m.Status())
	}
}

func TestMirror_FetchTroubleIsRetriedAndSaid(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 50, 5)
	trouble := r.fakeA.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.KafkaStorageError, Count: -1})
	m := r.start(r.config())
	eventually(t, "status names the trouble", func() bool {
		s := m.Status()
		return len(s.Partitions) == 1 && s.Partitions[0].Trouble != ""
	})
	trouble.Remove()
	r.caughtUp(m, "events")
	eventually(t, "the trouble is over", func() bool { return m.Status().Partitions[0].Trouble == "" })
}

func TestMirror_UncleanStopSaysHowLong(t *testing.T) {
	r := newRig(t)
	r.requestTimeout = 5 * time.Second
	r.topic(r.fakeA, "events", 1, nil)
	m := r.start(r.config())
	r.produce(r.a, "events", 0, 5, 5)
	r.caughtUp(m, "events")
	asked := every(r.fakeB, kmsg.Produce, 1, func() error { return errors.New("broken") })
	r.produce(r.a, "events", 0, 5, 5)
	eventually(t, "an append without an answer", func() bool { return asked.Load() > 0 })
	time.Sleep(50 * time.Millisecond)
	err := m.end(t)
	var unclean *UncleanError
	if !errors.As(err, &unclean) {
		t.Fatalf("Run returned %v, want an unclean end", err)
	}
	if unclean.Wait <= 0 || unclean.Wait > r.requestTimeout || len(unclean.Partitions) != 1 {
		t.Fatalf("%+v", unclean)
	}
}

func TestMirror_CarriedOutAppendIsACleanStopEvenWithoutItsAnswer(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	m := r.start(r.config())
	for range 5 {
		hold := r.fakeB.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: 1})
		r.produce(r.a, "events", 0, 5, 5)
		if err := hold.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
}

func TestMirror_FreezesARecreatedTopicAndNeverMixesTwo(t *testing.T) {
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			r := newRig(t)
			r.topic(r.fakeA, "events", 1, nil)
			r.topic(r.fakeA, "other", 1, nil)
			r.produce(r.a, "events", 0, 20, 5)
			m := r.start(r.config())
			r.caughtUp(m, "events", "other")
			fake := r.fakeA
			if side == "target" {
				fake = r.fakeB
			}
			if err := fake.DeleteTopic("events"); err != nil {
				t.Fatal(err)
			}
			r.topic(fake, "events", 1, nil)
			r.produce(r.a, "events", 0, 30, 5)
			p := topology.Partition{Topic: "events"}
			eventually(t, "it is frozen", func() bool { return frozen(m, p) != nil })
			if f := frozen(m, p); f.Reason != replicate.Recreated {
				t.Fatalf("frozen as %v", f)
			}
			r.produce(r.a, "other", 0, 20, 5)
			r.caughtUp(m, "other")
			if side == "target" && r.fakeB.PartitionInfo("events", 0).HighWatermark != 0 {
				t.Fatal("it wrote into the new topic")
			}
		})
	}
}

func TestMirror_ARecordedIdentityIsComparedAfterARestart(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	m := r.start(r.config())
	eventually(t, "it runs", func() bool { return m.Status().Totals.Working == 1 })
	known := m.TopicIDs()
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	if err := r.fakeA.DeleteTopic("events"); err != nil {
		t.Fatal(err)
	}
	r.topic(r.fakeA, "events", 1, nil)
	conf := r.config()
	conf.Known = known
	m = r.start(conf)
	eventually(t, "it is frozen", func() bool { return m.Status().Totals.Frozen == 1 })
}

func TestMirror_LostRangeIsNamed(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 20, 5)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	r.produce(r.a, "events", 0, 50, 5)
	if err := r.fakeA.DeleteRecords("events", 0, 45); err != nil {
		t.Fatal(err)
	}
	m = r.start(r.config())
	p := topology.Partition{Topic: "events"}
	eventually(t, "it is frozen", func() bool { return frozen(m, p) != nil })
	if f := frozen(m, p); f.Reason != replicate.Lost || f.From != 20 || f.To != 45 {
		t.Fatalf("frozen as %v, want lost [20,45)", f)
	}
}

func TestMirror_TransactionsAreCopiedWithTheirMarkersAsHoles(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 10, 5)
	tx, err := r.a.Another(kgo.TransactionalID("tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tx.Kgo.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Kgo.ProduceSync(ctx, &kgo.Record{Topic: "events", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Kgo.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	r.produce(r.a, "events", 0, 10, 5)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	if got, want := r.fakeB.PartitionInfo("events", 0).HighWatermark, r.fakeA.PartitionInfo("events", 0).HighWatermark; got != want || want != 22 {
		t.Fatalf("the target ends at %d, the source at %d", got, want)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	if s := m.Status().Partitions[0]; s.Filled != 1 || s.Records != 21 {
		t.Fatalf("%+v", s)
	}
}

func TestMirror_AForeignRecordOnAnIdlePartitionIsNoticed(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 10, 5)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	r.produce(r.b, "events", 0, 1, 1)
	p := topology.Partition{Topic: "events"}
	eventually(t, "it is frozen", func() bool { return frozen(m, p) != nil })
	if f := frozen(m, p); f.Reason != replicate.Diverged || f.From != 10 || f.To != 11 {
		t.Fatalf("frozen as %v, want diverged [10,11)", f)
	}
}

func TestMirror_StartsWhereTheLinkWasRecordedToStart(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 10, 5)
	m := r.start(r.apart())
	r.caughtUp(m, "events")
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	// A planned move: B goes on, and the reverse link starts at the equal ends.
	r.produce(r.b, "events", 0, 15, 5)
	back := r.apart()
	back.Link = replicate.Link{Source: "b", Target: "a", Epoch: 2}
	back.Source, back.Target = r.b, r.a
	back.Starts = map[topology.Partition]int64{{Topic: "events"}: 10}
	m = r.start(back)
	eventually(t, "A has B's records", func() bool { return r.fakeA.PartitionInfo("events", 0).HighWatermark == 25 })
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	// A link that was not told where it starts takes the same log for foreign.
	back.Starts, back.Link.Epoch = nil, 1
	m = r.start(back)
	eventually(t, "it is frozen", func() bool { return m.Status().Totals.Frozen == 1 })
	r.identical("events", 1)
}

func TestMirror_FollowsPartitionsAndSettings(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeA, "__internal", 1, nil)
	r.topic(r.fakeA, "skipped-1", 1, nil)
	conf := r.config()
	var err error
	if conf.Topics, err = replicate.NewSelection(nil, []string{"skipped-.*"}); err != nil {
		t.Fatal(err)
	}
	m := r.start(conf)
	eventually(t, "it runs", func() bool { return m.Status().Totals.Working == 1 })
	ctx := t.Context()
	if _, err := r.a.Admin.UpdatePartitions(ctx, 3, "events"); err != nil {
		t.Fatal(err)
	}
	_, err = r.a.Admin.AlterTopicConfigs(ctx, alter("retention.ms", "7777777"), "events")
	if err != nil {
		t.Fatal(err)
	}
	// Somebody changes the target: it is set right again.
	if _, err = r.b.Admin.AlterTopicConfigs(ctx, alter("cleanup.policy", "compact"), "events"); err != nil {
		t.Fatal(err)
	}
	r.produce(r.a, "events", 2, 20, 5)
	eventually(t, "the new partition is mirrored", func() bool {
		p := r.fakeB.PartitionInfo("events", 2)
		return p != nil && p.HighWatermark == 20
	})
	eventually(t, "the settings are the source's", func() bool {
		c := r.fakeB.TopicInfo("events").Configs
		return c["retention.ms"] != nil && *c["retention.ms"] == "7777777" && (c["cleanup.policy"] == nil || *c["cleanup.policy"] == "delete")
	})
	if r.fakeB.TopicInfo("__internal") != nil || r.fakeB.TopicInfo("skipped-1") != nil {
		t.Fatal("a topic that is not selected was created")
	}
}

func TestMirror_RefusesOneClusterAtBothEnds(t *testing.T) {
	r := newRig(t)
	conf := r.config()
	conf.Target = r.a
	m := r.start(conf)
	select {
	case err := <-m.done:
		m.done <- err
		if !errors.Is(err, ErrSameCluster) {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it runs against itself")
	}
}

func TestMirror_WaitsForAClusterThatIsDown(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 10, 5)
	port := 0
	if _, err := fmt.Sscanf(r.fakeB.ListenAddrs()[0], "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	r.fakeB.Close()
	m := r.start(r.apart())
	eventually(t, "a finding says so", func() bool {
		s := m.Status()
		return len(s.Findings) == 1 && s.Findings[0].About == "target"
	})
	fake, err := kfake.NewCluster(kfake.ClusterID("cluster-b"), kfake.NumBrokers(1), kfake.Ports(port))
	if err != nil {
		t.Skip("the port was taken meanwhile: ", err)
	}
	t.Cleanup(fake.Close)
	r.fakeB = fake
	r.caughtUp(m, "events")
	r.identical("events", 1)
}

func TestMirror_RateIsKeptAndCanChange(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 400, 20)
	size := 0
	for _, b := range r.batches(r.a, topology.Partition{Topic: "events"}) {
		size += b.Size()
	}
	conf := r.config()
	conf.Rate = float64(size) / 60 // a minute for all
	m := r.start(conf)
	eventually(t, "there is lag to see", func() bool { s := m.Status(); return s.Totals.RecordsBehind > 0 && s.Totals.SecondsBehindMax > 0 })
	time.Sleep(time.Second)
	if p := r.fakeB.PartitionInfo("events", 0); p.HighWatermark > 200 {
		t.Errorf("%d of 400 records in seconds, though a minute was asked for", p.HighWatermark)
	}
	m.SetRate(0)
	r.caughtUp(m, "events") // within a third of that minute, or it fails
}
