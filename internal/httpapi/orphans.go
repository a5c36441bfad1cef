package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// MirrorLosses is about records that are not in both regions.
type MirrorLosses interface {
	// MirrorOrphans lists what was salvaged, and where the logs differ for good.
	MirrorOrphans(ctx context.Context) (OrphansReport, error)
	// NoteReplay records that orphans are produced again, before they are.
	NoteReplay(ctx context.Context, r ReplayOrphans, by string) error
	// AcceptLoss gives up a range that a mirror is frozen at: exactly that one.
	AcceptLoss(ctx context.Context, a AcceptLoss, by string) error
}

// OrphansReport is what regions accepted and never was mirrored.
type OrphansReport struct {
	At       time.Time           `json:"at"`
	Salvages []consensus.Salvage `json:"salvages"` // newest first
	Links    []LinkLosses        `json:"links"`
}

// LinkLosses is what is on record about one link.
type LinkLosses struct {
	ID       consensus.LinkID                          `json:"id"`
	Orphans  consensus.Spans                           `json:"orphans,omitempty"`
	Foreign  consensus.Spans                           `json:"foreign,omitempty"`
	Accepted map[string]map[int32][]consensus.Accepted `json:"accepted,omitempty"`
}

// ReplayOrphans names records of a salvage that are produced again.
type ReplayOrphans struct {
	Salvage   consensus.SalvageID `json:"salvage" maxLength:"100"`
	Topic     string              `json:"topic" maxLength:"300"`
	Partition int32               `json:"partition"`
	To        topology.Region     `json:"to" maxLength:"100"`
	Records   int64               `json:"records"`
	Again     bool                `json:"again,omitempty"`
}

// AcceptLoss names a range of a partition that is given up.
type AcceptLoss struct {
	Topic     string `json:"topic" maxLength:"300"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	Reason    string `json:"reason" maxLength:"1000"`
}

func (s *server) orphanOperations() {
	handle(s, operation{http.MethodGet, "/v1/mirror/orphans", "mirror-orphans", "What was salvaged, and where the logs differ for good", "list orphans", withinMemory},
		func(ctx context.Context, _ *nothing) (OrphansReport, error) { return s.b.MirrorOrphans(ctx) })
	handle(s, operation{http.MethodPost, "/v1/mirror/orphans/replay", "orphans-replay", "Record that orphans are produced again", "record a replay", withinLeader},
		func(ctx context.Context, in *takes[ReplayOrphans]) (Done, error) {
			return Done{true}, s.b.NoteReplay(ctx, in.Body, s.by(ctx))
		})
	handle(s, operation{http.MethodPost, "/v1/mirror/accept-loss", "mirror-accept-loss", "Give up a range that a mirror is frozen at", "accept the loss", withinLeader},
		func(ctx context.Context, in *takes[AcceptLoss]) (Done, error) {
			return Done{true}, s.b.AcceptLoss(ctx, in.Body, s.by(ctx))
		})
}

// MirrorOrphans lists what was salvaged.
func (c *Client) MirrorOrphans(ctx context.Context) (OrphansReport, error) {
	return get[OrphansReport](ctx, c, "list orphans", "/v1/mirror/orphans")
}

// NoteReplay records that orphans are produced again.
func (c *Client) NoteReplay(ctx context.Context, r ReplayOrphans) error {
	_, err := post[Done](ctx, c, "record a replay", "/v1/mirror/orphans/replay", r)
	return err
}

// AcceptLoss gives up a range that a mirror is frozen at.
func (c *Client) AcceptLoss(ctx context.Context, a AcceptLoss) error {
	_, err := post[Done](ctx, c, "accept the loss", "/v1/mirror/accept-loss", a)
	return err
}
