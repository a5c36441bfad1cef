package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
)

// logFlag is how a verb that runs for long writes its log.
type logFlag struct{ form string }

func (l *logFlag) add(c *cobra.Command) {
	c.Flags().StringVar(&l.form, "log", "auto", "`form` of the log on stderr: text, json, or auto (json under systemd)")
}

func (l *logFlag) logger(c *cobra.Command, w io.Writer) (*slog.Logger, error) {
	form := l.form
	if form == "auto" {
		form = "text"
		if os.Getenv("INVOCATION_ID") != "" || os.Getenv("JOURNAL_STREAM") != "" {
			form = "json"
		}
	}
	switch form {
	case "json":
		return slog.New(slog.NewJSONHandler(w, nil)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, nil)), nil
	}
	return nil, usagef(c, "%s", fmt.Sprintf("--log %s: want text, json or auto", l.form))
}
