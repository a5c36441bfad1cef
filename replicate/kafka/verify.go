package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	verifyPiece     = 1000             // offsets of one piece of a sample
	verifyEndsTries = 20               // until the source shows what the target has
	verifyTell      = time.Second / 4  // between two words about progress
	verifyAbovesMax = 10 * time.Minute // spent on reading above the range, per partition
)

// VerifyConfig says what to compare.
type VerifyConfig struct {
	Link   replicate.Link
	Source *kafka.Client // not closed
	Target *kafka.Client
	Topics replicate.Selection
	// Starts are where the link begins; below it nothing is compared.
	Starts map[topology.Partition]int64
	// Sample is the share of offsets to read, 0 or 1 for all of them.
	Sample float64
	// Batches compares stored bytes where both ends store the same batches,
	// and decodes only the others.
	Batches bool
	// Prior gives the statement to go on from, if there is one; nil: read all
	// that both ends hold.
	Prior func(topology.Partition) (replicate.Statement, bool)
	Rate  float64 // bytes per second to read from the source; 0: no limit
	Node  topology.Node
	// Each takes the statement about each partition as soon as it is made; an
	// error ends the run.
	Each func(replicate.Statement) error
	// Progress, if set, is told now and then.
	Progress func(VerifyProgress)
}

// VerifyProgress is how far a run is.
type VerifyProgress struct {
	Partition         topology.Partition
	Number, Of        int   // of the partition
	Offsets, ToDo     int64 // done, and in all
	Source, Target    int64 // bytes read
	Differing, Failed int   // partitions so far
}

// VerifyReport is what a run did. The statements were given to Each.
type VerifyReport struct {
	Identical, Differing, Nothing int // partitions
	Records, Offsets              int64
	SourceBytes, TargetBytes      int64 // read
	// Failed are partitions of which nothing can be said, in order.
	Failed []VerifyFailure
}

// VerifyFailure is a partition that could not be compared.
type VerifyFailure struct {
	topology.Partition
	Why string `json:"why"`
}

// Verify compares the selected topics of a link, record by record, and writes
// nothing. What is compared and what that proves is in package replicate. A
// partition that cannot be compared is named in the report and keeps no other
// from being compared; the error is about the run as a whole. Memory is bounded
// by a few fetches, however long the logs are.
func Verify(ctx context.Context, conf VerifyConfig) (VerifyReport, error) {
	v, err := newVerifier(conf)
	if err != nil {
		return VerifyReport{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs, err := v.plan(ctx)
	if err != nil {
		return v.report, fmt.Errorf("verify %s: %w", conf.Link, err)
	}
	for i := range jobs {
		v.todo += jobs[i].offsets
	}
	for i := range jobs {
		v.now, v.number, v.of = jobs[i].s.Partition, i+1, len(jobs)
		v.tell(true)
		before := v.done
		if err := v.partition(ctx, &jobs[i]); err != nil {
			return v.report, err
		}
		v.done = before + jobs[i].offsets
	}
	v.report.SourceBytes, v.report.TargetBytes = v.source.read.bytes(), v.target.read.bytes()
	return v.report, nil
}

// verifier is one run.
type verifier struct {
	conf           VerifyConfig
	source, target *side
	report         VerifyReport

	now        topology.Partition
	number, of int
	done, todo int64
	told       time.Time
}

func newVerifier(conf VerifyConfig) (*verifier, error) {
	switch {
	case conf.Source == nil || conf.Target == nil:
		return nil, errors.New("verify: want a source and a target client")
	case conf.Sample < 0 || conf.Rate < 0:
		return nil, fmt.Errorf("verify: sample %v and rate %v must not be negative", conf.Sample, conf.Rate)
	}
	if conf.Sample == 0 || conf.Sample > 1 {
		conf.Sample = 1
	}
	v := &verifier{conf: conf}
	v.source = &side{end: replicate.AtSource, name: conf.Source.Name(), cl: conf.Source, isolation: kgo.ReadCommitted(), level: 1, decoder: kgo.DefaultDecompressor(), read: &meter{}}
	v.target = &side{end: replicate.AtTarget, name: conf.Target.Name(), cl: conf.Target, isolation: kgo.ReadUncommitted(), decoder: kgo.DefaultDecompressor(), read: &meter{}}
	v.source.read.t.set(conf.Rate)
	return v, nil
}

// task is one partition to compare.
type task struct {
	s         replicate.Statement // as far as it is known
	compacted bool
	offsets   int64 // to read, about
}

// plan reads what both clusters hold. The target's ends come first: what it
// has by then, the source had before.
func (v *verifier) plan(ctx context.Context) ([]task, error) {
	if err := errors.Join(v.source.refresh(ctx), v.target.refresh(ctx)); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, s := range []*side{v.source, v.target} {
		for name := range s.view.topics {
			if v.conf.Topics.Selects(name) {
				names[name] = true
			}
		}
	}
	topics := slices.Sorted(maps.Keys(names))
	if len(topics) == 0 {
		return nil, nil
	}
	cleaned, err := v.cleaned(ctx, topics)
	if err != nil {
		return nil, err
	}
	ends, err := v.ends(ctx, topics)
	if err != nil {
		return nil, err
	}
	var jobs []task
	for _, name := range topics {
		a, b := v.source.view.topics[name], v.target.view.topics[name]
		if a == nil || b == nil {
			v.failTopic(name, a, b)
			continue
		}
		for i := range max(len(a.parts), len(b.parts)) {
			p := topology.Partition{Topic: name, Partition: int32(i)}
			e := ends[p]
			if why := e.trouble(); why != "" {
				v.fail(p, why)
				continue
			}
			t := task{s: replicate.Statement{
				Format: replicate.StatementFormat, Link: v.conf.Link, Partition: p, SourceTopic: a.id, TargetTopic: b.id,
				SourceStart: e.sourceStart, SourceEnd: e.sourceEnd, TargetStart: e.targetStart, TargetEnd: e.targetEnd,
				From: max(e.sourceStart, e.targetStart, v.conf.Starts[p]), Through: e.targetEnd,
				Sample: v.conf.Sample, Method: replicate.ByRecord, At: e.at, Node: v.conf.Node,
			}, compacted: cleaned[name]}
			if v.conf.Batches {
				t.s.Method = replicate.ByBatch
			}
			t.s.Through = max(t.s.Through, t.s.From)
			v.goOn(&t.s)
			t.offsets = replicate.NewSampler(t.s.ReadFrom(), t.s.Through, verifyPiece, t.s.Sample, nil).Offsets()
			jobs = append(jobs, t)
		}
	}
	return jobs, nil
}

// goOn begins where an earlier statement ended, if there is one to rest on.
func (v *verifier) goOn(s *replicate.Statement) {
	if v.conf.Prior == nil {
		return
	}
	prior, ok := v.conf.Prior(s.Partition)
	if !ok || !s.GoesOnFrom(prior) {
		return
	}
	s.From = min(max(s.From, prior.From), prior.Through)
	s.Prior = &replicate.Prior{Through: prior.Through, At: prior.At, Digest: prior.Digest}
	s.Sample = min(s.Sample, prior.Sample)
}

func (v *verifier) failTopic(name string, a, b *topicView) {
	there, where := a, "the target does not have it yet, or no longer"
	if a == nil {
		there, where = b, "the source does not have it"
	}
	for i := range there.parts {
		v.fail(topology.Partition{Topic: name, Partition: int32(i)}, where)
	}
}

func (v *verifier) fail(p topology.Partition, why string) {
	v.report.Failed = append(v.report.Failed, VerifyFailure{p, why})
}

// cleaned says which topics a log cleaner may work on, at either end.
func (v *verifier) cleaned(ctx context.Context, topics []string) (map[string]bool, error) {
	out := map[string]bool{}
	for _, s := range []*side{v.source, v.target} {
		var here []string
		for _, t := range topics {
			if s.view.topics[t] != nil {
				here = append(here, t)
			}
		}
		if len(here) == 0 {
			continue
		}
		got, err := s.cl.Admin.DescribeTopicConfigs(ctx, here...)
		if err != nil {
			return nil, fmt.Errorf("read topic settings of kafka %s: %w", s.name, err)
		}
		for _, r := range got {
			if r.Err != nil {
				return nil, fmt.Errorf("read the settings of topic %s of kafka %s: %w", r.Name, s.name, r.Err)
			}
			for _, c := range r.Configs {
				if c.Key == "cleanup.policy" && strings.Contains(c.MaybeValue(), "compact") {
					out[r.Name] = true
				}
			}
		}
	}
	return out, nil
}

// spans are the ends of one partition at both clusters.
type spans struct {
	sourceStart, sourceEnd, targetStart, targetEnd int64
	at                                             time.Time
	err                                            error
	seen                                           int
}

func (e *spans) trouble() string {
	switch {
	case e == nil || e.seen < 4:
		return "one end does not have the partition, or did not say where its log begins and ends"
	case e.err != nil:
		return e.err.Error()
	}
	return ""
}

// ends reads both logs' ranges: the target's high watermark and then the
// source's last stable offset, again for a while where the source seems to end
// below the target, as a new leader may not know its own end at first.
func (v *verifier) ends(ctx context.Context, topics []string) (map[topology.Partition]*spans, error) {
	out := map[topology.Partition]*spans{}
	at := time.Now()
	read := func(what string, ask func(context.Context, ...string) (kadm.ListedOffsets, error), into func(*spans) *int64) error {
		got, err := ask(ctx, topics...)
		if err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		got.Each(func(o kadm.ListedOffset) {
			p := topology.Partition{Topic: o.Topic, Partition: o.Partition}
			if p.Partition < 0 { // a topic that the cluster does not have
				return
			}
			if out[p] == nil {
				out[p] = &spans{at: at}
			}
			e := out[p]
			if o.Err != nil {
				e.err = errors.Join(e.err, fmt.Errorf("read %s: %w", what, o.Err))
			}
			*into(e) = o.Offset
			e.seen++
		})
		return nil
	}
	a, b := v.conf.Source.Admin, v.conf.Target.Admin
	err := errors.Join(
		read("the target's ends", b.ListEndOffsets, func(e *spans) *int64 { return &e.targetEnd }),
		read("the target's log starts", b.ListStartOffsets, func(e *spans) *int64 { return &e.targetStart }),
		read("the source's log starts", a.ListStartOffsets, func(e *spans) *int64 { return &e.sourceStart }),
		read("the source's ends", a.ListCommittedOffsets, func(e *spans) *int64 { return &e.sourceEnd }),
	)
	for try := 0; err == nil && try < verifyEndsTries; try++ {
		var low []string
		for p, e := range out {
			if e.sourceEnd < e.targetEnd && !slices.Contains(low, p.Topic) {
				low = append(low, p.Topic)
			}
		}
		if len(low) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(verifyAgain):
		}
		got, again := a.ListCommittedOffsets(ctx, low...)
		err = again
		got.Each(func(o kadm.ListedOffset) {
			if e := out[topology.Partition{Topic: o.Topic, Partition: o.Partition}]; e != nil && o.Err == nil {
				e.sourceEnd = o.Offset
			}
		})
	}
	return out, err
}

// partition compares one partition, again from a higher start when retention
// passes the cursor meanwhile: what is said must be about one range that both
// ends held.
func (v *verifier) partition(ctx context.Context, t *task) error {
	began := time.Now()
	base := v.done
	for try := 0; ; try++ {
		v.done = base
		s := t.s
		err := v.compare(ctx, &s, t.compacted)
		if err == nil {
			s.Took = time.Since(began)
			v.count(s)
			return v.conf.Each(s)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("verify %s: %w", t.s.Partition, context.Cause(ctx))
		}
		if errors.Is(err, errTrimmed) && try < verifyTries {
			var moved bool
			if moved, err = v.trim(ctx, &t.s); err == nil && moved {
				continue
			}
			err = errors.Join(errTrimmed, err)
		}
		v.fail(t.s.Partition, err.Error())
		return nil
	}
}

// trim reads the log starts again and raises the range to them.
func (v *verifier) trim(ctx context.Context, s *replicate.Statement) (moved bool, err error) {
	ends, err := v.ends(ctx, []string{s.Topic})
	if err != nil {
		return false, err
	}
	e := ends[s.Partition]
	if why := e.trouble(); why != "" {
		return false, errors.New(why)
	}
	low := max(e.sourceStart, e.targetStart)
	if low <= s.From && (s.Prior == nil || low <= s.Prior.Through) {
		return false, nil
	}
	s.SourceStart, s.TargetStart, s.At = e.sourceStart, e.targetStart, e.at
	s.SourceEnd, s.TargetEnd = e.sourceEnd, e.targetEnd
	s.From, s.Through = max(s.From, low), max(s.Through, low)
	if s.Prior != nil && s.Prior.Through < s.From {
		s.Prior = nil
	}
	return true, nil
}

func (v *verifier) count(s replicate.Statement) {
	v.report.Records += s.Records
	v.report.Offsets += s.Offsets
	switch s.Verdict {
	case replicate.Differs:
		v.report.Differing++
	case replicate.Nothing:
		v.report.Nothing++
	case replicate.Identical:
		v.report.Identical++
	}
}

// compare reads the pieces of the range at both ends.
func (v *verifier) compare(ctx context.Context, s *replicate.Statement, compacted bool) error {
	a, b := v.source.cursor(s.Partition, s.SourceTopic), v.target.cursor(s.Partition, s.TargetTopic)
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); a.close(); b.close() }()
	j := replicate.NewJudge(compacted, s.Whole(), s.Prior)
	pieces := replicate.NewSampler(s.ReadFrom(), s.Through, verifyPiece, s.Sample, rand.Int64N)
	for {
		lo, hi, ok := pieces.Next()
		if !ok {
			break
		}
		// What the target holds above the source's end is there without one.
		a.seek(lo, max(lo, min(hi, s.SourceEnd)))
		b.seek(lo, hi)
		if err := v.piece(ctx, a, b, j, s.Method == replicate.ByBatch); err != nil {
			return err
		}
		s.Offsets += hi - lo
	}
	for _, c := range []*cursor{a, b} {
		if j.Lacks(c.end) {
			if err := v.above(ctx, c, j, s.Through); err != nil {
				return err
			}
		}
	}
	j.Verdict(s)
	return nil
}

// piece goes through one range of both logs side by side.
func (v *verifier) piece(ctx context.Context, a, b *cursor, j *replicate.Judge, byBatch bool) error {
	began, base := b.at, v.done
	for {
		x, err := a.head(ctx)
		if err != nil {
			return err
		}
		y, err := b.head(ctx)
		if err != nil {
			return err
		}
		v.done = base + b.at - began
		v.tell(false)
		switch {
		case x == nil && y == nil:
			v.done = base + b.to - began
			return nil
		case x != nil && y != nil && !x.decoded && !y.decoded && sameStored(x, y):
			err = v.same(a, b, y, j, byBatch)
		case y == nil || x != nil && x.end() <= y.head.FirstOffset && !y.decoded:
			err = v.alone(a, j)
		case x == nil || y.end() <= x.head.FirstOffset && !x.decoded:
			err = v.alone(b, j)
		default:
			err = v.merge(ctx, a, b, j)
		}
		if err != nil {
			return err
		}
	}
}

// same passes over a batch that both ends store.
func (v *verifier) same(a, b *cursor, u *unit, j *replicate.Judge, byBatch bool) error {
	if byBatch && !j.WantsKeys() {
		n := u.head.NumRecords
		if int64(n) == int64(u.head.LastOffsetDelta)+1 { // only a part may lie in the range
			n = int32(min(u.end(), b.to) - max(u.head.FirstOffset, b.at))
		}
		j.Stored(n, u.brokerTime(), u.content(nil))
	} else {
		if err := b.decode(u); err != nil {
			return err
		}
		for _, r := range u.records {
			j.Same(r)
		}
	}
	a.pop()
	b.pop()
	return nil
}

// alone takes the next batch of one end, which the other has nothing beside.
func (v *verifier) alone(c *cursor, j *replicate.Judge) error {
	u := c.queue[0]
	if !u.decoded {
		if err := c.decode(u); err != nil {
			return err
		}
	}
	for _, r := range u.records {
		j.Only(c.end, r)
	}
	c.pop()
	return nil
}

// merge compares the next record of both ends.
func (v *verifier) merge(ctx context.Context, a, b *cursor, j *replicate.Judge) error {
	x, err := a.record(ctx)
	if err != nil {
		return err
	}
	y, err := b.record(ctx)
	if err != nil {
		return err
	}
	switch {
	case x == nil && y == nil:
	case y == nil || x != nil && x.Offset < y.Offset:
		j.Only(a.end, *x)
		a.take()
	case x == nil || y.Offset < x.Offset:
		j.Only(b.end, *y)
		b.take()
	default:
		j.Both(*x, *y)
		a.take()
		b.take()
	}
	return nil
}

// above reads on behind the range, at an end whose cleaner took records for
// the sake of later ones that may be there.
func (v *verifier) above(ctx context.Context, c *cursor, j *replicate.Judge, from int64) error {
	ends, err := v.ends(ctx, []string{c.spot.Topic})
	if err != nil {
		return err
	}
	to := int64(0)
	if e := ends[c.spot.Partition]; e.trouble() == "" {
		to = e.targetEnd
		if c.end == replicate.AtSource {
			to = e.sourceEnd
		}
	}
	c.seek(from, max(from, to))
	for until := time.Now().Add(verifyAbovesMax); j.Lacks(c.end); {
		r, err := c.record(ctx)
		if err != nil {
			return err
		}
		if r == nil {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("what the log cleaner of kafka %s took is not explained after %s of reading above %d", c.name, verifyAbovesMax, from)
		}
		j.Above(c.end, *r)
		c.take()
	}
	return nil
}

func (v *verifier) tell(now bool) {
	if v.conf.Progress == nil || !now && time.Since(v.told) < verifyTell {
		return
	}
	v.told = time.Now()
	v.conf.Progress(VerifyProgress{
		Partition: v.now, Number: v.number, Of: v.of, Offsets: min(v.done, v.todo), ToDo: v.todo,
		Source: v.source.read.bytes(), Target: v.target.read.bytes(), Differing: v.report.Differing, Failed: len(v.report.Failed),
	})
}
