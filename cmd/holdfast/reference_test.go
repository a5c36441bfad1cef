package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

const (
	repository = "../.."
	reference  = repository + "/docs/reference.md"
)

// TestReference_ListsWhatThereIs compares docs/reference.md with the program:
// the verbs and their flags, the API, the metrics. After a change on purpose:
// go test ./cmd/holdfast -run Reference -update
func TestReference_ListsWhatThereIs(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for _, part := range []struct{ name, want string }{
		{"verbs", verbTable()}, {"api", apiTable(t)}, {"metrics", metricsTable(t)},
	} {
		begin, end := fmt.Sprintf("<!-- %s:begin -->\n", part.name), fmt.Sprintf("<!-- %s:end -->", part.name)
		before, rest, ok := strings.Cut(doc, begin)
		have, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s has no block %q", reference, part.name)
		}
		if diff := cmp.Diff(part.want, have); diff != "" && !*update {
			t.Errorf("the block %q of docs/reference.md is not what there is; run with -update\n%s", part.name, diff)
		}
		doc = before + begin + part.want + end + after
	}
	if *update {
		if err := os.WriteFile(reference, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func verbTable() string {
	var b strings.Builder
	b.WriteString("| verb | what it does |\n|---|---|\n")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		below := slices.DeleteFunc(slices.Clone(c.Commands()), func(s *cobra.Command) bool { return s.Hidden || s.Name() == "help" || s.Name() == "completion" })
		if c.HasParent() && (c.HasFlags() || len(below) == 0) {
			use := strings.TrimPrefix(strings.TrimSuffix(c.UseLine(), " [flags]"), "holdfast ")
			fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(use, "|", `\|`), c.Short)
		}
		for _, s := range below {
			walk(s)
		}
	}
	walk(verbs(newApp(strings.NewReader(""), io.Discard, io.Discard)))
	return b.String()
}

func apiTable(t *testing.T) string {
	w := httptest.NewRecorder()
	httpapi.New(nil, httpapi.Options{Node: "a"}).ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	var described struct {
		Paths map[string]map[string]struct{ Summary string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &described); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for path, operations := range described.Paths {
		for method, o := range operations {
			lines = append(lines, fmt.Sprintf("| `%s %s` | %s |\n", strings.ToUpper(method), path, o.Summary))
		}
	}
	slices.SortFunc(lines, func(a, b string) int {
		_, a, _ = strings.Cut(a, " /")
		_, b, _ = strings.Cut(b, " /")
		return strings.Compare(a, b)
	})
	return "| operation | what it does |\n|---|---|\n" + strings.Join(lines, "")
}

// described finds name and help of a metric where it is described.
var described = regexp.MustCompile(`(?s)(?:desc\(|NewDesc\(|Name: )"([a-z_]+)",\s*(?:Help: )?"([^"]+)"`)

func metricsTable(t *testing.T) string {
	var lines []string
	for file, prefix := range map[string]string{
		"internal/daemon": "holdfast_", "replicate/kafka": "holdfast_mirror_", "consensus/raft": "", "internal/agent": "",
	} {
		source, err := os.ReadFile(filepath.Join(repository, file, "metrics.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := described.FindAllStringSubmatch(string(source), -1)
		if len(found) == 0 {
			t.Fatalf("%s/metrics.go describes nothing", file)
		}
		for _, m := range found {
			name := m[1]
			if !strings.HasPrefix(name, "holdfast_") { // those that name themselves whole
				name = prefix + name
			}
			lines = append(lines, fmt.Sprintf("| `%s` | %s |\n", name, m[2]))
		}
	}
	slices.Sort(lines)
	return "| metric | meaning |\n|---|---|\n" + strings.Join(lines, "")
}

// TestDocs_NameOnlyTestsThatExist holds README.md to its list of promises.
func TestDocs_NameOnlyTestsThatExist(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	test := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir(repository, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range test.FindAllStringSubmatch(string(source), -1) {
			there[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(readme), -1)
	if len(named) == 0 {
		t.Error("README.md names no test")
	}
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("README.md names %s, which does not exist", m[1])
		}
	}
}

// TestDocs_LinksLeadSomewhere follows the links between files.
func TestDocs_LinksLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(repository, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
	for _, page := range append(pages, filepath.Join(repository, "README.md"), filepath.Join(repository, "CHANGELOG.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if !fileExists(filepath.Join(filepath.Dir(page), m[1])) {
				t.Errorf("%s links to %s, which does not exist", filepath.Base(page), m[1])
			}
		}
	}
}
