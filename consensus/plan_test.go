package consensus

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

func task(kind string, region topology.Region) Step { return Step{Kind: kind, Region: region} }

// moveSteps is a planned move in small: a decision and a task that can be
// undone, the point of no return, a task and a decision after it.
func moveSteps() []Step {
	stop := task("exec.stop", east)
	stop.Undo = []Step{task("exec.start", east), task("exec.check", east)}
	drain := step(StepDrain)
	drain.Undo = []Step{step(StepGrant), step(StepOpen)}
	return []Step{drain, stop, noReturn(StepGrant), task("exec.start", west), step(StepOpen)}
}

// works claims and finishes the task of a step, as the node of its region.
func (b *story) works(ref StepRef) *story {
	b.t.Helper()
	b.do(&StartStep{Step: ref})
	tk := b.Tasks[TaskOf(ref)]
	node, _ := b.NodeOf(tk.Region)
	session := b.Sessions[node].ID
	b.do(&ClaimTask{Task: TaskOf(ref), Attempt: tk.Attempt, Node: node, Session: session})
	return b.do(&FinishTask{Task: TaskOf(ref), Attempt: tk.Attempt, Session: session, Evidence: json.RawMessage(`{"by":"` + TaskOf(ref) + `"}`)})
}

func TestPlan_WalksForwardStepByStepToCompleted(t *testing.T) {
	b := newStory(t).held()
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, moveSteps()...)})
	at := func(i int) StepRef { return StepRef{Plan: "p1", Step: i} }
	b.refused(CodeStale, &StartStep{Step: at(1)})
	b.refused(CodeInvalid, &StartStep{Step: at(0)}) // a decision
	b.refused(CodeConflict, &FinishPlan{Plan: "p1"})
	b.do(&DrainRoles{Step: at(0), Roles: b.at(ingestion)})
	b.refused(CodeStale, &DrainRoles{Step: at(0), Roles: b.at(ingestion)}) // done
	b.works(at(1)).release(ingestion)
	b.do(&GrantRoles{Step: at(2), To: west, Roles: b.next(ingestion)}).planIs("p1", PlanGranted)
	if e := b.Plans["p1"].Epochs[ingestion]; e != 2 {
		t.Errorf("the plan is about epoch %d, want the granted 2", e)
	}
	b.refused(CodeConflict, &AbortPlan{Plan: "p1"})
	b.works(at(3)).do(&OpenRoles{Step: at(4), Roles: b.at(ingestion)})
	b.do(&FinishPlan{Plan: "p1"}).planIs("p1", PlanCompleted).roleIs(ingestion, Open, west, 2)
	if e, ok := b.Plans["p1"].Evidence("exec.stop"); !ok || string(e) != `{"by":"p1/02"}` {
		t.Errorf("evidence of the stop: %s, %v", e, ok)
	}
	if _, ok := b.Plans["p1"].Evidence("mirror.fence"); ok {
		t.Error("evidence of a step that was never there")
	}
	b.refused(CodeStale, &FinishPlan{Plan: "p1"}).refused(CodeStale, &AbortPlan{Plan: "p1"}).refused(CodeStale, &SupersedePlan{Plan: "p1"})
}

func TestPlan_AbortUndoesInReverseEachUndoInOrder(t *testing.T) {
	b := newStory(t).held()
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, moveSteps()...)})
	b.do(&DrainRoles{Step: StepRef{Plan: "p1"}, Roles: b.at(ingestion)}).release(ingestion)
	b.do(&StartStep{Step: StepRef{Plan: "p1", Step: 1}}) // begun, so it is undone, whatever it did
	b.refused(CodeConflict, &SupersedePlan{Plan: "p1"})
	b.do(&AbortPlan{Plan: "p1", Why: "lag rises"}).planIs("p1", PlanAborting)
	if len(b.Tasks) != 0 {
		t.Errorf("tasks outlive the abort: %v", b.Tasks)
	}
	b.refused(CodeStale, &AbortPlan{Plan: "p1"}).refused(CodeStale, &StartStep{Step: StepRef{Plan: "p1", Step: 1}})

	var order []string
	for range 10 {
		i, undo, left := b.Plans["p1"].CurrentUndo()
		if !left {
			break
		}
		b.refused(CodeConflict, &FinishPlan{Plan: "p1"})
		ref := StepRef{Plan: "p1", Step: i, Undo: undo}
		order = append(order, fmt.Sprintf("%d.%d", i, undo))
		if undo == 1 {
			b.refused(CodeStale, &StartStep{Step: StepRef{Plan: "p1", Step: i, Undo: 2}})
		}
		s, _ := b.Plans["p1"].At(ref)
		switch s.Kind {
		case StepGrant:
			b.do(&GrantRoles{Step: ref, To: east, Roles: b.next(ingestion)}).planIs("p1", PlanAborting)
		case StepOpen:
			b.do(&OpenRoles{Step: ref, Roles: b.at(ingestion)})
		default:
			b.works(ref)
		}
	}
	if got, want := fmt.Sprint(order), "[1.1 1.2 0.1 0.2]"; got != want {
		t.Errorf("undone in the order %s, want %s", got, want)
	}
	b.do(&FinishPlan{Plan: "p1"}).planIs("p1", PlanRolledBack).roleIs(ingestion, Open, east, 2)
}

// Abort and Grant compare and set one field: whichever entry comes first wins,
// and the other one reads who did.
func TestPlan_OfAbortAndGrantOneWins(t *testing.T) {
	ready := func() (*story, *AbortPlan, *GrantRoles) {
		b := newStory(t).held()
		b.do(b.expire(ingestion))
		b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), step(StepOpen))})
		return b, &AbortPlan{Plan: "p1", Why: "a person"}, &GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)}
	}
	b, abort, grant := ready()
	b.do(abort).refused(CodeStale, grant).roleIs(ingestion, Vacant, "", 1).planIs("p1", PlanAborting)
	b, abort, grant = ready()
	b.do(grant).refused(CodeConflict, abort).roleIs(ingestion, Closed, west, 2).planIs("p1", PlanGranted)
}

func TestPlan_TaskCanBeThePointOfNoReturn(t *testing.T) {
	b := newStory(t).held()
	burn := task("topic.delete", west)
	burn.NoReturn = true
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, burn)})
	b.do(&StartStep{Step: StepRef{Plan: "p1"}}).planIs("p1", PlanGranted).refused(CodeConflict, &AbortPlan{Plan: "p1"})
}

func TestPlan_StuckOneIsSupersededByAnother(t *testing.T) {
	b := newStory(t).held()
	b.do(b.expire(ingestion))
	b.do(&CreatePlan{ID: "p1", Plan: b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant), task("exec.start", west), step(StepOpen))})
	b.do(&GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)})
	b.do(&StartStep{Step: StepRef{Plan: "p1", Step: 1}})
	back := b.plan(Unplanned, west, east, onlyIngestion, noReturn(StepGrant))
	b.refused(CodeConflict, &CreatePlan{ID: "p2", Plan: back})
	inOne := *b
	inOne.refused(CodeStale, &CreatePlan{ID: "p2", Supersedes: "p1", Plan: Plan{Hash: "h", Steps: back.Steps, Roles: back.Roles}})
	inOne.planIs("p1", PlanGranted) // the refusal gave nothing up
	inOne.do(&CreatePlan{ID: "p2", Supersedes: "p1", Plan: back}).planIs("p1", PlanSuperseded).planIs("p2", PlanRunning)

	b.do(&SupersedePlan{Plan: "p1", Why: "west burns"}).planIs("p1", PlanSuperseded)
	if len(b.Tasks) != 0 {
		t.Errorf("tasks outlive their plan: %v", b.Tasks)
	}
	b.refused(CodeStale, &OpenRoles{Step: StepRef{Plan: "p1", Step: 2}, Roles: b.at(ingestion)})
	b.do(&CreatePlan{ID: "p2", Plan: back})
}

func TestPlan_IsRefusedWhenItIsNotWellFormedOrNotFresh(t *testing.T) {
	b := newStory(t).held()
	good := b.plan(Planned, east, west, onlyIngestion, step(StepDrain))
	with := func(change func(*Plan)) *CreatePlan {
		p := good
		change(&p)
		return &CreatePlan{ID: "p1", Plan: p}
	}
	b.refused(CodeInvalid, &CreatePlan{Plan: good})
	b.refused(CodeInvalid, with(func(p *Plan) { p.Hash = "" }))
	b.refused(CodeInvalid, with(func(p *Plan) { p.Steps = nil }))
	b.refused(CodeInvalid, with(func(p *Plan) { p.Steps = make([]Step, stepsMax+1) }))
	b.refused(CodeInvalid, with(func(p *Plan) { p.Steps = []Step{{Kind: "x", Undo: make([]Step, undosMax+1)}} }))
	b.refused(CodeMissing, with(func(p *Plan) { p.Roles = []topology.Role{"search"} }))
	b.refused(CodeStale, with(func(p *Plan) { p.Epochs = nil }))
	b.refused(CodeStale, with(func(p *Plan) { p.From, p.To = west, east })) // it is not held there
	b.do(&CreatePlan{ID: "p1", Plan: good}).refused(CodeStale, &CreatePlan{ID: "p1", Plan: good})
	b.refused(CodeConflict, &CreatePlan{ID: "p2", Plan: good})
	b.do(&CreatePlan{ID: "p3", Plan: b.plan(Planned, east, west, []topology.Role{query}, step(StepDrain))}) // another role
	if id, p, live := b.LivePlan(query); id != "p3" || !live || p.By != "test" || p.Created.IsZero() {
		t.Errorf("live plan of query: %s, %+v, %v", id, p, live)
	}
	for _, missing := range []Body{&AbortPlan{Plan: "px"}, &FinishPlan{Plan: "px"}, &SupersedePlan{Plan: "px"}, &StartStep{Step: StepRef{Plan: "px"}},
		&StartStep{Step: StepRef{Plan: "p1", Step: 7}}, &StartStep{Step: StepRef{Plan: "p1", Step: -1}}, &StartStep{Step: StepRef{Plan: "p1", Undo: 3}},
		&StartStep{Step: StepRef{Plan: "p1", Undo: -1}}} {
		b.refused(CodeMissing, missing)
	}
}

func TestPlan_ForARoleThatWasNeverHeldSurvivesASnapshot(t *testing.T) {
	b := newStory(t)
	p := b.plan(Unplanned, east, west, onlyIngestion, noReturn(StepGrant))
	p.Epochs = nil
	b.do(&CreatePlan{ID: "p1", Plan: p}) // each command of a story is applied to a snapshot, too
	b.do(&GrantRoles{Step: StepRef{Plan: "p1"}, To: west, Roles: b.next(ingestion)}).roleIs(ingestion, Closed, west, 1)
}

func TestPlan_FinishedOnesAreForgottenOldestFirst(t *testing.T) {
	b := newStory(t).held()
	for i := range plansKept + 5 {
		id := PlanID(fmt.Sprintf("p%02d", i))
		b.do(&CreatePlan{ID: id, Plan: b.plan(Planned, east, west, onlyIngestion, task("x", east))})
		b.do(&AbortPlan{Plan: id}).do(&FinishPlan{Plan: id})
	}
	_, oldest := b.Plans["p04"]
	_, kept := b.Plans["p05"]
	if len(b.Plans) != plansKept || oldest || !kept {
		t.Errorf("%d plans are kept, p04 %v, p05 %v", len(b.Plans), oldest, kept)
	}
}

func TestReseed_IsForARegionWithoutARoleAndOneAtATime(t *testing.T) {
	b := newStory(t).held()
	reseed := func(to topology.Region) Plan { return b.plan(Reseed, east, to, nil, task("topic.recreate", to)) }
	b.refused(CodeConflict, &CreatePlan{ID: "r1", Plan: reseed(east)})
	b.do(&CreatePlan{ID: "r1", Plan: reseed(west)})
	b.refused(CodeConflict, &CreatePlan{ID: "r2", Plan: reseed(west)})
}
