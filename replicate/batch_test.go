package replicate

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBatch_RestampChangesNothingButTheStamp(t *testing.T) {
	h := Header{Base: 1 << 40, LeaderEpoch: 9, Attributes: 4 | attrLogAppendTime | attrTransactional | attrDeleteHorizon, LastDelta: 6, Count: 7, FirstTimestamp: 5, MaxTimestamp: 9, ProducerID: 77, ProducerEpoch: 3, BaseSequence: 12}
	b := testBatch(h, []byte("payload"))
	before := bytes.Clone(b.Raw)
	got, rest, err := NextBatch(b.Restamp(Stamp{ProducerID: 1 << 62, Epoch: 5, Sequence: 0x7fffffff}))
	if err != nil || len(rest) != 0 {
		t.Fatal(err, rest)
	}
	want := Header{LeaderEpoch: -1, Attributes: 4, LastDelta: 6, Count: 7, FirstTimestamp: 5, MaxTimestamp: 9, ProducerID: 1 << 62, ProducerEpoch: 5, BaseSequence: 0x7fffffff}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(got.Payload(), b.Payload()) || !bytes.Equal(before, b.Raw) {
		t.Error("the payload or the original changed")
	}
}

func TestBatch_ASingleFlippedBitIsSeen(t *testing.T) {
	b := plain(5, 3)
	for i := 16; i < len(b.Raw); i++ {
		raw := bytes.Clone(b.Raw)
		raw[i] ^= 0x10
		if _, _, err := NextBatch(raw); err == nil {
			t.Errorf("byte %d was changed and nothing noticed", i)
		}
	}
}

func TestBatch_CutOffTailIsDroppedNotMisread(t *testing.T) {
	a, b := plain(0, 2), plain(2, 5)
	all := append(bytes.Clone(a.Raw), b.Raw...)
	for n := range len(all) {
		got, err := ParseBatches(all[:n])
		want := 0
		if n >= len(a.Raw) {
			want = 1
		}
		if err != nil || len(got) != want {
			t.Fatalf("%d bytes: %d batches, %v", n, len(got), err)
		}
	}
	old := bytes.Clone(a.Raw)
	old[16] = 1
	if _, err := ParseBatches(old); !errors.Is(err, ErrOldFormat) {
		t.Errorf("format 1 gives %v", err)
	}
}

func TestSameContent_SeesEveryDifferenceThatAConsumerSees(t *testing.T) {
	base := Header{Base: 4, LastDelta: 1, Count: 2, ProducerID: 9, LeaderEpoch: 1, FirstTimestamp: 10, MaxTimestamp: 11, Attributes: 3}
	a := testBatch(base, []byte("xy"))
	same := func(what string, want bool, change func(*Header), payload string) {
		t.Helper()
		h := base
		change(&h)
		if got := SameContent(a, testBatch(h, []byte(payload))); got != want {
			t.Errorf("%s: same is %t", what, got)
		}
	}
	same("nothing", true, func(*Header) {}, "xy")
	same("who wrote it", true, func(h *Header) { h.ProducerID, h.ProducerEpoch, h.BaseSequence, h.LeaderEpoch = 1, 2, 3, 4 }, "xy")
	same("broker's own time", true, func(h *Header) { h.Attributes |= attrLogAppendTime; h.MaxTimestamp = 99 }, "xy")
	same("offset", false, func(h *Header) { h.Base = 5 }, "xy")
	same("time", false, func(h *Header) { h.MaxTimestamp = 12 }, "xy")
	same("codec", false, func(h *Header) { h.Attributes = 4 }, "xy")
	same("count", false, func(h *Header) { h.Count = 1 }, "xy")
	same("payload", false, func(*Header) {}, "xz")
}

func TestRecords_DecodeWhatWasEncoded(t *testing.T) {
	h := Header{Base: 100, LastDelta: 2, Count: 3, FirstTimestamp: 1000, MaxTimestamp: 1005}
	want := []Record{
		{Offset: 100, Timestamp: 1000, Key: nil, Value: []byte{}},
		{Offset: 101, Timestamp: 1005, Key: []byte("k"), Value: nil, Headers: []RecordHeader{{Key: []byte("h")}, {Key: []byte("h"), Value: []byte("v")}}},
		{Offset: 102, Timestamp: 999, Key: []byte{}, Value: bytes.Repeat([]byte("v"), 300)},
	}
	payload := testRecords(h, want...)
	var got []Record
	if err := Records(h, payload, func(r Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for n := range len(payload) {
		if err := Records(h, payload[:n], func(Record) error { return nil }); err == nil {
			t.Errorf("%d of %d bytes decode without an error", n, len(payload))
		}
	}
	if bytes.Equal(Record{Key: nil}.AppendCanonical(nil, true), Record{Key: []byte{}}.AppendCanonical(nil, true)) {
		t.Error("null and empty look the same")
	}
}

func FuzzBatch(f *testing.F) {
	f.Add(plain(0, 1).Raw)
	f.Add(append(bytes.Clone(plain(7, 2).Raw), plain(9, 1).Raw...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		batches, _ := ParseBatches(raw)
		size := 0
		for _, b := range batches {
			size += b.Size()
			if b.End() <= b.Base || b.Size() < HeaderSize {
				t.Fatalf("accepted %+v", b.Header)
			}
			again, rest, err := NextBatch(b.Restamp(Stamp{ProducerID: 1 << 62}))
			if err != nil || len(rest) != 0 || !bytes.Equal(again.Payload(), b.Payload()) {
				t.Fatalf("restamped does not parse: %v", err)
			}
			_ = Records(b.Header, b.Payload(), func(Record) error { return nil })
		}
		if size > len(raw) {
			t.Fatal("more bytes out than in")
		}
	})
}

func FuzzRecords(f *testing.F) {
	h := Header{Base: 3, LastDelta: 1, Count: 2, FirstTimestamp: 5}
	f.Add(int32(2), testRecords(h, Record{Offset: 3, Key: []byte("k")}, Record{Offset: 4, Headers: []RecordHeader{{Key: []byte("a")}}}))
	f.Fuzz(func(t *testing.T, count int32, payload []byte) {
		h := Header{Base: 3, LastDelta: 1 << 20, Count: count, FirstTimestamp: 5}
		total := 0
		_ = Records(h, payload, func(r Record) error {
			total += len(r.Key) + len(r.Value)
			if r.Offset < 3 {
				t.Fatal("an offset below the batch")
			}
			return nil
		})
		if total > len(payload) {
			t.Fatal("more bytes out than in")
		}
	})
}
