package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const limit = 15 * time.Minute

const usage = `usage: bench mirror|backup [flags]

  mirror   the mirror beside a consumer and a producer and MirrorMaker 2, on
           two Kafkas
  backup   backups and restores beside what the stores do by themselves, on
           Postgres, ClickHouse and S3

"bench mirror -h" and "bench backup -h" list the flags.
`

// errUsage was told to the user already.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch err := bench(ctx, os.Args[1:]); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, args []string) error {
	benches := map[string]func(context.Context, []string) error{
		"mirror": benchMirror, "backup": benchBackup, mirrorProcess: runMirror, clientProcess: runClient,
	}
	if len(args) == 0 || benches[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		return errUsage
	}
	return benches[args[0]](ctx, args[1:])
}

// parse reads flags; nothing may follow them.
func parse(f *flag.FlagSet, args []string) error {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	case f.NArg() > 0:
		fmt.Fprintf(f.Output(), "%s: %q is no flag\n", f.Name(), f.Arg(0))
		return errUsage
	}
	return nil
}
