package failover

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// clockPPMMax is the difference between two daemons' clocks above which a
// lease is no longer trusted to them.
const clockPPMMax = 1000

// gates judges a plan. Their order and names are part of the plan's hash.
func gates(s consensus.State, h Health, rules Rules, p consensus.Plan, want Intent, supersedes consensus.PlanID) []Gate {
	g := &judge{}
	planned := p.Kind == consensus.Planned

	g.gate("mode", !s.Settings.Observe, "holdfast drives the roles", "mode is observe: holdfast drives nothing", "set mode: active in the fleet file and run `holdfast config apply`")
	if id, live, ok := liveOf(s, p.Roles); ok && (supersedes == "" || live.Kind == consensus.Reseed) {
		g.gate("one plan at a time", false, "", fmt.Sprintf("plan %s is %s", id, live.Phase), "`holdfast failover status` shows it; wait, or `holdfast failover abort`")
	} else {
		g.gate("one plan at a time", true, "no other plan is live", "", "")
	}
	targetGates(g, h, rules, p)

	if planned {
		from := h.Regions[p.From]
		g.gate("source daemon", from.Alive(rules.HeardWithin), "the daemon of "+string(p.From)+" reports", "the daemon of "+string(p.From)+" does not report: a planned move needs both", "bring it back, or move without it: `holdfast failover plan --to "+string(p.To)+" --fenced "+string(p.From)+" --reason …`")
		for _, name := range p.Roles {
			r := s.Roles[name]
			g.gate(string(name)+" is open", r.Phase == consensus.Open, fmt.Sprintf("%s is open in %s, epoch %d", name, r.Holder, r.Epoch), fmt.Sprintf("%s is %s, a planned move starts from open", name, r.Phase), "`holdfast status` shows why")
		}
	} else {
		for _, name := range p.Roles {
			r := s.Roles[name]
			vacant := r.Phase == consensus.Vacant
			ok := vacant || (p.Fenced != "" && p.Fenced == r.Holder)
			basis := "vacant, " + string(r.Last.Basis)
			if !vacant {
				basis = "held by " + string(r.Holder) + ", attested to be fenced"
			}
			no, fix := fmt.Sprintf("%s is held by %s and its lease has not run out", name, r.Holder), "wait for the lease, or attest that the region is cut off: --fenced "+string(r.Holder)+" --reason …"
			if r.Policy == consensus.Hold {
				no, fix = fmt.Sprintf("%s is held by %s, which was told to hold: its lease does not run out", name, r.Holder), "attest that the region is cut off: --fenced "+string(r.Holder)+" --reason …"
			}
			g.gate(string(name)+" is free", ok, fmt.Sprintf("%s is %s", name, basis), no, fix)
		}
		if p.Fenced != "" {
			g.gate("attestation", strings.TrimSpace(p.Reason) != "", "attested: "+p.Reason, "an attestation needs a reason", "--reason \"who fenced it and how\"")
		}
	}
	if carriesKafka(s, p) {
		kafkaGates(g, s, h, rules, p, want)
	}
	if turnsBack(s, p) {
		g.gate("loss", want.AcceptLoss || !everOpened(s), p.Bound.Basis, p.Bound.Basis, "accept it by hand: --accept-loss")
	}
	togetherNote(g, s, p)
	return g.gates
}

// BeforeGrant judges again, right before the point of no return, what the new
// region needs to be able to take over.
func BeforeGrant(s consensus.State, h Health, rules Rules, p consensus.Plan) []Blocker {
	if p.Kind == consensus.Reseed {
		return nil
	}
	g := &judge{}
	targetGates(g, h, rules, p)
	return Candidate{Gates: g.gates}.Blockers()
}

func targetGates(g *judge, h Health, rules Rules, p consensus.Plan) {
	g.gate("quorum", h.Voters > h.Members/2, fmt.Sprintf("%d of %d members reach each other", h.Voters, h.Members), fmt.Sprintf("only %d of %d members reach each other", h.Voters, h.Members), "bring the missing daemons back: `holdfast members list`")
	to := h.Regions[p.To]
	g.gate("target daemon", to.Alive(rules.HeardWithin), "the daemon of "+string(p.To)+" reports", "the daemon of "+string(p.To)+" does not report", "check holdfast.service there: `systemctl status holdfast`")
	for _, store := range storesOf(rules, p.Roles) {
		c, known := to.Stores[store]
		if !known {
			c = Check{false, "not checked yet"}
		}
		g.gate("target "+store, c.OK, store+" of "+string(p.To)+" works", store+" of "+string(p.To)+": "+c.Detail, "repair it first: `holdfast check --region "+string(p.To)+"`")
	}
	g.gate("clock", math.Abs(to.ClockPPM) <= clockPPMMax, "clock rates agree", fmt.Sprintf("the clock of %s runs %.2f %% off (limit %.1f %%)", p.To, to.ClockPPM/1e4, clockPPMMax/1e4), "correct it: `chronyc makestep`, then plan again")
}

// unless says in which phase a link is that should run and does not.
func unless(p consensus.LinkPhase) string {
	if p == consensus.LinkRunning {
		return ", although it should"
	}
	return " (" + string(p) + ")"
}

func kafkaGates(g *judge, s consensus.State, h Health, rules Rules, p consensus.Plan, want Intent) {
	id := consensus.LinkOf(p.From, p.To)
	link := s.Links[id]
	l, known := h.Links[id]
	if p.Kind == consensus.Planned {
		running := known && l.Heard >= 0 && l.Heard <= rules.HeardWithin && l.Running
		g.gate("mirror", running && link.Phase == consensus.LinkRunning, "the mirror "+string(id)+" runs", "the mirror "+string(id)+" does not run"+unless(link.Phase), "`holdfast mirror status` says why")
		lag := time.Duration(l.Seconds * float64(time.Second)).Round(100 * time.Millisecond)
		behind := fmt.Sprintf("mirror %s behind, %d records (limit %s)", lag, l.Records, rules.LagMax)
		if !running {
			behind = "how far the mirror is behind is not known: it does not run"
		}
		g.gate("mirror lag", running && lag <= rules.LagMax, fmt.Sprintf("mirror %s behind (limit %s)", lag, rules.LagMax), behind, "wait until it has caught up: `holdfast mirror status`")
	} else {
		g.gate("mirror", link.Phase != consensus.LinkUnproven, "what "+string(p.To)+" holds came from "+string(p.From), string(p.To)+" has not been compared since it returned", "wait for the comparison: `holdfast mirror status`")
		age, seen := lossSeconds(s, h, rules, p)
		limit := rules.Roles[topology.Ingestion].AcceptLoss
		detail := fmt.Sprintf("%d to %d records, up to %s of data (limit %s)", p.Bound.Min, p.Bound.Max, age.Round(100*time.Millisecond), limit)
		if !seen {
			detail = "unknown: the mirror has not reported"
		}
		g.gate("loss", want.AcceptLoss || seen && age <= limit, "loss "+detail, "loss "+detail, "accept it by hand: --accept-loss")
	}
	frozen := frozenIn(link, l)
	why := ""
	if len(frozen) > 0 {
		why = fmt.Sprintf("%d frozen: %s [%d,%d) %s", len(frozen), frozen[0].Partition, frozen[0].From, frozen[0].To, frozen[0].Reason)
	}
	none, fix := fmt.Sprintf("%d partitions, none frozen", l.Partitions), "`holdfast mirror status` names each and its next step"
	accepted := p.Kind == consensus.Unplanned && want.AcceptLoss
	if len(frozen) > 0 && accepted {
		none = why + "; accepted as lost"
	} else if len(frozen) > 0 && p.Kind == consensus.Unplanned {
		fix += "; or accept by hand what they lack: --accept-loss"
	}
	g.gate("no frozen partition", len(frozen) == 0 || accepted, none, why, fix)
	cov := l.Coverage
	covered := fmt.Sprintf("offsets cover %d of %d groups", cov.Covered, cov.Groups)
	missing := covered + ": " + strings.Join(cov.Missing[:min(2, len(cov.Missing))], "; ")
	if !known {
		missing = "the mirror has not reported its groups"
	}
	driftGates(g, l.Drift, accepted)
	exposedGate(g, l.Exposed, want.AcceptOrphans)
	g.gate("group offsets", known && cov.Covered == cov.Groups, covered, missing, "`holdfast groups check` names each")
}

// driftGates judge in what the clusters differ. They are there only when they
// do: what is alike needs no line.
func driftGates(g *judge, d Drift, accepted bool) {
	first := strings.Join(d.First[:min(2, len(d.First))], "; ")
	switch {
	case d.Blocking > 0 && accepted:
		g.gates = append(g.gates, Gate{Name: "drift", OK: true, Note: true, Detail: fmt.Sprintf("%d differences that matter, accepted as lost: %s", d.Blocking, first)})
	case d.Blocking > 0:
		g.gate("drift", false, "", fmt.Sprintf("%d differences that matter: %s", d.Blocking, first), "`holdfast mirror drift` names each and its next step")
	case d.Warnings > 0:
		g.gates = append(g.gates, Gate{Name: "drift", OK: true, Note: true, Detail: fmt.Sprintf("note: %d differences in settings or rights: %s", d.Warnings, first)})
	}
	for _, region := range d.Open {
		g.gates = append(g.gates, Gate{Name: "authorizer of " + string(region), OK: true, Note: true, Detail: fmt.Sprintf("note: kafka of %s has no authorizer: an old writer is kept out by producer epochs alone, which a broker may forget", region)})
	}
}

// exposedGate judges whether a group would read orphans in the new region:
// records that it accepted long ago and the other one never had. The topics
// named are let pass.
func exposedGate(g *judge, exposed []Exposed, accepted []string) {
	var open []Exposed
	for _, e := range exposed {
		if slices.Contains(accepted, e.Topic) {
			g.gates = append(g.gates, Gate{Name: "orphans of " + e.Topic, OK: true, Note: true, Detail: fmt.Sprintf("note: orphans of %s will be read, accepted by name: %s", e.Topic, e.First)})
			continue
		}
		open = append(open, e)
	}
	if len(open) == 0 {
		return
	}
	first := open[0]
	g.gate("orphans", false, "", fmt.Sprintf("groups of %d topics would read orphans: %s (%d groups of %s)", len(open), first.First, first.Groups, first.Topic),
		"let the groups read on past them, or accept it by name: --accept-orphans "+first.Topic)
}

// frozenIn lists the partitions of a link that the log or the mirror has
// frozen, each once: what the log says comes first.
func frozenIn(link consensus.Link, l LinkHealth) []FrozenPartition {
	out := FrozenOf(link)
	seen := map[topology.Partition]bool{}
	for _, f := range out {
		seen[f.Partition] = true
	}
	for _, f := range l.Frozen {
		if !seen[f.Partition] {
			seen[f.Partition] = true
			out = append(out, f)
		}
	}
	return out
}

// FrozenOf lists the agreed frozen ranges of a link, in order.
func FrozenOf(l consensus.Link) []FrozenPartition {
	var out []FrozenPartition
	for _, topic := range sortedKeys(l.Frozen) {
		for _, n := range sortedKeys(l.Frozen[topic]) {
			f := l.Frozen[topic][n]
			out = append(out, FrozenPartition{topology.Partition{Topic: topic, Partition: n}, f.From, f.To, f.Reason, "holdfast mirror reseed --region " + string(l.To)})
		}
	}
	return out
}

// togetherNote says when query and ingestion would end up apart.
func togetherNote(g *judge, s consensus.State, p consensus.Plan) {
	after := map[topology.Role]topology.Region{}
	for name, r := range s.Roles {
		after[name] = r.Holder
		if containsRole(p, name) {
			after[name] = p.To
		}
	}
	q, hasQuery := after[topology.Query]
	i, hasIngestion := after[topology.Ingestion]
	if hasQuery && hasIngestion && q != "" && i != "" && q != i {
		g.gates = append(g.gates, Gate{Name: "together", OK: true, Note: true, Detail: fmt.Sprintf("note: query will be in %s and ingestion in %s; web in %s must write to the Kafka and Postgres of %s", q, i, q, i)})
	}
}

type judge struct{ gates []Gate }

func (j *judge) gate(name string, ok bool, yes, no, fix string) {
	g := Gate{Name: name, OK: ok, Detail: yes}
	if !ok {
		g.Detail, g.Fix = no, fix
	}
	j.gates = append(j.gates, g)
}

// liveOf returns a live plan that one about roles may not run beside: one that
// moves them, or one that recreates topics.
func liveOf(s consensus.State, roles []topology.Role) (consensus.PlanID, consensus.Plan, bool) {
	for _, r := range roles {
		if id, p, ok := s.LivePlan(r); ok {
			return id, p, true
		}
	}
	for _, id := range sortedKeys(s.Plans) {
		if p := s.Plans[id]; p.Phase.Live() && p.Kind == consensus.Reseed {
			return id, p, true
		}
	}
	return "", consensus.Plan{}, false
}

func storesOf(rules Rules, roles []topology.Role) []string {
	set := map[string]bool{}
	for _, r := range roles {
		for _, st := range rules.Roles[r].Stores {
			set[st] = true
		}
	}
	return sortedKeys(set)
}
