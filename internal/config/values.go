package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	resyntax "regexp/syntax"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// Mode says whether holdfast drives anything.
type Mode string

// The modes.
const (
	Active  Mode = "active"  // drives roles
	Observe Mode = "observe" // mirrors and plans, drives nothing
)

// Follow says how a standby's ClickHouse gets its data.
type Follow string

// The ways to follow.
const (
	Shadow   Follow = "shadow"   // consumers run in both regions over mirrored topics
	Restore  Follow = "restore"  // from sets
	External Follow = "external" // its own replication, which is watched
)

// QuorumLoss says what an open holder does while there is no quorum.
type QuorumLoss string

// The answers to a lost quorum.
const (
	Hold   QuorumLoss = "hold"   // goes on, and nothing is promoted
	Demote QuorumLoss = "demote" // stops at its deadline
)

// Mechanism is how a password is proven to Kafka.
type Mechanism string

// The mechanisms.
const (
	Plain       Mechanism = "plain"
	ScramSHA256 Mechanism = "scram-sha-256"
	ScramSHA512 Mechanism = "scram-sha-512"
)

// Engine names a kind of store that a recovery set can contain.
type Engine string

// word is a text with a fixed list of spellings.
type word interface{ Spellings() []string }

// Spellings lists the presets that this binary holds.
func (Preset) Spellings() []string { return presetNames() }

// Spellings lists the modes.
func (Mode) Spellings() []string { return []string{string(Active), string(Observe)} }

// Spellings lists the ways to follow.
func (Follow) Spellings() []string {
	return []string{string(Shadow), string(Restore), string(External)}
}

// Spellings lists the answers to a lost quorum.
func (QuorumLoss) Spellings() []string { return []string{string(Hold), string(Demote)} }

// Spellings lists the mechanisms.
func (Mechanism) Spellings() []string {
	return []string{string(Plain), string(ScramSHA256), string(ScramSHA512)}
}

// Spellings lists the engines in the order in which a set takes them.
func (Engine) Spellings() []string {
	var names []string
	for _, e := range backup.Engines() {
		names = append(names, string(e))
	}
	return names
}

// Pattern is a regular expression that must match a whole name.
type Pattern struct {
	text string
	re   *regexp.Regexp
}

var everything = Pattern{text: ".*", re: regexp.MustCompile(`^(?:.*)$`)}

// String is the pattern as written.
func (p Pattern) String() string { return p.text }

// Match reports whether the pattern matches the whole name. The zero Pattern
// matches nothing.
func (p Pattern) Match(name string) bool { return p.re != nil && p.re.MatchString(name) }

// MarshalText gives the pattern as written.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText compiles the pattern.
func (p *Pattern) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return fmt.Errorf("an empty pattern matches nothing; write .* for everything")
	}
	// Compiled alone first: the error must show what was written, and a
	// bracket that closes ours must not count as one of theirs.
	_, err := regexp.Compile(string(text))
	var syntax *resyntax.Error
	if errors.As(err, &syntax) {
		return fmt.Errorf("%q is not a regular expression: %s", shorten(string(text)), syntax.Code)
	}
	re, err := regexp.Compile("^(?:" + string(text) + ")$")
	if err != nil {
		return fmt.Errorf("not a regular expression: %w", err)
	}
	p.text, p.re = string(text), re
	return nil
}

// Rate is a number of bytes per second; 0 means without a limit.
type Rate int64

var units = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

// String is the rate with a unit, as it may be written in the file.
func (r Rate) String() string {
	for _, u := range []int{6, 5, 3} { // GB, MB, kB
		if b := units[u]; r != 0 && int64(r)%int64(b.bytes) == 0 {
			return fmt.Sprintf("%d%s/s", int64(r)/int64(b.bytes), b.suffix)
		}
	}
	return fmt.Sprintf("%dB/s", int64(r))
}

// MarshalText gives the rate with a unit.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a rate such as 50MB/s, 512KiB/s or 1.5GB/s.
func (r *Rate) UnmarshalText(text []byte) error {
	number, suffix := strings.TrimSuffix(string(text), "/s"), 0.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, suffix = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || suffix == 0 || math.IsNaN(v) || v < 0 || v*suffix >= math.MaxInt64 {
		return fmt.Errorf("want a number with a unit (B, kB, MB, GB, KiB, MiB, GiB) per second, such as 50MB/s")
	}
	*r = Rate(v * suffix)
	return nil
}

// Share is a part of a whole, 1 for all of it.
type Share float64

// String is the share in percent, as it may be written in the file.
func (s Share) String() string {
	return strconv.FormatFloat(math.Round(float64(s)*1e8)/1e6, 'f', -1, 64) + "%"
}

// MarshalText gives the share in percent.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a share such as 5% or 0.1%.
func (s *Share) UnmarshalText(text []byte) error {
	number, ok := strings.CutSuffix(string(text), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !ok || !(v > 0 && v <= 100) {
		return fmt.Errorf("want a share in percent, more than 0%% and at most 100%%, such as 5%%")
	}
	*s = Share(v / 100)
	return nil
}
