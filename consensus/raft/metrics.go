package raft

import (
	"errors"
	"fmt"
	"time"

	hraft "github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/consensus"
)

// metrics watches a Node. Gauges are read when they are scraped.
type metrics struct {
	n         *Node
	to        prometheus.Registerer
	proposals *prometheus.CounterVec
	took      *prometheus.HistogramVec
	reigns    prometheus.Counter
}

var (
	descLeads    = prometheus.NewDesc("holdfast_raft_leader", "1 while this node leads the cluster.", nil, nil)
	descLeader   = prometheus.NewDesc("holdfast_raft_leader_known", "1 while this node knows a leader.", nil, nil)
	descTerm     = prometheus.NewDesc("holdfast_raft_term", "Current raft term.", nil, nil)
	descApplied  = prometheus.NewDesc("holdfast_raft_applied_index", "Last command in this node's state.", nil, nil)
	descCommit   = prometheus.NewDesc("holdfast_raft_commit_index", "Last log entry known to be agreed.", nil, nil)
	descHalted   = prometheus.NewDesc("holdfast_raft_halted", "1 when this node has stopped taking part and needs a person.", nil, nil)
	descContact  = prometheus.NewDesc("holdfast_raft_leader_contact_seconds", "Age of the last sign of life of the leader; 0 on the leader.", nil, nil)
	descRTT      = prometheus.NewDesc("holdfast_raft_peer_rtt_seconds", "99th percentile of the last heartbeats, on the leader.", []string{"peer"}, nil)
	descRefused  = prometheus.NewDesc("holdfast_raft_connections_refused_total", "Peer connections that were turned away.", []string{"reason"}, nil)
	descNotAfter = prometheus.NewDesc("holdfast_peer_certificate_expiry_timestamp_seconds", "When this node's peer certificate expires.", nil, nil)
)

func newMetrics(n *Node) *metrics {
	return &metrics{
		n: n,
		proposals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_raft_proposals_total", Help: "Commands proposed by this node.",
		}, []string{"path", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_raft_proposal_seconds", Help: "Time until a proposal was answered.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 20},
		}, []string{"path"}),
		reigns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "holdfast_raft_reigns_total", Help: "Times this node became leader.",
		}),
	}
}

func (m *metrics) register(to prometheus.Registerer) error {
	if to == nil {
		return nil
	}
	if err := to.Register(m); err != nil {
		return fmt.Errorf("register metrics of raft: %w", err)
	}
	m.to = to
	return nil
}

// unregister undoes register; m may be nil.
func (m *metrics) unregister() {
	if m != nil && m.to != nil {
		m.to.Unregister(m)
	}
}

func (m *metrics) proposed(path string, err error, took time.Duration) {
	outcome := "applied"
	switch {
	case err == nil:
	case consensus.Refused(err):
		outcome = "refused"
	case errors.Is(err, consensus.ErrUnknownOutcome):
		outcome = "unknown"
	default:
		outcome = "not_proposed"
	}
	m.proposals.WithLabelValues(path, outcome).Inc()
	m.took.WithLabelValues(path).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLeads, descLeader, descTerm, descApplied, descCommit, descHalted, descContact, descRTT, descRefused, descNotAfter} {
		to <- d
	}
	m.proposals.Describe(to)
	m.took.Describe(to)
	m.reigns.Describe(to)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := m.n.Status()
	gauge(descLeads, one(s.State == "leader"))
	gauge(descLeader, one(s.Leader != ""))
	gauge(descTerm, float64(s.Term))
	gauge(descApplied, float64(s.Applied))
	gauge(descCommit, float64(s.Commit))
	gauge(descHalted, one(s.Halted != ""))
	if s.State == "leader" {
		gauge(descContact, 0)
	} else if !s.LastContact.IsZero() {
		gauge(descContact, time.Since(s.LastContact).Seconds())
	}
	if m.n.r.State() == hraft.Leader {
		for _, p := range m.n.Members() {
			if p.RTT > 0 {
				gauge(descRTT, p.RTT.Seconds(), string(p.Node))
			}
		}
	}
	gauge(descNotAfter, float64(m.n.port.c.Identity.NotAfter().Unix()))
	for reason, n := range m.n.port.refusals() {
		to <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(n), reason)
	}
	m.proposals.Collect(to)
	m.took.Collect(to)
	m.reigns.Collect(to)
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
