package replicate

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

func testRun(start int64) Run {
	return Run{Link: Link{Source: "a", Target: "b", Epoch: 3}, Topic: TopicID{1, 2}, Partition: 4, Start: start}
}

func stored(r Run, base int64, n int32) Batch {
	s := r.Stamp(base)
	return Batch{Header: Header{Base: base, LastDelta: n - 1, Count: n, ProducerID: s.ProducerID, ProducerEpoch: s.Epoch, BaseSequence: s.Sequence}, Raw: []byte{}}
}

// markerAt is a hole marker as a broker stores it.
func markerAt(r Run, o int64, g Generation) Batch { return controlBatch(o, r.Mark(o, g)) }

func controlBatch(o int64, m Mark) Batch {
	h := Header{Base: o, Count: 1, Attributes: attrControl | attrTransactional, ProducerID: m.ProducerID, ProducerEpoch: m.Epoch, BaseSequence: -1}
	value := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(m.CoordinatorEpoch))
	return testBatch(h, testRecords(h, Record{Offset: o, Key: []byte{0, 0, 0, 0}, Value: value}))
}

func TestRun_StampStaysInsideTheIdsThatNoBrokerAllocates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1<<50).Draw(t, "start")
		base := start + rapid.Int64Range(0, 1<<40).Draw(t, "ahead")
		r := testRun(start)
		s := r.Stamp(base)
		if s.ProducerID < 1<<62 || s.Epoch < 0 || s.Epoch == 32767 || s.Sequence < 0 {
			t.Fatalf("%+v", s)
		}
		if r.Stamp(start).Sequence != 0 {
			t.Fatal("a run begins with sequence 0")
		}
	})
}

func TestRun_WriterIsFoundFromTheHeaderAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		link := testRun(rapid.Int64Range(0, 1<<40).Draw(t, "link"))
		later := link
		later.Start += rapid.SampledFrom([]int64{0, 1, 16383, 16384, 1 << 33}).Draw(t, "later")
		later.Link.Epoch -= rapid.Uint64Range(0, 3).Draw(t, "epochs back")
		base := later.Start + rapid.SampledFrom([]int64{0, 7, 1<<31 - 1, 1 << 31, 5 << 31}).Draw(t, "ahead")
		w, kind := link.Author(stored(later, base, 1))
		if kind != Data || w != later {
			t.Fatalf("found %+v %d, want %+v", w, kind, later)
		}
		seed := stored(later, base, 1)
		seed.ProducerID = later.Seed(base).ProducerID
		if w, kind := link.Author(seed); kind != Seeded || w != later {
			t.Fatalf("found %+v %d, want filler of %+v", w, kind, later)
		}
		if _, kind := link.Author(markerAt(later, base, rapid.Map(rapid.Int32Range(1, 1<<31-2), func(n int32) Generation { return Generation(n) }).Draw(t, "generation"))); kind != Fill {
			t.Fatalf("a hole marker is %d", kind)
		}
	})
}

func TestRun_NobodyElsesBatchIsTakenForOurs(t *testing.T) {
	link := testRun(100)
	foreign := func(what string, b Batch) {
		t.Helper()
		if w, kind := link.Author(b); kind != Foreign {
			t.Errorf("%s is taken for %+v", what, w)
		}
	}
	change := func(f func(*Run)) Batch { r := testRun(100); f(&r); return stored(r, 150, 1) }
	foreign("a producer", Batch{Header: Header{Base: 150, ProducerID: 17, BaseSequence: 50}})
	foreign("no producer id", Batch{Header: Header{Base: 150, ProducerID: -1, BaseSequence: -1}})
	foreign("the other direction", change(func(r *Run) { r.Link.Source, r.Link.Target = "b", "a" }))
	foreign("a later epoch", change(func(r *Run) { r.Link.Epoch++ }))
	foreign("another partition", change(func(r *Run) { r.Partition++ }))
	foreign("an earlier life of the topic", change(func(r *Run) { r.Topic = TopicID{9} }))
	foreign("a run that began before the link", change(func(r *Run) { r.Start = 99 }))
	late := stored(link, 150, 1)
	late.Base++ // stored one too far
	foreign("a batch at another offset than its own", late)
	marker := stored(link, 150, 1)
	marker.Attributes |= attrControl
	foreign("a marker with a data id", marker)
	foreign("a marker that stands one too far", controlBatch(151, link.Mark(150, 1)))
	for _, o := range []int64{150, 4095} { // 4095: there the highest fill epoch is the fence's
		fence := controlBatch(o, Mark{link.FillProducer(o), FenceEpoch, FenceCoordinator})
		foreign("a fence", fence)
		if !fence.IsFence() {
			t.Errorf("the fence at %d is not known as one", o)
		}
	}
	if m := link.Mark(4095, 8); m.Epoch != FenceEpoch || markerAt(link, 4095, 8).IsFence() {
		t.Error("the first marker of a window's last offset is taken for a fence")
	}
}
