package replicate

import (
	"flag"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is one source log, one target broker that checks producer sequences as
// Kafka does, and one mirror of one partition. Requests may be carried out
// late, answers may be lost, mirrors may die and start again.
type world struct {
	source      []entry // offsets 0.., batch by batch
	sourceStart int64
	epochStart  []int64 // source end at the beginning of each leader epoch
	target      []entry
	producers   map[int64]*producer
	late        []Append // sent, not yet carried out, and no answer will come

	m       Partition
	link    Run
	look    *Look
	fetch   *Fetch
	append  *Append
	foreign bool // somebody else wrote to the target
	odd     bool // the source deleted or rewrote something
	moved   int
}

// entry is a stored batch with the identity of its content.
type entry struct {
	Batch
	content int
	gap     bool // a hole: no batch at all
}

type producer struct {
	epoch int16
	last  []Append // the last five, newest last
	at    []int64
}

var contents int

func (w *world) sourceEnd() int64 { return end(w.source) }
func (w *world) targetEnd() int64 { return end(w.target) }

func end(log []entry) int64 {
	if len(log) == 0 {
		return 0
	}
	return log[len(log)-1].End()
}

func (w *world) start(t *rapid.T) {
	w.look, w.fetch, w.append = nil, nil, nil
	var acts []Action
	limits := testLimits
	limits.BufferBytes, limits.SeedMax = 200, 0 // about three batches; no prefixes
	w.m, acts = NewPartition(testID, w.link, limits)
	w.take(t, acts)
}

func (w *world) take(t *rapid.T, acts []Action) {
	for _, a := range acts {
		switch a := a.(type) {
		case Look:
			w.look, w.fetch = &a, nil
		case Fetch:
			w.fetch = &a
		case Append:
			if w.append != nil {
				t.Fatal("two appends of one partition at the same time")
			}
			if w.look != nil {
				t.Fatal("an append beside a look")
			}
			w.append = &a
		}
	}
}

func (w *world) next(t *rapid.T, ev Event) {
	before := w.m
	var acts []Action
	w.m, acts = w.m.Next(ev)
	if before.State == Frozen && w.m.State != Frozen {
		if _, retry := ev.(Retry); !retry {
			t.Fatalf("left frozen by %T", ev)
		}
	}
	if before.State == Frozen && len(acts) > 0 && w.m.State == Frozen {
		t.Fatalf("a frozen partition asks for %T", acts[0])
	}
	if w.m.End < before.End && before.State == Following && w.m.State == Following {
		t.Fatalf("rewound from %d to %d", before.End, w.m.End)
	}
	w.take(t, acts)
}

// store is the broker: compare-and-append by producer sequence.
func (w *world) store(a Append) (base int64, ok bool) {
	p := w.producers[a.Stamp.ProducerID]
	switch {
	case p == nil:
		p = &producer{epoch: a.Stamp.Epoch}
		w.producers[a.Stamp.ProducerID] = p
	case a.Stamp.Epoch < p.epoch:
		return 0, false
	case a.Stamp.Epoch > p.epoch:
		if a.Stamp.Sequence != 0 {
			return 0, false
		}
		*p = producer{epoch: a.Stamp.Epoch}
	default:
		for i, b := range p.last {
			if b.Stamp == a.Stamp && b.Batches[0].Count == a.Batches[0].Count {
				return p.at[i], true
			}
		}
		if b := p.last[len(p.last)-1]; a.Stamp.Sequence != b.Stamp.Sequence+b.Batches[0].Count {
			return 0, false
		}
	}
	base = w.targetEnd()
	e := entry{Batch: a.Batches[0], content: w.contentAt(a.Batches[0].Base)}
	e.Base, e.ProducerID, e.ProducerEpoch, e.BaseSequence = base, a.Stamp.ProducerID, a.Stamp.Epoch, a.Stamp.Sequence
	w.target = append(w.target, e)
	p.last, p.at = append(p.last, a), append(p.at, base)
	if len(p.last) > 5 {
		p.last, p.at = p.last[1:], p.at[1:]
	}
	w.moved++
	return base, true
}

func (w *world) contentAt(base int64) int {
	i := slices.IndexFunc(w.source, func(e entry) bool { return e.Base == base })
	if i < 0 {
		return -1
	}
	return w.source[i].content
}

func (w *world) at(log []entry, offset int64) *entry {
	i := slices.IndexFunc(log, func(e entry) bool { return e.Base <= offset && offset < e.End() && !e.gap })
	if i < 0 {
		return nil
	}
	return &log[i]
}

func (w *world) answerLook(t *rapid.T) {
	gen := w.look.Gen
	waited := w.look.After >= testLimits.RequestGrace
	w.look = nil
	if waited {
		w.late = nil // their time has passed
	}
	l := Looked{Gen: gen, SourceStart: w.sourceStart, SourceEnd: w.sourceEnd(), TargetTail: TargetTail{End: w.targetEnd()}, SourceEpoch: -1}
	if last := w.at(w.target, l.End-1); last != nil {
		b := last.Batch
		l.Last = &b
		_, l.RunKnown = w.producers[b.ProducerID]
		if src := w.at(w.source, l.End-1); src != nil && l.End-1 >= w.sourceStart {
			l.SourceEpoch = src.LeaderEpoch
			l.Compared, l.DiffersFrom = Different, last.Base
			if src.content == last.content {
				l.Compared = Same
			}
		}
		for _, e := range w.target {
			if _, kind := w.link.Author(e.Batch); kind == Foreign && e.Base >= w.link.Start {
				l.ForeignFrom = e.Base
				break
			}
		}
	}
	w.next(t, l)
}

func (w *world) answerFetch(t *rapid.T) {
	f := *w.fetch
	w.fetch = nil
	switch {
	case f.Offset < w.sourceStart || f.Offset > w.sourceEnd():
		w.next(t, FetchFailed{Gen: f.Gen, Kind: FetchOutOfRange})
		return
	case f.LastEpoch >= 0 && int(f.LastEpoch)+1 < len(w.epochStart) && w.epochStart[f.LastEpoch+1] < f.Offset:
		w.next(t, FetchFailed{Gen: f.Gen, Kind: FetchDiverged, At: w.epochStart[f.LastEpoch+1]})
		return
	}
	var got []Batch
	for _, e := range w.source {
		if !e.gap && e.End() > f.Offset && len(got) < 3 {
			got = append(got, e.Batch)
		}
	}
	w.next(t, Fetched{Gen: f.Gen, Batches: got, LogStart: w.sourceStart, End: w.sourceEnd(), LastStable: w.sourceEnd()})
}

// append_ carries the outstanding append out, or loses it or its answer.
func (w *world) answerAppend(t *rapid.T, how string) {
	a := *w.append
	w.append = nil
	switch how {
	case "never arrives":
		w.next(t, Appended{Answer: AppendUnknown})
	case "arrives late":
		w.late = append(w.late, a)
		w.next(t, Appended{Answer: AppendUnknown})
	case "answer lost":
		w.store(a)
		w.next(t, Appended{Answer: AppendUnknown})
	case "not leader":
		w.next(t, Appended{Answer: AppendRetry})
	default:
		if base, ok := w.store(a); ok {
			w.next(t, Appended{Base: base})
		} else {
			w.next(t, Appended{Answer: AppendOutOfOrder})
		}
	}
}

// check holds after every step: what this link wrote stands at its own offset
// with the source's content, once and without gaps, unless a person would know.
func (w *world) check(t *rapid.T) {
	next := int64(0)
	for _, e := range w.target {
		if e.Base != next {
			t.Fatalf("the target's log has a gap at %d", next)
		}
		next = e.End()
		_, kind := w.link.Author(e.Batch)
		if kind == Foreign || w.odd {
			continue
		}
		if want := w.contentAt(e.Base); want != e.content {
			t.Fatalf("offset %d holds content %d, the source's is %d", e.Base, e.content, want)
		}
	}
}

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

func TestPartition_NeverRewindsNeverGapsNeverDuplicates(t *testing.T) {
	harder(t, "rapid.steps", "100")
	harder(t, "rapid.checks", "1500")
	moved, frozen, runs := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w := &world{producers: map[int64]*producer{}, epochStart: []int64{0}, link: testRun(0)}
		addSource := func(t *rapid.T, n int32) {
			b := plain(w.sourceEnd(), n)
			b.LeaderEpoch = int32(len(w.epochStart) - 1)
			contents++
			w.source = append(w.source, entry{Batch: b, content: contents})
		}
		w.start(t)
		calm := rapid.Bool().Draw(t, "calm") // half of the worlds have crashes and losses, but nothing that must freeze
		steps := map[string]func(*rapid.T){
			"source writes": func(t *rapid.T) {
				for range rapid.IntRange(1, 4).Draw(t, "batches") {
					addSource(t, rapid.Int32Range(1, 4).Draw(t, "records"))
				}
			},
			"look": func(t *rapid.T) {
				if w.look == nil {
					t.Skip()
				}
				w.answerLook(t)
			},
			"look fails": func(t *rapid.T) {
				if w.look == nil {
					t.Skip()
				}
				gen := w.look.Gen
				w.look = nil
				w.next(t, LookFailed{Gen: gen})
			},
			"fetch": func(t *rapid.T) {
				if w.fetch == nil {
					t.Skip()
				}
				w.answerFetch(t)
			},
			"append": func(t *rapid.T) {
				if w.append == nil {
					t.Skip()
				}
				w.answerAppend(t, "")
			},
			"append again": func(t *rapid.T) {
				if w.append == nil {
					t.Skip()
				}
				w.answerAppend(t, "")
			},
			"append in trouble": func(t *rapid.T) {
				if w.append == nil {
					t.Skip()
				}
				w.answerAppend(t, rapid.SampledFrom([]string{"never arrives", "arrives late", "answer lost", "not leader"}).Draw(t, "how"))
			},
			"late request": func(t *rapid.T) {
				if len(w.late) == 0 {
					t.Skip()
				}
				w.store(w.late[0])
				w.late = w.late[1:]
			},
			"target moves": func(t *rapid.T) { w.next(t, TargetMoved{}) },
			"mirror dies": func(t *rapid.T) {
				if w.append != nil && rapid.Bool().Draw(t, "its request lives on") {
					w.late = append(w.late, *w.append)
				}
				w.start(t)
			},
			"broker forgets producers": func(t *rapid.T) {
				if len(w.late) > 0 || w.append != nil {
					t.Skip() // hours pass until it forgets
				}
				clear(w.producers)
				w.next(t, TargetMoved{}) // or it restarted, with an empty log
			},
			"": w.check,
		}
		if !calm {
			steps["foreign write"] = func(t *rapid.T) {
				b := plain(w.targetEnd(), 1)
				contents++
				w.target = append(w.target, entry{Batch: b, content: contents})
				w.foreign = true
			}
			steps["source retention"] = func(t *rapid.T) {
				if len(w.source) == 0 {
					t.Skip()
				}
				w.sourceStart = max(w.sourceStart, rapid.SampledFrom(w.source).Draw(t, "up to").End())
			}
			steps["source truncated"] = func(t *rapid.T) {
				if len(w.source) < 2 {
					t.Skip()
				}
				w.source = w.source[:len(w.source)-rapid.IntRange(1, min(3, len(w.source)-1)).Draw(t, "batches")]
				for len(w.source) > 0 && w.source[len(w.source)-1].gap {
					w.source = w.source[:len(w.source)-1] // a log ends with a batch
				}
				w.sourceStart = min(w.sourceStart, w.sourceEnd())
				w.epochStart = append(w.epochStart, w.sourceEnd())
				w.odd = true
			}
			steps["retry"] = func(t *rapid.T) { w.next(t, Retry{}) }
		}
		t.Repeat(steps)

		// Peace: everything that is asked for is done. Then the mirror has all
		// records, or it has stopped and says why.
		moves := w.moved
	peace:
		for range 10_000 {
			switch {
			case w.append != nil:
				w.answerAppend(t, "")
			case w.look != nil:
				w.answerLook(t)
			case w.fetch != nil && w.m.End != w.sourceEnd(): // beyond it too: a source that was truncated says so
				w.answerFetch(t)
			default:
				break peace
			}
		}
		w.check(t)
		switch {
		case w.m.State == Frozen:
			frozen++
			if calm {
				t.Fatalf("frozen for nothing: %s", w.m.Freeze)
			}
		case w.foreign && w.m.End == w.sourceEnd() && w.moved == moves:
			// Nothing was written since, so nothing was noticed yet.
		case w.m.End != w.sourceEnd() || w.targetEnd() != w.sourceEnd():
			t.Fatalf("%s at %d, target ends at %d, source at %d, trouble %q", w.m.State, w.m.End, w.targetEnd(), w.sourceEnd(), w.m.Trouble)
		case w.foreign && w.at(w.target, w.targetEnd()-1) != nil:
			last := w.at(w.target, w.targetEnd()-1)
			if _, kind := w.link.Author(last.Batch); kind == Foreign {
				t.Fatal("runs behind a foreign record")
			}
		}
		moved += w.moved
	})
	if moved < 10*runs || frozen == 0 {
		t.Fatalf("%d runs moved %d batches and froze %d times: too little to prove anything", runs, moved, frozen)
	}
	t.Logf("%d runs, %d batches moved, %d frozen", runs, moved, frozen)
}
