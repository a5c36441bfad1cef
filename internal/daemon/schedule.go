package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const scheduleEvery = time.Second

// job is something that a schedule starts.
type job struct {
	name     string // identity of its slots in the log: "backup/us-east"
	kind     string
	region   topology.Region
	schedule schedule.Schedule
	catchUp  schedule.CatchUp
	timeout  time.Duration
	spec     any
	wanted   func(consensus.State) bool // nil: always; else a slot without it passes
}

// jobsOf are the scheduled jobs of a fleet file.
func jobsOf(f *config.Fleet) []job {
	var jobs []job
	if b := f.Backup; b != nil && !b.Schedule.IsZero() {
		for _, r := range f.BackupRegions() {
			jobs = append(jobs, job{"backup/" + string(r), recovery.KindBackup, r, b.Schedule, b.CatchUp, b.Timeout, recovery.BackupSpec{}, nil})
		}
	}
	if d := f.Drill; d != nil && !d.Schedule.IsZero() {
		jobs = append(jobs, job{"drill/" + string(d.Region), recovery.KindDrill, d.Region, d.Schedule, d.CatchUp, d.Timeout, recovery.DrillSpec{}, nil})
	}
	jobs = append(jobs, verifyJobs(f)...)
	return jobs
}

// decide says what a job needs in the log now; nil: nothing. Its last slot is
// what the log says, so whoever leads decides the same, and the entry that
// takes a slot is the one that starts its run.
func (j job) decide(s consensus.State, now time.Time, id consensus.RunID) consensus.Body {
	last, begun := s.Slots[j.name]
	if !begun {
		return &consensus.TakeSlot{Job: j.name, Slot: now.UTC()} // it begins now
	}
	slot, _, due := j.schedule.Due(last, now, j.catchUp)
	switch {
	case slot.IsZero():
		return nil
	case !due, j.wanted != nil && !j.wanted(s):
		return &consensus.TakeSlot{Job: j.name, Slot: slot}
	}
	if _, live := s.LiveRun(j.kind, j.region); live {
		return nil // the slot waits; catch_up says what becomes of it
	}
	spec, err := json.Marshal(j.spec)
	if err != nil {
		panic("encode the spec of " + j.name + ": " + err.Error()) // a struct of ours
	}
	return &consensus.StartRun{ID: id, Kind: j.kind, Region: j.region, Spec: spec, Timeout: j.timeout, Job: j.name, Slot: slot}
}

// schedule starts what is due while this node leads.
func (l *leader) schedule(ctx context.Context) {
	said := told{}
	for sleep(ctx, scheduleEvery) == nil {
		s := l.state()
		if s.Settings.Digest != l.digest {
			continue // our file says something else than what is agreed on
		}
		for _, j := range l.jobs {
			l.due(ctx, j, s, said)
		}
	}
}

func (l *leader) due(ctx context.Context, j job, s consensus.State, said told) {
	b := j.decide(s, l.clock.Wall(), consensus.RunID(ulid.Make().String()))
	if b == nil {
		return
	}
	err := l.try(ctx, b)
	start, starts := b.(*consensus.StartRun)
	switch {
	case err == nil && starts:
		l.log.Info("a slot is due", "job", j.name, "slot", start.Slot.Format(time.RFC3339), "run", start.ID)
	case err == nil, consensus.Refused(err, consensus.CodeStale, consensus.CodeConflict), errors.Is(err, context.Canceled):
		// Begun, passed over, or someone was faster.
	case said.again(time.Now(), j.name+err.Error(), sayAgain):
		l.log.Log(ctx, slog.LevelWarn, "start what is due", "job", j.name, "error", err)
	}
}
