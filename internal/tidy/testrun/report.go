package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// complete adds a failure for each kind that should have run and left no
// result: what could not start must not look as if it had passed.
func complete(results []Result, kinds []string) []Result {
	for _, kind := range kinds {
		if !slices.ContainsFunc(results, func(r Result) bool { return r.Kind == kind }) {
			results = append(results, Result{Kind: kind, Failed: true, Why: "did not run; its error is further up"})
		}
	}
	return results
}

// report prints what ran, and whether all of it passed.
func report(w io.Writer, results []Result) (passed bool) {
	passed = len(results) > 0
	fmt.Fprintln(w)
	tab := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tab, "WHAT RAN\tRESULT\tPACKAGES\tPASSED\tFAILED\tSKIPPED\tTIME")
	var total time.Duration
	for _, r := range results {
		verdict := "ok"
		if r.Failed {
			verdict, passed = "FAILED", false
		}
		counts := "-\t-\t-\t-"
		if r.Tests {
			counts = fmt.Sprintf("%d\t%d\t%d\t%d", r.Packages, r.Passed, len(r.Failures), len(r.Skipped))
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\n", r.Kind, verdict, counts, round(r.Elapsed))
		total += r.Elapsed
	}
	fmt.Fprintf(tab, "total\t\t\t\t\t\t%s\n", round(total))
	tab.Flush()
	for _, r := range results {
		list(w, r.Kind+": failed", r.Failures)
		if r.Why != "" {
			list(w, r.Kind+": failed", []string{r.Why})
		}
		list(w, r.Kind+": skipped", r.Skipped)
		list(w, r.Kind+": slowest", r.Slowest)
	}
	if len(results) == 0 {
		fmt.Fprintln(w, "nothing ran: no result in build/test")
	}
	return passed
}

func list(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	for _, l := range lines {
		fmt.Fprintln(w, "  "+l)
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
