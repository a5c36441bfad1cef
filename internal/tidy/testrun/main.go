package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	module     = "github.com/holdfast-dr/holdfast"
	resultsDir = "build/test"
	// killAfter is how long the command gets to clean up after an interrupt;
	// the rig stops its servers within it.
	killAfter = 30 * time.Second
)

func main() {
	kind := flag.String("kind", "", "name of the kind of test that the command after -- runs")
	show := flag.Bool("report", false, "print the results and exit 1 unless all passed and each kind that is named ran")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	passed, err := run(ctx, *kind, *show, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(2)
	}
	if !passed {
		os.Exit(1)
	}
}

func run(ctx context.Context, kind string, show bool, command []string) (passed bool, err error) {
	if show {
		results, err := load(resultsDir)
		if err != nil {
			return false, err
		}
		return report(os.Stdout, complete(results, command)), nil
	}
	if kind == "" || len(command) == 0 {
		return false, errors.New("want -report [KIND...], or -kind NAME -- COMMAND")
	}
	fmt.Printf("%s: %s\n", kind, strings.Join(command, " "))
	res, err := execute(ctx, kind, command, os.Stdout)
	if err != nil {
		return false, err
	}
	if res.Why != "" {
		fmt.Printf("%s: FAILED: %s\n", kind, res.Why)
	}
	return !res.Failed, save(resultsDir, res)
}

// execute runs the command and judges it. A kind whose command is go test
// -json must have run at least one test: a suite that finds nothing to do
// would pass any tree.
func execute(ctx context.Context, kind string, command []string, out io.Writer) (Result, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = killAfter
	cmd.Stderr = os.Stderr
	start := time.Now()
	var res Result
	if slices.Contains(command, "-json") {
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return Result{}, err
		}
		if err := cmd.Start(); err != nil {
			return Result{}, fmt.Errorf("start %s: %w", command[0], err)
		}
		res, err = collect(pipe, out, module)
		if err != nil {
			res.Why = err.Error()
			_, _ = io.Copy(io.Discard, pipe) // only to let the command end
		}
	} else {
		cmd.Stdout = out
		if err := cmd.Start(); err != nil {
			return Result{}, fmt.Errorf("start %s: %w", command[0], err)
		}
	}
	if err := cmd.Wait(); err != nil && len(res.Failures) == 0 {
		res.Why = cmp.Or(res.Why, fmt.Sprintf("%s: %v", command[0], err))
	}
	if res.Tests && res.Why == "" && len(res.Failures) == 0 && res.Passed == 0 {
		res.Why = "no test passed: either there is none, or all were skipped"
	}
	res.Kind, res.Elapsed, res.Counted = kind, time.Since(start), time.Now()
	res.Failed = res.Why != "" || len(res.Failures) > 0
	return res, nil
}

func save(dir string, r Result) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep result: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, r.Kind+".json"), append(text, '\n'), 0o644)
}

// load returns the results in the order in which they ended.
func load(dir string) ([]Result, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var r Result
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read result %s: %w", name, err)
		}
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b Result) int { return a.Counted.Compare(b.Counted) })
	return results, nil
}
