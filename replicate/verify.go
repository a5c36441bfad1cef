package replicate

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/maphash"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// What a comparison can and cannot prove.
//
// Compared is what a reader sees: the records of the source that are committed
// against every record of the target. Transaction markers and aborted records
// are offsets without a record on either side, however they came about. The
// range is what both ends hold: from the higher log start, and not below the
// start of the link, under which older orphans may lie, to the target's end.
//
// Proven for such a range: every visible record of one end is there at the
// other end, at the same offset, with the same key, value and headers, and the
// same time unless the target's broker set it. Not proven: anything above the
// range, what either end had deleted before, and aborted records.
//
// A compacted topic is cleaned at each end on its own. A record that only one
// end has is no difference if the log cleaner may have taken it: a later
// record of its key is there, or a later tombstone at the end that has both,
// or it is a tombstone itself, which the cleaner removes in the end. So the
// newest value of every key is proven, and a tombstone that only one end still
// has is not.

// Verdict is what a comparison of one partition came to.
type Verdict string

// The verdicts.
const (
	Identical Verdict = "identical"
	Differs   Verdict = "differs"
	// Nothing: there is no offset that both ends hold.
	Nothing Verdict = "nothing"
)

// Aspect is in what a record differs.
type Aspect string

// The aspects.
const (
	Missing   Aspect = "missing" // the source has it, the target does not
	Extra     Aspect = "extra"   // the target has it, the source does not
	Timestamp Aspect = "timestamp"
	Key       Aspect = "key"
	Value     Aspect = "value"
	Headers   Aspect = "headers"
)

// Method is how the records of a comparison were read.
type Method string

// The methods.
const (
	// ByRecord: each record was decoded; the digest is over the records.
	ByRecord Method = "records"
	// ByBatch: batches that are stored with the same bytes were not decoded;
	// the digest is over their headers and checksums.
	ByBatch Method = "batches"
)

// Difference is a range in which every record differs in the same way.
type Difference struct {
	From    int64    `json:"from"`
	To      int64    `json:"to"` // one past the last
	Records int64    `json:"records"`
	Aspects []Aspect `json:"aspects"`
	Detail  string   `json:"detail"` // about the first record
}

// differencesKept bounds the list of a statement. The counts go on.
const differencesKept = 16

// Statement says what one comparison of one partition found. It is about the
// moment At; what is above Through it does not speak of.
type Statement struct {
	Format int  `json:"format"`
	Link   Link `json:"link"`
	topology.Partition
	SourceTopic TopicID `json:"source_topic"`
	TargetTopic TopicID `json:"target_topic"`
	Verdict     Verdict `json:"verdict"`
	// From and Through are the compared range. Through is one past the last
	// offset: "identical through offset X" is about all below X.
	From    int64 `json:"from"`
	Through int64 `json:"to"`
	// Sample is the share of the range that was read, 1 for all of it.
	Sample  float64 `json:"sample"`
	Offsets int64   `json:"offsets"` // of the range that were read
	Records int64   `json:"records"` // that both ends have
	Method  Method  `json:"method"`
	Digest  string  `json:"digest"` // hex SHA-256; see Method
	// What both ends hold, as read At.
	SourceStart int64 `json:"source_start"`
	SourceEnd   int64 `json:"source_end"` // of committed records
	TargetStart int64 `json:"target_start"`
	TargetEnd   int64 `json:"target_end"`
	// Restamped records have the time of the target's broker, which was not compared.
	Restamped int64 `json:"restamped,omitempty"`
	// Cleaned records are at one end only, as the log cleaner explains.
	Cleaned int64 `json:"cleaned,omitempty"`
	// Unjudged records of a compacted topic are at one end only, and nobody
	// looked whether a cleaner took them: a sample cannot, and memory ends.
	Unjudged int64 `json:"unjudged,omitempty"`
	// Prior is the statement that this one goes on from: its range [From,
	// Prior.Through) was not read again.
	Prior *Prior `json:"prior,omitempty"`
	// Differing counts the records that differ, in Ranges ranges; the first
	// ranges are in Differences.
	Differing   int64         `json:"differing,omitempty"`
	Ranges      int64         `json:"ranges,omitempty"`
	DiffersTo   int64         `json:"differs_to,omitempty"` // one past the last that differs
	Differences []Difference  `json:"differences,omitempty"`
	At          time.Time     `json:"at"` // when the ends were read
	Took        time.Duration `json:"took_ns"`
	Node        topology.Node `json:"node"` // who compared, and signed
}

// StatementFormat is the format of a Statement.
const StatementFormat = 1

// Prior names an earlier statement.
type Prior struct {
	Through int64     `json:"to"`
	At      time.Time `json:"at"`
	Digest  string    `json:"digest"`
}

// Whole says that every offset of the range was compared, now or by the prior
// statement.
func (s Statement) Whole() bool { return s.Sample >= 1 }

// DiffersFrom is the first offset that differs, -1 if none does.
func (s Statement) DiffersFrom() int64 {
	if len(s.Differences) == 0 {
		return -1
	}
	return s.Differences[0].From
}

// SameLogs says whether two statements are about the same link and topics.
func (s Statement) SameLogs(o Statement) bool {
	return s.Link == o.Link && s.Partition == o.Partition && s.SourceTopic == o.SourceTopic && s.TargetTopic == o.TargetTopic
}

// String is "events/3 differs from the source in 2 records: [7,8) value, [9,10)
// missing", or "events/3 is identical in [0,140)".
func (s Statement) String() string {
	switch {
	case s.Verdict == Nothing:
		return fmt.Sprintf("%s has no offset that both ends hold", s.Partition)
	case s.Verdict == Identical && s.Whole():
		return fmt.Sprintf("%s is identical in [%d,%d)", s.Partition, s.From, s.Through)
	case s.Verdict == Identical:
		return fmt.Sprintf("%s is identical where it was looked at in [%d,%d)", s.Partition, s.From, s.Through)
	}
	text := fmt.Sprintf("%s differs from the source in ", s.Partition)
	if s.Differing == 1 {
		text += "1 record"
	} else {
		text += fmt.Sprintf("%d records", s.Differing)
	}
	for i, d := range s.Differences {
		if i == differencesSaid {
			return text + fmt.Sprintf(", and %d more ranges", s.Ranges-differencesSaid)
		}
		sep := ","
		if i == 0 {
			sep = ":"
		}
		text += fmt.Sprintf("%s [%d,%d) %s", sep, d.From, d.To, aspectsText(d.Aspects))
	}
	return text
}

// differencesSaid bounds the ranges of a sentence.
const differencesSaid = 3

func aspectsText(list []Aspect) string {
	out := ""
	for i, a := range list {
		if i > 0 {
			out += "+"
		}
		out += string(a)
	}
	return out
}

// Clears says that s outdates the differences of bad: the topics or the link
// were made anew, nobody holds these offsets any more, or all of them were
// compared again, each one, and are the same now.
func (s Statement) Clears(bad Statement) bool {
	switch {
	case !s.SameLogs(bad):
		return s.At.After(bad.At)
	case !s.At.After(bad.At):
		return false
	case s.SourceStart >= bad.DiffersTo && s.TargetStart >= bad.DiffersTo:
		return true
	}
	return s.Verdict == Identical && s.Whole() && s.ReadFrom() <= max(bad.DiffersFrom(), s.From) && s.Through >= bad.DiffersTo
}

// ReadFrom is the first offset that this comparison itself read.
func (s Statement) ReadFrom() int64 {
	if s.Prior != nil {
		return s.Prior.Through
	}
	return s.From
}

// GoesOnFrom says whether s may begin where prior ended, instead of reading
// everything again: prior was whole and identical, and about the same logs.
func (s Statement) GoesOnFrom(prior Statement) bool {
	return prior.Verdict == Identical && s.SameLogs(prior) &&
		prior.Through >= max(s.SourceStart, s.TargetStart) && prior.Through <= s.Through
}

// Visible is a record as a reader of one end sees it.
type Visible struct {
	Record
	BrokerTime bool // the broker set the time, not the producer
}

// Tombstone says whether the record deletes its key.
func (v Visible) Tombstone() bool { return v.Value == nil }

// End is a side of a link.
type End int

// The ends.
const (
	AtSource End = iota
	AtTarget
)

// Judge compares the records of one partition. They are given in the order of
// their offsets; Verdict ends it.
type Judge struct {
	compacted bool
	whole     bool
	digest    hash.Hash
	buf       []byte

	records, restamped, cleaned, unjudged int64

	differing, ranges, to int64
	kept                  []Difference
	open                  bool // the last range may grow

	seed    maphash.Seed
	lacking [2]map[uint64]*lacked // by key, for the end that lacks them
}

// lacked are records of one key that one end does not have.
type lacked struct {
	first, last, n int64
}

// lackedMax bounds the keys that are remembered.
const lackedMax = 100_000

// NewJudge begins a comparison. A compacted topic may be cleaned at one end;
// whole says that no offset of the range is left out, so that what a cleaner
// took can be told from what is missing.
//
// The digest of a statement that goes on from a prior one begins with the
// prior's, so that it stands for all of its range.
func NewJudge(compacted, whole bool, prior *Prior) *Judge {
	j := &Judge{
		compacted: compacted, whole: whole, digest: sha256.New(), seed: maphash.MakeSeed(),
		lacking: [2]map[uint64]*lacked{{}, {}},
	}
	if prior != nil {
		j.digest.Write([]byte(prior.Digest))
	}
	return j
}

// Stored notes a batch of n records that both ends hold with the same bytes
// and that is not decoded; content stands for it in the digest.
func (j *Judge) Stored(n int32, brokerTime bool, content []byte) {
	j.open = false
	j.records += int64(n)
	if brokerTime {
		j.restamped += int64(n)
	}
	j.digest.Write(content)
}

// Same notes a record that both ends hold with the same bytes.
func (j *Judge) Same(r Visible) {
	j.open = false
	j.note(r)
	j.seen(AtSource, r)
	j.seen(AtTarget, r)
}

func (j *Judge) note(r Visible) {
	j.records++
	if r.BrokerTime {
		j.restamped++
	}
	j.buf = r.AppendCanonical(j.buf[:0], !r.BrokerTime)
	j.digest.Write(j.buf)
}

// WantsKeys says that some end lacks records of a compacted topic, and what
// may explain it must not be passed over.
func (j *Judge) WantsKeys() bool { return len(j.lacking[AtSource])+len(j.lacking[AtTarget]) > 0 }

// Both compares the records that the ends hold at one offset.
func (j *Judge) Both(source, target Visible) {
	var aspects []Aspect
	detail := ""
	differs := func(a Aspect, format string, args ...any) {
		if len(aspects) > 0 {
			detail += "; "
		}
		aspects = append(aspects, a)
		detail += fmt.Sprintf(format, args...)
	}
	if !(source.BrokerTime && target.BrokerTime) && source.Timestamp != target.Timestamp {
		differs(Timestamp, "time %s at the source, %s at the target", stampText(source), stampText(target))
	}
	if !sameBytes(source.Key, target.Key) {
		differs(Key, "key %s at the source, %s at the target", bytesText(source.Key), bytesText(target.Key))
	}
	if !sameBytes(source.Value, target.Value) {
		differs(Value, "value %s at the source, %s at the target", bytesText(source.Value), bytesText(target.Value))
	}
	if why := headersDiffer(source.Headers, target.Headers); why != "" {
		differs(Headers, "%s", why)
	}
	j.seen(AtSource, source)
	j.seen(AtTarget, target)
	if len(aspects) > 0 {
		j.add(Difference{From: source.Offset, To: source.Offset + 1, Records: 1, Aspects: aspects, Detail: detail})
		return
	}
	j.open = false
	j.note(target)
}

// Only takes a record that only one end has.
func (j *Judge) Only(at End, r Visible) {
	j.seen(at, r)
	if !j.compacted {
		aspect, where := Missing, "the target"
		if at == AtTarget {
			aspect, where = Extra, "the source"
		}
		j.add(Difference{From: r.Offset, To: r.Offset + 1, Records: 1, Aspects: []Aspect{aspect}, Detail: "not at " + where + ": " + recordText(r)})
		return
	}
	j.open = false
	lacks := j.lacking[1-at]
	switch {
	case r.Key == nil || r.Tombstone():
		// A cleaner drops records without a key, and tombstones in the end. A
		// tombstone outdates what was before it, at both ends.
		j.cleaned++
		j.explain(1-at, r)
		return
	case !j.whole:
		j.unjudged++
		return
	}
	key := maphash.Bytes(j.seed, r.Key)
	if l := lacks[key]; l != nil {
		l.last, l.n = r.Offset, l.n+1
	} else if len(j.lacking[0])+len(j.lacking[1]) < lackedMax {
		lacks[key] = &lacked{r.Offset, r.Offset, 1}
	} else {
		j.unjudged++
	}
}

// Above takes a record of one end that lies above the range: it can only
// explain what that end lacks.
func (j *Judge) Above(at End, r Visible) { j.seen(at, r) }

// Lacks says whether an end lacks records that nothing explains so far.
func (j *Judge) Lacks(at End) bool { return len(j.lacking[at]) > 0 }

// seen says that an end holds this record: its cleaner may have taken earlier
// ones of the key.
func (j *Judge) seen(at End, r Visible) {
	if j.compacted && r.Key != nil {
		j.explain(at, r)
	}
}

func (j *Judge) explain(at End, r Visible) {
	if len(j.lacking[at]) == 0 || r.Key == nil {
		return
	}
	key := maphash.Bytes(j.seed, r.Key)
	if l := j.lacking[at][key]; l != nil {
		j.cleaned += l.n
		delete(j.lacking[at], key)
	}
}

// add counts a difference, and joins it to the one before when nothing equal
// lies between and it differs in the same way.
func (j *Judge) add(d Difference) {
	j.differing += d.Records
	j.to = max(j.to, d.To)
	if n := len(j.kept); j.open && n > 0 && j.ranges == int64(n) && slices.Equal(j.kept[n-1].Aspects, d.Aspects) {
		j.kept[n-1].To = d.To
		j.kept[n-1].Records += d.Records
		return
	}
	j.open = true
	j.ranges++
	if len(j.kept) < differencesKept {
		j.kept = append(j.kept, d)
	} else {
		j.open = false
	}
}

// Verdict ends the comparison and writes what it found into s.
func (j *Judge) Verdict(s *Statement) {
	var left []Difference
	for at, aspect := range map[End]Aspect{AtSource: Extra, AtTarget: Missing} {
		for _, l := range j.lacking[at] {
			where := "the target"
			if at == AtSource {
				where = "the source"
			}
			left = append(left, Difference{From: l.first, To: l.last + 1, Records: l.n, Aspects: []Aspect{aspect},
				Detail: "not at " + where + ", which has no later record of the key: the log cleaner did not take it"})
		}
	}
	for _, d := range left {
		j.differing += d.Records
		j.ranges++
		j.to = max(j.to, d.To)
	}
	j.kept = append(j.kept, left...)
	slices.SortStableFunc(j.kept, func(a, b Difference) int { return cmp.Compare(a.From, b.From) })
	j.kept = j.kept[:min(len(j.kept), differencesKept)]
	s.Records, s.Restamped, s.Cleaned, s.Unjudged = j.records, j.restamped, j.cleaned, j.unjudged
	s.Differing, s.Ranges, s.DiffersTo, s.Differences = j.differing, j.ranges, j.to, j.kept
	s.Digest = hex.EncodeToString(j.digest.Sum(nil))
	switch {
	case j.differing > 0:
		s.Verdict = Differs
	case s.Through <= s.From:
		s.Verdict = Nothing
	default:
		s.Verdict = Identical
	}
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func headersDiffer(a, b []RecordHeader) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d headers at the source, %d at the target", len(a), len(b))
	}
	for i := range a {
		if !bytes.Equal(a[i].Key, b[i].Key) {
			return fmt.Sprintf("header %d is named %s at the source, %s at the target", i+1, bytesText(a[i].Key), bytesText(b[i].Key))
		}
		if !sameBytes(a[i].Value, b[i].Value) {
			return fmt.Sprintf("header %d (%.40q) is %s at the source, %s at the target", i+1, a[i].Key, bytesText(a[i].Value), bytesText(b[i].Value))
		}
	}
	return ""
}

// bytesText names content without showing it: it may be personal.
func bytesText(b []byte) string {
	if b == nil {
		return "null"
	}
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%d B (sha256 %x)", len(b), sum[:4])
}

func stampText(v Visible) string {
	t := time.UnixMilli(v.Timestamp).UTC().Format("2006-01-02T15:04:05.000Z")
	if v.BrokerTime {
		t += " (broker's)"
	}
	return t
}

func recordText(v Visible) string {
	return fmt.Sprintf("time %s, key %s, value %s", stampText(v), bytesText(v.Key), bytesText(v.Value))
}

// Sampler chooses pieces of a range, exactly as many as the share asks for, at
// least one, spread by chance. Its memory does not grow with the range.
type Sampler struct {
	from, to, piece int64
	left, need      int64
	chance          func(n int64) int64 // uniform in [0, n)
}

// NewSampler samples [from, to) in pieces of so many offsets. With a share of
// 1 or more there is one piece: all of it.
func NewSampler(from, to, piece int64, share float64, chance func(n int64) int64) *Sampler {
	s := &Sampler{from: from, to: to, piece: piece, chance: chance}
	if to <= from {
		return s
	}
	if share >= 1 {
		s.piece, s.left, s.need = to-from, 1, 1
		return s
	}
	s.left = (to - from + piece - 1) / piece
	s.need = max(1, int64(share*float64(s.left)+0.5))
	return s
}

// Offsets estimates how many offsets are still to come.
func (s *Sampler) Offsets() int64 { return min(s.need*s.piece, s.to-s.from) }

// Next returns the next piece; false when there is none left.
func (s *Sampler) Next() (from, to int64, ok bool) {
	for s.need > 0 && s.left > 0 {
		from, to = s.from, min(s.from+s.piece, s.to)
		s.from = to
		take := s.chance(s.left) < s.need
		s.left--
		if take {
			s.need--
			return from, to, true
		}
	}
	return 0, 0, false
}
