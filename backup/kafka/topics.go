package kafka

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

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
	details, err := t.client.Admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	var names []string
	partitions := 0
	for _, d := range details.Sorted() {
		if d.IsInternal || strings.HasPrefix(d.Topic, internalPrefix) {
			continue
		}
		if d.Err != nil {
			return nil, fmt.Errorf("read topic %s: %w", d.Topic, d.Err)
		}
		names = append(names, d.Topic)
		partitions += len(d.Partitions)
	}
	if partitions > partitionsMax {
		return nil, fmt.Errorf("%d partitions, at most %d are taken", partitions, partitionsMax)
	}
	if len(names) == 0 { // asking for none would be asking for all
		return []backup.KafkaTopic{}, nil
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
	out := make([]backup.KafkaTopic, 0, len(names))
	for _, name := range names {
		d := details[name]
		topic := backup.KafkaTopic{Name: name, Partitions: make([]backup.KafkaPartition, 0, len(d.Partitions))}
		if d.ID != (kadm.TopicID{}) {
			topic.ID = hex.EncodeToString(d.ID[:])
		}
		if len(d.Partitions) == 0 {
			return nil, fmt.Errorf("read topic %s: the brokers tell no partition of it", name)
		}
		for i := range int32(len(d.Partitions)) {
			if _, ok := d.Partitions[i]; !ok {
				return nil, fmt.Errorf("read topic %s: partition %d of %d is not told", name, i, len(d.Partitions))
			}
			start, err := oneOffset(starts, name, i)
			if err != nil {
				return nil, fmt.Errorf("read the log start of %s/%d: %w", name, i, err)
			}
			end, err := oneOffset(ends, name, i)
			if err != nil {
				return nil, fmt.Errorf("read the log end of %s/%d: %w", name, i, err)
			}
			if end < start {
				return nil, fmt.Errorf("the log of %s/%d starts at %d and ends at %d: was the topic made anew just now?", name, i, start, end)
			}
			topic.Partitions = append(topic.Partitions, backup.KafkaPartition{Partition: i, Start: start, End: end})
		}
		out = append(out, topic)
	}
	return out, nil
}

func oneOffset(listed kadm.ListedOffsets, topic string, partition int32) (int64, error) {
	o, ok := listed.Lookup(topic, partition)
	switch {
	case !ok:
		return 0, fmt.Errorf("no answer")
	case o.Err != nil:
		return 0, o.Err
	case o.Offset < 0:
		return 0, fmt.Errorf("the answer is %d", o.Offset)
	}
	return o.Offset, nil
}
