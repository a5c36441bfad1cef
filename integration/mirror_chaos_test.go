//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// chaosMirror tells a process of this test binary to be a mirror.
const chaosMirror = "HOLDFAST_CHAOS_MIRROR"

type chaosConfig struct {
	Source, Target, Leases string
	Topics                 []string
	Epoch                  uint64
}

// TestMirrorProcess is a mirror in a process of its own, so that kill -9 and
// SIGSTOP are what they are in production. On its own it does nothing.
func TestMirrorProcess(t *testing.T) {
	var c chaosConfig
	if os.Getenv(chaosMirror) == "" {
		return
	}
	if err := json.Unmarshal([]byte(os.Getenv(chaosMirror)), &c); err != nil {
		t.Fatal(err)
	}
	open := func(name, at string) *kafka.Client {
		cl, err := kafka.Open(kafka.Config{Name: name, Brokers: []string{at}, RequestTimeout: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	m, err := mirror.New(mirror.Config{
		Link: replicate.Link{Source: "a", Target: "b", Epoch: c.Epoch}, Source: open("a", c.Source), Target: open("b", c.Target),
		Topics: replicate.Only(c.Topics...), RequestTimeout: 2 * time.Second, TopicsEvery: 500 * time.Millisecond, ConfigsEvery: 5 * time.Second,
		Leases: httpTurns{c.Leases}, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// httpTurns asks the test for generations.
type httpTurns struct{ url string }

func (h httpTurns) ask(ctx context.Context, what string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+what, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var said string
	_, err = fmt.Fscanln(resp.Body, &said)
	return said, err
}

func (h httpTurns) Take(ctx context.Context, above replicate.Generation) (replicate.Generation, bool, error) {
	said, err := h.ask(ctx, fmt.Sprintf("/take/%d", above))
	if err != nil {
		return 0, false, err
	}
	number, settled, _ := strings.Cut(said, ",")
	g, err := strconv.ParseInt(number, 10, 32)
	return replicate.Generation(g), settled == "true", err
}

func (h httpTurns) Settle(ctx context.Context, g replicate.Generation) error {
	_, err := h.ask(ctx, fmt.Sprintf("/settle/%d", g))
	return err
}

func (h httpTurns) Held(g replicate.Generation) bool {
	said, err := h.ask(context.Background(), fmt.Sprintf("/held/%d", g))
	return err == nil && said == "true"
}

// serveTurns hands out generations to processes.
func serveTurns(t *testing.T) string {
	held := &turns{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what, number, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		n, err := strconv.ParseInt(number, 10, 32)
		g := replicate.Generation(n)
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		case what == "take":
			got, settled, _ := held.Take(r.Context(), g)
			fmt.Fprintf(w, "%d,%t\n", got, settled)
		case what == "settle":
			fmt.Fprintln(w, held.Settle(r.Context(), g) == nil)
		default:
			fmt.Fprintln(w, held.Held(g))
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// chaosResult is the last line of a run.
type chaosResult struct {
	Schedules   int    `json:"schedules"`
	Real        int    `json:"real"`
	Records     int    `json:"records"`
	Lost        int    `json:"lost"`
	Duplicated  int    `json:"duplicated"`
	Reordered   int    `json:"reordered"`
	Renumbered  int    `json:"renumbered"`
	Kills       int    `json:"kills"`
	Stops       int    `json:"stops"`
	Cuts        int    `json:"cuts"`
	BrokerKills int    `json:"broker_kills"`
	Seed        uint64 `json:"seed"`
}

func chaosNumber(t *testing.T, name string, or int) int {
	if os.Getenv(name) == "" {
		return or
	}
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// A schedule is one topic under one random history of kills, stops and cuts;
// several topics share the mirrors and what happens to them. HOLDFAST_REAL says
// how many, HOLDFAST_SEED repeats a run.
func TestChaos_MirrorsKeepOffsetsThroughKillsAndCuts(t *testing.T) {
	schedules := chaosNumber(t, "HOLDFAST_REAL", 4)
	seed := uint64(chaosNumber(t, "HOLDFAST_SEED", int(time.Now().Unix())))
	r := rand.New(rand.NewPCG(seed, 5))
	t.Logf("repeat with HOLDFAST_SEED=%d", seed)
	links := stack.NewLinks()
	t.Cleanup(links.Close)
	p := &mirrorPair{t: t}
	var both sync.WaitGroup
	for _, side := range []struct {
		name string
		into **stack.Kafka
	}{{"a", &p.a}, {"b", &p.b}} {
		both.Go(func() {
			*side.into = stack.RunKafka(t, stack.KafkaOptions{Name: "chaos-" + side.name, Links: links, Place: side.name, From: []string{"mirror"}})
		})
	}
	both.Wait()
	if t.Failed() || t.Skipped() || p.a == nil || p.b == nil {
		t.FailNow()
	}
	p.ca, p.cb = p.client(p.a), p.client(p.b)
	got := chaosResult{Seed: seed, Schedules: chaosNumber(t, "HOLDFAST_SCHEDULES", 0)}
	for batch := 0; got.Real < schedules && !t.Failed(); batch++ {
		p.chaos(r, links, batch, min(5, schedules-got.Real), &got)
	}
	line, _ := json.Marshal(got)
	fmt.Println(string(line))
	if got.Lost+got.Duplicated+got.Reordered+got.Renumbered > 0 || got.Records == 0 {
		t.Errorf("the target is not the source: %s", line)
	}
}

// chaos runs one history over n topics.
func (p *mirrorPair) chaos(r *rand.Rand, links *stack.Links, batch, n int, got *chaosResult) {
	c := chaosConfig{Source: p.a.BootstrapFrom("mirror"), Target: p.b.BootstrapFrom("mirror"), Leases: serveTurns(p.t), Epoch: 1}
	for i := range n {
		c.Topics = append(c.Topics, fmt.Sprintf("chaos-%d-%d", batch, i))
		p.topic(p.ca, c.Topics[i], 1, nil)
		p.topic(p.cb, c.Topics[i], 1, map[string]string{"message.timestamp.type": "CreateTime"})
	}
	procs := make([]*exec.Cmd, 2+r.IntN(3))
	kill := func(i int) {
		if procs[i] != nil {
			_ = procs[i].Process.Kill() // also while it is stopped
			_ = procs[i].Wait()
		}
		procs[i] = nil
	}
	start := func(i int) {
		said, _ := json.Marshal(c)
		cmd := exec.Command(os.Args[0], "-test.run=^TestMirrorProcess$", "-test.timeout=10m")
		cmd.Env = append(os.Environ(), chaosMirror+"="+string(said))
		if os.Getenv("HOLDFAST_TEST_LOG") != "" {
			cmd.Stderr = os.Stderr
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			p.t.Fatal(err)
		}
		procs[i] = cmd
	}
	for i := range procs {
		start(i)
	}
	defer func() {
		for i := range procs {
			kill(i)
		}
	}()
	ctx, stop := context.WithCancel(p.t.Context())
	defer stop()
	var writers sync.WaitGroup
	writers.Go(func() { p.chaosWrites(ctx, batch, c.Topics, rand.New(rand.NewPCG(got.Seed, uint64(batch)))) })
	for range 6 + r.IntN(5) {
		time.Sleep(time.Duration(50+r.IntN(350)) * time.Millisecond)
		i := r.IntN(len(procs))
		switch what := r.IntN(20); {
		case what < 8:
			got.Kills++
			kill(i)
			start(i)
		case what < 13:
			got.Stops++
			_ = procs[i].Process.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(200+r.IntN(2600)) * time.Millisecond) // at times longer than a request lives
			_ = procs[i].Process.Signal(syscall.SIGCONT)
		case what < 17:
			got.Cuts++
			side := []string{"a", "b"}[r.IntN(2)]
			links.CutBoth("mirror", side)
			time.Sleep(time.Duration(100+r.IntN(700)) * time.Millisecond)
			links.HealBoth("mirror", side)
		case what < 19:
			got.Cuts++
			links.SetDelay("mirror", "b", time.Duration(r.IntN(80))*time.Millisecond, 30*time.Millisecond)
		default:
			got.BrokerKills++
			if err := p.b.Kill(); err != nil {
				p.t.Fatal(err)
			}
			if err := p.b.Restart(ctx); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	stop()
	writers.Wait()
	links.SetDelay("mirror", "b", 0, 0)
	for _, topic := range c.Topics {
		p.chaosCompare(topic, got)
	}
	got.Real += n
}

// chaosWrites writes small transactions, every third aborted, until ctx ends.
func (p *mirrorPair) chaosWrites(ctx context.Context, batch int, topics []string, r *rand.Rand) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.a.Bootstrap()), kgo.TransactionalID(fmt.Sprintf("chaos-%d", batch)), kgo.ProducerLinger(0))
	if err != nil {
		p.t.Error(err)
		return
	}
	defer cl.Close()
	for i := 0; ctx.Err() == nil; i++ {
		if err := cl.BeginTransaction(); err != nil {
			p.t.Error(err)
			return
		}
		for _, topic := range topics {
			for j := range r.IntN(4) {
				cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d-%d", i, j)}, nil)
			}
		}
		end := context.WithoutCancel(ctx)
		if err := cl.Flush(end); err != nil {
			p.t.Error(err)
		}
		if err := cl.EndTransaction(end, kgo.TransactionEndTry(i%3 != 2)); err != nil {
			p.t.Errorf("end a transaction at the source: %v", err)
			return
		}
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
	}
}

// chaosCompare waits for one topic and counts what a plain consumer sees.
func (p *mirrorPair) chaosCompare(topic string, got *chaosResult) {
	p.caughtUp(nil, topic)
	read := func(k *stack.Kafka) *plainLog {
		logs, err := readPlain(p.t.Context(), p.seeds(k), topic, committed)
		if err != nil {
			p.t.Fatal(err)
		}
		return logs[0]
	}
	source, target := read(p.a), read(p.b)
	if d := source.differences(target); len(d) > 0 {
		p.t.Errorf("%s differs at %d places: %q", topic, len(d), firstFew(d))
	}
	at, seen, last := map[string]int64{}, map[string]int{}, int64(-1)
	for _, r := range source.records {
		at[string(r.Value)] = r.Offset
	}
	for _, r := range target.records {
		v := string(r.Value)
		if seen[v]++; seen[v] > 1 {
			got.Duplicated++
		}
		was, ok := at[v]
		if !ok || was != r.Offset {
			got.Renumbered++
		}
		if was < last {
			got.Reordered++
		}
		last = max(last, was)
	}
	for v := range at {
		if seen[v] == 0 {
			got.Lost++
		}
	}
	got.Records += len(source.records)
}
