//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	cycleParts  = 3
	cycleRounds = 3
	cycleSoon   = 60 * time.Second
)

// cycleRegion is one region: its brokers, and the mirrors' turns to write to it.
type cycleRegion struct {
	name  topology.Region
	nodes []*stack.Kafka
	cl    *kafka.Client
	turns *turns // of the link that writes here, over all its epochs
	epoch uint64 // of that link
	load  *cycleLoad
	bore  int // loads so far, so that no transactional id is used twice
}

func (r *cycleRegion) addresses() (all []string) {
	for _, k := range r.nodes {
		all = append(all, k.Bootstrap())
	}
	return all
}

func (r *cycleRegion) open(t *testing.T, dial kafka.Dialer) *kafka.Client {
	t.Helper()
	cl, err := kafka.Open(kafka.Config{Name: string(r.name), Brokers: r.addresses(), RequestTimeout: 5 * time.Second, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// cycleMirror is one mirror of a link. Nobody ever stops it.
type cycleMirror struct {
	*mirrorRun
	line *lateLine
}

// cycleLink is one link with its mirrors, which know nothing of each other but
// the generations.
type cycleLink struct {
	link   replicate.Link
	starts map[topology.Partition]int64
	runs   []*cycleMirror
}

// cycleFigures are what a run of the cycles ends with.
type cycleFigures struct {
	Seeds        int `json:"seeds"`
	Cycles       int `json:"cycles"`
	Acknowledged int `json:"acknowledged"`
	Both         int `json:"both"`
	Salvaged     int `json:"salvaged"`
	Foreign      int `json:"foreign"`
	Inside       int `json:"inside"` // partitions whose old end was inside the leap
	Beyond       int `json:"beyond"`
	Below        int `json:"below"`
	Late         int `json:"late"`
	Held         int `json:"held"`
	Takeovers    int `json:"takeovers"`
	Zombies      int `json:"zombies"`
	Lost         int `json:"lost"`
	Duplicated   int `json:"duplicated"`
	Reordered    int `json:"reordered"`
	Renumbered   int `json:"renumbered"`
	LateAccepted int `json:"late_accepted"`
}

// cycles is one seed: a topic that goes through the loss and the return of its
// regions while its producers and all mirrors that ever ran are at work.
type cycles struct {
	t     *testing.T
	rng   *rand.Rand
	seed  uint64
	topic string
	a, b  *cycleRegion
	wait  time.Duration // one request timeout of a mirror
	older bool          // in one cycle the lost region comes back as it was some time before
	sum   *cycleFigures
	links []*cycleLink

	mu   sync.Mutex
	sent map[string]cycleRecord // by what names it

	shared  map[topology.Partition][]replicate.Range // where the logs are known to differ
	foreign map[topology.Partition][]replicate.Range
	salvage map[topology.Partition]map[int64]string
}

// cycleRecord is a record that a producer wrote.
type cycleRecord struct {
	region topology.Region
	topology.Partition
	offset int64
	fate   string // "", "aborted", "unknown"
}

func TestMirror_EveryRecordIsInOnePlaceOverCyclesOfLossAndReturn(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("HOLDFAST_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	nodes, err := strconv.Atoi(os.Getenv("HOLDFAST_BROKERS"))
	if err != nil {
		nodes = 1
	}
	for _, pair := range identityPairs() {
		t.Run(pair[0]+">"+pair[1], func(t *testing.T) {
			a, b := newCycleRegion(t, "a", pair[0], nodes), newCycleRegion(t, "b", pair[1], nodes)
			sum := &cycleFigures{}
			for n := range lossSeeds() {
				t.Run(fmt.Sprintf("seed-%d", seed+n), func(t *testing.T) {
					began := time.Now()
					c := &cycles{
						t: t, seed: seed + n, rng: rand.New(rand.NewPCG(seed+n, 8)), topic: fmt.Sprintf("cycles-%d", n), a: a, b: b, sum: sum,
						wait: time.Second, older: os.Getenv("HOLDFAST_SEEDS") != "" && nodes == 1, sent: map[string]cycleRecord{},
						shared: map[topology.Partition][]replicate.Range{}, foreign: map[topology.Partition][]replicate.Range{}, salvage: map[topology.Partition]map[int64]string{},
					}
					if nodes > 1 {
						c.wait = 5 * time.Second // longer than a broker's session
					}
					t.Logf("HOLDFAST_SEED=%d", c.seed)
					c.run()
					t.Logf("took %s", time.Since(began).Round(time.Millisecond))
				})
				if t.Failed() {
					break
				}
			}
			line, _ := json.Marshal(sum)
			t.Logf("%s", line)
		})
	}
}

func newCycleRegion(t *testing.T, name topology.Region, version string, nodes int) *cycleRegion {
	t.Helper()
	r := &cycleRegion{name: name, turns: &turns{}}
	opt := stack.KafkaOptions{Name: "cycles-" + string(name), Version: version, Dir: t.TempDir()}
	if nodes == 1 {
		r.nodes = []*stack.Kafka{stack.RunKafka(t, opt)}
	} else {
		c := stack.RunKafkaCluster(t, opt, nodes)
		for i := range c.Nodes() {
			r.nodes = append(r.nodes, c.Node(i))
		}
	}
	r.cl = r.open(t, nil)
	return r
}

// all are the partitions in order.
func (c *cycles) all() (out []topology.Partition) {
	for i := range int32(cycleParts) {
		out = append(out, topology.Partition{Topic: c.topic, Partition: i})
	}
	return out
}

func (c *cycles) run() {
	if _, err := c.a.cl.Admin.CreateTopic(c.t.Context(), cycleParts, -1, nil, c.topic); err != nil {
		c.t.Fatal(err)
	}
	c.a.epoch, c.b.epoch = 0, 0
	c.a.turns, c.b.turns = &turns{}, &turns{}
	c.open(c.a)
	forth := c.link(c.a, c.b, nil, nil)
	for round := range cycleRounds {
		forth = c.cycle(round, forth)
		c.sum.Cycles++
	}
	c.mirrored(c.a, c.b, 100)
	c.close(c.a)
	c.settleBoth(c.a, c.b)
	c.judge()
	for _, r := range []*cycleRegion{c.a, c.b} {
		c.sum.Takeovers += int(r.turns.last)
	}
	for _, l := range c.links {
		for _, m := range l.runs {
			m.line.release()
			late, parked := m.line.counts()
			c.sum.Late, c.sum.Held, c.sum.Zombies = c.sum.Late+late, c.sum.Held+parked, c.sum.Zombies+1
		}
	}
	c.sum.Seeds++
}

// link starts 2 or 3 mirrors of a new link.
func (c *cycles) link(from, to *cycleRegion, starts map[topology.Partition]int64, skips map[topology.Partition]replicate.Range) *cycleLink {
	c.t.Helper()
	to.epoch++
	l := &cycleLink{link: replicate.Link{Source: from.name, Target: to.name, Epoch: to.epoch}, starts: starts}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for n := range 2 + c.rng.IntN(2) {
		line := newLateLine(c.rng.Uint64())
		run := (&mirrorPair{t: c.t}).start(mirror.Config{
			Link: l.link, Source: from.open(c.t, nil), Target: to.open(c.t, line.dial), Topics: replicate.Only(c.topic), Starts: starts, Skips: skips,
			RequestTimeout: c.wait, TopicsEvery: time.Second, ConfigsEvery: 5 * time.Second, Leases: to.turns, Logger: log.With("mirror", n),
		})
		c.t.Cleanup(line.release)
		l.runs = append(l.runs, &cycleMirror{run, line})
	}
	c.links = append(c.links, l)
	return l
}

// cycle is one unplanned move to b, the return of a, and the planned move back.
// It takes the link that mirrors to b, and returns the next one.
func (c *cycles) cycle(round int, forth *cycleLink) *cycleLink {
	t := c.t
	c.mirrored(c.a, c.b, 60+c.rng.Int64N(200))
	older := c.older && round == 1
	var restore func()
	if older {
		restore = c.rollBack(c.a, c.b)
	} else if c.rng.IntN(2) == 0 {
		c.hang(c.a)
	}

	// a is lost to b, at a random moment of the mirrors' work. Some of them
	// stand still from then on and wake up later, the others run.
	wake := c.hold(forth)
	time.Sleep(time.Duration(c.rng.IntN(150)) * time.Millisecond)
	if c.rng.IntN(2) == 0 {
		c.close(c.a) // else its producers go on during the promotion
	}
	opt := mirror.PromoteOptions{Link: forth.link, Starts: forth.starts, Topics: replicate.Only(c.topic), LeapTo: map[topology.Partition]int64{}}
	ends := map[topology.Partition]int64{}
	if !older {
		ends = c.ends(c.a)
	}
	for i, p := range c.all() {
		switch (i + round + int(c.seed)) % 3 {
		case 0: // all that a wrote is inside
			opt.LeapTo[p] = max(ends[p], c.ends(c.b)[p]) + 3000
		case 1: // what it wrote goes beyond, if it wrote anything
			opt.LeapTo[p] = c.ends(c.b)[p] + 2
		default:
			opt.LeapTo[p] = ends[p] + c.rng.Int64N(200)
		}
	}
	opt.Progress = func(p mirror.PromoteProgress) {
		if p.Step == "leap" {
			wake("in the leap")
		}
	}
	promoted := c.promote(c.b, opt)
	c.open(c.b)
	time.Sleep(time.Duration(50+c.rng.IntN(150)) * time.Millisecond)
	wake("under producers")
	c.close(c.a)
	if restore != nil {
		restore()
	}
	c.woken(c.b, forth, wake)
	if got := c.promote(c.b, opt); !slices.EqualFunc(got, promoted, func(x, y mirror.Promotion) bool { return x.X == y.X && x.Fence == y.Fence }) {
		t.Errorf("promoted again: %v, at first %v", got, promoted)
	}

	// a is back, and follows b from its end.
	before := map[topology.Partition]mirror.Before{}
	skips := map[topology.Partition]replicate.Range{}
	for _, d := range promoted {
		epoch := int32(-1)
		for _, m := range forth.runs {
			for _, s := range m.Status().Partitions {
				if s.Partition == d.Partition {
					epoch = max(epoch, s.SourceEpoch)
				}
			}
		}
		before[d.Partition] = mirror.Before{X: d.X, Began: d.End, Epoch: epoch, Known: c.shared[d.Partition]}
		skips[d.Partition] = replicate.Range{Start: d.X, End: d.End}
	}
	found := c.reunite(before, older)
	starts := map[topology.Partition]int64{}
	for _, i := range found {
		starts[i.Partition] = i.Reunion.Start
	}
	back := c.link(c.b, c.a, starts, skips)
	c.groups(round, found, before, starts, skips)
	c.mirrored(c.b, c.a, 60+c.rng.Int64N(200))

	// The planned move back, with a transaction that somebody left open.
	if c.rng.IntN(2) == 0 {
		c.hang(c.b)
	}
	wake = c.holdBut(back)
	c.close(c.b)
	d := c.settleBoth(c.b, c.a)
	done := c.promote(c.a, mirror.PromoteOptions{Link: back.link, Starts: starts, Topics: replicate.Only(c.topic)})
	for _, q := range done {
		if q.X != d[q.Partition] || q.Fence != q.X {
			t.Errorf("the planned move ended at %s, both regions ended at %d", q, d[q.Partition])
		}
	}
	c.open(c.a)
	time.Sleep(time.Duration(50+c.rng.IntN(150)) * time.Millisecond)
	wake("under producers")
	c.woken(c.a, back, wake)
	if open, err := mirror.CheckFence(t.Context(), c.b.cl, mirror.PromoteOptions{Link: forth.link, Starts: forth.starts, Topics: opt.Topics}, promoted); err != nil || len(open) > 0 {
		t.Errorf("the fence of the first move: %v %v", open, err)
	}
	return c.link(c.a, c.b, d, nil)
}

func (c *cycles) promote(r *cycleRegion, opt mirror.PromoteOptions) []mirror.Promotion {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), cycleSoon)
	defer cancel()
	got, err := mirror.Promote(ctx, r.cl, opt)
	if stray := (*mirror.StrayError)(nil); errors.As(err, &stray) {
		c.sum.LateAccepted += len(stray.At)
	}
	if err != nil || len(got) != cycleParts {
		c.t.Fatalf("promote %s: %v %v", r.name, got, err)
	}
	return got
}

// hold makes some mirrors of a link stand still, and returns what wakes those
// that were to wake at a moment. The first wakes last, when nobody writes.
func (c *cycles) hold(l *cycleLink) (wake func(when string)) {
	moments := []string{"at rest", "in the leap", "under producers", "runs on"}
	when := map[*cycleMirror]string{}
	for n, m := range l.runs {
		when[m] = moments[0]
		if n > 0 {
			when[m] = moments[c.rng.IntN(len(moments))]
		}
		if when[m] != "runs on" {
			m.line.hold()
		}
	}
	return func(now string) {
		for m, at := range when {
			if at == now {
				m.line.release()
			}
		}
	}
}

// holdBut is hold, but one mirror runs on: a planned move needs it.
func (c *cycles) holdBut(l *cycleLink) (wake func(when string)) {
	runs := slices.Clone(l.runs)
	l = &cycleLink{runs: runs[:len(runs)-1]}
	return c.hold(l)
}

// woken lets the last mirrors of a fenced link wake up while nobody writes to
// the region, and fails if the log is longer afterwards. In the end none of the
// link's mirrors writes any more.
func (c *cycles) woken(r *cycleRegion, l *cycleLink, wake func(string)) {
	c.t.Helper()
	c.close(r)
	before := c.quiet(r)
	wake("at rest")
	wake("in the leap") // a planned move has none
	for n, m := range l.runs {
		c.soon(fmt.Sprintf("mirror %d of %s stops for good", n, l.link), func() string {
			got := m.Status()
			for _, s := range got.Partitions {
				if s.State != replicate.Promoted && s.State != replicate.Frozen { // frozen: its source was rolled back
					return fmt.Sprintf("%s is %s at %d: %s %v", s.Partition, s.State, s.TargetEnd, s.Trouble, s.Frozen)
				}
			}
			if len(got.Partitions) != cycleParts {
				return fmt.Sprintf("it knows %d partitions", len(got.Partitions))
			}
			return ""
		})
	}
	time.Sleep(2 * lateMax)
	if after := c.quiet(r); !maps.Equal(before, after) {
		c.sum.LateAccepted++
		c.t.Errorf("region %s ended at %v, and at %v after the mirrors of %s woke up", r.name, before, after, l.link)
	}
	c.open(r)
}

// quiet returns the ends of a region in which nobody writes.
func (c *cycles) quiet(r *cycleRegion) map[topology.Partition]int64 {
	c.t.Helper()
	if _, err := mirror.CloseTransactions(c.t.Context(), r.cl, replicate.Only(c.topic)); err != nil {
		c.t.Fatal(err)
	}
	return c.ends(r)
}

func (c *cycles) ends(r *cycleRegion) map[topology.Partition]int64 {
	c.t.Helper()
	return (&mirrorPair{t: c.t}).ends(r.cl, c.topic)
}

// settleBoth waits until a region in which nobody writes any more, and the one
// that mirrors it, end at the same offsets.
func (c *cycles) settleBoth(from, to *cycleRegion) map[topology.Partition]int64 {
	c.t.Helper()
	d := c.quiet(from)
	ctx, cancel := context.WithTimeout(c.t.Context(), cycleSoon)
	defer cancel()
	if err := mirror.WaitReached(ctx, to.cl, d); err != nil {
		c.explain()
		c.t.Fatal(err)
	}
	if again := c.ends(from); !maps.Equal(d, again) {
		c.t.Fatalf("region %s ended at %v and ends at %v now", from.name, d, again)
	}
	return d
}

// explain tells where the mirrors of the last link stand, and who wrote the
// offsets for which they are frozen.
func (c *cycles) explain() {
	l := c.links[len(c.links)-1]
	frozen := map[topology.Partition]int64{}
	for n, m := range l.runs {
		got := m.Status()
		for _, s := range got.Partitions {
			if s.Frozen != nil {
				frozen[s.Partition] = s.Frozen.From
			}
			h := s.History
			s.History = h[max(0, len(h)-6):]
			said, _ := json.Marshal(s)
			c.t.Logf("mirror %d of %s: %s", n, l.link, said)
		}
		if len(got.Findings) > 0 {
			c.t.Logf("mirror %d of %s: %v", n, l.link, got.Findings)
		}
	}
	to := c.a
	if l.link.Target == c.b.name {
		to = c.b
	}
	for p, at := range frozen {
		c.t.Logf("%s of %s: %s", p, to.name, strings.Join(c.written(to, p, at-8, at+4), "; "))
	}
}

// written names who wrote the offsets [from, end) of a partition.
func (c *cycles) written(r *cycleRegion, p topology.Partition, from, end int64) (said []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m, err := r.cl.Admin.Metadata(ctx, p.Topic)
	if err != nil {
		return []string{err.Error()}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.addresses()...), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.Topic: {p.Partition: kgo.NewOffset().At(max(0, from))}}))
	if err != nil {
		return []string{err.Error()}
	}
	defer cl.Close()
	for last := int64(-1); last < end-1; {
		f := cl.PollRecords(ctx, 50)
		if ctx.Err() != nil {
			return said
		}
		f.EachRecord(func(rec *kgo.Record) {
			if last = rec.Offset; last < from || last >= end {
				return
			}
			who := "a producer"
			for _, l := range c.links {
				run := replicate.Run{Link: l.link, Topic: replicate.TopicID(m.Topics[p.Topic].ID), Partition: p.Partition}
				for kind, id := range map[string]int64{"leap": run.LeapProducer(), "fill": run.FillProducer(last), "fill before": run.FillProducer(max(0, last-4096)), "data": run.DataProducer(last), "data before": run.DataProducer(max(0, last-16384))} {
					if rec.ProducerID == id {
						who = fmt.Sprintf("%s of %s", kind, l.link)
					}
				}
			}
			said = append(said, fmt.Sprintf("%d by %s (id %d, epoch %d, control %t, key %x, value %.24q)", last, who, rec.ProducerID, rec.ProducerEpoch, rec.Attrs.IsControl(), rec.Key, rec.Value))
		})
	}
	return said
}

func (c *cycles) soon(what string, missing func() string) {
	c.t.Helper()
	why := ""
	for until := time.Now().Add(cycleSoon); time.Now().Before(until); time.Sleep(30 * time.Millisecond) {
		if why = missing(); why == "" {
			return
		}
	}
	c.explain()
	c.t.Fatalf("never happened: %s: %s", what, why)
}

// mirrored waits until every partition of the target holds so many offsets
// more, and all that the source held when that was so.
func (c *cycles) mirrored(from, to *cycleRegion, more int64) {
	c.t.Helper()
	want := c.ends(from)
	for p := range want {
		want[p] += more
	}
	c.soon(fmt.Sprintf("%s holds %d offsets more of %s", to.name, more, from.name), func() string {
		got, err := mirror.Ends(c.t.Context(), to.cl, replicate.Only(c.topic))
		if err != nil {
			return err.Error()
		}
		for _, p := range c.all() {
			if got[p].End < want[p] {
				return fmt.Sprintf("%s ends at %d, want %d", p, got[p].End, want[p])
			}
		}
		return ""
	})
}

// reunite compares both regions and salvages what only a has, in the order in
// which a daemon does it. It starts over when something writes to a meanwhile.
func (c *cycles) reunite(before map[topology.Partition]mirror.Before, older bool) []mirror.Inspection {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), cycleSoon)
	defer cancel()
	strays := c.rng.IntN(2)
	for try := range 20 {
		_, err := mirror.CloseTransactions(ctx, c.a.cl, replicate.Only(c.topic))
		var found []mirror.Inspection
		if err == nil {
			found, err = mirror.Inspect(ctx, c.b.cl, c.a.cl, before, 0)
		}
		if err != nil {
			c.t.Logf("compare the regions: %v", err) // brokers were restarted: again, as a daemon does
			strays++
			time.Sleep(200 * time.Millisecond)
			continue
		}
		leap := map[topology.Partition]int64{}
		for _, i := range found {
			if i.LeapTo > 0 {
				leap[i.Partition] = i.LeapTo
			}
		}
		if len(leap) > 0 {
			ends, err := mirror.Leap(ctx, c.b.cl, mirror.PromoteOptions{Link: replicate.Link{Source: "b", Target: "a", Epoch: c.a.epoch + 1}, LeapTo: leap})
			if err != nil {
				c.t.Fatal(err)
			}
			for p, want := range leap {
				if ends[p] < want {
					c.t.Fatalf("%s leapt to %d, want %d", p, ends[p], want)
				}
			}
		}
		if try < strays { // the region is not closed yet, and somebody writes to it
			c.write(c.a, 4)
		}
		kept := map[topology.Partition]map[int64]string{}
		for _, i := range found {
			kept[i.Partition] = c.keep(ctx, i)
		}
		now := c.ends(c.a)
		if slices.ContainsFunc(found, func(i mirror.Inspection) bool { return now[i.Partition] != i.Target.End }) {
			continue
		}
		for _, i := range found {
			c.accept(i, before[i.Partition], kept[i.Partition], older)
		}
		return found
	}
	c.t.Fatal("something writes to the returned region all the time")
	return nil
}

// accept holds a judgement against what is known here, and notes it.
func (c *cycles) accept(i mirror.Inspection, before mirror.Before, kept map[int64]string, older bool) {
	c.t.Helper()
	e := i.Target.End
	switch {
	case i.Freeze != "" || i.Reunion.Start != e:
		c.t.Fatalf("%s cannot follow: %+v", i.Partition, i)
	case !older && i.Proven != before.X:
		c.t.Errorf("%s is proven below %d, want %d: %+v", i.Partition, i.Proven, before.X, i)
	case i.Proven >= min(before.X, e) && e <= before.Began && len(i.Foreign) > 0:
		c.t.Errorf("%s ends at %d inside the leap [%d,%d) and has foreign offsets %v", i.Partition, e, before.X, before.Began, i.Foreign)
	}
	switch {
	case e < before.X || i.Proven < before.X:
		c.sum.Below++
	case e <= before.Began:
		c.sum.Inside++
	default:
		c.sum.Beyond++
	}
	p := i.Partition
	c.foreign[p] = append(c.foreign[p], i.Foreign...)
	c.shared[p] = append(c.shared[p], i.Foreign...)
	if i.Orphans.Start < i.Orphans.End {
		c.shared[p] = append(c.shared[p], i.Orphans)
	}
	if c.salvage[p] == nil {
		c.salvage[p] = map[int64]string{}
	}
	for o, name := range kept {
		if was, twice := c.salvage[p][o]; twice {
			c.t.Errorf("%s: %d was salvaged as %s and as %s", p, o, was, name)
		}
		c.salvage[p][o] = name
	}
}

// keep reads the orphans of one partition as a salvage holds them, and returns
// those that a reader of committed records saw.
func (c *cycles) keep(ctx context.Context, i mirror.Inspection) map[int64]string {
	c.t.Helper()
	out := map[int64]string{}
	var chunks [][]byte
	held, err := mirror.ReadOrphans(ctx, c.a.cl, i.Partition, i.Orphans, func(b []byte) error { chunks = append(chunks, slices.Clone(b)); return nil })
	if err != nil {
		c.t.Fatal(err)
	}
	for _, b := range chunks {
		err := mirror.EachOrphan(b, i.Orphans, held.Aborted, func(o mirror.Orphan) error {
			if !o.Aborted {
				out[o.Offset] = cycleName(o.Value)
			}
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if int64(len(out)) != held.Records {
		c.t.Errorf("%s: %d orphans, counted %d", i.Partition, len(out), held.Records)
	}
	return out
}

// groups commits positions at b as its consumers would, copies them to a, and
// holds them against what a plain reader gets next in both regions.
func (c *cycles) groups(round int, found []mirror.Inspection, before map[topology.Partition]mirror.Before, starts map[topology.Partition]int64, skips map[topology.Partition]replicate.Range) {
	c.t.Helper()
	group := fmt.Sprintf("readers-%s-%d", c.topic, round)
	selector, err := replicate.NewGroupSelector([]string{group}, nil, nil, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	commit := func(r *cycleRegion, at map[topology.Partition]int64) {
		c.t.Helper()
		to := kadm.Offsets{}
		for p, o := range at {
			to.Add(kadm.Offset{Topic: p.Topic, Partition: p.Partition, At: o, LeaderEpoch: -1})
		}
		if err := r.cl.Admin.CommitAllOffsets(c.t.Context(), group, to); err != nil {
			c.t.Fatal(err)
		}
	}
	at, former := map[topology.Partition]int64{}, map[topology.Partition]int64{}
	for n, i := range found {
		was := before[i.Partition]
		former[i.Partition] = c.rng.Int64N(i.Target.End + 1) // of the time when a had the role
		switch (n + round) % 3 {
		case 0:
			at[i.Partition] = c.rng.Int64N(was.X + 1)
		case 1:
			at[i.Partition] = was.X + c.rng.Int64N(was.Began-was.X)
		default:
			at[i.Partition] = was.Began + c.rng.Int64N(5)
		}
	}
	commit(c.a, former)
	commit(c.b, at)
	c.soon("the log of a reaches the positions of b", func() string {
		for p, o := range c.ends(c.a) {
			if o < before[p].Began+5 {
				return fmt.Sprintf("%s ends at %d", p, o)
			}
		}
		return ""
	})
	got, err := mirror.SyncGroups(c.t.Context(), c.b.cl, c.a.cl, mirror.SyncOptions{Groups: selector, Topics: replicate.Only(c.topic), Skips: skips, Began: starts})
	if err != nil || len(got.Findings()) > 0 {
		c.t.Errorf("copy the group's positions: %v, %+v", err, got.Findings())
	}
	commits, err := c.a.cl.Commits(c.t.Context(), []string{group})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range commits[group] {
		p := topology.Partition{Topic: o.Topic, Partition: o.Partition}
		want, was := at[p], before[p]
		if was.X <= want && want < was.Began {
			want = was.Began // a may hold orphans there, b holds nothing
		}
		if o.At != want {
			c.t.Errorf("%s: the group stands at %d in b and at %d in a, want %d (x %d, leapt to %d)", p, at[p], o.At, want, was.X, was.Began)
		}
	}
	if len(commits[group]) != cycleParts {
		c.t.Errorf("the group has %d positions", len(commits[group]))
	}
}

// rollBack keeps what a region holds now, has everything that comes later
// mirrored, and ends the region. What it returns brings the region back as it
// was, and lets producers use some of the lost offsets again.
func (c *cycles) rollBack(from, to *cycleRegion) (restore func()) {
	c.t.Helper()
	k := from.nodes[0]
	data, kept := filepath.Join(k.Dir(), "data"), filepath.Join(c.t.TempDir(), "older")
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.close(from)
	c.settleBoth(from, to)
	must(k.Kill())
	must(os.CopyFS(kept, os.DirFS(data)))
	must(k.Restart(c.t.Context()))
	c.open(from)
	c.mirrored(from, to, 100)
	c.close(from)
	c.settleBoth(from, to)
	must(k.Kill())
	return func() {
		must(os.RemoveAll(data))
		must(os.CopyFS(data, os.DirFS(kept)))
		must(k.Restart(c.t.Context()))
		if c.rng.IntN(2) == 0 {
			c.write(from, 30)
		}
	}
}
