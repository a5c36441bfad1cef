package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/replicate"
)

// fillerMost is how many records one filler batch has at most. Twice as many
// are not faster, and a broker keeps an object for each record of the batch
// that it checks.
const fillerMost = 250_000

// filler returns a batch of n empty records at offset base, which takes the
// place of records that the source no longer has. A compacted topic takes no
// record without a key: there the key is empty.
//
// The records have no time, so that no bound of a topic on times refuses them
// and no search by time finds one. The topic must take zstd as it is; its
// bound on a batch must be fillerBytes or more.
func filler(n int, base int64, compacted bool) (replicate.Batch, error) {
	if n < 1 || n > fillerMost || base < 0 {
		return replicate.Batch{}, fmt.Errorf("filler of %d records at %d: want 1 to %d records", n, base, fillerMost)
	}
	if n < fillerMost {
		return newFiller(n, base, compacted)
	}
	full := fullFiller
	if compacted {
		full = fullCompacted
	}
	b, err := full()
	if err != nil {
		return replicate.Batch{}, err
	}
	// The base lies outside the checksum.
	raw := bytes.Clone(b.Raw)
	binary.BigEndian.PutUint64(raw, uint64(base))
	b.Base, b.Raw = base, raw
	return b, nil
}

// fillerBytes is more than the size of any filler batch. A topic takes four
// times as much unless its max.message.bytes says otherwise.
const fillerBytes = 256 << 10

// The full batch is nearly all that a long prefix takes: it is made once.
var (
	fullFiller    = sync.OnceValues(func() (replicate.Batch, error) { return newFiller(fillerMost, 0, false) })
	fullCompacted = sync.OnceValues(func() (replicate.Batch, error) { return newFiller(fillerMost, 0, true) })
)

func newFiller(n int, base int64, compacted bool) (replicate.Batch, error) {
	r := replicate.Record{Timestamp: -1}
	if compacted {
		r.Key = []byte{}
	}
	e := replicate.NewEncoder(replicate.Header{Attributes: int16(kgo.CodecZstd), LeaderEpoch: -1})
	for i := range n {
		r.Offset = base + int64(i)
		if err := e.Add(r); err != nil {
			return replicate.Batch{}, err
		}
	}
	return e.Batch(packer(int8(kgo.CodecZstd)))
}
