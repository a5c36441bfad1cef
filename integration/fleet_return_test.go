//go:build integration

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

// said is one acknowledged record: what a producer was promised.
type said struct {
	region    string
	partition int32
	offset    int64
	value     string
}

// voyage is a fleet whose ingestion goes away and comes back, under producers
// that obey the health answer of their region and nothing else.
type voyage struct {
	*testing.T
	fleet *fleet.Fleet
	topic string
	parts int

	mu    sync.Mutex
	acked []said
	by    map[string]int // acknowledged, by region
}

// producer writes wherever its region says that ingestion is active, until ctx
// ends.
func (v *voyage) producer(ctx context.Context, region string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(v.fleet.Regions[region].Kafka.Bootstrap()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		v.Error(err)
		return
	}
	defer cl.Close()
	for n := 0; ctx.Err() == nil; {
		if read(ctx, v.fleet.Nodes[region+"-1"].HealthAddress(), "/v1/role/ingestion/active").code != http.StatusOK {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		var batch []*kgo.Record
		for range 2 * v.parts {
			batch = append(batch, &kgo.Record{Topic: v.topic, Partition: int32(n % v.parts), Value: fmt.Appendf(nil, "%s %08d %0200d", region, n, n)})
			n++
		}
		for _, r := range cl.ProduceSync(context.WithoutCancel(ctx), batch...) {
			if r.Err == nil {
				v.mu.Lock()
				v.acked = append(v.acked, said{region, r.Record.Partition, r.Record.Offset, string(r.Record.Value)})
				v.by[region]++
				v.mu.Unlock()
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// openTransaction leaves a transaction open in a region, as a producer does
// that is lost with it.
func (v *voyage) openTransaction(region string) {
	v.Helper()
	tx, err := kgo.NewClient(kgo.SeedBrokers(v.fleet.Regions[region].Kafka.Bootstrap()), kgo.TransactionalID("lost with "+region),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionTimeout(10*time.Minute))
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(tx.Close)
	if err := tx.BeginTransaction(); err != nil {
		v.Fatal(err)
	}
	if err := tx.ProduceSync(v.Context(), &kgo.Record{Topic: v.topic, Value: []byte("never committed")}).FirstErr(); err != nil {
		v.Fatal(err)
	}
}

func (v *voyage) acks(region string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.by[region]
}

// produces waits until a region has acknowledged so many records more.
func (v *voyage) produces(region string, more int) {
	v.Helper()
	from := v.acks(region)
	v.within(30*time.Second, func() error {
		if n := v.acks(region) - from; n < more {
			return fmt.Errorf("%s acknowledged %d of %d records", region, n, more)
		}
		return nil
	})
}

func (v *voyage) within(d time.Duration, try func() error) {
	v.Helper()
	await(v.T, d, try)
}

// follows waits until a link runs, freezes nothing, and is close behind.
func (v *voyage) follows(ask string, link consensus.LinkID) httpapi.LinkRow {
	v.Helper()
	var out httpapi.LinkRow
	v.within(30*time.Second, func() error {
		st, err := v.fleet.Nodes[ask].Client().Status(v.Context())
		for _, l := range st.Links {
			if l.ID == link && l.Phase == consensus.LinkRunning && l.Running && len(l.Frozen) == 0 && l.Partition == v.parts && l.Records >= 0 && l.Records < 200 {
				out = l
				return nil
			}
		}
		return fmt.Errorf("%s does not follow: %+v: %w", link, st.Links, errors.Join(err, errors.New("wait")))
	})
	return out
}

func (v *voyage) client(region string) []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(v.fleet.Regions[region].Kafka.Bootstrap())}
}

// visible is what a plain consumer of committed records gets in a region.
func (v *voyage) visible(region string) map[int32]map[int64]string {
	v.Helper()
	logs, err := readPlain(v.Context(), v.client(region), v.topic, committed)
	if err != nil {
		v.Fatal(err)
	}
	out := map[int32]map[int64]string{}
	for p, l := range logs {
		out[p] = map[int64]string{}
		for _, r := range l.records {
			out[p][r.Offset] = string(r.Value)
		}
	}
	return out
}

func (v *voyage) topicID(region string) string {
	v.Helper()
	cl, err := kgo.NewClient(v.client(region)...)
	if err != nil {
		v.Fatal(err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(v.Context(), v.topic)
	if err != nil || topics[v.topic].Err != nil {
		v.Fatal(err, topics[v.topic].Err)
	}
	return topics[v.topic].ID.String()
}

// salvage exports the records of a salvage with the command line.
func (v *voyage) salvage(node string, id consensus.SalvageID) map[int32]map[int64]string {
	v.Helper()
	file := filepath.Join(v.TempDir(), "orphans.jsonl")
	if out, errOut, err := v.fleet.Nodes[node].CLI(v.Context(), "mirror", "orphans", "export", string(id), "--out", file); err != nil {
		v.Fatal(err, out, errOut)
	}
	f, err := os.Open(file)
	if err != nil {
		v.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	kept := map[int32]map[int64]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r struct {
			Partition int32
			Offset    int64
			Value     []byte
			Aborted   bool
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			v.Fatal(err)
		}
		if kept[r.Partition] == nil {
			kept[r.Partition] = map[int64]string{}
		}
		if !r.Aborted {
			kept[r.Partition][r.Offset] = string(r.Value)
		}
	}
	return kept
}

// TestFleet_ALostRegionReturnsWithEveryRecordInOnePlace is the whole way round:
// the active region is cut off while its producers go on, the other one takes
// over by itself, the lost one returns and follows without being mirrored anew,
// and takes ingestion back by plan. Then plain consumers look for every record
// that was ever acknowledged.
func TestFleet_ALostRegionReturnsWithEveryRecordInOnePlace(t *testing.T) {
	t.Parallel() // it waits most of its time
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse)
	const east, west = "us-east", "eu-west"
	f, err := fleet.Start(t.Context(), fleet.Options{
		Dir: t.TempDir(), Binary: product(t), Topics: []string{"ingest-.*"},
		Roles: map[string]fleet.RoleOptions{"ingestion": {Initial: east, Auto: true, AcceptLoss: time.Minute}},
	})
	if err != nil {
		t.Fatal(err)
	}
	v := &voyage{T: t, fleet: f, topic: "ingest-events", parts: 3, by: map[string]int{}}
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
	admin, err := kgo.NewClient(v.client(east)...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = kadm.NewClient(admin).CreateTopic(t.Context(), int32(v.parts), 1, nil, v.topic)
	admin.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.StartNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	lap := func(what string) { t.Logf("%5.1f s  %s", time.Since(began).Seconds(), what) }

	ctx, stop := context.WithCancel(t.Context())
	var producers sync.WaitGroup
	defer producers.Wait()
	defer stop()
	for _, region := range []string{east, west} {
		producers.Go(func() { v.producer(ctx, region) })
	}
	v.produces(east, 200)
	v.follows("eu-west-1", consensus.LinkOf(east, west))
	copied := v.topicID(east)

	// A mirror that lags, a transaction that nobody ends, and the cut.
	line, err := f.Links.Proxy(west, east, f.Regions[east].Kafka.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	line.SetRate(stack.Down, 20_000)
	v.produces(east, 600)
	v.openTransaction(east)
	f.Isolate(east)
	lap("us-east is cut off; its producers go on")
	v.within(40*time.Second, func() error {
		if read(t.Context(), f.Nodes["eu-west-1"].HealthAddress(), "/v1/role/ingestion/active").code != http.StatusOK {
			return errors.New("eu-west is not active")
		}
		return nil
	})
	lap("eu-west has taken over by itself")
	plans, err := f.Nodes["eu-west-1"].Client().Plans(t.Context())
	if err != nil || len(plans) == 0 || plans[0].Plan.Kind != consensus.Unplanned {
		t.Fatal(err, plans)
	}
	for i, r := range plans[0].Plan.Journal {
		took := r.Finished.Sub(r.Started)
		t.Logf("         %-12s %s", plans[0].Plan.Steps[i].Kind, took.Round(time.Millisecond))
		if took > 5*time.Second {
			t.Errorf("%s took %s: a region that hangs keeps the other one from taking over", plans[0].Plan.Steps[i].Kind, took)
		}
	}
	v.produces(west, 300)

	line.SetRate(stack.Down, 0)
	f.Rejoin(east)
	back := consensus.LinkOf(west, east)
	v.follows("eu-west-1", back)
	lap("us-east has returned and follows")
	if code := read(t.Context(), f.Nodes["us-east-1"].HealthAddress(), "/v1/role/ingestion/active").code; code == http.StatusOK {
		t.Error("the returned region is active")
	}
	if now := v.topicID(east); now != copied {
		t.Errorf("the topic of the returned region was made anew: %s, it was %s", now, copied)
	}
	report, err := f.Nodes["eu-west-1"].Client().MirrorOrphans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Salvages) != 1 || report.Salvages[0].Link != back || report.Salvages[0].Records == 0 {
		t.Fatalf("salvages: %+v", report.Salvages)
	}
	s := report.Salvages[0]
	out, errOut, err := f.Nodes["eu-west-1"].CLI(t.Context(), "mirror", "orphans", "list")
	if err == nil {
		err = holds(out, string(s.ID), v.topic+"/0")
	}
	if err != nil {
		t.Fatal(err, errOut)
	}
	kept := v.salvage("us-east-1", s.ID)
	v.produces(west, 100)

	// The failback is a planned move like any other.
	want := failover.Intent{To: east}
	var id consensus.PlanID
	v.within(20*time.Second, func() error {
		p, err := f.Nodes["us-east-1"].Client().PlanFailover(t.Context(), want)
		if err != nil || len(p.Blockers) > 0 {
			return errors.Join(err, fmt.Errorf("blocked: %+v", p.Blockers))
		}
		id, err = f.Nodes["us-east-1"].Client().RunFailover(t.Context(), p.Candidate.Plan.Hash, &want)
		return err
	})
	v.within(30*time.Second, func() error {
		p, err := f.Nodes["us-east-1"].Client().Plan(t.Context(), id)
		if err == nil && p.Plan.Phase != consensus.PlanCompleted {
			err = fmt.Errorf("the plan is %s", p.Plan.Phase)
		}
		return err
	})
	lap("us-east has ingestion again, by plan")
	v.produces(east, 200)
	stop()
	producers.Wait()
	v.within(20*time.Second, func() error { // until the standby has the last record
		a, b := v.visible(east), v.visible(west)
		for _, r := range v.acked[len(v.acked)-2*v.parts:] {
			if a[r.partition][r.offset] != r.value || b[r.partition][r.offset] != r.value {
				return fmt.Errorf("%s/%d at %d is not in both", v.topic, r.partition, r.offset)
			}
		}
		return nil
	})
	v.everyRecordIsInOnePlace(v.visible(east), v.visible(west), kept, s.Records, report.Links)
	lap("compared")
}

// everyRecordIsInOnePlace holds what was acknowledged against what consumers
// saw, and what consumers saw in one region against the other.
func (v *voyage) everyRecordIsInOnePlace(a, b, kept map[int32]map[int64]string, salvaged int64, links []httpapi.LinkLosses) {
	v.Helper()
	foreign := func(p int32, offset int64) bool {
		for _, l := range links {
			if slices.ContainsFunc(l.Foreign[v.topic][p], func(s consensus.Span) bool { return s.From <= offset && offset < s.To }) {
				return true
			}
		}
		return false
	}
	both, orphans, named, wrong := 0, 0, 0, 0
	for _, r := range v.acked {
		isBoth := a[r.partition][r.offset] == r.value && b[r.partition][r.offset] == r.value
		isKept := kept[r.partition][r.offset] == r.value
		isForeign := !isKept && foreign(r.partition, r.offset)
		switch {
		case isBoth && !isKept && !isForeign:
			both++
		case isKept && !isBoth:
			orphans++
		case isForeign && !isBoth:
			named++
		default:
			if wrong++; wrong < 10 {
				v.Errorf("%s/%d at %d, acknowledged in %s: in both %v, in the salvage %v, in a foreign range %v; %.20q and %.20q are there",
					v.topic, r.partition, r.offset, r.region, isBoth, isKept, isForeign, a[r.partition][r.offset], b[r.partition][r.offset])
			}
		}
	}
	for p := range a {
		for offset, value := range a[p] {
			if other, there := b[p][offset]; there && other != value && !foreign(p, offset) {
				v.Errorf("%s/%d at %d names two records", v.topic, p, offset)
			}
		}
	}
	records := 0
	for p := range maps.Values(kept) {
		records += len(p)
	}
	if named > 0 {
		v.Errorf("%d records are at offsets that the lost region used: the leap was too short", named)
	}
	if int64(records) != salvaged || orphans == 0 || orphans > records || both == 0 {
		v.Errorf("%d records in the salvage, %d were recorded, %d of them acknowledged", records, salvaged, orphans)
	}
	v.Logf("%d acknowledged: %d in both regions at the same offset, %d in the salvage, %d in foreign ranges, %d in none or in two", len(v.acked), both, orphans, named, wrong)
}
