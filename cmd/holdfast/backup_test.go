package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/restore"
)

func TestBackupRun_FollowsToTheSealAndReadsItBack(t *testing.T) {
	d := &fakeDaemon{status: calm(), backups: logAtNoon()}
	code, out, errOut := night{daemon: d, vaults: repositoriesAtNoon()}.typed(t, "backup", "run", "--region", "us-east", "--engine", "kafka", "--engine", "postgres")
	if code != exitDone || !slices.Equal(d.backups.started, []string{"backup us-east kafka and postgres"}) {
		t.Errorf("%d, started %v\n%s", code, d.backups.started, errOut)
	}
	has(t, out, "Set "+string(setNew)+" of us-east is sealed, after 41.2 s.", "clickhouse   1,234,979   4.2 GB", "holdfast drill run --set "+string(setNew))
	has(t, errOut, "Backup "+string(setNew)+" has begun.", "waits for the daemon of us-east")
}

func TestBackupRun_SaysThatARunFailed(t *testing.T) {
	d := &fakeDaemon{status: calm(), backups: runs{fails: "clickhouse: connection refused"}}
	code, out, errOut := night{daemon: d, vaults: repositoriesAtNoon()}.typed(t, "backup", "run")
	if code != exitFailed || out != "" {
		t.Errorf("%d\n%s", code, out)
	}
	has(t, errOut, "failed after 41 s: clickhouse: connection refused")
	d = &fakeDaemon{status: calm(), backups: runs{err: httpapi.Problemf(httpapi.Refused, "start a backup", "", "backup 01X of us-east is under way")}}
	if code, _, _ := (night{daemon: d, vaults: repositoriesAtNoon()}).typed(t, "backup", "run"); code != exitRefused {
		t.Errorf("a backup while another is under way ends with %d", code)
	}
}

func TestBackupRun_IsSealedThoughTheRepositoryCannotBeReadFromHere(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].down = errors.New("no route")
	code, out, errOut := night{vaults: v}.typed(t, "backup", "run")
	if code != exitDone {
		t.Errorf("%d", code)
	}
	has(t, out, "is sealed, after 41.2 s", "rows, 4.2 GB, of which 9.0 MB are new")
	has(t, errOut, "the seal was not read back from here: no route")
}

func TestBackupRun_LeavesARunThatIsDetached(t *testing.T) {
	code, out, _ := night{vaults: repositoriesAtNoon()}.typed(t, "backup", "run", "--detach")
	if code != exitDone {
		t.Errorf("%d", code)
	}
	has(t, out, "Backup "+string(setNew)+" has begun: holdfast backup list")
}

func TestBackupList_NeedsNoDaemon(t *testing.T) {
	code, out, errOut := night{vaults: repositoriesAtNoon(), silent: true}.typed(t, "backup", "list")
	if code != exitDone {
		t.Errorf("%d\n%s%s", code, out, errOut)
	}
	if strings.Count(out, "01KJ") != 4 {
		t.Errorf("want four sets:\n%s", out)
	}
	has(t, out, "30 h ago, RTO 3.2 s")
	has(t, errOut, "note: without the daemon")
	if err := json.Unmarshal([]byte(out), &struct{}{}); err == nil {
		t.Error("a text is JSON")
	}
}

func TestBackupList_FindsASealThatWasExchanged(t *testing.T) {
	d := &fakeDaemon{status: calm(), backups: logAtNoon()}
	d.backups.sets[2].Set.Digest = strings.Repeat("ab", 32)
	code, out, _ := night{daemon: d, vaults: repositoriesAtNoon()}.typed(t, "backup", "list")
	if code != exitFindings {
		t.Errorf("%d", code)
	}
	has(t, out, "!! set "+string(setMid)+" of us-east: ITS SEAL WAS EXCHANGED", "abababababab", "do not restore from it")
	if strings.Contains(out, "4 min ago, RTO") {
		t.Errorf("the proof of another seal is shown:\n%s", out)
	}
}

func TestBackupList_FindsSetsThatAreGone(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].sets = []backup.SetID{setNew}
	code, out, _ := night{vaults: v}.typed(t, "backup", "list")
	if code != exitFindings {
		t.Errorf("%d", code)
	}
	has(t, out, "1 set of the log is not there: "+string(setMid))
}

func TestBackupList_ShowsTheOtherRegionWhenOneIsLost(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].down = errors.New("no route to host")
	code, out, _ := night{vaults: v}.typed(t, "backup", "list")
	if code != exitFindings {
		t.Errorf("%d", code)
	}
	has(t, out, string(setWest), "!! repository of us-east: its sets are not listed: ", "no route to host")
	v.archives["eu-west"].down = errors.New("no route either")
	if code, out, errOut := (night{vaults: v}).typed(t, "backup", "list"); code != exitFailed || out != "" || !strings.Contains(errOut, "no route either") {
		t.Errorf("no repository at all: %d\n%s%s", code, out, errOut)
	}
}

func TestBackupList_TakesADrillThatFailedByItselfForNoVerdict(t *testing.T) {
	v := repositoriesAtNoon()
	lost := failedReport(setNew, "01KJNB", noon)
	lost.Fault = restore.FaultDrill
	other := provenReport(setNew, "01KJNC", noon)
	other.Seal = "of another seal"
	v.archives["us-east"].reports[setNew] = []restore.Report{lost, other}
	_, out, _ := night{vaults: v, silent: true}.typed(t, "backup", "list", "--region", "us-east", "-n", "1")
	row := strings.Split(out, "\n")[1]
	if !strings.HasSuffix(row, " no") || !strings.Contains(out, "2 older sets are not listed") {
		t.Errorf("the row is %q:\n%s", row, out)
	}
	v.archives["us-east"].reports[setNew] = []restore.Report{lost, failedReport(setNew, "01KJNA", noon)}
	code, out, _ := night{vaults: v, silent: true}.typed(t, "backup", "list", "--json")
	var l setList
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		t.Fatal(err)
	}
	if code != exitFindings || l.Sets[0].Proof.State != isFailed || l.Sets[0].Proof.Run != "01KJNA" || l.Log {
		t.Errorf("%d %+v", code, l.Sets[0])
	}
}

func TestBackupShow_NamesWhatARestoreDoesNotBringBack(t *testing.T) {
	code, out, _ := night{vaults: repositoriesAtNoon()}.typed(t, "backup", "show", "latest", "--offsets")
	if code != exitDone {
		t.Errorf("%d\n%s", code, out)
	}
	has(t, out, "Set "+string(setNew), "as the log says", "errors_dist is Distributed", "ingest-consumer   events   0           41800   41877   77")
	code, _, errOut := night{vaults: repositoriesAtNoon()}.typed(t, "backup", "show", "01KJ")
	if code != exitUsage {
		t.Errorf("an id of four sets: %d", code)
	}
	has(t, errOut, "4 sets start with 01KJ: say more of the id")
	if code, _, errOut := (night{vaults: repositoriesAtNoon()}).typed(t, "backup", "show", "01ZZ"); code != exitUsage || !strings.Contains(errOut, "no set 01ZZ") {
		t.Errorf("an id of no set: %d %s", code, errOut)
	}
	v := repositoriesAtNoon()
	v.archives["eu-west"].down = errors.New("no route")
	if code, out, _ := (night{vaults: v}).typed(t, "backup", "show", "01kjn6f"); code != exitDone || !strings.Contains(out, string(setMid)) {
		t.Errorf("a set that is named, and another repository that is away: %d\n%s", code, out)
	}
	if code, _, errOut := (night{vaults: v}).typed(t, "backup", "show", "latest"); code != exitFailed || !strings.Contains(errOut, "--region") {
		t.Errorf("the newest of all, and one repository is away: %d %s", code, errOut)
	}
}

func TestBackupShow_FindsADamagedSeal(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].damaged = map[backup.SetID]bool{setNew: true}
	if code, _, errOut := (night{vaults: v}).typed(t, "backup", "show", "latest"); code != exitFindings || !strings.Contains(errOut, "its signature is none") {
		t.Errorf("%d %s", code, errOut)
	}
}

func TestBackupVerify_IsHonestAboutItsDepth(t *testing.T) {
	v := repositoriesAtNoon()
	code, out, _ := night{vaults: v}.typed(t, "backup", "verify")
	if code != exitDone || slices.Contains(v.archives["us-east"].readData, true) {
		t.Errorf("%d, read %v", code, v.archives["us-east"].readData)
	}
	has(t, out, "131 objects of 4.2 GB there", "Every object is there with its size. Bytes were not read: --read-data")
	code, out, _ = night{vaults: v}.typed(t, "backup", "verify", "--all", "--read-data")
	if code != exitDone || strings.Count(out, "read and equal to their hashes") != 4 {
		t.Errorf("%d\n%s", code, out)
	}
	has(t, out, "the log does not name this seal")
}

func TestBackupVerify_NamesAnObjectThatIsMissing(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].gone = map[backup.SetID]string{setMid: "packs/clickhouse/01P2/data.bin"}
	v.archives["us-east"].damaged = map[backup.SetID]bool{setOld: true}
	code, out, _ := night{vaults: v}.typed(t, "backup", "verify", "--all")
	if code != exitFindings {
		t.Errorf("%d", code)
	}
	has(t, out, "!! packs/clickhouse/01P2/data.bin: missing", "hurts: default.errors_local", "its signature is none", "2 of 4 sets cannot be restored as taken")
}

func TestCancel_EndsTheRunOfItsKindAlone(t *testing.T) {
	d := &fakeDaemon{status: calm(), backups: runs{ended: []httpapi.Run{{ID: "01KJDRILL", Run: consensus.Run{Kind: "drill", State: consensus.RunLive}}}}}
	n := night{daemon: d, vaults: repositoriesAtNoon()}
	if code, _, errOut := n.typed(t, "backup", "cancel", "01KJD"); code != exitUsage || len(d.backups.started) != 0 || !strings.Contains(errOut, "holdfast drill cancel") {
		t.Errorf("%d %v %s", code, d.backups.started, errOut)
	}
	code, out, _ := n.typed(t, "drill", "cancel", "01KJD", "--reason", "in the way")
	if code != exitDone || !slices.Equal(d.backups.started, []string{"cancel 01KJDRILL in the way"}) || !strings.Contains(out, "Drill 01KJDRILL is cancelled.") {
		t.Errorf("%d %v\n%s", code, d.backups.started, out)
	}
}

func TestDepot_WantsToKnowWhoseCertificatesToTrust(t *testing.T) {
	v := repositoriesAtNoon()
	if _, _, errOut := (night{vaults: v, silent: true}).typed(t, "backup", "list", "--ca", "/tmp/ca.pem"); v.options.CAFile != "/tmp/ca.pem" || v.options.Node != "us-east-1" {
		t.Errorf("%+v %s", v.options, errOut)
	}
	if code, _, errOut := (night{vaults: v, silent: true}).typed(t, "backup", "list", "--region", "nowhere"); code != exitUsage || !strings.Contains(errOut, "one is in eu-west and us-east") {
		t.Errorf("%d %s", code, errOut)
	}
}

func TestProgress_IsALineNowAndThen(t *testing.T) {
	var said strings.Builder
	a := newApp(strings.NewReader(""), &strings.Builder{}, &said)
	now := noon
	a.now = func() time.Time { return now }
	g := a.gauge(t.Context())
	for i := range 100 { // 30 seconds of one stage
		g.show(backup.Progress{Stage: "verify", Done: int64(i) * 1_000_000, Total: 100_000_000, Unit: "bytes"})
		now = now.Add(300 * time.Millisecond)
	}
	g.end()
	if want := "  verify, 0 B of 100 MB\n  verify, 50.0 MB of 100 MB\n"; said.String() != want {
		t.Errorf("said\n%swant\n%s", said.String(), want)
	}
}

func TestProgress_LeavesNothingBehindOnATerminal(t *testing.T) {
	var drawn strings.Builder
	a := newApp(strings.NewReader(""), &strings.Builder{}, &drawn)
	a.live = true
	g := a.gauge(t.Context())
	for i := range 10 {
		g.show(backup.Progress{Stage: "verify", Done: int64(i), Total: 9, Unit: "objects"})
	}
	if text := g.text(gaugeText); text != "verify, 9 of 9 objects" {
		t.Errorf("drawn: %q", text)
	}
	if text := g.text(8); text != "verify,…" {
		t.Errorf("drawn in 8 characters: %q", text)
	}
	g.say("a line that stays")
	g.end()
	g.end()
	has(t, drawn.String(), "a line that stays")
}
