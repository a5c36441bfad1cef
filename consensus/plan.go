package consensus

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// PlanID names a plan. It sorts by creation.
type PlanID string

// PlanKind says what a plan is for.
type PlanKind string

const (
	// Planned moves roles with the help of both regions; nothing is lost.
	Planned PlanKind = "planned"
	// Unplanned moves roles without the old region; loss is stated as a bound.
	Unplanned PlanKind = "unplanned"
	// Reseed discards ranges of a standby's topics and mirrors them anew.
	Reseed PlanKind = "reseed"
)

// PlanPhase is where a plan is:
//
//	Running → Granted → Completed        Granted is past the point of no return
//	Running → Aborting → RolledBack
//	Aborting, Granted → Superseded       by a person, or by a failover that must not wait
type PlanPhase string

// The phases of a plan.
const (
	PlanRunning    PlanPhase = "running"
	PlanAborting   PlanPhase = "aborting"
	PlanGranted    PlanPhase = "granted"
	PlanCompleted  PlanPhase = "completed"
	PlanRolledBack PlanPhase = "rolled-back"
	PlanSuperseded PlanPhase = "superseded"
)

// Live reports whether the plan still acts.
func (p PlanPhase) Live() bool { return p == PlanRunning || p == PlanAborting || p == PlanGranted }

// plansKept bounds the finished plans in the state; stepsMax and undosMax bound one plan.
const (
	plansKept = 16
	stepsMax  = 64
	undosMax  = 8
)

// Steps that are decisions: entries of the log whose effect and journal line
// are one Apply. All other kinds are tasks of a region.
const (
	StepDrain       = "role.drain"
	StepGrant       = "role.grant"
	StepOpen        = "role.open"
	StepVoid        = "role.void"
	StepLinkStart   = "link.start"
	StepLinkReverse = "link.reverse"
)

// Plan is a durable saga: its steps are taken in order; until the point of no
// return a failure undoes them in reverse; after it there is only forward.
type Plan struct {
	Kind   PlanKind                `json:"kind"`
	Hash   string                  `json:"hash"` // over what the plan was decided on
	From   topology.Region         `json:"from"`
	To     topology.Region         `json:"to"`
	Roles  []topology.Role         `json:"roles,omitempty"`
	Epochs map[topology.Role]Epoch `json:"epochs,omitempty"` // when it was made; the current ones once granted
	// LinkTurn is State.LinkTurn when it was made; 0 if no link had turned.
	LinkTurn uint64          `json:"link_turn,omitempty"`
	Fenced   topology.Region `json:"fenced,omitempty"` // attested to be cut off
	Reason   string          `json:"reason,omitempty"`
	Auto     bool            `json:"auto,omitempty"` // made by the leader, not by a person
	By       string          `json:"by"`
	Created  time.Time       `json:"created"`
	Ended    time.Time       `json:"ended,omitzero"`
	Phase    PlanPhase       `json:"phase"`
	Why      string          `json:"why,omitempty"` // it was aborted or superseded
	Steps    []Step          `json:"steps"`
	Journal  []StepRecord    `json:"journal"` // as long as Steps
	Bound    LossBound       `json:"bound,omitzero"`
}

// LossBound states what an unplanned move may lose, in records.
type LossBound struct {
	Min  int64   `json:"min"`            // seen at the source and not mirrored
	Max  int64   `json:"max"`            // and what may have been accepted unseen
	Rate float64 `json:"rate,omitempty"` // records per second that Max assumes
	// Basis says from what the bound was computed, for people.
	Basis string `json:"basis,omitempty"`
}

// Step is one unit of a plan.
type Step struct {
	Kind   string          `json:"kind"`
	Region topology.Region `json:"region,omitempty"` // who works; empty for a decision
	Title  string          `json:"title"`            // one line, for people
	Spec   json.RawMessage `json:"spec,omitempty"`
	// NoReturn marks the step that cannot be undone once begun.
	NoReturn bool `json:"no_return,omitempty"`
	// Undo lists what takes the step back, in order. Only used before NoReturn.
	Undo []Step `json:"undo,omitempty"`
	// Timeout bounds one attempt of a task.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Decision reports whether the step is a log entry rather than a region's task.
func (s Step) Decision() bool { return s.Region == "" }

// StepState is where a step is.
type StepState string

// The states of a step.
const (
	StepPending StepState = "pending"
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed" // its last attempt failed
)

// StepRecord is the journal of one step.
type StepRecord struct {
	State    StepState `json:"state"`
	Attempts int       `json:"attempts,omitempty"` // since the start or the last retry
	// Number is that of the step's last attempt, and UndoNumber that of the
	// current undo step. They only rise, so no two attempts of a task share one.
	Number     int             `json:"number,omitempty"`
	UndoNumber int             `json:"undo_number,omitempty"`
	Error      string          `json:"error,omitempty"`
	Evidence   json.RawMessage `json:"evidence,omitempty"`
	Started    time.Time       `json:"started,omitzero"`
	Finished   time.Time       `json:"finished,omitzero"`
	// Undone counts the undo steps that are done; UndoFailed is the error of
	// the current one.
	Undone     int       `json:"undone,omitempty"`
	UndoState  StepState `json:"undo_state,omitempty"`
	UndoFailed string    `json:"undo_failed,omitempty"`
	UndoTries  int       `json:"undo_tries,omitempty"`
}

// StepRef names a step of a plan. Undo is 0 for the step itself, else the
// 1-based number of the undo step.
type StepRef struct {
	Plan PlanID `json:"plan"`
	Step int    `json:"step"`
	Undo int    `json:"undo,omitempty"`
}

// CreatePlan starts a plan.
type CreatePlan struct {
	ID   PlanID `json:"id"`
	Plan Plan   `json:"plan"`
	// Supersedes names a live plan that this one replaces, in one entry: there
	// is no instant at which neither decides, and a refusal gives nothing up.
	Supersedes PlanID `json:"supersedes,omitempty"`
}

// StartStep hands the current step to its region as a task.
type StartStep struct {
	Step StepRef `json:"step"`
}

// AbortPlan turns a running plan back. It and Grant compare and set the phase.
type AbortPlan struct {
	Plan PlanID `json:"plan"`
	Why  string `json:"why"`
}

// FinishPlan closes a plan whose last step, or last undo, is done.
type FinishPlan struct {
	Plan PlanID `json:"plan"`
}

// SupersedePlan gives up a plan that cannot go on, so that another may be made.
type SupersedePlan struct {
	Plan PlanID `json:"plan"`
	Why  string `json:"why"`
}

// AckFailover says that a person has seen an unplanned failover: the next
// automatic one is no longer blocked.
type AckFailover struct {
	Role topology.Role `json:"role"`
}

func (*CreatePlan) kind() string    { return "plan.create" }
func (*StartStep) kind() string     { return "plan.step" }
func (*AbortPlan) kind() string     { return "plan.abort" }
func (*FinishPlan) kind() string    { return "plan.finish" }
func (*SupersedePlan) kind() string { return "plan.supersede" }
func (*AckFailover) kind() string   { return "failover.ack" }

// Current returns the step that a running or granted plan is at, or false
// when all are done.
func (p Plan) Current() (int, bool) {
	for i, r := range p.Journal {
		if r.State != StepDone {
			return i, true
		}
	}
	return 0, false
}

// CurrentUndo returns the undo step that an aborting plan is at: the first
// one not done of the last step that was begun, or false when all is undone.
func (p Plan) CurrentUndo() (step, undo int, ok bool) {
	for i := len(p.Journal) - 1; i >= 0; i-- {
		r := p.Journal[i]
		if r.State != StepPending && r.Undone < len(p.Steps[i].Undo) {
			return i, r.Undone + 1, true
		}
	}
	return 0, 0, false
}

// Supersedable reports whether another plan may replace p: it is being undone,
// or granted. One that only has to turn the mirror round does so by itself;
// giving it up would leave open roles and no mirror.
func (p Plan) Supersedable() bool {
	switch p.Phase {
	case PlanAborting:
		return true
	case PlanGranted:
		i, left := p.Current()
		return !left || p.Steps[i].Kind != StepLinkReverse
	default:
		return false
	}
}

// At returns the step that ref names.
func (p Plan) At(ref StepRef) (Step, bool) {
	if ref.Step < 0 || ref.Step >= len(p.Steps) {
		return Step{}, false
	}
	s := p.Steps[ref.Step]
	if ref.Undo == 0 {
		return s, true
	}
	if ref.Undo < 1 || ref.Undo > len(s.Undo) {
		return Step{}, false
	}
	return s.Undo[ref.Undo-1], true
}

// Evidence returns what the last done step of a kind left.
func (p Plan) Evidence(kind string) (json.RawMessage, bool) {
	for i := len(p.Steps) - 1; i >= 0; i-- {
		if p.Steps[i].Kind == kind && p.Journal[i].State == StepDone {
			return p.Journal[i].Evidence, true
		}
	}
	return nil, false
}

func (p Plan) moves(role topology.Role) bool { return slices.Contains(p.Roles, role) }

// exactly refuses a decision about other roles than those of the plan: each of
// its steps concerns all of them.
func (p Plan) exactly(roles []RoleEpoch) error {
	same := slices.EqualFunc(roles, p.Roles, func(re RoleEpoch, name topology.Role) bool { return re.Role == name })
	if !same {
		return invalid("a step of a plan decides about all of its roles, %v, and no others", p.Roles)
	}
	return nil
}

// destination is the region that a grant of the plan goes to.
func (p Plan) destination(ref StepRef) topology.Region {
	if ref.Undo > 0 {
		return p.From
	}
	return p.To
}

func (p Plan) withEpoch(role topology.Role, e Epoch) map[topology.Role]Epoch {
	m := map[topology.Role]Epoch{} // a snapshot leaves an empty one out
	maps.Copy(m, p.Epochs)
	m[role] = e
	return m
}

// record replaces the journal line of a step in a fresh copy.
func (p Plan) record(step int, change func(*StepRecord)) Plan {
	p.Journal = slices.Clone(p.Journal)
	change(&p.Journal[step])
	return p
}

// LivePlan returns the live plan that moves role, if any.
func (s State) LivePlan(role topology.Role) (PlanID, Plan, bool) {
	id, p := s.livePlanOf(role)
	return id, p, id != ""
}

func (s State) livePlanOf(role topology.Role) (PlanID, Plan) {
	for _, id := range slices.Sorted(maps.Keys(s.Plans)) {
		if p := s.Plans[id]; p.Phase.Live() && p.moves(role) {
			return id, p
		}
	}
	return "", Plan{}
}

func (s State) livePlan() (PlanID, Plan) {
	for _, id := range slices.Sorted(maps.Keys(s.Plans)) {
		if p := s.Plans[id]; p.Phase.Live() {
			return id, p
		}
	}
	return "", Plan{}
}

// current checks that ref names the step which its plan is at.
func (d *draft) current(ref StepRef) (Plan, Step, error) {
	p, ok := d.Plans[ref.Plan]
	if !ok {
		return Plan{}, Step{}, missing("no plan %s", ref.Plan)
	}
	s, ok := p.At(ref)
	if !ok {
		return Plan{}, Step{}, missing("plan %s has no step %d (undo %d)", ref.Plan, ref.Step, ref.Undo)
	}
	if ref.Undo > 0 {
		step, undo, left := p.CurrentUndo()
		if p.Phase != PlanAborting || !left || step != ref.Step || undo != ref.Undo {
			return Plan{}, Step{}, stale("plan %s (%s) is not at undo %d of step %d", ref.Plan, p.Phase, ref.Undo, ref.Step+1)
		}
		return p, s, nil
	}
	step, left := p.Current()
	if (p.Phase != PlanRunning && p.Phase != PlanGranted) || !left || step != ref.Step {
		return Plan{}, Step{}, stale("plan %s (%s) is not at step %d", ref.Plan, p.Phase, ref.Step+1)
	}
	return p, s, nil
}

// decide carries out a decision step: effect and journal line are one entry.
func (d *draft) decide(ref StepRef, kind string, effect func(Plan) error) error {
	p, s, err := d.current(ref)
	if err != nil {
		return err
	}
	if s.Kind != kind {
		return invalid("step %d of plan %s is %s, not %s", ref.Step+1, ref.Plan, s.Kind, kind)
	}
	if err := effect(p); err != nil {
		return err
	}
	p = d.Plans[ref.Plan]
	if s.NoReturn && ref.Undo == 0 {
		p.Phase = PlanGranted
	}
	if kind == StepGrant && ref.Undo == 0 {
		for _, name := range p.Roles {
			p.Epochs = p.withEpoch(name, d.Roles[name].Epoch)
		}
	}
	d.Plans[ref.Plan] = p.finished(ref, d.at, nil)
	return nil
}

// finished marks a step, or an undo step, done.
func (p Plan) finished(ref StepRef, at time.Time, evidence json.RawMessage) Plan {
	return p.record(ref.Step, func(r *StepRecord) {
		if ref.Undo > 0 {
			r.Undone, r.UndoState, r.UndoFailed, r.UndoTries, r.UndoNumber = ref.Undo, StepPending, "", 0, 0
			return
		}
		if r.Started.IsZero() {
			r.Started = at
		}
		r.State, r.Error, r.Evidence, r.Finished = StepDone, "", evidence, at
	})
}

func (c *CreatePlan) apply(d *draft) error {
	p := c.Plan
	switch {
	case c.ID == "" || p.Hash == "" || len(p.Steps) == 0:
		return invalid("a plan needs an id, a hash and steps")
	case len(p.Steps) > stepsMax:
		return invalid("a plan has %d steps at most", stepsMax)
	}
	for _, s := range p.Steps {
		if len(s.Undo) > undosMax {
			return invalid("step %s has more than %d undo steps", s.Kind, undosMax)
		}
	}
	if _, taken := d.Plans[c.ID]; taken {
		return stale("plan %s exists", c.ID)
	}
	if c.Supersedes != "" {
		if err := (&SupersedePlan{Plan: c.Supersedes, Why: "replaced by plan " + string(c.ID)}).apply(d); err != nil {
			return err
		}
	}
	if d.Settings.Observe {
		return conflict("mode is observe: holdfast drives nothing; set mode: active and apply the configuration")
	}
	for _, name := range p.Roles {
		r, err := d.role(name)
		if err != nil {
			return err
		}
		if id, live := d.livePlanOf(name); id != "" {
			return conflict("plan %s (%s) is live for role %s: one at a time", id, live.Phase, name)
		}
		if r.Epoch != p.Epochs[name] {
			return stale("role %s is at epoch %d, the plan was made at %d: plan again", name, r.Epoch, p.Epochs[name])
		}
		if p.Kind == Planned && r.Holder != p.From {
			return stale("role %s is %s, the plan moves it from %s: plan again", name, r.describe(), p.From)
		}
		if p.Auto && !r.Failover.IsZero() && d.at.Before(r.Failover.Add(d.Settings.AntiFlap)) {
			return conflict("role %s failed over at %s: the next automatic one waits until %s, or for `holdfast failover ack`",
				name, r.Failover.UTC().Format(time.TimeOnly), r.Failover.Add(d.Settings.AntiFlap).UTC().Format(time.TimeOnly))
		}
		if pause, ok := d.Pauses[name]; p.Auto && ok && d.at.Before(pause.Until) {
			return conflict("role %s is paused until %s", name, pause.Until.UTC().Format(time.RFC3339))
		}
	}
	if id, live := d.livePlan(); id != "" && (p.Kind == Reseed || live.Kind == Reseed) {
		return conflict("plan %s (%s) is live: topics are recreated only while no role moves, one plan at a time", id, live.Phase)
	}
	if turn := d.LinkTurn(); p.LinkTurn != 0 && p.LinkTurn != turn && (p.Kind == Reseed || p.moves(topology.Ingestion)) {
		return stale("the links between the regions changed since the plan was made: plan again")
	}
	if p.Kind == Reseed {
		for name, r := range d.Roles {
			if r.Holder == p.To {
				return conflict("%s holds %s: only a standby is reseeded", p.To, name)
			}
		}
	}
	p.Created, p.Phase, p.By = d.at, PlanRunning, d.by
	p.Journal = make([]StepRecord, len(p.Steps))
	for i := range p.Journal {
		p.Journal[i].State = StepPending
	}
	if p.Epochs == nil {
		p.Epochs = map[topology.Role]Epoch{}
	}
	d.Plans[c.ID] = p
	d.forgetOldPlans()
	return nil
}

func (d *draft) forgetOldPlans() {
	ended := slices.Sorted(maps.Keys(d.Plans))
	ended = slices.DeleteFunc(ended, func(id PlanID) bool { return d.Plans[id].Phase.Live() })
	slices.SortStableFunc(ended, func(a, b PlanID) int {
		return cmp.Or(d.Plans[a].Ended.Compare(d.Plans[b].Ended), cmp.Compare(a, b))
	})
	for len(ended) > plansKept {
		delete(d.Plans, ended[0])
		ended = ended[1:]
	}
}

func (c *StartStep) apply(d *draft) error {
	p, s, err := d.current(c.Step)
	if err != nil {
		return err
	}
	if s.Decision() {
		return invalid("step %d of plan %s is a decision, not a task", c.Step.Step+1, c.Step.Plan)
	}
	id := TaskOf(c.Step)
	if _, running := d.Tasks[id]; running {
		return stale("task %s is running", id)
	}
	attempt := 1
	p = p.record(c.Step.Step, func(r *StepRecord) {
		if c.Step.Undo > 0 {
			r.UndoTries++
			r.UndoNumber++
			r.UndoState, r.UndoFailed = StepRunning, ""
			attempt = r.UndoNumber
			return
		}
		r.Attempts++
		r.Number++
		attempt = r.Number
		r.State, r.Error = StepRunning, ""
		if r.Started.IsZero() {
			r.Started = d.at
		}
	})
	if s.NoReturn && c.Step.Undo == 0 {
		p.Phase = PlanGranted
	}
	d.Plans[c.Step.Plan] = p
	d.Tasks[id] = Task{Ref: c.Step, Kind: s.Kind, Region: s.Region, Spec: s.Spec, Timeout: s.Timeout, Attempt: attempt}
	return nil
}

func (c *AbortPlan) apply(d *draft) error {
	p, ok := d.Plans[c.Plan]
	if !ok {
		return missing("no plan %s", c.Plan)
	}
	switch p.Phase {
	case PlanRunning:
	case PlanGranted:
		return conflict("plan %s is past its point of no return: it only goes forward (`holdfast failover retry`), or a new plan moves back", c.Plan)
	default:
		return stale("plan %s is %s", c.Plan, p.Phase)
	}
	p.Phase, p.Why = PlanAborting, c.Why
	d.Plans[c.Plan] = p
	d.dropTasks(c.Plan)
	return nil
}

func (c *FinishPlan) apply(d *draft) error {
	p, ok := d.Plans[c.Plan]
	if !ok {
		return missing("no plan %s", c.Plan)
	}
	switch p.Phase {
	case PlanRunning, PlanGranted:
		if i, left := p.Current(); left {
			return conflict("plan %s is at step %d of %d", c.Plan, i+1, len(p.Steps))
		}
		p.Phase = PlanCompleted
	case PlanAborting:
		if i, _, left := p.CurrentUndo(); left {
			return conflict("plan %s still undoes step %d", c.Plan, i+1)
		}
		p.Phase = PlanRolledBack
	default:
		return stale("plan %s is %s", c.Plan, p.Phase)
	}
	p.Ended = d.at
	d.Plans[c.Plan] = p
	d.forgetOldPlans()
	return nil
}

func (c *SupersedePlan) apply(d *draft) error {
	p, ok := d.Plans[c.Plan]
	if !ok {
		return missing("no plan %s", c.Plan)
	}
	switch p.Phase {
	case PlanAborting, PlanGranted:
		if !p.Supersedable() {
			return conflict("plan %s only has to turn the mirror round: wait for it", c.Plan)
		}
	case PlanRunning:
		return conflict("plan %s is running: abort it first", c.Plan)
	default:
		return stale("plan %s is %s", c.Plan, p.Phase)
	}
	p.Phase, p.Why, p.Ended = PlanSuperseded, c.Why, d.at
	d.Plans[c.Plan] = p
	d.dropTasks(c.Plan)
	d.forgetOldPlans()
	return nil
}

func (c *AckFailover) apply(d *draft) error {
	r, err := d.role(c.Role)
	if err != nil {
		return err
	}
	if r.Failover.IsZero() {
		return stale("role %s has no failover to acknowledge", c.Role)
	}
	r.Failover = time.Time{}
	d.Roles[c.Role] = r
	return nil
}
