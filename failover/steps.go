package failover

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Kinds of steps that are tasks of a region. Each has one runner.
const (
	KindQuiesce     = "role.quiesce"  // wait until clients noticed the 503
	KindRelease     = "role.release"  // guards ended, then Release
	KindFenceWait   = "fence.wait"    // wait for what does not ask us
	KindExecStop    = "exec.stop"     // the operator's hook
	KindExecStart   = "exec.start"    // the operator's hook
	KindExecCanary  = "exec.canary"   // the operator's hook
	KindCanary      = "canary"        // the stores take and give data
	KindKafkaDrain  = "kafka.drain"   // consumer groups reach the end
	KindKafkaClose  = "kafka.close"   // end the transactions that nobody ended
	KindKafkaEnds   = "kafka.ends"    // record the end offsets
	KindMirrorReach = "mirror.reach"  // the target has them
	KindKafkaSame   = "kafka.confirm" // and they did not move
	KindMirrorStop  = "mirror.stop"   // stop the mirror, confirm, record
	KindMirrorFence = "mirror.fence"  // shut out every mirror, record where
	KindMirrorLeap  = "mirror.leap"   // skip what the other region may have used
	KindGroupsWrite = "groups.write"  // offsets written and read back
	KindReseed      = "mirror.reseed" // recreate topics
)

// WaitSpec is the spec of KindQuiesce and KindFenceWait.
type WaitSpec struct {
	Wait time.Duration `json:"wait"`
}

// Hook is one command to run for one role. The spec of the exec kinds is a
// list of them, run in order.
type Hook struct {
	Role    topology.Role `json:"role"`
	Argv    []string      `json:"argv"`
	Timeout string        `json:"timeout"` // "30s"
}

// DrainSpec is the spec of KindKafkaDrain.
type DrainSpec struct {
	Groups  []string      `json:"groups"`
	Timeout time.Duration `json:"timeout"`
}

// LinkSpec is the spec of the mirror and groups kinds.
type LinkSpec struct {
	Link consensus.LinkID `json:"link"`
}

// ReseedSpec is the spec of KindReseed.
type ReseedSpec struct {
	Link   consensus.LinkID `json:"link"`
	Topics []string         `json:"topics"`
	// Discards are the frozen ranges that a person read before.
	Discards []FrozenPartition `json:"discards,omitempty"`
}

// taskGrace is added to a step's own waiting for the work around it.
const taskGrace = 30 * time.Second

// fenceTimeout bounds one try at a fence: a follower that just died holds it up
// until its broker's session ends.
const fenceTimeout = 3 * time.Minute

func spec(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic("encode a step: " + err.Error()) // plain data: it always encodes
	}
	return b
}

func plannedSteps(s consensus.State, rules Rules, p consensus.Plan) []consensus.Step {
	links := carriesKafka(s, p)
	link := consensus.LinkOf(p.From, p.To)
	names := join(p.Roles)

	var quiesce, drainTimeout time.Duration
	var groups []string
	for _, r := range p.Roles {
		quiesce = max(quiesce, rules.Roles[r].Quiesce)
		groups = append(groups, rules.Roles[r].DrainGroups...)
		drainTimeout = max(drainTimeout, rules.Roles[r].DrainTimeout)
	}
	release := consensus.Step{Kind: KindRelease, Region: p.From, Title: "release " + names, Timeout: taskGrace + rules.Lease.TTL}
	stop, stops := execStep(rules, p.Roles, KindExecStop, p.From, "stop", func(r RoleRules) Command { return r.Stop })
	startAgain, startsAgain := execStep(rules, p.Roles, KindExecStart, p.From, "start again", func(r RoleRules) Command { return r.Start })

	undo := []consensus.Step{release, {Kind: consensus.StepGrant, Title: "grant " + names + " back to " + string(p.From)}}
	if startsAgain {
		undo = append(undo, startAgain)
	}
	undo = append(undo, consensus.Step{Kind: consensus.StepOpen, Title: "open " + names + " again"})

	steps := []consensus.Step{
		{Kind: consensus.StepDrain, Title: "stop accepting " + names + " in " + string(p.From) + " (503)", Undo: undo},
		{Kind: KindQuiesce, Region: p.From, Title: fmt.Sprintf("wait %s until balancers and clients noticed", quiesce), Spec: spec(WaitSpec{quiesce}), Timeout: quiesce + taskGrace},
	}
	if stops {
		steps = append(steps, stop)
	}
	if links {
		if len(groups) > 0 {
			steps = append(steps, consensus.Step{
				Kind: KindKafkaDrain, Region: p.From, Title: fmt.Sprintf("let %d groups reach the end, up to %s", len(groups), drainTimeout),
				Spec: spec(DrainSpec{groups, drainTimeout}), Timeout: drainTimeout + taskGrace,
			})
		}
		steps = append(steps,
			consensus.Step{Kind: KindKafkaClose, Region: p.From, Title: "end the transactions that were left open", Spec: spec(LinkSpec{link}), Timeout: taskGrace},
			consensus.Step{Kind: KindKafkaEnds, Region: p.From, Title: "record the end offsets", Spec: spec(LinkSpec{link}), Timeout: taskGrace},
			consensus.Step{Kind: KindMirrorReach, Region: p.To, Title: "let the mirror reach them", Spec: spec(LinkSpec{link}), Timeout: rules.ReachTimeout + taskGrace},
			consensus.Step{Kind: KindKafkaSame, Region: p.From, Title: "read the ends again: unchanged", Spec: spec(LinkSpec{link}), Timeout: taskGrace},
			consensus.Step{Kind: KindMirrorStop, Region: p.To, Title: "stop the mirror, record where", Spec: spec(LinkSpec{link}), Timeout: 2 * taskGrace,
				Undo: []consensus.Step{{Kind: consensus.StepLinkStart, Title: "start the mirror again"}}},
		)
	}
	steps = append(steps, release, grantStep(p))
	steps = append(steps, arrivalSteps(s, rules, p)...)
	if links {
		steps = append(steps, consensus.Step{Kind: consensus.StepLinkReverse, Title: fmt.Sprintf("mirror from %s to %s from there on", p.To, p.From)})
	}
	return steps
}

func unplannedSteps(s consensus.State, rules Rules, p consensus.Plan) []consensus.Step {
	names := join(p.Roles)
	var steps []consensus.Step
	if p.Fenced != "" {
		steps = append(steps, consensus.Step{Kind: consensus.StepVoid, Title: fmt.Sprintf("take %s from %s, attested to be fenced", names, p.Fenced)})
	}
	if carriesKafka(s, p) {
		steps = append(steps, consensus.Step{Kind: KindMirrorStop, Region: p.To, Title: "stop the mirror, record where", Spec: spec(LinkSpec{consensus.LinkOf(p.From, p.To)}), Timeout: 2 * taskGrace,
			Undo: []consensus.Step{{Kind: consensus.StepLinkStart, Title: "start the mirror again"}}})
	}
	steps = append(steps, grantStep(p))
	var fence time.Duration
	for _, r := range p.Roles {
		fence = max(fence, rules.Roles[r].FenceWithin)
	}
	if p.Fenced == "" && fence > 0 {
		steps = append(steps, consensus.Step{Kind: KindFenceWait, Region: p.To, Title: fmt.Sprintf("wait %s for what runs in %s and does not ask us", fence, p.From), Spec: spec(WaitSpec{fence}), Timeout: fence + taskGrace})
	}
	steps = append(steps, arrivalSteps(s, rules, p)...)
	switch {
	case carriesKafka(s, p):
		steps = append(steps, consensus.Step{Kind: consensus.StepLinkReverse, Title: fmt.Sprintf("prepare the mirror back to %s: compared before it runs", p.From)})
	case turnsBack(s, p):
		steps = append(steps, consensus.Step{Kind: consensus.StepLinkReverse, Title: fmt.Sprintf("prepare the mirror to %s again: compared before it runs", p.From), Spec: spec(LinkSpec{consensus.LinkOf(p.To, p.From)})})
	}
	return steps
}

func grantStep(p consensus.Plan) consensus.Step {
	return consensus.Step{Kind: consensus.StepGrant, Title: fmt.Sprintf("grant %s to %s", join(p.Roles), p.To), NoReturn: true}
}

// arrivalSteps are what the new region does once it was granted the roles.
func arrivalSteps(s consensus.State, rules Rules, p consensus.Plan) []consensus.Step {
	var steps []consensus.Step
	if carriesKafka(s, p) {
		link := spec(LinkSpec{consensus.LinkOf(p.From, p.To)})
		title := "shut every mirror out, record where"
		if p.Kind == consensus.Unplanned {
			title = fmt.Sprintf("shut every mirror out, skip the offsets that %s may have used", p.From)
		}
		steps = append(steps,
			consensus.Step{Kind: KindMirrorFence, Region: p.To, Title: title, Spec: link, Timeout: fenceTimeout},
			consensus.Step{Kind: KindGroupsWrite, Region: p.To, Title: "write the group offsets and read them back", Spec: link, Timeout: 2 * taskGrace})
	}
	if turnsBack(s, p) {
		steps = append(steps, consensus.Step{Kind: KindMirrorLeap, Region: p.To, Title: fmt.Sprintf("skip the offsets that %s may have used", p.From), Spec: spec(LinkSpec{consensus.LinkOf(p.To, p.From)}), Timeout: fenceTimeout})
	}
	if start, ok := execStep(rules, p.Roles, KindExecStart, p.To, "start", func(r RoleRules) Command { return r.Start }); ok {
		steps = append(steps, start)
	}
	steps = append(steps, consensus.Step{Kind: KindCanary, Region: p.To, Title: "prove that the stores of " + string(p.To) + " take and give data", Timeout: taskGrace})
	if canary, ok := execStep(rules, p.Roles, KindExecCanary, p.To, "try", func(r RoleRules) Command { return r.Canary }); ok {
		steps = append(steps, canary)
	}
	return append(steps, consensus.Step{Kind: consensus.StepOpen, Title: fmt.Sprintf("open %s in %s", join(p.Roles), p.To)})
}

func execStep(rules Rules, roles []topology.Role, kind string, at topology.Region, verb string, pick func(RoleRules) Command) (consensus.Step, bool) {
	var hooks []Hook
	var timeout time.Duration
	for _, name := range roles {
		if c := pick(rules.Roles[name]); len(c.Argv) > 0 {
			hooks = append(hooks, Hook{name, c.Argv, c.Timeout.String()})
			timeout += c.Timeout
		}
	}
	if len(hooks) == 0 {
		return consensus.Step{}, false
	}
	return consensus.Step{Kind: kind, Region: at, Title: fmt.Sprintf("%s the workloads in %s", verb, at), Spec: spec(hooks), Timeout: timeout + taskGrace}, true
}

// carriesKafka reports whether the plan moves what the mirror serves.
func carriesKafka(s consensus.State, p consensus.Plan) bool {
	if !s.Settings.Mirror || !containsRole(p, topology.Ingestion) || turnsBack(s, p) {
		return false
	}
	_, to := s.Links[consensus.LinkOf(p.From, p.To)]
	_, back := s.Links[consensus.LinkOf(p.To, p.From)]
	return to || back
}

// turnsBack reports whether an unplanned move returns ingestion to where the
// last plan took it from, before that plan had reversed the mirror: the link
// that ran last leads to the region which the role leaves. Nothing flows back
// from there, and that link starts again once the two have been compared.
func turnsBack(s consensus.State, p consensus.Plan) bool {
	if !s.Settings.Mirror || p.Kind != consensus.Unplanned || !containsRole(p, topology.Ingestion) {
		return false
	}
	there, back := s.Links[consensus.LinkOf(p.From, p.To)], s.Links[consensus.LinkOf(p.To, p.From)]
	return back.Phase == consensus.LinkEnded && back.Turn > there.Turn
}

// everOpened reports whether the region that ingestion leaves let anything in
// under its last grant.
func everOpened(s consensus.State) bool {
	r := s.Roles[topology.Ingestion]
	return r.Phase != consensus.Closed && !(r.Phase == consensus.Vacant && r.Last.Phase == consensus.Closed)
}
