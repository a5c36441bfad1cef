package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

var update = flag.Bool("update", false, "write the golden files anew; read the diff")

func TestRender_ReadsAsItShould(t *testing.T) {
	golden := func(name, got string) {
		t.Helper()
		path := filepath.Join("testdata", "render", name+".txt")
		for n, l := range strings.Split(got, "\n") {
			if l != strings.TrimRight(l, " ") {
				t.Errorf("%s: line %d ends in blanks: %q", name, n+1, l)
			}
		}
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (run with -update, and read the diff):\n%s", name, diff)
		}
	}
	golden("status-healthy", renderStatus(healthy()))
	golden("status-calm", renderStatus(calm()))
	golden("status-bad-night", renderStatus(badNight()))
	golden("status-no-leader", renderStatus(leaderless()))
	golden("status-no-roles", renderStatus(ladder()))

	golden("plan-planned", renderCandidate(candidate(), nil))
	golden("plan-refused", renderCandidate(refused()))
	golden("plan-unplanned", renderCandidate(unplannedCandidate(), nil))
	golden("plan-loss-unknown", renderCandidate(blindCandidate(), nil))
	golden("plan-reseed", renderCandidate(reseedCandidate(), nil))
	none, blockers := refused()
	none.Plan.Hash = ""
	golden("plan-none", renderCandidate(none, blockers))

	golden("run-running", renderPlan(at(3, consensus.PlanRunning), noon))
	golden("run-completed", renderPlan(at(8, consensus.PlanCompleted), noon))
	golden("run-stuck", renderPlan(stuckPlan(), noon))
	golden("run-turning-back", renderPlan(turning(), noon))
	golden("run-rolled-back", renderPlan(rolledBack(), noon))
	golden("run-all", renderPlans([]httpapi.Plan{stuckPlan(), at(8, consensus.PlanCompleted), rolledBack()}, noon))

	golden("mirror", renderMirror(mirrored(), false))
	golden("mirror-verify", sampleCompared(t, false, true))
	golden("mirror-verify-bad", sampleCompared(t, true, true))
	golden("mirror-verify-last", sampleCompared(t, false, false))
	golden("mirror-all", renderMirror(mirrored(), true))
	golden("groups", renderGroups(httpapi.GroupsReport{Groups: []httpapi.GroupRow{
		{Region: "eu-west", Group: "ingest-consumer", Partitions: 8, Covered: 8, OK: true},
		{Region: "eu-west", Group: "snuba-shadow", Local: true, OK: true},
		{Region: "eu-west", Group: "left-over", OK: true, Only: 4},
		{Region: "eu-west", Group: "outcomes", Partitions: 8, Covered: 8, OK: true, NeverRead: 2, Rule: "latest"},
		{Region: "eu-west", Group: "post-process", Partitions: 8, Covered: 6, Skipped: 205, Repeated: 1, Wrong: []httpapi.WrongOffset{
			{Topic: "events", Partition: 1, Want: 500, Have: -1, Skipped: 200, Repeated: 1, Why: "the target has no offset: the consumer would start by its own setting, skip up to 200 records (latest) or read 1 record again (earliest)", Next: "holdfast mirror status"},
			{Topic: "events", Partition: 2, Want: 695, Have: 700, Skipped: 5, Why: "the target's offset 700 is ahead of 695: up to 5 records would be skipped", Next: "holdfast mirror status"},
		}, Unnamed: 3},
	}}))
	golden("groups-right", renderGroups(httpapi.GroupsReport{Groups: []httpapi.GroupRow{
		{Region: "eu-west", Group: "ingest-consumer", Partitions: 8, Covered: 8, OK: true},
		{Region: "eu-west", Group: "outcomes", Partitions: 8, Covered: 8, OK: true, NeverRead: 2, Rule: "latest"},
	}}))
	golden("mirror-orphans", renderOrphans(sampleOrphans()))
	golden("mirror-orphans-none", renderOrphans(httpapi.OrphansReport{At: noon}))
	golden("mirror-drift", renderMirrorDrift(sampleDrift()))
	golden("mirror-drift-none", renderMirrorDrift(httpapi.DriftReport{At: noon, Links: []httpapi.LinkDrift{{ID: "us-east>eu-west"}}}))
	gone := mirrored()
	gone.Links = gone.Links[:1]
	gone.Links[0].Deleted = []httpapi.DeletedTopic{{Topic: "old", At: noon.Add(-time.Hour)}, {Topic: "older", At: noon.Add(-2 * time.Hour), Until: noon.Add(22 * time.Hour)}}
	golden("mirror-deleted", renderMirror(gone, false))
	golden("mirror-topics", renderTopics(sampleTopics()))
	golden("check", renderCheck(httpapi.CheckReport{At: noon, Checks: []httpapi.Check{
		{Name: "leader", OK: true, Detail: "witness-1 leads term 4"},
		{Region: "us-east", Node: "us-east-1", Name: "kafka reach", OK: true, Detail: "3 brokers, version 3.6", TookMs: 12},
		{Region: "us-east", Node: "us-east-1", Name: "kafka rights", Detail: "may not describe groups", Fix: "grant Describe on Group *", TookMs: 1500},
		{Region: "eu-west", Node: "eu-west-1", Name: "clock", Severity: httpapi.Note, Detail: "NTP is not running", Fix: "start chronyd"},
	}}))
	golden("members", renderMembers(httpapi.Members{Leader: "witness-1", Members: []httpapi.Member{
		{Node: "eu-west-1", Region: "eu-west", Voter: true, Reachable: true, Address: "eu-west.dr.example:7421", RTTMs: 84.2, Version: "v0.1.0", Since: noon.Add(-50 * time.Hour)},
		{Node: "us-east-1", Region: "us-east", Voter: true, Address: "us-east.dr.example:7421", HeardMs: 42_000, RTTMs: -1},
		{Node: "witness-1", Witness: true, Leader: true, Voter: true, Reachable: true, Address: "witness.dr.example:7421", RTTMs: 0.4, Version: "v0.1.0", Since: noon.Add(-125 * time.Minute)},
	}}, noon))
	golden("audit", renderAudit(httpapi.AuditReport{Count: 1234, Head: "abcdef0123456789abcdef", Lines: []consensus.AuditLine{
		{Number: 1233, At: noon.Add(-26 * time.Hour), By: "operator root@us-east-1 for alice", Kind: "pause", Body: []byte(`{"role":"query","until":"2026-03-01T13:00:00Z","reason":"works at the provider, which will take a while and then some"}`)},
		{Number: 1234, At: noon, By: "node witness-1", Kind: "expire", Body: []byte(`{"role":"query"}`)},
	}}, noon))
	golden("drift", renderDrift(httpapi.ConfigDrift{
		Node: "us-east-1", File: "/etc/holdfast/holdfast.yaml", Digest: "aaaaaaaaaaaaaaaa", Applied: "bbbbbbbbbbbbbbbbbb", Drift: true,
		Nodes: map[topology.Node]string{"eu-west-1": "bbbbbbbbbbbbbbbbbb", "witness-1": "cccccccccccccccccccc"},
	}))
	golden("status-backups", renderStatus(backedUp()))
	golden("status-backups-late", renderStatus(unproven()))
	sets := setsAtNoon(t)
	golden("backup-list", renderSets(sets))
	sets.Findings, sets.Runs = append(sets.Findings, setRow{Set: setWest, Region: "eu-west", Vault: "s3://holdfast-eu", Damaged: "damaged: sets/" + string(setWest) + ".json: its signature is none"}.findings(logbook{})...), []httpapi.Run{liveRun(), failedRun()}
	sets.Sets[1] = setRow{Set: setWest, Region: "eu-west", Damaged: "its signature is none"}
	sets.Findings = append(sets.Findings, lastFailed(sets.Runs, nil)...)
	golden("backup-list-bad", renderSets(sets))
	golden("backup-list-none", renderSets(setList{At: noon}))
	seal := sampleSeal(setNew, "us-east")
	golden("backup-run", renderTaken(taken{Run: consensus.RunID(setNew), Seal: &seal, RunEvidence: httpapi.RunEvidence{Set: setNew, Region: "us-east", Digest: sealDigest(setNew), Totals: seal.Totals(), TookMs: 41_200}}))
	golden("backup-show", renderSet(shownAtNoon(), false))
	bare := shownAtNoon()
	bare.Logged, bare.Drills = false, nil
	golden("backup-show-offsets", renderSet(bare, true))
	golden("backup-verify", renderVerified(verified{OK: true, Log: true, Sets: []setVerified{{Set: setNew, Region: "us-east", OK: true, Logged: true, Objects: 131, Bytes: 4_239_002_000}}}))
	golden("backup-verify-bad", renderVerified(verified{ReadData: true, Sets: []setVerified{
		{Set: setNew, Region: "us-east", OK: true, Logged: true, Objects: 131, Bytes: 4_239_002_000, Read: 4_239_002_000, TookMs: 9_100},
		{Set: setMid, Region: "us-east", Logged: true, Broken: 60, Findings: []restore.Finding{{Object: "packs/clickhouse/01P2/data.bin", What: "its SHA-256 is aa…, want bb…", Hurts: "default.errors_local, partition 90-20260223"}}},
	}}))
	golden("restore-plan", renderRestorePlan(restorePlanned(), "s3://holdfast-us"))
	golden("restore-plan-refused", renderRestorePlan(restoreRefused(), "s3://holdfast-us"))
	golden("restore-run", renderRestored(restoreDone()))
	golden("restore-run-failed", renderRestored(restoreFailed()))
	good, bad := provenReport(setNew, "01KJNA", noon), failedReport(setMid, "01KJNB", noon)
	golden("drill-run", renderDrilled(drilled{Run: "01KJNA", RunEvidence: httpapi.RunEvidence{Set: setNew, Region: "us-east"}, Full: &good}))
	golden("drill-run-bad", renderDrilled(drilled{Run: "01KJNB", RunEvidence: httpapi.RunEvidence{Set: setMid, Region: "us-east"}, Full: &bad}))
	golden("drill-list", renderDrills(drillsListed{At: noon, Older: 12, Drills: []drillShown{{"01KJNB", bad}, {"01KJNA", good}}, Findings: lastVerdicts([]drillShown{{"01KJNB", bad}, {"01KJNA", good}})}))
	golden("problem", renderProblem(httpapi.Problemf(httpapi.NoLeader, "run failover", "holdfast members list", "no leader"))+
		renderProblem(httpapi.RefusedBy("run failover", blockers)))
}

func TestNarrator_TellsEachThingOnce(t *testing.T) {
	var n narrator
	var told []string
	half := turning()
	half.Plan.Journal[4].Undone, half.Plan.Journal[0].Undone = 0, 0
	failed := at(4, consensus.PlanRunning)
	failed.Plan.Journal[4] = turning().Plan.Journal[4]
	failed.Plan.Journal[4].Undone = 0
	for _, pl := range []httpapi.Plan{at(0, consensus.PlanRunning), at(2, consensus.PlanRunning), at(2, consensus.PlanRunning), failed, failed, half, turning(), rolledBack()} {
		told = append(told, n.next(pl)...)
	}
	want := []string{
		"   1           stop accepting ingestion, query in us-east (503)            1 s",
		"   2  us-east  wait 5s until balancers and clients noticed                 1 s",
		"   3  us-east  stop the workloads in us-east                               1 s",
		"   4  eu-west  let the mirror reach them                                   1 s",
		"   5  eu-west  stop the mirror, record where                               failed, attempt 1: timed out",
		"Turning back: step 5, stop the mirror, record where: timed out",
		"  <- 5  start the mirror again",
		"  <- 1  release ingestion, query",
		"  <- 1  grant ingestion, query back to us-east",
		"  <- 1  open ingestion, query again",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}

	n = narrator{}
	told = append(n.next(stuckPlan()), n.next(stuckPlan())...)
	if got := strings.Join(told, "\n"); strings.Count(got, "waits for a person") != 1 || !strings.Contains(got, "no way back") || !strings.Contains(got, "holdfast failover retry 01JPLAN") {
		t.Errorf("a stuck plan reads\n%s", got)
	}
}

func TestFigures_CarryUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "unknown", 0: "0 s", time.Microsecond: "1 ms", 40 * time.Millisecond: "40 ms", 400 * time.Millisecond: "0.4 s",
		9800 * time.Millisecond: "9.8 s", 9 * time.Second: "9 s", 99 * time.Second: "99 s", 99970 * time.Millisecond: "1 min 40 s", 192 * time.Second: "3 min 12 s",
		time.Hour - time.Millisecond: "60 min", 2 * time.Hour: "2 h", 125 * time.Minute: "2 h 5 min", 72 * time.Hour: "3 days",
	} {
		if got := span(d); got != want {
			t.Errorf("%s is written %q, want %q", time.Duration(d), got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := count(n); got != want {
			t.Errorf("%d is written %q", n, got)
		}
	}
	for n, want := range map[int64]string{-1: "unknown", 7: "7 B", 84_800: "84.8 kB", 4_200_000_000: "4.2 GB", 999_000: "999 kB"} {
		if got := size(n); got != want {
			t.Errorf("%d bytes are written %q", n, got)
		}
	}
}
