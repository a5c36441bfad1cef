package replicate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// HeaderSize is the length of a version 2 record batch before its records.
const HeaderSize = 61

// Attribute bits of a record batch. The lowest three name the codec.
const (
	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

// Errors of NextBatch that its caller decides on.
var (
	// ErrPartial says that the bytes end inside a batch, as the last batch of
	// a fetch may.
	ErrPartial = errors.New("record batch is cut off")
	// ErrOldFormat says that a batch is older than message format 2.
	ErrOldFormat = errors.New("message format is older than 2")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is what a record batch says about itself.
type Header struct {
	Base           int64 // offset of the first record
	LeaderEpoch    int32 // leader epoch in which the batch was appended
	Attributes     int16
	LastDelta      int32 // offset of the last record, less Base
	FirstTimestamp int64 // milliseconds since 1970
	MaxTimestamp   int64
	ProducerID     int64 // -1: none
	ProducerEpoch  int16
	BaseSequence   int32
	Count          int32 // records in the batch; less than LastDelta+1 after compaction
}

// End returns one past the last offset of the batch.
func (h Header) End() int64 { return h.Base + int64(h.LastDelta) + 1 }

// Codec returns the compression codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
func (h Header) Codec() int8 { return int8(h.Attributes & attrCodec) }

// Control says whether the batch is a transaction marker.
func (h Header) Control() bool { return h.Attributes&attrControl != 0 }

// Transactional says whether the batch belongs to a transaction.
func (h Header) Transactional() bool { return h.Attributes&attrTransactional != 0 }

// LogAppendTime says whether the broker, not the producer, set the time.
func (h Header) LogAppendTime() bool { return h.Attributes&attrLogAppendTime != 0 }

// Contiguous says whether every offset of the batch holds a record. Kafka
// keeps first and last offset when it compacts, so counting is enough.
func (h Header) Contiguous() bool { return h.Count > 0 && h.Count == h.LastDelta+1 }

// Batch is one record batch as it is stored, with its header parsed.
type Batch struct {
	Header
	Raw []byte // the whole batch; owned by whoever made the Batch, never changed but by RestampInPlace
}

// Size returns the number of stored bytes.
func (b Batch) Size() int { return len(b.Raw) }

// Payload returns the records of the batch, compressed as they are stored.
func (b Batch) Payload() []byte { return b.Raw[HeaderSize:] }

// CoordinatorEpoch returns the coordinator epoch of a transaction marker, from
// its record (KIP-98: a value of version and epoch).
func (b Batch) CoordinatorEpoch() (int32, error) {
	if !b.Control() || b.Codec() != 0 {
		return 0, fmt.Errorf("batch at %d is no transaction marker", b.Base)
	}
	epoch, found := int32(0), false
	err := Records(b.Header, b.Payload(), func(r Record) error {
		if len(r.Key) != 4 || len(r.Value) < 6 {
			return errRecordShort
		}
		epoch, found = int32(binary.BigEndian.Uint32(r.Value[2:])), true
		return nil
	})
	if err == nil && !found {
		err = errors.New("it has no record")
	}
	if err != nil {
		return 0, fmt.Errorf("transaction marker at %d: %w", b.Base, err)
	}
	return epoch, nil
}

// NextBatch parses and checks the first batch of raw, including its checksum,
// and returns what follows it. It returns ErrPartial when raw ends within the
// batch and ErrOldFormat for message formats 0 and 1; the batch then holds
// nothing but Base. Raw is kept, not copied.
func NextBatch(raw []byte) (Batch, []byte, error) {
	if len(raw) < 17 {
		return Batch{}, nil, ErrPartial
	}
	base := int64(binary.BigEndian.Uint64(raw[0:]))
	length := int64(int32(binary.BigEndian.Uint32(raw[8:])))
	if magic := int8(raw[16]); magic < 2 {
		return Batch{Header: Header{Base: base}}, nil, ErrOldFormat
	} else if magic > 2 {
		return Batch{}, nil, fmt.Errorf("record batch at %d: unknown message format %d", base, magic)
	}
	if length < HeaderSize-12 {
		return Batch{}, nil, fmt.Errorf("record batch at %d: length %d is less than its header", base, length)
	}
	if int64(len(raw)) < 12+length {
		return Batch{}, nil, ErrPartial
	}
	b := Batch{Raw: raw[: 12+length : 12+length], Header: Header{
		Base:           base,
		LeaderEpoch:    int32(binary.BigEndian.Uint32(raw[12:])),
		Attributes:     int16(binary.BigEndian.Uint16(raw[21:])),
		LastDelta:      int32(binary.BigEndian.Uint32(raw[23:])),
		FirstTimestamp: int64(binary.BigEndian.Uint64(raw[27:])),
		MaxTimestamp:   int64(binary.BigEndian.Uint64(raw[35:])),
		ProducerID:     int64(binary.BigEndian.Uint64(raw[43:])),
		ProducerEpoch:  int16(binary.BigEndian.Uint16(raw[51:])),
		BaseSequence:   int32(binary.BigEndian.Uint32(raw[53:])),
		Count:          int32(binary.BigEndian.Uint32(raw[57:])),
	}}
	if want, got := binary.BigEndian.Uint32(raw[17:]), crc32.Checksum(b.Raw[21:], castagnoli); want != got {
		return Batch{}, nil, fmt.Errorf("record batch at %d: checksum is %08x, want %08x", base, got, want)
	}
	if b.LastDelta < 0 || b.Count < 0 || b.Base < 0 || b.End() < b.Base {
		return Batch{}, nil, fmt.Errorf("record batch at %d: last offset delta %d, count %d", base, b.LastDelta, b.Count)
	}
	return b, raw[12+length:], nil
}

// ParseBatches parses all whole batches of raw and drops a cut off last one.
// It returns the good batches before an error together with the error.
func ParseBatches(raw []byte) ([]Batch, error) {
	var out []Batch
	for len(raw) > 0 {
		b, rest, err := NextBatch(raw)
		if errors.Is(err, ErrPartial) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out, raw = append(out, b), rest
	}
	return out, nil
}

// Restamp returns a copy of the batch as the target must get it: base offset 0
// and leader epoch -1, which the broker sets, the stamp of our run, and without
// the bits that a broker refuses or misreads from a client. The records stay
// as they are, byte for byte.
func (b Batch) Restamp(s Stamp) []byte {
	b.Raw = bytes.Clone(b.Raw)
	return b.RestampInPlace(s)
}

// RestampInPlace is Restamp without the copy: it changes Raw and returns it.
// It is for who owns the bytes and reads the batch for the last time.
func (b Batch) RestampInPlace(s Stamp) []byte {
	out := b.Raw
	attrs := b.Attributes &^ (attrLogAppendTime | attrTransactional | attrDeleteHorizon)
	binary.BigEndian.PutUint64(out[0:], 0)
	binary.BigEndian.PutUint32(out[12:], ^uint32(0))
	binary.BigEndian.PutUint16(out[21:], uint16(attrs))
	binary.BigEndian.PutUint64(out[43:], uint64(s.ProducerID))
	binary.BigEndian.PutUint16(out[51:], uint16(s.Epoch))
	binary.BigEndian.PutUint32(out[53:], uint32(s.Sequence))
	binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[21:], castagnoli))
	return out
}

// SameContent says whether two stored batches hold the same records at the
// same offsets with the same stored bytes. It ignores who wrote them, in which
// leader epoch, and the time that a broker put on them itself. False does not
// prove a difference when the brokers store different codecs or boundaries:
// then compare records (see Records).
func SameContent(a, b Batch) bool {
	return a.Base == b.Base && a.LastDelta == b.LastDelta && a.Count == b.Count &&
		a.Codec() == b.Codec() && a.Control() == b.Control() &&
		(a.LogAppendTime() || b.LogAppendTime() || a.MaxTimestamp == b.MaxTimestamp && a.FirstTimestamp == b.FirstTimestamp) &&
		bytes.Equal(a.Payload(), b.Payload())
}
