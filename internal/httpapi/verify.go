package httpapi

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// Verification compares both ends of mirrored directions.
type Verification interface {
	// StartVerify has the daemon of a link's target compare both ends now.
	StartVerify(ctx context.Context, want StartVerify, by string) (consensus.RunID, error)
	// Verified returns what comparisons have last said about the partitions of
	// links to a region, from a position in their order on. An empty region
	// means the only one that is a target.
	Verified(ctx context.Context, region topology.Region, from int) (Verified, error)
}

// StartVerify says what to compare, and how thoroughly.
type StartVerify struct {
	Region topology.Region `json:"region,omitempty"` // the target; empty: the only one
	Topics []string        `json:"topics,omitempty" maxItems:"1000"`
	// Sample is the share of offsets to read, 0 or 1 for all of them.
	Sample float64 `json:"sample,omitempty" minimum:"0" maximum:"1"`
	// Rate bounds the bytes per second that are read from the source; 0: as
	// it is configured.
	Rate int64 `json:"rate,omitempty" minimum:"0"`
	// Fast passes over batches that both ends store with the same bytes,
	// without decoding their records.
	Fast bool `json:"fast,omitempty"`
	// New compares only what came since the last whole comparison.
	New bool `json:"new,omitempty"`
}

// SignedStatement is what a node has said and signed. The signature is over
// the bytes of the statement as compact JSON, for the domain
// "mirror-statement".
type SignedStatement struct {
	Statement   json.RawMessage `json:"statement"` // a replicate.Statement
	Signature   []byte          `json:"signature"`
	Certificate string          `json:"certificate"` // key in Verified.Certificates
}

// VerifiedPartition is what comparisons have said about one partition.
type VerifiedPartition struct {
	topology.Partition
	Last SignedStatement `json:"last"`
	// Whole is the newest statement that found all of its range identical;
	// absent when Last is that one, or there is none.
	Whole *SignedStatement `json:"whole,omitempty"`
	// Differs is the newest statement that found a difference which no later
	// one has cleared; absent when Last is that one, or there is none.
	Differs *SignedStatement `json:"differs,omitempty"`
}

// Verified is a page of what comparisons have said.
type Verified struct {
	At         time.Time           `json:"at"`
	Region     topology.Region     `json:"region"`
	Node       topology.Node       `json:"node"`
	Partitions []VerifiedPartition `json:"partitions"`
	// Certificates are the PEM chains of who signed, by their SHA-256.
	Certificates map[string]string `json:"certificates"`
	More         bool              `json:"more,omitempty"` // there are more behind these
}

// VerifyEvidence is what a finished comparison leaves in its run.
type VerifyEvidence struct {
	Link      consensus.LinkID `json:"link"`
	Epoch     uint64           `json:"epoch"`
	Region    topology.Region  `json:"region"` // the target
	Sample    float64          `json:"sample"`
	Fast      bool             `json:"fast,omitempty"`
	New       bool             `json:"new,omitempty"`
	Identical int              `json:"identical"` // partitions
	Differing int              `json:"differing"`
	Nothing   int              `json:"nothing"`
	Failed    int              `json:"failed"`
	Records   int64            `json:"records"` // that both ends have, of those that were read
	Offsets   int64            `json:"offsets"`
	Source    int64            `json:"source_bytes"` // read from it
	Target    int64            `json:"target_bytes"`
	// Differ and Failures name the first ones.
	Differ   []string        `json:"differ,omitempty"`
	Failures []VerifyFailure `json:"failures,omitempty"`
	CPUMs    int64           `json:"cpu_ms"` // of the daemon meanwhile, all that it did
	TookMs   int64           `json:"took_ms"`
	Began    time.Time       `json:"began"`
	Ended    time.Time       `json:"ended"`
}

// VerifyFailure is a partition of which nothing could be said.
type VerifyFailure struct {
	topology.Partition
	Why string `json:"why"`
}

// KindVerify is the kind of run that compares, and the verb that starts it.
const KindVerify = "mirror verify"

// Decode reads the statement.
func (s SignedStatement) Decode() (replicate.Statement, error) {
	var out replicate.Statement
	err := json.Unmarshal(s.Statement, &out)
	return out, err
}

func (s *server) verifyOperations() {
	handle(s, operation{http.MethodPost, "/v1/mirror/verify", "mirror-verify", "Compare both ends of a mirrored direction now", "start the comparison", withinLeader},
		func(ctx context.Context, in *takes[StartVerify]) (RunStarted, error) {
			id, err := s.b.StartVerify(ctx, in.Body, s.by(ctx))
			return RunStarted{id}, err
		})
	handle(s, operation{http.MethodGet, "/v1/mirror/verified", "mirror-verified", "What comparisons have last said about each partition, signed", "read statements", withinLeader},
		func(ctx context.Context, in *struct {
			Region topology.Region `query:"region" doc:"the target; empty: the only one"`
			From   int             `query:"from" minimum:"0" doc:"how many partitions to pass over"`
		},
		) (Verified, error) {
			return s.b.Verified(ctx, in.Region, in.From)
		})
}

// StartVerify has both ends of a link compared.
func (c *Client) StartVerify(ctx context.Context, want StartVerify) (consensus.RunID, error) {
	s, err := post[RunStarted](ctx, c, "start the comparison", "/v1/mirror/verify", want)
	return s.Run, err
}

// verifiedPages bounds how often Verified asks on.
const verifiedPages = 1000

// Verified returns what comparisons have last said about all partitions.
func (c *Client) Verified(ctx context.Context, region topology.Region) (Verified, error) {
	var out Verified
	for range verifiedPages {
		q := url.Values{"region": {string(region)}, "from": {strconv.Itoa(len(out.Partitions))}}
		page, err := get[Verified](ctx, c, "read statements", "/v1/mirror/verified?"+q.Encode())
		if err != nil {
			return out, err
		}
		if out.Certificates == nil {
			out = page
		} else {
			out.Partitions, out.More = append(out.Partitions, page.Partitions...), page.More
			maps.Copy(out.Certificates, page.Certificates)
		}
		if !page.More || len(page.Partitions) == 0 {
			break
		}
	}
	return out, nil
}
