package repository

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
)

// salvaged is a salvage of two partitions in a repository.
func salvaged(t *testing.T, r *Repository) (backup.Salvage, []byte) {
	t.Helper()
	v := must(t, second(r.Salvage(backup.Salvage{Link: "eu-west>us-east", Epoch: 3, Node: "us-east-1", Version: "test"})))
	text := []byte(strings.Repeat("a record batch ", 1000))
	blob := must(t, second(v.Put(t.Context(), text)))
	other := must(t, second(v.Put(t.Context(), []byte("another"))))
	s, sum, err := v.Seal(t.Context(), []backup.SalvagePart{
		{Topic: "events", From: 100, To: 130, Records: 30, Blobs: []backup.SalvagedBlob{blob}},
		{Topic: "events", Partition: 1, From: 7, To: 8, Records: 1, Blobs: []backup.SalvagedBlob{other}, Aborted: []backup.AbortedSpan{{Producer: 9, From: 7, To: 8}}},
	})
	if err != nil || len(sum) != 64 {
		t.Fatal(sum, err)
	}
	return s, text
}

func TestSalvage_IsEncryptedSealedAndReadBack(t *testing.T) {
	g := newRig(t)
	r := g.open(t)
	s, text := salvaged(t, r)
	keys := must(t, second(r.Salvages(t.Context())))
	if len(keys) != 1 || keys[0] != "orphans/eu-west.us-east-3/"+s.ID+".json" {
		t.Fatalf("listed: %q", keys)
	}
	got, _, err := r.ReadSalvage(t.Context(), keys[0])
	if err != nil || got.Parts[1].Aborted[0].Producer != 9 {
		t.Fatalf("%+v %v", got, err)
	}
	if records, stored := got.Totals(); records != 31 || stored == 0 {
		t.Errorf("%d records, %d bytes", records, stored)
	}
	blob := got.Parts[0].Blobs[0]
	if blob.Plain || bytes.Contains(g.store.get(blob.Key), []byte("record batch")) {
		t.Error("it is not encrypted")
	}
	if back, err := r.Salvaged(t.Context(), blob); err != nil || !bytes.Equal(back, text) {
		t.Errorf("%d bytes, %v", len(back), err)
	}
	// Who only backs up cannot read it.
	g.config.Identity = nil
	if _, err := g.open(t).Salvaged(t.Context(), blob); err == nil || !strings.Contains(err.Error(), "no identity") {
		t.Errorf("without an identity: %v", err)
	}
}

func TestSalvage_DamageAndSwapsAreFound(t *testing.T) {
	g := newRig(t)
	r := g.open(t)
	s, _ := salvaged(t, r)
	key := must(t, second(r.Salvages(t.Context())))[0]
	blob := s.Parts[0].Blobs[0]
	body := bytes.Clone(g.store.get(blob.Key))
	body[len(body)/2] ^= 1
	g.store.set(blob.Key, body)
	if _, err := r.Salvaged(t.Context(), blob); !errors.Is(err, ErrDamaged) {
		t.Errorf("one wrong bit: %v", err)
	}
	seal := g.store.get(key)
	g.store.set("orphans/eu-west.us-east-4/"+s.ID+".json", seal)
	if _, _, err := r.ReadSalvage(t.Context(), "orphans/eu-west.us-east-4/"+s.ID+".json"); !errors.Is(err, ErrSwapped) {
		t.Errorf("under another name: %v", err)
	}
	g.store.set(key, bytes.Replace(seal, []byte(`"records":30`), []byte(`"records":31`), 1))
	if _, _, err := r.ReadSalvage(t.Context(), key); !errors.Is(err, ErrDamaged) {
		t.Errorf("other figures: %v", err)
	}
}

// A store that loses or changes what it was given never gets a seal.
func TestSalvage_IsNotSealedOverWhatIsNotThere(t *testing.T) {
	g := newRig(t)
	r := g.open(t)
	v := must(t, second(r.Salvage(backup.Salvage{Link: "a>b", Node: "us-east-1"})))
	blob := must(t, second(v.Put(t.Context(), []byte("batches"))))
	g.store.set(blob.Key, []byte("other batches"))
	if _, _, err := v.Seal(t.Context(), []backup.SalvagePart{{Topic: "t", Blobs: []backup.SalvagedBlob{blob}}}); !errors.Is(err, ErrDamaged) {
		t.Errorf("changed before the seal: %v", err)
	}
	if keys := must(t, second(r.Salvages(t.Context()))); len(keys) != 0 {
		t.Errorf("there is a seal: %q", keys)
	}
	if _, err := v.Put(t.Context(), nil); err == nil {
		t.Error("nothing was stored as something")
	}
	if _, err := r.Salvage(backup.Salvage{Link: "../.."}); err == nil {
		t.Error("a link with slashes was taken for a name")
	}
	g.config.Sign = nil
	if _, err := g.open(t).Salvage(backup.Salvage{Link: "a>b"}); err == nil {
		t.Error("without a certificate")
	}
}

func TestDir_KeepsSalvagesForTheOwnerOnly(t *testing.T) {
	g := newRig(t)
	root := filepath.Join(t.TempDir(), "salvage")
	g.config.Store, g.config.Recipient, g.config.Identity, g.config.DedupeKey = Dir(root), "", nil, nil
	r := g.open(t)
	if keys := must(t, second(r.Salvages(t.Context()))); len(keys) != 0 {
		t.Errorf("in a directory that is not there: %q", keys)
	}
	s, text := salvaged(t, r)
	files := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		if info := must(t, second(e.Info())); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || files != 3 {
		t.Errorf("%d files, want two blobs and a seal: %v", files, err)
	}
	key := must(t, second(r.Salvages(t.Context())))[0]
	got, _, err := r.ReadSalvage(t.Context(), key)
	if err != nil || !got.Parts[0].Blobs[0].Plain {
		t.Fatalf("%+v %v", got, err)
	}
	if back, err := r.Salvaged(t.Context(), got.Parts[0].Blobs[0]); err != nil || !bytes.Equal(back, text) {
		t.Errorf("%d bytes, %v", len(back), err)
	}
	d := Dir(root)
	if err := d.Put(t.Context(), key, []byte("x"), objects.PutOptions{IfAbsent: true}); !errors.Is(err, objects.ErrExists) {
		t.Errorf("over a seal: %v", err)
	}
	if _, err := d.Get(t.Context(), key, 10); !errors.Is(err, objects.ErrTooLarge) {
		t.Errorf("more than asked for: %v", err)
	}
	if _, err := d.Get(t.Context(), "orphans/none", 10); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	for _, bad := range []string{"../x", "/x", ""} {
		if err := d.Put(t.Context(), bad, nil, objects.PutOptions{}); err == nil {
			t.Errorf("%q was taken for a name", bad)
		}
	}
	if err := os.Remove(filepath.Join(root, s.Parts[0].Blobs[0].Key)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Salvaged(t.Context(), s.Parts[0].Blobs[0]); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that is gone: %v", err)
	}
}
