package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/retry"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

const (
	tries        = 3 // at a set or a drill, within the timeout of its run
	recordFirst  = 100 * time.Millisecond
	recordLonger = 5 * time.Second
	againFirst   = 2 * time.Second
	againLonger  = 30 * time.Second
	sweepTimeout = 2 * time.Minute
)

// runs carries out the backups and drills of this node's region.
type runs struct {
	host    *recovery.Host
	fleet   *config.Fleet
	region  topology.Region
	clock   clock.Clock
	log     *slog.Logger
	propose consensus.Proposer
	by      string

	scratch sync.Mutex // one user of the drill's targets at a time

	mu       sync.Mutex
	progress map[consensus.RunID]backup.Progress
}

func (r *runs) runners() []agent.Runner {
	return []agent.Runner{agent.Repeat(recovery.KindBackup, r.backup), agent.Repeat(recovery.KindDrill, r.drill)}
}

// report is how far the live runs are.
func (r *runs) report() map[consensus.RunID]backup.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.progress)
}

func (r *runs) follow(id consensus.RunID) (set func(backup.Progress), end func()) {
	return func(p backup.Progress) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.progress[id] = p
		}, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.progress, id)
		}
}

// backup takes a set, or finds that an earlier attempt has sealed it.
func (r *runs) backup(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec recovery.BackupSpec
	if err := json.Unmarshal(t.Spec, &spec); err != nil {
		return nil, fmt.Errorf("read the spec of run %s: %w", t.Run, err)
	}
	begun := time.Now()
	set, end := r.follow(t.Run)
	defer end()
	taken, err := r.take(ctx, t, f, spec, set)
	if err != nil {
		return nil, err
	}
	totals := taken.Seal.Totals()
	header := consensus.Set{
		Region: r.region, Sealed: taken.Seal.Sealed, Digest: string(taken.Digest),
		Rows: totals.Rows, Bytes: totals.Bytes, Uploaded: totals.Uploaded,
	}
	err = r.record(ctx, t, func(session consensus.SessionID) consensus.Body {
		return &consensus.RecordSet{Task: t.ID, Attempt: t.Attempt, Session: session, ID: consensus.SetID(taken.Seal.Set), Set: header}
	})
	if err != nil {
		return nil, fmt.Errorf("put the seal of set %s into the log: %w", taken.Seal.Set, err)
	}
	r.log.Info("set sealed", "set", taken.Seal.Set, "digest", taken.Digest, "rows", totals.Rows, "bytes", totals.Bytes, "uploaded", totals.Uploaded)
	return httpapi.RunEvidence{
		Set: taken.Seal.Set, Region: r.region, Digest: taken.Digest, Totals: totals, TookMs: time.Since(begun).Milliseconds(), Ended: r.clock.Wall().UTC(),
	}, nil
}

// take tries a few times: a server or the store may be restarting.
func (r *runs) take(ctx context.Context, t agent.Task, f agent.Fence, spec recovery.BackupSpec, progress func(backup.Progress)) (recovery.Taken, error) {
	delays := retry.New(againFirst, againLonger)
	for try := 1; ; try++ {
		taken, err := r.host.Take(ctx, recovery.TakeOptions{
			Region: r.region, Set: backup.SetID(t.Run), Engines: spec.Engines, Fresh: spec.Fresh, After: foundBad(t.State(), r.region),
			Check: f.Check, Progress: progress,
		})
		if err == nil || try == tries || errors.Is(err, agent.ErrLost) || ctx.Err() != nil || !recovery.Transient(err) {
			return taken, err
		}
		r.log.Warn("attempt at a set failed, trying again", "run", t.Run, "try", try, "error", err)
		if waited := delays.Wait(ctx); waited != nil {
			return taken, err
		}
	}
}

// foundBad is when the last drill found a set of a region bad; zero when the
// last one that came to a verdict did not.
func foundBad(s consensus.State, region topology.Region) time.Time {
	if _, _, judged := proofs(s, region); !judged.OK {
		return judged.At
	}
	return time.Time{}
}

// record proposes until the log has taken or refused it.
func (r *runs) record(ctx context.Context, t agent.Task, body func(consensus.SessionID) consensus.Body) error {
	delays := retry.New(recordFirst, recordLonger)
	for {
		session := t.State().Tasks[t.ID].Claim.Session
		once, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := r.propose.Propose(once, consensus.Command{At: r.clock.Wall(), By: r.by, Body: body(session)})
		cancel()
		if err == nil || consensus.Refused(err) {
			return err
		}
		if waited := delays.Wait(ctx); waited != nil {
			return err
		}
	}
}

// drill proves a set on the isolated target. A set that is found bad is a
// drill that worked: the verdict is in the evidence and in the set's proof.
func (r *runs) drill(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec recovery.DrillSpec
	if err := json.Unmarshal(t.Spec, &spec); err != nil {
		return nil, fmt.Errorf("read the spec of run %s: %w", t.Run, err)
	}
	begun := time.Now()
	progress, end := r.follow(t.Run)
	defer end()
	r.scratch.Lock()
	defer r.scratch.Unlock()
	if err := f.Check(); err != nil {
		return nil, err
	}
	done, err := r.prove(ctx, t, spec, progress)
	if err != nil {
		return nil, err
	}
	rep := done.Report
	e := httpapi.RunEvidence{
		Set: rep.Set, Region: rep.Region, Digest: rep.Seal, Totals: backup.Totals{Rows: rep.Rows, Bytes: rep.Bytes}, TookMs: time.Since(begun).Milliseconds(),
		OK: rep.OK, Why: rep.Why, Fault: rep.Fault, RTOMs: rep.RTOMs, RPOMs: rep.RPOMs, Controls: len(rep.Controls), Report: done.Digest, Ended: rep.Ended,
	}
	for _, c := range rep.Controls {
		if c.Caught {
			e.Caught++
		}
	}
	err = r.record(ctx, t, func(session consensus.SessionID) consensus.Body {
		return &consensus.RecordProof{
			Task: t.ID, Attempt: t.Attempt, Session: session, ID: consensus.SetID(rep.Set), Set: done.Header,
			Proof: consensus.Proof{Run: t.Run, At: rep.Ended, OK: rep.OK, Why: rep.Why, RTOMs: rep.RTOMs, Report: string(done.Digest)},
		}
	})
	if err != nil {
		return nil, fmt.Errorf("put the verdict on set %s into the log: %w", rep.Set, err)
	}
	level := slog.LevelInfo
	if !rep.OK {
		level = slog.LevelError
	}
	r.log.Log(ctx, level, "drill ended", "set", rep.Set, "ok", rep.OK, "why", rep.Why, "rto_ms", rep.RTOMs, "rows", rep.Rows)
	return e, nil
}

// prove tries a few times to come to a verdict: the target or the store may be
// restarting. Each try has a report of its own.
func (r *runs) prove(ctx context.Context, t agent.Task, spec recovery.DrillSpec, progress func(backup.Progress)) (recovery.Drilled, error) {
	delays := retry.New(againFirst, againLonger)
	for try := 1; ; try++ {
		done, err := r.host.Drill(ctx, recovery.DrillOptions{
			Run: string(t.Run), Attempt: (t.Attempt-1)*tries + try, Spec: spec, Progress: progress,
			Expect: func(set backup.SetID) backup.Digest {
				return backup.Digest(t.State().Sets[consensus.SetID(set)].Digest)
			},
		})
		if rep := done.Report; err == nil && !rep.OK && rep.Fault == restore.FaultDrill {
			err = fmt.Errorf("drill of set %s says nothing about it: %s (report %s)", rep.Set, rep.Why, done.Key)
		}
		if err == nil || try == tries || ctx.Err() != nil || !recovery.Transient(err) {
			return done, err
		}
		r.log.Warn("drill came to no verdict, trying again", "run", t.Run, "try", try, "error", err)
		if waited := delays.Wait(ctx); waited != nil {
			return done, err
		}
	}
}

// sweep takes away what a drill of an earlier life left on the targets. It
// waits until this life is in the log; a drill that is still live begins with
// the same by itself.
func (r *runs) sweep(ctx context.Context, ours func() bool, state func() consensus.State) {
	for !ours() {
		if sleep(ctx, sessionRetry) != nil {
			return
		}
	}
	if _, live := state().LiveRun(recovery.KindDrill, r.region); live {
		return
	}
	r.scratch.Lock()
	defer r.scratch.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	gone, err := r.host.Sweep(ctx)
	for _, where := range gone {
		r.log.Info("took away what a drill had left", "where", where)
	}
	if err != nil {
		r.log.Warn("take away what drills have left; the next drill tries again", "error", err)
	}
}

// StartBackup implements httpapi.Recovery.
func (d *Daemon) StartBackup(ctx context.Context, want httpapi.StartBackup, by string) (consensus.RunID, error) {
	const what = "start a backup"
	if d.fleet.Backup == nil {
		return "", httpapi.Problemf(httpapi.Refused, what, "add backup: and a repository to the fleet file", "no backup is configured")
	}
	region := cmp.Or(want.Region, d.me.Region)
	regions := d.fleet.BackupRegions()
	if region == "" && len(regions) == 1 {
		region = regions[0]
	}
	if !slices.Contains(regions, region) {
		return "", httpapi.Problemf(httpapi.NotFound, what, fmt.Sprintf("--region with one of %s", strings.Join(names(regions), ", ")), "region %q is not backed up", string(region))
	}
	for _, e := range want.Engines {
		if all := d.fleet.BackupEngines(region); !slices.Contains(all, string(e)) {
			return "", httpapi.Problemf(httpapi.NotFound, what, "--engine with one of "+strings.Join(all, ", "), "%s has no %q to back up", region, string(e))
		}
	}
	return d.startRun(ctx, recovery.KindBackup, region, recovery.BackupSpec{Engines: want.Engines, Fresh: want.Fresh}, d.fleet.Backup.Timeout, by)
}

// StartDrill implements httpapi.Recovery.
func (d *Daemon) StartDrill(ctx context.Context, want httpapi.StartDrill, by string) (consensus.RunID, error) {
	const what = "start a drill"
	if d.fleet.Drill == nil {
		return "", httpapi.Problemf(httpapi.Refused, what, "add drill: with an isolated target to the fleet file", "no drill is configured")
	}
	if of := d.fleet.DrillOf(); want.Of != "" && !slices.Contains(of, want.Of) {
		return "", httpapi.Problemf(httpapi.NotFound, what, "--of with one of "+strings.Join(names(of), ", "), "sets of %q are not drilled", string(want.Of))
	}
	spec := recovery.DrillSpec{Of: want.Of, Set: want.Set}
	return d.startRun(ctx, recovery.KindDrill, d.fleet.Drill.Region, spec, d.fleet.Drill.Timeout, by)
}

func (d *Daemon) startRun(ctx context.Context, kind string, region topology.Region, spec any, timeout time.Duration, by string) (consensus.RunID, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("encode the spec of a %s: %w", kind, err)
	}
	id := consensus.RunID(ulid.Make().String())
	err = d.mutate(ctx, by, &consensus.StartRun{ID: id, Kind: kind, Region: region, Spec: b, Timeout: timeout})
	if errors.Is(err, consensus.ErrUnknownOutcome) {
		return "", fmt.Errorf("%s %s may have begun; `holdfast %s list` tells: %w", kind, id, kind, err)
	}
	return id, err
}

// CancelRun implements httpapi.Recovery.
func (d *Daemon) CancelRun(ctx context.Context, id consensus.RunID, why, by string) error {
	r, err := d.Run(ctx, id)
	if err != nil {
		return err
	}
	return d.mutate(ctx, by, &consensus.CancelRun{ID: r.ID, Why: why})
}

// Runs implements httpapi.Recovery.
func (d *Daemon) Runs(_ context.Context, kind string) (httpapi.RunList, error) {
	s := d.raft.State()
	out := httpapi.RunList{Runs: []httpapi.Run{}}
	for id, r := range s.Runs {
		if kind == "" || r.Kind == kind {
			out.Runs = append(out.Runs, d.runOf(s, id))
		}
	}
	live := func(r httpapi.Run) int {
		if r.Run.State == consensus.RunLive {
			return 0
		}
		return 1
	}
	slices.SortFunc(out.Runs, func(a, b httpapi.Run) int {
		return cmp.Or(cmp.Compare(live(a), live(b)), cmp.Compare(b.ID, a.ID))
	})
	return out, nil
}

func (d *Daemon) runOf(s consensus.State, id consensus.RunID) httpapi.Run {
	r := httpapi.Run{ID: id, Run: s.Runs[id]}
	if r.Run.State != consensus.RunLive {
		return r
	}
	t := s.Tasks[consensus.TaskOfRun(id)]
	r.Node, r.Run.Attempts = t.Claim.Node, t.Attempt
	if node, ok := s.NodeOf(r.Run.Region); ok {
		if rep, age := d.hub.of(node); age >= 0 && age < heardWithin {
			if p, ok := rep.Runs[id]; ok {
				r.Progress = &p
			}
		}
	}
	return r
}

// Run implements httpapi.Recovery.
func (d *Daemon) Run(_ context.Context, id consensus.RunID) (httpapi.Run, error) {
	s := d.raft.State()
	if _, ok := s.Runs[id]; ok {
		return d.runOf(s, id), nil
	}
	var found []consensus.RunID
	for known := range s.Runs {
		if id != "" && strings.HasPrefix(string(known), string(id)) {
			found = append(found, known)
		}
	}
	if len(found) != 1 {
		return httpapi.Run{}, httpapi.Problemf(httpapi.NotFound, "find run "+string(id), "`holdfast backup list` and `holdfast drill list` show them", "%d runs match", len(found))
	}
	return d.runOf(s, found[0]), nil
}

// Sets implements httpapi.Recovery.
func (d *Daemon) Sets(context.Context) (httpapi.SetList, error) {
	s := d.raft.State()
	out := httpapi.SetList{Sets: []httpapi.SetRow{}}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.Sets))) {
		out.Sets = append(out.Sets, httpapi.SetRow{ID: id, Set: s.Sets[id]})
	}
	return out, nil
}
