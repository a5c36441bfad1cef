package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/holdfast-dr/holdfast/integration/sentry"
)

// backupOptions are the flags of bench backup.
type backupOptions struct {
	rounds  int
	issues  int
	events  int
	only    string
	profile string
}

// backupReport is the last line. Ratios are times: 2 means that ours took
// twice as long as the baseline, 0.1 a tenth.
type backupReport struct {
	Machine    machine           `json:"machine"`
	Rounds     int               `json:"rounds"`
	Postgres   *postgresReport   `json:"postgres,omitempty"`
	ClickHouse *clickhouseReport `json:"clickhouse,omitempty"`
	PeakMB     float64           `json:"rss_peak_mb"` // of this process, over all of ours; the servers' is not in it
}

// Bounds of the data; both are some gigabytes.
const (
	issuesMax = sentry.IssuesMax
	eventsMax = 20_000_000
)

// benchBackup is the command backup.
func benchBackup(ctx context.Context, args []string) (err error) {
	var o backupOptions
	f := flag.NewFlagSet("bench backup", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 3, "how often each way is measured")
	f.IntVar(&o.issues, "issues", 200_000, "issues in Postgres, about 0.85 kB each with what hangs on them")
	f.IntVar(&o.events, "events", 2_000_000, "events in ClickHouse, about 0.1 kB each, in a partition a week")
	f.StringVar(&o.only, "only", "", "postgres or clickhouse; default both")
	f.StringVar(&o.profile, "profile", "", "folder for CPU and allocation profiles of one full take of Postgres")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.rounds < 1 || o.issues < 1000 || o.issues > issuesMax || o.events < 1000 || o.events > eventsMax || o.only != "" && o.only != "postgres" && o.only != "clickhouse" {
		fmt.Fprintf(f.Output(), "%s: want 1 round or more, 1000 to %d issues, 1000 to %d events, and -only postgres or clickhouse\n", f.Name(), issuesMax, eventsMax)
		return errUsage
	}
	report := backupReport{Machine: look(), Rounds: o.rounds}
	fmt.Println(report.Machine)
	r, err := newRig(ctx, o)
	defer func() { err = errors.Join(err, r.close()) }()
	if err != nil {
		return err
	}
	if o.only != "clickhouse" {
		if report.Postgres, err = r.benchPostgres(ctx); err != nil {
			return err
		}
		report.PeakMB = max(report.PeakMB, report.Postgres.peak())
	}
	if o.only != "postgres" {
		if report.ClickHouse, err = r.benchClickHouse(ctx); err != nil {
			return err
		}
		report.PeakMB = max(report.PeakMB, report.ClickHouse.peak())
	}
	if report.Postgres != nil {
		report.Postgres.say()
	}
	if report.ClickHouse != nil {
		report.ClickHouse.say()
	}
	report.Machine.LoadAfter = load()
	fmt.Printf("\n%s\n", report.Machine)
	return json.NewEncoder(os.Stdout).Encode(report)
}
