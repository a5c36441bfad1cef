//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/objects"
)

// lyingStore is a real store behind a proxy that a test can make lie: lie
// answers a request itself and returns true, or leaves it to the store.
type lyingStore struct {
	s3     *stack.S3
	honest *objects.Bucket // straight to the store
	bucket *objects.Bucket // through the proxy
	lie    atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
	pass   http.Handler
}

func (l *lyingStore) lies(f func(w http.ResponseWriter, r *http.Request) bool) { l.lie.Store(&f) }

func newLyingStore(t *testing.T) *lyingStore {
	t.Helper()
	l := &lyingStore{s3: stack.RunS3(t, stack.S3Options{})}
	l.honest = bucketOn(t, l.s3, "sets")
	to, err := url.Parse(l.s3.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	l.pass = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lie := l.lie.Load(); lie != nil && (*lie)(w, r) {
			return
		}
		l.pass.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	l.bucket, err = objects.Open(objects.Config{
		Name: "repository of us-east", Endpoint: front.URL, Bucket: "sets", Prefix: "holdfast", Region: stack.S3Region, PathStyle: true, RetryFor: time.Second,
		AccessKey: func() (string, error) { return l.s3.AccessKey(), nil }, SecretKey: func() (string, error) { return l.s3.SecretKey(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.bucket.Close)
	return l
}

// pieces are for a set that takes a few blobs.
func hurtPieces(seed byte) (list [][]byte) {
	noise := rand.NewChaCha8([32]byte{seed})
	for range 5 {
		piece := make([]byte, 300<<10)
		_, _ = noise.Read(piece) // it never fails
		list = append(list, piece)
	}
	return list
}

type halfSet struct {
	set     backup.SetID
	attempt *repository.Attempt
	part    backup.Part
}

// takes makes everything of a set but its seal.
func takes(ctx context.Context, r *repository.Repository, set backup.SetID, prev *backup.Manifest, pieces [][]byte) (h halfSet, err error) {
	h.set = set
	was := map[backup.Engine]*backup.Manifest{}
	if prev != nil {
		was[backup.Postgres] = prev
	}
	if h.attempt, err = r.Begin(ctx, set, ulid.Make().String(), was); err != nil {
		return h, err
	}
	sink := h.attempt.Sink(ctx, backup.Postgres)
	defer sink.Close()
	file := backup.PostgresFile{Name: "base/1/1"}
	for _, p := range pieces {
		n, err := sink.Put(ctx, p)
		if err != nil {
			return h, err
		}
		file.Pieces = append(file.Pieces, n)
	}
	h.part, err = sink.Finish(ctx, backup.Manifest{Postgres: &backup.PostgresPart{Files: []backup.PostgresFile{file}}})
	return h, err
}

func (h halfSet) seals(ctx context.Context) error {
	_, err := h.attempt.Seal(ctx, backup.Seal{Node: "us-east-1", Parts: []backup.Part{h.part}})
	return err
}

// whole verifies every byte of a set that is sealed.
func whole(t *testing.T, r *repository.Repository, set backup.SetID) (m backup.Manifest) {
	t.Helper()
	seal, _, err := r.Seal(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = r.Manifest(t.Context(), set, seal.Parts[0]); err != nil {
		t.Fatal(err)
	}
	if v, err := r.Verify(t.Context(), &m, true, nil); err != nil || v.Broken > 0 || v.Objects == 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	return m
}

func newSet() backup.SetID { return backup.SetID(ulid.Make().String()) }

func TestRepository_StoreThatLiesNeverGetsASetThatDoesNotVerify(t *testing.T) {
	l := newLyingStore(t)
	r, ctx := repositoryOn(t, l.bucket), t.Context()
	blob := func(r *http.Request, method string) bool {
		return r.Method == method && strings.Contains(r.URL.Path, "/blobs/")
	}
	for name, c := range map[string]struct {
		lie  func(w http.ResponseWriter, r *http.Request) bool
		want string
	}{
		"a blob that it said it took and has not": {func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r, http.MethodPut) {
				w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
				return true
			}
			return false
		}, "blobs/"},
		"a manifest that it said it took and has not": {func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/snapshots/")
		}, "snapshots/"},
		"a seal that it said it took and has not": {func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/holdfast/sets/")
		}, "read back the seal"},
		"answers that end early": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/snapshots/") {
				return false
			}
			w.Header().Set("Content-Length", "5000")
			_, _ = w.Write(make([]byte, 100))
			panic(http.ErrAbortHandler)
		}, "snapshots/"},
		"answers that are short and say so": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/snapshots/") {
				return false
			}
			_, _ = w.Write(make([]byte, 100))
			return true
		}, "snapshots/"},
		"a list that goes on nowhere": {func(w http.ResponseWriter, r *http.Request) bool {
			if !r.URL.Query().Has("list-type") {
				return false
			}
			w.Header().Set("Content-Type", "application/xml")
			_, _ = w.Write([]byte(`<ListBucketResult><Name>sets</Name><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>`))
			return true
		}, "there is more"},
	} {
		l.lies(c.lie)
		set, begun := newSet(), time.Now()
		h, err := takes(ctx, r, set, nil, hurtPieces(1))
		if err == nil {
			err = h.seals(ctx)
		}
		l.lies(func(http.ResponseWriter, *http.Request) bool { return false })
		if err == nil || !strings.Contains(err.Error(), c.want) || time.Since(begun) > 30*time.Second {
			t.Errorf("%s: after %s: %v, want %q", name, time.Since(begun), err, c.want)
		}
		t.Logf("%s: after %.1f s: %v", name, time.Since(begun).Seconds(), err)
	}
	if sets, err := r.Sets(ctx); err != nil || len(sets) != 0 {
		t.Errorf("%v, %v", sets, err)
	}
	// Busy for a while is no reason to give up.
	until := time.Now().Add(500 * time.Millisecond)
	l.lies(func(w http.ResponseWriter, r *http.Request) bool {
		if time.Now().After(until) {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("<Error><Code>SlowDown</Code></Error>"))
		return true
	})
	h, err := takes(ctx, r, newSet(), nil, hurtPieces(2))
	if err = errors.Join(err, h.seals(ctx)); err != nil {
		t.Fatal(err)
	}
	whole(t, r, h.set)
}

func TestRepository_WhatVanishesUnderAnAttemptVoidsIt(t *testing.T) {
	l := newLyingStore(t)
	r, ctx := repositoryOn(t, l.bucket), t.Context()
	first, err := takes(ctx, r, newSet(), nil, hurtPieces(3))
	if err = errors.Join(err, first.seals(ctx)); err != nil {
		t.Fatal(err)
	}
	prev := whole(t, r, first.set)
	second, err := takes(ctx, r, newSet(), &prev, hurtPieces(3))
	if err != nil || second.part.Totals.New != 0 {
		t.Fatalf("%+v, %v", second.part.Totals, err)
	}
	lost := prev.Blobs[2].Key
	if err := l.honest.Delete(ctx, lost); err != nil {
		t.Fatal(err)
	}
	if err := second.seals(ctx); !errors.Is(err, objects.ErrNotFound) || !strings.Contains(err.Error(), lost) {
		t.Fatalf("a blob vanished: %v", err)
	}
	if _, _, err := r.Seal(ctx, second.set); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("the set is there: %v", err)
	}
	third, err := takes(ctx, r, newSet(), &prev, hurtPieces(3))
	if err = errors.Join(err, third.seals(ctx)); err != nil {
		t.Fatal(err)
	}
	if gone := third.attempt.Gone(); len(gone) != 1 || !strings.Contains(gone[0], lost) || third.part.Totals.New != 1 {
		t.Errorf("gone %q, %+v", gone, third.part.Totals)
	}
	whole(t, r, third.set)
	if v, err := r.Verify(ctx, &prev, false, nil); err != nil || v.Broken != 1 || v.Findings[0].Object != lost {
		t.Errorf("the damaged set: %+v, %v", v, err)
	}
}

// TestRepository_TwoAttemptsAtOnceLeaveOneWholeSet also on stores that do not
// honour conditional puts, or do not know the header.
func TestRepository_TwoAttemptsAtOnceLeaveOneWholeSet(t *testing.T) {
	for _, dialect := range []string{"honours", "refuses", "ignores"} {
		t.Run(dialect, func(t *testing.T) {
			l := newLyingStore(t)
			l.lies(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("If-None-Match") == "" {
					return false
				}
				switch dialect {
				case "refuses":
					w.WriteHeader(http.StatusNotImplemented)
					_, _ = w.Write([]byte("<Error><Code>NotImplemented</Code></Error>"))
					return true
				case "ignores":
					key := strings.TrimPrefix(r.URL.Path, "/sets/holdfast/")
					if err := l.honest.Delete(r.Context(), key); err != nil {
						t.Error(err)
					}
				}
				return false
			})
			r, ctx := repositoryOn(t, l.bucket), t.Context()
			for range 2 {
				set := newSet()
				var both [2]halfSet
				var errs [2]error
				for i := range both {
					if both[i], errs[i] = takes(ctx, r, set, nil, hurtPieces(byte(4+i))); errs[i] != nil {
						t.Fatal(errs[i])
					}
				}
				if d, _ := r.Dialect(); d.ConditionalPut != (dialect == "honours") {
					t.Fatalf("%+v", d)
				}
				var sealing sync.WaitGroup
				for i := range both {
					sealing.Go(func() { errs[i] = both[i].seals(ctx) })
				}
				sealing.Wait()
				won := 0
				for _, err := range errs {
					if err == nil {
						won++
					} else if !errors.Is(err, repository.ErrSealed) && !errors.Is(err, objects.ErrExists) {
						t.Error(err)
					}
				}
				if won != 1 {
					t.Errorf("%d attempts sealed: %v", won, errs)
				}
				t.Logf("%d sealed", won)
				whole(t, r, set)
				// Who comes later is told.
				late, err := takes(ctx, r, set, nil, hurtPieces(9))
				if err != nil {
					t.Fatal(err)
				}
				if err := late.seals(ctx); !errors.Is(err, repository.ErrSealed) {
					t.Errorf("a late attempt: %v", err)
				}
			}
		})
	}
}

func TestRepository_ClockThatIsWrongIsNamed(t *testing.T) {
	l := newLyingStore(t)
	l.lies(func(w http.ResponseWriter, r *http.Request) bool {
		if at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date")); err == nil {
			r.Header.Set("X-Amz-Date", at.Add(-time.Hour).Format("20060102T150405Z"))
		}
		return false
	})
	_, err := repositoryOn(t, l.bucket).Begin(t.Context(), newSet(), ulid.Make().String(), nil)
	if !errors.Is(err, objects.ErrDenied) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("an hour behind: %v", err)
	}
	t.Log(err)
}

// TestObjects_StoreThatStallsAfterAFewBytesIsGivenUp: each answer moves on a
// little and then breaks; that must not go on for the length of the object.
func TestObjects_StoreThatStallsAfterAFewBytesIsGivenUp(t *testing.T) {
	l := newLyingStore(t)
	body := bytes.Repeat([]byte("holdfast"), 1<<17) // 1 MiB
	if err := l.honest.Put(t.Context(), "large", body, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	asked := 0
	l.lies(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		asked++
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
			w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		_, _ = w.Write(body[from : from+1000])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	in, _, err := l.bucket.Open(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var read int
	buffer := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = in.Read(buffer)
		read += n
	}
	if !errors.Is(err, objects.ErrUnreachable) || asked > 10 || read == 0 || read > 20_000 {
		t.Errorf("%d bytes in %d answers, %v", read, asked, err)
	}
}
