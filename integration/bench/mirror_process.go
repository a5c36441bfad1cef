package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// What copies runs in a process of its own, so that its CPU and memory are its
// own: this program again, with one of these commands. They are not for people.
const (
	mirrorProcess = "mirror-process"
	clientProcess = "client-process"
)

// side says what such a process copies.
type side struct {
	from, to, topic, profile string
	epoch                    uint64
	records                  int64 // the client ends after these
}

func (s *side) flags() *flag.FlagSet {
	f := flag.NewFlagSet("bench process", flag.ContinueOnError)
	f.StringVar(&s.from, "from", "", "source broker")
	f.StringVar(&s.to, "to", "", "target broker")
	f.StringVar(&s.topic, "topic", "", "what is copied")
	f.StringVar(&s.profile, "profile", "", "file for a CPU profile")
	f.Uint64Var(&s.epoch, "epoch", 0, "of the link")
	f.Int64Var(&s.records, "records", 0, "to copy")
	return f
}

func (s side) args() []string {
	return []string{
		"-from", s.from, "-to", s.to, "-topic", s.topic, "-profile", s.profile,
		"-epoch", fmt.Sprint(s.epoch), "-records", fmt.Sprint(s.records),
	}
}

// runMirror is the product, until it is told to end.
func runMirror(ctx context.Context, args []string) (err error) {
	var s side
	if err := parse(s.flags(), args); err != nil {
		return err
	}
	if s.profile != "" {
		out, err := os.Create(s.profile)
		if err != nil {
			return fmt.Errorf("write a profile: %w", err)
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return fmt.Errorf("write a profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	source, err := kafka.Open(kafka.Config{Name: "source", Brokers: []string{s.from}})
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := kafka.Open(kafka.Config{Name: "target", Brokers: []string{s.to}})
	if err != nil {
		return err
	}
	defer target.Close()
	m, err := mirror.New(mirror.Config{
		Link: replicate.Link{Source: "source", Target: "target", Epoch: s.epoch}, Source: source, Target: target, Topics: replicate.Only(s.topic),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(100 * time.Millisecond):
			if st := m.Status(); st.Totals.Frozen > 0 {
				cancel()
				return errors.Join(fmt.Errorf("%d partitions froze: %+v", st.Totals.Frozen, st.Partitions), <-ended)
			}
		}
	}
}

// runClient consumes and produces, as most mirrors do.
func runClient(ctx context.Context, args []string) error {
	var s side
	if err := parse(s.flags(), args); err != nil {
		return err
	}
	in, err := kgo.NewClient(kgo.SeedBrokers(s.from), kgo.ConsumeTopics(s.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := kgo.NewClient(kgo.SeedBrokers(s.to), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		return err
	}
	defer out.Close()
	var done, failed atomic.Int64
	for seen := int64(0); seen < s.records; {
		fetches := in.PollRecords(ctx, 20_000)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			seen++
			out.Produce(ctx, &kgo.Record{Topic: s.topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value, Headers: rec.Headers, Timestamp: rec.Timestamp}, func(_ *kgo.Record, err error) {
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
	if n := failed.Load(); n > 0 || done.Load() != s.records {
		return fmt.Errorf("%d of %d records failed", n, s.records)
	}
	return nil
}

// process is one of them at work.
type process struct {
	cmd  *exec.Cmd
	err  strings.Builder // what it said; read after done
	done chan struct{}
	ends error
}

// startProcess starts one of them. The caller ends it.
func startProcess(command string, s side) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p := &process{cmd: exec.Command(self, append([]string{command}, s.args()...)...), done: make(chan struct{})}
	p.cmd.Stderr = &p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command, err)
	}
	go func() {
		p.ends = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// failed says how a process ended that should not have. A nil process, which
// is not ours to watch, never fails.
func (p *process) failed() error {
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		if p.ends != nil {
			return fmt.Errorf("it ended: %w: %s", p.ends, strings.TrimSpace(p.err.String()))
		}
	default:
	}
	return nil
}

// stop ends a process in order and returns the CPU that it took in its life.
// One that does not end is killed.
func (p *process) stop() (time.Duration, error) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // one that has ended needs none
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.kill()
		return 0, errors.New("a process did not end in 30s")
	}
	if p.ends != nil {
		return 0, fmt.Errorf("%w: %s", p.ends, strings.TrimSpace(p.err.String()))
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), nil
}

// kill ends it at once. It may be called twice.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// startMirror starts the product, on a new link unless it is a start again.
func (b *mirrorBench) startMirror(topic string, again bool) (*process, error) {
	if !again {
		b.epoch++
	}
	s := side{from: b.source.Bootstrap(), to: b.target.Bootstrap(), topic: topic, epoch: uint64(b.epoch)}
	if b.profile != "" {
		s.profile = filepath.Join(b.profile, fmt.Sprintf("%s-%d.pprof", topic, b.epoch))
	}
	return startProcess(mirrorProcess, s)
}

// stopMirror ends the product and notes how much memory it had.
func (b *mirrorBench) stopMirror(p *process) (cpu time.Duration, err error) {
	rss, err := peakOf(p.cmd.Process.Pid)
	if err != nil {
		p.kill()
		return 0, err
	}
	b.rss = max(b.rss, rss)
	return p.stop()
}
