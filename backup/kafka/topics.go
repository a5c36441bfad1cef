package kafka

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/kafka"
)

// topics reads all topics but the internal ones and the range of each log,
// whole or not at all. A topic that comes or goes in between is read again.
func (t *Taker) topics(ctx context.Context) (out []backup.KafkaTopic, err error) {
	err = kafka.UntilSettled(ctx, func() error {
		out, err = t.topicsOnce(ctx)
		return err
	})
	return out, err
}

func (t *Taker) topicsOnce(ctx context.Context) ([]backup.KafkaTopic, error) {
	out, err := t.names(ctx)
	if err != nil || len(out) == 0 { // asking for no topic would be asking for all
		return out, err
	}
	names := make([]string, 0, len(out))
	for _, topic := range out {
		names = append(names, topic.Name)
	}
	// The starts first: what retention takes in between makes a range too
	// wide, never one that ends before it begins.
	starts, err := t.client.Admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read log starts: %w", err)
	}
	ends, err := t.client.Admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read log ends: %w", err)
	}
	for _, topic := range out {
		for i := range topic.Partitions {
			p := &topic.Partitions[i]
			if p.Start, err = oneOffset(starts, topic.Name, p.Partition); err != nil {
				return nil, fmt.Errorf("read the log start of %s/%d: %w", topic.Name, p.Partition, err)
			}
			if p.End, err = oneOffset(ends, topic.Name, p.Partition); err != nil {
				return nil, fmt.Errorf("read the log end of %s/%d: %w", topic.Name, p.Partition, err)
			}
			if p.End < p.Start {
				return nil, fmt.Errorf("the log of %s/%d starts at %d and ends at %d: was the topic made anew just now?", topic.Name, p.Partition, p.Start, p.End)
			}
		}
	}
	return out, nil
}

// names asks for all topics and their partitions, ordered. It asks a broker
// and not the client's memory, which may be from before the offsets were read.
func (t *Taker) names(ctx context.Context) ([]backup.KafkaTopic, error) {
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, t.client.Kgo) // nil topics: all
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	out := make([]backup.KafkaTopic, 0, len(resp.Topics))
	partitions := 0
	for _, d := range resp.Topics {
		if d.Topic == nil || errors.Is(kerr.ErrorForCode(d.ErrorCode), kerr.UnknownTopicOrPartition) {
			continue // it is being deleted
		}
		name := *d.Topic
		if d.IsInternal || strings.HasPrefix(name, internalPrefix) {
			continue
		}
		if err := kerr.ErrorForCode(d.ErrorCode); err != nil {
			return nil, fmt.Errorf("read topic %s: %w", name, err)
		}
		topic := backup.KafkaTopic{Name: name}
		if d.TopicID != [16]byte{} {
			topic.ID = hex.EncodeToString(d.TopicID[:])
		}
		for _, p := range d.Partitions {
			topic.Partitions = append(topic.Partitions, backup.KafkaPartition{Partition: p.Partition})
		}
		slices.SortFunc(topic.Partitions, func(a, b backup.KafkaPartition) int { return cmp.Compare(a.Partition, b.Partition) })
		if len(topic.Partitions) == 0 {
			return nil, fmt.Errorf("read topic %s: the brokers tell no partition of it", name)
		}
		for i, p := range topic.Partitions {
			if int(p.Partition) != i {
				return nil, fmt.Errorf("read topic %s: of %d partitions, %d is not told", name, len(topic.Partitions), i)
			}
		}
		partitions += len(topic.Partitions)
		out = append(out, topic)
	}
	if partitions > partitionsMax {
		return nil, fmt.Errorf("%d partitions, at most %d are taken", partitions, partitionsMax)
	}
	slices.SortFunc(out, func(a, b backup.KafkaTopic) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func oneOffset(listed kadm.ListedOffsets, topic string, partition int32) (int64, error) {
	o, ok := listed.Lookup(topic, partition)
	switch {
	case !ok:
		// Also when the client does not know a new partition yet: that passes.
		return 0, fmt.Errorf("no answer: %w", kerr.UnknownTopicOrPartition)
	case o.Err != nil:
		return 0, o.Err
	case o.Offset < 0:
		return 0, fmt.Errorf("the answer is %d", o.Offset)
	}
	return o.Offset, nil
}
