package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Bounds of a leap.
const (
	leapFirst   = 8000                   // markers in the first request to a broker, which measures its rate
	leapMax     = 60_000                 // markers in one request
	leapEntries = 2000                   // entries in one request
	leapSpell   = 250 * time.Millisecond // how long one request should take
	leapRounds  = 20                     // readings of the ends, each followed by markers
	leapGrace   = time.Second            // waited beyond the budget for the last answer
)

// leap moves the ends up to LeapTo, as far as the budget goes. An offset that
// is a marker shows no record, so nobody can take a record of the source that
// was lost there for one that was written here. What was not reached is no
// error: it is said by the ends.
func (p *promoter) leap(ctx context.Context) error {
	if len(p.LeapTo) == 0 {
		return nil
	}
	until := time.Now().Add(p.LeapBudget)
	for _, q := range p.parts {
		q.ready = false
	}
	rounds := 0
	done := func(q *promoting) bool {
		return q.ready && q.end >= p.LeapTo[q.Partition] || rounds >= leapRounds || rounds > 0 && !time.Now().Before(until)
	}
	return p.rounds(ctx, "leap", done, func(ctx context.Context, todo []*promoting) error {
		if err := p.read(ctx, todo); err != nil {
			return err
		}
		rounds++
		finals := make(chan error, len(todo))
		p.perNode(readyOf(todo), func(node int32, of []*promoting) {
			if err := p.leapAt(ctx, node, of, until); err != nil {
				finals <- err
			}
		})
		select {
		case err := <-finals:
			return err
		default:
			return nil
		}
	})
}

// leapAt writes the markers of one broker's partitions, in requests as large
// as its measured rate allows. It ends when all are written or the time is up.
func (p *promoter) leapAt(ctx context.Context, node int32, of []*promoting, until time.Time) error {
	need := map[topology.Partition]int64{}
	by := make(map[topology.Partition]*promoting, len(of))
	for _, q := range of {
		by[q.Partition] = q
		if n := p.LeapTo[q.Partition] - q.end; n > 0 {
			need[q.Partition] = n
		}
	}
	if len(need) == 0 {
		return nil
	}
	id := p.Link.LeapProducer()
	epoch, err := p.leapEpoch(ctx, of, id)
	if err != nil {
		for _, q := range of {
			q.failed(err.Error())
		}
		return nil
	}
	rate := 0.0 // markers per second, 0: not known yet
	for len(need) > 0 {
		left := time.Until(until)
		limit := leapFirst
		if rate > 0 {
			limit = int(min(leapMax, rate*min(leapSpell, left).Seconds()))
		}
		limit = min(limit, leapEntries*len(need))
		if left <= 0 || rate > 0 && limit < len(need) {
			return nil
		}
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		sent := 0
		for _, e := range replicate.LeapEntries(need, limit) {
			m := replicate.Mark{ProducerID: id, Epoch: epoch}
			if e.Last {
				m.Epoch++
			}
			addMarker(req, m, e.Of)
			sent += len(e.Of)
		}
		began := time.Now()
		// What comes too late is carried out all the same and does no harm.
		codes, err := writeMarkers(ctx, p.slow, node, min(p.RequestTimeout, left+leapGrace), req)
		if err != nil {
			for _, q := range of {
				q.failed("write markers: " + err.Error())
			}
			return nil
		}
		rate = float64(sent) / max(time.Since(began).Seconds(), 1e-4)
		for key, answer := range codes {
			q := by[key.Partition]
			switch {
			case q == nil:
			case answer == nil:
				q.moved = time.Now()
			case errors.Is(answer, kerr.ClusterAuthorizationFailed):
				why, _ := markerTrouble(answer)
				return fmt.Errorf("%s: %s", q.Partition, why)
			default:
				why, _ := markerTrouble(answer)
				q.failed(why)
				delete(need, q.Partition) // its end is read again first
			}
		}
		for id, n := range need {
			if n <= 0 {
				delete(need, id)
			}
		}
	}
	return nil
}

// leapEpoch returns the epoch of the next markers: what the brokers remember
// of an earlier leap at any of the partitions, which may have been cut short.
func (p *promoter) leapEpoch(ctx context.Context, of []*promoting, id int64) (int16, error) {
	states, err := p.producers(ctx, of)
	if err != nil {
		return 0, err
	}
	epoch := int16(0)
	for _, at := range states {
		for _, s := range at {
			if s.ID == id {
				epoch = max(epoch, s.Epoch)
			}
		}
	}
	if epoch == math.MaxInt16 {
		return 0, errors.New("the epochs for leaps are used up")
	}
	return epoch, nil
}

// Leap moves the ends of partitions up to LeapTo at least, and fences nobody.
// Producers may be at work: what they write in between stands where it stands.
// It returns where each partition of LeapTo ends afterwards, settled; that may
// be below what was asked for, when the budget ended first.
func Leap(ctx context.Context, cl *kafka.Client, opt PromoteOptions) (map[topology.Partition]int64, error) {
	opt = opt.withDefaults()
	topics := map[string]bool{}
	for p := range opt.LeapTo {
		topics[p.Topic] = true
	}
	opt.Topics = replicate.Only(slices.Sorted(maps.Keys(topics))...)
	p, err := newPromoter(ctx, cl, opt)
	if err != nil {
		return nil, fmt.Errorf("leap for %s: %w", opt.Link, err)
	}
	defer p.slow.Close()
	p.parts = slices.DeleteFunc(p.parts, func(q *promoting) bool { _, asked := opt.LeapTo[q.Partition]; return !asked })
	if len(p.parts) < len(opt.LeapTo) {
		return nil, fmt.Errorf("leap for %s: kafka %s has %d of %d partitions", opt.Link, cl.Name(), len(p.parts), len(opt.LeapTo))
	}
	for _, step := range []func(context.Context) error{p.leap, p.settle} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("leap for %s: %w", opt.Link, err)
		}
	}
	out := make(map[topology.Partition]int64, len(p.parts))
	for _, q := range p.parts {
		out[q.Partition] = q.end
	}
	return out, nil
}
