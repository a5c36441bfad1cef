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

// Run is what a link writes to one partition: the records from Start on,
// without a gap. Start is the target's end that was recorded when the link was
// made, never an end that somebody saw later.
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
		ProducerID: r.producer(),
		Epoch:      int16(r.Start & 0x3fff),
		Sequence:   int32((base - r.Start) & 0x7fffffff),
	}
}

// Owns says whether this run wrote the stored batch with header h.
func (r Run) Owns(h Header) bool {
	s := r.Stamp(h.Base)
	return h.Base >= r.Start && !h.Control() &&
		h.ProducerID == s.ProducerID && h.ProducerEpoch == s.Epoch && h.BaseSequence == s.Sequence
}

// Bounds of Writer.
const (
	epochsBack = 64   // earlier epochs of a link whose batches are recognised
	wrapsBack  = 4096 // times that a run's sequence may have wrapped, at 2^31 records each
)

// Writer finds the run of this link that wrote the batch: r itself, a later
// run, or one of an earlier epoch that began at r.Start or behind it (a link
// gets a new epoch when one of its topics is reseeded, and keeps the others'
// records). Nothing needs to be remembered: the header tells where its run
// began, and the producer id proves it.
func (r Run) Writer(h Header) (Run, bool) {
	if h.Base < r.Start || h.Control() || h.ProducerID < 1<<62 || h.BaseSequence < 0 {
		return Run{}, false
	}
	for back := range min(r.Link.Epoch+1, epochsBack) {
		w := r
		w.Link.Epoch -= back
		w.Start = h.Base - int64(h.BaseSequence)
		for range wrapsBack {
			if w.Start < r.Start {
				break
			}
			if w.Owns(h) {
				return w, true
			}
			w.Start -= 1 << 31
		}
	}
	return Run{}, false
}

// producer hashes everything that tells this run from any other. Each field
// is framed by its length, so that no two identities read the same.
func (r Run) producer() int64 {
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
	field([]byte("data"))
	number(uint64(r.Start >> 14))
	sum := h.Sum(nil)
	return int64(1<<62 | binary.BigEndian.Uint64(sum)&(1<<62-1))
}
