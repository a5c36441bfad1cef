package replicate

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// someBytes draws null, empty and other bytes.
func someBytes() *rapid.Generator[[]byte] {
	return rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 1, 40))
}

// someRecords draws n records from offset base on.
func someRecords(base int64, n int) *rapid.Generator[[]Record] {
	return rapid.Custom(func(t *rapid.T) []Record {
		var out []Record
		for i := range n {
			r := Record{Offset: base + int64(i), Timestamp: rapid.Int64().Draw(t, "time"), Key: someBytes().Draw(t, "key"), Value: someBytes().Draw(t, "value")}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				r.Headers = append(r.Headers, RecordHeader{Key: []byte(rapid.StringN(0, 3, -1).Draw(t, "name")), Value: someBytes().Draw(t, "content")})
			}
			out = append(out, r)
		}
		return out
	})
}

// flip is a compression that a test can undo.
func flip(payload []byte) ([]byte, error) {
	out := bytes.Clone(payload)
	for i := range out {
		out[i] ^= 0xff
	}
	return out, nil
}

func TestEncode_DecodesToTheSameRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Int64Range(0, math.MaxInt64-100).Draw(t, "base")
		want := someRecords(base, rapid.IntRange(1, 20).Draw(t, "n")).Draw(t, "records")
		h := Header{LeaderEpoch: rapid.Int32Min(-1).Draw(t, "epoch"), Attributes: rapid.Int16Range(0, 0x7f).Draw(t, "attributes"), MaxTimestamp: rapid.Int64().Draw(t, "append time"), ProducerID: 5}
		latest := want[0].Timestamp
		for i := range want {
			if h.LogAppendTime() {
				want[i].Timestamp = h.MaxTimestamp
			}
			latest = max(want[i].Timestamp, latest)
		}
		if h.LogAppendTime() {
			latest = h.MaxTimestamp
		}
		b, err := Encode(h, want, flip)
		if err != nil {
			t.Fatal(err)
		}
		again, rest, err := NextBatch(b.Raw)
		if err != nil || len(rest) != 0 {
			t.Fatalf("the batch does not parse: %v", err)
		}
		if diff := cmp.Diff(again.Header, b.Header); diff != "" {
			t.Fatalf("the header is not what the bytes say:\n%s", diff)
		}
		if b.Base != base || !b.Contiguous() || b.End() != base+int64(len(want)) || b.LeaderEpoch != h.LeaderEpoch || b.Codec() != h.Codec() ||
			b.LogAppendTime() != h.LogAppendTime() || b.Control() || b.Transactional() || b.ProducerID != -1 || b.MaxTimestamp != latest || b.Void() {
			t.Fatalf("encoded as %+v", b.Header)
		}
		payload := b.Payload()
		if b.Codec() != 0 {
			payload, _ = flip(payload)
		}
		var got []Record
		if err := Records(b.Header, payload, func(r Record) error { got = append(got, r); return nil }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestEncode_RefusesWhatABatchCannotHold(t *testing.T) {
	at := func(offsets ...int64) (out []Record) {
		for _, o := range offsets {
			out = append(out, Record{Offset: o, Timestamp: 7})
		}
		return out
	}
	refused := func(what string, h Header, records []Record, compress Compress) {
		t.Helper()
		if b, err := Encode(h, records, compress); err == nil || b.Raw != nil {
			t.Errorf("%s is encoded: %+v", what, b.Header)
		}
	}
	refused("nothing", Header{}, nil, nil)
	refused("a gap", Header{}, at(4, 5, 7), nil)
	refused("an offset twice", Header{}, at(4, 4), nil)
	refused("a negative offset", Header{}, at(-1, 0), nil)
	refused("an end above all offsets", Header{}, at(math.MaxInt64), nil)
	refused("another time than the log append time", Header{Attributes: attrLogAppendTime, MaxTimestamp: 8}, at(1), nil)
	refused("a header without a name", Header{}, []Record{{Headers: []RecordHeader{{}}}}, nil)
	refused("what does not compress", Header{Attributes: 4}, at(1), func([]byte) ([]byte, error) { return nil, errors.New("no") })
}

func TestVoid_IsWhatShowsNothing(t *testing.T) {
	v := VoidBatch(10, 15, 3)
	if diff := cmp.Diff(Batch{Header: Header{Base: 10, LastDelta: 4, LeaderEpoch: 3}}, v); diff != "" || v.End() != 15 || !v.Void() {
		t.Errorf("void batch %+v\n%s", v, diff)
	}
	if v := VoidBatch(5, 1<<40, 0); v.End() != 5+1<<31 || !v.Void() {
		t.Errorf("the longest void batch is %+v", v.Header)
	}
	if marker := testBatch(Header{Count: 1, Attributes: attrControl | attrTransactional}, nil); !marker.Void() {
		t.Error("a marker is not void")
	}
	if empty := testBatch(Header{LastDelta: 3}, nil); !empty.Void() {
		t.Error("an emptied batch is not void")
	}
	if plain(0, 1).Void() {
		t.Error("a record is void")
	}
}

// FuzzMarker reads control batches of any content.
func FuzzMarker(f *testing.F) {
	h := Header{Count: 1, Attributes: attrControl | attrTransactional}
	f.Add(int16(h.Attributes), int32(1), testRecords(h, Record{Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0, 0, 0, 9}}))
	f.Add(int16(h.Attributes), int32(1), testRecords(h, Record{Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0}}))
	f.Add(int16(h.Attributes), int32(0), []byte{})
	f.Fuzz(func(t *testing.T, attributes int16, count int32, payload []byte) {
		b := testBatch(Header{Count: count & math.MaxInt32, LastDelta: count & math.MaxInt32, Attributes: attributes}, payload)
		epoch, err := b.CoordinatorEpoch()
		if err == nil && (!b.Control() || b.Codec() != 0 || b.Count == 0 || len(payload) < 15) {
			t.Fatalf("%+v with %x is a marker of epoch %d", b.Header, payload, epoch)
		}
	})
}
