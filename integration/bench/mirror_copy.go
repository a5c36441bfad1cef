package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pair is what one round of copying took, both ways.
type pair struct{ ours, theirs run }

// copies measures the mirror beside a consumer and producer, on batches as
// producers make them under load.
func (b *mirrorBench) copies(ctx context.Context) error {
	rounds, err := b.contest(ctx, eventsTopic, b.records, b.size, kgo.ProducerLinger(20*time.Millisecond))
	if err != nil {
		return err
	}
	b.CPUClient = middle(rounds, func(p pair) float64 { return round2(p.theirs.CPUSeconds / p.ours.CPUSeconds) })
	b.perCPU = middle(rounds, func(p pair) float64 { return float64(b.records) * float64(b.size) / 1e6 / p.ours.CPUSeconds })
	return nil
}

// tinies does so where each record is a batch of its own.
func (b *mirrorBench) tinies(ctx context.Context) error {
	const bytes = 500
	rounds, err := b.contest(ctx, "tiny", b.tiny, bytes, kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(1024), kgo.MaxProduceRequestsInflightPerBroker(1))
	if err != nil {
		return err
	}
	b.WallTiny = middle(rounds, func(p pair) float64 { return round2(p.theirs.Seconds / p.ours.Seconds) })
	return nil
}

const eventsTopic = "events"

func (b *mirrorBench) contest(ctx context.Context, topic string, records, size int, producer ...kgo.Opt) ([]pair, error) {
	payload := float64(records) * float64(size) / 1e6
	fmt.Printf("%s: %d partitions, %d records of %d bytes (seed %d)\n", topic, b.partitions, records, size, b.seed)
	if err := b.source.create(ctx, topic, b.partitions, nil); err != nil {
		return nil, err
	}
	if err := b.fill(ctx, topic, records, size, producer...); err != nil {
		return nil, fmt.Errorf("fill %s: %w", topic, err)
	}
	var rounds []pair
	for round := range b.rounds {
		var p pair
		for i := range 2 {
			ours := (i+round)%2 == 0 // who comes first pays for cold caches: they alternate
			if err := b.target.create(ctx, topic, b.partitions, nil); err != nil {
				return nil, err
			}
			took, err := b.copyOnce(ctx, topic, int64(records), ours)
			if err != nil {
				return nil, err
			}
			name := "consume/produce"
			if ours {
				p.ours, name = took, "mirror"
			} else {
				p.theirs = took
			}
			fmt.Printf("round %d  %-15s  %5.2f s  %6.1f MB/s  %5.2f CPU s  %6.1f MB per CPU s\n", round+1, name, took.Seconds, payload/took.Seconds, took.CPUSeconds, payload/took.CPUSeconds)
		}
		rounds = append(rounds, p)
	}
	return rounds, nil
}

// copyOnce copies a topic once, from the start of a process until the last
// record is in the target.
func (b *mirrorBench) copyOnce(ctx context.Context, topic string, records int64, ours bool) (r run, err error) {
	began := time.Now()
	var p *process
	if ours {
		p, err = b.startMirror(topic, false)
	} else {
		p, err = startProcess(clientProcess, side{from: b.source.Bootstrap(), to: b.target.Bootstrap(), topic: topic, records: records})
	}
	if err != nil {
		return r, err
	}
	defer p.kill()
	if _, err := b.target.reach(ctx, p, topic, records); err != nil {
		return r, err
	}
	r.Seconds = time.Since(began).Seconds()
	var cpu time.Duration
	if ours {
		cpu, err = b.stopMirror(p)
	} else {
		select { // it ends by itself
		case <-p.done:
		case <-ctx.Done():
		}
		cpu, err = p.stop()
	}
	r.CPUSeconds = cpu.Seconds()
	return r, err
}

// fill writes records whose values compress about as well as JSON events.
func (b *mirrorBench) fill(ctx context.Context, topic string, records, size int, extra ...kgo.Opt) error {
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.source.Bootstrap()), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.DisableIdempotentWrite(),
	}, extra...)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	rnd, words := values(b.seed)
	var failed atomic.Pointer[error]
	for i := range records {
		at := rnd.IntN(len(words) - size)
		cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % b.partitions), Value: words[at : at+size]}, func(_ *kgo.Record, err error) {
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

// values are what records are cut from.
func values(seed uint64) (*rand.Rand, []byte) {
	rnd := rand.New(rand.NewPCG(seed, seed))
	words := make([]byte, 64<<10)
	for i := range words {
		words[i] = byte('a' + rnd.IntN(4)) // so that lz4 finds about as much as in JSON events
	}
	return rnd, words
}
