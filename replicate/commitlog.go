package replicate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// CommitLog names a topic to which the consumers of Group write how far they
// have come in topic Of. Consumers of other groups follow it, and read no
// record of Of that the log does not speak of. Each region has its own: it is
// never mirrored, and an empty one holds its followers back for as long as
// nothing new comes.
type CommitLog struct {
	Topic string `json:"topic"`
	Of    string `json:"of"`
	Group string `json:"group"`
}

// CommitEntry is one record of a commit log, in the format of Sentry's arroyo:
// the key "topic:partition:group", and as value a JSON object.
type CommitEntry struct {
	Group string
	topology.Partition
	Offset int64 // the next one that the group reads
	// At is the timestamp of the record before Offset. Followers that work in
	// steps of time take the step between two entries.
	At time.Time
	// ReceivedP99 is when nearly all records of the step had been received;
	// zero: not known.
	ReceivedP99 time.Time
}

// Bounds of a commit log's entry, in which every reader of it agrees.
const (
	commitPartitionMax = math.MaxUint16
	commitValueMax     = 64 << 10
	commitSecondsMax   = 253_402_300_799 // the end of the year 9999
)

// Key returns the key of the entry's record: a compacted log keeps one of each.
func (e CommitEntry) Key() string {
	return e.Topic + ":" + strconv.Itoa(int(e.Partition.Partition)) + ":" + e.Group
}

// EncodeCommit returns the record of an entry, or why no reader would take it.
// Times are kept to the millisecond.
func EncodeCommit(e CommitEntry) (key, value []byte, err error) {
	payload := struct {
		Offset      int64    `json:"offset"`
		At          seconds  `json:"orig_message_ts"`
		ReceivedP99 *seconds `json:"received_p99"`
	}{e.Offset, seconds(e.At.UnixMilli()), nil}
	if !e.ReceivedP99.IsZero() {
		p99 := seconds(e.ReceivedP99.UnixMilli())
		payload.ReceivedP99 = &p99
	}
	if value, err = json.Marshal(payload); err != nil {
		return nil, nil, fmt.Errorf("encode the commit %s: %w", e.Key(), err)
	}
	key = []byte(e.Key())
	if _, err := DecodeCommit(key, value); err != nil {
		return nil, nil, err
	}
	return key, value, nil
}

// seconds prints milliseconds as seconds with a fraction.
type seconds int64

func (s seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(s)/1000, 'f', -1, 64), nil
}

// DecodeCommit reads one record of a commit log. An error means that a
// follower would stumble over it, each time that it starts.
func DecodeCommit(key, value []byte) (CommitEntry, error) {
	var e CommitEntry
	fail := func(format string, args ...any) (CommitEntry, error) {
		return CommitEntry{}, fmt.Errorf("commit log entry %.80q: %s", key, fmt.Sprintf(format, args...))
	}
	fields := strings.Split(string(key), ":")
	if len(fields) != 3 || fields[0] == "" || fields[2] == "" || !utf8.Valid(key) {
		return fail("its key is not topic:partition:group")
	}
	n, err := strconv.ParseUint(fields[1], 10, 16)
	if err != nil || n > commitPartitionMax {
		return fail("its key has no partition")
	}
	e.Topic, e.Partition.Partition, e.Group = fields[0], int32(n), fields[2]
	switch {
	case value == nil:
		return fail("it is a tombstone")
	case len(value) > commitValueMax:
		return fail("its value has %d bytes", len(value))
	case !utf8.Valid(value):
		return fail("its value is not UTF-8")
	}
	var payload map[string]json.RawMessage // its names are exact, those of a struct are not
	if err := json.Unmarshal(value, &payload); err != nil || payload == nil {
		return fail("its value is not a JSON object")
	}
	if err := json.Unmarshal(payload["offset"], &e.Offset); err != nil || isNull(payload["offset"]) || e.Offset < 0 {
		return fail("it has no offset")
	}
	if e.At, err = decodeSeconds(payload["orig_message_ts"]); err != nil {
		return fail("orig_message_ts: %v", err)
	}
	if p99 := payload["received_p99"]; p99 != nil && !isNull(p99) {
		if e.ReceivedP99, err = decodeSeconds(p99); err != nil {
			return fail("received_p99: %v", err)
		}
	}
	return e, nil
}

func isNull(raw json.RawMessage) bool { return bytes.Equal(raw, []byte("null")) }

func decodeSeconds(raw json.RawMessage) (time.Time, error) {
	var s float64
	if err := json.Unmarshal(raw, &s); err != nil || isNull(raw) {
		return time.Time{}, fmt.Errorf("not a number")
	}
	if s < 0 || s > commitSecondsMax {
		return time.Time{}, fmt.Errorf("not a time")
	}
	return time.UnixMilli(int64(math.Round(s * 1000))).UTC(), nil
}

// Seed is what a commit log must say about one partition so that its followers
// go on.
type Seed struct {
	CommitLog
	Partition int32 `json:"partition"`
	Want      int64 `json:"want"` // the group's committed offset; -1: none
	Have      int64 `json:"have"` // what the log says last; -1: nothing
	// Write says that an entry must be written; in a report, that it was.
	Write bool `json:"write"`
	// Note says what a person should know. With Bad, its followers would not
	// go on, or stumble.
	Note string `json:"note,omitempty"`
	Bad  bool   `json:"bad,omitempty"`
}

// PlanSeeds says what to write to the commit logs of a region, from what its
// groups have committed there, what it holds and what the logs say last, by
// CommitEntry.Key for each log. A log that says as much or more is left as it
// is, for its writer may be at work already; but not an entry that points
// beyond the partition's end, with which nothing would be held back. logs has
// no entry for a topic that the region does not have.
func PlanSeeds(specs []CommitLog, committed map[string]Commits, ranges map[topology.Partition]Range, logs map[string]map[string]int64) []Seed {
	var out []Seed
	for _, spec := range specs {
		for p, r := range ranges {
			_, read := committed[spec.Group][p]
			if p.Topic == spec.Of && (read || logs[spec.Topic] != nil) { // neither: not used here
				out = append(out, planSeed(spec, p, r, committed[spec.Group], logs[spec.Topic]))
			}
		}
	}
	slices.SortFunc(out, func(a, b Seed) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Of, b.Of), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}

func planSeed(spec CommitLog, p topology.Partition, r Range, committed Commits, log map[string]int64) Seed {
	s := Seed{CommitLog: spec, Partition: p.Partition, Want: -1, Have: -1}
	if at, ok := log[CommitEntry{Group: spec.Group, Partition: p}.Key()]; ok {
		s.Have = at
	}
	c, ok := committed[p]
	if ok {
		s.Want = c.Offset
	}
	switch {
	case !ok:
		s.Note, s.Bad = fmt.Sprintf("group %s has no offset for %s: what follows %s waits until it has one", spec.Group, p, spec.Topic), s.Have < 0
	case log == nil:
		s.Note, s.Bad = "the region has no topic "+spec.Topic+": create it as the other region has it, or take it out of mirror.commit_logs", true
	case s.Have > r.End:
		s.Write, s.Note = true, fmt.Sprintf("it said %d, beyond the end of %s at %d: nothing would have been held back", s.Have, p, r.End)
	case s.Have < s.Want:
		s.Write = true
	case s.Have > s.Want:
		s.Note = fmt.Sprintf("it says %d already and the group stands at %d", s.Have, s.Want)
	}
	return s
}
