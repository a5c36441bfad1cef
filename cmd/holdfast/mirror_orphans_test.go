package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func sampleOrphans() httpapi.OrphansReport {
	spans := func(list ...consensus.Span) consensus.Spans { return consensus.Spans{"events": {0: list}} }
	return httpapi.OrphansReport{
		At: noon,
		Salvages: []consensus.Salvage{{
			ID: "01KJN9Z0000000000000000000", Link: "eu-west>us-east", Epoch: 3, At: noon.Add(-time.Hour), Where: "s3://holdfast-us of us-east", Digest: "ab", Records: 30, Bytes: 4096,
			Orphans: consensus.Spans{"events": {0: {{From: 1000, To: 1023}}, 1: {{From: 7, To: 14}}}},
			Replays: []consensus.Replay{{Topic: "events", Partition: 1, To: "eu-west", Records: 7, At: noon.Add(-time.Minute), By: "operator root@eu-west-1"}},
		}},
		Links: []httpapi.LinkLosses{{
			ID: "eu-west>us-east", Foreign: spans(consensus.Span{From: 1019, To: 1023}),
			Accepted: map[string]map[int32][]consensus.Accepted{"outcomes": {2: {{From: 1, To: 9, Reason: "retention", By: "operator", At: noon.Add(-time.Hour)}}}},
		}},
	}
}

// fakeOrphans is one salvage of two partitions.
type fakeOrphans struct{ damaged error }

func (f fakeOrphans) Salvages(context.Context) ([]string, error) {
	return []string{"orphans/eu-west.us-east-3/01KJN9Z0000000000000000000.json"}, nil
}

func (f fakeOrphans) ReadSalvage(context.Context, string) (backup.Salvage, backup.Digest, error) {
	return backup.Salvage{ID: "01KJN9Z0000000000000000000", Parts: []backup.SalvagePart{
		{Topic: "events", From: 1000, To: 1003}, {Topic: "events", Partition: 1, From: 7, To: 9},
	}}, "ab", f.damaged
}

func (f fakeOrphans) Batches(_ context.Context, p backup.SalvagePart, yield func([]byte) error) error {
	return yield(fmt.Appendf(nil, "<batches of %d>", p.Partition))
}

func (f fakeOrphans) Each(_ context.Context, p backup.SalvagePart, yield func(recovery.Orphan) error) error {
	for o := p.From; o < p.To; o++ {
		r := recovery.Orphan{Topic: p.Topic, Partition: p.Partition, Offset: o, Timestamp: 5, Value: fmt.Appendf(nil, "<%d>", o), Aborted: o == 1001}
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}
func (f fakeOrphans) Close() {}

func (v *fakeVaults) Orphans(_ context.Context, r topology.Region, _ func() (string, error)) (recovery.Orphans, error) {
	if r != "us-east" {
		return nil, errors.New("it is down")
	}
	return fakeOrphans{}, nil
}

func (v *fakeVaults) Replay(_ context.Context, to topology.Region, _ recovery.Orphans, p backup.SalvagePart, first int64) (int64, int64, error) {
	if p.Partition == 1 && first == 0 {
		return 1, 8, errors.New("the leader is gone")
	}
	return 2, 1003, nil
}

func TestOrphans_AreExportedAsLines(t *testing.T) {
	code, out, errOut := night{vaults: repositoriesAtNoon()}.typed(t, "mirror", "orphans", "export", "01kjn9z", "--region", "us-east")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitDone || len(lines) != 5 || lines[0] != `{"topic":"events","partition":0,"offset":1000,"timestamp":5,"key":null,"value":"PDEwMDA+"}` || !strings.Contains(lines[1], `"aborted":true`) {
		t.Errorf("%v %s\n%s", code, errOut, out)
	}
	if code, out, _ = (night{vaults: repositoriesAtNoon()}).typed(t, "mirror", "orphans", "export", "01KJN9Z", "--region", "us-east", "--topic", "events", "--partition", "1", "--raw"); code != exitDone || out != "<batches of 1>" {
		t.Errorf("%v %q", code, out)
	}
	for _, args := range [][]string{{"01KJN9Z", "--region", "us-east", "--partition", "1"}, {"01KJN9Z", "--region", "us-east", "--topic", "other"}} {
		if code, _, _ := (night{vaults: repositoriesAtNoon()}).typed(t, append([]string{"mirror", "orphans", "export"}, args...)...); code != exitUsage {
			t.Errorf("%v: %v", args, code)
		}
	}
	if code, _, errOut := (night{vaults: repositoriesAtNoon()}).typed(t, "mirror", "orphans", "export", "02"); code != exitFailed || !strings.Contains(errOut, "it is down") {
		t.Errorf("one that may be where nobody answers: %v %s", code, errOut)
	}
}

func TestOrphans_AreProducedAgainOnlyOnAWordAndOnTheRecord(t *testing.T) {
	replay := func(d *fakeDaemon, args ...string) (exit, string, string) {
		return night{daemon: d, vaults: repositoriesAtNoon()}.typed(t, append([]string{"mirror", "orphans", "replay", "01KJN9Z", "--region", "us-east", "--to", "eu-west"}, args...)...)
	}
	d := &fakeDaemon{status: calm()}
	code, out, _ := replay(d)
	if code != exitDone || !strings.Contains(out, "Would produce 4 records") || len(d.ran) != 0 {
		t.Errorf("%v %s, %v", code, out, d.ran)
	}
	code, out, errOut := replay(d, "--yes")
	if code != exitFailed || !strings.Contains(errOut, "--topic events --partition 1 --from 8 --again") || !strings.Contains(out, "Produced 3 of 4 records") {
		t.Errorf("%v %s %s", code, out, errOut)
	}
	want := []string{"replay 01KJN9Z0000000000000000000 events/0 to eu-west: 2, again false", "replay 01KJN9Z0000000000000000000 events/1 to eu-west: 2, again false"}
	if !slices.Equal(d.ran, want) {
		t.Errorf("on record: %q", d.ran)
	}
	// A refusal of the log comes before the first record.
	d = &fakeDaemon{status: calm(), err: httpapi.Problemf(httpapi.Refused, "record a replay", "", "it was done before")}
	if code, out, _ = replay(d, "--yes"); code != exitRefused || !strings.Contains(out, "Produced 0 of 4") {
		t.Errorf("%v %s", code, out)
	}
	if code, _, _ = replay(d, "--from", "3"); code != exitUsage {
		t.Errorf("from where of which partition: %v", code)
	}
}

func TestLoss_IsGivenUpByItsExactRange(t *testing.T) {
	d := &fakeDaemon{status: calm()}
	resume := func(args ...string) (exit, string, string) {
		return night{daemon: d, vaults: repositoriesAtNoon()}.typed(t, append([]string{"mirror", "resume"}, args...)...)
	}
	code, out, errOut := resume("--topic", "events", "--partition", "3", "--accept-loss", "1000-1200", "--reason", "retention took them")
	if code != exitDone || !strings.Contains(out, "Given up: [1000,1200) of events/3") || !slices.Equal(d.ran, []string{"accept events/3 [1000,1200): retention took them"}) {
		t.Errorf("%v %s %s, %q", code, out, errOut, d.ran)
	}
	for _, args := range [][]string{
		{"--topic", "events", "--partition", "3", "--accept-loss", "1000-1200"},
		{"--topic", "events", "--accept-loss", "1000-1200", "--reason", "r"},
		{"--partition", "3", "--accept-loss", "1000-1200", "--reason", "r"},
		{"--topic", "events", "--partition", "3", "--accept-loss", "1200-1000", "--reason", "r"},
		{"--topic", "events", "--partition", "3", "--accept-loss", "all", "--reason", "r"},
	} {
		if code, _, _ := resume(args...); code != exitUsage {
			t.Errorf("%v: %v", args, code)
		}
	}
}
