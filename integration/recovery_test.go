//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/sentry"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

const clickhouseWord = "HOLDFAST_TEST_CLICKHOUSE"

// vaulted is a fleet whose us-east is filled like a Sentry, with a repository
// for it and a place to drill in eu-west.
type vaulted struct {
	*testing.T
	fleet  *fleet.Fleet
	points string // where failpoints are set
}

func newVaulted(t *testing.T, b fleet.Backups) *vaulted {
	t.Helper()
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse, stack.NeedS3, stack.NeedPostgres)
	binary := filepath.Join(t.TempDir(), "holdfast")
	if err := fleet.Build(t.Context(), binary, "failpoint"); err != nil {
		t.Fatal(err)
	}
	points := t.TempDir()
	f, err := fleet.Start(t.Context(), fleet.Options{
		Dir: t.TempDir(), Binary: binary, Topics: []string{"ingest-.*"}, Postgres: true, Backups: &b, Env: []string{"HOLDFAST_FAILPOINTS=" + points},
	})
	if err != nil {
		t.Fatal(err)
	}
	v := &vaulted{t, f, points}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range f.Nodes {
				log, _ := os.ReadFile(n.LogPath())
				t.Logf("%s:\n%s", n.Name, log[max(0, len(log)-6000):])
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	// It is the same for every server of the rig, and tests run side by side.
	if err := os.Setenv(clickhouseWord, f.Regions["us-east"].ClickHouse.Password()); err != nil {
		t.Fatal(err)
	}
	v.fill()
	if err := f.StartNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// fill makes us-east look like a Sentry: tables with NULLs and views, issues,
// topics and a group that has read a part.
func (v *vaulted) fill() {
	v.Helper()
	east := v.fleet.Regions["us-east"]
	tables := v.tables(east.ClickHouse)
	if err := sentry.CreateClickHouse(v.Context(), tables); err != nil {
		v.Fatal(err)
	}
	if err := sentry.FillClickHouse(v.Context(), tables, 1000, time.Now()); err != nil {
		v.Fatal(err)
	}
	if err := sentry.FillPostgres(v.Context(), east.Postgres.DSN(), 300); err != nil {
		v.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(east.Kafka.Bootstrap()))
	if err != nil {
		v.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	if _, err := admin.CreateTopic(v.Context(), 2, 1, nil, "ingest-events"); err != nil {
		v.Fatal(err)
	}
	for i := range 100 {
		if err := cl.ProduceSync(v.Context(), &kgo.Record{Topic: "ingest-events", Value: fmt.Appendf(nil, "event %d", i)}).FirstErr(); err != nil {
			v.Fatal(err)
		}
	}
	ends, err := admin.ListEndOffsets(v.Context(), "ingest-events")
	if err != nil {
		v.Fatal(err)
	}
	if err := admin.CommitAllOffsets(v.Context(), "ingest-consumer", ends.Offsets()); err != nil {
		v.Fatal(err)
	}
}

func (v *vaulted) tables(c *stack.ClickHouse) sentry.ClickHouse {
	return sentry.ClickHouse{Address: c.HTTPAddress(), User: c.User(), Password: c.Password(), Database: c.Database()}
}

// host is the library that daemon and command line share, as one node.
func (v *vaulted) host(node string) *recovery.Host {
	v.Helper()
	file, err := config.Load(v.fleet.Config)
	if err != nil {
		v.Fatal(err)
	}
	me, err := file.Node(topology.Node(node))
	if err != nil {
		v.Fatal(err)
	}
	identity, err := certs.Load(certs.Options{Files: certs.Files{CA: me.TLS.CA, Cert: me.TLS.Cert, Key: me.TLS.Key}, Cluster: file.Cluster, Node: topology.Node(node)})
	if err != nil {
		v.Fatal(err)
	}
	h, err := recovery.NewHost(recovery.Options{Fleet: file, Node: topology.Node(node), Identity: identity, Version: "test"})
	if err != nil {
		v.Fatal(err)
	}
	return h
}

func (v *vaulted) identity() (string, error) {
	b, err := os.ReadFile(v.fleet.Identity())
	return string(b), err
}

func (v *vaulted) archive() recovery.Archive {
	v.Helper()
	a, err := v.host("eu-west-1").Archive(v.Context(), "us-east", v.identity)
	if err != nil {
		v.Fatal(err)
	}
	return a
}

// cli runs a verb as an operator of a node would.
func (v *vaulted) cli(node string, args ...string) (stdout, stderr string, err error) {
	return v.fleet.Nodes[node].CLI(v.Context(), args...)
}

func (v *vaulted) must(node string, args ...string) string {
	v.Helper()
	out, errOut, err := v.cli(node, args...)
	if err != nil {
		v.Fatalf("holdfast %s: %v\n%s%s", strings.Join(args, " "), err, out, errOut)
	}
	return out
}

// take has us-east take a set and returns what its run left.
func (v *vaulted) take() httpapi.RunEvidence {
	v.Helper()
	id, err := v.fleet.Nodes["us-east-1"].Client().StartBackup(v.Context(), httpapi.StartBackup{Region: "us-east"})
	if err != nil {
		v.Fatal(err)
	}
	r := v.ended(id, time.Minute)
	if r.State != consensus.RunDone {
		v.Fatalf("backup %s is %s: %s", id, r.State, r.Error)
	}
	return v.evidence(r)
}

func (v *vaulted) evidence(r consensus.Run) (e httpapi.RunEvidence) {
	v.Helper()
	if err := json.Unmarshal(r.Evidence, &e); err != nil {
		v.Fatal(err)
	}
	return e
}

// ended waits for a run to end, as any daemon that answers sees it.
func (v *vaulted) ended(id consensus.RunID, within time.Duration) consensus.Run {
	v.Helper()
	deadline := time.Now().Add(within)
	last := "nobody answered"
	for time.Now().Before(deadline) {
		for _, name := range []string{"witness-1", "eu-west-1", "us-east-1"} {
			r, err := v.fleet.Nodes[name].Client().Run(v.Context(), id)
			if err == nil && r.Run.State != consensus.RunLive {
				return r.Run
			}
			if err == nil {
				last = fmt.Sprintf("%s: live, attempt %d, %+v", name, r.Run.Attempts, r.Progress)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	v.Fatalf("run %s has not ended within %s; %s", id, within, last)
	return consensus.Run{}
}

// object is where an object of us-east's repository lies as a file.
func (v *vaulted) object(key string) string {
	return filepath.Join(v.fleet.Archive.DataDir(), fleet.Bucket("us-east"), filepath.FromSlash(key))
}

func (v *vaulted) read(key string) []byte {
	v.Helper()
	b, err := os.ReadFile(v.object(key))
	if err != nil {
		v.Fatal(err)
	}
	return b
}

// overwrite changes the bytes of an object behind the store's back.
func (v *vaulted) overwrite(key string, b []byte) {
	v.Helper()
	if err := os.WriteFile(v.object(key), b, 0o644); err != nil {
		v.Fatal(err)
	}
}

func TestRecovery_ASetIsProvenAndADamagedOneIsRefused(t *testing.T) {
	v := newVaulted(t, fleet.Backups{Drill: &fleet.Drills{}})
	first := v.take()
	if first.Totals.Rows == 0 || first.Totals.Uploaded == 0 {
		t.Fatalf("an empty set: %+v", first)
	}
	second := v.take()
	if second.Totals.Uploaded*4 > first.Totals.Uploaded {
		t.Errorf("a second set of the same data uploads %d bytes, the first one %d", second.Totals.Uploaded, first.Totals.Uploaded)
	}
	t.Run("it is drilled", func(t *testing.T) { v.sub(t).drills(second) })
	t.Run("it is restored by hand", func(t *testing.T) { v.sub(t).restores(second) })
	t.Run("a damaged one is refused", func(t *testing.T) { v.sub(t).refusesDamage(first, second) })
	t.Run("no secret is anywhere", func(t *testing.T) { v.sub(t).leaksNothing() })
}

// shortDir is a folder in which a server that runs as somebody else can make a
// socket: its path has room for 107 bytes.
func (v *vaulted) shortDir() string {
	v.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		v.Fatal(err)
	}
	return dir
}

func (v *vaulted) sub(t *testing.T) *vaulted { return &vaulted{t, v.fleet, v.points} }

func (v *vaulted) drills(set httpapi.RunEvidence) {
	out := v.must("eu-west-1", "drill", "run", "--json")
	if !strings.Contains(out, string(set.Set)) {
		v.Errorf("not the newest set %s was drilled:\n%s", set.Set, out)
	}
	a := v.archive()
	runs, err := a.Reports(v.Context(), set.Set)
	if err != nil || len(runs) != 1 {
		v.Fatalf("reports %v: %v", runs, err)
	}
	r, err := a.Report(v.Context(), set.Set, runs[0])
	if err != nil {
		v.Fatal(err)
	}
	if !r.OK || r.Rows < set.Totals.Rows/2 || r.RTOMs <= 0 || len(r.Engines) < 2 || len(r.Controls) < 3 {
		v.Errorf("report %+v", r)
	}
	for _, c := range r.Controls {
		if !c.Caught {
			v.Errorf("control not caught: %+v", c)
		}
	}
	v.nothingLeft()
	s, err := v.fleet.Nodes["witness-1"].Client().Sets(v.Context())
	if err != nil || len(s) != 2 || !s[0].Set.Proof.OK || s[1].Set.Proof.OK {
		v.Errorf("sets in the log: %+v, %v", s, err)
	}
	if out, _, _ := v.cli("eu-west-1", "check"); !strings.Contains(out, "sets of us-east for drills") || !strings.Contains(out, "conditional puts are honoured") {
		v.Errorf("check does not look at repositories (what it finds otherwise is not asked here):\n%s", out)
	}
	for _, verb := range []string{"backup list --region us-east", "backup show latest --region us-east --offsets", "backup verify latest --region us-east --read-data",
		"drill list --region us-east", "drill show " + string(set.Set)} {
		v.Logf("holdfast %s\n%s", verb, v.must("eu-west-1", strings.Fields(verb)...))
	}
}

// nothingLeft checks that no scratch place of any drill is there.
func (v *vaulted) nothingLeft() {
	v.Helper()
	gone, err := v.host("eu-west-1").Sweep(v.Context())
	if err != nil || len(gone) > 0 {
		v.Errorf("scratch places were left: %v, %v", gone, err)
	}
}

func (v *vaulted) restores(set httpapi.RunEvidence) {
	dir := v.shortDir()
	args := []string{"run", string(set.Set), "--region", "us-east", "--clickhouse-database", "by_hand", "--postgres-directory", dir}
	plan := v.must("eu-west-1", append([]string{"restore", "plan"}, args[1:]...)...)
	if !strings.Contains(plan, "by_hand") || !strings.Contains(plan, dir) {
		v.Errorf("the plan does not say where:\n%s", plan)
	}
	out := v.must("eu-west-1", append([]string{"restore"}, append(args, "--start", "--json")...)...)
	v.equalsTheSource(out)
	// Never over something that exists.
	if out, errOut, err := v.cli("eu-west-1", append([]string{"restore"}, args...)...); err == nil || !strings.Contains(out+errOut, "by_hand exists") {
		v.Errorf("a second restore into the same place: %v\n%s%s", err, out, errOut)
	}
	// A sweep after drills does not take what a person asked for.
	v.nothingLeft()
}

// equalsTheSource counts and hashes what was restored with programs that know
// nothing of holdfast, and compares that with the stores of us-east.
func (v *vaulted) equalsTheSource(restored string) {
	v.Helper()
	var r struct {
		Places []struct {
			Engine  backup.Engine `json:"engine"`
			Connect string        `json:"connect"`
		} `json:"places"`
	}
	if err := json.Unmarshal([]byte(restored), &r); err != nil {
		v.Fatalf("%v in:\n%s", err, restored)
	}
	connect := ""
	for _, p := range r.Places {
		if p.Engine == backup.Postgres {
			connect = strings.TrimSuffix(strings.TrimPrefix(p.Connect, `psql "`), `"`)
		}
	}
	if connect == "" {
		v.Fatalf("nobody says how to reach the restored Postgres:\n%s", restored)
	}
	v.Cleanup(func() { v.endScratch() })
	east := v.fleet.Regions["us-east"]
	want, err := sentry.CensusPostgres(v.Context(), east.Postgres.DSN())
	if err != nil {
		v.Fatal(err)
	}
	got, err := sentry.CensusPostgres(v.Context(), strings.Replace(connect, "dbname='postgres'", "dbname='sentry'", 1))
	if err != nil {
		v.Fatal(err)
	}
	if len(want) < 15 || !maps.Equal(got, want) {
		v.Errorf("postgres: restored %v\nwant %v", got, want)
	}
	source := v.tables(east.ClickHouse)
	wantCH, err := sentry.CensusClickHouse(v.Context(), source)
	if err != nil {
		v.Fatal(err)
	}
	scratch := v.tables(v.fleet.Drill)
	scratch.Database = "by_hand"
	gotCH, err := sentry.CensusClickHouse(v.Context(), scratch)
	if err != nil {
		v.Fatal(err)
	}
	if len(wantCH) < 20 || !maps.Equal(gotCH, wantCH) {
		v.Errorf("clickhouse: restored %v\nwant %v", gotCH, wantCH)
	}
}

// endScratch ends the Postgres that restore run --start has left running, as
// it should.
func (v *vaulted) endScratch() {
	found, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		v.Fatal(err)
	}
	for _, link := range found {
		if cwd, err := os.Readlink(link); err == nil && strings.Contains(cwd, "/holdfast-restore-") {
			if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended with its parent
			}
		}
	}
}

// kindsOf names one object of each kind that a set needs: key by kind.
func (v *vaulted) kindsOf(a recovery.Archive, set backup.SetID) map[string]string {
	v.Helper()
	l, err := restore.Load(v.Context(), a, set, "")
	if err != nil {
		v.Fatal(err)
	}
	ch, pg := l.Manifests[backup.ClickHouse], l.Manifests[backup.Postgres]
	kinds := map[string]string{"seal": backup.SealKey(set), "blob": pg.Blobs[len(pg.Blobs)/2].Key}
	for _, p := range l.Seal.Parts {
		if p.Engine == backup.ClickHouse {
			kinds["manifest"] = p.Manifest
		}
	}
	x, err := a.PackIndex(v.Context(), ch.Packs[0])
	if err != nil {
		v.Fatal(err)
	}
	biggest := slices.MaxFunc(x.Objects, func(a, b backup.PackObject) int { return int(a.Bytes - b.Bytes) })
	kinds["pack"] = backup.PackPrefix(backup.ClickHouse, x.Pack) + biggest.Name
	kinds["pack index"] = ch.Packs[0].Index
	return kinds
}

func (v *vaulted) refusesDamage(other, set httpapi.RunEvidence) {
	a := v.archive()
	mine, theirs := v.kindsOf(a, set.Set), v.kindsOf(a, other.Set)
	pg := func(s backup.SetID) *backup.Manifest {
		l, err := restore.Load(v.Context(), a, s, "")
		if err != nil {
			v.Fatal(err)
		}
		return l.Manifests[backup.Postgres]
	}(set.Set)
	theirs["blob"] = pg.Blobs[0].Key // what it is swapped with
	if theirs["blob"] == mine["blob"] {
		theirs["blob"] = pg.Blobs[len(pg.Blobs)-1].Key
	}
	theirs["pack"] = backup.PackPrefix(backup.ClickHouse, "x") // found below
	if x, err := a.PackIndex(v.Context(), func() backup.Pack {
		l, err := restore.Load(v.Context(), a, set.Set, "")
		if err != nil {
			v.Fatal(err)
		}
		return l.Manifests[backup.ClickHouse].Packs[0]
	}()); err != nil {
		v.Fatal(err)
	} else {
		prefix := strings.TrimSuffix(mine["pack"], "/")
		for _, o := range x.Objects {
			if key := backup.PackPrefix(backup.ClickHouse, x.Pack) + o.Name; key != prefix && o.Bytes > 0 {
				theirs["pack"] = key
			}
		}
	}
	theirs["pack index"] = mine["manifest"]
	seed := uint64(time.Now().UnixNano())
	v.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, kind := range []string{"seal", "manifest", "blob", "pack", "pack index"} {
		key, whole := mine[kind], v.read(mine[kind])
		for _, how := range []string{"flipped", "cut", "deleted", "swapped"} {
			v.Run(how+" "+kind, func(t *testing.T) {
				v := v.sub(t)
				b := slices.Clone(whole)
				switch how {
				case "flipped":
					b[random.IntN(len(b))] ^= 1 << random.IntN(8)
				case "cut":
					b = b[:len(b)-1-random.IntN(len(b)/2)]
				case "swapped":
					b = v.read(theirs[kind])
				}
				if how == "deleted" {
					if err := os.Rename(v.object(key), v.object(key)+".away"); err != nil {
						t.Fatal(err)
					}
				} else {
					v.overwrite(key, b)
				}
				v.refused(set.Set, key)
				if how == "deleted" {
					if err := os.Rename(v.object(key)+".away", v.object(key)); err != nil {
						t.Fatal(err)
					}
				}
				v.overwrite(key, whole)
			})
		}
	}
	// And the set is whole again: it was the damage that was refused.
	if out, errOut, err := v.cli("eu-west-1", "backup", "verify", string(set.Set), "--read-data", "--region", "us-east"); err != nil {
		v.Errorf("the mended set: %v\n%s%s", err, out, errOut)
	}
}

// refused checks that verify, restore and drill each refuse a set and name the
// object, and that no server was asked for anything.
func (v *vaulted) refused(set backup.SetID, key string) {
	v.Helper()
	// Of a set whose seal is gone there is nothing but the id.
	names := func(said string) bool {
		_, err := os.Stat(v.object(key))
		return strings.Contains(said, key) || err != nil && key == backup.SealKey(set) && strings.Contains(said, string(set))
	}
	run := strings.ToLower(ulid.Make().String())
	for _, args := range [][]string{
		{"backup", "verify", string(set), "--read-data", "--region", "us-east"},
		{"restore", "run", string(set), "--region", "us-east", "--clickhouse-database", "never_" + run, "--postgres-directory", v.shortDir()},
	} {
		out, errOut, err := v.cli("eu-west-1", args...)
		if err == nil || !names(out+errOut) {
			v.Errorf("holdfast %v: %v, want it refused and %s named:\n%s%s", args, err, key, out, errOut)
		}
		if strings.Contains(out, "restored and compared equal") {
			v.Errorf("somebody was told that it is restored:\n%s", out)
		}
	}
	done, err := v.host("eu-west-1").Drill(v.Context(), recovery.DrillOptions{
		Run: ulid.Make().String(), Attempt: 1, Spec: recovery.DrillSpec{Of: "us-east", Set: set},
	})
	said := done.Report.Why
	for _, f := range done.Report.Findings {
		said += " " + f.Object
	}
	if err != nil {
		said += " " + err.Error()
	}
	if done.Report.OK || !names(said) {
		v.Errorf("the drill: ok %t, %s; want it refused and %s named", done.Report.OK, said, key)
	}
	if err == nil && done.Report.Fault != restore.FaultSet {
		v.Errorf("the drill blames %q: %s", done.Report.Fault, said)
	}
	for _, s := range done.Report.Stages {
		if strings.HasPrefix(s.Name, "restore ") {
			v.Errorf("the drill asked a server: %+v", s)
		}
	}
	v.nothingLeft()
}

// leaksNothing looks for the words of all secrets in what people and other
// programs get to see.
func (v *vaulted) leaksNothing() {
	words := v.secrets()
	if len(words) < 6 {
		v.Fatalf("only %d secrets are known: the search would find nothing", len(words))
	}
	look := func(where string, b []byte) {
		for name, word := range words {
			if strings.Contains(string(b), word) {
				v.Errorf("%s is in %s", name, where)
			}
		}
	}
	for _, n := range v.fleet.Nodes {
		b, err := os.ReadFile(n.LogPath())
		if err != nil {
			v.Fatal(err)
		}
		look("the log of "+n.Name, b)
		_, metrics, err := n.Get(v.Context(), "/metrics")
		if err != nil {
			v.Fatal(err)
		}
		look("the metrics of "+n.Name, []byte(metrics))
	}
	logs := 0
	err := filepath.WalkDir(v.fleet.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return err
		}
		b, err := os.ReadFile(path)
		logs++
		look("the log "+path, b)
		return err
	})
	if err != nil || logs < 8 {
		v.Errorf("%d logs of servers looked at, %v", logs, err)
	}
	for _, args := range [][]string{{"status", "--json"}, {"audit", "list", "--json"}, {"config", "show"}} {
		out, errOut, _ := v.cli("eu-west-1", args...) // findings are an exit code
		if out == "" {
			v.Errorf("holdfast %v says nothing: %s", args, errOut)
		}
		look(fmt.Sprint(args), []byte(out+errOut))
	}
	seen := 0
	err = filepath.WalkDir(v.fleet.Archive.DataDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		seen++
		look("object "+path, b)
		return err
	})
	if err != nil || seen < 20 {
		v.Errorf("%d objects looked at, %v", seen, err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		v.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil { // a process may have ended
			look("the arguments of a process: "+strings.ReplaceAll(string(b), "\x00", " "), b)
		}
	}
}

func (v *vaulted) secrets() map[string]string {
	v.Helper()
	words := map[string]string{}
	file, err := os.ReadFile(v.fleet.Identity())
	if err != nil {
		v.Fatal(err)
	}
	for i, line := range strings.Fields(string(file)) {
		words[fmt.Sprintf("identity %d", i)] = line
	}
	keys, err := filepath.Glob(filepath.Join(filepath.Dir(v.fleet.Identity()), "*"))
	if err != nil {
		v.Fatal(err)
	}
	for _, path := range keys {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "dedupe-") || name == "s3-secret" {
			b, err := os.ReadFile(path)
			if err != nil {
				v.Fatal(err)
			}
			words[name] = strings.TrimSpace(string(b))
		}
	}
	for name, r := range v.fleet.Regions {
		words["clickhouse of "+name] = r.ClickHouse.Password()
		words["postgres of "+name] = passwordOf(r.Postgres.BackupDSN())
	}
	return words
}

func passwordOf(dsn string) string {
	_, rest, _ := strings.Cut(dsn, "://")
	user, _, _ := strings.Cut(rest, "@")
	_, password, _ := strings.Cut(user, ":")
	return password
}
