package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

const runVerify = consensus.RunID("01KJNB0000000000000000VRFY")

// sampleVerified is what was said about a few partitions; bad: one of them
// differs, and another differed where a sample has not looked since.
func sampleVerified(bad bool) httpapi.Verified {
	sign := func(s replicate.Statement) httpapi.SignedStatement {
		s.Format, s.Link, s.Node = replicate.StatementFormat, replicate.Link{Source: "us-east", Target: "eu-west", Epoch: 3}, "eu-west-1"
		if s.At.IsZero() {
			s.At = noon
		}
		if s.Sample == 0 {
			s.Sample, s.Offsets = 1, s.Through-s.From
		}
		if s.Verdict == "" {
			s.Verdict = replicate.Identical
		}
		raw, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return httpapi.SignedStatement{Statement: raw, Signature: []byte("signature"), Certificate: "ab12"}
	}
	p := func(topic string, n int32, s replicate.Statement) httpapi.VerifiedPartition {
		s.Partition = part(topic, n)
		return httpapi.VerifiedPartition{Partition: s.Partition, Last: sign(s)}
	}
	out := httpapi.Verified{At: noon, Region: "eu-west", Node: "eu-west-1", Certificates: map[string]string{"ab12": "-----BEGIN CERTIFICATE-----\n"}}
	out.Partitions = []httpapi.VerifiedPartition{
		p("events", 0, replicate.Statement{From: 41_200, Through: 412_331, Records: 371_000, SourceStart: 41_200, SourceEnd: 412_401, TargetStart: 40_000, TargetEnd: 412_331}),
		p("events", 1, replicate.Statement{From: 0, Through: 98_000, Records: 97_204, SourceEnd: 98_000, TargetEnd: 98_000, Prior: &replicate.Prior{Through: 90_000, At: noon.Add(-time.Hour)}}),
		p("metrics", 0, replicate.Statement{Through: 5000, Records: 5000, SourceEnd: 5000, TargetEnd: 5000, Restamped: 5000}),
		p("state", 0, replicate.Statement{Through: 9000, Records: 812, SourceEnd: 9000, TargetEnd: 9000, Cleaned: 41}),
		p("quiet", 0, replicate.Statement{Verdict: replicate.Nothing}),
	}
	if !bad {
		return out
	}
	d := replicate.Statement{
		Verdict: replicate.Differs, Through: 1000, Records: 957, SourceEnd: 1000, TargetEnd: 1000, Differing: 43, Ranges: 2, DiffersTo: 913,
		Differences: []replicate.Difference{
			{From: 120, To: 121, Records: 1, Aspects: []replicate.Aspect{replicate.Value}, Detail: "value 120 B (sha256 0a1b2c3d) at the source, 118 B (sha256 4e5f6071) at the target"},
			{From: 871, To: 913, Records: 42, Aspects: []replicate.Aspect{replicate.Missing}, Detail: "not at the target: time 2026-03-01T11:00:00.000Z, key null, value 9 B (sha256 11223344)"},
		},
	}
	out.Partitions[0] = p("events", 0, d)
	sampled := p("events", 1, replicate.Statement{Through: 98_000, Records: 5000, Sample: 0.05, Offsets: 5000, SourceEnd: 98_000, TargetEnd: 98_000})
	d.At, d.Partition = noon.Add(-24*time.Hour), part("events", 1)
	old := sign(d)
	sampled.Differs = &old
	out.Partitions[1] = sampled
	return out
}

func sampleVerifyEvidence(bad bool) httpapi.VerifyEvidence {
	e := httpapi.VerifyEvidence{
		Link: "us-east>eu-west", Epoch: 3, Region: "eu-west", Sample: 1, Identical: 4, Nothing: 1, Records: 474_016, Offsets: 483_331,
		Source: 191_000_000, Target: 191_400_000, TookMs: 8200, Began: noon, Ended: noon.Add(8200 * time.Millisecond),
	}
	if bad {
		e.Identical, e.Differing, e.Failed = 2, 1, 1
		e.Sample, e.Fast, e.New = 0.05, true, true
		e.Failures = []httpapi.VerifyFailure{{Partition: topology.Partition{Topic: "fresh", Partition: 0}, Why: "the target does not have it yet, or no longer"}}
	}
	return e
}

func sampleCompared(t *testing.T, bad, run bool) string {
	t.Helper()
	r := compared{Verified: sampleVerified(bad)}
	if run {
		e := sampleVerifyEvidence(bad)
		r.Run = &e
	}
	rows, err := verifiedRows(r.Partitions)
	if err != nil {
		t.Fatal(err)
	}
	return renderCompared(r, rows, false)
}

func TestVerify_ReadsSharesAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]float64{"5%": 0.05, "0.05": 0.05, "1": 1, "100%": 1} {
		if got, err := shareOf(text); err != nil || got != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"5", "0", "-1", "two", "101%"} {
		if got, err := shareOf(text); err == nil {
			t.Errorf("%s was read as %v", text, got)
		}
	}
}
