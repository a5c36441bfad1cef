package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// region is one region's stores, as reached from this node. A store that is
// down makes its checks fail; the clients stay and reconnect.
type region struct {
	name       topology.Region
	kafka      *kafka.Client      // nil: the region has none
	clickhouse *clickhouse.Client // nil: the region has none
	probes     config.Probe       // joined over the roles
	http       *http.Client
	clock      clock.Clock
	interval   time.Duration
	timeout    time.Duration
	log        *slog.Logger

	mu      sync.Mutex
	checks  map[string]failover.Check
	at      clock.Instant            // of the last finished round
	failing clock.Instant            // since when a check has failed; 0: none does
	broken  map[string]clock.Instant // since when, of the checks that fail
	seen    bool
}

func openRegion(name topology.Region, f *config.Fleet, me config.Node, clk clock.Clock, log *slog.Logger) (*region, error) {
	dial := recovery.Dialer(me)
	r := &region{
		name: name, broken: map[string]clock.Instant{}, clock: clk, interval: f.Timing.Probe.Interval, timeout: f.Timing.Probe.Timeout, log: log.With("region", name),
		http: &http.Client{Timeout: f.Timing.Probe.Timeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
	}
	conf := f.Regions[name]
	var err error
	if conf.Kafka != nil {
		if r.kafka, err = recovery.OpenKafka(name, conf.Kafka, dial, log); err != nil {
			return nil, err
		}
	}
	if conf.ClickHouse != nil {
		if r.clickhouse, err = recovery.OpenClickHouse(name, conf.ClickHouse, dial); err != nil {
			r.close()
			return nil, err
		}
	}
	// What any role wants probed is probed; without roles, what there is.
	for _, name := range f.RoleNames() {
		role := f.Roles[name]
		r.probes.Kafka = r.probes.Kafka || role.Probe.Kafka
		if role.Probe.ClickHouse != "" {
			r.probes.ClickHouse = role.Probe.ClickHouse
		}
		if role.Probe.HTTP != "" {
			r.probes.HTTP = strings.ReplaceAll(role.Probe.HTTP, "{region}", string(r.name))
		}
	}
	if r.clickhouse != nil && r.probes.ClickHouse == "" {
		r.probes.ClickHouse = "SELECT 1"
	}
	return r, nil
}

func (r *region) close() {
	if r.kafka != nil {
		r.kafka.Close()
	}
	if r.clickhouse != nil {
		_ = r.clickhouse.Close() // nothing was written through it
	}
}

// probe uses the region's stores until ctx ends.
func (r *region) probe(ctx context.Context) {
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, r.timeout)
		checks, _ := r.tryAll(round)
		cancel()
		if ctx.Err() != nil {
			return
		}
		r.record(checks)
		_ = sleep(ctx, r.interval)
	}
}

func (r *region) record(checks map[string]failover.Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks, r.at, r.seen = checks, r.clock.Now(), true
	r.tell(checks)
	ok := true
	for _, c := range checks {
		ok = ok && c.OK
	}
	switch {
	case ok:
		r.failing = 0
	case r.failing == 0:
		r.failing = r.at
	}
}

// tell logs what has changed: a store that stops answering, once, and that it
// is back, with how long it was not.
func (r *region) tell(checks map[string]failover.Check) {
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		since, was := r.broken[name]
		switch c := checks[name]; {
		case !c.OK && !was:
			r.broken[name] = r.at
			r.log.Warn("store does not answer; it is tried again", "store", name, "every", r.interval, "error", c.Detail)
		case c.OK && was:
			delete(r.broken, name)
			r.log.Info("store answers again", "store", name, "after", r.at.Sub(since).Round(time.Millisecond))
		}
	}
}

// report is what this node last found.
func (r *region) report() (probeReport, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.seen {
		return probeReport{}, false
	}
	now := r.clock.Now()
	p := probeReport{AgeMs: now.Sub(r.at).Milliseconds(), Checks: maps.Clone(r.checks)}
	if r.failing != 0 {
		p.FailingMs = max(1, now.Sub(r.failing).Milliseconds())
	}
	return p, true
}

type took struct {
	name string
	took time.Duration
	err  error
	say  string
}

// tryAll uses each store once, side by side, and returns when all have
// answered or ctx ends: what has not answered by then has failed.
func (r *region) tryAll(ctx context.Context) (map[string]failover.Check, []took) {
	type try struct {
		name string
		run  func() (string, error)
	}
	var tries []try
	if r.kafka != nil {
		tries = append(tries, try{"kafka", func() (string, error) {
			// Never write to a cluster that may be somebody else's.
			if _, err := r.kafka.Ping(ctx); err != nil || !r.probes.Kafka {
				return "answers", err
			}
			_, err := mirror.Probe(ctx, r.kafka, mirror.ProbeTopic)
			return "produced and fetched", err
		}})
	}
	if r.clickhouse != nil {
		tries = append(tries, try{"clickhouse", func() (string, error) {
			_, err := r.clickhouse.Select(ctx, r.probes.ClickHouse)
			return "answers " + r.probes.ClickHouse, err
		}})
	}
	if r.probes.HTTP != "" {
		tries = append(tries, try{"http", func() (string, error) { return r.get(ctx) }})
	}
	// A client may go on for a while after its context has ended, dialling or
	// asking another broker. The round does not wait for it: evidence that is
	// late in turns is no evidence.
	results := make([]took, len(tries))
	type answer struct {
		i int
		took
	}
	answers := make(chan answer, len(tries))
	start := time.Now()
	for i, t := range tries {
		results[i].name = t.name
		go func() {
			say, err := t.run()
			answers <- answer{i, took{t.name, time.Since(start), err, say}}
		}()
	}
	done := ctx.Done()
	for open := len(tries); open > 0 && done != nil; {
		select {
		case a := <-answers:
			results[a.i] = a.took
			open--
		case <-done:
			done = nil
			for i, r := range results {
				if r.took == 0 {
					waited := time.Since(start)
					results[i].took, results[i].err = waited, fmt.Errorf("no answer in %s: %w", waited.Round(time.Millisecond), context.Cause(ctx))
				}
			}
		}
	}
	checks := map[string]failover.Check{}
	for _, t := range results {
		if t.err != nil {
			checks[t.name] = failover.Check{OK: false, Detail: t.err.Error()}
			continue
		}
		checks[t.name] = failover.Check{OK: true, Detail: fmt.Sprintf("%s in %s", t.say, t.took.Round(time.Millisecond))}
	}
	return checks, results
}

// right says what a probe that fails may lack, though the store answers.
func (r *region) right(store string) string {
	switch store {
	case "kafka":
		return "may holdfast's user create, write and read the topic " + mirror.ProbeTopic + "?"
	case "clickhouse":
		return "may holdfast's user run `" + r.probes.ClickHouse + "`?"
	}
	return "try it from this host: curl -v " + r.probes.HTTP
}

func (r *region) get(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.probes.HTTP, nil)
	if err != nil {
		return "", err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 && resp.StatusCode/100 != 3 {
		return "", fmt.Errorf("%s answers %s", r.probes.HTTP, resp.Status)
	}
	return resp.Status, nil
}

// openRegions opens all regions of the fleet, in order of name.
func openRegions(f *config.Fleet, me config.Node, clk clock.Clock, log *slog.Logger) (map[topology.Region]*region, error) {
	out := map[topology.Region]*region{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.Regions)) {
		r, err := openRegion(name, f, me, clk, log)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[name] = r
	}
	if err := errors.Join(errs...); err != nil {
		for _, r := range out {
			r.close()
		}
		return nil, err
	}
	return out, nil
}
