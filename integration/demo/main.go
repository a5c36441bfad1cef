package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// topic is what the generator fills: Sentry's own name for new events.
const (
	topic        = "ingest-events"
	partitions   = 4
	perSecond    = 500
	groupEffects = "effects"
	groupIndex   = "index"
	limit        = 6 * time.Minute // of the whole demo, so that it ends by itself
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "effects":
		err = effectsMain(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "index":
		err = indexMain(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "count":
		err = countMain(ctx, os.Args[2:])
	default:
		dir := flag.String("dir", "build/demo", "where data, logs, ledger and journal go")
		keep := flag.Bool("keep", false, "keep the data of the stores afterwards")
		flag.Parse()
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err = tell(ctx, *dir, *keep)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
