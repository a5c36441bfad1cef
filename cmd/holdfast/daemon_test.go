package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// fleets are the daemons that a test may speak to, by the name of their socket.
var fleets = map[string]func() *fakeDaemon{
	"calm":     func() *fakeDaemon { return &fakeDaemon{status: calm(), ends: consensus.PlanCompleted} },
	"healthy":  func() *fakeDaemon { return &fakeDaemon{status: healthy(), ends: consensus.PlanCompleted} },
	"bad":      func() *fakeDaemon { return &fakeDaemon{status: badNight(), ends: consensus.PlanRolledBack} },
	"noleader": func() *fakeDaemon { return &fakeDaemon{status: leaderless(), err: consensus.ErrNoLeader} },
	"stuck":    func() *fakeDaemon { return &fakeDaemon{status: badNight(), plans: []httpapi.Plan{stuckPlan()}} },
}

// fakeDaemon answers with samples. A plan that is run takes a step each time
// it is read, and ends as it was told to.
type fakeDaemon struct {
	status httpapi.Status
	plans  []httpapi.Plan
	ends   consensus.PlanPhase
	err    error // of every call but Status and Members

	backups runs

	mu    sync.Mutex
	reads int
	ran   []string
}

func (f *fakeDaemon) Status(context.Context) (httpapi.Status, error) { return f.status, nil }

func (f *fakeDaemon) Check(_ context.Context, region topology.Region) (httpapi.CheckReport, error) {
	if region == "eu-west" {
		return httpapi.CheckReport{Checks: []httpapi.Check{{Region: region, Name: "clock", Detail: "0.4 % fast", Fix: "chronyc makestep"}}}, f.err
	}
	return httpapi.CheckReport{Checks: []httpapi.Check{{Region: region, Name: "clock", OK: true, Detail: "agrees"}}}, f.err
}

func (f *fakeDaemon) Members(context.Context) (httpapi.Members, error) {
	m := httpapi.Members{Leader: f.status.Leader, Members: []httpapi.Member{
		{Node: "us-east-1", Region: "us-east", Voter: true, Reachable: true, RTTMs: -1},
		{Node: "eu-west-1", Region: "eu-west", Voter: true, Reachable: true, RTTMs: -1},
	}}
	return m, nil
}

func (f *fakeDaemon) Audit(context.Context, int) (httpapi.AuditReport, error) {
	return httpapi.AuditReport{Count: 1, Head: "ab", Lines: []consensus.AuditLine{{Number: 1, At: noon, By: "node x", Kind: "expire"}}}, f.err
}

func (f *fakeDaemon) PlanFailover(_ context.Context, want failover.Intent) (failover.Candidate, []failover.Blocker, error) {
	c := candidate()
	c.Expires = time.Now().Add(10 * time.Minute)
	switch want.To {
	case "eu-west":
		return c, nil, f.err
	case "us-east":
		c, blockers := refused()
		return c, blockers, f.err
	}
	return failover.Candidate{}, []failover.Blocker{{Gate: "target", Why: "no region " + string(want.To) + " in this fleet", Fix: "regions: eu-west, us-east"}}, f.err
}

func (f *fakeDaemon) RunFailover(_ context.Context, want failover.Intent, hash, _ string) (consensus.PlanID, error) {
	if f.err != nil {
		return "", f.err
	}
	if hash != candidate().Plan.Hash {
		return "", httpapi.Problemf(httpapi.Changed, "run plan "+hash, "plan again", "what it was decided on has changed")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ran = append(f.ran, string(want.To))
	return "01JPLAN", nil
}

func (f *fakeDaemon) PlanReseed(context.Context, httpapi.Reseed) (failover.Candidate, []failover.Blocker, error) {
	c := reseedCandidate()
	c.Expires = time.Now().Add(10 * time.Minute)
	return c, nil, f.err
}

func (f *fakeDaemon) RunReseed(_ context.Context, want httpapi.Reseed, _, _ string) (consensus.PlanID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ran = append(f.ran, "reseed "+string(want.Region)+" "+want.Reason)
	return "01JPLAN", f.err
}

func (f *fakeDaemon) Plans(context.Context) ([]httpapi.Plan, error) { return f.plans, f.err }

func (f *fakeDaemon) Plan(_ context.Context, id consensus.PlanID) (httpapi.Plan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.HasPrefix("01JPLAN", string(id)) {
		return httpapi.Plan{}, httpapi.Problemf(httpapi.NotFound, "find plan "+string(id), "holdfast failover status --all", "no plan matches")
	}
	if f.err != nil {
		return httpapi.Plan{}, f.err
	}
	if len(f.plans) > 0 {
		return f.plans[0], nil
	}
	f.reads++
	switch {
	case f.reads < 4 && f.ends == consensus.PlanRolledBack:
		return at(f.reads, consensus.PlanRunning), nil
	case f.ends == consensus.PlanRolledBack:
		return rolledBack(), nil
	case f.reads < 8:
		return at(f.reads, consensus.PlanRunning), nil
	}
	return at(8, consensus.PlanCompleted), nil
}

func (f *fakeDaemon) Abort(context.Context, consensus.PlanID, string, string) error { return f.err }
func (f *fakeDaemon) Retry(context.Context, consensus.PlanID, string) error         { return f.err }
func (f *fakeDaemon) Ack(context.Context, topology.Role, string) error              { return f.err }
func (f *fakeDaemon) Pause(context.Context, topology.Role, time.Time, string, string) error {
	return f.err
}

func (f *fakeDaemon) MirrorStatus(context.Context) (httpapi.MirrorReport, error) {
	return mirrored(), f.err
}

func (f *fakeDaemon) MirrorPause(context.Context, httpapi.MirrorHold, string) error  { return f.err }
func (f *fakeDaemon) MirrorResume(context.Context, httpapi.MirrorHold, string) error { return f.err }

func (f *fakeDaemon) GroupsCheck(context.Context, topology.Region) (httpapi.GroupsReport, error) {
	return httpapi.GroupsReport{Groups: []httpapi.GroupRow{{Region: "eu-west", Group: "snuba", Partitions: 8, Covered: 8, OK: true}}}, f.err
}

func (f *fakeDaemon) MirrorOrphans(context.Context) (httpapi.OrphansReport, error) {
	return sampleOrphans(), f.err
}

func (f *fakeDaemon) NoteReplay(_ context.Context, r httpapi.ReplayOrphans, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ran = append(f.ran, fmt.Sprintf("replay %s %s/%d to %s: %d, again %v", r.Salvage, r.Topic, r.Partition, r.To, r.Records, r.Again))
	return f.err
}

func (f *fakeDaemon) AcceptLoss(_ context.Context, l httpapi.AcceptLoss, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ran = append(f.ran, fmt.Sprintf("accept %s/%d [%d,%d): %s", l.Topic, l.Partition, l.From, l.To, l.Reason))
	return f.err
}

func (f *fakeDaemon) MirrorDrift(context.Context, topology.Region) (httpapi.DriftReport, error) {
	return sampleDrift(), f.err
}

func (f *fakeDaemon) MirrorTopics(context.Context, topology.Region) (httpapi.TopicsReport, error) {
	return sampleTopics(), f.err
}

func (f *fakeDaemon) ConfigDrift(context.Context) (httpapi.ConfigDrift, error) {
	return httpapi.ConfigDrift{Node: "us-east-1", File: "/etc/holdfast/holdfast.yaml", Digest: "aaaa", Applied: "bbbb", Drift: true}, f.err
}

func (f *fakeDaemon) ConfigApply(context.Context, string) (httpapi.ConfigApplied, error) {
	return httpapi.ConfigApplied{Digest: "aaaa", Was: "bbbb", Changed: true, Restart: []string{"the mirror"}}, f.err
}

// Guard says yes to ingestion, for half a minute at a time.
func (f *fakeDaemon) Guard(_ context.Context, s httpapi.GuardStatus) (httpapi.GuardWord, error) {
	boot, err := clock.BootID()
	if err != nil {
		return httpapi.GuardWord{}, err
	}
	w := httpapi.GuardWord{Role: s.Role, Phase: consensus.Vacant, Generation: 1, Boot: boot, MarginNs: int64(5 * time.Second), Why: "held elsewhere"}
	if s.Role == topology.Ingestion {
		w.Phase, w.Active, w.Leased, w.Epoch, w.Why = consensus.Open, true, true, 7, ""
		w.Deadline = int64(clock.System().Now().Add(30 * time.Second))
	}
	return w, nil
}

// serve starts the API of a fake daemon and returns its socket.
func (f *fakeDaemon) serve(t interface {
	Cleanup(func())
	Fatal(args ...any)
}, dir, name string,
) string {
	socket := filepath.Join(dir, name+".sock")
	l, err := httpapi.ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	s := httpapi.NewServer(httpapi.New(f, httpapi.Options{Node: "us-east-1", Version: "test", Log: quiet}), quiet)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Fatal(err)
		}
	})
	return socket
}

// say runs the command line as a person at a terminal does, who answers.
func say(t *testing.T, answer string, args ...string) (code exit, out, errOut string) {
	t.Helper()
	var stdout, stderr strings.Builder
	a := newApp(strings.NewReader(answer), &stdout, &stderr)
	a.asks = true
	root := verbs(a)
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = a.finish(root.ExecuteContext(t.Context()))
	return code, stdout.String(), stderr.String()
}

func TestFailover_RunsOnlyAfterTheRegionsNameWasTyped(t *testing.T) {
	for answer, runs := range map[string]bool{"eu-west\n": true, "  eu-west  ": true, "yes\n": false, "": false, "us-east\n": false} {
		d := fleets["calm"]()
		socket := d.serve(t, t.TempDir(), "a")
		code, out, errOut := say(t, answer, "failover", "--to", "eu-west", "--socket", socket)
		if !strings.Contains(out, "Plan 7f3a9c02be11, planned: ingestion and query, us-east to eu-west. Nothing has been changed.") {
			t.Errorf("%q: the plan was not shown:\n%s", answer, out)
		}
		if runs != (len(d.ran) == 1) {
			t.Errorf("%q: ran %v", answer, d.ran)
		}
		switch {
		case runs && (code != exitDone || !strings.Contains(out, "Completed in 9 s: eu-west holds ingestion and query, epoch 8; paused 7.7 s; nothing lost.")):
			t.Errorf("%q: %d\n%s%s", answer, code, out, errOut)
		case !runs && (code != exitFailed || !strings.Contains(errOut, "nothing was changed")):
			t.Errorf("%q: %d\n%s", answer, code, errOut)
		}
	}
}

func TestFailover_TakesAnInterruptForANo(t *testing.T) {
	d := fleets["calm"]()
	silent, hangUp := io.Pipe() // nobody types
	defer hangUp.Close()
	var out, errOut strings.Builder
	a := newApp(silent, &out, &errOut)
	a.asks = true
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	root := verbs(a)
	root.SetArgs([]string{"failover", "--to", "eu-west", "--socket", d.serve(t, t.TempDir(), "a")})
	if code := a.finish(root.ExecuteContext(ctx)); code != exitFailed || len(d.ran) != 0 || !strings.Contains(errOut.String(), "nothing was changed") {
		t.Errorf("%d, ran %v:\n%s", code, d.ran, errOut.String())
	}
}

func TestFailover_AsksNothingWhenAGateRefuses(t *testing.T) {
	d := fleets["calm"]()
	code, out, _ := say(t, "us-east\n", "failover", "--to", "us-east", "--socket", d.serve(t, t.TempDir(), "a"))
	if code != exitRefused || len(d.ran) != 0 || !strings.Contains(out, "Refused by 1 gate. Nothing has been changed.") {
		t.Errorf("%d, ran %v:\n%s", code, d.ran, out)
	}
}

func TestReseed_RunsOnlyAfterTheRegionsNameWasTyped(t *testing.T) {
	d := fleets["calm"]()
	code, out, _ := say(t, "us-east\n", "mirror", "reseed", "--region", "us-east", "--reason", "returned", "--socket", d.serve(t, t.TempDir(), "a"))
	if code != exitDone || !slices.Equal(d.ran, []string{"reseed us-east returned"}) || !strings.Contains(out, "discards of events") {
		t.Errorf("%d, ran %v:\n%s", code, d.ran, out)
	}
}

func TestFollow_EndsWithoutAPersonsPatience(t *testing.T) {
	d := fleets["stuck"]()
	d.plans[0].Stuck = ""
	var out, errOut strings.Builder
	a := newApp(strings.NewReader(""), &out, &errOut)
	c := httpapi.Dial(d.serve(t, t.TempDir(), "a"))
	defer c.Close()
	_, err := a.follow(t.Context(), c, "01JPLAN", 300*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "has not ended within 0.3 s; it goes on: `holdfast failover status 01JPLAN`") {
		t.Errorf("a plan that does not end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.follow(ctx, c, "01JPLAN", time.Minute); err == nil || !strings.Contains(err.Error(), "failover abort 01JPLAN") {
		t.Errorf("a person who leaves: %v", err)
	}
}

// flaky fails the first reads, as a daemon does that restarts.
type flaky struct {
	fails int
	reads int
}

func (f *flaky) Plan(context.Context, consensus.PlanID) (httpapi.Plan, error) {
	f.reads++
	if f.reads <= f.fails {
		return httpapi.Plan{}, httpapi.Problemf(httpapi.Unavailable, "read plan", "", "no daemon answers")
	}
	return at(8, consensus.PlanCompleted), nil
}

func (f *flaky) Plans(ctx context.Context) ([]httpapi.Plan, error) {
	pl, err := f.Plan(ctx, "")
	return []httpapi.Plan{pl}, err
}

func TestFollow_OutlivesARestartOfTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errOut strings.Builder
		a := newApp(strings.NewReader(""), &out, &errOut)
		pl, err := a.follow(t.Context(), &flaky{fails: 100}, "01JPLAN", time.Hour)
		if err != nil || pl.Plan.Phase != consensus.PlanCompleted {
			t.Errorf("20 s without a daemon: %v %v", pl.Plan.Phase, err)
		}
		if n := strings.Count(errOut.String(), "does not answer"); n != 1 {
			t.Errorf("said %d times that the daemon does not answer", n)
		}
		if n := strings.Count(out.String(), "open ingestion, query in eu-west"); n != 1 {
			t.Errorf("told %d times of the last step:\n%s", n, out.String())
		}
		_, err = a.follow(t.Context(), &flaky{fails: 1 << 30}, "01JPLAN", time.Hour)
		if err == nil || !strings.Contains(err.Error(), "the plan goes on: `holdfast failover status 01JPLAN`") {
			t.Errorf("a daemon that stays away: %v", err)
		}
	})
}

func TestRun_FindsAPlanWhoseStartWasNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(strings.NewReader(""), &strings.Builder{}, &strings.Builder{})
		lost := httpapi.Problemf(httpapi.Unknown, "run failover", "look", "the answer was lost")
		asked := at(8, consensus.PlanCompleted).Plan.Created
		id, err := a.findStarted(t.Context(), &flaky{fails: 3}, "7f3a9c02be11", asked, lost)
		if err != nil || id != "01JPLAN" {
			t.Errorf("found %q, %v", id, err)
		}
		// Another plan, and an old run of the same plan, are not it.
		if _, err := a.findStarted(t.Context(), &flaky{}, "000000000000", asked, lost); !errors.Is(err, lost) {
			t.Errorf("another plan: %v", err)
		}
		if _, err := a.findStarted(t.Context(), &flaky{}, "7f3a9c02be11", asked.Add(time.Hour), lost); !errors.Is(err, lost) {
			t.Errorf("an old run: %v", err)
		}
	})
}

func TestVerbs_SayTheirExitCodes(t *testing.T) {
	root := verbs(newApp(strings.NewReader(""), &strings.Builder{}, &strings.Builder{}))
	todo := root.Commands()
	for len(todo) > 0 {
		c := todo[0]
		todo = append(todo[1:], c.Commands()...)
		if !strings.Contains(c.UsageString(), "Exit codes: 0 done") {
			t.Errorf("%s: its help does not say the exit codes", c.CommandPath())
		}
		if c.Short == "" && !c.Hidden {
			t.Errorf("%s has no line that says what it is for", c.CommandPath())
		}
		if !c.HasParent() || c.Hidden {
			continue
		}
		if c.InheritedFlags().Lookup("json") == nil {
			t.Errorf("%s does not know --json", c.CommandPath())
		}
	}
}
