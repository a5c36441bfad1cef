package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
)

// KafkaCluster is several KRaft nodes, each broker and controller in one
// process. Its topics have a copy on each node unless they say otherwise, and
// accept records while all nodes but one are in sync.
type KafkaCluster struct {
	nodes []*Kafka
}

// copies are the settings of a cluster of n nodes: everything is kept n times,
// and a node that has gone, or stands still, is noticed within seconds.
func copies(n int) map[string]string {
	all, enough := strconv.Itoa(n), strconv.Itoa(max(1, n-1))
	return map[string]string{
		"default.replication.factor":               all,
		"min.insync.replicas":                      enough,
		"offsets.topic.replication.factor":         all,
		"transaction.state.log.replication.factor": all,
		"transaction.state.log.min.isr":            enough,
		"replica.lag.time.max.ms":                  "4000",
		"replica.socket.timeout.ms":                "3000",
		"replica.fetch.wait.max.ms":                "200",
		"controlled.shutdown.retry.backoff.ms":     "500",
	}
}

// StartKafkaCluster starts n nodes of at most 256 MB of heap and returns when
// each serves clients. o holds for every node; its Dir gets a folder for each.
// Port, Listeners and Advertise belong to one broker and must be empty. Close
// it after use.
func StartKafkaCluster(ctx context.Context, o KafkaOptions, n int) (*KafkaCluster, error) {
	if n < 1 || n > 9 {
		return nil, fmt.Errorf("start a Kafka cluster of %d nodes: want 1 to 9", n)
	}
	if o.Port != 0 || len(o.Listeners) > 0 || o.Advertise != "" || o.Log != "" {
		return nil, errors.New("start a Kafka cluster: Port, Listeners, Advertise and Log are for one broker")
	}
	pin, err := findKafka(o.Version)
	if err != nil {
		return nil, err
	}
	set, err := installJava(ctx, o.Progress, pin)
	if err != nil {
		return nil, fmt.Errorf("run Kafka: %w", err)
	}
	if o.Name == "" {
		o.Name = "kafka"
	}
	o.JVM = append([]string{"-Xms64m", "-Xmx256m"}, o.JVM...)
	c := &KafkaCluster{}
	options := make([]KafkaOptions, n)
	for i := range n {
		one := o
		one.Name = fmt.Sprintf("%s-%d", o.Name, i)
		if o.Dir != "" {
			one.Dir = filepath.Join(o.Dir, one.Name)
		}
		options[i] = one
		k, err := newKafka(one, set, i)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.nodes = append(c.nodes, k)
	}
	q := quorum{voters: c.nodes, clusterID: newClusterID(), passwords: newPasswords(o.Users)}
	if err := c.each(func(i int, k *Kafka) error {
		if err := k.prepare(ctx, options[i], q); err != nil {
			return err
		}
		return k.start(ctx)
	}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// each does the same to all nodes at once: none of them is ready before most
// of them run.
func (c *KafkaCluster) each(do func(i int, k *Kafka) error) error {
	errs := make([]error, len(c.nodes))
	var all sync.WaitGroup
	for i, k := range c.nodes {
		all.Go(func() { errs[i] = do(i, k) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Node is the node whose node.id is i, from 0. Stop, Kill, Pause, Resume and
// Restart it as any other Kafka.
func (c *KafkaCluster) Node(i int) *Kafka { return c.nodes[i] }

// Nodes is how many there are.
func (c *KafkaCluster) Nodes() int { return len(c.nodes) }

// Bootstrap lists the host:port of every node that clients are told to use.
func (c *KafkaCluster) Bootstrap() []string {
	var all []string
	for _, k := range c.nodes {
		all = append(all, k.Bootstrap())
	}
	return all
}

// BootstrapFrom is Bootstrap for clients in a place; see Kafka.BootstrapFrom.
func (c *KafkaCluster) BootstrapFrom(place string) []string {
	var all []string
	for _, k := range c.nodes {
		if a := k.BootstrapFrom(place); a != "" {
			all = append(all, a)
		}
	}
	return all
}

// ClusterID is the id that all nodes were formatted with.
func (c *KafkaCluster) ClusterID() string { return c.nodes[0].ClusterID() }

// Restart starts all nodes again, whatever they do now, and returns when each
// serves clients.
func (c *KafkaCluster) Restart(ctx context.Context) error {
	return c.each(func(_ int, k *Kafka) error { return k.Restart(ctx) })
}

// Kill ends all nodes without warning.
func (c *KafkaCluster) Kill() error {
	return c.each(func(_ int, k *Kafka) error { return k.Kill() })
}

// Close is Close of every node. It may be called twice.
func (c *KafkaCluster) Close() error {
	return c.each(func(_ int, k *Kafka) error { return k.Close() })
}
