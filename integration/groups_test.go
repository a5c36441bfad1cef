//go:build integration

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	resumeGroups = 50
	resumeParts  = 5 // of each topic
	resumeJava   = 6 // groups that Java's consumer reads, too; HOLDFAST_ALL_GROUPS: all
)

var resumeTopics = []string{"plain", "cut", "holes", "quiet"}

// resume is one run: groups of a region that goes away, and where they must go
// on in the other one.
type resume struct {
	*mirrorPair
	rng     *rand.Rand
	records map[topology.Partition][]*kgo.Record // visible, at the source
	groups  []*resumeGroup
}

type resumeGroup struct {
	name   string
	latest bool                         // its consumers start at the end of what they never read
	at     map[topology.Partition]int64 // committed at the source
	member *kgo.Client                  // at the source; nil: idle
}

func TestGroups_ResumeAtExactlyTheirNextRecord(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	r := &resume{mirrorPair: &mirrorPair{t: t}, rng: rand.New(rand.NewPCG(seed, 4)), records: map[topology.Partition][]*kgo.Record{}}
	r.brokers("3.6")
	r.fill()
	selector, err := replicate.NewGroupSelector([]string{"g-.*"}, nil, nil, []string{".*-latest"})
	if err != nil {
		t.Fatal(err)
	}
	conf := r.config(resumeTopics...)
	conf.Groups, conf.GroupsEvery = selector, 0 // the default
	m := r.start(conf)
	r.reach(m, r.cb, r.endsOf(r.ca, "plain", "cut", "quiet", "holes"))
	r.cut("cut")

	r.join()
	r.commit()
	opt := mirror.SyncOptions{Groups: selector, Topics: replicate.Only(resumeTopics...)}
	report, err := mirror.CheckGroups(t.Context(), r.ca, r.cb, opt, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if bad := report.Findings(); len(bad) > 0 || len(report.Rows) != resumeGroups*len(resumeTopics)*resumeParts {
		t.Fatalf("%d of %d offsets are wrong before the promotion, such as %+v", len(bad), len(report.Rows), bad[:min(3, len(bad))])
	}
	r.freshness()

	for _, g := range r.groups {
		if g.member != nil {
			g.member.Close()
		}
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	opt.Cap = r.endsOf(r.cb, resumeTopics...)
	if report, err = mirror.SyncGroups(t.Context(), r.ca, r.cb, opt); err != nil || len(report.Findings()) > 0 {
		t.Fatalf("%+v %v", report.Findings(), err)
	}
	r.seeds(report)
	r.goOn() // producers write to the other region now

	off := r.check("franz-go", r.groups, 6, r.withFranz)
	sample := slices.Clone(r.groups)
	if os.Getenv("HOLDFAST_ALL_GROUPS") == "" {
		r.rng.Shuffle(len(sample), func(i, j int) { sample[i], sample[j] = sample[j], sample[i] })
		sample = sample[:resumeJava]
	}
	off += r.check("java", sample, 2, r.withJava)
	t.Logf(`{"groups":%d,"partitions":%d,"java_groups":%d,"off":%d}`, len(r.groups), len(report.Rows), len(sample), off)
}

func (r *resume) brokers(version string) {
	settings := map[string]string{"auto.create.topics.enable": "false"}
	var wg sync.WaitGroup
	wg.Go(func() {
		r.a = stack.RunKafka(r.t, stack.KafkaOptions{Name: "groups-a", Version: version, Properties: settings})
	})
	wg.Go(func() {
		r.b = stack.RunKafka(r.t, stack.KafkaOptions{Name: "groups-b", Version: version, Properties: settings})
	})
	wg.Wait()
	if r.t.Failed() || r.t.Skipped() || r.a == nil || r.b == nil {
		r.t.FailNow()
	}
	r.ca, r.cb = r.client(r.a), r.client(r.b)
}

func resumePartitions(topics ...string) []topology.Partition {
	var out []topology.Partition
	for _, topic := range topics {
		for i := range int32(resumeParts) {
			out = append(out, topology.Partition{Topic: topic, Partition: i})
		}
	}
	return out
}

func (r *resume) endsOf(cl *kafka.Client, topics ...string) map[topology.Partition]int64 {
	r.t.Helper()
	ranges, err := mirror.Ends(r.t.Context(), cl, replicate.Only(topics...))
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[topology.Partition]int64{}
	for p, held := range ranges {
		out[p] = held.End
	}
	return out
}

// fill makes the source's topics. In one of them every other transaction is
// given up, and what is quiet has next to nothing.
func (r *resume) fill() {
	r.t.Helper()
	for _, topic := range resumeTopics {
		r.topic(r.ca, topic, resumeParts, nil)
	}
	n := 0
	record := func(p topology.Partition) *kgo.Record {
		n++
		return &kgo.Record{Topic: p.Topic, Partition: p.Partition, Value: fmt.Appendf(nil, "%s#%d", p, n)}
	}
	var plain []*kgo.Record
	for _, p := range resumePartitions("plain", "cut", "quiet") {
		count := 100 + r.rng.IntN(100)
		if p.Topic == "quiet" {
			count = r.rng.IntN(3)
		}
		for range count {
			plain = append(plain, record(p))
		}
	}
	producer := r.client(r.a, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(2*time.Millisecond))
	if err := producer.Kgo.ProduceSync(r.t.Context(), plain...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	tx := r.client(r.a, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("groups"), kgo.ProducerLinger(0))
	var kept []*kgo.Record
	for i := range 40 {
		if err := tx.Kgo.BeginTransaction(); err != nil {
			r.t.Fatal(err)
		}
		var batch []*kgo.Record
		for range 5 + r.rng.IntN(20) {
			batch = append(batch, record(topology.Partition{Topic: "holes", Partition: r.rng.Int32N(resumeParts)}))
		}
		if err := tx.Kgo.ProduceSync(r.t.Context(), batch...).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
		commit := kgo.TransactionEndTry(i%2 == 0)
		if err := tx.Kgo.EndTransaction(r.t.Context(), commit); err != nil {
			r.t.Fatal(err)
		}
		if commit {
			kept = append(kept, batch...)
		}
	}
	for _, rec := range append(plain, kept...) {
		p := topology.Partition{Topic: rec.Topic, Partition: rec.Partition}
		r.records[p] = append(r.records[p], rec)
	}
	for _, list := range r.records {
		slices.SortFunc(list, func(a, b *kgo.Record) int { return int(a.Offset - b.Offset) })
	}
}

func (r *resume) markers(p topology.Partition, from, to int64) {
	r.t.Helper()
	if from >= to {
		return
	}
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for o := from; o < to; o++ {
		mark := kmsg.NewWriteTxnMarkersRequestMarker()
		mark.ProducerID = 1<<62 + o
		topic := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		topic.Topic, topic.Partitions = p.Topic, []int32{p.Partition}
		mark.Topics = append(mark.Topics, topic)
		req.Markers = append(req.Markers, mark)
	}
	resp, err := r.cb.Kgo.Broker(1).Request(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range resp.(*kmsg.WriteTxnMarkersResponse).Markers {
		if err := kerr.ErrorForCode(m.Topics[0].Partitions[0].ErrorCode); err != nil {
			r.t.Fatalf("write a marker to %s: %v", p, err)
		}
	}
}

// cut deletes the beginning of a topic in both regions, as retention does.
func (r *resume) cut(topic string) {
	r.t.Helper()
	at := kadm.Offsets{}
	for p, end := range r.endsOf(r.ca, topic) {
		start := 1 + r.rng.Int64N(end/2)
		at.Add(kadm.Offset{Topic: p.Topic, Partition: p.Partition, At: start})
		r.records[p] = slices.DeleteFunc(r.records[p], func(rec *kgo.Record) bool { return rec.Offset < start })
	}
	for _, cl := range []*kafka.Client{r.ca, r.cb} {
		got, err := cl.Admin.DeleteRecords(r.t.Context(), at)
		if err = errorsOf(err, got.Error()); err != nil {
			r.t.Fatal(err)
		}
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// join makes the groups, every other one with a live member.
func (r *resume) join() {
	r.t.Helper()
	var wg sync.WaitGroup
	for i := range resumeGroups {
		g := &resumeGroup{name: fmt.Sprintf("g-%02d", i), latest: i%5 == 0, at: map[topology.Partition]int64{}}
		if g.latest {
			g.name += "-latest"
		}
		r.groups = append(r.groups, g)
		if i%2 == 0 {
			continue
		}
		joined := make(chan struct{}, 1)
		var once sync.Once
		g.member = r.client(r.a, kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(resumeTopics...), kgo.DisableAutoCommit(),
			kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { once.Do(func() { close(joined) }) })).Kgo
		g.member.PauseFetchTopics(resumeTopics...)
		wg.Go(func() {
			select {
			case <-joined:
			case <-time.After(30 * time.Second):
				r.t.Errorf("group %s has no member", g.name)
			}
		})
	}
	wg.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// commit puts the groups where they are when the region goes away: first
// somewhere, then somewhere further, while the mirror follows.
func (r *resume) commit() {
	r.t.Helper()
	ends := r.endsOf(r.ca, resumeTopics...)
	inHole, never := 0, 0
	for _, g := range r.groups {
		first, last := kadm.Offsets{}, kadm.Offsets{}
		for _, p := range resumePartitions(resumeTopics...) {
			var at int64
			switch kind := r.rng.IntN(20); {
			case kind == 0 && p.Partition > 0: // the topic must be known to be the group's
				never++
				continue
			case kind < 4: // at the log's start or below
				if list := r.records[p]; len(list) > 0 {
					at = max(0, list[0].Offset-r.rng.Int64N(3))
				}
			case kind < 6:
				at = ends[p]
			default:
				at = r.rng.Int64N(ends[p] + 1)
			}
			g.at[p] = at
			if at < ends[p] && !slices.ContainsFunc(r.records[p], func(rec *kgo.Record) bool { return rec.Offset == at }) {
				inHole++
			}
			first.Add(kadm.Offset{Topic: p.Topic, Partition: p.Partition, At: r.rng.Int64N(at + 1), LeaderEpoch: -1})
			last.Add(kadm.Offset{Topic: p.Topic, Partition: p.Partition, At: at, LeaderEpoch: -1})
		}
		for _, os := range []kadm.Offsets{first, last} {
			if err := r.commitAs(g, os); err != nil {
				r.t.Fatalf("commit group %s: %v", g.name, err)
			}
		}
	}
	r.t.Logf("%d offsets are inside of a hole or below the log, %d partitions were never read", inHole, never)
}

// commitAs commits as the group's member, or for a group that has none.
func (r *resume) commitAs(g *resumeGroup, os kadm.Offsets) error {
	if g.member == nil {
		return kafka.UntilSettled(r.t.Context(), func() error { return r.ca.Admin.CommitAllOffsets(r.t.Context(), g.name, os) })
	}
	at := map[string]map[int32]kgo.EpochOffset{}
	os.Each(func(o kadm.Offset) {
		if at[o.Topic] == nil {
			at[o.Topic] = map[int32]kgo.EpochOffset{}
		}
		at[o.Topic][o.Partition] = kgo.EpochOffset{Epoch: -1, Offset: o.At}
	})
	var failed error
	g.member.CommitOffsetsSync(r.t.Context(), at, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if resp != nil {
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					failed = errorsOf(failed, kerr.ErrorForCode(p.ErrorCode))
				}
			}
		}
	})
	return failed
}

// freshness measures how long a commit takes to be in the target.
func (r *resume) freshness() {
	r.t.Helper()
	const rounds = 7
	ends := r.endsOf(r.ca, "plain")
	var g *resumeGroup
	var p topology.Partition
	for _, one := range r.groups { // a live one with records left to read
		for at, end := range ends {
			if offset, read := one.at[at]; one.member != nil && read && offset+rounds <= end {
				g, p = one, at
			}
		}
	}
	var took []time.Duration
	for range rounds {
		g.at[p]++
		os := kadm.Offsets{}
		os.AddOffset(p.Topic, p.Partition, g.at[p], -1)
		if err := r.commitAs(g, os); err != nil {
			r.t.Fatal(err)
		}
		began := time.Now()
		mirrorSoon(r.t, "the offset is copied", func() bool {
			have, err := r.cb.Admin.FetchOffsets(r.t.Context(), g.name)
			o, ok := have.Lookup(p.Topic, p.Partition)
			return err == nil && ok && o.At == g.at[p]
		})
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	slices.Sort(took)
	r.t.Logf("a commit is in the target after %v", took)
	if took[len(took)/2] > time.Second {
		r.t.Errorf("half of the commits took longer than a second: %v", took)
	}
}

// seeds gives the target a commit log about what the groups have read of a
// topic with holes, twice, and reads it with a plain consumer.
func (r *resume) seeds(report mirror.GroupReport) {
	r.t.Helper()
	compacted := "compact"
	if _, err := r.cb.Admin.CreateTopic(r.t.Context(), 1, 1, map[string]*string{"cleanup.policy": &compacted}, "commits"); err != nil {
		r.t.Fatal(err)
	}
	var specs []replicate.CommitLog
	var names []string
	for _, g := range r.groups {
		specs = append(specs, replicate.CommitLog{Topic: "commits", Of: "holes", Group: g.name})
		names = append(names, g.name)
	}
	want := map[string]int64{}
	for _, row := range report.Rows {
		if row.Topic == "holes" {
			want[replicate.CommitEntry{Group: row.Group, Partition: row.Partition}.Key()] = row.Want
		}
	}
	committed, err := mirror.Commits(r.t.Context(), r.cb, names)
	if err != nil {
		r.t.Fatal(err)
	}
	for range 2 {
		seeds, err := mirror.SeedCommitLogs(r.t.Context(), r.cb, specs, committed)
		if err != nil || len(seeds) != len(want) || slices.ContainsFunc(seeds, func(s replicate.Seed) bool { return s.Bad || s.Have != s.Want }) {
			r.t.Fatalf("%+v %v", seeds, err)
		}
	}
	got := map[string]int64{}
	for _, rec := range r.read(r.b, "commits", r.endsOf(r.cb, "commits"))[topology.Partition{Topic: "commits"}] {
		e, err := replicate.DecodeCommit(rec.Key, rec.Value)
		if _, twice := got[e.Key()]; err != nil || twice || time.Since(e.At) > time.Hour {
			r.t.Fatalf("%s %s: %+v %v", rec.Key, rec.Value, e, err)
		}
		got[e.Key()] = e.Offset
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Error(diff)
	}
}

// goOn writes to the target, so that every partition has a next record.
func (r *resume) goOn() {
	r.t.Helper()
	producer := r.client(r.b, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for _, p := range resumePartitions(resumeTopics...) {
		rec := &kgo.Record{Topic: p.Topic, Partition: p.Partition, Value: fmt.Appendf(nil, "%s#after", p)}
		if err := producer.Kgo.ProduceSync(r.t.Context(), rec).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
		r.records[p] = append(r.records[p], rec)
	}
}

// next is the record that a group must read first, and how many it must read.
func (r *resume) next(g *resumeGroup, p topology.Partition) (first *kgo.Record, count int) {
	all := r.records[p]
	at, read := g.at[p]
	i := slices.IndexFunc(all, func(rec *kgo.Record) bool { return rec.Offset >= at })
	if !read {
		i = 0
		if g.latest {
			i = len(all) - 1
		}
	}
	return all[i], len(all) - i
}

// check reads as each group and counts the partitions on which it did not
// begin with its next record.
func (r *resume) check(client string, groups []*resumeGroup, lanes int, read func(*resumeGroup, int) (map[topology.Partition]string, error)) (off int) {
	r.t.Helper()
	began := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	lane := make(chan struct{}, lanes)
	for _, g := range groups {
		lane <- struct{}{}
		wg.Go(func() {
			defer func() { <-lane }()
			sum := 0
			want := map[topology.Partition]string{}
			for _, p := range resumePartitions(resumeTopics...) {
				first, count := r.next(g, p)
				want[p] = fmt.Sprintf("%d %s", first.Offset, first.Value)
				sum += count
			}
			got, err := read(g, sum)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.t.Errorf("%s as %s: %v", client, g.name, err)
			}
			for p := range want {
				if got[p] != want[p] {
					off++
					at, read := g.at[p]
					r.t.Errorf("%s as %s (live at the source: %t) on %s, committed %d (%t): begins with %q, want %q", client, g.name, g.member != nil, p, at, read, got[p], want[p])
				}
			}
		})
	}
	wg.Wait()
	r.t.Logf("%s read as %d groups in %s", client, len(groups), time.Since(began).Round(time.Millisecond))
	return off
}

func (r *resume) withFranz(g *resumeGroup, count int) (map[topology.Partition]string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.b.Bootstrap()), kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(resumeTopics...), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	first := map[topology.Partition]string{}
	for n := 0; n < count; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return first, err
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			n++
			p := topology.Partition{Topic: rec.Topic, Partition: rec.Partition}
			if first[p] == "" {
				first[p] = fmt.Sprintf("%d %s", rec.Offset, rec.Value)
			}
		})
	}
	return first, nil
}

// withJava reads with Kafka's own consumer, which starts at the end where it
// finds no offset that it can use.
func (r *resume) withJava(g *resumeGroup, count int) (map[topology.Partition]string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 60*time.Second)
	defer cancel()
	out, err := r.b.JavaTool(ctx, "kafka.tools.ConsoleConsumer", "--bootstrap-server", r.b.Bootstrap(), "--group", g.name,
		"--include", strings.Join(resumeTopics, "|"), "--max-messages", strconv.Itoa(count), "--timeout-ms", "20000",
		"--consumer-property", "enable.auto.commit=false", "--property", "print.offset=true", "--property", "print.partition=true")
	first, n := map[topology.Partition]string{}, 0
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSpace(line), "\t") // Partition:3  Offset:17  holes/3#412
		if len(fields) != 3 {
			continue
		}
		n++
		topic, _, _ := strings.Cut(fields[2], "/")
		part, err := strconv.ParseInt(strings.TrimPrefix(fields[0], "Partition:"), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", line, err)
		}
		p := topology.Partition{Topic: topic, Partition: int32(part)}
		if first[p] == "" {
			first[p] = strings.TrimPrefix(fields[1], "Offset:") + " " + fields[2]
		}
	}
	if err == nil && n != count {
		err = fmt.Errorf("it printed %d records, want %d", n, count)
	}
	return first, err
}
