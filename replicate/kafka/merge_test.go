package kafka

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/replicate"
)

func TestMerge_KeepsEveryRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := someHistory(t)
		from := h.batches[0].Base
		batches, listed := h.fetchAt(from)
		shaped, err := shape(batches, from, listed)
		if err != nil {
			t.Fatal(err)
		}
		most := rapid.IntRange(0, 1000).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "like") { // so that some do merge
			for i := range shaped {
				if !shaped[i].Void() {
					shaped[i] = recoded(t, shaped[i], 3)
				}
			}
		}
		var merged []replicate.Batch
		for rest := shaped; len(rest) > 0; {
			b, n, err := merge(rest, most)
			if err != nil || n < 1 || n > len(rest) {
				t.Fatal(n, err)
			}
			if b.Base != rest[0].Base || b.End() != rest[n-1].End() || n > 1 && b.Size() > most {
				t.Fatalf("%d batches from %d to %d are %+v, %d bytes", n, rest[0].Base, rest[n-1].End(), b.Header, b.Size())
			}
			for _, part := range rest[:n] {
				if n > 1 && (part.Void() || part.LogAppendTime() || part.Codec() != 0 && part.Codec() != b.Codec() || part.LeaderEpoch != b.LeaderEpoch) {
					t.Fatalf("%+v went into %+v", part.Header, b.Header)
				}
			}
			if !b.Void() {
				if again, _, err := replicate.NextBatch(b.Raw); err != nil || again.Header != b.Header {
					t.Fatalf("stored as %+v: %v", again.Header, err)
				}
			}
			merged, rest = append(merged, b), rest[n:]
		}
		if diff := cmp.Diff(decoded(t, shaped), decoded(t, merged)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// recoded is b with a codec, times of its producer and leader epoch 1.
func recoded(t rapid.TB, b replicate.Batch, codec int16) replicate.Batch {
	out, err := replicate.Encode(replicate.Header{Attributes: codec, LeaderEpoch: 1}, decoded(t, []replicate.Batch{b}), packer(int8(codec)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMerge_TinyBatchesBecomeOne(t *testing.T) {
	tiny := func(o int64, attributes int16, epoch int32) replicate.Batch {
		return stored(replicate.Header{Base: o, LeaderEpoch: epoch, Attributes: attributes, FirstTimestamp: 1000 + o, MaxTimestamp: 1000 + o, ProducerID: 4, BaseSequence: int32(o)},
			replicate.Record{Offset: o, Timestamp: 1000 + o, Value: []byte("some value of forty bytes, more or less.")})
	}
	run := func(n int) (out []replicate.Batch) {
		for o := range int64(n) {
			out = append(out, tiny(o, 2, 1))
		}
		return out
	}
	joins := func(what string, want, most int, batches ...replicate.Batch) {
		t.Helper()
		if b, n, err := merge(batches, most); err != nil || n != want || n == 1 && &b.Raw[0] != &batches[0].Raw[0] {
			t.Errorf("%s: %d become one, %v; want %d", what, n, err, want)
		}
	}
	joins("all", 300, 256<<10, run(300)...)
	joins("one", 1, 256<<10, run(1)...)
	joins("too large by itself", 1, 10, run(3)...)
	joins("before a void", 2, 256<<10, append(run(2), replicate.VoidBatch(2, 5, 1))...)
	joins("before a gap", 3, 256<<10, append(run(3), tiny(4, 2, 1))...)
	joins("before another codec", 3, 256<<10, append(run(3), tiny(3, 4, 1))...)
	joins("with some that did not get smaller", 4, 256<<10, tiny(0, 0, 1), tiny(1, 2, 1), tiny(2, 0, 1), tiny(3, 2, 1))
	joins("before another leader epoch", 3, 256<<10, append(run(3), tiny(3, 2, 2))...)
	joins("log append time", 1, 256<<10, tiny(0, 2|bitAppendTime, 1), tiny(1, 2|bitAppendTime, 1))
	if _, n, err := merge(nil, 1); n != 0 || err != nil {
		t.Error(n, err)
	}
	broken := storedRaw(replicate.Header{Base: 1, LeaderEpoch: 1, Count: 1}, []byte{20})
	if _, n, err := merge([]replicate.Batch{tiny(0, 0, 1), broken}, 1<<20); err == nil || n != 0 {
		t.Errorf("a broken batch is merged: %d, %v", n, err)
	}
	large := stored(replicate.Header{LastDelta: 0, LeaderEpoch: 1, Attributes: 4}, replicate.Record{Value: make([]byte, mergeUnpacked)})
	next := stored(replicate.Header{Base: 1, LeaderEpoch: 1, Attributes: 4}, replicate.Record{Offset: 1})
	joins("as much as may be held unpacked", 1, 1<<20, large, next)
}

func BenchmarkMerge(b *testing.B) {
	for codec := range int16(5) {
		b.Run(codecNames[codec], func(b *testing.B) {
			var batches []replicate.Batch
			for o := range int64(256) {
				batches = append(batches, stored(replicate.Header{Base: o, LeaderEpoch: 1, Attributes: codec, FirstTimestamp: o, MaxTimestamp: o},
					replicate.Record{Offset: o, Timestamp: o, Value: bytes.Repeat([]byte(`{"level":"error","id":"`), 40)}))
			}
			b.SetBytes(256 * 920)
			for b.Loop() {
				if _, n, err := merge(batches, 1<<20); err != nil || n != len(batches) {
					b.Fatal(n, err)
				}
			}
		})
	}
}

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// FuzzMerge gives merge batches of any content.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{12, 0, 0, 0, 1, 1, 0}, []byte{12, 0, 0, 0, 1, 1, 0}, int16(0), int32(1))
	f.Fuzz(func(t *testing.T, x, y []byte, codec int16, count int32) {
		count &= 0xffff
		a := storedRaw(replicate.Header{Base: 5, LastDelta: count - min(1, count), Count: count, Attributes: codec & 7}, x)
		b := storedRaw(replicate.Header{Base: a.End(), LastDelta: count - min(1, count), Count: count, Attributes: codec & 7}, y)
		got, n, err := merge([]replicate.Batch{a, b}, 1<<20)
		if err != nil || n < 2 {
			return
		}
		want := decoded(t, []replicate.Batch{a, b})
		if diff := cmp.Diff(want, decoded(t, []replicate.Batch{got})); diff != "" {
			t.Fatal(diff)
		}
	})
}
