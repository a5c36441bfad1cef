package daemon

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics reads the gauges of leases, probes and plans when it is scraped.
// The mirror, the agent and raft have their own.
type metrics struct {
	d                                                  *Daemon
	active, remaining, epoch, probe, failing, plan, up *prometheus.Desc
}

func newMetrics(d *Daemon) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
	}
	return &metrics{
		d:         d,
		active:    desc("role_active", "1 while this node answers that the role is active here.", "role"),
		remaining: desc("lease_remaining_seconds", "Time until this node stops acting in the role; 0 when it holds no lease.", "role"),
		epoch:     desc("role_epoch", "Epoch of the last grant of the role.", "role"),
		probe:     desc("probe_ok", "1 if this node's last use of the region's store worked.", "region", "store"),
		failing:   desc("probe_failing_seconds", "For how long a probe of the region has failed from here.", "region"),
		plan:      desc("plan_live", "1 for each plan that is under way, by kind and phase.", "kind", "phase"),
		up:        desc("member_heard_seconds", "Age of the member's last report; -1 if there was none.", "member"),
	}
}

func (m *metrics) register(r prometheus.Registerer) { r.MustRegister(m) }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.active, m.remaining, m.epoch, m.probe, m.failing, m.plan, m.up} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := m.d.raft.State()
	for name, r := range s.Roles {
		v, _ := m.d.keeper.verdict(name)
		gauge(m.active, number(v.Active), string(name))
		gauge(m.remaining, v.Remaining.Seconds(), string(name))
		gauge(m.epoch, float64(r.Epoch), string(name))
	}
	for name, r := range m.d.regions {
		p, ok := r.report()
		if !ok {
			continue
		}
		for store, c := range p.Checks {
			gauge(m.probe, number(c.OK), string(name), store)
		}
		gauge(m.failing, float64(p.FailingMs)/1000, string(name))
	}
	live := map[[2]string]float64{}
	for _, p := range s.Plans {
		if p.Phase.Live() {
			live[[2]string{string(p.Kind), string(p.Phase)}]++
		}
	}
	for k, n := range live {
		gauge(m.plan, n, k[0], k[1])
	}
	for n := range s.Members {
		_, age := m.d.hub.of(n)
		seconds := age.Seconds()
		if age < 0 {
			seconds = -1
		}
		gauge(m.up, seconds, string(n))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
