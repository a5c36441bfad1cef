package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/backup"
)

// seeds are what this package writes.
func seeds(f *testing.F) (seal []byte, m backup.Manifest, index []byte) {
	f.Helper()
	sum := digest([]byte("x"))
	m = backup.Manifest{
		Format: 1, Engine: backup.Postgres,
		Blobs:      []backup.Blob{{Key: backup.BlobKey(sum, "u"), SHA256: sum, Stored: 9, Size: 5}},
		Pieces:     []backup.Piece{{ID: "00", Blob: 0, At: 1, Size: 4}},
		Packs:      []backup.Pack{{ID: "p", Index: backup.PackIndexKey(backup.Postgres, "p"), SHA256: sum}},
		Postgres:   &backup.PostgresPart{Files: []backup.PostgresFile{{Name: "f", Pieces: []int{0}}}},
		ClickHouse: &backup.ClickHousePart{Tables: []backup.ClickHouseTable{{Name: "t", Partitions: []backup.ClickHousePartition{{ID: "1"}}}}},
	}
	x, err := json.Marshal(backup.PackIndex{Format: 1, Pack: "p", Objects: []backup.PackObject{{Name: "a", SHA256: sum}, {Name: "b", SHA256: sum}}})
	if err != nil {
		f.Fatal(err)
	}
	e, err := json.Marshal(envelope{1, json.RawMessage(`{"format":1}`), []byte("s"), "c"})
	if err != nil {
		f.Fatal(err)
	}
	return e, m, x
}

func FuzzEnvelope_IsSignedOrRefused(f *testing.F) {
	seal, _, _ := seeds(f)
	f.Add(seal)
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEnvelope(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		if e.Format != backup.Format || len(e.Signature) == 0 || !bytes.Contains(b, e.Payload) {
			t.Fatalf("taken: %+v", e)
		}
	})
}

// What was decoded may be used without looking at an index of it again.
func FuzzManifest_IsSafeToUseOrRefused(f *testing.F) {
	_, m, _ := seeds(f)
	good, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := decodeManifest(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		var all []int
		for n := range m.Pieces {
			all = append(all, n)
		}
		if _, err := runsOf(&m, all); err != nil {
			t.Fatal(err)
		}
		for n := range m.Blobs {
			hurtByBlob(&m, n)
		}
		for n := range m.Packs {
			hurtByPack(&m, n, "data/d/t/p/f")
		}
		(&Attempt{gone: map[string]string{"x": "y"}}).without(&m)
	})
}

func FuzzIndex_NamesStayInTheirFolder(f *testing.F) {
	_, _, index := seeds(f)
	if _, err := decodeIndex(index); err != nil {
		f.Fatal(err)
	}
	f.Add(index)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeIndex(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		for _, o := range x.Objects {
			if !goodName(o.Name) || o.Bytes < 0 {
				t.Fatalf("taken: %+v", o)
			}
		}
	})
}
