package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// rec is a record as a test writes it.
type rec struct {
	offset, time int64
	key, value   []byte
	headers      []kgo.RecordHeader
}

// onDisk encodes records as one batch, with kmsg: not with the mirror's own code.
func onDisk(attributes int16, records ...rec) []byte {
	base, first := records[0].offset, records[0].time
	b := kmsg.RecordBatch{FirstOffset: base, Magic: 2, Attributes: attributes, FirstTimestamp: first, MaxTimestamp: first, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(records))}
	for _, r := range records {
		k := kmsg.Record{TimestampDelta64: r.time - first, OffsetDelta: int32(r.offset - base), Key: r.key, Value: r.value}
		for _, h := range r.headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		body := k.AppendTo(nil)[1:] // without its length, which is 0 and one byte
		b.Records = append(binary.AppendVarint(b.Records, int64(len(body))), body...)
		b.LastOffsetDelta = int32(r.offset - base)
		b.MaxTimestamp = max(b.MaxTimestamp, r.time)
	}
	b.Length = int32(49 + len(b.Records))
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// shelf is a cursor over batches that need no cluster.
func shelf(t rapid.TB, end replicate.End, to int64, batches ...[]byte) *cursor {
	t.Helper()
	s := &side{end: end, isolation: kgo.ReadUncommitted(), decoder: kgo.DefaultDecompressor(), read: &meter{}}
	c := s.cursor(topology.Partition{Topic: "t"}, replicate.TopicID{})
	c.seek(0, to)
	units, err := c.units(&kmsg.FetchResponseTopicPartition{RecordBatches: slices.Concat(batches...)})
	if err != nil {
		t.Fatal(err)
	}
	c.queue, c.fetched = units, to
	return c
}

// judged compares two shelves.
func judged(t rapid.TB, a, b *cursor, compacted, byBatch bool) replicate.Statement {
	t.Helper()
	j := replicate.NewJudge(compacted, true, nil)
	v := &verifier{}
	s := replicate.Statement{Through: b.to}
	if err := v.piece(context.Background(), a, b, j, byBatch); err != nil {
		t.Fatal(err)
	}
	j.Verdict(&s)
	return s
}

// content draws records at rising offsets, some of them missing.
func content(t *rapid.T) []rec {
	maybe := func(name string) []byte {
		if rapid.Bool().Draw(t, name+" is null") {
			return nil
		}
		return rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, name)
	}
	var out []rec
	at := int64(0)
	for range rapid.IntRange(1, 12).Draw(t, "records") {
		at += rapid.SampledFrom([]int64{1, 1, 1, 2, 7}).Draw(t, "step")
		r := rec{offset: at, time: 1_700_000_000_000 + rapid.Int64Range(-5, 5).Draw(t, "time"), key: maybe("key"), value: maybe("value")}
		for range rapid.IntRange(0, 2).Draw(t, "headers") {
			r.headers = append(r.headers, kgo.RecordHeader{Key: string(rapid.SliceOfN(rapid.ByteRange('a', 'c'), 0, 2).Draw(t, "header")), Value: maybe("header value")})
		}
		out = append(out, r)
	}
	return out
}

// batched stores records in batches of any size.
func batched(t *rapid.T, of []rec) (out [][]byte) {
	for len(of) > 0 {
		n := rapid.IntRange(1, len(of)).Draw(t, "batch")
		out = append(out, onDisk(0, of[:n]...))
		of = of[n:]
	}
	return out
}

// hurt changes one byte of one field of a record, or tells null from empty.
func hurt(t *rapid.T, r rec) (rec, replicate.Aspect) {
	flip := func(b []byte) []byte {
		switch {
		case b == nil:
			return []byte{}
		case len(b) == 0:
			return nil
		}
		b = slices.Clone(b)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		return b
	}
	aspect := rapid.SampledFrom([]replicate.Aspect{replicate.Timestamp, replicate.Key, replicate.Value, replicate.Headers}).Draw(t, "aspect")
	switch aspect {
	case replicate.Timestamp:
		r.time += rapid.SampledFrom([]int64{-1, 1, 3_600_000}).Draw(t, "skew")
	case replicate.Key:
		r.key = flip(r.key)
	case replicate.Value:
		r.value = flip(r.value)
	default:
		r.headers = slices.Clone(r.headers)
		switch n := len(r.headers); {
		case n == 0:
			r.headers = []kgo.RecordHeader{{}}
		case rapid.Bool().Draw(t, "drop"):
			r.headers = r.headers[:n-1]
		default:
			i := rapid.IntRange(0, n-1).Draw(t, "which")
			if rapid.Bool().Draw(t, "rename") {
				r.headers[i].Key += "x"
			} else {
				r.headers[i].Value = flip(r.headers[i].Value)
			}
		}
	}
	return r, aspect
}

func TestVerify_SameRecordsInOtherBatchesAreIdentical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := content(t)
		to := all[len(all)-1].offset + 1
		byBatch := rapid.Bool().Draw(t, "by batch")
		x := judged(t, shelf(t, replicate.AtSource, to, batched(t, all)...), shelf(t, replicate.AtTarget, to, batched(t, all)...), false, byBatch)
		y := judged(t, shelf(t, replicate.AtSource, to, batched(t, all)...), shelf(t, replicate.AtTarget, to, batched(t, all)...), false, false)
		if x.Verdict != replicate.Identical || x.Records != int64(len(all)) {
			t.Fatalf("%+v", x)
		}
		if !byBatch && x.Digest != y.Digest {
			t.Fatalf("the digest of the same records is %s and %s", x.Digest, y.Digest)
		}
	})
}

func TestVerify_OneChangedByteIsFoundAtItsOffset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := content(t)
		to := all[len(all)-1].offset + 1
		i := rapid.IntRange(0, len(all)-1).Draw(t, "record")
		bad := slices.Clone(all)
		var aspect replicate.Aspect
		bad[i], aspect = hurt(t, all[i])
		source, target := batched(t, all), batched(t, bad)
		s := judged(t, shelf(t, replicate.AtSource, to, source...), shelf(t, replicate.AtTarget, to, target...), false, rapid.Bool().Draw(t, "by batch"))
		if s.Verdict != replicate.Differs || s.Differing != 1 || len(s.Differences) != 1 {
			t.Fatalf("%s of record %d was changed: %+v", aspect, all[i].offset, s)
		}
		if d := s.Differences[0]; d.From != all[i].offset || d.To != d.From+1 || !slices.Equal(d.Aspects, []replicate.Aspect{aspect}) {
			t.Fatalf("%s of record %d was changed, and this was found: %+v", aspect, all[i].offset, d)
		}
	})
}

func TestVerify_MissingAndExtraRecordsAreFoundWithTheirRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := content(t)
		to := all[len(all)-1].offset + 1
		from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
		n := rapid.IntRange(1, len(all)-from).Draw(t, "how many")
		less := slices.Delete(slices.Clone(all), from, from+n)
		a, b, want := all, less, replicate.Missing
		if rapid.Bool().Draw(t, "at the target") {
			a, b, want = less, all, replicate.Extra
		}
		s := judged(t, shelf(t, replicate.AtSource, to, batched(t, a)...), shelf(t, replicate.AtTarget, to, batched(t, b)...), false, rapid.Bool().Draw(t, "by batch"))
		if s.Differing != int64(n) || len(s.Differences) != 1 {
			t.Fatalf("%+v", s)
		}
		if d := s.Differences[0]; d.From != all[from].offset || d.To != all[from+n-1].offset+1 || d.Aspects[0] != want {
			t.Fatalf("want %s [%d,%d), got %+v", want, all[from].offset, all[from+n-1].offset+1, d)
		}
	})
}

// The cleaner of a log keeps the newest record of each key, and tombstones for
// a while. Whatever it took at one end only is no difference; the newest value
// of a key is.
func TestVerify_WhatALogCleanerTookIsNoDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []rec
		newest := map[string]int{}
		for i := range rapid.IntRange(2, 30).Draw(t, "records") {
			r := rec{offset: int64(i), time: 1_700_000_000_000, key: []byte{rapid.ByteRange('a', 'd').Draw(t, "key")}, value: []byte{byte(i)}}
			if rapid.IntRange(0, 4).Draw(t, "tombstone") == 0 {
				r.value = nil
			}
			newest[string(r.key)] = i
			all = append(all, r)
		}
		clean := func(name string) (out []rec) {
			for i, r := range all {
				old := newest[string(r.key)] != i
				if !old || rapid.Bool().Draw(t, name) {
					out = append(out, r)
				}
			}
			return out
		}
		a, b := clean("source keeps"), clean("target keeps")
		to := int64(len(all))
		byBatch := rapid.Bool().Draw(t, "by batch")
		s := judged(t, shelf(t, replicate.AtSource, to, batched(t, a)...), shelf(t, replicate.AtTarget, to, batched(t, b)...), true, byBatch)
		if s.Verdict != replicate.Identical {
			t.Fatalf("%+v", s)
		}
		var values []int // newest values: what nobody may lose
		for i, r := range b {
			if r.value != nil && newest[string(r.key)] == int(r.offset) {
				values = append(values, i)
			}
		}
		if len(values) == 0 || len(b) == 1 {
			return
		}
		i := rapid.SampledFrom(values).Draw(t, "lost")
		lost := b[i]
		s = judged(t, shelf(t, replicate.AtSource, to, batched(t, a)...), shelf(t, replicate.AtTarget, to, batched(t, slices.Delete(slices.Clone(b), i, i+1))...), true, byBatch)
		if s.Verdict != replicate.Differs || s.Differences[0].To != lost.offset+1 {
			t.Fatalf("the newest value of %q at %d was lost: %+v", lost.key, lost.offset, s)
		}
	})
}

func TestVerify_ComparesTheTimeOfTheProducerAlone(t *testing.T) {
	const brokerTime = 8
	one, other := rec{offset: 3, time: 1000, value: []byte("v")}, rec{offset: 3, time: 2000, value: []byte("v")}
	for _, c := range []struct {
		name string
		a, b []byte
		want replicate.Verdict
	}{
		{"both are the producer's", onDisk(0, one), onDisk(0, other), replicate.Differs},
		{"both are the broker's", onDisk(brokerTime, one), onDisk(brokerTime, other), replicate.Identical},
		{"the target's broker lost the producer's", onDisk(0, one), onDisk(brokerTime, other), replicate.Differs},
		{"the source's was kept as the producer's", onDisk(brokerTime, one), onDisk(0, one), replicate.Identical},
	} {
		for _, byBatch := range []bool{false, true} {
			if s := judged(t, shelf(t, replicate.AtSource, 4, c.a), shelf(t, replicate.AtTarget, 4, c.b), false, byBatch); s.Verdict != c.want {
				t.Errorf("%s: %+v", c.name, s)
			}
		}
	}
}

func TestVerify_CorruptBatchIsNotCompared(t *testing.T) {
	good := onDisk(0, rec{offset: 0, time: 1, value: []byte("value")})
	bad := slices.Clone(good)
	bad[len(bad)-2] ^= 1
	a, b := shelf(t, replicate.AtSource, 1, good), shelf(t, replicate.AtTarget, 1, bad)
	if err := (&verifier{}).piece(t.Context(), a, b, replicate.NewJudge(false, true, nil), true); err == nil {
		t.Fatal("a batch with a wrong checksum was taken for a record")
	}
}

// verified runs a whole comparison of two fake clusters.
func (r *rig) verified(change func(*VerifyConfig)) (map[topology.Partition]replicate.Statement, VerifyReport) {
	r.t.Helper()
	out := map[topology.Partition]replicate.Statement{}
	conf := VerifyConfig{Link: r.link, Source: r.a, Target: r.b, Node: "b1", Each: func(s replicate.Statement) error { out[s.Partition] = s; return nil }}
	if change != nil {
		change(&conf)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rep, err := Verify(ctx, conf)
	if err != nil {
		r.t.Fatal(err)
	}
	return out, rep
}

func TestVerify_AMirroredTopicIsIdenticalThroughItsEnd(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 3, nil)
	r.produce(r.a, "events", 0, 500, 40)
	r.produce(r.a, "events", 1, 30, 1)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	for name, change := range map[string]func(*VerifyConfig){
		"by record": nil,
		"by batch":  func(c *VerifyConfig) { c.Batches = true },
		"a sample":  func(c *VerifyConfig) { c.Sample = 0.01 },
		"slowly":    func(c *VerifyConfig) { c.Rate = 1 << 20 },
	} {
		got, rep := r.verified(change)
		if len(got) != 3 || len(rep.Failed) > 0 || rep.Identical != 2 || rep.Nothing != 1 {
			t.Fatalf("%s: %+v %+v", name, got, rep)
		}
		s := got[topology.Partition{Topic: "events", Partition: 0}]
		if s.Verdict != replicate.Identical || s.From != 0 || s.Through != 500 || s.Records != 500 || s.Digest == "" || s.At.IsZero() {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestVerify_GoesOnFromTheStatementBefore(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.produce(r.a, "events", 0, 300, 40)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	first, _ := r.verified(nil)
	r.produce(r.a, "events", 0, 50, 10)
	r.caughtUp(m, "events")
	got, _ := r.verified(func(c *VerifyConfig) {
		c.Prior = func(p topology.Partition) (replicate.Statement, bool) { s, ok := first[p]; return s, ok }
	})
	s := got[topology.Partition{Topic: "events"}]
	if s.Verdict != replicate.Identical || s.From != 0 || s.Through != 350 || s.Offsets != 50 || s.Records != 50 || s.Prior == nil || s.Prior.Through != 300 {
		t.Fatalf("%+v", s)
	}
}

func TestVerify_NamesWhatItCouldNotCompare(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "here", 2, nil)
	r.topic(r.fakeB, "there", 1, nil)
	got, rep := r.verified(nil)
	if len(got) != 0 || len(rep.Failed) != 3 || rep.Failed[0].Topic != "here" || rep.Failed[2].Topic != "there" {
		t.Fatalf("%+v %+v", got, rep)
	}
}

func TestVerify_EndsWithItsContext(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeB, "events", 1, nil)
	r.produce(r.a, "events", 0, 400, 40)
	r.produce(r.b, "events", 0, 400, 40)
	ctx, cancel := context.WithCancel(context.Background())
	conf := VerifyConfig{Link: r.link, Source: r.a, Target: r.b, Rate: 1, Each: func(replicate.Statement) error { return nil }}
	conf.Progress = func(VerifyProgress) { cancel() }
	if _, err := Verify(ctx, conf); err == nil {
		t.Fatal("it went on")
	}
}

// BenchmarkVerify is the cost of comparing one mebibyte of stored bytes that
// both ends hold in the same batches of 100 records.
func BenchmarkVerify(b *testing.B) {
	var all []rec
	for i := range 100 {
		all = append(all, rec{offset: int64(i), time: 1_700_000_000_000, key: fmt.Appendf(nil, "key-%d", i), value: bytes.Repeat([]byte("{\"event\": 1}"), 83)})
	}
	raw := onDisk(0, all...)
	for name, byBatch := range map[string]bool{"by-batch": true, "by-record": false} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			j, v := replicate.NewJudge(false, true, nil), &verifier{}
			for range b.N {
				x, y := shelf(b, replicate.AtSource, 100, raw), shelf(b, replicate.AtTarget, 100, raw)
				if err := v.piece(context.Background(), x, y, j, byBatch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
