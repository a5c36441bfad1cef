package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Bounds of a fence.
const (
	fenceTries    = 50        // of one partition, each answered, against a mirror that runs on
	fenceMarkers  = 2000      // markers in one request
	traceSteps    = 200       // requests to find the border of one round's partitions
	traceNear     = 256       // offsets that are read rather than halved
	traceBytes    = 8 << 20   // read behind the border of one partition
	traceMarks    = 64 << 20  // read to find the markers just written among the records of producers
	traceFiller   = 256 << 20 // read behind a border that is filler: so much is some 300 million offsets
	traceGuess    = 64 << 10  // bytes asked for, of each partition, to see one batch
	traceGuessMax = 2 << 20   // after an answer that was cut off
	describeMax   = 200       // partitions in one request for producers
)

// fence writes the fence markers of all partitions and reads them back, until
// each stands where the link's own records end.
func (p *promoter) fence(ctx context.Context) error {
	return p.rounds(ctx, "fence", func(q *promoting) bool { return q.stood }, func(ctx context.Context, todo []*promoting) error {
		if err := p.read(ctx, todo); err != nil {
			return err
		}
		for _, q := range readyOf(todo) {
			if q.end < q.run.Start {
				return fmt.Errorf("%s in kafka %s ends at %d, below the recorded start %d of the link: the log was cut off, or the start belongs to another topic", q.Partition, p.cl.Name(), q.end, q.run.Start)
			}
		}
		if err := p.trace(ctx, readyOf(todo)); err != nil {
			return err
		}
		for _, q := range readyOf(todo) {
			if x, ok := p.Recorded[q.Partition]; ok && x != q.tail.X {
				return fmt.Errorf("%s in kafka %s: the mirror's records end at %d, recorded is %d: the log was cut off, or another link was recorded", q.Partition, p.cl.Name(), q.tail.X, x)
			}
			if q.wrote && q.tail.Stands(q.want, q.from) && q.tail.Stands(q.run.Fence(q.tail.X, q.tail.Last, nil), q.from) {
				q.stood, q.moved = true, time.Now()
			}
		}
		return p.mark(ctx, readyOf(todo))
	})
}

// mark writes the fence markers of partitions that have none standing.
func (p *promoter) mark(ctx context.Context, parts []*promoting) error {
	var todo, lost []*promoting
	for _, q := range parts {
		if q.stood {
			continue
		}
		if q.tries >= fenceTries {
			return fmt.Errorf("%s: the mirror is still writing after %d fences: is it really told to stop?", q.Partition, q.tries)
		}
		if q.tail.Last == nil && q.tail.X > q.run.Start {
			lost = append(lost, q)
		}
		todo = append(todo, q)
	}
	states, err := p.producers(ctx, lost)
	if err != nil {
		for _, q := range lost {
			q.failed(err.Error())
		}
		todo = readyOf(todo)
	}
	for _, q := range todo {
		// What it needs now comes first: its first marker must be the one that
		// stops whoever writes. Then all that earlier tries found, and what an
		// earlier promotion fenced here: the mirror may have been there.
		need := q.run.Fence(q.tail.X, q.tail.Last, states[q.Partition])
		for _, m := range q.want {
			need = withMark(need, m.ProducerID)
		}
		for _, id := range sortedIDs(q.tail.Fences) {
			need = withMark(need, id)
		}
		q.want, q.from, q.wrote = need, q.end, false
	}
	finals := make(chan error, len(todo))
	p.perNode(todo, func(node int32, of []*promoting) {
		for len(of) > 0 {
			n, markers := 0, 0
			for n < len(of) && (n == 0 || markers+len(of[n].want) <= fenceMarkers) {
				markers += len(of[n].want)
				n++
			}
			if err := p.markSome(ctx, node, of[:n]); err != nil {
				finals <- err
				return
			}
			of = of[n:]
		}
	})
	select {
	case err := <-finals:
		return err
	default:
		return nil
	}
}

// markSome sends one request. Its markers are written one after the other, so
// those of one partition stand side by side.
func (p *promoter) markSome(ctx context.Context, node int32, of []*promoting) error {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for _, q := range of {
		for _, m := range q.want {
			addMarker(req, m, q.only())
		}
	}
	codes, err := writeMarkers(ctx, p.slow, node, p.RequestTimeout, req)
	for _, q := range of {
		if err != nil {
			q.failed("write markers: " + err.Error())
			continue
		}
		q.wrote = true
		for _, m := range q.want {
			answer, ok := codes[markerKey{m.ProducerID, q.Partition}]
			if !ok {
				answer = errNoAnswer
			}
			if answer == nil {
				continue
			}
			why, final := markerTrouble(answer)
			if final {
				return fmt.Errorf("%s: %s", q.Partition, why)
			}
			q.wrote = false
			q.failed(why)
		}
		if q.wrote {
			q.tries++
			q.moved = time.Now()
		}
	}
	return nil
}

func withMark(marks []replicate.Mark, id int64) []replicate.Mark {
	for _, m := range marks {
		if m.ProducerID == id {
			return marks
		}
	}
	return append(marks, replicate.FenceMark(id))
}

type markerKey struct {
	id int64
	topology.Partition
}

// addMarker adds one marker, an abort, for some partitions.
func addMarker(req *kmsg.WriteTxnMarkersRequest, m replicate.Mark, of []topology.Partition) {
	rm := kmsg.NewWriteTxnMarkersRequestMarker()
	rm.ProducerID, rm.ProducerEpoch, rm.CoordinatorEpoch = m.ProducerID, m.Epoch, m.CoordinatorEpoch
	for _, p := range of {
		if n := len(rm.Topics); n == 0 || rm.Topics[n-1].Topic != p.Topic {
			rt := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
			rt.Topic = p.Topic
			rm.Topics = append(rm.Topics, rt)
		}
		rt := &rm.Topics[len(rm.Topics)-1]
		rt.Partitions = append(rt.Partitions, p.Partition)
	}
	req.Markers = append(req.Markers, rm)
}

// writeMarkers sends markers to one broker. An answer is given per producer id
// and partition; the broker merges those of several equal markers into one.
func writeMarkers(ctx context.Context, cl *kafka.Client, node int32, timeout time.Duration, req *kmsg.WriteTxnMarkersRequest) (map[markerKey]error, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	out := map[markerKey]error{}
	for _, m := range resp.(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				key := markerKey{m.ProducerID, topology.Partition{Topic: t.Topic, Partition: p.Partition}}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil || out[key] == nil {
					out[key] = err
				}
			}
		}
	}
	return out, nil
}

// producers asks what the brokers remember of producers at these partitions.
func (p *promoter) producers(ctx context.Context, parts []*promoting) (map[topology.Partition][]replicate.ProducerState, error) {
	by := map[int32][]spot{}
	for _, q := range parts {
		by[q.node] = append(by[q.node], q.at)
	}
	return producersAt(ctx, p.cl, by)
}

// producersAt asks each broker in turn, some partitions at a time: an answer
// may be large. A partition without an answer is an error.
func producersAt(ctx context.Context, cl *kafka.Client, byNode map[int32][]spot) (map[topology.Partition][]replicate.ProducerState, error) {
	out := map[topology.Partition][]replicate.ProducerState{}
	for node, spots := range byNode {
		for len(spots) > 0 {
			some := spots[:min(len(spots), describeMax)]
			spots = spots[len(some):]
			req := kmsg.NewPtrDescribeProducersRequest()
			eachTopic(some, func(topic string, of []spot) {
				rt := kmsg.NewDescribeProducersRequestTopic()
				rt.Topic = topic
				for _, s := range of {
					rt.Partitions = append(rt.Partitions, s.Partition.Partition)
				}
				req.Topics = append(req.Topics, rt)
			})
			resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
			if err != nil {
				return nil, fmt.Errorf("describe producers in kafka %s: %w", cl.Name(), err)
			}
			for _, t := range resp.(*kmsg.DescribeProducersResponse).Topics {
				for _, x := range t.Partitions {
					id := topology.Partition{Topic: t.Topic, Partition: x.Partition}
					if err := kerr.ErrorForCode(x.ErrorCode); err != nil {
						return nil, fmt.Errorf("describe producers of %s in kafka %s: %w", id, cl.Name(), err)
					}
					out[id] = []replicate.ProducerState{}
					for _, a := range x.ActiveProducers {
						out[id] = append(out[id], replicate.ProducerState{ID: a.ProducerID, Epoch: int16(a.ProducerEpoch), LastSequence: a.LastSequence, CoordinatorEpoch: a.CoordinatorEpoch})
					}
				}
			}
			for _, s := range some {
				if _, ok := out[s.Partition]; !ok {
					return nil, fmt.Errorf("describe producers of %s in kafka %s: %w", s.Partition, cl.Name(), errNoAnswer)
				}
			}
		}
	}
	return out, nil
}

// describeAnyACL asks for access rules and is interested in the error only.
func describeAnyACL(ctx context.Context, cl *kafka.Client) error {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeCluster, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resp, err := within(ctx, func() (*kmsg.DescribeACLsResponse, error) { return req.RequestWith(ctx, cl.Kgo) })
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// errLogStart says that a log no longer tells where the link's records ended.
var errLogStart = errors.New("the log no longer tells where the mirror's records ended")
