//go:build integration

package stack

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestStart_PortInUseIsNamed(t *testing.T) {
	Need(t, NeedClickHouse)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	_, err = StartClickHouse(t.Context(), ClickHouseOptions{Port: port})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d is in use", port)) {
		t.Fatalf("got %v", err)
	}
}

func TestStart_AServerThatEndsSaysItsLastWords(t *testing.T) {
	Need(t, NeedKafka)
	_, err := StartKafka(t.Context(), KafkaOptions{Properties: map[string]string{"log.cleaner.threads": "100000000000"}})
	if err == nil || !strings.Contains(err.Error(), "log.cleaner.threads") {
		t.Fatalf("got %v", err)
	}
}

// One broker serves the stories of a pause, a further listener and a cut.
func TestKafka_LivesThroughPausesAndCuts(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	defer ReleasePort(port)
	far, err := NewProxy(loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	links := NewLinks()
	defer links.Close()
	k := RunKafka(t, KafkaOptions{
		Listeners: []Listener{{Name: "FAR", Port: port, Advertise: far.Address()}},
		Links:     links, Place: "us-east", From: []string{"eu-west", "witness"},
	})

	// later produces in the background and answers when all is acknowledged.
	later := func(t *testing.T, c *kgo.Client, topic string, from, to int) <-chan error {
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var records []*kgo.Record
			for i := from; i < to; i++ {
				records = append(records, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", i)})
			}
			done <- c.ProduceSync(ctx, records...).FirstErr()
		}()
		return done
	}
	stillOpen := func(t *testing.T, done <-chan error) {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("produce ended with %v, want it to hang", err)
		case <-time.After(700 * time.Millisecond):
		}
	}

	t.Run("a pause delays and loses nothing", func(t *testing.T) {
		c := kafkaClient(t, k)
		createTopic(t, c, "paused")
		produce(t, c, "paused", 0, 100)
		if err := k.Pause(); err != nil {
			t.Fatal(err)
		}
		done := later(t, c, "paused", 100, 200)
		stillOpen(t, done)
		if err := k.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		consume(t, k, "paused", 200)
	})

	t.Run("a further listener leads clients through the proxy it advertises", func(t *testing.T) {
		c := kafkaClient(t, k, kgo.SeedBrokers(far.Address()))
		createTopic(t, c, "far")
		before, _ := far.Moved()
		produce(t, c, "far", 0, 1000)
		if after, _ := far.Moved(); after-before < 1000 {
			t.Fatalf("only %d bytes went through the proxy", after-before)
		}
		consume(t, k, "far", 1000)
	})

	t.Run("a cut delays and loses nothing that is acknowledged", func(t *testing.T) {
		local := kafkaClient(t, k, kgo.Dialer(links.Dial("us-east")))
		remote := kafkaClient(t, k, kgo.Dialer(links.Dial("eu-west")), kgo.RetryTimeout(30*time.Second))
		plain := kafkaClient(t, k, kgo.SeedBrokers(k.BootstrapFrom("eu-west"))) // knows no links
		witness := kafkaClient(t, k, kgo.SeedBrokers(k.BootstrapFrom("witness")))
		createTopic(t, local, "cut")
		createTopic(t, plain, "plain")
		produce(t, remote, "cut", 0, 100)
		links.CutBoth("us-east", "eu-west")
		done := later(t, remote, "cut", 100, 200)
		donePlain := later(t, plain, "plain", 0, 100)
		stillOpen(t, done)
		stillOpen(t, donePlain)
		if err := witness.Ping(t.Context()); err != nil {
			t.Fatalf("the witness is cut off too: %v", err)
		}
		links.HealBoth("us-east", "eu-west")
		for _, d := range []<-chan error{done, donePlain} {
			if err := <-d; err != nil {
				t.Fatal(err)
			}
		}
		produce(t, local, "cut", 200, 201)
		consume(t, k, "cut", 201)
		consume(t, k, "plain", 100)
	})
}

func TestClickHouse_PauseHangsAndResumeAnswers(t *testing.T) {
	c := RunClickHouse(t, ClickHouseOptions{Password: `p<w>&"d`})
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := c.Exec(ctx, "SELECT 1"); err == nil || ctx.Err() == nil {
		t.Fatalf("answered %v while paused", err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	var one uint8
	if err := clickhouseConn(t, c).QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil || one != 1 {
		t.Fatal(one, err)
	}
}

func TestClose_EndsAPausedServerAndRemovesItsFolder(t *testing.T) {
	c := RunClickHouse(t, ClickHouseOptions{})
	pid := c.PID()
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := procState(pid); err == nil {
		t.Fatalf("process %d is still there", pid)
	}
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Fatalf("folder %s is still there: %v", c.Dir(), err)
	}
	if err := c.Restart(t.Context()); err == nil {
		t.Fatal("a closed service was started again")
	}
}

// The program of "make stack" is killed without warning while one of its
// brokers is paused; no process of it may remain.
func TestUp_NothingSurvivesItsKill(t *testing.T) {
	Need(t, NeedKafka, NeedClickHouse)
	u := startUp(t, "-regions", "us-east")
	all := descendants(t, u.cmd.Process.Pid)
	var java int
	for _, pid := range all {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(name)) == "java" {
			java = pid
		}
	}
	if len(all) != 4 || java == 0 { // two services and their launchers
		t.Fatalf("found %d processes (a JVM: %d), want 4", len(all), java)
	}
	if err := syscall.Kill(java, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := u.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = u.cmd.Wait()
	allGone(t, all)
}

func TestUp_InterruptLeavesLogsOnly(t *testing.T) {
	Need(t, NeedKafka, NeedClickHouse)
	u := startUp(t)
	all := descendants(t, u.cmd.Process.Pid)
	endpoints, err := os.ReadFile(filepath.Join(u.dir, "endpoints.yaml"))
	if err != nil || !strings.Contains(string(endpoints), "us-east:") {
		t.Fatalf("endpoints: %v\n%s", err, endpoints)
	}
	if err := u.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := u.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	allGone(t, all)
	left, err := filepath.Glob(filepath.Join(u.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if !slices.Equal(left, []string{"lock", "logs"}) {
		t.Fatalf("left behind %q", left)
	}
}

type running struct {
	cmd *exec.Cmd
	dir string
}

// startUp returns when all services are up.
func startUp(t *testing.T, args ...string) running {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "up")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	u := running{dir: filepath.Join(dir, "stack")}
	u.cmd = exec.Command(program, append([]string{"-dir", u.dir}, args...)...)
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.cmd.Stderr = os.Stderr
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.cmd.Process.Kill() })
	up := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "Ctrl-C") {
				close(up)
			}
		}
	}()
	select {
	case <-up:
	case <-time.After(60 * time.Second):
		t.Fatal("not up after 60 s")
	}
	return u
}

// descendants finds all processes below one, launchers included.
func descendants(t *testing.T, root int) []int {
	t.Helper()
	children := map[int][]int{}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		ppid, _ := strconv.Atoi(f[1])
		children[ppid] = append(children[ppid], pid)
	}
	var found []int
	for todo := []int{root}; len(todo) > 0; todo = todo[1:] {
		found = append(found, children[todo[0]]...)
		todo = append(todo, children[todo[0]]...)
	}
	return found
}

func allGone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		for {
			state, err := procState(pid)
			if err != nil || state == 'Z' { // a zombie waits for its new parent only
				break
			}
			if time.Now().After(deadline) {
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				t.Fatalf("process %d (%s) survived", pid, strings.ReplaceAll(string(name), "\x00", " "))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}
