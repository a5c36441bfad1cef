package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// OffsetsOnly is where the Kafka part of a set goes when no target is given
// for it: nowhere. Its offsets are shown, and written to brokers by a person
// or by a failover.
const OffsetsOnly = "offsets only: shown by `holdfast backup show`, not written to any broker"

// Plan says what a restore would do. It changes nothing by itself.
type Plan struct {
	Set     backup.SetID    `json:"set"`
	Seal    backup.Digest   `json:"seal"`
	Cluster string          `json:"cluster"`
	Region  topology.Region `json:"region"` // whose stores the set holds
	Made    time.Time       `json:"made"`
	Sealed  time.Time       `json:"sealed"`
	// AgeMs is how old the data is: what was written in this time does not
	// come back.
	AgeMs   int64      `json:"age_ms"`
	Parts   []PlanPart `json:"parts"` // in the order of the set
	Rows    uint64     `json:"rows"`
	Objects int        `json:"objects"`
	Bytes   int64      `json:"bytes"` // that are read
	// EstimateMs is how long it takes at the measured rate; 0: none is known.
	EstimateMs int64 `json:"estimate_ms,omitempty"`
	// Blocked are obstacles that belong to no part.
	Blocked []Obstacle `json:"blocked,omitempty"`
	// Notes say what will not come back.
	Notes []string `json:"notes,omitempty"`
}

// PlanPart is what a plan says about one engine.
type PlanPart struct {
	Engine backup.Engine `json:"engine"`
	Where  string        `json:"where"`
	// Restored is false for Kafka without a target: see OffsetsOnly.
	Restored  bool       `json:"restored"`
	Tables    int        `json:"tables"` // topics for Kafka
	Files     int        `json:"files,omitempty"`
	Groups    int        `json:"groups,omitempty"`
	Rows      uint64     `json:"rows"` // committed offsets for Kafka
	Objects   int        `json:"objects"`
	Bytes     int64      `json:"bytes"`
	Obstacles []Obstacle `json:"obstacles,omitempty"`
	Notes     []string   `json:"notes,omitempty"`
}

// PlanOptions narrow a plan, and say what is known.
type PlanOptions struct {
	Now time.Time
	// Engines to restore; empty: all of the set.
	Engines []backup.Engine
	// Rate is the bytes per second that the last drill of this region
	// reached, from its start to its end; 0: not known.
	Rate int64
}

// MakePlan looks at each target and says what a restore would do. An error
// means that a plan cannot be made; what is in the way of carrying it out are
// its Obstacles.
func MakePlan(ctx context.Context, l Loaded, targets []Target, opt PlanOptions) (Plan, error) {
	p := Plan{
		Set: l.Seal.Set, Seal: l.Digest, Cluster: l.Seal.Cluster, Region: l.Seal.Region,
		Made: opt.Now, Sealed: l.Seal.Sealed, AgeMs: ageOf(l.Seal, opt.Now).Milliseconds(),
	}
	byEngine, err := byEngine(targets)
	if err != nil {
		return Plan{}, err
	}
	for _, e := range opt.Engines {
		if _, ok := l.Manifests[e]; !ok {
			p.Blocked = append(p.Blocked, Obstacle{fmt.Sprintf("set %s has no part of %s", p.Set, e), "choose another set, or leave it out"})
		}
	}
	chosen := chosenOf(l, opt.Engines)
	for _, e := range backup.Engines() {
		if _, given := byEngine[e]; given && !slices.Contains(chosen, e) && !slices.Contains(opt.Engines, e) {
			p.Blocked = append(p.Blocked, Obstacle{fmt.Sprintf("a target for %s is given, and none of it is to be restored from set %s", e, p.Set), "leave the target out, or choose another set"})
		}
	}
	for _, e := range chosen {
		part, err := planPart(ctx, l.Manifests[e], byEngine[e])
		if err != nil {
			return Plan{}, err
		}
		p.Parts = append(p.Parts, part)
		p.Rows, p.Objects, p.Bytes = p.Rows+part.Rows, p.Objects+part.Objects, p.Bytes+part.Bytes
	}
	for _, e := range l.Engines() {
		if !slices.Contains(chosen, e) {
			p.Notes = append(p.Notes, fmt.Sprintf("%s is in the set and was not chosen", e))
		}
	}
	if opt.Rate > 0 {
		p.EstimateMs = int64(float64(p.Bytes) / float64(opt.Rate) * 1000)
	}
	return p, nil
}

// Obstacles are all reasons not to begin, in the order of the parts.
func (p Plan) Obstacles() []Obstacle {
	out := slices.Clone(p.Blocked)
	for _, part := range p.Parts {
		out = append(out, part.Obstacles...)
	}
	return out
}

// Engines lists what the plan is about.
func (p Plan) Engines() []backup.Engine {
	var out []backup.Engine
	for _, part := range p.Parts {
		out = append(out, part.Engine)
	}
	return out
}

func planPart(ctx context.Context, m *backup.Manifest, t Target) (PlanPart, error) {
	need := needsOf(m)
	part := PlanPart{Engine: m.Engine, Objects: need.objects, Bytes: need.bytes, Rows: m.Totals.Rows, Notes: slices.Clone(m.Notes)}
	switch {
	case m.Kafka != nil:
		part.Tables, part.Groups = len(m.Kafka.Topics), len(m.Kafka.Groups)
		part.Notes = append(part.Notes, "records are not part of a set: what retention has taken from a topic does not come back")
	case m.ClickHouse != nil:
		part.Tables = len(m.ClickHouse.Tables)
	case m.Postgres != nil:
		part.Tables, part.Files = len(m.Postgres.Census), len(m.Postgres.Files)
	}
	if t == nil {
		if m.Engine == backup.Kafka {
			part.Where = OffsetsOnly
			return part, nil
		}
		part.Where = "nowhere"
		part.Obstacles = []Obstacle{{fmt.Sprintf("no target is given for %s", m.Engine), "name one, or leave this engine out"}}
		return part, nil
	}
	part.Where, part.Restored = t.Where(), true
	obstacles, err := t.Check(ctx, m)
	if err != nil {
		return PlanPart{}, fmt.Errorf("look at the target of %s, %s: %w", m.Engine, t.Where(), err)
	}
	part.Obstacles = obstacles
	return part, nil
}

var errTwoTargets = errors.New("two targets are given")

func byEngine(targets []Target) (map[backup.Engine]Target, error) {
	out := make(map[backup.Engine]Target, len(targets))
	for _, t := range targets {
		if was, ok := out[t.Engine()]; ok {
			return nil, fmt.Errorf("%w for %s: %s and %s", errTwoTargets, t.Engine(), was.Where(), t.Where())
		}
		out[t.Engine()] = t
	}
	return out, nil
}

// chosenOf lists the engines of the set that are wanted, in the set's order.
func chosenOf(l Loaded, want []backup.Engine) []backup.Engine {
	if len(want) == 0 {
		return l.Engines()
	}
	return slices.DeleteFunc(l.Engines(), func(e backup.Engine) bool { return !slices.Contains(want, e) })
}

// ageOf is how old the oldest part of the set is: the first one to be taken
// knows nothing of what came after.
func ageOf(s backup.Seal, now time.Time) time.Duration {
	oldest := s.Sealed
	for _, p := range s.Parts {
		if !p.Started.IsZero() && p.Started.Before(oldest) {
			oldest = p.Started
		}
	}
	return max(0, now.Sub(oldest))
}

// needs is what has to be read for one part.
type needs struct {
	objects int   // blobs, pack indexes and objects of packs
	bytes   int64 // of blobs and objects of packs
	least   int   // objects without the indexes: what a check looks at, at least
}

func needsOf(m *backup.Manifest) (n needs) {
	blobs, packs := map[string]bool{}, map[string]bool{}
	for _, b := range m.Blobs {
		if !blobs[b.Key] {
			blobs[b.Key] = true
			n.least, n.objects, n.bytes = n.least+1, n.objects+1, n.bytes+b.Stored
		}
	}
	for _, p := range m.Packs {
		if !packs[p.ID] {
			packs[p.ID] = true
			n.least, n.objects, n.bytes = n.least+p.Objects, n.objects+p.Objects+1, n.bytes+p.Bytes
		}
	}
	return n
}
