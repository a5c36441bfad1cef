package kafka

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/replicate"
)

// abortedTx is a transaction of which a broker says that it was aborted.
type abortedTx = kmsg.FetchResponseTopicPartitionAbortedTransaction

// shapedMost is how many batches one answer is cut into at most. A batch may
// unpack to millions of records with a gap behind each.
const shapedMost = 1 << 16

// errShaped ends the reading of a batch that gave as many.
var errShaped = errors.New("cut into as many batches as one answer may give")

// shape turns what a read_committed fetch at offset from answered for one
// partition into batches that the target can hold at the same offsets. It is a
// function of its arguments alone, so that mirrors that race each other cut
// alike.
//
// A batch without gaps stays as it is, byte for byte. A batch with gaps becomes
// one batch for each run of records without one: brokers refuse gaps, or worse,
// close them. Transaction markers, aborted records and emptied batches become
// void batches, and so do the offsets of a batch before its first and behind
// its last record. Within a batch and between batches a gap is left as it is:
// who reads on sees the next offset. Offsets below from are cut off.
//
// With an error it returns what the batches before the broken one gave. What
// would be more than shapedMost batches ends there, between two of them: the
// caller goes on from the End of the last, as with a short answer.
func shape(batches []replicate.Batch, from int64, aborted []abortedTx) ([]replicate.Batch, error) {
	var out []replicate.Batch
	tx := newAborts(aborted)
	next := int64(0)
	for _, b := range batches {
		if b.Base < next {
			return out, fmt.Errorf("batch at %d begins below the end of the one before it, %d", b.Base, next)
		}
		next = b.End()
		void, err := tx.hides(b)
		if err != nil {
			return out, err
		}
		base := max(b.Base, from)
		switch {
		case next <= from:
		case void || b.Void():
			out = appendShaped(out, replicate.VoidBatch(base, next, b.LeaderEpoch))
		case b.Contiguous() && base == b.Base:
			out = append(out, b)
		default:
			parts, err := cut(b, base, shapedMost-len(out))
			if err != nil && !errors.Is(err, errShaped) {
				return out, err
			}
			for _, p := range parts {
				out = appendShaped(out, p)
			}
			if err != nil {
				return out, nil //nolint:nilerr // the rest is read from the next answer
			}
		}
		if len(out) >= shapedMost {
			break
		}
	}
	return out, nil
}

// appendShaped joins a void batch to one right before it. Those of two leader
// epochs stay apart, as a promotion between them asks which epoch was mirrored.
func appendShaped(out []replicate.Batch, b replicate.Batch) []replicate.Batch {
	if len(out) == 0 || !b.Void() {
		return append(out, b)
	}
	last := &out[len(out)-1]
	if !last.Void() || last.End() != b.Base || last.LeaderEpoch != b.LeaderEpoch {
		return append(out, b)
	}
	if joined := replicate.VoidBatch(last.Base, b.End(), b.LeaderEpoch); joined.End() == b.End() {
		*last = joined
		return out
	}
	return append(out, b)
}

// cut returns the records of b from offset from on, one batch for each run of
// them without a gap, between void batches where b reaches further. From most
// batches on it leaves the rest and says errShaped.
func cut(b replicate.Batch, from int64, most int) ([]replicate.Batch, error) {
	pack := packer(b.Codec())
	var out []replicate.Batch
	var run *replicate.Encoder
	flush := func() error {
		if run == nil {
			return nil
		}
		part, err := run.Batch(pack)
		out, run = append(out, part), nil
		return err
	}
	last, end := b.Base-1, from // of all records; of those returned
	err := eachRecord(b, func(r replicate.Record) error {
		if r.Offset <= last {
			return fmt.Errorf("batch at %d: a record at %d follows one at %d", b.Base, r.Offset, last)
		}
		last = r.Offset
		if r.Offset < from {
			return nil
		}
		if r.Offset != end || run == nil {
			if err := flush(); err != nil {
				return err
			}
			if len(out) == 0 && r.Offset > from {
				out = append(out, replicate.VoidBatch(from, r.Offset, b.LeaderEpoch))
			}
			if len(out) >= most {
				return errShaped
			}
			run = replicate.NewEncoder(b.Header)
		}
		end = r.Offset + 1
		return run.Add(r)
	})
	if errors.Is(err, errShaped) {
		return out, err
	}
	if err == nil {
		err = flush()
	}
	if err != nil {
		return nil, err
	}
	if end < b.End() {
		out = append(out, replicate.VoidBatch(end, b.End(), b.LeaderEpoch))
	}
	return out, nil
}

// aborts tells which batches belong to aborted transactions, as every consumer
// does: a producer's transactional batches are hidden from the first offset of
// a listed transaction on until the producer's next marker.
type aborts struct {
	todo []abortedTx     // by first offset, those that the batches have not reached
	open map[int64]int64 // producer id -> first offset of its aborted transaction
}

func newAborts(listed []abortedTx) aborts {
	// Kafka lists them in order, other brokers do not.
	todo := slices.Clone(listed)
	slices.SortStableFunc(todo, func(a, b abortedTx) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return aborts{todo: todo, open: map[int64]int64{}}
}

// hides says whether b holds aborted records. Batches must be given in order.
func (a *aborts) hides(b replicate.Batch) (bool, error) {
	for len(a.todo) > 0 && a.todo[0].FirstOffset < b.End() {
		a.open[a.todo[0].ProducerID] = a.todo[0].FirstOffset
		a.todo = a.todo[1:]
	}
	first, open := a.open[b.ProducerID]
	if !open {
		return false, nil
	}
	if !b.Control() {
		return b.Transactional(), nil
	}
	switch end, err := markerOf(b); {
	case err != nil:
		return false, err
	case end == markerCommit:
		return false, fmt.Errorf("the broker lists the transaction of producer %d from offset %d on as aborted, but at %d it is committed", b.ProducerID, first, b.Base)
	case end == markerAbort:
		delete(a.open, b.ProducerID)
	}
	return false, nil
}

// What a control batch says.
type marker int8

const (
	markerOther marker = iota
	markerAbort
	markerCommit
)

// markerOf reads which end of a transaction a control batch is. One that the
// log cleaner emptied can only be an abort to who asks: as long as a broker
// lists a transaction as aborted, nothing else may end it.
func markerOf(b replicate.Batch) (marker, error) {
	if b.Count == 0 {
		return markerAbort, nil
	}
	end, read := markerOther, false
	err := eachRecord(b, func(r replicate.Record) error {
		if len(r.Key) < 4 {
			return errors.New("its key is cut off")
		}
		if read {
			return nil
		}
		read = true
		switch binary.BigEndian.Uint16(r.Key[2:]) {
		case 0:
			end = markerAbort
		case 1:
			end = markerCommit
		}
		return nil
	})
	if err != nil {
		return markerOther, fmt.Errorf("transaction marker at %d: %w", b.Base, err)
	}
	return end, nil
}
