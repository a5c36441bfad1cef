package consensus

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// RunID names a run. It is a ULID, so it sorts by creation.
type RunID string

// Run is one piece of work of one region that belongs to no plan: a backup, a
// drill. It is a task like any other; what outlives the task is kept here.
type Run struct {
	Kind    string          `json:"kind"` // "backup", "drill"
	Region  topology.Region `json:"region"`
	Spec    json.RawMessage `json:"spec,omitempty"`
	Timeout time.Duration   `json:"timeout"`
	// Job and Slot say which scheduled time this run is for; empty when a
	// person asked for it.
	Job     string    `json:"job,omitempty"`
	Slot    time.Time `json:"slot,omitzero"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	State   RunState  `json:"state"`
	// Attempts counts the lives of the daemon that worked on it.
	Attempts int             `json:"attempts"`
	Error    string          `json:"error,omitempty"`
	Evidence json.RawMessage `json:"evidence,omitempty"`
	Ended    time.Time       `json:"ended,omitzero"`
}

// RunState is where a run is.
type RunState string

// The states of a run.
const (
	RunLive      RunState = "live" // waits for its region's daemon, or is worked on: see its task
	RunDone      RunState = "done"
	RunFailed    RunState = "failed"
	RunCancelled RunState = "cancelled"
)

// Bounds of what the state keeps.
const (
	runsKept            = 200 // that have ended
	runEvidenceBytesMax = 16 << 10
	runAttemptsMax      = 5 // lives of a daemon: what kills it each time must end
	setsKept            = 500
)

// SetID names a recovery set: the id of the run that took it.
type SetID string

// Set is the header of a sealed recovery set. The set itself is in its
// region's repository; the digest here is what its seal must have.
type Set struct {
	Region   topology.Region `json:"region"`
	Sealed   time.Time       `json:"sealed"`
	Digest   string          `json:"digest"` // hex SHA-256 of the seal
	Rows     uint64          `json:"rows"`
	Bytes    int64           `json:"bytes"`    // that a restore reads
	Uploaded int64           `json:"uploaded"` // of these, written by its run
	// Proof is what the last drill that reached a verdict found.
	Proof Proof `json:"proof,omitzero"`
}

// Proof is a drill's verdict on a set.
type Proof struct {
	Run    RunID     `json:"run"`
	At     time.Time `json:"at"`
	OK     bool      `json:"ok"`
	Why    string    `json:"why,omitempty"` // when not OK
	RTOMs  int64     `json:"rto_ms"`
	Report string    `json:"report"` // hex SHA-256 of the report
}

// StartRun creates a run and its task. With a job it also takes that job's
// slot, in the same entry: whoever leads, a slot is run once.
type StartRun struct {
	ID      RunID           `json:"id"`
	Kind    string          `json:"kind"`
	Region  topology.Region `json:"region"`
	Spec    json.RawMessage `json:"spec,omitempty"`
	Timeout time.Duration   `json:"timeout"`
	Job     string          `json:"job,omitempty"`
	Slot    time.Time       `json:"slot,omitzero"`
}

// CancelRun ends a live run.
type CancelRun struct {
	ID  RunID  `json:"id"`
	Why string `json:"why"`
}

// RecordSet puts the header of a sealed set into the log. It comes from the
// attempt of the run that sealed it.
type RecordSet struct {
	Task    TaskID    `json:"task"`
	Attempt int       `json:"attempt"`
	Session SessionID `json:"session"`
	ID      SetID     `json:"id"`
	Set     Set       `json:"set"`
}

// RecordProof puts a drill's verdict on a set into the log. A set that the
// log no longer keeps, or never had, is taken from Set.
type RecordProof struct {
	Task    TaskID    `json:"task"`
	Attempt int       `json:"attempt"`
	Session SessionID `json:"session"`
	ID      SetID     `json:"id"`
	Set     Set       `json:"set"`
	Proof   Proof     `json:"proof"`
}

func (*StartRun) kind() string    { return "run.start" }
func (*CancelRun) kind() string   { return "run.cancel" }
func (*RecordSet) kind() string   { return "set.record" }
func (*RecordProof) kind() string { return "set.prove" }

// TaskOfRun returns the task that carries out a run.
func TaskOfRun(id RunID) TaskID { return TaskID("run/" + string(id)) }

// LiveRun returns the live run of a kind in a region.
func (s State) LiveRun(kind string, region topology.Region) (RunID, bool) {
	for id, r := range s.Runs { // at most one matches: StartRun refuses a second
		if r.State == RunLive && r.Kind == kind && r.Region == region {
			return id, true
		}
	}
	return "", false
}

// takeSlot moves a job's last slot forward.
func (d *draft) takeSlot(job string, slot time.Time) error {
	if last, ok := d.Slots[job]; ok && !slot.After(last) {
		return stale("slot %s of %s was taken", slot.Format(time.RFC3339), job)
	}
	d.Slots[job] = slot
	return nil
}

func (c *StartRun) apply(d *draft) error {
	if c.ID == "" || c.Kind == "" || c.Timeout <= 0 {
		return invalid("a run needs an id, a kind and a timeout")
	}
	if r, known := d.Runs[c.ID]; known {
		if r.Kind == c.Kind && r.Region == c.Region && r.Slot.Equal(c.Slot) {
			return nil // its answer was lost and it is asked for again
		}
		return conflict("there is a run %s already", c.ID)
	}
	if _, ok := d.NodeOf(c.Region); !ok {
		return missing("no daemon serves region %q", string(c.Region))
	}
	if other, live := d.LiveRun(c.Kind, c.Region); live {
		return conflict("%s %s of %s is under way since %s: wait for its end, or end it (`holdfast %s cancel %s`)",
			c.Kind, other, c.Region, d.Runs[other].Created.UTC().Format(time.RFC3339), c.Kind, other)
	}
	if len(c.Spec) > runEvidenceBytesMax {
		return invalid("the spec of a run has %d bytes, the state takes %d at most", len(c.Spec), runEvidenceBytesMax)
	}
	if c.Job != "" {
		if err := d.takeSlot(c.Job, c.Slot); err != nil {
			return err
		}
	}
	d.Runs[c.ID] = Run{Kind: c.Kind, Region: c.Region, Spec: c.Spec, Timeout: c.Timeout, Job: c.Job, Slot: c.Slot, By: d.by, Created: d.at, State: RunLive}
	d.Tasks[TaskOfRun(c.ID)] = Task{Run: c.ID, Kind: c.Kind, Region: c.Region, Spec: c.Spec, Timeout: c.Timeout, Attempt: 1}
	return nil
}

func (c *CancelRun) apply(d *draft) error {
	r, known := d.Runs[c.ID]
	if !known {
		return missing("no run %s", c.ID)
	}
	if r.State != RunLive {
		return stale("run %s has ended: %s", c.ID, r.State)
	}
	d.endRun(c.ID, RunCancelled, cmp.Or(c.Why, "cancelled by "+d.by), nil)
	return nil
}

// endRun closes a live run and drops its task and the oldest ended runs.
func (d *draft) endRun(id RunID, how RunState, why string, evidence json.RawMessage) {
	r := d.Runs[id]
	r.State, r.Error, r.Evidence, r.Ended = how, why, evidence, d.at
	r.Attempts = d.Tasks[TaskOfRun(id)].Attempt
	d.Runs[id] = r
	delete(d.Tasks, TaskOfRun(id))
	var ended []RunID
	for _, id := range slices.Sorted(maps.Keys(d.Runs)) {
		if d.Runs[id].State != RunLive {
			ended = append(ended, id)
		}
	}
	for _, old := range ended[:max(0, len(ended)-runsKept)] {
		delete(d.Runs, old)
	}
}

// restarted is what becomes of a task when its daemon begins a new life.
func (d *draft) restarted(id TaskID, t Task) {
	t.Claim = Claim{}
	t.Attempt++
	d.Tasks[id] = t
	if t.Run != "" && t.Attempt > runAttemptsMax {
		d.endRun(t.Run, RunFailed, fmt.Sprintf("its daemon was restarted %d times during it", t.Attempt-1), nil)
	}
}

func (c *RecordSet) apply(d *draft) error {
	if err := d.claimed(c.Task, c.Attempt, c.Session); err != nil {
		return err
	}
	return d.keepSet(c.ID, c.Set)
}

// claimed says whether a session works on an attempt.
func (d *draft) claimed(id TaskID, attempt int, session SessionID) error {
	t, err := d.task(id, attempt)
	if err != nil {
		return err
	}
	if session == "" || t.Claim.Session != session {
		return stale("task %s is claimed by another session", id)
	}
	return nil
}

// keepSet adds the header of a set, or finds that the log has the same.
func (d *draft) keepSet(id SetID, set Set) error {
	if id == "" || set.Digest == "" || set.Region == "" {
		return invalid("the header of a set needs an id, a digest and a region")
	}
	if known, ok := d.Sets[id]; ok {
		if known.Digest != set.Digest {
			return conflict("set %s is in the log with a seal of another digest (%s, not %s): its seal was replaced", id, short(known.Digest), short(set.Digest))
		}
		return nil
	}
	set.Proof = Proof{}
	d.Sets[id] = set
	d.dropSets(set.Region)
	return nil
}

// dropSets forgets the oldest headers of a region beyond setsKept, never the
// newest one that a drill has proven. The sets themselves are in the store.
func (d *draft) dropSets(region topology.Region) {
	var ids []SetID
	proven := SetID("")
	for _, id := range slices.Sorted(maps.Keys(d.Sets)) {
		if d.Sets[id].Region != region {
			continue
		}
		ids = append(ids, id)
		if d.Sets[id].Proof.OK {
			proven = id
		}
	}
	for _, id := range ids[:max(0, len(ids)-setsKept)] {
		if id != proven {
			delete(d.Sets, id)
		}
	}
}

func (c *RecordProof) apply(d *draft) error {
	if err := d.claimed(c.Task, c.Attempt, c.Session); err != nil {
		return err
	}
	if err := d.keepSet(c.ID, c.Set); err != nil {
		return err
	}
	set, kept := d.Sets[c.ID]
	if !kept {
		return conflict("set %s is older than the %d sets of %s that the log keeps", c.ID, setsKept, c.Set.Region)
	}
	set.Proof = c.Proof
	d.Sets[c.ID] = set
	return nil
}
