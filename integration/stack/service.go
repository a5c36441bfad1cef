package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	readyTimeout = 60 * time.Second // a crowded machine is slow, a broken server is not ready ever
	stopTimeout  = 30 * time.Second
	readyPause   = 25 * time.Millisecond
)

// service is what every server of this package can do. Its methods may be
// called from several goroutines; those that change the server's life take
// turns.
type service struct {
	name     string
	dir      string
	log      string
	progress io.Writer
	command  command                     // how to run the server
	listens  []int                       // ports that must be free before it starts
	ready    func(context.Context) error // one try

	turn    sync.Mutex // one change of life at a time
	mu      sync.Mutex // guards what follows
	proc    *process
	ports   []int // ours to release
	tempDir bool  // ours to remove
	closed  bool
}

// newService prepares folder and log. An empty dir becomes a temporary one
// that Close removes; an empty log becomes NAME.log in dir.
func newService(name, dir, log string, progress io.Writer) (*service, error) {
	s := &service{name: name, progress: progress}
	if dir == "" {
		tmp, err := os.MkdirTemp("", "holdfast-"+name+"-*")
		if err != nil {
			return nil, fmt.Errorf("make a folder for %s: %w", name, err)
		}
		dir, s.tempDir = tmp, true
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the folder of %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of %s: %w", name, err)
	}
	s.dir = dir
	s.log = log
	if log == "" {
		s.log = filepath.Join(dir, name+".log")
	}
	if s.log, err = filepath.Abs(s.log); err != nil {
		return nil, fmt.Errorf("find the log of %s: %w", name, err)
	}
	if err := os.MkdirAll(filepath.Dir(s.log), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the log of %s: %w", name, err)
	}
	return s, nil
}

// port keeps a given port, or takes a free one until Close.
func (s *service) port(given int) (int, error) {
	if given != 0 {
		return given, nil
	}
	p, err := FreePort()
	if err == nil {
		s.ports = append(s.ports, p)
	}
	return p, err
}

// start runs the server and returns when it is ready. When it does not become
// ready it is killed, and the error holds the end of its log.
func (s *service) start(ctx context.Context) error {
	s.mu.Lock()
	closed, proc := s.closed, s.proc
	s.mu.Unlock()
	if closed {
		return fmt.Errorf("start %s: it was closed", s.name)
	}
	if proc != nil && !proc.ended() {
		return nil
	}
	// Without this look, a stranger on our port could pass for our server.
	for _, port := range s.listens {
		if err := portStaysFree(port); err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
	}
	begun := time.Now()
	s.note("start")
	proc, err := startProcess(s.command)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	s.mu.Lock()
	s.proc = proc
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, 3*time.Second)
		err = s.ready(try)
		stop()
		if err == nil {
			say(s.progress, "%s is ready after %.1f s", s.name, time.Since(begun).Seconds())
			return nil
		}
		select {
		case <-proc.done:
			return fmt.Errorf("start %s: it ended (%w); its last words in %s:\n%s", s.name, errors.Join(errEnded, proc.err), s.log, s.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready after %.0f s: %w; its last words in %s:\n%s",
				s.name, time.Since(begun).Seconds(), errors.Join(err, ctx.Err(), proc.kill()), s.log, s.lastWords())
		case <-time.After(readyPause):
		}
	}
}

// note writes into the server's own log what the rig does to it, so that a
// silence there can be told from a fault. It is best effort.
func (s *service) note(what string) {
	f, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return // startProcess opens the same file and tells
	}
	defer f.Close()
	fmt.Fprintf(f, "%s RIG %s %s, process %d\n", time.Now().UTC().Format("2006-01-02 15:04:05,000"), what, s.name, s.PID())
}

func (s *service) lastWords() []byte {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return []byte("(no log: " + err.Error() + ")")
	}
	return tail(b, 3000)
}

func (s *service) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Name is what the service was called in its options.
func (s *service) Name() string { return s.name }

// Dir holds the service's configuration and data.
func (s *service) Dir() string { return s.dir }

// LogPath is the file that the server's output is appended to, over all starts,
// with a line of the rig for each start, stop, kill and pause.
func (s *service) LogPath() string { return s.log }

// PID is the server's process id, or 0 while it does not run.
func (s *service) PID() int {
	if p := s.process(); p != nil && !p.ended() {
		return p.pid
	}
	return 0
}

// Exited is closed when the server that runs now has ended, for whatever
// reason. It is nil before the first start; Restart makes a new one.
func (s *service) Exited() <-chan struct{} {
	if p := s.process(); p != nil {
		return p.done
	}
	return nil
}

// Stop ends the server in order and returns when it is gone. When it has not
// ended after 30 s, or when ctx ends, it is killed, and the error says so. A
// server that does not run is no error. A paused server is resumed first.
func (s *service) Stop(ctx context.Context) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	p := s.process()
	if p == nil || p.ended() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	s.note("stop")
	if err := p.stop(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	return nil
}

// Kill sends SIGKILL and returns when the server is gone. A server that does
// not run is no error.
func (s *service) Kill() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	p := s.process()
	if p == nil || p.ended() {
		return nil
	}
	s.note("kill")
	if err := p.kill(); err != nil {
		return fmt.Errorf("kill %s: %w", s.name, err)
	}
	return nil
}

// Pause sends SIGSTOP and returns when the server stands still: its
// connections stay open and nothing answers.
func (s *service) Pause() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	p := s.process()
	if p == nil || p.ended() {
		return fmt.Errorf("pause %s: %w", s.name, errEnded)
	}
	s.note("pause")
	if err := p.pause(); err != nil {
		return fmt.Errorf("pause %s: %w", s.name, err)
	}
	return nil
}

// Resume sends SIGCONT to a paused server; to any other it does nothing.
func (s *service) Resume() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	p := s.process()
	if p == nil || p.ended() {
		return fmt.Errorf("resume %s: %w", s.name, errEnded)
	}
	s.note("resume")
	if err := p.resume(); err != nil {
		return fmt.Errorf("resume %s: %w", s.name, err)
	}
	return nil
}

// Restart starts the server again on the same data and ports, and returns when
// it is ready. A server that still runs is stopped in order first.
func (s *service) Restart(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.start(ctx)
}

// Close kills the server, gives its ports back and removes its folder if that
// was a temporary one. It may be called twice.
func (s *service) Close() error {
	err := s.Kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return err
	}
	s.closed = true
	for _, p := range s.ports {
		ReleasePort(p)
	}
	if s.tempDir {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
