package main

import (
	"strings"
	"testing"
	"time"
)

const events = `{"Action":"run","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"noise of a test that passes\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":2.5}
{"Action":"output","Package":"m/a","Test":"TestBad","Output":"=== RUN   TestBad\n"}
{"Action":"output","Package":"m/a","Test":"TestBad","Output":"    x_test.go:9: got 2, want 1\n"}
{"Action":"output","Package":"m/a","Test":"TestBad","Output":"--- FAIL: TestBad (0.10s)\n"}
{"Action":"fail","Package":"m/a","Test":"TestBad","Elapsed":0.1}
{"Action":"output","Package":"m/a","Test":"TestAway","Output":"    x_test.go:12: needs redis: apt-get install redis\n"}
{"Action":"output","Package":"m/a","Test":"TestAway","Output":"--- SKIP: TestAway (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestAway"}
{"Action":"fail","Package":"m/a","Elapsed":2.7}
{"Action":"output","Package":"m/b","Output":"panic: out of paper\n"}
{"Action":"fail","Package":"m/b","Elapsed":0.1}
{"Action":"skip","Package":"m/c"}
`

func TestCollect_ShowsWhatFailedAndNothingElse(t *testing.T) {
	var out strings.Builder
	res, err := collect(strings.NewReader(events), &out, "m")
	if err != nil {
		t.Fatal(err)
	}
	if res.Passed != 1 || res.Packages != 1 || len(res.Failures) != 2 || len(res.Skipped) != 1 {
		t.Errorf("wrong counts: %+v", res)
	}
	for _, want := range []string{"FAILED a TestBad", "got 2, want 1", "FAILED b", "panic: out of paper"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "noise") {
		t.Errorf("output of a passed test was printed:\n%s", out.String())
	}
	if want := "a TestAway: x_test.go:12: needs redis: apt-get install redis"; res.Skipped[0] != want {
		t.Errorf("skip reason: got %q, want %q", res.Skipped[0], want)
	}
	if len(res.Slowest) != 1 || res.Slowest[0] != "a TestGood 2.5 s" {
		t.Errorf("slowest: %v", res.Slowest)
	}
}

func TestExecute_FailsOnFailureAndOnNothing(t *testing.T) {
	judge := func(why string, failed bool, command ...string) {
		t.Helper()
		res, err := execute(t.Context(), "kind", command, new(strings.Builder))
		if err != nil {
			t.Fatal(err)
		}
		if res.Failed != failed || !strings.Contains(res.Why, why) {
			t.Errorf("%v: got failed %v, why %q; want %v, %q", command, res.Failed, res.Why, failed, why)
		}
	}
	judge("", false, "true")
	judge("exit status 1", true, "false")
	judge("no test passed", true, "echo", "-json")
	judge("", false, "printf", `%s\n`, `{"Action":"pass","Package":"m/a","Test":"TestGood"}`, "-json")
	if _, err := execute(t.Context(), "kind", []string{"no-such-command-anywhere"}, new(strings.Builder)); err == nil {
		t.Error("a command that does not exist was accepted")
	}
}

func TestReport_PassesOnlyWhenAllDid(t *testing.T) {
	var out strings.Builder
	if report(&out, nil) {
		t.Error("a report of nothing passed")
	}
	dir := t.TempDir()
	lint := Result{Kind: "lint", Elapsed: time.Second, Counted: time.Unix(1, 0)}
	unit := Result{Kind: "unit", Tests: true, Passed: 7, Failed: true, Failures: []string{"a TestBad"}, Skipped: []string{"a TestAway: why"}, Counted: time.Unix(2, 0)}
	for _, r := range []Result{unit, lint} {
		if err := save(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	results, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Kind != "lint" || results[1].Kind != "unit" {
		t.Errorf("results are not in the order in which they ended: %v", results)
	}
	if report(&out, results) {
		t.Error("a report with a failure passed")
	}
	for _, want := range []string{"unit", "FAILED", "a TestBad", "a TestAway: why"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, out.String())
		}
	}
	if report(&out, complete(results[:1], []string{"lint", "integration"})) {
		t.Error("a report without a kind that should have run passed")
	}
	if !report(&out, complete(results[:1], []string{"lint"})) {
		t.Error("a report without a failure failed")
	}
}
