package sentry

import (
	"strings"
	"testing"
	"time"
)

func TestStatements_AreWholeAndWithoutComments(t *testing.T) {
	for script, want := range map[string]int{clickhouseTables: 32, clickhouseRows: 14} {
		all := statements(script)
		if len(all) != want {
			t.Errorf("%d statements, want %d", len(all), want)
		}
		for _, s := range all {
			begins := strings.HasPrefix(s, "CREATE ") || strings.HasPrefix(s, "ALTER ") || strings.HasPrefix(s, "INSERT ")
			if !begins || strings.Contains(s, ";") || strings.Contains(s, "--") {
				t.Errorf("statement %q", s)
			}
		}
	}
}

func TestFill_RefusesWhatWouldNotLiveOrFit(t *testing.T) {
	for _, n := range []int{-1, 0, RowsMax + 1} {
		if err := FillClickHouse(t.Context(), ClickHouse{}, n, time.Now()); err == nil || !strings.Contains(err.Error(), "want 1 to") {
			t.Errorf("%d rows: %v", n, err)
		}
	}
	if err := FillPostgres(t.Context(), "", IssuesMax+1); err == nil || !strings.Contains(err.Error(), "want 1 to") {
		t.Errorf("too many issues: %v", err)
	}
}
