package clock

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSystem_ReadsBoottimeAndNeverGoesBack(t *testing.T) {
	c := System()
	var boot, mono unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		t.Fatal(err)
	}
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		t.Fatal(err)
	}
	now := c.Now()
	if d := now.Sub(Instant(boot.Nano())); d < 0 || d > time.Second {
		t.Errorf("Now is %s away from CLOCK_BOOTTIME (monotonic is %s away)", d, now.Sub(Instant(mono.Nano())))
	}
	for range 10_000 {
		next := c.Now()
		if next.Before(now) {
			t.Fatalf("went back from %d to %d", now, next)
		}
		now = next
	}
	if d := time.Since(c.Wall()); d < 0 || d > time.Second {
		t.Errorf("Wall is %s off", d)
	}
}

func TestInstant_AddSubBeforeAgree(t *testing.T) {
	a := Instant(5 * time.Second)
	b := a.Add(1500 * time.Millisecond)
	if b.Sub(a) != 1500*time.Millisecond || a.Sub(b) != -1500*time.Millisecond {
		t.Error("Sub is not the inverse of Add")
	}
	if !a.Before(b) || b.Before(a) || a.Before(a) || !b.After(a) || a.After(a) {
		t.Error("Before and After disagree with Add")
	}
	if b.String() != "6.5s" {
		t.Errorf("String is %q", b)
	}
}

func TestBootID_IsStableAndSaysWhatIsWrong(t *testing.T) {
	a, err := BootID()
	if err != nil || a == "" {
		t.Fatalf("BootID: %q, %v", a, err)
	}
	if b, _ := BootID(); a != b {
		t.Errorf("two readings differ: %q, %q", a, b)
	}
	if _, err := readBootID(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file gave no error")
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readBootID(empty); err == nil {
		t.Error("an empty file gave no error")
	}
}

func TestFake_MovesOnlyWhenToldAndAtItsRate(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := NewFake(100, start)
	if f.Now() != 100 || !f.Wall().Equal(start) {
		t.Fatal("a new Fake does not read what it was given")
	}
	f.SetRate(1.001)
	for range 1000 { // small steps must lose nothing to rounding
		f.Advance(time.Second / 1000)
	}
	if got := f.Now().Sub(100); got < 1001*time.Millisecond-2 || got > 1001*time.Millisecond+2 {
		t.Errorf("1 s at rate 1.001 reads %s", got)
	}
	before := f.Now()
	f.StepWall(-time.Hour)
	if f.Now() != before {
		t.Error("a step of the wall clock moved Now")
	}
	if got := f.Wall().Sub(start); got > -time.Hour+2*time.Second {
		t.Errorf("wall moved by %s", got)
	}
	for name, bad := range map[string]func(){
		"negative advance": func() { f.Advance(-1) },
		"zero rate":        func() { f.SetRate(0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was accepted", name)
				}
			}()
			bad()
		}()
	}
}

var _ Clock = (*Fake)(nil)
