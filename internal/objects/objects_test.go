package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// shelf is a store of its own making: S3 as far as this package speaks it,
// with answers that a test can replace.
type shelf struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string][]byte
	calls   []string
	page    int
	dialect func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

const accessKey, secretKey = "AKIATESTTESTTEST", "a-very-secret-key"

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{objects: map[string][]byte{}, page: 1000}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) bucket(t *testing.T, change ...func(*Config)) *Bucket {
	t.Helper()
	c := Config{
		Name: "repository of us-east", Endpoint: s.URL, Bucket: "b", Prefix: "some/where", PathStyle: true, RetryFor: 2 * time.Second,
		AccessKey: func() (string, error) { return accessKey, nil }, SecretKey: func() (string, error) { return secretKey, nil },
	}
	for _, f := range change {
		f(&c)
	}
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `<Error><Code>%s</Code><Message>about %s</Message></Error>`, code, accessKey)
}

// script answers with f once for each of the first calls of a method, then as usual.
func (s *shelf) script(method string, answers ...func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	s.dialect = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || n == len(answers) {
			return false
		}
		n++
		return answers[n-1](w, r)
	}
}

func (s *shelf) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	if s.dialect != nil && s.dialect(w, r) {
		return
	}
	key := strings.TrimPrefix(r.URL.Path, "/b/")
	switch {
	case r.Method == http.MethodPut:
		s.put(w, r, key)
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Query().Get("list-type") == "2":
		s.list(w, r)
	default:
		body, ok := s.objects[key]
		if !ok {
			refuse(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(body)))
		http.ServeContent(w, r, "", time.Unix(1_780_000_000, 0), bytes.NewReader(body))
	}
}

func (s *shelf) put(w http.ResponseWriter, r *http.Request, key string) {
	body, _ := io.ReadAll(r.Body)
	sum := sha256.Sum256(body)
	_, there := s.objects[key]
	switch {
	case r.Header.Get("X-Amz-Checksum-Sha256") != base64.StdEncoding.EncodeToString(sum[:]), r.Header.Get("X-Amz-Trailer") != "":
		refuse(w, http.StatusBadRequest, "InvalidRequest")
	case there && r.Header.Get("If-None-Match") == "*":
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
	default:
		s.objects[key] = body
	}
}

type listXML struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	KeyCount              int
	IsTruncated           bool
	NextContinuationToken string       `xml:",omitempty"`
	Contents              []contentXML `xml:"Contents"`
}

type contentXML struct {
	Key          string
	Size         int
	LastModified string
}

func (s *shelf) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from := max(q.Get("continuation-token"), q.Get("start-after"))
	var keys []string
	for key := range s.objects {
		if strings.HasPrefix(key, q.Get("prefix")) && key > from {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var out listXML
	if len(keys) > s.page {
		keys = keys[:s.page]
		out.IsTruncated, out.NextContinuationToken = true, keys[len(keys)-1]
	}
	for _, key := range keys {
		out.Contents = append(out.Contents, contentXML{key, len(s.objects[key]), "2026-08-17T12:00:00.000Z"})
	}
	out.KeyCount = len(keys)
	_ = xml.NewEncoder(w).Encode(out)
}

func TestPut_CarriesItsHashAndReadsBack(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.bucket(t), t.Context()
	if err := b.Put(ctx, "a/b", []byte("hello"), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if string(s.objects["some/where/a/b"]) != "hello" {
		t.Fatalf("stored: %q", s.objects)
	}
	if got, err := b.Get(ctx, "a/b", 5); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.Get(ctx, "a/b", 4); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than asked for: %v", err)
	}
	info, err := b.Head(ctx, "a/b")
	if err != nil || info.Bytes != 5 || info.ETag == "" || info.Modified.Unix() != 1_780_000_000 {
		t.Errorf("%+v, %v", info, err)
	}
	if now, err := b.Now(ctx); err != nil || time.Since(now).Abs() > 5*time.Second {
		t.Errorf("the store's clock: %s, %v", now, err)
	}
	if err := b.Delete(ctx, "a/b"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{second(b.Get(ctx, "a/b", 9)), second(b.Head(ctx, "a/b")), errOf3(b.Open(ctx, "a/b"))} {
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "s3://b/some/where/a/b") {
			t.Errorf("an object that is not there: %v", err)
		}
	}
	if b.String() != "s3://b/some/where" {
		t.Error(b.String())
	}
}

func second[T any](_ T, err error) error { return err }

func errOf3[T, U any](_ T, _ U, err error) error { return err }

func TestPut_IfAbsentKnowsItsOwnBytesAfterALostAnswer(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.bucket(t), t.Context()
	lose := func(w http.ResponseWriter, r *http.Request) bool {
		s.put(w, r, strings.TrimPrefix(r.URL.Path, "/b/"))
		panic(http.ErrAbortHandler)
	}
	s.script(http.MethodPut, lose)
	if err := b.Put(ctx, "mine", []byte("mine"), PutOptions{IfAbsent: true}); err != nil {
		t.Errorf("our own object, whose answer was lost: %v", err)
	}
	s.objects["some/where/theirs"] = []byte("them")
	s.script(http.MethodPut, func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	if err := b.Put(ctx, "theirs", []byte("mine"), PutOptions{IfAbsent: true}); !errors.Is(err, ErrExists) {
		t.Errorf("somebody else's, after a lost request: %v", err)
	}
	if err := b.Put(ctx, "mine", []byte("mine"), PutOptions{IfAbsent: true}); !errors.Is(err, ErrExists) {
		t.Errorf("a second put: %v", err)
	}
	if string(s.objects["some/where/theirs"]) != "them" {
		t.Error("it was replaced")
	}
}

func TestPut_KnowsEachWayToRefuse(t *testing.T) {
	for status, code := range map[int]string{412: "PreconditionFailed", 409: "ConditionalRequestConflict", 304: ""} {
		s := newShelf(t)
		s.objects["some/where/k"] = []byte("theirs")
		s.dialect = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				if code == "" {
					w.WriteHeader(status)
				} else {
					refuse(w, status, code)
				}
			}
			return r.Method == http.MethodPut
		}
		if err := s.bucket(t).Put(t.Context(), "k", []byte("x"), PutOptions{IfAbsent: true}); !errors.Is(err, ErrExists) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestRetry_PassesWhatPasses(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.bucket(t), t.Context()
	slow := func(w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return true
	}
	broken := func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	s.script(http.MethodPut, slow, broken, slow)
	if err := b.Put(ctx, "k", []byte("x"), PutOptions{}); err != nil {
		t.Error(err)
	}
	s.script(http.MethodGet, broken, slow)
	if got, err := b.Get(ctx, "k", 1); err != nil || string(got) != "x" {
		t.Errorf("%q %v", got, err)
	}
}

func TestRetry_EndsInTimeAndSaysWhatToTry(t *testing.T) {
	s := newShelf(t)
	b := s.bucket(t, func(c *Config) { c.RetryFor = 300 * time.Millisecond })
	start := time.Now()
	s.dialect = func(w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, http.StatusInternalServerError, "InternalError")
		return true
	}
	_, err := b.Get(t.Context(), "k", 1)
	if err == nil || errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "InternalError") || !strings.Contains(err.Error(), "tries") {
		t.Errorf("got %v", err)
	}
	s.Close()
	_, err = b.Get(t.Context(), "k", 1)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "check `endpoint`") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the daemon stops")
	cancel(why)
	if _, err := b.Get(ctx, "k", 1); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	b = s.bucket(t, func(c *Config) { c.RetryFor = time.Hour })
	ctx, cancel = context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := b.Get(ctx, "k", 1); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestErrors_SayWhatToDoAndHoldNoKey(t *testing.T) {
	s := newShelf(t)
	b := s.bucket(t)
	for want, answer := range map[string]struct {
		status int
		code   string
	}{
		"check access_key and secret_key":              {403, "AccessDenied"},
		"correct the clock":                            {403, "RequestTimeTooSkewed"},
		"the bucket b does not exist":                  {404, "NoSuchBucket"},
		"the bucket is in another region":              {301, "PermanentRedirect"},
		"the store answered 400 InvalidRequest: about": {400, "InvalidRequest"},
	} {
		s.dialect = func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, answer.status, answer.code); return true }
		_, err := b.Get(t.Context(), "k", 1)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "repository of us-east: get s3://b/some/where/k") {
			t.Errorf("want %q, got %v", want, err)
		}
		if err != nil && (strings.Contains(err.Error(), accessKey) || strings.Contains(err.Error(), secretKey)) {
			t.Errorf("it holds a key: %v", err)
		}
		if errors.Is(err, ErrNotFound) {
			t.Errorf("it says that the object is not there: %v", err)
		}
	}
	b = s.bucket(t, func(c *Config) {
		c.SecretKey = func() (string, error) { return "", errors.New("S3_SECRET is not set") }
	})
	if _, err := b.Get(t.Context(), "k", 1); err == nil || !strings.Contains(err.Error(), "read secret_key: S3_SECRET is not set") {
		t.Errorf("got %v", err)
	}
}

func TestList_IsWholeOrAnError(t *testing.T) {
	s := newShelf(t)
	s.page = 7
	b, ctx := s.bucket(t), t.Context()
	var want []string
	for n := range 50 {
		key := fmt.Sprintf("sets/%02d.json", n)
		want = append(want, key)
		s.objects["some/where/"+key] = []byte(strconv.Itoa(n))
	}
	s.objects["some/where/other"] = nil
	names := func(all []Object) (keys []string) {
		for _, o := range all {
			keys = append(keys, o.Key)
		}
		return keys
	}
	all, err := b.List(ctx, "sets/", "", 50)
	if err != nil || !slices.Equal(names(all), want) || all[10].Bytes != 2 || all[0].Modified.IsZero() {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := b.List(ctx, "sets/", want[9], 50); err != nil || !slices.Equal(names(all), want[10:]) {
		t.Errorf("after the tenth: %v, %v", all, err)
	}
	if all, err := b.List(ctx, "sets/", "", 49); !errors.Is(err, ErrTooLarge) || all != nil {
		t.Errorf("more than the bound: %v, %v", all, err)
	}
	for name, page := range map[string]listXML{
		"more, and not where": {IsTruncated: true, KeyCount: 1, Contents: []contentXML{{Key: "some/where/sets/x"}}},
		"an empty page":       {IsTruncated: true, NextContinuationToken: "x"},
		"a short page":        {KeyCount: 2, Contents: []contentXML{{Key: "some/where/sets/x"}}},
		"a foreign name":      {KeyCount: 1, Contents: []contentXML{{Key: "some/other/x"}}},
	} {
		s.dialect = func(w http.ResponseWriter, _ *http.Request) bool { _ = xml.NewEncoder(w).Encode(page); return true }
		if all, err := b.List(ctx, "sets/", "", 50); err == nil || all != nil {
			t.Errorf("%s: %v", name, all)
		}
	}
	s.dialect = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("continuation-token") != "" {
			refuse(w, http.StatusForbidden, "AccessDenied")
			return true
		}
		return false
	}
	if all, err := b.List(ctx, "sets/", "", 50); !errors.Is(err, ErrDenied) || all != nil {
		t.Errorf("a second page that is refused: %v, %v", all, err)
	}
}

func TestOpen_GoesOnWhereTheConnectionBroke(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.bucket(t), t.Context()
	body := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	s.objects["some/where/k"] = body
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(body)))
		w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(body[from : from+100_000])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	s.script(http.MethodGet, cut, cut, cut)
	r, info, err := b.Open(ctx, "k")
	if err != nil || info.Bytes != int64(len(body)) {
		t.Fatal(info, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d of %d bytes, %v", len(got), len(body), err)
	}
	r.Close()

	// The object was replaced in between: no mixture of the two.
	s.script(http.MethodGet, func(w http.ResponseWriter, r *http.Request) bool {
		s.objects["some/where/k"] = bytes.Repeat([]byte("x"), len(body))
		return cut(w, r)
	})
	s.objects["some/where/k"] = body
	if r, _, err = b.Open(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err == nil {
		t.Errorf("%d bytes of two objects", len(got))
	}
	r.Close()
}

func TestProbe_FindsOutAndActsOnIt(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.bucket(t), t.Context()
	if d, err := b.Probe(ctx); err != nil || !d.ConditionalPut {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := b.Probe(ctx); err != nil || !d.ConditionalPut || len(s.objects) != 1 {
		t.Errorf("again: %+v, %v, %d objects", d, err, len(s.objects))
	}
	ignore := func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("If-None-Match"); return false }
	unknown := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") == "" {
			return false
		}
		refuse(w, http.StatusNotImplemented, "NotImplemented")
		return true
	}
	for name, dialect := range map[string]func(http.ResponseWriter, *http.Request) bool{"ignores": ignore, "does not know": unknown} {
		s, b := newShelf(t), (*Bucket)(nil)
		s.dialect = dialect
		b = s.bucket(t)
		if d, err := b.Probe(ctx); err != nil || d.ConditionalPut {
			t.Errorf("a store that %s the header: %+v, %v", name, d, err)
		}
		if err := b.Put(ctx, "k", []byte("1"), PutOptions{IfAbsent: true}); err != nil {
			t.Error(err)
		}
		if err := b.Put(ctx, "k", []byte("2"), PutOptions{IfAbsent: true}); !errors.Is(err, ErrExists) || string(s.objects["some/where/k"]) != "1" {
			t.Errorf("a store that %s the header: a second put gives %v", name, err)
		}
	}
	s.dialect = func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, 403, "AccessDenied"); return true }
	if _, err := b.Probe(ctx); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v", err)
	}
}

func TestRateLimit_HoldsBothWays(t *testing.T) {
	s := newShelf(t)
	b := s.bucket(t, func(c *Config) { c.RateLimit = 512 << 10 })
	start := time.Now()
	if err := b.Put(t.Context(), "k", make([]byte, 192<<10), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "k", 1<<20); err != nil {
		t.Fatal(err)
	}
	// 384 KiB at 512 KiB/s, of which 64 KiB pass at once.
	if took := time.Since(start); took < 550*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestOpen_WantsAWholeConfiguration(t *testing.T) {
	key := func() (string, error) { return "k", nil }
	good := Config{Endpoint: "https://s3.example", Bucket: "b", AccessKey: key, SecretKey: key}
	if _, err := Open(good); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"endpoint":         func(c *Config) { c.Endpoint = "s3.example" },
		"bucket":           func(c *Config) { c.Bucket = "" },
		"both needed":      func(c *Config) { c.SecretKey = nil },
		"prefix":           func(c *Config) { c.Prefix = "/a/../b" },
		"negative":         func(c *Config) { c.RateLimit = -1 },
		"no PEM":           func(c *Config) { c.TLS = &TLS{CAFile: file} },
		"no such file":     func(c *Config) { c.TLS = &TLS{CAFile: file + "x"} },
		"and nothing else": func(c *Config) { c.Endpoint = "https://key:secret@s3.example" },
	} {
		c := good
		change(&c)
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestDial_IsTheOneGiven(t *testing.T) {
	s := newShelf(t)
	dialled := 0
	b := s.bucket(t, func(c *Config) {
		c.Endpoint = "http://s3.example:9000"
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled++
			if address != "s3.example:9000" {
				t.Errorf("dialled %s", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
		}
	})
	if err := b.Put(t.Context(), "k", []byte("x"), PutOptions{}); err != nil || dialled != 1 {
		t.Errorf("%d, %v", dialled, err)
	}
}
