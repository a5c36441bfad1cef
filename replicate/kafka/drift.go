package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// DriftReport says in what a source and its target differ.
type DriftReport struct {
	At    time.Time         `json:"at"` // zero: not compared yet
	Drift []replicate.Drift `json:"drift"`
	// Open names the regions whose Kafka has no authorizer. There is nothing to
	// compare there, and a fence rests on producer epochs alone.
	Open []topology.Region `json:"open,omitempty"`
}

// Count returns how many differences there are of a kind.
func (r DriftReport) Count(k replicate.DriftKind) int {
	n := 0
	for _, d := range r.Drift {
		if d.Kind == k {
			n++
		}
	}
	return n
}

// Drift returns the last comparison of a running mirror, after what it put
// right by itself. Rights are in it when Config.Access is set, at most a minute
// old. It is empty, without a time, before the first.
func (m *Mirror) Drift() DriftReport { return *m.drift.Load() }

// Gone is a topic that was mirrored and that the source does not have any more.
type Gone struct {
	Topic string
	IDs   TopicIDs
	Since time.Time
}

// Gone lists the topics that were deleted at the source while this mirror ran,
// or before, if Config.Known names them. Their copies are kept.
func (m *Mirror) Gone() []Gone { return *m.gone.Load() }

// CompareOptions say what Compare compares.
type CompareOptions struct {
	Link    replicate.Link
	Topics  replicate.Selection
	Access  *replicate.AccessRules // nil: rights are not compared
	Known   map[string]TopicIDs    // identities of what was mirrored, as far as known
	Deleted map[string]bool        // deleted at the source, the copy kept on purpose
}

// Compare reads both clusters now and says in what they differ. The answer is
// whole or an error.
func Compare(ctx context.Context, source, target *kafka.Client, o CompareOptions) (DriftReport, error) {
	out := DriftReport{At: time.Now(), Drift: []replicate.Drift{}}
	var clusters [2]replicate.Cluster
	var errs [2]error
	one := func(i int, cl *kafka.Client) {
		clusters[i], errs[i] = describe(ctx, cl, o.Topics, o.Access != nil)
	}
	together(func() { one(0, source) }, func() { one(1, target) })
	if err := errors.Join(errs[:]...); err != nil {
		return out, err
	}
	for i, region := range []topology.Region{o.Link.Source, o.Link.Target} {
		if o.Access != nil && !clusters[i].Authorizer {
			out.Open = append(out.Open, region)
		}
	}
	rules := replicate.DriftRules{Link: o.Link, Topics: o.Topics, Access: o.Access, Mirrored: map[string][2]replicate.TopicID{}, Deleted: o.Deleted}
	for name, ids := range o.Known {
		rules.Mirrored[name] = [2]replicate.TopicID{ids.Source, ids.Target}
	}
	out.Drift = append(out.Drift, replicate.FindDrift(clusters[0], clusters[1], rules)...)
	return out, nil
}

// describe reads all that is compared of one cluster.
func describe(ctx context.Context, cl *kafka.Client, sel replicate.Selection, access bool) (replicate.Cluster, error) {
	v, err := readView(ctx, cl)
	if err != nil {
		return replicate.Cluster{}, err
	}
	c := replicate.Cluster{Topics: make(map[string]replicate.Topic, len(v.topics)), Brokers: v.brokers}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(v.topics)), func(name string) bool { return !sel.Selects(name) })
	settings, err := readSettings(ctx, cl, names)
	if err != nil {
		return replicate.Cluster{}, err
	}
	for name := range v.topics {
		c.Topics[name] = topicOf(v, name, settings)
	}
	if !access {
		return c, nil
	}
	c.ACLs, err = Access(ctx, cl)
	c.Authorizer = err == nil
	if errors.Is(err, ErrNoAuthorizer) {
		err = nil
	}
	return c, err
}

// known is what a cluster says about a topic that is asked for by its name.
type known int

const (
	present   known = iota
	absent          // it says that there is none
	concealed       // it says neither
)

// presence asks for topics by name, and creates none.
func presence(ctx context.Context, cl *kafka.Client, topics []string) (map[string]known, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return nil, fmt.Errorf("ask kafka %s for topics by name: %w", cl.Name(), err)
	}
	out := map[string]known{}
	for _, name := range topics {
		out[name] = concealed
	}
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		switch t.ErrorCode {
		case 0:
			out[*t.Topic] = present
		case kerr.UnknownTopicOrPartition.Code:
			out[*t.Topic] = absent
		}
	}
	return out, nil
}
