package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/restore"
)

// exit is what the process ends with. Each code means one thing.
type exit int

const (
	exitDone     exit = 0 // done
	exitFailed   exit = 1 // failed, or the daemon did not answer
	exitUsage    exit = 2 // the command line or the request can never work as it is
	exitRefused  exit = 3 // a gate or a rule refused; nothing was changed
	exitNoLeader exit = 4 // no majority of the daemons; nothing was changed
	exitFindings exit = 5 // finished, and found something that a person should see
)

const exitHelp = `
Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a gate, 4 no leader, 5 finished with findings
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(int(code))
}

// run is the whole program: it returns instead of exiting.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) exit {
	a := newApp(in, out, errOut)
	root := verbs(a)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	return a.finish(root.ExecuteContext(ctx))
}

// verbs is the table of what can be said.
func verbs(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Keeps an event pipeline recoverable in another region, and moves it there",
		Long: `holdfast mirrors Kafka between regions at identical offsets and moves roles
between them, never two active at once. One daemon per region; this command
speaks to the one on this host.

Start with: holdfast status`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	root.SetUsageTemplate(root.UsageTemplate() + exitHelp)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usagef(c, "%s", err) })
	a.flags(root.PersistentFlags())
	root.AddCommand(
		serveVerb(a), guardVerb(a), keeperVerb(a), statusVerb(a), checkVerb(a), mirrorVerb(a), failoverVerb(a), pauseVerb(a), resumeVerb(a),
		backupVerb(a), restoreVerb(a), drillVerb(a), groupsVerb(a), membersVerb(a), auditVerb(a), configVerb(a), certsVerb(a), versionVerb(a),
	)
	return root
}

// ended is an error that has been shown already, or needs no words.
type ended struct{ code exit }

func (e ended) Error() string { return fmt.Sprintf("exit code %d", int(e.code)) }

// usage is an error of the command line.
type usage struct{ text string }

func (u usage) Error() string { return u.text }

// usagef says what is wrong with the command line, and where its help is.
func usagef(c *cobra.Command, format string, args ...any) error {
	return usage{fmt.Sprintf(format, args...) + "; see `" + c.CommandPath() + " --help`"}
}

// finish shows an error and says what the process ends with.
func (a *app) finish(err error) exit {
	var silent ended
	if errors.As(err, &silent) {
		return silent.code
	}
	code := a.code(err)
	if err == nil {
		return code
	}
	if a.json {
		a.finishJSON(err, code)
		return code
	}
	var p *httpapi.Problem
	if errors.As(err, &p) {
		fmt.Fprint(a.err, renderProblem(p))
		return code
	}
	fmt.Fprintln(a.err, "holdfast: "+strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n    ")) // several at once, or the tail of a log
	return code
}

func (a *app) finishJSON(err error, code exit) {
	var p *httpapi.Problem
	if !errors.As(err, &p) {
		kind := httpapi.Internal
		if code == exitUsage {
			kind = httpapi.Usage
		}
		p = httpapi.Problemf(kind, "run holdfast", "", "%s", err)
	}
	enc := json.NewEncoder(a.err)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		fmt.Fprintln(a.err, "holdfast: "+err.Error())
	}
}

func (a *app) code(err error) exit {
	var p *httpapi.Problem
	var u usage
	var refused config.Problems
	var inTheWay *restore.RefusedError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &p):
		switch p.Code {
		case httpapi.Refused, httpapi.Changed:
			return exitRefused
		case httpapi.NoLeader:
			return exitNoLeader
		case httpapi.Usage, httpapi.NotFound:
			return exitUsage
		}
		return exitFailed
	case errors.As(err, &refused):
		return exitFailed
	case errors.As(err, &inTheWay):
		return exitRefused
	case !a.started: // cobra refused the arguments before any verb ran
		return exitUsage
	}
	return exitFailed
}
