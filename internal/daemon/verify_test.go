package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const eastWest = consensus.LinkID("us-east>eu-west")

func newTestVerifier(dir string, s *consensus.State) *verifier {
	return &verifier{
		node: westNode, region: west, dir: dir, clock: newBubble(), log: quiet, state: func() consensus.State { return *s },
		sign:  func(domain string, payload []byte) ([]byte, []byte, error) { return []byte(domain), []byte("pem"), nil },
		books: map[consensus.LinkID]*book{}, found: map[consensus.LinkID]int64{},
	}
}

func linked() *consensus.State {
	s := consensus.NewState()
	s.Links = map[consensus.LinkID]consensus.Link{eastWest: {From: east, To: west, Epoch: 1, Phase: consensus.LinkRunning}}
	return &s
}

func TestVerifier_KeepsADifferenceUntilAllOfItWasComparedAgain(t *testing.T) {
	dir, s := t.TempDir(), linked()
	v := newTestVerifier(dir, s)
	p := topology.Partition{Topic: "events", Partition: 3}
	at := time.Now().Add(-time.Hour)
	say := func(change func(*replicate.Statement)) {
		t.Helper()
		at = at.Add(time.Minute)
		x := replicate.Statement{Link: replicate.Link{Source: east, Target: west, Epoch: 1}, Partition: p, Verdict: replicate.Identical, Through: 100, Sample: 1, At: at, Digest: at.String()}
		change(&x)
		if err := v.keep(eastWest, x); err != nil {
			t.Fatal(err)
		}
		if err := v.save(eastWest, true); err != nil {
			t.Fatal(err)
		}
		v = newTestVerifier(dir, s) // and a restart of the daemon forgets nothing
		v.load()
	}
	findings := func() int {
		links := map[consensus.LinkID]linkReport{eastWest: {}}
		v.annotate(links)
		return len(links[eastWest].Status.Findings)
	}
	whole := func(x *replicate.Statement) {}
	sample := func(x *replicate.Statement) { x.Sample = 0.05 }
	bad := func(x *replicate.Statement) {
		x.Verdict, x.Differing, x.DiffersTo, x.Differences = replicate.Differs, 1, 51, []replicate.Difference{{From: 50, To: 51, Records: 1, Aspects: []replicate.Aspect{replicate.Value}}}
	}
	for i, c := range []struct {
		change          func(*replicate.Statement)
		findings        int
		identical, full bool // the newest statement without a difference is there; a whole one may be gone on from
	}{
		{sample, 0, true, false}, {whole, 0, true, true}, {sample, 0, true, true}, {bad, 1, false, true}, {sample, 1, false, true}, {whole, 0, true, true},
	} {
		say(c.change)
		pg := v.books[eastWest].page(p)
		if n := findings(); n != c.findings || (pg.identical() != nil) != c.identical {
			t.Errorf("statement %d: %d findings, identical %v", i, n, pg.identical())
		}
		if _, ok := v.prior(eastWest, p, 1); ok != c.full {
			t.Errorf("statement %d: a whole one to go on from: %v", i, ok)
		}
	}
	if page := v.page(0); len(page.Partitions) != 1 || len(page.Certificates) != 1 || page.More || page.Partitions[0].Differs != nil {
		t.Errorf("%+v", page)
	}
	if page := v.page(1); len(page.Partitions) != 0 {
		t.Errorf("%+v", page)
	}
	l := s.Links[eastWest]
	l.Epoch = 2 // a link of another epoch has not been compared
	say(bad)
	s.Links[eastWest] = l
	if n := findings(); n != 0 {
		t.Errorf("%d findings about an earlier link", n)
	}
}

func TestVerifier_BeginsAnewWithABookThatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "us-east--eu-west.json"), []byte(`{"format":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	v := newTestVerifier(dir, linked())
	v.load()
	if len(v.books) != 0 {
		t.Errorf("%+v", v.books)
	}
}

func TestVerifyJobs_PassASlotWhereNothingIsMirroredTo(t *testing.T) {
	hourly, err := schedule.Parse("17 * * * *")
	if err != nil {
		t.Fatal(err)
	}
	f := &config.Fleet{Regions: map[topology.Region]config.Region{east: {Kafka: &config.Kafka{}}, west: {Kafka: &config.Kafka{}}}}
	if jobs := verifyJobs(f); len(jobs) != 0 {
		t.Fatalf("without a schedule: %+v", jobs)
	}
	f.Mirror.Verify = config.Verify{Schedule: hourly, Sample: 0.05, Timeout: time.Hour}
	now := time.Date(2026, 3, 1, 12, 20, 0, 0, time.UTC)
	s := linked()
	s.Slots = map[string]time.Time{"verify/us-east": now.Add(-time.Hour), "verify/eu-west": now.Add(-time.Hour)}
	runs := 0
	for _, j := range verifyJobs(f) {
		switch b := j.decide(*s, now, "run").(type) {
		case *consensus.StartRun:
			if runs++; b.Region != west || b.Kind != httpapi.KindVerify || string(b.Spec) != `{"sample":0.05,"fast":true,"new":true}` {
				t.Errorf("%+v: %s", b, b.Spec)
			}
		case *consensus.TakeSlot:
			if b.Job != "verify/us-east" {
				t.Errorf("%+v", b)
			}
		default:
			t.Errorf("%+v", b)
		}
	}
	if runs != 1 {
		t.Errorf("%d runs", runs)
	}
}
