package kafka

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func TestMirror_SameBytesAtTheSameOffsets(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 4, map[string]string{"retention.ms": "1234567"})
	for p := range int32(3) {
		r.produce(r.a, "events", p, 500, 60)
	}
	m := r.start(r.apart())
	r.caughtUp(m, "events")
	r.produce(r.a, "events", 3, 50, 1)
	r.caughtUp(m, "events")
	if n := r.identical("events", 4); n < 70 {
		t.Fatalf("compared %d batches, too few to mean anything", n)
	}
	if got := r.fakeB.TopicInfo("events").Configs["retention.ms"]; got == nil || *got != "1234567" {
		t.Fatalf("retention.ms at the target is %v", got)
	}
	eventually(t, "status says caught up", func() bool {
		s := m.Status()
		return s.Totals.Working == 4 && s.Totals.RecordsBehind == 0 && s.Totals.SecondsBehindMax == 0 && s.Totals.Records == 1550
	})
	if err := m.end(t); err != nil {
		t.Fatalf("a quiet stop is clean: %v", err)
	}
}

func TestMirror_ResumesWhereTheTargetEnds(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	for round := range 4 {
		r.produce(r.a, "events", int32(round%2), 100, 7)
		m := r.start(r.apart())
		r.caughtUp(m, "events")
		if err := m.end(t); err != nil {
			t.Fatal(err)
		}
	}
	r.identical("events", 2)
}

func TestMirror_FreezesOnForeignRecordsAndSaysWhich(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 2, nil)
	r.produce(r.a, "events", 0, 30, 10)
	r.produce(r.a, "events", 1, 30, 10)
	m := r.start(r.config())
	r.caughtUp(m, "events")
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	r.produce(r.b, "events", 0, 5, 5) // somebody writes to the target
	r.produce(r.a, "events", 0, 40, 10)
	r.produce(r.a, "events", 1, 40, 10)
	m = r.start(r.config())
	p0 := topology.Partition{Topic: "events", Partition: 0}
	eventually(t, "partition 0 is frozen", func() bool { return frozen(m, p0) != nil })
	if f := frozen(m, p0); f.Reason != replicate.Diverged || f.From != 30 || f.To != 35 {
		t.Fatalf("frozen as %v, want diverged [30,35)", f)
	}
	eventually(t, "partition 1 goes on", func() bool { return r.fakeB.PartitionInfo("events", 1).HighWatermark == 70 })
	if got := r.fakeB.PartitionInfo("events", 0).HighWatermark; got != 35 {
		t.Fatalf("the frozen partition grew to %d", got)
	}
}
