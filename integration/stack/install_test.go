package stack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// ownCache gives a test an empty cache folder.
func ownCache(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOLDFAST_STACK_CACHE", dir)
	return dir
}

func TestInstall_TwoAtOnceFillOnce(t *testing.T) {
	cache := ownCache(t)
	var mu sync.Mutex
	fills := 0
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			dir, err := install(t.Context(), nil, "x-1", func(dir string) error {
				mu.Lock()
				fills++
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
			})
			if err != nil || dir != filepath.Join(cache, "x-1") {
				t.Error(dir, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if fills != 1 {
		t.Fatalf("filled %d times", fills)
	}
}

func TestInstall_AFailureLeavesNothingAndTheNextTryWorks(t *testing.T) {
	cache := ownCache(t)
	boom := errors.New("no network")
	if _, err := install(t.Context(), nil, "x-1", func(string) error { return boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	// A crash leaves a temporary folder; the next install removes it.
	if err := os.Mkdir(filepath.Join(cache, ".tmp-x-1-123"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := install(t.Context(), nil, "x-1", func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "x-1 x-1.lock" {
		t.Fatalf("the cache holds %q", got)
	}
}

func TestInstall_WaitingForAnotherEndsWithTheContext(t *testing.T) {
	cache := ownCache(t)
	unlock, err := lockFile(t.Context(), nil, filepath.Join(cache, "x-1.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var told bytes.Buffer
	_, err = install(ctx, &told, "x-1", func(string) error { t.Error("filled without the lock"); return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if !strings.Contains(told.String(), "waiting for another installation of x-1") {
		t.Fatalf("said %q", told.String())
	}
}

func TestPins_EveryVersionHasAListAndAnyDifferenceIsNamed(t *testing.T) {
	for _, v := range KafkaVersions() {
		k, err := findKafka(v)
		if err != nil {
			t.Fatal(err)
		}
		sums, err := k.sums()
		if err != nil || len(sums) < 40 || sums["kafka_2.13-"+v+".jar"] == "" {
			t.Fatalf("%s: %d pins, %v", v, len(sums), err)
		}
	}
	got := differences(
		map[string]string{"same": "1", "other": "2", "gone": "3"},
		map[string]string{"same": "1", "other": "9", "new": "4"})
	want := "gone: missing|new: not pinned|other: SHA-256 is 9, pinned 2"
	if strings.Join(got, "|") != want {
		t.Fatalf("got %q", got)
	}
}

func TestFindKafka_TakesALeadingPartAndTheEnvironment(t *testing.T) {
	find := func(want, expect string) {
		t.Helper()
		if k, err := findKafka(want); k.version != expect || (err == nil) != (expect != "") {
			t.Errorf("%q: got %q, %v; want %q", want, k.version, err, expect)
		}
	}
	t.Setenv("HOLDFAST_KAFKA", "")
	find("", "3.6.2")
	find("3.9", "3.9.1")
	find("4", "4.4.0")
	find("3.6.2", "3.6.2")
	find("2.8", "")
	find("3.", "")
	t.Setenv("HOLDFAST_KAFKA", "3.9")
	find("", "3.9.1")
	find("4", "4.4.0")
}

func TestUnpack_TakesTheKeptFilesOnlyAndAllOfThem(t *testing.T) {
	dir := t.TempDir()
	tgz := filepath.Join(dir, "x.tgz")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range []string{"package/lib.so", "package/evil.js", "../outside"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 2, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("ok")); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), os.WriteFile(tgz, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := unpack(tgz, out, []string{"package/lib.so"}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "lib.so" {
		t.Fatalf("unpacked %q, %v", left, err)
	}
	if err := unpack(tgz, t.TempDir(), []string{"package/lib.so", "package/more.so"}); err == nil {
		t.Fatal("a missing file went unnoticed")
	}
}

func TestNeed_NamesTheCommandThatWouldInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // nothing there, apt-get neither
	_, err := need(t.Context(), nil, "npm")
	var miss *MissingError
	if !errors.As(err, &miss) || miss.Program != "npm" {
		t.Fatal(err)
	}
	want := "npm is missing; on Debian or Ubuntu: apt-get update && apt-get install -y --no-install-recommends npm"
	if err.Error() != want {
		t.Fatalf("got %q", err)
	}
}

// verdict records what the rule for tests decides.
type verdict struct {
	T
	said string
}

func (v *verdict) Helper()              {}
func (v *verdict) Skipf(string, ...any) { v.said = "skip" }

func (v *verdict) Fatalf(string, ...any) { v.said = "fail" }

func TestNeed_SkipsOnADeskAndFailsInCI(t *testing.T) {
	judged := func(err error) string {
		var v verdict
		judge(&v, err)
		return v.said
	}
	miss := missing("java")
	t.Setenv("CI", "")
	if got := judged(miss); got != "skip" {
		t.Errorf("missing on a desk: %q", got)
	}
	if got := judged(errors.New("broken")); got != "fail" {
		t.Errorf("broken on a desk: %q", got)
	}
	t.Setenv("CI", "true")
	if got := judged(miss); got != "fail" {
		t.Errorf("missing in CI: %q", got)
	}
	if got := judged(nil); got != "" {
		t.Errorf("nothing wrong: %q", got)
	}
}

func TestFreePort_IsOursUntilReleased(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		p, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[p] || p < portMin || p >= portMax {
			t.Fatalf("port %d twice or out of range", p)
		}
		seen[p] = true
	}
	for p := range seen {
		ReleasePort(p)
		ReleasePort(p)
	}
}
