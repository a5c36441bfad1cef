//go:build integration

package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/replicate"
)

// losses hurts topics in every way that Kafka allows. Partition 0 of each topic
// is hurt; partition 1 is a bystander.
type losses struct {
	*testing.T
	pair           *mirrorPair
	source, target *maker
	rand           *rand.Rand
	links          *stack.Links
	writers        map[*maker]*kgo.Client
	wrote          int
	expect         map[string]replicate.Freeze
	frozenEnd      map[string]int64 // of the target's partition 0, where nothing more may be written
	whole          map[string]bool  // topics that are hurt as a whole: without a bystander
}

func newLosses(t *testing.T, p *mirrorPair, seed uint64) *losses {
	l := &losses{T: t, pair: p, source: newMaker(t, p.a), target: newMaker(t, p.b), rand: rand.New(rand.NewPCG(seed, 3)), links: stack.NewLinks(),
		expect: map[string]replicate.Freeze{}, frozenEnd: map[string]int64{}, whole: map[string]bool{}}
	l.writers = map[*maker]*kgo.Client{l.source: l.writer(l.source), l.target: l.writer(l.target)}
	t.Cleanup(l.links.Close)
	return l
}

func (l *losses) some(most int64) int64 { return 1 + l.rand.Int64N(most) }

// write appends n records to one partition and returns the log's end then.
func (l *losses) write(m *maker, topic string, partition int32, n int64) (end int64) {
	l.Helper()
	var records []*kgo.Record
	for range n {
		r := odd(topic, partition, l.wrote)
		l.wrote++
		records = append(records, r)
	}
	c := l.writers[m]
	if l.whole[topic] { // a client that knew the old one refuses
		c = l.writer(m)
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(l.Context(), 60*time.Second)
	defer cancel()
	for some := range slices.Chunk(records, 1+l.rand.IntN(9)) {
		if err := c.ProduceSync(ctx, some...).FirstErr(); err != nil {
			l.Fatalf("produce to %s: %v", topic, err)
		}
	}
	return records[len(records)-1].Offset + 1
}

func (l *losses) writer(m *maker) *kgo.Client {
	l.Helper()
	return m.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(mirrorCodecs[l.rand.IntN(len(mirrorCodecs))]), kgo.MetadataMinAge(50*time.Millisecond))
}

func (l *losses) end(m *maker, topic string, partition int32) (end int64) {
	l.Helper()
	l.source.soon("read the end of "+topic, func() error {
		ends, err := m.admin.ListEndOffsets(l.Context(), topic)
		if err != nil {
			return err
		}
		e, ok := ends.Lookup(topic, partition)
		if !ok {
			return kerr.UnknownTopicOrPartition
		}
		end = e.Offset
		return e.Err
	})
	return end
}

func (l *losses) startOf(m *maker, topic string) int64 {
	l.Helper()
	starts, err := m.admin.ListStartOffsets(l.Context(), topic)
	if err != nil {
		l.Fatal(err)
	}
	s, ok := starts.Lookup(topic, 0)
	if !ok || s.Err != nil {
		l.Fatalf("read the start of %s: %v", topic, s.Err)
	}
	return s.Offset
}

// overrun lets retention delete whole segments that were not mirrored.
func (l *losses) overrun(topic string, end int64) {
	l.Helper()
	l.write(l.source, topic, 0, l.some(60))
	l.source.set(topic, "retention.ms", "1")
	for until := time.Now().Add(50 * time.Second); l.startOf(l.source, topic) <= end; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(until) {
			l.Fatalf("retention of %s deletes nothing", topic)
		}
	}
	l.source.set(topic, "retention.ms", "-1")
	l.write(l.source, topic, 0, l.some(40))
	start := l.startOf(l.source, topic)
	l.expect[topic] = replicate.Freeze{Reason: replicate.Lost, From: end, To: start}
	l.frozenEnd[topic] = end
}

// deleted deletes records that were not mirrored, and some that were.
func (l *losses) deleted(topic string, end int64) {
	l.Helper()
	last := l.write(l.source, topic, 0, 2+l.some(60))
	at := end + 1 + l.rand.Int64N(last-end-1)
	l.source.deleteBelow(topic, 0, at)
	l.expect[topic] = replicate.Freeze{Reason: replicate.Lost, From: end, To: at}
	l.frozenEnd[topic] = end
}

// keep copies a partition of the source as it is on disk now.
func (l *losses) keep(topic string) (folder string) {
	l.Helper()
	folder = filepath.Join(l.TempDir(), topic)
	if err := os.CopyFS(folder, os.DirFS(l.partition(topic))); err != nil {
		l.Fatal(err)
	}
	for _, kind := range []string{"*.index", "*.timeindex"} { // of a file in use; they are made again
		indexes, err := filepath.Glob(filepath.Join(folder, kind))
		for _, i := range indexes {
			err = errors.Join(err, os.Remove(i))
		}
		if err != nil {
			l.Fatal(err)
		}
	}
	return folder
}

func (l *losses) partition(topic string) string {
	return filepath.Join(l.pair.a.Dir(), "data", topic+"-0")
}

// restore puts older copies in the place of partitions, as a disk that was
// restored from a backup, or a broker that had not flushed: the source then
// ends where each copy did.
func (l *losses) restore(folders map[string]string) {
	l.Helper()
	err := l.pair.a.Stop(l.Context()) // in order: a kill would also bring back what DeleteRecords deleted lately
	for topic, folder := range folders {
		err = errors.Join(err, os.RemoveAll(l.partition(topic)), os.CopyFS(l.partition(topic), os.DirFS(folder)))
	}
	if err = errors.Join(err, l.pair.a.Restart(l.Context())); err != nil {
		l.Fatal(err)
	}
}

// again deletes a topic and makes another one of its name.
func (l *losses) again(m *maker, topic string) {
	l.Helper()
	if _, err := m.admin.DeleteTopics(l.Context(), topic); err != nil {
		l.Fatal(err)
	}
	l.source.soon("make "+topic+" again", func() error {
		res, err := m.admin.CreateTopic(l.Context(), 2, -1, nil, topic)
		return cmp.Or(err, res.Err)
	})
	l.whole[topic] = true
}

// busy does something while records are written to the source all the time,
// one by one.
func (l *losses) busy(topic string, do func()) {
	l.Helper()
	c := l.writer(l.source)
	defer c.Close()
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			if err := c.ProduceSync(l.Context(), odd(topic, 0, i)).FirstErr(); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	time.Sleep(200 * time.Millisecond)
	do()
	time.Sleep(500 * time.Millisecond)
	close(stop)
	if err := <-done; err != nil {
		l.Fatalf("produce to %s: %v", topic, err)
	}
}

// againUnderLoad makes the copy again while the mirror writes to it. A target
// that is written to by the topic's id takes nothing. One of 3.x is written to
// by name, so the one batch that was on its way in between lands in the new
// topic: the mirror is told so by its offset, stops and names it.
func (l *losses) againUnderLoad(m *mirrorRun, topic string) {
	l.Helper()
	l.busy(topic, func() { l.again(l.target, topic) })
	for until := time.Now().Add(30 * time.Second); l.frozen(m, topic) == nil && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
	}
	l.expect[topic], l.frozenEnd[topic] = replicate.Freeze{Reason: replicate.Recreated, From: 0, To: -1}, 0 // to where it was written by then
	if f := l.frozen(m, topic); f != nil && f.Reason == replicate.Misplaced && l.pair.b.Version() < "4" {
		end := l.end(l.target, topic, 0)
		l.expect[topic], l.frozenEnd[topic] = replicate.Freeze{Reason: replicate.Misplaced, From: 0, To: end}, end
	}
}

// foreign writes into the target past the mirror.
func (l *losses) foreign(topic string, n int64) (from, to int64) {
	l.Helper()
	to = l.write(l.target, topic, 0, n)
	return to - n, to
}

func (l *losses) frozen(r *mirrorRun, topic string) *replicate.Freeze {
	for _, s := range r.Status().Partitions {
		if s.Topic == topic && s.Partition.Partition == 0 {
			return s.Frozen
		}
	}
	return nil
}

// judge waits until every topic that was hurt is frozen for its reason over
// its range, and then proves that nothing else is: everything beside it goes
// on, and nothing was written where it must not.
func (l *losses) judge(r *mirrorRun, topics []string) {
	l.Helper()
	for _, topic := range topics {
		want, hurt := l.expect[topic]
		if !hurt {
			continue
		}
		until := time.Now().Add(30 * time.Second)
		for l.frozen(r, topic) == nil && time.Now().Before(until) {
			time.Sleep(20 * time.Millisecond)
		}
		got := l.frozen(r, topic)
		switch {
		case got == nil:
			l.Errorf("%s was hurt and is not frozen, want %s [%d,%d): %+v", topic, want.Reason, want.From, want.To, r.Status().Partitions)
		// Who finds a foreign writer first, the look at the target's end or the
		// next append, gives it the name; the range is the same.
		case got.Reason != want.Reason && (want.Reason != replicate.Misplaced || got.Reason != replicate.Diverged) || got.From != want.From || got.To != want.To && want.To >= 0:
			l.Errorf("%s is frozen as %v, want %s [%d,%d)", topic, got, want.Reason, want.From, want.To)
		default:
			l.Logf("%s: %v", topic, got)
		}
	}
	for _, topic := range topics {
		for part := range int32(2) {
			if _, hurt := l.expect[topic]; !l.whole[topic] && (part == 1 || !hurt) {
				l.write(l.source, topic, part, 20)
			}
		}
	}
	for _, topic := range topics {
		if l.whole[topic] {
			continue
		}
		parts := []int32{1}
		if _, hurt := l.expect[topic]; !hurt {
			parts = append(parts, 0)
		}
		for _, part := range parts {
			want := l.end(l.source, topic, part)
			for until := time.Now().Add(30 * time.Second); l.end(l.target, topic, part) != want && time.Now().Before(until); {
				time.Sleep(20 * time.Millisecond)
			}
		}
		source, err := readPlain(l.Context(), l.source.seeds(), topic, committed)
		if err != nil {
			l.Fatal(err)
		}
		target, err := readPlain(l.Context(), l.target.seeds(), topic, committed)
		if err != nil {
			l.Fatal(err)
		}
		for _, part := range parts {
			target[part].from(source[part].start) // retention is the target's own
			if d := source[part].differences(target[part]); len(d) > 0 {
				l.Errorf("%s/%d was not hurt and differs at %d places: %q", topic, part, len(d), firstFew(d))
			}
		}
	}
	for topic, end := range l.frozenEnd {
		if got := l.end(l.target, topic, 0); got != end {
			l.Errorf("%s ends at %d in the target, want %d: something was written after the freeze", topic, got, end)
		}
	}
}

// lossSeeds are how many different histories are tried; HOLDFAST_SEEDS=N more.
func lossSeeds() uint64 {
	n, _ := strconv.ParseUint(os.Getenv("HOLDFAST_SEEDS"), 10, 16)
	return max(1, n)
}

func TestMirror_EveryLossIsNamedWithItsRange(t *testing.T) {
	// A target of 3.x is written to by a topic's name, one of 4.x by its id
	// and refuses timestamps. A source of 3.6 looks at retention half a minute
	// after its start only, which is long in a test.
	pairs := [][2]string{{"3.9", "3.6"}, {"3.9", "4"}}
	if os.Getenv("HOLDFAST_PAIRS") != "" {
		pairs = identityPairs()
	}
	for _, pair := range pairs {
		t.Run(pair[0]+">"+pair[1], func(t *testing.T) {
			p := newPairOf(t, pair[0], pair[1])
			for seed := range lossSeeds() {
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					q := *p
					q.t = t
					loseEverything(t, &q, seed)
				})
			}
		})
	}
}

func loseEverything(t *testing.T, p *mirrorPair, seed uint64) {
	l := newLosses(t, p, seed)
	name := func(s string) string { return fmt.Sprintf("%s-%d", s, seed) }
	var topics []string
	ends := map[string]int64{}
	add := func(s string, settings ...string) string {
		topic := name(s)
		l.source.topic(topic, 2, append([]string{"segment.ms", "300", "retention.ms", "-1", "message.timestamp.after.max.ms", "9223372036854775807"}, settings...)...)
		topics = append(topics, topic)
		return topic
	}
	calm := add("calm")
	down := []string{add("overrun-down"), add("deleted-down"), add("truncated-down"), add("rewritten-down"), add("recreated-down"), add("copy-recreated-down"), add("foreign-down")}
	live := []string{add("overrun"), add("deleted"), add("truncated"), add("recreated"), add("copy-recreated"), add("foreign-idle"), add("foreign"), add("refused"), add("copy-recreated-busy")}
	for _, topic := range topics {
		l.write(l.source, topic, 0, 10+l.some(100))
		l.write(l.source, topic, 1, l.some(20))
	}
	older := map[string]string{}
	for _, topic := range []string{down[2], down[3], live[2]} {
		older[topic] = l.keep(topic)
	}
	lows := map[string]int64{}
	for _, topic := range topics {
		lows[topic] = l.end(l.source, topic, 0)
		l.write(l.source, topic, 0, 20+l.some(50))
	}

	conf := p.behind(l.links, p.config(topics...))
	conf.Leases = (&fillLeases{}).of(0)
	conf.ConfigsEvery = time.Hour // settings are copied once; what is set by hand stays
	first := p.start(conf)
	for _, topic := range topics {
		p.caughtUp([]*mirrorRun{first}, topic)
		ends[topic] = l.end(l.target, topic, 0)
	}
	conf.Known = first.TopicIDs()
	if err := first.end(t); err != nil {
		t.Fatal(err)
	}

	// While no mirror runs.
	l.overrun(down[0], ends[down[0]])
	l.deleted(down[1], ends[down[1]])
	l.restore(map[string]string{down[2]: older[down[2]], down[3]: older[down[3]]})
	l.expect[down[2]] = replicate.Freeze{Reason: replicate.SourceShort, From: lows[down[2]], To: ends[down[2]]}
	l.frozenEnd[down[2]] = ends[down[2]]
	l.write(l.source, down[3], 0, ends[down[3]]-lows[down[3]]+l.some(50)) // ends above the copy again
	l.expect[down[3]] = replicate.Freeze{Reason: replicate.Diverged, From: lows[down[3]], To: ends[down[3]]}
	l.frozenEnd[down[3]] = ends[down[3]]
	l.again(l.source, down[4])
	l.write(l.source, down[4], 0, ends[down[4]]+l.some(50))
	l.expect[down[4]] = replicate.Freeze{Reason: replicate.Recreated, From: 0, To: ends[down[4]]}
	l.frozenEnd[down[4]] = ends[down[4]]
	l.again(l.target, down[5])
	l.write(l.source, down[5], 0, l.some(50))
	l.expect[down[5]] = replicate.Freeze{Reason: replicate.Recreated, From: 0, To: -1} // nothing tells any more how much it held
	l.frozenEnd[down[5]] = 0
	from, to := l.foreign(down[6], l.some(5))
	l.write(l.source, down[6], 0, l.some(20))
	l.expect[down[6]] = replicate.Freeze{Reason: replicate.Diverged, From: from, To: to}
	l.frozenEnd[down[6]] = to
	m := p.start(conf)
	l.judge(m, append([]string{calm}, down...))

	// While one runs: first what happens behind a cut wire.
	l.links.CutBoth("mirror", "clusters")
	l.overrun(live[0], ends[live[0]])
	l.deleted(live[1], ends[live[1]])
	l.links.HealBoth("mirror", "clusters")
	l.restore(map[string]string{live[2]: older[live[2]]})
	l.expect[live[2]] = replicate.Freeze{Reason: replicate.SourceShort, From: lows[live[2]], To: ends[live[2]]}
	l.frozenEnd[live[2]] = ends[live[2]]
	l.again(l.source, live[3])
	l.write(l.source, live[3], 0, ends[live[3]]+l.some(50))
	l.expect[live[3]] = replicate.Freeze{Reason: replicate.Recreated, From: 0, To: ends[live[3]]}
	l.frozenEnd[live[3]] = ends[live[3]]
	l.again(l.target, live[4])
	l.write(l.source, live[4], 0, l.some(50))
	l.expect[live[4]] = replicate.Freeze{Reason: replicate.Recreated, From: 0, To: ends[live[4]]}
	l.frozenEnd[live[4]] = 0
	from, _ = l.foreign(live[5], l.some(5))
	l.write(l.source, live[5], 0, 1) // the mirror finds out with its next record
	l.foreignRange(m, live[5], from)
	l.foreignInTheMiddle(m, live[6])
	l.againUnderLoad(m, live[8])
	if p.b.Version() >= "4" {
		l.refuse(m, live[7])
	}
	l.judge(m, append([]string{calm}, live...))
	if p.b.Version() >= "4" {
		l.accept(m, live[7])
	}
	if err := m.end(t); err != nil {
		t.Errorf("a quiet stop is clean: %v", err)
	}
}

// foreignRange expects a freeze from the first foreign record to the end of
// the target as it is then: records of the mirror's own may be behind it.
func (l *losses) foreignRange(m *mirrorRun, topic string, from int64) {
	l.Helper()
	for until := time.Now().Add(30 * time.Second); l.frozen(m, topic) == nil && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
	}
	to := l.end(l.target, topic, 0)
	l.expect[topic] = replicate.Freeze{Reason: replicate.Misplaced, From: from, To: to}
	l.frozenEnd[topic] = to
}

// foreignInTheMiddle writes into the target while the mirror writes too.
func (l *losses) foreignInTheMiddle(m *mirrorRun, topic string) {
	l.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			l.write(l.source, topic, 0, 10)
		}
	}()
	before := l.end(l.target, topic, 0)
	for until := time.Now().Add(20 * time.Second); l.end(l.target, topic, 0) == before && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
	c := l.target.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	r := &kgo.Record{Topic: topic, Partition: 0, Value: []byte("foreign")}
	if err := c.ProduceSync(l.Context(), r).FirstErr(); err != nil {
		l.Fatal(err)
	}
	<-done
	l.foreignRange(m, topic, r.Offset)
}

// refuse makes the target refuse a record that the source accepts: one whose
// timestamp lies ahead, after somebody lowered the limit by hand.
func (l *losses) refuse(m *mirrorRun, topic string) {
	l.Helper()
	l.target.set(topic, "message.timestamp.after.max.ms", "3600000")
	end := l.write(l.source, topic, 0, l.some(20))
	l.pair.caughtUp([]*mirrorRun{m}, topic)
	ahead := []*kgo.Record{{Topic: topic, Value: []byte("ahead"), Timestamp: time.Now().Add(2 * time.Hour)}, {Topic: topic, Value: []byte("ahead too"), Timestamp: time.Now()}}
	l.source.send(ahead, 2)
	l.write(l.source, topic, 0, l.some(20))
	l.expect[topic] = replicate.Freeze{Reason: replicate.Refused, From: end, To: end + 2}
	l.frozenEnd[topic] = end
}

// accept puts the limit back, and the mirror goes on as if nothing had been.
func (l *losses) accept(m *mirrorRun, topic string) {
	l.Helper()
	l.target.set(topic, "message.timestamp.after.max.ms", "9223372036854775807")
	m.Retry(topic)
	for until := time.Now().Add(20 * time.Second); l.frozen(m, topic) != nil && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
	}
	l.pair.same([]*mirrorRun{m}, topic, 0)
}
