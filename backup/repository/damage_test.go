package repository

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/restore"
)

// readAll reads a set as a restore does, and returns the first error.
func readAll(ctx context.Context, r *Repository, set backup.SetID) error {
	l, err := restore.Load(ctx, r, set, "")
	if err != nil {
		return err
	}
	for _, m := range l.Manifests {
		for i := range m.Pieces {
			if err := r.Pieces(ctx, m, []int{i}, func([]byte) error { return nil }); err != nil {
				return err
			}
		}
		for _, p := range m.Packs {
			if _, err := r.PackIndex(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// A drill calls a set bad for damage, and for nothing else: a set that is
// called bad on a day without network is thrown away for nothing.
func TestDamage_IsToldFromAStoreThatDoesNotAnswer(t *testing.T) {
	g := newRig(t)
	r, ctx := g.open(t), t.Context()
	set, c := backup.SetID(g.id()), sample()
	must(t, second(g.take(ctx, r, set, c, nil)))
	if err := readAll(ctx, r, set); err != nil {
		t.Fatal(err)
	}
	l := must(t, second(restore.Load(ctx, r, set, "")))
	keys := []string{l.Seal.Parts[0].Manifest, l.Manifests[backup.Postgres].Blobs[0].Key, l.Manifests[backup.ClickHouse].Packs[0].Index}
	for _, key := range keys {
		whole := g.store.get(key)
		wrong := append([]byte(nil), whole...)
		wrong[len(wrong)/2] ^= 1
		for name, change := range map[string]func(){
			"missing":    func() { g.store.remove(key) },
			"wrong byte": func() { g.store.set(key, wrong) },
			"cut":        func() { g.store.set(key, whole[:len(whole)/2]) },
			"too long":   func() { g.store.set(key, append(append([]byte(nil), whole...), 0)) },
		} {
			change()
			if err := readAll(ctx, r, set); !errors.Is(err, restore.ErrDamaged) {
				t.Errorf("%s, %s: got %v", key, name, err)
			}
		}
		g.store.set(key, whole)
	}
	reads := g.store.calls
	must(t, pair[bool]{true, readAll(ctx, r, set)})
	reads = g.store.calls - reads
	for n := range reads {
		g.store.crashAt = g.store.calls + 1 + n
		if err := readAll(ctx, r, set); err == nil || errors.Is(err, restore.ErrDamaged) {
			t.Errorf("call %d of %d unanswered: got %v", n+1, reads, err)
		}
		g.store.crashAt = 0
	}
}
