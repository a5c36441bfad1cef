package raft

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeats logs a message the first time, then counts it, and says how often
// once repeatEvery has passed. An outage makes one line per kind and period,
// not one per heartbeat.
type repeats struct {
	to *slog.Logger

	mu   sync.Mutex
	seen map[string]*repeated
}

type repeated struct {
	logged time.Time
	missed int
}

const (
	repeatEvery   = 30 * time.Second
	repeatKeysMax = 256
)

func newRepeats(to *slog.Logger) *repeats {
	return &repeats{to: to, seen: map[string]*repeated{}}
}

func (r *repeats) warn(msg string, args ...any) { r.log(slog.LevelWarn, msg, args...) }

func (r *repeats) log(level slog.Level, msg string, args ...any) {
	if !r.to.Enabled(context.Background(), level) {
		return
	}
	if level >= slog.LevelWarn {
		missed, ok := r.due(msg+"\x00"+subject(args), time.Now())
		if !ok {
			return
		}
		if missed > 0 {
			args = append(args[:len(args):len(args)], "repeated", missed)
		}
	}
	r.to.Log(context.Background(), level, msg, args...)
}

// due says whether a message may be logged now, and how many were not since.
func (r *repeats) due(key string, now time.Time) (missed int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.seen[key]
	switch {
	case !known:
		if len(r.seen) >= repeatKeysMax {
			clear(r.seen)
		}
		r.seen[key] = &repeated{logged: now}
		return 0, true
	case now.Sub(e.logged) < repeatEvery:
		e.missed++
		return 0, false
	}
	missed = e.missed
	e.logged, e.missed = now, 0
	return missed, true
}

// subject returns the argument that tells two messages of one text apart.
func subject(args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "id", "from", "node", "reason", "server-id":
			return fmt.Sprint(args[i+1])
		}
	}
	return ""
}

// raftLog is the logger that hashicorp/raft wants, on top of slog. Its own
// chatter about elections is at info; calls to peers that fail are repeats.
type raftLog struct {
	to   *repeats
	name string
	with []any
}

var _ hclog.Logger = (*raftLog)(nil)

func newRaftLog(to *slog.Logger) hclog.Logger {
	return &raftLog{to: newRepeats(to), name: "raft"}
}

// Log implements hclog.Logger.
func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Info:
		to = slog.LevelInfo
	case hclog.Warn:
		to = slog.LevelWarn
	case hclog.Error:
		to = slog.LevelError
	}
	all := slices.Concat(l.with, args)
	for i := 1; i < len(all); i += 2 {
		if all[i-1] == "error" {
			all[i-1] = "err"
		}
		if f, ok := all[i].(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				all[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	l.to.log(to, l.name+": "+msg, all...)
}

func (l *raftLog) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLog) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLog) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLog) enabled(level slog.Level) bool {
	return l.to.to.Enabled(context.Background(), level)
}
func (l *raftLog) IsTrace() bool { return false }
func (l *raftLog) IsDebug() bool { return l.enabled(slog.LevelDebug) }
func (l *raftLog) IsInfo() bool  { return l.enabled(slog.LevelInfo) }
func (l *raftLog) IsWarn() bool  { return l.enabled(slog.LevelWarn) }
func (l *raftLog) IsError() bool { return l.enabled(slog.LevelError) }

func (l *raftLog) ImpliedArgs() []any { return l.with }
func (l *raftLog) Name() string       { return l.name }
func (l *raftLog) SetLevel(hclog.Level) {
	// slog's handler decides.
}

func (l *raftLog) GetLevel() hclog.Level {
	switch {
	case l.IsDebug():
		return hclog.Debug
	case l.IsInfo():
		return hclog.Info
	case l.IsWarn():
		return hclog.Warn
	}
	return hclog.Error
}

func (l *raftLog) With(args ...any) hclog.Logger {
	return &raftLog{to: l.to, name: l.name, with: slices.Concat(l.with, args)}
}
func (l *raftLog) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }
func (l *raftLog) ResetNamed(name string) hclog.Logger {
	return &raftLog{to: l.to, name: name, with: l.with}
}

func (l *raftLog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}
func (l *raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return logWriter{l} }

type logWriter struct{ to *raftLog }

func (w logWriter) Write(b []byte) (int, error) {
	w.to.Info(strings.TrimSpace(string(b)))
	return len(b), nil
}
