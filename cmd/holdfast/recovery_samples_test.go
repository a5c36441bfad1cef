package main

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/restore"
)

// backedUp is a calm fleet whose regions are backed up, one by hand.
func backedUp() httpapi.Status {
	s := calm()
	s.Sets = []httpapi.SetStatus{
		{Region: "eu-west", Set: setWest, Sealed: noon.Add(-34 * time.Minute), AgeMs: 34 * 60_000, Uploaded: 900, Proven: noon.Add(-10 * time.Minute), ProvenSet: setWest, ProvenRTOMs: 900},
		{Region: "us-east", Set: setNew, Sealed: noon.Add(-4 * time.Minute), AgeMs: 4 * 60_000, Uploaded: 4_200_000_000, Proven: noon.Add(-56 * time.Hour), ProvenSet: setOld, ProvenRTOMs: 192_000, NextSlot: noon.Add(56 * time.Minute)},
	}
	return s
}

// unproven has one region without a set, and one whose set is late and bad.
func unproven() httpapi.Status {
	s := calm()
	s.Sets = []httpapi.SetStatus{
		{Region: "eu-west", AgeMs: -1, NextSlot: noon.Add(time.Hour)},
		{Region: "us-east", Set: setOld, Sealed: noon.Add(-50 * time.Hour), AgeMs: 50 * 3_600_000, Failed: "default.errors_local: 1999 rows, the manifest says 2000", NextSlot: noon.Add(-3 * time.Hour)},
		{Region: "us-west", Set: setMid, Sealed: noon.Add(-time.Hour), AgeMs: 3_600_000},
		{Region: "us-north", Set: setMid, Sealed: noon.Add(-time.Hour), AgeMs: 3_600_000, Undrilled: true},
	}
	return s
}

func liveRun() httpapi.Run {
	return httpapi.Run{ID: "01KJNA", Node: "us-east-1", Run: consensus.Run{Kind: "backup", Region: "us-east", State: consensus.RunLive, Created: noon.Add(-95 * time.Second)}, Progress: &backup.Progress{Stage: "clickhouse: hash", Done: 1_200_000_000, Total: 4_200_000_000, Unit: "bytes"}}
}

func failedRun() httpapi.Run {
	return httpapi.Run{ID: "01KJN9", Run: consensus.Run{Kind: "backup", Region: "eu-west", State: consensus.RunFailed, Created: noon.Add(-time.Hour), Ended: noon.Add(-50 * time.Minute), Error: "postgres: no pg_hba.conf entry\nfor replication"}}
}

// setsAtNoon lists the sample repositories as the program does.
func setsAtNoon(t *testing.T) setList {
	t.Helper()
	l := setList{At: noon, Log: true, Older: 3}
	book := logbook{answered: true, sets: map[backup.SetID]consensus.Set{}}
	for _, s := range logAtNoon().sets {
		book.sets[backup.SetID(s.ID)] = s.Set
	}
	v := repositoriesAtNoon()
	for _, at := range []struct {
		id backup.SetID
		in *fakeArchive
	}{{setNew, v.archives["us-east"]}, {setWest, v.archives["eu-west"]}, {setMid, v.archives["us-east"]}, {setOld, v.archives["us-east"]}} {
		r, err := found{shelf{at.in.region, at.in, at.in.sets}, at.id}.row(t.Context(), book, noon)
		if err != nil {
			t.Fatal(err)
		}
		l.Sets = append(l.Sets, r)
	}
	l.Sets[3].Proof = proof{State: isFailed, Why: "compare clickhouse: default.errors_local, partition 90-20260223: 1999 rows"}
	return l
}

func shownAtNoon() setShown {
	seal := sampleSeal(setNew, "us-east")
	s := setShown{At: noon, Vault: "s3://holdfast-us", Seal: seal, Digest: sealDigest(setNew), Logged: true, Log: true, Region: "us-east"}
	for _, p := range seal.Parts {
		m := sampleManifest(setNew, "us-east", p.Engine)
		for n := range 25 { // more tables than a text shows
			if m.Postgres != nil {
				m.Postgres.Census = append(m.Postgres.Census, backup.PostgresTable{Database: "sentry", Schema: "public", Name: "sentry_t" + string(rune('a'+n)), Rows: 7})
			}
		}
		s.Parts = append(s.Parts, partOf(m, p.Totals))
	}
	s.Drills = []drillShown{{"01KJNA", provenReport(setNew, "01KJNA", noon.Add(-time.Minute))}}
	return s
}

func restorePlanned() restore.Plan {
	return restore.Plan{
		Set: setNew, Seal: sealDigest(setNew), Cluster: "sentry-prod", Region: "us-east", Made: noon, Sealed: noon.Add(-4 * time.Minute), AgeMs: 281_000,
		Rows: 1_325_228, Objects: 131, Bytes: 4_239_002_000, EstimateMs: 192_000,
		Parts: []restore.PlanPart{
			{Engine: backup.Kafka, Where: restore.OffsetsOnly, Groups: 36, Tables: 36, Rows: 214, Objects: 1, Bytes: 2_000, Notes: []string{"records are not part of a set: what retention has taken from a topic does not come back"}},
			{Engine: backup.ClickHouse, Where: "database restored on 10.0.0.7:9000", Restored: true, Tables: 12, Rows: 1_234_979, Objects: 128, Bytes: 4_201_000_000},
			{Engine: backup.Postgres, Where: "/srv/restore/01KJNC", Restored: true, Tables: 180, Files: 1_612, Rows: 90_246, Objects: 2, Bytes: 38_000_000},
		},
	}
}

func restoreRefused() restore.Plan {
	p := restorePlanned()
	p.EstimateMs = 0
	p.Parts[1].Where = "nowhere"
	p.Parts[1].Obstacles = []restore.Obstacle{{What: "no target is given for clickhouse", Next: "name one, or leave this engine out"}}
	p.Parts[2].Obstacles = []restore.Obstacle{{What: "/srv/restore/01KJNC exists", Next: "choose another directory"}}
	return p
}

func restoreDone() restored {
	return restored{
		Plan: restorePlanned(),
		Outcome: restore.Outcome{OK: true, Ms: 190_400, AgeMs: 281_000, Rows: 1_325_439, Bytes: 4_239_002_000, Stages: []restore.Stage{
			{Name: "preflight", Ms: 30, OK: true, What: "2 targets looked at, nothing in the way"},
			{Name: "verify", Ms: 41_000, OK: true, What: "131 objects read and equal to their hashes, 4.2 GB"},
			{Name: "restore clickhouse", Ms: 120_000, OK: true, What: "4.2 GB into database restored on 10.0.0.7:9000"},
			{Name: "restore postgres", Ms: 4_000, OK: true, What: "38.0 MB into /srv/restore/01KJNC"},
			{Name: "compare clickhouse", Ms: 24_000, OK: true, What: "1,234,979 rows equal"},
			{Name: "compare postgres", Ms: 1_370, OK: true, What: "90,246 rows equal"},
		}},
		Places: []place{
			{Engine: backup.ClickHouse, Where: "database restored on 10.0.0.7:9000", Notes: []string{"merges go on again", "its views were not made: they would read from Kafka"}},
			{Engine: backup.Postgres, Where: "/srv/restore/01KJNC", Connect: "psql -h /srv/restore/01KJNC/socket -p 5433 -U postgres"},
		},
	}
}

func restoreFailed() restored {
	r := restoreDone()
	r.Places = nil
	r.Outcome.OK, r.Outcome.Ms = false, 185_000
	r.Outcome.Stages = r.Outcome.Stages[:5]
	r.Outcome.Stages[4].OK, r.Outcome.Stages[4].What = false, "clickhouse in database restored is not what the set holds: 1 difference"
	c := restore.Comparison{}
	c.Add("default.errors_local, partition 90-20260223", "34566 rows, the manifest says 34567")
	r.Outcome.Engines = []restore.Proven{{Engine: backup.ClickHouse, Comparison: c}}
	r.Outcome.Left = []restore.Leftover{{Engine: backup.ClickHouse, Where: "database restored on 10.0.0.7:9000", Why: "connection refused"}}
	return r
}
