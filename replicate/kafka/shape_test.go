package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/replicate"
)

// Attribute bits of stored batches.
const (
	bitAppendTime    = 0x08
	bitTransactional = 0x10
	bitControl       = 0x20
	bitHorizon       = 0x40
)

// stored builds a batch as a broker keeps it, gaps and all, with another
// library than ours. The records' offsets lie in [h.Base, h.End()).
func stored(h replicate.Header, records ...replicate.Record) replicate.Batch {
	var payload []byte
	for _, r := range records {
		k := kmsg.Record{TimestampDelta64: r.Timestamp - h.FirstTimestamp, OffsetDelta: int32(r.Offset - h.Base), Key: r.Key, Value: r.Value}
		for _, x := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: string(x.Key), Value: x.Value})
		}
		k.Length = int32(len(k.AppendTo(nil)) - 1) // less the length itself, which takes one byte while it is 0
		payload = k.AppendTo(payload)
	}
	h.Count = int32(len(records))
	return storedRaw(h, packed(payload, h.Codec()))
}

// packed compresses, also what is empty.
func packed(payload []byte, codec int8) []byte {
	if codec == 0 {
		return payload
	}
	out, err := packer(codec)(payload)
	if err != nil {
		panic(err) // every codec of Kafka's is known
	}
	return out
}

// storedRaw builds a batch with any payload.
func storedRaw(h replicate.Header, payload []byte) replicate.Batch {
	b := kmsg.RecordBatch{
		FirstOffset: h.Base, Length: int32(replicate.HeaderSize - 12 + len(payload)), PartitionLeaderEpoch: h.LeaderEpoch, Magic: 2,
		Attributes: h.Attributes, LastOffsetDelta: h.LastDelta, FirstTimestamp: h.FirstTimestamp, MaxTimestamp: h.MaxTimestamp,
		ProducerID: h.ProducerID, ProducerEpoch: h.ProducerEpoch, FirstSequence: h.BaseSequence, NumRecords: h.Count, Records: payload,
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	out, rest, err := replicate.NextBatch(raw)
	if err != nil || len(rest) != 0 {
		panic(fmt.Sprint("a test builds no batch: ", err))
	}
	return out
}

// decoded are the records of batches that show any.
func decoded(t rapid.TB, batches []replicate.Batch) (out []replicate.Record) {
	t.Helper()
	for _, b := range batches {
		if b.Void() {
			continue
		}
		if err := eachRecord(b, func(r replicate.Record) error { out = append(out, r); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// history is a partition at the source and what a consumer sees of it.
type history struct {
	batches []replicate.Batch
	shown   []replicate.Record
	aborts  []aborted
	emptied bool // an abort marker was emptied
}

type aborted struct {
	tx  abortedTx
	end int64 // offset of the marker
}

// someHistory draws a partition with plain and transactional batches of three
// producers, markers, and what the log cleaner leaves of all that. Each
// transaction is ended.
func someHistory(t *rapid.T) (h history) {
	next := rapid.Int64Range(0, 1000).Draw(t, "start")
	type open struct {
		first   int64
		records []replicate.Record
	}
	txs := map[int64]*open{}
	batch := func(pid int64) {
		n := rapid.IntRange(1, 8).Draw(t, "offsets")
		head := replicate.Header{
			Base: next, LastDelta: int32(n - 1), LeaderEpoch: rapid.Int32Range(1, 2).Draw(t, "epoch"), ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
			Attributes: rapid.Int16Range(0, 4).Draw(t, "codec"), FirstTimestamp: rapid.Int64Range(-1, 1<<41).Draw(t, "time"),
		}
		head.MaxTimestamp = head.FirstTimestamp + 500
		if rapid.Bool().Draw(t, "append time") {
			head.Attributes |= bitAppendTime
		}
		if pid > 0 {
			head.Attributes |= bitTransactional
			head.ProducerID, head.ProducerEpoch, head.BaseSequence = pid, 0, 0
		}
		keep := rapid.SampledFrom([]string{"all", "all", "some", "none"}).Draw(t, "cleaned")
		if keep != "all" && head.Attributes&bitAppendTime == 0 && rapid.Bool().Draw(t, "horizon") {
			head.Attributes |= bitHorizon
		}
		var records []replicate.Record
		for i := range n {
			if keep == "none" || keep == "some" && rapid.Bool().Draw(t, "gone") {
				continue
			}
			r := replicate.Record{Offset: next + int64(i), Timestamp: head.FirstTimestamp + rapid.Int64Range(-500, 500).Draw(t, "later"), Key: someBytes(t), Value: someBytes(t)}
			for range rapid.IntRange(0, 2).Draw(t, "headers") {
				r.Headers = append(r.Headers, replicate.RecordHeader{Key: []byte(rapid.StringN(0, 2, -1).Draw(t, "name")), Value: someBytes(t)})
			}
			records = append(records, r)
		}
		h.batches = append(h.batches, stored(head, records...))
		if head.Attributes&bitAppendTime != 0 {
			for i := range records {
				records[i].Timestamp = head.MaxTimestamp
			}
		}
		next += int64(n)
		if pid <= 0 {
			h.shown = append(h.shown, records...)
			return
		}
		if txs[pid] == nil {
			txs[pid] = &open{first: head.Base}
		}
		txs[pid].records = append(txs[pid].records, records...)
	}
	end := func(pid int64) {
		tx, commit := txs[pid], rapid.Bool().Draw(t, "commit")
		delete(txs, pid)
		head := replicate.Header{Base: next, LeaderEpoch: 2, Attributes: bitTransactional | bitControl, ProducerID: pid, BaseSequence: -1}
		kind := byte(0)
		if commit {
			kind = 1
			h.shown = append(h.shown, tx.records...)
		} else {
			h.aborts = append(h.aborts, aborted{abortedTx{ProducerID: pid, FirstOffset: tx.first}, next})
		}
		if rapid.IntRange(0, 5).Draw(t, "emptied") == 0 {
			h.batches = append(h.batches, stored(head))
			h.emptied = h.emptied || !commit
		} else {
			h.batches = append(h.batches, stored(head, replicate.Record{Offset: next, Key: []byte{0, 0, 0, kind}, Value: []byte{0, 0, 0, 0, 0, 7}}))
		}
		next++
	}
	for range rapid.IntRange(1, 12).Draw(t, "batches") {
		if rapid.IntRange(0, 4).Draw(t, "batch gone") == 0 {
			next += rapid.Int64Range(1, 5).Draw(t, "gap")
		}
		pid := rapid.Int64Range(0, 3).Draw(t, "producer")
		if txs[pid] != nil && rapid.Bool().Draw(t, "end") {
			end(pid)
			continue
		}
		batch(pid)
	}
	for pid := range int64(4) {
		if txs[pid] != nil {
			end(pid)
		}
	}
	slices.SortFunc(h.shown, func(a, b replicate.Record) int { return int(a.Offset - b.Offset) })
	return h
}

func someBytes(t *rapid.T) []byte {
	return rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 1, 20)).Draw(t, "bytes")
}

// fetchAt is what a broker answers to a fetch at offset from: whole batches,
// and the aborted transactions that reach that far.
func (h history) fetchAt(from int64) (batches []replicate.Batch, listed []abortedTx) {
	for _, b := range h.batches {
		if b.End() > from {
			batches = append(batches, b)
		}
	}
	for _, a := range h.aborts {
		if a.end >= from {
			listed = append(listed, a.tx)
		}
	}
	// Not every broker lists them in order.
	rand.New(rand.NewPCG(1, uint64(from))).Shuffle(len(listed), func(i, j int) { listed[i], listed[j] = listed[j], listed[i] })
	return batches, listed
}

func TestShape_ShowsWhatAConsumerSeesAtTheSameOffsets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := someHistory(t)
		end := h.batches[len(h.batches)-1].End()
		from := rapid.Int64Range(h.batches[0].Base, end).Draw(t, "from")
		batches, listed := h.fetchAt(from)
		got, err := shape(batches, from, listed)
		if err != nil {
			t.Fatal(err)
		}
		var want []replicate.Record
		for _, r := range h.shown {
			if r.Offset >= from {
				want = append(want, r)
			}
		}
		if diff := cmp.Diff(want, decoded(t, got)); diff != "" {
			t.Fatal(diff)
		}
		if !h.emptied {
			if diff := cmp.Diff(consumed(t, batches, from, listed), want); diff != "" {
				t.Fatal("a consumer sees other records:\n", diff)
			}
		}
		covered(t, batches, got, from)
		if again, err := shape(batches, from, listed); err != nil || cmp.Diff(headers(got), headers(again)) != "" {
			t.Fatal("the same answer is shaped in two ways", err)
		}
		// Who starts at any boundary cuts the same batches from there on.
		if len(got) > 0 {
			at := rapid.IntRange(0, len(got)-1).Draw(t, "again at")
			batches, listed := h.fetchAt(got[at].Base)
			again, err := shape(batches, got[at].Base, listed)
			if diff := cmp.Diff(headers(got[at:]), headers(again)); err != nil || diff != "" {
				t.Fatalf("from %d on it is shaped in another way: %v\n%s", got[at].Base, err, diff)
			}
		}
	})
}

// consumed is what a consumer reads, in our form.
func consumed(t rapid.TB, batches []replicate.Batch, from int64, listed []abortedTx) (out []replicate.Record) {
	t.Helper()
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.HighWatermark, rp.AbortedTransactions = 1<<40, listed
	for _, b := range batches {
		rp.RecordBatches = append(rp.RecordBatches, b.Raw...)
	}
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: from, IsolationLevel: kgo.ReadCommitted()}, &rp, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		t.Fatal(fp.Err)
	}
	for _, r := range fp.Records {
		x := replicate.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			x.Headers = append(x.Headers, replicate.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		out = append(out, x)
	}
	return out
}

func headers(batches []replicate.Batch) (out []replicate.Header) {
	for _, b := range batches {
		out = append(out, b.Header)
	}
	return out
}

// covered fails unless got covers each offset of the source's batches once,
// but for gaps between two records of one batch, and is what it says.
func covered(t rapid.TB, batches, got []replicate.Batch, from int64) {
	t.Helper()
	stays := map[*byte]bool{}
	for _, b := range batches {
		base := max(b.Base, from)
		at := base
		var parts []replicate.Batch
		for _, g := range got {
			if lo, hi := max(g.Base, base), min(g.End(), b.End()); lo < hi {
				part := g
				part.Base, part.LastDelta = lo, int32(hi-lo-1)
				parts = append(parts, part)
			}
		}
		for i, p := range parts {
			if p.Base != at && (i == 0 || p.Void() || parts[i-1].Void()) {
				t.Fatalf("offsets %d to %d of the batch at %d are skipped", at, p.Base, b.Base)
			}
			at = p.End()
		}
		if base < b.End() && at != b.End() {
			t.Fatalf("the batch at %d ends at %d, shaped at %d", b.Base, b.End(), at)
		}
		stays[&b.Raw[0]] = b.Contiguous()
	}
	for i, g := range got {
		if i > 0 && g.Base < got[i-1].End() || g.Base < from {
			t.Fatalf("the batch at %d lies below %d", g.Base, max(from, got[max(i-1, 0)].End()))
		}
		if g.Void() {
			if g.Raw != nil || g.Header != (replicate.Header{Base: g.Base, LastDelta: g.LastDelta, LeaderEpoch: g.LeaderEpoch}) {
				t.Fatalf("void batch %+v", g)
			}
			if i > 0 && got[i-1].Void() && got[i-1].End() == g.Base && got[i-1].LeaderEpoch == g.LeaderEpoch {
				t.Fatalf("void batches at %d and %d are not joined", got[i-1].Base, g.Base)
			}
			continue
		}
		again, rest, err := replicate.NextBatch(g.Raw)
		if err != nil || len(rest) != 0 || again.Header != g.Header || !g.Contiguous() {
			t.Fatalf("batch %+v is stored as %+v: %v", g.Header, again.Header, err)
		}
		if contiguous, source := stays[&g.Raw[0]]; source && !contiguous {
			t.Fatalf("the batch at %d has gaps and stayed", g.Base)
		}
	}
}

func TestShape_LeavesAWholeBatchAlone(t *testing.T) {
	plain := stored(replicate.Header{Base: 5, LastDelta: 1, LeaderEpoch: 4, ProducerID: -1, Attributes: 4}, replicate.Record{Offset: 5}, replicate.Record{Offset: 6})
	committed := stored(replicate.Header{Base: 7, ProducerID: 9, Attributes: bitTransactional}, replicate.Record{Offset: 7})
	got, err := shape([]replicate.Batch{plain, committed}, 5, nil)
	if err != nil || len(got) != 2 || &got[0].Raw[0] != &plain.Raw[0] || &got[1].Raw[0] != &committed.Raw[0] {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestShape_CutsAsWritten(t *testing.T) {
	rec := func(o int64) replicate.Record {
		return replicate.Record{Offset: o, Timestamp: 1000 + o, Value: []byte("v")}
	}
	gapped := func(attributes int16) replicate.Batch {
		return stored(replicate.Header{Base: 10, LastDelta: 9, LeaderEpoch: 3, Attributes: attributes, FirstTimestamp: 1000, MaxTimestamp: 2000, ProducerID: -1}, rec(12), rec(13), rec(16), rec(18))
	}
	tx := func(base, pid int64) replicate.Batch {
		return stored(replicate.Header{Base: base, LastDelta: 1, LeaderEpoch: 3, Attributes: bitTransactional, ProducerID: pid}, rec(base), rec(base+1))
	}
	mark := func(base, pid int64, kind byte) replicate.Batch {
		return stored(replicate.Header{Base: base, LeaderEpoch: 3, Attributes: bitTransactional | bitControl, ProducerID: pid}, replicate.Record{Offset: base, Key: []byte{0, 0, 0, kind}, Value: make([]byte, 6)})
	}
	shaped := func(what, want string, from int64, aborted []abortedTx, batches ...replicate.Batch) {
		t.Helper()
		got, err := shape(batches, from, aborted)
		var words []string
		for _, b := range got {
			word := fmt.Sprintf("%d-%d", b.Base, b.End())
			if b.Void() {
				word = "void " + word
			}
			words = append(words, word)
		}
		if err != nil {
			words = append(words, err.Error())
		}
		if is := strings.Join(words, ", "); is != want {
			t.Errorf("%s: got %s; want %s", what, is, want)
		}
	}
	shaped("gaps", "void 10-12, 12-14, 16-17, 18-19, void 19-20", 10, nil, gapped(0))
	shaped("from within the first gap", "void 11-12, 12-14, 16-17, 18-19, void 19-20", 11, nil, gapped(1))
	shaped("from within a run", "13-14, 16-17, 18-19, void 19-20", 13, nil, gapped(2))
	shaped("from within a gap", "void 14-16, 16-17, 18-19, void 19-20", 14, nil, gapped(3))
	shaped("from behind the last record", "void 19-20", 19, nil, gapped(4))
	shaped("all below", "", 20, nil, gapped(4))
	shaped("a whole batch from its second record", "21-22", 21, nil, tx(20, 1))
	shaped("aborted", "void 20-23", 20, []abortedTx{{ProducerID: 1, FirstOffset: 20}}, tx(20, 1), mark(22, 1, 0))
	shaped("aborted, of which half was mirrored", "void 21-23", 21, []abortedTx{{ProducerID: 1, FirstOffset: 4}}, tx(20, 1), mark(22, 1, 0))
	shaped("committed, then aborted", "20-22, void 22-26", 20, []abortedTx{{ProducerID: 1, FirstOffset: 23}}, tx(20, 1), mark(22, 1, 1), tx(23, 1), mark(25, 1, 0))
	shaped("aborted, then committed", "void 20-23, 23-25, void 25-26", 20, []abortedTx{{ProducerID: 1, FirstOffset: 20}}, tx(20, 1), mark(22, 1, 0), tx(23, 1), mark(25, 1, 1))
	shaped("two producers", "void 20-22, 22-24, void 24-26", 20, []abortedTx{{ProducerID: 1, FirstOffset: 20}}, tx(20, 1), tx(22, 2), mark(24, 2, 1), mark(25, 1, 0))
	noTx := stored(replicate.Header{Base: 22, LastDelta: 1, ProducerID: 1}, rec(22), rec(23))
	shaped("what is in no transaction stays", "void 20-22, 22-24", 20, []abortedTx{{ProducerID: 1, FirstOffset: 20}}, tx(20, 1), noTx)
	shaped("another kind of marker ends nothing", "void 20-25", 20, []abortedTx{{ProducerID: 1, FirstOffset: 20}}, tx(20, 1), mark(22, 1, 5), tx(23, 1))
	shaped("aborted and committed at once", "void 20-22, the broker lists the transaction of producer 1 from offset 20 on as aborted, but at 22 it is committed", 20, []abortedTx{{ProducerID: 1, FirstOffset: 20}}, tx(20, 1), mark(22, 1, 1))
	shaped("not in order", "20-22, batch at 10 begins below the end of the one before it, 22", 10, nil, tx(20, 1), gapped(0))
	twice := stored(replicate.Header{Base: 10, LastDelta: 4}, rec(11), rec(11))
	shaped("an offset twice", "20-22, batch at 30: a record at 31 follows one at 31", 10, nil, tx(20, 1), rebased(twice, 30))
	shaped("a cut off record", "20-22, record 0 of the batch at 30: record is cut off", 10, nil, tx(20, 1), storedRaw(replicate.Header{Base: 30, LastDelta: 4, Count: 1}, []byte{20}))
}

func rebased(b replicate.Batch, base int64) replicate.Batch {
	raw := bytes.Clone(b.Raw)
	binary.BigEndian.PutUint64(raw, uint64(base))
	out, _, err := replicate.NextBatch(raw)
	if err != nil {
		panic(err) // the base lies outside the checksum
	}
	return out
}

func TestShape_VoidsOfTwoLeaderEpochsStayApart(t *testing.T) {
	at := func(base int64, epoch int32) replicate.Batch {
		return stored(replicate.Header{Base: base, LastDelta: 4, LeaderEpoch: epoch})
	}
	got, err := shape([]replicate.Batch{at(0, 1), at(5, 1), at(10, 2), at(20, 2)}, 0, nil)
	want := []replicate.Batch{replicate.VoidBatch(0, 10, 1), replicate.VoidBatch(10, 15, 2), replicate.VoidBatch(20, 25, 2)}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	long := func(base int64) replicate.Batch {
		return stored(replicate.Header{Base: base, LastDelta: 1<<31 - 1, LeaderEpoch: 1})
	}
	got, err = shape([]replicate.Batch{long(0), long(1 << 31)}, 0, nil)
	if err != nil || len(got) != 2 || got[0].End() != 1<<31 || got[1].End() != 1<<32 {
		t.Errorf("two of the longest: %+v, %v", got, err)
	}
}

func TestShape_MoreBatchesThanOneAnswerMayGiveComeWithTheNext(t *testing.T) {
	const n = shapedMost + shapedMost/2
	h := replicate.Header{Base: 7, LastDelta: 2 * n, LeaderEpoch: 1, Attributes: 4}
	var want []replicate.Record
	for i := range int64(n) {
		want = append(want, replicate.Record{Offset: 8 + 2*i, Value: []byte("v")})
	}
	all := []replicate.Batch{stored(h, want...), stored(replicate.Header{Base: 2*n + 8}, replicate.Record{Offset: 2*n + 8})}
	var got []replicate.Record
	next, answers := int64(7), 0
	for end := all[1].End(); next < end; answers++ {
		out, err := shape(all, next, nil)
		if err != nil || len(out) == 0 || len(out) > shapedMost+1 || out[0].Base != next {
			t.Fatalf("from %d: %d batches, %v", next, len(out), err)
		}
		got, next = append(got, decoded(t, out)...), out[len(out)-1].End()
	}
	want = append(want, replicate.Record{Offset: 2*n + 8})
	if !reflect.DeepEqual(want, got) || answers != 2 { // cmp takes a minute for so many
		t.Errorf("%d answers, %d records, want %d", answers, len(got), len(want))
	}
}

func TestUnpack_ABombIsAnError(t *testing.T) {
	const most = 1 << 20
	zeros := make([]byte, most+1)
	for _, codec := range []int8{1, 2, 3, 4} {
		if got, err := unpackWithin(most, packed(zeros, codec), codec); !errors.Is(err, errUnpacked) {
			t.Errorf("codec %d: %d bytes, %v", codec, len(got), err)
		}
		if got, err := unpackWithin(most, packed(zeros[:most], codec), codec); err != nil || len(got) != most {
			t.Errorf("codec %d: what is allowed gives %d bytes, %v", codec, len(got), err)
		}
	}
	// One zstd decoder serves all; it holds the highest bound itself.
	if got, err := unpack(packed(make([]byte, unpackedMost+1), 4), 4); !errors.Is(err, errUnpacked) {
		t.Errorf("zstd: %d bytes, %v", len(got), err)
	}
	// Java's frame: each block tells its size, no block the sum.
	block := packed(zeros[:most/2], 2)
	frame := slices.Concat(xerial, []byte{0, 0, 0, 1, 0, 0, 0, 1})
	for i := range 3 {
		frame = append(binary.BigEndian.AppendUint32(frame, uint32(len(block))), block...)
		got, err := unpackWithin(most, frame, 2)
		if ok := err == nil; ok != (i < 2) || ok && len(got) != (i+1)*most/2 || !ok && !errors.Is(err, errUnpacked) {
			t.Errorf("%d blocks: %d bytes, %v", i+1, len(got), err)
		}
	}
	for n := xerialHeader + 1; n < xerialHeader+4+len(block); n += 1 + n/2 {
		if _, err := unpack(frame[:n], 2); err == nil {
			t.Errorf("a frame cut off at %d is unpacked", n)
		}
	}
	if _, err := unpack(nil, 5); err == nil {
		t.Error("an unknown codec is unpacked")
	}
}

// FuzzShape gives shape anything that parses as batches. What comes out was in
// the input, once and in order.
func FuzzShape(f *testing.F) {
	rec := func(o int64) replicate.Record { return replicate.Record{Offset: o, Key: []byte("k"), Timestamp: 3} }
	for codec := range int16(5) {
		b := stored(replicate.Header{Base: 3, LastDelta: 6, Attributes: codec}, rec(4), rec(5), rec(8))
		c := stored(replicate.Header{Base: 10, LastDelta: 1, Attributes: codec | bitTransactional, ProducerID: 2}, rec(10), rec(11))
		m := stored(replicate.Header{Base: 12, Attributes: bitControl | bitTransactional, ProducerID: 2}, replicate.Record{Offset: 12, Key: make([]byte, 4), Value: make([]byte, 6)})
		f.Add(slices.Concat(b.Raw, c.Raw, m.Raw), int64(4), int64(2), int64(10))
	}
	f.Fuzz(func(t *testing.T, raw []byte, from, pid, first int64) {
		// A checksum that nobody can guess would end every attempt.
		raw = bytes.Clone(raw)
		for at := raw; len(at) >= replicate.HeaderSize; {
			size := int64(int32(binary.BigEndian.Uint32(at[8:]))) + 12
			if size < replicate.HeaderSize || size > int64(len(at)) {
				break
			}
			binary.BigEndian.PutUint32(at[17:], crc32.Checksum(at[21:size], crc32.MakeTable(crc32.Castagnoli)))
			at = at[size:]
		}
		batches, _ := replicate.ParseBatches(raw)
		from = max(from, 0)
		got, err := shape(batches, from, []abortedTx{{ProducerID: pid, FirstOffset: first}})
		in := map[string]bool{}
		for _, b := range batches {
			_ = eachRecord(b, func(r replicate.Record) error { in[string(r.AppendCanonical(nil, true))] = true; return nil })
		}
		next := from
		whole := map[*byte]bool{}
		for _, b := range batches {
			whole[&b.Raw[0]] = true
		}
		for _, b := range got {
			if b.Base < next || b.End() <= b.Base {
				t.Fatalf("batch %+v behind %d", b.Header, next)
			}
			next = b.End()
			if b.Void() || whole[&b.Raw[0]] {
				continue
			}
			if again, _, err := replicate.NextBatch(b.Raw); err != nil || again.Header != b.Header {
				t.Fatalf("batch %+v is stored as %+v: %v", b.Header, again.Header, err)
			}
			if err := eachRecord(b, func(r replicate.Record) error {
				if !in[string(r.AppendCanonical(nil, true))] {
					t.Fatalf("record %+v was not in the input", r)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err == nil && len(batches) > 0 && len(got) < shapedMost {
			if end := batches[len(batches)-1].End(); end > next {
				t.Fatalf("the source ends at %d, shaped at %d", end, next)
			}
		}
	})
}
