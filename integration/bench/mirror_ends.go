package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const seededTopic, seededPartitions = "seeded", 2

// seeding measures how fast the prefix of a long lived source is filled, from
// the first filler in the target until the first record behind it.
func (b *mirrorBench) seeding(ctx context.Context) error {
	for _, e := range []*end{b.source, b.target} {
		if err := e.create(ctx, seededTopic, seededPartitions, nil); err != nil {
			return err
		}
	}
	for p := range int32(seededPartitions) {
		if err := b.source.age(ctx, seededTopic, p, b.prefix); err != nil {
			return fmt.Errorf("age %s/%d: %w", seededTopic, p, err)
		}
	}
	p, err := b.startMirror(seededTopic, false)
	if err != nil {
		return err
	}
	defer p.kill()
	first, err := b.target.reach(ctx, p, seededTopic, 1)
	if err != nil {
		return err
	}
	began := time.Now()
	all := seededPartitions * (b.prefix + 1)
	if _, err := b.target.reach(ctx, p, seededTopic, all); err != nil {
		return err
	}
	took := time.Since(began)
	b.SeedRate = float64(int64(float64(all-first) / took.Seconds()))
	fmt.Printf("seeded %d offsets in %s: %.1f million a second\n", all, took.Round(time.Millisecond), b.SeedRate/1e6)
	_, err = b.stopMirror(p)
	return err
}

// age makes a partition look old: n offsets whose records are gone, and one
// record behind them.
func (e *end) age(ctx context.Context, topic string, partition int32, n int64) error {
	const most = 250_000
	zstd, err := kgo.DefaultCompressor(kgo.ZstdCompression())
	if err != nil {
		return err
	}
	batch := func(records int64, codec kgo.CompressionCodecType, value []byte) ([]byte, error) {
		enc := replicate.NewEncoder(replicate.Header{Attributes: int16(codec)})
		for i := range records {
			if err := enc.Add(replicate.Record{Offset: i, Timestamp: time.Now().UnixMilli(), Value: value}); err != nil {
				return nil, err
			}
		}
		compress := func(payload []byte) ([]byte, error) {
			out, _ := zstd.Compress(new(bytes.Buffer), payload)
			return out, nil
		}
		if codec == kgo.CodecNone {
			compress = nil
		}
		out, err := enc.Batch(compress)
		if err != nil {
			return nil, err
		}
		return out.Restamp(replicate.Stamp{ProducerID: -1, Epoch: -1, Sequence: -1}), nil
	}
	full, err := batch(most, kgo.CodecZstd, nil)
	if err != nil {
		return err
	}
	for left := n; left > 0; left -= most {
		raw := full
		if left < most {
			if raw, err = batch(left, kgo.CodecZstd, nil); err != nil {
				return err
			}
		}
		if err := e.produceRaw(ctx, topic, partition, raw); err != nil {
			return err
		}
	}
	to := kadm.Offsets{}
	to.Add(kadm.Offset{Topic: topic, Partition: partition, At: n})
	deleted, err := e.adm.DeleteRecords(ctx, to)
	if err = errors.Join(err, deleted.Error()); err != nil {
		return fmt.Errorf("delete records: %w", err)
	}
	last, err := batch(1, kgo.CodecNone, []byte("behind"))
	if err != nil {
		return err
	}
	return e.produceRaw(ctx, topic, partition, last)
}

// produceRaw appends one batch as it is.
func (e *end) produceRaw(ctx context.Context, topic string, partition int32, raw []byte) error {
	meta, err := e.adm.Metadata(ctx, topic)
	if err != nil {
		return err
	}
	t := meta.Topics[topic]
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, t.ID
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, raw
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := e.cl.Broker(int(t.Partitions[partition].Leader)).Request(ctx, req)
	if err != nil {
		return err
	}
	for _, t := range resp.(*kmsg.ProduceResponse).Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

const wideTopic, widePartitions, wideBatches = "wide", 1000, 2

// promotion measures the promotion of a thousand partitions. Each has two
// batches: the mirror's producer is known to the broker, as it is in service.
func (b *mirrorBench) promotion(ctx context.Context) error {
	for _, e := range []*end{b.source, b.target} {
		if err := e.create(ctx, wideTopic, widePartitions, nil); err != nil {
			return err
		}
	}
	p, err := b.startMirror(wideTopic, false)
	if err != nil {
		return err
	}
	defer p.kill()
	work := *b
	work.partitions = widePartitions
	for i := range int64(wideBatches) {
		if err := work.fill(ctx, wideTopic, widePartitions, 100); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		if _, err := b.target.reach(ctx, p, wideTopic, (i+1)*widePartitions); err != nil {
			return err
		}
	}
	if _, err := b.stopMirror(p); err != nil {
		return err
	}
	target, err := kafka.Open(kafka.Config{Name: "target", Brokers: []string{b.target.Bootstrap()}})
	if err != nil {
		return err
	}
	defer target.Close()
	link := replicate.Link{Source: "source", Target: "target", Epoch: uint64(b.epoch)}
	began := time.Now()
	done, err := mirror.Promote(ctx, target, mirror.PromoteOptions{Link: link, Topics: replicate.Only(wideTopic)})
	if err != nil {
		return err
	}
	took := time.Since(began)
	for _, q := range done {
		if q.X != wideBatches || q.End <= q.X {
			return fmt.Errorf("want %d records and a fence behind them, got %s", wideBatches, q)
		}
	}
	if len(done) != widePartitions {
		return fmt.Errorf("%d of %d partitions were promoted", len(done), widePartitions)
	}
	b.PromoteThous = milliseconds(took)
	fmt.Printf("promoted %d partitions of %d batches each in %s\n", len(done), wideBatches, took.Round(time.Millisecond))
	return nil
}
