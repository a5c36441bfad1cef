package main

import (
	"encoding/json"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

// noon is when all samples are seen.
var noon = time.Date(2026, 3, 1, 12, 4, 31, 0, time.UTC)

func part(topic string, n int32) topology.Partition {
	return topology.Partition{Topic: topic, Partition: n}
}

// healthy is a fleet in which all is well, but for one gate.
func healthy() httpapi.Status {
	return httpapi.Status{
		Cluster: "sentry-prod", Node: "us-east-1", Version: "v0.1.0", Mode: "active", At: noon,
		Leader: "witness-1", Reachable: 3, Members: 3, Generation: 1, FactsAgeMs: 400,
		Roles: []httpapi.RoleRow{
			{
				Role: "ingestion", Holder: "us-east", Phase: consensus.Open, Epoch: 7, Lease: httpapi.LeaseValid, LeaseMs: 9800, Standby: "eu-west", Policy: "hold",
				Behind: []httpapi.Behind{{Store: "kafka", Records: 212, Seconds: 0.4}}, Move: &httpapi.MoveNow{Ready: true, PauseMs: 9100},
			},
			{
				Role: "query", Holder: "us-east", Phase: consensus.Open, Epoch: 7, Lease: httpapi.LeaseValid, LeaseMs: 9800, Standby: "eu-west", Policy: "hold",
				Behind: []httpapi.Behind{{Store: "clickhouse", Records: -1, Seconds: 1.1}}, Move: &httpapi.MoveNow{Blockers: []failover.Blocker{
					{Gate: "target clickhouse", Why: "clickhouse of eu-west lacks migration events/0042; its consumers would fail", Fix: "holdfast check --region eu-west"},
				}},
			},
		},
		Stores: []httpapi.StoreCell{
			{Store: "kafka", Region: "us-east", OK: true, Known: true, Detail: "ok, 36 topics", Seconds: -1},
			{Store: "kafka", Region: "eu-west", OK: true, Known: true, Detail: "mirrored", Seconds: 0.4},
			{Store: "clickhouse", Region: "us-east", OK: true, Known: true, Seconds: -1},
			{Store: "clickhouse", Region: "eu-west", OK: true, Known: true, Detail: "shadow", Seconds: 1.1},
		},
		Links: []httpapi.LinkRow{{ID: "us-east>eu-west", Phase: consensus.LinkRunning, Epoch: 1, Running: true, HeardMs: 300, Records: 212, Bytes: 84800, Seconds: 0.4, Rate: 501.7, Partition: 36}},
	}
}

// calm is healthy without the gate.
func calm() httpapi.Status {
	s := healthy()
	s.Roles[1].Move = &httpapi.MoveNow{Ready: true, PauseMs: 6000}
	return s
}

// badNight is a fleet after an unplanned failover whose old region came back.
func badNight() httpapi.Status {
	return httpapi.Status{
		Cluster: "sentry-prod", Node: "eu-west-1", Version: "v0.1.0", Mode: "active", At: noon,
		Leader: "witness-1", Reachable: 2, Members: 3, Generation: 1, FactsAgeMs: 32_000,
		Roles: []httpapi.RoleRow{
			{
				Role: "ingestion", Holder: "eu-west", Phase: consensus.Open, Epoch: 8, Lease: httpapi.LeaseHeld, LeaseMs: -1, Basis: consensus.LeaseExpiredOnly, Standby: "us-east",
				Behind: []httpapi.Behind{{Store: "kafka", Records: -1, Seconds: -1}}, Failover: noon.Add(-5 * time.Minute),
				Move: &httpapi.MoveNow{Blockers: []failover.Blocker{
					{Gate: "source daemon", Why: "the daemon of us-east does not report: a planned move needs both", Fix: "bring it back"},
					{Gate: "no frozen partition", Why: "7 frozen: events/0 [41200,41877) diverged", Fix: "`holdfast mirror status` names each and its next step"},
				}},
			},
			{
				Role: "query", Phase: consensus.Vacant, Epoch: 7, Lease: httpapi.LeaseLapsed, LeaseMs: -1, Last: "us-east", Auto: true,
				Paused: noon.Add(time.Hour), PausedReason: "works at the provider",
				Move: &httpapi.MoveNow{Blockers: []failover.Blocker{{Gate: "source daemon", Why: "the daemon of us-east does not report: a planned move needs both", Fix: "bring it back"}}},
			},
		},
		Stores: []httpapi.StoreCell{
			{Store: "kafka", Region: "us-east", Known: true, Detail: "dial tcp 10.1.0.4:9092: connection refused,\n tried 3 brokers", Seconds: -1},
			{Store: "kafka", Region: "eu-west", OK: true, Known: true, Detail: "ok, 36 topics", Seconds: -1},
			{Store: "clickhouse", Region: "us-east", Seconds: -1},
		},
		Links: []httpapi.LinkRow{
			{ID: "eu-west>us-east", Phase: consensus.LinkUnproven, Epoch: 2, HeardMs: -1, Records: -1, Seconds: -1, Partition: 36, Frozen: []failover.FrozenPartition{
				{Partition: part("events", 0), From: 41200, To: 41877, Reason: "diverged", Next: "holdfast mirror reseed --region us-east"},
				{Partition: part("events", 1), From: 40000, To: 40010, Reason: "diverged", Next: "holdfast mirror reseed --region us-east"},
				{Partition: part("events", 2), From: 1, To: 2, Reason: "diverged"},
				{Partition: part("events", 3), From: 1, To: 2, Reason: "diverged"},
				{Partition: part("outcomes", 0), From: 1, To: 2, Reason: "diverged"},
				{Partition: part("outcomes", 1), From: 1, To: 2, Reason: "diverged"},
				{Partition: part("outcomes", 2), From: 1, To: 2, Reason: "diverged"},
			}},
			{ID: "us-east>eu-west", Phase: consensus.LinkEnded, Epoch: 1, HeardMs: -1},
		},
		Plans: []httpapi.Plan{stuckPlan()},
		Findings: []httpapi.Finding{
			{Severity: httpapi.Note, About: "configuration", What: "eu-west-1 started with another file", Next: "holdfast config apply --dry-run"},
			{Severity: httpapi.Critical, About: "eu-west-1", What: "the disk of the log is 96 % full", Next: "df -h /var/lib/holdfast"},
		},
	}
}

func leaderless() httpapi.Status {
	s := calm()
	s.Leader, s.Reachable, s.FactsAgeMs = "", -1, 45_000
	s.Roles[0].Lease, s.Roles[1].Lease = httpapi.LeaseHeld, httpapi.LeaseUnknown
	return s
}

func ladder() httpapi.Status {
	return httpapi.Status{Cluster: "sentry-lab", Node: "us-east-1", Mode: "observe", At: noon, Leader: "us-east-1", Reachable: 1, Members: 1, Generation: 1}
}

// plannedSteps is shaped like the steps of a planned move.
func plannedSteps() []consensus.Step {
	return []consensus.Step{
		{
			Kind: consensus.StepDrain, Title: "stop accepting ingestion, query in us-east (503)",
			Undo: []consensus.Step{{Kind: failover.KindRelease, Region: "us-east", Title: "release ingestion, query"}, {Kind: consensus.StepGrant, Title: "grant ingestion, query back to us-east"}, {Kind: consensus.StepOpen, Title: "open ingestion, query again"}},
		},
		{Kind: failover.KindQuiesce, Region: "us-east", Title: "wait 5s until balancers and clients noticed", Spec: json.RawMessage(`{"wait":5000000000}`)},
		{Kind: failover.KindExecStop, Region: "us-east", Title: "stop the workloads in us-east"},
		{Kind: failover.KindMirrorReach, Region: "eu-west", Title: "let the mirror reach them"},
		{Kind: failover.KindMirrorStop, Region: "eu-west", Title: "stop the mirror, record where", Undo: []consensus.Step{{Kind: consensus.StepLinkStart, Title: "start the mirror again"}}},
		{Kind: consensus.StepGrant, Title: "grant ingestion, query to eu-west", NoReturn: true},
		{Kind: failover.KindGroupsWrite, Region: "eu-west", Title: "write the group offsets and read them back"},
		{Kind: consensus.StepOpen, Title: "open ingestion, query in eu-west"},
	}
}

func candidate() failover.Candidate {
	return failover.Candidate{
		Plan: consensus.Plan{
			Kind: consensus.Planned, Hash: "7f3a9c02be11", From: "us-east", To: "eu-west", Roles: []topology.Role{"ingestion", "query"},
			Epochs: map[topology.Role]consensus.Epoch{"ingestion": 7, "query": 7}, Steps: plannedSteps(),
		},
		Gates: []failover.Gate{
			{Name: "mode", OK: true, Detail: "holdfast drives the roles"},
			{Name: "quorum", OK: true, Detail: "3 of 3 members reach each other"},
			{Name: "target daemon", OK: true, Detail: "the daemon of eu-west reports"},
			{Name: "attestation", OK: true, Detail: "attested: the power of the whole hall was cut by hand at the panel"},
			{Name: "mirror lag", OK: true, Detail: "mirror 400ms behind (limit 30s)"},
			{Name: "group offsets", OK: true, Detail: "offsets cover 36 of 36 groups"},
		},
		Pause: 9100 * time.Millisecond, Expires: noon.Add(10 * time.Minute),
	}
}

func refused() (failover.Candidate, []failover.Blocker) {
	c := candidate()
	c.Gates = append(c.Gates,
		failover.Gate{Name: "clock", Detail: "the clock of eu-west runs 0.40 % off (limit 0.1 %)", Fix: "correct it: `chronyc makestep`, then plan again"},
		failover.Gate{Name: "together", OK: true, Note: true, Detail: "note: query will be in eu-west and ingestion in us-east; web in eu-west must write to the Kafka of us-east"})
	return c, c.Blockers()
}

func unplannedCandidate() failover.Candidate {
	c := candidate()
	c.Plan.Kind, c.Plan.Fenced, c.Supersedes = consensus.Unplanned, "us-east", "01JOLD"
	c.Plan.Steps = c.Plan.Steps[4:]
	c.Loss = consensus.LossBound{Min: 212, Max: 19_712, Rate: 500, Basis: "212 records seen and not mirrored; at most 500/s for 39s unseen (silence 23s, ttl 16s)"}
	return c
}

func blindCandidate() failover.Candidate {
	c := unplannedCandidate()
	c.Loss = consensus.LossBound{Max: math.MaxInt64, Basis: "the mirror has not reported: nothing is known"}
	return c
}

func reseedCandidate() failover.Candidate {
	return failover.Candidate{
		Plan: consensus.Plan{Kind: consensus.Reseed, Hash: "feedfeedfeed", From: "eu-west", To: "us-east", Steps: []consensus.Step{
			{Kind: failover.KindReseed, Region: "us-east", Title: "recreate events in us-east", NoReturn: true},
			{Kind: consensus.StepLinkStart, Title: "mirror them from offset 0"},
		}},
		Gates: []failover.Gate{
			{Name: "standby", OK: true, Detail: "us-east holds no role"},
			{Name: "discards events", OK: true, Note: true, Detail: "discards of events 0:[41200,41877) 1:[40000,40010)"},
		},
		Expires: noon.Add(10 * time.Minute),
	}
}

// at returns a plan of which the first n steps are done, a second each.
func at(n int, phase consensus.PlanPhase) httpapi.Plan {
	pl := consensus.Plan{
		Kind: consensus.Planned, Hash: "7f3a9c02be11", From: "us-east", To: "eu-west", Roles: []topology.Role{"ingestion", "query"}, By: "operator root@us-east-1 for alice",
		Epochs:  map[topology.Role]consensus.Epoch{"ingestion": 8, "query": 8},
		Created: noon.Add(-10 * time.Second), Phase: phase, Steps: plannedSteps(), Journal: make([]consensus.StepRecord, 8),
	}
	for i := range pl.Journal {
		start := pl.Created.Add(time.Duration(i) * 1100 * time.Millisecond)
		switch {
		case i < n:
			pl.Journal[i] = consensus.StepRecord{State: consensus.StepDone, Attempts: 1, Started: start, Finished: start.Add(time.Second)}
		case i == n && phase.Live():
			pl.Journal[i] = consensus.StepRecord{State: consensus.StepRunning, Attempts: 1, Started: start}
		default:
			pl.Journal[i].State = consensus.StepPending
		}
	}
	if !phase.Live() {
		pl.Ended = noon.Add(-time.Second)
	}
	return httpapi.Plan{ID: "01JPLAN", Plan: pl}
}

func stuckPlan() httpapi.Plan {
	pl := at(6, consensus.PlanGranted)
	pl.Plan.Kind, pl.Plan.Bound = consensus.Unplanned, consensus.LossBound{Min: 212, Max: 900}
	pl.Plan.Journal[6] = consensus.StepRecord{State: consensus.StepFailed, Attempts: 5, Started: noon.Add(-4 * time.Second), Error: "write offsets of snuba:\n coordinator not available"}
	pl.Stuck = "step 7, write the group offsets and read them back, failed 5 times: coordinator not available"
	return pl
}

func turning() httpapi.Plan {
	pl := at(4, consensus.PlanAborting)
	pl.Plan.Why = "step 5, stop the mirror, record where: timed out"
	pl.Plan.Journal[4] = consensus.StepRecord{State: consensus.StepFailed, Attempts: 1, Started: noon.Add(-5 * time.Second), Error: "timed out", Undone: 1}
	pl.Plan.Journal[0].Undone, pl.Plan.Journal[0].UndoState, pl.Plan.Journal[0].UndoFailed = 1, consensus.StepFailed, "no leader"
	return pl
}

func rolledBack() httpapi.Plan {
	pl := turning()
	pl.Plan.Phase, pl.Plan.Ended = consensus.PlanRolledBack, noon
	pl.Plan.Journal[0].Undone, pl.Plan.Journal[0].UndoState, pl.Plan.Journal[0].UndoFailed = 3, consensus.StepPending, ""
	return pl
}

func mirrored() httpapi.MirrorReport {
	seen := noon.Add(-time.Second)
	status := &replicate.LinkStatus{
		Link: replicate.Link{Source: "us-east", Target: "eu-west", Epoch: 1}, At: noon, Running: true,
		Partitions: []replicate.PartitionStatus{
			{Partition: part("events", 0), State: replicate.Following, SourceEnd: 1_041_212, SourceSeenAt: &seen, TargetEnd: 1_041_000, RecordsBehind: 212, BytesBehindEstimate: 84_800, SecondsBehind: 0.4, Records: 41_000, Bytes: 16_400_000},
			{Partition: part("events", 1), State: replicate.Frozen, SourceEnd: 900, TargetEnd: 700, RecordsBehind: 200, SecondsBehind: 310, Frozen: &replicate.Freeze{Reason: replicate.Lost, From: 700, To: 717, Detail: "offsets are missing at the source"}, Next: "exclude events under mirror.exclude"},
			{Partition: part("outcomes", 0), State: replicate.Following, SourceEnd: 5, TargetEnd: 5, Trouble: "not enough replicas"},
			{Partition: part("outcomes", 1), State: replicate.Resuming, SourceEnd: -1, TargetEnd: -1, RecordsBehind: -1, SecondsBehind: -1, Unproven: true},
		},
		Findings: []replicate.Finding{{About: "target", Text: "auto.create.topics.enable is on", Next: "turn it off"}},
	}
	status.Sum()
	return httpapi.MirrorReport{At: noon, Links: []httpapi.MirrorLink{
		{ID: "us-east>eu-west", Phase: consensus.LinkRunning, Epoch: 1, Report: status, HeardMs: 300, Coverage: failover.Coverage{Groups: 36, Covered: 35, Missing: []string{"snuba has no offset for events/1"}}},
		{ID: "eu-west>us-east", Phase: consensus.LinkUnproven, Epoch: 2, HeardMs: -1, Why: "us-east-1 does not answer", Frozen: []failover.FrozenPartition{{Partition: part("events", 0), From: 1, To: 9, Reason: "diverged", Next: "holdfast mirror reseed --region us-east"}}},
	}}
}

func sampleTopics() httpapi.TopicsReport {
	return httpapi.TopicsReport{At: noon, Links: []httpapi.LinkTopics{{ID: "us-east>eu-west", Preset: "sentry-26.8", Topics: []httpapi.TopicRow{
		{Choice: replicate.Choice{Topic: "events", Class: replicate.ClassMirror, Mirrored: true, Rule: "preset sentry-26.8: error events"}, Partitions: 8, Target: 8},
		{Choice: replicate.Choice{Topic: "fresh", Mirrored: true, Rule: "include fresh"}, Partitions: 1},
		{Choice: replicate.Choice{Topic: "snuba-commit-log", Class: replicate.ClassLocal, Rule: "preset sentry-26.8: names offsets of its own cluster"}, Partitions: 1, Target: 1},
		{Choice: replicate.Choice{Topic: "wide", Mirrored: true, Rule: "include wide"}, Partitions: 4, Target: 8},
	}}}}
}

func sampleDrift() httpapi.DriftReport {
	return httpapi.DriftReport{At: noon, Links: []httpapi.LinkDrift{{ID: "us-east>eu-west", Open: []topology.Region{"eu-west"}, Drift: []replicate.Drift{
		{Kind: replicate.DriftPartitions, About: "events", Text: "4 partitions at the source, 8 at the target", Next: "grow events at the source to 8 partitions"},
		{Kind: replicate.DriftSetting, About: "events", Text: "retention.ms is 50 at the target, want 100", Next: "holdfast mirror status"},
	}}}}
}
