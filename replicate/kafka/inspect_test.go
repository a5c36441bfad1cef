package kafka

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// before is what a promotion at x leaves behind, with nothing noted.
func before(topic string, x ...int64) map[topology.Partition]Before {
	out := map[topology.Partition]Before{}
	for n, at := range x {
		out[topology.Partition{Topic: topic, Partition: int32(n)}] = Before{X: at, Epoch: -1}
	}
	return out
}

func TestInspect_NamesOrphansAndProvesThePrefix(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	r.produce(r.a, "events", 0, 100, 7)
	r.produce(r.a, "events", 1, 40, 7)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	r.produce(r.a, "events", 0, 11, 7) // accepted, never mirrored
	r.produce(r.b, "events", 0, 25, 7) // B goes on
	look := func(x map[topology.Partition]Before, budget int) []Inspection {
		t.Helper()
		got, err := Inspect(t.Context(), r.b, r.a, x, budget)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := look(before("events", 100, 40), 0)
	if i := got[0]; i.Freeze != "" || i.Proven != 100 || i.Orphans.Start != 100 || i.Orphans.End != 111 || !i.Whole || i.Records != 100 || i.Reunion.Start != 111 {
		t.Errorf("partition 0: %+v", i)
	}
	if i := got[1]; i.Freeze != "" || i.Proven != 40 || i.Orphans.Start != i.Orphans.End || i.LeapTo != 0 {
		t.Errorf("partition 1: %+v", i)
	}
	// A region that was rolled back and went on holds other records below x.
	if i := look(before("events", 105, 40), 0)[0]; i.Freeze != "" || i.Proven != 100 || i.Differs != 100 || len(i.Foreign) != 2 {
		t.Errorf("a difference at 100: %+v", i)
	}
	// The epoch of the last mirrored record is asked for.
	x := before("events", 100, 40)
	x[topology.Partition{Topic: "events"}] = Before{X: 100}
	if i := look(x, 0)[0]; i.EpochEnd != 111 || i.Proven != 100 {
		t.Errorf("epoch 0 ends at the end: %+v", i)
	}
	// Where they are known to differ nothing is compared.
	x[topology.Partition{Topic: "events"}] = Before{X: 105, Epoch: -1, Known: []replicate.Range{{Start: 100, End: 105}}}
	if i := look(x, 0)[0]; i.Proven != 105 || i.Records != 100 {
		t.Errorf("a difference that is known: %+v", i)
	}
	// A bound on the bytes: what was compared is enough, or not.
	if i := look(before("events", 100, 40), 1)[0]; i.Freeze != "" || i.Records == 0 {
		t.Errorf("the tail: %+v", i)
	}
}

func TestInspect_SeesWhatCommittedReadersSee(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeB, "events", 1, nil)
	// Both have the same committed records at the same offsets, and other
	// aborted ones beside them.
	for _, side := range []*kafka.Client{r.a, r.b} {
		for n, tx := range []string{"kept", "aborted " + side.Name(), "kept"} {
			cl, err := side.Another(kgo.TransactionalID(fmt.Sprintf("tx-%d", n)), kgo.RecordPartitioner(kgo.ManualPartitioner()))
			if err != nil {
				t.Fatal(err)
			}
			if err := cl.Kgo.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := cl.Kgo.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: []byte(tx), Timestamp: time.UnixMilli(1)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := cl.Kgo.EndTransaction(t.Context(), kgo.TransactionEndTry(tx == "kept")); err != nil {
				t.Fatal(err)
			}
			cl.Close()
		}
	}
	got, err := Inspect(t.Context(), r.b, r.a, before("events", 6), 0)
	if err != nil {
		t.Fatal(err)
	}
	if i := got[0]; i.Freeze != "" || i.Proven != 6 || i.Records != 2 || i.Differs != -1 {
		t.Errorf("%+v", i)
	}
}

func TestInspect_OfACompactedTopicPassesOverWhatOneSideCleaned(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "state", 1, map[string]string{"cleanup.policy": "compact"})
	r.topic(r.fakeB, "state", 1, map[string]string{"cleanup.policy": "compact"})
	batch := func(offsets ...int64) []replicate.Batch {
		var out []replicate.Batch
		for _, o := range offsets {
			e := replicate.NewEncoder(replicate.Header{Base: o})
			if err := e.Add(replicate.Record{Offset: o, Key: fmt.Append(nil, o)}); err != nil {
				t.Fatal(err)
			}
			b, err := e.Batch(nil)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	same, at, err := firstDifference(batch(1, 2, 5), batch(1, 5, 7), 0, 10, nil, true)
	if same != 2 || at != -1 || err != nil {
		t.Errorf("cleaned: %d the same, differs at %d, %v", same, at, err)
	}
	if same, at, err = firstDifference(batch(1, 2, 5), batch(1, 5, 7), 0, 10, nil, false); same != 1 || at != 2 || err != nil {
		t.Errorf("not cleaned: %d the same, differs at %d, %v", same, at, err)
	}
	got, err := Inspect(t.Context(), r.b, r.a, before("state", 0), 0)
	if err != nil || !got[0].Compacted {
		t.Errorf("%+v %v", got, err)
	}
}
