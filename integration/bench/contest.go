package main

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// run is one way of doing the work, done once.
type run struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"` // of this process; the servers' are not in it
	MBps       float64 `json:"mb_per_second,omitempty"`
	PeakMB     float64 `json:"rss_peak_mb,omitempty"` // of this process, from a collected heap on
}

// way is one way of doing the work.
type way struct {
	name    string
	prepare func(ctx context.Context) error // not measured; nil: nothing
	do      func(ctx context.Context) error
	after   func(ctx context.Context, r run) error // not measured; nil: nothing
	runs    []run
}

// contest lets ways do the same work in turn. The machine is noisy, and what
// comes first pays for cold caches: so they alternate, and what counts is how
// they compare within a round.
type contest struct {
	rounds  int
	warmUp  bool    // one more round, of those that alternate, that does not count
	payload float64 // MB that each moves; 0: not said
	peaks   bool    // look at the memory too
}

// hold runs all rounds: the ways that alternate, and then those whose order
// matters.
func (c contest) hold(ctx context.Context, alternate, inOrder []*way) error {
	width := 8
	for _, w := range slices.Concat(alternate, inOrder) {
		width = max(width, len(w.name))
	}
	if c.warmUp {
		for _, w := range alternate {
			r, err := c.once(ctx, w)
			if err != nil {
				return err
			}
			fmt.Printf("warm-up  %-*s  %5.1f s\n", width, w.name, r.Seconds)
		}
	}
	for round := range c.rounds {
		for i := range len(alternate) + len(inOrder) {
			var w *way
			if i < len(alternate) {
				w = alternate[(i+round)%len(alternate)]
			} else {
				w = inOrder[i-len(alternate)]
			}
			r, err := c.once(ctx, w)
			if err != nil {
				return err
			}
			w.runs = append(w.runs, r)
			rate := ""
			if r.MBps > 0 {
				rate = fmt.Sprintf("  %6.1f MB/s", r.MBps)
			}
			fmt.Printf("round %d  %-*s  %5.1f s%s  %5.2f CPU s\n", round+1, width, w.name, r.Seconds, rate, r.CPUSeconds)
		}
	}
	return nil
}

func (c contest) once(ctx context.Context, w *way) (r run, err error) {
	if w.prepare != nil {
		if err := w.prepare(ctx); err != nil {
			return r, fmt.Errorf("prepare %s: %w", w.name, err)
		}
	}
	if c.peaks {
		resetPeak()
	}
	cpu, began := cpuSeconds(), time.Now()
	if err := w.do(ctx); err != nil {
		return r, fmt.Errorf("%s: %w", w.name, err)
	}
	r = run{Seconds: time.Since(began).Seconds(), CPUSeconds: cpuSeconds() - cpu}
	r.MBps = c.payload / r.Seconds
	if c.peaks {
		r.PeakMB = peakMB()
	}
	if w.after != nil {
		err = w.after(ctx, r)
	}
	return r, err
}

// median is the run that took the middle time.
func median(runs []run) run {
	runs = slices.Clone(runs)
	slices.SortFunc(runs, func(a, b run) int { return int(1e9 * (a.Seconds - b.Seconds)) })
	return runs[len(runs)/2]
}

// times says how many times what another way needs one needs: the medians of
// what each round said, for neighbours in time share the noise.
type times struct {
	Wall    float64 `json:"wall"`
	WallMin float64 `json:"wall_min"`
	WallMax float64 `json:"wall_max"`
	CPU     float64 `json:"cpu,omitempty"` // absent where another process does the work
}

func timesOf(one, other []run) times {
	var wall, cpu []float64
	for i := range min(len(one), len(other)) {
		wall = append(wall, one[i].Seconds/other[i].Seconds)
		cpu = append(cpu, one[i].CPUSeconds/max(other[i].CPUSeconds, 1e-3))
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	return times{round2(wall[len(wall)/2]), round2(wall[0]), round2(wall[len(wall)-1]), round2(cpu[len(cpu)/2])}
}

// say prints it as a sentence.
func (t times) say(ours, baseline string) {
	cpu := ""
	if t.CPU > 0 {
		cpu = fmt.Sprintf(", %.2f times its CPU", t.CPU)
	}
	fmt.Printf("  %s: %.2f times as long as %s (%.2f to %.2f)%s\n", ours, t.Wall, baseline, t.WallMin, t.WallMax, cpu)
}

// wallOnly is for work that another process does.
func wallOnly(t times) times {
	t.CPU = 0
	return t
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
