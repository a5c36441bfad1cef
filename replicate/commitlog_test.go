package replicate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestEncodeCommit_IsWhatArroyoWrites(t *testing.T) {
	e := CommitEntry{
		Group: "snuba-consumers", Partition: topology.Partition{Topic: "events", Partition: 3}, Offset: 1042,
		At: time.UnixMilli(1_695_764_294_125), ReceivedP99: time.UnixMilli(1_695_764_293_000),
	}
	key, value, err := EncodeCommit(e)
	if err != nil || string(key) != "events:3:snuba-consumers" || string(value) != `{"offset":1042,"orig_message_ts":1695764294.125,"received_p99":1695764293}` {
		t.Errorf("%s %s %v", key, value, err)
	}
	e.ReceivedP99 = time.Time{}
	if _, value, err = EncodeCommit(e); err != nil || string(value) != `{"offset":1042,"orig_message_ts":1695764294.125,"received_p99":null}` {
		t.Errorf("%s %v", value, err)
	}
	for _, bad := range []CommitEntry{
		{Group: "a:b", Partition: e.Partition, At: e.At},
		{Group: "", Partition: e.Partition, At: e.At},
		{Group: "g", Partition: topology.Partition{Topic: "t", Partition: 70_000}, At: e.At},
		{Group: "g", Partition: e.Partition, Offset: -1, At: e.At},
		{Group: "g", Partition: e.Partition, At: time.UnixMilli(-1)},
	} {
		if _, _, err := EncodeCommit(bad); err == nil {
			t.Errorf("%+v was encoded", bad)
		}
	}
}

func TestDecodeCommit_RefusesWhatAFollowerStumblesOver(t *testing.T) {
	const key = "events:0:g"
	for _, c := range []struct{ key, value, why string }{
		{key, `{"offset": 5, "orig_message_ts": 1.5, "received_p99": 2}`, ""},
		{key, `{"orig_message_ts": 1.5, "offset": 5}`, ""},
		{key, `{"offset": 5, "orig_message_ts": 1.5, "received_p99": null, "more": [1]}`, ""},
		{"events:0", `{"offset": 5, "orig_message_ts": 1}`, "topic:partition:group"},
		{"events:0:g:h", `{"offset": 5, "orig_message_ts": 1}`, "topic:partition:group"},
		{"events:x:g", `{"offset": 5, "orig_message_ts": 1}`, "no partition"},
		{key, ``, "not a JSON object"},
		{key, `5`, "not a JSON object"}, // of old versions, with the time in a header
		{key, `null`, "not a JSON object"},
		{key, `{"OFFSET": 5, "orig_message_ts": 1}`, "no offset"},
		{key, `{"offset": 5.5, "orig_message_ts": 1}`, "no offset"},
		{key, `{"offset": -1, "orig_message_ts": 1}`, "no offset"},
		{key, `{"offset": null, "orig_message_ts": 1}`, "no offset"},
		{key, `{"offset": 5}`, "orig_message_ts"},
		{key, `{"offset": 5, "orig_message_ts": "now"}`, "orig_message_ts"},
		{key, `{"offset": 5, "orig_message_ts": 1e300}`, "orig_message_ts"},
		{key, `{"offset": 5, "orig_message_ts": 1, "received_p99": "x"}`, "received_p99"},
		{key, `{"offset": 5, "orig_message_ts": 1, "x": "` + strings.Repeat("x", commitValueMax) + `"}`, "bytes"},
	} {
		e, err := DecodeCommit([]byte(c.key), []byte(c.value))
		if c.why == "" && (err != nil || e.Offset != 5 || e.At != time.UnixMilli(1500).UTC()) || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s %.60s: %+v %v", c.key, c.value, e, err)
		}
	}
	if _, err := DecodeCommit([]byte(key), nil); err == nil || !strings.Contains(err.Error(), "tombstone") {
		t.Errorf("a tombstone: %v", err)
	}
}

func TestCommit_GoesThroughItsRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := CommitEntry{
			Group:     rapid.StringMatching(`[a-zA-Z0-9._-]{1,20}`).Draw(t, "group"),
			Partition: topology.Partition{Topic: rapid.StringMatching(`[a-zA-Z0-9._-]{1,20}`).Draw(t, "topic"), Partition: rapid.Int32Range(0, commitPartitionMax).Draw(t, "partition")},
			Offset:    rapid.Int64Min(0).Draw(t, "offset"),
			At:        time.UnixMilli(rapid.Int64Range(0, commitSecondsMax*1000).Draw(t, "at")).UTC(),
		}
		if rapid.Bool().Draw(t, "received") {
			e.ReceivedP99 = time.UnixMilli(rapid.Int64Range(0, commitSecondsMax*1000).Draw(t, "p99")).UTC()
		}
		key, value, err := EncodeCommit(e)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeCommit(key, value)
		if err != nil || back != e {
			t.Fatalf("%+v became %+v: %v", e, back, err)
		}
	})
}

func FuzzDecodeCommit(f *testing.F) {
	f.Add([]byte("events:0:g"), []byte(`{"offset": 5, "orig_message_ts": 1.5, "received_p99": 2}`))
	f.Add([]byte("events:65535:g"), []byte(`{"offset": 9223372036854775807, "orig_message_ts": 253402300799}`))
	f.Add([]byte("a:b:c:d"), []byte(`{}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, err := DecodeCommit(key, value)
		if err != nil {
			return
		}
		k, v, err := EncodeCommit(e)
		if err != nil {
			t.Fatalf("%q %q: decoded and not encoded: %v", key, value, err)
		}
		if back, err := DecodeCommit(k, v); err != nil || back != e {
			t.Fatalf("%q %q: %+v became %+v: %v", key, value, e, back, err)
		}
	})
}

func TestPlanSeeds_OneEntryForEachPartitionAndGroup(t *testing.T) {
	log := CommitLog{Topic: "commits", Of: "t", Group: "g"}
	gone := CommitLog{Topic: "gone", Of: "u", Group: "g"}
	u := topology.Partition{Topic: "u"}
	ranges := map[topology.Partition]Range{u: {End: 5}}
	for n := range int32(6) {
		ranges[part(n)] = Range{End: 100}
	}
	committed := map[string]Commits{"g": {part(0): {Offset: 40}, part(1): {Offset: 40}, part(2): {Offset: 40}, part(3): {Offset: 40}, part(5): {Offset: 0}, u: {Offset: 3}}}
	logs := map[string]map[string]int64{"commits": {"t:1:g": 40, "t:2:g": 39, "t:3:g": 101, "t:5:g": 7, "t:0:other": 50}}
	var got []string
	for _, s := range PlanSeeds([]CommitLog{gone, log}, committed, ranges, logs) {
		got = append(got, fmt.Sprintf("%s %d want %d have %d write %t bad %t", s.Topic, s.Partition, s.Want, s.Have, s.Write, s.Bad))
	}
	want := []string{
		"commits 0 want 40 have -1 write true bad false",
		"commits 1 want 40 have 40 write false bad false",
		"commits 2 want 40 have 39 write true bad false",
		"commits 3 want 40 have 101 write true bad false", // beyond the end
		"commits 4 want -1 have -1 write false bad true",
		"commits 5 want 0 have 7 write false bad false",
		"gone 0 want 3 have -1 write false bad true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
