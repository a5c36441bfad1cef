package consensus

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// TaskID names a task by the step or the run that it carries out.
type TaskID string

// SessionID names one life of one daemon.
type SessionID string

// evidenceBytesMax bounds what a finished task leaves in the state.
const evidenceBytesMax = 1 << 20

// Session is a daemon's life. A new one ends the old one's claims.
type Session struct {
	ID   SessionID `json:"id"`
	Boot string    `json:"boot"` // of the machine
	At   time.Time `json:"at"`
	// Version is the daemon's version, for `members list`.
	Version string `json:"version,omitempty"`
}

// Task is a step of a plan, or a run, that its region is working on.
type Task struct {
	Ref     StepRef         `json:"ref"`           // of a plan's task
	Run     RunID           `json:"run,omitempty"` // of a run's task; empty for a plan's
	Kind    string          `json:"kind"`
	Region  topology.Region `json:"region"`
	Spec    json.RawMessage `json:"spec,omitempty"`
	Timeout time.Duration   `json:"timeout,omitempty"`
	// Attempt rises with each try and each new claim; every journal command
	// compares it.
	Attempt int   `json:"attempt"`
	Claim   Claim `json:"claim,omitzero"`
}

// Claim says which life of which daemon works on a task.
type Claim struct {
	Node    topology.Node `json:"node"`
	Session SessionID     `json:"session"`
	Boot    string        `json:"boot"`
}

// TaskOf returns the task that carries out a step.
func TaskOf(ref StepRef) TaskID {
	if ref.Undo > 0 {
		return TaskID(fmt.Sprintf("%s/%02d/undo%d", ref.Plan, ref.Step+1, ref.Undo))
	}
	return TaskID(fmt.Sprintf("%s/%02d", ref.Plan, ref.Step+1))
}

// OpenSession begins a daemon's life in the log. Late entries of an earlier
// life may still come and take the session over: a daemon whose session is no
// longer the one in the state begins anew, with a fresh id.
type OpenSession struct {
	Node    topology.Node `json:"node"`
	Session SessionID     `json:"session"`
	Boot    string        `json:"boot"`
	Version string        `json:"version,omitempty"`
}

// ClaimTask takes a task for one session.
type ClaimTask struct {
	Task    TaskID        `json:"task"`
	Attempt int           `json:"attempt"`
	Node    topology.Node `json:"node"`
	Session SessionID     `json:"session"`
}

// FinishTask records that the effect of a task is there, with its evidence.
type FinishTask struct {
	Task     TaskID          `json:"task"`
	Attempt  int             `json:"attempt"`
	Session  SessionID       `json:"session"`
	Evidence json.RawMessage `json:"evidence,omitempty"`
}

// FailTask records that an attempt failed.
type FailTask struct {
	Task    TaskID    `json:"task"`
	Attempt int       `json:"attempt"`
	Session SessionID `json:"session"`
	Error   string    `json:"error"`
}

// RetryTask lets a person try a failed step again at once.
type RetryTask struct {
	Step StepRef `json:"step"`
}

func (*OpenSession) kind() string { return "session" }
func (*ClaimTask) kind() string   { return "task.claim" }
func (*FinishTask) kind() string  { return "task.finish" }
func (*FailTask) kind() string    { return "task.fail" }
func (*RetryTask) kind() string   { return "task.retry" }

func (d *draft) sameSession(n topology.Node, s SessionID) error {
	if _, member := d.Members[n]; !member {
		return conflict("%s is not a member", n)
	}
	if cur, ok := d.Sessions[n]; !ok || cur.ID != s {
		return stale("session %s of %s is over", s, n)
	}
	return nil
}

func (c *OpenSession) apply(d *draft) error {
	if _, member := d.Members[c.Node]; !member {
		return conflict("%s is not a member of this cluster: add it to the fleet file and run `holdfast config apply`", c.Node)
	}
	if c.Session == "" {
		return invalid("a session needs an id")
	}
	if d.Sessions[c.Node].ID == c.Session {
		return nil // its answer was lost and it asks again
	}
	d.Sessions[c.Node] = Session{ID: c.Session, Boot: c.Boot, At: d.at, Version: c.Version}
	for id, t := range d.Tasks {
		if t.Claim.Node == c.Node {
			d.restarted(id, t)
		}
	}
	return nil
}

func (d *draft) task(id TaskID, attempt int) (Task, error) {
	t, ok := d.Tasks[id]
	if !ok {
		return Task{}, stale("task %s is over", id)
	}
	if t.Attempt != attempt {
		return Task{}, stale("task %s is at attempt %d, not %d", id, t.Attempt, attempt)
	}
	return t, nil
}

func (c *ClaimTask) apply(d *draft) error {
	t, err := d.task(c.Task, c.Attempt)
	if err != nil {
		return err
	}
	if err := d.sameSession(c.Node, c.Session); err != nil {
		return err
	}
	if d.Members[c.Node].Region != t.Region {
		return conflict("task %s belongs to region %s", c.Task, t.Region)
	}
	if t.Claim.Session != "" && t.Claim.Session != c.Session {
		return stale("task %s is claimed", c.Task)
	}
	t.Claim = Claim{Node: c.Node, Session: c.Session, Boot: d.Sessions[c.Node].Boot}
	d.Tasks[c.Task] = t
	return nil
}

func (c *FinishTask) apply(d *draft) error {
	if err := d.claimed(c.Task, c.Attempt, c.Session); err != nil {
		return err
	}
	t, bound := d.Tasks[c.Task], evidenceBytesMax
	if t.Run != "" {
		bound = runEvidenceBytesMax
	}
	if len(c.Evidence) > bound {
		return invalid("evidence of %d bytes, the state takes %d at most", len(c.Evidence), bound)
	}
	if t.Run != "" {
		d.endRun(t.Run, RunDone, "", c.Evidence)
		return nil
	}
	p, _, err := d.current(t.Ref)
	if err != nil {
		return err
	}
	d.Plans[t.Ref.Plan] = p.finished(t.Ref, d.at, c.Evidence)
	delete(d.Tasks, c.Task)
	return nil
}

func (c *FailTask) apply(d *draft) error {
	if err := d.claimed(c.Task, c.Attempt, c.Session); err != nil {
		return err
	}
	t, text := d.Tasks[c.Task], c.Error[:min(len(c.Error), 4096)]
	if t.Run != "" {
		d.endRun(t.Run, RunFailed, text, nil)
		return nil
	}
	p, _, err := d.current(t.Ref)
	if err != nil {
		return err
	}
	d.Plans[t.Ref.Plan] = p.record(t.Ref.Step, func(r *StepRecord) {
		if t.Ref.Undo > 0 {
			r.UndoState, r.UndoFailed, r.UndoNumber = StepFailed, text, t.Attempt
			return
		}
		r.State, r.Error, r.Number = StepFailed, text, t.Attempt
	})
	delete(d.Tasks, c.Task)
	return nil
}

func (c *RetryTask) apply(d *draft) error {
	p, s, err := d.current(c.Step)
	if err != nil {
		return err
	}
	if s.Decision() {
		return conflict("step %d of plan %s is a decision: the leader repeats it by itself", c.Step.Step+1, c.Step.Plan)
	}
	r := p.Journal[c.Step.Step]
	if c.Step.Undo > 0 && r.UndoState != StepFailed || c.Step.Undo == 0 && r.State != StepFailed {
		return conflict("step %d of plan %s has not failed", c.Step.Step+1, c.Step.Plan)
	}
	d.Plans[c.Step.Plan] = p.record(c.Step.Step, func(r *StepRecord) {
		if c.Step.Undo > 0 {
			r.UndoState, r.UndoTries = StepPending, 0
			return
		}
		r.State, r.Attempts = StepPending, 0
	})
	return nil
}

func (d *draft) dropTasks(plan PlanID) {
	for id, t := range d.Tasks {
		if t.Ref.Plan == plan {
			delete(d.Tasks, id)
		}
	}
}
