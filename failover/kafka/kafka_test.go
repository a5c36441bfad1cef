package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/agent"
)

const link = consensus.LinkID("us-east→eu-west")

// fake is a region whose answers are scripted.
type fake struct {
	ends   func() (consensus.Offsets, error)
	lag    func() (map[string]int64, error)
	stop   func() (Stopped, error)
	groups func(fromSource bool) (Groups, error)
	reseed []string
	closed func() ([]string, error)
	fenced func(to consensus.Offsets) (Fenced, error)
	leapt  func(to consensus.Offsets) (consensus.Offsets, error)
	state  consensus.State
}

func (f *fake) CloseTransactions(context.Context) ([]string, error) { return f.closed() }
func (f *fake) Fence(_ context.Context, _ consensus.LinkID, to consensus.Offsets) (Fenced, error) {
	return f.fenced(to)
}
func (f *fake) Leap(_ context.Context, _ consensus.LinkID, to consensus.Offsets) (consensus.Offsets, error) {
	return f.leapt(to)
}

func (f *fake) Ends(context.Context) (consensus.Offsets, error) { return f.ends() }
func (f *fake) GroupLag(context.Context, []string) (map[string]int64, error) {
	return f.lag()
}
func (f *fake) StopMirror(context.Context, consensus.LinkID) (Stopped, error) { return f.stop() }
func (f *fake) WriteGroups(_ context.Context, _ consensus.LinkID, _ consensus.Offsets, fromSource bool) (Groups, error) {
	return f.groups(fromSource)
}
func (f *fake) Reseed(_ context.Context, _ consensus.LinkID, topics []string) error {
	f.reseed = topics
	return nil
}
func (f *fake) Canary(context.Context) ([]Check, error) { return []Check{{Name: "kafka"}}, nil }
func (f *fake) State() consensus.State                  { return f.state }

// tape is a log whose answers are scripted: one error each, then nil.
type tape struct {
	took    []consensus.Body
	answers []error
}

func (l *tape) Propose(_ context.Context, c consensus.Command) (consensus.Index, error) {
	l.took = append(l.took, c.Body)
	if len(l.answers) > 0 {
		err := l.answers[0]
		l.answers = l.answers[1:]
		return 0, err
	}
	return 1, nil
}

func at(n int64) consensus.Offsets { return consensus.Offsets{"events": {0: n}} }

func always(o consensus.Offsets) func() (consensus.Offsets, error) {
	return func() (consensus.Offsets, error) { return o, nil }
}

// failing answers with err n times, then as next does.
func failing[T any](n int, err error, next T) func() (T, error) {
	return func() (T, error) {
		if n > 0 {
			n--
			var none T
			return none, err
		}
		return next, nil
	}
}

// task is a step of a plan that recorded its ends at n.
func task(kind consensus.PlanKind, n int64, spec any) agent.Task {
	evidence, _ := json.Marshal(EndsEvidence{at(n)})
	raw, _ := json.Marshal(spec)
	return agent.Task{Task: consensus.Task{Kind: "k", Spec: raw}, Plan: consensus.Plan{
		Kind: kind, Steps: []consensus.Step{{Kind: failover.KindKafkaEnds}}, Journal: []consensus.StepRecord{{State: consensus.StepDone, Evidence: evidence}},
	}}
}

var ours = agent.Fence{Check: func() error { return nil }}

// do runs a step in a bubble and returns what it says and how long it took.
func do(t *testing.T, f *fake, l *tape, kind string, task agent.Task, timeout time.Duration) (string, time.Duration, error) {
	t.Helper()
	var out agent.Evidence
	var err error
	var took time.Duration
	synctest.Test(t, func(t *testing.T) {
		for _, r := range Runners(f, l, "test") {
			if r.Kind() == kind {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				start := time.Now()
				out, err = r.Do(ctx, task, ours)
				took = time.Since(start)
			}
		}
	})
	return string(out), took, err
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("want an error with %q, got %v", part, err)
		}
	}
}

var errAway = errors.New("no leader for events/0")

func TestDrain_EndsWithTheLagOrWithItsTime(t *testing.T) {
	spec := failover.DrainSpec{Groups: []string{"g"}, Timeout: 5 * time.Second}
	f := &fake{lag: failing(2, errAway, map[string]int64{"g": 0})}
	out, took, err := do(t, f, nil, failover.KindKafkaDrain, task(consensus.Planned, 0, spec), time.Minute)
	if err != nil || took > time.Second || strings.Contains(out, "timed_out") {
		t.Errorf("drained: %s after %s, %v", out, took, err)
	}
	f.lag = failing(0, nil, map[string]int64{"g": 7})
	out, took, err = do(t, f, nil, failover.KindKafkaDrain, task(consensus.Planned, 0, spec), time.Minute)
	if err != nil || took < spec.Timeout || took > spec.Timeout+time.Second || !strings.Contains(out, `"timed_out":true`) || !strings.Contains(out, `"g":7`) {
		t.Errorf("not drained: %s after %s, %v", out, took, err)
	}
}

func TestEnds_OutlastsAStoreThatIsAwayForAMoment(t *testing.T) {
	f := &fake{ends: failing(10, errAway, at(5))}
	if out, _, err := do(t, f, nil, failover.KindKafkaEnds, task(consensus.Planned, 0, nil), time.Minute); err != nil || !strings.Contains(out, `"0":5`) {
		t.Errorf("%s, %v", out, err)
	}
	f.ends = failing(1<<30, errAway, at(5))
	_, took, err := do(t, f, nil, failover.KindKafkaEnds, task(consensus.Planned, 0, nil), time.Minute)
	says(t, err, "no leader for events/0")
	if took < patience || took > patience+time.Second {
		t.Errorf("gave up after %s, patience is %s", took, patience)
	}
}

func TestReach_WaitsForTheMirrorAndRefusesWhatTheSourceLacks(t *testing.T) {
	n := int64(0)
	f := &fake{ends: func() (consensus.Offsets, error) {
		if n++; n%3 == 0 { // it is at work
			return nil, ErrMoving
		}
		return at(min(n, 100)), nil
	}}
	if _, took, err := do(t, f, nil, failover.KindMirrorReach, task(consensus.Planned, 100, nil), time.Minute); err != nil || took < 15*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	f.ends = always(at(99))
	_, _, err := do(t, f, nil, failover.KindMirrorReach, task(consensus.Planned, 100, nil), time.Minute)
	says(t, err, "has not reached", "99, want 100")
	f.ends = func() (consensus.Offsets, error) { return nil, ErrMoving }
	_, _, err = do(t, f, nil, failover.KindMirrorReach, task(consensus.Planned, 100, nil), time.Minute)
	says(t, err, "has not reached")
	f.ends = always(at(101))
	_, _, err = do(t, f, nil, failover.KindMirrorReach, task(consensus.Planned, 100, nil), time.Minute)
	says(t, err, "the source does not", "101, want 100")
}

func TestConfirm_SeesOneRecordMoreOrLess(t *testing.T) {
	f := &fake{ends: always(at(100))}
	if _, _, err := do(t, f, nil, failover.KindKafkaSame, task(consensus.Planned, 100, nil), time.Minute); err != nil {
		t.Error(err)
	}
	f.ends = always(at(101))
	_, _, err := do(t, f, nil, failover.KindKafkaSame, task(consensus.Planned, 100, nil), time.Minute)
	says(t, err, "something still writes", "101, want 100")
	f.ends = always(at(99))
	_, _, err = do(t, f, nil, failover.KindKafkaSame, task(consensus.Planned, 100, nil), time.Minute)
	says(t, err, "lost records")
	f.ends = always(consensus.Offsets{"events": {0: 100}, "late": {0: 1}})
	_, _, err = do(t, f, nil, failover.KindKafkaSame, task(consensus.Planned, 100, nil), time.Minute)
	says(t, err, "late")
	bare := agent.Task{Task: consensus.Task{Kind: "k"}}
	_, _, err = do(t, f, nil, failover.KindKafkaSame, bare, time.Minute)
	says(t, err, "no recorded ends")
}

func withLink(phase consensus.LinkPhase) consensus.State {
	s := consensus.NewState()
	s.Links[link] = consensus.Link{From: "us-east", To: "eu-west", Epoch: 3, Phase: phase, Ends: at(100), SourceEnds: at(120)}
	return s
}

func TestStop_RecordsWhereTheMirrorStandsUntilTheLogHasIt(t *testing.T) {
	spec := failover.LinkSpec{Link: link}
	f := &fake{state: withLink(consensus.LinkRunning), stop: failing(2, ErrMoving, Stopped{Ends: at(100), Clean: true})}
	l := &tape{answers: []error{consensus.ErrNoLeader, consensus.ErrUnknownOutcome, &consensus.Refusal{Code: consensus.CodeStale, Why: "it is in the log"}}}
	out, _, err := do(t, f, l, failover.KindMirrorStop, task(consensus.Planned, 100, spec), time.Minute)
	if err != nil || !strings.Contains(out, `"clean":true`) || len(l.took) != 3 {
		t.Fatalf("%s, %v, %d proposals", out, err, len(l.took))
	}
	if e, ok := l.took[0].(*consensus.EndLink); !ok || e.Epoch != 3 || e.Ends["events"][0] != 100 {
		t.Errorf("proposed %+v", l.took[0])
	}

	f.stop = failing(0, nil, Stopped{Ends: at(99)})
	_, _, err = do(t, f, &tape{}, failover.KindMirrorStop, task(consensus.Planned, 100, spec), time.Minute)
	says(t, err, "does not stand at the recorded ends", "99, want 100")
	l = &tape{}
	if _, _, err := do(t, f, l, failover.KindMirrorStop, task(consensus.Unplanned, 100, spec), time.Minute); err != nil || len(l.took) != 1 {
		t.Errorf("an unplanned stop asks for no ends: %v", err)
	}
}

func TestStop_OfALinkThatEndedTouchesNothing(t *testing.T) {
	f := &fake{state: withLink(consensus.LinkEnded)} // StopMirror would panic
	l := &tape{}
	out, _, err := do(t, f, l, failover.KindMirrorStop, task(consensus.Unplanned, 100, failover.LinkSpec{Link: link}), time.Minute)
	if err != nil || !strings.Contains(out, `"0":120`) || len(l.took) != 0 {
		t.Errorf("%s, %v, %v", out, err, l.took)
	}
	_, _, err = do(t, f, l, failover.KindMirrorStop, task(consensus.Unplanned, 100, failover.LinkSpec{Link: "no such"}), time.Minute)
	says(t, err, "no link")
}

func TestStop_RecordsNothingOnceTheTaskIsNoLongerOurs(t *testing.T) {
	l := &tape{}
	s := &steps{&fake{}, l, "test"}
	err := s.record(t.Context(), agent.Fence{Check: func() error { return agent.ErrLost }}, &consensus.EndLink{})
	if !errors.Is(err, agent.ErrLost) || len(l.took) != 0 {
		t.Errorf("%v, %v", err, l.took)
	}
}

func TestGroups_AreWrittenAfterTheMirrorStoodStillAndFromItsSourceOnlyWhenPlanned(t *testing.T) {
	spec := failover.LinkSpec{Link: link}
	var asked []bool
	f := &fake{state: withLink(consensus.LinkRunning), groups: func(fromSource bool) (Groups, error) {
		asked = append(asked, fromSource)
		return Groups{Groups: 1}, nil
	}}
	_, _, err := do(t, f, nil, failover.KindGroupsWrite, task(consensus.Planned, 100, spec), time.Minute)
	says(t, err, "has not ended")
	f.state = withLink(consensus.LinkEnded)
	for _, kind := range []consensus.PlanKind{consensus.Planned, consensus.Unplanned} {
		if _, _, err := do(t, f, nil, failover.KindGroupsWrite, task(kind, 100, spec), time.Minute); err != nil {
			t.Error(err)
		}
	}
	if len(asked) != 2 || !asked[0] || asked[1] {
		t.Errorf("copied from the source: %v, want planned only", asked)
	}
	f.groups = func(bool) (Groups, error) { return Groups{}, errors.New("group g, events/0: the group has members") }
	_, _, err = do(t, f, nil, failover.KindGroupsWrite, task(consensus.Planned, 100, spec), time.Minute)
	says(t, err, "the group has members")
}

func TestSteps_RefuseASpecTheyCannotRead(t *testing.T) {
	f := &fake{state: withLink(consensus.LinkRunning)}
	broken := task(consensus.Planned, 100, nil)
	broken.Spec = json.RawMessage(`{`)
	for _, kind := range []string{failover.KindKafkaDrain, failover.KindMirrorStop, failover.KindGroupsWrite, failover.KindReseed} {
		_, _, err := do(t, f, nil, kind, broken, time.Minute)
		says(t, err, "read the spec")
	}
	out, _, err := do(t, f, nil, failover.KindReseed, task(consensus.Reseed, 0, failover.ReseedSpec{Link: link, Topics: []string{"events"}}), time.Minute)
	if err != nil || len(f.reseed) != 1 || !strings.Contains(out, "events") {
		t.Errorf("reseed: %s, %v, %v", out, f.reseed, err)
	}
	if out, _, err := do(t, f, nil, failover.KindCanary, task(consensus.Planned, 0, nil), time.Minute); err != nil || !strings.Contains(out, "kafka") {
		t.Errorf("canary: %s, %v", out, err)
	}
}
