package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/restore"
)

func TestRestorePlan_TouchesNothingAndNamesWhatIsInTheWay(t *testing.T) {
	v := repositoriesAtNoon()
	pg := &fakeTarget{engine: backup.Postgres, obstacle: "/srv/restore/postgres exists"}
	v.targets = []restore.Target{pg}
	code, out, _ := night{vaults: v}.typed(t, "restore", "plan", "latest", "--region", "us-east", "--postgres-directory", "/srv/restore")
	if code != exitRefused || len(pg.did) != 0 || !v.closed {
		t.Errorf("%d, did %v, closed %v", code, pg.did, v.closed)
	}
	has(t, out, "NO  no target is given for clickhouse", "NO  /srv/restore/postgres exists", "fix: choose another place", "Nothing has been changed")
	if v.to.Of != "us-east" || v.to.PostgresDirectory != "/srv/restore" || len(v.to.Run) != setIDWide {
		t.Errorf("asked for %+v", v.to)
	}
}

func TestRestore_AsksForTheKeyBeforeItReadsAnything(t *testing.T) {
	v := repositoriesAtNoon()
	pg, ch := &fakeTarget{engine: backup.Postgres}, &fakeTarget{engine: backup.ClickHouse}
	v.targets = []restore.Target{pg}
	code, out, _ := night{vaults: v}.typed(t, "restore", "run", string(setNew), "--engine", "postgres")
	if code != exitRefused || len(pg.did) != 0 || len(v.archives["us-east"].readData) != 0 {
		t.Errorf("%d, did %v", code, pg.did)
	}
	has(t, out, "NO  no age identity to decrypt the set with", "fix: --identity FILE")
	v.targets = []restore.Target{ch} // what the server reads by itself needs no key
	if code, out, _ := (night{vaults: v}).typed(t, "restore", "run", string(setNew), "--engine", "clickhouse"); code != exitDone {
		t.Errorf("%d\n%s", code, out)
	}
}

// keyFile is a file that --identity may name.
func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "age.txt")
	if err := os.WriteFile(path, []byte("AGE-SECRET-KEY-X\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRestorePlan_WantsAServerThatIsThere(t *testing.T) {
	v := repositoriesAtNoon()
	code, _, errOut := night{vaults: v}.typed(t, "restore", "plan", "latest", "--clickhouse-region", "us-east")
	if code != exitUsage || v.to.Run != "" {
		t.Errorf("%d, asked for %+v", code, v.to)
	}
	has(t, errOut, "--clickhouse-region us-east: the fleet file has no clickhouse there")
}

func TestRestoreRun_RefusesWhatIsInTheWay(t *testing.T) {
	v := repositoriesAtNoon()
	pg := &fakeTarget{engine: backup.Postgres, obstacle: "/srv/restore/postgres exists"}
	v.targets = []restore.Target{pg}
	code, _, _ := night{vaults: v}.typed(t, "restore", "run", "latest", "--region", "us-east", "--engine", "postgres")
	if code != exitRefused || len(pg.did) != 0 {
		t.Errorf("%d, did %v", code, pg.did)
	}
}

func TestRestoreRun_HandsOverWhatComparedEqual(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].reports[setNew] = []restore.Report{provenReport(setNew, "01KJNA", noon)}
	pg := &fakeTarget{engine: backup.Postgres}
	v.targets = []restore.Target{pg}
	code, out, errOut := night{vaults: v}.typed(t, "restore", "run", string(setNew), "--engine", "postgres", "--postgres-directory", "/srv/restore", "--identity", keyFile(t), "--start")
	if code != exitDone || !slices.Equal(pg.did, []string{"restore", "compare", "keep", "start"}) {
		t.Errorf("%d, did %v\n%s%s", code, pg.did, out, errOut)
	}
	has(t, out, "Nothing has been changed.", "about 28 ms at the pace of the last drill", "equal to what was counted: 90,246 rows", "postgres is in /srv/restore/postgres", "connect: psql -h /srv/restore", "merges go on again")

	pg.did = nil
	code, out, _ = night{vaults: v}.typed(t, "restore", "run", string(setNew), "--engine", "postgres", "--postgres-directory", "/srv/restore", "--identity", keyFile(t), "--json")
	var r restored
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if code != exitDone || !r.Outcome.OK || slices.Contains(pg.did, "start") || len(r.Places) != 1 || r.Places[0].Connect != "" {
		t.Errorf("%d, did %v: %+v", code, pg.did, r.Places)
	}
}

func TestRestoreRun_TakesAwayWhatFailed(t *testing.T) {
	v := repositoriesAtNoon()
	pg := &fakeTarget{engine: backup.Postgres, fails: errors.New("disk full")}
	v.targets = []restore.Target{pg}
	args := []string{"restore", "run", "latest", "--region", "us-east", "--engine", "postgres", "--identity", keyFile(t)}
	code, out, errOut := night{vaults: v}.typed(t, args...)
	if code != exitFailed || !slices.Equal(pg.did, []string{"restore", "remove"}) {
		t.Errorf("%d, did %v", code, pg.did)
	}
	has(t, out, "NO   restore postgres", "Not restored, after", "Whatever it made was taken away again.")
	has(t, errOut, "restore postgres: disk full")
	pg.did = nil
	_, out, _ = night{vaults: v}.typed(t, append(args, "--keep-failed")...)
	if !slices.Equal(pg.did, []string{"restore"}) {
		t.Errorf("did %v", pg.did)
	}
	has(t, out, "still there: postgres in /srv/restore/postgres: kept, as was asked", "next: holdfast restore clean "+v.to.Run+" --yes")
}

func TestRestoreRun_TouchesNothingOfADamagedSet(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].gone = map[backup.SetID]string{setNew: "packs/clickhouse/01P2/data.bin"}
	ch := &fakeTarget{engine: backup.ClickHouse}
	v.targets = []restore.Target{ch}
	code, _, errOut := night{vaults: v}.typed(t, "restore", "run", string(setNew), "--engine", "clickhouse", "--clickhouse-database", "restored")
	if code != exitFailed || len(ch.did) != 0 {
		t.Errorf("%d, did %v", code, ch.did)
	}
	has(t, errOut, "is damaged, nothing was restored: packs/clickhouse/01P2/data.bin missing")
}

func TestIdentity_ComesFromTheFileThatWasNamed(t *testing.T) {
	path := keyFile(t)
	if got, err := identity(&config.Fleet{}, path)(); err != nil || got != "AGE-SECRET-KEY-X" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := identity(&config.Fleet{}, "")(); err == nil || !strings.Contains(err.Error(), "no age identity") {
		t.Errorf("no identity at all: %v", err)
	}
}

func TestDrillRun_EndsByItsVerdict(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].reports[setNew] = []restore.Report{provenReport(setNew, "01KJNA0000000000000000DRLL", noon)}
	d := &fakeDaemon{status: calm(), backups: logAtNoon()}
	code, out, errOut := night{daemon: d, vaults: v}.typed(t, "drill", "run", "--set", "01kjn9z")
	if code != exitDone || !slices.Equal(d.backups.started, []string{"drill  " + string(setNew)}) {
		t.Errorf("%d, started %v\n%s", code, d.backups.started, errOut)
	}
	has(t, out, "Proven: the set of us-east", "RTO 3.2 s, measured", "Broken on purpose, 2 of 2 caught:", "holdfast drill show "+string(setNew))

	d = &fakeDaemon{status: calm(), backups: runs{verdict: "1999 rows, the manifest says 2000"}}
	code, out, _ = night{daemon: d, vaults: repositoriesAtNoon()}.typed(t, "drill", "run")
	if code != exitFindings || !strings.Contains(out, "Not proven: set "+string(setNew)+" of us-east: 1999 rows") {
		t.Errorf("%d\n%s", code, out)
	}
	d = &fakeDaemon{status: calm(), backups: runs{fails: "no space on the target"}}
	if code, out, errOut := (night{daemon: d, vaults: v}).typed(t, "drill", "run"); code != exitFailed || out != "" || !strings.Contains(errOut, "no space on the target") {
		t.Errorf("a drill that failed by itself: %d\n%s%s", code, out, errOut)
	}
	if code, _, errOut := (night{vaults: v}).typed(t, "drill", "run", "--set", "01KJ"); code != exitUsage || !strings.Contains(errOut, "3 sets of the log start with 01KJ") {
		t.Errorf("an id of several: %d %s", code, errOut)
	}
}

func TestDrillList_ReadsReportsOfOldSetsToo(t *testing.T) {
	v := repositoriesAtNoon()
	code, out, _ := night{vaults: v, silent: true}.typed(t, "drill", "list")
	if code != exitDone {
		t.Errorf("%d", code)
	}
	has(t, out, "01KJKA0000000000000000GOOD   "+string(setOld), "2 of 2   proven")
	v.archives["us-east"].reports[setMid] = []restore.Report{failedReport(setMid, "01KJNB", noon)}
	code, out, _ = night{vaults: v, silent: true}.typed(t, "drill", "list")
	if code != exitFindings {
		t.Errorf("%d", code)
	}
	has(t, out, "!! sets of us-east: the newest drill could not restore set "+string(setMid), "holdfast drill show "+string(setMid)+" 01KJNB")
}

func TestDrillShow_PrintsThePage(t *testing.T) {
	v := repositoriesAtNoon()
	code, out, _ := night{vaults: v, silent: true}.typed(t, "drill", "show", "01KJHZ")
	if code != exitDone {
		t.Errorf("%d", code)
	}
	has(t, out, "# Proven: the set of us-east", "verify")
	code, out, _ = night{vaults: v, silent: true}.typed(t, "drill", "show", "01KJHZ", "01KJK", "--json")
	var r restore.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitDone || r.RTOMs != 3200 {
		t.Errorf("%d %v %+v", code, err, r)
	}
	if code, _, errOut := (night{vaults: v, silent: true}).typed(t, "drill", "show", string(setNew)); code != exitUsage || !strings.Contains(errOut, "no drill of set") {
		t.Errorf("a set without a drill: %d %s", code, errOut)
	}
	v.archives["us-east"].reports[setOld] = []restore.Report{failedReport(setOld, "01KJNB", noon)}
	if code, _, _ := (night{vaults: v, silent: true}).typed(t, "drill", "show", string(setOld)); code != exitFindings {
		t.Errorf("a drill that proved nothing ends with %d", code)
	}
}

// restarting does not answer for a while, as a daemon that restarts.
type restarting struct{ silent, looks int }

func (r *restarting) Run(context.Context, consensus.RunID) (httpapi.Run, error) {
	if r.looks++; r.looks <= r.silent {
		return httpapi.Run{}, httpapi.Problemf(httpapi.Unavailable, "read run", "", "no daemon answers")
	}
	return httpapi.Run{ID: "01R", Run: consensus.Run{Kind: "backup", State: consensus.RunCancelled, Error: "cancelled by alice"}}, nil
}

func TestFollowRun_OutlivesARestartOfTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		a := newApp(strings.NewReader(""), &strings.Builder{}, &said)
		r, err := a.followRun(t.Context(), &restarting{silent: 60}, "backup", "01R")
		if err != nil || strings.Count(said.String(), "does not answer") != 1 {
			t.Errorf("30 s without a daemon: %v\n%s", err, said.String())
		}
		if _, err := evidence(r); err == nil || !strings.Contains(err.Error(), "cancelled by alice") {
			t.Errorf("a run that was cancelled: %v", err)
		}
		if _, err := a.followRun(t.Context(), &restarting{silent: 1 << 30}, "backup", "01R"); err == nil || !strings.Contains(err.Error(), "it may go on: `holdfast backup list`") {
			t.Errorf("a daemon that stays away: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.followRun(ctx, &restarting{silent: 1 << 30}, "drill", "01R"); err == nil || !strings.Contains(err.Error(), "it goes on: `holdfast drill list`") {
			t.Errorf("a person who leaves: %v", err)
		}
	})
}
