package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var quiet = slog.New(slog.DiscardHandler)

// fake answers with what it was given and records what it was asked.
type fake struct {
	asked    []string
	blockers []failover.Blocker
	expires  time.Time
	err      error
}

func (f *fake) ask(format string, a ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, a...))
	return f.err
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{Cluster: "lab", Node: "us-east-1", At: time.Unix(1000, 0).UTC()}, f.ask("status")
}

func (f *fake) Check(_ context.Context, r topology.Region) (CheckReport, error) {
	return CheckReport{Checks: []Check{{Name: "clock", OK: true}}}, f.ask("check %s", r)
}
func (f *fake) Members(context.Context) (Members, error) { return Members{}, f.ask("members") }
func (f *fake) Audit(_ context.Context, n int) (AuditReport, error) {
	return AuditReport{}, f.ask("audit %d", n)
}

func (f *fake) PlanFailover(_ context.Context, want failover.Intent) (failover.Candidate, []failover.Blocker, error) {
	c := failover.Candidate{Plan: consensus.Plan{Kind: consensus.Planned, Hash: "abcdef123456", To: want.To}, Expires: f.expires}
	return c, f.blockers, f.ask("plan failover %+v", want)
}

func (f *fake) RunFailover(_ context.Context, want failover.Intent, hash, by string) (consensus.PlanID, error) {
	return "01PLAN", f.ask("run failover to %s %v, hash %s, by %s", want.To, want.Roles, hash, by)
}

func (f *fake) PlanReseed(_ context.Context, want Reseed) (failover.Candidate, []failover.Blocker, error) {
	return failover.Candidate{Plan: consensus.Plan{Kind: consensus.Reseed, Hash: "feedfeedfeed"}, Expires: f.expires}, nil, f.ask("plan reseed %+v", want)
}

func (f *fake) RunReseed(_ context.Context, want Reseed, hash, by string) (consensus.PlanID, error) {
	return "01SEED", f.ask("run reseed %s %v, hash %s", want.Region, want.Topics, hash)
}
func (f *fake) Plans(context.Context) ([]Plan, error) { return []Plan{{ID: "01PLAN"}}, f.ask("plans") }
func (f *fake) Plan(_ context.Context, id consensus.PlanID) (Plan, error) {
	return Plan{ID: id}, f.ask("plan %s", id)
}

func (f *fake) Abort(_ context.Context, id consensus.PlanID, why, _ string) error {
	return f.ask("abort %s: %s", id, why)
}

func (f *fake) Retry(_ context.Context, id consensus.PlanID, _ string) error {
	return f.ask("retry %s", id)
}
func (f *fake) Ack(_ context.Context, r topology.Role, _ string) error { return f.ask("ack %s", r) }
func (f *fake) Pause(_ context.Context, r topology.Role, until time.Time, reason, _ string) error {
	return f.ask("pause %s until %s: %s", r, until.Format(time.RFC3339), reason)
}

func (f *fake) MirrorStatus(context.Context) (MirrorReport, error) {
	return MirrorReport{}, f.ask("mirror")
}

func (f *fake) MirrorPause(_ context.Context, h MirrorHold, _ string) error {
	return f.ask("mirror pause %s", h.Region)
}

func (f *fake) MirrorResume(_ context.Context, h MirrorHold, _ string) error {
	return f.ask("mirror resume %s %v", h.Region, h.Topics)
}

func (f *fake) GroupsCheck(_ context.Context, r topology.Region) (GroupsReport, error) {
	return GroupsReport{}, f.ask("groups %s", r)
}

func (f *fake) MirrorOrphans(context.Context) (OrphansReport, error) {
	return OrphansReport{}, f.ask("orphans")
}

func (f *fake) NoteReplay(_ context.Context, r ReplayOrphans, _ string) error {
	return f.ask("replay %s to %s", r.Salvage, r.To)
}

func (f *fake) AcceptLoss(_ context.Context, a AcceptLoss, _ string) error {
	return f.ask("accept loss of %s/%d [%d,%d)", a.Topic, a.Partition, a.From, a.To)
}

func (f *fake) MirrorDrift(_ context.Context, r topology.Region) (DriftReport, error) {
	return DriftReport{}, f.ask("mirror drift %s", r)
}

func (f *fake) MirrorTopics(_ context.Context, r topology.Region) (TopicsReport, error) {
	return TopicsReport{}, f.ask("topics %s", r)
}

func (f *fake) StartVerify(_ context.Context, want StartVerify, _ string) (consensus.RunID, error) {
	return "01RUN", f.ask("start verify %s %v %g", want.Region, want.Topics, want.Sample)
}

func (f *fake) Verified(_ context.Context, r topology.Region, from int) (Verified, error) {
	one := VerifiedPartition{Partition: topology.Partition{Topic: "events", Partition: int32(from)}, Last: SignedStatement{Statement: []byte(`{"from":1}`)}}
	return Verified{Region: r, Partitions: []VerifiedPartition{one}, Certificates: map[string]string{"ab": "pem"}, More: from < 2}, f.ask("verified %s %d", r, from)
}

func (f *fake) StartBackup(_ context.Context, want StartBackup, _ string) (consensus.RunID, error) {
	return "01RUN", f.ask("start backup %s %v", want.Region, want.Engines)
}

func (f *fake) StartDrill(_ context.Context, want StartDrill, _ string) (consensus.RunID, error) {
	return "01RUN", f.ask("start drill %s %s", want.Of, want.Set)
}

func (f *fake) CancelRun(_ context.Context, id consensus.RunID, why, _ string) error {
	return f.ask("cancel %s: %s", id, why)
}

func (f *fake) Runs(_ context.Context, kind string) (RunList, error) {
	return RunList{Runs: []Run{{ID: "01RUN", Run: consensus.Run{Kind: kind}}}}, f.ask("runs %s", kind)
}

func (f *fake) Run(_ context.Context, id consensus.RunID) (Run, error) {
	return Run{ID: id, Progress: &backup.Progress{Stage: "kafka", Done: 3}}, f.ask("run %s", id)
}

func (f *fake) Sets(context.Context) (SetList, error) {
	return SetList{Sets: []SetRow{{ID: "01SET", Set: consensus.Set{Region: "us-east", Digest: "ab"}}}}, f.ask("sets")
}

func (f *fake) ConfigDrift(context.Context) (ConfigDrift, error) {
	return ConfigDrift{}, f.ask("drift")
}

func (f *fake) ConfigApply(context.Context, string) (ConfigApplied, error) {
	return ConfigApplied{}, f.ask("apply")
}

func (f *fake) Guard(_ context.Context, s GuardStatus) (GuardWord, error) {
	return GuardWord{Role: s.Role, Deadline: 1 << 60}, f.ask("guard %s %s", s.ID, s.Role)
}

// served starts the API of f on a socket, as a daemon does.
func served(t *testing.T, f *fake, now func() time.Time) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(New(f, Options{Node: "us-east-1", Version: "v1", Log: quiet, Now: now}), quiet)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := Dial(socket)
	t.Cleanup(func() {
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return c
}

func TestClient_ReachesEveryOperation(t *testing.T) {
	f := &fake{}
	c := served(t, f, nil)
	ctx := t.Context()
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := c.Status(ctx)
	must(err)
	if st.Cluster != "lab" || !st.At.Equal(time.Unix(1000, 0)) {
		t.Errorf("status came back as %+v", st)
	}
	_, err = c.Check(ctx, "eu-west")
	must(err)
	_, err = c.Members(ctx)
	must(err)
	_, err = c.Audit(ctx, 7)
	must(err)
	_, err = c.PlanFailover(ctx, failover.Intent{To: "eu-west", AcceptLoss: true})
	must(err)
	_, err = c.RunFailover(ctx, "abcdef123456", &failover.Intent{To: "eu-west", Roles: []topology.Role{"query"}})
	must(err)
	_, err = c.PlanReseed(ctx, Reseed{Region: "us-east", Reason: "returned"})
	must(err)
	_, err = c.RunReseed(ctx, "feedfeedfeed", nil)
	must(err)
	_, err = c.Plans(ctx)
	must(err)
	_, err = c.Plan(ctx, "01PLAN")
	must(err)
	must(c.Abort(ctx, "01PLAN", "changed my mind"))
	must(c.Retry(ctx, "01PLAN"))
	must(c.Ack(ctx, "query"))
	must(c.Pause(ctx, "query", until, "works"))
	must(c.Pause(ctx, "query", time.Time{}, ""))
	_, err = c.MirrorStatus(ctx)
	must(err)
	must(c.MirrorPause(ctx, MirrorHold{Region: "eu-west"}))
	must(c.MirrorResume(ctx, MirrorHold{Topics: []string{"events"}}))
	_, err = c.GroupsCheck(ctx, "")
	must(err)
	_, err = c.MirrorTopics(ctx, "eu-west")
	must(err)
	_, err = c.MirrorDrift(ctx, "eu-west")
	must(err)
	_, err = c.MirrorOrphans(ctx)
	must(err)
	must(c.NoteReplay(ctx, ReplayOrphans{Salvage: "S1", To: "eu-west"}))
	must(c.AcceptLoss(ctx, AcceptLoss{Topic: "events", From: 1, To: 2, Reason: "gone"}))
	run, err := c.StartBackup(ctx, StartBackup{Region: "us-east", Engines: []backup.Engine{backup.Kafka}})
	must(err)
	if run != "01RUN" {
		t.Errorf("the backup is run %q", run)
	}
	_, err = c.StartVerify(ctx, StartVerify{Region: "eu-west", Topics: []string{"events"}, Sample: 0.5})
	must(err)
	said, err := c.Verified(ctx, "eu-west")
	must(err)
	if len(said.Partitions) != 3 || said.Partitions[2].Partition.Partition != 2 || said.Certificates["ab"] != "pem" || string(said.Partitions[0].Last.Statement) != `{"from":1}` {
		t.Errorf("the statements came back as %+v", said)
	}
	_, err = c.StartDrill(ctx, StartDrill{Of: "us-east", Set: "01SET"})
	must(err)
	must(c.CancelRun(ctx, "01RUN", "too slow"))
	runs, err := c.Runs(ctx, "drill")
	must(err)
	if len(runs) != 1 || runs[0].Run.Kind != "drill" {
		t.Errorf("runs came back as %+v", runs)
	}
	one, err := c.Run(ctx, "01RUN")
	must(err)
	if one.ID != "01RUN" || one.Progress == nil || one.Progress.Done != 3 {
		t.Errorf("the run came back as %+v", one)
	}
	sets, err := c.Sets(ctx)
	must(err)
	if len(sets) != 1 || sets[0].Set.Digest != "ab" {
		t.Errorf("sets came back as %+v", sets)
	}
	_, err = c.ConfigDrift(ctx)
	must(err)
	_, err = c.ConfigApply(ctx)
	must(err)
	w, err := c.Guard(ctx, GuardStatus{ID: "g1", Role: "ingestion"})
	must(err)
	if age := clock.System().Now().Sub(clock.Instant(w.Now)); age < 0 || age > 5*time.Second {
		t.Errorf("the word is %s old", age)
	}
	if w.Deadline != 1<<60 {
		t.Errorf("a deadline lost digits on the way: %d", w.Deadline)
	}

	asked := strings.Join(f.asked, "\n")
	for _, line := range []string{
		"status", "check eu-west", "members", "audit 7",
		"start verify eu-west [events] 0.5", "verified eu-west 0", "verified eu-west 2",
		"plan failover {To:eu-west Roles:[] Fenced: Reason: AcceptLoss:true AcceptOrphans:[] Unplanned:false Auto:false}",
		"run failover to eu-west [query], hash abcdef123456, by operator ",
		"plan reseed {Region:us-east Topics:[] Reason:returned}",
		"run reseed us-east [], hash feedfeedfeed",
		"plans", "plan 01PLAN", "abort 01PLAN: changed my mind", "retry 01PLAN", "ack query",
		"pause query until 2026-01-02T03:04:05Z: works", "pause query until 0001-01-01T00:00:00Z: ",
		"mirror", "mirror pause eu-west", "mirror resume  [events]", "groups ", "topics eu-west", "mirror drift eu-west",
		"start backup us-east [kafka]", "start drill us-east 01SET", "cancel 01RUN: too slow", "runs drill", "run 01RUN", "sets", "drift", "apply", "guard g1 ingestion",
	} {
		if !strings.Contains(asked, line) {
			t.Errorf("the backend was never asked %q", line)
		}
	}
	if len(f.asked) != 37 {
		t.Errorf("asked %d times:\n%s", len(f.asked), asked)
	}
}

func TestAPI_RecordsWhoAskedByPeerCredentials(t *testing.T) {
	t.Setenv("SUDO_USER", "al ice\n\"x")
	f := &fake{}
	c := served(t, f, nil)
	if _, err := c.RunFailover(t.Context(), "abcdef123456", &failover.Intent{To: "eu-west"}); err != nil {
		t.Fatal(err)
	}
	name := os.Getenv("USER")
	if os.Getuid() == 0 {
		name = "root"
	}
	want := fmt.Sprintf("by operator %s@us-east-1 for alicex", name)
	if name != "" && !strings.HasSuffix(f.asked[0], want) {
		t.Errorf("asked %q, want it to end in %q", f.asked[0], want)
	}
}

func TestAPI_RunsAShownPlanByItsHashUntilItExpires(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	f := &fake{expires: now.Add(10 * time.Minute)}
	c := served(t, f, func() time.Time { return now })
	ctx := t.Context()

	_, err := c.RunFailover(ctx, "abcdef123456", nil)
	wantProblem(t, err, NotFound, "has not shown such a plan", "--to")

	if _, err := c.PlanFailover(ctx, failover.Intent{To: "eu-west", Roles: []topology.Role{"ingestion"}}); err != nil {
		t.Fatal(err)
	}
	id, err := c.RunFailover(ctx, "abcdef123456", nil)
	if err != nil || id != "01PLAN" {
		t.Fatalf("run a plan that was shown: %v %v", id, err)
	}
	if !strings.Contains(f.asked[len(f.asked)-1], "to eu-west [ingestion]") {
		t.Errorf("the intent was forgotten: %s", f.asked)
	}

	now = now.Add(10*time.Minute + time.Second)
	before := len(f.asked)
	_, err = c.RunFailover(ctx, "abcdef123456", &failover.Intent{To: "eu-west"})
	wantProblem(t, err, Changed, "it expired at 12:10:00", "plan again")
	if len(f.asked) != before {
		t.Error("an expired plan reached the backend")
	}
	_, err = c.RunReseed(ctx, "nosuchhash", nil)
	wantProblem(t, err, NotFound, "has not shown")
}

func TestShown_ForgetsTheOldestFirst(t *testing.T) {
	s := newShown(time.Now)
	for i := range shownMax + 1 {
		s.remember(failover.Candidate{Plan: consensus.Plan{Hash: fmt.Sprint("hash", i)}, Expires: time.Now().Add(time.Minute)}, wish{move: &failover.Intent{}})
	}
	if _, err := s.recall("hash0", wish{}); err == nil {
		t.Error("the oldest plan is still there")
	}
	if _, err := s.recall("hash1", wish{}); err != nil {
		t.Error(err)
	}
	if len(s.plans) != shownMax || len(s.order) != shownMax {
		t.Errorf("%d plans, %d in order", len(s.plans), len(s.order))
	}
}

func TestAPI_MapsEveryErrorToAProblem(t *testing.T) {
	f := &fake{}
	c := served(t, f, nil)
	check := func(err error, code Code, words ...string) {
		t.Helper()
		f.err = err
		_, got := c.Status(t.Context())
		wantProblem(t, got, code, words...)
	}
	check(fmt.Errorf("propose: %w", consensus.ErrNoLeader), NoLeader, "read status", "fewer than a majority", "members list")
	check(consensus.ErrUnknownOutcome, Unknown, "look before you repeat")
	check(&consensus.Refusal{Code: consensus.CodeConflict, Why: "one at a time"}, Refused, "one at a time")
	check(&consensus.Refusal{Code: consensus.CodeStale, Why: "renewed"}, Changed, "renewed", "look again")
	check(&consensus.Refusal{Code: consensus.CodeMissing, Why: "no role x"}, NotFound, "no role x")
	check(&consensus.Refusal{Code: consensus.CodeInvalid, Why: "bad"}, Usage, "bad")
	check(fmt.Errorf("ask eu-west-1: %w", context.DeadlineExceeded), Unavailable, "no answer in time")
	check(errors.New("disk full"), Internal, "disk full", "journalctl")

	f.err = RefusedBy("run failover", []failover.Blocker{{Gate: "clock", Why: "0.4 % off", Fix: "chronyc makestep"}})
	_, err := c.Status(t.Context())
	p := wantProblem(t, err, Refused, "clock: 0.4 % off", "chronyc")
	if diff := cmp.Diff([]failover.Blocker{{Gate: "clock", Why: "0.4 % off", Fix: "chronyc makestep"}}, p.Blockers); diff != "" {
		t.Error(diff)
	}
	if p.Status != http.StatusConflict {
		t.Errorf("status %d", p.Status)
	}
}

func TestAPI_RefusesWhatItDoesNotKnow(t *testing.T) {
	h := New(&fake{}, Options{Node: "n", Log: quiet})
	ask := func(method, path, body string) (*http.Response, Problem) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatalf("%s %s answers %q: %v", method, path, w.Body, err)
		}
		if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("%s %s: content type %q", method, path, ct)
		}
		return w.Result(), p
	}
	if r, p := ask("POST", "/v1/failover/plan", `{"to":"eu-west","force":true}`); r.StatusCode != 422 || p.Code != Usage || !strings.Contains(p.Detail, "force") {
		t.Errorf("an unknown field: %d %+v", r.StatusCode, p)
	}
	if r, p := ask("POST", "/v1/failover/plan", `{`); r.StatusCode != 400 || p.Code != Usage {
		t.Errorf("broken JSON: %d %+v", r.StatusCode, p)
	}
	if r, p := ask("GET", "/v1/audit?n=1000", ""); r.StatusCode != 422 || p.Code != Usage {
		t.Errorf("a list without a bound: %d %+v", r.StatusCode, p)
	}
	if r, p := ask("POST", "/v1/drills", `{"set":"`+strings.Repeat("A", 27)+`"}`); r.StatusCode != 422 || p.Code != Usage {
		t.Errorf("a set that can be none: %d %+v", r.StatusCode, p)
	}
	if r, p := ask("GET", "/v1/check?regoin=x", ""); r.StatusCode != 422 || !strings.Contains(p.Detail, "regoin") {
		t.Errorf("an unknown query: %d %+v", r.StatusCode, p)
	}
	if r, p := ask("POST", "/v1/failover/plan", `{"to":"`+strings.Repeat("x", bodyMax)+`"}`); r.StatusCode != 413 || p.Code != Usage {
		t.Errorf("a huge body: %d %+v", r.StatusCode, p)
	}
}

func TestAPI_DescribesEveryOperation(t *testing.T) {
	doc := describe(http.NewServeMux(), &fake{}, Options{Node: "n", Version: "v9", Log: quiet})
	var got []string
	for path, item := range doc.Paths {
		if item.Get != nil {
			got = append(got, "GET "+path)
		}
		if item.Post != nil {
			got = append(got, "POST "+path)
		}
	}
	slices.Sort(got)
	want := []string{
		"GET /v1/audit", "GET /v1/check", "GET /v1/config", "GET /v1/groups", "GET /v1/members", "GET /v1/mirror", "GET /v1/mirror/drift", "GET /v1/mirror/orphans", "GET /v1/mirror/topics", "GET /v1/mirror/verified",
		"GET /v1/plans", "GET /v1/plans/{id}", "GET /v1/runs", "GET /v1/runs/{id}", "GET /v1/sets", "GET /v1/status",
		"POST /v1/backups", "POST /v1/config/apply", "POST /v1/drills", "POST /v1/failover/plan", "POST /v1/failover/run", "POST /v1/guard",
		"POST /v1/mirror/accept-loss", "POST /v1/mirror/orphans/replay", "POST /v1/mirror/pause", "POST /v1/mirror/reseed/plan", "POST /v1/mirror/reseed/run", "POST /v1/mirror/resume", "POST /v1/mirror/verify",
		"POST /v1/plans/{id}/abort", "POST /v1/plans/{id}/retry", "POST /v1/roles/{role}/ack", "POST /v1/roles/{role}/pause",
		"POST /v1/runs/{id}/cancel",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Version != "v9" {
		t.Errorf("document %s of version %s", doc.OpenAPI, doc.Info.Version)
	}

	h := New(&fake{}, Options{Node: "n", Log: quiet})
	for path, start := range map[string]string{"/openapi.json": "{", "/openapi.yaml": "components:"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		text := w.Body.String()
		if w.Code != 200 || !strings.HasPrefix(text, start) {
			t.Errorf("%s answers %d %.60q", path, w.Code, text)
		}
		for _, word := range []string{"/v1/plans/{id}/abort", "application/problem+json", "lease_remaining_ms", "deadline_boottime_ns", "no_return"} {
			if !strings.Contains(text, word) {
				t.Errorf("%s does not describe %s", path, word)
			}
		}
		if strings.Contains(text, "ErrorModel") {
			t.Errorf("%s describes an error that is never sent", path)
		}
	}
}

func TestListenUnix_RemovesASocketOnlyWhenNobodyAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	first, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := ListenUnix(path); !errors.Is(err, ErrSocketBusy) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second daemon got %v", err)
	}
	if ul, ok := first.(*net.UnixListener); ok {
		ul.SetUnlinkOnClose(false) // as a kill -9 leaves it
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the test needs a stale socket: %v", err)
	}
	second, err := ListenUnix(path)
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}

	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("a file that is no socket was removed")
	}
	if _, err := ListenUnix(filepath.Join(t.TempDir(), "no", "api.sock")); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a missing folder: %v", err)
	}
	if _, err := ListenUnix("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a long path: %v", err)
	}
}

func TestClient_SaysThatNoDaemonAnswers(t *testing.T) {
	c := Dial(filepath.Join(t.TempDir(), "none.sock"))
	_, err := c.Status(t.Context())
	wantProblem(t, err, Unavailable, "no daemon answers on socket", "holdfast.service")
	err = c.Ack(t.Context(), "query")
	wantProblem(t, err, Unavailable, "no daemon answers")
}

func TestClient_DoesNotTakeALostAnswerForNothingDone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadAtLeast(c, make([]byte, 1), 1)
			_ = c.Close()
		}
	}()
	defer func() { _ = l.Close(); <-done }()
	c := Dial(path)
	err = c.Ack(t.Context(), "query")
	wantProblem(t, err, Unknown, "answer was lost", "look before you repeat")
}

func wantProblem(t *testing.T, err error, code Code, words ...string) *Problem {
	t.Helper()
	var p *Problem
	if !errors.As(err, &p) {
		t.Fatalf("want a problem, got %v", err)
	}
	if p.Code != code {
		t.Errorf("code %s, want %s: %v", p.Code, code, p)
	}
	for _, w := range words {
		if !strings.Contains(p.Error(), w) {
			t.Errorf("%q does not say %q", p.Error(), w)
		}
	}
	return p
}
