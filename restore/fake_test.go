package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clock"
)

// world is a store with one set in it and a place for each engine, and the
// faults that a test puts between them. Every call is noted.
type world struct {
	objects map[string][]byte
	calls   []string
	now     time.Duration // on the fake clock; each call takes a second
	// fault answers before a call is carried out; nil: no fault.
	fault   func(call string) error
	targets []Target
	kafka   backup.Manifest
	set     backup.SetID
}

const setID backup.SetID = "01K0000000000000000000SET1"

const (
	attemptID = "01K0000000000000000000ATT1"
	packID    = "01K0000000000000000000PCK1"
)

var sealedAt = time.Date(2026, 11, 20, 12, 0, 30, 0, time.UTC)

func (w *world) call(name string) error {
	w.calls = append(w.calls, name)
	w.now += time.Second
	if w.fault != nil {
		return w.fault(name)
	}
	return nil
}

// called counts the calls whose name begins so.
func (w *world) called(prefix string) (n int) {
	for _, c := range w.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (w *world) Now() clock.Instant { return clock.Instant(w.now) }
func (w *world) Wall() time.Time    { return sealedAt.Add(time.Hour).Add(w.now) }

func sum(b []byte) backup.Digest {
	s := sha256.Sum256(b)
	return backup.Digest(hex.EncodeToString(s[:]))
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// newWorld seals a set: offsets, a table of 10 rows in a pack, a file in a blob.
func newWorld() *world {
	w := &world{objects: map[string][]byte{}, set: setID}
	base := backup.Manifest{Format: 1, Set: setID, Attempt: attemptID, Cluster: "sentry", Region: "us-east"}

	k := base
	k.Engine, k.Totals.Rows = backup.Kafka, 2
	k.Kafka = &backup.KafkaPart{
		Topics: []backup.KafkaTopic{{Name: "events", Partitions: []backup.KafkaPartition{{Partition: 0, Start: 5, End: 20}, {Partition: 1, Start: 0, End: 7}}}},
		Groups: []backup.KafkaGroup{{Name: "snuba", State: "Empty", Offsets: []backup.KafkaOffset{{Topic: "events", Partition: 0, Offset: 20}, {Topic: "events", Partition: 1, Offset: 3}}}},
	}
	w.kafka = k

	ch := base
	ch.Engine, ch.Totals.Rows = backup.ClickHouse, 10
	index := backup.PackIndex{Format: 1, Pack: packID, Engine: backup.ClickHouse, Set: setID, Attempt: attemptID}
	var bytes int64
	for name, data := range map[string]string{".backup": "<xml>", "data/a": "rows of a", "data/empty": ""} {
		key := backup.PackPrefix(backup.ClickHouse, packID) + name
		w.objects[key] = []byte(data)
		index.Objects = append(index.Objects, backup.PackObject{Name: name, Bytes: int64(len(data)), SHA256: sum([]byte(data))})
		bytes += int64(len(data))
	}
	slices.SortFunc(index.Objects, func(a, b backup.PackObject) int { return strings.Compare(a.Name, b.Name) })
	indexKey := backup.PackIndexKey(backup.ClickHouse, packID)
	w.objects[indexKey] = mustJSON(index)
	ch.Packs = []backup.Pack{{ID: packID, Index: indexKey, SHA256: sum(w.objects[indexKey]), Objects: 3, Bytes: bytes, Encryption: "none"}}
	ch.ClickHouse = &backup.ClickHousePart{Tables: []backup.ClickHouseTable{{Database: "default", Name: "errors", Partitions: []backup.ClickHousePartition{{ID: "90", Rows: 10, RowHash: "42"}}}}}

	pg := base
	pg.Engine, pg.Totals.Rows = backup.Postgres, 4
	data := []byte("the blob of a file")
	key := backup.BlobKey(sum(data), "01K0000000000000000000BLB1")
	w.objects[key] = data
	pg.Blobs = []backup.Blob{{Key: key, SHA256: sum(data), Stored: int64(len(data)), Size: int64(len(data))}}
	pg.Pieces = []backup.Piece{{ID: "p", At: 0, Size: int64(len(data))}}
	pg.Postgres = &backup.PostgresPart{
		Files:  []backup.PostgresFile{{Name: "base/1", Bytes: int64(len(data)), Pieces: []int{0}}},
		Census: []backup.PostgresTable{{Database: "sentry", Schema: "public", Name: "project", Rows: 4}, {Name: "hot", Rows: 99, Moving: true}},
	}

	w.seal(k, ch, pg)
	w.targets = []Target{&fakeTarget{w: w, engine: backup.Postgres, rows: 4}, &fakeTarget{w: w, engine: backup.ClickHouse, rows: 10}}
	return w
}

// seal writes manifests and the seal that names them.
func (w *world) seal(ms ...backup.Manifest) {
	s := backup.Seal{Format: 1, Set: setID, Attempt: attemptID, Cluster: "sentry", Region: "us-east", Node: "us-east-1", Started: sealedAt.Add(-30 * time.Second), Sealed: sealedAt}
	for _, m := range ms {
		key := backup.ManifestKey(setID, attemptID, m.Engine)
		w.objects[key] = mustJSON(m)
		s.Parts = append(s.Parts, backup.Part{Engine: m.Engine, Manifest: key, Bytes: int64(len(w.objects[key])), SHA256: sum(w.objects[key]), Started: s.Started, Finished: sealedAt, Totals: m.Totals})
	}
	w.objects[backup.SealKey(setID)] = mustJSON(s)
}

func (w *world) target(e backup.Engine) *fakeTarget {
	for _, t := range w.targets {
		if t.Engine() == e {
			return t.(*fakeTarget)
		}
	}
	return nil
}

func (w *world) vault() *fakeVault { return &fakeVault{w: w} }

func (w *world) spec() DrillSpec {
	return DrillSpec{Vault: w.vault(), Targets: w.targets, Run: "01K0000000000000000000RUN1", Attempt: 1, Cluster: "sentry", By: "eu-west-1", Clock: w}
}

func (w *world) load(t testing.TB) Loaded {
	t.Helper()
	l, err := Load(t.Context(), w.vault(), setID, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (w *world) plan(t testing.TB, l Loaded) Plan {
	t.Helper()
	p, err := MakePlan(t.Context(), l, w.targets, PlanOptions{Now: w.Wall()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fakeVault reads the objects of a world, one of them with a wrong byte.
type fakeVault struct {
	w      *world
	broken string
	blind  bool // Verify of a corrupted view says nothing
	lazy   bool // Verify reads half and says nothing
}

func (v *fakeVault) get(call, key string) ([]byte, error) {
	if err := v.w.call(call + " " + key); err != nil {
		return nil, err
	}
	b, ok := v.w.objects[key]
	if !ok {
		return nil, fmt.Errorf("get %s: %w: it is missing", key, ErrDamaged)
	}
	b = slices.Clone(b)
	if key == v.broken {
		b[len(b)/2] ^= 1
	}
	return b, nil
}

func (v *fakeVault) checked(call, key string, want backup.Digest, into any) error {
	b, err := v.get(call, key)
	if err != nil {
		return err
	}
	if got := sum(b); got != want {
		return fmt.Errorf("%s: %w: its SHA-256 is %s, want %s", key, ErrDamaged, got, want)
	}
	return json.Unmarshal(b, into)
}

func (v *fakeVault) Sets(context.Context) ([]backup.SetID, error) {
	if err := v.w.call("vault.sets"); err != nil {
		return nil, err
	}
	if _, ok := v.w.objects[backup.SealKey(v.w.set)]; !ok {
		return nil, nil
	}
	return []backup.SetID{v.w.set}, nil
}

func (v *fakeVault) Seal(_ context.Context, set backup.SetID) (s backup.Seal, d backup.Digest, err error) {
	key := backup.SealKey(set)
	b, err := v.get("vault.seal", key)
	if err != nil {
		return s, "", err
	}
	if key == v.broken {
		return s, "", fmt.Errorf("%s: %w: its signature is wrong", key, ErrDamaged)
	}
	return s, sum(b), json.Unmarshal(b, &s)
}

func (v *fakeVault) Manifest(_ context.Context, _ backup.SetID, p backup.Part) (m backup.Manifest, err error) {
	return m, v.checked("vault.manifest", p.Manifest, p.SHA256, &m)
}

func (v *fakeVault) PackIndex(_ context.Context, p backup.Pack) (x backup.PackIndex, err error) {
	return x, v.checked("vault.index", p.Index, p.SHA256, &x)
}

func (v *fakeVault) Pieces(_ context.Context, m *backup.Manifest, pieces []int, each func([]byte) error) error {
	for _, i := range pieces {
		b, err := v.get("vault.piece", m.Blobs[m.Pieces[i].Blob].Key)
		if err == nil {
			err = each(b[m.Pieces[i].At:][:m.Pieces[i].Size])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *fakeVault) Verify(ctx context.Context, m *backup.Manifest, readData bool, _ func(backup.Progress)) (out Verification, err error) {
	if err := v.w.call("vault.verify " + string(m.Engine)); err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	if !readData {
		return out, errors.New("a restore reads every byte")
	}
	look := func(key string, want backup.Digest) {
		b, err := v.get("object", key)
		out.Objects, out.Bytes = out.Objects+1, out.Bytes+int64(len(b))
		if err == nil && sum(b) != want {
			err = errors.New("its SHA-256 is another one")
		}
		if err != nil && !v.blind {
			out.Find(Finding{Object: key, What: err.Error(), Hurts: string(m.Engine)})
		}
	}
	for _, b := range m.Blobs {
		look(b.Key, b.SHA256)
	}
	for _, p := range m.Packs {
		look(p.Index, p.SHA256)
		var x backup.PackIndex
		_ = json.Unmarshal(v.w.objects[p.Index], &x)
		for _, o := range x.Objects {
			look(backup.PackPrefix(x.Engine, p.ID)+o.Name, o.SHA256)
		}
	}
	if v.lazy {
		out.Objects, out.Bytes = out.Objects/2, out.Bytes/2
	}
	return out, nil
}

func (v *fakeVault) Corrupted(key string) Vault {
	c := *v
	c.broken = key
	return &c
}

func (v *fakeVault) PutReport(context.Context, Report, []byte) (backup.Digest, error) {
	return "", errors.New("a drill does not store its own report")
}

func (v *fakeVault) Name() string { return "s3://holdfast-us of us-east" }

// fakeTarget holds a number of rows.
type fakeTarget struct {
	w      *world
	engine backup.Engine
	rows   uint64 // that a restore brings
	have   uint64
	exists bool // the place is somebody else's
	made   bool
	blind  bool // Compare says what the manifest says
	short  bool // Compare reads nothing and says nothing
	boom   bool // Restore panics
}

func (t *fakeTarget) Engine() backup.Engine { return t.engine }
func (t *fakeTarget) Where() string         { return "scratch " + string(t.engine) }

func (t *fakeTarget) Check(context.Context, *backup.Manifest) ([]Obstacle, error) {
	if err := t.w.call("check " + string(t.engine)); err != nil {
		return nil, err
	}
	if t.exists || t.made {
		return []Obstacle{{t.Where() + " is there already", "name another place"}}, nil
	}
	return nil, nil
}

func (t *fakeTarget) Restore(ctx context.Context, m *backup.Manifest, src backup.Source, progress func(backup.Progress)) error {
	t.made = true
	if err := t.w.call("restore " + string(t.engine)); err != nil {
		return err
	}
	if t.boom {
		panic("a bug in a driver")
	}
	progress(backup.Progress{Stage: "fill"})
	for i := range m.Pieces {
		if err := src.Pieces(ctx, m, []int{i}, func([]byte) error { return nil }); err != nil {
			return errors.New("it did not work") // drivers may lose the cause
		}
	}
	for _, p := range m.Packs {
		if _, err := src.PackIndex(ctx, p); err != nil {
			return fmt.Errorf("read the index: %w", err)
		}
	}
	t.have = t.rows
	return nil
}

func (t *fakeTarget) Compare(_ context.Context, m *backup.Manifest, _ func(backup.Progress)) (c Comparison, err error) {
	if err := t.w.call("compare " + string(t.engine)); err != nil {
		return c, err
	}
	c.Tables, c.Units, c.Rows = 1, 1, t.have
	want := rowsAtLeast(m)
	switch {
	case t.short:
		c.Rows = 0
	case t.blind:
		c.Rows = want
	case t.have != want:
		c.Add("errors", fmt.Sprintf("%d rows, the manifest says %d", t.have, want))
	}
	return c, nil
}

func (t *fakeTarget) Disturb(context.Context, *backup.Manifest) (string, error) {
	if err := t.w.call("disturb " + string(t.engine)); err != nil {
		return "", err
	}
	t.have--
	return "one row of errors was taken out", nil
}

func (t *fakeTarget) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.w.call("remove " + string(t.engine)); err != nil {
		return err
	}
	t.made, t.have = false, 0
	return nil
}
