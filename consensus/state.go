package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// StateVersion is the schema of State. A daemon refuses a snapshot of a
// newer schema.
const StateVersion = 1

// Epoch numbers the grants of one role. It rises by one with each grant and
// travels with each effect.
type Epoch uint64

// Generation numbers the lives of a cluster: it rises when a lost quorum is
// recovered by force. Compare (Generation, Epoch) in this order.
type Generation uint64

// Index is the position of an entry in the log.
type Index uint64

// Proposer puts commands into the log.
type Proposer interface {
	// Propose returns the index at which c was applied. A *Refusal means that
	// c was applied and changed nothing. ErrNoLeader means that c was not
	// proposed. ErrUnknownOutcome means that it may or may not be applied
	// later: read the state before deciding.
	Propose(ctx context.Context, c Command) (Index, error)
}

// Leadership is a context: work runs while this member leads.
type Leadership interface {
	// Lead calls work each time this member becomes leader, with a context
	// that ends when leadership does, and waits for it to return. It returns
	// when ctx ends.
	Lead(ctx context.Context, work func(ctx context.Context) error) error
}

// State is what all members agree on. It is a value: Apply returns a new one
// and never changes what its receiver refers to, so a State may be read by
// any number of goroutines.
type State struct {
	Version    int                       `json:"version"`
	Generation Generation                `json:"generation"`
	Settings   Settings                  `json:"settings"`
	Members    map[topology.Node]Member  `json:"members"`
	Sessions   map[topology.Node]Session `json:"sessions"`
	Roles      map[topology.Role]Role    `json:"roles"`
	Links      map[LinkID]Link           `json:"links"`
	// Tombstones are the topics of each link that were deleted at the source
	// and whose copies are kept.
	Tombstones map[LinkID]map[string]Tombstone `json:"tombstones,omitempty"`
	Plans      map[PlanID]Plan                 `json:"plans"`
	Tasks      map[TaskID]Task                 `json:"tasks"`
	// Retired keeps the epochs of roles that were removed, so that one that
	// comes back goes on counting: an epoch never names two grants.
	Retired map[topology.Role]Epoch `json:"retired,omitempty"`
	Slots   map[string]time.Time    `json:"slots"`
	Pauses  map[topology.Role]Pause `json:"pauses,omitempty"`
	Runs    map[RunID]Run           `json:"runs"`
	Sets    map[SetID]Set           `json:"sets"`
	// Salvages are the sealed copies of records that never were mirrored.
	Salvages map[SalvageID]Salvage `json:"salvages,omitempty"`
	Audit    Audit                 `json:"audit"`
}

// NewState returns the state before the first command.
func NewState() State {
	return State{
		Version:    StateVersion,
		Generation: 1,
		Members:    map[topology.Node]Member{},
		Sessions:   map[topology.Node]Session{},
		Roles:      map[topology.Role]Role{},
		Links:      map[LinkID]Link{},
		Plans:      map[PlanID]Plan{},
		Tasks:      map[TaskID]Task{},
		Slots:      map[string]time.Time{},
		Pauses:     map[topology.Role]Pause{},
		Runs:       map[RunID]Run{},
		Sets:       map[SetID]Set{},
	}
}

// clone copies the maps, one level deep. Their values are replaced, never
// changed in place, so one level is enough.
func (s State) clone() State {
	s.Members = maps.Clone(s.Members)
	s.Sessions = maps.Clone(s.Sessions)
	s.Roles = maps.Clone(s.Roles)
	s.Links = maps.Clone(s.Links)
	s.Plans = maps.Clone(s.Plans)
	s.Tasks = maps.Clone(s.Tasks)
	s.Slots = maps.Clone(s.Slots)
	s.Retired = maps.Clone(s.Retired)
	s.Pauses = maps.Clone(s.Pauses)
	s.Runs = maps.Clone(s.Runs)
	s.Sets = maps.Clone(s.Sets)
	s.Salvages = maps.Clone(s.Salvages)
	return s
}

// EncodeState returns the snapshot form of s. Equal states have equal bytes.
func EncodeState(s State) ([]byte, error) { return json.Marshal(s) }

// DecodeState reads a snapshot. A newer schema is ErrUnknownCommand: this
// binary is too old to take part.
func DecodeState(b []byte) (State, error) {
	s := NewState()
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("decode state: %w", err)
	}
	if s.Version != StateVersion {
		return State{}, fmt.Errorf("decode state: schema %d, this binary knows %d: %w", s.Version, StateVersion, ErrUnknownCommand)
	}
	if err := s.check(); err != nil {
		return State{}, fmt.Errorf("decode state: %w (the snapshot is damaged: restore the raft directory, or remove it and join again)", err)
	}
	return s, nil
}

// check says whether s has the shape that Apply relies on.
func (s State) check() error {
	if s.Sessions == nil || s.Roles == nil || s.Links == nil ||
		s.Plans == nil || s.Tasks == nil || s.Slots == nil || s.Pauses == nil || s.Runs == nil || s.Sets == nil {
		return errors.New("a part of it is null")
	}
	for id, p := range s.Plans {
		if len(p.Journal) != len(p.Steps) {
			return fmt.Errorf("plan %s has %d steps and a journal of %d", id, len(p.Steps), len(p.Journal))
		}
	}
	return nil
}

// Settings are what all members must agree on. They take effect through the
// log, so that no two daemons ever act by different ones.
type Settings struct {
	Digest  string                         `json:"digest"` // of the fleet file these came from
	Observe bool                           `json:"observe,omitempty"`
	Lease   LeaseTiming                    `json:"lease"`
	Roles   map[topology.Role]RoleSettings `json:"roles"`
	Mirror  bool                           `json:"mirror,omitempty"` // topics are mirrored between the regions
	// AntiFlap is how long after a failover the next automatic one is blocked.
	AntiFlap time.Duration `json:"anti_flap"`
}

// RoleSettings are the agreed rules of one role.
type RoleSettings struct {
	Initial topology.Region `json:"initial"`
	Auto    bool            `json:"auto,omitempty"`
	Policy  Policy          `json:"policy"`
}

// Policy says what a holder does when it cannot renew.
type Policy string

const (
	// Hold: an open holder stays active past its deadline, and no Expire is
	// ever proposed; moving the role without the holder needs an attestation.
	Hold Policy = "hold"
	// Demote: the holder turns inactive at its deadline, and the role becomes
	// vacant when the leader has counted the lease out.
	Demote Policy = "demote"
)

// Member is one daemon of the fleet.
type Member struct {
	Region  topology.Region `json:"region,omitempty"` // empty for a witness
	Witness bool            `json:"witness,omitempty"`
}

// NodeOf returns the node of a data region.
func (s State) NodeOf(r topology.Region) (topology.Node, bool) {
	for n, m := range s.Members { // at most one matches: Configure refuses a second
		if m.Region == r && !m.Witness {
			return n, true
		}
	}
	return "", false
}

// Pause suspends what holdfast does by itself for one role.
type Pause struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}
