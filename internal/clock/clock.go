package clock

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Instant is a point in time on CLOCK_BOOTTIME, in nanoseconds since this
// machine booted. Two Instants compare only if one boot of one machine read
// both. The zero Instant is the moment of boot.
type Instant int64

// Add returns t moved by d.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns the time from u to t; it is negative when t is earlier.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Before reports whether t is earlier than u.
func (t Instant) Before(u Instant) bool { return t < u }

// After reports whether t is later than u.
func (t Instant) After(u Instant) bool { return t > u }

// String returns the time since boot, such as "3h2m0.5s".
func (t Instant) String() string { return time.Duration(t).String() }

// Clock tells the time in the two ways we need. It is safe for concurrent use.
type Clock interface {
	// Now is for measuring: leases, deadlines, gaps. It never goes back and
	// counts suspended time.
	Now() Instant
	// Wall is for people and for schedules. It may jump.
	Wall() time.Time
}

// System returns the clocks of this machine.
func System() Clock { return system{} }

type system struct{}

func (system) Now() Instant {
	var ts unix.Timespec
	// It cannot fail: the only errors are a bad pointer and a clock that the
	// kernel does not have, and Linux has had this one since 2.6.39. Going on
	// with another clock would make leases too long, so stop here.
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v (holdfast needs Linux 2.6.39 or newer)", err))
	}
	return Instant(ts.Nano())
}

func (system) Wall() time.Time { return time.Now() }

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// BootID names this boot of this machine. It changes with every boot, so it
// says whether an Instant read from disk still means anything.
func BootID() (string, error) { return readBootID(bootIDFile) }

func readBootID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w (is /proc mounted?)", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", fmt.Errorf("read boot id: %w", errors.New(path+" is empty"))
	}
	return id, nil
}
