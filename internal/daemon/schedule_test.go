package daemon

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func jobs(t *testing.T, catchUp schedule.CatchUp) []job {
	hourly, err := schedule.Parse("17 * * * *")
	if err != nil {
		t.Fatal(err)
	}
	return []job{
		{"backup/us-east", "backup", "us-east", hourly, catchUp, time.Hour, struct{}{}, nil},
		{"drill/eu-west", "drill", "eu-west", hourly, catchUp, time.Hour, struct{}{}, nil},
	}
}

// clocked is a log that leaders decide from.
type clocked struct {
	consensus.State
	now  time.Time
	runs int
}

func newClocked(t *testing.T) *clocked {
	c := &clocked{State: consensus.NewState(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	c.must(t, &consensus.Configure{Settings: consensus.Settings{Digest: "d", Lease: consensus.DefaultLeaseTiming, Roles: map[topology.Role]consensus.RoleSettings{}},
		Members: map[topology.Node]consensus.Member{"us-east-1": {Region: "us-east"}, "eu-west-1": {Region: "eu-west"}}})
	return c
}

func (c *clocked) apply(b consensus.Body) error {
	next, err := c.Apply(consensus.Command{At: c.now, By: "leader", Body: b})
	c.State = next
	return err
}

func (c *clocked) must(t *testing.T, b consensus.Body) {
	t.Helper()
	if err := c.apply(b); err != nil {
		t.Fatal(err)
	}
}

// look is what a leader does that saw an old state.
func (c *clocked) look(jobs []job, saw consensus.State) {
	for _, j := range jobs {
		c.runs++
		if b := j.decide(saw, c.now, consensus.RunID(fmt.Sprintf("run%03d", c.runs))); b != nil {
			_ = c.apply(b) // a refusal is an answer: someone was faster
		}
	}
}

func (c *clocked) end(t *testing.T) {
	for id, r := range c.Runs {
		if r.State == consensus.RunLive {
			c.must(t, &consensus.CancelRun{ID: id})
		}
	}
}

func TestSchedule_TwoSlotsDueOnALeaderChangeRunOnceEach(t *testing.T) {
	c, jobs := newClocked(t), jobs(t, schedule.Latest)
	c.look(jobs, c.State)
	if len(c.Runs) != 0 || len(c.Slots) != 2 {
		t.Fatalf("a schedule begins now and runs nothing: %d runs, %d slots", len(c.Runs), len(c.Slots))
	}
	c.now = c.now.Add(20 * time.Minute)
	old := c.State // both leaders see the slots as due
	c.look(jobs, old)
	c.look(jobs, old)
	c.look(jobs, c.State)
	if len(c.Runs) != 2 {
		t.Fatalf("%d runs for two slots", len(c.Runs))
	}
	c.end(t)
	c.look(jobs, c.State)
	c.look(jobs, old)
	if len(c.Runs) != 2 {
		t.Errorf("%d runs after they ended, want 2", len(c.Runs))
	}
}

func TestSchedule_ASlotWaitsForTheRunBeforeIt(t *testing.T) {
	for _, catchUp := range []schedule.CatchUp{schedule.Latest, schedule.Skip} {
		c, jobs := newClocked(t), jobs(t, catchUp)
		c.look(jobs, c.State)
		c.now = c.now.Add(18 * time.Minute)
		c.look(jobs, c.State)
		c.now = c.now.Add(65 * time.Minute) // 13:23; the runs of 12:17 go on
		c.look(jobs, c.State)
		if len(c.Runs) != 2 {
			t.Fatalf("%s: %d runs, want those of 12:17", catchUp, len(c.Runs))
		}
		c.now = c.now.Add(30 * time.Minute) // 13:53
		c.end(t)
		c.look(jobs, c.State)
		if want := map[schedule.CatchUp]int{schedule.Latest: 4, schedule.Skip: 2}[catchUp]; len(c.Runs) != want {
			t.Errorf("%s: %d runs, want %d", catchUp, len(c.Runs), want)
		}
	}
}

// Whatever leaders see and whenever they look, a slot of a job has one run at
// most, and with catch_up latest the newest slot gets its run in the end.
func TestSchedule_ASlotHasOneRun(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, jobs := newClocked(t), jobs(t, schedule.Latest)
		c.look(jobs, c.State)
		saw := []consensus.State{c.State}
		type ran struct {
			job  string
			slot time.Time
		}
		all := map[consensus.RunID]ran{}
		for range rapid.IntRange(1, 30).Draw(rt, "looks") {
			c.now = c.now.Add(time.Duration(rapid.IntRange(-5, 50).Draw(rt, "minutes")) * time.Minute)
			c.look(jobs, saw[rapid.IntRange(max(0, len(saw)-3), len(saw)-1).Draw(rt, "saw")])
			if rapid.Bool().Draw(rt, "end") {
				c.end(t)
			}
			saw = append(saw, c.State)
			for id, r := range c.Runs {
				all[id] = ran{r.Job, r.Slot}
			}
		}
		seen := map[ran]bool{}
		for _, r := range all {
			if seen[r] {
				rt.Fatalf("slot %s of %s ran twice", r.slot, r.job)
			}
			seen[r] = true
		}
		c.now = c.now.Add(24 * time.Hour)
		c.end(t)
		c.look(jobs, c.State)
		newest := time.Date(c.now.Year(), c.now.Month(), c.now.Day(), c.now.Hour(), 17, 0, 0, time.UTC)
		if newest.After(c.now) {
			newest = newest.Add(-time.Hour)
		}
		for _, j := range jobs {
			if last := c.Slots[j.name]; !last.Equal(newest) {
				rt.Fatalf("%s: last slot %s, want %s", j.name, last, newest)
			}
		}
	})
}
