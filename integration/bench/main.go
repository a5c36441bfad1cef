package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const limit = 10 * time.Minute

// run is one copy of the topic.
type run struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"` // of this process; the brokers' are not in it
	MBps       float64 `json:"mb_per_second"`
}

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

func main() {
	r := report{}
	flag.IntVar(&r.Records, "records", 300_000, "records to copy")
	flag.IntVar(&r.RecordSize, "size", 1000, "bytes of a value")
	flag.IntVar(&r.Partitions, "partitions", 8, "partitions of the topic")
	flag.IntVar(&r.Rounds, "rounds", 3, "copies each way of copying makes")
	flag.Uint64Var(&r.Seed, "seed", 1, "of the records")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := measure(ctx, &r); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
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
	ways := []struct {
		name string
		copy func(ctx context.Context, from, to string, r report) error
		runs []run
	}{{name: "mirror", copy: byMirror}, {name: "baseline", copy: byClient}}
	for round := range r.Rounds {
		for i := range ways {
			w := &ways[(i+round)%2]
			if err := recreate(ctx, target.Bootstrap(), *r); err != nil {
				return fmt.Errorf("empty the target: %w", err)
			}
			cpu, began := cpuSeconds(), time.Now()
			if err := w.copy(ctx, source.Bootstrap(), target.Bootstrap(), *r); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			one := run{Seconds: time.Since(began).Seconds(), CPUSeconds: cpuSeconds() - cpu}
			one.MBps = r.Payload / one.Seconds
			w.runs = append(w.runs, one)
			fmt.Printf("round %d  %-8s  %5.1f s  %6.1f MB/s  %5.2f CPU s\n", round+1, w.name, one.Seconds, one.MBps, one.CPUSeconds)
		}
	}
	r.Mirror, r.Baseline = median(ways[0].runs), median(ways[1].runs)
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

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

func median(runs []run) run {
	slices.SortFunc(runs, func(a, b run) int { return int(1e9 * (a.Seconds - b.Seconds)) })
	return runs[len(runs)/2]
}
