package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/guard"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var _ httpapi.Backend = (*Daemon)(nil)

// certificateSoon is how long before its end a certificate becomes a finding.
const certificateSoon = 30 * 24 * time.Hour

// health is the daemon as load balancers see it.
type health struct{ d *Daemon }

func (h health) Verdict(role topology.Role) (consensus.Verdict, bool) {
	if v, ok := h.d.keeper.verdict(role); ok {
		return v, true
	}
	// The log has not been read yet, or never named it.
	_, inFile := h.d.fleet.Roles[role]
	return consensus.Verdict{Phase: consensus.Vacant, Why: "this daemon has not heard from the others yet"}, inFile
}

func (h health) Standby(role topology.Role) (time.Duration, bool, string) {
	d := h.d
	if d.me.Witness {
		return -1, false, "a witness holds no data"
	}
	s := d.raft.State()
	r := s.Roles[role]
	if r.Holder == d.me.Region {
		return 0, false, "this region holds the role"
	}
	lag, fed := time.Duration(0), false
	links := d.hub.health(s, 0).Links
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		in := s.Links[id]
		if in.To != d.me.Region || in.Phase == consensus.LinkEnded {
			continue
		}
		l := links[id]
		if !l.Running || in.Phase != consensus.LinkRunning {
			return -1, false, "the mirror " + string(id) + " does not run"
		}
		if l.Seconds < 0 {
			return -1, false, "how far the mirror " + string(id) + " is behind is not known"
		}
		if frozen := joinFrozen(in, l); len(frozen) > 0 {
			return -1, false, fmt.Sprintf("%d partitions of %s are frozen", len(frozen), id)
		}
		lag, fed = max(lag, time.Duration(l.Seconds*float64(time.Second))), true
	}
	if s.Settings.Mirror && !fed {
		return -1, false, "nothing is mirrored to this region"
	}
	p, seen := d.regions[d.me.Region].report()
	if !seen {
		return lag, false, "its stores were not tried yet"
	}
	for _, name := range slices.Sorted(maps.Keys(p.Checks)) {
		if !p.Checks[name].OK {
			return lag, false, name + ": " + p.Checks[name].Detail
		}
	}
	return lag, true, ""
}

func (h health) Ready() []httpapi.Dependency {
	d := h.d
	leader, _ := d.raft.Leader()
	out := []httpapi.Dependency{{Name: "raft", OK: leader != "", Detail: "leader " + string(leader)}}
	if leader == "" {
		out[0].Detail = cmp.Or(d.raft.Status().Waiting, "no leader: a majority of the members does not answer")
	}
	session := d.raft.State().Sessions[d.node].ID == d.session
	out = append(out, httpapi.Dependency{Name: "session", OK: session, Detail: map[bool]string{true: "in the log", false: "not in the log yet"}[session]})
	if d.me.Witness {
		return out
	}
	p, seen := d.regions[d.me.Region].report()
	for _, name := range slices.Sorted(maps.Keys(p.Checks)) {
		out = append(out, httpapi.Dependency{Name: name, OK: p.Checks[name].OK, Detail: p.Checks[name].Detail})
	}
	if !seen {
		out = append(out, httpapi.Dependency{Name: "stores", OK: false, Detail: "not tried yet"})
	}
	links := d.mirrors.reports()
	for _, id := range slices.Sorted(maps.Keys(links)) {
		if l := links[id]; l.Trouble != "" {
			out = append(out, httpapi.Dependency{Name: "mirror " + string(id), OK: false, Detail: l.Trouble})
		}
	}
	return out
}

// voters counts the members that this node hears from, itself included.
func (d *Daemon) voters(s consensus.State) int {
	n := 0
	for node := range s.Members {
		if _, age := d.hub.of(node); age >= 0 && age < heardWithin {
			n++
		}
	}
	return n
}

func (d *Daemon) health(s consensus.State) failover.Health { return d.hub.health(s, d.voters(s)) }

// report is what this node tells its peers.
func (d *Daemon) report() report {
	r := report{
		Node: d.node, Region: d.me.Region, Version: d.version, Digest: d.fleet.Digest(), Boot: d.boot,
		Probes: map[topology.Region]probeReport{}, Leases: map[topology.Role]leaseReport{},
	}
	for name, reg := range d.regions {
		if p, ok := reg.report(); ok {
			r.Probes[name] = p
		}
	}
	for name := range d.fleet.Roles {
		if v, ok := d.keeper.verdict(name); ok {
			r.Leases[name] = leaseReport{Active: v.Active, Held: v.Held, Epoch: v.Epoch, RemainingMs: v.Remaining.Milliseconds()}
		}
	}
	now := d.clock.Now()
	for _, g := range d.keeper.guards.List() {
		r.Guards = append(r.Guards, failover.Guard{ID: g.ID, Role: g.Role, Epoch: g.Epoch, PID: g.PID, Running: g.Running, Age: now.Sub(g.Heard)})
	}
	if d.mirrors != nil {
		r.Links = d.mirrors.reports()
		d.verify.annotate(r.Links)
	}
	if d.runs != nil {
		r.Runs = d.runs.report()
		d.verify.report(r.Runs)
	}
	r.Clock = d.clock.Now() // last: the rest took its time
	return r
}

// Status implements httpapi.Backend.
func (d *Daemon) Status(context.Context) (httpapi.Status, error) {
	s := d.raft.State()
	h := d.health(s)
	leader, _ := d.raft.Leader()
	mode := string(config.Active)
	if s.Settings.Observe {
		mode = string(config.Observe)
	}
	st := httpapi.Status{
		Cluster: d.fleet.Cluster, Node: d.node, Version: d.version, Mode: mode, At: d.clock.Wall().UTC(),
		Leader: leader, Reachable: h.Voters, Members: len(d.fleet.Nodes), Generation: s.Generation,
		Roles: []httpapi.RoleRow{}, Stores: []httpapi.StoreCell{}, Links: []httpapi.LinkRow{}, Plans: []httpapi.Plan{}, Findings: []httpapi.Finding{},
	}
	for _, name := range slices.Sorted(maps.Keys(s.Roles)) {
		st.Roles = append(st.Roles, d.roleRow(s, h, name))
	}
	st.Stores = d.storeCells(s, h)
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		if row, show := d.linkRow(s, h, id); show {
			st.Links = append(st.Links, row)
		}
	}
	plans, _ := d.Plans(context.Background())
	for _, p := range plans {
		if p.Plan.Phase.Live() {
			st.Plans = append(st.Plans, p)
		}
	}
	st.Sets = setsOf(d.fleet, s, st.At)
	st.Findings = append(d.findings(s, h), setFindings(d.fleet, s, st.Sets, st.At)...)
	return st, nil
}

func (d *Daemon) roleRow(s consensus.State, h failover.Health, name topology.Role) httpapi.RoleRow {
	r := s.Roles[name]
	row := httpapi.RoleRow{
		Role: name, Holder: r.Holder, Phase: r.Phase, Epoch: r.Epoch, Basis: r.Basis, Auto: s.Settings.Roles[name].Auto,
		Policy: string(s.Settings.Roles[name].Policy), Last: r.Last.Holder, Lease: httpapi.LeaseLapsed, LeaseMs: -1,
		Failover: r.Failover,
	}
	if p, ok := s.Pauses[name]; ok && p.Until.After(d.clock.Wall()) {
		row.Paused, row.PausedReason = p.Until, p.Reason
	}
	at := r.Holder
	if r.Phase == consensus.Vacant {
		at = r.Last.Holder
	} else {
		row.Lease, row.LeaseMs = d.leaseOf(r, name)
	}
	for _, region := range slices.Sorted(maps.Keys(h.Regions)) {
		if region != at && row.Standby == "" {
			row.Standby = region
		}
	}
	if row.Standby == "" || at == "" {
		return row
	}
	if l, ok := h.Links[consensus.LinkOf(at, row.Standby)]; ok && s.Links[consensus.LinkOf(at, row.Standby)].Phase == consensus.LinkRunning {
		b := httpapi.Behind{Store: "kafka", Records: -1, Seconds: -1}
		if l.Heard >= 0 && l.Heard <= heardWithin {
			b.Records, b.Seconds = l.Records, l.Seconds
		}
		row.Behind = append(row.Behind, b)
	}
	c, blockers := failover.MakePlan(d.clock.Wall(), s, h, rulesOf(d.fleet), failover.Intent{To: row.Standby, Roles: []topology.Role{name}})
	row.Move = &httpapi.MoveNow{Ready: len(blockers) == 0, PauseMs: c.Pause.Milliseconds(), Blockers: blockers}
	return row
}

// leaseOf is the holder's own word about its lease, aged.
func (d *Daemon) leaseOf(r consensus.Role, name topology.Role) (httpapi.LeaseState, int64) {
	if r.Node == d.node {
		v, _ := d.keeper.verdict(name)
		return leaseState(v.Leased, v.Held, v.Epoch == r.Epoch, v.Remaining.Milliseconds())
	}
	rep, age := d.hub.of(r.Node)
	l, ok := rep.Leases[name]
	if age < 0 || !ok {
		return httpapi.LeaseUnknown, -1
	}
	left := l.RemainingMs - age.Milliseconds()
	if age > heardWithin {
		return httpapi.LeaseUnknown, -1
	}
	return leaseState(l.Held || left > 0, l.Held, l.Epoch == r.Epoch, left)
}

func leaseState(leased, held, same bool, leftMs int64) (httpapi.LeaseState, int64) {
	switch {
	case !same || !leased:
		return httpapi.LeaseLapsed, -1
	case held:
		return httpapi.LeaseHeld, -1
	default:
		return httpapi.LeaseValid, leftMs
	}
}

func (d *Daemon) storeCells(s consensus.State, h failover.Health) []httpapi.StoreCell {
	var out []httpapi.StoreCell
	for _, region := range d.fleet.RegionNames() {
		conf := d.fleet.Regions[region]
		rh := h.Regions[region]
		if conf.Kafka != nil {
			out = append(out, d.kafkaCell(s, h, region, rh))
		}
		if conf.ClickHouse != nil {
			c := cell("clickhouse", region, rh)
			if c.OK && rh.Heard <= heardWithin && !holdsAny(s, region) && len(s.Roles) > 0 {
				c.Detail = string(conf.ClickHouse.Follow)
			}
			out = append(out, c)
		}
	}
	return out
}

func cell(store string, region topology.Region, rh failover.RegionHealth) httpapi.StoreCell {
	c := httpapi.StoreCell{Store: store, Region: region, Seconds: -1, Detail: "not reported yet"}
	check, known := rh.Stores[store]
	switch {
	case !known || rh.Heard < 0:
	case rh.Heard > heardWithin:
		c.Detail = fmt.Sprintf("last report %s ago", rh.Heard.Round(time.Second))
		c.Next = "systemctl status holdfast, in " + string(region)
		// What others find when they use it is newer than what its own daemon last said.
		for _, node := range slices.Sorted(maps.Keys(rh.Probes)) {
			if p := rh.Probes[node]; p.Age < heardWithin {
				c.Known, c.OK = true, p.Checks[store].OK
				c.Detail = fmt.Sprintf("daemon silent for %s; %s finds: %s", rh.Heard.Round(time.Second), node, p.Checks[store].Detail)
				break
			}
		}
	default:
		c.Known, c.OK, c.Detail = true, check.OK, check.Detail
		if check.OK {
			c.Detail = "ok"
		} else {
			c.Next = "holdfast check --region " + string(region)
		}
	}
	return c
}

func (d *Daemon) kafkaCell(s consensus.State, h failover.Health, region topology.Region, rh failover.RegionHealth) httpapi.StoreCell {
	c := cell("kafka", region, rh)
	if !c.OK || rh.Heard > heardWithin {
		return c
	}
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		if l.To != region || l.Phase == consensus.LinkEnded {
			continue
		}
		lh := h.Links[id]
		switch {
		case l.Phase == consensus.LinkUnproven:
			c.Detail = "being compared"
		case lh.Running:
			c.Detail, c.Seconds = "mirrored", lh.Seconds
		default:
			c.Detail = "mirror stands still"
		}
	}
	return c
}

func holdsAny(s consensus.State, region topology.Region) bool {
	for _, r := range s.Roles {
		if r.Holder == region {
			return true
		}
	}
	return false
}

func (d *Daemon) linkRow(s consensus.State, h failover.Health, id consensus.LinkID) (httpapi.LinkRow, bool) {
	l := s.Links[id]
	lh, ok := h.Links[id]
	row := httpapi.LinkRow{ID: id, Phase: l.Phase, Epoch: l.Epoch, HeardMs: -1, Records: -1, Seconds: -1}
	node, _ := d.fleet.NodeOf(l.To)
	r, age := d.hub.of(node)
	if ok && age >= 0 && l.Phase == consensus.LinkRunning {
		row.Running, row.HeardMs = lh.Running && age < heardWithin, age.Milliseconds()
	}
	if ok && lh.Heard >= 0 && lh.Heard <= heardWithin && l.Phase == consensus.LinkRunning {
		row.Records, row.Bytes, row.Seconds, row.Rate, row.Partition = lh.Records, lh.Bytes, lh.Seconds, lh.Rate, lh.Partitions
	}
	row.Frozen = joinFrozen(l, lh)
	row.Paused = r.Links[id].PausedUntil
	return row, l.Phase != consensus.LinkEnded
}

// joinFrozen lists what the log names and what the mirror found by itself.
func joinFrozen(l consensus.Link, lh failover.LinkHealth) []failover.FrozenPartition {
	out := failover.FrozenOf(l)
	for _, f := range lh.Frozen {
		if !slices.ContainsFunc(out, func(g failover.FrozenPartition) bool { return g.Partition == f.Partition }) {
			out = append(out, f)
		}
	}
	return out
}

func (d *Daemon) findings(s consensus.State, h failover.Health) []httpapi.Finding {
	out := []httpapi.Finding{}
	add := func(sev httpapi.Severity, about, next, what string, a ...any) {
		out = append(out, httpapi.Finding{Severity: sev, About: about, What: fmt.Sprintf(what, a...), Next: next})
	}
	if s.Settings.Digest != "" && s.Settings.Digest != d.fleet.Digest() {
		add(httpapi.Warning, "configuration", "compare with `holdfast config check`, then `holdfast config apply`", "the fleet file of %s differs from what is agreed on: drift", d.node)
	}
	if f, found := certificateFinding(d.identity, d.node, d.clock.Wall()); found {
		out = append(out, f)
	}
	for _, node := range slices.Sorted(maps.Keys(s.Members)) {
		r, age := d.hub.of(node)
		switch {
		case age < 0:
			add(httpapi.Warning, "node "+string(node), "check holdfast.service there: `systemctl status holdfast`", "%s has not reported since this daemon started", node)
		case age > heardWithin:
			add(httpapi.Warning, "node "+string(node), "check holdfast.service there: `systemctl status holdfast`", "%s last reported %s ago", node, age.Round(time.Second))
		case r.Digest != s.Settings.Digest && node != d.node:
			add(httpapi.Warning, "configuration", "bring the same file there and restart its daemon", "the fleet file of %s differs from what is agreed on: drift", node)
		}
		if ppm, ok := d.hub.clockPPM(node); ok && math.Abs(ppm) > float64(s.Settings.Lease.ClockRatePPM) {
			add(httpapi.Critical, "clock of "+string(node), "`chronyc tracking` there", "the clock of %s runs %.2f %% off ours; leases allow %.2f %%", node, ppm/1e4, float64(s.Settings.Lease.ClockRatePPM)/1e4)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		node, _ := d.fleet.NodeOf(l.To)
		r, age := d.hub.of(node)
		if age < 0 || age > heardWithin {
			continue // said above; what it said last is past
		}
		if t := r.Links[id].Trouble; t != "" && l.Phase != consensus.LinkEnded {
			add(httpapi.Warning, "mirror "+string(id), "`holdfast check`", "%s", t)
		}
		for _, f := range r.Links[id].Status.Findings {
			add(httpapi.Warning, f.About, f.Next, "%s", f.Text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Roles)) {
		r := s.Roles[name]
		if r.Phase == consensus.Vacant && r.Epoch > 0 {
			_, yes, why := failover.Automatic(d.clock.Wall(), s, h, rulesOf(d.fleet))
			next := "bring the daemon of " + string(r.Last.Holder) + " back, or `holdfast failover plan --to …`"
			if s.Settings.Roles[name].Auto && !yes {
				add(httpapi.Critical, string(name), next, "nobody holds %s; it does not move by itself: %s", name, why)
			} else {
				add(httpapi.Critical, string(name), next, "nobody holds %s", name)
			}
		}
		if !r.Failover.IsZero() {
			add(httpapi.Warning, string(name), "holdfast failover ack", "%s failed over at %s; automatic moves wait until someone has seen it", name, r.Failover.UTC().Format(time.TimeOnly))
		}
	}
	return out
}

// certificateFinding says in time that this node will be cut off, or that newer
// files on disk are not taken.
func certificateFinding(i *certs.Identity, node topology.Node, now time.Time) (f httpapi.Finding, found bool) {
	f = httpapi.Finding{About: "certificate of " + string(node), Next: "on the machine that holds the CA key: `holdfast certs init --renew " + string(node) + "`, then copy both files there; no restart is needed"}
	left := i.NotAfter().Sub(now)
	switch err := i.Check(); {
	case err != nil:
		f.Severity, f.What = httpapi.Critical, err.Error()
	case left < certificateSoon:
		f.Severity, f.What = httpapi.Warning, fmt.Sprintf("expires in %d days, on %s; the other nodes refuse this one from then on", int(left/(24*time.Hour)), i.NotAfter().UTC().Format("2006-01-02 15:04 MST"))
	default:
		return f, false
	}
	return f, true
}

// Check implements httpapi.Backend.
func (d *Daemon) Check(ctx context.Context, region topology.Region) (httpapi.CheckReport, error) {
	if _, ok := d.regions[region]; region != "" && !ok {
		return httpapi.CheckReport{}, httpapi.Problemf(httpapi.NotFound, "check "+string(region), "regions: "+strings.Join(names(d.fleet.RegionNames()), ", "), "no region %q in this fleet", region)
	}
	rep := httpapi.CheckReport{At: d.clock.Wall().UTC(), Checks: []httpapi.Check{}}
	s := d.raft.State()
	leader, _ := d.raft.Leader()
	lead := cmp.Or(string(leader), "nobody")
	rep.Checks = append(rep.Checks, httpapi.Check{Name: "leader", Node: d.node, OK: leader != "", Severity: httpapi.Critical, Detail: fmt.Sprintf("%s leads, %s hears %d of %d members", lead, d.node, d.voters(s), len(d.fleet.Nodes)), Fix: "bring a majority of the daemons back"})
	for _, m := range d.raft.Members() {
		_, age := d.hub.of(m.Node)
		ok := age >= 0 && age < heardWithin
		c := httpapi.Check{Name: "reports of " + string(m.Node), Node: d.node, OK: ok, Detail: "heard " + ago(age), Fix: "check holdfast.service there: `systemctl status holdfast`"}
		if m.RTT > 0 {
			c.Detail += fmt.Sprintf(", round trip %s (99th percentile)", m.RTT.Round(100*time.Microsecond))
			if limit := d.fleet.Timing.Raft.Heartbeat / 10; m.RTT > limit {
				c.OK, c.Fix = false, fmt.Sprintf("raise timing.raft.heartbeat above %s", 10*m.RTT)
			}
		}
		rep.Checks = append(rep.Checks, c)
		if ppm, known := d.hub.clockPPM(m.Node); known && m.Node != d.node {
			rep.Checks = append(rep.Checks, httpapi.Check{Name: "clock of " + string(m.Node), Node: d.node, OK: math.Abs(ppm) <= float64(d.fleet.Timing.Lease.ClockRatePPM), Severity: httpapi.Critical, Detail: fmt.Sprintf("runs %+.0f ppm against ours (limit %d)", ppm, d.fleet.Timing.Lease.ClockRatePPM), Fix: "`chronyc tracking` there"})
		}
	}
	for _, name := range d.fleet.RegionNames() {
		if region == "" || region == name {
			rep.Checks = append(rep.Checks, d.checkRegion(ctx, name)...)
		}
	}
	for i := range rep.Checks {
		if rep.Checks[i].OK {
			rep.Checks[i].Fix, rep.Checks[i].Severity = "", ""
		}
	}
	return rep, nil
}

func (d *Daemon) checkRegion(ctx context.Context, name topology.Region) []httpapi.Check {
	reg := d.regions[name]
	var out []httpapi.Check
	if name == d.me.Region { // other regions' keys are not on this host
		out = d.checkRecovery(ctx, name)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*reg.timeout)
	defer cancel()
	away := map[string]bool{} // and a probe would only say so again
	if reg.kafka != nil {
		start := time.Now()
		id, err := reg.kafka.Ping(ctx)
		c := httpapi.Check{Region: name, Node: d.node, Name: "kafka cluster", OK: err == nil, Severity: httpapi.Critical, Detail: "cluster id " + id, TookMs: time.Since(start).Milliseconds(), Fix: "are brokers, TLS, SASL and cluster_id of regions." + string(name) + ".kafka right, and is the network open?"}
		if err != nil {
			c.Detail, away["kafka"] = err.Error(), true
		}
		out = append(out, c)
		if err == nil {
			out = append(out, checkAuthorizer(ctx, reg, d.node))
			if len(d.fleet.Regions) > 1 {
				out = append(out, checkMarkers(ctx, reg, d.node))
			}
		}
	}
	if reg.clickhouse != nil {
		start := time.Now()
		v, err := reg.clickhouse.Version(ctx)
		c := httpapi.Check{Region: name, Node: d.node, Name: "clickhouse version", OK: err == nil, Severity: httpapi.Critical, Detail: v, TookMs: time.Since(start).Milliseconds(), Fix: "are addresses, user and password of regions." + string(name) + ".clickhouse right, and is the network open?"}
		if err != nil {
			c.Detail, away["clickhouse"] = err.Error(), true
		}
		out = append(out, c)
	}
	_, results := reg.tryAll(ctx)
	for _, t := range results {
		if away[t.name] {
			continue
		}
		c := httpapi.Check{Region: name, Node: d.node, Name: t.name + " probe", OK: t.err == nil, Severity: httpapi.Critical, Detail: t.say, TookMs: t.took.Milliseconds(), Fix: reg.right(t.name)}
		if t.err != nil {
			c.Detail = t.err.Error()
		}
		out = append(out, c)
	}
	h := d.health(d.raft.State())
	for _, node := range slices.Sorted(maps.Keys(h.Regions[name].Probes)) {
		p := h.Regions[name].Probes[node]
		for _, store := range slices.Sorted(maps.Keys(p.Checks)) {
			if node == d.node {
				continue
			}
			out = append(out, httpapi.Check{Region: name, Node: node, Name: store + " probe", OK: p.Checks[store].OK && p.Age < heardWithin+reg.interval, Detail: p.Checks[store].Detail + ", " + ago(p.Age), Fix: "an automatic move needs this node's probe of " + string(name) + ": open the network between them"})
		}
	}
	return out
}

func ago(d time.Duration) string {
	if d < 0 {
		return "never"
	}
	return d.Round(100*time.Millisecond).String() + " ago"
}

func names[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = string(n)
	}
	return out
}

// Members implements httpapi.Backend.
func (d *Daemon) Members(context.Context) (httpapi.Members, error) {
	s := d.raft.State()
	leader, _ := d.raft.Leader()
	out := httpapi.Members{Leader: leader, Generation: s.Generation}
	for _, m := range d.raft.Members() {
		r, age := d.hub.of(m.Node)
		row := httpapi.Member{
			Node: m.Node, Region: d.fleet.Nodes[m.Node].Region, Witness: d.fleet.Nodes[m.Node].Witness, Leader: m.Leader, Voter: m.Voter,
			Reachable: age >= 0 && age < heardWithin, Address: m.Address, HeardMs: -1, RTTMs: -1, Version: r.Version, Since: s.Sessions[m.Node].At,
		}
		if age >= 0 {
			row.HeardMs = age.Milliseconds()
		}
		if m.RTT > 0 {
			row.RTTMs = float64(m.RTT) / float64(time.Millisecond)
		}
		out.Members = append(out.Members, row)
	}
	return out, nil
}

// Audit implements httpapi.Backend.
func (d *Daemon) Audit(_ context.Context, n int) (httpapi.AuditReport, error) {
	a := d.raft.State().Audit
	out := httpapi.AuditReport{Count: a.Count, Head: a.Head, Lines: a.Lines[max(0, len(a.Lines)-max(0, n)):]}
	if err := a.Verify(); err != nil {
		out.Broken = err.Error()
	}
	return out, nil
}

// PlanFailover implements httpapi.Backend.
func (d *Daemon) PlanFailover(_ context.Context, want failover.Intent) (failover.Candidate, []failover.Blocker, error) {
	s := d.raft.State()
	c, blockers := failover.MakePlan(d.clock.Wall(), s, d.health(s), rulesOf(d.fleet), want)
	return c, blockers, nil
}

// RunFailover implements httpapi.Backend.
func (d *Daemon) RunFailover(ctx context.Context, want failover.Intent, hash, by string) (consensus.PlanID, error) {
	want.Auto = false // a person asks
	c, blockers, err := d.PlanFailover(ctx, want)
	if err != nil {
		return "", err
	}
	return d.runCandidate(ctx, c, blockers, hash, by)
}

func (d *Daemon) runCandidate(ctx context.Context, c failover.Candidate, blockers []failover.Blocker, hash, by string) (consensus.PlanID, error) {
	what := "run plan " + hash
	if len(blockers) > 0 {
		return "", httpapi.RefusedBy(what, blockers)
	}
	if c.Plan.Hash != hash {
		return "", httpapi.Problemf(httpapi.Changed, what, "plan again, read it, and run the new one", "what it was decided on has changed; it would now be plan %s", c.Plan.Hash)
	}
	return startPlan(ctx, d.raft, d.clock.Wall(), c, by)
}

// PlanReseed implements httpapi.Backend.
func (d *Daemon) PlanReseed(_ context.Context, want httpapi.Reseed) (failover.Candidate, []failover.Blocker, error) {
	s := d.raft.State()
	c, blockers := failover.MakeReseed(d.clock.Wall(), s, d.health(s), rulesOf(d.fleet), want.Region, want.Topics, want.Reason)
	return c, blockers, nil
}

// RunReseed implements httpapi.Backend.
func (d *Daemon) RunReseed(ctx context.Context, want httpapi.Reseed, hash, by string) (consensus.PlanID, error) {
	c, blockers, err := d.PlanReseed(ctx, want)
	if err != nil {
		return "", err
	}
	return d.runCandidate(ctx, c, blockers, hash, by)
}

// Plans implements httpapi.Backend.
func (d *Daemon) Plans(context.Context) ([]httpapi.Plan, error) {
	s := d.raft.State()
	out := []httpapi.Plan{}
	for _, id := range slices.Sorted(maps.Keys(s.Plans)) {
		out = append(out, httpapi.Plan{ID: id, Plan: s.Plans[id], Stuck: failover.Stuck(id, s)})
	}
	slices.SortStableFunc(out, func(a, b httpapi.Plan) int {
		if a.Plan.Phase.Live() != b.Plan.Phase.Live() {
			return map[bool]int{true: -1, false: 1}[a.Plan.Phase.Live()]
		}
		return b.Plan.Created.Compare(a.Plan.Created)
	})
	return out, nil
}

// Plan implements httpapi.Backend.
func (d *Daemon) Plan(ctx context.Context, id consensus.PlanID) (httpapi.Plan, error) {
	all, err := d.Plans(ctx)
	if err != nil {
		return httpapi.Plan{}, err
	}
	var found []httpapi.Plan
	for _, p := range all {
		if p.ID == id {
			return p, nil
		}
		if strings.HasPrefix(string(p.ID), string(id)) || strings.HasPrefix(p.Plan.Hash, string(id)) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return httpapi.Plan{}, httpapi.Problemf(httpapi.NotFound, "find plan "+string(id), "`holdfast failover status` lists them", "%d plans match", len(found))
	}
	return found[0], nil
}

func (d *Daemon) mutate(ctx context.Context, by string, b consensus.Body) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := d.raft.Propose(ctx, consensus.Command{At: d.clock.Wall(), By: by, Body: b})
	return err
}

// Abort implements httpapi.Backend.
func (d *Daemon) Abort(ctx context.Context, id consensus.PlanID, why, by string) error {
	p, err := d.Plan(ctx, id)
	if err != nil {
		return err
	}
	return d.mutate(ctx, by, &consensus.AbortPlan{Plan: p.ID, Why: cmp.Or(why, "aborted by "+by)})
}

// Retry implements httpapi.Backend.
func (d *Daemon) Retry(ctx context.Context, id consensus.PlanID, by string) error {
	p, err := d.Plan(ctx, id)
	if err != nil {
		return err
	}
	ref := consensus.StepRef{Plan: p.ID}
	if p.Plan.Phase == consensus.PlanAborting {
		ref.Step, ref.Undo, _ = p.Plan.CurrentUndo()
	} else {
		ref.Step, _ = p.Plan.Current()
	}
	return d.mutate(ctx, by, &consensus.RetryTask{Step: ref})
}

// Ack implements httpapi.Backend.
func (d *Daemon) Ack(ctx context.Context, role topology.Role, by string) error {
	return d.mutate(ctx, by, &consensus.AckFailover{Role: role})
}

// Pause implements httpapi.Backend.
func (d *Daemon) Pause(ctx context.Context, role topology.Role, until time.Time, reason, by string) error {
	return d.mutate(ctx, by, &consensus.PauseRole{Role: role, Until: until, Reason: reason})
}

// MirrorStatus implements httpapi.Backend.
func (d *Daemon) MirrorStatus(context.Context) (httpapi.MirrorReport, error) {
	s := d.raft.State()
	out := httpapi.MirrorReport{At: d.clock.Wall().UTC(), Links: []httpapi.MirrorLink{}}
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		l := s.Links[id]
		row := httpapi.MirrorLink{ID: id, Phase: l.Phase, Epoch: l.Epoch, Proven: l.Proven, HeardMs: -1, Frozen: failover.FrozenOf(l), Deleted: d.deleted(s, id)}
		node, _ := d.fleet.NodeOf(l.To)
		r, age := d.hub.of(node)
		lr, ok := r.Links[id]
		switch {
		case l.Phase == consensus.LinkEnded:
			row.Why = "it has ended"
		case age < 0:
			row.Why = fmt.Sprintf("%s has not reported yet", node)
		case !ok:
			row.Why = fmt.Sprintf("%s does not run it", node)
		default:
			row.HeardMs, row.Coverage, row.Paused = age.Milliseconds(), lr.Coverage, lr.PausedUntil
			if l.Phase == consensus.LinkRunning && lr.Status.Partitions != nil {
				row.Report = &lr.Status
			} else {
				row.Why = cmp.Or(lr.Trouble, "it compares what both regions hold, and mirrors nothing yet")
			}
		}
		out.Links = append(out.Links, row)
	}
	return out, nil
}

// MirrorPause implements httpapi.Backend.
func (d *Daemon) MirrorPause(ctx context.Context, h httpapi.MirrorHold, by string) error {
	return d.order(ctx, mirrorOrder{Hold: h, By: by})
}

// MirrorResume implements httpapi.Backend.
func (d *Daemon) MirrorResume(ctx context.Context, h httpapi.MirrorHold, by string) error {
	return d.order(ctx, mirrorOrder{Resume: true, Hold: h, By: by})
}

// ConfigDrift implements httpapi.Backend.
func (d *Daemon) ConfigDrift(context.Context) (httpapi.ConfigDrift, error) {
	out := httpapi.ConfigDrift{Node: d.node, File: d.file, Applied: d.raft.State().Settings.Digest, Nodes: map[topology.Node]string{}}
	f, err := config.Load(d.file)
	if err != nil {
		out.Refused = err.Error()
	} else {
		out.Digest = f.Digest()
	}
	out.Drift = out.Digest != out.Applied
	for _, n := range d.fleet.NodeNames() {
		if r, age := d.hub.of(n); age >= 0 {
			out.Nodes[n] = r.Digest
		}
	}
	return out, nil
}

// ConfigApply implements httpapi.Backend.
func (d *Daemon) ConfigApply(ctx context.Context, by string) (httpapi.ConfigApplied, error) {
	f, err := config.Load(d.file)
	if err != nil {
		return httpapi.ConfigApplied{}, httpapi.Problemf(httpapi.Usage, "apply "+d.file, "`holdfast config check` names each problem", "%s", err)
	}
	was := d.raft.State().Settings.Digest
	out := httpapi.ConfigApplied{Digest: f.Digest(), Was: was, Changed: was != f.Digest()}
	if f.Digest() != d.fleet.Digest() {
		out.Restart = []string{"every daemon: stores, mirror, backups, drills, probes, hooks and timings of plans are read when it starts; do the standby first, the holder last"}
	}
	if !out.Changed {
		return out, nil
	}
	s, m := agreed(f)
	return out, d.mutate(ctx, by, &consensus.Configure{Settings: s, Members: m, Was: was})
}

// Guard implements httpapi.Backend.
func (d *Daemon) Guard(_ context.Context, g httpapi.GuardStatus) (httpapi.GuardWord, error) {
	v, known := health{d}.Verdict(g.Role)
	if !known {
		return httpapi.GuardWord{}, httpapi.Problemf(httpapi.NotFound, "guard "+string(g.Role), "roles: "+strings.Join(names(d.fleet.RoleNames()), ", "), "no role %q in this fleet", g.Role)
	}
	s, timing := d.raft.State(), leaseTiming(d.fleet.Timing.Lease)
	if s.Settings.Digest != "" {
		timing = s.Settings.Lease
	}
	w, err := d.keeper.word(guard.Status{
		ID: g.ID, Role: g.Role, Epoch: g.Epoch, PID: g.PID, Running: g.Running,
		AllowedUntil: clock.Instant(g.AllowedUntil), Held: g.Held, Gone: g.Gone,
	}, s.Generation, timing)
	if err != nil {
		return httpapi.GuardWord{}, httpapi.Problemf(httpapi.Refused, "guard "+string(g.Role), "end some of them", "%s", err)
	}
	return httpapi.GuardWord{
		Role: g.Role, Phase: w.Phase, Active: w.Leased && w.Phase == consensus.Open, Leased: w.Leased, Held: w.Held, Epoch: w.Epoch, Generation: w.Generation,
		Deadline: int64(w.Deadline), Boot: w.BootID, MarginNs: int64(w.Margin), Now: int64(w.Now), Why: cmp.Or(w.Why, v.Why),
	}, nil
}
