package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/integration/stack"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Witness is the place of the node that holds no data.
const Witness = "witness"

// Options say what to run. Zero values have defaults.
type Options struct {
	Cluster     string
	Mode        string   // active or observe
	Regions     []string // default us-east and eu-west
	Dir         string   // data and logs; default a temporary folder
	Binary      string   // the holdfast binary; see Build
	Topics      []string // mirrored: regular expressions
	LocalGroups []string
	Roles       map[string]RoleOptions
	Timing      Timing
	Kafka       string // version
	Postgres    bool   // one in each region, of the default version
	Backups     *Backups
	Env         []string
	Progress    io.Writer
}

// Region is the services of one region.
type Region struct {
	Name       string
	Kafka      *stack.Kafka
	ClickHouse *stack.ClickHouse
	Postgres   *stack.Postgres // nil unless Options.Postgres
}

// Fleet is two regions, a witness, and what lies between them.
type Fleet struct {
	Links   *stack.Links
	Regions map[string]*Region
	Nodes   map[string]*Node
	Config  string            // path of the fleet file
	Archive *stack.S3         // nil unless Options.Backups
	Drill   *stack.ClickHouse // where drills restore to; nil unless Options.Backups.Drill

	options   Options
	dir       string
	sockets   string
	temporary bool
	addresses map[string][]string // by place, of everything that others dial
	authority *certs.Authority
	keys      keys   // of the backups
	drills    string // where drills make Postgres servers
}

// Build compiles the product once for a fleet. tags are build tags.
func Build(ctx context.Context, to string, tags ...string) error {
	args := []string{"build", "-o", to}
	for _, t := range tags {
		args = append(args, "-tags", t)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/holdfast-dr/holdfast/cmd/holdfast")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	return nil
}

// Start starts services and writes certificates and the fleet file. Daemons
// are started by StartNodes, or one by one.
func Start(ctx context.Context, o Options) (f *Fleet, err error) {
	if o.Cluster == "" {
		o.Cluster = "lab"
	}
	if o.Mode == "" {
		o.Mode = "active"
	}
	if len(o.Regions) == 0 {
		o.Regions = []string{"us-east", "eu-west"}
	}
	if o.Timing == (Timing{}) {
		o.Timing = TestTiming()
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	f = &Fleet{Links: stack.NewLinks(), Regions: map[string]*Region{}, Nodes: map[string]*Node{}, options: o, dir: o.Dir, addresses: map[string][]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			f = nil
		}
	}()
	if f.sockets, err = os.MkdirTemp("", "hf"); err != nil { // a socket's path has room for 107 bytes
		return f, err
	}
	if f.dir == "" {
		f.dir, f.temporary = filepath.Join(f.sockets, "data"), true
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return f, err
	}
	if err := f.startArchive(ctx); err != nil {
		return f, err
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, name := range o.Regions {
		r := &Region{Name: name}
		f.Regions[name] = r
		dir := filepath.Join(f.dir, name)
		group.Go(func() (err error) {
			r.Kafka, err = stack.StartKafka(gctx, stack.KafkaOptions{Name: "kafka-" + name, Version: o.Kafka, Dir: filepath.Join(dir, "kafka"), Progress: o.Progress})
			return err
		})
		group.Go(func() (err error) {
			r.ClickHouse, err = stack.StartClickHouse(gctx, stack.ClickHouseOptions{
				Name: "clickhouse-" + name, Dir: filepath.Join(dir, "clickhouse"), Collections: f.collections(name), Progress: o.Progress})
			return err
		})
		if o.Postgres {
			group.Go(func() (err error) {
				r.Postgres, err = stack.StartPostgres(gctx, stack.PostgresOptions{Name: "postgres-" + name, Dir: filepath.Join(dir, "postgres"), Progress: o.Progress})
				return err
			})
		}
	}
	group.Go(func() error { return f.startDrill(gctx) })
	if err := group.Wait(); err != nil {
		return f, err
	}
	for _, name := range o.Regions {
		r := f.Regions[name]
		f.addresses[name] = append(f.addresses[name], r.Kafka.Bootstrap(), r.ClickHouse.Address())
		if r.Postgres != nil {
			f.addresses[name] = append(f.addresses[name], r.Postgres.Address())
		}
		if err := f.addNode(name+"-1", name, false); err != nil {
			return f, err
		}
	}
	if f.Drill != nil {
		region := f.drillOptions().Region
		f.addresses[region] = append(f.addresses[region], f.Drill.Address())
	}
	if err := f.addNode("witness-1", Witness, true); err != nil {
		return f, err
	}
	for place, list := range f.addresses {
		f.Links.Place(place, list...)
	}
	return f, f.writeFiles()
}

func (f *Fleet) addNode(name, place string, witness bool) error {
	peer, err := stack.FreePort()
	if err != nil {
		return err
	}
	health, err := stack.FreePort()
	if err != nil {
		return err
	}
	n := &Node{
		Name: name, Place: place, Witness: witness, fleet: f,
		Data: filepath.Join(f.dir, name), Socket: filepath.Join(f.sockets, name+".sock"),
		peer: fmt.Sprintf("127.0.0.1:%d", peer), health: fmt.Sprintf("127.0.0.1:%d", health),
	}
	f.Nodes[name] = n
	f.addresses[place] = append(f.addresses[place], n.peer, n.health)
	return nil
}

func (f *Fleet) nodeNames() []string { return slices.Sorted(maps.Keys(f.Nodes)) }

func (f *Fleet) certs() string { return filepath.Join(f.dir, "certs") }

func (f *Fleet) writeFiles() error {
	var err error
	if f.authority, err = certs.NewAuthority(f.options.Cluster, time.Now()); err != nil {
		return err
	}
	if err := os.MkdirAll(f.certs(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.certs(), "ca.pem"), f.authority.CertPEM(), 0o600); err != nil {
		return err
	}
	for _, name := range f.nodeNames() {
		if err := f.certify(f.Nodes[name]); err != nil {
			return err
		}
	}
	return errors.Join(f.writeKeys(), f.WriteConfig())
}

func (f *Fleet) certify(n *Node) error {
	cert, key, err := f.authority.Issue(topology.Node(n.Name), nil, time.Now())
	if err != nil {
		return err
	}
	n.ca, n.cert, n.key = filepath.Join(f.certs(), "ca.pem"), filepath.Join(f.certs(), n.Name+".pem"), filepath.Join(f.certs(), n.Name+".key")
	return errors.Join(os.WriteFile(n.cert, cert, 0o600), os.WriteFile(n.key, key, 0o600))
}

// AddWitness makes one more node in the witness's place and writes the fleet
// file. Its daemon is not started.
func (f *Fleet) AddWitness(name string) (*Node, error) {
	if err := f.addNode(name, Witness, true); err != nil {
		return nil, err
	}
	n := f.Nodes[name]
	f.Links.Place(Witness, n.peer, n.health)
	return n, errors.Join(f.certify(n), f.WriteConfig())
}

// DropNode takes a node out of the fleet file. Its daemon is left as it is.
func (f *Fleet) DropNode(name string) error {
	n := f.Nodes[name]
	delete(f.Nodes, name)
	f.addresses[n.Place] = slices.DeleteFunc(f.addresses[n.Place], func(a string) bool { return a == n.peer || a == n.health })
	return f.WriteConfig()
}

// WriteConfig writes the fleet file again, after Options or roles changed.
func (f *Fleet) WriteConfig() error {
	b, err := f.file()
	if err != nil {
		return err
	}
	f.Config = filepath.Join(f.dir, "holdfast.yaml")
	return os.WriteFile(f.Config, b, 0o600)
}

// SetRole changes a role's options; WriteConfig and `config apply` bring it on.
func (f *Fleet) SetRole(name string, change func(*RoleOptions)) {
	r := f.options.Roles[name]
	change(&r)
	f.options.Roles[name] = r
}

// SetMode changes the fleet's mode; WriteConfig writes it.
func (f *Fleet) SetMode(mode string) { f.options.Mode = mode }

// StartNodes starts all daemons and waits until each has a leader and its
// session in the log.
func (f *Fleet) StartNodes(ctx context.Context) error {
	for _, name := range f.nodeNames() {
		if err := f.Nodes[name].Start(ctx); err != nil {
			return err
		}
	}
	for _, name := range f.nodeNames() {
		if err := f.Nodes[name].WaitJoined(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Isolate cuts a place off from all others, both ways.
func (f *Fleet) Isolate(place string) { f.eachOther(place, f.Links.CutBoth) }

// Rejoin heals what Isolate cut.
func (f *Fleet) Rejoin(place string) { f.eachOther(place, f.Links.HealBoth) }

func (f *Fleet) eachOther(place string, do func(a, b string)) {
	for other := range f.addresses {
		if other != place {
			do(place, other)
		}
	}
}

// Dir is where data and logs are.
func (f *Fleet) Dir() string { return f.dir }

// Close ends daemons, services and links, and removes what was temporary.
func (f *Fleet) Close() error {
	var errs []error
	for _, n := range f.Nodes {
		errs = append(errs, n.Kill())
	}
	for _, r := range f.Regions {
		if r.Kafka != nil {
			errs = append(errs, r.Kafka.Close())
		}
		if r.ClickHouse != nil {
			errs = append(errs, r.ClickHouse.Close())
		}
		if r.Postgres != nil {
			errs = append(errs, r.Postgres.Close())
		}
	}
	errs = append(errs, f.closeBackups())
	f.Links.Close()
	if f.sockets != "" {
		errs = append(errs, os.RemoveAll(f.sockets))
	}
	return errors.Join(errs...)
}
