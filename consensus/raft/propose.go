package raft

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Limits of proposals.
const (
	proposalsMax      = 256              // in flight on one node
	proposeTimeoutMax = 20 * time.Second // one proposal, whatever its context allows
	answerBytesMax    = 64 << 10
)

// notProposed is the error of something that surely did not happen. It is
// consensus.ErrNoLeader for errors.Is.
type notProposed struct {
	why   string
	cause error
}

func (e *notProposed) Error() string {
	if e.cause == nil {
		return e.why
	}
	return e.why + ": " + e.cause.Error()
}

func (e *notProposed) Is(target error) bool { return target == consensus.ErrNoLeader }
func (e *notProposed) Unwrap() error        { return e.cause }

// unknownOutcome wraps what hid the answer.
func unknownOutcome(cause error) error {
	return fmt.Errorf("%w: %w", consensus.ErrUnknownOutcome, cause)
}

// Propose puts c into the log, through the leader wherever it is, and returns
// the index at which it was applied. It is sent once. The error is
//
//   - a *consensus.Refusal: c was applied, and changed nothing; or it can
//     never be applied and did not enter the log (consensus.CodeInvalid);
//   - consensus.ErrNoLeader: c was not proposed, and trying again is safe;
//   - consensus.ErrUnknownOutcome: c may have been applied or may yet be.
//     Read the state before deciding.
//
// On success the state of the leader holds c; this node's own may follow a
// moment later (WaitIndex). It takes 20 s at most.
func (n *Node) Propose(ctx context.Context, c consensus.Command) (consensus.Index, error) {
	entry, err := consensus.EncodeCommand(c)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeoutMax)
	defer cancel()
	start, path := time.Now(), "local"
	leader, _ := n.Leader()
	var index consensus.Index
	switch {
	case n.ctx.Err() != nil:
		err = &notProposed{why: fmt.Sprintf("%s has stopped", n.self), cause: n.ended()}
	case ctx.Err() != nil:
		err = &notProposed{why: "too late to begin", cause: ctx.Err()}
	case n.r.State() == hraft.Leader:
		index, err = n.apply(ctx, entry)
	case leader == "" || leader == n.self:
		err = &notProposed{why: fmt.Sprintf("%s knows no leader: are most of %s up, and do they reach each other?", n.self, names(n.port.c.Peers))}
	default:
		path = "forwarded"
		index, err = n.forward(ctx, leader, pathPropose, entry)
	}
	n.metrics.proposed(path, err, time.Since(start))
	if err != nil && !consensus.Refused(err) {
		err = fmt.Errorf("propose %s: %w", c.Kind(), err)
	}
	return index, err
}

// apply proposes on this node, which is believed to lead.
func (n *Node) apply(ctx context.Context, entry []byte) (consensus.Index, error) {
	select {
	case n.slots <- struct{}{}:
	default:
		return 0, &notProposed{why: fmt.Sprintf("%d proposals are in flight on %s already", proposalsMax, n.self)}
	}
	var index consensus.Index
	var answer any
	// The slot is given back when raft has answered, not when we stop waiting:
	// that is what bounds the goroutines.
	err := n.await(ctx, func() error {
		defer func() { <-n.slots }()
		timeout := proposeTimeoutMax
		if deadline, ok := ctx.Deadline(); ok {
			timeout = max(time.Until(deadline), time.Millisecond)
		}
		f := n.r.Apply(entry, timeout)
		if err := f.Error(); err != nil {
			return err
		}
		index, answer = consensus.Index(f.Index()), f.Response()
		return nil
	})
	switch {
	case err == nil:
	case errors.Is(err, ErrStopped): // the call did not begin
		<-n.slots
		return 0, &notProposed{why: fmt.Sprintf("%s has stopped", n.self), cause: err}
	case errors.Is(err, hraft.ErrNotLeader), errors.Is(err, hraft.ErrLeadershipTransferInProgress), errors.Is(err, hraft.ErrEnqueueTimeout):
		return 0, &notProposed{why: fmt.Sprintf("%s does not take proposals now", n.self), cause: err}
	default:
		return 0, unknownOutcome(err)
	}
	res, ok := answer.(result)
	if !ok {
		return 0, unknownOutcome(fmt.Errorf("log entry %d has no result of ours (%T)", index, answer))
	}
	var refusal *consensus.Refusal
	if res.err != nil && !errors.As(res.err, &refusal) {
		return 0, unknownOutcome(res.err) // it is in the log; this node cannot apply it
	}
	return index, res.err
}

// The control calls of this package.
const (
	pathPropose   = "/control/v1/raft/propose"
	pathMembers   = "/control/v1/raft/members"
	pathIdentity  = "/control/v1/raft/identity"
	headerTimeout = "Holdfast-Timeout-Ms"
)

// answer is what a forwarded call returns. Exactly one of the outcomes is set.
type answer struct {
	Index       consensus.Index    `json:"index,omitempty"`
	Refusal     *consensus.Refusal `json:"refusal,omitempty"`
	NotProposed string             `json:"not_proposed,omitempty"`
	Unknown     string             `json:"unknown,omitempty"`
	Failed      string             `json:"failed,omitempty"`
}

func answerOf(index consensus.Index, err error) answer {
	var refusal *consensus.Refusal
	switch {
	case err == nil:
		return answer{Index: index}
	case errors.As(err, &refusal):
		return answer{Index: index, Refusal: refusal}
	case errors.Is(err, consensus.ErrUnknownOutcome):
		return answer{Unknown: err.Error()}
	case errors.Is(err, consensus.ErrNoLeader):
		return answer{NotProposed: err.Error()}
	default:
		return answer{Failed: err.Error()}
	}
}

func (a answer) result(from topology.Node) (consensus.Index, error) {
	switch {
	case a.Refusal != nil:
		return a.Index, a.Refusal
	case a.NotProposed != "":
		return 0, &notProposed{why: fmt.Sprintf("%s answered: %s", from, a.NotProposed)}
	case a.Unknown != "":
		return 0, unknownOutcome(fmt.Errorf("%s answered: %s", from, a.Unknown))
	case a.Failed != "":
		return 0, fmt.Errorf("%s answered: %s", from, a.Failed)
	case a.Index == 0:
		return 0, unknownOutcome(fmt.Errorf("%s gave an empty answer", from))
	}
	return a.Index, nil
}

// forward sends body to the leader, once. An error before a connection was
// had means that nothing was sent; any later one hides the outcome.
func (n *Node) forward(ctx context.Context, to topology.Node, path string, body []byte) (consensus.Index, error) {
	client, base, err := n.port.ControlClient(to)
	if err != nil {
		return 0, &notProposed{why: "cannot reach the leader", cause: err}
	}
	var sent atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, base+path, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("forward to %s: %w", to, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set(headerTimeout, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10))
	}
	res, err := client.Do(req)
	if err != nil {
		err = fmt.Errorf("forward to %s: %w", to, err)
		// If the path went dead, the kept connections went with it, and each
		// would cost its user one more lost answer.
		n.port.client.CloseIdleConnections()
		if !sent.Load() {
			return 0, &notProposed{why: "cannot reach the leader", cause: err}
		}
		return 0, unknownOutcome(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, answerBytesMax))
	if err != nil {
		return 0, unknownOutcome(fmt.Errorf("read the answer of %s: %w", to, err))
	}
	switch {
	case res.StatusCode == http.StatusOK:
	case res.StatusCode >= 400 && res.StatusCode < 500: // turned away before it was looked at
		return 0, &notProposed{why: fmt.Sprintf("%s answered %s: %s", to, res.Status, bytes.TrimSpace(b))}
	default:
		return 0, unknownOutcome(fmt.Errorf("%s answered %s: %s", to, res.Status, bytes.TrimSpace(b)))
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return 0, unknownOutcome(fmt.Errorf("read the answer of %s: %w", to, err))
	}
	return a.result(to)
}

// mountControl mounts the calls that members make to each other.
func (n *Node) mountControl() {
	n.port.Handle("POST "+pathPropose, http.HandlerFunc(n.servePropose))
	n.port.Handle("POST "+pathMembers, http.HandlerFunc(n.serveMembers))
	n.port.Handle("GET "+pathIdentity, http.HandlerFunc(n.serveIdentity))
}

// servePropose takes a forwarded proposal, and never forwards it again.
func (n *Node) servePropose(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := forwarded(r)
	defer cancel()
	entry, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "read the proposal: "+err.Error(), http.StatusBadRequest)
		return
	}
	index, err := n.takeForwarded(ctx, entry) //nolint:contextcheck // ctx is derived from the request by forwarded
	reply(w, answerOf(index, err))
}

func (n *Node) takeForwarded(ctx context.Context, entry []byte) (consensus.Index, error) {
	// What this binary does not know must not enter the log through it: it
	// would halt on its own entry. The newer follower is told to wait.
	if _, err := consensus.DecodeCommand(entry); err != nil {
		return 0, &consensus.Refusal{Code: consensus.CodeInvalid,
			Why: fmt.Sprintf("the leader %s runs an older holdfast that does not know this command: upgrade it first (%v)", n.self, err)}
	}
	if n.r.State() != hraft.Leader {
		leader, _ := n.Leader()
		return 0, &notProposed{why: fmt.Sprintf("%s does not lead (it believes that %q does)", n.self, leader)}
	}
	return n.apply(ctx, entry)
}

// forwarded returns a context with the time that the caller still has.
func forwarded(r *http.Request) (context.Context, context.CancelFunc) {
	timeout := proposeTimeoutMax
	if ms, err := strconv.ParseInt(r.Header.Get(headerTimeout), 10, 64); err == nil && ms > 0 {
		timeout = min(timeout, time.Duration(min(ms, timeout.Milliseconds()))*time.Millisecond)
	}
	return context.WithTimeout(r.Context(), timeout)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// The caller learns of a broken connection by itself.
	_ = json.NewEncoder(w).Encode(v)
}
