package config

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Postgres says how to reach the server of a region. It is backed up, and not
// replicated or promoted yet.
type Postgres struct {
	DSN Secret `yaml:"dsn" jsonschema:"required" agree:"-" jsonschema_description:"Reference to a libpq URL or a line of key=value, TLS included, of a user with the REPLICATION attribute."`
}

// Repository is the place of a region's recovery sets: a folder in a bucket
// that speaks S3.
type Repository struct {
	Endpoint  string   `yaml:"endpoint" jsonschema_description:"URL of the store, https; http is for loopback alone. Absent: AWS's own for the region."`
	Bucket    string   `yaml:"bucket" jsonschema:"required" jsonschema_description:"Name of the bucket."`
	Prefix    string   `yaml:"prefix" jsonschema_description:"Folder within the bucket, without slashes at its ends. Absent: the whole bucket. No two regions share one."`
	Region    string   `yaml:"region" jsonschema_description:"The store's own name for its region, which requests are signed for."`
	PathStyle bool     `yaml:"path_style" jsonschema_description:"true: the bucket is in the path. false: in the host name. Default: true when an endpoint is given."`
	AccessKey Secret   `yaml:"access_key" jsonschema:"required" agree:"-" jsonschema_description:"Reference to the access key id. It needs to list, read and write; not to delete."`
	SecretKey Secret   `yaml:"secret_key" jsonschema:"required" agree:"-" jsonschema_description:"Reference to the secret access key."`
	TLS       *StoreCA `yaml:"tls" agree:"-" jsonschema_description:"Whom to trust. Absent: the host's own roots."`
	Recipient string   `yaml:"recipient" jsonschema:"required" jsonschema_description:"age recipient (age1…) that blobs are encrypted to: all of Postgres. Manifests, seals and packs that ClickHouse writes are not. Its private key is in no daemon that only backs up."`
	DedupeKey Secret   `yaml:"dedupe_key" jsonschema:"required" agree:"-" jsonschema_description:"Reference to the key by which equal pieces are known again without a name telling what they are. The same for the life of the repository."`
	RateLimit Rate     `yaml:"rate_limit" jsonschema_description:"Bytes per second to and from the store, such as 50MB/s. Absent: no limit."`
}

// StoreCA names whom to trust where nothing is presented in return.
type StoreCA struct {
	CA string `yaml:"ca" jsonschema_description:"File with the certificates of the authorities to trust."`
}

// Backup says which recovery sets are taken. Without it none are, also by hand.
type Backup struct {
	Schedule schedule.Schedule `yaml:"schedule" jsonschema_description:"Cron line in UTC: minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly. Absent: by hand alone."`
	CatchUp  schedule.CatchUp  `yaml:"catch_up" jsonschema_description:"latest: after an outage the newest slot is taken, however late. skip: only one that is not late."`
	Regions  []topology.Region `yaml:"regions" jsonschema_description:"Whose stores are backed up. Absent: each region that has a repository."`
	Engines  []Engine          `yaml:"engines" jsonschema_description:"What a set contains. Absent: all that a region has."`
	Timeout  time.Duration     `yaml:"timeout" jsonschema_description:"Bound of one attempt at a set."`
}

// Drill says how recovery sets are proven: one is restored for real into a
// place of its own, compared, and taken away again.
type Drill struct {
	Schedule schedule.Schedule `yaml:"schedule" jsonschema_description:"Cron line in UTC, as in backup. Absent: by hand alone."`
	CatchUp  schedule.CatchUp  `yaml:"catch_up" jsonschema_description:"latest: after an outage the newest slot is taken, however late. skip: only one that is not late."`
	Region   topology.Region   `yaml:"region" jsonschema:"required" jsonschema_description:"The region whose daemon drills. It alone holds the identity."`
	Of       []topology.Region `yaml:"of" jsonschema_description:"Whose sets are drilled, newest first. Absent: those of each region that has a repository."`
	Timeout  time.Duration     `yaml:"timeout" jsonschema_description:"Bound of one drill."`
	Identity Secret            `yaml:"identity" jsonschema:"required" agree:"-" jsonschema_description:"Reference to the age identity that can read the sets."`
	Target   DrillTarget       `yaml:"target" jsonschema_description:"Where sets are restored to. Never a server of production."`
}

// DrillTarget holds a place for each engine that has something to restore.
type DrillTarget struct {
	ClickHouse *DrillClickHouse `yaml:"clickhouse" jsonschema_description:"A server for drills. Needed when sets contain clickhouse."`
	Postgres   *DrillPostgres   `yaml:"postgres" agree:"-" jsonschema_description:"A place for a server that a drill starts and stops. Needed when sets contain postgres."`
}

// DrillClickHouse is a server that serves nobody but drills.
type DrillClickHouse struct {
	Addresses        []string                   `yaml:"addresses" jsonschema:"required" jsonschema_description:"host:port of the native protocol. An address of a region's clickhouse is refused."`
	User             string                     `yaml:"user" agree:"-" jsonschema_description:"Name of the user; it creates and drops databases."`
	Password         Secret                     `yaml:"password" agree:"-" jsonschema_description:"Reference to the password. Absent: empty."`
	TLS              *TLS                       `yaml:"tls" agree:"-" jsonschema_description:"Encrypt; {} trusts the host's own roots. Absent: plain text."`
	DatabasePrefix   string                     `yaml:"database_prefix" jsonschema_description:"First part of the names of the databases that a drill makes and drops."`
	BackupCollection map[topology.Region]string `yaml:"backup_collection" jsonschema:"required" jsonschema_description:"For each region whose sets are drilled: name of the named collection on this server whose URL is the root of that region's repository."`
}

// DrillPostgres is where a drill runs a server of its own on this host.
type DrillPostgres struct {
	Bin       string `yaml:"bin" jsonschema:"required" jsonschema_description:"Directory of the postgres program, of the major version that is backed up."`
	Directory string `yaml:"directory" jsonschema:"required" jsonschema_description:"Directory in which a drill makes and removes one of its own. Not within the data of a node."`
	User      string `yaml:"user" jsonschema_description:"User of this host to run it as when the daemon is root, which postgres refuses to be. Absent: the daemon's own."`
}

// BackupRegions returns the regions whose stores are backed up, in order of
// name; none when there is no backup section.
func (f *Fleet) BackupRegions() []topology.Region {
	if f.Backup == nil {
		return nil
	}
	return f.withRepository(f.Backup.Regions)
}

// BackupEngines returns what a set of a region contains, in the order in which
// a set takes it: what the region has, of what is to be backed up.
func (f *Fleet) BackupEngines(region topology.Region) []string {
	r := f.Regions[region]
	has := map[backup.Engine]bool{backup.Kafka: r.Kafka != nil, backup.ClickHouse: r.ClickHouse != nil, backup.Postgres: r.Postgres != nil}
	var engines []string
	for _, e := range backup.Engines() {
		if has[e] && (f.Backup == nil || len(f.Backup.Engines) == 0 || slices.Contains(f.Backup.Engines, Engine(e))) {
			engines = append(engines, string(e))
		}
	}
	return engines
}

// DrillOf returns the regions whose sets are drilled, in order of name; none
// when there is no drill section.
func (f *Fleet) DrillOf() []topology.Region {
	if f.Drill == nil {
		return nil
	}
	return f.withRepository(f.Drill.Of)
}

// withRepository returns the regions named, or all when none is, that have a
// repository.
func (f *Fleet) withRepository(named []topology.Region) []topology.Region {
	return slices.DeleteFunc(f.RegionNames(), func(r topology.Region) bool {
		return f.Regions[r].Repository == nil || len(named) > 0 && !slices.Contains(named, r)
	})
}
