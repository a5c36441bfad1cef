package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	steadyTopic  = "steady"
	steadyWarm   = 4 * time.Second
	steadyLength = 10 * time.Second
	steadyTick   = 5 * time.Millisecond
	restarts     = 3
)

// steady measures the lag under a steady load, and how long a mirror that was
// killed under it takes to write again.
func (b *mirrorBench) steady(ctx context.Context) (err error) {
	for _, e := range []*end{b.source, b.target} {
		if err := e.create(ctx, steadyTopic, b.partitions, nil); err != nil {
			return err
		}
	}
	p, err := b.startMirror(steadyTopic, false)
	if err != nil {
		return err
	}
	defer func() { p.kill() }()
	l, err := b.startLoad(ctx, steadyTopic)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	p50, p99, err := l.lag(ctx, p)
	if err != nil {
		return err
	}
	b.LagP50, b.LagP99 = milliseconds(p50), milliseconds(p99)
	fmt.Printf("lag of the mirror at %.0f MB/s: p50 %s, p99 %s\n", b.rate/1e6, p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond))
	var took []time.Duration
	for range restarts {
		if rss, err := peakOf(p.cmd.Process.Pid); err == nil {
			b.rss = max(b.rss, rss)
		}
		p.kill()
		if err := pause(ctx, time.Second); err != nil { // what was sent before is carried out
			return err
		}
		before, err := b.target.size(ctx, steadyTopic)
		if err != nil {
			return err
		}
		began := time.Now()
		if p, err = b.startMirror(steadyTopic, true); err != nil {
			return err
		}
		if _, err := b.target.reach(ctx, p, steadyTopic, before+1); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	slices.Sort(took)
	b.Restart = milliseconds(took[len(took)/2])
	fmt.Printf("killed under load %d times: writes again %s to %s after its start\n", restarts, took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	_, err = b.stopMirror(p)
	return err
}

// steadyLoad writes records at a steady rate, and reads them at the target.
type steadyLoad struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
	acked  []atomic.Int64 // by record: when the source had it, Unix nanoseconds
	seen   []atomic.Int64 // when a consumer of the target had it
	next   atomic.Int64
	failed atomic.Pointer[error]
}

// loadMost bounds the life of a load.
const loadMost = 2 * time.Minute

func (b *mirrorBench) startLoad(ctx context.Context, topic string) (*steadyLoad, error) {
	in, err := kgo.NewClient(kgo.SeedBrokers(b.source.Bootstrap()), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, err
	}
	out, err := kgo.NewClient(kgo.SeedBrokers(b.target.Bootstrap()), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		in.Close()
		return nil, err
	}
	perTick := max(1, int(b.rate*steadyTick.Seconds()/float64(b.size)))
	records := int(loadMost/steadyTick) * perTick
	l := &steadyLoad{acked: make([]atomic.Int64, records), seen: make([]atomic.Int64, records)}
	ctx, l.cancel = context.WithCancel(ctx)
	l.work.Go(func() {
		defer in.Close()
		l.write(ctx, in, topic, b.work, perTick)
	})
	l.work.Go(func() {
		defer out.Close()
		for ctx.Err() == nil {
			fetches := out.PollFetches(ctx)
			now := time.Now().UnixNano()
			fetches.EachRecord(func(r *kgo.Record) { l.seen[binary.BigEndian.Uint64(r.Value)].CompareAndSwap(0, now) })
		}
	})
	return l, nil
}

func (l *steadyLoad) write(ctx context.Context, cl *kgo.Client, topic string, w work, perTick int) {
	rnd, words := values(w.seed)
	began := time.Now()
	for tick := 0; tick < len(l.acked)/perTick && l.failed.Load() == nil; tick++ {
		if pause(ctx, time.Until(began.Add(time.Duration(tick)*steadyTick))) != nil {
			return
		}
		for range perTick {
			n := l.next.Load()
			at := rnd.IntN(len(words) - w.size)
			value := binary.BigEndian.AppendUint64(make([]byte, 0, w.size), uint64(n))
			value = append(value, words[at:at+w.size-8]...)
			cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(n % int64(w.partitions)), Value: value}, func(_ *kgo.Record, err error) {
				l.acked[n].Store(time.Now().UnixNano())
				if err != nil && ctx.Err() == nil {
					l.failed.Store(&err)
				}
			})
			l.next.Add(1)
		}
	}
}

// lag returns how long records take, from when the source has acknowledged
// them until a plain consumer of the target has them.
func (l *steadyLoad) lag(ctx context.Context, p *process) (p50, p99 time.Duration, err error) {
	if err := pause(ctx, steadyWarm); err != nil {
		return 0, 0, err
	}
	from := l.next.Load()
	if err := pause(ctx, steadyLength); err != nil {
		return 0, 0, err
	}
	to := l.next.Load()
	var lags []time.Duration
	for n := from; n < to; n++ {
		for l.seen[n].Load() == 0 || l.acked[n].Load() == 0 {
			if err := errors.Join(p.failed(), pause(ctx, time.Millisecond)); err != nil {
				return 0, 0, fmt.Errorf("wait for record %d: %w", n, err)
			}
		}
		lags = append(lags, max(0, time.Duration(l.seen[n].Load()-l.acked[n].Load())))
	}
	slices.Sort(lags)
	return lags[len(lags)/2], lags[len(lags)*99/100], nil
}

func (l *steadyLoad) stop() error {
	l.cancel()
	l.work.Wait()
	if err := l.failed.Load(); err != nil {
		return fmt.Errorf("steady load: %w", *err)
	}
	return nil
}

// middle is the median of what each round says.
func middle(rounds []pair, say func(pair) float64) float64 {
	said := make([]float64, 0, len(rounds))
	for _, p := range rounds {
		said = append(said, say(p))
	}
	slices.Sort(said)
	return said[len(said)/2]
}
