//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// The boundaries of a plan: the leader before and after it proposes the next
// entry, and the executor after it claimed a task and after it did the work
// and before it said so.
func boundaries(steps []consensus.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, "before:"+s.Kind)
		if !s.Decision() {
			out = append(out, "claimed:"+s.Kind, "done:"+s.Kind)
		}
	}
	return append(out, "before:finish", "after:finish")
}

// killer is a fleet whose daemons die at a boundary, once each time.
type killer struct {
	*testing.T
	fleet  *fleet.Fleet
	points string
	hooks  string
	topic  string
	clock  time.Time
	laps   string   // where the time of a round went
	next   int      // id of the next record
	acked  []string // ids, of all records that were acknowledged, but for
	// those that a region took when it was lost: they stay where they are.
	orphans map[string][]string
}

func newKiller(t *testing.T) *killer {
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse)
	k := &killer{T: t, points: t.TempDir(), topic: "ingest-events", orphans: map[string][]string{}}
	binary := filepath.Join(t.TempDir(), "holdfast")
	if err := fleet.Build(t.Context(), binary, "failpoint"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	k.hooks = filepath.Join(dir, "hooks.log")
	hook := filepath.Join(dir, "hook")
	script := "#!/bin/sh\necho \"$1 $HOLDFAST_ROLE $HOLDFAST_REGION $HOLDFAST_EPOCH\" >>" + k.hooks + "\n"
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Start(t.Context(), fleet.Options{
		Dir: t.TempDir(), Binary: binary, Topics: []string{"ingest-.*"}, Env: []string{"HOLDFAST_FAILPOINTS=" + k.points},
		Roles: map[string]fleet.RoleOptions{"ingestion": {Initial: "us-east", Stop: []string{hook, "stop"}, Start: []string{hook, "start"}, AcceptLoss: time.Minute}},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.fleet = f
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range f.Nodes {
				b, _ := os.ReadFile(n.LogPath())
				t.Logf("%s:\n%s", n.Name, b[max(0, len(b)-6000):])
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	cl := k.kafka("us-east")
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 4, 1, nil, k.topic); err != nil {
		t.Fatal(err)
	}
	if err := f.StartNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.waitOpen("us-east")
	return k
}

func (k *killer) kafka(region string) *kgo.Client {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.fleet.Regions[region].Kafka.Bootstrap()), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.KeepControlRecords())
	if err != nil {
		k.Fatal(err)
	}
	return cl
}

// produce writes n records and keeps the ids of those that were acknowledged.
func (k *killer) produce(region string, n int) {
	k.Helper()
	k.acked = append(k.acked, k.send(region, n)...)
}

// orphan writes n records that a region accepts although its daemon is dead.
func (k *killer) orphan(region string, n int) {
	k.Helper()
	k.orphans[region] = append(k.orphans[region], k.send(region, n)...)
}

func (k *killer) send(region string, n int) (ids []string) {
	k.Helper()
	cl := k.kafka(region)
	defer cl.Close()
	for range n {
		id := fmt.Sprintf("%08d", k.next)
		k.next++
		if err := cl.ProduceSync(k.Context(), &kgo.Record{Topic: k.topic, Value: []byte(id)}).FirstErr(); err != nil {
			k.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// read returns all ids that a region holds, by partition and offset.
func (k *killer) read(region string) (ids []string, spots map[string]string) {
	k.Helper()
	cl := k.kafka(region)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(k.Context(), k.topic)
	if err != nil {
		k.Fatal(err)
	}
	left := map[int32]int64{} // ends that were not reached: fences and leaps are markers, which show no record
	at := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		at[o.Partition] = kgo.NewOffset().At(0)
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{k.topic: at})
	spots = map[string]string{}
	ctx, cancel := context.WithTimeout(k.Context(), 20*time.Second)
	defer cancel()
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			k.Fatalf("read %d records of %s, and not up to %v", len(ids), region, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if r.Attrs.IsControl() {
				return
			}
			ids = append(ids, string(r.Value))
			spots[fmt.Sprintf("%d/%d", r.Partition, r.Offset)] = string(r.Value)
		})
	}
	return ids, spots
}

// whole checks that a region holds every acknowledged record exactly once, and
// its own orphans. It returns where the others are.
func (k *killer) whole(region string) map[string]string {
	k.Helper()
	ids, spots := k.read(region)
	slices.Sort(ids)
	want := slices.Sorted(slices.Values(slices.Concat(k.acked, k.orphans[region])))
	if !slices.Equal(ids, want) {
		k.Fatalf("%s holds %d records, %d were acknowledged and %d are its orphans; missing or extra: %v",
			region, len(ids), len(k.acked), len(k.orphans[region]), difference(ids, want))
	}
	maps.DeleteFunc(spots, func(_, id string) bool { return slices.Contains(k.orphans[region], id) })
	return spots
}

func difference(a, b []string) []string {
	seen := map[string]int{}
	for _, x := range a {
		seen[x]++
	}
	for _, x := range b {
		seen[x]--
	}
	var out []string
	for x, n := range seen {
		if n != 0 {
			out = append(out, fmt.Sprintf("%s (%+d)", x, n))
		}
	}
	slices.Sort(out)
	return out[:min(10, len(out))]
}

// lap notes how long a part of a round took.
func (k *killer) lap(what string) {
	k.laps += fmt.Sprintf(" %s %.1f", what, time.Since(k.clock).Seconds())
	k.clock = time.Now()
}

// round begins the clock of a round.
func (k *killer) round() { k.clock, k.laps = time.Now(), "" }

func (k *killer) active(region string) bool {
	code, _, err := k.fleet.Nodes[region+"-1"].Get(k.Context(), "/v1/role/ingestion/active")
	return err == nil && code == 200
}

func (k *killer) waitOpen(region string) {
	k.Helper()
	k.within(30*time.Second, region+" is active", func() error {
		if !k.active(region) {
			return errors.New("it answers 503")
		}
		return nil
	})
}

func (k *killer) within(d time.Duration, what string, try func() error) {
	k.Helper()
	end := time.Now().Add(d)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			k.Fatalf("waited %s until %s: %v", d, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// revive starts whichever daemon has died, as systemd would.
func (k *killer) revive(but string) (revived []string) {
	k.Helper()
	for name, n := range k.fleet.Nodes {
		if name != but && !n.Running() {
			if err := n.Start(k.Context()); err != nil {
				k.Fatal(err)
			}
			revived = append(revived, name)
		}
	}
	return revived
}

// ask finds a daemon that answers.
func (k *killer) ask() *fleet.Node {
	for _, name := range []string{"witness-1", "eu-west-1", "us-east-1"} {
		if k.fleet.Nodes[name].Running() {
			return k.fleet.Nodes[name]
		}
	}
	k.Fatal("no daemon runs")
	return nil
}

// plan waits until a plan is ready to run and returns it.
func (k *killer) plan(want failover.Intent) failover.Candidate {
	k.Helper()
	var c failover.Candidate
	k.within(40*time.Second, "the gates are open", func() error {
		p, err := k.ask().Client().PlanFailover(k.Context(), want)
		if err == nil && len(p.Blockers) > 0 {
			err = fmt.Errorf("%s: %s", p.Blockers[0].Gate, p.Blockers[0].Why)
		}
		c = p.Candidate
		return err
	})
	return c
}

// run carries a plan to its end, with one kill at the boundary on the way.
func (k *killer) run(want failover.Intent, point, but string) consensus.PlanPhase {
	k.Helper()
	c := k.plan(want)
	k.lap("gates")
	marker := filepath.Join(k.points, point)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		k.Fatal(err)
	}
	var id consensus.PlanID
	killed := false // the victim may die as early as the call that begins the plan
	k.within(20*time.Second, "the plan has begun", func() error {
		var err error
		id, err = k.ask().Client().RunFailover(k.Context(), c.Plan.Hash, &want)
		if err != nil {
			// It may have begun although its answer was lost with a daemon.
			plans, _ := k.ask().Client().Plans(k.Context())
			for _, p := range plans {
				if p.Plan.Hash == c.Plan.Hash && time.Since(p.Plan.Created) < 20*time.Second {
					id = p.ID
					return nil
				}
			}
			killed = len(k.revive(but)) > 0 || killed
		}
		return err
	})
	var end consensus.PlanPhase
	k.within(60*time.Second, "the plan has ended, killed "+point, func() error {
		killed = len(k.revive(but)) > 0 || killed
		p, err := k.ask().Client().Plan(k.Context(), id)
		if err != nil {
			return err
		}
		if p.Plan.Phase.Live() {
			i, _ := p.Plan.Current()
			return fmt.Errorf("it is %s at step %d %s: %+v", p.Plan.Phase, i+1, p.Plan.Steps[i].Kind, p.Plan.Journal[i])
		}
		end = p.Plan.Phase
		for i, r := range p.Plan.Journal {
			if d := r.Finished.Sub(r.Started); d > time.Second {
				k.laps += fmt.Sprintf(" (%s %.1f)", p.Plan.Steps[i].Kind, d.Seconds())
			}
		}
		k.laps += fmt.Sprintf(" (whole plan %.1f)", p.Plan.Ended.Sub(p.Plan.Created).Seconds())
		return nil
	})
	k.within(10*time.Second, "the victim of "+point+" has died", func() error {
		killed = len(k.revive(but)) > 0 || killed
		if _, err := os.Stat(marker); err == nil || !killed {
			return errors.New("nobody died there")
		}
		return nil
	})
	k.lap("plan")
	return end
}

func other(region string) string {
	if region == "us-east" {
		return "eu-west"
	}
	return "us-east"
}

func TestPlannedMove_SurvivesAKillAtEveryBoundary(t *testing.T) {
	t.Parallel() // it waits most of its time
	k := newKiller(t)
	at := "us-east"
	c := k.plan(failover.Intent{To: topology.Region(other(at))})
	ends := map[consensus.PlanPhase]int{}
	for _, point := range boundaries(c.Plan.Steps) {
		k.round()
		k.produce(at, 20)
		k.lap("produce")
		end := k.run(failover.Intent{To: topology.Region(other(at))}, point, "")
		switch end {
		case consensus.PlanCompleted:
			at = other(at)
		case consensus.PlanRolledBack:
		default:
			t.Fatalf("killed %s: the plan ended as %s", point, end)
		}
		ends[end]++
		k.waitOpen(at)
		if k.active(other(at)) {
			t.Fatalf("killed %s: both regions are active", point)
		}
		k.whole(at)
		k.lap("whole")
		t.Logf("killed %-22s %-12s seconds:%s; %s is active", point, end, k.laps, at)
	}
	if ends[consensus.PlanCompleted] == 0 {
		t.Error("no plan completed: the test shows nothing")
	}
	k.produce(at, 20)
	k.equal(at)
}

// equal waits until both regions hold the same records at the same offsets.
func (k *killer) equal(at string) {
	k.Helper()
	want := k.whole(at)
	k.within(30*time.Second, "the mirror has caught up", func() error {
		_, have := k.read(other(at))
		if len(have) != len(want)+len(k.orphans[other(at)]) {
			return fmt.Errorf("%s holds %d records, %d of them orphans, %s %d", other(at), len(have), len(k.orphans[other(at)]), at, len(want))
		}
		for spot, id := range want {
			if have[spot] != id {
				k.Fatalf("%s holds %q in %s and %q in %s", spot, id, at, have[spot], other(at))
			}
		}
		return nil
	})
}

func TestUnplannedMove_SurvivesAKillAtEveryBoundary(t *testing.T) {
	t.Parallel() // it waits most of its time
	k := newKiller(t)
	at := "us-east"
	lost := k.fleet.Nodes[at+"-1"]
	if err := lost.Kill(); err != nil {
		t.Fatal(err)
	}
	c := k.plan(failover.Intent{To: topology.Region(other(at)), Fenced: topology.Region(at), Reason: "test: its daemon is dead"})
	k.revive("")
	k.waitOpen(at)
	for _, point := range boundaries(c.Plan.Steps) {
		k.round()
		k.produce(at, 20)
		k.lap("produce")
		k.within(20*time.Second, "the mirror has caught up", func() error {
			st, err := k.ask().Client().Status(t.Context())
			if err == nil && (len(st.Links) != 1 || st.Links[0].Phase != consensus.LinkRunning || st.Links[0].Records != 0) {
				err = fmt.Errorf("links: %+v", st.Links)
			}
			if err == nil {
				_, have := k.read(other(at))
				if have := len(have) - len(k.orphans[other(at)]); have != len(k.acked) {
					err = fmt.Errorf("%d of %d records", have, len(k.acked))
				}
			}
			return err
		})
		k.lap("mirror")
		lost := k.fleet.Nodes[at+"-1"]
		if err := lost.Kill(); err != nil {
			t.Fatal(err)
		}
		k.fleet.Isolate(at)
		k.orphan(at, 5)
		end := k.run(failover.Intent{To: topology.Region(other(at)), Fenced: topology.Region(at), Reason: "test: its daemon is dead"}, point, lost.Name)
		if end != consensus.PlanCompleted {
			// A role that was voided belongs to nobody until the next plan.
			if end != consensus.PlanRolledBack {
				t.Fatalf("killed %s: the plan ended as %s", point, end)
			}
			if end = k.run(failover.Intent{To: topology.Region(other(at)), Fenced: topology.Region(at), Reason: "test: again"}, "after:finish", lost.Name); end != consensus.PlanCompleted {
				t.Fatalf("the second plan ended as %s", end)
			}
		}
		at = other(at)
		k.waitOpen(at)
		k.whole(at)
		k.lap("whole")
		k.fleet.Rejoin(other(at))
		k.revive("")
		k.within(30*time.Second, "the returned region has been compared", func() error {
			st, err := k.ask().Client().Status(t.Context())
			if err == nil && (len(st.Links) != 1 || st.Links[0].Phase != consensus.LinkRunning || len(st.Links[0].Frozen) > 0 || !strings.HasPrefix(string(st.Links[0].ID), at)) {
				err = fmt.Errorf("links: %+v", st.Links)
			}
			return err
		})
		if k.active(other(at)) {
			t.Fatalf("killed %s: the returned region is active", point)
		}
		k.lap("compared")
		t.Logf("killed %-22s %-12s seconds:%s; %s is active", point, end, k.laps, at)
	}
	k.equal(at)
	r, err := k.ask().Client().MirrorOrphans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	salvaged := int64(0)
	for _, s := range r.Salvages {
		salvaged += s.Records
	}
	if want := len(k.orphans["us-east"]) + len(k.orphans["eu-west"]); salvaged != int64(want) {
		t.Errorf("%d records were salvaged, want %d", salvaged, want)
	}
	for _, l := range r.Links {
		if len(l.Foreign) > 0 {
			t.Errorf("%s: offsets name two records: %v", l.ID, l.Foreign)
		}
	}
}
