package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	salvageChunk = 8 << 20 // bytes of batches that are given on at once
	salvageStep  = 10_000  // offsets read at a time
)

// Orphans is what a log was found to hold in a range that was never mirrored.
type Orphans struct {
	// Records counts what who reads committed records sees. Control batches
	// and aborted records are none.
	Records int64
	// Aborted are the transactions that were.
	Aborted []AbortedRange
}

// AbortedRange hides the transactional batches of one producer in [From, To).
type AbortedRange struct {
	Producer int64
	From, To int64
}

// ReadOrphans reads the range of a partition as it is stored, batch by batch,
// markers and aborted records included, and gives it on in runs of whole
// batches. Runs without any record are passed over. The log must be closed: no
// transaction open, nobody writing.
func ReadOrphans(ctx context.Context, cl *kafka.Client, p topology.Partition, of replicate.Range, put func(batches []byte) error) (Orphans, error) {
	v, err := readView(ctx, cl)
	if err != nil {
		return Orphans{}, err
	}
	r, err := newReader(cl, v, p)
	if err != nil {
		return Orphans{}, err
	}
	s := &orphanReader{of: of, open: map[int64]txRun{}}
	var chunk []byte
	holds := false
	flush := func() error {
		if !holds {
			chunk = chunk[:0]
			return nil
		}
		err := put(chunk)
		chunk, holds = nil, false
		return err
	}
	for next := of.Start; next < of.End; {
		hi := min(next+salvageStep, of.End)
		batches, err := r.read(ctx, next, hi)
		if err != nil {
			return Orphans{}, fmt.Errorf("read orphans of %s: %w", p, err)
		}
		for _, b := range batches {
			if b.End() <= next { // the tail of a batch that came already
				continue
			}
			records, err := s.take(b)
			if err != nil {
				return Orphans{}, fmt.Errorf("read orphans of %s: %w", p, err)
			}
			if len(chunk) > 0 && len(chunk)+len(b.Raw) > salvageChunk {
				if err := flush(); err != nil {
					return Orphans{}, err
				}
			}
			chunk, holds = append(chunk, b.Raw...), holds || records
			next = b.End()
		}
		next = max(next, hi)
	}
	if len(s.open) > 0 {
		return Orphans{}, fmt.Errorf("read orphans of %s: a transaction has no end in [%d,%d)", p, of.Start, of.End)
	}
	return s.found, flush()
}

// orphanReader follows the transactions of a range.
type orphanReader struct {
	of    replicate.Range
	open  map[int64]txRun // by producer id
	found Orphans
}

type txRun struct{ from, records int64 }

// take notes a batch, and says whether it holds records of the range.
func (s *orphanReader) take(b replicate.Batch) (records bool, err error) {
	if !b.Control() {
		n := int64(0)
		if b.Count > 0 {
			err = eachRecord(b, func(r replicate.Record) error {
				if s.of.Start <= r.Offset && r.Offset < s.of.End {
					n++
				}
				return nil
			})
		}
		if b.Transactional() {
			tx, open := s.open[b.ProducerID]
			if !open {
				tx.from = b.Base
			}
			tx.records += n
			s.open[b.ProducerID] = tx
		} else {
			s.found.Records += n
		}
		return n > 0, err
	}
	tx, open := s.open[b.ProducerID]
	if !open {
		return false, nil // of a hole, a fence, or a transaction without records here
	}
	end, err := markerOf(b)
	switch {
	case err != nil:
		return false, err
	case end == markerCommit:
		s.found.Records += tx.records
	case end == markerAbort:
		s.found.Aborted = append(s.found.Aborted, AbortedRange{Producer: b.ProducerID, From: tx.from, To: b.End()})
	default:
		return false, nil
	}
	delete(s.open, b.ProducerID)
	return false, nil
}

// Orphan is one record of a salvage.
type Orphan struct {
	replicate.Record
	Aborted bool // its transaction was: who reads committed records never saw it
}

// EachOrphan decodes what ReadOrphans gave on, in order, without the records
// outside of the range. The slices of a record are valid until yield returns.
func EachOrphan(batches []byte, of replicate.Range, aborted []AbortedRange, yield func(Orphan) error) error {
	list, err := replicate.ParseBatches(batches)
	if err != nil {
		return fmt.Errorf("decode orphans: %w", err)
	}
	if n := len(list); n == 0 || len(batches) != sizeOf(list) {
		return errors.New("decode orphans: bytes are left over behind the last batch")
	}
	for _, b := range list {
		if b.Control() || b.Count == 0 {
			continue
		}
		hidden := b.Transactional() && slices.ContainsFunc(aborted, func(a AbortedRange) bool {
			return a.Producer == b.ProducerID && a.From <= b.Base && b.Base < a.To
		})
		err := eachRecord(b, func(r replicate.Record) error {
			if r.Offset < of.Start || r.Offset >= of.End {
				return nil
			}
			return yield(Orphan{r, hidden})
		})
		if err != nil {
			return fmt.Errorf("decode orphans: %w", err)
		}
	}
	return nil
}

func sizeOf(batches []replicate.Batch) (n int) {
	for _, b := range batches {
		n += len(b.Raw)
	}
	return n
}

// replayTimeout bounds how long records that are given together may take. The
// client's own bound counts from a record's timestamp, which is an old one here.
const replayTimeout = 2 * time.Minute

// Replayer produces orphans again, as new records of one partition.
type Replayer struct {
	cl *kafka.Client
	p  topology.Partition
}

// NewReplayer prepares; it does not dial. Close it.
func NewReplayer(cl *kafka.Client, p topology.Partition) (*Replayer, error) {
	one, err := cl.Another(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.AllowIdempotentProduceCancellation())
	if err != nil {
		return nil, err
	}
	return &Replayer{one, p}, nil
}

// Close ends its connections.
func (r *Replayer) Close() { r.cl.Close() }

// Produce returns when all are acknowledged, in their order, or one is not:
// then it says how many before that one are.
func (r *Replayer) Produce(ctx context.Context, orphans []Orphan) (int, error) {
	records := make([]*kgo.Record, 0, len(orphans))
	for _, o := range orphans {
		one := &kgo.Record{Topic: r.p.Topic, Partition: r.p.Partition, Key: o.Key, Value: o.Value, Timestamp: time.UnixMilli(o.Timestamp)}
		for _, h := range o.Headers {
			one.Headers = append(one.Headers, kgo.RecordHeader{Key: string(h.Key), Value: h.Value})
		}
		records = append(records, one)
	}
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	failed := map[*kgo.Record]error{}
	for _, got := range r.cl.Kgo.ProduceSync(ctx, records...) {
		if got.Err != nil {
			failed[got.Record] = got.Err
		}
	}
	for n, one := range records {
		if err := failed[one]; err != nil {
			return n, err
		}
	}
	return len(records), nil
}
