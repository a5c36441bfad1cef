package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	closeTimeout = 25 * time.Second // for all of them; a step may wait longer
	closePoll    = 50 * time.Millisecond
	closeShown   = 5
)

// OpenTransactionsError says which transactions cannot be ended from here, and why.
type OpenTransactionsError struct {
	Cluster string
	Why     []string // one sentence each
}

func (e *OpenTransactionsError) Error() string {
	why := strings.Join(e.Why[:min(closeShown, len(e.Why))], "; ")
	if more := len(e.Why) - closeShown; more > 0 {
		why += fmt.Sprintf("; and %d more", more)
	}
	return fmt.Sprintf("transactions are open at kafka %s: %s; stop their producers, and give holdfast DESCRIBE and WRITE on the transactional ids, or end them with kafka-transactions.sh abort", e.Cluster, why)
}

// CloseTransactions ends every transaction that touches a selected topic, by
// taking its transactional id over: the coordinator aborts it, and its producer
// is fenced. What a region was given through a transaction that is still open
// may end at any later time, with a marker in the middle of what a mirror
// writes there. So none may be open where a mirror begins to write, and none
// where the last ends are read. A log with nothing open but an end that is not
// stable is refused: then something is open that this user may not see.
//
// It returns the transactional ids that it ended. It may be repeated.
func CloseTransactions(ctx context.Context, cl *kafka.Client, sel replicate.Selection) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	var ended []string
	for {
		open, err := openTransactions(ctx, cl, sel)
		if err != nil {
			return ended, err
		}
		var why []string
		for _, tx := range open {
			if slices.Contains(ended, tx.id) {
				why = append(why, fmt.Sprintf("%q is %s", tx.id, tx.state))
				continue // its markers are on their way
			}
			switch err := endTransaction(ctx, cl, tx); {
			case err == nil:
				ended = append(ended, tx.id)
			case errors.Is(err, kerr.ConcurrentTransactions) || kerr.IsRetriable(err):
				why = append(why, fmt.Sprintf("%q: %v", tx.id, err))
			default:
				return ended, &OpenTransactionsError{cl.Name(), []string{fmt.Sprintf("%q: %v", tx.id, err)}}
			}
		}
		if len(open) == 0 {
			if why, err = unstable(ctx, cl, sel); err == nil && len(why) == 0 {
				return ended, nil
			} else if err != nil {
				why = []string{err.Error()}
			}
		}
		select {
		case <-ctx.Done():
			return ended, &OpenTransactionsError{cl.Name(), why}
		case <-time.After(closePoll):
		}
	}
}

// transaction is one that is open at a cluster.
type transaction struct {
	id      string
	state   string
	timeout int32
}

// openTransactions lists those of the selected topics that are not over.
func openTransactions(ctx context.Context, cl *kafka.Client, sel replicate.Selection) ([]transaction, error) {
	states := []string{"Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"}
	var ids []string
	list := kmsg.NewPtrListTransactionsRequest()
	for _, shard := range cl.Kgo.RequestSharded(ctx, list) {
		if shard.Err != nil {
			return nil, fmt.Errorf("list the transactions of broker %d of kafka %s: %w", shard.Meta.NodeID, cl.Name(), shard.Err)
		}
		resp := shard.Resp.(*kmsg.ListTransactionsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return nil, fmt.Errorf("list the transactions of broker %d of kafka %s: %w", shard.Meta.NodeID, cl.Name(), err)
		}
		for _, t := range resp.TransactionStates {
			if slices.Contains(states, t.TransactionState) {
				ids = append(ids, t.TransactionalID)
			}
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	var out []transaction
	seen := 0
	describe := kmsg.NewPtrDescribeTransactionsRequest()
	describe.TransactionalIDs = ids
	for _, shard := range cl.Kgo.RequestSharded(ctx, describe) {
		if shard.Err != nil {
			return nil, fmt.Errorf("describe transactions at kafka %s: %w", cl.Name(), shard.Err)
		}
		for _, t := range shard.Resp.(*kmsg.DescribeTransactionsResponse).TransactionStates {
			seen++
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case errors.Is(err, kerr.TransactionalIDNotFound):
				continue // over meanwhile
			case err != nil:
				return nil, fmt.Errorf("describe the transaction %q at kafka %s: %w", t.TransactionalID, cl.Name(), err)
			case !slices.Contains(states, t.State):
				continue
			}
			if slices.ContainsFunc(t.Topics, func(t kmsg.DescribeTransactionsResponseTransactionStateTopic) bool { return sel.Selects(t.Topic) }) {
				out = append(out, transaction{t.TransactionalID, t.State, t.TimeoutMillis})
			}
		}
	}
	if seen < len(ids) {
		return nil, fmt.Errorf("describe transactions at kafka %s: %d of %d were answered", cl.Name(), seen, len(ids))
	}
	return out, nil
}

// endTransaction takes a transactional id over. A transaction that is ending
// already is let end.
func endTransaction(ctx context.Context, cl *kafka.Client, tx transaction) error {
	if tx.state != "Ongoing" {
		return nil
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &tx.id
	req.TransactionTimeoutMillis = max(1, tx.timeout)
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return err
	}
	// 51 is the usual first answer: the coordinator has begun to abort it.
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil && !errors.Is(err, kerr.ConcurrentTransactions) {
		return err
	}
	return nil
}

// unstable lists the partitions whose last stable offset is not their end.
func unstable(ctx context.Context, cl *kafka.Client, sel replicate.Selection) ([]string, error) {
	v, err := readView(ctx, cl)
	if err != nil {
		return nil, err
	}
	byNode := map[int32][]spot{}
	for name, t := range v.topics {
		for i, at := range t.parts {
			if s := (spot{Partition: topology.Partition{Topic: name, Partition: int32(i)}, id: t.id, epoch: at.epoch}); sel.Selects(name) {
				if at.leader < 0 {
					return nil, fmt.Errorf("%s has no leader", s.Partition)
				}
				byNode[at.leader] = append(byNode[at.leader], s)
			}
		}
	}
	var out []string
	for node, spots := range byNode {
		bySpot(spots)
		high, stable := offsetAt(ctx, cl, node, spots, -1), stableAt(ctx, cl, node, spots)
		for _, s := range spots {
			h, l := high[s.Partition], stable[s.Partition]
			if err := errors.Join(h.err, l.err); err != nil {
				return nil, fmt.Errorf("read the last stable offset of %s: %w", s.Partition, err)
			}
			if l.offset < h.offset {
				out = append(out, fmt.Sprintf("one of %s since offset %d, which this user may not see", s.Partition, l.offset))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// stableAt asks one broker for last stable offsets.
func stableAt(ctx context.Context, cl *kafka.Client, node int32, spots []spot) map[topology.Partition]answer {
	return listOffsets(ctx, cl, node, spots, -1, 1)
}
