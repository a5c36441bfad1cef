package restore

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/holdfast-dr/holdfast/backup"
)

var update = flag.Bool("update", false, "write the golden files anew; read the diff")

// sample is a report as a drill of a real fleet gives it.
func sample() Report {
	at := time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)
	return Report{
		Format: 1, Run: "01K0000000000000000000RUN1", Attempt: 1, Cluster: "sentry-prod", Set: setID,
		Seal:   "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Region: "us-east", Sealed: at.Add(-43 * time.Minute), Vault: "s3://holdfast-us of us-east", By: "eu-west-1",
		Started: at, Ended: at.Add(245 * time.Second), OK: true, RTOMs: 192_000, RPOMs: 2_611_000, Rows: 1_234_603, Bytes: 4_213_000_000,
		Stages: []Stage{
			{Name: "select", Ms: 40, OK: true, What: "set " + string(setID) + ", the newest of 12"},
			{Name: "load", Ms: 310, OK: true, What: "the seal and 3 manifests are genuine"},
			{Name: "preflight", Ms: 650, OK: true, What: "2 targets looked at, nothing in the way"},
			{Name: "verify", Ms: 71_000, OK: true, What: "2,481 objects read and equal to their hashes, 4.2 GB", Bytes: 4_213_000_000},
			{Name: "restore clickhouse", Ms: 48_000, OK: true, What: "4.0 GB into database holdfast_drill_01K on 10.0.0.7:9000", Bytes: 4_000_000_000},
			{Name: "restore postgres", Ms: 31_000, OK: true, What: "213 MB into /var/lib/holdfast/drill/01K", Bytes: 213_000_000},
			{Name: "compare kafka", Ms: 1, OK: true, What: "36 offsets equal"},
			{Name: "compare clickhouse", Ms: 33_000, OK: true, What: "1,200,000 rows equal"},
			{Name: "compare postgres", Ms: 7_999, OK: true, What: "34,567 rows equal"},
			{Name: "controls", Ms: 51_000, OK: true, What: "4 controls, all caught"},
			{Name: "teardown", Ms: 2_000, OK: true, What: "2 targets removed"},
		},
		Engines: []Proven{
			{Engine: backup.Kafka, Where: OffsetsOnly, OK: true, Comparison: Comparison{Tables: 70, Units: 36, Rows: 36}},
			{Engine: backup.ClickHouse, Where: "database holdfast_drill_01K on 10.0.0.7:9000", OK: true, Comparison: Comparison{Tables: 41, Units: 180, Rows: 1_200_000, Notes: []string{"2 views: only their definition"}}},
			{Engine: backup.Postgres, Where: "/var/lib/holdfast/drill/01K", OK: true, Comparison: Comparison{Tables: 212, Units: 210, Rows: 34_567}},
		},
		Controls: []Control{
			{Name: "one byte of an object", What: "pack object packs/clickhouse/01K/data/default/errors_local/90_1/data.bin", Caught: true, How: "packs/clickhouse/01K/data/default/errors_local/90_1/data.bin its SHA-256 is 00…, want 9f…"},
			{Name: "one row of kafka", What: "group snuba-consumers, events/0: from 120 to 131, in a copy", Caught: true, How: "group snuba-consumers, events/0: offset 131 lies beyond the end of the log, 130"},
			{Name: "one row of clickhouse", What: "a row of errors_local was doubled", Caught: true, How: "errors_local, partition 90-20260817: 2001 rows, the manifest says 2000"},
			{Name: "one row of postgres", What: "public.sentry_project: a row was deleted", Caught: true, How: "sentry.public.sentry_project: 11 rows, the manifest says 12"},
		},
		Findings: []Finding{{Object: "group replays|x", What: "would start ingest-replay/0 at the wrong place: it committed 5, the log begins at 90", Hurts: "the group's place; the rest of the set is whole"}},
	}
}

func damaged() Report {
	r := sample()
	r.OK, r.RTOMs, r.Fault, r.Rows = false, 0, FaultSet, 0
	r.Stages = append(r.Stages[:3:3], Stage{Name: "verify", Ms: 70_500, What: "set is damaged, nothing was restored: blobs/9f/x is missing", Bytes: 4_200_000_000})
	r.Engines, r.Controls = nil, nil
	r.Why = "verify: " + r.Stages[3].What
	r.Findings = []Finding{{Object: "blobs/9f/x", What: "missing", Hurts: "postgres: base/16384/2619"}}
	return r
}

func left() Report {
	r := sample()
	r.OK, r.RTOMs, r.Fault = false, 0, FaultSet
	r.Engines[2].OK, r.Engines[2].Comparison = false, Comparison{}
	r.Engines[1].OK, r.Engines[1].Comparison.Different = false, 60
	r.Engines[1].Comparison.Differences = []Difference{{"errors_local, partition <b>`x`", "1999 rows,\nthe manifest says 2000"}}
	r.Why = "compare clickhouse: clickhouse in database holdfast_drill_01K on 10.0.0.7:9000 is not what the set holds: 60 differences"
	r.Controls = nil
	r.Stages = append(r.Stages[:9:9], r.Stages[10])
	r.Stages[7].OK, r.Stages[7].What = false, "60 differences"
	r.Stages[8].OK, r.Stages[8].What = false, "connection refused"
	r.Stages[len(r.Stages)-1] = Stage{Name: "teardown", Ms: 300_000, What: "not removed: connection refused"}
	r.Left = []Leftover{{backup.Postgres, "/var/lib/holdfast/drill/01K", "connection refused"}}
	r.Notes = []string{"the targets were not removed whole: remove what is left by hand"}
	return r
}

func TestPage_ReadsAsItWasRead(t *testing.T) {
	for name, r := range map[string]Report{"proven": sample(), "damaged": damaged(), "left": left(), "nothing": {Format: 1, Fault: FaultDrill, Set: setID, Run: "r", Why: "select: connection refused"}} {
		file := filepath.Join("testdata", name+".md")
		got := r.Page()
		if *update {
			if err := os.WriteFile(file, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is another page (go test ./restore -update, then read the diff):\n%s", file, got)
		}
	}
}

func TestPage_FirstLineIsTheVerdict(t *testing.T) {
	for _, c := range []struct {
		r    Report
		want string
	}{
		{sample(), "# Proven: the set of us-east sealed 2026-11-22 03:17:00 UTC was restored in 3 min 12 s; 1,234,567 rows and 36 offsets equal\n"},
		{damaged(), "# Not proven: the set of us-east sealed 2026-11-22 03:17:00 UTC cannot be restored as it was taken\n"},
		{left(), "# Not proven: the set of us-east sealed 2026-11-22 03:17:00 UTC cannot be restored as it was taken\n"},
		{Report{Fault: FaultDrill, Set: "01K"}, "# Not proven: the drill failed, and nothing new is known about set 01K\n"},
	} {
		if got := string(c.r.Page()); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s\nwant %s", got[:strings.Index(got, "\n")], c.want)
		}
	}
}

func TestBar_IsAlwaysAsWideAndShowsWhatTookAnyTime(t *testing.T) {
	for whole := range int64(90) {
		for from := range whole + 1 {
			for took := range whole - from + 1 {
				b := bar(from, took, whole)
				if n := utf8.RuneCountInString(b); n != barWidth {
					t.Fatalf("bar(%d, %d, %d) is %d wide", from, took, whole, n)
				}
				if seen := strings.Trim(b, "·") != ""; seen != (took > 0) {
					t.Fatalf("bar(%d, %d, %d) is %q", from, took, whole, b)
				}
			}
		}
	}
}

func TestPage_HoldsAgainstAbsurdFigures(t *testing.T) {
	r := sample()
	for i := range r.Stages {
		r.Stages[i].Ms = 1<<63 - 1
	}
	r.Bytes, r.RTOMs, r.RPOMs, r.Rows = 1<<63-1, 1<<63-1, 1<<63-1, 1<<64-1
	r.Engines[1].Comparison.Rows, r.Engines[2].Comparison.Rows = 1<<64-1, 1<<64-1
	r.Engines[1].Comparison.Tables = -1
	if page := r.Page(); len(page) > 10_000 {
		t.Errorf("a page of %d bytes", len(page))
	}
}

func TestFigures_HaveUnits(t *testing.T) {
	for ms, want := range map[int64]string{0: "0 ms", 999: "999 ms", 9_800: "9.8 s", 59_949: "59.9 s", 59_960: "1 min", 192_000: "3 min 12 s", 3_599_600: "1 h", 7_500_000: "2 h 5 min", 90_000_000: "1 day 1 h", 273_600_000: "3 days 4 h"} {
		if got := Took(ms); got != want {
			t.Errorf("Took(%d) is %q, want %q", ms, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 4_213_000_000: "4.2 GB", 213_000_000: "213 MB", 999_999: "1.0 MB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestDecodeReport_RefusesOneThatContradictsItself(t *testing.T) {
	try := func(name, want string, change func(r *Report)) {
		t.Helper()
		r := sample()
		change(&r)
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeReport(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	try("fault", "names a fault", func(r *Report) { r.Fault = FaultSet })
	try("no fault", `its fault is ""`, func(r *Report) { r.OK = false })
	try("nothing compared", "compared nothing", func(r *Report) { r.Engines = nil })
	try("no controls", "broke nothing", func(r *Report) { r.Controls = nil })
	try("missed control", "did not catch", func(r *Report) { r.Controls[2].Caught = false })
	try("differs", "clickhouse differs", func(r *Report) { r.Engines[1].Comparison.Different = 1 })
	try("not equal", "clickhouse differs", func(r *Report) { r.Engines[1].OK = false })
	try("twice", "twice", func(r *Report) { r.Engines[1] = r.Engines[0] })
	try("newer", "use a newer one", func(r *Report) { r.Format++ })
	try("none", "no format", func(r *Report) { r.Format = 0 })
	try("negative", "negative", func(r *Report) { r.RTOMs = -1 })
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"unknown field": bytes.Replace(b, []byte(`"run"`), []byte(`"ran"`), 1),
		"tail":          append(bytes.Clone(b), '{', '}'),
		"cut":           b[:len(b)/2],
		"too great":     bytes.Repeat([]byte(" "), ReportBytesMax+2),
	} {
		if _, err := DecodeReport(bad); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

func FuzzDecodeReport(f *testing.F) {
	for _, r := range []Report{sample(), damaged(), left()} {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReport(b)
		if err != nil {
			return
		}
		if page := r.Page(); len(page) == 0 || bytes.Count(page[:bytes.IndexByte(page, '\n')+1], []byte("\n")) != 1 {
			t.Error("no page")
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeReport(again)
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if mustString(back) != mustString(r) {
			t.Error("another report comes back")
		}
	})
}
