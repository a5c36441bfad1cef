package stack

import (
	"embed"
	"fmt"
	"os"
	"slices"
	"strings"
)

// npmPin is one package from npm.
type npmPin struct {
	pkg, version string
	sha256       string // of the package's tgz
	keep         []string
}

// chdb is ClickHouse's engine as a library.
var chdb = npmPin{
	pkg:     "@chdb/lib-linux-x64-gnu",
	version: "26.7.3-stable.1",
	sha256:  "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad",
	keep:    []string{"package/libchdb.so"},
}

// kafkaPin is one Kafka distribution from Maven; the SHA-256 of each jar is in
// pins/kafka-VERSION.sha256.
type kafkaPin struct {
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
	{DefaultKafka, []string{"org.apache.kafka:kafka_2.13:3.6.2", "org.slf4j:slf4j-reload4j:1.7.36"}, log4j1},
	{"3.9.1", []string{"org.apache.kafka:kafka_2.13:3.9.1", "org.slf4j:slf4j-reload4j:1.7.36"}, log4j1},
	{"4.4.0", []string{"org.apache.kafka:kafka_2.13:4.4.0", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"}, log4j2},
}

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

// sums reads a list in the form of sha256sum: file name to hex digest.
func (k kafkaPin) sums() (map[string]string, error) {
	list, err := pinFiles.ReadFile("pins/kafka-" + k.version + ".sha256")
	if err != nil {
		return nil, fmt.Errorf("read the pins of Kafka %s: %w", k.version, err)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(list)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || len(sum) != 64 {
			return nil, fmt.Errorf("read the pins of Kafka %s: line %q is no SHA-256 and name", k.version, line)
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
