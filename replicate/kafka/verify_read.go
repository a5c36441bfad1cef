package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// The mirror must not judge itself: nothing below is decoded by the code that
// mirrors. Headers are read by kmsg and records by kgo, as any consumer would;
// what is aborted, a marker or corrupt is franz-go's word.

const (
	verifyFetch    = 4 << 20 // bytes asked for at a time
	verifyFetchMin = 64 << 10
	verifyTries    = 8 // at one request, while leaders move
	verifyAgain    = 250 * time.Millisecond
	verifyWait     = 250 * time.Millisecond // for what should be there
)

var (
	errTrimmed   = errors.New("the log begins above the offset now")
	errRecreated = errors.New("the topic was deleted, or made anew, during the comparison")
)

// side is one end of a comparison: a cluster, and what is known about it.
type side struct {
	end       replicate.End
	name      string
	cl        *kafka.Client
	isolation kgo.IsolationLevel
	level     int8 // the same, as a fetch says it
	decoder   kgo.Decompressor
	read      *meter // bytes that were read from it

	view *view
}

func (s *side) refresh(ctx context.Context) error {
	v, err := readView(ctx, s.cl)
	if err == nil {
		s.view = v
	}
	return err
}

// meter counts bytes, and waits so that no more than a rate are read.
type meter struct {
	mu sync.Mutex
	t  throttle
	n  int64
}

func (m *meter) wait(ctx context.Context) error {
	m.mu.Lock()
	d := m.t.wait(time.Now())
	m.mu.Unlock()
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (m *meter) spend(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n += int64(n)
	m.t.spend(time.Now(), n)
}

func (m *meter) bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

// unit is a stored batch, or records that were decoded from several.
type unit struct {
	raw     []byte
	head    kmsg.RecordBatch
	records []replicate.Visible
	decoded bool
}

func (u *unit) end() int64 { return u.head.FirstOffset + int64(u.head.LastOffsetDelta) + 1 }

func (u *unit) brokerTime() bool { return u.head.Attributes&8 != 0 }

// sameStored says that two batches hold the same records at the same offsets
// because all that their records are a function of is the same.
func sameStored(a, b *unit) bool {
	const codec = 7
	return a.head.FirstOffset == b.head.FirstOffset && a.head.LastOffsetDelta == b.head.LastOffsetDelta &&
		a.head.NumRecords == b.head.NumRecords && a.head.Attributes&codec == b.head.Attributes&codec &&
		a.brokerTime() == b.brokerTime() &&
		(a.brokerTime() || a.head.FirstTimestamp == b.head.FirstTimestamp && a.head.MaxTimestamp == b.head.MaxTimestamp) &&
		bytes.Equal(a.head.Records, b.head.Records)
}

// content is what the records of a batch are a function of, with a checksum
// in place of the records: hashing all of them would cost more than the rest.
func (u *unit) content(buf []byte) []byte {
	buf = binary.BigEndian.AppendUint64(buf, uint64(u.head.FirstOffset))
	buf = binary.BigEndian.AppendUint32(buf, uint32(u.head.LastOffsetDelta))
	buf = binary.BigEndian.AppendUint32(buf, uint32(u.head.NumRecords))
	buf = append(buf, byte(u.head.Attributes&15))
	if !u.brokerTime() {
		buf = binary.BigEndian.AppendUint64(buf, uint64(u.head.FirstTimestamp))
		buf = binary.BigEndian.AppendUint64(buf, uint64(u.head.MaxTimestamp))
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(u.head.Records)))
	return binary.BigEndian.AppendUint32(buf, crc32.Checksum(u.head.Records, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// cursor reads one end of one partition from one offset to another.
type cursor struct {
	*side
	spot    spot
	at, to  int64 // offsets below at were given out or hold nothing
	fetched int64 // what was asked for, up to here
	queue   []*unit
	ahead   chan fetched // one request that is under way; nil: none
	perByte float64      // offsets per stored byte, as last seen
}

type fetched struct {
	resp *kmsg.FetchResponseTopicPartition
	err  error
}

func (s *side) cursor(p topology.Partition, id replicate.TopicID) *cursor {
	return &cursor{side: s, spot: spot{Partition: p, id: id}}
}

// seek moves the cursor to another range. It must be at an end, or new.
func (c *cursor) seek(from, to int64) {
	c.at, c.fetched, c.to, c.queue = from, from, to, nil
}

// close waits for a request that is under way; its context must have ended or
// be about to.
func (c *cursor) close() {
	if c.ahead != nil {
		<-c.ahead
		c.ahead = nil
	}
}

// head returns the next unit with something in it, nil at the end of the range.
func (c *cursor) head(ctx context.Context) (*unit, error) {
	for {
		for len(c.queue) > 0 {
			u := c.queue[0]
			if u.decoded && len(u.records) == 0 {
				c.pop()
				continue
			}
			return u, nil
		}
		if c.fetched >= c.to {
			c.at = c.to
			return nil, nil
		}
		if err := c.load(ctx); err != nil {
			return nil, err
		}
	}
}

func (c *cursor) pop() {
	c.at = max(c.at, c.queue[0].end())
	c.queue = c.queue[1:]
}

// record returns the next record, nil at the end of the range.
func (c *cursor) record(ctx context.Context) (*replicate.Visible, error) {
	for {
		u, err := c.head(ctx)
		if u == nil {
			return nil, err
		}
		if u.decoded {
			return &u.records[0], nil
		}
		if err := c.decode(u); err != nil {
			return nil, err
		}
	}
}

// take removes the record that record returned.
func (c *cursor) take() {
	u := c.queue[0]
	c.at = u.records[0].Offset + 1
	if u.records = u.records[1:]; len(u.records) == 0 {
		c.pop()
	}
}

// load fetches what follows.
func (c *cursor) load(ctx context.Context) error {
	var got fetched
	if c.ahead != nil {
		got = <-c.ahead
		c.ahead = nil
	} else {
		got = c.fetch(ctx, c.fetched)
	}
	if got.err != nil {
		return got.err
	}
	from := c.fetched
	units, err := c.units(got.resp)
	if err != nil {
		return err
	}
	if c.fetched <= from {
		return fmt.Errorf("fetch at %d from kafka %s gave no whole batch", from, c.name)
	}
	if n := len(got.resp.RecordBatches); n > 0 {
		c.perByte = float64(c.fetched-from) / float64(n)
	}
	c.queue = units
	if c.fetched < c.to && ctx.Err() == nil {
		ahead, at := make(chan fetched, 1), c.fetched
		c.ahead = ahead
		go func() { ahead <- c.fetch(ctx, at) }() // close, or the next load, waits for it
	}
	return nil
}

// units splits an answer into batches. Where transactions were aborted, all of
// it is decoded at once, as only the order of the batches tells what counts.
func (c *cursor) units(resp *kmsg.FetchResponseTopicPartition) ([]*unit, error) {
	aborted := c.level == 1 && len(resp.AbortedTransactions) > 0
	var out []*unit
	from := c.fetched
	first := from
	for in := resp.RecordBatches; len(in) > 17; {
		length := 12 + int64(int32(binary.BigEndian.Uint32(in[8:])))
		if length < 12 || int64(len(in)) < length {
			break // the last one may be cut off
		}
		base := int64(binary.BigEndian.Uint64(in))
		if magic := in[16]; magic != 2 {
			return nil, fmt.Errorf("kafka %s stores message format %d at %d; only format 2 is mirrored", c.name, magic, base)
		}
		u := &unit{raw: in[:length:length]}
		if err := u.head.ReadFrom(u.raw); err != nil {
			return nil, fmt.Errorf("kafka %s, batch at %d: %w", c.name, base, err)
		}
		in = in[length:]
		if u.end() <= from {
			continue // a broker may begin with earlier ones
		}
		c.fetched = max(c.fetched, u.end())
		if base >= c.to {
			break // nothing more below the end
		}
		const control = 0x20
		if !aborted && (u.head.Attributes&control != 0 || u.head.NumRecords == 0) {
			continue
		}
		out = append(out, u)
	}
	if !aborted || len(out) == 0 {
		return out, nil
	}
	all := &unit{head: out[len(out)-1].head}
	err := c.decodeInto(all, resp, first)
	return []*unit{all}, err
}

// decode decodes a batch as a consumer would. Its transaction was committed.
func (c *cursor) decode(u *unit) error {
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.Partition, rp.RecordBatches = c.spot.Partition.Partition, u.raw
	return c.decodeInto(u, &rp, c.at)
}

// decodeInto decodes what lies within the range, from an offset on.
func (c *cursor) decodeInto(u *unit, rp *kmsg.FetchResponseTopicPartition, from int64) error {
	opts := kgo.ProcessFetchPartitionOpts{Offset: from, IsolationLevel: c.isolation, Topic: c.spot.Topic, Partition: c.spot.Partition.Partition}
	got, next := kgo.ProcessFetchPartition(opts, rp, c.decoder, nil)
	if got.Err == nil && next < min(u.end(), c.to) {
		got.Err = fmt.Errorf("its records end at %d, its header says %d", next, u.end())
	}
	if got.Err != nil {
		return fmt.Errorf("kafka %s: what is stored at %d cannot be read: %w", c.name, from, got.Err)
	}
	u.records, u.decoded = make([]replicate.Visible, 0, len(got.Records)), true
	last := from - 1
	for _, r := range got.Records {
		if r.Offset >= c.to {
			break
		}
		if r.Offset <= last {
			return fmt.Errorf("kafka %s: the record after %d says that it is at %d", c.name, last, r.Offset)
		}
		last = r.Offset
		u.records = append(u.records, visible(r))
	}
	return nil
}

func visible(r *kgo.Record) replicate.Visible {
	v := replicate.Visible{
		Record:     replicate.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value},
		BrokerTime: r.Attrs.TimestampType() == 1,
	}
	for _, h := range r.Headers {
		v.Headers = append(v.Headers, replicate.RecordHeader{Key: []byte(h.Key), Value: h.Value})
	}
	return v
}

// fetch asks for what is stored from an offset on, again while leaders move.
func (c *cursor) fetch(ctx context.Context, at int64) fetched {
	var last error
	for try := range verifyTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return fetched{err: ctx.Err()}
			case <-time.After(verifyAgain):
			}
		}
		if err := c.read.wait(ctx); err != nil {
			return fetched{err: err}
		}
		resp, err := c.once(ctx, at, try > 0)
		if err == nil {
			return fetched{resp: resp}
		}
		if ctx.Err() != nil {
			return fetched{err: ctx.Err()}
		}
		if errors.Is(err, errTrimmed) || errors.Is(err, errRecreated) {
			return fetched{err: err}
		}
		last = err
	}
	return fetched{err: fmt.Errorf("fetch %s at %d from kafka %s, %d times: %w", c.spot.Partition, at, c.name, verifyTries, last)}
}

func (c *cursor) once(ctx context.Context, at int64, again bool) (*kmsg.FetchResponseTopicPartition, error) {
	if again || c.view == nil {
		if err := c.refresh(ctx); err != nil {
			return nil, err
		}
	}
	t, home, ok := c.view.part(c.spot.Partition)
	switch {
	case !ok:
		return nil, fmt.Errorf("kafka %s has no such partition", c.name)
	case t.id != c.spot.id:
		return nil, errRecreated
	case home.leader < 0:
		return nil, fmt.Errorf("kafka %s has no leader for it", c.name)
	}
	c.spot.epoch = home.epoch
	ask := int32(verifyFetch)
	if c.perByte > 0 {
		ask = int32(min(verifyFetch, max(verifyFetchMin, 1.25*float64(c.to-at)/c.perByte)))
	} else if c.to-at <= verifyPiece {
		ask = 256 << 10 // a piece of a sample, of records of unknown size
	}
	req := fetchRequest(verifyWait, ask, c.level)
	addFetch(req, c.spot, at, -1, ask)
	raw, err := c.cl.Kgo.Broker(int(home.leader)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := raw.(*kmsg.FetchResponse)
	if err := fetchError(resp); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errNoAnswer
	}
	p := &resp.Topics[0].Partitions[0]
	c.read.spend(len(p.RecordBatches))
	switch err := kerr.ErrorForCode(p.ErrorCode); {
	case errors.Is(err, kerr.OffsetOutOfRange):
		return nil, errTrimmed
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
		return nil, errRecreated
	case err != nil:
		return nil, err
	}
	if len(p.RecordBatches) == 0 {
		return nil, fmt.Errorf("nothing at %d, though the log ends at %d", at, c.to)
	}
	return p, nil
}
