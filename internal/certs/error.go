package certs

import (
	"fmt"
	"time"
)

// Kind says what is wrong with a certificate or key, for programs.
type Kind string

// The kinds of Problem.
const (
	Unreadable  Kind = "unreadable"
	Malformed   Kind = "malformed"
	Exposed     Kind = "exposed"
	KeyMismatch Kind = "key-mismatch"
	Expired     Kind = "expired"
	NotYetValid Kind = "not-yet-valid"
	WrongCA     Kind = "wrong-ca"
	WrongUse    Kind = "wrong-use"
	WrongName   Kind = "wrong-name"
	Missing     Kind = "missing"
)

// Problem is an error of this package: what is wrong with which file or peer,
// and what to do about it.
type Problem struct {
	Kind    Kind
	Subject string // "certificate /etc/holdfast/us-east-1.pem", "certificate of the peer witness-1"
	What    string // "expired 3 days ago, on 2026-11-20 12:00:00 UTC"
	Fix     string // "issue a new one with: holdfast certs init ..."
	Cause   error
}

// Error reads as one sentence and its remedy.
func (p *Problem) Error() string {
	s := p.Subject + " " + p.What
	if p.Cause != nil {
		s += ": " + p.Cause.Error()
	}
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Cause }

const stamp = "2006-01-02 15:04:05 MST"

// at writes a time as people compare it: "3 days ago, on ...".
func at(t, now time.Time) string {
	d := now.Sub(t)
	if d >= 0 {
		return about(d) + " ago, on " + t.UTC().Format(stamp)
	}
	return "in " + about(-d) + ", on " + t.UTC().Format(stamp)
}

// about rounds down to the unit that a person would say.
func about(d time.Duration) string {
	n, unit := int(d/time.Second), "second"
	switch {
	case d >= 48*time.Hour:
		n, unit = int(d/(24*time.Hour)), "day"
	case d >= 2*time.Hour:
		n, unit = int(d/time.Hour), "hour"
	case d >= 2*time.Minute:
		n, unit = int(d/time.Minute), "minute"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}
