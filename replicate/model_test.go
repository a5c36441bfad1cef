package replicate

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// The model of one mirrored partition: two logs whose high watermark may lag
// behind their end, a target broker that checks what Kafka checks, and mirrors
// that know nothing of each other. What is sent may be carried out late, in
// parts, or never, and with no one left to hear the answer.

// entry is a stored batch; Raw holds the identity of each record's content, 8
// bytes a record. Markers keep their real bytes.
type entry struct {
	Batch
	void bool // at the source: holds no record
}

// producer is what a broker remembers of one producer id.
type producer struct {
	epoch       int16
	coordinator int32 // of its last marker
	last        []sentBatch
}

type sentBatch struct {
	sequence, count int32
	base            int64
}

// request is a write on its way to the target's broker.
type request struct {
	owner  *mirror // nil: nobody waits for the answer
	append *Append
	marks  []Mark
	at     int // markers that were carried out
	trim   *Trim
	done   bool
	needs  int64 // the high watermark at which it is answered
	answer Answer
	base   int64
}

// mirror is one machine with what it wants and has not got yet.
type mirror struct {
	m       Partition
	paused  bool
	stale   bool // the target moved and it was not told
	look    *Look
	target  *LookTarget
	fetch   *Fetch
	seen    Event // what a look has read, not yet told
	fetched Event
	append  *Append
	mark    *MarkHole
	trim    *Trim
	lease   *Lease
	sent    *request
	held    Generation
}

// world is everything.
type world struct {
	fatal func(format string, args ...any)
	log   func(format string, args ...any) // nil: nobody wants to know
	link  Run

	source      []entry
	sourceStart int64
	sourceHigh  int64
	truth       map[int64]uint64 // the record that an offset has at the source
	cleaned     map[int64]bool   // records that the log cleaner took
	epochStart  []int64          // source end at the beginning of each leader epoch

	target     []entry
	start      int64 // of the target's log
	high       int64
	producers  map[int64]*producer
	forgotten  int // entries whose producers the broker forgot
	requests   []*request
	generation Generation // the last one handed out
	settled    int32      // its block is known to be alone

	mirrors   []*mirror
	compacted bool
	prefix    bool // the source began above 0
	accepted  []Range
	odd       bool   // the source's history was rewritten
	foreign   bool   // somebody else wrote to the target
	reason    string // why a partition may freeze, empty: for nothing

	fences      []Mark // that a promotion wants
	fenceFrom   int64
	fence       *request
	promoted    bool
	x           int64
	moved, late int
	contents    uint64
}

const modelMirrors = 4

var modelLimits = func() Limits {
	l := testLimits
	l.BufferBytes, l.HoleMax, l.FillerMax, l.SeedMax, l.TogetherMax = 400, 100_000, 3000, 1_000_000, 4
	return l
}()

func newWorld(mirrors int, base int64, fatal func(string, ...any)) *world {
	w := &world{
		fatal: fatal, link: testRun(base), truth: map[int64]uint64{}, cleaned: map[int64]bool{}, epochStart: []int64{base},
		sourceStart: base, sourceHigh: base, start: base, high: base, producers: map[int64]*producer{},
	}
	for range mirrors {
		w.mirrors = append(w.mirrors, &mirror{})
	}
	return w
}

func (w *world) begin() {
	for _, x := range w.mirrors {
		w.restart(x)
	}
}

// restart kills a mirror, wherever it is, and starts it again. What it sent
// lives on.
func (w *world) restart(x *mirror) {
	if x.sent != nil {
		x.sent.owner = nil
		w.late++
	}
	var acts []Action
	*x = mirror{}
	x.m, acts = NewPartition(testID, w.link, modelLimits)
	w.take(x, acts)
	if w.compacted {
		w.next(x, Policy{Compacted: true, Deletes: true})
	}
}

func (w *world) take(x *mirror, acts []Action) {
	for _, a := range acts {
		switch a := a.(type) {
		case Look:
			x.look, x.target, x.fetch, x.seen = &a, nil, nil, nil
		case LookTarget:
			x.look, x.target, x.seen = nil, &a, nil
		case Fetch:
			x.fetch = &a
		case Append:
			w.alone(x)
			x.append = &a
		case MarkHole:
			w.alone(x)
			x.mark = &a
		case Trim:
			w.alone(x)
			x.trim = &a
		case Lease:
			x.lease = &a
		}
	}
}

// trace tells a failed schedule step by step, with MODEL_TRACE=1.
func (w *world) trace(format string, args ...any) {
	if w.log != nil {
		w.log(format, args...)
	}
}

// alone demands that a mirror has no other write, and reads no ends beside one.
func (w *world) alone(x *mirror) {
	if x.append != nil || x.mark != nil || x.trim != nil || x.sent != nil {
		w.fatal("two writes of one partition at the same time")
	}
	if x.look != nil || x.target != nil {
		w.fatal("a write beside a look")
	}
}

func (w *world) next(x *mirror, ev Event) {
	before := x.m
	var acts []Action
	x.m, acts = x.m.Next(ev)
	w.trace("mirror %d: %T %+v -> %s at %d, wants %+v", slices.Index(w.mirrors, x), ev, ev, x.m.State, x.m.End, acts)
	switch before.State {
	case Frozen:
		_, retry := ev.(Retry)
		_, accepted := ev.(Accepted)
		if x.m.State != Frozen && !retry && !accepted {
			w.fatal("left frozen by %T", ev)
		}
		if x.m.State == Frozen && len(acts) > 0 {
			w.fatal("a frozen partition asks for %T", acts[0])
		}
	case Promoted:
		if x.m.State != Promoted || len(acts) > 0 {
			w.fatal("a promoted partition goes on: %s, %d actions", x.m.State, len(acts))
		}
	default:
	}
	if before.State.Working() && x.m.State.Working() && x.m.End < before.End {
		w.fatal("rewound from %d to %d", before.End, x.m.End)
	}
	// Between the trim of a prefix and the first record the target's log tells
	// nothing: a mirror that starts there, with a source that moved on, stops.
	blank := w.prefix && !w.holdsData() && w.start > 0 && x.m.Freeze != nil && x.m.Freeze.Reason == Lost
	if x.m.State == Frozen && before.State != Frozen && w.reason == "" && !blank {
		w.fatal("frozen for nothing: %s", x.m.Freeze)
	}
	w.take(x, acts)
}

func end(log []entry, start int64) int64 {
	if len(log) == 0 {
		return start
	}
	return log[len(log)-1].End()
}

func (w *world) sourceEnd() int64 { return end(w.source, w.epochStart[0]) }
func (w *world) targetEnd() int64 { return end(w.target, w.link.Start) }

// write adds n records to the source, or n offsets without any.
func (w *world) write(n int32, void bool) {
	base := w.sourceEnd()
	b := Batch{Header: Header{Base: base, LastDelta: n - 1, Count: n, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, LeaderEpoch: int32(len(w.epochStart) - 1)}}
	if void {
		b = VoidBatch(base, base+int64(n), b.LeaderEpoch)
	}
	for i := range int64(n) {
		delete(w.cleaned, base+i)
		delete(w.truth, base+i)
		if void {
			continue
		}
		w.contents++
		w.truth[base+i] = w.contents
		b.Raw = binary.BigEndian.AppendUint64(b.Raw, w.contents)
	}
	w.source = append(w.source, entry{b, void})
}

// clean takes the records of one batch at the source. A log keeps its last one.
func (w *world) clean(i int) {
	e := &w.source[i]
	for o := e.Base; o < e.End(); o++ {
		w.cleaned[o] = true
	}
	*e = entry{VoidBatch(e.Base, e.End(), e.LeaderEpoch), true}
}

func at(log []entry, offset int64) *entry {
	i, ok := slices.BinarySearchFunc(log, offset, func(e entry, o int64) int {
		switch {
		case e.End() <= o:
			return -1
		case e.Base > o:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &log[i]
}

// readFetch reads what a Fetch asked for: whole batches below the high
// watermark, the first cut to where the target ends.
func (w *world) readFetch(x *mirror) {
	f := *x.fetch
	x.fetch = nil
	switch {
	case f.Offset < w.sourceStart || f.Offset > w.sourceHigh:
		x.fetched = FetchFailed{Gen: f.Gen, Kind: FetchOutOfRange}
		return
	case f.LastEpoch >= 0 && int(f.LastEpoch)+1 < len(w.epochStart) && w.epochStart[f.LastEpoch+1] < f.Offset:
		x.fetched = FetchFailed{Gen: f.Gen, Kind: FetchDiverged, At: w.epochStart[f.LastEpoch+1]}
		return
	}
	var got []Batch
	for _, e := range w.source {
		if e.End() <= f.Offset || e.End() > w.sourceHigh {
			continue
		}
		b := e.Batch
		switch {
		case e.void:
			b = VoidBatch(max(b.Base, f.Offset), b.End(), b.LeaderEpoch)
		case b.Base < f.Offset:
			cut := int32(f.Offset - b.Base)
			b.Base, b.LastDelta, b.Count, b.Raw = f.Offset, b.LastDelta-cut, b.Count-cut, b.Raw[8*cut:]
		}
		if got = append(got, b); len(got) == 3 {
			break
		}
	}
	x.fetched = Fetched{Gen: f.Gen, Batches: got, LogStart: w.sourceStart, End: w.sourceHigh, LastStable: w.sourceHigh}
}

// readLook reads both ends, or the target's. An unsettled end tells nothing.
func (w *world) readLook(x *mirror) {
	if x.target != nil {
		gen := x.target.Gen
		x.target = nil
		if w.high != w.targetEnd() {
			x.seen = LookFailed{Gen: gen, Why: "not settled"}
			return
		}
		x.seen = TargetLooked{Gen: gen, TargetTail: w.tail()}
		return
	}
	gen, after := x.look.Gen, x.look.After
	x.look = nil
	if after >= modelLimits.RequestGrace {
		w.silence(x)
		if x.look == nil && x.m.State != Resuming { // it was told something meanwhile
			return
		}
	}
	if w.high != w.targetEnd() {
		x.seen = LookFailed{Gen: gen, Why: "not settled"}
		return
	}
	l := Looked{Gen: gen, SourceStart: w.sourceStart, SourceEnd: w.sourceHigh, SourceEpoch: -1, TargetTail: w.tail()}
	if l.Last != nil {
		_, l.RunKnown = w.producers[l.Last.ProducerID]
		if src := at(w.source, l.End-1); src != nil && l.End-1 >= w.sourceStart && l.End <= w.sourceHigh {
			l.SourceEpoch = src.LeaderEpoch
			if !src.void && !l.Last.Control() && len(l.Last.Raw) > 0 {
				l.Compared = Same
				if want := w.truth[l.End-1]; contentAt(*l.Last, l.End-1) != want {
					l.Compared, l.DiffersFrom = Different, l.Last.Base
				}
			}
		}
	}
	x.seen = l
}

func contentAt(b Batch, o int64) uint64 { return binary.BigEndian.Uint64(b.Raw[8*(o-b.Base):]) }

func (w *world) tail() TargetTail {
	t := TargetTail{Start: w.start, End: w.targetEnd()}
	last := at(w.target, t.End-1)
	if t.End <= w.start || last == nil {
		return t
	}
	b := last.Batch
	t.Last = &b
	if _, kind := w.link.Author(b); kind != Foreign || t.End <= w.link.Start {
		return t
	}
	for _, e := range w.target {
		if _, kind := w.link.Author(e.Batch); kind == Foreign && e.End() > w.start {
			t.ForeignFrom, t.Fenced = e.Base, e.IsFence()
			return t
		}
	}
	return t
}

// send puts what a mirror wants written on its way.
func (w *world) send(x *mirror) {
	r := &request{owner: x}
	switch {
	case x.append != nil:
		a := *x.append
		if !a.Filler && len(a.Batches) > 1 && w.contents%2 == 0 { // merged
			first := a.Batches[0]
			first.Raw = slices.Clone(first.Raw)
			for _, b := range a.Batches[1:] {
				first.LastDelta += b.LastDelta + 1
				first.Count += b.Count
				first.Raw = append(first.Raw, b.Raw...)
			}
			r.base = int64(len(a.Batches)) // how many are in it, until it is carried out
			a.Batches = []Batch{first}
		} else {
			r.base = 1
			a.Batches = a.Batches[:1]
		}
		r.append = &a
		r.at = int(r.base)
	case x.mark != nil:
		for o := x.mark.From; o < x.mark.To; o++ {
			r.marks = append(r.marks, w.link.Mark(o, x.mark.Generation))
		}
	case x.trim != nil:
		r.trim = x.trim
	}
	x.append, x.mark, x.trim, x.sent = nil, nil, nil, r
	w.requests = append(w.requests, r)
}

// carryOut lets the broker work on a request: all of an append, or the next n
// markers.
func (w *world) carryOut(r *request, n int) {
	switch {
	case r.done:
	case r.append != nil:
		r.done = true
		r.answer, r.base, r.needs = w.store(*r.append)
	case r.trim != nil:
		r.done = true
		if r.trim.To <= w.high {
			w.start = max(w.start, r.trim.To)
		} else {
			r.answer = AppendRetry
		}
	default:
		for range n {
			if r.at < len(r.marks) {
				if !w.storeMark(r.marks[r.at]) {
					r.answer = AppendOutOfOrder
				}
				r.at++
			}
		}
		r.done, r.needs = r.at >= len(r.marks), w.targetEnd()
	}
	if r.done && r.owner == nil && r != w.fence {
		w.drop(r)
	}
}

// store is the broker's check of producer epoch and sequence.
func (w *world) store(a Append) (answer Answer, base, needs int64) {
	b := a.Batches[0]
	p := w.producers[a.Stamp.ProducerID]
	switch {
	case p == nil: // accepted anywhere
	case a.Stamp.Epoch < p.epoch:
		return AppendOutOfOrder, 0, 0
	case a.Stamp.Epoch > p.epoch:
		if a.Stamp.Sequence != 0 {
			return AppendOutOfOrder, 0, 0
		}
	default:
		next := int32(0)
		for _, s := range p.last {
			if s.sequence == a.Stamp.Sequence && s.count == b.Count {
				return AppendAccepted, s.base, s.base + int64(s.count)
			}
			next = s.sequence + s.count
		}
		if a.Stamp.Sequence != next {
			return AppendOutOfOrder, 0, 0
		}
	}
	base = w.targetEnd()
	b.Base, b.ProducerID, b.ProducerEpoch, b.BaseSequence = base, a.Stamp.ProducerID, a.Stamp.Epoch, a.Stamp.Sequence
	w.append(b)
	return AppendAccepted, base, b.End()
}

// storeMark is the broker's check of markers: what is lower is refused, what is
// equal passes.
func (w *world) storeMark(m Mark) bool {
	if p := w.producers[m.ProducerID]; p != nil && (m.Epoch < p.epoch || m.CoordinatorEpoch < p.coordinator) {
		return false
	}
	w.append(control(w.targetEnd(), m))
	return true
}

func (w *world) append(b Batch) {
	w.target = append(w.target, entry{Batch: b})
	w.trace("stored %+v", b.Header)
	w.remember(b)
	w.moved++
}

// remember keeps the producer's state, as a replica that copies b does.
func (w *world) remember(b Batch) {
	if b.ProducerID < 0 {
		return
	}
	p := w.producers[b.ProducerID]
	if p == nil || b.ProducerEpoch > p.epoch {
		coordinator := int32(-1)
		if p != nil {
			coordinator = p.coordinator
		}
		p = &producer{epoch: b.ProducerEpoch, coordinator: coordinator}
		w.producers[b.ProducerID] = p
	}
	if b.Control() {
		p.coordinator, _ = b.CoordinatorEpoch()
		return
	}
	if p.last = append(p.last, sentBatch{b.BaseSequence, b.Count, b.Base}); len(p.last) > 5 {
		p.last = p.last[1:]
	}
}

// elect makes another replica the leader: one that lacks what lies above to,
// which is no lower than the high watermark.
func (w *world) elect(to int64) {
	for len(w.target) > 0 && end(w.target, 0) > to {
		w.target = w.target[:len(w.target)-1]
	}
	w.forgotten = min(w.forgotten, len(w.target))
	clear(w.producers)
	for _, e := range w.target[w.forgotten:] {
		w.remember(e.Batch)
	}
	w.high = min(w.high, w.targetEnd())
	for _, r := range slices.Clone(w.requests) {
		switch half := r.append == nil && r.at > 0 && !r.done; {
		case half && r == w.fence:
			w.drop(r)
		case half || r.done && r.needs > w.targetEnd(): // a request is one leader's, and its answer will not come
			r.done = true
			w.lose(r)
		}
	}
	for _, x := range w.mirrors {
		x.stale = true
	}
}

func (w *world) drop(r *request) {
	w.requests = slices.DeleteFunc(w.requests, func(q *request) bool { return q == r })
	if w.fence == r {
		w.fence = nil
	}
}

// lose ends a request whose answer will not come. If it was not carried out, it
// may still be.
func (w *world) lose(r *request) {
	x := r.owner
	r.owner = nil
	if r.done {
		w.drop(r)
	} else {
		w.late++
	}
	if x == nil {
		return
	}
	x.sent = nil
	w.tell(x, r, AppendUnknown)
}

// tell gives a mirror the answer to its write.
func (w *world) tell(x *mirror, r *request, answer Answer) {
	switch {
	case r.append != nil:
		a := Appended{Answer: answer, Base: r.base, Count: r.at}
		if r.append.Filler {
			a.Count = 1
		}
		w.next(x, a)
	case r.trim != nil:
		why := ""
		if answer != AppendAccepted {
			why = "no answer"
		}
		w.next(x, Trimmed{Gen: r.trim.Gen, Why: why})
	default:
		w.next(x, Marked{Answer: answer})
	}
}

// reply answers a request that was carried out, once enough replicas have it.
func (w *world) reply(x *mirror) bool {
	r := x.sent
	if r == nil || !r.done || r.needs > w.high {
		return false
	}
	x.sent = nil
	w.drop(r)
	w.tell(x, r, r.answer)
	return true
}

// unsent answers what a mirror wanted written and may not send any more.
func (w *world) unsent(x *mirror) {
	switch {
	case x.append != nil:
		x.append = nil
		w.next(x, Appended{Answer: AppendRetry})
	case x.mark != nil:
		x.mark = nil
		w.next(x, Marked{Answer: AppendRetry})
	case x.trim != nil:
		gen := x.trim.Gen
		x.trim = nil
		w.next(x, Trimmed{Gen: gen, Why: "not sent"})
	}
}

// silence waits as long as a request can live: each is carried out by now or
// will never be, and whoever lost a generation knows it.
func (w *world) silence(but *mirror) {
	for _, r := range slices.Clone(w.requests) {
		if r == w.fence || r.owner == but && but != nil {
			continue
		}
		x := r.owner
		if x != nil {
			x.sent = nil
		}
		w.drop(r)
		if x != nil {
			w.tell(x, r, AppendUnknown)
		}
	}
	for _, x := range w.mirrors {
		if x != but {
			w.leaseLost(x)
		}
	}
}

// leaseLost tells a mirror that its generation is not the last one any more.
// What needs it and was not sent is not sent.
func (w *world) leaseLost(x *mirror) bool {
	if x.held == 0 || x.held == w.generation {
		return false
	}
	lost := x.held
	x.held = 0
	if x.mark != nil || x.append != nil && x.m.Leased() {
		w.unsent(x)
	}
	w.next(x, LeaseLost{Generation: lost})
	return true
}

// exclusive says that one mirror writes at a time.
func (w *world) exclusive() bool {
	return w.compacted || w.sourceStart > w.link.Start && !w.holdsData()
}

// grant gives a mirror a generation. While one mirror writes at a time, another
// gets it only when that one is gone.
func (w *world) grant(x *mirror, exclusive bool) bool {
	if x.lease == nil || w.fences != nil {
		return false // a promotion took the link's last generation
	}
	if x.held > x.lease.Above {
		x.lease = nil
		w.next(x, Leased{Generation: x.held})
		return true
	}
	if exclusive && slices.ContainsFunc(w.mirrors, func(y *mirror) bool {
		return y != x && !y.paused && y.held != 0 && y.held == w.generation && y.m.State != Frozen
	}) {
		return false
	}
	had := x.held
	w.generation++
	g := w.generation
	x.lease, x.held = nil, g
	if w.settled != g.Block() && (had == 0 || had.Block() != g.Block()) {
		w.silence(x)
		w.settled = g.Block()
	}
	if g == w.generation && x.held == g {
		w.next(x, Leased{Generation: g})
	}
	return true
}

// wake ends a pause: what was chosen before it is not sent any more, and the
// ends are read again.
func (w *world) wake(x *mirror) {
	x.paused, x.stale = false, false
	w.leaseLost(x)
	w.unsent(x)
	w.next(x, TargetMoved{})
}

// holdsData says whether a record stands in the target.
func (w *world) holdsData() bool {
	return slices.ContainsFunc(w.target, func(e entry) bool { return !e.Control() && len(e.Raw) > 0 })
}

// readFence walks the target's log as a promotion does.
func (w *world) readFence() *Tail {
	t := NewTail(w.link, w.link.Start, nil)
	for _, e := range w.target {
		t.Take(e.Batch)
	}
	return t
}

// promote does the next step of a promotion that no mirror is told of.
func (w *world) promote() bool {
	if w.promoted || w.high != w.targetEnd() || w.fence != nil && (!w.fence.done || w.fence.needs > w.high) {
		return false
	}
	if w.fences == nil { // as the driver does: take the right to fill holes, and outlast what was sent
		w.generation++
		w.silence(nil)
		w.high = w.targetEnd()
	}
	t := w.readFence()
	if w.fence != nil {
		accepted := w.fence.answer == AppendAccepted
		w.drop(w.fence)
		if accepted && t.Stands(w.fences, w.fenceFrom) && t.Stands(w.link.Fence(t.X, t.Last, nil), w.fenceFrom) {
			w.promoted, w.x = true, t.X
			return true
		}
	}
	need := w.link.Fence(t.X, t.Last, nil)
	for _, m := range w.fences {
		if !slices.Contains(need, m) {
			need = append(need, m)
		}
	}
	w.fences, w.fenceFrom = need, w.targetEnd()
	w.fence = &request{marks: need}
	w.requests = append(w.requests, w.fence)
	return true
}

// check holds after every step: what stands at an offset of the target is the
// source's record of that offset, or nothing where the source has none; no
// offset is missing, and nothing of the link stands behind a fence.
func (w *world) check() {
	next := w.link.Start
	for _, e := range w.target {
		if e.Base != next {
			w.fatal("the target's log has a gap at %d", next)
		}
		next = e.End()
		_, kind := w.link.Author(e.Batch)
		if w.promoted && e.Base >= w.x && kind != Foreign {
			w.fatal("a batch of the link (%d) stands at %d, behind the fence at %d", kind, e.Base, w.x)
		}
		if kind == Foreign && !w.foreign && !w.promoted && w.fences == nil && w.reason == "" {
			w.fatal("the link wrote at %d what it does not know as its own: producer %d epoch %d sequence %d", e.Base, e.ProducerID, e.ProducerEpoch, e.BaseSequence)
		}
		if kind == Foreign && w.reason == "" && e.ProducerID >= 1<<62 && !e.Control() {
			w.fatal("a record of the link stands at %d, where it does not belong", e.Base)
		}
		if kind == Foreign || w.odd {
			continue
		}
		for o := e.Base; o < e.End(); o++ {
			want, known := w.truth[o]
			switch {
			case kind == Data && (!known || contentAt(e.Batch, o) != want):
				w.fatal("offset %d holds record %d, the source's is %d", o, contentAt(e.Batch, o), want)
			case kind == Seeded && o >= w.sourceStart:
				w.fatal("offset %d is seeded, the source starts at %d", o, w.sourceStart)
			case kind == Fill && known && !w.cleaned[o] && !w.lossAccepted(o):
				w.fatal("offset %d is a hole, the source has record %d", o, want)
			}
		}
	}
}

func (w *world) lossAccepted(o int64) bool {
	return slices.ContainsFunc(w.accepted, func(r Range) bool { return r.Start <= o && o < r.End })
}

// peace serves everything that is asked for, until nothing moves.
func (w *world) peace() {
	for range 20_000 {
		w.high, w.sourceHigh = w.targetEnd(), w.sourceEnd()
		busy := false
		for len(w.requests) > 0 && slices.ContainsFunc(w.requests, func(r *request) bool { return !r.done }) {
			for _, r := range slices.Clone(w.requests) {
				w.carryOut(r, len(r.marks))
			}
			w.high = w.targetEnd()
		}
		for _, x := range w.mirrors {
			if x.paused {
				w.wake(x)
			}
			if x.stale {
				x.stale = false
				w.next(x, TargetMoved{})
			}
			busy = w.serve(x) || busy
		}
		for _, x := range w.mirrors { // who lost it asks again when the other one has rested
			busy = busy || !w.exclusive() && w.grant(x, false)
		}
		if !busy {
			w.check()
			return
		}
	}
	w.fatal("never comes to rest: %s", w)
}

func (w *world) serve(x *mirror) bool {
	switch {
	case w.leaseLost(x):
	case w.reply(x):
	case x.sent != nil:
		return false
	case x.append != nil || x.mark != nil || x.trim != nil:
		w.send(x)
	case x.seen != nil:
		ev := x.seen
		x.seen = nil
		w.next(x, ev)
	case x.look != nil || x.target != nil:
		w.readLook(x)
	case x.fetched != nil:
		ev := x.fetched
		x.fetched = nil
		w.next(x, ev)
	case w.grant(x, true):
	case x.fetch != nil && x.fetch.Offset != w.sourceHigh: // beyond it too: a source that was truncated says so
		w.readFetch(x)
	default:
		return false
	}
	return true
}

func (w *world) String() string {
	s := fmt.Sprintf("source [%d,%d) target [%d,%d)", w.sourceStart, w.sourceEnd(), w.start, w.targetEnd())
	for _, x := range w.mirrors {
		s += fmt.Sprintf("; %s at %d (%s)", x.m.State, x.m.End, x.m.Trouble)
	}
	return s
}
