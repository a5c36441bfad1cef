package kafka

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
)

// ended is a link whose mirror has stopped at n.
func ended(n int64) consensus.State {
	return consensus.State{Links: map[consensus.LinkID]consensus.Link{link: {Epoch: 3, Phase: consensus.LinkEnded, Ends: at(n), SourceEnds: at(n + 5)}}}
}

func TestClose_NamesWhatItEnded(t *testing.T) {
	f := &fake{closed: failing(2, errAway, []string{"tx-1"})}
	if out, _, err := do(t, f, nil, failover.KindKafkaClose, task(consensus.Planned, 0, failover.LinkSpec{Link: link}), time.Minute); err != nil || out != `{"ended":["tx-1"]}` {
		t.Errorf("%s, %v", out, err)
	}
	f.closed = failing(1<<30, errors.New("may not"), []string(nil))
	_, _, err := do(t, f, nil, failover.KindKafkaClose, task(consensus.Planned, 0, failover.LinkSpec{Link: link}), time.Minute)
	says(t, err, "end the transactions that were left open", "may not")
}

func TestFence_RecordsTheEndThatIsFoundBehindIt(t *testing.T) {
	spec := failover.LinkSpec{Link: link}
	var asked consensus.Offsets
	f := &fake{state: ended(100), fenced: func(to consensus.Offsets) (Fenced, error) {
		asked = to
		return Fenced{Ends: at(100), Leaps: at(103)}, nil
	}}
	l := &tape{}
	out, _, err := do(t, f, l, failover.KindMirrorFence, task(consensus.Planned, 100, spec), time.Minute)
	if err != nil || asked != nil || strings.Contains(out, "late") {
		t.Fatalf("a planned move leaps nowhere: %v, %s, %v", asked, out, err)
	}
	if got := l.took[0].(*consensus.FenceLink); got.Epoch != 3 || got.Ends["events"][0] != 100 || got.Leaps["events"][0] != 103 {
		t.Errorf("recorded %+v", got)
	}
	// A mirror that nobody knew of wrote on until the fence: its records are
	// the source's, and that is where the link ended.
	f.fenced = func(consensus.Offsets) (Fenced, error) { return Fenced{Ends: at(104), Leaps: at(107)}, nil }
	if out, _, err = do(t, f, l, failover.KindMirrorFence, task(consensus.Unplanned, 0, spec), time.Minute); err != nil || !strings.Contains(out, `"late":["events/0: 104, want 100"]`) {
		t.Errorf("%s, %v", out, err)
	}
	// Mirrored records do not go away.
	f.fenced = func(consensus.Offsets) (Fenced, error) { return Fenced{Ends: at(99), Leaps: at(107)}, nil }
	_, _, err = do(t, f, &tape{}, failover.KindMirrorFence, task(consensus.Unplanned, 0, spec), time.Minute)
	says(t, err, "the target lost mirrored records", "events/0: 99, want 100")
	f.state = consensus.State{Links: map[consensus.LinkID]consensus.Link{link: {Phase: consensus.LinkRunning}}}
	_, _, err = do(t, f, &tape{}, failover.KindMirrorFence, task(consensus.Unplanned, 0, spec), time.Minute)
	says(t, err, "has not ended")
}

func TestFence_OfAnUnplannedMoveLeapsOverWhatTheSourceMayHaveUsed(t *testing.T) {
	spec := failover.LinkSpec{Link: link}
	var asked consensus.Offsets
	f := &fake{state: ended(100), fenced: func(to consensus.Offsets) (Fenced, error) {
		asked = to
		return Fenced{Ends: at(100), Leaps: to}, nil
	}}
	if _, _, err := do(t, f, &tape{}, failover.KindMirrorFence, task(consensus.Unplanned, 0, spec), time.Minute); err != nil || asked["events"][0] != 105+leapLeast {
		t.Errorf("with what the link says alone: %v, %v", asked, err)
	}
	// The stop of this plan knows when the ends were seen, and how fast they grew.
	tk := task(consensus.Unplanned, 0, spec)
	seen := Stopped{Ends: at(100), SourceEnds: at(130), Rates: map[string]map[int32]float64{"events": {0: 10}}, Seen: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Minute)}
	raw, _ := json.Marshal(seen)
	tk.Plan.Steps = append(tk.Plan.Steps, consensus.Step{Kind: failover.KindMirrorStop})
	tk.Plan.Journal = append(tk.Plan.Journal, consensus.StepRecord{State: consensus.StepDone, Evidence: raw})
	if _, _, err := do(t, f, &tape{}, failover.KindMirrorFence, tk, time.Minute); err != nil || asked["events"][0] != 130+leapLeast+3*60*10 {
		t.Errorf("unseen for a minute at 10/s: %v, %v", asked, err)
	}
}

func TestLeap_OfARoleThatComesBackGoesBeyondTheOther(t *testing.T) {
	var asked consensus.Offsets
	f := &fake{state: ended(100), leapt: func(to consensus.Offsets) (consensus.Offsets, error) {
		asked = to
		return to, nil
	}}
	s := f.state.Links[link]
	s.Leaps = at(400)
	f.state.Links[link] = s
	l := &tape{}
	if _, _, err := do(t, f, l, failover.KindMirrorLeap, task(consensus.Unplanned, 0, failover.LinkSpec{Link: link}), time.Minute); err != nil || asked["events"][0] != 400+leapLeast {
		t.Fatalf("%v, %v", asked, err)
	}
	if got := l.took[0].(*consensus.FenceLink); got.Began["events"][0] != 400+leapLeast || got.Ends != nil {
		t.Errorf("recorded %+v", got)
	}
}

func TestLeapTo_IsBoundedAndNeverBelowWhatIsThere(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	st := Stopped{SourceEnds: at(50), Seen: now.Add(-1000000 * time.Hour), Rates: map[string]map[int32]float64{"events": {0: 1e9}}}
	if got := LeapTo(now, st, at(100))["events"][0]; got != 100+1<<31-1 {
		t.Errorf("a source that is silent for ever: %d", got)
	}
	st.Seen = now.Add(time.Hour) // a clock that jumped
	if got := LeapTo(now, st, at(100))["events"][0]; got != 100+leapLeast {
		t.Errorf("seen in the future: %d", got)
	}
}
