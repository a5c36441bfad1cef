package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/restore"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func digestOfAll(files map[string][]byte) backup.Digest {
	var all []byte
	for _, name := range sortedKeys(files) {
		all = fmt.Appendf(all, "%s %s\n", name, digest(files[name]))
	}
	return digest(all)
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// sample has small, large and repeated pieces, and two partitions.
func sample() content {
	return content{
		files: map[string][][]byte{
			"base/1/1": {noise(1, 300<<10), noise(2, 100), noise(2, 100)},
			"base/1/2": {noise(3, 5000), noise(1, 300<<10)},
			"global/1": {[]byte("control")},
		},
		partitions: map[string]map[string][]byte{
			"20260816": {"data.bin": noise(4, 4000), "count.txt": []byte("12")},
			"20260817": {"data.bin": noise(5, 400)},
		},
	}
}

func TestSet_ReadsBackWhatWasPut(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set, c := backup.SetID(g.id()), sample()
	sum := must(t, second(g.take(ctx, r, set, c, nil)))
	if err := g.readBack(ctx, r, set, c); err != nil {
		t.Fatal(err)
	}
	sets := must(t, second(r.Sets(ctx)))
	if !slices.Equal(sets, []backup.SetID{set}) {
		t.Errorf("sets: %v", sets)
	}
	seal, got, err := r.Seal(ctx, set)
	if err != nil || got != sum || sum != digest(g.store.get(backup.SealKey(set))) {
		t.Errorf("the digest of the seal is %s, returned were %s and %s (%v)", digest(g.store.get(backup.SealKey(set))), sum, got, err)
	}
	p, _ := seal.Part(backup.Postgres)
	// 300 KiB alone, the small ones together; equal pieces once.
	if p.Totals.Objects != 2 || p.Totals.New != 2 || p.Totals.Bytes != p.Totals.Uploaded || p.Totals.Rows != 7 {
		t.Errorf("postgres: %+v", p.Totals)
	}
	p, _ = seal.Part(backup.ClickHouse)
	if p.Totals.Objects != 5 || p.Totals.New != 5 || p.Totals.Bytes != 4000+2+400+12 {
		t.Errorf("clickhouse: %+v", p.Totals)
	}
	for key, body := range g.store.objects {
		if strings.HasPrefix(key, "blobs/") && (bytes.Contains(body, []byte("control")) || !bytes.HasPrefix(body, []byte("age-encryption.org/"))) {
			t.Errorf("%s is not encrypted", key)
		}
	}
}

func TestSet_SendsNothingTwice(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	first, c := backup.SetID(g.id()), sample()
	must(t, second(g.take(ctx, r, first, c, nil)))
	prev := must(t, second(manifests(ctx, r, first)))
	blobs, packs := len(g.store.keys("blobs/")), len(g.store.keys("packs/"))

	c.files["base/1/3"] = [][]byte{noise(9, 1000)}
	next := backup.SetID(g.id())
	must(t, second(g.take(ctx, r, next, c, prev)))
	if n := len(g.store.keys("blobs/")); n != blobs+1 {
		t.Errorf("%d new blobs, want 1", n-blobs)
	}
	if n := len(g.store.keys("packs/")); n != packs {
		t.Errorf("%d new objects of packs, want none", n-packs)
	}
	// No chain: the first set's own objects can go.
	for _, key := range append(g.store.keys("snapshots/"+string(first)), backup.SealKey(first)) {
		g.store.remove(key)
	}
	if err := g.readBack(ctx, r, next, c); err != nil {
		t.Fatal(err)
	}
	seal, _, _ := r.Seal(ctx, next)
	if t2 := seal.Totals(); t2.New != 1 || t2.Uploaded >= 2000 || t2.Bytes < 300<<10 {
		t.Errorf("totals: %+v", t2)
	}
}

// Whatever is lost is stored anew, and no set is built on it.
func TestBegin_TakesAnewWhatIsGone(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	first, c := backup.SetID(g.id()), sample()
	must(t, second(g.take(ctx, r, first, c, nil)))
	prev := must(t, second(manifests(ctx, r, first)))
	blob := prev[backup.Postgres].Blobs[0].Key
	g.store.remove(blob)
	pack := backup.PackPrefix(backup.ClickHouse, prev[backup.ClickHouse].Packs[0].ID)
	g.store.set(g.store.keys(pack)[1], []byte("cut"))

	a := must(t, second(r.Begin(ctx, backup.SetID(g.id()), g.id(), prev)))
	gone := a.Gone()
	if len(gone) != 2 || !strings.Contains(gone[0], blob+" is missing") || !strings.Contains(gone[1], "is 3 bytes long, want") {
		t.Errorf("gone: %q", gone)
	}
	next := backup.SetID(g.id())
	must(t, second(g.take(ctx, r, next, c, prev)))
	if err := g.readBack(ctx, r, next, c); err != nil {
		t.Fatal(err)
	}
	if found, err := broken(ctx, r, next, true); err != nil || len(found) > 0 {
		t.Errorf("the new set has findings %v (%v)", found, err)
	}
}

// Its private key may be lost: that is why there is another recipient.
func TestSink_ReusesNothingOfAnotherRecipient(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	first, c := backup.SetID(g.id()), sample()
	must(t, second(g.take(ctx, g.open(t), first, c, nil)))
	prev := must(t, second(manifests(ctx, g.open(t), first)))
	other := newRig(t)
	g.identity, g.config.Recipient = other.identity, other.config.Recipient
	next := backup.SetID(g.id())
	must(t, second(g.take(ctx, g.open(t), next, c, prev)))
	if err := g.readBack(ctx, g.open(t), next, c); err != nil {
		t.Error(err)
	}
}

func TestSink_CloseEndsItAndWaits(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	s := must(t, second(r.Begin(ctx, backup.SetID(g.id()), g.id(), nil))).Sink(ctx, backup.Postgres)
	for n := range 5 {
		must(t, second(s.Put(ctx, noise(uint64(n), aloneBytes))))
	}
	s.Close()
	s.Close()
	before := g.store.calls
	if _, err := s.Put(ctx, []byte("x")); err == nil {
		t.Error("it takes more after its end")
	}
	if _, err := s.Finish(ctx, backup.Manifest{}); err == nil || g.store.calls != before {
		t.Errorf("Finish says %v, after %d more calls", err, g.store.calls-before)
	}
}

// The put of the seal works, its answer is lost for good, and the store comes
// back: then the set exists, and that is what is said.
func TestSeal_SaysWhatIsThereAfterALostAnswer(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set, c := backup.SetID(g.id()), sample()
	g.store.faults = []*fault{{op: "put", ending: backup.SealKey(set), lose: true, err: errOnPurpose}}
	sum := must(t, second(g.take(ctx, r, set, c, nil)))
	if sum != digest(g.store.get(backup.SealKey(set))) {
		t.Error("another digest")
	}
	other := backup.SetID(g.id())
	g.store.faults = []*fault{{op: "put", ending: backup.SealKey(other), err: errOnPurpose}}
	if _, err := g.take(ctx, r, other, c, nil); !errors.Is(err, errOnPurpose) {
		t.Errorf("a put that did not work: %v", err)
	}
}

func TestAdopt_TakesExactlyWhatIsNamed(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	adopt := func(there []string, named ...backup.PackObject) error {
		s := must(t, second(r.Begin(ctx, backup.SetID(g.id()), g.id(), nil))).Sink(ctx, backup.ClickHouse)
		at := s.NewPack()
		for _, name := range there {
			g.store.set(at.Prefix+name, []byte(name))
		}
		_, err := s.Adopt(ctx, at, named, nil)
		if err != nil {
			if _, later := s.Finish(ctx, backup.Manifest{}); later == nil {
				t.Error("the sink goes on after a refused pack")
			}
			if len(g.store.keys(backup.PackIndexKey(backup.ClickHouse, at.ID))) != 0 {
				t.Error("a refused pack has an index")
			}
		}
		return err
	}
	a, b := backup.PackObject{Name: "a", Bytes: -1}, backup.PackObject{Name: "b", Bytes: 1}
	if err := adopt([]string{"a", "b"}, b, a); err != nil {
		t.Error(err)
	}
	for want, err := range map[string]error{
		"there is no such object":      adopt([]string{"a"}, a, b),
		"did not name it":              adopt([]string{"a", "b", "c"}, a, b),
		"is 1 bytes long, want 2":      adopt([]string{"a", "b"}, a, backup.PackObject{Name: "b", Bytes: 2}),
		"was named twice":              adopt([]string{"a"}, a, a),
		`cannot be called "../secret"`: adopt([]string{"a"}, a, backup.PackObject{Name: "../secret"}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestSink_ReportsAFailedUploadAtTheEnd(t *testing.T) {
	g := newRig(t)
	g.store.faults = []*fault{{op: "put", ending: "", nth: 3, err: errOnPurpose}} // session, blob, blob
	r, ctx := g.open(t), t.Context()
	s := must(t, second(r.Begin(ctx, backup.SetID(g.id()), g.id(), nil))).Sink(ctx, backup.Postgres)
	for n := range 4 {
		_, err := s.Put(ctx, noise(uint64(n), aloneBytes))
		if err != nil && !errors.Is(err, errOnPurpose) {
			t.Fatal(err)
		}
	}
	if _, err := s.Finish(ctx, backup.Manifest{}); !errors.Is(err, errOnPurpose) {
		t.Errorf("Finish says %v", err)
	}
	if keys := g.store.keys("snapshots/"); len(keys) > 0 {
		t.Errorf("there is a manifest: %v", keys)
	}
}

func TestSeal_RefusesWhatMayBeRemovedUnderIt(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	c := content{files: map[string][][]byte{"f": {noise(1, 10)}}}
	begin := func() (*Attempt, backup.Seal) {
		a := must(t, second(r.Begin(ctx, backup.SetID(g.id()), g.id(), nil)))
		part := must(t, second(g.postgres(ctx, a, c)))
		return a, backup.Seal{Node: "us-east-1", Parts: []backup.Part{part}}
	}
	a, s := begin()
	for key := range a.uses {
		g.store.set(backup.TombKey(key), nil)
	}
	if _, err := a.Seal(ctx, s); !errors.Is(err, ErrTombstoned) {
		t.Errorf("an object marked for removal: %v", err)
	}
	a, s = begin() // it stores a blob of its own
	g.store.clock = g.store.clock.Add(12*time.Hour + time.Second)
	if _, err := a.Seal(ctx, s); !errors.Is(err, ErrTooOld) {
		t.Errorf("an old attempt: %v", err)
	}
	a, s = begin()
	g.store.faults = []*fault{{op: "list", ending: "tombs/", err: errOnPurpose}}
	if _, err := a.Seal(ctx, s); !errors.Is(err, errOnPurpose) {
		t.Errorf("no list of what is marked: %v", err)
	}
	a, s = begin()
	s.Node = "eu-west-1"
	if _, err := a.Seal(ctx, s); !errors.Is(err, ErrSwapped) {
		t.Errorf("the name of another node: %v", err)
	}
	a, s = begin()
	s.Parts[0].SHA256 = digest(nil)
	if _, err := a.Seal(ctx, s); err == nil {
		t.Error("a part of another attempt was sealed")
	}
	if keys := g.store.keys("sets/"); len(keys) > 0 {
		t.Errorf("sealed: %v", keys)
	}
}

func TestSeal_TheSecondAttemptGetsTheFirstOnesSeal(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set, c := backup.SetID(g.id()), sample()
	sum := must(t, second(g.take(ctx, r, set, c, nil)))
	_, err := g.take(ctx, r, set, c, nil)
	var sealed *SealedError
	if !errors.Is(err, ErrSealed) || !errors.As(err, &sealed) || sealed.Digest != sum || sealed.Seal.Set != set {
		t.Fatalf("got %v", err)
	}
	// What is there and cannot be verified is no seal.
	other := backup.SetID(g.id())
	g.store.set(backup.SealKey(other), g.store.get(backup.SealKey(set)))
	if _, err := g.take(ctx, r, other, c, nil); err == nil || errors.Is(err, ErrSealed) || !errors.Is(err, ErrSwapped) {
		t.Errorf("a swapped seal: %v", err)
	}
}

func TestSeal_IsRefusedWhenAnythingInItIsNotAsSigned(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set := backup.SetID(g.id())
	must(t, second(g.take(ctx, r, set, sample(), nil)))
	good := g.store.get(backup.SealKey(set))
	for n := range good {
		bad := bytes.Clone(good)
		bad[n] ^= 1
		g.store.set(backup.SealKey(set), bad)
		if s, _, err := r.Seal(ctx, set); err == nil {
			// A byte outside of what is signed may change when it means the same.
			want, _ := decodeEnvelope(good)
			if got, _ := decodeEnvelope(bad); !bytes.Equal(got.Payload, want.Payload) {
				t.Fatalf("byte %d of the seal was changed, and it is taken: %+v", n, s)
			}
		}
	}
	for n := range good {
		g.store.set(backup.SealKey(set), good[:n])
		if _, _, err := r.Seal(ctx, set); err == nil {
			t.Fatalf("a seal of %d of %d bytes is taken", n, len(good))
		}
	}
	g.store.set(backup.SealKey(set), bytes.Replace(good, []byte(`{"format":1`), []byte(`{"format":2`), 1))
	if _, _, err := r.Seal(ctx, set); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer format: %v", err)
	}
	g.store.set(backup.SealKey(set), good)
	for _, change := range []func(*Config){
		func(c *Config) { c.Region = "eu-west" },
		func(c *Config) { c.Cluster = "other" },
		func(c *Config) { c.Verifier = newRig(t).config.Verifier },
	} {
		c := g.config
		change(&c)
		if _, _, err := must(t, second(Open(ctx, c))).Seal(ctx, set); err == nil {
			t.Error("a seal of another fleet or region is taken")
		}
	}
}

func TestPieces_NeedTheIdentityAndSayWhich(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set, c := backup.SetID(g.id()), sample()
	must(t, second(g.take(ctx, r, set, c, nil)))
	g.config.Identity = nil
	blind := g.open(t)
	if err := g.readBack(ctx, blind, set, c); err == nil || !strings.Contains(err.Error(), "no identity") {
		t.Errorf("without an identity: %v", err)
	}
	if found, err := broken(ctx, blind, set, true); err != nil || len(found) > 0 {
		t.Errorf("verifying needs no identity: %v %v", found, err)
	}
	g.config.Identity = func() (string, error) { return newRig(t).identity.String(), nil }
	if err := g.readBack(ctx, g.open(t), set, c); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("with another identity: %v", err)
	}
	g.config.Identity = func() (string, error) { return "AGE-SECRET-KEY-1nonsense", nil }
	if err := g.readBack(ctx, g.open(t), set, c); err == nil || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("with a broken identity: %v", err)
	}
}

func TestPieces_ReadEachBlobOnceAndStopWhenTold(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set := backup.SetID(g.id())
	c := content{files: map[string][][]byte{}}
	for n := range 12 {
		c.files[fmt.Sprintf("f%02d", n)] = [][]byte{noise(uint64(n), aloneBytes), []byte(fmt.Sprint("small ", n))}
	}
	must(t, second(g.take(ctx, r, set, c, nil)))
	m := must(t, second(manifests(ctx, r, set)))[backup.Postgres]
	var order []int
	for _, f := range m.Postgres.Files {
		order = append(order, f.Pieces...)
	}
	clear(g.store.reads)
	n := 0
	if err := r.Pieces(ctx, m, order, func([]byte) error { n++; return nil }); err != nil || n != len(order) {
		t.Fatalf("%d of %d pieces: %v", n, len(order), err)
	}
	for key, reads := range g.store.reads {
		if reads > 2 { // the bundle of small ones is asked for between all others
			t.Errorf("%s was read %d times", key, reads)
		}
	}
	clear(g.store.reads)
	err := r.Pieces(ctx, m, order, func([]byte) error { return errOnPurpose })
	if !errors.Is(err, errOnPurpose) || len(g.store.reads) > aheadMax+1 {
		t.Errorf("stopped with %v after %d blobs", err, len(g.store.reads))
	}
}

func TestVerify_NamesTheObjectAndWhatItHurts(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set := backup.SetID(g.id())
	must(t, second(g.take(ctx, r, set, sample(), nil)))
	all := must(t, second(manifests(ctx, r, set)))
	pg, ch := all[backup.Postgres], all[backup.ClickHouse]
	object := backup.PackPrefix(backup.ClickHouse, ch.Packs[1].ID) + "data/sentry/errors_local/20260817_1_1_0/data.bin"
	look := func(key string, m *backup.Manifest, what, hurts string, breakIt func()) {
		t.Helper()
		was := g.store.get(key)
		defer g.store.set(key, was)
		breakIt()
		v := must(t, second(r.Verify(ctx, m, true, nil)))
		if v.Broken != 1 || v.Findings[0].Object != key || !strings.Contains(v.Findings[0].What, what) || !strings.Contains(v.Findings[0].Hurts, hurts) {
			t.Errorf("want %q hurting %q, got %+v", what, hurts, v.Findings)
		}
	}
	blob := pg.Blobs[0].Key
	look(blob, pg, "missing", "base/1/1, base/1/2", func() { g.store.remove(blob) })
	look(blob, pg, "is 3 bytes long, want", "base/1/1, base/1/2", func() { g.store.set(blob, []byte("cut")) })
	look(blob, pg, "its SHA-256 is", "base/1/1, base/1/2", func() {
		b := g.store.get(blob)
		b[0] ^= 1
		g.store.set(blob, b)
	})
	look(blob, pg, "cannot be read", "base/1/1", func() { g.store.faults = []*fault{{op: "get", ending: blob, err: errOnPurpose}} })
	look(object, ch, "missing", "errors_local partition 20260817", func() { g.store.remove(object) })
	look(ch.Packs[0].Index, ch, "SHA-256", "errors_local partition 20260816", func() {
		g.store.set(ch.Packs[0].Index, g.store.get(ch.Packs[1].Index))
	})
	// The store is away: that says nothing about the set.
	g.store.crashAt = 1
	if _, err := r.Verify(ctx, pg, true, nil); !errors.Is(err, objects.ErrUnreachable) {
		t.Errorf("without a store: %v", err)
	}
}

func TestCorrupted_IsCaughtByWhoeverReads(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set, c := backup.SetID(g.id()), sample()
	must(t, second(g.take(ctx, r, set, c, nil)))
	pg := must(t, second(manifests(ctx, r, set)))[backup.Postgres]
	key := pg.Blobs[0].Key
	view := r.Corrupted(key)
	if v := must(t, second(view.Verify(ctx, pg, true, nil))); v.Broken != 1 || v.Findings[0].Object != key {
		t.Errorf("Verify: %+v", v)
	}
	if err := view.Pieces(ctx, pg, []int{0}, func([]byte) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("Pieces: %v", err)
	}
	if _, _, err := r.Corrupted(backup.SealKey(set)).Seal(ctx, set); err == nil {
		t.Error("a corrupted seal is taken")
	}
	if found, err := broken(ctx, r, set, true); err != nil || len(found) > 0 {
		t.Errorf("the repository itself: %v %v", found, err)
	}
}

func TestReport_IsSignedAndIsNoSeal(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	rep := restore.Report{Run: g.id(), Attempt: 1, Set: backup.SetID(g.id()), By: "us-east-1", OK: true}
	sum := must(t, second(r.PutReport(ctx, rep, []byte("# drill"))))
	got, d, err := r.Report(ctx, ReportKey(rep))
	if err != nil || d != sum || !got.OK || got.Run != rep.Run {
		t.Errorf("%+v %s %v", got, d, err)
	}
	if _, err := r.PutReport(ctx, rep, nil); !errors.Is(err, objects.ErrExists) {
		t.Errorf("a second report of one attempt: %v", err)
	}
	rep.Attempt = 2
	must(t, second(r.PutReport(ctx, rep, nil)))
	g.store.set(backup.SealKey(rep.Set), g.store.get(ReportKey(rep)))
	if _, _, err := r.Seal(ctx, rep.Set); err == nil {
		t.Error("a report is taken for a seal")
	}
	rep.By, rep.Attempt = "eu-west-1", 3
	if _, err := r.PutReport(ctx, rep, nil); !errors.Is(err, ErrSwapped) {
		t.Errorf("in another node's name: %v", err)
	}
}

// Whatever sequence of sets is taken, each one reads back; and whatever object
// of a set is touched, the set is not taken for good.
func TestProperty_SetsReadBackAndNoDamageIsMissed(t *testing.T) {
	g := newRig(t)
	rapid.Check(t, func(rt *rapid.T) {
		g.store = newMemory()
		g.config.Store = g.store
		r, ctx := g.open(rt), context.Background()
		taken := map[backup.SetID]content{}
		var last backup.SetID
		var prev map[backup.Engine]*backup.Manifest
		for range rapid.IntRange(1, 4).Draw(rt, "sets") {
			c := drawContent(rt)
			last = backup.SetID(g.id())
			taken[last] = c
			must(rt, second(g.take(ctx, r, last, c, prev)))
			prev = must(rt, second(manifests(ctx, r, last)))
		}
		for set, c := range taken {
			if err := g.readBack(ctx, r, set, c); err != nil {
				rt.Fatal(err)
			}
			if found, err := broken(ctx, r, set, true); err != nil || len(found) > 0 {
				rt.Fatalf("a false alarm: %v %v", found, err)
			}
		}
		needed := neededBy(g, prev, last)
		key := rapid.SampledFrom(needed).Draw(rt, "key")
		body := g.store.get(key)
		switch rapid.IntRange(0, 3).Draw(rt, "damage") {
		case 0:
			body[rapid.IntRange(0, len(body)-1).Draw(rt, "at")] ^= byte(rapid.IntRange(1, 255).Draw(rt, "by"))
			g.store.set(key, body)
		case 1:
			g.store.set(key, body[:rapid.IntRange(0, len(body)-1).Draw(rt, "cut")])
		case 2:
			g.store.remove(key)
		case 3:
			other := g.store.get(rapid.SampledFrom(g.store.keys("")).Draw(rt, "other"))
			if bytes.Equal(other, body) {
				return
			}
			g.store.set(key, other)
		}
		found, err := broken(ctx, r, last, true)
		if err == nil && len(found) == 0 && !sameMeaning(body, g.store.get(key)) {
			rt.Fatalf("damage to %s was not found", key)
		}
		if strings.HasPrefix(key, "blobs/") {
			if g.readBack(ctx, r, last, taken[last]) == nil {
				rt.Fatalf("damage to %s was not seen by a reader", key)
			}
		}
	})
}

// sameMeaning: a seal may change outside of what is signed, as in the blanks
// of the certificate's PEM, and still say the same.
func sameMeaning(a, b []byte) bool {
	x, err1 := decodeEnvelope(a)
	y, err2 := decodeEnvelope(b)
	return err1 == nil && err2 == nil && bytes.Equal(x.Payload, y.Payload)
}

func drawContent(rt *rapid.T) content {
	c := content{files: map[string][][]byte{}, partitions: map[string]map[string][]byte{}}
	for n := range rapid.IntRange(1, 4).Draw(rt, "files") {
		var pieces [][]byte
		for range rapid.IntRange(0, 4).Draw(rt, "pieces") {
			size := rapid.SampledFrom([]int{1, 100, 8192, aloneBytes - 1, aloneBytes}).Draw(rt, "size")
			pieces = append(pieces, noise(uint64(rapid.IntRange(0, 5).Draw(rt, "seed")), size))
		}
		c.files[fmt.Sprint("f", n)] = pieces
	}
	for n := range rapid.IntRange(0, 3).Draw(rt, "partitions") {
		c.partitions[fmt.Sprint("p", n)] = map[string][]byte{"data.bin": noise(uint64(rapid.IntRange(0, 2).Draw(rt, "data")), 50)}
	}
	return c
}

// neededBy lists the keys of all objects that a set consists of.
func neededBy(g *rig, all map[backup.Engine]*backup.Manifest, set backup.SetID) []string {
	keys := []string{backup.SealKey(set)}
	for _, e := range backup.Engines() {
		m := all[e]
		if m == nil {
			continue
		}
		keys = append(keys, backup.ManifestKey(set, m.Attempt, e))
		for _, b := range m.Blobs {
			keys = append(keys, b.Key)
		}
		for _, p := range m.Packs {
			keys = append(append(keys, p.Index), g.store.keys(backup.PackPrefix(e, p.ID))...)
		}
	}
	return keys
}

func TestCrash_AtAnyCallLeavesNoHalfSet(t *testing.T) {
	g := newRig(t)
	g.config.Concurrency = 1
	c, ctx := sample(), t.Context()
	base := newMemory()
	g.store, g.config.Store = base, base
	before := backup.SetID(g.id())
	must(t, second(g.take(ctx, g.open(t), before, c, nil)))
	prev := must(t, second(manifests(ctx, g.open(t), before)))
	c.files["new"] = [][]byte{noise(77, 2000)}
	c.partitions["20260818"] = map[string][]byte{"data.bin": noise(78, 20)}

	for at := 1; ; at++ {
		store := newMemory()
		store.objects = maps.Clone(base.objects)
		store.crashAt = at
		g.store, g.config.Store = store, store
		set := backup.SetID(g.id())
		_, crashed := g.take(ctx, g.open(t), set, c, prev)
		store.crashAt = 0
		r := g.open(t)
		sets := must(t, second(r.Sets(ctx)))
		if slices.Contains(sets, set) {
			// It crashed after the commit: then the set is whole.
			if err := g.readBack(ctx, r, set, c); err != nil {
				t.Fatalf("crash at call %d: a listed set is not whole: %v", at, err)
			}
		}
		if err := g.readBack(ctx, r, before, sample()); err != nil {
			t.Fatalf("crash at call %d: the set before: %v", at, err)
		}
		_, err := g.take(ctx, r, set, c, prev)
		if err != nil && !(errors.Is(err, ErrSealed) && slices.Contains(sets, set)) {
			t.Fatalf("crash at call %d: the next attempt: %v", at, err)
		}
		if err := g.readBack(ctx, r, set, c); err != nil {
			t.Fatalf("crash at call %d: after the next attempt: %v", at, err)
		}
		if crashed == nil {
			if at < 20 {
				t.Fatalf("only %d calls: nothing was tried", at)
			}
			return
		}
	}
}

func TestOpen_SaysWhatIsMissing(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	for want, change := range map[string]func(*Config){
		"verifier": func(c *Config) { c.Verifier = nil },
		"age1":     func(c *Config) { c.Recipient = "age1nonsense" },
		"region":   func(c *Config) { c.Region = "" },
		"cluster":  func(c *Config) { c.Cluster = "" },
	} {
		c := g.config
		change(&c)
		if _, err := Open(ctx, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	for want, change := range map[string]func(*Config){
		"recipient":  func(c *Config) { c.Recipient = "" },
		"dedupe_key": func(c *Config) { c.DedupeKey = nil },
		"sign":       func(c *Config) { c.Sign = nil },
		"at least 32": func(c *Config) {
			c.DedupeKey = func() ([]byte, error) { return []byte("short"), nil }
		},
	} {
		c := g.config
		change(&c)
		if _, err := must(t, second(Open(ctx, c))).Begin(ctx, backup.SetID(g.id()), g.id(), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if keys := g.store.keys("sessions/"); len(keys) > 0 {
		t.Errorf("refused and yet noted: %v", keys)
	}
}
