package consensus

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// auditLinesMax is how many lines the state itself keeps. The chain covers
// all lines there ever were.
const auditLinesMax = 200

// auditBodyBytesMax is the largest body kept in full; of a larger one the
// line keeps the hash and the size.
const auditBodyBytesMax = 4 << 10

// Audit is a hash chain over every mutation that a person or a decision made.
// Renewals and the journal of tasks are not in it: they are frequent, and
// their plans are.
type Audit struct {
	Count uint64      `json:"count"`
	Head  string      `json:"head"` // hex SHA-256 over the previous head and the last line
	Lines []AuditLine `json:"lines"`
}

// AuditLine is one mutation.
type AuditLine struct {
	Number uint64          `json:"number"`
	At     time.Time       `json:"at"`
	By     string          `json:"by"`
	Kind   string          `json:"kind"`
	Body   json.RawMessage `json:"body"`
	Hash   string          `json:"hash"` // the head after this line
}

func auditLine(c Command) (AuditLine, bool) {
	switch c.Body.(type) {
	case *Renew, *ClaimTask, *FinishTask, *FailTask, *StartStep, *OpenSession, *TakeSlot, *NoteLink, *TakeFill, *SettleFill:
		return AuditLine{}, false
	}
	body, err := json.Marshal(c.Body)
	if err != nil { // every body was read from JSON or is about to be written as it
		panic(fmt.Sprintf("audit %s: %v", c.Body.kind(), err))
	}
	if len(body) > auditBodyBytesMax {
		body = fmt.Appendf(nil, `{"sha256":"%x","bytes":%d}`, sha256.Sum256(body), len(body))
	}
	return AuditLine{At: c.At.UTC(), By: c.By, Kind: c.Body.kind(), Body: body}, true
}

func (a Audit) append(l AuditLine) Audit {
	l.Number = a.Count + 1
	l.Hash = chain(a.Head, l)
	keep := a.Lines[max(0, len(a.Lines)-auditLinesMax+1):]
	lines := make([]AuditLine, 0, len(keep)+1)
	return Audit{Count: l.Number, Head: l.Hash, Lines: append(append(lines, keep...), l)}
}

func chain(head string, l AuditLine) string {
	l.Hash = ""
	b, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("audit line %d: %v", l.Number, err)) // its body is valid JSON already
	}
	sum := sha256.Sum256(append([]byte(head), b...))
	return hex.EncodeToString(sum[:])
}

// Verify checks the lines that are kept against each other and the head. It
// returns the number of the first line that was altered.
func (a Audit) Verify() error {
	for i, l := range a.Lines {
		if i > 0 && chain(a.Lines[i-1].Hash, l) != l.Hash {
			return fmt.Errorf("audit line %d does not follow from line %d: it was altered", l.Number, a.Lines[i-1].Number)
		}
	}
	if n := len(a.Lines); n > 0 && a.Lines[n-1].Hash != a.Head {
		return fmt.Errorf("audit head does not match line %d", a.Lines[n-1].Number)
	}
	return nil
}
