package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// twoRegions is a fleet file in which both regions have a repository.
const twoRegions = `
cluster: sentry-prod
nodes:
  us-east-1: {region: us-east, peer: "10.0.0.1:7421"}
  eu-west-1: {region: eu-west, peer: "10.0.0.2:7421"}
  witness-1: {witness: true, peer: "10.0.0.3:7421"}
regions:
  us-east:
    kafka: {brokers: ["k.us.example:9092"]}
    repository: {bucket: holdfast-us, recipient: age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez, access_key: "env:K", secret_key: "env:S", dedupe_key: "env:D"}
  eu-west:
    kafka: {brokers: ["k.eu.example:9092"]}
    repository: {bucket: holdfast-eu, recipient: age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez, access_key: "env:K", secret_key: "env:S", dedupe_key: "env:D"}
`

// sampleSeal is a set that was sealed some time before noon.
func sampleSeal(id backup.SetID, region topology.Region) backup.Seal {
	sealed := map[backup.SetID]time.Time{setNew: noon.Add(-4 * time.Minute), setWest: noon.Add(-34 * time.Minute), setMid: noon.Add(-64 * time.Minute), setOld: noon.Add(-50 * time.Hour)}[id]
	began := sealed.Add(-41 * time.Second)
	s := backup.Seal{Format: 1, Set: id, Attempt: "01A", Cluster: "sentry-prod", Region: region, Node: topology.Node(region + "-1"), Version: "v0.2.0", Started: began, Sealed: sealed, SkewMs: 40_000}
	for i, e := range backup.Engines() {
		m := sampleManifest(id, region, e)
		t := m.Totals
		s.Parts = append(s.Parts, backup.Part{
			Engine: e, Manifest: backup.ManifestKey(id, "01A", e), Started: began.Add(time.Duration(i) * 12 * time.Second), Finished: began.Add(time.Duration(i+1) * 12 * time.Second), Totals: t,
		})
	}
	return s
}

func sealDigest(id backup.SetID) backup.Digest {
	return backup.Digest(strings.Repeat("5e", 29) + strings.ToLower(string(id[len(id)-3:])) + "000")
}

func sampleManifest(id backup.SetID, region topology.Region, e backup.Engine) *backup.Manifest {
	m := &backup.Manifest{Format: 1, Engine: e, Set: id, Attempt: "01A", Cluster: "sentry-prod", Region: region}
	switch e {
	case backup.Kafka:
		m.Store.Version = "3.6"
		m.Blobs = []backup.Blob{{Key: "blobs/aa/aa-1", Stored: 2_000, Size: 9_000}}
		m.Kafka = &backup.KafkaPart{
			Topics: []backup.KafkaTopic{{Name: "events", Partitions: []backup.KafkaPartition{{Partition: 0, End: 41_877}, {Partition: 1, Start: 5, End: 700}}}},
			Groups: []backup.KafkaGroup{
				{Name: "ingest-consumer", State: "Stable", Offsets: []backup.KafkaOffset{{Topic: "events", Offset: 41_800}, {Topic: "events", Partition: 1, Offset: 700}}},
				{Name: "post-process", State: "Empty", Offsets: []backup.KafkaOffset{{Topic: "events", Offset: 41_877}}},
			},
		}
		m.Totals = backup.Totals{Rows: 3, Bytes: 2_000, Uploaded: 2_000, Objects: 1, New: 1}
	case backup.ClickHouse:
		m.Store.Version = "25.3.6"
		m.Packs = []backup.Pack{{ID: "01P1", Objects: 120, Bytes: 4_200_000_000}, {ID: "01P2", Objects: 8, Bytes: 1_000_000}}
		m.ClickHouse = &backup.ClickHousePart{Tables: []backup.ClickHouseTable{
			{Database: "default", Name: "errors_local", Engine: "ReplacingMergeTree", Partitions: []backup.ClickHousePartition{{ID: "90-20260216", Rows: 1_200_000, Bytes: 9_000_000}, {ID: "90-20260223", Pack: 1, Rows: 34_567, Bytes: 300_000}}},
			{Database: "default", Name: "errors_mv", Engine: "MaterializedView"},
			{Database: "default", Name: "migrations_local", Engine: "MergeTree", Partitions: []backup.ClickHousePartition{{ID: "all", Pack: 1, Rows: 412}}},
		}}
		m.Totals = backup.Totals{Rows: 1_234_979, Bytes: 4_201_000_000, Uploaded: 1_000_000, Objects: 128, New: 8}
		m.Notes = []string{"errors_dist is Distributed: only its definition is taken"}
	case backup.Postgres:
		m.Store.Version = "14.22"
		m.Blobs = []backup.Blob{{Key: "blobs/bb/bb-1", Stored: 30_000_000, Size: 38_000_000}, {Key: "blobs/cc/cc-1", Stored: 8_000_000, Size: 9_000_000}}
		m.Pieces = []backup.Piece{{ID: "0b", Size: 38_000_000}, {ID: "0c", Blob: 1, Size: 9_000_000}}
		m.Postgres = &backup.PostgresPart{SystemID: "7412345678901234567", Timeline: 1, StartLSN: "0/4000028", EndLSN: "0/4000138", Census: []backup.PostgresTable{
			{Database: "sentry", Schema: "public", Name: "sentry_project", Rows: 36},
			{Database: "sentry", Schema: "public", Name: "sentry_groupedmessage", Rows: 90_210, Moving: true},
		}}
		m.Totals = backup.Totals{Rows: 90_246, Bytes: 38_000_000, Uploaded: 8_000_000, Objects: 2, New: 1}
	}
	return m
}

// fakeVaults hands out what a test put there, and records what was asked for.
type fakeVaults struct {
	archives map[topology.Region]*fakeArchive
	targets  []restore.Target
	options  recovery.Options
	to       recovery.TargetOptions
	left     []recovery.Abandoned
	nowhere  error // why no abandoned place can be looked for
	closed   bool
}

func (v *fakeVaults) Abandoned(_ context.Context, o recovery.TargetOptions) ([]recovery.Abandoned, func() error, error) {
	v.to = o
	return v.left, func() error { v.closed = true; return nil }, v.nowhere
}

func (v *fakeVaults) Archive(_ context.Context, r topology.Region, _ func() (string, error)) (recovery.Archive, error) {
	a := v.archives[r]
	if a.down != nil {
		return nil, a.down
	}
	return a, nil
}

func (v *fakeVaults) Targets(o recovery.TargetOptions) ([]restore.Target, func() error, error) {
	v.to = o
	return v.targets, func() error { v.closed = true; return nil }, nil
}

// fakeArchive is a repository in memory. Methods that no verb calls are those
// of a nil Source.
type fakeArchive struct {
	backup.Source
	region   topology.Region
	sets     []backup.SetID
	reports  map[backup.SetID][]restore.Report // newest first
	gone     map[backup.SetID]string           // objects that are not there
	damaged  map[backup.SetID]bool             // seals
	strange  map[backup.SetID]error            // why a seal cannot be verified
	locked   error                             // why no piece can be decrypted
	down     error
	readData []bool
	pieces   []int // that were decrypted
}

func (a *fakeArchive) Pieces(_ context.Context, _ *backup.Manifest, pieces []int, each func([]byte) error) error {
	if a.locked != nil {
		return a.locked
	}
	a.pieces = append(a.pieces, pieces...)
	return each([]byte("plain"))
}

func (a *fakeArchive) Name() string { return "s3://holdfast-" + string(a.region) }

func (a *fakeArchive) Sets(context.Context) ([]backup.SetID, error) { return a.sets, nil }

func (a *fakeArchive) Seal(_ context.Context, id backup.SetID) (backup.Seal, backup.Digest, error) {
	if a.damaged[id] {
		return backup.Seal{}, "", fmt.Errorf("%w: %s: its signature is none", restore.ErrDamaged, backup.SealKey(id))
	}
	if err := a.strange[id]; err != nil {
		return backup.Seal{}, "", err
	}
	return sampleSeal(id, a.region), sealDigest(id), nil
}

func (a *fakeArchive) Manifest(_ context.Context, id backup.SetID, p backup.Part) (backup.Manifest, error) {
	return *sampleManifest(id, a.region, p.Engine), nil
}

func (a *fakeArchive) Verify(_ context.Context, m *backup.Manifest, readData bool, progress func(backup.Progress)) (restore.Verification, error) {
	a.readData = append(a.readData, readData)
	v := restore.Verification{Objects: objectsOf(m)}
	progress(backup.Progress{Stage: "look at objects of " + string(m.Engine), Done: 1, Total: int64(v.Objects), Unit: "objects"})
	if readData {
		v.Bytes = m.Totals.Bytes
	}
	if key, ok := a.gone[m.Set]; ok && m.Engine == backup.ClickHouse {
		v.Find(restore.Finding{Object: key, What: "missing", Hurts: "default.errors_local, partition 90-20260223"})
	}
	return v, nil
}

func (a *fakeArchive) Corrupted(string) restore.Vault { return a }

func (a *fakeArchive) PutReport(context.Context, restore.Report, []byte) (backup.Digest, error) {
	return "", errors.New("no verb writes")
}

func (a *fakeArchive) Reports(_ context.Context, set backup.SetID) ([]string, error) {
	var out []string
	for _, r := range a.reports[set] {
		out = append(out, r.Run)
	}
	return out, nil
}

func (a *fakeArchive) Report(_ context.Context, set backup.SetID, run string) (restore.Report, error) {
	for _, r := range a.reports[set] {
		if r.Run == run {
			return r, nil
		}
	}
	return restore.Report{}, fmt.Errorf("no report %s", run)
}

// fakeTarget is a place that always works, unless it was told otherwise.
type fakeTarget struct {
	engine   backup.Engine
	obstacle string
	fails    error
	stays    error // why it cannot be removed
	did      []string
}

func (t *fakeTarget) Engine() backup.Engine { return t.engine }
func (t *fakeTarget) Where() string         { return "/srv/restore/" + string(t.engine) }

func (t *fakeTarget) Check(context.Context, *backup.Manifest) ([]restore.Obstacle, error) {
	if t.obstacle != "" {
		return []restore.Obstacle{{What: t.obstacle, Next: "choose another place"}}, nil
	}
	return nil, nil
}

func (t *fakeTarget) Restore(context.Context, *backup.Manifest, backup.Source, func(backup.Progress)) error {
	t.did = append(t.did, "restore")
	return t.fails
}

func (t *fakeTarget) Compare(_ context.Context, m *backup.Manifest, _ func(backup.Progress)) (restore.Comparison, error) {
	t.did = append(t.did, "compare")
	return restore.Comparison{Tables: 2, Units: 2, Rows: m.Totals.Rows}, nil
}

func (t *fakeTarget) Disturb(context.Context, *backup.Manifest) (string, error) {
	return "", errors.New("no verb disturbs")
}

func (t *fakeTarget) Remove(context.Context) error {
	t.did = append(t.did, "remove")
	return t.stays
}

func (t *fakeTarget) Keep(context.Context) ([]string, error) {
	t.did = append(t.did, "keep")
	return []string{"merges go on again"}, nil
}

func (t *fakeTarget) Start(context.Context) (string, error) {
	t.did = append(t.did, "start")
	return "psql -h /srv/restore -p 5433 -U postgres", nil
}

// proven and unproven are reports of drills.
func provenReport(set backup.SetID, run string, ended time.Time) restore.Report {
	return restore.Report{
		Format: 1, Run: run, Attempt: 1, Cluster: "sentry-prod", Set: set, Seal: sealDigest(set), Region: "us-east", Sealed: sampleSeal(set, "us-east").Sealed,
		Vault: "s3://holdfast-us-east", By: "eu-west-1", Started: ended.Add(-9 * time.Second), Ended: ended, OK: true, RTOMs: 3200, RPOMs: 90_000, Rows: 1_325_228, Bytes: 4_239_002_000,
		Stages: []restore.Stage{
			{Name: "load", Ms: 40, OK: true, What: "the seal and 3 manifests are genuine"},
			{Name: "verify", Ms: 900, OK: true, What: "131 objects read and equal to their hashes, 4.2 GB", Bytes: 4_239_002_000},
			{Name: "restore clickhouse", Ms: 1800, OK: true, What: "4.2 GB into database holdfast_drill on 10.0.0.7:9000"},
			{Name: "compare clickhouse", Ms: 460, OK: true, What: "1,234,979 rows equal"},
		},
		Engines: []restore.Proven{{Engine: backup.ClickHouse, Where: "database holdfast_drill", OK: true, Comparison: restore.Comparison{Tables: 3, Units: 3, Rows: 1_234_979}}},
		Controls: []restore.Control{
			{Name: "one byte of an object", What: "packs/clickhouse/01P1/data.bin", Caught: true, How: "its SHA-256 is another"},
			{Name: "one row of clickhouse", What: "default.errors_local", Caught: true, How: "1,234,978 rows, the manifest says 1,234,979"},
		},
	}
}

func failedReport(set backup.SetID, run string, ended time.Time) restore.Report {
	r := provenReport(set, run, ended)
	r.OK, r.Fault, r.Why, r.RTOMs = false, restore.FaultSet, "compare clickhouse: default.errors_local: 1999 rows, the manifest says 2000", 0
	r.Stages[3].OK, r.Stages[3].What = false, "default.errors_local: 1999 rows, the manifest says 2000"
	r.Engines[0].OK = false
	r.Engines[0].Comparison.Add("default.errors_local, partition all", "1999 rows, the manifest says 2000")
	r.Controls[1].Caught, r.Controls[1].How = false, "nothing was said"
	return r
}

// repositoriesAtNoon holds three sets of us-east and one of eu-west.
func repositoriesAtNoon() *fakeVaults {
	return &fakeVaults{archives: map[topology.Region]*fakeArchive{
		"us-east": {region: "us-east", sets: []backup.SetID{setNew, setMid, setOld}, reports: map[backup.SetID][]restore.Report{
			setOld: {provenReport(setOld, "01KJKA0000000000000000GOOD", noon.Add(-30*time.Hour))},
		}},
		"eu-west": {region: "eu-west", sets: []backup.SetID{setWest}},
	}}
}

// logAtNoon is what the log says of them: the old one was dropped from it.
func logAtNoon() runs {
	header := func(id backup.SetID, region topology.Region, p consensus.Proof) httpapi.SetRow {
		return httpapi.SetRow{ID: consensus.SetID(id), Set: consensus.Set{Region: region, Digest: string(sealDigest(id)), Proof: p}}
	}
	return runs{sets: []httpapi.SetRow{
		header(setNew, "us-east", consensus.Proof{}),
		header(setWest, "eu-west", consensus.Proof{}),
		header(setMid, "us-east", consensus.Proof{Run: "01KJN8", At: noon.Add(-4 * time.Minute), OK: true, RTOMs: 3200}),
	}}
}

// night is one command line with its daemon and its repositories.
type night struct {
	daemon *fakeDaemon
	vaults *fakeVaults
	silent bool // no daemon answers
}

// typed runs the command line at noon on a host that is a node.
func (n night) typed(t *testing.T, args ...string) (code exit, out, errOut string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(file, []byte(twoRegions), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "none.sock")
	if !n.silent {
		if n.daemon == nil {
			n.daemon = &fakeDaemon{status: calm(), backups: logAtNoon()}
		}
		socket = n.daemon.serve(t, dir, "a")
	}
	var stdout, stderr strings.Builder
	a := newApp(strings.NewReader(""), &stdout, &stderr)
	a.now = func() time.Time { return noon }
	a.vaults = func(o recovery.Options) (vaults, error) { n.vaults.options = o; return n.vaults, nil }
	root := verbs(a)
	root.SetArgs(append(slices.Clone(args), "--config", file, "--node", "us-east-1", "--socket", socket))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = a.finish(root.ExecuteContext(t.Context()))
	return code, stdout.String(), stderr.String()
}

// has fails the test unless the text says all words.
func has(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, w := range all {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}
