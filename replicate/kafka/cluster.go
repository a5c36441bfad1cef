package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// view is one answer of a cluster about its topics. It is never changed.
type view struct {
	cluster string
	brokers int
	topics  map[string]*topicView
}

type topicView struct {
	name     string
	id       replicate.TopicID
	replicas int16
	parts    []partView // by partition number
}

type partView struct {
	leader int32 // -1: none
	epoch  int32
	thin   bool // not all replicas are in sync
}

// part returns where the partition lives now.
func (v *view) part(p topology.Partition) (topic *topicView, part partView, ok bool) {
	if v == nil {
		return nil, partView{}, false
	}
	t := v.topics[p.Topic]
	if t == nil || int(p.Partition) >= len(t.parts) {
		return nil, partView{}, false
	}
	return t, t.parts[p.Partition], true
}

// readView asks the cluster for all its topics. It fails when the answer is
// not whole: a topic that is being created or has errors is left out only if
// the broker itself says that it does not exist.
func readView(ctx context.Context, cl *kafka.Client) (*view, error) {
	req := kmsg.NewPtrMetadataRequest()
	resp, err := within(ctx, func() (*kmsg.MetadataResponse, error) { return req.RequestWith(ctx, cl.Kgo) }) // nil topics: all
	if err != nil {
		return nil, fmt.Errorf("read metadata of kafka %s: %w", cl.Name(), err)
	}
	v := &view{brokers: len(resp.Brokers), topics: make(map[string]*topicView, len(resp.Topics))}
	if resp.ClusterID != nil {
		v.cluster = *resp.ClusterID
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || t.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return nil, fmt.Errorf("read metadata of topic %s in kafka %s: %w", *t.Topic, cl.Name(), err)
		}
		tv := &topicView{name: *t.Topic, id: t.TopicID, parts: make([]partView, len(t.Partitions))}
		for _, p := range t.Partitions {
			if p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
				return nil, fmt.Errorf("read metadata of topic %s in kafka %s: partition %d of %d", *t.Topic, cl.Name(), p.Partition, len(t.Partitions))
			}
			tv.parts[p.Partition] = partView{leader: p.Leader, epoch: p.LeaderEpoch, thin: len(p.ISR) < len(p.Replicas)}
			tv.replicas = max(tv.replicas, int16(len(p.Replicas)))
		}
		v.topics[tv.name] = tv
	}
	return v, nil
}

// within returns when ask does or ctx ends. A request that any broker may
// answer can outlive its context: the client greets a broker that it has no
// connection to yet for as long as the client's own request timeout. Requests
// to a named broker need no help.
func within[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	got := make(chan answer, 1)
	go func() {
		v, err := ask()
		got <- answer{v, err}
	}()
	select {
	case a := <-got:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// spot is one partition with all that a raw request to its leader needs.
type spot struct {
	topology.Partition
	id    replicate.TopicID
	epoch int32
	thin  bool // not all replicas are in sync
}

// errNoAnswer says that a broker's answer left a partition out.
var errNoAnswer = errors.New("the broker's answer leaves the partition out")

// offsetAt asks one broker for log offsets: timestamp -2 is the log start, -1
// the high watermark. Each partition has an offset or an error.
func offsetAt(ctx context.Context, cl *kafka.Client, node int32, spots []spot, timestamp int64) map[topology.Partition]answer {
	return listOffsets(ctx, cl, node, spots, timestamp, 0)
}

// listOffsets is offsetAt with an isolation level: the latest at level 1 is the
// last stable offset.
func listOffsets(ctx context.Context, cl *kafka.Client, node int32, spots []spot, timestamp int64, isolation int8) map[topology.Partition]answer {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = isolation
	eachTopic(spots, func(topic string, of []spot) {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, s := range of {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.CurrentLeaderEpoch, rp.Timestamp = s.Partition.Partition, s.epoch, timestamp
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	})
	resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
	out := make(map[topology.Partition]answer, len(spots))
	if err == nil {
		for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				a := answer{offset: p.Offset, err: kerr.ErrorForCode(p.ErrorCode)}
				if a.err == nil && a.offset < 0 {
					a.err = fmt.Errorf("list offsets: got %d", a.offset)
				}
				out[topology.Partition{Topic: t.Topic, Partition: p.Partition}] = a
			}
		}
	}
	return complete(out, spots, err)
}

// logEnd asks one broker for the real end of the log, which may be above the
// high watermark.
func logEnd(ctx context.Context, cl *kafka.Client, node int32, spots []spot) map[topology.Partition]answer {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	eachTopic(spots, func(topic string, of []spot) {
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topic
		for _, s := range of {
			rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = s.Partition.Partition, s.epoch, s.epoch
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	})
	resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
	out := make(map[topology.Partition]answer, len(spots))
	if err == nil {
		for _, t := range resp.(*kmsg.OffsetForLeaderEpochResponse).Topics {
			for _, p := range t.Partitions {
				a := answer{offset: p.EndOffset, err: kerr.ErrorForCode(p.ErrorCode)}
				if a.err == nil && a.offset < 0 {
					a.err = fmt.Errorf("offset for leader epoch: got %d", a.offset)
				}
				out[topology.Partition{Topic: t.Topic, Partition: p.Partition}] = a
			}
		}
	}
	return complete(out, spots, err)
}

// batchAt fetches from each spot the stored batch that holds its offset, as it
// is, uncommitted data included. A partition without such a batch (deleted, or
// compacted away) has a nil batch and no error. size guesses how large the
// batch is; a wrong guess only costs another request.
func batchAt(ctx context.Context, cl *kafka.Client, node int32, spots []spot, at map[topology.Partition]int64, size func(topology.Partition) int32) map[topology.Partition]answer {
	out := make(map[topology.Partition]answer, len(spots))
	for rest := spots; len(rest) > 0; {
		// A broker guarantees a whole batch only for the first partition of a
		// request, so ask on until each had its turn to be first.
		got := fetchRaw(ctx, cl, node, rest, at, size)
		var again []spot
		for i, s := range rest {
			a := got[s.Partition]
			if a.err == nil && a.cut && i > 0 {
				again = append(again, s)
				continue
			}
			out[s.Partition] = a
		}
		rest = again
	}
	return out
}

// anySize is the guess where nothing better is known: more than a batch may
// have by default.
func anySize(topology.Partition) int32 { return 2 << 20 }

func fetchRaw(ctx context.Context, cl *kafka.Client, node int32, spots []spot, at map[topology.Partition]int64, size func(topology.Partition) int32) map[topology.Partition]answer {
	req := fetchRequest(0, 32<<20, 0)
	for _, s := range spots {
		addFetch(req, s, at[s.Partition], -1, size(s.Partition))
	}
	resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
	out := make(map[topology.Partition]answer, len(spots))
	if err == nil {
		fr := resp.(*kmsg.FetchResponse)
		err = fetchError(fr)
		names := namesOf(spots)
		for _, t := range fr.Topics {
			for _, p := range t.Partitions {
				tp := topology.Partition{Topic: names[t.TopicID], Partition: p.Partition}
				a := answer{offset: p.LogStartOffset, err: kerr.ErrorForCode(p.ErrorCode)}
				if a.err == nil {
					a.batch, a.cut, a.err = batchHolding(p.RecordBatches, at[tp])
				}
				out[tp] = a
			}
		}
	}
	return complete(out, spots, err)
}

// batchHolding finds the batch with this offset; cut says that the bytes end
// before it could be found.
func batchHolding(raw []byte, offset int64) (b *replicate.Batch, cut bool, err error) {
	for {
		next, rest, err := replicate.NextBatch(raw)
		switch {
		case errors.Is(err, replicate.ErrPartial):
			return nil, true, nil
		case err != nil:
			return nil, false, err
		case next.Base > offset:
			return nil, false, nil
		case next.End() > offset:
			next.Raw = slices.Clone(next.Raw) // let the answer's buffer go
			return &next, false, nil
		}
		raw = rest
	}
}

// knowsProducer asks one broker which of the spots still remember the producer
// id that is expected there.
func knowsProducer(ctx context.Context, cl *kafka.Client, node int32, spots []spot, ids map[topology.Partition]int64) map[topology.Partition]answer {
	req := kmsg.NewPtrDescribeProducersRequest()
	eachTopic(spots, func(topic string, of []spot) {
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic = topic
		for _, s := range of {
			rt.Partitions = append(rt.Partitions, s.Partition.Partition)
		}
		req.Topics = append(req.Topics, rt)
	})
	resp, err := cl.Kgo.Broker(int(node)).Request(ctx, req)
	out := make(map[topology.Partition]answer, len(spots))
	if err == nil {
		for _, t := range resp.(*kmsg.DescribeProducersResponse).Topics {
			for _, p := range t.Partitions {
				tp := topology.Partition{Topic: t.Topic, Partition: p.Partition}
				a := answer{err: kerr.ErrorForCode(p.ErrorCode)}
				a.known = slices.ContainsFunc(p.ActiveProducers, func(x kmsg.DescribeProducersResponseTopicPartitionActiveProducer) bool {
					return x.ProducerID == ids[tp]
				})
				out[tp] = a
			}
		}
	}
	return complete(out, spots, err)
}

// answer is what a broker said about one partition.
type answer struct {
	offset int64
	batch  *replicate.Batch
	cut    bool
	known  bool
	err    error
}

// complete gives every spot an answer, so that a short list is never taken for
// a whole one.
func complete(out map[topology.Partition]answer, spots []spot, err error) map[topology.Partition]answer {
	for _, s := range spots {
		if err != nil {
			out[s.Partition] = answer{err: err}
		} else if _, ok := out[s.Partition]; !ok {
			out[s.Partition] = answer{err: errNoAnswer}
		}
	}
	return out
}

func eachTopic(spots []spot, do func(topic string, of []spot)) {
	by := map[string][]spot{}
	for _, s := range spots {
		by[s.Topic] = append(by[s.Topic], s)
	}
	for t, of := range by {
		do(t, of)
	}
}

func namesOf(spots []spot) map[[16]byte]string {
	names := make(map[[16]byte]string, len(spots))
	for _, s := range spots {
		names[s.id] = s.Topic
	}
	return names
}

// fetchRequest is a fetch without a session. Isolation 1 is read committed.
func fetchRequest(wait time.Duration, maxBytes int32, isolation int8) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis = int32(wait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = maxBytes
	req.IsolationLevel = isolation
	req.SessionEpoch = -1
	return req
}

func addFetch(req *kmsg.FetchRequest, s spot, offset int64, lastEpoch, maxBytes int32) {
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.CurrentLeaderEpoch, rp.FetchOffset = s.Partition.Partition, s.epoch, offset
	rp.LastFetchedEpoch, rp.LogStartOffset, rp.PartitionMaxBytes = lastEpoch, -1, maxBytes
	if n := len(req.Topics); n > 0 && req.Topics[n-1].TopicID == [16]byte(s.id) {
		req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, rp)
		return
	}
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = s.Topic, s.id
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
}

// fetchError refuses an answer that was not by topic id: by name, a broker
// serves the data of a recreated topic without a word.
func fetchError(resp *kmsg.FetchResponse) error {
	if resp.Version < 13 {
		return fmt.Errorf("fetch: the broker speaks version %d, want 13 or later (Kafka 3.1), which asks by topic id", resp.Version)
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// neverSent says that a request cannot have reached the broker: the broker was
// not known or not reachable.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
