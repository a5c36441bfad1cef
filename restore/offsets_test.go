package restore

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/backup"
)

func TestCheckOffsets_FindsWhatCannotBe(t *testing.T) {
	if c := CheckOffsets(&newWorld().kafka); c.Different != 0 || c.Rows != 2 || c.Tables != 1 || c.Units != 2 {
		t.Fatalf("a good one: %+v", c)
	}
	try := func(want string, change func(m *backup.Manifest)) {
		t.Helper()
		m := newWorld().kafka
		change(&m)
		if c := CheckOffsets(&m); c.Different != 1 || !strings.Contains(c.Differences[0].What, want) {
			t.Errorf("want %q, got %+v", want, c)
		}
	}
	try("beyond the end of the log, 20", func(m *backup.Manifest) { m.Kafka.Groups[0].Offsets[0].Offset = 21 })
	try("offset -1 is none", func(m *backup.Manifest) { m.Kafka.Groups[0].Offsets[0].Offset = -1 })
	try("not in the set", func(m *backup.Manifest) { m.Kafka.Groups[0].Offsets[0].Partition = 9 })
	try("the manifest counts 2", func(m *backup.Manifest) { m.Kafka.Groups[0].Offsets = m.Kafka.Groups[0].Offsets[:1] })
	try("the manifest counts 2", func(m *backup.Manifest) { m.Kafka.Groups = nil })
	try("its log goes from 8 to 7", func(m *backup.Manifest) { m.Kafka.Topics[0].Partitions[1].Start = 8 })
	try("is there twice", func(m *backup.Manifest) { m.Kafka.Groups = append(m.Kafka.Groups, backup.KafkaGroup{Name: "snuba"}) })
	try("is there twice", func(m *backup.Manifest) {
		m.Kafka.Topics = append(m.Kafka.Topics, backup.KafkaTopic{Name: "events", Partitions: m.Kafka.Topics[0].Partitions})
	})
}

func TestDrill_AGroupBelowItsLogIsAFindingAndNoFault(t *testing.T) {
	w := newWorld()
	m := w.kafka
	m.Kafka.Groups[0].Offsets = append(m.Kafka.Groups[0].Offsets, backup.KafkaOffset{Topic: "gone", Offset: 4})
	m.Kafka.Groups[0].Offsets[0].Offset = 4
	m.Totals.Rows = 3
	w.seal(m)
	spec := w.spec()
	spec.Targets = nil
	r := Drill(t.Context(), spec)
	if !r.OK || len(r.Findings) != 1 {
		t.Fatalf("%s %+v", r.Why, r.Findings)
	}
	if f := r.Findings[0]; f.Object != "group snuba" || !strings.Contains(f.What, "at the wrong place: it committed 4, the log begins at 5") || !strings.Contains(f.What, "1 partition more") {
		t.Errorf("%+v", f)
	}
}

// Whatever a set of offsets looks like, the change that the control makes is seen.
func TestOffsetControl_IsCaughtInEverySoundSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := backup.Manifest{Engine: backup.Kafka, Kafka: &backup.KafkaPart{}}
		topic := backup.KafkaTopic{Name: "events"}
		for i := range rapid.Int32Range(0, 3).Draw(t, "partitions") {
			start := rapid.Int64Range(0, 5).Draw(t, "start")
			topic.Partitions = append(topic.Partitions, backup.KafkaPartition{Partition: i, Start: start, End: start + rapid.Int64Range(0, 5).Draw(t, "length")})
		}
		m.Kafka.Topics = []backup.KafkaTopic{topic}
		for _, name := range []string{"a", "b"}[:rapid.IntRange(0, 2).Draw(t, "groups")] {
			g := backup.KafkaGroup{Name: name}
			for _, p := range topic.Partitions {
				if rapid.Bool().Draw(t, "committed") {
					g.Offsets = append(g.Offsets, backup.KafkaOffset{Topic: "events", Partition: p.Partition, Offset: rapid.Int64Range(0, p.End).Draw(t, "offset")})
				}
			}
			if rapid.Bool().Draw(t, "gone") {
				g.Offsets = append([]backup.KafkaOffset{{Topic: "gone", Offset: 3}}, g.Offsets...)
			}
			m.Totals.Rows += uint64(len(g.Offsets))
			m.Kafka.Groups = append(m.Kafka.Groups, g)
		}
		if c := CheckOffsets(&m); c.Different != 0 {
			t.Fatalf("a sound set differs: %+v", c)
		}
		before := mustString(m)
		if c := offsetControl(&m); !c.Caught || c.What == "" {
			t.Fatalf("not caught: %+v", c)
		}
		if mustString(m) != before {
			t.Fatal("the control changed the set itself")
		}
	})
}
