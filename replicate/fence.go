package replicate

// Fence returns the markers that shut this link's mirrors, late and forgotten
// ones included, out of a partition whose last own offset is x-1, in the order
// in which they must be written. last is the batch that holds x-1; nil when the
// log holds nothing there any more, and then states may name the run: what the
// broker remembers of its producers.
//
// A marker shuts the window of its producer id; a window without one stays
// open. So each id that a mirror may use at x gets one, and first of all the
// id that can append a record at x: a batch that slipped in between two
// markers would be a record behind the fence. The id that fills holes comes
// last, as what slips in before it is a marker too and shows no record.
func (r Run) Fence(x int64, last *Batch, states []ProducerState) []Mark {
	var out []Mark
	add := func(id int64) {
		for _, m := range out {
			if m.ProducerID == id {
				return
			}
		}
		out = append(out, FenceMark(id))
	}
	w, kind := r, Foreign
	if last != nil {
		w, kind = r.Author(*last)
	} else if x > r.Start {
		w, kind = r.running(x, states)
	}
	switch kind {
	case Data:
		add(w.DataProducer(w.Start))
	case Seeded:
		add(w.SeedProducer(w.Start))
		add(r.SeedProducer(x))
	}
	for _, s := range states { // shut before: an earlier promotion knew more than the log tells now
		if last == nil && s.Shut() {
			add(s.ID)
		}
	}
	writers := []Run{r}
	if kind != Foreign && w.Link != r.Link { // an earlier epoch of the link may be asleep here
		older := r
		older.Link = w.Link
		writers = append(writers, older)
	}
	for _, of := range writers {
		add(of.DataProducer(x))
	}
	for _, of := range writers {
		add(of.SeedProducer(r.Start)) // filler begins with the link
		if last == nil {
			add(of.SeedProducer(x)) // or where the filler before it was deleted
			add(of.DataProducer(r.Start))
		}
	}
	for _, of := range writers {
		add(of.FillProducer(x))
	}
	return out
}

// FenceMark is the marker that shuts one producer id for good.
func FenceMark(id int64) Mark {
	return Mark{ProducerID: id, Epoch: FenceEpoch, CoordinatorEpoch: FenceCoordinator}
}

// Stone is the marker behind a partition that was promoted while its prefix was
// being seeded: all below it is deleted, so it carries x itself, which a
// repeated promotion could not read from the log any more.
func (r Run) Stone(x int64) Mark {
	return Mark{ProducerID: r.producer("stone", 0), Epoch: int16(x & 0x7fff), CoordinatorEpoch: int32(x >> 15 & 0x7fffffff)}
}

// StoneAt reads x from a stone of this link.
func (r Run) StoneAt(b Batch) (x int64, ok bool) {
	if !b.Control() || b.ProducerID != r.producer("stone", 0) {
		return 0, false
	}
	high, err := b.CoordinatorEpoch()
	return int64(high)<<15 | int64(b.ProducerEpoch), err == nil
}

// ProducerState is what a broker remembers of one producer id.
type ProducerState struct {
	ID               int64
	Epoch            int16
	LastSequence     int32 // -1: none
	CoordinatorEpoch int32 // of its last marker
}

// Shut says that the id's last marker was a fence.
func (s ProducerState) Shut() bool {
	return s.ID >= 1<<62 && s.Epoch == FenceEpoch && s.CoordinatorEpoch == FenceCoordinator
}

// running finds the run that wrote the record before x from what the broker
// remembers, for a log that holds that record no more.
func (r Run) running(x int64, states []ProducerState) (Run, Kind) {
	for _, s := range states {
		if s.LastSequence < 0 {
			continue
		}
		h := Header{Base: x - 1, Count: 1, ProducerID: s.ID, ProducerEpoch: s.Epoch, BaseSequence: s.LastSequence}
		if w, kind := r.Author(Batch{Header: h}); kind == Data || kind == Seeded {
			return w, kind
		}
	}
	return Run{}, Foreign
}

// IsFence says whether a batch is a fence marker, of whatever link.
func (b Batch) IsFence() bool {
	if !b.Control() || b.ProducerEpoch != FenceEpoch || b.ProducerID < 1<<62 {
		return false
	}
	epoch, err := b.CoordinatorEpoch()
	return err == nil && epoch == FenceCoordinator
}

// Tail is the end of a target's log as a promotion reads it, batch by batch
// and forward: where the link's own records end, and what lies behind.
type Tail struct {
	Run  Run    // stands for the link: Start is the recorded one
	X    int64  // one past the last offset that is the link's own
	Last *Batch // holds X-1; nil if the log holds nothing there
	Next int64  // how far the log was read
	// Fences has the offset of the latest fence marker of each producer id.
	Fences map[int64]int64
	Fence  int64 // the first fence marker at or behind X, and behind Stone; -1: none was read
	Stray  int64 // the first record of the link that is not where it belongs; -1: none
	Other  int64 // the first record of somebody else behind X; -1: none was read
	Stone  int64 // the last stone of this X with nobody else's record before it; -1: none
	// Skipped says that not all behind X was read.
	Skipped bool
}

// NewTail begins to read at x, up to which everything is known to be the
// link's own.
func NewTail(link Run, x int64, last *Batch) *Tail {
	return &Tail{Run: link, X: x, Last: last, Next: x, Fences: map[int64]int64{}, Fence: -1, Stray: -1, Other: -1, Stone: -1}
}

// Take adds the next batch of the log. Batches below Next are passed over. A
// link writes without gaps, so its own part ends with the first foreign batch;
// a record of the link behind that, or at another offset than its own, is a
// stray. A stray marker is none: it shows no record.
func (t *Tail) Take(b Batch) {
	if b.End() <= t.Next {
		return
	}
	_, kind := t.Run.Author(b)
	switch {
	case kind != Foreign && t.X == t.Next:
		t.X, t.Last = b.End(), &b
	case b.IsFence():
		t.Fences[b.ProducerID] = b.Base
		if t.Fence < 0 {
			t.Fence = b.Base
		}
	case t.Stray < 0 && (kind == Data || kind == Seeded || t.Run.strayed(b)):
		t.Stray = b.Base
	case t.Other < 0 && !b.Control() && kind == Foreign && b.ProducerID != t.Run.LeapProducer() && !t.Run.strayed(b):
		t.Other = b.Base
	}
	if x, ok := t.Run.StoneAt(b); ok && x == t.X && t.Other < 0 && t.Stray < 0 && !t.Skipped {
		t.Stone, t.Fence = b.Base, -1 // what is below goes
	}
	t.Next = b.End()
}

// Skip passes over what was not read.
func (t *Tail) Skip(to int64) {
	if to > t.Next {
		t.Next, t.Skipped = to, true
	}
}

// Stands says whether all these fence markers were read at or behind from.
func (t *Tail) Stands(marks []Mark, from int64) bool {
	for _, m := range marks {
		if at, ok := t.Fences[m.ProducerID]; !ok || at < from {
			return false
		}
	}
	return len(marks) > 0
}

// strayWindows bounds how far from its own offset a stray batch is recognised.
const strayWindows = 16

// strayed says whether a foreign batch carries records of this link, stored
// too far ahead: a broker that did not know the producer, or a fence that came
// a moment too late, let it in.
func (r Run) strayed(b Batch) bool {
	if b.ProducerID < 1<<62 || b.Control() || b.BaseSequence < 0 {
		return false
	}
	for back := range min(r.Link.Epoch+1, epochsBack) {
		w := r
		w.Link.Epoch -= back
		first := b.Base - int64(b.BaseSequence)
		for n := range int64(strayWindows) {
			s := first - n<<dataWindow
			if id := b.ProducerID; s >= 0 && (id == w.DataProducer(s) || id == w.SeedProducer(s)) {
				return true
			}
		}
	}
	return false
}
