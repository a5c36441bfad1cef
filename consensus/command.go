package consensus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// CommandVersion is the schema of log entries written by this binary.
const CommandVersion = 1

// commandBytesMax bounds one log entry. The largest is the evidence of a
// step that lists every partition.
const commandBytesMax = 4 << 20

var (
	// ErrUnknownCommand means that the log holds something this binary does
	// not know. A member that meets it must halt: skipping would fork history.
	ErrUnknownCommand = errors.New("unknown command in the log: this binary is older than the cluster, upgrade it")
	// ErrNoLeader means that no leader is known; nothing was proposed.
	ErrNoLeader = errors.New("no leader: fewer than a majority of the members reach each other")
	// ErrUnknownOutcome means that a proposal may or may not take effect.
	ErrUnknownOutcome = errors.New("outcome unknown: the proposal was sent and its answer was lost")
)

// Refusal says that a command was well formed and against the rules, or too
// late. It changed nothing.
type Refusal struct {
	Code string `json:"code"` // stable, for programs: see the constants
	Why  string `json:"why"`  // one sentence, for people
}

// Refusal codes.
const (
	CodeStale    = "stale"    // someone was faster: read the state again
	CodeConflict = "conflict" // a rule forbids it in this state
	CodeInvalid  = "invalid"  // the command can never be applied
	CodeMissing  = "missing"  // it names something that does not exist
)

func (r *Refusal) Error() string { return r.Why }

func stale(format string, a ...any) error { return &Refusal{CodeStale, fmt.Sprintf(format, a...)} }
func conflict(format string, a ...any) error {
	return &Refusal{CodeConflict, fmt.Sprintf(format, a...)}
}
func invalid(format string, a ...any) error { return &Refusal{CodeInvalid, fmt.Sprintf(format, a...)} }
func missing(format string, a ...any) error { return &Refusal{CodeMissing, fmt.Sprintf(format, a...)} }

// Refused reports whether err is a Refusal with one of codes, or any Refusal
// when no code is given.
func Refused(err error, codes ...string) bool {
	var r *Refusal
	if !errors.As(err, &r) {
		return false
	}
	for _, c := range codes {
		if r.Code == c {
			return true
		}
	}
	return len(codes) == 0
}

// Command is one entry of the log.
type Command struct {
	// At is the proposer's wall clock. It is for people and for anti-flap;
	// no lease rests on it.
	At time.Time
	// By is who asked: "node us-east-1", "operator root@us-east-1".
	By   string
	Body Body
}

// Body is what a command does. The set is closed: each type below.
type Body interface {
	kind() string
	apply(d *draft) error
}

// draft is a state under construction by one command.
type draft struct {
	State
	at time.Time
	by string
}

// Configure sets the agreed settings and members, as derived from one fleet file.
type Configure struct {
	Settings Settings                 `json:"settings"`
	Members  map[topology.Node]Member `json:"members"`
	// Was is the digest that the proposer saw; a compare-and-set.
	Was string `json:"was"`
}

// PauseRole suspends automatic action on a role until a time; a zero Until resumes it.
type PauseRole struct {
	Role   topology.Role `json:"role"`
	Until  time.Time     `json:"until"`
	Reason string        `json:"reason"`
}

// TakeSlot passes over the scheduled times of one job up to and including
// Slot: nothing runs for them. StartRun takes a slot and runs it.
type TakeSlot struct {
	Job  string    `json:"job"`
	Slot time.Time `json:"slot"`
}

// bodies maps the kind of a log entry to an empty body of its type.
var bodies = map[string]func() Body{}

func register[B any, P interface {
	*B
	Body
}]() {
	bodies[P(new(B)).kind()] = func() Body { return P(new(B)) }
}

// The set of commands. A kind, once written to a log, keeps its meaning for ever.
func init() { //nolint:gochecknoinits // a closed table, filled once, read only
	register[Configure]()
	register[PauseRole]()
	register[TakeSlot]()
	register[OpenSession]()
	register[Renew]()
	register[Reclaim]()
	register[DrainRoles]()
	register[GrantRoles]()
	register[OpenRoles]()
	register[Release]()
	register[Expire]()
	register[VoidRoles]()
	register[CreatePlan]()
	register[StartStep]()
	register[AbortPlan]()
	register[FinishPlan]()
	register[SupersedePlan]()
	register[AckFailover]()
	register[ClaimTask]()
	register[FinishTask]()
	register[FailTask]()
	register[RetryTask]()
	register[StartRun]()
	register[CancelRun]()
	register[RecordSet]()
	register[RecordProof]()
	register[StartLink]()
	register[EndLink]()
	register[JudgeLink]()
	register[MarkDeleted]()
	register[DropTombstone]()
	register[FenceLink]()
	register[NoteLink]()
	register[TakeFill]()
	register[SettleFill]()
	register[AcceptLoss]()
	register[NoteReplay]()
}

func (*Configure) kind() string { return "configure" }
func (*PauseRole) kind() string { return "pause" }
func (*TakeSlot) kind() string  { return "slot" }

type envelope struct {
	Version int             `json:"v"`
	Kind    string          `json:"kind"`
	At      time.Time       `json:"at"`
	By      string          `json:"by"`
	Body    json.RawMessage `json:"body"`
}

// EncodeCommand returns the log entry of c.
func EncodeCommand(c Command) ([]byte, error) {
	if c.Body == nil {
		return nil, invalid("a command without a body")
	}
	body, err := json.Marshal(c.Body)
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.Body.kind(), err)
	}
	b, err := json.Marshal(envelope{CommandVersion, c.Body.kind(), c.At.UTC(), c.By, body})
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.Body.kind(), err)
	}
	if len(b) > commandBytesMax {
		return nil, invalid("command %s has %d bytes, the log takes %d at most", c.Body.kind(), len(b), commandBytesMax)
	}
	return b, nil
}

// DecodeCommand reads a log entry. Anything it does not know wholly is
// ErrUnknownCommand.
func DecodeCommand(b []byte) (Command, error) {
	var e envelope
	if err := unmarshal(b, &e); err != nil {
		return Command{}, fmt.Errorf("decode command: %w: %w", err, ErrUnknownCommand)
	}
	if e.Version != CommandVersion {
		return Command{}, fmt.Errorf("decode command %q of schema %d: %w", e.Kind, e.Version, ErrUnknownCommand)
	}
	empty, ok := bodies[e.Kind]
	if !ok {
		return Command{}, fmt.Errorf("decode command %q: %w", e.Kind, ErrUnknownCommand)
	}
	body := empty()
	if err := unmarshal(e.Body, body); err != nil {
		return Command{}, fmt.Errorf("decode command %q: %w: %w", e.Kind, err, ErrUnknownCommand)
	}
	return Command{At: e.At, By: e.By, Body: body}, nil
}

// unmarshal reads one JSON value and refuses fields that it does not know: a
// newer member that wrote one meant something by it, and ignoring it would
// fork the state without a word.
func unmarshal(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// Kind names the command, as in logs and metrics.
func (c Command) Kind() string { return c.Body.kind() }
