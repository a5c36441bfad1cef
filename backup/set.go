package backup

import (
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Format is the version of manifests, pack indexes and seals that this binary
// writes. A reader refuses a higher one.
const Format = 1

// SetID names a recovery set: a ULID, so that names sort by time. It is the
// id of the run that took it.
type SetID string

// Engine names a kind of store, as in keys, metrics and the command line.
type Engine string

// The engines, in the order in which a set takes them: offsets first, so that
// replay repeats and never loses; Postgres last, so that rows which events
// refer to exist.
const (
	Kafka      Engine = "kafka"
	ClickHouse Engine = "clickhouse"
	Postgres   Engine = "postgres"
)

// Engines lists them in the order in which a set takes them.
func Engines() []Engine { return []Engine{Kafka, ClickHouse, Postgres} }

// Digest is a SHA-256 in hexadecimal, lower case.
type Digest string

// Seal makes a set exist. It is written last, once, and signed.
type Seal struct {
	Format  int             `json:"format"`
	Set     SetID           `json:"set"`
	Attempt string          `json:"attempt"` // ULID of the attempt whose manifests these are
	Cluster string          `json:"cluster"`
	Region  topology.Region `json:"region"` // whose stores these are
	Node    topology.Node   `json:"node"`   // who took and signed it
	Version string          `json:"version"`
	Started time.Time       `json:"started"`
	Sealed  time.Time       `json:"sealed"`
	// SkewMs is how far apart the parts were taken: from the first one's
	// start to the last one's end.
	SkewMs int64  `json:"skew_ms"`
	Parts  []Part `json:"parts"` // in the order in which they were taken
}

// Part is one engine's share of a set.
type Part struct {
	Engine   Engine    `json:"engine"`
	Manifest string    `json:"manifest"` // key of the manifest
	Bytes    int64     `json:"bytes"`    // of the manifest
	SHA256   Digest    `json:"sha256"`   // of the manifest
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Totals   Totals    `json:"totals"`
}

// Totals are the figures of a part, or of a whole set.
type Totals struct {
	Rows     uint64 `json:"rows"`     // ClickHouse and Postgres rows; Kafka committed offsets
	Bytes    int64  `json:"bytes"`    // that a restore reads, as stored
	Uploaded int64  `json:"uploaded"` // of these, written by this run
	Objects  int    `json:"objects"`  // that a restore reads
	New      int    `json:"new"`      // of these, written by this run
}

// Add sums figures.
func (t Totals) Add(o Totals) Totals {
	return Totals{t.Rows + o.Rows, t.Bytes + o.Bytes, t.Uploaded + o.Uploaded, t.Objects + o.Objects, t.New + o.New}
}

// Totals sums the parts.
func (s Seal) Totals() (t Totals) {
	for _, p := range s.Parts {
		t = t.Add(p.Totals)
	}
	return t
}

// Part returns the part of an engine.
func (s Seal) Part(e Engine) (Part, bool) {
	for _, p := range s.Parts {
		if p.Engine == e {
			return p, true
		}
	}
	return Part{}, false
}
