package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// runs is the part of a fake daemon that takes and proves sets. A run that was
// started is live for three looks, and ends as it was told to.
type runs struct {
	sets    []httpapi.SetRow
	ended   []httpapi.Run // that were there before
	fails   string        // why a run fails; empty: it does not
	verdict string        // why a drill proves nothing; empty: it proves
	err     error

	looks   int
	started []string
}

// The ids of samples: sets sort by time.
const (
	setNew  = backup.SetID("01KJN9Z0000000000000000NEW")
	setMid  = backup.SetID("01KJN6F0000000000000000MID")
	setOld  = backup.SetID("01KJHZZ0000000000000000TWO")
	setWest = backup.SetID("01KJN8A000000000000000WEST")
)

func (f *fakeDaemon) StartBackup(_ context.Context, want httpapi.StartBackup, _ string) (consensus.RunID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backups.started = append(f.backups.started, "backup "+string(want.Region)+" "+words(want.Engines))
	return consensus.RunID(setNew), f.backups.err
}

func (f *fakeDaemon) StartDrill(_ context.Context, want httpapi.StartDrill, _ string) (consensus.RunID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backups.started = append(f.backups.started, "drill "+string(want.Of)+" "+string(want.Set))
	return "01KJNA0000000000000000DRLL", f.backups.err
}

func (f *fakeDaemon) StartVerify(_ context.Context, want httpapi.StartVerify, _ string) (consensus.RunID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backups.started = append(f.backups.started, fmt.Sprintf("verify %s %v %g %d", want.Region, want.Topics, want.Sample, want.Rate))
	return runVerify, f.backups.err
}

func (f *fakeDaemon) Verified(_ context.Context, region topology.Region, _ int) (httpapi.Verified, error) {
	return sampleVerified(f.backups.verdict != ""), f.err
}

func (f *fakeDaemon) CancelRun(_ context.Context, id consensus.RunID, why, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backups.started = append(f.backups.started, "cancel "+string(id)+" "+why)
	return f.backups.err
}

func (f *fakeDaemon) Runs(_ context.Context, kind string) (httpapi.RunList, error) {
	l := httpapi.RunList{Runs: []httpapi.Run{}}
	for _, r := range f.backups.ended {
		if kind == "" || kind == r.Run.Kind {
			l.Runs = append(l.Runs, r)
		}
	}
	return l, f.err
}

func (f *fakeDaemon) Run(_ context.Context, id consensus.RunID) (httpapi.Run, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.backups.ended {
		if strings.HasPrefix(string(r.ID), string(id)) {
			return r, nil
		}
	}
	kind, e := "backup", httpapi.RunEvidence{
		Set: setNew, Region: "us-east", Digest: sealDigest(setNew), Totals: sampleSeal(setNew, "us-east").Totals(), TookMs: 41_200,
	}
	if id != consensus.RunID(setNew) {
		kind, e = "drill", httpapi.RunEvidence{Set: setNew, Region: "us-east", OK: f.backups.verdict == "", Why: f.backups.verdict, RTOMs: 3200, RPOMs: 90_000, Controls: 3, Caught: 3}
	}
	var left any = e
	if id == runVerify {
		kind, left = httpapi.KindVerify, sampleVerifyEvidence(f.backups.verdict != "")
	}
	r := httpapi.Run{ID: id, Node: "us-east-1", Run: consensus.Run{Kind: kind, Region: "us-east", State: consensus.RunLive, Created: noon}}
	switch f.backups.looks++; {
	case f.backups.looks == 1:
		r.Node = ""
	case f.backups.looks == 2:
		r.Progress = &backup.Progress{Stage: "clickhouse: hash", Done: 40, Total: 120, Unit: "objects"}
	case f.backups.looks > 2 && f.backups.fails != "":
		r.Run.State, r.Run.Error, r.Run.Ended = consensus.RunFailed, f.backups.fails, noon.Add(41*time.Second)
	case f.backups.looks > 2:
		b, err := json.Marshal(left)
		if err != nil {
			return r, err
		}
		r.Run.State, r.Run.Evidence, r.Run.Ended = consensus.RunDone, b, noon.Add(41*time.Second)
	}
	return r, nil
}

func (f *fakeDaemon) Sets(context.Context) (httpapi.SetList, error) {
	return httpapi.SetList{Sets: f.backups.sets}, f.err
}
