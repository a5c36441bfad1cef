package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Result is what one kind of test came to.
type Result struct {
	Kind     string        `json:"kind"`
	Failed   bool          `json:"failed"`           // the command or a test failed, or nothing ran
	Why      string        `json:"why,omitempty"`    // when Failed and no test says so
	Tests    bool          `json:"tests"`            // the kind consists of Go tests
	Packages int           `json:"packages"`         // with at least one test
	Passed   int           `json:"passed"`           // tests and subtests
	Failures []string      `json:"failures"`         // package and test
	Skipped  []string      `json:"skipped"`          // package, test and reason
	Slowest  []string      `json:"slowest"`          // the slowest top-level tests
	Elapsed  time.Duration `json:"elapsed"`          // of the whole command
	Counted  time.Time     `json:"counted,omitzero"` // when it ended
}

// event is a line of go test -json (see go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64
	Output     string
}

// outputMax bounds what is kept of one test until it is known to have passed.
const outputMax = 1 << 20

const slowestMax = 5

type slow struct {
	name    string
	seconds float64
}

// collect reads the events of one go test -json run. It writes one line per
// finished package to progress, and the output of what failed, as it happens.
func collect(r io.Reader, progress io.Writer, trim string) (Result, error) {
	res := Result{Tests: true}
	output := map[string]*strings.Builder{} // by package and test
	ran := map[string]int{}                 // tests by package
	skip := map[string]string{}             // reason, by package and test
	var slowest []slow
	short := func(pkg string) string { return strings.TrimPrefix(strings.TrimPrefix(pkg, trim), "/") }

	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(progress, lines.Text()) // the go command itself speaks
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "build-output":
			fmt.Fprint(progress, e.Output)
		case "output":
			if output[key] == nil {
				output[key] = &strings.Builder{}
			}
			if output[key].Len() < outputMax {
				output[key].WriteString(e.Output)
			}
			if e.Test != "" && !framing(e.Output) {
				skip[key] = strings.TrimSpace(e.Output)
			}
		case "pass", "fail", "skip":
			switch {
			case e.Test == "":
				finishPackage(e, &res, ran[e.Package], output[key], progress, short(e.Package))
			case e.Action == "pass":
				res.Passed++
			case e.Action == "fail":
				res.Failures = append(res.Failures, short(e.Package)+" "+e.Test)
				fmt.Fprintf(progress, "\nFAILED %s %s (%.1f s)\n%s\n", short(e.Package), e.Test, e.Elapsed, indent(output[key]))
			case e.Action == "skip":
				res.Skipped = append(res.Skipped, short(e.Package)+" "+e.Test+": "+skip[key])
			}
			if e.Test != "" {
				ran[e.Package]++
				if !strings.Contains(e.Test, "/") && e.Elapsed >= 1 {
					slowest = append(slowest, slow{short(e.Package) + " " + e.Test, e.Elapsed})
				}
			}
			delete(output, key)
		}
	}
	if err := lines.Err(); err != nil {
		return res, fmt.Errorf("read test events: %w", err)
	}
	for _, n := range ran {
		if n > 0 {
			res.Packages++
		}
	}
	slices.SortFunc(slowest, func(a, b slow) int { return int((b.seconds - a.seconds) * 1000) })
	for _, s := range slowest[:min(slowestMax, len(slowest))] {
		res.Slowest = append(res.Slowest, fmt.Sprintf("%s %.1f s", s.name, s.seconds))
	}
	return res, nil
}

// finishPackage tells the end of a package. One that fails without a failed
// test (a panic, a leak, an exit, a build error) shows its own output.
func finishPackage(e event, res *Result, tests int, out *strings.Builder, progress io.Writer, name string) {
	switch {
	case e.Action == "fail":
		if !slices.ContainsFunc(res.Failures, func(f string) bool { return strings.HasPrefix(f, name+" ") }) {
			res.Failures = append(res.Failures, name+" (the package itself)")
			fmt.Fprintf(progress, "\nFAILED %s\n%s\n", name, indent(out))
		}
	case tests > 0:
		fmt.Fprintf(progress, "  ok  %-40s %4d tests %8.1f s\n", name, tests, e.Elapsed)
	}
}

// framing reports the lines that go test prints around a test's own output.
func framing(line string) bool {
	s := strings.TrimSpace(line)
	return s == "" || strings.HasPrefix(s, "=== ") || strings.HasPrefix(s, "--- ")
}

func indent(b *strings.Builder) string {
	if b == nil {
		return ""
	}
	var out strings.Builder
	for l := range strings.Lines(b.String()) {
		if !strings.HasPrefix(l, "=== ") {
			out.WriteString("    " + l)
		}
	}
	return out.String()
}
