package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

func TestCoverage_CountsGroupsAndNamesWhatIsMissingBounded(t *testing.T) {
	var r mirror.GroupReport
	for i := range int32(20) {
		at := topology.Partition{Topic: "events", Partition: i}
		r.Rows = append(r.Rows,
			replicate.GroupOffset{Group: "good", Partition: at, Outcome: replicate.GroupSame},
			replicate.GroupOffset{Group: "bad", Partition: at, Outcome: replicate.GroupAbsent, Note: "no offset"})
	}
	c := coverage(r)
	if c.Groups != 2 || c.Covered != 1 || len(c.Missing) != missingShown || !strings.Contains(c.Missing[0], "group bad has no right offset") {
		t.Errorf("%+v", c)
	}
	if c := coverage(mirror.GroupReport{}); c.Groups != 0 || c.Covered != 0 || c.Missing != nil {
		t.Errorf("of nothing: %+v", c)
	}
}

// appends is how long an append may be under way in these tests.
const appends = 15 * time.Second

func newMirrors(former time.Time) *mirrors {
	return &mirrors{
		node: westNode, region: west, former: former, appends: appends, log: quiet, clock: newBubble(),
		links: map[consensus.LinkID]*link{}, held: map[consensus.LinkID]uint64{}, paused: map[consensus.LinkID]time.Time{},
		said: map[consensus.LinkID]string{}, past: map[consensus.LinkID]past{},
	}
}

func TestMirrors_StopWaitsUntilNoAppendCanBeUnderWay(t *testing.T) {
	const id = consensus.LinkID("l")
	stopped := func(t *testing.T, m *mirrors, epoch uint64) (past, time.Duration) {
		t.Helper()
		start := time.Now()
		p, err := m.stop(t.Context(), id, epoch)
		if err != nil {
			t.Error(err)
		}
		return p, time.Since(start)
	}
	synctest.Test(t, func(t *testing.T) {
		// Never ran here: a former life's append may be under way for its
		// time since this one began, and no longer.
		m := newMirrors(time.Now().Add(-5 * time.Second))
		if p, waited := stopped(t, m, 3); waited != appends-5*time.Second || p.clean {
			t.Errorf("young daemon: %s, %+v", waited, p)
		}
		if _, waited := stopped(t, m, 3); waited != 0 {
			t.Errorf("a second time: %s", waited)
		}
		if _, waited := stopped(t, newMirrors(time.Time{}), 3); waited != 0 {
			t.Errorf("a daemon without a former life: %s", waited)
		}
		if m.held[id] != 3 {
			t.Error("the link may start again")
		}
		// A run of this life ended with appends unanswered.
		m.past[id] = past{epoch: 3, still: time.Now().Add(7 * time.Second), seen: map[topology.Partition]int64{{Topic: "t"}: 9}}
		if p, waited := stopped(t, m, 3); waited != 7*time.Second || len(p.seen) != 1 {
			t.Errorf("after an unclean end: %s, %+v", waited, p)
		}
		// What an earlier epoch saw is not what this one saw.
		if p, _ := stopped(t, m, 4); len(p.seen) != 0 || p.clean {
			t.Errorf("of another epoch: %+v", p)
		}
		// A run that does not end is not waited for for ever.
		m.links[id] = &link{id: id, epoch: 4, cancel: func() {}, done: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := m.stop(ctx, id, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a run that hangs: %v", err)
		}
	})
}

func TestMirrors_ALinkWithoutKafkaAtBothEndsIsNotRunAndNoPanic(t *testing.T) {
	s := consensus.NewState()
	s.Links["l"] = consensus.Link{From: east, To: west, Epoch: 1, Phase: consensus.LinkRunning}
	m := newMirrors(time.Now().Add(-time.Hour))
	m.state = func() consensus.State { return s }
	m.regions = map[topology.Region]*region{east: {kafka: &kafka.Client{}}, west: {}}
	m.reconcile(t.Context())
	if len(m.links) != 0 {
		t.Error("it runs")
	}
	h := here{m}
	for name, call := range map[string]func() error{
		"ends":   func() error { _, err := h.Ends(t.Context()); return err },
		"lag":    func() error { _, err := h.GroupLag(t.Context(), []string{"g"}); return err },
		"stop":   func() error { _, err := h.StopMirror(t.Context(), "l"); return err },
		"groups": func() error { _, err := h.WriteGroups(t.Context(), "l", nil, true); return err },
		"reseed": func() error { return h.Reseed(t.Context(), "l", nil) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "no kafka") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMirrors_PauseIsBoundedAndNeedsAMirror(t *testing.T) {
	s := consensus.NewState()
	m := newMirrors(time.Now())
	m.state = func() consensus.State { return s }
	d := &Daemon{mirrors: m, log: quiet, me: config.Node{Region: west}}
	never := mirrorOrder{Hold: httpapi.MirrorHold{Until: time.Now().Add(1000 * time.Hour)}}
	if err := d.orderHere(never); err == nil {
		t.Error("nothing was there to pause")
	}
	s.Links["l"] = consensus.Link{From: east, To: west, Epoch: 1, Phase: consensus.LinkRunning}
	for _, o := range []mirrorOrder{never, {}} {
		if err := d.orderHere(o); err != nil || time.Until(m.paused["l"]) > pauseMax {
			t.Errorf("paused until %s: %v", m.paused["l"], err)
		}
	}
	if err := d.orderHere(mirrorOrder{Resume: true}); err != nil || len(m.paused) != 0 {
		t.Errorf("not resumed: %v", err)
	}
	if err := (&Daemon{log: quiet}).orderHere(never); err == nil {
		t.Error("a witness paused a mirror")
	}
}

func TestRegion_FailingCountsFromTheFirstBadRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := http.StatusServiceUnavailable
		r := &region{clock: newBubble(), log: quiet, broken: map[string]clock.Instant{}, probes: config.Probe{HTTP: "http://store.example/"}, http: &http.Client{Transport: roundTrip(func() int { return answer })}}
		if _, seen := r.report(); seen {
			t.Error("seen before the first round")
		}
		round := func() probeReport {
			t.Helper()
			checks, _ := r.tryAll(t.Context())
			r.record(checks)
			p, _ := r.report()
			return p
		}
		if p := round(); p.FailingMs != 1 || p.Checks["http"].OK {
			t.Errorf("%+v", p)
		}
		time.Sleep(time.Second)
		if p := round(); p.FailingMs != 1000 {
			t.Errorf("%+v", p)
		}
		answer = http.StatusOK
		if p := round(); p.FailingMs != 0 || !p.Checks["http"].OK {
			t.Errorf("%+v", p)
		}
		time.Sleep(time.Second)
		if p, _ := r.report(); p.AgeMs != 1000 {
			t.Errorf("%+v", p)
		}
	})
}

func TestRegion_ARoundEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		r := &region{clock: newBubble(), log: quiet, broken: map[string]clock.Instant{}, probes: config.Probe{HTTP: "http://store.example/"}, http: &http.Client{Transport: roundTrip(func() int {
			<-hang // whatever the context says
			return http.StatusOK
		})}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		checks, _ := r.tryAll(ctx)
		if took := time.Since(began); took != time.Second || checks["http"].OK {
			t.Errorf("after %s: %+v", took, checks)
		}
	})
}

type roundTrip func() int

func (f roundTrip) RoundTrip(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.WriteHeader(f())
	return w.Result(), nil
}

func TestOffsets_NestedAndFlatAreInverse(t *testing.T) {
	o := consensus.Offsets{"a": {0: 1, 7: 2}, "b": {1: 3}}
	if d := cmp.Diff(o, nested(flat(o))); d != "" {
		t.Error(d)
	}
	if b, err := json.Marshal(nested(nil)); err != nil || string(b) != "{}" {
		t.Errorf("%s, %v", b, err)
	}
}
