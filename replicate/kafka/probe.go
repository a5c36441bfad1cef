package kafka

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// ProbeTopic is where Probe writes. It is never mirrored.
const ProbeTopic = "__holdfast-probe"

// Probed says how long the two halves of a probe took.
type Probed struct {
	Produced time.Duration `json:"produced"` // acknowledged by all in-sync replicas
	Fetched  time.Duration `json:"fetched"`  // read back
}

// Probe writes one small record with acks=all and reads it back, byte for
// byte, as a producer and a consumer would. It creates the topic if it is
// missing: one partition, an hour of retention. "" means ProbeTopic. Nothing
// is retried: a probe that fails has seen what a client would have seen.
func Probe(ctx context.Context, cl *kafka.Client, topic string) (Probed, error) {
	if topic == "" {
		topic = ProbeTopic
	}
	p := topology.Partition{Topic: topic}
	at, leader, err := probeHome(ctx, cl, topic)
	if err != nil {
		return Probed{}, fmt.Errorf("probe kafka %s: %w", cl.Name(), err)
	}
	began := time.Now()
	value := make([]byte, 16)
	rand.Read(value)
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = 5000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, at.id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = probeBatch(value, began)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.Kgo.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return Probed{}, fmt.Errorf("probe kafka %s: produce: %w", cl.Name(), err)
	}
	pr := resp.(*kmsg.ProduceResponse)
	if len(pr.Topics) != 1 || len(pr.Topics[0].Partitions) != 1 {
		return Probed{}, fmt.Errorf("probe kafka %s: produce: %w", cl.Name(), errNoAnswer)
	}
	stored := pr.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(stored.ErrorCode); err != nil {
		return Probed{}, fmt.Errorf("probe kafka %s: produce: %w", cl.Name(), err)
	}
	out := Probed{Produced: time.Since(began)}
	got := batchAt(ctx, cl, leader, []spot{at}, map[topology.Partition]int64{p: stored.BaseOffset}, oneBatch)[p]
	switch {
	case got.err != nil:
		return out, fmt.Errorf("probe kafka %s: fetch: %w", cl.Name(), got.err)
	case got.batch == nil:
		return out, fmt.Errorf("probe kafka %s: fetch: the record at %d is not there", cl.Name(), stored.BaseOffset)
	}
	same := false
	err = eachRecord(*got.batch, func(r replicate.Record) error {
		same = same || bytes.Equal(r.Value, value)
		return nil
	})
	if err == nil && !same {
		err = fmt.Errorf("the record at %d is another one", stored.BaseOffset)
	}
	if err != nil {
		return out, fmt.Errorf("probe kafka %s: fetch: %w", cl.Name(), err)
	}
	out.Fetched = time.Since(began) - out.Produced
	return out, nil
}

// probeHome finds the probe's partition, creating the topic at first.
func probeHome(ctx context.Context, cl *kafka.Client, topic string) (spot, int32, error) {
	for try := range 50 {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &topic
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, cl.Kgo)
		if err != nil {
			return spot{}, 0, fmt.Errorf("read metadata: %w", err)
		}
		if len(resp.Topics) != 1 {
			return spot{}, 0, fmt.Errorf("read metadata of %s: %w", topic, errNoAnswer)
		}
		t := resp.Topics[0]
		err = kerr.ErrorForCode(t.ErrorCode)
		switch {
		case err == nil && len(t.Partitions) > 0 && t.Partitions[0].Leader >= 0:
			return spot{Partition: topology.Partition{Topic: topic}, id: t.TopicID, epoch: -1}, t.Partitions[0].Leader, nil
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			if try == 0 {
				hour := "3600000"
				plan := replicate.TopicPlan{Create: true, Partitions: 1, Replicas: int16(min(3, max(1, len(resp.Brokers)))), Set: map[string]string{"retention.ms": hour}}
				if err := createTopic(ctx, cl, topic, plan); err != nil {
					return spot{}, 0, err
				}
			}
		case err != nil && !kerr.IsRetriable(err):
			return spot{}, 0, fmt.Errorf("read metadata of %s: %w", topic, err)
		case err == nil && try > 10:
			return spot{}, 0, fmt.Errorf("%s has no leader", topic)
		}
		select {
		case <-ctx.Done():
			return spot{}, 0, fmt.Errorf("wait for %s: %w", topic, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return spot{}, 0, fmt.Errorf("%s does not appear", topic)
}

// probeBatch encodes one record without key or headers.
func probeBatch(value []byte, at time.Time) []byte {
	body := []byte{0, 0, 0}              // attributes, timestamp delta, offset delta
	body = binary.AppendVarint(body, -1) // no key
	body = binary.AppendVarint(body, int64(len(value)))
	body = append(append(body, value...), 0) // no headers
	record := append(binary.AppendVarint(nil, int64(len(body))), body...)

	b := make([]byte, replicate.HeaderSize, replicate.HeaderSize+len(record))
	b = append(b, record...)
	put := binary.BigEndian
	put.PutUint32(b[8:], uint32(len(b)-12))
	put.PutUint32(b[12:], ^uint32(0))
	b[16] = 2
	put.PutUint64(b[27:], uint64(at.UnixMilli()))
	put.PutUint64(b[35:], uint64(at.UnixMilli()))
	put.PutUint64(b[43:], ^uint64(0)) // no producer id
	put.PutUint16(b[51:], ^uint16(0))
	put.PutUint32(b[53:], ^uint32(0))
	put.PutUint32(b[57:], 1)
	put.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}
