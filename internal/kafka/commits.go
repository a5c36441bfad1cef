package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	commitsChunk = 100 // groups in one offset request
	settleTries  = 20  // for errors that pass by themselves
	settleWait   = 250 * time.Millisecond
)

var errNoAnswer = errors.New("the broker's answer leaves it out")

// Commits reads the committed offsets of all these groups; a group without any
// has an empty entry. The answer is whole or an error. Coordinators move, and
// a fresh cluster has none until it was asked for the first time, so what
// passes by itself is waited for. A context of kadm.RequireStable also waits
// for offsets that a transaction is about to commit.
func (c *Client) Commits(ctx context.Context, groups []string) (map[string][]kadm.Offset, error) {
	out := make(map[string][]kadm.Offset, len(groups))
	for chunk := range slices.Chunk(groups, commitsChunk) {
		if err := UntilSettled(ctx, func() error { return c.someCommits(ctx, chunk, out) }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *Client) someCommits(ctx context.Context, groups []string, out map[string][]kadm.Offset) error {
	got := c.Admin.FetchManyOffsets(ctx, groups...)
	for _, group := range groups {
		one, ok := got[group]
		if !ok {
			return fmt.Errorf("read offsets of group %s in kafka %s: %w", group, c.Name(), errNoAnswer)
		}
		if errors.Is(one.Err, kerr.GroupIDNotFound) { // newer brokers say so where older ones list nothing
			out[group] = nil
			continue
		}
		if one.Err != nil {
			return fmt.Errorf("read offsets of group %s in kafka %s: %w", group, c.Name(), one.Err)
		}
		var commits []kadm.Offset
		var bad error
		one.Fetched.Each(func(o kadm.OffsetResponse) {
			if o.Err != nil {
				bad = errors.Join(bad, fmt.Errorf("%s/%d: %w", o.Topic, o.Partition, o.Err))
			} else if o.At >= 0 {
				commits = append(commits, o.Offset)
			}
		})
		if bad != nil {
			return fmt.Errorf("read offsets of group %s in kafka %s: %w", group, c.Name(), bad)
		}
		out[group] = commits
	}
	return nil
}

// UntilSettled tries again while Kafka itself says that the error passes.
func UntilSettled(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		var kafkaErr *kerr.Error
		if err == nil || try == settleTries || !errors.As(err, &kafkaErr) || !kafkaErr.Retriable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(settleWait):
		}
	}
}
