package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
)

// Code says what kind of problem it is, for programs. It never changes its
// meaning.
type Code string

// The codes.
const (
	Refused     Code = "refused"         // a gate or a rule says no; nothing was changed
	Changed     Code = "changed"         // what it was decided on has changed or expired: look again
	NoLeader    Code = "no-leader"       // no majority; nothing was changed
	Usage       Code = "usage"           // the request can never work as it is
	NotFound    Code = "not-found"       // it names something that does not exist
	Unknown     Code = "unknown-outcome" // it may or may not have happened: read before deciding
	Unavailable Code = "unavailable"     // something that is needed does not answer
	Internal    Code = "internal"        // anything else
)

var statusOf = map[Code]int{
	Refused: http.StatusConflict, Changed: http.StatusConflict, NoLeader: http.StatusServiceUnavailable,
	Usage: http.StatusUnprocessableEntity, NotFound: http.StatusNotFound, Unknown: http.StatusGatewayTimeout,
	Unavailable: http.StatusServiceUnavailable, Internal: http.StatusInternalServerError,
}

// Problem is an error on the wire, in the form of RFC 9457.
type Problem struct {
	Type   string `json:"type"`   // "about:blank": the code says more
	Title  string `json:"title"`  // what did not happen, in a few words
	Status int    `json:"status"` // of HTTP
	Detail string `json:"detail"` // why, in one sentence
	Code   Code   `json:"code" enum:"refused,changed,no-leader,usage,not-found,unknown-outcome,unavailable,internal"`
	Fix    string `json:"fix,omitempty"` // what to try
	// Blockers are the gates that refused, when the code is refused.
	Blockers []failover.Blocker `json:"blockers,omitempty"`
}

// Problemf returns a problem: what did not happen, what to try, and why.
func Problemf(code Code, what, fix, why string, a ...any) *Problem {
	return &Problem{Type: "about:blank", Title: what, Status: statusOf[code], Detail: fmt.Sprintf(why, a...), Code: code, Fix: fix}
}

// RefusedBy returns the problem of a plan that gates refuse.
func RefusedBy(what string, blockers []failover.Blocker) *Problem {
	why := make([]string, len(blockers))
	for i, b := range blockers {
		why[i] = b.Gate + ": " + b.Why
	}
	p := Problemf(Refused, what, "", "%s", strings.Join(why, "; "))
	p.Blockers = blockers
	if len(blockers) > 0 {
		p.Fix = blockers[0].Fix
	}
	return p
}

// Error reads as one sentence and its remedy.
func (p *Problem) Error() string {
	s := p.Title
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Fix != "" {
		s += "; try: " + p.Fix
	}
	return s
}

// GetStatus is the HTTP status; the name is what the API library looks for.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType marks the body as a problem.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// ProblemOf turns any error of a Backend into a problem. what says in a few
// words what did not happen.
func ProblemOf(what string, err error) *Problem {
	var p *Problem
	var refusal *consensus.Refusal
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, consensus.ErrNoLeader):
		return Problemf(NoLeader, what, "bring a majority of the daemons back: `holdfast members list`", "%s", err)
	case errors.Is(err, consensus.ErrUnknownOutcome):
		return Problemf(Unknown, what, "look before you repeat it: `holdfast status`", "%s", err)
	case errors.As(err, &refusal):
		switch refusal.Code {
		case consensus.CodeStale:
			return Problemf(Changed, what, "look again: `holdfast status`", "%s", refusal.Why)
		case consensus.CodeMissing:
			return Problemf(NotFound, what, "", "%s", refusal.Why)
		case consensus.CodeInvalid:
			return Problemf(Usage, what, "", "%s", refusal.Why)
		default:
			return Problemf(Refused, what, "", "%s", refusal.Why)
		}
	case errors.Is(err, context.DeadlineExceeded):
		return Problemf(Unavailable, what, "try again; `holdfast status` says who answers", "no answer in time: %s", err)
	default:
		return Problemf(Internal, what, "the daemon's log says more: `journalctl -u holdfast`", "%s", err)
	}
}
