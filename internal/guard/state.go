package guard

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/retry"
)

const (
	clockSlack     = 10 * time.Millisecond // between two readings of one clock
	restartFirst   = 500 * time.Millisecond
	restartLongest = 30 * time.Second
	healthyAfter   = 30 * time.Second // a command that ran this long starts a new count
	marginLeast    = time.Second      // for the keeper, when a held word has less
)

// Rules are the choices of whoever starts the guard.
type Rules struct {
	BootID    string
	TermGrace time.Duration // between TERM and KILL; at most, and by default, half the margin
	Once      bool          // when the command ends by itself, so does the guard
}

// Event is something that happened. The set is closed.
type Event interface{ event() }

// The events.
type (
	// Tick says that time has passed.
	Tick struct{}
	// Heard is an answer of the daemon to a question that was asked at Asked.
	Heard struct {
		Word  Word
		Asked clock.Instant
	}
	// Started says that the command runs.
	Started struct{ PID int }
	// NotStarted says that the command could not be started; Code is the
	// shell's, 126 or 127.
	NotStarted struct{ Code int }
	// Ended says that nothing of the command is left.
	Ended struct{ Code int }
	// Stop says that the guard was told to end.
	Stop struct{}
)

func (Tick) event()       {}
func (Heard) event()      {}
func (Started) event()    {}
func (NotStarted) event() {}
func (Ended) event()      {}
func (Stop) event()       {}

// Action is something to do. The set is closed.
type Action interface{ action() }

// The actions.
type (
	// Start the command; answer with Started or NotStarted.
	Start struct {
		Epoch      consensus.Epoch
		Generation consensus.Generation
	}
	// Term asks the command to end.
	Term struct{ Why string }
	// Kill ends it; it may come again until Ended.
	Kill struct{ Why string }
	// Exit ends the guard. Nothing runs.
	Exit struct{ Code int }
)

func (Start) action() {}
func (Term) action()  {}
func (Kill) action()  {}
func (Exit) action()  {}

type childState int

const (
	none     childState = iota
	starting            // Start was said, and not answered
	running
	ending // Term was said
)

// State is what a guard knows. It is a value; Next returns the next one. The
// zero State is not usable: see NewState.
type State struct {
	rules Rules

	heard  bool
	word   Word          // the newest
	until  clock.Instant // deadline of the last word that allowed; no limit when held
	held   bool          // the last word that allowed was Held
	margin time.Duration // the last one named
	unfit  string        // why the last word could not be used; empty when it could
	stop   bool
	exited bool

	child  childState
	epoch  consensus.Epoch // of the child
	gen    consensus.Generation
	pid    int
	since  clock.Instant // start of the child
	killAt clock.Instant // while ending
	why    string        // while ending

	failures  int
	notBefore clock.Instant // of the next start
}

// NewState returns the state of a guard that has heard nothing.
func NewState(r Rules) State { return State{rules: r} }

// Next takes in ev, which is known at now, and says what to do. It looks at
// the clock whatever the event is.
func (s State) Next(now clock.Instant, ev Event) (State, []Action) {
	if s.exited {
		return s, nil
	}
	switch ev := ev.(type) {
	case Heard:
		s = s.hear(now, ev)
	case Started:
		if s.child == starting {
			s.child, s.pid, s.since = running, ev.PID, now
		}
	case NotStarted:
		if s.child == starting {
			return s.over(now, true, ev.Code)
		}
	case Ended:
		if s.child == running || s.child == ending {
			return s.over(now, s.child == running, ev.Code)
		}
	case Stop:
		s.stop = true
	}
	return s.decide(now)
}

// hear takes in a word, unless it is about another clock or an older grant.
func (s State) hear(now clock.Instant, h Heard) State {
	w := h.Word
	switch {
	case w.BootID != s.rules.BootID:
		s.unfit = "the daemon runs on another boot or another machine"
	case w.Now.Before(h.Asked.Add(-clockSlack)) || w.Now.After(now.Add(clockSlack)):
		s.unfit = fmt.Sprintf("the daemon's clock is not ours: it read %s, ours %s before and %s after (is one of us in another time namespace?)", w.Now, h.Asked, now)
	case s.heard && (w.Generation < s.word.Generation || w.Generation == s.word.Generation && w.Epoch < s.word.Epoch):
		s.unfit = fmt.Sprintf("the daemon speaks of a grant that is over: epoch %d", w.Epoch)
	default:
		s.heard, s.word, s.unfit = true, w, ""
		if w.Margin > 0 {
			s.margin = w.Margin
		}
		if w.Allows() {
			s.until, s.held = w.Deadline, w.Held
		}
	}
	return s
}

// may says whether the command may run at now, or why not.
func (s State) may(now clock.Instant) (bool, string) {
	switch {
	case s.stop:
		return false, "the guard was told to end"
	case !s.heard:
		return false, "the daemon has not answered yet"
	case !s.word.Leased:
		return false, "this region has no lease: " + s.word.Why
	case !s.word.Allows():
		return false, "the role is " + string(s.word.Phase)
	case !s.word.Held && !now.Before(s.word.Deadline):
		return false, "the lease ran out and no newer word came"
	}
	return true, ""
}

func (s State) decide(now clock.Instant) (State, []Action) {
	may, why := s.may(now)
	if may && s.child != none && (s.epoch != s.word.Epoch || s.gen != s.word.Generation) {
		may, why = false, fmt.Sprintf("epoch %d is over, the role was granted anew as epoch %d", s.epoch, s.word.Epoch)
	}
	switch {
	case s.child == none && s.stop:
		s.exited = true
		return s, []Action{Exit{0}}
	case s.child == none && may && !now.Before(s.notBefore):
		s.child, s.epoch, s.gen, s.pid, s.since = starting, s.word.Epoch, s.word.Generation, 0, now
		return s, []Action{Start{s.epoch, s.gen}}
	case s.child == running && !may:
		s.child, s.why, s.killAt = ending, why, now.Add(s.grace())
		if s = s.tighten(); now.Before(s.killAt) {
			return s, []Action{Term{why}}
		}
		return s, []Action{Kill{why}}
	case s.child == ending:
		if s = s.tighten(); !now.Before(s.killAt) {
			return s, []Action{Kill{s.why}}
		}
	}
	return s, nil
}

// over is the end of a command. alone says that nobody asked it to end.
func (s State) over(now clock.Instant, alone bool, code int) (State, []Action) {
	ran := now.Sub(s.since)
	s.child, s.epoch, s.gen, s.pid, s.notBefore = none, 0, 0, 0, now
	switch {
	case alone && s.rules.Once && !s.stop:
		s.exited = true
		return s, []Action{Exit{code}}
	case alone:
		if ran >= healthyAfter {
			s.failures = 0
		}
		s.notBefore = now.Add(retry.Delay(restartFirst, restartLongest, s.failures))
		s.failures++
	default:
		s.failures = 0
	}
	return s.decide(now)
}

// tighten keeps the KILL within what the last word that allowed leaves.
func (s State) tighten() State {
	if !s.held {
		s.killAt = min(s.killAt, s.until.Add(s.margin/2))
	}
	return s
}

func (s State) grace() time.Duration {
	if half := s.margin / 2; s.rules.TermGrace <= 0 || s.rules.TermGrace > half {
		return half
	}
	return s.rules.TermGrace
}

// KeeperAt is when the keeper shall kill the command if it hears nothing more
// from the guard; 0 when there is no command.
func (s State) KeeperAt(now clock.Instant) clock.Instant {
	switch {
	case s.child == none:
		return 0
	case s.child == ending:
		return s.killAt.Add(s.margin / 4)
	case s.held:
		return now.Add(max(s.margin, marginLeast))
	}
	return s.until.Add(s.margin / 4 * 3)
}

// Wake is the next instant at which time alone changes what to do; 0 when
// there is none.
func (s State) Wake() clock.Instant {
	switch {
	case s.child == ending:
		return s.killAt
	case s.child == running && !s.held:
		return s.until
	case s.child == none:
		return s.notBefore
	}
	return 0
}

// Status is what the guard tells the daemon.
func (s State) Status(now clock.Instant) Status {
	st := Status{Epoch: s.epoch, PID: s.pid, Running: s.child != none, Gone: s.exited}
	if may, _ := s.may(now); may {
		st.Held = s.word.Held
		if !st.Held {
			st.AllowedUntil = s.word.Deadline
		}
	}
	return st
}

// Why says in one sentence why no command runs, or is being ended; empty when
// it may run.
func (s State) Why(now clock.Instant) string {
	if s.unfit != "" {
		return s.unfit
	}
	_, why := s.may(now)
	return why
}
