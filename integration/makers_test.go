//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/integration/stack"
)

// maker fills topics of one real cluster in all the ways that a mirror must
// get right.
type maker struct {
	*testing.T
	k     *stack.Kafka
	admin *kadm.Client
	cl    *kgo.Client
}

func newMaker(t *testing.T, k *stack.Kafka) *maker {
	t.Helper()
	m := &maker{T: t, k: k}
	m.cl = m.client(kgo.MetadataMinAge(100 * time.Millisecond))
	m.admin = kadm.NewClient(m.cl)
	return m
}

func (m *maker) seeds() []kgo.Opt {
	return append(m.k.ClientOptions(stack.Admin), kgo.SeedBrokers(m.k.Bootstrap()))
}

func (m *maker) client(o ...kgo.Opt) *kgo.Client {
	m.Helper()
	c, err := kgo.NewClient(append(m.seeds(), o...)...)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(c.Close)
	return c
}

func (m *maker) topic(name string, partitions int32, settings ...string) {
	m.Helper()
	values := map[string]*string{}
	for i := 0; i < len(settings); i += 2 {
		values[settings[i]] = &settings[i+1]
	}
	if _, err := m.admin.CreateTopic(m.Context(), partitions, -1, values, name); err != nil {
		m.Fatalf("create topic %s: %v", name, err)
	}
}

// odd is a record like no other: keys, values and headers that are there, empty
// or not there at all.
func odd(topic string, partition int32, i int) *kgo.Record {
	r := &kgo.Record{Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "k%d", i), Value: []byte(strings.Repeat(fmt.Sprintf("value %d ", i), 1+i%23))}
	switch i % 7 {
	case 0:
		r.Key = nil
	case 1:
		r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}, {Key: "h", Value: []byte{}}, {Key: "", Value: []byte("no name")}, {Key: "h", Value: []byte("1")}}
	case 2:
		r.Value = []byte{}
	case 3:
		r.Value = nil
	case 4:
		r.Key = []byte{}
	case 5:
		r.Key, r.Value = nil, nil
	}
	return r
}

// send writes records with options of its own and returns when all are
// acknowledged. Batches are as small as each allows.
func (m *maker) send(records []*kgo.Record, each int, o ...kgo.Opt) {
	m.Helper()
	c := m.client(append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0)}, o...)...)
	ctx, cancel := context.WithTimeout(m.Context(), 60*time.Second)
	defer cancel()
	for some := range slices.Chunk(records, each) {
		if err := c.ProduceSync(ctx, some...).FirstErr(); err != nil {
			m.Fatalf("produce to %s: %v", records[0].Topic, err)
		}
	}
	c.Close()
}

func (m *maker) odds(topic string, partitions int32, from, n int) []*kgo.Record {
	var out []*kgo.Record
	for i := from; i < from+n; i++ {
		out = append(out, odd(topic, rand.Int32N(partitions), i))
	}
	return out
}

// codecs fills a topic with batches of every codec, from one record to a
// hundred, and one that is near the size limit.
func (m *maker) codecs(topic string, partitions int32) {
	for i, codec := range mirrorCodecs {
		for j, each := range []int{1, 7, 100} {
			m.send(m.odds(topic, partitions, 1000*i+200*j, min(200, 20*each)), each, kgo.ProducerBatchCompression(codec))
		}
		big := make([]byte, 900_000)
		for x := range big {
			big[x] = byte(rand.IntN(32))
		}
		m.send([]*kgo.Record{{Topic: topic, Partition: int32(i) % partitions, Value: big}}, 1, kgo.ProducerBatchCompression(codec))
	}
}

// stamps writes timestamps of all ages, also several in one batch.
func (m *maker) stamps(topic string) {
	times := []time.Time{time.UnixMilli(0), time.UnixMilli(1), time.Now().AddDate(-30, 0, 0), time.Now(), time.Now().Add(30 * time.Minute), time.Now().AddDate(10, 0, 0)}
	for each := range 9 {
		rand.Shuffle(len(times), func(i, j int) { times[i], times[j] = times[j], times[i] })
		var records []*kgo.Record
		for i, at := range times {
			r := odd(topic, 0, 100*each+i)
			r.Timestamp = at
			records = append(records, r)
		}
		m.send(records, each+1, kgo.ProducerBatchCompression(mirrorCodecs[each%len(mirrorCodecs)]))
	}
}

// transactions lets three transactional producers and a plain one write at
// once, and returns how many records were in transactions that were aborted.
func (m *maker) transactions(topic string, partitions int32, each int) (aborted int) {
	m.Helper()
	var all sync.WaitGroup
	counts := make([]int, 3)
	for w := range counts {
		all.Go(func() {
			c := m.client(kgo.TransactionalID(fmt.Sprintf("%s-%d", topic, w)), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(mirrorCodecs[w]))
			defer c.Close()
			r := rand.New(rand.NewPCG(7, uint64(w)))
			for i := range each {
				n := 1 + r.IntN(8)
				end := kgo.TransactionEndTry(i%5 != w && i%3 != 1)
				err := c.BeginTransaction()
				for j := 0; j < n && err == nil; j++ { // one batch each
					err = c.ProduceSync(m.Context(), odd(topic, r.Int32N(partitions), 10_000*w+100*i+j)).FirstErr()
				}
				if err == nil {
					err = c.EndTransaction(m.Context(), end)
				}
				if err != nil {
					m.Errorf("transaction %d of %s: %v", i, topic, err)
					return
				}
				if !end {
					counts[w] += n
				}
			}
		})
	}
	all.Go(func() {
		m.send(m.odds(topic, partitions, 500_000, 10*each), 3, kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	})
	all.Wait()
	for _, n := range counts {
		aborted += n
	}
	return aborted
}

// compactedSettings make a topic whose segments end soon and whose cleaner
// does not wait for much.
func compactedSettings() []string {
	return []string{"cleanup.policy", "compact", "segment.ms", "200", "min.cleanable.dirty.ratio", "0.001", "min.compaction.lag.ms", "0", "delete.retention.ms", "86400000"}
}

// keyed writes rounds of values and tombstones for few keys, each round into a
// segment of its own, in all codecs, and returns what was written.
func (m *maker) keyed(topic string, partitions int32, from, rounds, keys int) (written []*kgo.Record) {
	m.Helper()
	for round := from; round < from+rounds; round++ {
		var records []*kgo.Record
		for k := range keys {
			if (k+round)%3 == 0 {
				continue // an older value stays
			}
			r := &kgo.Record{Topic: topic, Partition: int32(k) % partitions, Key: fmt.Appendf(nil, "key %d", k), Value: fmt.Appendf(nil, "value %d of round %d", k, round)}
			if (k+round)%11 == 0 {
				r.Value = nil
			}
			if k%4 == 0 {
				r.Headers = []kgo.RecordHeader{{Key: "round", Value: fmt.Append(nil, round)}, {Key: "round", Value: nil}}
			}
			records = append(records, r)
		}
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		m.send(records, 1+round%40, kgo.ProducerBatchCompression(mirrorCodecs[round%len(mirrorCodecs)]))
		written = append(written, records...)
		time.Sleep(250 * time.Millisecond) // longer than segment.ms: the next one begins a segment
	}
	for p := range partitions { // ends the last segment: the cleaner leaves the one in use alone
		last := &kgo.Record{Topic: topic, Partition: p, Key: []byte("end"), Value: fmt.Append(nil, from+rounds)}
		m.send([]*kgo.Record{last}, 1)
		written = append(written, last)
	}
	return written
}

// cleaned waits until the log cleaner left no more than one record of each key
// below the last segment, and returns what a plain consumer sees then.
func (m *maker) cleaned(topic string) map[int32]*plainLog {
	m.Helper()
	var logs map[int32]*plainLog
	for until := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		var err error
		if logs, err = readPlain(m.Context(), m.seeds(), topic, uncommitted); err != nil {
			m.Fatal(err)
		}
		again := 0
		for _, l := range logs {
			seen := map[string]bool{}
			for _, r := range l.records {
				if seen[string(r.Key)] {
					again++
				}
				seen[string(r.Key)] = true
			}
		}
		if again <= len(logs) { // "end" is in the last segment, and perhaps in one before it
			return logs
		}
		if time.Now().After(until) {
			m.Fatalf("the log cleaner left %d older records in %s", again, topic)
		}
	}
}

// leaveAlone keeps the cleaner from this topic from now on.
func (m *maker) leaveAlone(topic string) {
	m.Helper()
	m.set(topic, "min.compaction.lag.ms", "86400000", "max.compaction.lag.ms", "9223372036854775807")
}

func (m *maker) set(topic string, settings ...string) {
	m.Helper()
	var alter []kadm.AlterConfig
	for i := 0; i < len(settings); i += 2 {
		alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: settings[i], Value: &settings[i+1]})
	}
	res, err := m.admin.AlterTopicConfigs(m.Context(), alter, topic)
	if err == nil {
		_, err = res.On(topic, nil)
	}
	if err != nil {
		m.Fatalf("set %s of %s: %v", settings[0], topic, err)
	}
}

func (m *maker) deleteBelow(topic string, partition int32, offset int64) {
	m.Helper()
	m.soon(fmt.Sprintf("delete records of %s below %d", topic, offset), func() error {
		res, err := m.admin.DeleteRecords(m.Context(), kadm.Offsets{topic: {partition: {Topic: topic, Partition: partition, At: offset}}})
		if err == nil {
			err = res.Error()
		}
		return err
	})
}

// soon tries until it works: a cluster that was just started, or a topic that
// was just made, has no leader for a moment.
func (m *maker) soon(what string, try func() error) {
	m.Helper()
	err := try()
	for until := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(until); err = try() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		m.Fatalf("%s: %v", what, err)
	}
}

// prefix makes a log that starts at an offset, as one does that has lived for
// long: batches of empty records, deleted again.
func (m *maker) prefix(topic string, start int64) {
	m.Helper()
	const most = 500_000
	var topics kadm.TopicDetails
	m.soon("find the leader of "+topic, func() error {
		var err error
		if topics, err = m.admin.ListTopics(m.Context(), topic); err == nil && topics[topic].Partitions[0].Leader < 0 {
			err = kerr.LeaderNotAvailable
		}
		return err
	})
	leader := m.cl.Broker(int(topics[topic].Partitions[0].Leader))
	full := emptyBatch(m.T, most)
	for at := int64(0); at < start; at += most {
		batch := full
		if left := start - at; left < most {
			batch = emptyBatch(m.T, int(left))
		}
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 30_000
		part := kmsg.NewProduceRequestTopicPartition()
		part.Records = batch
		t := kmsg.NewProduceRequestTopic()
		t.Topic, t.TopicID, t.Partitions = topic, topics[topic].ID, []kmsg.ProduceRequestTopicPartition{part}
		req.Topics = []kmsg.ProduceRequestTopic{t}
		ans, err := req.RequestWith(m.Context(), leader)
		if err == nil {
			err = kerr.ErrorForCode(ans.Topics[0].Partitions[0].ErrorCode)
		}
		if err != nil {
			m.Fatalf("fill %s at %d: %v", topic, at, err)
		}
	}
	m.deleteBelow(topic, 0, start)
}

// emptyBatch is one stored batch of n records without key and value.
func emptyBatch(t *testing.T, n int) []byte {
	t.Helper()
	var body []byte
	for i := range n {
		one := binary.AppendVarint([]byte{0, 0}, int64(i)) // attributes, timestamp, offset
		one = append(one, 1, 1, 0)                         // no key, no value, no headers
		body = append(binary.AppendVarint(body, int64(len(one))), one...)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: 4, LastOffsetDelta: int32(n - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(n), Records: z.EncodeAll(body, nil),
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// state is what the keys of a compacted log stand for: the last value of each.
func state(l *plainLog) map[string]string {
	s := map[string]string{}
	for _, r := range l.records {
		if r.Value == nil {
			delete(s, string(r.Key))
		} else {
			s[string(r.Key)] = string(r.Value)
		}
	}
	return s
}

// keptDifferences compares the copy of a log that was cleaned while it was
// copied. The copy may hold records that the source has removed since: then
// they are as they were written, and a later one of the same key follows.
func keptDifferences(source, target *plainLog, written map[int64]*kgo.Record) []string {
	var d []string
	if source.end != target.end {
		d = append(d, fmt.Sprintf("the log ends at %d, the copy at %d", source.end, target.end))
	}
	for name, l := range map[string]*plainLog{"source": source, "copy": target} {
		for _, r := range l.records {
			if w := written[r.Offset]; w == nil {
				d = append(d, fmt.Sprintf("%d: in the %s, but nobody wrote it", r.Offset, name))
			} else if what := recordDifference(w, r); what != "" {
				d = append(d, fmt.Sprintf("%d: what was written differs from the %s: %s", r.Offset, name, what))
			}
		}
	}
	has := map[int64]bool{}
	for _, r := range target.records {
		has[r.Offset] = true
	}
	for _, r := range source.records {
		if !has[r.Offset] {
			d = append(d, fmt.Sprintf("%d: missing in the copy", r.Offset))
		}
	}
	if a, b := state(source), state(target); !maps.Equal(a, b) {
		d = append(d, fmt.Sprintf("%d keys at the source are %d in the copy, or have other values", len(a), len(b)))
	}
	return d
}

func TestPlain_KnowsACleanedCopyFromABrokenOne(t *testing.T) {
	written := map[int64]*kgo.Record{}
	log := func(offsets ...int64) *plainLog {
		l := &plainLog{end: 6}
		for _, o := range offsets {
			l.records = append(l.records, written[o])
		}
		return l
	}
	for o := range int64(6) {
		written[o] = &kgo.Record{Offset: o, Key: fmt.Append(nil, o%3), Value: fmt.Append(nil, o)}
	}
	count := func(name string, want int, source, target *plainLog) {
		t.Helper()
		if d := keptDifferences(source, target, written); len(d) != want {
			t.Errorf("%s: %q, want %d", name, d, want)
		}
	}
	count("same", 0, log(3, 4, 5), log(3, 4, 5))
	count("the source was cleaned behind the copy", 0, log(3, 4, 5), log(0, 1, 2, 3, 4, 5))
	count("one is missing, and with it the key", 2, log(3, 4, 5), log(3, 5))
	count("one is missing, and its key falls back", 2, log(3, 4, 5), log(1, 3, 5))
	changed := log(3, 4, 5)
	changed.records[1] = &kgo.Record{Offset: 4, Key: []byte("1"), Value: []byte("x")}
	count("one is another, and with it the key", 2, log(3, 4, 5), changed)
	moved := log(3, 4, 5)
	moved.records = append(moved.records, &kgo.Record{Offset: 7, Key: []byte("2"), Value: []byte("5")})
	count("one that nobody wrote", 1, log(3, 4, 5), moved)
	short := log(3, 4, 5)
	short.end--
	count("the end", 1, log(3, 4, 5), short)
	if bytes.Equal(emptyBatch(t, 3), emptyBatch(t, 4)) {
		t.Error("batches of 3 and of 4 records are the same")
	}
}
