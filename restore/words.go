package restore

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
)

// count says a number of things: "1 object", "1,234 objects".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(uint64(max(0, n))) + " " + what + "s"
}

// rows says a number of an engine's rows; Kafka's are offsets.
func rows(e backup.Engine, n uint64) string {
	what := "row"
	if e == backup.Kafka {
		what = "offset"
	}
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

// thousands groups digits: 1,234,567.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// Bytes says a size as people do, in powers of ten: "512 B", "4.2 GB".
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, i := float64(n), 0
	for i < len(units)-1 && f >= 999.5 {
		f, i = f/1000, i+1
	}
	if i == 0 || f >= 99.95 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// Took says milliseconds as people do: "340 ms", "9.8 s", "3 min 12 s", "2 h 5 min", "3 days 4 h".
func Took(ms int64) string {
	d := time.Duration(min(ms, int64(time.Duration(1<<63-1)/time.Millisecond))) * time.Millisecond
	switch {
	case ms < 1000:
		return fmt.Sprintf("%d ms", ms)
	case ms < 59_950:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	two := func(big int64, bigUnit string, small int64, smallUnit string) string {
		if small == 0 {
			return fmt.Sprintf("%d %s", big, bigUnit)
		}
		return fmt.Sprintf("%d %s %d %s", big, bigUnit, small, smallUnit)
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 3600:
		return two(s/60, "min", s%60, "s")
	case s < 86_400:
		return two(s/3600, "h", s/60%60, "min")
	case s < 2*86_400:
		return two(1, "day", s/3600%24, "h")
	default:
		return two(s/86_400, "days", s/3600%24, "h")
	}
}
