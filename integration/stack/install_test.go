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
	if sums, err := mirrorMaker.sums(); err != nil || sums["connect-mirror-"+mirrorMaker.version+".jar"] == "" {
		t.Fatalf("%s: %d pins, %v", mirrorMaker.set(), len(sums), err)
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
	tgz := archive(t, "package/lib.so", "package/evil.js", "../outside")
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

// archive writes a tgz whose members hold their own names.
func archive(t *testing.T, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(name)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	tgz := filepath.Join(t.TempDir(), "x.tgz")
	if err := errors.Join(w.Close(), z.Close(), os.WriteFile(tgz, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	return tgz
}

func TestUnpack_AllMembersKeepTheirFoldersAndStayWithinOurs(t *testing.T) {
	out := t.TempDir()
	if err := unpack(archive(t, "package/bin/a", "package/lib/b/c"), out, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin/a", "lib/b/c"} {
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(b) != "package/"+name {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"package/../../out", "package//etc/x", "plain"} {
		if err := unpack(archive(t, name), t.TempDir(), nil); err == nil {
			t.Errorf("%s was unpacked", name)
		}
	}
}

func TestLinkLibraries_LinksWithinTheFolderOnly(t *testing.T) {
	link := func(list string) (string, error) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "native", "lib"), 0o755); err != nil {
			t.Fatal(err)
		}
		list = `[{"source":"native/lib/libx.so.1.2","target":` + list + `}]`
		if err := os.WriteFile(filepath.Join(root, "native", "pg-symlinks.json"), []byte(list), 0o644); err != nil {
			t.Fatal(err)
		}
		return root, linkLibraries(root)
	}
	root, err := link(`"native/lib/libx.so"`)
	if err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(root, "native", "lib", "libx.so")); err != nil || to != "libx.so.1.2" {
		t.Fatalf("links to %q, %v", to, err)
	}
	for _, bad := range []string{`"../x"`, `"/etc/x"`} {
		if _, err := link(bad); err == nil {
			t.Errorf("made %s", bad)
		}
	}
}

func TestFind_TakesNamesAndTheEnvironment(t *testing.T) {
	postgres := func(want, expect string) {
		t.Helper()
		if p, err := findPostgres(want); p.version != expect || (err == nil) != (expect != "") {
			t.Errorf("Postgres %q: got %q, %v; want %q", want, p.version, err, expect)
		}
	}
	s3 := func(want, expect string) {
		t.Helper()
		if p, err := findS3(want); p.name != expect || (err == nil) != (expect != "") {
			t.Errorf("S3 %q: got %q, %v; want %q", want, p.name, err, expect)
		}
	}
	t.Setenv("HOLDFAST_POSTGRES", "")
	t.Setenv("HOLDFAST_S3", "")
	postgres("", "14.23")
	postgres("17", "17.10")
	postgres("18.4", "18.4")
	postgres("13", "")
	s3("", "versitygw")
	s3("minio", "minio")
	s3("ceph", "")
	t.Setenv("HOLDFAST_POSTGRES", "18")
	t.Setenv("HOLDFAST_S3", "minio")
	postgres("", "18.4")
	s3("", "minio")
	s3("versitygw", "versitygw")
}

func TestOpen_AsksEveryFolderOnTheWay(t *testing.T) {
	// The test's own folder may be closed, so the question is asked below the root.
	top, err := os.MkdirTemp("", "holdfast-open-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	inner := filepath.Join(top, "a", "b")
	if err := errors.Join(os.MkdirAll(inner, 0o755), os.Chmod(top, 0o711)); err != nil {
		t.Fatal(err)
	}
	if open(filepath.Dir(top)) != open(inner) {
		t.Error("an open folder counts as closed")
	}
	if err := os.Chmod(top, 0o700); err != nil {
		t.Fatal(err)
	}
	if open(inner) {
		t.Error("a closed folder on the way was not seen")
	}
}

func TestCollections_HoldAnyKeyAndOneSlash(t *testing.T) {
	o := ClickHouseOptions{Collections: map[string]Collection{
		"b": {URL: "http://h/b/", AccessKey: "k", SecretKey: "<&>"}, "a": {URL: "http://h/a&b", AccessKey: "k", SecretKey: "s"},
	}}
	want := `<named_collections>
  <a><url>http://h/a&amp;b/</url><access_key_id>k</access_key_id><secret_access_key>s</secret_access_key></a>
  <b><url>http://h/b/</url><access_key_id>k</access_key_id><secret_access_key>&lt;&amp;&gt;</secret_access_key></b>
 </named_collections>
 `
	if got := o.collections(); got != want {
		t.Errorf("got %s", got)
	}
	if got := (ClickHouseOptions{}).collections(); got != "" {
		t.Errorf("without collections: %q", got)
	}
	if _, err := StartClickHouse(t.Context(), ClickHouseOptions{Collections: map[string]Collection{"x-y": {}}}); err == nil || !strings.Contains(err.Error(), "plain name") {
		t.Errorf("a name that no statement can hold: %v", err)
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
