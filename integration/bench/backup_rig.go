package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/oklog/ulid/v2"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/postgres"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	region     topology.Region = "us-east"
	node       topology.Node   = "us-east-1"
	cluster                    = "bench"
	bucketName                 = "bench"
	prefix                     = "repo"
	collection                 = "holdfast" // what ClickHouse calls the repository
)

// rig is the servers of bench backup and the product's own clients to them.
type rig struct {
	o   backupOptions
	dir string // that every user can enter: Postgres does not run as root

	s3         *stack.S3
	bucket     *objects.Bucket
	repository *repository.Repository

	postgres       *stack.Postgres
	postgresClient *postgres.Client

	clickhouse       *stack.ClickHouse
	clickhouseClient *clickhouse.Client

	closes []func() error
}

// newRig starts the servers. Close the rig also after an error.
func newRig(ctx context.Context, o backupOptions) (*rig, error) {
	r := &rig{o: o}
	var err error
	if r.dir, err = os.MkdirTemp("", "hfbench"); err != nil {
		return r, err
	}
	r.closes = append(r.closes, func() error { return os.RemoveAll(r.dir) })
	if err := os.Chmod(r.dir, 0o711); err != nil {
		return r, err
	}
	if r.s3, err = stack.StartS3(ctx, stack.S3Options{Progress: os.Stdout}); err != nil {
		return r, err
	}
	r.closes = append(r.closes, r.s3.Close)
	if err := r.openRepository(ctx); err != nil {
		return r, err
	}
	if o.only != "clickhouse" {
		// Rounds are only alike when no vacuum comes between them.
		r.postgres, err = stack.StartPostgres(ctx, stack.PostgresOptions{Progress: os.Stdout, Settings: map[string]string{"autovacuum": "off"}})
		if err != nil {
			return r, err
		}
		r.closes = append(r.closes, r.postgres.Close)
		r.postgresClient, err = postgres.Open(postgres.Config{Name: string(region), DSN: func() (string, error) { return r.postgres.BackupDSN(), nil }})
		if err != nil {
			return r, err
		}
	}
	if o.only != "postgres" {
		r.clickhouse, err = stack.StartClickHouse(ctx, stack.ClickHouseOptions{Progress: os.Stdout, MemoryBytes: 2 << 30, Collections: map[string]stack.Collection{
			collection: {URL: r.s3.Endpoint() + "/" + bucketName + "/" + prefix, AccessKey: r.s3.AccessKey(), SecretKey: r.s3.SecretKey()},
		}})
		if err != nil {
			return r, err
		}
		r.closes = append(r.closes, r.clickhouse.Close)
		r.clickhouseClient, err = clickhouse.Open(clickhouse.Config{
			Name: string(region), Addresses: []string{r.clickhouse.Address()}, User: r.clickhouse.User(),
			Password: func() (string, error) { return r.clickhouse.Password(), nil },
		})
		if err != nil {
			return r, err
		}
		r.closes = append(r.closes, r.clickhouseClient.Close)
	}
	return r, nil
}

// close undoes newRig, last first.
func (r *rig) close() (err error) {
	for len(r.closes) > 0 {
		last := len(r.closes) - 1
		err = errors.Join(err, r.closes[last]())
		r.closes = r.closes[:last]
	}
	return err
}

// openRepository makes keys and a bucket, and a repository as a daemon has it.
func (r *rig) openRepository(ctx context.Context) error {
	if err := r.s3.CreateBucket(ctx, bucketName); err != nil {
		return err
	}
	dir := filepath.Join(r.dir, "certs")
	if _, err := certs.Init(certs.InitOptions{Dir: dir, Cluster: cluster, Nodes: []topology.Node{node}}); err != nil {
		return err
	}
	files := certs.FilesIn(dir, node)
	signer, err := certs.Load(certs.Options{Files: files, Cluster: cluster, Node: node})
	if err != nil {
		return err
	}
	verifier, err := certs.NewVerifier(files.CA, cluster)
	if err != nil {
		return err
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	r.bucket, err = objects.Open(objects.Config{
		Name: "repository of " + string(region), Endpoint: r.s3.Endpoint(), Bucket: bucketName, Prefix: prefix, Region: stack.S3Region, PathStyle: true,
		AccessKey: func() (string, error) { return r.s3.AccessKey(), nil },
		SecretKey: func() (string, error) { return r.s3.SecretKey(), nil },
	})
	if err != nil {
		return err
	}
	r.closes = append(r.closes, func() error { r.bucket.Close(); return nil })
	r.repository, err = repository.Open(ctx, repository.Config{
		Store: r.bucket, Cluster: cluster, Region: region, Verifier: verifier, Sign: signer, Recipient: identity.Recipient().String(),
		DedupeKey: func() ([]byte, error) { return bytes.Repeat([]byte("k"), 32), nil },
		Identity:  func() (string, error) { return identity.String(), nil },
	})
	return err
}

// taken is one sealed set of one engine.
type taken struct {
	set    backup.SetID
	part   backup.Part
	stages map[string]float64 // seconds
}

// take takes and seals a set, as a daemon does; prev may be nil.
func (r *rig) take(ctx context.Context, t backup.Taker, prev *backup.Manifest) (taken, error) {
	k := taken{set: backup.SetID(ulid.Make().String())}
	s := startStages(t.Engine())
	attempt := ulid.Make().String()
	a, err := r.repository.Begin(ctx, k.set, attempt, map[backup.Engine]*backup.Manifest{t.Engine(): prev})
	if err != nil {
		return k, err
	}
	s.end("begin")
	sink := a.Sink(ctx, t.Engine())
	defer sink.Close()
	m, err := t.Take(ctx, backup.Take{Set: k.set, Attempt: attempt, Prev: a.Prev(t.Engine()), Sink: sink, Progress: s.tell})
	if err != nil {
		return k, err
	}
	if s.begins {
		s.end(s.current)
	}
	if k.part, err = sink.Finish(ctx, m); err != nil {
		return k, err
	}
	if _, err = a.Seal(ctx, backup.Seal{Node: node, Parts: []backup.Part{k.part}}); err != nil {
		return k, err
	}
	s.end("finish and seal")
	k.stages = s.rounded()
	return k, nil
}

func (r *rig) manifest(ctx context.Context, k taken) (*backup.Manifest, error) {
	m, err := r.repository.Manifest(ctx, k.set, k.part)
	return &m, err
}

// stages splits the time of a take by what its progress says. Postgres speaks
// when a piece of work is done, ClickHouse when one begins.
type stages struct {
	begins  bool
	current string
	at      time.Time
	seconds map[string]float64
}

func startStages(e backup.Engine) *stages {
	return &stages{begins: e == backup.ClickHouse, current: "begin", at: time.Now(), seconds: map[string]float64{}}
}

func (s *stages) tell(p backup.Progress) {
	_, stage, _ := strings.Cut(p.Stage, ": ")
	words := slices.DeleteFunc(strings.Fields(stage), func(w string) bool { // how many there are is another matter
		_, err := strconv.Atoi(w)
		return err == nil
	})
	if stage = strings.Join(words, " "); s.begins {
		s.end(s.current)
		s.current = stage
	} else {
		s.end(stage)
	}
}

func (s *stages) end(stage string) {
	now := time.Now()
	s.seconds[stage] += now.Sub(s.at).Seconds()
	s.at = now
}

func (s *stages) rounded() map[string]float64 {
	for stage, seconds := range s.seconds {
		s.seconds[stage] = round2(seconds)
	}
	return s.seconds
}
