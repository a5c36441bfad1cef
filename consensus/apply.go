package consensus

import (
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Apply returns the state after c. A *Refusal means that c changed nothing;
// the returned state is then s. Apply reads nothing but its arguments and may
// be called concurrently on one State.
func (s State) Apply(c Command) (State, error) {
	d := &draft{State: s.clone(), at: c.At, by: c.By}
	if err := c.Body.apply(d); err != nil {
		return s, err
	}
	if line, ok := auditLine(c); ok {
		d.Audit = d.Audit.append(line)
	}
	return d.State, nil
}

func (c *Configure) apply(d *draft) error {
	if c.Was != d.Settings.Digest {
		return stale("the settings changed meanwhile (digest %s, expected %s): compare and apply again", short(d.Settings.Digest), short(c.Was))
	}
	if err := c.Settings.Lease.Check(); err != nil {
		return invalid("%v", err)
	}
	regions := map[topology.Region]topology.Node{}
	for _, n := range slices.Sorted(maps.Keys(c.Members)) {
		m := c.Members[n]
		if m.Witness {
			continue
		}
		if other, taken := regions[m.Region]; taken {
			return invalid("second node for region %s: %s, beside %s; a data region has one node", m.Region, n, other)
		}
		regions[m.Region] = n
	}
	for name, rs := range c.Settings.Roles {
		if _, ok := regions[rs.Initial]; !ok {
			return invalid("role %s: its initial region %q has no node", name, rs.Initial)
		}
	}
	for name, r := range d.Roles {
		if _, kept := c.Settings.Roles[name]; !kept && r.Phase != Vacant {
			return conflict("role %s is held by %s and cannot be removed: move or release it first", name, r.Holder)
		}
	}
	if id, p := d.livePlan(); id != "" {
		return conflict("plan %s (%s) is live: settings change between plans, not during one", id, p.Phase)
	}
	d.Settings = c.Settings
	d.Members = c.Members
	for name, r := range d.Roles {
		if _, kept := c.Settings.Roles[name]; !kept {
			if d.Retired == nil {
				d.Retired = map[topology.Role]Epoch{}
			}
			d.Retired[name] = r.Epoch
			delete(d.Roles, name)
		}
	}
	for name := range c.Settings.Roles {
		if _, known := d.Roles[name]; !known {
			d.Roles[name] = Role{Phase: Vacant, Epoch: d.Retired[name]}
			delete(d.Retired, name)
		}
	}
	for n := range d.Sessions {
		if _, kept := c.Members[n]; !kept {
			delete(d.Sessions, n)
		}
	}
	// The first links follow the initial holder of ingestion. Later only plan
	// steps change a direction.
	if rs, ok := c.Settings.Roles[topology.Ingestion]; ok && c.Settings.Mirror && len(d.Links) == 0 {
		for _, r := range slices.Sorted(maps.Keys(regions)) {
			if r != rs.Initial {
				id := LinkOf(rs.Initial, r)
				d.Links[id] = Link{From: rs.Initial, To: r, Epoch: 1, Phase: LinkRunning}
			}
		}
	}
	return nil
}

func (c *PauseRole) apply(d *draft) error {
	if _, ok := d.Settings.Roles[c.Role]; !ok {
		return missing("no role %s", c.Role)
	}
	if c.Until.IsZero() {
		delete(d.Pauses, c.Role)
		return nil
	}
	if c.Until.After(d.at.Add(pauseMax)) {
		return invalid("a pause lasts %s at most, so that nobody forgets it", pauseMax)
	}
	d.Pauses[c.Role] = Pause{c.Until, c.Reason}
	return nil
}

const pauseMax = 7 * 24 * time.Hour

func (c *TakeSlot) apply(d *draft) error { return d.takeSlot(c.Job, c.Slot) }

func short(digest string) string {
	if digest == "" {
		return "none"
	}
	return digest[:min(8, len(digest))]
}
