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
			const most = 300
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
