package replicate

import (
	"flag"
	"os"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// harder raises one of rapid's flags for one test, unless it was set by hand.
func harder(t *testing.T, name, value string) {
	f := flag.Lookup(name)
	if f == nil || f.Value.String() != f.DefValue {
		return
	}
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flag.Set(name, f.DefValue) })
}

// modelSchedules is how many schedules run: HOLDFAST_SCHEDULES, or enough for each day.
func modelSchedules(t *testing.T) string {
	n := os.Getenv("HOLDFAST_SCHEDULES")
	if n == "" {
		return "1000"
	}
	if _, err := strconv.Atoi(n); err != nil {
		t.Fatalf("HOLDFAST_SCHEDULES=%q: want a number", n)
	}
	return n
}

// Half of the worlds are calm: mirrors die, sleep and race, brokers lose what
// they may, but nothing happens for which a partition may freeze.
func TestPartition_NeverRewindsNeverGapsNeverDuplicates(t *testing.T) {
	harder(t, "rapid.steps", "150")
	harder(t, "rapid.checks", modelSchedules(t))
	runs, moved, late, frozen, promoted, filled, seeded := 0, 0, 0, 0, 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		calm := rapid.Bool().Draw(t, "calm")
		base := rapid.SampledFrom([]int64{0, 0, 3, 4090, 16_380, 32_765}).Draw(t, "base")
		w := newWorld(rapid.IntRange(1, modelMirrors).Draw(t, "mirrors"), base, t.Fatalf)
		if os.Getenv("MODEL_TRACE") != "" {
			w.log = t.Logf
		}
		w.compacted = rapid.IntRange(0, 3).Draw(t, "compacted") == 0
		if base == 0 && rapid.Bool().Draw(t, "prefix") {
			w.write(rapid.SampledFrom([]int32{5, 4091, 16_381}).Draw(t, "retained"), true)
			w.sourceStart, w.prefix = w.sourceEnd(), true
		}
		w.sourceHigh = w.sourceEnd()
		w.begin()
		t.Repeat(w.steps(calm))
		before := w.moved
		w.peace()
		w.rested(calm, before)
		for _, x := range w.mirrors {
			if x.m.State == Frozen {
				frozen++
			}
			filled += int(x.m.Filled)
		}
		if w.promoted {
			promoted++
		}
		if len(w.target) > 0 && len(w.target[0].Raw) == 0 && !w.target[0].Control() {
			seeded++
		}
		moved, late = moved+w.moved, late+w.late
	})
	if moved < 10*runs || runs > 100 && (frozen == 0 || promoted == 0 || filled == 0 || seeded == 0 || late == 0) {
		t.Fatalf("%d runs: %d batches, %d late, %d frozen, %d promoted, %d offsets filled, %d seeded: too little to prove anything", runs, moved, late, frozen, promoted, filled, seeded)
	}
	t.Logf(`{"schedules":%d,"batches":%d,"late":%d,"frozen":%d,"promoted":%d,"filled":%d,"seeded":%d}`, runs, moved, late, frozen, promoted, filled, seeded)
}

// steps are what may happen next.
func (w *world) steps(calm bool) map[string]func(*rapid.T) {
	pick := func(t *rapid.T, fits func(*mirror) bool) *mirror {
		var of []*mirror
		for _, x := range w.mirrors {
			if !x.paused && fits(x) {
				of = append(of, x)
			}
		}
		if len(of) == 0 {
			t.Skip()
		}
		return of[rapid.IntRange(0, len(of)-1).Draw(t, "mirror")]
	}
	any := func(*mirror) bool { return true }
	wants := func(x *mirror) bool { return x.append != nil || x.mark != nil || x.trim != nil }
	some := func(t *rapid.T) *request {
		var of []*request
		for _, r := range w.requests {
			if !r.done {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			t.Skip()
		}
		return of[rapid.IntRange(0, len(of)-1).Draw(t, "request")]
	}
	between := func(t *rapid.T, from, to int64) int64 {
		if from >= to {
			t.Skip()
		}
		return rapid.Int64Range(from, to).Draw(t, "to")
	}
	// Several steps of one kind in a row: a world of single steps stays small.
	serve := func(t *rapid.T) {
		x := pick(t, any)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			for _, r := range w.requests {
				if r.owner == x {
					w.carryOut(r, len(r.marks))
					w.high = w.targetEnd()
					break
				}
			}
			if !w.serve(x) {
				return
			}
		}
	}
	steps := map[string]func(*rapid.T){
		"": func(*rapid.T) { w.check() },
		"source writes": func(t *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(t, "batches") {
				w.write(rapid.Int32Range(1, 4).Draw(t, "records"), false)
			}
		},
		"source aborts":  func(t *rapid.T) { w.write(rapid.SampledFrom([]int32{1, 1, 2, 7, 150}).Draw(t, "offsets"), true) },
		"source settles": func(t *rapid.T) { w.sourceHigh = between(t, w.sourceHigh, w.sourceEnd()) },
		"source settled": func(*rapid.T) { w.sourceHigh = w.sourceEnd() },
		"serve":          serve,
		"serve again":    serve,
		"serve more":     serve,
		"look reads": func(t *rapid.T) {
			w.readLook(pick(t, func(x *mirror) bool { return (x.look != nil || x.target != nil) && x.sent == nil }))
		},
		"look is told": func(t *rapid.T) {
			x := pick(t, func(x *mirror) bool { return x.seen != nil })
			ev := x.seen
			x.seen = nil
			w.next(x, ev)
		},
		"fetch reads": func(t *rapid.T) { w.readFetch(pick(t, func(x *mirror) bool { return x.fetch != nil })) },
		"fetch is told": func(t *rapid.T) {
			x := pick(t, func(x *mirror) bool { return x.fetched != nil })
			ev := x.fetched
			x.fetched = nil
			w.next(x, ev)
		},
		"send": func(t *rapid.T) { w.send(pick(t, wants)) },
		"refused for replicas": func(t *rapid.T) {
			w.unsent(pick(t, wants))
		},
		"carried out": func(t *rapid.T) {
			r := some(t)
			w.carryOut(r, rapid.SampledFrom([]int{1, 2, 100}).Draw(t, "markers"))
		},
		"answer": func(t *rapid.T) {
			if !w.reply(pick(t, func(x *mirror) bool { return x.sent != nil })) {
				t.Skip()
			}
		},
		"answer is lost":  func(t *rapid.T) { w.lose(pick(t, func(x *mirror) bool { return x.sent != nil }).sent) },
		"request is lost": func(t *rapid.T) { r := some(t); r.done = r != w.fence; w.lost(r) },
		"replicas follow": func(t *rapid.T) { w.high = between(t, w.high, w.targetEnd()) },
		"replicas are up": func(*rapid.T) { w.high = w.targetEnd() },
		"leader is elected": func(t *rapid.T) {
			w.elect(rapid.Int64Range(w.high, w.targetEnd()).Draw(t, "end"))
		},
		"move is told": func(t *rapid.T) {
			x := pick(t, func(x *mirror) bool { return x.stale })
			x.stale = false
			w.next(x, TargetMoved{})
		},
		"lease":      func(t *rapid.T) { w.grant(pick(t, any), w.exclusive()) },
		"lease lost": func(t *rapid.T) { w.leaseLost(pick(t, any)) },
		"killed":     func(t *rapid.T) { w.restart(pick(t, any)) },
		"killed between choice and write": func(t *rapid.T) {
			x := pick(t, wants)
			w.send(x)
			w.restart(x)
		},
		"paused": func(t *rapid.T) { pick(t, any).paused = true },
		"woken": func(t *rapid.T) {
			for _, x := range w.mirrors {
				if x.paused {
					w.wake(x)
					return
				}
			}
			t.Skip()
		},
		"broker forgets producers": func(t *rapid.T) {
			if len(w.requests) > 0 || w.fences != nil || w.high != w.targetEnd() {
				t.Skip()
			}
			for _, x := range w.mirrors { // hours pass until it forgets
				if wants(x) || x.paused || x.seen != nil || x.fetched != nil {
					t.Skip()
				}
			}
			clear(w.producers)
			w.forgotten = len(w.target)
			for _, x := range w.mirrors {
				w.next(x, TargetMoved{}) // or it restarted, with an empty log
			}
		},
		"prefix is deleted": func(t *rapid.T) {
			// While nothing but a prefix stands in the target, nobody loses a record.
			if w.link.Start != 0 || w.holdsData() || w.start > 0 || len(w.source) == 0 || w.targetEnd() > 0 && w.sourceStart == 0 {
				t.Skip()
			}
			for _, e := range w.target {
				if e.Control() {
					t.Skip()
				}
			}
			for _, r := range w.requests {
				if r.append == nil || !r.append.Filler {
					t.Skip()
				}
			}
			for _, x := range w.mirrors {
				if x.mark != nil || x.append != nil && !x.append.Filler || x.sent != nil && x.sent.append != nil && !x.sent.append.Filler || x.m.queue != nil || x.fetched != nil {
					t.Skip()
				}
			}
			to := w.source[rapid.IntRange(0, len(w.source)-1).Draw(t, "up to")].End()
			if to > w.sourceStart && to <= w.sourceHigh && w.targetEnd() <= to {
				w.sourceStart, w.prefix = to, true
			}
		},
		"promotion": func(t *rapid.T) {
			if !w.holdsData() || !w.promote() {
				t.Skip()
			}
		},
		"promoted and in use": func(t *rapid.T) {
			if !w.promoted {
				t.Skip()
			}
			for range rapid.SampledFrom([]int{1, 5, 60}).Draw(t, "records") {
				w.append(plain(w.targetEnd(), 1))
			}
		},
	}
	if w.compacted {
		steps["cleaned"] = func(t *rapid.T) {
			if len(w.source) < 3 {
				t.Skip()
			}
			w.clean(rapid.IntRange(0, len(w.source)-2).Draw(t, "batch"))
		}
	}
	if !calm {
		steps["foreign write"] = func(*rapid.T) {
			w.append(plain(w.targetEnd(), 1))
			w.foreign, w.reason = true, "a foreign write"
		}
		steps["retention"] = func(t *rapid.T) {
			if len(w.source) == 0 {
				t.Skip()
			}
			w.sourceStart = max(w.sourceStart, min(w.sourceHigh, w.source[rapid.IntRange(0, len(w.source)-1).Draw(t, "up to")].End()))
			w.reason = "retention"
		}
		steps["loss accepted"] = func(t *rapid.T) {
			x := pick(t, func(x *mirror) bool { return x.m.State == Frozen && x.m.Freeze.Reason == Lost })
			f := x.m.Freeze
			w.accepted = append(w.accepted, Range{Start: f.From, End: f.To})
			for _, y := range w.mirrors {
				w.next(y, Accepted{From: f.From, To: f.To})
			}
		}
		steps["source truncated"] = func(t *rapid.T) {
			if len(w.source) < 2 {
				t.Skip()
			}
			w.source = w.source[:len(w.source)-rapid.IntRange(1, min(3, len(w.source)-1)).Draw(t, "batches")]
			w.sourceStart, w.sourceHigh = min(w.sourceStart, w.sourceEnd()), min(w.sourceHigh, w.sourceEnd())
			w.epochStart = append(w.epochStart, w.sourceEnd())
			w.odd, w.reason = true, "truncation"
		}
		steps["retry"] = func(t *rapid.T) { w.next(pick(t, any), Retry{}) }
	}
	return steps
}

// lost ends a request that never arrives.
func (w *world) lost(r *request) {
	if r == w.fence {
		w.drop(r)
		w.fence = nil
		return
	}
	w.lose(r)
}

// rested says what must be true when nothing moves any more: the mirrors have
// all records, or they have stopped and say why.
func (w *world) rested(calm bool, before int) {
	if calm && w.reason != "" {
		w.fatal("a calm world with %s", w.reason)
	}
	if w.fences != nil {
		return // check says the rest
	}
	there := false
	for _, x := range w.mirrors {
		switch {
		case x.m.State == Frozen:
			there = true
		case w.foreign || w.odd:
			there = there || x.m.End == w.sourceEnd() || w.moved == before
		case x.m.State == Waiting && (w.compacted || w.sourceStart > w.link.Start):
		case x.m.State != Following || x.m.End != w.sourceEnd():
			w.fatal("%s at %d, the source ends at %d: %s", x.m.State, x.m.End, w.sourceEnd(), w)
		default:
			there = true
		}
	}
	if !there && w.sourceEnd() > w.link.Start {
		w.fatal("nobody follows: %s", w)
	}
	blank := w.prefix && !w.holdsData() && w.start > 0
	if w.reason == "" && !blank && w.targetEnd() != w.sourceEnd() {
		w.fatal("the target ends at %d, the source at %d: %s", w.targetEnd(), w.sourceEnd(), w)
	}
}
