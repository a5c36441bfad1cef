package kafka

import (
	"bytes"
	"fmt"
	"maps"

	"github.com/holdfast-dr/holdfast/replicate"
)

// eachRecord decodes a batch and gives its records to yield.
func eachRecord(b replicate.Batch, yield func(replicate.Record) error) error {
	payload, err := unpack(b.Payload(), b.Codec())
	if err != nil {
		return fmt.Errorf("decompress the batch at %d: %w", b.Base, err)
	}
	return replicate.Records(b.Header, payload, yield)
}

// canonical returns the records of b in [lo, hi) by offset, in a form that does
// not depend on how a broker stores them.
func canonical(b replicate.Batch, lo, hi int64, withTime bool) (map[int64][]byte, error) {
	out := map[int64][]byte{}
	err := eachRecord(b, func(r replicate.Record) error {
		if lo <= r.Offset && r.Offset < hi {
			out[r.Offset] = r.AppendCanonical(nil, withTime)
		}
		return nil
	})
	return out, err
}

// sameRecords compares the records of two batches in [lo, hi). Of a compacted
// topic only the offsets that both still have count.
func sameRecords(a, b replicate.Batch, lo, hi int64, compacted bool) (bool, error) {
	withTime := !a.LogAppendTime() && !b.LogAppendTime()
	x, err := canonical(a, lo, hi, withTime)
	if err != nil {
		return false, err
	}
	y, err := canonical(b, lo, hi, withTime)
	if err != nil {
		return false, err
	}
	if !compacted {
		return maps.EqualFunc(x, y, bytes.Equal), nil
	}
	for offset, r := range x {
		if other, both := y[offset]; both && !bytes.Equal(r, other) {
			return false, nil
		}
	}
	return true, nil
}
