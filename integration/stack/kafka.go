package stack

import (
	"bytes"
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
	version    string
	clusterID  string
	port       int
	advertised string
	from       map[string]string // place to bootstrap address
}

// StartKafka installs the version if needed, formats the folder if it is new,
// starts the broker and returns when it serves clients. Close it after use.
func StartKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	pin, err := findKafka(o.Version)
	if err != nil {
		return nil, err
	}
	java, err := need(ctx, o.Progress, "java")
	if err != nil {
		return nil, fmt.Errorf("run Kafka: %w", err)
	}
	libs, err := installKafka(ctx, o.Progress, pin)
	if err != nil {
		return nil, err
	}
	launcher, err := installLauncher(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = "kafka"
	}
	s, err := newService(o.Name, o.Dir, o.Log, o.Progress)
	if err != nil {
		return nil, err
	}
	k := &Kafka{service: s, version: pin.version, from: map[string]string{}}
	if err := k.prepare(ctx, o, pin, java, libs, launcher); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	k.listens = append(k.listens, k.port)
	for _, l := range o.Listeners {
		k.listens = append(k.listens, l.Port)
	}
	if err := k.start(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// InstallKafka brings one version, and what it needs to run, onto this machine
// without running it.
func InstallKafka(ctx context.Context, version string, progress io.Writer) error {
	pin, err := findKafka(version)
	if err != nil {
		return err
	}
	if _, err := need(ctx, progress, "java"); err != nil {
		return fmt.Errorf("run Kafka: %w", err)
	}
	if _, err := installLauncher(ctx, progress); err != nil {
		return err
	}
	_, err = installKafka(ctx, progress, pin)
	return err
}

func installKafka(ctx context.Context, progress io.Writer, pin kafkaPin) (string, error) {
	return install(ctx, progress, "kafka-"+pin.version, func(dir string) error {
		return fetchMaven(ctx, progress, pin, dir)
	})
}

// prepare writes the configuration and formats a new folder.
func (k *Kafka) prepare(ctx context.Context, o KafkaOptions, pin kafkaPin, java, libs, launcher string) error {
	var err error
	if k.port, err = k.service.port(o.Port); err != nil {
		return err
	}
	controller, err := k.service.port(0)
	if err != nil {
		return err
	}
	k.advertised = o.Advertise
	if k.advertised == "" {
		k.advertised = loopback(k.port)
	}
	if o.Links != nil {
		linked, err := k.link(o.Links, o.Place, o.From)
		if err != nil {
			return err
		}
		o.Listeners = slices.Concat(o.Listeners, linked)
	}
	properties := filepath.Join(k.dir, "server.properties")
	if err := os.WriteFile(properties, k.properties(o, controller), 0o644); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", k.name, err)
	}
	logging := filepath.Join(k.dir, "log4j.properties")
	logOption, words := pin.logging.config(logging)
	if err := os.WriteFile(logging, []byte(words), 0o644); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", k.name, err)
	}
	jvm := []string{
		"-Xms96m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-XX:+ExitOnOutOfMemoryError", "-Djava.net.preferIPv4Stack=true", "-Djava.awt.headless=true", logOption,
	}
	jvm = append(jvm, o.JVM...)
	classes := []string{"-cp", filepath.Join(libs, "*")}
	if err := k.format(ctx, java, slices.Concat(jvm, classes), properties); err != nil {
		return err
	}
	k.command = command{
		launcher: launcher,
		program:  java,
		args:     slices.Concat(jvm, classes, []string{"kafka.Kafka", properties}),
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
// several copies is kept once; nothing waits for a crowd that never comes.
func (k *Kafka) properties(o KafkaOptions, controller int) []byte {
	listeners := []string{"PLAINTEXT://" + loopback(k.port)}
	advertised := []string{"PLAINTEXT://" + k.advertised}
	protocols := []string{"CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT"}
	for _, l := range o.Listeners {
		if l.Advertise == "" {
			l.Advertise = loopback(l.Port)
		}
		listeners = append(listeners, l.Name+"://"+loopback(l.Port))
		advertised = append(advertised, l.Name+"://"+l.Advertise)
		protocols = append(protocols, l.Name+":PLAINTEXT")
	}
	listeners = append(listeners, "CONTROLLER://"+loopback(controller))
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        "1",
		"controller.quorum.voters":       "1@" + loopback(controller),
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     "PLAINTEXT",
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
	maps.Copy(p, o.Properties)
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", key, p[key])
	}
	return b.Bytes()
}

func (k *Kafka) dataDir() string { return filepath.Join(k.dir, "data") }

// format gives a new folder its cluster id; one that has an id keeps it.
func (k *Kafka) format(ctx context.Context, java string, jvm []string, properties string) error {
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
	k.clusterID = newClusterID()
	return runTool(ctx, k.dir, java, slices.Concat(jvm,
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

// config is the JVM option and the file that send the log to standard output.
func (l logging) config(path string) (option, words string) {
	if l == log4j2 {
		return "-Dlog4j2.configurationFile=" + path, `status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1}: %m%n
rootLogger.level=info
rootLogger.appenderRef.out.ref=out
`
	}
	return "-Dlog4j.configuration=file:" + path, `log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c{1}: %m%n
`
}

// serves asks the broker once whether it is in its own cluster and may lead.
func (k *Kafka) serves(ctx context.Context) error {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", k.Address())
	if err != nil {
		return err
	}
	_ = conn.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Address()), kgo.RequestRetries(0), kgo.DialTimeout(time.Second))
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
	if len(res.Brokers) == 0 {
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
func (k *Kafka) Version() string { return k.version }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
