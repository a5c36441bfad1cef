//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// fillLeases hands out generations to the mirrors of one link, as the log of
// decisions does in a fleet: each once, to the mirror whose turn it is. The
// others wait for theirs. It outlives each of them.
type fillLeases struct {
	mu      sync.Mutex
	turn    int
	last    replicate.Generation
	settled int32 // block
}

// give makes it the turn of the mirror that was given this number.
func (l *fillLeases) give(mirror int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn = mirror
}

// of is what the mirror of this number knows of them.
func (l *fillLeases) of(mirror int) mirror.Leaser { return fillLease{l, mirror} }

type fillLease struct {
	*fillLeases
	mirror int
}

func (l fillLease) Take(ctx context.Context, above replicate.Generation) (replicate.Generation, bool, error) {
	for !l.isTurn() {
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, above) + 1
	return l.last, l.settled >= l.last.Block(), nil
}

func (l fillLease) Settle(_ context.Context, g replicate.Generation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled = max(l.settled, g.Block())
	return nil
}

func (l fillLease) Held(g replicate.Generation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turn == l.mirror && g == l.last
}

func (l fillLease) isTurn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turn == l.mirror
}

// identityPairs are the versions between which a mirror is proven. The first
// is what every run of the tests proves; HOLDFAST_PAIRS=all proves them all,
// and HOLDFAST_PAIRS=3.9>4 just that one.
func identityPairs() [][2]string {
	all := [][2]string{{"3.6", "3.6"}, {"3.6", "4"}, {"3.9", "4"}, {"4", "3.9"}}
	switch want := os.Getenv("HOLDFAST_PAIRS"); want {
	case "all":
		return all
	case "":
		return all[:1]
	default:
		source, target, _ := strings.Cut(want, ">")
		return [][2]string{{source, target}}
	}
}

// newPairOf is a mirrorPair of two versions. The cleaner of the source is
// quick and that of the target rests, so that what was copied can be seen.
func newPairOf(t *testing.T, source, target string) *mirrorPair {
	t.Helper()
	p := &mirrorPair{t: t}
	start := func(name, version, pause string) *stack.Kafka {
		return stack.RunKafka(t, stack.KafkaOptions{Name: name, Version: version, Properties: map[string]string{
			"log.cleaner.backoff.ms": pause, "log.segment.delete.delay.ms": "0",
			"log.retention.check.interval.ms": "500", "log.initial.task.delay.ms": "500", // 3.6 does not know the second: 30 s
		}})
	}
	var both sync.WaitGroup
	both.Go(func() { p.a = start("source", source, "100") })
	both.Go(func() { p.b = start("target", target, "3600000") })
	both.Wait()
	if t.Failed() || t.Skipped() || p.a == nil || p.b == nil {
		t.FailNow()
	}
	p.ca, p.cb = p.client(p.a), p.client(p.b)
	return p
}

// behind makes clients of both clusters for one mirror, whose wires can be cut.
func (p *mirrorPair) behind(links *stack.Links, conf mirror.Config) mirror.Config {
	p.t.Helper()
	links.Place("clusters", p.a.Address(), p.b.Address())
	for _, side := range []struct {
		k    *stack.Kafka
		into **kafka.Client
	}{{p.a, &conf.Source}, {p.b, &conf.Target}} {
		cl, err := kafka.Open(kafka.Config{Name: side.k.Name(), Brokers: []string{side.k.Bootstrap()}, RequestTimeout: 5 * time.Second, Dial: links.Dial("mirror")})
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(cl.Close)
		*side.into = cl
	}
	return conf
}

func (p *mirrorPair) seeds(k *stack.Kafka) []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(k.Bootstrap())}
}

// same waits until the target ends where the source does, and then compares
// what a plain consumer sees at both ends. Readers of committed records see the
// same. Readers of all records see at the target what readers of committed
// records see: the aborted ones are holes there, and just those.
func (p *mirrorPair) same(runs []*mirrorRun, topic string, aborted int) (records, holes int64) {
	p.t.Helper()
	p.caughtUp(runs, topic)
	read := func(k *stack.Kafka, level kgo.IsolationLevel) map[int32]*plainLog {
		p.t.Helper()
		logs, err := readPlain(p.t.Context(), p.seeds(k), topic, level)
		if err != nil {
			p.t.Fatal(err)
		}
		return logs
	}
	source, all := read(p.a, committed), read(p.a, uncommitted)
	target, targetAll := read(p.b, committed), read(p.b, uncommitted)
	hidden := 0
	for part, log := range source {
		if target[part] == nil {
			p.t.Errorf("%s/%d is not in the target", topic, part)
			continue
		}
		for level, copied := range map[string]*plainLog{"committed": target[part], "all": targetAll[part]} {
			if d := log.differences(copied); len(d) > 0 {
				p.t.Errorf("%s/%d differs for readers of %s records at %d places: %q", topic, part, level, len(d), firstFew(d))
			}
		}
		hidden += len(all[part].records) - len(log.records)
		records += int64(len(log.records))
		holes += log.end - log.start - int64(len(log.records))
	}
	if len(target) != len(source) {
		p.t.Errorf("%s has %d partitions at the source and %d in the target", topic, len(source), len(target))
	}
	if hidden != aborted {
		p.t.Errorf("%s: readers of committed records do not see %d records of the source, and %d were aborted", topic, hidden, aborted)
	}
	return records, holes
}

// caughtUp waits until every partition of the target ends where the source's
// does.
func (p *mirrorPair) caughtUp(runs []*mirrorRun, topic string) {
	p.t.Helper()
	for until := time.Now().Add(120 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		source, err := p.ca.Admin.ListEndOffsets(p.t.Context(), topic)
		if err != nil {
			p.t.Fatal(err)
		}
		target, err := p.cb.Admin.ListEndOffsets(p.t.Context(), topic)
		behind := ""
		for part, s := range source[topic] {
			if e, ok := target.Lookup(topic, part); err != nil || !ok || e.Err != nil || e.Offset != s.Offset {
				behind += fmt.Sprintf(" %d:%d<%d", part, e.Offset, s.Offset)
			}
		}
		if behind == "" {
			return
		}
		for _, r := range runs {
			if f := mirrorFrozen(r, topic); f != nil {
				p.t.Fatalf("%s is frozen: %v", topic, f)
			}
		}
		if time.Now().After(until) {
			for i, r := range runs {
				for _, s := range r.Status().Partitions {
					if s.Topic == topic {
						said, _ := json.Marshal(s)
						p.t.Logf("mirror %d: %s", i, said)
					}
				}
			}
			p.t.Fatalf("%s is not mirrored to its end:%s", topic, behind)
		}
	}
}

func TestMirror_IsIdenticalForAPlainConsumer(t *testing.T) {
	for _, pair := range identityPairs() {
		t.Run(pair[0]+">"+pair[1], func(t *testing.T) { identity(t, newPairOf(t, pair[0], pair[1])) })
	}
}

func identity(t *testing.T, p *mirrorPair) {
	t.Logf("from %s to %s", p.a.Version(), p.b.Version())
	m := newMaker(t, p.a)
	const parts = 2
	const start = 100_000_000
	aborted := map[string]int{}
	topics := []string{"plain", "lz4", "stamps", "append-time", "transactions", "cleaned", "prefix", "live"}
	began := time.Now()
	m.topic("plain", parts)
	m.topic("lz4", parts, "compression.type", "lz4")
	m.topic("stamps", 1, "retention.ms", "-1", "message.timestamp.after.max.ms", "9223372036854775807")
	m.topic("append-time", 1, "retention.ms", "-1", "message.timestamp.type", "LogAppendTime")
	m.topic("transactions", parts)
	m.topic("cleaned", parts, compactedSettings()...)
	m.topic("live", parts, compactedSettings()...)
	m.topic("prefix", 1)
	var makers sync.WaitGroup
	makers.Go(func() {
		m.prefix("prefix", start)
		t.Logf("prefix: made after %s", time.Since(began).Round(time.Millisecond))
	})
	makers.Go(func() {
		m.keyed("cleaned", parts, 0, 8, 60)
		before := recordsOf(m.cleaned("cleaned"))
		m.leaveAlone("cleaned")
		t.Logf("cleaned: %d records are left", before)
	})
	makers.Go(func() {
		m.codecs("plain", parts)
		m.codecs("lz4", parts)
		m.stamps("stamps")
		m.stamps("append-time")
		aborted["transactions"] = m.transactions("transactions", parts, 25)
	})
	makers.Wait()
	if t.Failed() {
		return
	}
	m.send(m.odds("prefix", 1, 0, 50), 5)
	t.Logf("topics are made after %s", time.Since(began).Round(time.Millisecond))

	// Two mirrors that know nothing of each other but whose turn it is to fill
	// holes; the wires of the second, which has the first turn, can be cut.
	leases := &fillLeases{turn: 1}
	links := stack.NewLinks()
	t.Cleanup(links.Close)
	conf := p.config(topics...)
	conf.Leases = leases.of(0)
	second := p.behind(links, conf)
	second.Leases = leases.of(1)
	runs := []*mirrorRun{p.start(conf), p.start(second)}

	written := make([]map[int64]*kgo.Record, parts)
	note := func(records []*kgo.Record) {
		for _, r := range records {
			if written[r.Partition] == nil {
				written[r.Partition] = map[int64]*kgo.Record{}
			}
			written[r.Partition][r.Offset] = r
		}
	}
	note(m.keyed("live", parts, 0, 3, 60))
	p.caughtUp(runs, "live")
	links.CutBoth("mirror", "clusters")
	leases.give(0)
	runs[0].SetRate(20_000) // so that some is cleaned before it is copied
	note(m.keyed("live", parts, 3, 5, 60))
	left := recordsOf(m.cleaned("live"))
	links.HealBoth("mirror", "clusters")
	runs[0].SetRate(0)
	note(m.keyed("live", parts, 8, 2, 60))
	m.send(m.odds("plain", parts, 70_000, 100), 10)
	aborted["transactions"] += m.transactions("transactions", parts, 5)

	for _, topic := range topics {
		if topic == "live" {
			continue
		}
		records, holes := p.same(runs, topic, aborted[topic])
		t.Logf("%s: %d records, %d offsets without one", topic, records, holes)
		if topic == "transactions" && aborted[topic] < 20 || topic == "cleaned" && holes < 100 || records < 50 {
			t.Errorf("%s proves little: %d records, %d offsets without one, %d aborted", topic, records, holes, aborted[topic])
		}
	}
	p.caughtUp(runs, "live")
	source, err := readPlain(t.Context(), p.seeds(p.a), "live", committed)
	if err != nil {
		t.Fatal(err)
	}
	target, err := readPlain(t.Context(), p.seeds(p.b), "live", committed)
	if err != nil {
		t.Fatal(err)
	}
	copied := 0
	for part, log := range source {
		if d := keptDifferences(log, target[part], written[part]); len(d) > 0 {
			t.Errorf("live/%d was cleaned while it was mirrored and differs at %d places: %q", part, len(d), firstFew(d))
		}
		copied += len(target[part].records)
	}
	all := len(written[0]) + len(written[1])
	t.Logf("live: %d records were written, %d left by the cleaner in the middle, %d are in the copy", all, left, copied)
	if copied >= all {
		t.Error("nothing was cleaned before it was copied: this proves nothing")
	}
	for _, r := range runs {
		if err := r.end(t); err != nil {
			t.Errorf("a quiet stop is clean: %v", err)
		}
	}
	t.Logf("took %s", time.Since(began).Round(time.Millisecond))
}

func recordsOf(logs map[int32]*plainLog) (n int) {
	for _, l := range logs {
		n += len(l.records)
	}
	return n
}
