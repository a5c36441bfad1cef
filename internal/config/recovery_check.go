package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$`)
	folderName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)
)

// backedUp checks what a region says for its backups.
func (c *checker) backedUp(path string, r Region) {
	if ch := r.ClickHouse; ch != nil {
		if ch.BackupCollection != "" {
			c.identifier(path+".clickhouse.backup_collection", ch.BackupCollection)
		}
		c.databases(path+".clickhouse.databases", ch.Databases)
	}
	if pg := r.Postgres; pg != nil {
		c.need(path+".postgres.dsn", pg.DSN.Reference(), "dsn: file:/etc/holdfast/postgres.dsn")
	}
	if r.Repository != nil {
		c.repository(path+".repository", *r.Repository)
	}
}

func (c *checker) databases(path string, names []string) {
	if names != nil && len(names) == 0 {
		c.refuse(path, "is empty", "no table would be in any set", "remove it for the database of the event tables")
	}
	for i, name := range names {
		here := fmt.Sprintf("%s[%d]", path, i)
		c.need(here, name, "")
		if slices.Index(names, name) < i {
			c.refuse(here, shorten(name)+" is in the list twice", "", "remove one")
		}
		if slices.Contains([]string{"system", "information_schema"}, strings.ToLower(name)) {
			c.refuse(here, name+" belongs to the server", "it is made anew by each server and cannot be restored into another", "remove it")
		}
	}
}

func (c *checker) repository(path string, r Repository) {
	c.endpoint(path, r)
	switch {
	case r.Bucket == "":
		c.need(path+".bucket", r.Bucket, "bucket: NAME")
	case !bucketName.MatchString(r.Bucket):
		c.refuse(path+".bucket", fmt.Sprintf("%q is not the name of a bucket", shorten(r.Bucket)), "", "3 to 63 letters, digits, dots and dashes; a folder goes under prefix")
	}
	if r.Prefix != "" && (!folderName.MatchString(r.Prefix) || len(r.Prefix) > 256) {
		c.refuse(path+".prefix", fmt.Sprintf("%q is not a folder within a bucket", shorten(r.Prefix)), "",
			"such as holdfast/us-east: letters, digits, dots and dashes, no slash at its ends")
	}
	c.need(path+".region", r.Region, "remove it for us-east-1, which most other stores take")
	c.need(path+".access_key", r.AccessKey.Reference(), "access_key: env:S3_ACCESS_KEY")
	c.need(path+".secret_key", r.SecretKey.Reference(), "secret_key: env:S3_SECRET_KEY")
	c.need(path+".dedupe_key", r.DedupeKey.Reference(), "dedupe_key: file:/etc/holdfast/dedupe.key; openssl rand -hex 32 makes one")
	c.recipient(path+".recipient", r.Recipient)
}

func (c *checker) endpoint(path string, r Repository) {
	if r.TLS != nil && r.TLS.CA != "" {
		c.absolute(path+".tls.ca", r.TLS.CA)
	}
	if r.Endpoint == "" {
		return
	}
	here := path + ".endpoint"
	u, err := url.Parse(r.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		c.refuse(here, "is not a URL with https", "", "endpoint: https://s3.us-east.example; remove it for AWS")
	case u.User != nil:
		c.refuse(here, "names a user", "the fleet file is kept in git and copied to every region", "access_key and secret_key, as references")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		c.refuse(here, "has more than a host and a port", "", "the bucket goes under bucket, and a folder under prefix")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		c.refuse(here, "is http to another host", "the names of objects, and what servers write by themselves, would cross the network readable and could be changed on the way",
			"https, with tls: {ca: /etc/holdfast/s3-ca.pem} for a certificate of your own")
	case u.Scheme == "http" && r.TLS != nil:
		c.refuse(path+".tls", "is given, and endpoint is http", "nobody would look at it", "an endpoint with https, or remove it")
	}
}

// recipient checks the one who can read what is written. What is wrong is not
// repeated: it may be the private key.
func (c *checker) recipient(path, r string) {
	if r == "" {
		c.need(path, r, "recipient: age1…; age-keygen makes the pair, and its private half stays away from here")
		return
	}
	if strings.HasPrefix(strings.ToUpper(r), "AGE-SECRET-KEY") {
		c.refuse(path, "is a private key", "the fleet file is kept in git, so whoever reads it can now read all sets that this key can", "make a new pair with age-keygen, and write the public half, age1…")
		return
	}
	if _, err := age.ParseX25519Recipient(r); err != nil {
		c.refuse(path, "is not the public half of an age key (X25519)", "", "the line that starts with age1, as age-keygen prints it")
	}
}

// loopback reports whether a host cannot be another one.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func (c *checker) identifier(path, name string) {
	if !identifier.MatchString(name) {
		c.refuse(path, fmt.Sprintf("%q is not a plain name", shorten(name)), "it is written into statements as it is", "letters, digits and underscores, 64 at most, no digit first")
	}
}

// distinct checks names that must not be in a list twice.
func distinct[T ~string](c *checker, path string, names []T) {
	for i, name := range names {
		if slices.Index(names, name) < i {
			c.refuse(fmt.Sprintf("%s[%d]", path, i), shorten(string(name))+" is in the list twice", "", "remove one")
		}
	}
}

func (c *checker) backup() {
	if b := c.fleet.Backup; b != nil {
		c.positive("backup.timeout", b.Timeout)
		distinct(c, "backup.regions", b.Regions)
		distinct(c, "backup.engines", b.Engines)
	}
}

func (c *checker) drill() {
	d := c.fleet.Drill
	if d == nil {
		return
	}
	c.need("drill.region", string(d.Region), "region: NAME of the region whose daemon drills")
	c.need("drill.identity", d.Identity.Reference(), "identity: file:/etc/holdfast/drill.age")
	c.positive("drill.timeout", d.Timeout)
	distinct(c, "drill.of", d.Of)
	if t := d.Target.ClickHouse; t != nil {
		const path = "drill.target.clickhouse"
		c.addresses(path+".addresses", t.Addresses)
		c.storeTLS(path+".tls", t.TLS)
		c.need(path+".user", t.User, "")
		c.identifier(path+".database_prefix", t.DatabasePrefix)
		for _, region := range sorted(t.BackupCollection) {
			c.identifier(path+".backup_collection."+region, t.BackupCollection[topology.Region(region)])
		}
	}
	if t := d.Target.Postgres; t != nil {
		c.absolute("drill.target.postgres.bin", t.Bin)
		c.absolute("drill.target.postgres.directory", t.Directory)
	}
}

// backups checks what backups ask of the regions.
func (c *checker) backups() {
	f := c.fleet
	c.repositoriesApart()
	if f.Backup == nil {
		return
	}
	c.haveRepository("backup", "backup.regions", f.Backup.Regions)
	taken := map[string]bool{}
	for _, name := range f.BackupRegions() {
		path, engines := "regions."+string(name), f.BackupEngines(name)
		if len(engines) == 0 {
			c.refuse(path, "is backed up and has nothing that could be", "a set would be empty, and its seal would say that all is well", "a store under it that backup.engines names, or leave it out of backup.regions")
		}
		for _, e := range engines {
			taken[e] = true
		}
		if slices.Contains(engines, string(backup.ClickHouse)) && f.Regions[name].ClickHouse.BackupCollection == "" {
			c.refuse(path+".clickhouse.backup_collection", "is missing", "the server writes its partitions by itself and must know where to: its partitions would be in no set",
				"backup_collection: NAME of a named collection with the URL of this region's repository; or leave clickhouse out of backup.engines")
		}
	}
	for i, e := range f.Backup.Engines {
		if len(f.BackupRegions()) > 0 && !taken[string(e)] {
			c.refuse(fmt.Sprintf("backup.engines[%d]", i), fmt.Sprintf("no region that is backed up has %s", e), "it would be in no set", "remove it, or add the store under its region")
		}
	}
}

// haveRepository checks the regions that a section names, or that there is one
// to stand for all.
func (c *checker) haveRepository(section, path string, named []topology.Region) {
	f := c.fleet
	const try = "repository: {bucket: …, access_key: …, secret_key: …, recipient: …, dedupe_key: …}"
	if len(named) == 0 && len(f.withRepository(nil)) == 0 {
		c.refuse(section, "no region has a repository", "sets are kept nowhere else", "under a region, "+try)
	}
	for i, name := range named {
		here := fmt.Sprintf("%s[%d]", path, i)
		if r, known := f.Regions[name]; !known {
			c.refuse(here, fmt.Sprintf("%q is not under regions", shorten(string(name))), "", c.meant(string(name)))
		} else if r.Repository == nil {
			c.refuse(here, fmt.Sprintf("region %s has no repository", name), "its sets would have no place", "under the region, "+try)
		}
	}
}

// repositoriesApart checks that no two regions write to one place.
func (c *checker) repositoriesApart() {
	f := c.fleet
	with := f.withRepository(nil)
	for i, name := range with {
		for _, other := range with[:i] {
			a, b := f.Regions[name].Repository, f.Regions[other].Repository
			if !strings.EqualFold(strings.TrimRight(a.Endpoint, "/"), strings.TrimRight(b.Endpoint, "/")) || a.Bucket != b.Bucket || a.Endpoint == "" && a.Region != b.Region {
				continue
			}
			if inFolder(a.Prefix, b.Prefix) || inFolder(b.Prefix, a.Prefix) {
				c.refuse("regions."+string(name)+".repository", fmt.Sprintf("is the place of region %s too, or lies within it", other),
					"each region's sets stand alone; what sweeps one repository must never meet another one's objects", "another bucket, or prefixes of which neither lies within the other")
			}
		}
	}
}

// inFolder reports whether the folder name is root or lies below it; the empty
// root holds everything.
func inFolder(name, root string) bool {
	return root == "" || name == root || strings.HasPrefix(name, root+"/")
}

// drills checks what drills ask of the regions, and that they stay away from
// production.
func (c *checker) drills() {
	f, d := c.fleet, c.fleet.Drill
	if d == nil {
		return
	}
	if _, known := f.Regions[d.Region]; d.Region != "" && !known {
		c.refuse("drill.region", fmt.Sprintf("%q is not under regions", shorten(string(d.Region))), "its daemon drills", c.meant(string(d.Region)))
	}
	c.haveRepository("drill", "drill.of", d.Of)
	needs := map[string]topology.Region{}
	for _, name := range f.DrillOf() {
		for _, e := range f.BackupEngines(name) {
			if _, known := needs[e]; !known {
				needs[e] = name
			}
		}
	}
	c.drillClickHouse(needs)
	c.drillPostgres(needs)
}

func (c *checker) drillClickHouse(needs map[string]topology.Region) {
	f, t := c.fleet, c.fleet.Drill.Target.ClickHouse
	const path = "drill.target.clickhouse"
	if t == nil {
		if of, needed := needs[string(backup.ClickHouse)]; needed {
			c.refuse(path, "is missing", fmt.Sprintf("sets of region %s contain clickhouse, and what is not restored is not proven", of),
				"clickhouse: {addresses: [drill.example:9000], backup_collection: {"+string(of)+": NAME}}: a server that serves nobody else")
		}
		return
	}
	for _, name := range f.DrillOf() {
		if slices.Contains(f.BackupEngines(name), string(backup.ClickHouse)) && t.BackupCollection[name] == "" {
			if _, written := t.BackupCollection[name]; !written { // an empty name is refused by itself
				c.refuse(path+".backup_collection", fmt.Sprintf("names no collection for region %s", name), "the drill's server reads packs by itself and must know where from",
					fmt.Sprintf("%s: NAME of a named collection on the drill's server with the URL of that region's repository", name))
			}
		}
	}
	for _, name := range sorted(t.BackupCollection) {
		if _, known := f.Regions[topology.Region(name)]; !known {
			c.refuse(path+".backup_collection."+name, fmt.Sprintf("%q is not under regions", shorten(name)), "", c.meant(name))
		}
	}
	production := f.production()
	for i, address := range t.Addresses {
		for _, same := range f.dialled(address) {
			if of, found := production[same]; found {
				c.refuse(fmt.Sprintf("%s.addresses[%d]", path, i), fmt.Sprintf("%s is clickhouse of region %s", shorten(address), of),
					"a drill makes, changes and drops databases, and must not be able to reach one that is in use", "a server of its own, that nobody else uses")
				break
			}
		}
	}
}

// production maps each address at which a node may reach a region's
// clickhouse to that region.
func (f *Fleet) production() map[string]topology.Region {
	addresses := map[string]topology.Region{}
	for _, name := range f.RegionNames() {
		if ch := f.Regions[name].ClickHouse; ch != nil {
			for _, a := range ch.Addresses {
				for _, same := range f.dialled(a) {
					addresses[same] = name
				}
			}
		}
	}
	return addresses
}

// dialled lists what an address of the file stands for: itself, and what each
// node dials for it.
func (f *Fleet) dialled(address string) []string {
	list := []string{plainAddress(address)}
	for _, name := range f.NodeNames() {
		list = append(list, plainAddress(f.Nodes[name].Dial(address)))
	}
	return list
}

// plainAddress spells host:port in one way, so that two spellings of one place
// are seen to be one. It asks no resolver: two names of one host stay two, and
// the drill itself compares the servers behind them.
func plainAddress(a string) string {
	host, port, err := net.SplitHostPort(strings.ToLower(a))
	if err != nil {
		return strings.ToLower(a)
	}
	host = strings.TrimSuffix(host, ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	if host == "localhost" || host == "::1" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strings.TrimLeft(port, "0"))
}

// drillDirectoryMax is what is left of a unix socket's path for the folder of
// drills: below it come /holdfast-drill-XXXX-ULID/s/.s.PGSQL.5432.
const drillDirectoryMax = 44

func (c *checker) drillPostgres(needs map[string]topology.Region) {
	f, t := c.fleet, c.fleet.Drill.Target.Postgres
	const path = "drill.target.postgres"
	if t == nil {
		if of, needed := needs[string(backup.Postgres)]; needed {
			c.refuse(path, "is missing", fmt.Sprintf("sets of region %s contain postgres, and what is not restored is not proven", of),
				"postgres: {bin: /usr/lib/postgresql/14/bin, directory: /var/lib/holdfast-drill}")
		}
		return
	}
	if n := len(filepath.Clean(t.Directory)); n > drillDirectoryMax {
		c.refuse(path+".directory", fmt.Sprintf("is %d bytes long, at most %d fit", n, drillDirectoryMax),
			"a unix socket's path has room for 107 bytes, and the drill's own folder takes the rest", "directory: /var/lib/holdfast-drill")
	}
	for _, name := range f.NodeNames() {
		data, directory := filepath.Clean(f.Nodes[name].Data), filepath.Clean(t.Directory)
		if inDirectory(directory, data) || inDirectory(data, directory) {
			c.refuse(path+".directory", fmt.Sprintf("%s and the data of node %s (%s) lie within each other", shorten(t.Directory), name, f.Nodes[name].Data),
				"a drill fills and removes directories there, and a full disk would stop the node", "a directory of its own, such as /var/lib/holdfast-drill")
			return
		}
	}
}

// inDirectory reports whether a clean path is root or lies below it.
func inDirectory(name, root string) bool {
	return name == root || strings.HasPrefix(name, strings.TrimSuffix(root, "/")+"/")
}
