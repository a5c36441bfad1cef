package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func TestSeedCommitLogs_WritesOnceWhatItsReadersTake(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeB, "events", 3, nil)
	r.topic(r.fakeB, "commits", 1, map[string]string{"cleanup.policy": "compact"})
	r.produce(r.b, "events", 0, 30, 7)
	r.produce(r.b, "events", 1, 30, 7)
	r.write(t, "commits", "events:1:g", `{"offset": 3, "orig_message_ts": 1.5, "received_p99": 1.5}`)
	r.write(t, "commits", "events:1:g", `{"offset": 25, "orig_message_ts": 2.5, "received_p99": 1.5}`)
	specs := []replicate.CommitLog{{Topic: "commits", Of: "events", Group: "g"}}
	committed := map[string]replicate.Commits{"g": {
		{Topic: "events", Partition: 0}: {Offset: 12},
		{Topic: "events", Partition: 1}: {Offset: 20},
		{Topic: "events", Partition: 2}: {Offset: 0}, // nothing in it yet
	}}
	before := time.Now()
	rows, err := SeedCommitLogs(t.Context(), r.b, specs, committed)
	if err != nil || len(rows) != 3 {
		t.Fatalf("%+v %v", rows, err)
	}
	for i, want := range []replicate.Seed{
		{CommitLog: specs[0], Partition: 0, Want: 12, Have: 12, Write: true},
		{CommitLog: specs[0], Partition: 1, Want: 20, Have: 25, Note: "it says 25 already and the group stands at 20"},
		{CommitLog: specs[0], Partition: 2, Want: 0, Have: 0, Write: true},
	} {
		if rows[i] != want {
			t.Errorf("%+v, want %+v", rows[i], want)
		}
	}
	log := r.batches(r.b, topology.Partition{Topic: "commits"})
	var entries []replicate.CommitEntry
	for _, b := range log {
		if err := eachRecord(b, func(rec replicate.Record) error {
			e, err := replicate.DecodeCommit(rec.Key, rec.Value)
			entries = append(entries, e)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if len(entries) != 4 {
		t.Fatalf("%+v", entries)
	}
	// The time is that of the record before the offset.
	var stamp int64
	for _, b := range r.batches(r.b, topology.Partition{Topic: "events"}) {
		_ = eachRecord(b, func(rec replicate.Record) error {
			if rec.Offset == 11 {
				stamp = rec.Timestamp
			}
			return nil
		})
	}
	for _, e := range entries[2:] {
		switch e.Partition.Partition {
		case 0:
			if e.Offset != 12 || e.At.UnixMilli() != stamp || !e.ReceivedP99.Equal(e.At) {
				t.Errorf("%+v, want the time %d", e, stamp)
			}
		case 2:
			if e.Offset != 0 || e.At.Before(before.Add(-time.Second)) {
				t.Errorf("%+v", e)
			}
		}
	}
	again, err := SeedCommitLogs(t.Context(), r.b, specs, committed)
	if err != nil || len(r.batches(r.b, topology.Partition{Topic: "commits"})) != len(log) {
		t.Errorf("a second time it writes: %+v %v", again, err)
	}
}

func TestSeedCommitLogs_NamesWhatFollowersStumbleOver(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeB, "events", 1, nil)
	r.topic(r.fakeB, "commits", 1, nil)
	r.write(t, "commits", "events:0:g", "")
	committed := map[string]replicate.Commits{"g": {{Topic: "events"}: {Offset: 0}}}
	rows, err := SeedCommitLogs(t.Context(), r.b, []replicate.CommitLog{{Topic: "commits", Of: "events", Group: "g"}, {Topic: "none", Of: "events", Group: "g"}}, committed)
	if err != nil || len(rows) != 2 {
		t.Fatalf("%+v %v", rows, err)
	}
	if s := rows[0]; !s.Bad || !strings.Contains(s.Note, "commits/0 at 0") || !strings.Contains(s.Note, "recreate the topic") {
		t.Errorf("%+v", s)
	}
	if s := rows[1]; !s.Bad || s.Write || !strings.Contains(s.Note, "no topic none") {
		t.Errorf("%+v", s)
	}
}

// write puts one record into a topic of the target; an empty value is a tombstone.
func (r *rig) write(t *testing.T, topic, key, value string) {
	t.Helper()
	p, err := r.b.Another()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	rec := &kgo.Record{Topic: topic, Key: []byte(key)}
	if value != "" {
		rec.Value = []byte(value)
	}
	if err := p.Kgo.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(fmt.Errorf("write to %s: %w", topic, err))
	}
}
