package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// dispatchAppends sends one batch of each ready partition, many partitions in
// one request. Two requests per broker overlap; they never share a partition,
// as a partition has one append outstanding.
func (l *loop) dispatchAppends(now time.Time) {
	if wait := max(l.throttle.wait(now), l.records.wait(now)); wait > 0 {
		l.due(now, wait)
		return
	}
	groups := map[int32][]*part{}
	for _, p := range l.byTurn(func(p *part) bool { return p.append != nil }) {
		if wait := l.brakesOf(p.m.ID.Topic).wait(now); wait > 0 {
			l.due(now, wait)
			continue
		}
		node, _, err := home(l.target, p, "target")
		if err != nil {
			l.wantRefresh()
			p.append = nil
			l.apply(p, replicate.Appended{Answer: replicate.AppendRetry, Why: err.Error()})
			continue
		}
		groups[node] = append(groups[node], p)
	}
	limit := appendBytes
	if r := l.throttle.rate; r > 0 {
		limit = min(limit, int(r/10))
	}
	for node, parts := range groups {
		for len(parts) > 0 && l.appending[node] < appendLanes && l.throttle.wait(now) == 0 && l.records.wait(now) == 0 {
			size, n := 0, 0
			for n < len(parts) && (n == 0 || size+parts[n].size() <= limit) {
				p := parts[n]
				records := int(p.append.Batches[0].Count)
				l.records.spend(now, records)
				l.brakesOf(p.m.ID.Topic).spend(now, p.size(), records)
				size += p.size()
				n++
				if l.records.rate > 0 {
					break // a limit in records is kept batch by batch
				}
			}
			l.throttle.spend(now, size)
			l.startAppend(node, parts[:n])
			parts = parts[n:]
		}
	}
	if wait := max(l.throttle.wait(now), l.records.wait(now)); wait > 0 {
		l.due(now, wait)
	}
}

// size is about what the wanted append has to send.
func (p *part) size() int {
	if p.append.Filler {
		return int(p.append.Batches[0].Count) // about a byte a record
	}
	return p.append.Batches[0].Size()
}

// body makes the one batch that is sent for an append, and says how many of
// its batches are in it.
func (l *loop) body(p *part) (replicate.Batch, int, error) {
	first := p.append.Batches[0]
	if p.append.Filler {
		b, err := filler(int(first.Count), first.Base, p.policy.Compacted)
		return b, 1, err
	}
	return first, 1, nil
}

func (l *loop) startAppend(node int32, parts []*part) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = int32(l.conf.RequestTimeout.Milliseconds())
	ends := make(map[topology.Partition]int64, len(parts))
	counts := make(map[topology.Partition]int, len(parts)) // batches sent as one
	spots := make([]spot, 0, len(parts))
	byTopic := map[string]int{}
	for _, p := range parts {
		_, at, _ := home(l.target, p, "target") // checked by the caller, on the same view
		batch, n, err := l.body(p)
		if err != nil {
			p.append = nil
			l.apply(p, replicate.Appended{Answer: replicate.AppendRejected, Why: err.Error()})
			continue
		}
		i, ok := byTopic[at.Topic]
		if !ok {
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic, rt.TopicID = at.Topic, at.id
			i = len(req.Topics)
			byTopic[at.Topic] = i
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition = at.Partition.Partition
		rp.Records = batch.Restamp(p.append.Stamp)
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
		ends[p.m.ID], counts[p.m.ID] = batch.End(), n
		spots = append(spots, at)
		p.append = nil
		l.serve(p)
	}
	if len(spots) == 0 {
		return
	}
	l.appending[node]++
	l.inFlight++
	sent := time.Now()
	l.work.Go(func() {
		// Its own time limit, not the mirror's life: an append that is on its
		// way is waited for. The broker's own timeout comes first, so that a
		// healthy broker's late "timed out" is still heard.
		ctx, cancel := context.WithTimeout(l.appends, l.conf.RequestTimeout+2*time.Second)
		defer cancel()
		resp, err := l.conf.Target.Kgo.Broker(int(node)).Request(ctx, req)
		answers := map[topology.Partition]replicate.Appended{}
		moved := err != nil
		if err == nil {
			moved = readAppends(resp.(*kmsg.ProduceResponse), spots, answers)
		}
		l.events <- func() {
			l.appending[node]--
			l.inFlight--
			if moved {
				l.wantRefresh()
			}
			for id, end := range ends {
				a, ok := answers[id]
				switch {
				case neverSent(err):
					a = replicate.Appended{Answer: replicate.AppendRetry, Why: fmt.Sprintf("append to target: %v", err)}
				case err != nil:
					a = replicate.Appended{Answer: replicate.AppendUnknown, Why: fmt.Sprintf("append to target: no answer: %v", err)}
				case !ok:
					a = replicate.Appended{Answer: replicate.AppendUnknown, Why: "append to target: " + errNoAnswer.Error()}
				}
				p := l.parts[id]
				a.Count = counts[id]
				switch a.Answer {
				case replicate.AppendUnknown:
					l.lost(p, end, sent, err)
				case replicate.AppendAccepted:
					if end >= p.lostEnd {
						p.lostEnd = 0
					}
				}
				l.apply(p, a)
			}
		}
	})
}

// readAppends turns a broker's answer into answers per partition and says
// whether metadata is out of date.
func readAppends(resp *kmsg.ProduceResponse, spots []spot, out map[topology.Partition]replicate.Appended) (moved bool) {
	byID := namesOf(spots)
	for _, t := range resp.Topics {
		name := t.Topic
		if name == "" {
			name = byID[t.TopicID]
		}
		for _, p := range t.Partitions {
			why := ""
			err := kerr.ErrorForCode(p.ErrorCode)
			if err != nil {
				why = "append to target: " + err.Error()
				if p.ErrorMessage != nil && *p.ErrorMessage != "" {
					why += ": " + *p.ErrorMessage
				}
			}
			a := replicate.Appended{Base: p.BaseOffset, Answer: classify(err), Why: why}
			moved = moved || a.Answer == replicate.AppendRetry || a.Answer == replicate.AppendUnknown
			out[topology.Partition{Topic: name, Partition: p.Partition}] = a
		}
	}
	return moved
}

// classify says what an error code of a produce answer means to a partition.
func classify(err error) replicate.Answer {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return replicate.AppendAccepted
	case is(kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend):
		// Appended at the leader, not yet everywhere: it will show in a
		// settled end, or go with the leader.
		return replicate.AppendRetry
	case is(kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch, kerr.DuplicateSequenceNumber, kerr.UnknownProducerID):
		return replicate.AppendOutOfOrder
	case is(kerr.MessageTooLarge, kerr.InvalidTimestamp, kerr.InvalidRecord, kerr.CorruptMessage, kerr.UnknownServerError,
		kerr.RecordListTooLarge, kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType, kerr.PolicyViolation, kerr.InvalidTxnState):
		return replicate.AppendRejected
	}
	// Moved, unreachable, too few replicas, or no right to write: what passes
	// by itself or by a person's hand. An unknown topic is told by metadata.
	return replicate.AppendRetry
}
