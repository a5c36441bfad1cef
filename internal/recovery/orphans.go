package recovery

import (
	"bytes"
	"context"
	"fmt"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// Orphans is where the salvages of a region are read.
type Orphans interface {
	// Salvages lists the keys of all seals, oldest first.
	Salvages(ctx context.Context) ([]string, error)
	// ReadSalvage reads a seal and verifies it.
	ReadSalvage(ctx context.Context, key string) (backup.Salvage, backup.Digest, error)
	// Batches gives the stored batches of a part, in order.
	Batches(ctx context.Context, p backup.SalvagePart, yield func(batches []byte) error) error
	// Each gives the records of a part, in order. The slices of a record are
	// valid until yield returns.
	Each(ctx context.Context, p backup.SalvagePart, yield func(Orphan) error) error
	Close()
}

// Orphan is one record of a salvage.
type Orphan struct {
	Topic     string         `json:"topic"`
	Partition int32          `json:"partition"`
	Offset    int64          `json:"offset"`
	Timestamp int64          `json:"timestamp"` // milliseconds
	Key       []byte         `json:"key"`
	Value     []byte         `json:"value"`
	Headers   []OrphanHeader `json:"headers,omitempty"`
	// Aborted: its transaction was, so who reads committed records never saw it.
	Aborted bool `json:"aborted,omitempty"`
}

// OrphanHeader is one header of a record.
type OrphanHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Orphans opens the salvages of a region for reading.
func (h *Host) Orphans(ctx context.Context, region topology.Region, identity func() (string, error)) (Orphans, error) {
	return h.Salvages(ctx, region, identity)
}

// Batches implements Orphans.
func (s *Salvages) Batches(ctx context.Context, p backup.SalvagePart, yield func([]byte) error) error {
	for _, b := range p.Blobs {
		batches, err := s.Salvaged(ctx, b)
		if err != nil {
			return err
		}
		if err := yield(batches); err != nil {
			return err
		}
	}
	return nil
}

// Each implements Orphans.
func (s *Salvages) Each(ctx context.Context, p backup.SalvagePart, yield func(Orphan) error) error {
	of := replicate.Range{Start: p.From, End: p.To, Settled: true}
	var aborted []mirror.AbortedRange
	for _, a := range p.Aborted {
		aborted = append(aborted, mirror.AbortedRange{Producer: a.Producer, From: a.From, To: a.To})
	}
	return s.Batches(ctx, p, func(batches []byte) error {
		return mirror.EachOrphan(batches, of, aborted, func(o mirror.Orphan) error {
			out := Orphan{Topic: p.Topic, Partition: p.Partition, Offset: o.Offset, Timestamp: o.Timestamp, Key: o.Key, Value: o.Value, Aborted: o.Aborted}
			for _, head := range o.Headers {
				out.Headers = append(out.Headers, OrphanHeader{string(head.Key), head.Value})
			}
			return yield(out)
		})
	})
}

const replayBatch = 500 // records under way

// Replay produces the records of a part again, as new records, to the same
// topic and partition of a region's Kafka: those from an offset on, in their
// order, without aborted ones. It returns how many were acknowledged, and the
// offset in the salvage that would come next.
func (h *Host) Replay(ctx context.Context, to topology.Region, from Orphans, p backup.SalvagePart, first int64) (done, next int64, err error) {
	next = max(first, p.From)
	fail := func(err error) (int64, int64, error) {
		return done, next, fmt.Errorf("produce the orphans of %s/%d again in %s: %w", p.Topic, p.Partition, to, err)
	}
	conf := h.o.Fleet.Regions[to].Kafka
	if conf == nil {
		return fail(fmt.Errorf("it has no kafka in %s", h.o.Fleet.File()))
	}
	cl, err := OpenKafka(to, conf, h.dial, h.log)
	if err != nil {
		return fail(err)
	}
	defer cl.Close()
	producer, err := mirror.NewReplayer(cl, topology.Partition{Topic: p.Topic, Partition: p.Partition})
	if err != nil {
		return fail(err)
	}
	defer producer.Close()
	var waiting []mirror.Orphan
	flush := func() error {
		if len(waiting) == 0 {
			return nil
		}
		n, err := producer.Produce(ctx, waiting)
		done += int64(n)
		if n > 0 {
			next = waiting[n-1].Offset + 1
		}
		waiting = waiting[:0]
		return err
	}
	err = from.Each(ctx, p, func(o Orphan) error {
		if o.Offset < first || o.Aborted {
			return nil
		}
		one := mirror.Orphan{Record: replicate.Record{Offset: o.Offset, Timestamp: o.Timestamp, Key: bytes.Clone(o.Key), Value: bytes.Clone(o.Value)}}
		for _, head := range o.Headers {
			one.Headers = append(one.Headers, replicate.RecordHeader{Key: []byte(head.Key), Value: bytes.Clone(head.Value)})
		}
		if waiting = append(waiting, one); len(waiting) < replayBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fail(err)
	}
	return done, next, nil
}
