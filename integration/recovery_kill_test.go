//go:build integration

package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/sentry"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/restore"
)

// slayer kills what a backup or a drill needs in the middle of it.
type slayer struct {
	*vaulted
	random  *rand.Rand
	drills  string // where scratch Postgres servers are made
	usual   map[string]time.Duration
	sealed  map[backup.SetID]bool // looked at byte by byte
	tally   map[string]int
	leaders int // leaders that were killed at a slot
}

// kill -9 of the daemon, the S3 server, ClickHouse and Postgres in the middle
// of a backup and of a drill, while both are also scheduled every minute and
// the leader dies when slots are due: no set is ever half visible, a run ends
// as done or says why not, scratch places are gone, and a slot has one run.
// HOLDFAST_POINTS is how often each is killed in each of the two; without it
// each is killed once, in the one or the other by chance. HOLDFAST_SEED repeats
// a run.
func TestRecovery_SurvivesKillsInTheMiddle(t *testing.T) {
	t.Parallel() // it waits most of its time
	points, seed := 0, uint64(time.Now().UnixNano())
	if s := os.Getenv("HOLDFAST_POINTS"); s != "" {
		points, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d, %d points for each victim in each kind of run", seed, points)
	s := &slayer{
		vaulted: newVaulted(t, fleet.Backups{Schedule: "* * * * *", Regions: []string{"us-east"}, Drill: &fleet.Drills{Schedule: "* * * * *"}}),
		random:  rand.New(rand.NewPCG(seed, 1)), usual: map[string]time.Duration{}, sealed: map[backup.SetID]bool{}, tally: map[string]int{},
	}
	file, err := config.Load(s.fleet.Config)
	if err != nil {
		t.Fatal(err)
	}
	s.drills = file.Drill.Target.Postgres.Directory
	for _, kind := range []string{"backup", "drill"} { // unharmed, to know how long they take
		begun := time.Now()
		if r := s.ended(s.begin(kind), time.Minute); r.State != consensus.RunDone {
			t.Fatalf("an unharmed %s is %s: %s", kind, r.State, r.Error)
		}
		s.usual[kind] = time.Since(begun)
	}
	t.Logf("an unharmed backup takes %s, a drill %s", s.usual["backup"].Round(time.Millisecond), s.usual["drill"].Round(time.Millisecond))
	victims, boundaries, killed := []string{"daemon", "s3", "clickhouse", "postgres"}, []string{"after:seal", "done:drill"}, 0
	for i, victim := range victims {
		if points == 0 {
			s.slots()
			s.point([]string{"backup", "drill"}[(i+int(seed%2))%2], victim)
			killed++
		}
	}
	if points > 0 {
		boundaries = append(boundaries, "before:seal", "done:backup")
	}
	for range points {
		for _, kind := range []string{"backup", "drill"} {
			for _, victim := range victims {
				s.slots()
				s.point(kind, victim)
				killed++
				if t.Failed() {
					t.FailNow()
				}
			}
		}
	}
	for _, point := range boundaries {
		s.diesAt(point)
	}
	if s.leaders == 0 {
		s.leaderDiesAtASlot()
	}
	s.oneRunForEachSlot()
	for _, kind := range []string{"backup", "drill"} { // nothing is worn out
		r := s.ended(s.begin(kind), 2*time.Minute)
		if r.State != consensus.RunDone || kind == "drill" && !s.evidence(r).OK {
			t.Errorf("the last, unharmed %s is %s: %s %s", kind, r.State, r.Error, r.Evidence)
		}
	}
	clear(s.sealed) // once more, all of them
	s.everySetIsWhole()
	s.noScratch()
	t.Logf("%v", s.tally)
	fmt.Printf(`{"seed":%d,"points":%d,"done":%d,"reported":%d,"mid_run":%d,"sets":%d,"leaders_killed":%d}`+"\n",
		seed, killed, s.tally["done"], s.tally["failed"], s.tally["in the middle"], len(s.sealed), s.leaders)
	if s.tally["in the middle"]*3 < killed {
		t.Errorf("only %d of %d kills met a run: the points are no test", s.tally["in the middle"], killed)
	}
}

// begin starts a run; one that the schedule has begun is waited for.
func (s *slayer) begin(kind string) consensus.RunID {
	s.Helper()
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		var id consensus.RunID
		client := s.fleet.Nodes["witness-1"].Client()
		if kind == "backup" {
			id, err = client.StartBackup(s.Context(), httpapi.StartBackup{Region: "us-east"})
		} else {
			id, err = client.StartDrill(s.Context(), httpapi.StartDrill{})
		}
		if err == nil {
			return id
		}
	}
	s.Fatalf("start a %s: %v", kind, err)
	return ""
}

// point changes something, starts a run, kills the victim at a random time in
// it, brings it back, and looks at what became of it all.
func (s *slayer) point(kind, victim string) {
	s.Helper()
	east := s.fleet.Regions["us-east"]
	if err := sentry.FillClickHouse(s.Context(), s.tables(east.ClickHouse), 20+s.random.IntN(50), time.Now()); err != nil {
		s.Fatal(err)
	}
	const marks = `CREATE TABLE IF NOT EXISTS marks (n bigserial PRIMARY KEY, at timestamptz DEFAULT now(), note text);
		INSERT INTO marks (note) SELECT CASE WHEN g % 3 = 0 THEN NULL ELSE 'mark ' || g END FROM generate_series(1, 500) g`
	if err := east.Postgres.Exec(s.Context(), marks); err != nil {
		s.Fatal(err)
	}
	id := s.begin(kind)
	after := time.Duration(s.random.Int64N(int64(s.usual[kind])))
	if kind == "drill" && victim == "postgres" {
		s.waitScratchPostgres()
		after = time.Duration(s.random.Int64N(int64(time.Second))) // it does not live much longer
	}
	down := time.Duration(s.random.Int64N(int64(700 * time.Millisecond)))
	time.Sleep(after)
	r, err := s.fleet.Nodes["witness-1"].Client().Run(s.Context(), id)
	middle := err == nil && r.Run.State == consensus.RunLive
	back, met := s.kill(kind, victim)
	time.Sleep(down)
	if err := back(); err != nil {
		s.Fatalf("bring %s back: %v", victim, err)
	}
	end := s.ended(id, 3*time.Minute)
	s.Logf("%s %s: %s killed after %s, down %s, in the middle: %t; %s at attempt %d %s", kind, id, victim, after.Round(time.Millisecond), down.Round(time.Millisecond),
		middle && met, end.State, end.Attempts, end.Error)
	if middle && met {
		s.tally["in the middle"]++
	}
	s.tally[string(end.State)]++
	sets, err := s.archive().Sets(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	switch {
	case end.State == consensus.RunDone && kind == "backup" && !slices.Contains(sets, backup.SetID(id)):
		s.Errorf("backup %s is done, and its set is not there", id)
	case end.State == consensus.RunFailed && end.Error == "":
		s.Errorf("%s %s failed without a word", kind, id)
	case end.State == consensus.RunFailed && slices.Contains(sets, backup.SetID(id)):
		s.Errorf("backup %s failed, and its set is listed", id)
	case end.State == consensus.RunDone && kind == "drill" && !s.evidence(end).OK:
		s.Errorf("a drill blames a whole set: %s", end.Evidence)
	}
	s.everySetIsWhole()
	s.noScratch()
}

// diesAt kills the daemon at a boundary: right before and after what makes a
// set exist, and after the work when the log does not know of it yet.
func (s *slayer) diesAt(point string) {
	s.Helper()
	kind, node := "backup", "us-east-1"
	if strings.Contains(point, "drill") {
		kind, node = "drill", "eu-west-1"
	}
	n := s.fleet.Nodes[node]
	if err := os.WriteFile(filepath.Join(s.points, point), nil, 0o600); err != nil {
		s.Fatal(err)
	}
	id := s.begin(kind)
	select {
	case <-n.Exited():
	case <-time.After(time.Minute):
		s.Fatalf("%s has not died at %s", node, point)
	}
	if err := errors.Join(n.Start(s.Context()), n.WaitJoined(s.Context())); err != nil {
		s.Fatal(err)
	}
	end := s.ended(id, 2*time.Minute)
	if end.State != consensus.RunDone || kind == "drill" && !s.evidence(end).OK {
		s.Errorf("killed at %s: %s is %s: %s %s", point, id, end.State, end.Error, end.Evidence)
	}
	s.Logf("%s %s: daemon killed at %s; %s at attempt %d", kind, id, point, end.State, end.Attempts)
	s.everySetIsWhole()
	s.noScratch()
}

// kill ends a victim and returns how to bring it back, and whether there was
// one.
func (s *slayer) kill(kind, victim string) (back func() error, met bool) {
	s.Helper()
	east, ctx := s.fleet.Regions["us-east"], s.Context()
	must := func(err error) {
		s.Helper()
		if err != nil {
			s.Fatalf("kill %s: %v", victim, err)
		}
	}
	switch {
	case victim == "daemon":
		n := s.fleet.Nodes[map[string]string{"backup": "us-east-1", "drill": "eu-west-1"}[kind]]
		must(n.Kill())
		return func() error { return errors.Join(n.Start(ctx), n.WaitJoined(ctx)) }, true
	case victim == "s3":
		must(s.fleet.Archive.Kill())
		return func() error { return s.fleet.Archive.Restart(ctx) }, true
	case victim == "clickhouse" && kind == "backup":
		must(east.ClickHouse.Kill())
		return func() error { return east.ClickHouse.Restart(ctx) }, true
	case victim == "clickhouse":
		must(s.fleet.Drill.Kill())
		return func() error { return s.fleet.Drill.Restart(ctx) }, true
	case kind == "backup":
		must(east.Postgres.Kill())
		return func() error { return east.Postgres.Restart(ctx) }, true
	}
	// The scratch server of the drill, if it is there at this moment.
	for _, path := range s.scratchPostgres() {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it is just ending
		}
		first, _, _ := strings.Cut(string(b), "\n")
		if pid, err := strconv.Atoi(strings.TrimSpace(first)); err == nil && pid > 1 {
			met = syscall.Kill(pid, syscall.SIGKILL) == nil || met
		}
	}
	return func() error { return nil }, met
}

// scratchPostgres finds the servers that a drill has started.
func (s *slayer) scratchPostgres() []string {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.drills, "*", "data", "postmaster.pid"))
	if err != nil {
		s.Fatal(err)
	}
	return found
}

func (s *slayer) waitScratchPostgres() {
	s.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && len(s.scratchPostgres()) == 0; {
		time.Sleep(10 * time.Millisecond)
	}
}

// everySetIsWhole reads the seal and the manifests of every set, and every byte
// of those that are new.
func (s *slayer) everySetIsWhole() {
	s.Helper()
	a := s.archive()
	sets, err := a.Sets(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	for _, id := range sets {
		l, err := restore.Load(s.Context(), a, id, "")
		if err != nil {
			s.Errorf("set %s is listed and cannot be read: %v", id, err)
			continue
		}
		if s.sealed[id] {
			continue
		}
		for _, m := range l.Manifests {
			v, err := a.Verify(s.Context(), m, true, nil)
			if err != nil || v.Broken > 0 {
				s.Errorf("set %s is listed, and %s is not whole: %+v, %v", id, m.Engine, v.Findings, err)
			}
		}
		s.sealed[id] = true
	}
}

// noScratch checks that what drills made is gone, unless one runs.
func (s *slayer) noScratch() {
	s.Helper()
	var left []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		runs, err := s.fleet.Nodes["witness-1"].Client().Runs(s.Context(), "drill")
		if err != nil {
			continue
		}
		if slices.ContainsFunc(runs, func(r httpapi.Run) bool { return r.Run.State == consensus.RunLive }) {
			continue // the schedule has begun one
		}
		left = s.scratch()
		if len(left) == 0 {
			return
		}
	}
	s.Errorf("scratch places are left: %v", left)
}

// scratch lists what there is on the drill's targets, by looking itself.
func (s *slayer) scratch() (left []string) {
	s.Helper()
	left, err := filepath.Glob(filepath.Join(s.drills, "*"))
	if err != nil {
		s.Fatal(err)
	}
	conf := s.tables(s.fleet.Drill)
	names, err := sentry.Databases(s.Context(), conf)
	if err != nil {
		s.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "holdfast_drill") {
			left = append(left, "database "+name)
		}
	}
	return left
}

// slots lets the leader die when the two slots of the next minute are due, if
// that is soon.
func (s *slayer) slots() {
	if left := 60*time.Second - time.Duration(time.Now().UnixNano()%int64(time.Minute)); left < 8*time.Second && s.leaders < 5 {
		s.leaderDiesAtASlot()
	}
}

func (s *slayer) leaderDiesAtASlot() {
	s.Helper()
	next := time.Now().Truncate(time.Minute).Add(time.Minute)
	time.Sleep(time.Until(next) + time.Duration(s.random.Int64N(int64(1500*time.Millisecond))) - 200*time.Millisecond)
	m, err := s.fleet.Nodes["witness-1"].Client().Members(s.Context())
	if err != nil || m.Leader == "" {
		s.Logf("no leader to kill: %v", err)
		return
	}
	n := s.fleet.Nodes[string(m.Leader)]
	if err := n.Kill(); err != nil {
		s.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if err := errors.Join(n.Start(s.Context()), n.WaitJoined(s.Context())); err != nil {
		s.Fatal(err)
	}
	s.leaders++
	s.Logf("the leader %s died at the slots of %s", m.Leader, next.UTC().Format("15:04"))
	for _, job := range []string{"backup/us-east", "drill/eu-west"} {
		s.waitSlot(job, next)
	}
}

// waitSlot waits until the run of a slot has ended.
func (s *slayer) waitSlot(job string, slot time.Time) {
	s.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		runs, err := s.fleet.Nodes["witness-1"].Client().Runs(s.Context(), "")
		if err != nil {
			continue
		}
		for _, r := range runs {
			// Another run may have kept the slot waiting until a newer one came.
			if r.Run.Job == job && !r.Run.Slot.Before(slot) && r.Run.State != consensus.RunLive {
				return
			}
		}
	}
	s.Errorf("slot %s of %s was never run", slot.UTC().Format("15:04"), job)
}

func (s *slayer) oneRunForEachSlot() {
	s.Helper()
	runs, err := s.fleet.Nodes["witness-1"].Client().Runs(s.Context(), "")
	if err != nil {
		s.Fatal(err)
	}
	seen := map[string]consensus.RunID{}
	for _, r := range runs {
		if r.Run.Job == "" {
			continue
		}
		slot := r.Run.Job + " " + r.Run.Slot.UTC().Format(time.RFC3339)
		if other, twice := seen[slot]; twice {
			s.Errorf("slot %s has two runs: %s and %s", slot, other, r.ID)
		}
		seen[slot] = r.ID
	}
	if len(seen) < 2 {
		s.Errorf("only %d slots were run", len(seen))
	}
	s.Logf("%d slots, one run each", len(seen))
}
