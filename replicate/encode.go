package replicate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Void says that no record of the batch may be shown at the target: it is a
// transaction marker, a batch that the log cleaner emptied, or what stands for
// aborted records (see VoidBatch). At the target its offsets are a hole.
func (b Batch) Void() bool { return b.Count == 0 || b.Control() }

// voidMost is how many offsets one void batch may cover.
const voidMost = math.MaxInt32 + 1

// VoidBatch stands for offsets from base to end that hold nothing to show. It
// has no bytes: Raw is nil. A batch covers 2^31 offsets at most; behind its End
// the caller goes on with another.
func VoidBatch(base, end int64, leaderEpoch int32) Batch {
	return Batch{Header: Header{Base: base, LastDelta: int32(min(end-base, voidMost) - 1), LeaderEpoch: leaderEpoch}}
}

// Compress packs the records of a batch with the codec that its header names.
type Compress func(payload []byte) ([]byte, error)

// Encode builds the batch that holds records, which must follow each other
// without a gap. See Encoder.
func Encode(h Header, records []Record, compress Compress) (Batch, error) {
	e := NewEncoder(h)
	for _, r := range records {
		if err := e.Add(r); err != nil {
			return Batch{}, err
		}
	}
	return e.Batch(compress)
}

// Encoder builds one batch record by record, so that a large one is never held
// as records. The first record gives the batch its offset.
type Encoder struct {
	h    Header
	raw  []byte
	body []byte // of one record; kept for the next
}

// NewEncoder begins a batch with the codec, the kind of time and the leader
// epoch of h. Offsets, times and count come from the records; a log append time
// is h's MaxTimestamp, for all of them. Who wrote h is not kept.
func NewEncoder(h Header) *Encoder {
	return &Encoder{raw: make([]byte, HeaderSize, 2*HeaderSize), h: Header{
		LeaderEpoch: h.LeaderEpoch, Attributes: h.Attributes & (attrCodec | attrLogAppendTime), MaxTimestamp: h.MaxTimestamp,
		LastDelta: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
	}}
}

// Count returns the number of records so far.
func (e *Encoder) Count() int { return int(e.h.Count) }

// Size returns the size of the batch so far, before compression.
func (e *Encoder) Size() int { return len(e.raw) }

// Add appends a record. The record is copied.
func (e *Encoder) Add(r Record) error {
	switch {
	case e.h.Count == 0:
		e.h.Base = r.Offset
		if !e.h.LogAppendTime() {
			e.h.MaxTimestamp = r.Timestamp
		}
		e.h.FirstTimestamp = e.h.MaxTimestamp
	case r.Offset != e.h.End():
		return fmt.Errorf("encode the batch at %d: a record at %d follows one at %d", e.h.Base, r.Offset, e.h.End()-1)
	}
	if e.h.LogAppendTime() && r.Timestamp != e.h.MaxTimestamp {
		return fmt.Errorf("encode the batch at %d: the record at %d has time %d, but all have the log append time %d", e.h.Base, r.Offset, r.Timestamp, e.h.MaxTimestamp)
	}
	b := e.body[:0]
	b = append(b, 0) // attributes, of which there are none
	b = binary.AppendVarint(b, r.Timestamp-e.h.FirstTimestamp)
	b = binary.AppendVarint(b, int64(e.h.Count))
	b = appendField(appendField(b, r.Key), r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for _, h := range r.Headers {
		if h.Key == nil {
			return fmt.Errorf("encode the batch at %d: the record at %d has a header without a name", e.h.Base, r.Offset)
		}
		b = appendField(appendField(b, h.Key), h.Value)
	}
	e.body = b
	if len(e.raw)+len(b)+binary.MaxVarintLen64 > math.MaxInt32 {
		return fmt.Errorf("encode the batch at %d: its records take more than 2 GiB", e.h.Base)
	}
	e.raw = append(binary.AppendVarint(e.raw, int64(len(b))), b...)
	e.h.MaxTimestamp = max(e.h.MaxTimestamp, r.Timestamp)
	e.h.LastDelta++
	e.h.Count++
	return nil
}

// Batch ends the batch and returns it. The Encoder must not be used again.
// Compress may be nil when the header names no codec.
func (e *Encoder) Batch(compress Compress) (Batch, error) {
	h := e.h
	if h.Count == 0 {
		return Batch{}, errors.New("encode a batch: it has no records")
	}
	if h.Base < 0 || h.End() < h.Base {
		return Batch{}, fmt.Errorf("encode the batch at %d: no such offset", h.Base)
	}
	raw := e.raw
	if h.Codec() != 0 {
		packed, err := compress(raw[HeaderSize:])
		if err != nil {
			return Batch{}, fmt.Errorf("encode the batch at %d: %w", h.Base, err)
		}
		if len(packed) > math.MaxInt32-HeaderSize {
			return Batch{}, fmt.Errorf("encode the batch at %d: its records take more than 2 GiB", h.Base)
		}
		raw = append(make([]byte, HeaderSize, HeaderSize+len(packed)), packed...)
	}
	h.put(raw)
	return Batch{Header: h, Raw: raw}, nil
}

// put writes the header and the checksum of the whole batch in raw.
func (h Header) put(raw []byte) {
	put := binary.BigEndian
	put.PutUint64(raw[0:], uint64(h.Base))
	put.PutUint32(raw[8:], uint32(len(raw)-12))
	put.PutUint32(raw[12:], uint32(h.LeaderEpoch))
	raw[16] = 2
	put.PutUint16(raw[21:], uint16(h.Attributes))
	put.PutUint32(raw[23:], uint32(h.LastDelta))
	put.PutUint64(raw[27:], uint64(h.FirstTimestamp))
	put.PutUint64(raw[35:], uint64(h.MaxTimestamp))
	put.PutUint64(raw[43:], uint64(h.ProducerID))
	put.PutUint16(raw[51:], uint16(h.ProducerEpoch))
	put.PutUint32(raw[53:], uint32(h.BaseSequence))
	put.PutUint32(raw[57:], uint32(h.Count))
	put.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
}

// appendField appends bytes framed by their length; null has length -1.
func appendField(dst, f []byte) []byte {
	if f == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(f))), f...)
}
