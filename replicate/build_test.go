package replicate

import (
	"encoding/binary"
)

// testBatch builds a stored, uncompressed batch with the given header fields
// and payload, as a broker would keep it.
func testBatch(h Header, payload []byte) Batch {
	raw := make([]byte, HeaderSize, HeaderSize+len(payload))
	raw = append(raw, payload...)
	h.put(raw)
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
	for _, r := range records {
		body := []byte{0}
		body = binary.AppendVarint(body, r.Timestamp-h.FirstTimestamp)
		body = binary.AppendVarint(body, r.Offset-h.Base)
		body = appendField(appendField(body, r.Key), r.Value)
		body = binary.AppendVarint(body, int64(len(r.Headers)))
		for _, x := range r.Headers {
			body = appendField(appendField(body, x.Key), x.Value)
		}
		out = append(binary.AppendVarint(out, int64(len(body))), body...)
	}
	return out
}
