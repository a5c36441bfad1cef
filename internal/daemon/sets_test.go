package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func TestSets_StatusNamesTheNewestAndTheLastProof(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hourly, err := schedule.Parse("0 * * * *")
	if err != nil {
		t.Fatal(err)
	}
	f := &config.Fleet{Backup: &config.Backup{Schedule: hourly}, Drill: &config.Drill{Region: "eu-west"},
		Regions: map[topology.Region]config.Region{"us-east": {Repository: &config.Repository{}}}}
	s := consensus.NewState()
	at := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
	s.Slots["backup/us-east"] = at(0)
	s.Sets["a"] = consensus.Set{Region: "us-east", Sealed: at(-3), Proof: consensus.Proof{OK: true, At: at(-2), RTOMs: 7}}
	s.Sets["b"] = consensus.Set{Region: "us-east", Sealed: at(-1), Uploaded: 5, Proof: consensus.Proof{At: at(-1), Why: "one row is missing"}}
	s.Sets["c"] = consensus.Set{Region: "elsewhere", Sealed: at(0)}
	s.Runs["r"] = consensus.Run{Kind: "backup", Region: "us-east", State: consensus.RunFailed, Error: "disk full", Ended: at(0)}
	s.Runs["w"] = consensus.Run{Kind: "drill", Region: "eu-west", State: consensus.RunLive, Created: at(-1)}
	rows := setsOf(f, s, now.Add(time.Minute))
	if len(rows) != 1 {
		t.Fatalf("rows %+v", rows)
	}
	if r := rows[0]; r.Set != "b" || r.AgeMs != 61*60*1000 || r.ProvenSet != "a" || r.ProvenRTOMs != 7 || r.Failed != "one row is missing" || !r.NextSlot.Equal(at(1)) {
		t.Errorf("row %+v", r)
	}
	var said []string
	for _, f := range setFindings(f, s, rows, at(2)) {
		said = append(said, f.About+": "+f.What)
	}
	all := strings.Join(said, "\n")
	for _, want := range []string{"disk full", "waited for the daemon of eu-west"} {
		if !strings.Contains(all, want) {
			t.Errorf("no finding says %q:\n%s", want, all)
		}
	}
	if bad := foundBad(s, "us-east"); !bad.Equal(at(-1)) {
		t.Errorf("found bad at %s: the next set would build on it", bad)
	}
	// A set after the failure, and a proof after the bad one, end the findings.
	s.Sets["d"] = consensus.Set{Region: "us-east", Sealed: at(1), Proof: consensus.Proof{OK: true, At: at(1)}}
	delete(s.Runs, "w")
	s.Slots["backup/us-east"] = at(2)
	if bad := foundBad(s, "us-east"); !bad.IsZero() {
		t.Errorf("still bad since %s", bad)
	}
	if left := setFindings(f, s, setsOf(f, s, at(2)), at(2)); len(left) != 0 {
		t.Errorf("still %+v", left)
	}
}
