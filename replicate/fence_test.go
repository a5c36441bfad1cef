package replicate

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// ownData, filler and marker are stored batches of a run; fenceAt is one of a fence.
func ownData(r Run, base int64, n int32) Batch { return stored(r, base, n) }

func filler(r Run, base int64, n int32) Batch {
	b := ownData(r, base, n)
	b.ProducerID = r.SeedProducer(r.Start)
	return b
}

func control(base int64, m Mark) Batch {
	record := []byte{0, 0, 0, 8, 0, 0, 0, 0, 12, 0, 0} // attributes, deltas, key of version and type
	record = binary.BigEndian.AppendUint32(record, uint32(m.CoordinatorEpoch))
	record = append(record, 0)
	raw := append(make([]byte, HeaderSize), byte(2*len(record)))
	return Batch{Raw: append(raw, record...), Header: Header{
		Base: base, Attributes: attrControl | attrTransactional, Count: 1, ProducerID: m.ProducerID, ProducerEpoch: m.Epoch, BaseSequence: -1,
	}}
}

func marker(r Run, o int64, g Generation) Batch { return control(o, r.Mark(o, g)) }

func fenceAt(base, id int64) Batch { return control(base, FenceMark(id)) }

func ids(marks []Mark) []int64 {
	var out []int64
	for _, m := range marks {
		out = append(out, m.ProducerID)
	}
	return out
}

func TestFence_ShutsFirstWhoCanAppendAndLastWhoFillsHoles(t *testing.T) {
	link := testRun(0)
	check := func(what string, x int64, last *Batch, states []ProducerState, want ...int64) {
		t.Helper()
		got := link.Fence(x, last, states)
		if !slices.Equal(ids(got), want) {
			t.Errorf("%s: %d markers, want %d, or in another order", what, len(got), len(want))
		}
		for _, m := range got {
			if m.Epoch != FenceEpoch || m.CoordinatorEpoch != FenceCoordinator {
				t.Errorf("%s: %+v", what, m)
			}
		}
	}
	at := func(s int64) Run { r := link; r.Start = s; return r }
	b := ownData(at(10), 90, 10)
	check("in a run", 100, &b, nil, link.DataProducer(0), link.SeedProducer(0), link.FillProducer(100))
	b = ownData(at(10), 20_000, 10)
	check("in a run that began in an earlier window", 20_010, &b, nil, link.DataProducer(0), link.DataProducer(20_010), link.SeedProducer(0), link.FillProducer(20_010))
	b = marker(link, 20_010, 1)
	check("behind a marker", 20_011, &b, nil, link.DataProducer(20_011), link.SeedProducer(0), link.FillProducer(20_011))
	b = filler(at(0), 20_000, 10)
	check("while seeding", 20_010, &b, nil, link.SeedProducer(0), link.SeedProducer(20_010), link.DataProducer(20_010), link.FillProducer(20_010))
	check("nothing mirrored", 0, nil, nil, link.DataProducer(0), link.SeedProducer(0), link.FillProducer(0))
	check("an emptied log, no memory", 20_010, nil, nil, link.DataProducer(20_010), link.SeedProducer(0), link.SeedProducer(20_010), link.DataProducer(0), link.FillProducer(20_010))
	s := at(17_000).Stamp(20_009)
	known := []ProducerState{{ID: 7, LastSequence: 5}, {ID: s.ProducerID, Epoch: s.Epoch, LastSequence: s.Sequence}}
	check("an emptied log whose run the broker remembers", 40_000-19_990, nil, known, link.DataProducer(17_000), link.SeedProducer(0), link.SeedProducer(20_010), link.DataProducer(0), link.FillProducer(20_010))
	older := link
	older.Link.Epoch--
	b = ownData(older, 90, 10)
	check("an earlier epoch ended here", 100, &b, nil, older.DataProducer(0), link.DataProducer(100), link.SeedProducer(0), older.SeedProducer(0), link.FillProducer(100), older.FillProducer(100))
}

// TestFence_LeavesNoIDOpenThatAMirrorMayUseNext draws a log of one link and
// looks at everything that a mirror may append next.
func TestFence_LeavesNoIDOpenThatAMirrorMayUseNext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		link := testRun(rapid.Int64Range(0, 1<<40).Draw(t, "start"))
		run := link
		run.Start += rapid.SampledFrom([]int64{0, 5, 4096, 1 << 14, 1<<31 + 3}).Draw(t, "run")
		base := run.Start + rapid.SampledFrom([]int64{0, 90, 4095, 1<<14 - 10}).Draw(t, "ahead")
		var b Batch
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			b = ownData(run, base, 10)
		case 1:
			b = filler(run, base, 10)
		case 2:
			b = marker(link, base, Generation(rapid.IntRange(0, 99).Draw(t, "generation")))
		}
		x := b.End()
		shut := ids(link.Fence(x, &b, nil))
		begin := link
		begin.Start = x
		next := map[string]int64{"a run at x": begin.Stamp(x).ProducerID, "a marker at x": link.Mark(x, 3).ProducerID, "filler from the link's start": link.Seed(link.Start).ProducerID}
		switch _, kind := link.Author(b); kind {
		case Data:
			next["the next batch"] = run.Stamp(x).ProducerID
		case Seeded:
			next["the next filler"], next["a filling run at x"] = run.Seed(x).ProducerID, begin.Seed(x).ProducerID
		case Foreign:
			t.Fatal("the drawn batch is not the link's")
		}
		for what, id := range next {
			if !slices.Contains(shut, id) {
				t.Fatalf("%s is not shut", what)
			}
		}
		if shut[len(shut)-1] != link.FillProducer(x) || len(shut) > 5 {
			t.Fatalf("%d markers, the last must be that of the holes", len(shut))
		}
	})
}

func TestTail_EndsWithTheFirstForeignBatchAndNamesStrays(t *testing.T) {
	link := testRun(0)
	at := func(s int64) Run { r := link; r.Start = s; return r }
	producer := Batch{Header: Header{Base: 0, LastDelta: 4, Count: 5, ProducerID: 12, BaseSequence: 0}}
	misplaced := func(base, by int64) Batch { b := ownData(link, base-by, 5); b.Base = base; return b }
	own := []Batch{ownData(link, 0, 100), marker(link, 100, 1), marker(link, 101, 1), ownData(at(102), 102, 8)}
	check := func(what string, x, fence, stray int64, behind ...Batch) {
		t.Helper()
		tail := NewTail(link, 0, nil)
		for _, b := range append(slices.Clone(own), behind...) {
			tail.Take(b)
			tail.Take(b) // as when an answer begins with what was read before
		}
		if tail.X != x || tail.Fence != fence || tail.Stray != stray {
			t.Errorf("%s: x %d, fence %d, stray %d; want %d, %d, %d", what, tail.X, tail.Fence, tail.Stray, x, fence, stray)
		}
		if _, kind := link.Author(*tail.Last); kind == Foreign {
			t.Errorf("%s: the last batch is foreign", what)
		}
	}
	id := link.DataProducer(102)
	check("nothing behind", 110, -1, -1)
	check("a fence", 110, 110, -1, fenceAt(110, id))
	producer.Base = 110
	check("a producer before the fence", 110, 115, -1, producer, fenceAt(115, id))
	check("a batch that slipped in", 110, 110, 111, fenceAt(110, id), misplaced(111, 1))
	check("far ahead", 110, 110, 50_111, fenceAt(110, id), misplaced(50_111, 50_001))
	check("a run that began behind the fence", 110, 110, 111, fenceAt(110, id), ownData(at(111), 111, 5))
	check("a marker that slipped in shows no record", 110, 110, -1, fenceAt(110, id), marker(link, 111, 3))
	check("a second fence", 110, 110, -1, fenceAt(110, id), fenceAt(111, id))
	check("the next link", 110, 110, -1, fenceAt(110, id), ownData(func() Run { r := at(111); r.Link.Epoch++; return r }(), 111, 5))
}

func TestTail_StandsOnlyWithEveryMarkerOfThisTry(t *testing.T) {
	link := testRun(0)
	tail := NewTail(link, 100, nil)
	marks := []Mark{FenceMark(link.DataProducer(0)), FenceMark(link.FillProducer(100))}
	tail.Take(fenceAt(100, marks[0].ProducerID))
	if tail.Stands(marks, 100) {
		t.Error("one marker is missing")
	}
	tail.Take(fenceAt(101, marks[1].ProducerID))
	if !tail.Stands(marks, 100) || tail.Stands(marks, 101) || tail.Stands(nil, 0) {
		t.Error("both stand from 100 on, and only there")
	}
}

func TestBatch_AMarkerOfTheLastOffsetOfAWindowIsNoFence(t *testing.T) {
	link := testRun(0)
	m := marker(link, 4095, 0)
	if m.ProducerEpoch != FenceEpoch || m.IsFence() {
		t.Errorf("epoch %d, fence %t", m.ProducerEpoch, m.IsFence())
	}
	if !fenceAt(4095, link.FillProducer(4095)).IsFence() {
		t.Error("a fence is none")
	}
}

func TestLeapEntries_MoveAllAtOnePaceAndGiveEachExactlyItsNeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[topology.Partition]int64{}
		for i := range rapid.Int32Range(1, 8).Draw(t, "partitions") {
			want[topology.Partition{Topic: "t", Partition: i}] = rapid.Int64Range(-2, 40).Draw(t, "need")
		}
		need, got, ended := maps.Clone(want), map[topology.Partition]int64{}, map[topology.Partition]bool{}
		for range 400 {
			limit := rapid.IntRange(0, 50).Draw(t, "limit")
			sent := 0
			entries := LeapEntries(need, limit)
			for _, e := range entries {
				for _, p := range e.Of {
					if ended[p] {
						t.Fatalf("%s goes on behind its last marker", p)
					}
					got[p]++
					sent++
					ended[p] = e.Last
				}
			}
			if sent > max(limit, len(want)) {
				t.Fatalf("%d markers, limit %d", sent, limit)
			}
			if len(entries) == 0 {
				break
			}
		}
		for p, n := range want {
			if got[p] != max(0, n) || n > 0 != ended[p] {
				t.Fatalf("%s got %d markers of %d, ended %t", p, got[p], n, ended[p])
			}
		}
	})
}

func TestStone_CarriesXAndIsNeitherFenceNorOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		link := testRun(rapid.Int64Range(0, 1<<44).Draw(t, "start"))
		x := link.Start + rapid.Int64Range(0, 1<<44).Draw(t, "x")
		b := control(x+rapid.Int64Range(0, 1<<44).Draw(t, "ahead"), link.Stone(x))
		if got, ok := link.StoneAt(b); !ok || got != x {
			t.Fatalf("%d %t, want %d", got, ok, x)
		}
		if _, kind := link.Author(b); kind != Foreign || b.IsFence() || b.ProducerEpoch < 0 {
			t.Fatalf("kind %d, fence %t, epoch %d", kind, b.IsFence(), b.ProducerEpoch)
		}
		other := link
		other.Partition++
		if _, ok := other.StoneAt(b); ok {
			t.Fatal("another partition takes the stone for its own")
		}
	})
}

func TestTail_AStoneCountsOnlyWhileNobodyElseWroteBeforeIt(t *testing.T) {
	link := testRun(0)
	read := func(batches ...Batch) *Tail {
		tail := NewTail(link, 0, nil)
		for _, b := range append([]Batch{filler(link, 0, 100), fenceAt(100, link.SeedProducer(0))}, batches...) {
			tail.Take(b)
		}
		return tail
	}
	leapt := Batch{Header: Header{Base: 101, LastDelta: 98, Count: 99, ProducerID: link.LeapProducer()}}
	producer := leapt
	producer.ProducerID = 12
	stone, fence := control(200, link.Stone(100)), fenceAt(201, link.SeedProducer(0))
	if tail := read(leapt, stone, fence); tail.X != 100 || tail.Stone != 200 || tail.Fence != 201 || tail.Other != -1 {
		t.Errorf("%+v", tail)
	}
	if tail := read(producer, stone, fence); tail.Stone != -1 || tail.Other != 101 || tail.Fence != 100 {
		t.Errorf("%+v", tail)
	}
	if tail := read(leapt, control(200, link.Stone(99)), fence); tail.Stone != -1 {
		t.Errorf("the stone of another x counts: %+v", tail)
	}
	late := read(leapt, stone, fence)
	producer.Base = 202
	late.Take(producer)
	if late.Stone != 200 || late.Other != 202 {
		t.Errorf("%+v", late)
	}
	skipped := read()
	skipped.Skip(200)
	skipped.Take(stone)
	if skipped.Stone != -1 {
		t.Errorf("what was not read may be anything: %+v", skipped)
	}
}
