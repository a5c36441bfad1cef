package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// forwardTries bounds how often a step is tried by itself once there is no
// way back, and an undo step before that. Then a person decides: `failover retry`.
const forwardTries = 5

// Next returns what to propose now for a live plan: nothing while a region
// works on its step, or while a person is needed. now is the leader's wall
// clock; it only bounds how long a step may stay silent before the point of
// no return.
func Next(now time.Time, id consensus.PlanID, s consensus.State) []consensus.Body {
	p, ok := s.Plans[id]
	if !ok {
		return nil
	}
	switch p.Phase {
	case consensus.PlanRunning, consensus.PlanGranted:
		return forward(now, id, p, s)
	case consensus.PlanAborting:
		return backward(id, p, s)
	default:
		return nil
	}
}

func forward(now time.Time, id consensus.PlanID, p consensus.Plan, s consensus.State) []consensus.Body {
	i, left := p.Current()
	if !left {
		return one(&consensus.FinishPlan{Plan: id})
	}
	if p.Phase == consensus.PlanRunning {
		if why := lost(now, p, i, s); why != "" {
			return one(&consensus.AbortPlan{Plan: id, Why: why})
		}
	}
	ref := consensus.StepRef{Plan: id, Step: i}
	if p.Steps[i].Decision() {
		return decision(ref, p.Steps[i], p, s)
	}
	if _, working := s.Tasks[consensus.TaskOf(ref)]; working {
		return nil
	}
	if p.Journal[i].Attempts >= forwardTries {
		return nil // stuck: `failover status` says so
	}
	return one(&consensus.StartStep{Step: ref})
}

// lost says why a plan that may still turn back should.
func lost(now time.Time, p consensus.Plan, i int, s consensus.State) string {
	r, step := p.Journal[i], p.Steps[i]
	if r.State == consensus.StepFailed {
		return fmt.Sprintf("step %d, %s: %s", i+1, step.Title, r.Error)
	}
	if r.State == consensus.StepRunning && step.Timeout > 0 && now.Sub(r.Started) > step.Timeout+taskGrace {
		return fmt.Sprintf("step %d, %s: no word for %s", i+1, step.Title, now.Sub(r.Started).Round(time.Second))
	}
	if p.Kind == consensus.Planned {
		for _, name := range p.Roles {
			role := s.Roles[name]
			if role.Phase == consensus.Vacant && role.Last.Basis == consensus.LeaseExpiredOnly {
				return fmt.Sprintf("the lease of %s ran out in %s before it was released", name, p.From)
			}
		}
	}
	return ""
}

func backward(id consensus.PlanID, p consensus.Plan, s consensus.State) []consensus.Body {
	i, u, left := p.CurrentUndo()
	if !left {
		return one(&consensus.FinishPlan{Plan: id})
	}
	ref := consensus.StepRef{Plan: id, Step: i, Undo: u}
	step, _ := p.At(ref)
	if step.Decision() {
		return decision(ref, step, p, s)
	}
	if _, working := s.Tasks[consensus.TaskOf(ref)]; working {
		return nil
	}
	if p.Journal[i].UndoTries >= forwardTries {
		return nil
	}
	return one(&consensus.StartStep{Step: ref})
}

// decision returns the log entry that a decision step is.
func decision(ref consensus.StepRef, step consensus.Step, p consensus.Plan, s consensus.State) []consensus.Body {
	at := func(plus consensus.Epoch) []consensus.RoleEpoch {
		var out []consensus.RoleEpoch
		for _, name := range p.Roles {
			out = append(out, consensus.RoleEpoch{Role: name, Epoch: s.Roles[name].Epoch + plus})
		}
		return out
	}
	link, back := consensus.LinkOf(p.From, p.To), consensus.LinkOf(p.To, p.From)
	switch step.Kind {
	case consensus.StepDrain:
		return one(&consensus.DrainRoles{Step: ref, Roles: at(0)})
	case consensus.StepGrant:
		to := p.To
		if ref.Undo > 0 {
			to = p.From
		}
		return one(&consensus.GrantRoles{Step: ref, To: to, Roles: at(1)})
	case consensus.StepOpen:
		if len(vacant(p, s)) > 0 {
			return nil // its region takes it again when it is back: `failover status` says so
		}
		return one(&consensus.OpenRoles{Step: ref, Roles: at(0)})
	case consensus.StepVoid:
		return one(&consensus.VoidRoles{Step: ref, Roles: at(0), Reason: p.Reason})
	case consensus.StepLinkReverse:
		if len(step.Spec) > 0 { // the plan turns back: that link starts again
			return one(&consensus.StartLink{Step: ref, Kind: step.Kind, Link: back, After: back, Unproven: true})
		}
		return one(&consensus.StartLink{Step: ref, Kind: step.Kind, Link: back, After: link, Unproven: p.Kind == consensus.Unplanned})
	case consensus.StepLinkStart:
		if p.Kind == consensus.Reseed {
			return one(&consensus.StartLink{Step: ref, Kind: step.Kind, Link: link, After: link, Reseeded: reseedTopics(p)})
		}
		return one(&consensus.StartLink{Step: ref, Kind: step.Kind, Link: link, After: link})
	default:
		return nil // a plan of a newer version: the apply that stored it would have refused the kind
	}
}

func one(b consensus.Body) []consensus.Body { return []consensus.Body{b} }

// Stuck says what a live plan waits for a person to do, or "".
func Stuck(id consensus.PlanID, s consensus.State) string {
	p := s.Plans[id]
	if !p.Phase.Live() {
		return ""
	}
	if p.Phase == consensus.PlanAborting {
		i, u, left := p.CurrentUndo()
		step, _ := p.At(consensus.StepRef{Plan: id, Step: i, Undo: u})
		if lapsed := vacant(p, s); left && step.Kind == consensus.StepOpen && len(lapsed) > 0 {
			return fmt.Sprintf("undo of step %d, %s: the lease of %s ran out there; it goes on when the daemon of %s is back", i+1, step.Title, join(lapsed), p.From)
		}
		if left && p.Journal[i].UndoState == consensus.StepFailed && p.Journal[i].UndoTries >= forwardTries {
			return fmt.Sprintf("undo of step %d, %s, failed %d times: %s", i+1, step.Title, forwardTries, p.Journal[i].UndoFailed)
		}
		return ""
	}
	i, left := p.Current()
	if lapsed := vacant(p, s); left && p.Steps[i].Kind == consensus.StepOpen && len(lapsed) > 0 {
		return fmt.Sprintf("step %d, %s: the lease of %s ran out there; it goes on when the daemon of %s is back", i+1, p.Steps[i].Title, join(lapsed), p.To)
	}
	if left && p.Journal[i].State == consensus.StepFailed && p.Journal[i].Attempts >= forwardTries {
		return fmt.Sprintf("step %d, %s, failed %d times: %s", i+1, p.Steps[i].Title, forwardTries, p.Journal[i].Error)
	}
	return ""
}

// vacant lists the roles of p that nobody holds.
func vacant(p consensus.Plan, s consensus.State) []topology.Role {
	var out []topology.Role
	for _, name := range p.Roles {
		if s.Roles[name].Phase == consensus.Vacant {
			out = append(out, name)
		}
	}
	return out
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
