package replicate

import (
	"testing"

	"pgregory.net/rapid"
)

func testRun(start int64) Run {
	return Run{Link: Link{Source: "a", Target: "b", Epoch: 3}, Topic: TopicID{1, 2}, Partition: 4, Start: start}
}

func stored(r Run, base int64, n int32) Header {
	s := r.Stamp(base)
	return Header{Base: base, LastDelta: n - 1, Count: n, ProducerID: s.ProducerID, ProducerEpoch: s.Epoch, BaseSequence: s.Sequence}
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
		w, ok := link.Writer(stored(later, base, 1))
		if !ok || w != later {
			t.Fatalf("found %+v %t, want %+v", w, ok, later)
		}
	})
}

func TestRun_NobodyElsesBatchIsTakenForOurs(t *testing.T) {
	link := testRun(100)
	foreign := func(what string, h Header) {
		t.Helper()
		if w, ok := link.Writer(h); ok {
			t.Errorf("%s is taken for %+v", what, w)
		}
	}
	change := func(f func(*Run)) Header { r := testRun(100); f(&r); return stored(r, 150, 1) }
	foreign("a producer", Header{Base: 150, ProducerID: 17, BaseSequence: 50})
	foreign("no producer id", Header{Base: 150, ProducerID: -1, BaseSequence: -1})
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
	foreign("a marker", marker)
}
