package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// report is the last line.
type report struct {
	Records    int     `json:"records"`
	RecordSize int     `json:"record_bytes"`
	Partitions int     `json:"partitions"`
	Payload    float64 `json:"payload_mb"`
	Rounds     int     `json:"rounds"`
	Mirror     run     `json:"mirror"`   // medians
	Baseline   run     `json:"baseline"` // consume and produce, lz4
	// Ratios are of the baseline to the mirror: above 1 the mirror is better.
	WallRatio float64 `json:"wall_ratio"`
	CPURatio  float64 `json:"cpu_ratio"`
	Seed      uint64  `json:"seed"`
}

// benchMirror is the command mirror.
func benchMirror(ctx context.Context, args []string) error {
	r := report{}
	f := flag.NewFlagSet("bench mirror", flag.ContinueOnError)
	f.IntVar(&r.Records, "records", 300_000, "records to copy")
	f.IntVar(&r.RecordSize, "size", 1000, "bytes of a value")
	f.IntVar(&r.Partitions, "partitions", 8, "partitions of the topic")
	f.IntVar(&r.Rounds, "rounds", 3, "copies each way of copying makes")
	f.Uint64Var(&r.Seed, "seed", 1, "of the records")
	if err := parse(f, args); err != nil {
		return err
	}
	return measure(ctx, &r)
}

func measure(ctx context.Context, r *report) (err error) {
	source, err := start(ctx, "source")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := start(ctx, "target")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	r.Payload = float64(r.Records) * float64(r.RecordSize) / 1e6
	fmt.Printf("filling a topic of %d partitions with %d records of %d bytes (seed %d)\n", r.Partitions, r.Records, r.RecordSize, r.Seed)
	if err := fill(ctx, source.Bootstrap(), *r); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	by := func(name string, copyTopic func(ctx context.Context, from, to string, r report) error) *way {
		return &way{
			name: name,
			prepare: func(ctx context.Context) error {
				if err := recreate(ctx, target.Bootstrap(), *r); err != nil {
					return fmt.Errorf("empty the target: %w", err)
				}
				return nil
			},
			do: func(ctx context.Context) error { return copyTopic(ctx, source.Bootstrap(), target.Bootstrap(), *r) },
		}
	}
	ours, theirs := by("mirror", byMirror), by("baseline", byClient)
	if err := (contest{rounds: r.Rounds, payload: r.Payload}).hold(ctx, []*way{ours, theirs}, nil); err != nil {
		return err
	}
	r.Mirror, r.Baseline = median(ours.runs), median(theirs.runs)
	r.WallRatio, r.CPURatio = r.Baseline.Seconds/r.Mirror.Seconds, r.Baseline.CPUSeconds/r.Mirror.CPUSeconds
	return json.NewEncoder(os.Stdout).Encode(r)
}

// start makes brokers that are compiled for speed, not for a quick start.
func start(ctx context.Context, name string) (*stack.Kafka, error) {
	return stack.StartKafka(ctx, stack.KafkaOptions{Name: "bench-" + name, Progress: os.Stdout, JVM: []string{"-XX:TieredStopAtLevel=4", "-Xmx1g"}})
}

const topic = "events"

func recreate(ctx context.Context, brokers string, r report) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for ctx.Err() == nil {
		if _, err := adm.DeleteTopics(ctx, topic); err != nil {
			return err
		}
		res, err := adm.CreateTopic(ctx, int32(r.Partitions), 1, nil, topic)
		if err == nil && res.Err == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond) // the broker still deletes the former one
	}
	return ctx.Err()
}

func fill(ctx context.Context, brokers string, r report) error {
	if err := recreate(ctx, brokers, r); err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(20*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	rnd := rand.New(rand.NewPCG(r.Seed, r.Seed))
	words := make([]byte, 64<<10) // half random, so that lz4 finds about as much as in JSON events
	for i := range words {
		words[i] = byte('a' + rnd.IntN(4))
	}
	var failed atomic.Pointer[error]
	for i := range r.Records {
		at := rnd.IntN(len(words) - r.RecordSize)
		cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % r.Partitions), Value: words[at : at+r.RecordSize]}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// byMirror is the product.
func byMirror(ctx context.Context, from, to string, r report) error {
	source, err := kafka.Open(kafka.Config{Name: "source", Brokers: []string{from}})
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := kafka.Open(kafka.Config{Name: "target", Brokers: []string{to}})
	if err != nil {
		return err
	}
	defer target.Close()
	m, err := mirror.New(mirror.Config{Link: replicate.Link{Source: "source", Target: "target", Epoch: uint64(time.Now().UnixNano())}, Source: source, Target: target, Topics: replicate.Only(topic)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	err = wait(ctx, func() (bool, error) {
		t := m.Status().Totals
		if t.Frozen > 0 {
			return false, fmt.Errorf("%d partitions froze: %+v", t.Frozen, m.Status().Partitions)
		}
		return t.Records >= int64(r.Records), nil
	})
	cancel()
	return errors.Join(err, <-ended)
}

// byClient consumes and produces, as most mirrors do.
func byClient(ctx context.Context, from, to string, r report) error {
	in, err := kgo.NewClient(kgo.SeedBrokers(from), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := kgo.NewClient(kgo.SeedBrokers(to), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		return err
	}
	defer out.Close()
	var done, failed atomic.Int64
	for seen := 0; seen < r.Records; {
		fetches := in.PollRecords(ctx, 20_000)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			seen++
			out.Produce(ctx, &kgo.Record{Topic: topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value, Headers: rec.Headers, Timestamp: rec.Timestamp}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Add(1)
				}
				done.Add(1)
			})
		})
	}
	if err := out.Flush(ctx); err != nil {
		return err
	}
	if n := failed.Load(); n > 0 || done.Load() != int64(r.Records) {
		return fmt.Errorf("%d of %d records failed", n, r.Records)
	}
	return nil
}

func wait(ctx context.Context, done func() (bool, error)) error {
	for {
		if yes, err := done(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
