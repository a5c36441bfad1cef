package restore

import (
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// ReportFormat is the version of reports that this binary writes. A reader
// refuses a higher one.
const ReportFormat = 1

// Report is what one drill found. It is stored beside the set it is about,
// signed like a seal.
type Report struct {
	Format  int             `json:"format"`
	Run     string          `json:"run"`     // id of the drill
	Attempt int             `json:"attempt"` // of the drill: a daemon that was killed tries again
	Cluster string          `json:"cluster"`
	Set     backup.SetID    `json:"set"`
	Seal    backup.Digest   `json:"seal"`   // digest of the seal that was drilled
	Region  topology.Region `json:"region"` // whose stores the set holds
	Sealed  time.Time       `json:"sealed"` // when the set was
	Vault   string          `json:"vault"`
	By      topology.Node   `json:"by"` // who drilled
	Started time.Time       `json:"started"`
	Ended   time.Time       `json:"ended"`
	// OK: the set was restored, everything compared equal, and every control
	// was caught.
	OK  bool   `json:"ok"`
	Why string `json:"why,omitempty"` // the first reason, when not OK
	// Fault says whose fault a failure is: "set" (the set is bad or cannot be
	// proven), "drill" (the target, the network, the clock: nothing is known
	// about the set). Empty when OK.
	Fault string `json:"fault,omitempty"`
	// RTOMs is how long a restore took from the first look at the repository
	// until all engines answered and compared equal, without the controls.
	RTOMs int64 `json:"rto_ms"`
	// RPOMs is the age of the set's data when the drill began: what would
	// have been lost if the region had been lost then.
	RPOMs    int64     `json:"rpo_ms"`
	Rows     uint64    `json:"rows"`  // compared
	Bytes    int64     `json:"bytes"` // read and hashed
	Stages   []Stage   `json:"stages"`
	Engines  []Proven  `json:"engines"`
	Controls []Control `json:"controls"`
	// Findings are damaged objects, or groups whose offsets lead to the wrong place.
	Findings []Finding `json:"findings,omitempty"`
	// Left is what the drill could not remove. It is a matter for the operator
	// and says nothing about the set, so it does not change OK.
	Left  []Leftover `json:"left,omitempty"`
	Notes []string   `json:"notes,omitempty"`
}

// Leftover is a place that is still there though it should not be.
type Leftover struct {
	Engine backup.Engine `json:"engine"`
	Where  string        `json:"where"`
	Why    string        `json:"why"`
}

// Whose fault a failed drill is.
const (
	FaultSet   = "set"
	FaultDrill = "drill"
)

// Stage is one timed part of a drill.
type Stage struct {
	Name  string `json:"name"` // "verify", "restore clickhouse", "compare postgres", …
	Ms    int64  `json:"ms"`
	OK    bool   `json:"ok"`
	What  string `json:"what"` // one line: what was done, with figures, or why it failed
	Bytes int64  `json:"bytes,omitempty"`
}

// Proven is one engine's outcome.
type Proven struct {
	Engine     backup.Engine `json:"engine"`
	Where      string        `json:"where"`
	OK         bool          `json:"ok"`
	Comparison Comparison    `json:"comparison"`
}

// Control is something that the drill broke on purpose. Caught is what counts.
type Control struct {
	Name   string `json:"name"` // "one byte of an object", "one row of clickhouse"
	What   string `json:"what"` // which
	Caught bool   `json:"caught"`
	How    string `json:"how"` // what the check said, or that it said nothing
}
