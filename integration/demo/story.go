package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/sentry"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

const (
	east = "us-east"
	west = "eu-west"
	// throttled lets about half of the events through to the standby.
	throttled = 110_000 // bytes per second
	issues    = 2000    // in Postgres
)

// result is the last line.
type result struct {
	Planned struct {
		Lost       int64 `json:"lost"`
		Duplicated int64 `json:"duplicated"`
		PauseMs    int64 `json:"pause_ms"`
	} `json:"planned"`
	DaemonRestart struct {
		Refused int64 `json:"refused"`
		DownMs  int64 `json:"down_ms"`
	} `json:"daemon_restart"`
	Unplanned struct {
		RTOMs   int64    `json:"rto_ms"`
		Lost    int64    `json:"lost"`
		Bound   [2]int64 `json:"bound"`
		Orphans int64    `json:"orphans"`

		ReturnMs int64 `json:"return_ms"` // until the lost region follows again
	} `json:"unplanned"`
	Failback struct {
		Lost       int64 `json:"lost"`
		Duplicated int64 `json:"duplicated"`
		PauseMs    int64 `json:"pause_ms"`
		Both       int64 `json:"both"`     // acknowledged events that both regions hold at the same offset
		Salvaged   int64 `json:"salvaged"` // and those that are in the salvage
		Nowhere    int64 `json:"nowhere"`
		Renumbered int64 `json:"renumbered"` // offsets that name two events
	} `json:"failback"`
	Drill struct {
		OK      bool   `json:"ok"`
		RTOMs   int64  `json:"rto_ms"`
		RPOMs   int64  `json:"rpo_ms"`
		Rows    uint64 `json:"rows"`
		Control bool   `json:"negative_control_caught"`
	} `json:"drill"`
	OverlapMs int64 `json:"overlap_ms"`
	Events    int64 `json:"events"`
	Seconds   int64 `json:"seconds"`
}

// story is the demo while it is told.
type story struct {
	ctx     context.Context
	dir     string
	self    string
	fleet   *fleet.Fleet
	gen     *generator
	genDone chan error
	genStop context.CancelFunc
	index   []*exec.Cmd
	began   time.Time
	out     result
	wrong   []string // claims that did not hold

	beforeSet uint64          // events in ClickHouse when the set was begun
	orphans   map[spot]string // ids of what was salvaged
}

func tell(ctx context.Context, dir string, keep bool) (err error) {
	s := &story{ctx: ctx, began: time.Now()}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if s.self, err = os.Executable(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(keep)) }()
	if err := stack.InstallKafka(ctx, "", os.Stdout); err != nil {
		return err
	}
	if err := stack.InstallClickHouse(ctx, os.Stdout); err != nil {
		return err
	}
	if err := stack.InstallS3(ctx, "", os.Stdout); err != nil {
		return err
	}
	if err := stack.InstallPostgres(ctx, "", os.Stdout); err != nil {
		return err
	}
	s.began = time.Now() // what is installed once does not count
	for _, act := range []func() error{s.prepare, s.actA, s.actB, s.actC, s.actSet, s.actD, s.actDrill, s.actE, s.actF, s.end} {
		if err := act(); err != nil {
			return err
		}
	}
	b, err := json.Marshal(s.out)
	if err != nil {
		return err
	}
	fmt.Println(string(b))
	if len(s.wrong) > 0 {
		return fmt.Errorf("%d claims did not hold: %s", len(s.wrong), strings.Join(s.wrong, "; "))
	}
	return nil
}

func (s *story) close(keep bool) error {
	if s.genStop != nil {
		s.genStop()
	}
	for _, c := range s.index {
		_ = c.Process.Signal(syscall.SIGTERM) // it may be gone
	}
	var err error
	if s.fleet != nil {
		err = s.fleet.Close()
	}
	if !keep {
		for _, r := range []string{east, west} {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, "fleet", r)))
		}
	}
	return err
}

// say narrates; act opens a chapter; show indents what a command printed.
func (s *story) say(format string, a ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, a...))
}

func act(letter, title string) { fmt.Printf("\n%s. %s\n\n", letter, title) }

func show(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Print("          | " + strings.TrimRight(line, "\n") + "\n")
	}
	fmt.Println()
}

func (s *story) claim(ok bool, format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	mark := "ok"
	if !ok {
		mark = "NO"
		s.wrong = append(s.wrong, text)
	}
	fmt.Printf("      %s  %s\n", mark, text)
}

func (s *story) prepare() error {
	fmt.Println("holdfast demo: two regions and a witness on real Kafka and ClickHouse, on this machine.")
	fmt.Printf("Data and logs: %s\n\n", s.dir)
	binary := filepath.Join(s.dir, "holdfast")
	s.say("building holdfast")
	if err := fleet.Build(s.ctx, binary); err != nil {
		return err
	}
	s.say("starting Kafka, ClickHouse and Postgres in %s and %s, and an object store in a third place", east, west)
	f, err := fleet.Start(s.ctx, fleet.Options{
		Cluster: "demo", Dir: filepath.Join(s.dir, "fleet"), Binary: binary, Timing: fleet.DemoTiming(),
		Topics: []string{"ingest-.*"}, LocalGroups: []string{groupIndex}, Postgres: true,
		Backups: &fleet.Backups{Regions: []string{west}, Drill: &fleet.Drills{Region: east, Of: []string{west}}},
		Roles: map[string]fleet.RoleOptions{
			"ingestion": {Initial: east, Auto: true, AcceptLoss: time.Minute},
			"query":     {Initial: east, Auto: true, AcceptLoss: time.Minute},
		},
	})
	s.fleet = f
	if err != nil {
		return err
	}
	if err := s.createTopic(); err != nil {
		return err
	}
	if err := sentry.FillPostgres(s.ctx, f.Regions[west].Postgres.DSN(), issues); err != nil {
		return err
	}
	s.say("starting three holdfast daemons")
	if err := f.StartNodes(s.ctx); err != nil {
		return err
	}
	if err := s.waitFor(30*time.Second, "ingestion opens in "+east, func() (bool, error) { return s.active(east), nil }); err != nil {
		return err
	}
	if err := s.waitFor(30*time.Second, "the topic is mirrored", func() (bool, error) {
		st, err := s.status(west)
		return err == nil && len(st.Links) == 1 && st.Links[0].Partition == partitions, nil
	}); err != nil {
		return err
	}
	for _, r := range []string{east, west} {
		if err := startIndex(s.ctx, f.Regions[r].Kafka.Bootstrap()); err != nil {
			return err
		}
		if err := s.startIndex(r); err != nil {
			return err
		}
		if err := s.startGuard(r); err != nil {
			return err
		}
	}
	if err := s.startGenerator(); err != nil {
		return err
	}
	s.say("events flow: %d per second into %s, %d partitions", perSecond, topic, partitions)
	return s.pass(5 * time.Second)
}

func (s *story) createTopic() error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.fleet.Regions[east].Kafka.Bootstrap()))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(s.ctx, partitions, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("LogAppendTime")}, topic)
	return err
}

func (s *story) child(name string, cmd *exec.Cmd) error {
	log, err := os.OpenFile(filepath.Join(s.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd.Stdout, cmd.Stderr = log, log
	if err := fleet.StartTied(cmd); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

func (s *story) store(region string) store {
	c := s.fleet.Regions[region].ClickHouse
	return store{c.Address(), c.Database(), c.User(), c.Password()}
}

func (s *story) startIndex(region string) error {
	st := s.store(region)
	cmd := exec.Command(s.self, append([]string{"index", "--brokers", s.fleet.Regions[region].Kafka.Bootstrap()}, st.args()...)...)
	cmd.Env = append(os.Environ(), "DEMO_CLICKHOUSE_PASSWORD="+st.Password)
	s.index = append(s.index, cmd)
	return s.child("index-"+region, cmd)
}

func (s *story) startGuard(region string) error {
	n := s.fleet.Nodes[region+"-1"]
	cmd := exec.Command(filepath.Join(s.dir, "holdfast"), "guard", "--role", "ingestion", "--socket", n.Socket, "--",
		s.self, "effects", "--region", region, "--brokers", s.fleet.Regions[region].Kafka.Bootstrap(), "--journal", s.journal())
	if err := s.child("guard-"+region, cmd); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it ends with the demo
	return nil
}

func (s *story) journal() string { return filepath.Join(s.dir, "effects.jsonl") }
func (s *story) ledger() string  { return filepath.Join(s.dir, "ledger.txt") }

func (s *story) startGenerator() error {
	t := fleet.DemoTiming()
	var targets []*target
	for _, r := range []string{east, west} {
		cl, err := kgo.NewClient(
			kgo.SeedBrokers(s.fleet.Regions[r].Kafka.Bootstrap()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond),
			kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordDeliveryTimeout(20*time.Second), kgo.MaxBufferedRecords(bufferMax), kgo.ProducerBatchCompression(kgo.NoCompression()),
		)
		if err != nil {
			return err
		}
		targets = append(targets, &target{region: r, health: "http://" + s.fleet.Nodes[r+"-1"].HealthAddress() + "/v1/role/ingestion/active", client: cl})
	}
	g, err := newGenerator(s.ledger(), targets, t.LBInterval, t.LBTimeout, t.LBFall)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.gen, s.genStop, s.genDone = g, cancel, make(chan error, 1)
	go func() {
		err := g.run(ctx)
		for _, t := range targets {
			t.client.Close()
		}
		s.genDone <- err
	}()
	return nil
}

// cli runs the command line as an operator of a region would, and shows it.
func (s *story) cli(region string, args ...string) (string, error) {
	fmt.Printf("          $ holdfast %s\n", strings.Join(args, " "))
	out, errOut, err := s.fleet.Nodes[region+"-1"].CLI(s.ctx, args...)
	show(out + errOut)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 5 {
		return out, nil // done, with findings: some acts are about them
	}
	if err != nil {
		return out, fmt.Errorf("holdfast %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

func (s *story) client(region string) *httpapi.Client { return s.fleet.Nodes[region+"-1"].Client() }

func (s *story) status(region string) (httpapi.Status, error) { return s.client(region).Status(s.ctx) }

func (s *story) active(region string) bool {
	code, _, err := s.fleet.Nodes[region+"-1"].Get(s.ctx, "/v1/role/ingestion/active")
	return err == nil && code == 200
}

func (s *story) pass(d time.Duration) error {
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case err := <-s.genDone:
		return fmt.Errorf("the generator ended: %w", err)
	case <-time.After(d):
		return nil
	}
}

func (s *story) waitFor(within time.Duration, what string, ok func() (bool, error)) error {
	end := time.Now().Add(within)
	for {
		yes, err := ok()
		if yes {
			return nil
		}
		if time.Now().After(end) {
			return errors.Join(fmt.Errorf("waited %s until %s", within, what), err)
		}
		if err := s.pass(50 * time.Millisecond); err != nil {
			return err
		}
	}
}

// settle waits until a region's index has read all that its Kafka holds now.
func (s *story) settle(region string) error {
	records, err := recordsOf(s.ctx, s.fleet.Regions[region].Kafka.Bootstrap())
	if err != nil {
		return err
	}
	conn, err := s.store(region).open()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read from
	return s.waitFor(60*time.Second, "the index of "+region+" has caught up", func() (bool, error) {
		var have uint64
		err := conn.QueryRow(s.ctx, "SELECT count() FROM events_local").Scan(&have)
		return have >= uint64(len(records)), err
	})
}

// counted asks the independent program.
func (s *story) counted(region string) (counted, error) {
	if err := s.gen.flush(); err != nil {
		return counted{}, err
	}
	// Only ids that were acknowledged before the copy are asked for, and their
	// rows were waited for.
	frozen := s.ledger() + "." + region
	if err := copyWhole(s.ledger(), frozen); err != nil {
		return counted{}, err
	}
	if err := s.settle(region); err != nil {
		return counted{}, err
	}
	st := s.store(region)
	cmd := exec.CommandContext(s.ctx, s.self, append([]string{"count", "--ledger", frozen}, st.args()...)...)
	cmd.Env = append(os.Environ(), "DEMO_CLICKHOUSE_PASSWORD="+st.Password)
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return counted{}, fmt.Errorf("count: %w", err)
	}
	var c counted
	return c, json.Unmarshal(b, &c)
}

func copyWhole(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b[:strings.LastIndexByte(string(b), '\n')+1], 0o600)
}

func (s *story) actA() error {
	act("a", "What an operator sees")
	if _, err := s.cli(west, "status"); err != nil {
		return err
	}
	_, err := s.cli(west, "failover", "plan", "--to", west)
	return err
}

func (s *story) actB() error {
	act("b", "A planned switch of ingestion and query, under load")
	p, err := s.client(west).PlanFailover(s.ctx, failover.Intent{To: west})
	if err != nil {
		return err
	}
	if _, err := s.cli(west, "failover", "run", "--plan", p.Candidate.Plan.Hash, "--yes"); err != nil {
		return err
	}
	if err := s.waitFor(20*time.Second, "events go to "+west, func() (bool, error) {
		t := s.gen.tally()
		return len(t.Moves) == 1 && t.Moves[0].firstSeen, nil
	}); err != nil {
		return err
	}
	m := s.gen.tally().Moves[0]
	s.out.Planned.PauseMs = m.FirstAck.Sub(m.LastAck).Milliseconds()
	if err := s.pass(2 * time.Second); err != nil {
		return err
	}
	s.say("counting: every acknowledged id against the table of %s alone", west)
	c, err := s.counted(west)
	if err != nil {
		return err
	}
	s.out.Planned.Lost, s.out.Planned.Duplicated = c.Lost, c.Duplicated
	s.claim(c.Lost == 0, "%d of %d acknowledged events are missing in %s", c.Lost, c.Acked, west)
	s.claim(c.Duplicated == 0, "%d are there twice", c.Duplicated)
	old, err := s.rows(west, "via = '"+east+"'")
	if err != nil {
		return err
	}
	s.claim(old > 0, "%d events that %s took before the switch are queryable in %s", old, east, west)
	s.claim(s.gen.tally().TwoUp == 0, "the balancer never saw two active regions")
	fmt.Printf("          pause between the last answer of %s and the first of %s: %d ms\n", east, west, s.out.Planned.PauseMs)
	return nil
}

func (s *story) rows(region, where string) (int64, error) {
	conn, err := s.store(region).open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // only read from
	var n uint64
	err = conn.QueryRow(s.ctx, "SELECT count() FROM events_local WHERE "+where).Scan(&n)
	return int64(n), err
}

func (s *story) actC() error {
	act("c", "Only the daemon of the active region is killed, and comes back")
	n := s.fleet.Nodes[west+"-1"]
	before := s.gen.tally()
	effectsBefore, err := s.effects()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := n.Kill(); err != nil {
		return err
	}
	s.say("killed the daemon of %s with SIGKILL", west)
	if err := n.Start(s.ctx); err != nil {
		return err
	}
	if err := s.waitFor(10*time.Second, west+" answers active again", func() (bool, error) { return s.active(west), nil }); err != nil {
		return err
	}
	s.out.DaemonRestart.DownMs = time.Since(began).Milliseconds()
	s.say("it answers again after %d ms; the balancer gives it %s", s.out.DaemonRestart.DownMs, patience())
	if err := s.pass(4 * time.Second); err != nil {
		return err
	}
	after := s.gen.tally()
	s.out.DaemonRestart.Refused = after.Refused + after.Unknown - before.Refused - before.Unknown
	s.claim(s.out.DaemonRestart.Refused == 0, "%d events refused", s.out.DaemonRestart.Refused)
	s.claim(after.NoneUp == before.NoneUp, "the balancer never took %s out (%s without a region)", west, after.NoneUp-before.NoneUp)
	s.claim(len(after.Moves) == len(before.Moves), "nothing moved")
	effectsAfter, err := s.effects()
	if err != nil {
		return err
	}
	gap := effectsAfter.longestGap(began, time.Now())
	s.claim(effectsAfter.last.Epoch == effectsBefore.last.Epoch && gap < 2*time.Second, "the guarded process went on at epoch %s (longest silence %d ms)", effectsAfter.last.Epoch, gap.Milliseconds())
	return nil
}

func patience() time.Duration {
	t := fleet.DemoTiming()
	return time.Duration(t.LBFall) * t.LBInterval
}

func (s *story) actD() error {
	act("e", west+" is cut off, with a mirror that lags, while its producers go on")
	p, err := s.fleet.Links.Proxy(east, west, s.fleet.Regions[west].Kafka.Bootstrap())
	if err != nil {
		return err
	}
	p.SetRate(stack.Down, throttled)
	s.say("the line of the mirror is throttled to %d kB/s", throttled/1000)
	if err := s.waitFor(40*time.Second, "the mirror lags", func() (bool, error) {
		st, err := s.status(east)
		return err == nil && len(st.Links) == 1 && st.Links[0].Records > 1500, err
	}); err != nil {
		return err
	}
	if _, err := s.cli(east, "status"); err != nil {
		return err
	}
	s.fleet.Isolate(west)
	cut := time.Now()
	s.say("%s is cut off from %s and the witness: raft and stores, both ways", west, east)
	if err := s.waitFor(60*time.Second, "events go to "+east, func() (bool, error) {
		t := s.gen.tally()
		return len(t.Moves) == 2 && t.Moves[1].firstSeen, nil
	}); err != nil {
		return err
	}
	s.say("%s is active", east)
	since := cut.UnixNano()
	if err := s.waitFor(30*time.Second, "an event is queryable in "+east, func() (bool, error) {
		n, err := s.rows(east, fmt.Sprintf("via = '%s' AND received > fromUnixTimestamp64Nano(%d)", east, since))
		return n > 0, err
	}); err != nil {
		return err
	}
	s.out.Unplanned.RTOMs = time.Since(cut).Milliseconds()
	s.say("the first event since the cut is queryable in %s, %.1f s after the cut", east, float64(s.out.Unplanned.RTOMs)/1000)
	plan, err := s.lastPlan(east, consensus.Unplanned)
	if err != nil {
		return err
	}
	s.out.Unplanned.Bound = [2]int64{plan.Plan.Bound.Min, plan.Plan.Bound.Max}
	if _, err := s.cli(east, "failover", "status"); err != nil {
		return err
	}
	if err := s.pass(2 * time.Second); err != nil {
		return err
	}
	c, err := s.counted(east)
	if err != nil {
		return err
	}
	s.out.Unplanned.Lost = c.Lost
	b := s.out.Unplanned.Bound
	s.claim(c.Lost > 0 && c.Lost >= b[0] && c.Lost <= b[1], "%d acknowledged events are missing in %s; the plan said %d to %d", c.Lost, east, b[0], b[1])
	s.claim(s.gen.tally().TwoUp == 0, "the balancer never saw two active regions")
	return nil
}

func (s *story) lastPlan(region string, kind consensus.PlanKind) (httpapi.Plan, error) {
	plans, err := s.client(region).Plans(s.ctx)
	if err != nil {
		return httpapi.Plan{}, err
	}
	for _, p := range plans {
		if p.Plan.Kind == kind {
			return p, nil
		}
	}
	return httpapi.Plan{}, fmt.Errorf("no %s plan", kind)
}

func (s *story) actE() error {
	act("g", west+" returns")
	p, err := s.fleet.Links.Proxy(east, west, s.fleet.Regions[west].Kafka.Bootstrap())
	if err != nil {
		return err
	}
	p.SetRate(stack.Down, 0)
	s.fleet.Rejoin(west)
	back := time.Now()
	s.say("the line is whole again; %s has records that %s never saw", west, east)
	link := consensus.LinkOf(east, west)
	if err := s.waitFor(60*time.Second, west+" follows "+east, func() (bool, error) {
		st, err := s.status(east)
		for _, l := range st.Links {
			if l.ID == link && l.Phase == consensus.LinkRunning && l.Running && len(l.Frozen) == 0 && l.Partition == partitions && l.Records < 500 {
				return true, err
			}
		}
		return false, errors.Join(err, fmt.Errorf("links: %+v", st.Links))
	}); err != nil {
		return err
	}
	s.out.Unplanned.ReturnMs = time.Since(back).Milliseconds()
	s.say("%s is the standby again, %.1f s after it returned; nothing was mirrored anew", west, float64(s.out.Unplanned.ReturnMs)/1000)
	s.claim(!s.active(west), "%s starts nothing by itself", west)
	if _, err := s.cli(east, "mirror", "status"); err != nil {
		return err
	}
	if _, err := s.cli(east, "mirror", "orphans", "list"); err != nil {
		return err
	}
	r, err := s.client(east).MirrorOrphans(s.ctx)
	if err != nil {
		return err
	}
	if len(r.Salvages) != 1 {
		return fmt.Errorf("%d salvages, want the one of %s", len(r.Salvages), west)
	}
	file := filepath.Join(s.dir, "orphans.jsonl")
	if _, err := s.cli(east, "mirror", "orphans", "export", string(r.Salvages[0].ID), "--region", west, "--out", file); err != nil {
		return err
	}
	if s.orphans, err = exported(file); err != nil {
		return err
	}
	s.out.Unplanned.Orphans = int64(len(s.orphans))
	s.claim(s.out.Unplanned.Orphans == s.out.Unplanned.Lost, "%d orphans were salvaged: exactly what is missing in %s", s.out.Unplanned.Orphans, east)
	return nil
}

// actF moves everything back, as a planned switch like any other.
func (s *story) actF() error {
	act("h", "A planned failback to "+west)
	p, err := s.client(west).PlanFailover(s.ctx, failover.Intent{To: west})
	if err != nil {
		return err
	}
	if _, err := s.cli(west, "failover", "run", "--plan", p.Candidate.Plan.Hash, "--yes"); err != nil {
		return err
	}
	if err := s.waitFor(20*time.Second, "events go to "+west, func() (bool, error) {
		t := s.gen.tally()
		return len(t.Moves) == 3 && t.Moves[2].firstSeen, nil
	}); err != nil {
		return err
	}
	m := s.gen.tally().Moves[2]
	s.out.Failback.PauseMs = m.FirstAck.Sub(m.LastAck).Milliseconds()
	if err := s.pass(2 * time.Second); err != nil {
		return err
	}
	c, err := s.counted(west)
	if err != nil {
		return err
	}
	s.out.Failback.Lost, s.out.Failback.Duplicated = c.Lost, c.Duplicated
	s.claim(c.Lost == 0 && c.Duplicated == 0, "%d of %d acknowledged events are missing in %s, its orphans among them; %d are there twice", c.Lost, c.Acked, west, c.Duplicated)
	s.claim(s.gen.tally().TwoUp == 0, "the balancer never saw two active regions")
	return nil
}

func (s *story) end() error {
	s.genStop()
	if err := <-s.genDone; err != nil {
		return err
	}
	s.genDone <- nil
	s.genStop = nil
	t := s.gen.tally()
	j, err := s.effects()
	if err != nil {
		return err
	}
	act("i", "What was measured")
	s.out.OverlapMs = j.overlap().Milliseconds()
	s.out.Events, s.out.Seconds = t.Acked, int64(time.Since(s.began).Seconds())
	s.genDone = make(chan error) // nobody ends any more
	if err := s.compareAtEnd(); err != nil {
		return err
	}
	c, err := s.counted(east)
	if err != nil {
		return err
	}
	s.claim(c.Lost == s.out.Unplanned.Lost && c.Duplicated == 0, "%s at the end: %d of %d acknowledged events missing, all of them orphans of %s; %d twice", east, c.Lost, c.Acked, west, c.Duplicated)
	if c, err = s.counted(west); err != nil {
		return err
	}
	s.claim(c.Lost == 0 && c.Duplicated == 0, "%s at the end: %d of %d acknowledged events missing; %d twice", west, c.Lost, c.Acked, c.Duplicated)
	s.claim(s.out.OverlapMs == 0, "effects of two regions overlapped for %d ms", s.out.OverlapMs)
	s.claim(t.Refused == 0, "%d events refused by the generator's buffer", t.Refused)
	o := s.out
	fmt.Printf(`
          planned switch     %d ms pause        %d lost, %d duplicated
          daemon killed      %d ms down       %d events refused
          region lost        %.1f s to the first queryable event
                             %d lost (stated before: %d to %d), %d of them salvaged when it returned
          region returned    %.1f s until it followed again, without mirroring anew
          planned failback   %d ms pause        %d lost, %d duplicated
          set of the lost    proven by a drill: %d rows equal, restored in %.1f s; every corruption on purpose was caught
          two active         never: %d ms of overlap in %d side effects
          events             %d acknowledged, %d with unknown outcome, in %d s

`, o.Planned.PauseMs, o.Planned.Lost, o.Planned.Duplicated, o.DaemonRestart.DownMs, o.DaemonRestart.Refused,
		float64(o.Unplanned.RTOMs)/1000, o.Unplanned.Lost, o.Unplanned.Bound[0], o.Unplanned.Bound[1], o.Unplanned.Orphans,
		float64(o.Unplanned.ReturnMs)/1000, o.Failback.PauseMs, o.Failback.Lost, o.Failback.Duplicated,
		o.Drill.Rows, float64(o.Drill.RTOMs)/1000,
		o.OverlapMs, j.lines, t.Acked, t.Unknown, o.Seconds)
	return nil
}

// compareAtEnd finds every acknowledged event with plain consumers, once the
// standby has the last of them.
func (s *story) compareAtEnd() error {
	var at places
	err := s.waitFor(20*time.Second, "both regions hold the last event", func() (bool, error) {
		var logs [2]map[spot]string
		for i, r := range []string{east, west} {
			var err error
			if logs[i], err = recordsOf(s.ctx, s.fleet.Regions[r].Kafka.Bootstrap()); err != nil {
				return false, err
			}
		}
		var err error
		at, err = placesOf(s.ledger(), logs[0], logs[1], s.orphans)
		return at.Nowhere == 0, err
	})
	f := &s.out.Failback
	f.Both, f.Salvaged, f.Nowhere, f.Renumbered = at.Both, at.Salvaged, at.Nowhere, at.Renamed
	s.claim(err == nil && at.Salvaged == s.out.Unplanned.Orphans && at.Renamed == 0,
		"by plain consumers: %d events in both regions at the same offset, %d in the salvage, %d nowhere; %d offsets name two events", at.Both, at.Salvaged, at.Nowhere, at.Renamed)
	return nil
}

// journal is what the effects consumers left behind.
type journal struct {
	lines  int
	last   effect
	spans  map[string]*span // by region and epoch
	moment []int64
}

type span struct {
	region      string
	first, last int64
}

func (s *story) effects() (journal, error) {
	j := journal{spans: map[string]*span{}}
	f, err := os.Open(s.journal())
	if errors.Is(err, os.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return j, err
	}
	defer func() { _ = f.Close() }() // only read from
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return j, nil // what has no end yet is being written
		}
		if err != nil {
			return j, err
		}
		var e effect
		if err := json.Unmarshal(line, &e); err != nil {
			return j, fmt.Errorf("journal: %w", err)
		}
		j.lines++
		j.last = e
		j.moment = append(j.moment, e.At)
		key := e.Region + "/" + e.Epoch
		sp := j.spans[key]
		if sp == nil {
			sp = &span{region: e.Region, first: e.At}
			j.spans[key] = sp
		}
		sp.last = max(sp.last, e.At)
	}
}

// overlap is the longest time in which effects of two regions interleaved.
func (j journal) overlap() time.Duration {
	longest := int64(0)
	for _, a := range j.spans {
		for _, b := range j.spans {
			if a.region != b.region {
				longest = max(longest, min(a.last, b.last)-max(a.first, b.first))
			}
		}
	}
	return time.Duration(longest)
}

func (j journal) longestGap(from, to time.Time) time.Duration {
	last, longest := from.UnixNano(), int64(0)
	for _, at := range j.moment {
		if at < from.UnixNano() {
			continue
		}
		longest = max(longest, at-last)
		last = max(last, at)
	}
	return time.Duration(max(longest, to.UnixNano()-last))
}
