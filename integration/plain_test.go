//go:build integration

package integration

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// plainLog is what a plain consumer sees of one partition: the records that a
// user gets, and where the broker says that the log starts and ends. None of
// the product's own reading, decoding or comparing has a part in it.
type plainLog struct {
	start, end int64
	records    []*kgo.Record
}

// committed and uncommitted are the two ways to consume.
var committed, uncommitted = kgo.ReadCommitted(), kgo.ReadUncommitted()

// readPlain consumes a topic from its start to its end, partition by partition.
// It ends when every offset was passed; a log that stops short is an error.
func readPlain(ctx context.Context, client []kgo.Opt, topic string, level kgo.IsolationLevel) (map[int32]*plainLog, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	asker, err := kgo.NewClient(client...)
	if err != nil {
		return nil, err
	}
	defer asker.Close()
	admin := kadm.NewClient(asker)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("list starts of %s: %w", topic, err)
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("list ends of %s: %w", topic, err)
	}
	logs, left, from := map[int32]*plainLog{}, map[int32]bool{}, map[int32]kgo.Offset{}
	for p, s := range starts[topic] {
		e, ok := ends.Lookup(topic, p)
		if !ok || s.Err != nil || e.Err != nil {
			return nil, fmt.Errorf("list ends of %s/%d: %w", topic, p, cmp.Or(s.Err, e.Err, errors.New("no end")))
		}
		logs[p] = &plainLog{start: s.Offset, end: e.Offset}
		if s.Offset < e.Offset {
			left[p], from[p] = true, kgo.NewOffset().At(s.Offset)
		}
	}
	if len(logs) == 0 {
		return nil, fmt.Errorf("read %s: no such topic", topic)
	}
	// Control records are asked for only to see that an end was reached.
	c, err := kgo.NewClient(slices.Concat(client, []kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(), kgo.FetchMaxWait(200 * time.Millisecond)})...)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for len(left) > 0 {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			return nil, fmt.Errorf("read %s, not at the end of %d partitions: %w", topic, len(left), err)
		}
		f.EachRecord(func(r *kgo.Record) {
			l := logs[r.Partition]
			if r.Offset >= l.end {
				return // written meanwhile
			}
			if !r.Attrs.IsControl() {
				l.records = append(l.records, r)
			}
			if r.Offset == l.end-1 {
				delete(left, r.Partition)
			}
		})
	}
	return logs, nil
}

// from forgets what is below an offset.
func (l *plainLog) from(start int64) {
	l.start = max(l.start, start)
	l.records = slices.DeleteFunc(l.records, func(r *kgo.Record) bool { return r.Offset < start })
}

// differences compares two logs record by record, by offset, and names each
// difference. Timestamps are compared where the record has its producer's.
func (l *plainLog) differences(other *plainLog) []string {
	var d []string
	say := func(format string, args ...any) { d = append(d, fmt.Sprintf(format, args...)) }
	if l.start != other.start {
		say("the log starts at %d, the copy at %d", l.start, other.start)
	}
	if l.end != other.end {
		say("the log ends at %d, the copy at %d", l.end, other.end)
	}
	a, b := l.records, other.records
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Offset < b[0].Offset:
			say("%d: missing in the copy", a[0].Offset)
			a = a[1:]
		case len(a) == 0 || b[0].Offset < a[0].Offset:
			say("%d: only in the copy", b[0].Offset)
			b = b[1:]
		default:
			if what := recordDifference(a[0], b[0]); what != "" {
				say("%d: %s", a[0].Offset, what)
			}
			a, b = a[1:], b[1:]
		}
	}
	return d
}

// sameBytes tells an empty field from one that is not there.
func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func recordDifference(a, b *kgo.Record) string {
	switch {
	case !sameBytes(a.Key, b.Key):
		return fmt.Sprintf("key %.40q (nil: %t) is %.40q (nil: %t) in the copy", a.Key, a.Key == nil, b.Key, b.Key == nil)
	case !sameBytes(a.Value, b.Value):
		return fmt.Sprintf("value of %d bytes (nil: %t) is another of %d bytes (nil: %t) in the copy", len(a.Value), a.Value == nil, len(b.Value), b.Value == nil)
	case a.Attrs.TimestampType() != b.Attrs.TimestampType():
		return fmt.Sprintf("timestamp type %d is %d in the copy", a.Attrs.TimestampType(), b.Attrs.TimestampType())
	case a.Attrs.TimestampType() == 0 && !a.Timestamp.Equal(b.Timestamp):
		return fmt.Sprintf("timestamp %d is %d in the copy", a.Timestamp.UnixMilli(), b.Timestamp.UnixMilli())
	case len(a.Headers) != len(b.Headers):
		return fmt.Sprintf("%d headers are %d in the copy", len(a.Headers), len(b.Headers))
	}
	for i, h := range a.Headers {
		if o := b.Headers[i]; h.Key != o.Key || !sameBytes(h.Value, o.Value) {
			return fmt.Sprintf("header %d, %q=%q (nil: %t), is %q=%q (nil: %t) in the copy", i, h.Key, h.Value, h.Value == nil, o.Key, o.Value, o.Value == nil)
		}
	}
	return ""
}

// firstFew keeps a message short.
func firstFew(d []string) []string {
	if len(d) > 6 {
		return append(slices.Clone(d[:6]), fmt.Sprintf("and %d more", len(d)-6))
	}
	return d
}

func TestPlain_NamesEveryWayInWhichACopyCanDiffer(t *testing.T) {
	log := func() *plainLog {
		l := &plainLog{start: 3, end: 20}
		for o := int64(3); o < 20; o += 2 {
			l.records = append(l.records, &kgo.Record{Offset: o, Key: []byte("k"), Value: []byte("v"), Timestamp: time.UnixMilli(1000 + o),
				Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte{}}, {Key: "", Value: []byte("2")}}})
		}
		return l
	}
	if d := log().differences(log()); len(d) > 0 {
		t.Fatalf("a log differs from itself: %q", d)
	}
	for name, alter := range map[string]func(*plainLog){
		"start":              func(l *plainLog) { l.start++ },
		"end":                func(l *plainLog) { l.end++ },
		"first is missing":   func(l *plainLog) { l.records = l.records[1:] },
		"last is missing":    func(l *plainLog) { l.records = l.records[:len(l.records)-1] },
		"middle is missing":  func(l *plainLog) { l.records = slices.Delete(l.records, 4, 5) },
		"one too many":       func(l *plainLog) { l.records = slices.Insert(l.records, 4, &kgo.Record{Offset: 10}) },
		"one too many, last": func(l *plainLog) { l.records = append(l.records, &kgo.Record{Offset: 21}) },
		"key":                func(l *plainLog) { l.records[2].Key = []byte("x") },
		"nil key":            func(l *plainLog) { l.records[2].Key = nil },
		"value":              func(l *plainLog) { l.records[2].Value = []byte("x") },
		"nil value":          func(l *plainLog) { l.records[2].Value = nil },
		"timestamp":          func(l *plainLog) { l.records[2].Timestamp = time.UnixMilli(1) },
		"header gone":        func(l *plainLog) { l.records[2].Headers = l.records[2].Headers[:2] },
		"header key":         func(l *plainLog) { l.records[2].Headers[2].Key = "a" },
		"header value":       func(l *plainLog) { l.records[2].Headers[0].Value = []byte("9") },
		"nil header value":   func(l *plainLog) { l.records[2].Headers[1].Value = nil },
		"header order": func(l *plainLog) {
			h := l.records[2].Headers
			h[0], h[1] = h[1], h[0]
		},
	} {
		altered := log()
		alter(altered)
		if d := log().differences(altered); len(d) != 1 {
			t.Errorf("%s: %q, want one difference", name, d)
		}
	}
	// Renumbered by one behind a record: every record behind it is named.
	shifted := log()
	for _, r := range shifted.records[5:] {
		r.Offset++
	}
	if d := log().differences(shifted); len(d) != 2*(len(shifted.records)-5) {
		t.Errorf("renumbered: %q", d)
	}
}
