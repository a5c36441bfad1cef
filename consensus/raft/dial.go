package raft

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// ErrRefused means that a peer answered and would not talk to us. Its text
// carries the peer's reason.
var ErrRefused = errors.New("refused by the peer")

// Dial implements raft's StreamLayer. The address is a node name.
func (s *stream) Dial(address hraft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx := s.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return s.dial(ctx, topology.Node(address))
}

// dial reaches one node and nobody else. It takes dialBound at most, whatever
// ctx allows.
func (s *stream) dial(ctx context.Context, to topology.Node) (net.Conn, error) {
	addr, ok := s.p.c.Peers[to]
	if !ok {
		return nil, fmt.Errorf("dial %s: it is not a node of the fleet file (%s)", to, names(s.p.c.Peers))
	}
	if s.ctx.Err() != nil {
		return nil, fmt.Errorf("dial %s: %w", to, net.ErrClosed)
	}
	ctx, cancel := context.WithTimeout(ctx, s.dialBound)
	defer cancel()
	// A stop must not wait for a peer that does not answer.
	stop := context.AfterFunc(s.ctx, cancel) //nolint:contextcheck // the stream has a life of its own, and both end the dial
	defer stop()
	raw, err := s.p.c.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	tc, err := s.greet(ctx, raw, to)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("dial %s at %s: %w", to, addr, err)
	}
	c := &conn{Conn: tc, peer: to, of: s}
	if err := s.p.track(c); err != nil {
		_ = tc.Close()
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	if s.ctx.Err() != nil { // closed since: Close may have missed this one
		_ = c.Close()
		return nil, fmt.Errorf("dial %s: %w", to, net.ErrClosed)
	}
	return c, nil
}

// greet does the client's half of a connection's start.
func (s *stream) greet(ctx context.Context, raw net.Conn, to topology.Node) (*tls.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	tc := tls.Client(raw, s.p.c.Identity.Client(to, s.proto))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, s.explain(to, err)
	}
	if got := tc.ConnectionState().NegotiatedProtocol; got != s.proto {
		return nil, fmt.Errorf("%w: it speaks %q, not %q: is it an older holdfast?", ErrRefused, got, s.proto)
	}
	why, err := readVerdict(tc)
	if err != nil {
		return nil, s.explain(to, err)
	}
	if why != "" {
		return nil, fmt.Errorf("%w: %s", ErrRefused, why)
	}
	if !stop() { // the deadline above may have been set already
		return nil, context.Cause(ctx)
	}
	return tc, raw.SetDeadline(time.Time{})
}

// explain puts a TLS alert from the other end into words: it carries no reason.
func (s *stream) explain(to topology.Node, err error) error {
	if !strings.Contains(err.Error(), "remote error: tls:") {
		return err
	}
	return fmt.Errorf("%w: %s does not accept our certificate (it names %s and is valid until %s): the log of %s says why; most often the CA files differ or a clock is wrong: %w",
		ErrRefused, to, s.p.c.Identity.Name(), s.p.c.Identity.NotAfter().UTC().Format(time.DateTime+" MST"), to, err)
}

// The verdict follows the TLS handshake, from server to client: two bytes of
// length, then that many of a reason to refuse. Length 0 is a welcome.
const verdictMax = 1024

func writeVerdict(w io.Writer, why string) error {
	if len(why) > verdictMax {
		why = why[:verdictMax]
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(why))), why...))
	return err
}

func readVerdict(r io.Reader) (string, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", fmt.Errorf("wait for the peer's verdict: %w", err)
	}
	size := binary.BigEndian.Uint16(n[:])
	if size > verdictMax {
		return "", fmt.Errorf("read the peer's verdict: it claims %d bytes: is this a holdfast?", size)
	}
	why := make([]byte, size)
	if _, err := io.ReadFull(r, why); err != nil {
		return "", fmt.Errorf("read the peer's verdict: %w", err)
	}
	return string(why), nil
}
