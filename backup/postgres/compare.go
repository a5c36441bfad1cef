package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast-dr/holdfast/backup"
)

// lsn is a position in the WAL.
type lsn uint64

func (l lsn) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

// UnmarshalText reads "16/B374D848".
func (l *lsn) UnmarshalText(b []byte) error {
	high, low, ok := strings.Cut(string(b), "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	n, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return fmt.Errorf("%.40q is no WAL position, want one such as 16/B374D848", b)
	}
	*l = lsn(h<<32 | n)
	return nil
}

// checkName refuses a name that would leave the data directory, or that a
// manifest in JSON could not hold.
func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
		return fmt.Errorf("file name %q does not stay inside the data directory", name)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("file name %q is not UTF-8", name)
	}
	return nil
}

// inWAL reports whether a file is WAL, which the server does not list.
func inWAL(name string) bool { return strings.HasPrefix(name, "pg_wal/") }

// compare checks what arrived against what the server listed, both ways, and
// that the WAL covers what the server says is needed.
func compare(l listed, files []backup.PostgresFile, start, end lsn) error {
	var wrong problems
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		if seen[f.Name] {
			wrong.add("%s arrived twice", f.Name)
		}
		seen[f.Name] = true
		if inWAL(f.Name) {
			continue
		}
		switch want, ok := l.Files[f.Name]; {
		case !ok:
			wrong.add("%s arrived and is not in the server's manifest", f.Name)
		case want.Size != f.Bytes:
			wrong.add("%s is %d bytes long, the server's manifest says %d", f.Name, f.Bytes, want.Size)
		case want.SHA256 != string(f.SHA256):
			wrong.add("%s has the SHA-256 %s, the server's manifest says %s", f.Name, f.SHA256, want.SHA256)
		}
	}
	for name := range l.Files {
		if !seen[name] && !inWAL(name) {
			wrong.add("%s is in the server's manifest and did not arrive", name)
		}
	}
	if err := wrong.err(); err != nil {
		return fmt.Errorf("compare the base backup with the server's manifest: %w", err)
	}
	return coverWAL(l.Ranges, files, start, end)
}

var segmentName = regexp.MustCompile(`^pg_wal/[0-9A-F]{24}$`)

// coverWAL checks that the segments hold every byte from start to end.
func coverWAL(ranges []walRange, files []backup.PostgresFile, start, end lsn) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("check the WAL of the base backup: "+format, args...)
	}
	first, last := ranges[0].Start, ranges[0].End
	for _, r := range ranges {
		first, last = min(first, r.Start), max(last, r.End)
	}
	if first != start || last != end {
		return fail("the server's manifest says %s to %s, the server itself %s to %s", first, last, start, end)
	}
	ordered := slices.Clone(ranges)
	slices.SortFunc(ordered, func(a, b walRange) int { return int(int64(a.Start) - int64(b.Start)) })
	for i := 1; i < len(ordered); i++ {
		if ordered[i].Start > ordered[i-1].End {
			return fail("no range covers %s to %s", ordered[i-1].End, ordered[i].Start)
		}
	}
	var size int64 // of a segment
	have := map[string]bool{}
	for _, f := range files {
		if !segmentName.MatchString(f.Name) {
			continue
		}
		if size == 0 {
			size = f.Bytes
		}
		if f.Bytes != size || size < 1<<20 || size > 1<<30 || size&(size-1) != 0 {
			return fail("%s is %d bytes long, which is no segment; others have %d", f.Name, f.Bytes, size)
		}
		have[strings.TrimPrefix(f.Name, "pg_wal/")] = true
	}
	if size == 0 {
		return fail("no segment arrived")
	}
	per := uint64(1<<32) / uint64(size)
	for _, r := range ranges {
		low, high := uint64(r.Start)/uint64(size), (uint64(r.End)-1)/uint64(size)
		if high-low > uint64(len(files)) {
			return fail("%s to %s needs %d segments, %d files arrived", r.Start, r.End, high-low+1, len(files))
		}
		for n := low; n <= high; n++ {
			if name := fmt.Sprintf("%08X%08X%08X", r.Timeline, n/per, n%per); !have[name] {
				return fail("segment %s did not arrive (needed for %s to %s)", name, r.Start, r.End)
			}
		}
	}
	return nil
}

// problems gathers what is wrong; it keeps the first ones and counts all.
type problems struct {
	first []error
	all   int
}

func (p *problems) add(format string, args ...any) {
	p.all++
	if len(p.first) < 5 {
		p.first = append(p.first, fmt.Errorf(format, args...))
	}
}

func (p *problems) err() error {
	if p.all == 0 {
		return nil
	}
	texts := make([]string, len(p.first))
	for i, e := range p.first {
		texts[i] = e.Error()
	}
	text := strings.Join(texts, "; ")
	if more := p.all - len(p.first); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return errors.New(text)
}
