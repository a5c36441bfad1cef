//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func product(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holdfast")
	if err := fleet.Build(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// host is a machine with the daemon of a fleet of one region, one voter and no
// roles, whose stores do not answer. It needs no services.
type host struct {
	*testing.T
	binary, dir  string
	peer, health string
	env          []string
}

func newHost(t *testing.T, binary string) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") // a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{T: t, binary: binary, dir: dir, peer: freeAddress(t), health: freeAddress(t), env: []string{"HF_PW=x"}}
	h.certify("certs", "lab", "us-east-1", time.Now())
	return h
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// certify makes ca.pem, node.pem and node.key in a folder.
func (h *host) certify(folder, cluster string, node topology.Node, at time.Time) {
	h.Helper()
	authority, err := certs.NewAuthority(cluster, at)
	if err != nil {
		h.Fatal(err)
	}
	cert, key, err := authority.Issue(node, nil, at)
	if err != nil {
		h.Fatal(err)
	}
	h.must(os.MkdirAll(h.path(folder), 0o700))
	for name, b := range map[string][]byte{"ca.pem": authority.CertPEM(), "node.pem": cert, "node.key": key} {
		h.must(os.WriteFile(filepath.Join(h.path(folder), name), b, 0o600))
	}
}

func (h *host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// file writes the fleet file with some of its text replaced: pairs of old and new.
func (h *host) file(replace ...string) string {
	h.Helper()
	text := strings.NewReplacer("DIR", h.dir, "PEER", h.peer, "HEALTH", h.health).Replace(`cluster: lab
nodes:
  us-east-1:
    region: us-east
    peer: PEER
    health: HEALTH
    data: DIR/data
    socket: DIR/s.sock
    tls: {ca: DIR/certs/ca.pem, cert: DIR/certs/node.pem, key: DIR/certs/node.key}
regions:
  us-east:
    kafka: {brokers: [127.0.0.1:1]}
    clickhouse: {addresses: [127.0.0.1:1], database: default, user: default, password: "env:HF_PW"}
timing:
  lease: {ttl: 5s, renew: 500ms, attempt_timeout: 500ms, margin: 1500ms}
  raft: {heartbeat: 300ms, election: 300ms, leader_lease: 200ms}
`)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			h.Fatalf("the fleet file has no %q", replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	f, err := os.CreateTemp(h.dir, "*.yaml")
	h.must(err)
	_, err = f.WriteString(text)
	h.must(errors.Join(err, f.Close()))
	return f.Name()
}

// run is the command line as an operator uses it.
func (h *host) run(args ...string) (code int, stdout, stderr string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.binary, args...)
	cmd.Env = append(os.Environ(), h.env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func (h *host) serve(file string) (code int, stdout, stderr string) {
	h.Helper()
	return h.run("serve", "--config", file, "--node", "us-east-1")
}

// daemon is a daemon that runs in the background.
type daemon struct {
	*host
	cmd  *exec.Cmd
	log  string
	done chan error
}

func (h *host) start(file string) *daemon {
	h.Helper()
	log, err := os.CreateTemp(h.dir, "*.log")
	h.must(err)
	defer func() { _ = log.Close() }() // the child has its own
	cmd := exec.Command(h.binary, "serve", "--config", file, "--node", "us-east-1")
	cmd.Env = append(os.Environ(), h.env...)
	cmd.Stdout, cmd.Stderr = log, log
	h.must(fleet.StartTied(cmd))
	d := &daemon{host: h, cmd: cmd, log: log.Name(), done: make(chan error, 1)}
	go func() { d.done <- cmd.Wait() }()
	h.Cleanup(func() { _ = cmd.Process.Kill() })
	return d
}

// ready waits until /readyz holds every line in want.
func (d *daemon) ready(want ...string) {
	d.Helper()
	await(d.T, 15*time.Second, func() error { return holds(read(d.Context(), d.health, "/readyz").text, want...) })
}

// stop is SIGTERM; it returns how long the daemon took.
func (d *daemon) stop() time.Duration {
	d.Helper()
	start := time.Now()
	d.must(d.cmd.Process.Signal(syscall.SIGTERM))
	if err := d.end(10 * time.Second); err != nil {
		d.Fatalf("SIGTERM: %v\n%s", err, d.said())
	}
	return time.Since(start)
}

func (d *daemon) end(within time.Duration) error {
	select {
	case err := <-d.done:
		return err
	case <-time.After(within):
		return fmt.Errorf("it did not end within %s", within)
	}
}

func (d *daemon) said() string {
	b, err := os.ReadFile(d.log)
	d.must(err)
	return string(b)
}

// answer is what a health listener says.
type answer struct {
	code   int // 0: no answer
	text   string
	header http.Header
}

var asker = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func read(ctx context.Context, address, path string) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return answer{text: err.Error()}
	}
	resp, err := asker.Do(req)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return answer{text: err.Error()}
	}
	return answer{resp.StatusCode, string(b), resp.Header}
}

func holds(text string, want ...string) error {
	for _, w := range want {
		if !strings.Contains(text, w) {
			return fmt.Errorf("%q is not in:\n%s", w, text)
		}
	}
	return nil
}

func await(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// oneClearError is what a person at three in the morning needs: one error,
// short, on stderr, that holds every word in want, and no trace of our insides.
func oneClearError(t *testing.T, code int, stdout, stderr string, want ...string) {
	t.Helper()
	if code != 1 {
		t.Errorf("exit code %d, want 1 (failed)", code)
	}
	if stdout != "" {
		t.Errorf("an error on stdout: %s", stdout)
	}
	var said []string
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "time=") {
			said = append(said, line)
		}
	}
	text := strings.Join(said, "")
	if strings.Count(text, "holdfast: ") != 1 || len(said) > 4 || len(text) > 600 {
		t.Errorf("not one short error, but %d lines, %d bytes:\n%s", len(said), len(text), text)
	}
	for _, inside := range []string{"panic", "goroutine", "0x", "%!", "<nil>"} {
		if strings.Contains(text, inside) {
			t.Errorf("shows our insides (%s):\n%s", inside, text)
		}
	}
	if err := holds(text, want...); err != nil {
		t.Error(err)
	}
}

// print sums up a folder: names, sizes, contents.
func (h *host) print(folder string) string {
	h.Helper()
	sum := sha256.New()
	h.must(filepath.WalkDir(h.path(folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(b), b)
		return err
	}))
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// What is wrong before a daemon serves ends it with one error, and leaves what
// it keeps on disk as it was.
func TestServe_RefusesABadStartWithOneErrorAndTouchesNothing(t *testing.T) {
	h := newHost(t, product(t))
	first := h.start(h.file())
	first.ready("[+] raft", "[+] session")
	first.stop()
	kept := h.print("data")

	h.certify("expired", "lab", "us-east-1", time.Now().Add(-3*365*24*time.Hour))
	h.certify("stranger", "other", "us-east-1", time.Now())
	h.certify("neighbour", "lab", "eu-west-1", time.Now())
	h.certify("open", "lab", "us-east-1", time.Now())
	h.certify("mixed", "lab", "us-east-1", time.Now())
	h.must(os.Chmod(h.path("open/node.key"), 0o644))
	other, err := os.ReadFile(h.path("certs/node.key"))
	h.must(err)
	h.must(os.WriteFile(h.path("mixed/node.key"), other, 0o600))
	h.must(os.WriteFile(h.path("plain"), nil, 0o600))
	h.must(os.WriteFile(h.path("empty.pw"), []byte("\n"), 0o600))

	refused := func(name, file string, want ...string) {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.T = t
			code, out, errOut := h.serve(file)
			t.Log(strings.TrimSpace(errOut))
			oneClearError(t, code, out, errOut, want...)
			if h.print("data") != kept {
				t.Error("the data folder was touched")
			}
		})
	}
	refused("no fleet file", h.path("none.yaml"), "none.yaml", "no such file", "--config")
	refused("an empty fleet file", h.path("plain"), "is empty", "start from")
	refused("an unknown key", h.file("brokers:", "broker:"), ":12:", "regions.us-east.kafka.broker", "unknown key", "did you mean brokers?")
	refused("a second node for a region", h.file("regions:\n", "  us-east-2: {region: us-east, peer: 127.0.0.1:2}\nregions:\n"), "second node for region us-east; the first is us-east-1", "try: remove one, or make it a witness")
	refused("a node that the file does not have", h.file("us-east-1:", "us-east-9:"), `"us-east-1"`, "us-east-9", "--node")
	refused("a lease shorter than an election", h.file("heartbeat: 300ms, election: 300ms", "heartbeat: 3s, election: 3s"), "timing.", "why:", "try:")
	refused("a literal secret", h.file(`"env:HF_PW"`, "hunter2"), "clickhouse.password", "file:")
	refused("a secret's file that is missing", h.file("env:HF_PW", "file:"+h.path("none.pw")), "regions.us-east.clickhouse.password", h.path("none.pw"), "no such file", "must be able to read it")
	refused("a secret's file that is empty", h.file("env:HF_PW", "file:"+h.path("empty.pw")), "regions.us-east.clickhouse.password", "is empty")
	refused("a secret's variable that is not set", h.file("env:HF_PW", "env:HF_NOT_SET"), "regions.us-east.clickhouse.password", "env:HF_NOT_SET", "not set or empty", "EnvironmentFile")
	refused("a certificate that is missing", h.file("certs/node.pem", "certs/none.pem"), "certs/none.pem", "no such file", "certs init")
	refused("an expired certificate", h.file("/certs/", "/expired/"), "expired/node.pem", "expired", "days ago", "certs init")
	refused("a certificate of another cluster", h.file("/certs/", "/stranger/"), "stranger/node.pem", "another cluster", "other")
	refused("a certificate of another node", h.file("/certs/", "/neighbour/"), "neighbour/node.pem", "eu-west-1", "us-east-1")
	refused("a certificate of another CA", h.file("certs/ca.pem", "open/ca.pem"), "certs/node.pem", "open/ca.pem")
	refused("a key that everybody may read", h.file("/certs/", "/open/"), "open/node.key", "0644", "chmod 600")
	refused("a key of another certificate", h.file("certs/node.key", "mixed/node.key", "certs/node.pem", "mixed/node.pem"), "mixed/node.key", "not a pair")
	refused("a data folder that is a file", h.file("/data\n", "/plain\n"), h.path("plain"), "not a directory")

	busy, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	defer func() { _ = busy.Close() }()
	refused("a peer port in use", h.file("peer: "+h.peer, "peer: "+busy.Addr().String()), busy.Addr().String(), "address already in use", "nodes.us-east-1.listen")
	refused("a health port in use", h.file("health: "+h.health, "health: "+busy.Addr().String()), busy.Addr().String(), "address already in use", "nodes.us-east-1.health")
	refused("a socket in a folder that is missing", h.file("/s.sock", "/run/s.sock"), h.path("run/s.sock"), "does not exist", "create it")
	refused("a file in the socket's place", h.file("/s.sock", "/plain"), h.path("plain"), "no socket", "move it away")

	again := h.start(h.file())
	again.ready("[+] raft", "[+] session")
	again.stop()
}

// A store that is down makes its own part unready, not the daemon. The fleet
// is the smallest that is valid: one region, one voter, no roles.
func TestServe_StoresThatAreDownLeaveTheRestAtWork(t *testing.T) {
	h := newHost(t, product(t))
	h.certify("certs", "lab", "us-east-1", time.Now().Add(-355*24*time.Hour)) // they are good for a year
	file := h.file()
	socket := []string{"--socket", h.path("s.sock")}

	code, out, errOut := h.run(append(socket, "status")...)
	oneClearError(t, code, out, errOut, "no daemon answers on socket "+h.path("s.sock"), "systemctl status holdfast")

	d := h.start(file)
	d.ready("[+] raft: leader us-east-1", "[+] session", "[-] kafka: reach kafka us-east at [127.0.0.1:1]", "connection refused", "[-] clickhouse: reach clickhouse us-east at [127.0.0.1:1]", "not ready")
	if a := read(t.Context(), h.health, "/readyz"); a.code != 503 {
		t.Errorf("/readyz answers %d", a.code)
	}
	if a := read(t.Context(), h.health, "/livez"); a.code != 200 {
		t.Errorf("/livez answers %d: %s", a.code, a.text)
	}
	if a := read(t.Context(), h.health, "/v1/role/ingestion/active"); a.code != 404 {
		t.Errorf("a role that is not in the fleet answers %d: %s", a.code, a.text)
	}
	found := func(want []string, args ...string) {
		t.Helper()
		code, out, errOut := h.run(append(socket, args...)...)
		if code != 5 {
			t.Errorf("holdfast %s ends with %d, want 5 (findings)\n%s", strings.Join(args, " "), code, errOut)
		}
		if err := holds(out, want...); err != nil {
			t.Error(err)
		}
	}
	found([]string{"leader us-east-1, 1 of 1 member", "NOT OK", "kafka of us-east", "clickhouse of us-east", "next: holdfast check --region us-east", "certificate of us-east-1: expires in 9 days", "certs init --renew us-east-1"}, "status")
	found([]string{"NO  kafka cluster", "NO  clickhouse version", "regions.us-east.kafka", "regions.us-east.clickhouse"}, "check", "--region", "us-east")

	// A second daemon on the same machine, by mistake.
	code, out, errOut = h.serve(file)
	oneClearError(t, code, out, errOut, h.peer, "address already in use", "another daemon")
	code, out, errOut = h.serve(h.file("peer: "+h.peer, "peer: "+freeAddress(t), "health: "+h.health, "health: "+freeAddress(t), "s.sock", "t.sock"))
	oneClearError(t, code, out, errOut, h.path("data/raft"), fmt.Sprintf("in use by another daemon (pid %d)", d.cmd.Process.Pid), "stop that one first")
	d.ready("[+] raft: leader us-east-1", "[+] session")

	if took := d.stop(); took > 3*time.Second {
		t.Errorf("SIGTERM took %s", took)
	}
	for _, word := range []string{"kafka", "clickhouse"} {
		if n := strings.Count(d.said(), "store="+word+" "); n != 1 {
			t.Errorf("the log tells %d times of one outage of %s:\n%s", n, word, d.said())
		}
	}
}

// A full disk ends the daemon with the reason, and what was agreed is there
// when there is room again.
func TestServe_AFullDiskEndsTheDaemonAndLosesNothing(t *testing.T) {
	h := newHost(t, product(t))
	h.must(os.Mkdir(h.path("disk"), 0o700))
	if err := syscall.Mount("tmpfs", h.path("disk"), "tmpfs", 0, "size=80m"); err != nil {
		t.Skipf("needs a disk of its own to fill: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(h.path("disk"), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	file := h.file("/data\n", "/disk/data\n", "timing:\n", `roles:
  ingestion: {initial: us-east, lb: {interval: 100ms, fall: 2, timeout: 200ms, drain: 200ms}}
timing:
`)
	d := h.start(file)
	await(t, 15*time.Second, func() error {
		if a := read(t.Context(), h.health, "/v1/role/ingestion/active"); a.code != 200 {
			return errors.New(a.text)
		}
		return nil
	})
	epoch := read(t.Context(), h.health, "/v1/role/ingestion/active").header.Get("Holdfast-Epoch")
	fill := func() {
		b := make([]byte, 1<<20)
		f, err := os.Create(h.path("disk/other"))
		h.must(err)
		for size := len(b); size > 0; {
			if _, err := f.Write(b[:size]); err != nil {
				size /= 2
			}
		}
		h.must(f.Close())
	}
	fill()
	if err := d.end(20 * time.Second); err == nil {
		t.Error("it ended as if all was well")
	}
	oneClearError(t, d.cmd.ProcessState.ExitCode(), "", d.said(), "raft halted", "no space left on device", "make room on the disk of "+h.path("disk/data/raft"))
	code, out, errOut := h.serve(file)
	oneClearError(t, code, out, errOut, "the disk of the data folder "+h.path("disk/data/raft")+" is full: 0 MB are free", "make room there")

	h.must(os.Remove(h.path("disk/other")))
	d = h.start(file)
	await(t, 15*time.Second, func() error {
		a := read(t.Context(), h.health, "/v1/role/ingestion/active")
		if a.code != 200 || a.header.Get("Holdfast-Epoch") < epoch {
			return fmt.Errorf("epoch %s, it was %s: %s", a.header.Get("Holdfast-Epoch"), epoch, a.text)
		}
		return nil
	})
	d.stop()
}

// badFleet is a fleet on real services, whose two roles answer the loss of a
// quorum differently: ingestion is demoted, query is held.
type badFleet struct {
	*testing.T
	*fleet.Fleet
	east, west, witness *fleet.Node
	topic               string
	sent                int
}

func newBadFleet(t *testing.T, binary string) *badFleet {
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse)
	// Slower than other tests: a term must not end because a broker starts
	// beside it on a machine of two cores.
	timing := fleet.TestTiming()
	timing.TTL, timing.Heartbeat, timing.Election, timing.LeaderLease = 6*time.Second, 500*time.Millisecond, 500*time.Millisecond, 450*time.Millisecond
	f, err := fleet.Start(t.Context(), fleet.Options{
		Dir: t.TempDir(), Binary: binary, Topics: []string{"ingest-.*"}, Timing: timing,
		Roles: map[string]fleet.RoleOptions{"ingestion": {Initial: "us-east", Auto: true}, "query": {Initial: "us-east"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &badFleet{T: t, Fleet: f, east: f.Nodes["us-east-1"], west: f.Nodes["eu-west-1"], witness: f.Nodes["witness-1"], topic: "ingest-events"}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range f.Nodes {
				log, _ := os.ReadFile(n.LogPath())
				t.Logf("%s:\n%s", n.Name, log[max(0, len(log)-5000):])
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	cl := b.kafka("us-east")
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, b.topic); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *badFleet) kafka(region string) *kgo.Client {
	b.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Regions[region].Kafka.Bootstrap()))
	if err != nil {
		b.Fatal(err)
	}
	return cl
}

// send writes five records to the active region.
func (b *badFleet) send() {
	b.Helper()
	cl := b.kafka("us-east")
	defer cl.Close()
	for range 5 {
		b.sent++
		if err := cl.ProduceSync(b.Context(), &kgo.Record{Topic: b.topic, Value: fmt.Appendf(nil, "%08d", b.sent)}).FirstErr(); err != nil {
			b.Fatal(err)
		}
	}
}

// held counts what a region holds of the topic.
func (b *badFleet) held(region string) int64 {
	b.Helper()
	cl := b.kafka(region)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(b.Context(), b.topic)
	if err != nil {
		b.Fatal(err)
	}
	end, ok := ends.Lookup(b.topic, 0)
	if !ok || end.Err != nil {
		return 0 // the mirror has not made it yet
	}
	return end.Offset
}

func (b *badFleet) mirrored() {
	b.Helper()
	b.soon("all records are in eu-west", func() error {
		if n := b.held("eu-west"); n != int64(b.sent) {
			return fmt.Errorf("%d of %d", n, b.sent)
		}
		return nil
	})
}

func (b *badFleet) soon(what string, try func() error) {
	b.Helper()
	await(b.T, 25*time.Second, func() error {
		if err := try(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

func (b *badFleet) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// ready waits until /readyz of a node holds all of want.
func (b *badFleet) ready(n *fleet.Node, want ...string) {
	b.Helper()
	b.soon("/readyz of "+n.Name, func() error { return holds(read(b.Context(), n.HealthAddress(), "/readyz").text, want...) })
}

func (b *badFleet) active(n *fleet.Node, role string) answer {
	return read(b.Context(), n.HealthAddress(), "/v1/role/"+role+"/active")
}

func (b *badFleet) waitActive(n *fleet.Node, role string) answer {
	b.Helper()
	var a answer
	b.soon(role+" is active in "+n.Place, func() error {
		if a = b.active(n, role); a.code != 200 {
			return errors.New(a.text)
		}
		return nil
	})
	return a
}

// says runs the command line against a node and compares code and words.
func (b *badFleet) says(n *fleet.Node, code int, want []string, args ...string) string {
	b.Helper()
	out, errOut, err := n.CLI(b.Context(), args...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	}
	if got != code {
		b.Errorf("holdfast %s on %s ends with %d, want %d", strings.Join(args, " "), n.Name, got, code)
	}
	if err := holds(out+errOut, want...); err != nil {
		b.Errorf("holdfast %s on %s: %v", strings.Join(args, " "), n.Name, err)
	}
	b.Logf("$ holdfast %s    (on %s)\n%s%s", strings.Join(args, " "), n.Name, out, errOut)
	return out
}

// leader asks a node who leads.
func (b *badFleet) leader(n *fleet.Node) topology.Node {
	s, err := n.Client().Status(b.Context())
	if err != nil {
		return ""
	}
	return s.Leader
}

// stops is SIGTERM: the daemon is to end by itself, soon, with 0.
func (b *badFleet) stops(n *fleet.Node) {
	b.Helper()
	start := time.Now()
	b.must(n.Stop())
	if took := time.Since(start); took > 4*time.Second || n.ExitCode() != 0 {
		b.Errorf("%s took %s to stop and ended with %d", n.Name, took.Round(time.Millisecond), n.ExitCode())
	}
}

func (b *badFleet) starts(nodes ...*fleet.Node) {
	b.Helper()
	for _, n := range nodes {
		b.must(n.Start(b.Context()))
	}
	for _, n := range nodes {
		b.must(n.WaitJoined(b.Context()))
	}
}

// One fleet has one bad day after the other, in this order.
func TestFleet_BadDays(t *testing.T) {
	binary := product(t)
	all := newBadFleet(t, binary)
	day := func(name string, run func(b *badFleet)) {
		if !t.Run(name, func(t *testing.T) {
			b := *all
			b.T = t
			run(&b)
			all.sent = b.sent
		}) {
			t.FailNow() // the next day would begin on the ruins of this one
		}
	}
	east := all.Regions["us-east"]

	day("StoresThatAreDownAtStartAreTheirOwnTrouble", func(b *badFleet) {
		b.send()
		b.must(errors.Join(east.Kafka.Kill(), east.ClickHouse.Kill()))
		b.starts(b.east, b.west, b.witness)
		b.ready(b.east, "[+] raft: leader", "[+] session", "[-] kafka: reach kafka us-east", "[-] clickhouse: reach clickhouse us-east", "not ready")
		b.ready(b.west, "[+] raft: leader", "[+] session", "[+] kafka", "[+] clickhouse")
		b.ready(b.witness, "[+] raft: leader", "[+] session", "\nready\n")
		b.waitActive(b.east, "ingestion")
		b.waitActive(b.east, "query")
		b.says(b.witness, 5, []string{"NOT OK", "kafka of us-east", "clickhouse of us-east", "have not been read yet", "blocked"}, "status")
		back := make(chan error, 2)
		go func() { back <- east.Kafka.Restart(b.Context()) }()
		go func() { back <- east.ClickHouse.Restart(b.Context()) }()
		b.must(errors.Join(<-back, <-back))
		b.ready(b.east, "[+] kafka", "[+] clickhouse", "\nready\n")
		b.mirrored()
		b.ready(b.west, "\nready\n")
		log, err := os.ReadFile(b.east.LogPath())
		b.must(err)
		b.must(holds(string(log), "store does not answer", "store answers again", "after="))
		if n := strings.Count(string(log), "\n"); n > 60 {
			b.Errorf("%d lines of log for one outage:\n%s", n, log)
		}
	})

	day("SIGTERMEndsTheLeaderSoonAndNobodyNotices", func(b *badFleet) {
		b.soon("the holder does not lead", func() error {
			if l := b.leader(b.east); l == "" || l == "us-east-1" {
				return fmt.Errorf("%q leads", l)
			}
			return nil
		})
		b.ready(b.west, "\nready\n")
		was := b.leader(b.east)
		gone := make(chan string, 1)
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		go func() { // a balancer that asks all the time
			for ctx.Err() == nil {
				if a := read(ctx, b.east.HealthAddress(), "/v1/role/ingestion/active"); a.code != 200 && ctx.Err() == nil {
					gone <- a.text
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		b.stops(b.Nodes[string(was)])
		ended := time.Now()
		b.soon("another leads", func() error {
			if l := b.leader(b.east); l == "" || l == was {
				return fmt.Errorf("%q leads", l)
			}
			return nil
		})
		if took := time.Since(ended); took > 500*time.Millisecond {
			b.Errorf("%s without a leader: leadership was not handed over", took)
		}
		time.Sleep(2 * time.Second) // more than half a lease
		select {
		case why := <-gone:
			b.Errorf("the holder answered: %s", why)
		default:
		}
		b.soon("the others miss it", func() error {
			s, err := b.east.Client().Status(b.Context())
			if err == nil && s.Reachable != 2 {
				err = fmt.Errorf("%d are reachable", s.Reachable)
			}
			return err
		})
		b.says(b.east, 5, []string{"2 of 3 members", string(was) + " last reported", "systemctl status holdfast"}, "status")
		cancel()
		b.starts(b.Nodes[string(was)])
	})

	day("AnotherClusterIsNeverWrittenTo", func(b *badFleet) {
		text, err := os.ReadFile(b.Config)
		b.must(err)
		right := b.Regions["eu-west"].Kafka.ClusterID()
		b.stops(b.west)
		b.west.Config = filepath.Join(b.Dir(), "wrong.yaml")
		b.must(os.WriteFile(b.west.Config, bytes.ReplaceAll(text, []byte(right), []byte("somebodyElses")), 0o600))
		before := b.held("eu-west")
		b.starts(b.west)
		b.send()
		b.ready(b.west, "[+] raft: leader", "[+] session", "[-] kafka: kafka eu-west is cluster "+right+", want somebodyElses", "[-] mirror us-east>eu-west", "[+] clickhouse")
		b.says(b.west, 5, []string{"NO  kafka cluster", "another kafka cluster answers", "cluster_id of regions.eu-west.kafka"}, "check", "--region", "eu-west")
		b.says(b.witness, 5, []string{"kafka of eu-west", "want somebodyElses", "mirror us-east>eu-west"}, "status")
		if now := b.held("eu-west"); now != before {
			b.Errorf("%d records were written to another cluster", now-before)
		}
		b.stops(b.west)
		b.west.Config = ""
		b.starts(b.west)
		b.mirrored()
	})

	day("AStoreThatHangsDoesNotKeepADaemonFromStopping", func(b *badFleet) {
		b.must(east.Kafka.Pause())
		b.ready(b.west, "[-] mirror us-east>eu-west: kafka of us-east has been silent for", "[+] kafka")
		b.stops(b.west)
		b.must(east.Kafka.Resume())
		b.starts(b.west)
		b.ready(b.west, "\nready\n")
	})

	day("AHolderThatStoodStillIsInactiveWhenItWakes", func(b *badFleet) {
		before := b.waitActive(b.east, "ingestion").header.Get("Holdfast-Epoch")
		b.must(b.east.Pause())
		b.soon("the lease has run out", func() error {
			s, err := b.witness.Client().Status(b.Context())
			if err != nil {
				return err
			}
			for _, r := range s.Roles {
				if r.Role == "ingestion" && r.Holder != "" {
					return fmt.Errorf("%s holds it", r.Holder)
				}
				if r.Role == "query" && r.Holder != "us-east" {
					b.Fatalf("query was taken from a region that was told to hold it: %+v", r)
				}
			}
			return nil
		})
		b.says(b.witness, 5, []string{"nobody (was us-east)", "us-east-1 last reported", "systemctl status holdfast"}, "status")
		first := make(chan answer, 20) // they wait in the kernel for the daemon to wake
		for range cap(first) {
			go func() { first <- b.active(b.east, "ingestion") }()
		}
		time.Sleep(200 * time.Millisecond)
		b.must(b.east.Resume())
		for range cap(first) {
			if a := <-first; a.code == 200 && a.header.Get("Holdfast-Epoch") == before {
				b.Errorf("a holder that stood still past its lease answered at once: %s", a.text)
			}
		}
		if after := b.waitActive(b.east, "ingestion").header.Get("Holdfast-Epoch"); after <= before {
			b.Errorf("epoch %s after %s", after, before)
		}
		b.waitActive(b.east, "query")
	})

	day("WithoutAQuorumAHeldRoleGoesOnAndADemotedOneEnds", func(b *badFleet) {
		b.must(errors.Join(b.witness.Kill(), b.west.Kill()))
		b.soon("query is held", func() error {
			if a := b.active(b.east, "query"); a.code != 200 {
				b.Fatalf("query: %d %s", a.code, a.text)
			} else if a.header.Get("Holdfast-Lease") != "held" {
				return errors.New(a.text)
			}
			return nil
		})
		b.soon("ingestion has ended", func() error {
			if a := b.active(b.east, "ingestion"); a.code != 503 {
				return errors.New(a.text)
			}
			return nil
		})
		b.ready(b.east, "[-] raft: no leader", "[+] kafka", "[+] clickhouse")
		b.says(b.east, 4, []string{"NO LEADER", "held", "daemon silent for", "systemctl status holdfast"}, "status")
		b.says(b.east, 4, []string{"no leader"}, "pause", "--role", "query", "--for", "1h", "--reason", "a test")
		b.stops(b.east)
		b.must(b.east.Start(b.Context()))
		if a := b.active(b.east, "query"); a.code != 200 || a.header.Get("Holdfast-Lease") != "held" {
			b.Errorf("after a restart of its daemon a held role answers %d: %s", a.code, a.text)
		}
		b.starts(b.witness, b.west)
		b.waitActive(b.east, "ingestion")
		b.soon("query is renewed", func() error {
			if a := b.active(b.east, "query"); a.code != 200 || a.header.Get("Holdfast-Lease") != "" {
				return errors.New(a.text)
			}
			return nil
		})
		b.send()
		b.mirrored()
	})

	day("ObserveDrivesNothing", func(b *badFleet) {
		for _, n := range b.Nodes {
			b.stops(n)
			b.must(os.RemoveAll(n.Data))
		}
		b.SetMode("observe")
		b.must(b.WriteConfig())
		b.starts(b.east, b.west, b.witness)
		b.ready(b.east, "\nready\n")
		b.send()
		b.mirrored()
		b.soon("status has no findings", func() error {
			s, err := b.west.Client().Status(b.Context())
			if err == nil && len(s.Findings) > 0 {
				err = fmt.Errorf("%+v", s.Findings)
			}
			return err
		})
		b.says(b.west, 0, []string{"observing only", "nobody", "running"}, "status")
		b.says(b.east, 3, []string{"Nothing has been changed"}, "failover", "plan", "--to", "eu-west")
		for _, n := range []*fleet.Node{b.east, b.west} {
			for _, role := range []string{"ingestion", "query"} {
				if a := b.active(n, role); a.code != 503 {
					b.Errorf("%s in %s answers %d: %s", role, n.Place, a.code, a.text)
				}
			}
		}
		for _, n := range b.Nodes {
			b.stops(n)
		}
	})

	day("OneRegionOneVoterNoRolesServes", func(b *badFleet) {
		h := newHost(b.T, binary)
		h.env = append(h.env, "HF_PW="+east.ClickHouse.Password())
		d := h.start(h.file("brokers: [127.0.0.1:1]", fmt.Sprintf("brokers: [%s], cluster_id: %q", east.Kafka.Bootstrap(), east.Kafka.ClusterID()),
			"addresses: [127.0.0.1:1], database: default, user: default", fmt.Sprintf("addresses: [%s], database: %s, user: %s", east.ClickHouse.Address(), east.ClickHouse.Database(), east.ClickHouse.User())))
		d.ready("[+] raft", "[+] session", "[+] kafka", "[+] clickhouse", "\nready\n")
		code, out, errOut := h.run("--socket", h.path("s.sock"), "status")
		if code != 0 {
			b.Errorf("status ends with %d\n%s%s", code, out, errOut)
		}
		b.Log(out)
		code, out, errOut = h.run("--socket", h.path("s.sock"), "check")
		if code != 0 {
			b.Errorf("check ends with %d\n%s%s", code, out, errOut)
		}
		d.stop()
	})
}
