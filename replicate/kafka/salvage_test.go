package kafka

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func TestOrphans_AreAllThatTheLogHoldsOfTheRange(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 40, 7) // 0..39
	for n, keep := range []bool{true, false, true} {
		cl, err := r.a.Another(kgo.TransactionalID(fmt.Sprintf("tx-%d", n)), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.Kgo.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := cl.Kgo.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: fmt.Appendf(nil, "tx %d %d", n, i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.Kgo.EndTransaction(t.Context(), kgo.TransactionEndTry(keep)); err != nil {
			t.Fatal(err)
		}
		cl.Close()
	} // 40..51: three records and a marker each
	p := topology.Partition{Topic: "events"}
	of := replicate.Range{Start: 31, End: 52} // in the middle of a batch
	var chunks [][]byte
	got, err := ReadOrphans(t.Context(), r.a, p, of, func(b []byte) error { chunks = append(chunks, b); return nil })
	if err != nil || got.Records != 9+6 || len(got.Aborted) != 1 {
		t.Fatalf("%+v %v", got, err)
	}
	var offsets []int64
	aborted := 0
	for _, c := range chunks {
		err := EachOrphan(c, of, got.Aborted, func(o Orphan) error {
			if o.Aborted {
				aborted++
				return nil
			}
			offsets = append(offsets, o.Offset)
			if o.Offset >= 40 && string(o.Value) != fmt.Sprintf("tx %d %d", (o.Offset-40)/4, (o.Offset-40)%4) {
				t.Errorf("%d is %q", o.Offset, o.Value)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := EachOrphan(c[:len(c)-1], of, nil, func(Orphan) error { return nil }); err == nil {
			t.Error("a chunk that is cut off was read to its end")
		}
	}
	if len(offsets) != 15 || offsets[0] != 31 || offsets[9] != 40 || offsets[12] != 48 || aborted != 3 {
		t.Errorf("%v, and %d aborted", offsets, aborted)
	}
	// Nothing but markers is nothing.
	got, err = ReadOrphans(t.Context(), r.a, p, replicate.Range{Start: 51, End: 52}, func([]byte) error { t.Error("markers were given on"); return nil })
	if err != nil || got.Records != 0 || len(got.Aborted) != 0 {
		t.Errorf("%+v %v", got, err)
	}
	// What a transaction that is still open holds may become a record or not.
	r.leaveOpen(r.a, "open", "events")
	if _, err = ReadOrphans(t.Context(), r.a, p, replicate.Range{Start: 31, End: 53}, func([]byte) error { return nil }); err == nil {
		t.Error("an open transaction was taken for an end")
	}
}
