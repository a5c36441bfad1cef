package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/integration/stack"
)

const steadyMirror2 = "steady-mm2"

// mirrorMaker lets MirrorMaker 2 do the same work between the same brokers.
// What its start takes is not counted, and its CPU counts from its first record
// on: it is a service that runs for months.
func (b *mirrorBench) mirrorMaker(ctx context.Context) (err error) {
	topics := []string{steadyMirror2}
	if b.does("copy") {
		topics = append(topics, eventsTopic)
	}
	if err := b.target.create(ctx, eventsTopic, b.partitions, nil); err != nil {
		return err
	}
	for _, e := range []*end{b.source, b.target} {
		if err := e.create(ctx, steadyMirror2, b.partitions, nil); err != nil {
			return err
		}
	}
	began := time.Now()
	mm2, err := stack.StartMirrorMaker(ctx, stack.MirrorMakerOptions{
		Progress: os.Stdout, JVM: []string{"-Xmx1g"}, Properties: b.mirrorMakerProperties(topics),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mm2.Close()) }()
	if b.does("copy") {
		first, err := b.target.reach(ctx, nil, eventsTopic, 1)
		if err != nil {
			return err
		}
		start, cpu, from := time.Since(began), cpuOf(mm2.PID()), time.Now()
		if _, err := b.target.reach(ctx, nil, eventsTopic, int64(b.records)); err != nil {
			return err
		}
		took, used := time.Since(from), cpuOf(mm2.PID())-cpu
		payload := float64(int64(b.records)-first) * float64(b.size) / 1e6
		b.CPUMirror2 = round2(b.perCPU / (payload / used.Seconds()))
		fmt.Printf("MirrorMaker 2: first record after %.1f s, then %.0f MB in %.2f s  %.1f MB/s  %.2f CPU s  %.1f MB per CPU s\n", start.Seconds(), payload, took.Seconds(), payload/took.Seconds(), used.Seconds(), payload/used.Seconds())
	}
	l, err := b.startLoad(ctx, steadyMirror2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	p50, p99, err := l.lag(ctx, nil)
	if err != nil {
		return err
	}
	b.Mirror2P50 = milliseconds(p50)
	rss, err := peakOf(mm2.PID())
	fmt.Printf("lag of MirrorMaker 2 at %.0f MB/s: p50 %s, p99 %s; it takes %.0f MiB\n", b.rate/1e6, p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond), rss)
	return err
}

// mirrorMakerProperties are those of a MirrorMaker 2 that somebody tuned.
func (b *mirrorBench) mirrorMakerProperties(topics []string) map[string]string {
	return map[string]string{
		"clusters":                              "src, dst",
		"src.bootstrap.servers":                 b.source.Bootstrap(),
		"dst.bootstrap.servers":                 b.target.Bootstrap(),
		"src->dst.enabled":                      "true",
		"dst->src.enabled":                      "false",
		"src->dst.topics":                       strings.Join(topics, ","),
		"tasks.max":                             "4",
		"replication.policy.class":              "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
		"replication.factor":                    "1",
		"checkpoints.topic.replication.factor":  "1",
		"heartbeats.topic.replication.factor":   "1",
		"offset-syncs.topic.replication.factor": "1",
		"src->dst.emit.heartbeats.enabled":      "false",
		"dst->src.emit.heartbeats.enabled":      "false",
		"src->dst.sync.group.offsets.enabled":   "true",
		// A worker's settings count only under the name of its target.
		"dst.config.storage.replication.factor": "1",
		"dst.offset.storage.replication.factor": "1",
		"dst.status.storage.replication.factor": "1",
		"dst.producer.compression.type":         "lz4",
		"dst.producer.batch.size":               "524288",
		"dst.producer.linger.ms":                "20",
		"src.consumer.max.poll.records":         "2000",
	}
}
