package agent

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what can be watched of an agent.
type metrics struct {
	running prometheus.Gauge
	took    *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "holdfast_tasks_running", Help: "Tasks that this node's agent is carrying out now."}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_task_seconds", Help: "How long attempts at tasks took, by kind and outcome (done, failed, lost).",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 9)}, []string{"kind", "outcome"}),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.running), reg.Register(m.took))
}

func (m *metrics) ended(kind, outcome string, took time.Duration) {
	m.took.WithLabelValues(kind, outcome).Observe(took.Seconds())
}
