package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// ErrMayNotMark says that our user may not write transaction markers: holes
// wait, and a move stops at the fence, behind the point of no return.
var ErrMayNotMark = errors.New("holdfast's user may not write transaction markers")

const mayMarkTimeout = 10 * time.Second

// MayMark says whether markers would be taken from us. It asks for one at a
// partition that no topic has: a broker looks at the right first, so nothing is
// written either way.
func MayMark(ctx context.Context, cl *kafka.Client) error {
	brokers, err := cl.Admin.ListBrokers(ctx)
	if err == nil && len(brokers) == 0 {
		err = errNoAnswer
	}
	if err != nil {
		return fmt.Errorf("ask kafka %s for its brokers: %w", cl.Name(), err)
	}
	nowhere := topology.Partition{Topic: ProbeTopic, Partition: math.MaxInt32}
	m := replicate.Mark{ProducerID: math.MaxInt64}
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	addMarker(req, m, []topology.Partition{nowhere})
	codes, err := writeMarkers(ctx, cl, brokers[0].NodeID, mayMarkTimeout, req)
	if err != nil {
		return fmt.Errorf("ask kafka %s whether it takes markers: %w", cl.Name(), err)
	}
	if errors.Is(codes[markerKey{m.ProducerID, nowhere}], kerr.ClusterAuthorizationFailed) {
		return fmt.Errorf("kafka %s: %w", cl.Name(), ErrMayNotMark)
	}
	return nil
}
