package guard

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const sec = clock.Instant(time.Second)

var rules = Rules{BootID: "boot"}

// word is one that allows epoch 1 at now until the deadline, with 4 s of margin.
func word(now, deadline clock.Instant) Word {
	return Word{Phase: consensus.Open, Leased: true, Epoch: 1, Generation: 1, Deadline: deadline, Margin: 4 * time.Second, Now: now, BootID: "boot"}
}

func heard(now clock.Instant, w Word) Heard { w.Now = now; return Heard{w, now} }

// story runs events at seconds and returns what was done, as text.
type story struct {
	s    State
	line []string
}

func (st *story) at(seconds float64, ev Event) *story {
	now := clock.Instant(seconds * float64(sec))
	if h, ok := ev.(Heard); ok {
		h.Word.Now, h.Asked = now, now
		ev = h
	}
	var as []Action
	st.s, as = st.s.Next(now, ev)
	for _, a := range as {
		switch a := a.(type) {
		case Start:
			st.line = append(st.line, fmt.Sprintf("%g:start%d", seconds, a.Epoch))
		case Term:
			st.line = append(st.line, fmt.Sprintf("%g:term", seconds))
		case Kill:
			st.line = append(st.line, fmt.Sprintf("%g:kill", seconds))
		case Exit:
			st.line = append(st.line, fmt.Sprintf("%g:exit%d", seconds, a.Code))
		}
	}
	return st
}

func TestState_Stories(t *testing.T) {
	w := word(0, 10*sec)
	with := func(change func(*Word)) Heard { c := w; change(&c); return Heard{Word: c} }
	yes := Heard{Word: w}
	no := with(func(w *Word) { w.Leased, w.Deadline, w.Margin = false, 0, 0 })
	held := with(func(w *Word) { w.Held, w.Deadline = true, 0 })
	begin := func(r Rules) *story { st := &story{s: NewState(r)}; return st.at(0, yes).at(0.1, Started{42}) }
	for name, tc := range map[string]struct {
		got  *story
		want string
	}{
		"nothing without a word":     {(&story{s: NewState(rules)}).at(0, Tick{}).at(50, Tick{}), ""},
		"term at the deadline":       {begin(rules).at(9.9, Tick{}).at(10, Tick{}).at(11, Tick{}).at(12, Tick{}).at(12.1, Tick{}), "0:start1 10:term 12:kill 12.1:kill"},
		"a newer word extends":       {begin(rules).at(9, with(func(w *Word) { w.Deadline = 20 * sec })).at(19.9, Tick{}).at(20, Tick{}), "0:start1 20:term"},
		"woken late: kill at once":   {begin(rules).at(13, Tick{}), "0:start1 13:kill"},
		"woken late by a late word":  {begin(rules).at(13, yes), "0:start1 13:kill"},
		"woken between":              {begin(rules).at(11, Tick{}).at(12, Tick{}), "0:start1 11:term 12:kill"},
		"no ends it at once":         {begin(rules).at(3, no).at(4.9, Tick{}).at(5, Tick{}), "0:start1 3:term 5:kill"},
		"no, near the deadline":      {begin(rules).at(9.5, no).at(11.5, Tick{}), "0:start1 9.5:term 11.5:kill"},
		"no, later than the bound":   {begin(rules).at(9.99, Tick{}).at(11.9, no).at(12, Tick{}), "0:start1 11.9:term 12:kill"},
		"closed ends it":             {begin(rules).at(3, with(func(w *Word) { w.Phase = consensus.Closed })), "0:start1 3:term"},
		"vacant ends it":             {begin(rules).at(3, with(func(w *Word) { w.Phase = consensus.Vacant })), "0:start1 3:term"},
		"draining goes on":           {begin(rules).at(3, with(func(w *Word) { w.Phase = consensus.Draining })).at(9, Tick{}), "0:start1"},
		"closed starts nothing":      {(&story{s: NewState(rules)}).at(0, with(func(w *Word) { w.Phase = consensus.Closed })), ""},
		"held has no deadline":       {begin(rules).at(9, held).at(5000, Tick{}), "0:start1"},
		"held until told otherwise":  {begin(rules).at(9, held).at(5000, no).at(5002, Tick{}), "0:start1 5000:term 5002:kill"},
		"held and then leased again": {begin(rules).at(9, held).at(50, with(func(w *Word) { w.Deadline = 60 * sec })).at(60, Tick{}), "0:start1 60:term"},
		"a new epoch is a new process": {begin(rules).at(3, with(func(w *Word) { w.Epoch, w.Deadline = 2, 30*sec })).at(4, Ended{143}).at(4.1, Started{43}).at(29, Tick{}).at(30, Tick{}),
			"0:start1 3:term 4:start2 30:term"},
		"a new generation too":        {begin(rules).at(3, with(func(w *Word) { w.Generation = 2 })), "0:start1 3:term"},
		"an older epoch is not heard": {begin(rules).at(1, with(func(w *Word) { w.Epoch, w.Leased = 0, false })), "0:start1"},
		"another boot is not heard":   {begin(rules).at(9, with(func(w *Word) { w.BootID, w.Deadline = "other", 90*sec })).at(10, Tick{}), "0:start1 10:term"},
		"it restarts with growing waits": {begin(rules).at(1, Ended{1}).at(1.4, Tick{}).at(1.5, Tick{}).at(1.6, Started{43}).at(2, Ended{1}).at(2.9, Tick{}).at(3, Tick{}),
			"0:start1 1.5:start1 3:start1"},
		"not started waits too":      {(&story{s: NewState(rules)}).at(0, yes).at(0, NotStarted{127}).at(0.4, Tick{}).at(0.5, Tick{}), "0:start1 0.5:start1"},
		"not started, once":          {(&story{s: NewState(Rules{BootID: "boot", Once: true})}).at(0, yes).at(0, NotStarted{127}).at(1, Tick{}), "0:start1 0:exit127"},
		"once":                       {begin(Rules{BootID: "boot", Once: true}).at(1, Ended{7}).at(2, yes), "0:start1 1:exit7"},
		"once, but ended by us":      {begin(Rules{BootID: "boot", Once: true}).at(1, no).at(2, Ended{143}).at(3, yes), "0:start1 1:term 3:start1"},
		"stop":                       {begin(rules).at(1, Stop{}).at(2, yes).at(2.5, Ended{143}).at(3, Tick{}), "0:start1 1:term 2.5:exit0"},
		"stop with nothing running":  {(&story{s: NewState(rules)}).at(0, Stop{}), "0:exit0"},
		"stop while starting":        {(&story{s: NewState(rules)}).at(0, yes).at(1, Stop{}).at(2, Started{42}).at(3, Ended{143}), "0:start1 2:term 3:exit0"},
		"deadline while starting":    {(&story{s: NewState(rules)}).at(0, yes).at(10, Tick{}).at(13, Started{42}).at(13, Ended{137}), "0:start1 13:kill"},
		"a chosen grace":             {begin(Rules{BootID: "boot", TermGrace: time.Second}).at(3, no).at(4, Tick{}), "0:start1 3:term 4:kill"},
		"a grace beyond half margin": {begin(Rules{BootID: "boot", TermGrace: time.Hour}).at(3, no).at(5, Tick{}), "0:start1 3:term 5:kill"},
		"a shorter word tightens": {(&story{s: NewState(rules)}).at(0, held).at(0.1, Started{42}).at(3, no).at(3.1, with(func(w *Word) { w.Deadline = 2 * sec })).at(4, Tick{}).at(5, Tick{}),
			"0:start1 3:term 4:kill 5:kill"},
		"back within the grace": {begin(rules).at(3, no).at(3.1, yes).at(4, Ended{143}), "0:start1 3:term 4:start1"},
	} {
		if got := strings.Join(tc.got.line, " "); got != tc.want {
			t.Errorf("%s:\n\tgot  %s\n\twant %s", name, got, tc.want)
		}
	}
}

func TestState_AWordFromAnotherClockIsNotUsed(t *testing.T) {
	s, as := NewState(rules).Next(10*sec, Heard{word(20*sec, 90*sec), 10 * sec})
	if len(as) != 0 || !strings.Contains(s.Why(10*sec), "time namespace") {
		t.Errorf("%v, %s", as, s.Why(10*sec))
	}
	if _, as = NewState(rules).Next(10*sec, Heard{word(2*sec, 90*sec), 9 * sec}); len(as) != 0 {
		t.Errorf("%v", as)
	}
}

func TestState_StatusSaysWhatMayRunBeforeItRuns(t *testing.T) {
	s := NewState(rules)
	if st := s.Status(0); st.Running || st.AllowedUntil != 0 || st.Held {
		t.Errorf("new: %+v", st)
	}
	s, _ = s.Next(0, heard(0, word(0, 10*sec)))
	if st := s.Status(0); !st.Running || st.AllowedUntil != 10*sec || st.Epoch != 1 {
		t.Errorf("starting: %+v", st)
	}
	s, _ = s.Next(0, Started{42})
	s, _ = s.Next(sec, heard(sec, Word{Phase: consensus.Draining, Epoch: 1, Generation: 1, BootID: "boot"}))
	if st := s.Status(sec); !st.Running || st.AllowedUntil != 0 || st.PID != 42 {
		t.Errorf("ending: %+v", st)
	}
	s, _ = s.Next(sec, Ended{143})
	if st := s.Status(sec); st.Running || st.AllowedUntil != 0 || st.Epoch != 0 || st.PID != 0 {
		t.Errorf("ended: %+v", st)
	}
}

// Whatever happens in whatever order: nothing runs without leave, and the end
// comes in time.
func TestState_NeverRunsBeyondItsTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rules{BootID: "boot", Once: rapid.Bool().Draw(t, "once"), TermGrace: time.Duration(rapid.IntRange(0, 5000).Draw(t, "grace")) * time.Millisecond}
		s, now := NewState(r), 100*sec
		const margin = 4 * time.Second
		var alive, termed, heardAny bool
		var last Word // the newest that allowed
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			var ev Event = Tick{}
			switch k := rapid.IntRange(0, 9).Draw(t, "event"); {
			case k < 5:
				w := Word{Phase: rapid.SampledFrom([]consensus.Phase{consensus.Open, consensus.Open, consensus.Draining, consensus.Closed, consensus.Vacant}).Draw(t, "phase"),
					Leased: rapid.IntRange(0, 4).Draw(t, "leased") > 0, Held: rapid.IntRange(0, 5).Draw(t, "held") == 0,
					Epoch: consensus.Epoch(rapid.IntRange(1, 3).Draw(t, "epoch")), Generation: 1, Margin: margin, Now: now, BootID: "boot",
					Deadline: now.Add(time.Duration(rapid.IntRange(-2000, 8000).Draw(t, "deadline")) * time.Millisecond)}
				if w.Allows() && (!heardAny || w.Epoch >= s.word.Epoch) {
					last, heardAny = w, true
				}
				ev = Heard{w, now}
			case k == 5 && s.child == starting:
				ev = Started{7}
			case k == 6 && alive && s.child != starting:
				ev, alive = Ended{1}, false
			case k == 7 && rapid.IntRange(0, 9).Draw(t, "stop") == 0:
				ev = Stop{}
			}
			was := s
			var as []Action
			s, as = s.Next(now, ev)
			killed := false
			for _, a := range as {
				switch a := a.(type) {
				case Start:
					if alive || !s.word.Allows() || (!s.word.Held && !now.Before(s.word.Deadline)) || a.Epoch != s.word.Epoch {
						t.Fatalf("started at %s (alive %v) by %+v", now, alive, s.word)
					}
					alive, termed = true, false
				case Term:
					termed = true
				case Kill:
					termed, killed = true, true
				case Exit:
					if alive && ev != (NotStarted{}) {
						t.Fatal("exit with a live command")
					}
				}
			}
			if !alive || s.child == starting {
				continue
			}
			if may, _ := s.may(now); (!may || s.epoch != s.word.Epoch) && !termed {
				t.Fatalf("at %s it runs without leave: %+v", now, s)
			}
			if !last.Held && !now.Before(last.Deadline.Add(margin/2)) && !killed {
				t.Fatalf("at %s it was not killed: deadline %s, %+v, before %+v", now, last.Deadline, s, was)
			}
			if at := s.KeeperAt(now); !last.Held && at.After(last.Deadline.Add(margin)) {
				t.Fatalf("the keeper waits until %s, deadline %s", at, last.Deadline)
			}
			if at := s.KeeperAt(now); at == 0 || last.Held && at.After(now.Add(margin)) {
				t.Fatalf("the keeper waits until %s at %s", at, now)
			}
		}
	})
}

func TestRegistry_WaitsForWhatMayRun(t *testing.T) {
	const m = 4 * time.Second
	yes := func(d clock.Instant) Word { return word(0, d) }
	no := Word{Phase: consensus.Draining, Margin: m}
	st := func(running bool, until clock.Instant) Status {
		return Status{ID: "g", Role: "ingestion", Running: running, AllowedUntil: until}
	}
	ids := func(r *Registry, now clock.Instant) int {
		t.Helper()
		l, err := r.Running(now, "ingestion")
		if err != nil {
			t.Error(err)
		}
		return len(l)
	}
	r := NewRegistry(0, 0, nil)
	_ = r.Answer(1*sec, st(false, 0), yes(10*sec)) // it has leave, and may start any moment
	if ids(r, 1*sec) != 1 {
		t.Error("a guard with leave counts as ended")
	}
	_ = r.Answer(2*sec, st(true, 10*sec), no) // it runs, and is told no
	if ids(r, 2*sec) != 1 {
		t.Error("a guard that runs counts as ended")
	}
	_ = r.Answer(3*sec, st(true, 0), no)
	if ids(r, 3*sec) != 1 {
		t.Error("a guard whose command is ending counts as ended")
	}
	_ = r.Answer(3*sec, st(false, 0), no)
	if ids(r, 3*sec) != 0 {
		t.Error("a guard that ended is waited for")
	}
	_ = r.Answer(4*sec, st(true, 0), yes(10*sec))
	if ids(r, 13*sec) != 1 || ids(r, 14*sec) != 0 {
		t.Error("a silent guard is waited for until deadline + margin")
	}
	held := yes(0)
	held.Held = true
	_ = r.Answer(20*sec, st(true, 0), held)
	if ids(r, 5000*sec) != 1 {
		t.Error("a guard that holds is not waited for")
	}
	gone := st(false, 0)
	gone.Gone = true
	_ = r.Answer(5001*sec, gone, held)
	if ids(r, 5001*sec) != 0 || len(r.List()) != 0 {
		t.Error("a guard that left is waited for")
	}
}

func TestRegistry_AGuardOfAFormerLifeIsWaitedForByItsOwnWord(t *testing.T) {
	no := Word{Phase: consensus.Draining, Margin: 4 * time.Second}
	busy := func(r *Registry, now clock.Instant) bool {
		l, _ := r.Running(now, "ingestion")
		return len(l) == 1
	}
	r := NewRegistry(0, 0, nil)
	st := Status{ID: "g", Role: "ingestion", Running: true, AllowedUntil: 10 * sec}
	_ = r.Answer(1*sec, st, no) // it runs by what it was told before, and may not hear this
	if !busy(r, 13*sec) || busy(r, 14*sec) {
		t.Error("not waited for until its own deadline and the margin")
	}
	st.AllowedUntil = 0
	_ = r.Answer(20*sec, st, no)
	if !busy(r, 23*sec) {
		t.Error("a command that still runs is not waited for")
	}
	st.Held = true
	_ = r.Answer(30*sec, st, no)
	if !busy(r, 5000*sec) {
		t.Error("a guard that holds by an earlier word is not waited for")
	}
}

func TestRegistry_AGuardHoldsUntilItSaysOtherwise(t *testing.T) {
	r := NewRegistry(0, 0, nil)
	held, leased := word(0, 0), word(0, 10*sec)
	held.Held = true
	st := Status{ID: "g", Role: "query"}
	_ = r.Answer(0, st, held)
	if len(r.Holding("query")) != 1 || len(r.Holding("ingestion")) != 0 {
		t.Error("told to hold, and not listed")
	}
	st.Held, st.Running = true, true
	_ = r.Answer(sec, st, leased) // this answer may get lost
	if len(r.Holding("query")) != 1 {
		t.Error("not listed although it may not have heard")
	}
	st.Held, st.AllowedUntil = false, 10*sec
	_ = r.Answer(2*sec, st, leased)
	if len(r.Holding("query")) != 0 {
		t.Error("listed after it said otherwise")
	}
}

func TestWordOf_SaysWhatTheHolderMay(t *testing.T) {
	timing := consensus.DefaultLeaseTiming
	h := consensus.NewHolder("ingestion", "east-1", "s", timing)
	if w := WordOf(h, sec, "boot", 3, timing); w.Allows() || w.Generation != 3 || w.Phase != consensus.Vacant || w.Why == "" {
		t.Errorf("vacant: %+v", w)
	}
	h = h.Observe(3, consensus.Role{Phase: consensus.Open, Holder: "east", Node: "east-1", Epoch: 7}, timing)
	if w := WordOf(h, sec, "boot", 3, timing); w.Allows() {
		t.Errorf("not renewed: %+v", w)
	}
	renew := func(at clock.Instant, nonce consensus.Nonce, p consensus.Policy) {
		h, _, _ = h.Attempt(at, nonce, p)
		h = h.Result(nonce, true)
	}
	renew(10*sec, 1, consensus.Demote)
	end := (10 * sec).Add(timing.TTL - timing.Margin)
	if w := WordOf(h, 11*sec, "boot", 3, timing); !w.Allows() || w.Held || w.Deadline != end || w.Epoch != 7 || w.Generation != 3 || w.Margin != timing.Margin || w.Now != 11*sec || w.BootID != "boot" {
		t.Errorf("leased: %+v", w)
	}
	if w := WordOf(h, end, "boot", 3, timing); w.Allows() {
		t.Errorf("past the deadline: %+v", w)
	}
	renew(12*sec, 2, consensus.Hold)
	for _, now := range []clock.Instant{13 * sec, 5000 * sec} {
		if w := WordOf(h, now, "boot", 3, timing); !w.Allows() || !w.Held || w.Deadline != 0 {
			t.Errorf("held: %+v", w)
		}
	}
	h = h.Observe(3, consensus.Role{Phase: consensus.Draining, Holder: "east", Node: "east-1", Epoch: 7}, timing)
	if w := WordOf(h, 13*sec, "boot", 3, timing); !w.Allows() || w.Held || w.Deadline != end.Add(2*time.Second) {
		t.Errorf("draining: %+v", w)
	}
	if w := WordOf(h.GiveUp(), 13*sec, "boot", 3, timing); w.Allows() {
		t.Errorf("given up: %+v", w)
	}
}

func TestRegistry_ANewDaemonDoesNotKnowYet(t *testing.T) {
	r := NewRegistry(100*sec, 3*time.Second, map[topology.Role]clock.Instant{"ingestion": 110 * sec})
	for role, at := range map[topology.Role]clock.Instant{"ingestion": 110 * sec, "query": 103 * sec} {
		if _, err := r.Running(at-1, role); err == nil {
			t.Errorf("%s is sure too early", role)
		}
		if l, err := r.Running(at, role); err != nil || len(l) != 0 {
			t.Errorf("%s: %v %v", role, l, err)
		}
	}
}

func TestRegistry_IsBounded(t *testing.T) {
	r := NewRegistry(0, 0, nil)
	for i := range guardsMax {
		if err := r.Answer(0, Status{ID: fmt.Sprint(i), Role: "query"}, word(0, 10*sec)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Answer(0, Status{ID: "more"}, word(0, 10*sec)); err == nil {
		t.Error("one more was taken")
	}
	if err := r.Answer(90*sec, Status{ID: "more"}, word(0, 10*sec)); err != nil {
		t.Errorf("old ones are not forgotten: %v", err)
	}
	if n := len(r.List()); n != 1 {
		t.Errorf("%d are left", n)
	}
	if !reflect.DeepEqual(r.List()[0].ID, "more") {
		t.Error("the wrong one is left")
	}
}
