package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/restore"
)

const (
	runKilled = "01KJN9Z0000000000000KJ11ED"
	runOther  = "01KJN6F000000000000000TWER"
)

// leftBehind is what two killed restores left.
func leftBehind() (places []recovery.Abandoned, ch, pg, other *fakeTarget) {
	ch, pg, other = &fakeTarget{engine: backup.ClickHouse}, &fakeTarget{engine: backup.Postgres}, &fakeTarget{engine: backup.ClickHouse}
	at := func(run string, t *fakeTarget, ago time.Duration) recovery.Abandoned {
		a := recovery.AbandonedAt(run, t)
		a.Began = noon.Add(-ago)
		return a
	}
	return []recovery.Abandoned{at(runKilled, ch, 5*time.Minute), at(runKilled, pg, 5*time.Minute), at(runOther, other, 26*time.Hour)}, ch, pg, other
}

func TestRestoreClean_ListsAndRemovesNothingByItself(t *testing.T) {
	v := repositoriesAtNoon()
	places, ch, pg, other := leftBehind()
	v.left = places
	for _, args := range [][]string{{"restore", "clean"}, {"restore", "clean", runKilled}} {
		code, out, errOut := night{vaults: v, silent: true}.typed(t, args...)
		if code != exitDone || len(ch.did)+len(pg.did)+len(other.did) > 0 || !v.closed {
			t.Errorf("%v: %d, did %v %v %v, closed %v\n%s", args, code, ch.did, pg.did, other.did, v.closed, errOut)
		}
		has(t, out, runKilled+", begun 11:59:31 UTC, 5 min ago", "postgres: /srv/restore/postgres", "make sure that none runs", "--yes")
	}
	code, _, errOut := night{vaults: v, silent: true}.typed(t, "restore", "clean", "--yes")
	if code != exitUsage || len(ch.did)+len(pg.did)+len(other.did) > 0 {
		t.Errorf("--yes alone: %d, did %v %v %v", code, ch.did, pg.did, other.did)
	}
	has(t, errOut, "--yes removes what is named")
}

func TestRestoreClean_RemovesWhatIsNamedAndNothingElse(t *testing.T) {
	v := repositoriesAtNoon()
	places, ch, pg, other := leftBehind()
	v.left = places
	code, out, errOut := night{vaults: v, silent: true}.typed(t, "restore", "clean", "01kjn9z", "--postgres-directory", "/srv/restore", "--yes")
	if code != exitDone || !slices.Equal(ch.did, []string{"remove"}) || !slices.Equal(pg.did, []string{"remove"}) || len(other.did) > 0 {
		t.Errorf("%d, did %v %v %v\n%s", code, ch.did, pg.did, other.did, errOut)
	}
	if v.to.PostgresDirectory != "/srv/restore" || strings.Contains(out, runOther) {
		t.Errorf("asked for %+v\n%s", v.to, out)
	}
	has(t, out, "removed: clickhouse, /srv/restore/clickhouse", "removed: postgres, /srv/restore/postgres")
	for _, name := range []string{"01KJN", "01ZZ", ""} {
		if code, _, errOut := (night{vaults: v, silent: true}).typed(t, "restore", "clean", name, "--yes"); code != exitUsage || len(other.did) > 0 {
			t.Errorf("%q: %d, did %v\n%s", name, code, other.did, errOut)
		}
	}
}

func TestRestoreClean_SaysWhatIsStillThere(t *testing.T) {
	v := repositoriesAtNoon()
	places, ch, pg, _ := leftBehind()
	v.left = places
	ch.stays = errors.New("no route to the server")
	code, out, _ := night{vaults: v, silent: true}.typed(t, "restore", "clean", runKilled, "--yes", "--json")
	var l cleaned
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		t.Fatal(err)
	}
	if code != exitFailed || len(l.Places) != 2 || l.Places[0].Gone || l.Places[0].Error == "" || !l.Places[1].Gone || !slices.Equal(pg.did, []string{"remove"}) {
		t.Errorf("%d %+v", code, l)
	}
	v.left = nil
	if code, out, _ := (night{vaults: v, silent: true}).typed(t, "restore", "clean"); code != exitDone || !strings.Contains(out, "No restore has left a place.") {
		t.Errorf("%d\n%s", code, out)
	}
}

func TestRestorePlan_TriesTheKeyOnOnePieceOfTheSmallestBlob(t *testing.T) {
	v := repositoriesAtNoon()
	east := v.archives["us-east"]
	pg := &fakeTarget{engine: backup.Postgres}
	v.targets = []restore.Target{pg}
	args := []string{"restore", "plan", string(setNew), "--engine", "postgres", "--postgres-directory", "/srv/restore", "--identity", keyFile(t)}
	if code, out, _ := (night{vaults: v}).typed(t, args...); code != exitDone || !slices.Equal(east.pieces, []int{1}) {
		t.Errorf("%d, decrypted %v\n%s", code, east.pieces, out)
	}
	east.locked = errors.New("it was encrypted to another key")
	code, out, _ := night{vaults: v}.typed(t, args...)
	if code != exitRefused {
		t.Errorf("a key that fits nothing ends with %d", code)
	}
	has(t, out, "NO  the set cannot be decrypted: it was encrypted to another key", "fix: --identity FILE")
	east.locked = restore.ErrDamaged // is found by reading all of it, and named
	if code, _, _ := (night{vaults: v}).typed(t, args...); code != exitDone {
		t.Errorf("a damaged blob ends the plan with %d", code)
	}
}

func TestRestoreRun_DoesNotCallOffsetsRestored(t *testing.T) {
	v := repositoriesAtNoon()
	code, out, _ := night{vaults: v}.typed(t, "restore", "run", string(setNew), "--engine", "kafka")
	if code != exitRefused || strings.Contains(out, "Restored in") {
		t.Errorf("%d\n%s", code, out)
	}
	has(t, out, "nothing would be restored", "holdfast backup show "+string(setNew)+" --offsets")
}

func TestBackupList_ShowsTheOtherSetsWhenOneCannotBeRead(t *testing.T) {
	v := repositoriesAtNoon()
	v.archives["us-east"].strange = map[backup.SetID]error{setMid: errors.New("its certificate is of another CA")}
	code, out, _ := night{vaults: v, silent: true}.typed(t, "backup", "list")
	if code != exitFindings {
		t.Errorf("%d", code)
	}
	has(t, out, string(setMid)+"   us-east   NOT READ", string(setOld)+"   us-east   20", "its certificate is of another CA", string(setWest))
}

func TestVerbs_SayWhichArgumentIsMissing(t *testing.T) {
	for args, want := range map[string]string{
		"backup cancel": "say which: holdfast backup cancel RUN", "restore run": "say which: holdfast restore run SET|latest",
		"drill show a b c": `"c" is one too many`, "backup show": "see `holdfast backup show --help`",
	} {
		code, _, errOut := night{vaults: repositoriesAtNoon(), silent: true}.typed(t, strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%s: %d %s", args, code, errOut)
		}
	}
}

func TestPage_BreaksSentencesAndNoWords(t *testing.T) {
	var p page
	key := strings.Repeat("k", 130)
	p.wrap("note    ", strings.Repeat("word ", 30)+key)
	p.command("  ", "/usr/bin/postgres -D '/srv/"+strings.Repeat("a -b", 30)+"' "+strings.Repeat("-c some_setting=off ", 12))
	lines := strings.Split(p.String(), "\n")
	for _, l := range lines {
		if width(l) > pageWide+2 && !strings.Contains(l, key) && !strings.Contains(l, "a -b") {
			t.Errorf("%d wide: %s", width(l), l)
		}
	}
	if strings.Contains(p.String(), "a \\\n") {
		t.Errorf("a quoted path is broken:\n%s", p.String())
	}
	has(t, p.String(), "\n        word", key, "some_setting=off \\\n    -c")
	if got := brief("Merge: not made: a, b, c, d, e, f"); got != "Merge: not made: a, b, c and 3 more (--json)" {
		t.Error(got)
	}
	for _, whole := range []string{"a, b, c, d, e, f", "said: one thing, and another, and more, and more, and more", "not made: a, b, c, d"} {
		if got := brief(whole); got != whole {
			t.Error(got)
		}
	}
}

func TestNotable_AreRunsThatCameToNothing(t *testing.T) {
	run := func(id string, s consensus.RunState) httpapi.Run {
		return httpapi.Run{ID: consensus.RunID(id), Run: consensus.Run{Kind: recovery.KindDrill, Region: "eu-west", State: s, Error: "why"}}
	}
	all := []httpapi.Run{run("a", consensus.RunLive), run("b", consensus.RunDone), run("c", consensus.RunCancelled), run("d", consensus.RunFailed)}
	got := notable(all, recovery.KindDrill, nil)
	if len(got) != 3 || got[0].ID != "a" || got[1].ID != "c" || got[2].ID != "d" {
		t.Errorf("%+v", got)
	}
	out := renderDrills(drillsListed{At: noon, Runs: got})
	has(t, out, "Drill c in eu-west: cancelled", "Drill d in eu-west: failed")
}

func TestProgress_CountsOneAsOne(t *testing.T) {
	for want, p := range map[string]backup.Progress{
		"hash, 1 of 1 object": {Stage: "hash", Done: 1, Total: 1, Unit: "objects"}, "hash, 1 of 2 objects": {Stage: "hash", Done: 1, Total: 2, Unit: "objects"},
		"read 1 object": {Stage: "read 1 objects"}, "read 21 objects, 5 B of 9 B": {Stage: "read 21 objects", Done: 5, Total: 9, Unit: "bytes"}, "count, 1 table": {Stage: "count", Done: 1, Unit: "tables"},
	} {
		if got := progressText(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestRestoreClean_MustKnowWhereToLook(t *testing.T) {
	v := repositoriesAtNoon()
	v.nowhere = recovery.ErrNowhere
	code, _, errOut := night{vaults: v, silent: true}.typed(t, "restore", "clean")
	if code != exitUsage {
		t.Errorf("%d", code)
	}
	has(t, errOut, "--clickhouse-region and --postgres-directory")
}

func TestRestorePlan_TakesPathsFromWhereThePersonStands(t *testing.T) {
	v := repositoriesAtNoon()
	t.Chdir(t.TempDir())
	_, _, _ = night{vaults: v}.typed(t, "restore", "plan", "latest", "--region", "us-east", "--postgres-directory", "here", "--postgres-bin", "bin")
	if !strings.HasSuffix(v.to.PostgresDirectory, "/here") || !strings.HasPrefix(v.to.PostgresDirectory, "/") || !strings.HasPrefix(v.to.PostgresBin, "/") {
		t.Errorf("%+v", v.to)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity(&config.Fleet{}, empty)(); err == nil || err.Error() != "the identity "+empty+" is none: the file is empty" {
		t.Error(err)
	}
	if _, err := identity(&config.Fleet{}, empty+"-not")(); err == nil || !strings.Contains(err.Error(), "cannot be read: no such file") {
		t.Error(err)
	}
}
