package consensus

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// envOr reads a number from the environment.
func envOr(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, s)
	}
	return n
}

// The promise of this package, on the product's own types: whatever clocks,
// networks, machines and people do, two regions never act at once.
func TestLease_TwoRegionsNeverAct(t *testing.T) {
	many := uint64(1000)
	if raceDetector || testing.Short() {
		many = 100
	}
	seed, schedules := envOr(t, "HOLDFAST_SEED", 1), envOr(t, "HOLDFAST_SCHEDULES", many)
	sum := struct {
		Schedules uint64  `json:"schedules"`
		Grants    int     `json:"grants"`
		Renewals  int     `json:"renewals"`
		Expiries  int     `json:"expiries"`
		Held      int     `json:"held"`
		Overlaps  int     `json:"overlaps"`
		Seconds   float64 `json:"seconds"`
		Seed      uint64  `json:"seed"`
	}{Seed: seed}
	start := time.Now()
	for i := seed; i < seed+schedules; i++ {
		w := runSchedule(i, scenarioOf(i, noBug), nil)
		sum.Schedules++
		sum.Grants += w.Grants
		sum.Renewals += w.Renewals
		sum.Expiries += w.Expiries
		sum.Held += w.Held
		what := w.verdict
		if what != "" {
			sum.Overlaps++
		} else {
			what = w.progress()
		}
		if what != "" {
			t.Errorf("schedule %d: %s\n%s\nreplay: HOLDFAST_SEED=%d HOLDFAST_SCHEDULES=1 go test ./consensus -run %s -v",
				i, what, tellStory(i, noBug), i, t.Name())
			break
		}
	}
	sum.Seconds = time.Since(start).Seconds()
	b, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(b))
}

// A checker that finds nothing might see nothing. Each of these mistakes is
// found by it, within this many schedules.
func TestLease_SeededBugIsCaught(t *testing.T) {
	for _, b := range []bug{
		noMargin, noCompareOnExpire, leaseKeptAcrossLeaders, timeOfRetriedAttempt,
		replayArms, releaseBeforeGiveUp, giveUpForgotten, promiseForgotten, ratesIgnored, ttlOfSettings,
	} {
		t.Run(string(b), func(t *testing.T) {
			const most = 400
			for i := uint64(1); i <= most; i++ {
				if w := runSchedule(i, scenarioOf(i, b), nil); w.verdict != "" {
					t.Logf("schedule %d: %s", i, w.verdict)
					return
				}
			}
			t.Errorf("not caught in %d schedules", most)
		})
	}
}

// What `config check` holds the timings of raft to, beside the lease.
const (
	raftHeartbeat, raftElection = 1500 * time.Millisecond, 1500 * time.Millisecond
	electionMax                 = 3*raftHeartbeat + 2*raftElection
)

// Killing the leader, and nothing else, never takes a healthy holder down:
// clocks are as bad as allowed, and the leader dies at any moment of a renewal.
func TestLease_DeathOfTheLeaderAloneTakesNobodyDown(t *testing.T) {
	schedules := uint64(100)
	if raceDetector || testing.Short() {
		schedules = 10
	}
	seed := envOr(t, "HOLDFAST_SEED", 1)
	for i := seed; i < seed+schedules; i++ {
		w, dips := killLeaders(i, electionMax)
		if r := w.head().Roles[theRole]; dips > 0 || r.Epoch != 1 || r.Phase != Open {
			t.Fatalf("schedule %d: the holder turned inactive %d times; the role is %s at epoch %d", i, dips, r.describe(), r.Epoch)
		} else if r.Sequence < 100 || !w.led() {
			t.Fatalf("schedule %d: %d renewals, led %v: the schedule shows nothing", i, r.Sequence, w.led())
		}
	}
	if _, dips := killLeaders(seed, 2*electionMax); dips == 0 {
		t.Error("elections of twice that length would go unnoticed: this test sees nothing")
	}
}

// killLeaders kills one leader after the other, 20 in all, and returns how
// often a holder turned inactive that had been active.
func killLeaders(seed uint64, election time.Duration) (*world, int) {
	w := newWorld(seed, scenario{timing: DefaultLeaseTiming, policy: Demote, tail: 4 * time.Second})
	w.calm = true
	w.boot()
	w.run(int64(30 * time.Second))
	holder := w.named(w.head().Roles[theRole].Node)
	for range 20 {
		if w.leader == holder { // it is kept out of the holder's region
			w.elect(w.nodes[2])
		}
		w.run(w.now + int64(w.between(4*time.Second, 30*time.Second)))
		w.kill(w.leader, election+time.Second)
		w.run(w.now + int64(election) - w.rng.Int64N(int64(election))/int64(1+w.rng.IntN(9)))
		w.elections()
		w.run(w.now + int64(election) + int64(2*time.Second))
	}
	return w, w.dips
}

// Hold means hold: cut off for half an hour, the holder still acts, no leader
// expires it and nobody else is granted the role. Then a person switches its
// machine off, says so, and the role moves.
func TestLease_HeldHolderActsUntilAPersonSaysItIsFenced(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		w := newWorld(seed, scenario{timing: DefaultLeaseTiming, policy: Hold, tail: 4 * time.Second})
		w.calm = true
		w.boot()
		w.govern()
		w.run(int64(30 * time.Second))
		holder := w.named(w.head().Roles[theRole].Node)
		holder.deaf, holder.mute = true, true
		for range 30 {
			w.run(w.now + int64(time.Minute))
			if v := holder.holder.At(holder.clock.at(w.now)); !v.Active || !v.Held {
				t.Fatalf("seed %d: the holder is inactive after %s: %s", seed, time.Duration(w.now), v.Why)
			}
			w.operate(false)
		}
		if r := w.head().Roles[theRole]; r.Node != holder.name || w.Expiries > 0 || w.dips > 0 {
			t.Fatalf("seed %d: %s at epoch %d, %d expiries, %d dips", seed, r.describe(), r.Epoch, w.Expiries, w.dips)
		}
		for range 10 {
			if w.head().Roles[theRole].Node == holder.name {
				w.operate(true)
			}
			w.run(w.now + int64(10*time.Second))
		}
		r := w.head().Roles[theRole]
		if r.Phase != Open || r.Node == holder.name || r.Basis != Attested || w.verdict != "" {
			t.Errorf("seed %d: after the attestation the role is %s by %q; %s", seed, r.describe(), r.Basis, w.verdict)
		}
	}
}
