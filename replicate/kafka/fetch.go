package kafka

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// dispatchFetches starts at most one fetch per source broker and lane. What is
// known to have records goes where nothing waits; the rest waits together.
func (l *loop) dispatchFetches(now time.Time) {
	limit, most, whole := l.fetchBudget()
	groups := map[laneKey][]*part{}
	for _, p := range l.byTurn(func(p *part) bool { return p.fetch != nil }) {
		if wait := p.fetchAt.Sub(now); wait > 0 {
			l.due(now, wait)
			continue
		}
		node, _, err := home(l.source, p, "source")
		if err != nil {
			l.wantRefresh()
			gen := p.fetch.Gen
			p.fetch = nil
			l.apply(p, replicate.FetchFailed{Gen: gen, Kind: replicate.FetchRetry, Why: err.Error()})
			continue
		}
		key := laneKey{node, !p.fetch.Behind}
		if len(groups[key]) < fetchPartitions {
			groups[key] = append(groups[key], p)
		}
	}
	for key, parts := range groups {
		perPartition, perRequest := l.asks[key.node].within(most, whole)
		if l.fetching[key] || l.queued+l.reserved+perRequest > limit && l.queued+l.reserved > 0 {
			continue // the end of a fetch or an append wakes us
		}
		l.startFetch(key, parts, int32(perPartition), perRequest)
	}
}

// fetchBudget returns how many bytes may be held, and asked for at once. A
// slow link holds no more than it can send in two seconds.
func (l *loop) fetchBudget() (limit, perPartition, perRequest int) {
	limit, perPartition = l.conf.BufferBytes, int(l.conf.FetchBytes)
	if r := l.throttle.rate; r > 0 {
		limit = min(limit, max(256<<10, int(2*r)))
		perPartition = min(perPartition, max(16<<10, limit/8))
	}
	return limit, perPartition, min(16<<20, max(perPartition, limit/8))
}

// ask is how much less than the budget is asked of one broker at a time. On a
// thin line a full answer takes longer than its request may: then nothing ever
// arrives. So an answer that failed or took long halves the next one, and a
// quick one doubles it.
type ask struct{ halved int }

const (
	askSlow   = 2 * time.Second
	askQuick  = 500 * time.Millisecond
	askLowest = 16 << 10 // a broker sends one whole batch at least, whatever is asked
)

func (a ask) within(perPartition, perRequest int) (int, int) {
	perRequest = max(min(askLowest, perRequest), perRequest>>a.halved)
	return min(perPartition, perRequest), perRequest
}

// after is the next ask, given how the last one went.
func (a ask) after(perRequest int, took time.Duration, failed bool) ask {
	switch {
	case failed && perRequest > askLowest:
		a.halved += 2
	case took > askSlow && perRequest > askLowest:
		a.halved++
	case !failed && took < askQuick && a.halved > 0:
		a.halved--
	}
	return a
}

type fetchItem struct {
	gen    uint32
	offset int64
}

func (l *loop) startFetch(key laneKey, parts []*part, perPartition int32, perRequest int) {
	wait, cl := time.Duration(0), l.conf.Source
	if key.tail {
		wait, cl = l.conf.FetchWait, l.tail
	}
	req := fetchRequest(wait, int32(perRequest), 1)
	items := make(map[topology.Partition]fetchItem, len(parts))
	spots := make([]spot, 0, len(parts))
	for _, p := range parts {
		_, at, _ := home(l.source, p, "source") // checked by the caller, on the same view
		addFetch(req, at, p.fetch.Offset, p.fetch.LastEpoch, perPartition)
		items[p.m.ID] = fetchItem{p.fetch.Gen, p.fetch.Offset}
		spots = append(spots, at)
		p.fetch = nil
		l.serve(p)
	}
	l.fetching[key] = true
	l.reserved += perRequest
	begun := time.Now()
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(l.reads, wait+lookTimeout)
		defer cancel()
		resp, err := cl.Kgo.Broker(int(key.node)).Request(ctx, req)
		events := map[topology.Partition]replicate.Event{}
		moved := err != nil
		if err == nil {
			fr := resp.(*kmsg.FetchResponse)
			if err = fetchError(fr); err == nil {
				moved = readFetch(fr, spots, items, events)
			}
		}
		l.events <- func() {
			delete(l.fetching, key)
			l.reserved -= perRequest
			if !key.tail || err != nil {
				l.asks[key.node] = l.asks[key.node].after(perRequest, time.Since(begun)-wait, err != nil)
			}
			if moved {
				l.wantRefresh()
			}
			for id, it := range items {
				ev := events[id]
				switch {
				case err != nil:
					ev = replicate.FetchFailed{Gen: it.gen, Why: "fetch from source: " + err.Error()}
				case ev == nil:
					ev = replicate.FetchFailed{Gen: it.gen, Why: "fetch from source: " + errNoAnswer.Error()}
				}
				l.apply(l.parts[id], ev)
			}
		}
	})
}

// readFetch turns a broker's answer into events and says whether metadata is
// out of date.
func readFetch(resp *kmsg.FetchResponse, spots []spot, items map[topology.Partition]fetchItem, out map[topology.Partition]replicate.Event) (moved bool) {
	names := namesOf(spots)
	now := time.Now()
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			id := topology.Partition{Topic: names[t.TopicID], Partition: p.Partition}
			it, ok := items[id]
			if !ok {
				continue
			}
			fail := func(kind replicate.FetchFailure, why string) {
				out[id] = replicate.FetchFailed{Gen: it.gen, Kind: kind, Why: "fetch from source: " + why, At: p.DivergingEpoch.EndOffset}
			}
			err := kerr.ErrorForCode(p.ErrorCode)
			switch {
			case errors.Is(err, kerr.OffsetOutOfRange):
				fail(replicate.FetchOutOfRange, err.Error())
			case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
				// A broker that just started may not know the topic yet; a
				// metadata refresh tells a recreated topic for sure.
				moved = true
				fail(replicate.FetchRetry, err.Error())
			case err != nil:
				moved = true
				fail(replicate.FetchRetry, err.Error())
			case p.DivergingEpoch.EndOffset >= 0 && p.DivergingEpoch.Epoch >= 0:
				fail(replicate.FetchDiverged, "the source's history changed")
			default:
				// A copy, so that one slow partition does not hold the whole
				// answer of all partitions in memory.
				batches, broken := replicate.ParseBatches(bytes.Clone(p.RecordBatches))
				shaped, err := shape(batches, it.offset, p.AbortedTransactions)
				if err != nil {
					broken = err
				}
				out[id] = replicate.Fetched{
					Gen: it.gen, At: now, Batches: shaped, Broken: broken,
					LogStart: p.LogStartOffset, End: p.HighWatermark, LastStable: p.LastStableOffset,
				}
			}
		}
	}
	return moved
}
