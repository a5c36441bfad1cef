package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/consensus/raft"
	"github.com/holdfast-dr/holdfast/failover"
	hooks "github.com/holdfast-dr/holdfast/failover/exec"
	steps "github.com/holdfast-dr/holdfast/failover/kafka"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	sessionRetry  = 500 * time.Millisecond
	stopTimeout   = 20 * time.Second
	shutdownGrace = 2 * time.Second
	raftDir       = "raft" // in the data directory
)

// Options say which daemon to be.
type Options struct {
	ConfigPath string // the fleet file
	Node       string // which of its nodes this is
	Version    string
	Log        *slog.Logger
	// Ready, if set, is called once when the daemon serves.
	Ready func()
}

// Daemon is one node of a fleet, running.
type Daemon struct {
	file    string
	fleet   *config.Fleet
	node    topology.Node
	me      config.Node
	version string
	log     *slog.Logger
	clock   clock.Clock
	boot    string
	session consensus.SessionID

	identity *certs.Identity
	port     *raft.Port
	raft     *raft.Node
	hub      *hub
	keeper   *keeper
	leader   *leader
	mirrors  *mirrors  // nil on a witness
	runs     *runs     // nil on a witness
	verify   *verifier // nil on a witness
	regions  map[topology.Region]*region
	reg      *prometheus.Registry
	former   time.Time // a former life of this daemon had ended by then; zero: there was none
}

// Run is one life of a daemon. It returns when ctx ends and all is put away,
// or with the first error that a daemon cannot live with.
func Run(ctx context.Context, o Options) (err error) {
	fleet, err := config.Load(o.ConfigPath)
	if err != nil {
		return err
	}
	me, err := fleet.Node(topology.Node(o.Node))
	if err != nil {
		return err
	}
	// What a person has to mend is said before anything is touched. A secret
	// that goes missing later only makes its own store unready.
	if err := fleet.CheckHost(topology.Node(o.Node)); err != nil {
		return err
	}
	log := o.Log.With("node", o.Node)
	d := &Daemon{
		file: o.ConfigPath, fleet: fleet, node: topology.Node(o.Node), me: me, version: o.Version, log: log,
		clock: clock.System(), session: consensus.SessionID(ulid.Make().String()), reg: prometheus.NewRegistry(),
	}
	if _, err := os.Stat(filepath.Join(me.Data, raftDir)); !errors.Is(err, fs.ErrNotExist) {
		d.former = time.Now()
	}
	if d.boot, err = clock.BootID(); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var u unwinder
	defer func() { err = errors.Join(err, u.unwind()) }()

	if err := os.MkdirAll(me.Data, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w (may user %d write there?)", err, os.Geteuid())
	}
	identity, err := certs.Load(certs.Options{
		Files: certs.Files{CA: me.TLS.CA, Cert: me.TLS.Cert, Key: me.TLS.Key}, Cluster: fleet.Cluster, Node: d.node,
	})
	if err != nil {
		return err
	}
	if d.regions, err = openRegions(fleet, me, d.clock, log); err != nil {
		return err
	}
	u.add("stores", func(context.Context) error {
		for _, r := range d.regions {
			r.close()
		}
		return nil
	})
	d.identity = identity
	peers := map[topology.Node]string{}
	for name, n := range fleet.Nodes {
		peers[name] = n.Peer
	}
	port, err := raft.Listen(raft.PortConfig{Listen: me.Listen, Identity: identity, Peers: peers, Dial: recovery.Dialer(me), Log: log})
	if err != nil {
		return fmt.Errorf("%w; the address is nodes.%s.listen", err, d.node)
	}
	d.port = port
	u.add("peer port", func(context.Context) error { return port.Close() })
	d.hub = newHub(d.node, d.clock)
	port.Handle("POST "+reportPath, d.hub.serve(raft.PeerOf))
	balancers, socket, err := d.bind(&u)
	if err != nil {
		return err
	}

	d.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.raft, err = raft.Open(raft.Config{
		Dir: filepath.Join(me.Data, raftDir), Port: port, Log: log, Metrics: d.reg,
		Timings: raft.Timings{
			Heartbeat: fleet.Timing.Raft.Heartbeat, Election: fleet.Timing.Raft.Election, LeaderLease: fleet.Timing.Raft.LeaderLease,
			Commit: raft.DefaultTimings().Commit, Transport: raft.DefaultTimings().Transport,
		},
	})
	if err != nil {
		return err
	}
	u.add("raft", d.raft.Stop)
	// The data directory is ours alone from here on: raft holds its lock.
	d.keeper = newKeeper(d.node, d.session, d.boot, me.Data, leaseTiming(fleet.Timing.Lease), d.clock, log)
	d.keeper.propose, d.keeper.state = d.raft, d.raft.State

	if !me.Witness {
		if err := d.openMirrors(); err != nil {
			return err
		}
		host, err := recovery.NewHost(recovery.Options{Fleet: fleet, Node: d.node, Identity: identity, Version: o.Version, Log: log})
		if err != nil {
			return err
		}
		d.mirrors.salvage = func(ctx context.Context, link consensus.LinkID, epoch uint64) (salvaging, error) {
			return host.Salvage(ctx, string(link), epoch)
		}
		d.runs = &runs{
			host: host, fleet: fleet, region: me.Region, clock: d.clock, log: log, propose: d.raft,
			by: "node " + string(d.node), progress: map[consensus.RunID]backup.Progress{},
		}
		d.verify = d.newVerifier()
	}
	d.mountForward(port)
	d.mountVerified(port)
	// Whatever answers read is there. As early as may be: a restart must fit
	// into a balancer's patience.
	if balancers != nil {
		d.serve(&u, "health listener", balancers, httpapi.NewHealthServer(httpapi.NewHealth(health{d}, d.reg), log))
	}
	d.leader = &leader{
		node: d.node, clock: d.clock, log: log, propose: d.raft, state: d.raft.State, changes: d.raft.Watch,
		health: d.health, rules: func() failover.Rules { return rulesOf(fleet) },
		first: func() *consensus.Configure {
			s, m := agreed(fleet)
			return &consensus.Configure{Settings: s, Members: m}
		},
		transfer: d.raft.TransferTo, add: d.raft.AddMember, remove: d.raft.RemoveMember, digest: fleet.Digest(), jobs: jobsOf(fleet),
		voters: func() (names []topology.Node) {
			for _, m := range d.raft.Members() {
				names = append(names, m.Node)
			}
			return names
		},
		alive: func(n topology.Node) bool { _, age := d.hub.of(n); return age >= 0 && age < heardWithin },
	}
	d.serve(&u, "api socket", socket, httpapi.NewServer(httpapi.New(d, httpapi.Options{Node: d.node, Version: d.version, Log: log}), log))

	var wg sync.WaitGroup
	u.add("workers", func(ctx context.Context) error {
		stop(nil)
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return errors.New("workers did not stop in time")
		}
	})
	wg.Go(func() { d.keeper.run(ctx, d.raft.Watch(ctx)) })
	wg.Go(func() { _ = d.raft.Lead(ctx, d.leader.work) })
	for _, r := range d.regions {
		wg.Go(func() { r.probe(ctx) })
	}
	if err := d.startRegion(ctx, &wg); err != nil {
		return err
	}
	wg.Go(func() { d.hub.push(ctx, slices.Sorted(maps.Keys(fleet.Nodes)), port, d.report) })
	wg.Go(func() { d.openSession(ctx) })
	wg.Go(func() { d.watchdog(ctx) })
	newMetrics(d).register(d.reg)

	log.Info("serving", "version", o.Version, "peer", port.Addr(), "health", me.Health, "socket", me.Socket, "region", me.Region)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // outside systemd there is nobody to tell
	if o.Ready != nil {
		o.Ready()
	}
	select {
	case <-ctx.Done():
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		log.Info("stopping")
		return nil
	case <-d.raft.Done():
		return fmt.Errorf("raft halted: %w", d.raft.Err())
	}
}

// openMirrors makes what carries out the links to this region.
func (d *Daemon) openMirrors() error {
	topics, groups, err := selections(d.fleet)
	if err != nil {
		return err
	}
	access, err := accessRules(d.fleet, d.regions, topics, groups)
	if err != nil {
		return err
	}
	logs, err := d.fleet.CommitLogs()
	if err != nil {
		return fmt.Errorf("mirror.commit_logs: %w", err)
	}
	d.mirrors = &mirrors{
		node: d.node, region: d.me.Region, regions: d.regions, topics: topics, groups: groups, logs: logs,
		rate: float64(d.fleet.Mirror.RateLimit), every: d.fleet.Mirror.GroupInterval, compare: d.fleet.Mirror.Topics.Interval, appends: d.fleet.Mirror.AppendTimeout, leap: d.fleet.Mirror.LeapBudget, clock: d.clock, former: d.former,
		records: float64(d.fleet.Mirror.RecordLimit), topicLimits: topicLimits(d.fleet), holeMax: int64(d.fleet.Mirror.HoleMax), seedMax: int64(d.fleet.Mirror.SeedMax),
		access: access, sync: d.fleet.Mirror.ACLs.Sync, delete: d.fleet.Mirror.Topics.DeleteAfter,
		state: d.raft.State, propose: d.raft, log: d.log, metrics: d.reg,
		links: map[consensus.LinkID]*link{}, held: map[consensus.LinkID]uint64{}, paused: map[consensus.LinkID]time.Time{},
		said: map[consensus.LinkID]string{}, past: map[consensus.LinkID]past{},
	}
	return nil
}

// startRegion starts what only a node of a data region does.
func (d *Daemon) startRegion(ctx context.Context, wg *sync.WaitGroup) error {
	if d.me.Witness {
		return nil
	}
	driver, err := hooks.New(hooks.Config{Dir: filepath.Join(d.me.Data, "hooks"), Region: d.me.Region, Boot: d.boot, Log: d.log})
	if err != nil {
		return err
	}
	runners := slices.Concat(roleRunners(d.keeper), steps.Runners(here{d.mirrors}, d.raft, "node "+string(d.node)), driver.Runners(), d.runs.runners(), d.verify.runners())
	a, err := agent.New(agent.Config{
		Node: d.node, Region: d.me.Region, Session: d.session, Version: d.version, State: d.raft, Propose: d.raft,
		Runners: runners, Log: d.log, Metrics: d.reg,
	})
	if err != nil {
		return err
	}
	wg.Go(func() { d.mirrors.run(ctx, d.raft.Watch(ctx)) })
	wg.Go(func() { d.mirrors.entomb(ctx) })
	if d.fleet.Drill != nil && d.fleet.Drill.Region == d.me.Region {
		ours := func() bool { return d.raft.State().Sessions[d.node].ID == d.session }
		wg.Go(func() { d.runs.sweep(ctx, ours, d.raft.State) })
	}
	wg.Go(func() {
		// No lease waits for a hook that does not want to end.
		if err := driver.Recover(ctx); err != nil {
			d.log.Warn("hooks of an earlier life", "error", err)
		}
		if err := a.Run(ctx); err != nil {
			d.log.Error("agent", "error", err)
		}
	})
	return nil
}

// openSession puts this daemon's life into the log. Before that it holds no
// lease and claims no task.
func (d *Daemon) openSession(ctx context.Context) {
	said := ""
	for ; ctx.Err() == nil; _ = sleep(ctx, sessionRetry) {
		s := d.raft.State()
		if s.Sessions[d.node].ID == d.session {
			continue // a late entry of an earlier life may take it over yet
		}
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := d.raft.Propose(attempt, consensus.Command{At: d.clock.Wall(), By: "node " + string(d.node), Body: &consensus.OpenSession{
			Node: d.node, Session: d.session, Boot: d.boot, Version: d.version,
		}})
		cancel()
		if err != nil && s.Settings.Digest != "" && err.Error() != said {
			said = err.Error()
			d.log.Warn("this daemon's session is not in the log yet", "error", err)
		}
	}
}

// watchdog tells systemd that what must never stand still moves.
func (d *Daemon) watchdog(ctx context.Context) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	for sleep(ctx, every/3) == nil {
		if d.keeper.moves(every) {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

// bind takes the addresses that are served later, so that one in use ends a
// start before the log is opened. Without a health address the first is nil.
func (d *Daemon) bind(u *unwinder) (balancers, socket net.Listener, err error) {
	release := func(l net.Listener) func(context.Context) error {
		return func(context.Context) error {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) { // it was served, then
				return err
			}
			return nil
		}
	}
	if d.me.Health != "" {
		if balancers, err = net.Listen("tcp", d.me.Health); err != nil {
			return nil, nil, fmt.Errorf("listen for load balancers: %w (is another daemon running here? is the address one of this machine's?); the address is nodes.%s.health", err, d.node)
		}
		u.add("health address", release(balancers))
	}
	if socket, err = httpapi.ListenUnix(d.me.Socket); err != nil {
		return nil, nil, err
	}
	u.add("api address", release(socket))
	return balancers, socket, nil
}

func (d *Daemon) serve(u *unwinder, name string, l net.Listener, s *http.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error(name, "error", err)
		}
	}()
	u.add(name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, shutdownGrace)
		defer cancel()
		err := s.Shutdown(ctx)
		if err != nil {
			err = s.Close()
		}
		<-done
		return err
	})
}

// unwinder undoes starts in reverse, all of them, within a bound.
type unwinder struct {
	list []struct {
		name string
		stop func(context.Context) error
	}
}

func (u *unwinder) add(name string, stop func(context.Context) error) {
	u.list = append(u.list, struct {
		name string
		stop func(context.Context) error
	}{name, stop})
}

func (u *unwinder) unwind() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	for _, s := range slices.Backward(u.list) {
		if err := s.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop the %s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
