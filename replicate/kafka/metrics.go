package kafka

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/replicate"
)

// metrics shows a link's Status to Prometheus. It computes nothing of its own,
// so that a graph and `mirror status` can never disagree.
type metrics struct {
	m                                    *Mirror
	records, bytes, seconds, frozen, end *prometheus.Desc
	mirroredRecords, mirroredBytes, up   *prometheus.Desc
	findings, seenAge                    *prometheus.Desc
	groupAge, groupFindings              *prometheus.Desc
	drift                                *prometheus.Desc
	state, unstable, overtaken, seedLeft *prometheus.Desc
	holes, holeOffsets                   *prometheus.Desc
}

func newMetrics(m *Mirror) *metrics {
	link := prometheus.Labels{"source": string(m.conf.Link.Source), "target": string(m.conf.Link.Target)}
	per := []string{"topic", "partition"}
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_mirror_"+name, help, labels, link)
	}
	return &metrics{
		m:               m,
		records:         desc("behind_records", "Records at the source that the target lacks.", per),
		bytes:           desc("behind_bytes_estimate", "Estimate of the stored bytes that the target lacks.", per),
		seconds:         desc("behind_seconds", "Age of the oldest record that the target lacks; 0 when none.", per),
		frozen:          desc("frozen", "1 for a frozen partition, with its reason.", append(per, "reason")),
		end:             desc("target_end", "End of the target partition.", per),
		seenAge:         desc("source_unseen_seconds", "Time since the source partition was last seen.", per),
		mirroredRecords: desc("records_total", "Records mirrored by this process.", nil),
		mirroredBytes:   desc("bytes_total", "Stored bytes mirrored by this process.", nil),
		up:              desc("running", "1 while the mirror runs.", nil),
		drift:           desc("drift", "Differences between source and target in topics, partitions, settings and rights, by kind.", []string{"kind"}),
		state:           desc("state", "1 for the state that the partition is in.", append(per, "state")),
		unstable:        desc("unstable_records", "High watermark less last stable offset of the source: what open transactions hold back.", per),
		overtaken:       desc("overtaken_seconds", "Time until the source's retention reaches what is not mirrored yet; absent: it does not.", per),
		seedLeft:        desc("seed_left_seconds", "Time that the rest of a prefix takes to seed.", per),
		holes:           desc("holes_total", "Holes filled by this process.", nil),
		holeOffsets:     desc("hole_offsets_total", "Offsets of holes filled by this process.", nil),
		findings:        desc("findings", "Findings about topics and clusters.", nil),
		groupAge:        prometheus.NewDesc("holdfast_group_sync_age_seconds", "Time since the group offsets were read that the target has.", nil, link),
		groupFindings:   prometheus.NewDesc("holdfast_group_findings", "Partitions on which the group should not start in the target; absent: none.", []string{"group"}, link),
	}
}

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{x.records, x.bytes, x.seconds, x.frozen, x.end, x.seenAge, x.mirroredRecords, x.mirroredBytes, x.up, x.findings, x.groupAge, x.groupFindings, x.drift, x.state, x.unstable, x.overtaken, x.seedLeft, x.holes, x.holeOffsets} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	s := x.m.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gone := map[string]bool{} // deleted at the source: they are not behind
	for _, g := range x.m.Gone() {
		gone[g.Topic] = true
	}
	for _, p := range s.Partitions {
		if gone[p.Topic] {
			continue
		}
		n := strconv.Itoa(int(p.Partition.Partition))
		if p.RecordsBehind >= 0 { // not known is absent, never 0
			gauge(x.records, float64(p.RecordsBehind), p.Topic, n)
			gauge(x.bytes, float64(p.BytesBehindEstimate), p.Topic, n)
			gauge(x.seconds, p.SecondsBehind, p.Topic, n)
			gauge(x.end, float64(p.TargetEnd), p.Topic, n)
		}
		if p.SourceSeenAt != nil {
			gauge(x.seenAge, max(0, s.At.Sub(*p.SourceSeenAt).Seconds()), p.Topic, n)
		}
		gauge(x.state, 1, p.Topic, n, string(p.State))
		if p.LastStable >= 0 && p.SourceEnd >= p.LastStable {
			gauge(x.unstable, float64(p.SourceEnd-p.LastStable), p.Topic, n)
		}
		if p.OvertakenIn != nil {
			gauge(x.overtaken, *p.OvertakenIn, p.Topic, n)
		}
		if p.Seed != nil && p.Seed.Left >= 0 {
			gauge(x.seedLeft, p.Seed.Left, p.Topic, n)
		}
		if p.Frozen != nil {
			gauge(x.frozen, 1, p.Topic, n, string(p.Frozen.Reason))
		}
	}
	ch <- prometheus.MustNewConstMetric(x.mirroredRecords, prometheus.CounterValue, float64(s.Totals.Records))
	ch <- prometheus.MustNewConstMetric(x.mirroredBytes, prometheus.CounterValue, float64(s.Totals.Bytes))
	ch <- prometheus.MustNewConstMetric(x.holes, prometheus.CounterValue, float64(s.Totals.Holes))
	ch <- prometheus.MustNewConstMetric(x.holeOffsets, prometheus.CounterValue, float64(s.Totals.Filled))
	running := 0.0
	if s.Running {
		running = 1
	}
	gauge(x.up, running)
	gauge(x.findings, float64(len(s.Findings)))
	if d := x.m.Drift(); !d.At.IsZero() {
		for _, k := range replicate.DriftKinds() {
			gauge(x.drift, float64(d.Count(k)), string(k))
		}
	}
	g := x.m.Groups()
	if g.At.IsZero() {
		return
	}
	gauge(x.groupAge, max(0, time.Since(g.At).Seconds()))
	bad := map[string]int{}
	for _, row := range g.Findings() {
		bad[row.Group]++
	}
	for group, n := range bad {
		gauge(x.groupFindings, float64(n), group)
	}
}
