package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// rig is a repository over a store in memory, with real certificates and keys.
type rig struct {
	store    *memory
	config   Config
	identity *age.X25519Identity
	certs    string
	ids      uint64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	g := &rig{store: newMemory(), certs: dir}
	must(t, second(certs.Init(certs.InitOptions{Dir: dir, Cluster: "lab", Nodes: []topology.Node{"us-east-1", "eu-west-1"}})))
	g.identity = must(t, second(age.GenerateX25519Identity()))
	g.config = Config{
		Store: g.store, Cluster: "lab", Region: "us-east",
		Verifier:  must(t, second(certs.NewVerifier(certs.FilesIn(dir, "us-east-1").CA, "lab"))),
		Sign:      g.signer(t, "us-east-1"),
		Recipient: g.identity.Recipient().String(),
		DedupeKey: func() ([]byte, error) { return bytes.Repeat([]byte("k"), 32), nil },
		Identity:  func() (string, error) { return g.identity.String(), nil },
	}
	return g
}

func (g *rig) signer(t *testing.T, node topology.Node) *certs.Identity {
	t.Helper()
	return must(t, second(certs.Load(certs.Options{Files: certs.FilesIn(g.certs, node), Cluster: "lab", Node: node})))
}

func (g *rig) open(t testingT) *Repository {
	return must(t, second(Open(context.Background(), g.config)))
}

// id makes ULIDs that rise.
func (g *rig) id() string {
	g.ids++
	return ulid.MustNew(1_780_000_000_000+g.ids, bytes.NewReader(make([]byte, 10))).String()
}

// testingT is what testing.T and rapid.T have in common.
type testingT interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

type pair[T any] struct {
	v   T
	err error
}

func second[T any](v T, err error) pair[T] { return pair[T]{v, err} }

func must[T any](t testingT, p pair[T]) T {
	t.Helper()
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.v
}

// content is what one set takes: files for postgres and, by partition, the
// files of a pack for clickhouse. A partition with nil files reuses the pack
// that prev has for it.
type content struct {
	files      map[string][][]byte
	partitions map[string]map[string][]byte
}

// take does what the engines and a run do: it is one attempt at a set.
func (g *rig) take(ctx context.Context, r *Repository, set backup.SetID, c content, prev map[backup.Engine]*backup.Manifest) (backup.Digest, error) {
	a, err := r.Begin(ctx, set, g.id(), prev)
	if err != nil {
		return "", err
	}
	click, err := g.clickhouse(ctx, a, c)
	if err != nil {
		return "", err
	}
	post, err := g.postgres(ctx, a, c)
	if err != nil {
		return "", err
	}
	return a.Seal(ctx, backup.Seal{Node: "us-east-1", Version: "test", Sealed: time.Now().UTC(), Parts: []backup.Part{click, post}})
}

func (g *rig) clickhouse(ctx context.Context, a *Attempt, c content) (backup.Part, error) {
	s := a.Sink(ctx, backup.ClickHouse)
	prev := a.Prev(backup.ClickHouse)
	table := backup.ClickHouseTable{Database: "sentry", Name: "errors_local", Engine: "MergeTree"}
	for _, id := range sortedKeys(c.partitions) {
		part := backup.ClickHousePartition{ID: id, Parts: []string{id + "_1_1_0"}, Fingerprint: fmt.Sprint(digestOfAll(c.partitions[id]))}
		if old, ok := lookup(prev, id); ok && old.Fingerprint == part.Fingerprint {
			part.Pack = s.Reuse(prev.Packs[old.Pack])
		} else {
			at := s.NewPack()
			var named []backup.PackObject
			for _, name := range sortedKeys(c.partitions[id]) {
				full := "data/sentry/errors_local/" + part.Parts[0] + "/" + name
				g.store.set(at.Prefix+full, c.partitions[id][name])
				named = append(named, backup.PackObject{Name: full, Bytes: -1})
			}
			g.store.set(at.Prefix+".backup", []byte("<xml/>"))
			named = append(named, backup.PackObject{Name: ".backup", Bytes: 6})
			n, err := s.Adopt(ctx, at, named, nil)
			if err != nil {
				return backup.Part{}, err
			}
			part.Pack = n
		}
		table.Partitions = append(table.Partitions, part)
	}
	return s.Finish(ctx, backup.Manifest{ClickHouse: &backup.ClickHousePart{Tables: []backup.ClickHouseTable{table}}})
}

func lookup(m *backup.Manifest, id string) (backup.ClickHousePartition, bool) {
	if m == nil || m.ClickHouse == nil {
		return backup.ClickHousePartition{}, false
	}
	for _, p := range m.ClickHouse.Tables[0].Partitions {
		if p.ID == id {
			return p, true
		}
	}
	return backup.ClickHousePartition{}, false
}

func (g *rig) postgres(ctx context.Context, a *Attempt, c content) (backup.Part, error) {
	s := a.Sink(ctx, backup.Postgres)
	part := &backup.PostgresPart{}
	for _, name := range sortedKeys(c.files) {
		f := backup.PostgresFile{Name: name}
		for _, data := range c.files[name] {
			n, err := s.Put(ctx, data)
			if err != nil {
				return backup.Part{}, errors.Join(err, drained(ctx, s))
			}
			f.Pieces = append(f.Pieces, n)
			f.Bytes += int64(len(data))
		}
		part.Files = append(part.Files, f)
	}
	return s.Finish(ctx, backup.Manifest{Totals: backup.Totals{Rows: 7}, Postgres: part})
}

// drained waits for the uploads of a sink that failed.
func drained(ctx context.Context, s *Sink) error {
	_, err := s.Finish(ctx, backup.Manifest{})
	return err
}

// manifests reads the manifests of a set, as a restore does.
func manifests(ctx context.Context, r *Repository, set backup.SetID) (map[backup.Engine]*backup.Manifest, error) {
	seal, _, err := r.Seal(ctx, set)
	if err != nil {
		return nil, err
	}
	all := map[backup.Engine]*backup.Manifest{}
	for _, p := range seal.Parts {
		m, err := r.Manifest(ctx, set, p)
		if err != nil {
			return nil, err
		}
		all[p.Engine] = &m
	}
	return all, nil
}

// readBack compares a set with what it took. Packs it reads by their index.
func (g *rig) readBack(ctx context.Context, r *Repository, set backup.SetID, c content) error {
	all, err := manifests(ctx, r, set)
	if err != nil {
		return err
	}
	m := all[backup.Postgres]
	for _, f := range m.Postgres.Files {
		var got []byte
		if err := r.Pieces(ctx, m, f.Pieces, func(b []byte) error { got = append(got, b...); return nil }); err != nil {
			return err
		}
		if want := bytes.Join(c.files[f.Name], nil); !bytes.Equal(got, want) {
			return fmt.Errorf("file %s of set %s reads back different: %d bytes, want %d", f.Name, set, len(got), len(want))
		}
	}
	if len(m.Postgres.Files) != len(c.files) {
		return fmt.Errorf("%d files, want %d", len(m.Postgres.Files), len(c.files))
	}
	m = all[backup.ClickHouse]
	for _, p := range m.ClickHouse.Tables[0].Partitions {
		x, err := r.PackIndex(ctx, m.Packs[p.Pack])
		if err != nil {
			return err
		}
		for name, want := range c.partitions[p.ID] {
			full := "data/sentry/errors_local/" + p.Parts[0] + "/" + name
			n := 0
			for n < len(x.Objects) && x.Objects[n].Name != full {
				n++
			}
			if n == len(x.Objects) || x.Objects[n].SHA256 != digest(want) {
				return fmt.Errorf("%s of partition %s is not in the index with its hash", name, p.ID)
			}
			if !bytes.Equal(g.store.get(backup.PackPrefix(backup.ClickHouse, x.Pack)+full), want) {
				return fmt.Errorf("%s of partition %s has other bytes", name, p.ID)
			}
		}
	}
	return nil
}

// broken verifies all parts of a set, and returns the keys found.
func broken(ctx context.Context, r *Repository, set backup.SetID, readData bool) ([]string, error) {
	all, err := manifests(ctx, r, set)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, e := range backup.Engines() {
		if all[e] == nil {
			continue
		}
		v, err := r.Verify(ctx, all[e], readData, nil)
		if err != nil {
			return nil, err
		}
		for _, f := range v.Findings {
			keys = append(keys, f.Object)
		}
	}
	return keys, nil
}
