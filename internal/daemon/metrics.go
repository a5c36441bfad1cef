package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/consensus"
)

// metrics reads the gauges of leases, probes and plans when it is scraped.
// The mirror, the agent and raft have their own.
type metrics struct {
	d                                                  *Daemon
	active, remaining, epoch, probe, failing, plan, up *prometheus.Desc
	set, bytes, proven, rto, ok, run                   *prometheus.Desc
	verified, verifiedAge, differences, differing      *prometheus.Desc
}

func newMetrics(d *Daemon) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
	}
	return &metrics{
		d:           d,
		active:      desc("role_active", "1 while this node answers that the role is active here.", "role"),
		remaining:   desc("lease_remaining_seconds", "Time until this node stops acting in the role; 0 when it holds no lease.", "role"),
		epoch:       desc("role_epoch", "Epoch of the last grant of the role.", "role"),
		probe:       desc("probe_ok", "1 if this node's last use of the region's store worked.", "region", "store"),
		failing:     desc("probe_failing_seconds", "For how long a probe of the region has failed from here.", "region"),
		plan:        desc("plan_live", "1 for each plan that is under way, by kind and phase.", "kind", "phase"),
		set:         desc("set_age_seconds", "Age of the region's newest sealed recovery set; -1 if there is none.", "region"),
		bytes:       desc("set_uploaded_bytes", "What the run of the region's newest set wrote to the repository.", "region"),
		proven:      desc("drill_passed_age_seconds", "Age of the last drill that proved a set of the region; -1 if none has.", "region"),
		rto:         desc("drill_rto_seconds", "How long that drill took until everything was restored and compared equal.", "region"),
		ok:          desc("drill_ok", "0 if the last drill found a set of the region bad.", "region"),
		run:         desc("run_live", "1 for each backup or drill that is under way or waits, by kind and region.", "kind", "region"),
		verified:    desc("mirror_verified_offset", "End of what the last comparison without a difference covers, one past the last offset.", "source", "target", "topic", "partition"),
		verifiedAge: desc("mirror_verified_age_seconds", "Age of that comparison.", "source", "target", "topic", "partition"),
		differences: desc("mirror_verify_differences_total", "Records in which comparisons of this process found a difference.", "source", "target"),
		differing:   desc("mirror_verify_differing", "Partitions with a difference that no later comparison has cleared.", "source", "target"),
		up:          desc("member_heard_seconds", "Age of the member's last report; -1 if there was none.", "member"),
	}
}

func (m *metrics) register(r prometheus.Registerer) { r.MustRegister(m) }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.active, m.remaining, m.epoch, m.probe, m.failing, m.plan, m.up, m.set, m.bytes, m.proven, m.rto, m.ok, m.run, m.verified, m.verifiedAge, m.differences, m.differing} {
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
	m.collectSets(s, gauge)
	m.d.verify.collect(m, ch)
	for n := range s.Members {
		_, age := m.d.hub.of(n)
		seconds := age.Seconds()
		if age < 0 {
			seconds = -1
		}
		gauge(m.up, seconds, string(n))
	}
}

// collectSets gives the ages of sets and proofs, as the log has them.
func (m *metrics) collectSets(s consensus.State, gauge func(*prometheus.Desc, float64, ...string)) {
	now := m.d.clock.Wall()
	for _, row := range setsOf(m.d.fleet, s, now) {
		region, age, passed := string(row.Region), -1.0, -1.0
		if row.Set != "" {
			age = float64(row.AgeMs) / 1000
		}
		if !row.Proven.IsZero() {
			passed = now.Sub(row.Proven).Seconds()
			gauge(m.rto, float64(row.ProvenRTOMs)/1000, region)
		}
		gauge(m.set, age, region)
		gauge(m.bytes, float64(row.Uploaded), region)
		gauge(m.proven, passed, region)
		gauge(m.ok, number(row.Failed == ""), region)
	}
	for _, r := range s.Runs {
		if r.State == consensus.RunLive {
			gauge(m.run, 1, r.Kind, string(r.Region))
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
