package tidy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTree_KeepsItsShape(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Load(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Files) < 10 {
		t.Fatalf("only %d files seen: the rules would pass an empty tree", len(tree.Files))
	}
	for _, f := range Check(tree) {
		t.Error(f)
	}
}

// goFile is a file with imports of ours (no dot in the first element) or of
// others, in a folder that has its doc.go.
func goFile(name string, imports ...string) []File {
	f := File{Path: name, Package: "x"}
	for i, imp := range imports {
		f.Imports = append(f.Imports, Ref{Text: strings.Replace(imp, "our:", Module+"/", 1), Line: i + 3})
	}
	return []File{f, {Path: f.Dir() + "/doc.go", Package: "x", Doc: true}}
}

func TestImport_AgainstTheArrowsIsRefused(t *testing.T) {
	refuse := func(file, imp, rule string) {
		t.Helper()
		found := Check(Tree{Files: goFile(file, imp)})
		if len(found) != 1 || !strings.Contains(found[0].Rule, rule) {
			t.Errorf("%s importing %s: want one finding about %q, got %v", file, imp, rule, found)
			return
		}
		if f := found[0]; f.Line != 3 || f.Do == "" || !strings.Contains(f.String(), strings.TrimPrefix(imp, "our:")) {
			t.Errorf("a finding must say where, what and what to do instead: %v", f)
		}
	}
	const oneWay = "imports point one way"
	refuse("internal/topology/x.go", "our:consensus", oneWay)
	refuse("internal/topology/x.go", "our:internal/config", oneWay)
	refuse("consensus/x.go", "our:failover", oneWay)
	refuse("replicate/x.go", "our:helpers", "every package has a layer")
	refuse("consensus/x.go", "our:consensus/raft", oneWay)
	refuse("failover/x.go", "our:replicate", oneWay)
	refuse("failover/x.go", "our:failover/exec", oneWay)
	refuse("failover/x_test.go", "our:failover/exec", oneWay)
	refuse("backup/x.go", "our:restore", oneWay)
	refuse("replicate/x.go", "our:internal/agent", oneWay)
	refuse("replicate/x.go", "our:internal/kafka", oneWay)
	refuse("internal/kafka/x.go", "our:replicate", oneWay)
	refuse("internal/agent/x.go", "our:failover/kafka", oneWay)
	refuse("internal/httpapi/x.go", "our:internal/kafka", oneWay)
	refuse("internal/daemon/x.go", "our:integration/stack", oneWay)
	refuse("integration/x.go", "our:cmd/holdfast", oneWay)
	refuse("internal/tidy/x.go", "our:failover", oneWay)

	const drivers = "drivers never import each other"
	refuse("failover/kafka/x.go", "our:replicate/kafka", drivers)
	refuse("failover/kafka/x.go", "our:failover/exec", drivers)
	refuse("failover/kafka/wire/x.go", "our:failover/exec", drivers)
	refuse("failover/kafka/x_test.go", "our:consensus/raft", drivers)

	refuse("failover/kafka/x.go", "our:internal/daemon", "imported by cmd and integration only")
	refuse("internal/httpapi/x.go", "our:internal/daemon", "imported by cmd and integration only")
	refuse("cmd/holdfast/failover.go", "our:failover/kafka", "CLI verbs know no driver")
	refuse("cmd/holdfast/check.go", "our:internal/clickhouse", "CLI verbs know no driver")
}

func TestImport_WithTheArrowsIsAccepted(t *testing.T) {
	accept := func(file string, imports ...string) {
		t.Helper()
		for _, f := range Check(Tree{Files: goFile(file, imports...)}) {
			t.Error(f)
		}
	}
	accept("cmd/holdfast/serve.go", "our:internal/daemon", "our:internal/httpapi", "our:internal/config", "our:failover", "github.com/spf13/cobra", "os")
	accept("internal/daemon/x.go", "our:consensus/raft", "our:replicate/kafka", "our:internal/kafka", "our:failover", "our:internal/agent", "net")
	accept("replicate/kafka/x.go", "our:replicate", "our:internal/kafka", "our:consensus", "our:replicate/kafka/wire", "github.com/twmb/franz-go/pkg/kgo")
	accept("failover/exec/x.go", "our:failover", "os/exec")
	accept("restore/x.go", "our:backup", "our:consensus", "our:internal/topology", "golang.org/x/time/rate")
	accept("backup/clickhouse/x_test.go", "our:backup/backuptest", "pgregory.net/rapid")
	accept("backup/backuptest/suite.go", "our:backup", "testing")
	accept("replicate/kafka/x_test.go", "github.com/twmb/franz-go/pkg/kfake", "github.com/twmb/franz-go/pkg/kgo")
	accept("integration/stack/x.go", "our:internal/daemon", "our:internal/kafka", "github.com/twmb/franz-go/pkg/kgo", "os/exec")
	accept("consensus/x.go", "our:internal/topology", "time", "encoding/json", "github.com/prometheus/client_golang/prometheus")
}

func TestLibrary_OutsideItsHomeIsRefused(t *testing.T) {
	refuse := func(file, imp, rule string) {
		t.Helper()
		found := Check(Tree{Files: goFile(file, imp)})
		if len(found) != 1 || !strings.Contains(found[0].Rule, rule) {
			t.Errorf("%s importing %s: want one finding about %q, got %v", file, imp, rule, found)
		}
	}
	refuse("replicate/x.go", "github.com/twmb/franz-go/pkg/kgo", "one home")
	refuse("failover/exec/x.go", "github.com/twmb/franz-go/pkg/kmsg", "one home")
	refuse("internal/httpapi/x.go", "github.com/ClickHouse/clickhouse-go/v2", "one home")
	refuse("internal/daemon/x.go", "github.com/hashicorp/raft", "one home")
	refuse("internal/agent/x.go", "github.com/spf13/cobra", "one home")
	refuse("cmd/holdfast/x.go", "github.com/goccy/go-yaml", "one home")
	refuse("internal/kafka/x.go", "github.com/twmb/franz-go/pkg/kfake", "test libraries")
	refuse("failover/x.go", "testing", "test libraries")
	refuse("failover/x.go", "os/exec", "reaches for nothing")
	refuse("consensus/x.go", "net", "reaches for nothing")
	refuse("replicate/x.go", "golang.org/x/sys/unix", "small pure libraries")
}

func TestDial_OutsideTheClientLeafIsRefused(t *testing.T) {
	const kgo = "github.com/twmb/franz-go/pkg/kgo"
	files := goFile("replicate/kafka/x.go", kgo)
	files[0].Calls = []Ref{{Text: "kgo.SeedBrokers", Line: 8}, {Text: "kgo.NewClient", Line: 9}}
	if found := Check(Tree{Files: files}); len(found) != 1 || found[0].Line != 9 || !strings.Contains(found[0].Do, "internal/kafka") {
		t.Errorf("want one finding at the call, got %v", found)
	}
	files = goFile("internal/kafka/x.go", kgo)
	files[0].Calls = []Ref{{Text: "kgo.NewClient", Line: 9}}
	if found := Check(Tree{Files: files}); len(found) != 0 {
		t.Errorf("the client leaf itself was refused: %v", found)
	}
}

func TestPackage_WithoutDocIsRefused(t *testing.T) {
	undocumented := Tree{Files: []File{{Path: "failover/plan.go", Package: "failover"}, {Path: "failover/doc.go", Package: "failover"}}}
	if found := Check(undocumented); len(found) != 1 || found[0].Path != "failover" || !strings.Contains(found[0].Rule, "doc.go") {
		t.Errorf("want one finding for failover, got %v", found)
	}
}

func TestTopLevel_StrangersAreRefused(t *testing.T) {
	found := Check(Tree{Files: []File{{Path: "notes.txt"}, {Path: ".golangci.yml"}, {Path: "deploy/x.yaml"}, {Path: "utils/x.go", Package: "utils", Doc: true}}})
	if len(found) != 3 || found[0].Path != "notes.txt" || found[2].Path != "utils/x.go" {
		t.Errorf("want notes.txt, utils and its missing doc.go, got %v", found)
	}
}

func TestLoad_SeesTaggedFilesCallsAndPlaces(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module "+Module+"\n")
	write("failover/doc.go", "// Package failover decides.\npackage failover\n")
	write("failover/real_test.go", "//go:build integration\n\npackage failover\n\nimport _ \""+Module+"/failover/exec\"\n")
	write("failover/kafka/doc.go", "// Package kafka does.\npackage kafka\n\nimport \"github.com/twmb/franz-go/pkg/kgo\"\n\nvar _, _ = kgo.NewClient()\n")
	write("docs/start.md", "first\ncopy it to "+places[0]+"/x\n")
	write("failover/testdata/broken.go", "this is not Go")

	check := func() {
		t.Helper()
		tree, err := Load(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		found := Check(tree)
		want := []string{"docs/start.md:2", "failover/kafka/doc.go:6", "failover/real_test.go:5"}
		if len(found) != len(want) {
			t.Fatalf("want %d findings, got %v", len(want), found)
		}
		for i, w := range want {
			if !strings.HasPrefix(found[i].String(), w+":") {
				t.Errorf("finding %d: want %s, got %v", i, w, found[i])
			}
		}
	}
	check() // without git
	if err := exec.CommandContext(t.Context(), "git", "-C", root, "init", "--quiet").Run(); err != nil {
		t.Skipf("run git init: %v", err)
	}
	write(".gitignore", "/build/\n")
	write("build/junk.go", "not Go either")
	check()
}
