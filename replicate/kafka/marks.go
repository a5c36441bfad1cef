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

const (
	markLanes   = 2    // marker requests per target broker
	marksInAll  = 8000 // markers in one request, over all its partitions
	marksIfThin = 50   // markers for a partition that lacks replicas, see dispatchMarks
)

// dispatchMarks fills holes: markers of many partitions in one request, those
// of one partition in order.
//
// A request of n markers is n appends. If replicas come back in the middle of
// it, the first are refused and the rest stand too low. So while replicas are
// missing a request holds few markers.
func (l *loop) dispatchMarks(now time.Time) {
	groups := map[int32][]*part{}
	for _, p := range l.byTurn(func(p *part) bool { return p.mark != nil }) {
		if wait := p.markAt.Sub(now); wait > 0 {
			l.due(now, wait)
			continue
		}
		node, _, err := home(l.target, p, "target")
		if err != nil {
			l.wantRefresh()
			p.mark = nil
			l.apply(p, replicate.Marked{Answer: replicate.AppendRetry, Why: err.Error()})
			continue
		}
		groups[node] = append(groups[node], p)
	}
	for node, parts := range groups {
		for len(parts) > 0 && l.marking[node] < markLanes {
			n, room := 0, int64(marksInAll)
			for n < len(parts) && room > 0 {
				room -= parts[n].mark.To - parts[n].mark.From
				n++
			}
			l.startMarks(node, parts[:n])
			parts = parts[n:]
		}
	}
}

type sentMarks struct {
	producer int64
	end      int64
}

func (l *loop) startMarks(node int32, parts []*part) {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	sent := make(map[topology.Partition]sentMarks, len(parts))
	for _, p := range parts {
		_, at, _ := home(l.target, p, "target") // checked by the caller, on the same view
		mark := *p.mark
		p.mark = nil
		l.serve(p)
		if at.thin {
			mark.To = min(mark.To, mark.From+marksIfThin)
		}
		for o := mark.From; o < mark.To; o++ {
			id := p.m.Link.Mark(o, mark.Generation)
			m := kmsg.NewWriteTxnMarkersRequestMarker()
			m.ProducerID, m.ProducerEpoch, m.CoordinatorEpoch = id.ProducerID, id.Epoch, id.CoordinatorEpoch
			t := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
			t.Topic, t.Partitions = at.Topic, []int32{at.Partition.Partition}
			m.Topics = append(m.Topics, t)
			req.Markers = append(req.Markers, m)
			sent[p.m.ID] = sentMarks{id.ProducerID, mark.To}
		}
	}
	l.marking[node]++
	l.inFlight++
	at := time.Now()
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(l.appends, l.conf.RequestTimeout+2*time.Second)
		defer cancel()
		resp, err := l.conf.Target.Kgo.Broker(int(node)).Request(ctx, req)
		answers := map[topology.Partition]replicate.Marked{}
		if err == nil {
			readMarks(resp.(*kmsg.WriteTxnMarkersResponse), sent, answers)
		}
		l.events <- func() {
			l.marking[node]--
			l.inFlight--
			for id, s := range sent {
				a, ok := answers[id]
				switch {
				case neverSent(err):
					a = replicate.Marked{Answer: replicate.AppendRetry, Why: fmt.Sprintf("fill a hole at the target: %v", err)}
				case err != nil:
					a = replicate.Marked{Answer: replicate.AppendUnknown, Why: fmt.Sprintf("fill a hole at the target: no answer: %v", err)}
				case !ok:
					a = replicate.Marked{Answer: replicate.AppendUnknown, Why: "fill a hole at the target: " + errNoAnswer.Error()}
				}
				p := l.parts[id]
				if a.Answer == replicate.AppendRetry || a.Answer == replicate.AppendUnknown {
					l.wantRefresh()
				}
				if a.Answer == replicate.AppendUnknown {
					l.lost(p, s.end, at, err)
				}
				l.apply(p, a)
			}
		}
	})
}

// lost notes a write without an answer, sent at a time.
func (l *loop) lost(p *part, end int64, sent time.Time, err error) {
	p.lostEnd, p.lostUntil = end, sent.Add(l.conf.RequestTimeout)
	if late := time.Now().Add(l.conf.RequestTimeout); err != nil && late.After(p.lostUntil) {
		p.lostUntil = late // it may sit unread in the broker's socket
	}
}

// readMarks turns a broker's answer into answers per partition. The broker
// merges the codes of one producer id and partition into one, so the worst is
// taken, and the log is read in any case.
func readMarks(resp *kmsg.WriteTxnMarkersResponse, sent map[topology.Partition]sentMarks, out map[topology.Partition]replicate.Marked) {
	for _, m := range resp.Markers {
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				id := topology.Partition{Topic: t.Topic, Partition: p.Partition}
				if s, ok := sent[id]; !ok || s.producer != m.ProducerID {
					continue
				}
				a := classifyMark(kerr.ErrorForCode(p.ErrorCode))
				if before, ok := out[id]; !ok || before.Answer == replicate.AppendAccepted {
					out[id] = a
				}
			}
		}
	}
}

func classifyMark(err error) replicate.Marked {
	if err == nil {
		return replicate.Marked{}
	}
	a := replicate.Marked{Answer: replicate.AppendRetry, Why: "fill a hole at the target: " + err.Error()}
	switch {
	case errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.TransactionCoordinatorFenced), errors.Is(err, kerr.ProducerFenced):
		a.Answer = replicate.AppendOutOfOrder
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		a.Answer = replicate.AppendRejected
		a.Why += "; the mirror's user needs ALTER (or CLUSTER_ACTION) on the target cluster"
	}
	return a
}

// dispatchTrims deletes the filler below a seeded prefix, always up to an
// offset that is named: "the end" might be somebody else's by then.
func (l *loop) dispatchTrims() {
	for _, p := range l.byTurn(func(p *part) bool { return p.trim != nil }) {
		trim := *p.trim
		p.trim = nil
		l.serve(p)
		node, at, err := home(l.target, p, "target")
		if err != nil {
			l.wantRefresh()
			l.apply(p, replicate.Trimmed{Gen: trim.Gen, Why: err.Error()})
			continue
		}
		l.inFlight++
		l.work.Go(func() {
			ctx, cancel := context.WithTimeout(l.appends, l.conf.RequestTimeout)
			defer cancel()
			why := ""
			if err := deleteBelow(ctx, l.conf, node, at, trim.To); err != nil {
				why = err.Error()
			}
			l.events <- func() {
				l.inFlight--
				l.apply(p, replicate.Trimmed{Gen: trim.Gen, Why: why})
			}
		})
	}
}

func deleteBelow(ctx context.Context, conf Config, node int32, at spot, to int64) error {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = int32(conf.RequestTimeout.Milliseconds())
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic = at.Topic
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = at.Partition.Partition, to
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := conf.Target.Kgo.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return fmt.Errorf("delete records below %d: %w", to, err)
	}
	dr := resp.(*kmsg.DeleteRecordsResponse)
	if len(dr.Topics) != 1 || len(dr.Topics[0].Partitions) != 1 {
		return fmt.Errorf("delete records below %d: %w", to, errNoAnswer)
	}
	if err := kerr.ErrorForCode(dr.Topics[0].Partitions[0].ErrorCode); err != nil {
		return fmt.Errorf("delete records below %d: %w", to, err)
	}
	return nil
}
