package kafka

import (
	"context"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
)

// logger turns franz-go's lines into slog records, all of them detail: the
// library tells of every connection that it could not open, once a second
// while a cluster is down. Whoever uses the client gets the error and says
// what it means, once.
type logger struct{ to *slog.Logger }

func (l logger) Level() kgo.LogLevel {
	if l.to.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

func (l logger) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.to.Log(context.Background(), slog.LevelDebug, msg, keyvals...)
}
