package main

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// machine says where figures were made, and whether they are worth much.
type machine struct {
	Cores      int     `json:"cores"`
	Go         string  `json:"go"`
	LoadBefore float64 `json:"load_before"` // average of the last minute, before anything was started
	LoadAfter  float64 `json:"load_after"`
	// Busy is set when others used a quarter of the machine or more before we
	// began: wall times are then worth little, and CPU times more.
	Busy bool `json:"busy"`
}

func look() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), LoadBefore: load()}
	m.Busy = m.LoadBefore > float64(m.Cores)/4
	return m
}

func (m machine) String() string {
	if m.Busy {
		return fmt.Sprintf("%d cores, load %.1f: THE MACHINE IS BUSY, so wall times are worth little", m.Cores, m.LoadBefore)
	}
	return fmt.Sprintf("%d cores, load %.1f", m.Cores, m.LoadBefore)
}

// load is the load average of the last minute; 0: not known.
func load() (l float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(b), &l)
	}
	if err != nil {
		return 0
	}
	return l
}

// resetPeak makes peakMB speak of what comes after. Where the kernel does not
// know how, peaks are those since the start.
func resetPeak() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// peakMB is the most memory that this process had (VmHWM); 0: not known.
func peakMB() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kB float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %g kB", &kB); n == 1 {
			return math.Round(kB*1024/1e5) / 10
		}
	}
	return 0
}

func round2(f float64) float64 { return math.Round(100*f) / 100 }

func round4(f float64) float64 { return math.Round(1e4*f) / 1e4 }

func mb(bytes int64) float64 { return round2(float64(bytes) / 1e6) }

// peakOf is peakMB of another process, in MiB.
func peakOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		var kB float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %g kB", &kB); n == 1 {
			return kB / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d does not tell its memory", pid)
}

// cpuOf is the CPU that a process has taken so far; 0: not known.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in brackets may hold anything: the fields begin behind it.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0
	}
	return time.Duration(user+system) * time.Second / 100 // Linux counts in hundredths
}
