package recovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	clickhouseback "github.com/holdfast-dr/holdfast/backup/clickhouse"
	kafkaback "github.com/holdfast-dr/holdfast/backup/kafka"
	postgresback "github.com/holdfast-dr/holdfast/backup/postgres"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/failpoint"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/postgres"
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
	// Fresh: build on nothing, so that the set shares no object with earlier ones.
	Fresh bool `json:"fresh,omitempty"`
}

// TakeOptions say which set to take.
type TakeOptions struct {
	Region  topology.Region
	Set     backup.SetID
	Engines []backup.Engine // empty: all that are configured
	// After: build on sets alone that were begun after this time. A set that a
	// drill found bad is nothing to build on, nor is any older one: they may
	// share the object that is bad. Zero: build on the newest.
	After time.Time
	Fresh bool // build on nothing
	// Check says whether the run is still ours; it is asked right before the
	// seal is written.
	Check    func() error
	Progress func(backup.Progress)
}

// Taken is a sealed set.
type Taken struct {
	Seal   backup.Seal
	Digest backup.Digest
	Found  bool // an earlier attempt had sealed it
}

// setsBack is how many sets are looked through for something to build on.
const setsBack = 20

// Take takes a set, or finds it sealed. An attempt that fails leaves objects
// that nothing names, and no set; the next one writes under names of its own.
func (h *Host) Take(ctx context.Context, o TakeOptions) (Taken, error) {
	repo, err := h.open(ctx, o.Region, nil)
	if err != nil {
		return Taken{}, err
	}
	defer repo.Close()
	seal, digest, err := repo.Seal(ctx, o.Set)
	switch {
	case err == nil:
		return Taken{seal, digest, true}, nil
	case !errors.Is(err, objects.ErrNotFound):
		return Taken{}, fmt.Errorf("look whether set %s is sealed: %w", o.Set, err)
	}
	engines, err := h.engines(o.Region, o.Engines)
	if err != nil {
		return Taken{}, err
	}
	var prev map[backup.Engine]*backup.Manifest
	if !o.Fresh {
		if prev, err = newest(ctx, repo, engines, o.After); err != nil {
			return Taken{}, err
		}
	}
	name := ulid.Make().String()
	attempt, err := repo.Begin(ctx, o.Set, name, prev)
	if err != nil {
		return Taken{}, err
	}
	for _, line := range attempt.Gone() {
		h.log.Error("what earlier sets hold is damaged and is taken anew", "object", line)
	}
	seal = backup.Seal{Started: time.Now().UTC(), Version: h.o.Version, Node: h.o.Node}
	for _, e := range engines {
		part, err := h.takePart(ctx, attempt, name, e, o)
		if err != nil {
			return Taken{}, fmt.Errorf("take %s of %s: %w", e, o.Region, err)
		}
		seal.Parts = append(seal.Parts, part)
	}
	seal.SkewMs = seal.Parts[len(seal.Parts)-1].Finished.Sub(seal.Parts[0].Started).Milliseconds()
	if o.Check != nil {
		if err := o.Check(); err != nil {
			return Taken{}, fmt.Errorf("seal set %s: %w", o.Set, err)
		}
	}
	failpoint.At("before:seal")
	_, err = attempt.Seal(ctx, seal)
	var other *repository.SealedError
	if err != nil && !errors.As(err, &other) {
		return Taken{}, err
	}
	failpoint.At("after:seal")
	seal, digest, err = repo.Seal(ctx, o.Set)
	return Taken{seal, digest, other != nil}, err
}

// newest finds, for each engine, its manifest in the newest set that has one
// and was begun after a time. A set that is damaged, or signed under an
// authority that is no longer trusted, is passed over: it is nothing to build on.
func newest(ctx context.Context, v restore.Vault, engines []backup.Engine, after time.Time) (map[backup.Engine]*backup.Manifest, error) {
	sets, err := v.Sets(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for a set to build on: %w", err)
	}
	found := map[backup.Engine]*backup.Manifest{}
	for _, id := range sets[:min(len(sets), setsBack)] {
		if len(found) == len(engines) {
			break
		}
		seal, _, err := v.Seal(ctx, id)
		if err != nil {
			if silent(ctx, err) {
				return nil, fmt.Errorf("look for a set to build on: %w", err)
			}
			continue
		}
		if !seal.Started.After(after) {
			break // and so are all that follow
		}
		for _, e := range engines {
			p, has := seal.Part(e)
			if !has || found[e] != nil {
				continue
			}
			m, err := v.Manifest(ctx, id, p)
			switch {
			case err == nil:
				found[e] = &m
			case silent(ctx, err):
				return nil, fmt.Errorf("look for a set to build on: %w", err)
			}
		}
	}
	return found, nil
}

// silent reports whether an error says nothing about the object that was asked
// for: the store did not answer, or would not.
func silent(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, objects.ErrUnreachable) || errors.Is(err, objects.ErrDenied)
}

// takePart runs one engine and writes its manifest.
func (h *Host) takePart(ctx context.Context, attempt *repository.Attempt, name string, e backup.Engine, o TakeOptions) (backup.Part, error) {
	taker, closeTaker, err := h.taker(o.Region, e)
	if err != nil {
		return backup.Part{}, err
	}
	defer closeTaker()
	failpoint.At("before:take " + string(e))
	ctx, cancel := context.WithCancel(ctx)
	sink := attempt.Sink(ctx, e)
	defer func() { cancel(); sink.Close() }() // what a failed take was still sending
	progress := func(p backup.Progress) {
		if o.Progress != nil {
			p.Stage = stageOf(e, p.Stage)
			o.Progress(p)
		}
	}
	m, err := taker.Take(ctx, backup.Take{Set: o.Set, Attempt: name, Prev: attempt.Prev(e), Sink: sink, Progress: progress})
	if err != nil {
		return backup.Part{}, h.elsewhere(err, e, o.Region)
	}
	failpoint.At("before:manifest " + string(e))
	part, err := sink.Finish(ctx, m)
	failpoint.At("after:manifest " + string(e))
	return part, err
}

// elsewhere explains a server that says it wrote what is not there: it wrote
// to another place than the one we read.
func (h *Host) elsewhere(err error, e backup.Engine, region topology.Region) error {
	if conf := h.o.Fleet.Regions[region]; e == backup.ClickHouse && errors.Is(err, objects.ErrNotFound) && conf.Repository != nil && conf.ClickHouse != nil {
		return fmt.Errorf("%w; does the server's named collection %s lead to bucket %s, and end with the prefix %q?",
			err, conf.ClickHouse.BackupCollection, conf.Repository.Bucket, conf.Repository.Prefix)
	}
	return err
}

// taker opens an engine of a region.
func (h *Host) taker(region topology.Region, e backup.Engine) (backup.Taker, func(), error) {
	conf := h.o.Fleet.Regions[region]
	log := h.log.With("engine", string(e))
	switch e {
	case backup.Kafka:
		client, err := OpenKafka(region, conf.Kafka, h.dial, h.log)
		if err != nil {
			return nil, nil, err
		}
		t, err := kafkaback.New(kafkaback.Config{Client: client, Log: log})
		return t, client.Close, err
	case backup.ClickHouse:
		client, err := OpenClickHouse(region, conf.ClickHouse, h.dial)
		if err != nil {
			return nil, nil, err
		}
		t, err := clickhouseback.New(clickhouseback.Config{
			Client: client, Databases: conf.ClickHouse.Databases, Collection: conf.ClickHouse.BackupCollection, Log: log,
		})
		return t, func() { _ = client.Close() }, err // nothing is written through it any more
	case backup.Postgres:
		client, err := openPostgres(region, conf.Postgres, h.dial)
		if err != nil {
			return nil, nil, err
		}
		return postgresback.New(postgresback.Config{Client: client, Log: log}), func() {}, nil
	}
	return nil, nil, fmt.Errorf("engine %q is unknown to holdfast %s", e, h.o.Version)
}

func openPostgres(region topology.Region, p *config.Postgres, dial Dial) (*postgres.Client, error) {
	return postgres.Open(postgres.Config{Name: string(region), DSN: p.DSN.Resolve, Dial: dial})
}

// Transient reports whether trying again may help: all but what a person, the
// log or the store has decided.
func Transient(err error) bool {
	return !errors.Is(err, objects.ErrDenied) && !errors.Is(err, errNoSet) && !errors.Is(err, restore.ErrDamaged) && !errors.Is(err, context.Canceled)
}

// stageOf names the engine once: an engine and the repository that it hands
// its work to both begin with it.
func stageOf(e backup.Engine, stage string) string {
	prefix := string(e) + ": "
	for strings.HasPrefix(stage, prefix) {
		stage = strings.TrimPrefix(stage, prefix)
	}
	return prefix + stage
}
