package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Promotion is what Promote found and did at one partition of the target.
type Promotion struct {
	topology.Partition
	TopicID replicate.TopicID `json:"topic_id"`
	// X is one past the last offset that is the link's own. It never moves
	// again: group offsets are capped here, and failback starts here.
	X int64 `json:"x"`
	// Fence is where the first fence marker stands: X, unless somebody else
	// wrote at X before.
	Fence int64 `json:"fence"`
	// End is the settled end after fence and leap: new producers begin here.
	End int64 `json:"end"`
	// Short is what the leap had no time for: so many offsets are missing
	// between End and what LeapTo asked for. 0: nothing.
	Short int64 `json:"short,omitempty"`
	// Seeding says that the partition was promoted while its prefix was being
	// seeded: below X are no records of the source, only filler. It is deleted,
	// so the log starts just below End and shows nothing.
	Seeding bool `json:"seeding,omitempty"`
	// FillerShown says that filler is still there for consumers to see, empty
	// records below End, because other records would have had to go with it.
	FillerShown bool `json:"filler_shown,omitempty"`
}

// String says it in one line.
func (p Promotion) String() string {
	s := fmt.Sprintf("%s: x %d, fence %d, end %d", p.Partition, p.X, p.Fence, p.End)
	if p.FillerShown {
		s += ", filler is still shown"
	}
	if p.Short > 0 {
		s += fmt.Sprintf(", %d short", p.Short)
	}
	if p.Seeding {
		s += ", was being seeded"
	}
	return s
}

// PromoteOptions says what is promoted. The zero value of every limit means
// its default.
type PromoteOptions struct {
	Link replicate.Link
	// Starts are the recorded starts of the link. A partition that is not in
	// it starts at 0.
	Starts map[topology.Partition]int64
	// Topics are the mirrored topics: a topic that is not mirrored must not be
	// selected, as its partitions would get markers too.
	Topics replicate.Selection
	// Known are topic identities recorded earlier. A target topic with another
	// one is refused. Topics that are not in it are taken as they are found.
	Known map[string]TopicIDs
	// Recorded has X of an earlier promotion of this link, where there was one.
	// It must be the X that is found again, and stands in for it where
	// retention took what told it.
	Recorded map[topology.Partition]int64
	// LeapTo is, for an unplanned promotion, the offset that End must reach at
	// least, by partition: the last known source end and headroom. The source
	// may have used the offsets up to there, so nobody else may. Absent: no leap.
	LeapTo     map[topology.Partition]int64
	LeapBudget time.Duration // most time to leap; default 5 s. What was not reached is in Short.

	// RequestTimeout is how long a request for markers may take. Default 45 s:
	// it must be more than the brokers' session timeout (9 s) and
	// replica.lag.time.max.ms (30 s), as every write waits for a dead follower
	// to leave the in-sync replicas.
	RequestTimeout time.Duration
	// Patience is how long a partition may make no progress at all before
	// Promote gives up. Default 1 min.
	Patience time.Duration

	Progress func(PromoteProgress) // called from one goroutine; nil: silence
}

// PromoteProgress says how far a promotion is.
type PromoteProgress struct {
	Step     string // "fence", "seeded", "leap", "end"
	Done, Of int    // partitions
	Why      string // what the others wait for, if anything is wrong
}

func (o PromoteOptions) withDefaults() PromoteOptions {
	or := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	or(&o.LeapBudget, 5*time.Second)
	or(&o.RequestTimeout, 45*time.Second)
	or(&o.Patience, time.Minute)
	if o.Progress == nil {
		o.Progress = func(PromoteProgress) {}
	}
	return o
}

// StrayError says that records of the link lie behind its own end, or not at
// their own offset: they were let in at the moment of the fence, or by a broker
// that had forgotten the producer. Whoever reads these offsets reads a source
// record in the wrong place.
type StrayError struct {
	Cluster string
	At      map[topology.Partition]int64 // the first of them
}

func (e *StrayError) Error() string {
	return fmt.Sprintf("kafka %s has records of the mirror behind its end: %s; they are at the wrong offset, so a consumer must be told to skip them, and this partition's copy in the other region must be reseeded",
		e.Cluster, someOf(e.At, func(p topology.Partition, at int64) string { return fmt.Sprintf("%s at %d", p, at) }))
}

// someOf names up to five partitions.
func someOf[V any](m map[topology.Partition]V, say func(topology.Partition, V) string) string {
	var what []string
	for _, p := range sortedPartitions(m) {
		if len(what) == 5 {
			what = append(what, fmt.Sprintf("and %d more", len(m)-5))
			break
		}
		what = append(what, say(p, m[p]))
	}
	return strings.Join(what, ", ")
}

// Promote shuts the link's mirror out of the target and says where its records
// end. The mirror must have been told to stop; one that runs on all the same,
// or wakes up later, is refused by the brokers from then on.
//
// It may be repeated after a crash at any point, and later with producers at
// work, and gives the same X. It changes nothing that a consumer can read:
// fence and leap are transaction markers. Only where a prefix was being seeded,
// the filler is deleted, and the leap goes over filler, which is faster.
//
// The answer has every partition of the selected topics, or there is an error.
// With a *StrayError both are given: the fence stands and X is right, but
// records of the mirror lie behind it.
//
// The fence rests on the brokers' memory of producers, so it is volatile: it
// is lost with an unclean election, or when a producer's id expires on a
// partition (see CheckFence). Where there is an authorizer, take the mirror's
// rights away as well, before this.
func Promote(ctx context.Context, target *kafka.Client, opt PromoteOptions) ([]Promotion, error) {
	opt = opt.withDefaults()
	p, err := newPromoter(ctx, target, opt)
	if err != nil {
		return nil, fmt.Errorf("promote %s: %w", opt.Link, err)
	}
	defer p.slow.Close()
	for _, step := range []func(context.Context) error{p.fence, p.leapSeeded, p.leap, p.settle} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("promote %s: %w", opt.Link, err)
		}
	}
	out := make([]Promotion, 0, len(p.parts))
	strays := &StrayError{Cluster: target.Name(), At: map[topology.Partition]int64{}}
	for _, q := range p.parts {
		if q.tail.Stray >= 0 {
			strays.At[q.Partition] = q.tail.Stray
		}
		out = append(out, Promotion{
			Partition: q.Partition, TopicID: q.run.Topic, X: q.tail.X, Fence: q.tail.Fence, End: q.end,
			Short: max(0, opt.LeapTo[q.Partition]-q.end), Seeding: q.seeding() || q.stone, FillerShown: q.seeding() && !q.stone,
		})
	}
	if len(strays.At) > 0 {
		return out, fmt.Errorf("promote %s: %w", opt.Link, strays)
	}
	return out, nil
}

// promoter is one promotion under way. Brokers are asked at the same time;
// each partition is touched by its own leader's goroutine only.
type promoter struct {
	PromoteOptions
	cl    *kafka.Client // for reading: a broker that hangs is left soon
	slow  *kafka.Client // for writing: long enough for a follower to fall out of sync
	parts []*promoting  // in order
}

// promoting is one partition on its way.
type promoting struct {
	topology.Partition
	run   replicate.Run // stands for the link
	at    spot
	node  int32
	start int64           // log start
	end   int64           // settled end, as last read
	tail  *replicate.Tail // nil until the border was found
	want  []replicate.Mark
	from  int64 // settled end before the markers of the last try
	wrote bool  // each of them was answered with success
	tries int
	stood bool // the fence stands
	stone bool // it was promoted while it was being seeded, and is past that

	ready bool      // the last reading was good
	why   string    // else why not
	moved time.Time // last progress
}

// seeding says that the link's last batch is filler.
func (q *promoting) seeding() bool {
	if q.tail == nil || q.tail.Last == nil {
		return false
	}
	_, kind := q.run.Author(*q.tail.Last)
	return kind == replicate.Seeded
}

// only is the partition as a list, offset an offset of it as a request wants it.
func (q *promoting) only() []topology.Partition { return []topology.Partition{q.Partition} }

func (q *promoting) offset(o int64) map[topology.Partition]int64 {
	return map[topology.Partition]int64{q.Partition: o}
}

// failed notes why a partition has to be tried again.
func (q *promoting) failed(why string) { q.ready, q.why = false, why }

func newPromoter(ctx context.Context, target *kafka.Client, opt PromoteOptions) (*promoter, error) {
	slow, err := target.Another(kgo.RequestTimeoutOverhead(opt.RequestTimeout))
	if err != nil {
		return nil, err
	}
	p := &promoter{PromoteOptions: opt, cl: target, slow: slow}
	_, err = readViewSoon(ctx, slow, opt.Patience) // it must know the brokers
	if err == nil {
		err = p.find(ctx)
	}
	if err != nil {
		slow.Close()
		return nil, err
	}
	return p, nil
}

// find lists the partitions of the selected topics.
func (p *promoter) find(ctx context.Context) error {
	v, err := readViewSoon(ctx, p.cl, p.Patience)
	if err != nil {
		return err
	}
	all := map[topology.Partition]*promoting{}
	for name, t := range v.topics {
		if !p.Topics.Selects(name) {
			continue
		}
		if known, ok := p.Known[name]; ok && known.Target != t.id {
			return fmt.Errorf("topic %s in kafka %s has id %s, recorded is %s: it was deleted and made again; a promotion of its copy makes no sense", name, p.cl.Name(), t.id, known.Target)
		}
		for i := range t.parts {
			id := topology.Partition{Topic: name, Partition: int32(i)}
			all[id] = &promoting{
				Partition: id, moved: time.Now(),
				run: replicate.Run{Link: p.Link, Topic: t.id, Partition: int32(i), Start: p.Starts[id]},
			}
		}
	}
	for id := range maps.Keys(p.Starts) {
		if p.Topics.Selects(id.Topic) && all[id] == nil {
			return fmt.Errorf("kafka %s has no partition %s, which the link mirrors to", p.cl.Name(), id)
		}
	}
	for _, id := range sortedPartitions(all) {
		p.parts = append(p.parts, all[id])
	}
	return nil
}

// readViewSoon reads metadata, again after an error that may pass by itself.
func readViewSoon(ctx context.Context, cl *kafka.Client, patience time.Duration) (*view, error) {
	for until := time.Now().Add(patience); ; {
		try, cancel := context.WithTimeout(ctx, viewTimeout) // the next try asks another broker
		v, err := readView(try, cl)
		cancel()
		if err == nil || time.Now().After(until) || pause(ctx, promotePause) != nil {
			return v, err
		}
	}
}

const (
	promotePause = 100 * time.Millisecond // between rounds that make no progress
	viewTimeout  = 4 * time.Second        // of one reading of the metadata
)

// rounds repeats one round over the partitions that are not done, until all
// are, or one of them has made no progress for as long as Patience.
func (p *promoter) rounds(ctx context.Context, step string, done func(*promoting) bool, round func(context.Context, []*promoting) error) error {
	for _, q := range p.parts {
		q.moved = time.Now()
	}
	for {
		var todo []*promoting
		for _, q := range p.parts {
			if !done(q) {
				todo = append(todo, q)
			}
		}
		report := PromoteProgress{Step: step, Done: len(p.parts) - len(todo), Of: len(p.parts)}
		stuck := map[topology.Partition]string{}
		waits := false
		for _, q := range todo {
			waits = waits || q.why != ""
			if q.why != "" {
				report.Why = q.Partition.String() + ": " + q.why
			}
			if time.Since(q.moved) > p.Patience {
				stuck[q.Partition] = q.why
			}
		}
		p.Progress(report)
		if len(todo) == 0 {
			return nil
		}
		say := func(id topology.Partition, why string) string { return fmt.Sprintf("%s: %s", id, why) }
		if len(stuck) > 0 {
			return fmt.Errorf("%s: no progress for %s at %d of %d partitions of kafka %s: %s", step, p.Patience, len(stuck), len(p.parts), p.cl.Name(), someOf(stuck, say))
		}
		if waits {
			if err := pause(ctx, promotePause); err != nil {
				return errors.Join(fmt.Errorf("%s: %d of %d partitions are not done: %w", step, len(todo), len(p.parts), err), errors.New(report.Why))
			}
		}
		if err := round(ctx, todo); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %d of %d partitions are not done: %w", step, len(todo), len(p.parts), err)
		}
	}
}

// read reads the settled ends. A partition whose end is not settled, or whose
// leader moved meanwhile, is not ready afterwards and says why. A settled end
// survives every clean election; the high watermark alone is a lower bound.
func (p *promoter) read(ctx context.Context, todo []*promoting) error {
	before, err := readViewSoon(ctx, p.cl, p.Patience)
	if err != nil {
		return err
	}
	for _, q := range todo {
		t, at, ok := before.part(q.Partition)
		switch {
		case !ok:
			return fmt.Errorf("kafka %s no longer has %s", p.cl.Name(), q.Partition)
		case t.id != q.run.Topic:
			return fmt.Errorf("topic %s in kafka %s was deleted and made again during the promotion", q.Topic, p.cl.Name())
		case at.leader < 0:
			q.failed("it has no leader")
		default:
			q.ready, q.why = true, ""
			q.node, q.at = at.leader, spot{Partition: q.Partition, id: t.id, epoch: at.epoch}
		}
	}
	p.perNode(readyOf(todo), func(node int32, of []*promoting) {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		spots := spotsOf(of)
		var start, high, end map[topology.Partition]answer
		together(
			func() { start = offsetAt(ctx, p.cl, node, spots, -2) },
			func() { high = offsetAt(ctx, p.cl, node, spots, -1) },
			func() { end = logEnd(ctx, p.cl, node, spots) },
		)
		for _, q := range of {
			a, b, c := start[q.Partition], high[q.Partition], end[q.Partition]
			switch {
			case a.err != nil || b.err != nil || c.err != nil:
				q.failed("read its ends: " + joined(a.err, b.err, c.err))
			case b.offset != c.offset:
				q.failed(fmt.Sprintf("its end is not settled: log end %d, high watermark %d (a follower is behind, or fewer are in sync than min.insync.replicas)", c.offset, b.offset))
			default:
				q.start, q.end = a.offset, b.offset
			}
		}
	})
	after, err := readViewSoon(ctx, p.cl, p.Patience)
	if err != nil {
		return err
	}
	for _, q := range readyOf(todo) {
		if t, at, ok := after.part(q.Partition); !ok || t.id != q.run.Topic || at.leader != q.node || at.epoch != q.at.epoch {
			q.failed("its leader moves")
		}
	}
	return nil
}

// settle reads the ends that new producers begin at.
func (p *promoter) settle(ctx context.Context) error {
	for _, q := range p.parts {
		q.ready = false
	}
	return p.rounds(ctx, "end", func(q *promoting) bool { return q.ready }, p.read)
}

func readyOf(parts []*promoting) []*promoting {
	var out []*promoting
	for _, q := range parts {
		if q.ready {
			out = append(out, q)
		}
	}
	return out
}

func spotsOf(parts []*promoting) []spot {
	out := make([]spot, len(parts))
	for i, q := range parts {
		out[i] = q.at
	}
	return out
}

// perNode runs work for the partitions of each broker, all brokers at once.
func (p *promoter) perNode(parts []*promoting, work func(node int32, of []*promoting)) {
	by := map[int32][]*promoting{}
	for _, q := range parts {
		by[q.node] = append(by[q.node], q)
	}
	var all []func()
	for node, of := range by {
		all = append(all, func() { work(node, of) })
	}
	together(all...)
}

// joined puts errors into one line.
func joined(errs ...error) string {
	return strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
}

// markerTrouble says what a broker's answer to a marker means to a person, and
// whether trying again can help.
func markerTrouble(err error) (why string, final bool) {
	switch {
	case errors.Is(err, kerr.NotEnoughReplicas), errors.Is(err, kerr.NotEnoughReplicasAfterAppend):
		return "fewer replicas are in sync than min.insync.replicas, and below that a fence can be lost with its broker: bring a broker back, or lower the topic's min.insync.replicas as a decision of your own (" + err.Error() + ")", false
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return "the fence needs the right ALTER (or CLUSTER_ACTION) on the cluster: " + err.Error(), true
	case errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.TransactionCoordinatorFenced):
		return "the marker was outdated by another writer: " + err.Error(), false
	}
	return "write markers: " + err.Error(), false
}

// Authorizer says whether a cluster has an authorizer. Without one, rights
// cannot be taken away and the fence of a promotion rests on the brokers'
// memory of producers alone: it is volatile.
func Authorizer(ctx context.Context, cl *kafka.Client) (bool, error) {
	err := describeAnyACL(ctx, cl)
	switch {
	case errors.Is(err, kerr.SecurityDisabled):
		return false, nil
	case err == nil, errors.Is(err, kerr.ClusterAuthorizationFailed):
		return true, nil
	}
	return false, fmt.Errorf("ask kafka %s for its authorizer: %w", cl.Name(), err)
}
