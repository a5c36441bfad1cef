package tidy

import (
	"path"
	"slices"
	"strings"
)

// Module is the import path that all packages of ours start with.
const Module = "github.com/holdfast-dr/holdfast"

// Layer is the place of a package in the tree; it decides what the package
// may import.
type Layer string

// The layers, from the bottom up.
const (
	Leaf        Layer = "pure leaf"     // internal/topology and other small pure packages
	Consensus   Layer = "consensus"     // the replicated state and its rules
	Domain      Layer = "domain"        // replicate, backup, restore, failover: they decide
	Service     Layer = "service"       // internal/agent, schedule, config, httpapi, ...: shared machinery
	Client      Layer = "client leaf"   // internal/kafka, ...: the only places that dial a store
	Driver      Layer = "driver"        // DOMAIN/NAME: they do
	Suite       Layer = "test suite"    // DOMAIN/DOMAINtest: the contract that drivers must pass
	Daemon      Layer = "daemon"        // internal/daemon, internal/recovery: they wire
	Command     Layer = "command"       // cmd/holdfast
	Integration Layer = "integration"   // tests, rig and demo on real services
	House       Layer = "house keeping" // internal/tidy
	Outside     Layer = "outside the map"
)

// leaves are the small packages that everything may import, the domains too. A
// package belongs here when it imports nothing of ours but leaves, and when
// what it gives to a domain can be replaced in a test: a value or an interface.
var leaves = []string{"internal/topology", "internal/clock", "internal/retry"}

var domains = []string{"replicate", "backup", "restore", "failover"}

// library is a third-party module with a place of its own.
type library struct {
	prefix string   // import path, matched with everything below it
	homes  []string // folders that may import it
	types  []string // names of drivers that may use its types, though not dial
	dial   []string // functions that open a connection: for homes only
}

// libraries lists the libraries that must not spread. A library that is not
// listed may be imported by every layer but the domains.
var libraries = []library{
	{prefix: "github.com/twmb/franz-go", homes: []string{"internal/kafka"}, types: []string{"kafka"}, dial: []string{"kgo.NewClient"}},
	{prefix: "github.com/ClickHouse/", homes: []string{"internal/clickhouse"}, types: []string{"clickhouse"}, dial: []string{"clickhouse.Open", "clickhouse.OpenDB"}},
	{prefix: "github.com/jackc/pgx", homes: []string{"internal/postgres"}, types: []string{"postgres"}, dial: []string{"pgx.Connect", "pgx.ConnectConfig", "pgconn.Connect", "pgconn.ConnectConfig"}},
	{prefix: "github.com/redis/", homes: []string{"internal/redis"}, types: []string{"redis"}, dial: []string{"redis.NewClient", "redis.NewUniversalClient"}},
	{prefix: "github.com/aws/", homes: []string{"internal/objects"}, types: []string{"bucket", "repository"}, dial: []string{"s3.New", "s3.NewFromConfig"}},
	{prefix: "github.com/hashicorp/raft", homes: []string{"consensus/raft"}},
	{prefix: "github.com/danielgtaylor/huma", homes: []string{"internal/httpapi"}},
	{prefix: "github.com/goccy/go-yaml", homes: []string{"internal/config"}},
	{prefix: "github.com/invopop/jsonschema", homes: []string{"internal/config"}},
	{prefix: "github.com/robfig/cron", homes: []string{"internal/schedule", "internal/config"}},
	{prefix: "github.com/spf13/cobra", homes: []string{"cmd/holdfast"}},
}

// testOnly are libraries that must never reach the product's binary.
var testOnly = []string{
	"testing",
	"github.com/anishathalye/porcupine",
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal",
	"github.com/twmb/franz-go/pkg/kfake",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
}

// pure are the libraries that a domain may import: they have no I/O.
var pure = []string{
	"github.com/prometheus/client_golang/prometheus",
	"github.com/cenkalti/backoff",
	"github.com/oklog/ulid",
	"golang.org/x/sync",
	"golang.org/x/time/rate",
}

// effects are the parts of the standard library that reach outside the
// process. A domain decides; its drivers reach.
var effects = []string{"database/sql", "net", "net/http", "net/rpc", "os", "os/exec", "os/signal", "plugin", "syscall"}

// topLevel are the names allowed at the top of the tree: `ls` is the index.
var topLevel = []string{
	"cmd", "replicate", "backup", "restore", "failover", "consensus", "deploy", "integration", "internal", "docs",
	"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "CHANGELOG.md",
}

// places are texts that belong to one machine or one download host and not to
// the project. They are split so that this file does not name them.
var places = []string{
	"/work" + "/main", "/work" + "/shared", ".." + "/shared", "/root" + "/",
	"registry" + ".npmjs.org", "pypi" + ".org", "files" + ".pythonhosted.org",
	"repo1" + ".maven.org", "repo" + ".maven.apache.org", "proxy" + ".golang.org",
}

// layerOf places a folder, given relative to the top of the module.
func layerOf(dir string) Layer {
	first, rest, nested := strings.Cut(dir, "/")
	switch {
	case slices.Contains(leaves, dir):
		return Leaf
	case dir == "consensus":
		return Consensus
	case slices.Contains(domains, dir):
		return Domain
	case nested && (first == "consensus" || slices.Contains(domains, first)):
		if strings.Split(rest, "/")[0] == first+"test" {
			return Suite
		}
		return Driver
	case first == "cmd":
		return Command
	case first == "integration":
		return Integration
	case within(dir, "internal/daemon"), within(dir, "internal/recovery"):
		return Daemon
	case within(dir, "internal/tidy"):
		return House
	case slices.ContainsFunc(libraries, func(l library) bool {
		return len(l.dial) > 0 && slices.ContainsFunc(l.homes, func(h string) bool { return within(dir, h) })
	}):
		return Client
	case first == "internal" && nested:
		return Service
	}
	return Outside
}

// driverOf names the driver a folder belongs to: "replicate/kafka" for
// "replicate/kafka/wire".
func driverOf(dir string) string {
	parts := strings.SplitN(dir, "/", 3)
	return path.Join(parts[:min(2, len(parts))]...)
}

// allowed says which layers a package of a layer may import. Folders of one
// layer that lie within each other are one package in several files.
var allowed = map[Layer][]Layer{
	Leaf:        {Leaf},
	Consensus:   {Leaf},
	Domain:      {Leaf, Consensus},
	Service:     {Leaf, Consensus, Domain, Service},
	Client:      {Leaf, Service},
	Suite:       {Leaf, Consensus, Domain, Suite},
	Driver:      {Leaf, Consensus, Domain, Service, Client},
	Daemon:      {Leaf, Consensus, Domain, Service, Client, Driver, Daemon},
	Command:     {Leaf, Consensus, Domain, Service, Daemon},
	Integration: {Leaf, Consensus, Domain, Service, Client, Driver, Suite, Daemon, Integration, House},
	House:       {House},
}

// instead is the advice for a refused import, by the layer that imports.
var instead = map[Layer]string{
	Leaf:        "move the code up, or the imported thing into a leaf of its own",
	Consensus:   "declare the small interface that consensus needs in consensus, and let a driver or internal/daemon fulfil it",
	Domain:      "declare the small interface that the domain needs in the domain, and let a driver fulfil it; internal/daemon joins them",
	Service:     "take an interface or a value, and let internal/daemon pass it in",
	Client:      "keep it to connection, TLS and authentication; what is done with the connection belongs to a driver",
	Suite:       "a contract suite takes the driver as an argument; the driver's own test calls it",
	Driver:      "put what both drivers need into the domain or into a client leaf, and let internal/daemon join them",
	Daemon:      "internal/daemon is below cmd and integration; move the shared part down",
	Command:     "a verb speaks to the daemon through internal/httpapi; serve goes through internal/daemon",
	Integration: "the rig is above everything but cmd; start the built binary instead",
	House:       "tidy reads the tree as text and imports nothing of it",
}

// within reports whether dir is root or lies below it.
func within(dir, root string) bool {
	return dir == root || strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/")
}
