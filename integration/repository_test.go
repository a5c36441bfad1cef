//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// bucketOn makes a bucket on a real server and opens it with our client.
func bucketOn(t *testing.T, s *stack.S3, name string) *objects.Bucket {
	t.Helper()
	if err := s.CreateBucket(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	c := objects.Config{
		Name: "repository of us-east", Endpoint: s.Endpoint(), Bucket: name, Prefix: "holdfast", Region: stack.S3Region, PathStyle: true,
		AccessKey: func() (string, error) { return s.AccessKey(), nil },
		SecretKey: func() (string, error) { return s.SecretKey(), nil },
	}
	if s.CAFile() != "" {
		c.TLS = &objects.TLS{CAFile: s.CAFile()}
	}
	b, err := objects.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// repositoryOn is the repository of a region with one node.
func repositoryOn(t *testing.T, bucket *objects.Bucket) *repository.Repository {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	if _, err := certs.Init(certs.InitOptions{Dir: dir, Cluster: "lab", Nodes: []topology.Node{"us-east-1"}}); err != nil {
		t.Fatal(err)
	}
	files := certs.FilesIn(dir, "us-east-1")
	signer, err := certs.Load(certs.Options{Files: files, Cluster: "lab", Node: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := certs.NewVerifier(files.CA, "lab")
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := repository.Open(t.Context(), repository.Config{
		Store: bucket, Cluster: "lab", Region: "us-east", Verifier: verifier, Sign: signer, Recipient: identity.Recipient().String(),
		DedupeKey: func() ([]byte, error) { return bytes.Repeat([]byte("k"), 32), nil },
		Identity:  func() (string, error) { return identity.String(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestObjects_KeepTheirPromisesOnARealStore runs over plain http and https:
// the client signs and hashes differently there.
func TestObjects_KeepTheirPromisesOnARealStore(t *testing.T) {
	stack.Need(t, stack.NeedS3)
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "http", true: "https"}[secure], func(t *testing.T) {
			s := stack.RunS3(t, stack.S3Options{TLS: secure})
			b, ctx := bucketOn(t, s, "objects"), t.Context()
			for range 2 {
				if d, err := b.Probe(ctx); err != nil || !d.ConditionalPut {
					t.Fatalf("probe: %+v, %v", d, err)
				}
			}
			if now, err := b.Now(ctx); err != nil || time.Since(now).Abs() > 5*time.Second {
				t.Errorf("the store's clock: %s, %v", now, err)
			}
			body := bytes.Repeat([]byte("holdfast"), 200_000)
			for n := range 25 {
				if err := b.Put(ctx, fmt.Sprintf("list/%02d", n), body[:n], objects.PutOptions{IfAbsent: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Put(ctx, "list/07", nil, objects.PutOptions{IfAbsent: true}); !errors.Is(err, objects.ErrExists) {
				t.Errorf("put over another: %v", err)
			}
			all, err := b.List(ctx, "list/", "list/04", 100)
			if err != nil || len(all) != 20 || all[0].Key != "list/05" || all[0].Bytes != 5 {
				t.Errorf("%v, %v", all, err)
			}
			if err := b.Put(ctx, "large", body, objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			r, info, err := b.Open(ctx, "large")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if r.Close(); err != nil || !bytes.Equal(got, body) || info.Bytes != int64(len(body)) {
				t.Errorf("%d bytes of %d, %v", len(got), info.Bytes, err)
			}
			if _, err := b.Get(ctx, "none", 1); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("an object that is not there: %v", err)
			}
			if _, err := b.Head(ctx, "none"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("an object that is not there: %v", err)
			}
			for range 2 {
				if err := b.Delete(ctx, "large"); err != nil {
					t.Error(err)
				}
			}
			stranger, err := objects.Open(objects.Config{
				Name: "stranger", Endpoint: s.Endpoint(), Bucket: "objects", PathStyle: true, TLS: &objects.TLS{CAFile: s.CAFile()},
				AccessKey: func() (string, error) { return s.AccessKey(), nil },
				SecretKey: func() (string, error) { return "not-the-secret", nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stranger.Get(ctx, "list/01", 9); !errors.Is(err, objects.ErrDenied) {
				t.Errorf("with a wrong secret: %v", err)
			}
		})
	}
}

// TestRepository_FindsWhatWasDoneToItsFilesOnDisk takes a set on a real store,
// and then flips a byte of each of its objects behind the server's back.
func TestRepository_FindsWhatWasDoneToItsFilesOnDisk(t *testing.T) {
	stack.Need(t, stack.NeedS3)
	s := stack.RunS3(t, stack.S3Options{})
	ctx := t.Context()
	bucket := bucketOn(t, s, "sets")
	r := repositoryOn(t, bucket)

	set := backup.SetID(ulid.Make().String())
	a, err := r.Begin(ctx, set, ulid.Make().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sink := a.Sink(ctx, backup.Postgres)
	part := &backup.PostgresPart{Files: []backup.PostgresFile{{Name: "base/1/1"}}}
	var text []byte
	for n := range 6 {
		piece := bytes.Repeat([]byte{byte(n), 1, 2, 3}, 70_000>>n)
		index, err := sink.Put(ctx, piece)
		if err != nil {
			t.Fatal(err)
		}
		part.Files[0].Pieces = append(part.Files[0].Pieces, index)
		text = append(text, piece...)
	}
	at := sink.NewPack()
	if err := bucket.Put(ctx, at.Prefix+".backup", []byte("<xml/>"), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Adopt(ctx, at, []backup.PackObject{{Name: ".backup", Bytes: -1}}, nil); err != nil {
		t.Fatal(err)
	}
	done, err := sink.Finish(ctx, backup.Manifest{Postgres: part})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Seal(ctx, backup.Seal{Node: "us-east-1", Parts: []backup.Part{done}}); err != nil {
		t.Fatal(err)
	}
	if sets, err := r.Sets(ctx); err != nil || len(sets) != 1 || sets[0] != set {
		t.Fatalf("%v, %v", sets, err)
	}

	// look reads the set as a drill does: nil when all is as it was taken.
	look := func() error {
		seal, _, err := r.Seal(ctx, set)
		if err != nil {
			return err
		}
		m, err := r.Manifest(ctx, set, seal.Parts[0])
		if err != nil {
			return err
		}
		v, err := r.Verify(ctx, &m, true, nil)
		if err != nil {
			return err
		}
		if v.Broken > 0 {
			return fmt.Errorf("%+v", v.Findings)
		}
		var got []byte
		if err := r.Pieces(ctx, &m, m.Postgres.Files[0].Pieces, func(b []byte) error { got = append(got, b...); return nil }); err != nil {
			return err
		}
		if !bytes.Equal(got, text) {
			return errors.New("it reads back different")
		}
		return nil
	}
	if err := look(); err != nil {
		t.Fatal(err)
	}
	if s.Kind() != stack.DefaultS3 {
		return // elsewhere the objects are not plain files
	}
	flipped := 0
	root := filepath.Join(s.DataDir(), "sets", "holdfast")
	for _, folder := range []string{"blobs", "packs", "snapshots", "sets"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			was, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			bad := bytes.Clone(was)
			bad[len(bad)/2] ^= 1
			for _, body := range [][]byte{bad, was[:len(was)-1]} {
				if err := os.WriteFile(path, body, 0o600); err != nil {
					return err
				}
				if err := look(); err == nil {
					t.Errorf("%s was changed on disk, and nobody noticed", path)
				}
			}
			flipped++
			return os.WriteFile(path, was, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if flipped < 6 {
		t.Errorf("only %d objects were there to damage", flipped)
	}
	if err := look(); err != nil {
		t.Errorf("after all was put back: %v", err)
	}
	// A server that is gone is no damage.
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	short, err := objects.Open(objects.Config{
		Endpoint: s.Endpoint(), Bucket: "sets", PathStyle: true, RetryFor: time.Second,
		AccessKey: func() (string, error) { return s.AccessKey(), nil }, SecretKey: func() (string, error) { return s.SecretKey(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := short.Head(ctx, "x"); !errors.Is(err, objects.ErrUnreachable) {
		t.Errorf("a server that is gone: %v", err)
	}
}

// TestRepository_OutlivesARestartOfTheStore kills the store in the middle of a
// set and starts it again: the set is sealed, and whole.
func TestRepository_OutlivesARestartOfTheStore(t *testing.T) {
	stack.Need(t, stack.NeedS3)
	s := stack.RunS3(t, stack.S3Options{})
	ctx := t.Context()
	r := repositoryOn(t, bucketOn(t, s, "sets"))
	set := backup.SetID(ulid.Make().String())
	a, err := r.Begin(ctx, set, ulid.Make().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sink := a.Sink(ctx, backup.Postgres)
	defer sink.Close()
	back := make(chan error, 1)
	part := &backup.PostgresPart{Files: []backup.PostgresFile{{Name: "base/1/1"}}}
	noise := rand.NewChaCha8([32]byte{1})
	var text []byte
	for n := range 40 {
		if n == 10 {
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Second, func() { back <- s.Restart(ctx) })
		}
		piece := make([]byte, 300<<10)
		_, _ = noise.Read(piece) // it never fails
		index, err := sink.Put(ctx, piece)
		if err != nil {
			t.Fatal(err)
		}
		part.Files[0].Pieces = append(part.Files[0].Pieces, index)
		text = append(text, piece...)
	}
	done, err := sink.Finish(ctx, backup.Manifest{Postgres: part})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	if _, err := a.Seal(ctx, backup.Seal{Node: "us-east-1", Parts: []backup.Part{done}}); err != nil {
		t.Fatal(err)
	}
	m, err := r.Manifest(ctx, set, done)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	if err := r.Pieces(ctx, &m, m.Postgres.Files[0].Pieces, func(b []byte) error { got = append(got, b...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, text) || done.Totals.New != 40 {
		t.Errorf("%d bytes of %d in %d new blobs", len(got), len(text), done.Totals.New)
	}
}
