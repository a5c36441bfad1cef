package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/integration/stack"
)

func main() {
	dir := flag.String("dir", "build/stack", "where data, logs and endpoints.yaml go")
	regions := flag.String("regions", "us-east,eu-west", "names of the regions")
	version := flag.String("kafka", "", "Kafka version: "+strings.Join(stack.KafkaVersions(), ", ")+" (default $HOLDFAST_KAFKA, then "+stack.DefaultKafka+")")
	backups := flag.Bool("backups", false, "also a Postgres in each region, and one S3 with a bucket for each")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the default holds again: a second one ends us at
	// once, and the services with us.
	context.AfterFunc(ctx, stop)
	u := &up{dir: *dir, out: os.Stdout, backups: *backups}
	err := u.run(ctx, strings.Split(*regions, ","), *version)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

// region is the running services of one region.
type region struct {
	name       string
	kafka      *stack.Kafka
	clickhouse *stack.ClickHouse
	postgres   *stack.Postgres // nil without backups
}

type up struct {
	dir     string
	backups bool
	s3      *stack.S3 // nil without backups
	out     io.Writer
	mu      sync.Mutex // guards out and regions
	regions []*region
}

// Write makes up the place for the progress lines of several services at once.
func (u *up) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.out.Write(b)
}

func (u *up) say(format string, args ...any) { fmt.Fprintf(u, format+"\n", args...) }

func (u *up) run(ctx context.Context, names []string, version string) (err error) {
	if u.dir, err = filepath.Abs(u.dir); err != nil {
		return fmt.Errorf("find the folder: %w", err)
	}
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	unlock, err := lock(filepath.Join(u.dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := u.removeData(); err != nil { // of a run that was killed
		return err
	}
	defer func() { err = errors.Join(err, u.clean()) }()

	begun := time.Now()
	if err := stack.InstallKafka(ctx, version, u); err != nil {
		return err
	}
	if err := stack.InstallClickHouse(ctx, u); err != nil {
		return err
	}
	if u.backups {
		if err := errors.Join(stack.InstallS3(ctx, "", u), stack.InstallPostgres(ctx, "", u)); err != nil {
			return err
		}
	}
	u.say("starting %d regions: %s", len(names), strings.Join(names, ", "))
	if err := u.start(ctx, names, version); err != nil {
		if ctx.Err() != nil {
			u.say("interrupted while starting")
			return nil
		}
		return err
	}
	path := u.endpointsPath()
	if err := u.writeEndpoints(path); err != nil {
		return err
	}
	u.say("")
	if u.s3 != nil {
		u.say("%-10s s3          %s  (%s %s)", "", u.s3.Endpoint(), u.s3.Kind(), u.s3.Version())
	}
	for _, r := range u.regions {
		u.say("%-10s kafka       %s  (version %s, cluster %s)", r.name, r.kafka.Bootstrap(), r.kafka.Version(), r.kafka.ClusterID())
		u.say("%-10s clickhouse  %s  (http %s, user %s, database %s)", "", r.clickhouse.Address(), r.clickhouse.HTTPAddress(), r.clickhouse.User(), r.clickhouse.Database())
		if r.postgres != nil {
			u.say("%-10s postgres    %s  (version %s, database %s)", "", r.postgres.Address(), r.postgres.Version(), r.postgres.Database())
			u.say("%-10s bucket      %s  (collection %s of clickhouse)", "", bucket(r.name), collection)
		}
	}
	u.say("")
	u.say("up after %.1f s; addresses are in %s", time.Since(begun).Seconds(), path)
	u.say("Ctrl-C stops everything")
	u.watch(ctx)
	return nil
}

// lock keeps a second run out of the same folder. The kernel gives it back
// when we end.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w; another stack runs there: stop it, or choose a folder with -dir", path, err)
	}
	return func() { _ = f.Close() }, nil
}

func (u *up) dataDir() string       { return filepath.Join(u.dir, "data") }
func (u *up) endpointsPath() string { return filepath.Join(u.dir, "endpoints.yaml") }

func (u *up) removeData() error {
	return errors.Join(os.RemoveAll(u.dataDir()), os.RemoveAll(u.endpointsPath()))
}

// collection is what each region's ClickHouse calls its own bucket.
const collection = "holdfast"

func bucket(region string) string { return "holdfast-" + region }

// startS3 goes first: the other services are told of it.
func (u *up) startS3(ctx context.Context, names []string) (err error) {
	u.s3, err = stack.StartS3(ctx, stack.S3Options{Dir: filepath.Join(u.dataDir(), "s3"), Log: filepath.Join(u.dir, "logs", "s3.log"), Progress: u})
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := u.s3.CreateBucket(ctx, bucket(name)); err != nil {
			return err
		}
	}
	return nil
}

// start brings all services up at the same time.
func (u *up) start(ctx context.Context, names []string, version string) error {
	if u.backups {
		if err := u.startS3(ctx, names); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		r := &region{name: name}
		u.regions = append(u.regions, r)
		place := func(service string) (dir, log string) {
			return filepath.Join(u.dataDir(), name, service), filepath.Join(u.dir, "logs", name+"-"+service+".log")
		}
		g.Go(func() (err error) {
			dir, log := place("kafka")
			r.kafka, err = stack.StartKafka(ctx, stack.KafkaOptions{Name: name + " kafka", Version: version, Dir: dir, Log: log, Progress: u})
			return err
		})
		g.Go(func() (err error) {
			dir, log := place("clickhouse")
			o := stack.ClickHouseOptions{Name: name + " clickhouse", Dir: dir, Log: log, Progress: u}
			if u.s3 != nil {
				o.Collections = map[string]stack.Collection{collection: {URL: u.s3.Endpoint() + "/" + bucket(name), AccessKey: u.s3.AccessKey(), SecretKey: u.s3.SecretKey()}}
			}
			r.clickhouse, err = stack.StartClickHouse(ctx, o)
			return err
		})
		if !u.backups {
			continue
		}
		g.Go(func() (err error) {
			dir, log := place("postgres")
			r.postgres, err = stack.StartPostgres(ctx, stack.PostgresOptions{Name: name + " postgres", Dir: dir, Log: log, Progress: u})
			return err
		})
	}
	return g.Wait()
}

// service is what the end of a run needs of all of them alike.
type service interface {
	Name() string
	LogPath() string
	Exited() <-chan struct{}
	Stop(context.Context) error
	Close() error
}

func (u *up) services() []service {
	var all []service
	for _, r := range u.regions {
		if r.kafka != nil {
			all = append(all, r.kafka)
		}
		if r.clickhouse != nil {
			all = append(all, r.clickhouse)
		}
		if r.postgres != nil {
			all = append(all, r.postgres)
		}
	}
	if u.s3 != nil {
		all = append(all, u.s3)
	}
	return all
}

// watch waits for ctx, and tells when a service ends by itself.
func (u *up) watch(ctx context.Context) {
	for _, s := range u.services() {
		ended := s.Exited()
		go func() { // ends with ctx
			select {
			case <-ended:
				if ctx.Err() == nil {
					u.say("%s ended by itself; its log: %s", s.Name(), s.LogPath())
				}
			case <-ctx.Done():
			}
		}()
	}
	<-ctx.Done()
}

// clean stops all services in order and removes their data; logs stay.
func (u *up) clean() error {
	u.say("")
	u.say("stopping")
	begun := time.Now()
	var g errgroup.Group
	for _, s := range u.services() {
		g.Go(func() error { return errors.Join(s.Stop(context.Background()), s.Close()) })
	}
	err := errors.Join(g.Wait(), u.removeData())
	u.say("stopped after %.1f s; logs are in %s", time.Since(begun).Seconds(), filepath.Join(u.dir, "logs"))
	return err
}

type endpoints struct {
	S3      *s3Endpoint         `yaml:"s3,omitempty"`
	Regions map[string]endpoint `yaml:"regions"`
}

type s3Endpoint struct {
	URL       string `yaml:"url"`
	Region    string `yaml:"region"`
	AccessKey string `yaml:"access_key"`
	SecretKey string `yaml:"secret_key"`
	Log       string `yaml:"log"`
}

type endpoint struct {
	Kafka struct {
		Bootstrap string `yaml:"bootstrap"`
		ClusterID string `yaml:"cluster_id"`
		Version   string `yaml:"version"`
		Log       string `yaml:"log"`
	} `yaml:"kafka"`
	ClickHouse struct {
		Address  string `yaml:"address"`
		HTTP     string `yaml:"http"`
		User     string `yaml:"user"`
		Password string `yaml:"password"`
		Database string `yaml:"database"`
		Log      string `yaml:"log"`
	} `yaml:"clickhouse"`
	Postgres *postgresEndpoint `yaml:"postgres,omitempty"`
	Bucket   string            `yaml:"bucket,omitempty"`
}

type postgresEndpoint struct {
	DSN       string `yaml:"dsn"`
	BackupDSN string `yaml:"backup_dsn"`
	Bin       string `yaml:"bin"`
	Version   string `yaml:"version"`
	Log       string `yaml:"log"`
}

// writeEndpoints lets the file appear whole: others wait for it.
func (u *up) writeEndpoints(path string) error {
	all := endpoints{Regions: map[string]endpoint{}}
	if u.s3 != nil {
		all.S3 = &s3Endpoint{URL: u.s3.Endpoint(), Region: stack.S3Region, AccessKey: u.s3.AccessKey(), SecretKey: u.s3.SecretKey(), Log: u.s3.LogPath()}
	}
	for _, r := range u.regions {
		var e endpoint
		e.Kafka.Bootstrap, e.Kafka.ClusterID = r.kafka.Bootstrap(), r.kafka.ClusterID()
		e.Kafka.Version, e.Kafka.Log = r.kafka.Version(), r.kafka.LogPath()
		e.ClickHouse.Address, e.ClickHouse.HTTP = r.clickhouse.Address(), r.clickhouse.HTTPAddress()
		e.ClickHouse.User, e.ClickHouse.Password = r.clickhouse.User(), r.clickhouse.Password()
		e.ClickHouse.Database, e.ClickHouse.Log = r.clickhouse.Database(), r.clickhouse.LogPath()
		if p := r.postgres; p != nil {
			e.Bucket = bucket(r.name)
			e.Postgres = &postgresEndpoint{DSN: p.DSN(), BackupDSN: p.BackupDSN(), Bin: p.BinDir(), Version: p.Version(), Log: p.LogPath()}
		}
		all.Regions[r.name] = e
	}
	b, err := yaml.Marshal(all)
	if err != nil {
		return fmt.Errorf("write the endpoints: %w", err)
	}
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("write the endpoints: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write the endpoints: %w", err)
	}
	return nil
}
