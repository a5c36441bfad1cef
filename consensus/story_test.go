package consensus

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// story is a State that a test tells commands to, one by one. Each command
// takes the way of a real one, through the codec, and on that way the story
// checks what holds for all of them: Apply never changes its receiver, gives
// the same bytes each time, and a refusal changes nothing.
type story struct {
	t   *testing.T
	now time.Time
	State
}

const (
	east, west         = topology.Region("us-east"), topology.Region("eu-west")
	eastNode, westNode = topology.Node("us-east-1"), topology.Node("eu-west-1")
	ingestion, query   = topology.Ingestion, topology.Query
)

var storyStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// members of two regions and a witness.
func members() map[topology.Node]Member {
	return map[topology.Node]Member{eastNode: {Region: east}, westNode: {Region: west}, "witness-1": {Witness: true}}
}

// settings with both roles in us-east, and no mirror.
func settings(digest string) Settings {
	return Settings{Digest: digest, Lease: DefaultLeaseTiming, AntiFlap: 10 * time.Minute, Roles: map[topology.Role]RoleSettings{
		ingestion: {Initial: east, Policy: Demote, Auto: true}, query: {Initial: east, Policy: Hold},
	}}
}

// newStory returns a fleet that is configured and whose daemons said hello.
func newStory(t *testing.T) *story {
	b := &story{t: t, now: storyStart, State: NewState()}
	b.do(&Configure{Settings: settings("one"), Members: members()})
	b.do(&OpenSession{Node: eastNode, Session: "e1", Boot: "b"})
	return b.do(&OpenSession{Node: westNode, Session: "w1", Boot: "b"})
}

// newMirrorStory is newStory with a link from us-east to eu-west.
func newMirrorStory(t *testing.T) *story {
	b := newStory(t)
	s := settings("two")
	s.Mirror = true
	return b.do(&Configure{Was: "one", Settings: s, Members: members()})
}

// held grants both roles to us-east.
func (b *story) held() *story {
	b.do(&Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: 1})
	return b.do(&Reclaim{Role: query, Node: eastNode, Session: "e1", Generation: 1, Epoch: 1})
}

// do applies a command that must be accepted.
func (b *story) do(body Body) *story {
	b.t.Helper()
	if err := b.try(body); err != nil {
		b.t.Fatalf("%s refused: %v", body.kind(), err)
	}
	return b
}

// refused applies a command that must be refused with a code.
func (b *story) refused(code string, body Body) *story {
	b.t.Helper()
	err := b.try(body)
	if err == nil {
		b.t.Fatalf("%s was accepted, want it refused as %s", body.kind(), code)
	}
	if !Refused(err, code) {
		b.t.Fatalf("%s refused with %v, want code %s", body.kind(), err, code)
	}
	return b
}

func (b *story) try(body Body) error {
	b.t.Helper()
	b.now = b.now.Add(time.Second)
	c := Command{At: b.now, By: "test", Body: body}
	entry, err := EncodeCommand(c)
	if err != nil {
		b.t.Fatalf("encode %s: %v", body.kind(), err)
	}
	read, err := DecodeCommand(entry)
	if err != nil {
		b.t.Fatalf("decode %s: %v", body.kind(), err)
	}
	before := b.bytes(b.State)
	next, err := b.Apply(read)
	after := b.bytes(next)
	if !bytes.Equal(before, b.bytes(b.State)) {
		b.t.Fatalf("%s changed the state it was applied to", body.kind())
	}
	if err != nil && !bytes.Equal(before, after) {
		b.t.Fatalf("%s was refused and returned another state", body.kind())
	}
	snapshot, decodeErr := DecodeState(before)
	if decodeErr != nil {
		b.t.Fatalf("decode state: %v", decodeErr)
	}
	again, errAgain := snapshot.Apply(c) // the other member: from a snapshot
	if (err == nil) != (errAgain == nil) || !bytes.Equal(after, b.bytes(again)) {
		b.t.Fatalf("%s gives another state on another member: %v, %v\n%s\n%s", body.kind(), err, errAgain, after, b.bytes(again))
	}
	b.State = next
	return err
}

func (b *story) bytes(s State) []byte {
	b.t.Helper()
	e, err := EncodeState(s)
	if err != nil {
		b.t.Fatalf("encode state: %v", err)
	}
	return e
}

// roleIs checks the phase, holder and epoch of a role.
func (b *story) roleIs(name topology.Role, phase Phase, holder topology.Region, epoch Epoch) *story {
	b.t.Helper()
	if r := b.Roles[name]; r.Phase != phase || r.Holder != holder || r.Epoch != epoch {
		b.t.Fatalf("%s is %s at epoch %d, want %s %s at %d", name, r.describe(), r.Epoch, phase, holder, epoch)
	}
	return b
}

func (b *story) planIs(id PlanID, phase PlanPhase) *story {
	b.t.Helper()
	if p := b.Plans[id]; p.Phase != phase {
		b.t.Fatalf("plan %s is %s (%s), want %s", id, p.Phase, p.Why, phase)
	}
	return b
}

// at names a role at its present epoch, next at the one after it.
func (b *story) at(roles ...topology.Role) []RoleEpoch   { return b.epochs(0, roles) }
func (b *story) next(roles ...topology.Role) []RoleEpoch { return b.epochs(1, roles) }
func (b *story) epochs(add Epoch, roles []topology.Role) []RoleEpoch {
	var list []RoleEpoch
	for _, name := range roles {
		list = append(list, RoleEpoch{name, b.Roles[name].Epoch + add})
	}
	return list
}

// plan returns a plan for roles, made now.
func (b *story) plan(kind PlanKind, from, to topology.Region, roles []topology.Role, steps ...Step) Plan {
	p := Plan{Kind: kind, Hash: "h", From: from, To: to, Roles: roles, Epochs: map[topology.Role]Epoch{}, Steps: steps}
	for _, name := range roles {
		p.Epochs[name] = b.Roles[name].Epoch
	}
	return p
}

func (b *story) release(name topology.Role) *story {
	b.t.Helper()
	r := b.Roles[name]
	return b.do(&Release{Role: name, Node: r.Node, Generation: 1, Epoch: r.Epoch})
}

func (b *story) renew(name topology.Role, nonce Nonce) *Renew {
	r := b.Roles[name]
	return &Renew{Role: name, Node: r.Node, Session: b.Sessions[r.Node].ID, Generation: 1, Epoch: r.Epoch, Policy: Demote, Nonce: nonce}
}

func (b *story) expire(name topology.Role) *Expire {
	r := b.Roles[name]
	return &Expire{Role: name, Generation: 1, Epoch: r.Epoch, Sequence: r.Sequence}
}
