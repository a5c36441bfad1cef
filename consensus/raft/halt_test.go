package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// future is a log entry of a newer holdfast.
var future = []byte(`{"v":1,"kind":"from-the-future","at":"2030-01-01T00:00:00Z","by":"x","body":{}}`)

func waitDone(t *testing.T, n *Node) {
	t.Helper()
	select {
	case <-n.Done():
	case <-time.After(patience):
		t.Fatalf("%s goes on", n.self)
	}
}

func TestNode_UnknownCommandHaltsBeforeItChangesAnything(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	at := f.mustPropose(leader, slot("known", 1))
	want := f.settled(at)
	reign, _ := leader.leading.get()
	index, err := leader.apply(t.Context(), future) // past the check of Propose
	if !errors.Is(err, consensus.ErrUnknownOutcome) || !errors.Is(err, consensus.ErrUnknownCommand) {
		t.Errorf("its proposer reads %d, %v", index, err)
	}
	// Who applies it halts; the last one stays behind, without a majority to
	// tell it that the entry is agreed.
	halted := func() {
		t.Helper()
		f.eventually("halt of a majority", func() error {
			n := 0
			for _, m := range f.nodes {
				select {
				case <-m.Done():
					n++
				default:
				}
			}
			if n < 2 {
				return fmt.Errorf("%d of 3 halted", n)
			}
			return nil
		})
	}
	halted()
	for _, n := range f.nodes {
		if got, _ := consensus.EncodeState(n.State()); !bytes.Equal(got, want) {
			t.Errorf("%s changed its state to %s", n.self, got)
		}
		if n.Err() == nil {
			continue
		}
		if err := n.Err(); !errors.Is(err, consensus.ErrUnknownCommand) || !strings.Contains(err.Error(), "from-the-future") || !strings.Contains(err.Error(), "start a newer holdfast") {
			t.Errorf("%s: %v", n.self, err)
		}
		if s := n.Status(); s.Halted == "" || s.State != "shutdown" {
			t.Errorf("%s: status %+v", n.self, s)
		}
	}
	if reign.ctx.Err() == nil {
		t.Error("the reign outlived the halt")
	}
	if _, err := leader.Propose(t.Context(), slot("late", 1)); !errors.Is(err, consensus.ErrNoLeader) || !errors.Is(err, ErrStopped) {
		t.Errorf("a proposal after the halt: %v", err)
	}
	// It is met again after a restart: it was not skipped.
	for _, n := range f.names {
		f.stop(f.nodes[n])
	}
	f.open("a", "b", "c")
	halted()
	for _, n := range f.nodes {
		if err := n.Err(); err != nil && !errors.Is(err, consensus.ErrUnknownCommand) {
			t.Errorf("%s after a restart: %v", n.self, err)
		}
	}
}

func TestNode_SnapshotsRestoreTheSameState(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.tune = func(_ topology.Node, c *Config) { c.snapshotThreshold, c.trailingLogs = 4, 2 }
	f.open("a", "b", "c")
	leader := f.leader()
	for i := range 20 {
		f.mustPropose(leader, slot("early", i+1))
	}
	away := f.followers()[0]
	f.stop(away)
	var at consensus.Index
	for i := range 20 {
		at = f.mustPropose(leader, slot("late", i+1))
	}
	for _, n := range f.nodes {
		if err := n.WaitIndex(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if err := n.r.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	// What away lacks is cut from the logs: it must take a snapshot from afar.
	f.open(away.self)
	f.settled(at)
	if len(f.nodes[away.self].State().Slots) != 2 {
		t.Errorf("slots: %v", f.nodes[away.self].State().Slots)
	}
	before := f.settled(f.mustPropose(f.leader(), slot("last", 1)))
	for _, n := range f.names {
		f.stop(f.nodes[n])
	}
	f.open("a", "b", "c") // and from its own disk
	_, index := f.leader().StateAt()
	_ = index
	if got := f.settled(f.mustPropose(f.leader(), slot("after", 1))); len(got) <= len(before) {
		t.Errorf("lost: before %s, after %s", before, got)
	}
	for _, job := range []string{"early", "late", "last", "after"} {
		if _, ok := f.nodes["a"].State().Slots[job]; !ok {
			t.Errorf("%s is lost", job)
		}
	}
}

func TestSnapshot_RoundTripsAndRefusesWhatItDoesNotKnow(t *testing.T) {
	m := newMachine(func(error) {})
	for i := range 3 {
		b, err := consensus.EncodeCommand(slot("x", i+1))
		if err != nil {
			t.Fatal(err)
		}
		if res := m.Apply(&hraft.Log{Index: uint64(i + 5), Data: b}).(result); res.err != nil {
			t.Fatal(res.err)
		}
	}
	b, err := encodeSnapshot(m.now.Load())
	if err != nil {
		t.Fatal(err)
	}
	other := newMachine(func(error) {})
	if err := other.Restore(io.NopCloser(bytes.NewReader(b))); err != nil {
		t.Fatal(err)
	}
	again, _ := encodeSnapshot(other.now.Load())
	if !bytes.Equal(b, again) || other.now.Load().index != 7 {
		t.Errorf("%s\n%s", b, again)
	}
	for _, bad := range []string{
		"", "{", `{"format":2,"index":1,"state":{}}`, `{"format":1,"index":1,"state":{"version":99}}`,
		`{"format":1,"index":1,"state":{"version":1},"more":true}`,
	} {
		var halted error
		m := newMachine(func(err error) { halted = err })
		if err := m.Restore(io.NopCloser(strings.NewReader(bad))); err == nil || halted == nil {
			t.Errorf("%s was taken (halted: %v)", bad, halted)
		}
		if _, err := m.Snapshot(); err == nil {
			t.Errorf("a halted machine gave a snapshot")
		}
	}
}

func TestOpen_RefusesASecondDaemonOnTheSameFolder(t *testing.T) {
	f := newFleet(t, "solo")
	f.open("solo")
	p, err := Listen(PortConfig{Listen: "127.0.0.1:0", Identity: f.identity("solo"), Peers: f.peers})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{Dir: f.dir("solo"), Port: p, Timings: fast()})
	if err == nil || !strings.Contains(err.Error(), "in use by another daemon (pid "+strconv.Itoa(os.Getpid())+")") || !strings.Contains(err.Error(), "stop that one first") {
		t.Errorf("second Open: %v", err)
	}
	f.mustPropose(f.leader(), slot("unharmed", 1))
	f.stop(f.nodes["solo"])
	f.open("solo") // the lock went with the stop
	f.leader()
}

func TestOpen_SaysWhatIsWrongWithTheFolder(t *testing.T) {
	f := newFleet(t, "solo")
	try := func(change func(*Config)) error {
		t.Helper()
		c := f.config("solo")
		change(&c)
		n, err := Open(c)
		if err == nil {
			n.Stop(t.Context())
		}
		return err
	}
	file := filepath.Join(f.root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(f.root, "garbage")
	if err := os.MkdirAll(garbage, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(garbage, "raft.db"), bytes.Repeat([]byte("x"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a file":       {func(c *Config) { c.Dir = file }, "create the data folder"},
		"no folder":    {func(c *Config) { c.Dir = "" }, "needs a data folder"},
		"damaged log":  {func(c *Config) { c.Dir = garbage }, "the file is damaged"},
		"bad timings":  {func(c *Config) { c.Timings.LeaderLease = time.Second }, "longer than heartbeat"},
		"full disk":    {func(c *Config) { c.diskFault = func(string) error { return syscall.ENOSPC } }, "make room on the disk of"},
		"full later":   {func(c *Config) { c.diskFault = failing("term", syscall.ENOSPC) }, "make room on the disk of"},
		"read-only":    {func(c *Config) { c.diskFault = func(string) error { return syscall.EROFS } }, "the file system is read-only"},
		"not ours":     {func(c *Config) { c.diskFault = func(string) error { return os.ErrPermission } }, "chown -R"},
		"failing disk": {func(c *Config) { c.diskFault = func(string) error { return syscall.EIO } }, "the disk is failing"},
	} {
		if err := try(c.change); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(Config{Dir: f.root}); err == nil {
		t.Error("no port, and no error")
	}
}

func failing(op string, err error) func(string) error {
	return func(did string) error {
		if did == op {
			return err
		}
		return nil
	}
}

func TestNode_FullDiskHaltsAndDoesNotCrash(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	var full atomic.Pointer[topology.Node]
	f.tune = func(name topology.Node, c *Config) {
		c.diskFault = func(string) error {
			if p := full.Load(); p != nil && *p == name {
				return syscall.ENOSPC
			}
			return nil
		}
	}
	f.open("a", "b", "c")
	leader := f.leader()
	f.settled(f.mustPropose(leader, slot("before", 1)))

	// A follower: its append fails.
	victim := f.followers()[0]
	full.Store(&victim.self)
	f.mustPropose(leader, slot("during", 1))
	waitDone(t, victim)
	if err := victim.Err(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room on the disk of "+f.dir(victim.self)) {
		t.Errorf("the follower: %v", err)
	}
	full.Store(nil)
	f.stop(victim)
	f.open(victim.self)
	f.settled(f.mustPropose(f.leader(), slot("again", 1)))

	// The leader: what it was asked to write is not known to have happened.
	leader = f.leader()
	reign, _ := leader.leading.get()
	full.Store(&leader.self)
	if _, err := leader.Propose(t.Context(), slot("full", 1)); !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Errorf("a proposal on a full disk: %v", err)
	}
	waitDone(t, leader)
	if reign.ctx.Err() == nil {
		t.Error("a halted leader's reign goes on")
	}
	f.stop(leader)
	full.Store(nil)
	f.mustPropose(f.leader(), slot("others", 1))

	// A term that cannot be saved, where raft itself would panic: a follower
	// is told to take over, and begins a term.
	f.open(leader.self)
	f.settled(f.mustPropose(f.leader(), slot("three", 1)))
	follower := f.followers()[0]
	_, term := f.leader().Leader()
	full.Store(&follower.self)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.leader().TransferTo(ctx, follower.self); err == nil {
		t.Error("leadership went to a node that cannot write")
	}
	waitDone(t, follower)
	if err := follower.Err(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "(term)") {
		t.Errorf("the candidate: %v", err)
	}
	// It must not have asked for votes in a term that it would forget.
	delete(f.nodes, follower.self)
	f.stop(follower)
	if _, now := f.leader().Leader(); now != term {
		t.Errorf("the others are in term %d, they were in %d", now, term)
	}
}

func TestBootstrap_WaitsForAllAndHappensOnce(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b")
	waits := func(n topology.Node, words ...string) {
		t.Helper()
		f.eventually("reason why "+string(n)+" waits", func() error {
			for _, w := range words {
				if !strings.Contains(f.nodes[n].Status().Waiting, w) {
					return errors.New(f.nodes[n].Status().Waiting)
				}
			}
			return nil
		})
	}
	waits("a", "c does not answer yet")
	waits("b", "waiting for a to start the cluster")
	if _, err := f.nodes["a"].Propose(t.Context(), slot("x", 1)); !errors.Is(err, consensus.ErrNoLeader) {
		t.Errorf("a proposal before the start: %v", err)
	}
	f.open("c")
	at := f.mustPropose(f.leader(), slot("x", 1))
	want := f.settled(at)

	// The first node loses its disk. It must not start a second cluster, also
	// when it is up with only one of the others.
	f.stop(f.nodes["a"])
	f.stop(f.nodes["c"])
	if err := os.RemoveAll(f.dir("a")); err != nil {
		t.Fatal(err)
	}
	f.open("a")
	f.eventually("refusal or rejoin", func() error {
		if s := f.nodes["a"].Status(); s.Waiting == "" || strings.Contains(s.Waiting, "b holds the state") {
			return nil
		} else {
			return errors.New(s.Waiting)
		}
	})
	if err := f.nodes["a"].Bootstrap(t.Context()); err == nil {
		t.Error("a bootstrap by hand beside a cluster that exists")
	}
	f.open("c")
	f.leader()
	if got := f.settled(at); !bytes.Equal(got, want) {
		t.Errorf("the cluster was replaced: %s", got)
	}
}

func TestBootstrap_RefusesDifferentFleetFiles(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "c")
	only := map[topology.Node]string{"a": f.peers["a"], "b": f.peers["b"]}
	p, err := Listen(PortConfig{Listen: f.peers["b"], Identity: f.identity("b"), Peers: only})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(Config{Dir: f.dir("b"), Port: p, Timings: fast()})
	if err != nil {
		t.Fatal(err)
	}
	f.nodes["b"] = n
	f.eventually("complaint", func() error {
		if s := f.nodes["a"].Status().Waiting; !strings.Contains(s, "b reads another fleet file: it lists [a b], ours lists [a b c]") {
			return errors.New(s)
		}
		return nil
	})
}

func TestBootstrap_ByHandWorksWhenOneIsMissing(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("b", "c")
	if err := f.nodes["b"].Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := f.mustPropose(f.leader(), slot("x", 1))
	f.open("a")
	f.leader()
	f.settled(at)
	if err := f.nodes["c"].Bootstrap(t.Context()); err == nil || !strings.Contains(err.Error(), "was started before") {
		t.Errorf("a second bootstrap: %v", err)
	}
}

func TestNode_CertificatesRenewWithoutARestart(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	f.leader()
	if _, err := certs.Init(certs.InitOptions{Dir: f.certs, Cluster: "lab", Nodes: f.names, Renew: true}); err != nil {
		t.Fatal(err)
	}
	for _, n := range f.names {
		f.isolate(n) // all connections are made anew
	}
	f.heal()
	f.settled(f.mustPropose(f.leader(), slot("renewed", 1)))
}

func TestMetrics_AreThereAndGoWithTheNode(t *testing.T) {
	f := newFleet(t, "solo")
	reg := prometheus.NewPedanticRegistry()
	f.tune = func(_ topology.Node, c *Config) { c.Metrics = reg }
	f.open("solo")
	n := f.leader()
	f.mustPropose(n, slot("x", 1))
	if _, err := n.Propose(t.Context(), slot("x", 1)); !consensus.Refused(err) {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, fam := range families {
		for _, m := range fam.GetMetric() {
			name := fam.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"holdfast_raft_leader": 1, "holdfast_raft_leader_known": 1, "holdfast_raft_halted": 0,
		"holdfast_raft_proposals_total refused local": 1, "holdfast_raft_reigns_total": 1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v)", name, v, ok)
		}
	}
	if got["holdfast_raft_applied_index"] == 0 || got["holdfast_peer_certificate_expiry_timestamp_seconds"] == 0 {
		t.Errorf("%v", got)
	}
	f.stop(n)
	if families, _ := reg.Gather(); len(families) != 0 {
		t.Errorf("%d metrics outlive the node", len(families))
	}
}

func TestStop_IsBoundedWhenNobodyAnswers(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	f.open("a", "b", "c")
	leader := f.leader()
	f.isolate(leader.self)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := leader.Stop(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Stop took %s", took)
	}
	delete(f.nodes, leader.self)
	if err := leader.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

func FuzzDecodeSnapshot(f *testing.F) {
	good, err := encodeSnapshot(newMachine(func(error) {}).now.Load())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"index":1,"state":null}`))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeSnapshot(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := encodeSnapshot(a)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if back, err := decodeSnapshot(bytes.NewReader(again)); err != nil || back.index != a.index {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
