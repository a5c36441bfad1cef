package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const (
	reportEvery    = 500 * time.Millisecond
	reportTimeout  = 2 * time.Second
	reportBytesMax = 4 << 20
	reportPath     = "/control/v1/report"
)

// report is what a daemon tells its peers about itself, twice a second. It is
// soft: plans and people read it, no lease rests on it.
type report struct {
	Node     topology.Node                       `json:"node"`
	Region   topology.Region                     `json:"region,omitempty"`
	Version  string                              `json:"version"`
	Digest   string                              `json:"digest"` // of the fleet file it runs by
	Clock    clock.Instant                       `json:"clock"`  // its CLOCK_BOOTTIME when sent
	Boot     string                              `json:"boot"`
	Probes   map[topology.Region]probeReport     `json:"probes"` // its own region's among them
	Leases   map[topology.Role]leaseReport       `json:"leases"`
	Guards   []failover.Guard                    `json:"guards,omitempty"`
	Links    map[consensus.LinkID]linkReport     `json:"links,omitempty"`
	Runs     map[consensus.RunID]backup.Progress `json:"runs,omitempty"` // that this node works on
	Findings []reportFinding                     `json:"findings,omitempty"`
}

type reportFinding struct {
	About string `json:"about"`
	What  string `json:"what"`
	Next  string `json:"next"`
}

type probeReport struct {
	AgeMs     int64                     `json:"age_ms"` // of the last finished probe
	FailingMs int64                     `json:"failing_ms"`
	Checks    map[string]failover.Check `json:"checks"`
}

type leaseReport struct {
	Active      bool            `json:"active"`
	Held        bool            `json:"held"`
	Epoch       consensus.Epoch `json:"epoch"`
	RemainingMs int64           `json:"remaining_ms"`
}

type linkReport struct {
	Status       replicate.LinkStatus `json:"status"`
	Rate         float64              `json:"rate"` // records per second at the source
	SourceSeenMs int64                `json:"source_seen_ms"`
	Coverage     failover.Coverage    `json:"coverage"`
	Drift        failover.Drift       `json:"drift"`
	Exposed      []failover.Exposed   `json:"exposed,omitempty"`
	PausedUntil  time.Time            `json:"paused_until,omitzero"`
	Trouble      string               `json:"trouble,omitempty"`
	LocalLag     *int64               `json:"local_lag,omitempty"` // records that local groups have left to read here
}

// heard is the last report of a node.
type heard struct {
	report report
	at     clock.Instant // on our clock
	rate   rateMeter
}

// hub keeps the newest report of each node and pushes our own.
type hub struct {
	self  topology.Node
	clock clock.Clock

	mu   sync.Mutex
	last map[topology.Node]heard
}

func newHub(self topology.Node, clk clock.Clock) *hub {
	return &hub{self: self, clock: clk, last: map[topology.Node]heard{}}
}

// take stores a report that arrived now.
func (h *hub) take(r report) {
	now := h.clock.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.last[r.Node]
	next := heard{report: r, at: now, rate: before.rate}
	if before.report.Boot != r.Boot {
		next.rate = rateMeter{}
	}
	next.rate = next.rate.add(now, r.Clock)
	h.last[r.Node] = next
}

// of returns the newest report of a node and its age, negative if there is none.
func (h *hub) of(n topology.Node) (report, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.last[n]
	if !ok {
		return report{}, -1
	}
	return l.report, h.clock.Now().Sub(l.at)
}

func (h *hub) clockPPM(n topology.Node) (float64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last[n].rate.ppm()
}

// ServeHTTP takes the report of the peer that its certificate names.
func (h *hub) serve(peer func(context.Context) topology.Node) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, reportBytesMax))
		var r report
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err == nil && r.Node != peer(req.Context()) {
			err = fmt.Errorf("%s reports as %s", peer(req.Context()), r.Node)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.take(r)
		w.WriteHeader(http.StatusNoContent)
	})
}

// caller makes control calls to peers.
type caller interface {
	ControlClient(to topology.Node) (*http.Client, string, error)
}

// push sends our report to every peer until ctx ends. A peer that is slow or
// gone delays nobody else.
func (h *hub) push(ctx context.Context, to []topology.Node, calls caller, compose func() report) {
	var wg sync.WaitGroup
	for _, n := range to {
		if n == h.self {
			continue
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = h.send(ctx, n, calls, compose()) // the peer's own view says how old our report is
				_ = sleep(ctx, reportEvery)
			}
		})
	}
	for ctx.Err() == nil {
		h.take(compose())
		_ = sleep(ctx, reportEvery)
	}
	wg.Wait()
}

func (h *hub) send(ctx context.Context, to topology.Node, calls caller, r report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	_, err = callPeer(ctx, calls, to, reportPath, b)
	return err
}

// callPeer posts JSON to a peer and returns the body of its answer.
func callPeer(ctx context.Context, calls caller, to topology.Node, path string, body []byte) ([]byte, error) {
	client, base, err := calls.ControlClient(to)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", to, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", to, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, reportBytesMax))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", to, err)
	}
	if resp.StatusCode/100 != 2 {
		return answer, &peerError{to, resp.StatusCode, string(bytes.TrimSpace(answer))}
	}
	return answer, nil
}

type peerError struct {
	node   topology.Node
	status int
	body   string
}

func (e *peerError) Error() string {
	return fmt.Sprintf("%s answers %d: %s", e.node, e.status, e.body)
}

// rateMeter compares the rate of a peer's clock with ours. A report can only
// be delayed, so in each window the one that makes the peer's clock look
// latest is the truest; those of two full windows, minutes apart, give the rate.
type rateMeter struct {
	first, last, cur window
}

type window struct {
	start  clock.Instant // on our clock
	at     clock.Instant // of the best sample
	offset time.Duration // the peer's clock minus ours
	filled bool
}

const (
	rateWindow   = 30 * time.Second
	rateBaseline = 5 * time.Minute // 1000 ppm of it are 300 ms, more than a line's delay varies
	rateRestart  = 30 * time.Minute
)

func (m rateMeter) add(now, theirs clock.Instant) rateMeter {
	s := window{start: now, at: now, offset: theirs.Sub(now), filled: true}
	switch {
	case !m.cur.filled:
		m.cur = s
	case now.Sub(m.cur.start) > rateWindow:
		if m.last = m.cur; !m.first.filled {
			m.first = m.cur
		} else if m.last.at.Sub(m.first.at) > rateRestart {
			m.first = m.last
		}
		m.cur = s
	case s.offset > m.cur.offset:
		m.cur.at, m.cur.offset = s.at, s.offset
	}
	return m
}

// ppm returns how much faster the peer's clock runs, in millionths; false
// until the baseline is long enough.
func (m rateMeter) ppm() (float64, bool) {
	base := m.last.at.Sub(m.first.at)
	if !m.first.filled || base < rateBaseline {
		return 0, false
	}
	return float64(m.last.offset-m.first.offset) / float64(base) * 1e6, true
}

// health assembles what this node knows for the planner.
func (h *hub) health(s consensus.State, voters int) failover.Health {
	out := failover.Health{
		Regions: map[topology.Region]failover.RegionHealth{},
		Links:   map[consensus.LinkID]failover.LinkHealth{},
		Voters:  voters, Members: len(s.Members),
	}
	for node, m := range s.Members {
		if m.Witness {
			continue
		}
		r, age := h.of(node)
		rh := failover.RegionHealth{Heard: age, Stores: map[string]failover.Check{}, Probes: map[topology.Node]failover.Probe{}, Guards: r.Guards}
		for name, c := range r.Probes[m.Region].Checks {
			rh.Stores[name] = c
		}
		rh.ClockPPM, _ = h.clockPPM(node)
		for other := range s.Members {
			if other == node {
				continue
			}
			or, oage := h.of(other)
			p, ok := or.Probes[m.Region]
			if oage < 0 || !ok {
				continue
			}
			rh.Probes[other] = failover.Probe{
				Age: oage + time.Duration(p.AgeMs)*time.Millisecond, Checks: p.Checks,
				Failing: time.Duration(p.FailingMs) * time.Millisecond,
			}
		}
		out.Regions[m.Region] = rh
		for id, l := range r.Links {
			out.Links[id] = linkHealth(l, age)
		}
	}
	return out
}

func linkHealth(l linkReport, age time.Duration) failover.LinkHealth {
	t := l.Status.Totals
	out := failover.LinkHealth{
		Heard: age, Running: l.Status.Running && l.Status.Seen, Records: t.RecordsBehind, Bytes: t.BytesBehindEstimate, Seconds: t.SecondsBehindMax,
		SourceSeen: time.Duration(l.SourceSeenMs) * time.Millisecond, Rate: l.Rate, Partitions: t.Partitions, Coverage: l.Coverage, Drift: l.Drift, Exposed: l.Exposed,
	}
	if !l.Status.Seen || t.Unknown > 0 {
		out.Heard = -1 // what is not known must not be summed up as nothing
	}
	for _, p := range l.Status.Partitions {
		if p.Frozen != nil {
			out.Frozen = append(out.Frozen, failover.FrozenPartition{Partition: p.Partition, From: p.Frozen.From, To: p.Frozen.To, Reason: p.Frozen.String(), Next: p.Next})
		}
	}
	return out
}

// rateOf estimates how many records per second a link's source accepts, from
// what was seen of its ends. It keeps the highest rate of the last minutes: a
// bound on a loss should not be too low because the last view was a slow one.
type rateOf struct {
	samples []rateSample
	now     rateSample    // what was seen last; it may not be a sample yet
	step    time.Duration // between samples; 0: rateStep
}

type rateSample struct {
	at  time.Time // when the ends were seen
	n   int       // partitions
	sum int64     // of all their ends
	per float64   // records per second since the sample before
}

const (
	rateStep = 2 * time.Second
	rateSpan = 10 * time.Minute
	// partRateStep is coarser: there may be thousands of partitions.
	partRateStep = 10 * time.Second
	// rateLeast is what makes a rate before the next sample: a region may be
	// lost seconds after its mirror began.
	rateLeast = time.Second
)

func (r *rateOf) add(at time.Time, partitions int, sum int64) {
	n := len(r.samples)
	s := rateSample{at: at, n: partitions, sum: sum}
	if n > 0 && r.samples[n-1].n == partitions && at.Sub(r.samples[n-1].at) >= rateLeast { // a topic that appears brings what it held
		s.per = max(0, float64(sum-r.samples[n-1].sum)/at.Sub(r.samples[n-1].at).Seconds())
	}
	r.now = s
	if n > 0 && at.Sub(r.samples[n-1].at) < cmp.Or(r.step, rateStep) {
		return
	}
	r.samples = append(r.samples, s)
	i := slices.IndexFunc(r.samples, func(s rateSample) bool { return at.Sub(s.at) <= rateSpan })
	r.samples = r.samples[max(0, i):]
}

// perSecond is the highest rate of the last minutes.
func (r *rateOf) perSecond() float64 {
	best := r.now.per
	for _, s := range r.samples {
		best = max(best, s.per)
	}
	return best
}
