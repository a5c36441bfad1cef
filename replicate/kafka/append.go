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
		if p.together == 0 {
			p.together = l.joinable(p, now)
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
				records := p.records()
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

// sending is an append on its way.
type sending struct {
	replicate.Append
	at        spot
	compacted bool
	together  int   // batches to send as one
	end       int64 // of what was sent
	count     int   // batches in it
	err       error // it could not be made
}

// What is worth joining: see joinable.
const (
	mergeBelow = 16 << 10               // mean bytes of the batches
	mergeBytes = 256 << 10              // of a joined batch at most, stored
	mergeRest  = time.Minute            // without joining after the target refused a joined batch
	mergeGuess = 20 * time.Nanosecond   // per byte, until it was measured
	mergeSlow  = 100 * time.Nanosecond  // per byte; what took longer had to wait for the CPU
	turnGuess  = 500 * time.Microsecond // per append, until it was measured
)

// joinable returns how many of the wanted append's batches go as one. A
// partition has one append under way, so a backlog of tiny batches drains no
// faster than answers come: joined batches are worth their decoding when that
// takes less time than the appends that it saves. Both are measured. Batches
// of a good size, and those that nothing queues behind, stay as they are.
func (l *loop) joinable(p *part, now time.Time) int {
	batches := p.append.Batches
	if p.append.Filler || len(batches) < 2 || now.Before(p.plainUntil) {
		return 1
	}
	n := mergeable(batches, mergeBytes)
	size := 0
	for _, b := range batches[:n] {
		size += b.Size()
	}
	if n < 2 || size/n >= mergeBelow {
		return 1
	}
	if time.Duration(size)*l.joinCost.or(mergeGuess) >= time.Duration(n-1)*l.turnCost.or(turnGuess) {
		l.joinCost -= l.joinCost / 64 // so that it is tried again some time
		return 1
	}
	return n
}

// mean is a moving one of durations.
type mean time.Duration

func (m *mean) add(d time.Duration) {
	if *m == 0 {
		*m = mean(d)
	}
	*m += (mean(d) - *m) / 8
}

func (m mean) or(guess time.Duration) time.Duration {
	if m <= 0 {
		return guess
	}
	return time.Duration(m)
}

// size is about what the wanted append has to send.
func (p *part) size() int {
	if p.append.Filler {
		return int(p.append.Batches[0].Count) // about a byte a record
	}
	size := 0
	for _, b := range p.append.Batches[:p.together] {
		size += b.Size()
	}
	return size
}

// records is how many records the wanted append has to send.
func (p *part) records() (n int) {
	for _, b := range p.append.Batches[:p.together] {
		n += int(b.Count)
	}
	return n
}

// body makes the one batch that is sent for an append, and notes how many of
// its batches are in it. The bytes are not read again after this: they may be
// stamped where they are.
func (s *sending) body() (replicate.Batch, error) {
	first := s.Batches[0]
	s.end, s.count = first.End(), 1
	switch {
	case s.Filler:
		return filler(int(first.Count), first.Base, s.compacted)
	case s.together > 1:
		if b, n, err := merge(s.Batches[:s.together], mergeBytes); err == nil && n > 0 {
			s.end, s.count = b.End(), n
			return b, nil
		}
		// What cannot be decoded goes as it is: the target's broker judges it.
	}
	return first, nil
}

func (l *loop) startAppend(node int32, parts []*part) {
	sends := make([]*sending, 0, len(parts))
	for _, p := range parts {
		_, at, _ := home(l.target, p, "target") // checked by the caller, on the same view
		sends = append(sends, &sending{Append: *p.append, at: at, compacted: p.policy.Compacted, together: p.together})
		p.append = nil
		l.serve(p)
	}
	l.appending[node]++
	l.inFlight++
	l.work.Go(func() {
		req, spots, joining := l.produceRequest(sends)
		sent := time.Now()
		// Its own time limit, not the mirror's life: an append that is on its
		// way is waited for. The broker's own timeout comes first, so that a
		// healthy broker's late "timed out" is still heard.
		ctx, cancel := context.WithTimeout(l.appends, l.conf.RequestTimeout+2*time.Second)
		defer cancel()
		answers, err, moved := map[topology.Partition]replicate.Appended{}, error(nil), false
		if len(spots) > 0 {
			var resp kmsg.Response
			resp, err = l.conf.Target.Kgo.Broker(int(node)).Request(ctx, req)
			moved = err != nil
			if err == nil {
				moved = readAppends(resp.(*kmsg.ProduceResponse), spots, answers)
			}
		}
		took := time.Since(sent)
		l.events <- func() {
			l.appending[node]--
			l.inFlight--
			if moved {
				l.wantRefresh()
			}
			if joining > 0 {
				l.joinCost.add(joining)
			}
			if err == nil && len(spots) > 0 {
				l.turnCost.add(took)
			}
			for _, s := range sends {
				l.answered(s, answers, sent, err)
			}
		}
	})
}

// answered gives a partition the answer to its append.
func (l *loop) answered(s *sending, answers map[topology.Partition]replicate.Appended, sent time.Time, err error) {
	a, ok := answers[s.at.Partition]
	switch {
	case s.err != nil:
		a = replicate.Appended{Answer: replicate.AppendRejected, Why: s.err.Error()}
	case neverSent(err):
		a = replicate.Appended{Answer: replicate.AppendRetry, Why: fmt.Sprintf("append to target: %v", err)}
	case err != nil:
		a = replicate.Appended{Answer: replicate.AppendUnknown, Why: fmt.Sprintf("append to target: no answer: %v", err)}
	case !ok:
		a = replicate.Appended{Answer: replicate.AppendUnknown, Why: "append to target: " + errNoAnswer.Error()}
	}
	p := l.parts[s.at.Partition]
	a.Count = s.count
	switch a.Answer {
	case replicate.AppendUnknown:
		l.lost(p, s.end, sent, err)
	case replicate.AppendAccepted:
		if s.end >= p.lostEnd {
			p.lostEnd = 0
		}
	case replicate.AppendRejected:
		if s.count > 1 { // each by itself may well be taken: the topic's bound on a batch may be low
			p.plainUntil = time.Now().Add(mergeRest)
		}
	}
	l.apply(p, a)
}

// produceRequest makes the request for appends, and says what is in it and what
// joining batches took per byte. An append that cannot be made has its err set.
func (l *loop) produceRequest(sends []*sending) (req *kmsg.ProduceRequest, spots []spot, joining time.Duration) {
	req = kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = int32(l.conf.RequestTimeout.Milliseconds())
	byTopic := map[string]int{}
	begun, joined := time.Now(), 0
	for _, s := range sends {
		var batch replicate.Batch
		if batch, s.err = s.body(); s.err != nil {
			continue
		}
		if s.count > 1 {
			for _, b := range s.Batches[:s.count] {
				joined += b.Size()
			}
		}
		i, ok := byTopic[s.at.Topic]
		if !ok {
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic, rt.TopicID = s.at.Topic, s.at.id
			i = len(req.Topics)
			byTopic[s.at.Topic] = i
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition = s.at.Partition.Partition
		rp.Records = batch.RestampInPlace(s.Stamp)
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
		spots = append(spots, s.at)
	}
	if joined > 0 {
		joining = min(max(1, time.Since(begun)/time.Duration(joined)), mergeSlow)
	}
	return req, spots, joining
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
