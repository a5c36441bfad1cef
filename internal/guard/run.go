package guard

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	askEveryDefault   = 300 * time.Millisecond
	askTimeoutDefault = time.Second
	tickLongest       = 100 * time.Millisecond // timers stop while the machine is suspended; the clock we go by does not
	keeperEvery       = 250 * time.Millisecond // for a held word, whose order moves with the clock
)

// Config is what a guard is made of. Fields after Log may be left out.
type Config struct {
	Role   topology.Role
	Region topology.Region
	Argv   []string
	Env    []string // for the command, before our own; usually os.Environ()
	Daemon Daemon
	Rules  Rules
	// Keeper is the command that runs Keep on its standard input: this
	// binary, with a hidden argument.
	Keeper []string
	Log    *slog.Logger

	Stdin, Stdout, Stderr *os.File // of the command; nil is /dev/null
	Clock                 clock.Clock
	Every                 time.Duration // between questions; default 300 ms
	AskTimeout            time.Duration // default 1 s
}

// Run guards until ctx ends or, by Rules.Once, the command has ended by
// itself. It returns the exit code for the guard: that of the command, 126 or
// 127 when it could not be started, 0 when ctx ended. When it returns,
// nothing of the command is left. An error means that the guard could not
// start its work.
func Run(ctx context.Context, cfg Config) (int, error) {
	if cfg.Role == "" || cfg.Region == "" || len(cfg.Argv) == 0 || cfg.Daemon == nil || cfg.Rules.BootID == "" || len(cfg.Keeper) == 0 || cfg.Log == nil {
		return 1, errors.New("guard: role, region, command, daemon, boot id, keeper and log are needed")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System()
	}
	cfg.Every, cfg.AskTimeout = cmp.Or(cfg.Every, askEveryDefault), cmp.Or(cfg.AskTimeout, askTimeoutDefault)
	r := &run{cfg: cfg, id: rand.Text(), state: NewState(cfg.Rules), events: make(chan Event), kick: make(chan struct{}, 1),
		over: make(chan struct{}), keeper: keeper{argv: cfg.Keeper, log: cfg.Log}, forker: newForker()}
	defer r.forker.close()
	defer r.keeper.stop()
	if err := r.keeper.start(); err != nil {
		return 1, fmt.Errorf("guard: %w", err)
	}
	r.publish(cfg.Clock.Now())
	asking, stopAsking := context.WithCancel(context.WithoutCancel(ctx))
	var asker sync.WaitGroup
	asker.Go(func() { r.ask(asking) })
	code := r.loop(ctx)
	close(r.over)
	stopAsking()
	asker.Wait()
	r.farewell(ctx)
	return code, nil
}

// run is one life of a guard. Fields up to events belong to the goroutine of
// loop; the others are safe for all.
type run struct {
	state    State
	now      clock.Instant // of the last step
	keeper   keeper
	child    *child
	said     string
	told     order
	toldAt   clock.Instant
	noKeeper bool

	cfg    Config
	id     string
	forker *forker
	events chan Event
	kick   chan struct{}          // ask now
	over   chan struct{}          // closed when nobody takes events any more
	status atomic.Pointer[Status] // for the next question
}

func (r *run) loop(ctx context.Context) int {
	timer := time.NewTimer(0)
	defer timer.Stop()
	stop := ctx.Done()
	for {
		var ev Event
		select {
		case ev = <-r.events:
		case <-stop:
			ev, stop = Stop{}, nil
		case <-timer.C:
			ev = Tick{}
		}
		if code, done := r.step(ev); done {
			return code
		}
		wait := tickLongest
		if at := r.state.Wake(); at.After(r.now) { // else it was acted on, or waits for something else
			wait = max(0, min(wait, at.Sub(r.cfg.Clock.Now())))
		}
		timer.Reset(wait)
	}
}

func (r *run) step(ev Event) (code int, done bool) {
	now := r.cfg.Clock.Now()
	r.now = now
	before := r.state.Status(now).Running
	var actions []Action
	r.state, actions = r.state.Next(now, ev)
	st := r.publish(now) // what the daemon hears is never behind what we do
	if before && !st.Running {
		r.child = nil
		select {
		case r.kick <- struct{}{}:
		default:
		}
	}
	r.narrate(now)
	for _, a := range actions {
		switch a := a.(type) {
		case Start:
			r.start(now, a)
		case Term:
			r.cfg.Log.Info("ending the command", "why", a.Why)
			r.signal(unix.SIGTERM)
		case Kill:
			r.signal(unix.SIGKILL)
		case Exit:
			_ = r.tellKeeper(now) // it has logged
			return a.Code, true
		}
	}
	_ = r.tellKeeper(now)
	return 0, false
}

// start lets the keeper know the mark first: a guard that is stopped right
// after the fork has said all that is needed.
func (r *run) start(now clock.Instant, a Start) {
	c := r.forker.prepare(r.cfg, a)
	r.child = c
	if err := r.tellKeeper(now); err != nil {
		r.cfg.Log.Error("the command is not started: without a keeper nothing would end it if this process were stopped", "error", err)
		go r.tell(NotStarted{126})
		return
	}
	r.cfg.Log.Info("starting the command", "epoch", uint64(a.Epoch), "generation", uint64(a.Generation))
	r.forker.start(c, r.tell)
}

func (r *run) signal(sig unix.Signal) {
	if r.child == nil {
		return
	}
	if _, err := r.child.find().Signal(sig); err != nil {
		r.cfg.Log.Error("signal the command", "error", err)
	}
}

// tellKeeper sends the newest order when it differs, and also when the keeper
// ended, which starts a new one.
func (r *run) tellKeeper(now clock.Instant) error {
	var o order
	if at := r.state.KeeperAt(now); at != 0 && r.child != nil {
		o = order{r.child.find(), at, r.state.held && r.state.child != ending}
	}
	if r.state.held && o.KillAt != 0 && o.Family == r.told.Family && now.Sub(r.toldAt) < keeperEvery && !r.keeper.dead() {
		return nil
	}
	if o == r.told && !r.keeper.dead() {
		return nil
	}
	err := r.keeper.tell(o)
	if err == nil {
		r.told, r.toldAt = o, now
	}
	if failed := err != nil; failed != r.noKeeper {
		r.noKeeper = failed
		if failed {
			r.cfg.Log.Error("no keeper: nothing ends the command if this process is stopped", "error", err)
		} else {
			r.cfg.Log.Info("the keeper is back")
		}
	}
	return err
}

// publish sets what the next question reports.
func (r *run) publish(now clock.Instant) Status {
	st := r.state.Status(now)
	st.ID, st.Role = r.id, r.cfg.Role
	r.status.Store(&st)
	return st
}

// narrate logs why nothing runs, once per reason.
func (r *run) narrate(now clock.Instant) {
	why := r.state.Why(now)
	if reason, _, _ := strings.Cut(why, ":"); reason != r.said { // what follows may hold times
		r.said = reason
		if why != "" {
			r.cfg.Log.Info("the command may not run", "why", why)
		}
	}
}

// tell hands an event to loop, unless that is over.
func (r *run) tell(ev Event) {
	select {
	case r.events <- ev:
	case <-r.over:
	}
}

// ask asks the daemon again and again, and tells what it hears.
func (r *run) ask(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	silent := time.Time{}
	for {
		asked := r.cfg.Clock.Now()
		w, err := r.askOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if !silent.IsZero() {
				r.cfg.Log.Info("the daemon answers again", "silent_for", time.Since(silent).Round(time.Millisecond))
				silent = time.Time{}
			}
			r.tell(Heard{w, asked})
		case silent.IsZero():
			silent = time.Now()
			r.cfg.Log.Warn("the daemon does not answer, going on by its last word", "error", err)
		}
		select {
		case <-tick.C:
		case <-r.kick:
		case <-ctx.Done():
			return
		}
	}
}

func (r *run) askOnce(ctx context.Context) (Word, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.AskTimeout)
	defer cancel()
	return r.cfg.Daemon.Ask(ctx, *r.status.Load())
}

// farewell tells the daemon that nothing runs here and nothing will, so that
// a release need not wait for us.
func (r *run) farewell(ctx context.Context) {
	r.publish(r.cfg.Clock.Now())
	if _, err := r.askOnce(context.WithoutCancel(ctx)); err != nil {
		r.cfg.Log.Warn("the daemon was not told that this guard ended", "error", err)
	}
}
