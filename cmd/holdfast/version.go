package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Stamped by the Makefile. A build without it takes what Go recorded.
var (
	version string
	date    string
)

// build says what this binary was made from.
type build struct {
	Version string `json:"version"`
	Date    string `json:"date,omitempty"` // of the commit, RFC 3339
	Go      string `json:"go"`
	Target  string `json:"target"` // operating system and processor
}

func thisBuild() build {
	b := build{Version: version, Date: date, Go: runtime.Version(), Target: runtime.GOOS + "/" + runtime.GOARCH}
	if b.Version != "" {
		return b
	}
	b.Version = "devel"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			if b.Version == "devel" {
				b.Version = "devel-" + s.Value[:min(12, len(s.Value))]
			}
		case "vcs.time":
			b.Date = s.Value
		}
	}
	return b
}

func (b build) String() string {
	out := "holdfast " + b.Version
	if b.Date != "" {
		out += " of " + b.Date
	}
	return fmt.Sprintf("%s, %s, %s\n", out, b.Go, b.Target)
}

func versionVerb(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "What this binary was made from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			return a.show(b, b.String)
		},
	}
}
