package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
)

// report is the last line of bench mirror. CPU ratios are of payload per CPU
// second, ours to theirs; wall ratios are of their time to ours: above 1 the
// mirror is better.
type report struct {
	CPUClient    float64 `json:"cpu_ratio_consume_produce"`
	CPUMirror2   float64 `json:"cpu_ratio_mm2"`
	WallTiny     float64 `json:"wall_ratio_tiny"`
	LagP50       float64 `json:"lag_p50_ms"`
	LagP99       float64 `json:"lag_p99_ms"`
	Mirror2P50   float64 `json:"mm2_lag_p50_ms"`
	Restart      float64 `json:"restart_ms"`
	RSS          float64 `json:"rss_mib"`
	SeedRate     float64 `json:"seed_offsets_per_s"`
	PromoteThous float64 `json:"promote_1000_ms"`
}

// work says how much is copied.
type work struct {
	records, size, partitions int
	tiny                      int // records of the tiny topic, each a batch of its own
	rounds                    int
	rate                      float64 // bytes per second of the steady load
	prefix                    int64   // offsets below the source's start, per partition
	seed                      uint64
	profile                   string
	only                      string
}

// does says whether a part is measured.
func (w work) does(part string) bool {
	return w.only == "" || strings.Contains(","+w.only+",", ","+part+",")
}

// benchMirror is the command mirror.
func benchMirror(ctx context.Context, args []string) error {
	w := work{}
	rate := 10.0
	f := flag.NewFlagSet("bench mirror", flag.ContinueOnError)
	f.IntVar(&w.records, "records", 600_000, "records to copy")
	f.IntVar(&w.size, "size", 1000, "bytes of a value")
	f.IntVar(&w.tiny, "tiny", 60_000, "records to copy of 500 bytes, each a batch of its own")
	f.IntVar(&w.partitions, "partitions", 8, "partitions of a topic")
	f.IntVar(&w.rounds, "rounds", 3, "copies each way of copying makes")
	f.Float64Var(&rate, "rate", rate, "steady load while the lag is measured, in MB/s")
	f.Int64Var(&w.prefix, "prefix", 20_000_000, "offsets that each of two partitions seeds")
	f.Uint64Var(&w.seed, "seed", 1, "of the records")
	f.StringVar(&w.profile, "profile", "", "folder for CPU profiles of the mirror, one a process")
	f.StringVar(&w.only, "only", "", "measure only these, of copy,tiny,lag,seed,promote,mm2 (others are 0)")
	if err := parse(f, args); err != nil {
		return err
	}
	if w.records < 1 || w.tiny < 1 || w.partitions < 1 || w.rounds < 1 || w.size < 16 || w.size > 32<<10 || rate <= 0 || w.prefix < 1 {
		fmt.Fprintln(f.Output(), "bench mirror: counts must be positive, and -size from 16 to 32768")
		return errUsage
	}
	w.rate = rate * 1e6
	return measure(ctx, w)
}

func measure(ctx context.Context, w work) (err error) {
	at := look()
	fmt.Println(at)
	b := &mirrorBench{work: w}
	if b.source, err = startEnd(ctx, "source"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.source.close()) }()
	if b.target, err = startEnd(ctx, "target"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.target.close()) }()
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"copy", b.copies}, {"tiny", b.tinies}, {"lag", b.steady}, {"seed", b.seeding}, {"promote", b.promotion}, {"mm2", b.mirrorMaker}} {
		if !w.does(part.name) {
			continue
		}
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.RSS = math.Round(10*b.rss) / 10
	fmt.Printf("load before %.1f, after %.1f\n", at.LoadBefore, load())
	return json.NewEncoder(os.Stdout).Encode(b.report)
}

// mirrorBench is one run of bench mirror.
type mirrorBench struct {
	work
	report
	source, target *end
	rss            float64 // MiB, the most of any mirror process
	perCPU         float64 // MB of payload per CPU second, of the mirror
	epoch          int     // of the last link
}

// end is one of the two clusters.
type end struct {
	*stack.Kafka
	cl  *kgo.Client
	adm *kadm.Client
}

// startEnd makes a broker that is compiled for speed, not for a quick start.
func startEnd(ctx context.Context, name string) (*end, error) {
	k, err := stack.StartKafka(ctx, stack.KafkaOptions{
		Name: "bench-" + name, Progress: os.Stdout, JVM: []string{"-XX:TieredStopAtLevel=4", "-Xmx1g"},
	})
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Bootstrap()))
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return &end{k, cl, kadm.NewClient(cl)}, nil
}

func (e *end) close() error {
	e.cl.Close()
	return e.Close()
}

// create makes a topic, in the place of a former one.
func (e *end) create(ctx context.Context, topic string, partitions int, configs map[string]*string) error {
	for {
		if _, err := e.adm.DeleteTopics(ctx, topic); err != nil {
			return fmt.Errorf("delete topic %s: %w", topic, err)
		}
		res, err := e.adm.CreateTopic(ctx, int32(partitions), 1, configs, topic)
		if err == nil && res.Err == nil {
			break
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil { // the broker still deletes the former one
			return fmt.Errorf("create topic %s: %w", topic, errors.Join(err, res.Err))
		}
	}
	for {
		_, err := e.size(ctx, topic)
		if err == nil {
			return nil
		}
		if late := pause(ctx, 50*time.Millisecond); late != nil { // its leaders do not know of it yet
			return errors.Join(late, err)
		}
	}
}

// size is the sum of a topic's end offsets.
func (e *end) size(ctx context.Context, topic string) (int64, error) {
	ends, err := e.adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("read the ends of %s: %w", topic, err)
	}
	sum := int64(0)
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	return sum, nil
}

// reach waits until a topic's ends add up to n, and returns what they are.
func (e *end) reach(ctx context.Context, p *process, topic string, n int64) (int64, error) {
	for {
		size, err := e.size(ctx, topic)
		if err != nil || size >= n {
			return size, err
		}
		if err := p.failed(); err != nil {
			return size, fmt.Errorf("at %d of %d records of %s: %w", size, n, topic, err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return size, fmt.Errorf("wait for %d records of %s, at %d: %w", n, topic, size, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func milliseconds(d time.Duration) float64 { return math.Round(float64(d)/1e4) / 100 }
