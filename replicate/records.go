package replicate

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Record is one decoded record. Its slices point into the payload.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds since 1970, as a consumer sees it
	Key       []byte
	Value     []byte
	Headers   []RecordHeader
}

// RecordHeader is one header of a record.
type RecordHeader struct {
	Key   []byte
	Value []byte
}

var errRecordShort = errors.New("record is cut off")

// Records decodes the records of a batch from its uncompressed payload and
// gives each to yield, in order. It returns the first error, its own or
// yield's.
func Records(h Header, payload []byte, yield func(Record) error) error {
	for i := range h.Count {
		r, rest, err := nextRecord(h, payload)
		if err != nil {
			return fmt.Errorf("record %d of the batch at %d: %w", i, h.Base, err)
		}
		if err := yield(r); err != nil {
			return err
		}
		payload = rest
	}
	if len(payload) > 0 {
		return fmt.Errorf("batch at %d: %d bytes behind its last record", h.Base, len(payload))
	}
	return nil
}

func nextRecord(h Header, b []byte) (Record, []byte, error) {
	size, n := binary.Varint(b)
	if n <= 0 || size < 1 || size > int64(len(b)-n) {
		return Record{}, nil, errRecordShort
	}
	rest := b[n+int(size):]
	b = b[n+1 : n+int(size)] // one byte of attributes, unused
	var r Record
	number := func() (v int64) {
		v, n := binary.Varint(b)
		if n <= 0 {
			b = nil
			return -2
		}
		b = b[n:]
		return v
	}
	field := func() ([]byte, bool) {
		size := number()
		if size == -1 {
			return nil, true
		}
		if size < 0 || size > int64(len(b)) {
			return nil, false
		}
		f := b[:size:size]
		b = b[size:]
		return f, true
	}
	stamp := number()
	delta := number()
	if b == nil || delta < 0 || delta > int64(h.LastDelta) {
		return Record{}, nil, errRecordShort
	}
	r.Offset, r.Timestamp = h.Base+delta, h.FirstTimestamp+stamp
	if h.LogAppendTime() {
		r.Timestamp = h.MaxTimestamp
	}
	var ok bool
	if r.Key, ok = field(); !ok {
		return Record{}, nil, errRecordShort
	}
	if r.Value, ok = field(); !ok {
		return Record{}, nil, errRecordShort
	}
	count := number()
	if count < 0 || count > int64(len(b)) { // a header takes two bytes at least
		return Record{}, nil, errRecordShort
	}
	for range count {
		var rh RecordHeader
		if rh.Key, ok = field(); !ok || rh.Key == nil {
			return Record{}, nil, errRecordShort
		}
		if rh.Value, ok = field(); !ok {
			return Record{}, nil, errRecordShort
		}
		r.Headers = append(r.Headers, rh)
	}
	if len(b) > 0 {
		return Record{}, nil, fmt.Errorf("%d bytes behind the last header", len(b))
	}
	return r, rest, nil
}

// AppendCanonical appends a form of the record that is the same wherever and
// however it is stored: each part framed by its length, null told from empty.
// The time is left out when a broker may have set it.
func (r Record) AppendCanonical(dst []byte, withTime bool) []byte {
	dst = binary.AppendVarint(dst, r.Offset)
	if withTime {
		dst = binary.AppendVarint(dst, r.Timestamp)
	}
	dst = appendField(appendField(dst, r.Key), r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = appendField(appendField(dst, h.Key), h.Value)
	}
	return dst
}
