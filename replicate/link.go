package replicate

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Link is one mirrored direction. It is decided in the log; nothing infers it.
// A link that is made again after a switch or a reseed gets a new epoch, so
// that a late request of the old one is not taken for the new one's.
type Link struct {
	Source topology.Region `json:"source"`
	Target topology.Region `json:"target"`
	Epoch  uint64          `json:"epoch"`
}

// String returns "us-east>eu-west#3".
func (l Link) String() string { return fmt.Sprintf("%s>%s#%d", l.Source, l.Target, l.Epoch) }

// TopicID is the identity that a cluster gave to a topic when it was made. A
// topic that is deleted and made again has another one.
type TopicID [16]byte

// String returns the id as Kafka's own tools print it.
func (t TopicID) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// MarshalText makes the id readable in JSON.
func (t TopicID) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (t *TopicID) UnmarshalText(b []byte) error {
	raw, err := base64.RawURLEncoding.DecodeString(string(b))
	if err != nil || len(raw) != len(t) {
		return fmt.Errorf("topic id %q: want 22 characters of base64url", b)
	}
	copy(t[:], raw)
	return nil
}

// Run is what a link writes to one partition: records from Start on without a
// gap. A link's first run begins at the target's end that was recorded when
// the link was made, never at one that somebody saw later; each hole ends a
// run and the next begins behind it. A Run also stands for its whole link at
// this partition: then Start is the recorded one.
type Run struct {
	Link      Link
	Topic     TopicID // of the target
	Partition int32
	Start     int64
}

// Stamp is the producer identity of one batch.
type Stamp struct {
	ProducerID int64
	Epoch      int16
	Sequence   int32
}

// Stamp returns the identity of the batch of this run at offset base >= Start.
// It turns Kafka's check of producer sequences into compare-and-append: a
// batch is accepted only right behind the batch before it, an exact repeat is
// answered with its first offset, and everything else is refused.
//
// The ids lie above 2^62, where no broker allocates any. The run's start is
// coded into id and epoch, so that a later run of the same window outdates an
// earlier one; epoch 32767 is left for fences.
func (r Run) Stamp(base int64) Stamp {
	return Stamp{
		ProducerID: r.DataProducer(r.Start),
		Epoch:      int16(r.Start & 0x3fff),
		Sequence:   int32((base - r.Start) & 0x7fffffff),
	}
}

// Seed returns the identity of a filler batch at offset base >= Start: empty
// records that take the place of a prefix which the source no longer has.
func (r Run) Seed(base int64) Stamp {
	s := r.Stamp(base)
	s.ProducerID = r.SeedProducer(r.Start)
	return s
}

// Windows: how many low bits of an offset one producer id covers. The epoch
// that goes with it has 15 bits. A data id covers the run starts of 16 384
// offsets; a fill id covers 4 096 offsets with 8 turns each.
const (
	dataWindow = 14
	fillWindow = 12
)

// Fences: what no mirror ever uses. A marker with this epoch on one of our ids
// shuts its window to every mirror of the link, late ones included.
const (
	FenceEpoch       int16 = 1<<15 - 1
	FenceCoordinator int32 = 1<<31 - 1
)

// Generation is one turn at filling holes. The agreed state hands each out
// once, rising. A marker of a later generation shuts out those of all earlier
// ones, without a clock and without a wait, as long as its turn is higher; see
// Run.Mark. A mirror takes a new one when it starts to fill, and after every
// request of markers that had no answer.
type Generation int32

// Turn is the generation's rank within its block, 0 to 7.
func (g Generation) Turn() int16 { return int16(g & 7) }

// Block numbers the generations by eights. Turns begin again with each block:
// before the first markers of a new one, all requests of the block before must
// be known to be dead.
func (g Generation) Block() int32 { return int32(g) >> 3 }

// Mark is the producer identity of one hole marker: an end-of-transaction
// marker that takes exactly one offset and shows no record.
type Mark struct {
	ProducerID       int64
	Epoch            int16
	CoordinatorEpoch int32
}

// Mark returns the marker for the offset o. Kafka refuses a marker whose
// producer epoch or coordinator epoch is lower than the last one of its
// producer id, and accepts an equal one. With the offset coded into the epoch
// and the turn below it, a marker of a new generation passes only if nobody
// wrote o yet, and once it passed, all older generations are shut out.
//
// Only the same generation repeating its own last marker would add an offset,
// so a generation whose request had no answer is never used again.
func (r Run) Mark(o int64, g Generation) Mark {
	return Mark{
		ProducerID:       r.FillProducer(o),
		Epoch:            int16(8*(o&(1<<fillWindow-1))) + 7 - g.Turn(),
		CoordinatorEpoch: int32(g),
	}
}

// DataProducer is the id of all data runs that begin in the window of offset s.
func (r Run) DataProducer(s int64) int64 { return r.producer("data", s>>dataWindow) }

// SeedProducer is the id of all filler that begins in the window of offset s.
func (r Run) SeedProducer(s int64) int64 { return r.producer("seed", s>>dataWindow) }

// FillProducer is the id of the markers in the window of offset o.
func (r Run) FillProducer(o int64) int64 { return r.producer("fill", o>>fillWindow) }

// FillWindowEnd is the first offset behind o that has another fill id.
func FillWindowEnd(o int64) int64 { return (o>>fillWindow + 1) << fillWindow }

// LeapProducer is the id of the markers by which a promotion skips offsets
// that the source may have used. They are not this link's records: see Author.
func (r Run) LeapProducer() int64 { return r.producer("leap", 0) }

// Kind is what a batch of a link is.
type Kind int8

// The kinds.
const (
	Foreign Kind = iota // not of this link: a producer's, a fence, a leap, another link's
	Data                // records of the source
	Seeded              // filler below the source's start
	Fill                // a marker in a hole
)

// Author says what a stored batch is to this link: its own data, filler or
// hole marker, or foreign. run is the run that wrote data or filler. A link
// gets a new epoch when one of its topics is reseeded and keeps the others'
// records, so batches of earlier epochs from Start on count as its own.
// Nothing needs to be remembered: the header tells where its run began, and
// the producer id proves it.
//
// Once a batch is a link's own it stays so, and the batch after it may be
// written by the link, unless the link was fenced in between.
func (r Run) Author(b Batch) (run Run, kind Kind) {
	if b.Base < r.Start || b.ProducerID < 1<<62 {
		return Run{}, Foreign
	}
	for back := range min(r.Link.Epoch+1, epochsBack) {
		w := r
		w.Link.Epoch -= back
		if b.Control() {
			if w.marked(b) {
				return w, Fill
			}
			continue
		}
		if b.BaseSequence < 0 {
			return Run{}, Foreign
		}
		w.Start = b.Base - int64(b.BaseSequence)
		for range wrapsBack {
			if w.Start < r.Start {
				break
			}
			if int64(b.ProducerEpoch) == w.Start&0x3fff {
				switch b.ProducerID {
				case w.DataProducer(w.Start):
					return w, Data
				case w.SeedProducer(w.Start):
					return w, Seeded
				}
			}
			w.Start -= 1 << 31
		}
	}
	return Run{}, Foreign
}

// Bounds of Author.
const (
	epochsBack = 64   // earlier epochs of a link whose batches are recognised
	wrapsBack  = 4096 // times that a run's sequence may have wrapped, at 2^31 records each
)

// marked says whether a control batch is a hole marker of exactly this link.
func (r Run) marked(b Batch) bool {
	if b.LastDelta != 0 || b.ProducerID != r.FillProducer(b.Base) || int64(b.ProducerEpoch>>3) != b.Base&(1<<fillWindow-1) {
		return false
	}
	// A fence has the highest epoch, and so do the first markers of a
	// window's last offset: the coordinator epoch tells them apart. The log
	// cleaner may have emptied a marker; then only the epoch is left.
	epoch, err := b.CoordinatorEpoch()
	if err != nil {
		return b.ProducerEpoch != FenceEpoch
	}
	return epoch != FenceCoordinator
}

// producer hashes everything that tells this link's ids from any other. Each
// field is framed by its length, so that no two identities read the same.
func (r Run) producer(family string, window int64) int64 {
	h := sha256.New()
	field := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	number := func(n uint64) { field(binary.BigEndian.AppendUint64(nil, n)) }
	field([]byte("holdfast link v1"))
	field([]byte(r.Link.Source))
	field([]byte(r.Link.Target))
	number(r.Link.Epoch)
	field(r.Topic[:])
	number(uint64(r.Partition))
	field([]byte(family))
	number(uint64(window))
	sum := h.Sum(nil)
	return int64(1<<62 | binary.BigEndian.Uint64(sum)&(1<<62-1))
}
