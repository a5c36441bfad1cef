package httpapi

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// socketPathMax is what the kernel takes, less the final zero.
const socketPathMax = 107

// ErrSocketBusy means that a daemon answers on the socket already.
var ErrSocketBusy = errors.New("another daemon answers on this socket")

// ListenUnix listens on a socket that root and the socket's group may use
// (0660). A socket file that nobody answers on is what a killed daemon left,
// and is replaced; anything else in its place is an error. Closing the
// listener removes the file.
func ListenUnix(path string) (net.Listener, error) {
	if len(path) > socketPathMax {
		return nil, fmt.Errorf("listen on socket %s: the path has %d bytes, the system takes %d; choose a shorter one", path, len(path), socketPathMax)
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOENT) {
			return nil, fmt.Errorf("listen on socket %s: folder %s does not exist; create it, or let systemd do so (RuntimeDirectory=holdfast)", path, filepath.Dir(path))
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("listen on socket %s: %w; the daemon's user must own %s", path, err, filepath.Dir(path))
		}
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on socket %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on socket %s: a file that is no socket is in its place; move it away", path)
	}
	c, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("listen on socket %s: %w; stop it first: `systemctl stop holdfast`", path, ErrSocketBusy), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen on socket %s: it is not known whether a daemon answers there: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket that a killed daemon left: %w", err)
	}
	return nil
}

// NewServer returns the server for the handler of New. It notes who connects,
// for the audit log.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           http.MaxBytesHandler(withClaim(h), bodyMax),
		ConnContext:       withPeer,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      withinWorld + 30*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// NewHealthServer returns the server for the handler of NewHealth. Balancers
// ask anew each second: what is slow is dropped.
func NewHealthServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           http.MaxBytesHandler(h, 4<<10),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
