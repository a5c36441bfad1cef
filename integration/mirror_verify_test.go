//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// byHand makes a copy of a topic at the target without any mirror: each record
// that a plain consumer reads is produced at its own offset, in batches of
// other sizes and codecs, and the offsets between take markers. change says
// what becomes of a record: nil leaves its offset to a marker.
func (p *mirrorPair) byHand(topic string, level kgo.IsolationLevel, change func(*kgo.Record) *kgo.Record) {
	p.t.Helper()
	from, err := readPlain(p.t.Context(), newMaker(p.t, p.a).seeds(), topic, level)
	if err != nil {
		p.t.Fatal(err)
	}
	to := newMaker(p.t, p.b)
	fills := &resume{mirrorPair: p}
	for n, log := range from {
		tp := topology.Partition{Topic: topic, Partition: n}
		next := log.start
		var run []*kgo.Record
		flush := func(end int64) {
			if len(run) > 0 {
				to.send(run, 1+len(run)%13, kgo.ProducerBatchCompression(mirrorCodecs[int(next)%len(mirrorCodecs)]))
				next += int64(len(run))
				run = nil
			}
			fills.markers(tp, next, end)
			next = end
		}
		for _, r := range log.records {
			if r = change(r); r == nil {
				continue
			}
			if r.Offset != next+int64(len(run)) || len(run) == 500 {
				flush(r.Offset)
			}
			run = append(run, &kgo.Record{Topic: topic, Partition: n, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp})
		}
		flush(log.end)
	}
}

func asItIs(r *kgo.Record) *kgo.Record { return r }

// at changes one record of partition 0.
func at(offset int64, change func(*kgo.Record) *kgo.Record) func(*kgo.Record) *kgo.Record {
	return func(r *kgo.Record) *kgo.Record {
		if r.Partition != 0 || r.Offset != offset {
			return r
		}
		c := *r
		return change(&c)
	}
}

func (p *mirrorPair) verified(topic string, change func(*mirror.VerifyConfig)) (map[int32]replicate.Statement, mirror.VerifyReport) {
	p.t.Helper()
	out := map[int32]replicate.Statement{}
	conf := mirror.VerifyConfig{
		Link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, Source: p.ca, Target: p.cb, Topics: replicate.Only(topic), Node: "b1",
		Each: func(s replicate.Statement) error { out[s.Partition.Partition] = s; return nil },
	}
	if change != nil {
		change(&conf)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 60*time.Second)
	defer cancel()
	rep, err := mirror.Verify(ctx, conf)
	if err != nil {
		p.t.Fatal(err)
	}
	return out, rep
}

func TestVerify_FindsOnRealKafkaWhatWasChangedByHand(t *testing.T) {
	p := newMirrorPair(t)
	m := newMaker(t, p.a)
	const hurt = 137
	create := func(topic string, parts int32, settings ...string) {
		m.topic(topic, parts, settings...)
		newMaker(t, p.b).topic(topic, parts, settings...)
	}
	for name, c := range map[string]struct {
		change func(*kgo.Record) *kgo.Record
		aspect replicate.Aspect
	}{
		"same":  {asItIs, ""},
		"value": {at(hurt, func(r *kgo.Record) *kgo.Record { r.Value = append(bytes.Clone(r.Value), 'x'); return r }), replicate.Value},
		"key":   {at(hurt, func(r *kgo.Record) *kgo.Record { r.Key = append(bytes.Clone(r.Key), 'x'); return r }), replicate.Key},
		"time":  {at(hurt, func(r *kgo.Record) *kgo.Record { r.Timestamp = r.Timestamp.Add(time.Millisecond); return r }), replicate.Timestamp},
		"header": {at(hurt, func(r *kgo.Record) *kgo.Record {
			r.Headers = append(slices.Clone(r.Headers), kgo.RecordHeader{Key: "h"})
			return r
		}), replicate.Headers},
		"missing": {at(hurt, func(*kgo.Record) *kgo.Record { return nil }), replicate.Missing},
	} {
		t.Run(name, func(t *testing.T) {
			p, topic := &mirrorPair{t: t, a: p.a, b: p.b, ca: p.ca, cb: p.cb}, "by-hand-"+name
			create(topic, 2)
			newMaker(t, p.a).codecs(topic, 2)
			p.byHand(topic, committed, c.change)
			for _, fast := range []bool{false, true} {
				got, rep := p.verified(topic, func(conf *mirror.VerifyConfig) { conf.Batches = fast })
				if len(rep.Failed) > 0 || len(got) != 2 || got[1].Verdict != replicate.Identical || got[1].Records == 0 {
					t.Fatalf("fast %v: %+v %+v", fast, got, rep)
				}
				s := got[0]
				switch {
				case c.aspect == "" && (s.Verdict != replicate.Identical || s.Through != s.SourceEnd || s.Records != s.Through):
					t.Errorf("fast %v: %+v", fast, s)
				case c.aspect != "" && (s.Differing != 1 || s.DiffersFrom() != hurt || s.DiffersTo != hurt+1 || !slices.Equal(s.Differences[0].Aspects, []replicate.Aspect{c.aspect})):
					t.Errorf("fast %v: %s", fast, s)
				}
			}
		})
	}

	t.Run("transactions", func(t *testing.T) {
		p, topic := &mirrorPair{t: t, a: p.a, b: p.b, ca: p.ca, cb: p.cb}, "by-hand-transactions"
		create(topic, 2)
		aborted := newMaker(t, p.a).transactions(topic, 2, 25)
		p.byHand(topic, committed, asItIs)
		got, rep := p.verified(topic, nil)
		var records int64
		for _, s := range got {
			records += s.Records
			if s.Verdict != replicate.Identical || s.Through != s.TargetEnd {
				t.Errorf("%+v", s)
			}
		}
		if aborted == 0 || records == 0 || len(rep.Failed) > 0 {
			t.Errorf("%d records, %d aborted: %+v", records, aborted, rep)
		}
	})

	t.Run("aborted records that show", func(t *testing.T) {
		p, topic := &mirrorPair{t: t, a: p.a, b: p.b, ca: p.ca, cb: p.cb}, "by-hand-shown"
		create(topic, 2)
		aborted := newMaker(t, p.a).transactions(topic, 2, 20)
		p.byHand(topic, uncommitted, asItIs)
		got, _ := p.verified(topic, nil)
		if n := got[0].Differing + got[1].Differing; n != int64(aborted) || aborted == 0 || got[0].Differences[0].Aspects[0] != replicate.Extra {
			t.Errorf("%d differ, %d were aborted: %s", n, aborted, got[0])
		}
	})

	t.Run("extra", func(t *testing.T) {
		p, topic := &mirrorPair{t: t, a: p.a, b: p.b, ca: p.ca, cb: p.cb}, "by-hand-extra"
		create(topic, 1)
		newMaker(t, p.a).send(m.odds(topic, 1, 0, 100), 10)
		p.byHand(topic, committed, asItIs)
		newMaker(t, p.b).send(m.odds(topic, 1, 900, 3), 3)
		got, _ := p.verified(topic, nil)
		if s := got[0]; s.Differing != 3 || s.DiffersFrom() != 100 || s.DiffersTo != 103 || s.Differences[0].Aspects[0] != replicate.Extra {
			t.Errorf("%s", s)
		}
	})

	t.Run("the broker's time", func(t *testing.T) {
		p, topic := &mirrorPair{t: t, a: p.a, b: p.b, ca: p.ca, cb: p.cb}, "by-hand-append-time"
		create(topic, 1, "message.timestamp.type", "LogAppendTime")
		newMaker(t, p.a).send(m.odds(topic, 1, 0, 200), 20)
		p.byHand(topic, committed, asItIs)
		got, _ := p.verified(topic, nil)
		if s := got[0]; s.Verdict != replicate.Identical || s.Records != 200 || s.Restamped != 200 {
			t.Errorf("%+v", s)
		}
	})

	t.Run("one end has deleted more", func(t *testing.T) {
		p, topic := &mirrorPair{t: t, a: p.a, b: p.b, ca: p.ca, cb: p.cb}, "by-hand-trimmed"
		create(topic, 1)
		newMaker(t, p.a).send(m.odds(topic, 1, 0, 200), 20)
		p.byHand(topic, committed, asItIs)
		newMaker(t, p.a).deleteBelow(topic, 0, 55)
		newMaker(t, p.b).deleteBelow(topic, 0, 30)
		got, _ := p.verified(topic, nil)
		if s := got[0]; s.Verdict != replicate.Identical || s.From != 55 || s.Through != 200 || s.Records != 145 {
			t.Errorf("%+v", s)
		}
	})
}

// A source that was cleaned and a target that was not hold different records,
// and neither lost one.
func TestVerify_TellsWhatARealLogCleanerTookFromALoss(t *testing.T) {
	p := newPairOf(t, "3.6", "3.6")
	m := newMaker(t, p.a)
	m.topic("state", 2, append(compactedSettings(), "min.compaction.lag.ms", "86400000")...)
	newMaker(t, p.b).topic("state", 2, "cleanup.policy", "compact")
	m.keyed("state", 2, 0, 6, 40)
	p.byHand("state", committed, asItIs)
	m.topic("lost", 1, append(compactedSettings(), "min.compaction.lag.ms", "86400000")...)
	newMaker(t, p.b).topic("lost", 1, "cleanup.policy", "compact")
	m.send([]*kgo.Record{{Topic: "lost", Key: []byte("a"), Value: []byte("1")}, {Topic: "lost", Key: []byte("b"), Value: []byte("2")}, {Topic: "lost", Key: []byte("a"), Value: []byte("3")}}, 1)
	p.byHand("lost", committed, at(1, func(*kgo.Record) *kgo.Record { return nil }))
	if got, _ := p.verified("state", nil); got[0].Verdict != replicate.Identical || got[0].Cleaned != 0 {
		t.Fatalf("before: %+v", got)
	}
	m.set("state", "min.compaction.lag.ms", "0")
	m.cleaned("state")
	got, _ := p.verified("state", nil)
	var cleaned int64
	for _, s := range got {
		cleaned += s.Cleaned
		if s.Verdict != replicate.Identical {
			t.Errorf("%s", s)
		}
	}
	if cleaned == 0 {
		t.Errorf("the cleaner took nothing: %+v", got)
	}
	if got, _ := p.verified("lost", nil); got[0].Differing != 1 || got[0].DiffersFrom() != 1 {
		t.Errorf("%+v", got[0])
	}
}

// TestVerify_CostsLittleBesideTheMirror measures the CPU of this process while
// it mirrors a topic, and then while it compares all of it and a sample.
func TestVerify_CostsLittleBesideTheMirror(t *testing.T) {
	p := newMirrorPair(t)
	m := newMaker(t, p.a)
	const topic, records = "bulk", 120_000
	m.topic(topic, 4)
	var all []*kgo.Record
	for i := range records {
		var value []byte
		for range 24 {
			value = fmt.Appendf(value, `{"event": %016x, "release": "frontend"}, `, rand.Uint64())
		}
		all = append(all, &kgo.Record{Topic: topic, Partition: int32(i / 100 % 4), Key: fmt.Append(nil, i), Value: value})
	}
	m.send(all, 400, kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	cost := func(do func()) time.Duration {
		before := ownCPU(t)
		do()
		return ownCPU(t) - before
	}
	mirrored := cost(func() {
		r := p.start(p.config(topic))
		p.reach(r, p.cb, p.ends(p.ca, topic))
		if err := r.end(t); err != nil {
			t.Fatal(err)
		}
	})
	figures := fmt.Sprintf("mirror %d ms", mirrored.Milliseconds())
	var rep mirror.VerifyReport
	for _, c := range []struct {
		name   string
		change func(*mirror.VerifyConfig)
	}{
		{"every record", nil},
		{"fast", func(c *mirror.VerifyConfig) { c.Batches = true }},
		{"fast, 5 %", func(c *mirror.VerifyConfig) { c.Batches, c.Sample = true, 0.05 }},
	} {
		used := cost(func() { _, rep = p.verified(topic, c.change) })
		if rep.Identical != 4 {
			t.Fatalf("%s: %+v", c.name, rep)
		}
		if c.name != "every record" && used > mirrored {
			t.Errorf("%s took %s of CPU, the mirror %s", c.name, used, mirrored)
		}
		figures += fmt.Sprintf("; %s %d ms (%d MB read)", c.name, used.Milliseconds(), (rep.SourceBytes+rep.TargetBytes)>>20)
	}
	t.Log("CPU of this process: " + figures)
}

func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// An operator compares, reads what was found from either region, and every
// statement is one that the target's daemon has signed.
func TestVerify_AsAnOperatorUsesIt(t *testing.T) {
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse)
	binary := filepath.Join(t.TempDir(), "holdfast")
	if err := fleet.Build(t.Context(), binary); err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Start(t.Context(), fleet.Options{Dir: t.TempDir(), Binary: binary, Topics: []string{"events", "metrics"},
		Roles: map[string]fleet.RoleOptions{"ingestion": {Initial: "us-east"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.StartNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	source, target := newMaker(t, f.Regions["us-east"].Kafka), newMaker(t, f.Regions["eu-west"].Kafka)
	source.topic("events", 2)
	source.topic("metrics", 1)
	source.send(source.odds("events", 2, 0, 2000), 100)
	source.send(source.odds("metrics", 1, 0, 300), 10)
	east, west := f.Nodes["us-east-1"], f.Nodes["eu-west-1"]
	verify := func(want int, n *fleet.Node, args ...string) string {
		t.Helper()
		out, errOut, err := n.CLI(t.Context(), append([]string{"mirror", "verify"}, args...)...)
		code := 0
		if err != nil {
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatal(err)
			}
			code = exit.ExitCode()
		}
		if code != want {
			t.Fatalf("mirror verify %s ended with %d, want %d: %v\n%s%s", strings.Join(args, " "), code, want, err, out, errOut)
		}
		t.Logf("$ holdfast mirror verify %s\n%s%s", strings.Join(args, " "), errOut, out)
		return out
	}
	await(t, 60*time.Second, func() error {
		status, err := west.Client().MirrorStatus(t.Context())
		if err != nil {
			return err
		}
		for _, l := range status.Links {
			if l.Report != nil && l.Report.Totals.Partitions == 3 && l.Report.Totals.RecordsBehind == 0 && l.Report.Totals.Unknown == 0 && l.Report.Totals.Records >= 2300 {
				return nil
			}
		}
		return fmt.Errorf("not mirrored yet: %+v", status)
	})

	out := verify(0, east)
	if !strings.Contains(out, "3 identical") || !strings.Contains(out, "2,300 records") || !regexp.MustCompile(`metrics/0 +identical +0 +299 `).MatchString(out) {
		t.Errorf("what was said:\n%s", out)
	}
	verify(0, west, "--sample", "5%", "--fast")
	if out := verify(0, west, "--new"); !strings.Contains(out, "all that is new") {
		t.Errorf("what was said:\n%s", out)
	}

	var said struct{ httpapi.Verified }
	if err := json.Unmarshal([]byte(verify(0, east, "--last", "--json")), &said); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, f, said.Verified, 3)

	// A restarted daemon still knows.
	if err := west.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := west.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := west.WaitJoined(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, func() error {
		v, err := east.Client().Verified(t.Context(), "eu-west")
		if err == nil && len(v.Partitions) != 3 {
			err = fmt.Errorf("%d partitions", len(v.Partitions))
		}
		return err
	})

	// A stray producer at the target.
	target.send([]*kgo.Record{{Topic: "metrics", Value: []byte("stray")}}, 1)
	out = verify(5, east, "--topic", "metrics")
	if !strings.Contains(out, "metrics/0 differs from the source in 1 record: [300,301) extra") {
		t.Errorf("what was said:\n%s", out)
	}
	await(t, 20*time.Second, func() error {
		out, _, _ := east.CLI(t.Context(), "mirror", "status")
		if !strings.Contains(out, "metrics/0: differs from the source in 1 record") {
			return fmt.Errorf("mirror status does not say it:\n%s", out)
		}
		code, body, err := west.Get(t.Context(), "/metrics")
		if err == nil && (code != 200 || !strings.Contains(body, `holdfast_mirror_verify_differing{source="us-east",target="eu-west"} 1`) ||
			!strings.Contains(body, `holdfast_mirror_verified_offset{partition="0",source="us-east",target="eu-west",topic="events"}`)) {
			err = fmt.Errorf("the metrics do not say it: %d", code)
		}
		return err
	})
	verify(5, west, "--last")
}

// checkSigned proves each statement with nothing but the CA, and sees that
// another one is refused.
func checkSigned(t *testing.T, f *fleet.Fleet, said httpapi.Verified, want int) {
	t.Helper()
	verifier, err := certs.NewVerifier(filepath.Join(f.Dir(), "certs", "ca.pem"), "lab")
	if err != nil {
		t.Fatal(err)
	}
	if len(said.Partitions) != want {
		t.Fatalf("%d partitions, want %d", len(said.Partitions), want)
	}
	for _, p := range said.Partitions {
		var compact bytes.Buffer
		if err := json.Compact(&compact, p.Last.Statement); err != nil {
			t.Fatal(err)
		}
		s, err := p.Last.Decode()
		if err != nil {
			t.Fatal(err)
		}
		pem := []byte(said.Certificates[p.Last.Certificate])
		node, err := verifier.Verify("mirror-statement", compact.Bytes(), p.Last.Signature, pem, s.At)
		if err != nil || node != "eu-west-1" || s.Node != node || s.Partition != p.Partition || s.Verdict != replicate.Identical || s.Digest == "" {
			t.Errorf("%s, signed by %s: %v: %+v", p.Partition, node, err, s)
		}
		forged := bytes.Replace(compact.Bytes(), []byte(`"verdict":"identical"`), []byte(`"verdict":"differs"`), 1)
		if _, err := verifier.Verify("mirror-statement", forged, p.Last.Signature, pem, s.At); err == nil {
			t.Errorf("%s: a changed statement passes for signed", p.Partition)
		}
	}
}
