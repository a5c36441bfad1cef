package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one reason to refuse a fleet file.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0 when the whole file is meant
	Column int    `json:"column"` // from 1
	Path   string `json:"path"`   // of the key, such as roles.ingestion.lb.fall
	What   string `json:"what"`   // is wrong
	Why    string `json:"why,omitempty"`
	Try    string `json:"try,omitempty"`
}

// String is the problem as a person reads it: place and what on one line, then
// why, then what to try.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Why != "" {
		b.WriteString("\n    why: " + p.Why)
	}
	if p.Try != "" {
		b.WriteString("\n    try: " + p.Try)
	}
	return b.String()
}

// Problems is the error of a refused file: all that is wrong with it, in the
// order of its lines. It is never empty.
type Problems []Problem

// Error prints one problem after the other.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path), cmp.Compare(a.What, b.What))
	})
}

// place is where a key stands.
type place struct{ line, column int }

// nearest returns the word that is closest to s, when it is close enough that
// a slip of the hand explains the difference.
func nearest(s string, words []string) (string, bool) {
	limit := max(2, len(s)/3)
	if len(s) <= 3 {
		limit = 1
	}
	best, distance := "", limit+1
	for _, w := range words {
		if d := editDistance(s, w); d < distance && d < len(s) {
			best, distance = w, d
		}
	}
	return best, best != ""
}

// editDistance counts inserted, deleted, replaced and swapped letters.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	two, one := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range one {
		one[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(one[j+1]+1, row[j]+1, one[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], two[j-1]+1)
			}
		}
		two, one = one, row
	}
	return one[len(b)]
}
