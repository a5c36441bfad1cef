package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/goccy/go-yaml"

	"github.com/holdfast-dr/holdfast/integration/stack"
)

// Archive is the place of the one S3 server that holds every region's
// repository, apart from all regions.
const Archive = "archive"

const (
	clickhousePassword = "env:HOLDFAST_TEST_CLICKHOUSE"
	ownCollection      = "holdfast" // each region's name for its own repository
)

// Backups make the fleet able to take recovery sets: an S3 server in a place
// of its own with a bucket for each region, keys, and named collections. The
// daemons reach it through the links; the ClickHouse servers reach it
// directly, because they cannot be given a dialer.
type Backups struct {
	Kind     string   // of S3; default $HOLDFAST_S3, then versitygw
	Schedule string   // default: by hand alone
	CatchUp  string   // default: the product's
	Regions  []string // default: the product's, all
	Engines  []string // default: the product's, all
	Timeout  time.Duration
	Drill    *Drills // nil: none
}

// Drills prove recovery sets on a ClickHouse of their own and on Postgres
// servers that they start themselves.
type Drills struct {
	Schedule string // default: by hand alone
	CatchUp  string
	Region   string   // whose daemon drills; default the last region
	Of       []string // default: all but Region
	Timeout  time.Duration
}

// keys are the files that the fleet file refers to; all are 0600.
type keys struct {
	dir        string
	identities map[string]*age.X25519Identity // by region
}

// Bucket is the bucket of a region's repository.
func Bucket(region string) string { return "holdfast-" + region }

// Collection is the name that every other ClickHouse has for a region's
// repository.
func Collection(region string) string {
	return ownCollection + "_" + strings.ReplaceAll(region, "-", "_")
}

// Identity is the file with the private keys of all repositories.
func (f *Fleet) Identity() string { return filepath.Join(f.keys.dir, "drill.age") }

func (f *Fleet) startArchive(ctx context.Context) (err error) {
	b := f.options.Backups
	if b == nil {
		return nil
	}
	f.Archive, err = stack.StartS3(ctx, stack.S3Options{Name: Archive, Kind: b.Kind, Dir: filepath.Join(f.dir, Archive), Progress: f.options.Progress})
	if err != nil {
		return err
	}
	f.addresses[Archive] = []string{f.Archive.Address()}
	for _, region := range f.options.Regions {
		if err := f.Archive.CreateBucket(ctx, Bucket(region)); err != nil {
			return err
		}
	}
	return nil
}

// collections are what the ClickHouse of a region can name: its own repository
// and, under their own names, all of them.
func (f *Fleet) collections(region string) map[string]stack.Collection {
	if f.Archive == nil {
		return nil
	}
	of := func(region string) stack.Collection {
		return stack.Collection{URL: f.Archive.Endpoint() + "/" + Bucket(region), AccessKey: f.Archive.AccessKey(), SecretKey: f.Archive.SecretKey()}
	}
	all := map[string]stack.Collection{}
	for _, r := range f.options.Regions {
		all[Collection(r)] = of(r)
	}
	if region != "" {
		all[ownCollection] = of(region)
	}
	return all
}

func (f *Fleet) drillOptions() *Drills {
	if f.options.Backups == nil || f.options.Backups.Drill == nil {
		return nil
	}
	d := *f.options.Backups.Drill
	if d.Region == "" {
		d.Region = f.options.Regions[len(f.options.Regions)-1]
	}
	if len(d.Of) == 0 {
		d.Of = slices.DeleteFunc(slices.Clone(f.options.Regions), func(r string) bool { return r == d.Region })
	}
	return &d
}

// startDrill starts the server that drills restore to; nobody else uses it.
func (f *Fleet) startDrill(ctx context.Context) (err error) {
	if f.drillOptions() == nil {
		return nil
	}
	f.Drill, err = stack.StartClickHouse(ctx, stack.ClickHouseOptions{
		Name: "clickhouse-drill", Dir: filepath.Join(f.dir, "drill", "clickhouse"), Collections: f.collections(""), Progress: f.options.Progress})
	if err != nil || !f.options.Postgres {
		return err
	}
	// Whoever a drill's Postgres runs as must get here, past our own folders.
	if f.drills, err = os.MkdirTemp("", "holdfast-drill-*"); err != nil {
		return err
	}
	return os.Chmod(f.drills, 0o711)
}

// writeKeys makes all secrets anew.
func (f *Fleet) writeKeys() error {
	f.keys.dir = filepath.Join(f.dir, "keys")
	if f.options.Backups == nil && !f.options.Postgres {
		return nil
	}
	if err := os.MkdirAll(f.keys.dir, 0o700); err != nil {
		return err
	}
	write := func(name, value string) error {
		return os.WriteFile(filepath.Join(f.keys.dir, name), []byte(value+"\n"), 0o600)
	}
	for _, region := range f.options.Regions {
		if p := f.Regions[region].Postgres; p != nil {
			if err := write("postgres-"+region, p.BackupDSN()); err != nil {
				return err
			}
		}
	}
	if f.options.Backups == nil {
		return nil
	}
	f.keys.identities = map[string]*age.X25519Identity{}
	var identities []string
	for _, region := range f.options.Regions {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return fmt.Errorf("make the identity of region %s: %w", region, err)
		}
		f.keys.identities[region] = identity
		identities = append(identities, identity.String())
		var dedupe [32]byte
		_, _ = rand.Read(dedupe[:]) // never fails, by its own contract
		if err := write("dedupe-"+region, hex.EncodeToString(dedupe[:])); err != nil {
			return err
		}
	}
	return errors.Join(
		write(filepath.Base(f.Identity()), strings.Join(identities, "\n")),
		write("s3-access", f.Archive.AccessKey()), write("s3-secret", f.Archive.SecretKey()))
}

func (f *Fleet) secret(name string) string { return "file:" + filepath.Join(f.keys.dir, name) }

// recovery are the keys of one region in the fleet file.
func (f *Fleet) recovery(region string) yaml.MapSlice {
	var keys yaml.MapSlice
	if f.options.Postgres {
		keys = append(keys, yaml.MapItem{Key: "postgres", Value: map[string]string{"dsn": f.secret("postgres-" + region)}})
	}
	if f.options.Backups != nil {
		keys = append(keys, yaml.MapItem{Key: "repository", Value: yaml.MapSlice{
			{Key: "endpoint", Value: f.Archive.Endpoint()}, {Key: "bucket", Value: Bucket(region)}, {Key: "region", Value: stack.S3Region}, {Key: "path_style", Value: true},
			{Key: "access_key", Value: f.secret("s3-access")}, {Key: "secret_key", Value: f.secret("s3-secret")},
			{Key: "recipient", Value: f.keys.identities[region].Recipient().String()}, {Key: "dedupe_key", Value: f.secret("dedupe-" + region)},
		}})
	}
	return keys
}

// backupSections are the sections backup and drill of the fleet file.
func (f *Fleet) backupSections() yaml.MapSlice {
	b := f.options.Backups
	if b == nil {
		return nil
	}
	section := when(b.Schedule, b.CatchUp, b.Timeout)
	if len(b.Regions) > 0 {
		section = append(section, yaml.MapItem{Key: "regions", Value: b.Regions})
	}
	if len(b.Engines) > 0 {
		section = append(section, yaml.MapItem{Key: "engines", Value: b.Engines})
	}
	sections := yaml.MapSlice{{Key: "backup", Value: section}}
	d := f.drillOptions()
	if d == nil {
		return sections
	}
	collections := map[string]string{}
	for _, region := range d.Of {
		collections[region] = Collection(region)
	}
	target := yaml.MapSlice{{Key: "clickhouse", Value: map[string]any{
		"addresses": []string{f.Drill.Address()}, "user": f.Drill.User(), "password": clickhousePassword, "backup_collection": collections,
	}}}
	if f.options.Postgres {
		postgres := map[string]string{"bin": f.Regions[d.Region].Postgres.BinDir(), "directory": f.drills}
		if os.Geteuid() == 0 {
			postgres["user"] = "nobody"
		}
		target = append(target, yaml.MapItem{Key: "postgres", Value: postgres})
	}
	drill := append(when(d.Schedule, d.CatchUp, d.Timeout), yaml.MapSlice{
		{Key: "region", Value: d.Region}, {Key: "of", Value: d.Of}, {Key: "identity", Value: "file:" + f.Identity()}, {Key: "target", Value: target},
	}...)
	return append(sections, yaml.MapItem{Key: "drill", Value: drill})
}

func when(schedule, catchUp string, timeout time.Duration) yaml.MapSlice {
	section := yaml.MapSlice{}
	if schedule != "" {
		section = append(section, yaml.MapItem{Key: "schedule", Value: schedule})
	}
	if catchUp != "" {
		section = append(section, yaml.MapItem{Key: "catch_up", Value: catchUp})
	}
	if timeout > 0 {
		section = append(section, yaml.MapItem{Key: "timeout", Value: timeout.String()})
	}
	return section
}

func (f *Fleet) closeBackups() error {
	var errs []error
	if f.Drill != nil {
		errs = append(errs, f.Drill.Close())
	}
	if f.Archive != nil {
		errs = append(errs, f.Archive.Close())
	}
	if f.drills != "" {
		errs = append(errs, os.RemoveAll(f.drills))
	}
	return errors.Join(errs...)
}
