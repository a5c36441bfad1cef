package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Limits of a control call.
const (
	controlBodyMax     = 8 << 20
	controlHeaderMax   = 16 << 10
	controlTimeout     = 30 * time.Second // one call, whole
	controlIdle        = 90 * time.Second
	controlConnsMax    = 16 // to one peer
	controlConnsIdle   = 4  // to one peer
	controlStopTimeout = 2 * time.Second
)

type peerKey struct{}

// PeerOf returns the node that made a control call, as its certificate says.
// It is empty outside a handler of Port.Handle.
func PeerOf(ctx context.Context) topology.Node {
	n, _ := ctx.Value(peerKey{}).(topology.Node)
	return n
}

// Handle mounts a control handler, with the patterns of http.ServeMux, for
// calls by peers: PeerOf(r.Context()) says who. Bodies are bounded at 8 MiB
// and a call at 30 s. It may be called before and while the Port serves;
// patterns below /control/v1/raft/ are the Port's own.
func (p *Port) Handle(pattern string, h http.Handler) { p.mux.Handle(pattern, h) }

// ControlClient returns a client for control calls to one node, and the URL to
// put before their paths: base + "/control/v1/...". Connections are kept and
// shared; the client must not be changed.
func (p *Port) ControlClient(to topology.Node) (client *http.Client, base string, err error) {
	if _, ok := p.c.Peers[to]; !ok {
		return nil, "", fmt.Errorf("call %s: it is not a node of the fleet file (%s)", to, names(p.c.Peers))
	}
	return &http.Client{
		Transport: p.client,
		Timeout:   controlTimeout,
		// A peer never redirects; following one would leave the verified node.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, "https://" + string(to), nil
}

func (p *Port) initControl() {
	p.client = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("dial %s: %w", addr, err)
			}
			return p.control.dial(ctx, topology.Node(node))
		},
		MaxConnsPerHost:     controlConnsMax,
		MaxIdleConnsPerHost: controlConnsIdle,
		IdleConnTimeout:     controlIdle,
		DisableCompression:  true,
	}
	p.server = &http.Server{
		Handler:           http.MaxBytesHandler(p.mux, controlBodyMax),
		ReadHeaderTimeout: handshakeTimeout,
		ReadTimeout:       controlTimeout,
		WriteTimeout:      controlTimeout,
		IdleTimeout:       2 * controlIdle, // the client lets go first, so no call meets a closing connection
		MaxHeaderBytes:    controlHeaderMax,
		ErrorLog:          slog.NewLogLogger(p.c.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return p.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, peerKey{}, c.peer)
			}
			return ctx
		},
	}
}

func (p *Port) serveControl() {
	if err := p.server.Serve(controlListener{p.control}); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		p.c.Log.Error("serve control calls", "err", err)
	}
}

// controlListener lets calls in flight end when the server closes it, unlike
// the stream's own Close.
type controlListener struct{ *stream }

// Close implements net.Listener.
func (l controlListener) Close() error {
	l.stop(fmt.Sprintf("%s has stopped", l.p.node))
	return nil
}

// closeControl lets calls in flight end, for a moment.
func (p *Port) closeControl() {
	ctx, cancel := context.WithTimeout(context.Background(), controlStopTimeout)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		_ = p.server.Close()
	}
	p.client.CloseIdleConnections()
}
