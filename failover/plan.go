package failover

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Intent is what someone wants.
type Intent struct {
	To    topology.Region `json:"to"`
	Roles []topology.Role `json:"roles,omitempty"` // empty: all that the other region holds
	// Fenced is the region that a person attests to be cut off: an unplanned
	// move. Reason is required with it.
	Fenced topology.Region `json:"fenced,omitempty"`
	Reason string          `json:"reason,omitempty"`
	// AcceptLoss waives the loss limits of the roles.
	AcceptLoss bool `json:"accept_loss,omitempty"`
	// AcceptOrphans names topics of which groups may read orphans in the new region.
	AcceptOrphans []string `json:"accept_orphans,omitempty"`
	// Unplanned asks for a move without the old region, whose lease has run out.
	Unplanned bool `json:"unplanned,omitempty"`
	// Auto says that the leader decided, not a person.
	Auto bool `json:"auto,omitempty"`
}

// Rules are the parts of the fleet file that plans are made from.
type Rules struct {
	Cluster string
	Expires time.Duration // how long a candidate may be run
	Roles   map[topology.Role]RoleRules
	// HeardWithin is how old a daemon's report may be for it to count as alive.
	HeardWithin time.Duration
	// ProbeFailing is how long probes must have failed before they count.
	ProbeFailing time.Duration
	Lease        consensus.LeaseTiming
	// ReachTimeout bounds how long a planned move waits for the mirror.
	ReachTimeout time.Duration
	// LagMax is how far behind the mirror may be for a planned move to begin.
	LagMax time.Duration
}

// RoleRules are the rules of one role.
type RoleRules struct {
	Quiesce      time.Duration // lb fall + drain: how long clients need to notice a 503
	FenceWithin  time.Duration // bounds workloads that do not ask us
	AcceptLoss   time.Duration // of Kafka records, for an unplanned move; 0: none
	DrainGroups  []string      // consumer groups to wait for before the move
	DrainTimeout time.Duration
	Stop         Command
	Start        Command
	Canary       Command
	// Stores are what the role needs in its region: "kafka", "clickhouse".
	Stores []string
}

// Command is an operator's hook. No Argv means none.
type Command struct {
	Argv    []string      `json:"argv"`
	Timeout time.Duration `json:"timeout"`
}

// Gate is one verdict on a candidate.
type Gate struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`        // one sentence with figures
	Fix    string `json:"fix,omitempty"` // what to do when not OK
	// Note marks a gate that only informs.
	Note bool `json:"note,omitempty"`
}

// Blocker is a gate that refuses.
type Blocker struct {
	Gate string `json:"gate"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

// Candidate is a plan that has not begun.
type Candidate struct {
	Plan    consensus.Plan      `json:"plan"`
	Gates   []Gate              `json:"gates"`
	Pause   time.Duration       `json:"pause"` // estimate: from the first 503 to open
	Loss    consensus.LossBound `json:"loss"`
	Expires time.Time           `json:"expires"`
	// Supersedes names a live plan that is given up when this one runs.
	Supersedes consensus.PlanID `json:"supersedes,omitempty"`
}

// Blockers returns the gates that refuse c.
func (c Candidate) Blockers() []Blocker {
	var out []Blocker
	for _, g := range c.Gates {
		if !g.OK && !g.Note {
			out = append(out, Blocker{g.Name, g.Detail, g.Fix})
		}
	}
	return out
}

// MakePlan returns what moving roles as wanted would do. The blockers are
// those of the candidate, or one that says why there is no candidate at all.
// now is only written into the candidate's expiry.
func MakePlan(now time.Time, s consensus.State, h Health, rules Rules, want Intent) (Candidate, []Blocker) {
	refuse := func(gate, why, fix string) (Candidate, []Blocker) {
		return Candidate{}, []Blocker{{gate, why, fix}}
	}
	if len(s.Roles) == 0 {
		return refuse("roles", "this fleet has no roles: it backs up and mirrors, and moves nothing", "add roles to the fleet file and run `holdfast config apply`")
	}
	if want.Fenced != "" && want.Fenced == want.To {
		return refuse("target", fmt.Sprintf("%s cannot be both fenced and the target", want.To), "name the other region with --to")
	}
	if _, ok := s.NodeOf(want.To); !ok {
		return refuse("target", fmt.Sprintf("no region %q in this fleet", want.To), "regions: "+join(regionsOf(s)))
	}
	roles, from, err := pickRoles(s, want)
	if err != nil {
		return refuse("roles", err.Error(), "`holdfast status` shows who holds what")
	}
	if want.Fenced != "" && want.Fenced != from {
		return refuse("attestation", fmt.Sprintf("%s is attested to be fenced, but it is %s that holds %s", want.Fenced, from, join(roles)), "name the region that the roles leave: --fenced "+string(from))
	}
	unplanned := want.Unplanned || want.Fenced != ""
	p := consensus.Plan{
		Kind: consensus.Planned, From: from, To: want.To, Roles: roles,
		Epochs: map[topology.Role]consensus.Epoch{}, Fenced: want.Fenced, Reason: want.Reason, Auto: want.Auto,
		LinkTurn: s.LinkTurn(),
	}
	for _, r := range roles {
		p.Epochs[r] = s.Roles[r].Epoch
	}
	c := Candidate{Expires: now.Add(rules.Expires)}
	if unplanned {
		p.Kind = consensus.Unplanned
		p.Bound = lossBound(s, h, rules, p)
		p.Steps = unplannedSteps(s, rules, p)
	} else {
		p.Steps = plannedSteps(s, rules, p)
	}
	c.Pause = estimatePause(h, rules, p)
	c.Loss = p.Bound
	for _, r := range roles {
		if id, live, ok := s.LivePlan(r); ok && unplanned && live.Supersedable() {
			c.Supersedes = id
		}
	}
	c.Gates = gates(s, h, rules, p, want, c.Supersedes)
	p.Hash = hash(s, p, c.Gates)
	c.Plan = p
	return c, c.Blockers()
}

// pickRoles returns the roles to move, sorted, and the one region they leave.
func pickRoles(s consensus.State, want Intent) ([]topology.Role, topology.Region, error) {
	holder := func(r consensus.Role) topology.Region {
		if r.Phase == consensus.Vacant {
			return r.Last.Holder
		}
		return r.Holder
	}
	roles := slices.Sorted(slices.Values(want.Roles))
	if len(roles) == 0 {
		for _, name := range slices.Sorted(maps.Keys(s.Roles)) {
			at := holder(s.Roles[name])
			if at != want.To && at != "" && (want.Fenced == "" || at == want.Fenced) {
				roles = append(roles, name)
			}
		}
	}
	if len(roles) == 0 {
		if s.Settings.Observe {
			return nil, "", fmt.Errorf("mode is observe: nobody holds a role, nothing to move")
		}
		for _, name := range slices.Sorted(maps.Keys(s.Roles)) {
			if holder(s.Roles[name]) == "" {
				return nil, "", fmt.Errorf("role %s was never held: its initial region takes it when its daemon runs", name)
			}
		}
		return nil, "", fmt.Errorf("%s holds every role already, nothing to move", want.To)
	}
	var from topology.Region
	for _, name := range slices.Compact(roles) {
		r, ok := s.Roles[name]
		if !ok {
			return nil, "", fmt.Errorf("no role %q in this fleet, there are: %s", name, join(slices.Sorted(maps.Keys(s.Roles))))
		}
		at := holder(r)
		switch {
		case at == "":
			return nil, "", fmt.Errorf("role %s was never held: its initial region takes it when its daemon runs", name)
		case at == want.To:
			return nil, "", fmt.Errorf("%s holds %s already", want.To, name)
		case from != "" && at != from:
			return nil, "", fmt.Errorf("the roles are held by %s and %s: move them one by one with --role", from, at)
		}
		from = at
	}
	return slices.Compact(roles), from, nil
}

// hash covers what the plan was decided on: generation, epochs, holders and links,
// the configuration's digest, the steps and the verdicts of the gates. Lags
// and the log's index are not in it: they always change.
func hash(s consensus.State, p consensus.Plan, gates []Gate) string {
	type verdict struct {
		Name string
		OK   bool
	}
	var verdicts []verdict
	for _, g := range gates {
		verdicts = append(verdicts, verdict{g.Name, g.OK})
	}
	holders := map[topology.Role]topology.Region{}
	for _, r := range p.Roles {
		holders[r] = s.Roles[r].Holder
	}
	b, err := json.Marshal([]any{s.Generation, s.Settings.Digest, p.Kind, p.From, p.To, p.Roles, p.Epochs, p.LinkTurn, holders, p.Fenced, p.Steps, verdicts})
	if err != nil {
		panic("hash a plan: " + err.Error()) // plain data: it always encodes
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

func regionsOf(s consensus.State) []topology.Region {
	var out []topology.Region
	for _, m := range s.Members {
		if !m.Witness {
			out = append(out, m.Region)
		}
	}
	slices.Sort(out)
	return out
}

func join[T ~string](names []T) string {
	var b []byte
	for i, n := range names {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, n...)
	}
	return string(b)
}
