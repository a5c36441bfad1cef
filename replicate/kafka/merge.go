package kafka

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/replicate"
)

// mergeUnpacked is how many bytes the records of a merged batch may take
// before compression. The batch that reaches it is the last one.
const mergeUnpacked = 8 << 20

// merge joins as many of the first batches as may stand in one of maxBytes,
// and returns how many that are. Each must go on where the one before it ends,
// with the same codec or none, as a producer leaves a batch that does not get
// smaller, and from the same leader epoch; the producer must have
// set the times, as one batch has only one log append time. The records keep
// their offsets, times, keys, values and headers.
//
// One batch, or a first one that joins with nothing, is returned as it is. So
// is a first one that is larger than maxBytes by itself.
func merge(batches []replicate.Batch, maxBytes int) (replicate.Batch, int, error) {
	n := mergeable(batches, maxBytes)
	for n > 1 {
		b, joined, err := join(batches[:n])
		if err != nil {
			return replicate.Batch{}, 0, err
		}
		if joined > 1 && b.Size() <= maxBytes {
			return b, joined, nil
		}
		n = joined / 2 // deltas grow with the batch; headers saved do not always pay for it
	}
	if len(batches) == 0 {
		return replicate.Batch{}, 0, nil
	}
	return batches[0], 1, nil
}

// mergeable returns how many of the first batches go together.
func mergeable(batches []replicate.Batch, maxBytes int) int {
	size, codec := 0, int8(0)
	for i, b := range batches {
		size += b.Size()
		switch {
		case b.Void() || !b.Contiguous() || b.LogAppendTime() || size > maxBytes:
			return i
		case i > 0 && (b.Base != batches[i-1].End() || b.LeaderEpoch != batches[0].LeaderEpoch):
			return i
		case b.Codec() != 0 && codec != 0 && b.Codec() != codec:
			return i
		}
		codec = max(codec, b.Codec())
	}
	return len(batches)
}

func join(batches []replicate.Batch) (replicate.Batch, int, error) {
	h, n := batches[0].Header, 0
	for _, b := range batches {
		if b.Codec() != 0 {
			h.Attributes = b.Attributes
			break
		}
	}
	e := replicate.NewEncoder(h)
	for _, b := range batches {
		if err := eachRecord(b, e.Add); err != nil {
			return replicate.Batch{}, 0, fmt.Errorf("merge batches from %d on: %w", batches[0].Base, err)
		}
		if n++; e.Size() >= mergeUnpacked {
			break
		}
	}
	out, err := e.Batch(packer(h.Codec()))
	if err == nil && (out.Base != batches[0].Base || out.End() != batches[n-1].End()) {
		err = fmt.Errorf("merge batches from %d to %d: their records lie from %d to %d", batches[0].Base, batches[n-1].End(), out.Base, out.End())
	}
	if err != nil {
		return replicate.Batch{}, 0, err
	}
	return out, n, nil
}
