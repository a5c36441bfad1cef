package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// MirrorTopics reads now which topics are mirrored and how both ends differ.
type MirrorTopics interface {
	// MirrorTopics lists every topic of the sources of the links to a region,
	// with the rule by which it is mirrored or not. An empty region means all.
	MirrorTopics(ctx context.Context, region topology.Region) (TopicsReport, error)
	// MirrorDrift compares both ends of the links to a region now. An empty
	// region means all.
	MirrorDrift(ctx context.Context, region topology.Region) (DriftReport, error)
}

// TopicsReport is every topic of each link's source.
type TopicsReport struct {
	At    time.Time    `json:"at"`
	Links []LinkTopics `json:"links"`
}

// LinkTopics are the topics of one link, in order of name.
type LinkTopics struct {
	ID     consensus.LinkID `json:"id"`
	Preset string           `json:"preset,omitempty"`
	Topics []TopicRow       `json:"topics"`
}

// TopicRow is one topic.
type TopicRow struct {
	replicate.Choice
	Partitions int32 `json:"partitions"`        // at the source
	Target     int32 `json:"target_partitions"` // 0: the target has no such topic
}

// DeletedTopic was mirrored and deleted at the source; the target has its copy.
type DeletedTopic struct {
	Topic string    `json:"topic"`
	At    time.Time `json:"at"`             // when the source was first seen without it
	Until time.Time `json:"until,omitzero"` // when the copy is deleted; zero: never
}

// DriftReport is in what the ends of each link differ.
type DriftReport struct {
	At    time.Time   `json:"at"`
	Links []LinkDrift `json:"links"`
}

// LinkDrift are the differences of one link.
type LinkDrift struct {
	ID    consensus.LinkID  `json:"id"`
	Drift []replicate.Drift `json:"drift"`
	// Open names the regions whose Kafka has no authorizer: their rights are
	// not compared, as they have none.
	Open []topology.Region `json:"open,omitempty"`
	// Unread says why rights could not be compared otherwise.
	Unread string `json:"unread,omitempty"`
}

func (s *server) topicOperations() {
	handle(s, operation{http.MethodGet, "/v1/mirror/drift", "mirror-drift", "In what source and target differ: topics, partitions, settings, rights", "compare both ends", withinWorld},
		func(ctx context.Context, in *byRegion) (DriftReport, error) {
			return s.b.MirrorDrift(ctx, in.Region)
		})
	handle(s, operation{http.MethodGet, "/v1/mirror/topics", "mirror-topics", "Each topic, whether it is mirrored, and by which rule", "list topics", withinWorld},
		func(ctx context.Context, in *byRegion) (TopicsReport, error) {
			return s.b.MirrorTopics(ctx, in.Region)
		})
}

// MirrorTopics lists each topic with its rule. An empty region means all.
func (c *Client) MirrorTopics(ctx context.Context, region topology.Region) (TopicsReport, error) {
	return get[TopicsReport](ctx, c, "list topics", "/v1/mirror/topics"+regionQuery(region))
}

// MirrorDrift compares both ends of each link now. An empty region means all.
func (c *Client) MirrorDrift(ctx context.Context, region topology.Region) (DriftReport, error) {
	return get[DriftReport](ctx, c, "compare both ends", "/v1/mirror/drift"+regionQuery(region))
}
