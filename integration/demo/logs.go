package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// spot is a place in the topic.
type spot struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
}

// recordsOf reads the topic of a region with a plain consumer, to the ends that
// it has now: the id of each record, by its place. Ends say nothing about how
// many records there are: fences, leaps and holes take offsets too.
func recordsOf(ctx context.Context, brokers string) (map[spot]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.KeepControlRecords(), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list the ends of %s: %w", topic, err)
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if from[o.Partition] = kgo.NewOffset().AtStart(); o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	out := map[spot]string{}
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s, not at the end of %d partitions: %w", topic, len(left), err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() { // control records are asked for only to see that an end was reached
				out[spot{r.Partition, r.Offset}] = string(r.Key)
			}
		})
	}
	return out, nil
}

// exported reads what `mirror orphans export` wrote.
func exported(file string) (map[spot]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	out := map[spot]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r struct {
			spot
			Key     []byte `json:"key"`
			Aborted bool   `json:"aborted"`
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		if !r.Aborted {
			out[r.spot] = string(r.Key)
		}
	}
	return out, lines.Err()
}

// places says where acknowledged events are, by what plain consumers read.
type places struct {
	Both     int64 // in both regions, at the offset that was acknowledged
	Salvaged int64 // in the salvage, at that offset, and not in the other region
	Nowhere  int64 // in neither
	Renamed  int64 // offsets that name one event in one region and another one in the other
}

// placesOf holds the ledger against both logs and the salvage.
func placesOf(ledger string, a, b, salvage map[spot]string) (places, error) {
	var out places
	f, err := os.Open(ledger)
	if err != nil {
		return out, err
	}
	defer func() { _ = f.Close() }() // only read from
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var id, region string
		var at spot
		if _, err := fmt.Sscan(lines.Text(), &id, &region, &at.Partition, &at.Offset); err != nil {
			return out, fmt.Errorf("ledger: bad line %q: %w", lines.Text(), err)
		}
		both, kept := a[at] == id && b[at] == id, salvage[at] == id
		switch {
		case both && !kept:
			out.Both++
		case kept && !both:
			out.Salvaged++
		default:
			out.Nowhere++
		}
	}
	for at, id := range a {
		if other, there := b[at]; there && other != id {
			out.Renamed++
		}
	}
	return out, lines.Err()
}
