package recovery

import (
	"context"
	"errors"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// Kinds of runs, as tasks and in the command line.
const (
	KindBackup = "backup"
	KindDrill  = "drill"
)

// BackupSpec is what a backup run is told. Empty: all that is configured.
type BackupSpec struct {
	Engines []backup.Engine `json:"engines,omitempty"`
}

// DrillSpec is what a drill is told. Empty: the newest set of those regions
// that are configured.
type DrillSpec struct {
	Of  topology.Region `json:"of,omitempty"`
	Set backup.SetID    `json:"set,omitempty"`
}

// TakeOptions say which set to take.
type TakeOptions struct {
	Region  topology.Region
	Set     backup.SetID
	Engines []backup.Engine // empty: all that are configured
	// Check says whether the run is still ours; it is asked right before the
	// seal is written.
	Check    func() error
	Progress func(backup.Progress)
}

// Taken is a sealed set.
type Taken struct {
	Seal   backup.Seal
	Digest backup.Digest
	// Found: an earlier attempt had sealed it.
	Found bool
}

// DrillOptions say what to prove.
type DrillOptions struct {
	Run      string
	Attempt  int
	Spec     DrillSpec
	Expect   func(backup.SetID) backup.Digest // what the log says a seal's digest is; empty: nothing
	Progress func(backup.Progress)
}

// Drilled is the outcome of a drill that ran to its end.
type Drilled struct {
	Report restore.Report
	Digest backup.Digest // of the report as stored
	Key    string
	Header consensus.Set // of the set that was drilled
}

// Host is a fleet as reached from this machine. It is safe for concurrent use.
type Host struct{ o Options }

// NewHost prepares; it dials nothing.
func NewHost(o Options) (*Host, error) { return &Host{o}, nil }

func (h *Host) Take(ctx context.Context, o TakeOptions) (Taken, error) {
	return Taken{}, errors.New("not wired")
}
func (h *Host) Drill(ctx context.Context, o DrillOptions) (Drilled, error) {
	return Drilled{}, errors.New("not wired")
}
func (h *Host) Sweep(ctx context.Context) ([]string, error) {
	return nil, errors.New("not wired")
}
func Transient(err error) bool { return true }

// Archive opens the repository of a region for reading. identity gives the
// age identity that decrypts its blobs; nil: what needs no private key works.
func (h *Host) Archive(ctx context.Context, region topology.Region, identity func() (string, error)) (Archive, error) {
	return nil, errors.New("not wired")
}

// Targets opens scratch places. What they make outlives Close; Target.Remove
// takes it away.
func (h *Host) Targets(o TargetOptions) (targets []restore.Target, closeAll func() error, err error) {
	return nil, nil, errors.New("not wired")
}

// Starter is a target whose restored server can be left running.
type Starter interface {
	restore.Target
	// Start starts the restored server and returns how to connect to it.
	Start(ctx context.Context) (connect string, err error)
}

// Keeper is a target that can be handed over to the person who asked for it.
type Keeper interface {
	restore.Target
	// Keep ends what protects the place during a comparison (merges are
	// stopped) and returns what the person should know about it, one line each.
	Keep(ctx context.Context) (notes []string, err error)
}
