package kafka

import (
	"context"
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

func TestReplayer_ProducesOrphansAsNewRecordsInTheirOrder(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	r.produce(r.a, "events", 1, 5, 5)
	p, err := NewReplayer(r.a, topology.Partition{Topic: "events", Partition: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var orphans []Orphan
	for i := range int64(40) {
		o := Orphan{Record: replicate.Record{Offset: 1000 + i, Timestamp: 7 + i, Value: fmt.Append(nil, i), Headers: []replicate.RecordHeader{{Key: []byte("h")}}}}
		if i%2 == 0 {
			o.Key = []byte{}
		}
		orphans = append(orphans, o)
	}
	if n, err := p.Produce(t.Context(), orphans); n != 40 || err != nil {
		t.Fatal(n, err)
	}
	var got []replicate.Record
	for _, b := range r.batches(r.a, topology.Partition{Topic: "events", Partition: 1}) {
		if err := eachRecord(b, func(rec replicate.Record) error { got = append(got, rec); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 45 {
		t.Fatalf("%d records", len(got))
	}
	for i, rec := range got[5:] {
		want := orphans[i]
		if rec.Offset != int64(5+i) || rec.Timestamp != want.Timestamp || string(rec.Value) != string(want.Value) || (rec.Key == nil) != (want.Key == nil) || len(rec.Headers) != 1 || rec.Headers[0].Value != nil {
			t.Errorf("orphan %d became %+v", i, rec)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := p.Produce(ctx, orphans); n != 0 || err == nil {
		t.Errorf("cancelled: %d, %v", n, err)
	}
}
