package replicate

import (
	"encoding/binary"
	"hash/crc32"
)

// testBatch builds a stored, uncompressed batch with the given header fields
// and payload, as a broker would keep it.
func testBatch(h Header, payload []byte) Batch {
	raw := make([]byte, HeaderSize, HeaderSize+len(payload))
	raw = append(raw, payload...)
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
	b, rest, err := NextBatch(raw)
	if err != nil || len(rest) != 0 {
		panic(err) // the builder and the parser disagree: a bug in this file
	}
	return b
}

// plain is a contiguous batch of n records at base.
func plain(base int64, n int32) Batch {
	return testBatch(Header{Base: base, LastDelta: n - 1, Count: n, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, LeaderEpoch: 1, FirstTimestamp: 1000, MaxTimestamp: 1000}, []byte{byte(base), byte(n)})
}

// testRecords encodes records as the payload of a batch.
func testRecords(h Header, records ...Record) []byte {
	var out []byte
	field := func(dst, f []byte) []byte {
		if f == nil {
			return binary.AppendVarint(dst, -1)
		}
		return append(binary.AppendVarint(dst, int64(len(f))), f...)
	}
	for _, r := range records {
		body := []byte{0}
		body = binary.AppendVarint(body, r.Timestamp-h.FirstTimestamp)
		body = binary.AppendVarint(body, r.Offset-h.Base)
		body = field(field(body, r.Key), r.Value)
		body = binary.AppendVarint(body, int64(len(r.Headers)))
		for _, x := range r.Headers {
			body = field(field(body, x.Key), x.Value)
		}
		out = append(binary.AppendVarint(out, int64(len(body))), body...)
	}
	return out
}
