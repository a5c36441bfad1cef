package consensus

import (
	"cmp"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Phase is where a role is in its life:
//
//	Vacant → Closed(holder, epoch) → Open → Draining → Vacant
type Phase string

const (
	// Vacant: nobody holds the role; the only phase in which it is granted.
	Vacant Phase = "vacant"
	// Closed: granted, and nothing is let in yet: the holder prepares.
	Closed Phase = "closed"
	// Open: the holder answers "active" while its lease is valid.
	Open Phase = "open"
	// Draining: the holder turned inactive and is on its way out.
	Draining Phase = "draining"
)

// Basis is what a grant rests on: why the previous holder cannot act.
type Basis string

const (
	// Acknowledged: the previous holder released the role itself.
	Acknowledged Basis = "acknowledged"
	// Fenced: a driver confirmed that the previous holder is cut off.
	Fenced Basis = "fenced"
	// LeaseExpiredOnly: the leader counted the lease out. What asks us has
	// stopped; what does not ask us may still run.
	LeaseExpiredOnly Basis = "lease-expired-only"
	// Attested: a person said that the previous holder is fenced.
	Attested Basis = "attested"
	// FirstGrant: the role was never held.
	FirstGrant Basis = "first-grant"
)

// Role is a thing that exactly one region may do.
type Role struct {
	Phase  Phase           `json:"phase"`
	Holder topology.Region `json:"holder,omitempty"` // empty when vacant
	Node   topology.Node   `json:"node,omitempty"`
	Epoch  Epoch           `json:"epoch"` // of the last grant; 0 if never granted
	// Sequence counts the accepted renewals of this epoch.
	Sequence uint64 `json:"sequence"`
	// Session and Nonce name the last accepted renewal. An earlier attempt of
	// the same session that arrives late is refused, so it cannot change the
	// policy behind the holder's back.
	Session SessionID `json:"session,omitempty"`
	Nonce   Nonce     `json:"nonce,omitempty"`
	// Policy is the one that the holder declared with its last accepted
	// renewal. Expire obeys this one, not the settings: a holder that was
	// told to hold and cannot hear that this changed is still holding.
	Policy Policy `json:"policy,omitempty"`
	// TTL is the longest that an accepted renewal of this epoch declared.
	// Leaders count at least this long: a holder that cannot hear that the
	// settings have a shorter one still acts by it.
	TTL time.Duration `json:"ttl,omitempty"`
	// Basis is what the last grant rested on.
	Basis Basis `json:"basis,omitempty"`
	// Last is what the role was before it became vacant.
	Last Former `json:"last,omitzero"`
	// Failover is when an automatic or unplanned move last granted this role,
	// in the proposer's wall time; zero once acknowledged.
	Failover time.Time `json:"failover,omitzero"`
}

// Former says how a vacant role became so.
type Former struct {
	Holder topology.Region `json:"holder,omitempty"`
	Node   topology.Node   `json:"node,omitempty"`
	Phase  Phase           `json:"phase,omitempty"`
	Basis  Basis           `json:"basis,omitempty"` // what the next grant will rest on
	Reason string          `json:"reason,omitempty"`
}

// RoleEpoch names one grant of one role.
type RoleEpoch struct {
	Role  topology.Role `json:"role"`
	Epoch Epoch         `json:"epoch"`
}

// vacate returns r without a holder.
func (r Role) vacate(b Basis, reason string) Role {
	r.Last = Former{Holder: r.Holder, Node: r.Node, Phase: r.Phase, Basis: b, Reason: reason}
	r.Phase, r.Holder, r.Node, r.Sequence, r.Policy, r.Session, r.Nonce, r.TTL = Vacant, "", "", 0, "", "", 0, 0
	return r
}

// Renew extends the lease of a holder. Only the result of this very attempt,
// known by its Nonce to the node that sent it, arms the node's deadline.
type Renew struct {
	Role       topology.Role `json:"role"`
	Node       topology.Node `json:"node"`
	Session    SessionID     `json:"session"`
	Generation Generation    `json:"generation"`
	Epoch      Epoch         `json:"epoch"`
	Policy     Policy        `json:"policy"`        // what the holder binds itself to
	TTL        time.Duration `json:"ttl,omitempty"` // by which the holder reckons; 0 means the agreed one
	Nonce      Nonce         `json:"nonce"`
}

// Nonce tells the attempts of one node apart.
type Nonce uint64

// DrainRoles turns held roles inactive, as a step of a plan.
type DrainRoles struct {
	Step  StepRef     `json:"step"`
	Roles []RoleEpoch `json:"roles"`
}

// Release gives a role up. The holder proposes it, after it answered
// "inactive" for as long as its clients need to notice.
type Release struct {
	Role       topology.Role `json:"role"`
	Node       topology.Node `json:"node"`
	Generation Generation    `json:"generation"`
	Epoch      Epoch         `json:"epoch"`
}

// GrantRoles gives vacant roles to a region, closed. It is the point of no return
// of a plan that moves roles, and the undo of a drained one.
type GrantRoles struct {
	Step  StepRef         `json:"step"`
	To    topology.Region `json:"to"`
	Roles []RoleEpoch     `json:"roles"` // with the new epochs
}

// OpenRoles lets the holder of closed roles answer "active".
type OpenRoles struct {
	Step  StepRef     `json:"step"`
	Roles []RoleEpoch `json:"roles"`
}

// Expire makes a role vacant whose lease has been counted out. It is a
// compare-and-set: one renewal more and it is refused.
type Expire struct {
	Role       topology.Role `json:"role"`
	Generation Generation    `json:"generation"`
	Epoch      Epoch         `json:"epoch"`
	Sequence   uint64        `json:"sequence"`
}

// VoidRoles makes roles vacant on a person's word that their holder is fenced.
type VoidRoles struct {
	Step   StepRef     `json:"step"`
	Roles  []RoleEpoch `json:"roles"`
	Reason string      `json:"reason"`
}

// Reclaim grants a role to the region that lost it by expiry alone, or to
// the initial region of a role that was never held. It needs no plan: nothing
// else was promoted meanwhile.
type Reclaim struct {
	Role       topology.Role `json:"role"`
	Node       topology.Node `json:"node"`
	Session    SessionID     `json:"session"`
	Generation Generation    `json:"generation"`
	Epoch      Epoch         `json:"epoch"` // the new one
}

func (*Renew) kind() string      { return "renew" }
func (*DrainRoles) kind() string { return "drain" }
func (*Release) kind() string    { return "release" }
func (*GrantRoles) kind() string { return "grant" }
func (*OpenRoles) kind() string  { return "open" }
func (*Expire) kind() string     { return "expire" }
func (*VoidRoles) kind() string  { return "void" }
func (*Reclaim) kind() string    { return "reclaim" }

func (d *draft) role(name topology.Role) (Role, error) {
	r, ok := d.Roles[name]
	if !ok {
		return Role{}, missing("no role %s", name)
	}
	return r, nil
}

// roleIn is role for a command that was meant for one generation.
func (d *draft) roleIn(g Generation, name topology.Role) (Role, error) {
	r, err := d.role(name)
	if err == nil && g != d.Generation {
		err = stale("generation %d is over, this is %d", g, d.Generation)
	}
	return r, err
}

func (c *Renew) apply(d *draft) error {
	r, err := d.roleIn(c.Generation, c.Role)
	if err != nil {
		return err
	}
	if err := d.sameSession(c.Node, c.Session); err != nil {
		return err
	}
	if r.Phase == Vacant || r.Node != c.Node || r.Epoch != c.Epoch {
		return stale("role %s is %s at epoch %d; %s no longer holds it at epoch %d", c.Role, r.describe(), r.Epoch, c.Node, c.Epoch)
	}
	if c.Policy != Hold && c.Policy != Demote {
		return invalid("policy %q: want hold or demote", c.Policy)
	}
	if r.Session == c.Session && c.Nonce <= r.Nonce {
		return stale("a later attempt to renew %s was accepted before this one", c.Role)
	}
	if c.TTL < 0 || c.TTL > ttlMax {
		return invalid("ttl %s: want 0 to %s", c.TTL, ttlMax)
	}
	r.Sequence++
	r.TTL = max(r.TTL, cmp.Or(c.TTL, d.Settings.Lease.TTL))
	r.Policy, r.Session, r.Nonce = c.Policy, c.Session, c.Nonce
	d.Roles[c.Role] = r
	return nil
}

func (c *DrainRoles) apply(d *draft) error {
	return d.decide(c.Step, StepDrain, func(p Plan) error {
		if err := p.exactly(c.Roles); err != nil {
			return err
		}
		return d.each(c.Roles, func(name topology.Role, r Role) (Role, error) {
			if r.Phase != Open && r.Phase != Closed { // closed: the plan that would have opened it was superseded
				return r, conflict("role %s is %s, only a held role drains", name, r.describe())
			}
			r.Phase = Draining
			return r, nil
		})
	})
}

func (c *Release) apply(d *draft) error {
	r, err := d.roleIn(c.Generation, c.Role)
	if err != nil {
		return err
	}
	if r.Phase == Vacant || r.Node != c.Node || r.Epoch != c.Epoch {
		return stale("role %s is %s at epoch %d, not held by %s at epoch %d", c.Role, r.describe(), r.Epoch, c.Node, c.Epoch)
	}
	if r.Phase == Open {
		return conflict("role %s is open; a plan drains it before it is released", c.Role)
	}
	d.Roles[c.Role] = r.vacate(Acknowledged, "released by its holder")
	return nil
}

func (c *GrantRoles) apply(d *draft) error {
	return d.decide(c.Step, StepGrant, func(p Plan) error {
		if d.Settings.Observe {
			return conflict("mode is observe: no role is granted")
		}
		if err := p.exactly(c.Roles); err != nil {
			return err
		}
		if to := p.destination(c.Step); c.To != to {
			return invalid("plan %s grants to %s here, not to %s", c.Step.Plan, to, c.To)
		}
		if l, ok := d.Links[LinkOf(p.From, p.To)]; ok && c.Step.Undo == 0 && p.moves(topology.Ingestion) && l.Phase == LinkRunning {
			return conflict("link %s still runs: it must have ended before ingestion is granted", LinkOf(p.From, p.To))
		}
		node, ok := d.NodeOf(c.To)
		if !ok {
			return missing("no node in region %s", c.To)
		}
		for _, re := range c.Roles {
			r, err := d.role(re.Role)
			if err != nil {
				return err
			}
			if r.Phase != Vacant {
				return conflict("role %s is %s: a role is granted only when it is vacant", re.Role, r.describe())
			}
			if re.Epoch != r.Epoch+1 {
				return stale("role %s: the next epoch is %d, not %d", re.Role, r.Epoch+1, re.Epoch)
			}
			r.Phase, r.Holder, r.Node, r.Epoch, r.Sequence, r.Policy = Closed, c.To, node, re.Epoch, 0, d.Settings.Roles[re.Role].Policy
			r.Basis = cmp.Or(r.Last.Basis, FirstGrant)
			if c.Step.Undo == 0 && p.Kind == Unplanned {
				r.Failover = d.at
			}
			d.Roles[re.Role] = r
		}
		return nil
	})
}

func (c *OpenRoles) apply(d *draft) error {
	return d.decide(c.Step, StepOpen, func(p Plan) error {
		if err := p.exactly(c.Roles); err != nil {
			return err
		}
		return d.each(c.Roles, func(name topology.Role, r Role) (Role, error) {
			if r.Phase != Closed {
				return r, conflict("role %s is %s, only a closed role opens", name, r.describe())
			}
			r.Phase = Open
			return r, nil
		})
	})
}

func (c *VoidRoles) apply(d *draft) error {
	return d.decide(c.Step, StepVoid, func(p Plan) error {
		if p.Fenced == "" || c.Reason == "" {
			return invalid("voiding a lease needs the attestation that its region is fenced, with a reason")
		}
		if err := p.exactly(c.Roles); err != nil {
			return err
		}
		for _, re := range c.Roles {
			r, err := d.role(re.Role)
			if err != nil {
				return err
			}
			if r.Phase == Vacant && r.Epoch == re.Epoch && (r.Last.Holder == p.Fenced || r.Last.Holder == "") {
				// It lapsed meanwhile. The attestation is the stronger basis.
				r.Last.Basis, r.Last.Reason = Attested, c.Reason
				d.Roles[re.Role] = r
				continue
			}
			if r.Epoch != re.Epoch || r.Holder != p.Fenced {
				return stale("role %s is %s at epoch %d; the attestation is about %s at epoch %d", re.Role, r.describe(), r.Epoch, p.Fenced, re.Epoch)
			}
			d.Roles[re.Role] = r.vacate(Attested, c.Reason)
		}
		return nil
	})
}

func (c *Expire) apply(d *draft) error {
	r, err := d.roleIn(c.Generation, c.Role)
	if err != nil {
		return err
	}
	if r.Phase == Vacant || r.Epoch != c.Epoch || r.Sequence != c.Sequence {
		return stale("role %s was renewed or moved: epoch %d, sequence %d", c.Role, r.Epoch, r.Sequence)
	}
	if r.Policy != Demote {
		return conflict("role %s: its holder was told to hold, its lease does not expire", c.Role)
	}
	d.Roles[c.Role] = r.vacate(LeaseExpiredOnly, "the lease ran out")
	return nil
}

func (c *Reclaim) apply(d *draft) error {
	r, err := d.roleIn(c.Generation, c.Role)
	if err != nil {
		return err
	}
	if err := d.sameSession(c.Node, c.Session); err != nil {
		return err
	}
	if d.Settings.Observe {
		return conflict("mode is observe: no role is granted")
	}
	m := d.Members[c.Node]
	if r.Phase != Vacant || c.Epoch != r.Epoch+1 {
		return stale("role %s is %s at epoch %d", c.Role, r.describe(), r.Epoch)
	}
	id, p := d.livePlanOf(c.Role)
	phase := Open
	if r.Last.Phase == Closed {
		phase = Closed // a plan opens it, not the return of a daemon
	}
	switch {
	case id != "" && p.Phase == PlanGranted && p.To == m.Region:
		p.Epochs = p.withEpoch(c.Role, c.Epoch)
		d.Plans[id] = p
	case id != "" && p.Phase == PlanAborting && r.Last.Holder == m.Region && r.Last.Basis == LeaseExpiredOnly && r.Last.Phase != Draining:
		// The plan has given it back, or never taken it: its undo goes on
		// from there. One that was draining is granted by the undo.
	case id != "":
		return conflict("plan %s (%s) decides who holds %s next", id, p.Phase, c.Role)
	case r.Last.Holder == "": // never held, or removed and added again
		if m.Region != d.Settings.Roles[c.Role].Initial {
			return conflict("role %s starts in %s", c.Role, d.Settings.Roles[c.Role].Initial)
		}
	case r.Last.Holder != m.Region:
		return conflict("role %s was last held by %s", c.Role, r.Last.Holder)
	case r.Last.Basis == Attested:
		return conflict("role %s was taken from %s on the word that it is fenced: it moves by plan only", c.Role, m.Region)
	}
	r.Phase, r.Holder, r.Node, r.Epoch, r.Sequence = phase, m.Region, c.Node, c.Epoch, 0
	r.Policy = d.Settings.Roles[c.Role].Policy
	r.Basis = cmp.Or(r.Last.Basis, FirstGrant)
	d.Roles[c.Role] = r
	return nil
}

// each replaces roles that are held at the epoch named.
func (d *draft) each(roles []RoleEpoch, change func(topology.Role, Role) (Role, error)) error {
	if len(roles) == 0 {
		return invalid("no role named")
	}
	for _, re := range roles {
		r, err := d.role(re.Role)
		if err != nil {
			return err
		}
		if r.Epoch != re.Epoch {
			return stale("role %s is at epoch %d, not %d", re.Role, r.Epoch, re.Epoch)
		}
		if r, err = change(re.Role, r); err != nil {
			return err
		}
		d.Roles[re.Role] = r
	}
	return nil
}

func (r Role) describe() string {
	if r.Phase == Vacant || r.Phase == "" {
		return "vacant"
	}
	return string(r.Phase) + " in " + string(r.Holder)
}
