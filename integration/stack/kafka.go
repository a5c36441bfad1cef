package stack

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// KafkaOptions describes one Kafka. The zero value is a broker of the default
// version on a free port, in a temporary folder.
type KafkaOptions struct {
	Name    string // in messages and file names; default "kafka"
	Version string // "3.6.2", "3.9", "4"; default $HOLDFAST_KAFKA, then DefaultKafka
	Dir     string // configuration and data; default a temporary folder
	Log     string // default NAME.log in Dir
	Port    int    // 0: a free one, kept over restarts

	// Advertise is the host:port that clients are told to use; default the
	// broker's own. Set it to a proxy to make clients of this listener go
	// through it.
	Advertise string
	// Listeners are further listeners, each with its own advertised address.
	Listeners []Listener
	// Links, Place and From put the broker into a place and let clients of the
	// places in From reach it through the links only: each gets a listener
	// that advertises its own proxy. BootstrapFrom tells the addresses. A
	// client that can be given a dialer needs none of this: see Links.Dial.
	Links *Links
	Place string
	From  []string
	// Users makes every client log in with SASL/PLAIN, under a password of
	// its own that Kafka.Password tells, and lets ACLs decide what it may do.
	// These users may do nothing until an ACL says so; Admin is always there
	// and may do everything.
	Users []string
	// Properties are added to server.properties and win over ours.
	Properties map[string]string
	// JVM options come after ours and win: "-Xmx1g", "-XX:TieredStopAtLevel=4".
	// Ours make a quick start and a small heap, not a fast broker.
	JVM []string

	Progress io.Writer // plain lines; nil: silence
}

// Listener is one more address of a broker.
type Listener struct {
	Name      string // capital letters, digits and underscores; names it in Kafka's configuration
	Port      int    // FreePort gives one
	Advertise string // host:port; default 127.0.0.1:Port
}

// Kafka is one KRaft node, broker and controller in one process.
type Kafka struct {
	*service
	set        javaSet
	node       int // its node.id
	clusterID  string
	port       int
	controller int // its port
	advertised string
	from       map[string]string // place to bootstrap address
	passwords  map[string]string // by user; nil: nobody logs in
}

// StartKafka installs the version if needed, formats the folder if it is new,
// starts the broker and returns when it serves clients. Close it after use.
func StartKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	pin, err := findKafka(o.Version)
	if err != nil {
		return nil, err
	}
	set, err := installJava(ctx, o.Progress, pin)
	if err != nil {
		return nil, fmt.Errorf("run Kafka: %w", err)
	}
	k, err := newKafka(o, set, 1)
	if err != nil {
		return nil, err
	}
	q := quorum{voters: []*Kafka{k}, clusterID: newClusterID(), passwords: newPasswords(o.Users)}
	if err := k.prepare(ctx, o, q); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	if err := k.start(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// newKafka takes the folder and the ports of one node.
func newKafka(o KafkaOptions, set javaSet, node int) (*Kafka, error) {
	s, err := newService(cmp.Or(o.Name, "kafka"), o.Dir, o.Log, o.Progress)
	if err != nil {
		return nil, err
	}
	k := &Kafka{service: s, set: set, node: node, from: map[string]string{}}
	if k.port, err = s.port(o.Port); err == nil {
		k.controller, err = s.port(0)
	}
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	k.advertised = cmp.Or(o.Advertise, loopback(k.port))
	return k, nil
}

// InstallKafka brings one version, and what it needs to run, onto this machine
// without running it.
func InstallKafka(ctx context.Context, version string, progress io.Writer) error {
	pin, err := findKafka(version)
	if err != nil {
		return err
	}
	if _, err := installJava(ctx, progress, pin); err != nil {
		return fmt.Errorf("run Kafka: %w", err)
	}
	return nil
}

// quorum is what the nodes of one cluster share.
type quorum struct {
	voters    []*Kafka
	clusterID string // of a folder that is new
	passwords map[string]string
}

func (q quorum) addresses() string {
	var all []string
	for _, k := range q.voters {
		all = append(all, fmt.Sprintf("%d@%s", k.node, loopback(k.controller)))
	}
	return strings.Join(all, ",")
}

// prepare writes the configuration and formats a new folder.
func (k *Kafka) prepare(ctx context.Context, o KafkaOptions, q quorum) error {
	if o.Links != nil {
		linked, err := k.link(o.Links, o.Place, o.From)
		if err != nil {
			return err
		}
		o.Listeners = slices.Concat(o.Listeners, linked)
	}
	k.passwords = q.passwords
	k.listens = append(k.listens, k.port)
	for _, l := range o.Listeners {
		k.listens = append(k.listens, l.Port)
	}
	properties := filepath.Join(k.dir, "server.properties")
	if err := os.WriteFile(properties, k.properties(o, q), 0o644); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", k.name, err)
	}
	jvm := []string{
		"-Xms96m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-XX:+ExitOnOutOfMemoryError", "-Djava.net.preferIPv4Stack=true", "-Djava.awt.headless=true",
	}
	if k.passwords != nil {
		users := filepath.Join(k.dir, "users.conf")
		if err := os.WriteFile(users, serverLogin(k.passwords), 0o600); err != nil {
			return fmt.Errorf("write the users of %s: %w", k.name, err)
		}
		jvm = append(jvm, "-Djava.security.auth.login.config="+users)
	}
	classes, err := k.set.classes(k.dir)
	if err != nil {
		return err
	}
	jvm = slices.Concat(jvm, o.JVM, classes)
	if err := k.format(ctx, jvm, properties, q.clusterID); err != nil {
		return err
	}
	k.command = command{
		launcher: k.set.launcher,
		program:  k.set.java,
		args:     slices.Concat(jvm, []string{"kafka.Kafka", properties}),
		dir:      k.dir,
		log:      k.log,
	}
	k.ready = k.serves
	return nil
}

// link makes a listener for each place that reaches us through the links.
func (k *Kafka) link(links *Links, place string, from []string) ([]Listener, error) {
	k.from[place] = k.advertised
	links.Place(place, k.Address())
	var all []Listener
	for i, far := range from {
		port, err := k.service.port(0)
		if err != nil {
			return nil, err
		}
		proxy, err := links.Proxy(far, place, loopback(port))
		if err != nil {
			return nil, err
		}
		k.from[far] = proxy.Address()
		all = append(all, Listener{Name: fmt.Sprintf("LINK_%d", i), Port: port, Advertise: proxy.Address()})
	}
	return all, nil
}

// properties writes server.properties. Everything that a cluster keeps in
// several copies is kept once, unless there are several nodes; nothing waits
// for a crowd that never comes.
func (k *Kafka) properties(o KafkaOptions, q quorum) []byte {
	protocol := "PLAINTEXT"
	if k.passwords != nil {
		protocol = "SASL_PLAINTEXT"
	}
	listeners := []string{"CLIENTS://" + loopback(k.port)}
	advertised := []string{"CLIENTS://" + k.advertised}
	protocols := []string{"CONTROLLER:" + protocol, "CLIENTS:" + protocol}
	for _, l := range o.Listeners {
		if l.Advertise == "" {
			l.Advertise = loopback(l.Port)
		}
		listeners = append(listeners, l.Name+"://"+loopback(l.Port))
		advertised = append(advertised, l.Name+"://"+l.Advertise)
		protocols = append(protocols, l.Name+":"+protocol)
	}
	listeners = append(listeners, "CONTROLLER://"+loopback(k.controller))
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(k.node),
		"controller.quorum.voters":       q.addresses(),
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     "CLIENTS",
		"listeners":                      strings.Join(listeners, ","),
		"advertised.listeners":           strings.Join(advertised, ","),
		"listener.security.protocol.map": strings.Join(protocols, ","),
		"log.dirs":                       k.dataDir(),

		"offsets.topic.replication.factor":         "1",
		"offsets.topic.num.partitions":             "4",
		"transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr":            "1",
		"transaction.state.log.num.partitions":     "4",
		"group.initial.rebalance.delay.ms":         "0",
		"auto.create.topics.enable":                "false",

		// After a kill the controller waits for the session of the broker that
		// it remembers before it takes the new one.
		"broker.heartbeat.interval.ms": "500",
		"broker.session.timeout.ms":    "3000",

		"num.network.threads":             "2",
		"num.io.threads":                  "4",
		"background.threads":              "4",
		"log.cleaner.dedupe.buffer.size":  "16777216", // of the heap
		"log.retention.check.interval.ms": "60000",
	}
	if n := len(q.voters); n > 1 {
		maps.Copy(p, copies(n))
	}
	if k.passwords != nil {
		maps.Copy(p, loginProperties)
	}
	maps.Copy(p, o.Properties)
	return writeProperties(p)
}

func writeProperties(p map[string]string) []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", key, p[key])
	}
	return b.Bytes()
}

func (k *Kafka) dataDir() string { return filepath.Join(k.dir, "data") }

// format gives a new folder its cluster id; one that has an id keeps it.
func (k *Kafka) format(ctx context.Context, jvm []string, properties, clusterID string) error {
	meta := filepath.Join(k.dataDir(), "meta.properties")
	if b, err := os.ReadFile(meta); err == nil {
		for line := range strings.Lines(string(b)) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "cluster.id="); ok {
				k.clusterID = id
				return nil
			}
		}
		return fmt.Errorf("read %s: no cluster.id in it; remove the folder %s to start anew", meta, k.dataDir())
	}
	k.clusterID = clusterID
	return runTool(ctx, k.dir, k.set.java, slices.Concat(jvm,
		[]string{"kafka.tools.StorageTool", "format", "-t", k.clusterID, "-c", properties})...)
}

// newClusterID makes an id in Kafka's own form. One that begins with a dash
// would be read as an option.
func newClusterID() string {
	for {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails, by its own contract
		if id := base64.RawURLEncoding.EncodeToString(b[:]); id[0] != '-' {
			return id
		}
	}
}

// serves asks the broker once whether it is in its own cluster and may lead.
func (k *Kafka) serves(ctx context.Context) error {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", k.Address())
	if err != nil {
		return err
	}
	_ = conn.Close()
	client, err := kgo.NewClient(append(k.ClientOptions(Admin), kgo.SeedBrokers(k.Address()), kgo.RequestRetries(0), kgo.DialTimeout(time.Second))...)
	if err != nil {
		return err
	}
	defer client.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none: only the brokers
	res, err := req.RequestWith(ctx, client.SeedBrokers()[0])
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(res.Brokers, func(b kmsg.MetadataResponseBroker) bool { return int(b.NodeID) == k.node }) {
		return errors.New("the broker is not registered yet")
	}
	if res.ClusterID == nil || *res.ClusterID != k.clusterID {
		return fmt.Errorf("port %d answers for another cluster than %s", k.port, k.clusterID)
	}
	return nil
}

// Address is the broker's own host:port, whatever it advertises.
func (k *Kafka) Address() string { return loopback(k.port) }

// Bootstrap is the host:port that clients are told to use.
func (k *Kafka) Bootstrap() string { return k.advertised }

// BootstrapFrom is the host:port for clients in a place: the broker's own for
// its own place, the proxy of the link for one of KafkaOptions.From, and empty
// for any other.
func (k *Kafka) BootstrapFrom(place string) string { return k.from[place] }

// ClusterID is the id that the folder was formatted with.
func (k *Kafka) ClusterID() string { return k.clusterID }

// Version is the Kafka version that runs.
func (k *Kafka) Version() string { return k.set.pin.version }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
