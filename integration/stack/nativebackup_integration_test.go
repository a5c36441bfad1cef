//go:build integration

package stack

import (
	"strings"
	"testing"
)

// TestClickHouse_BacksUpIntoACollectionAndRestoresElsewhere is what backups
// and drills ask of the rig: one server writes under a name, another reads
// what it wrote, and no statement holds a key.
func TestClickHouse_BacksUpIntoACollectionAndRestoresElsewhere(t *testing.T) {
	s := RunS3(t, S3Options{})
	if err := s.CreateBucket(t.Context(), "archive"); err != nil {
		t.Fatal(err)
	}
	place := Collection{URL: s.Endpoint() + "/archive", AccessKey: s.AccessKey(), SecretKey: s.SecretKey()}
	from := RunClickHouse(t, ClickHouseOptions{Name: "from", Collections: map[string]Collection{"holdfast": place}})
	to := RunClickHouse(t, ClickHouseOptions{Name: "to", Collections: map[string]Collection{"holdfast_from": place}})
	if err := from.Exec(t.Context(), "CREATE TABLE sentry.events (id UInt64, text String) ENGINE = MergeTree ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	insert(t, from, 0, 10_000)
	run := func(c *ClickHouse, statement string) {
		t.Helper()
		if err := c.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	run(from, "BACKUP TABLE sentry.events TO S3(holdfast, 'native/full')")
	insert(t, from, 10_000, 11_000)
	run(from, "BACKUP TABLE sentry.events TO S3(holdfast, 'native/more') SETTINGS base_backup = S3(holdfast, 'native/full')")
	run(to, "RESTORE TABLE sentry.events FROM S3(holdfast_from, 'native/more') SETTINGS base_backup = S3(holdfast_from, 'native/full')")
	count(t, to, 11_000)
	for _, c := range []*ClickHouse{from, to} {
		t.Logf("%s: resident %d MB", c.Name(), residentMB(t, c.PID()))
	}
	err := from.Exec(t.Context(), "BACKUP TABLE sentry.events TO S3(holdfast, 'native/full')")
	if err == nil || !strings.Contains(err.Error(), "BACKUP_ALREADY_EXISTS") {
		t.Fatalf("a second backup of the same name: %v", err)
	}
}
